"""Publish a saved classifier to the Hub; `python scripts/publish.py --help` shows how."""

import sys


def main(argv: list[str] | None = None) -> int:
    from modeling_vit_custom.commands.publish import main as publish

    return publish(argv)


if __name__ == "__main__":
    sys.exit(main())
