"""Draw images as points of a plane, as one page; `python scripts/map.py --help` shows how."""

import sys


def main(argv: list[str] | None = None) -> int:
    from vit_custom import main as vit_custom

    return vit_custom(["map", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
