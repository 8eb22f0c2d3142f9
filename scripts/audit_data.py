"""Look for what is wrong with images and labels before training; `python scripts/audit_data.py --help` shows how."""

import sys


def main(argv: list[str] | None = None) -> int:
    from modeling_vit_custom.commands.audit_data import main as audit_data

    return audit_data(argv)


if __name__ == "__main__":
    sys.exit(main())
