"""A page in the browser to try a saved classifier on; `python scripts/demo.py --help` shows how."""

import sys


def main(argv: list[str] | None = None) -> int:
    from modeling_vit_custom.commands.demo import main as demo

    return demo(argv)


if __name__ == "__main__":
    sys.exit(main())
