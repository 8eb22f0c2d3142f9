"""Verify a saved classifier, a folder or a Hub id; `python scripts/verify.py --help` shows how."""

import sys


def main(argv: list[str] | None = None) -> int:
    from modeling_vit_custom.commands.verify import main as verify

    return verify(argv)


if __name__ == "__main__":
    sys.exit(main())
