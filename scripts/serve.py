"""Serve a saved classifier over HTTP; `python scripts/serve.py --help` shows how."""

import sys


def main(argv: list[str] | None = None) -> int:
    from modeling_vit_custom.commands.serve import main as serve

    return serve(argv)


if __name__ == "__main__":
    sys.exit(main())
