"""`vit-custom demo`: a page in the browser to try a saved classifier on."""

import argparse
from collections.abc import Sequence

from ..serving.demo import run


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo",
        description="A page in the browser to try a saved classifier on; it runs the code that lies with the model.",
        epilog="""examples:
  %(prog)s --model outputs/quickstart
  %(prog)s --model someone/digits --revision 0123456789abcdef0123456789abcdef01234567 --port 8000""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="saved folder, or a Hub id")
    parser.add_argument("--revision", help="commit of a Hub id, 40 characters")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine only)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 when Ctrl-C has closed the page, 2 if there is none it could open."""
    return run(**vars(build_parser().parse_args(argv)))
