"""Convert a ViT checkpoint of another library to this model, or back; `python scripts/convert.py --help` shows how."""

import sys


def main(argv: list[str] | None = None) -> int:
    from vit_custom import main as vit_custom

    return vit_custom(["convert", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
