"""Verify a saved classifier, a folder or a Hub id; `python scripts/verify.py --help` shows how."""

import sys


def main(argv: list[str] | None = None) -> int:
    from vit_custom import main as vit_custom

    return vit_custom(["verify", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
