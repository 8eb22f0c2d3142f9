"""`vit-custom demo`: a page in the browser to try a saved classifier.

The page and its own flags are in a self-contained file, which is also a Space's app.py. This command lets a model be
named as in every other command, and adds the maps that need the whole package.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..common.errors import UsageError
from ..common.model_names import COMMIT, may_be_id, named_model, unpinned
from ..common.text import printable
from ..publishing.publish import listing_in
from ..serving.demo_maps import maps_below
from ..tasks import classification_demo as page

EXAMPLES = """examples:
  %(prog)s --model outputs/quickstart
  %(prog)s --model someone/digits@0123456789abcdef0123456789abcdef01234567 --port 8000

Images in the model's examples/ are there to try; without any, drawn pictures are, which are called so.
A tick below the answer shows where in the image the evidence for it lies, and for a second class beside it.
Exit codes: 0 closed by Ctrl-C, 2 it could not be opened as asked, 130 stopped by Ctrl-C before it was open."""


def build_parser() -> argparse.ArgumentParser:
    parser = page.build_parser()
    parser.prog, parser.allow_abbrev, parser.epilog = "vit-custom demo", False, EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Return its exit code: 0 closed by Ctrl-C, 2 it could not be opened as asked, 130 stopped before it was open.
    """
    args = build_parser().parse_args(argv)
    try:
        model, revision = named_model(args.model, args.revision)
        if may_be_id(model) and not Path(model).exists() and not COMMIT.fullmatch(revision or ""):
            raise UsageError(unpinned(model, revision))
        listing_in(model).refuse_dense(model)
    except ValueError as error:
        print(printable(f"demo: {error}"), file=sys.stderr)
        return 2
    given = {"model": model, "revision": revision, "host": args.host, "port": args.port}
    return page.main([f"--{name}={value}" for name, value in given.items() if value is not None], maps_below)
