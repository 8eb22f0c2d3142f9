"""Read a ViT checkpoint of another library into this model; `python scripts/convert.py --help` shows how."""

import sys


def main(argv: list[str] | None = None) -> int:
    from modeling_vit_custom.commands.convert import main as convert

    return convert(argv)


if __name__ == "__main__":
    sys.exit(main())
