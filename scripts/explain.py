"""Show where in images the evidence for an answer lies; `python scripts/explain.py --help` shows how."""

import sys


def main(argv: list[str] | None = None) -> int:
    from vit_custom import main as vit_custom

    return vit_custom(["explain", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
