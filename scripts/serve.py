"""Serve a saved classifier over HTTP; `python scripts/serve.py --help` shows how."""

import sys


def main(argv: list[str] | None = None) -> int:
    from modeling_vit_custom.serving.server import main as serve

    return serve(argv)


if __name__ == "__main__":
    sys.exit(main())
