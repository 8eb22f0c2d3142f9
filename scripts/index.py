"""Keep the vectors of images in a folder, to search among them; `python scripts/index.py --help` shows how."""

import sys


def main(argv: list[str] | None = None) -> int:
    from vit_custom import main as vit_custom

    return vit_custom(["index", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
