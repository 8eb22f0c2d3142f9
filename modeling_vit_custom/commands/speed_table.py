"""`vit-custom speed_table`: measure speed-up and accuracy loss of speed settings."""

import argparse
import sys

from transformers.utils.logging import disable_progress_bar

from ..common.image_pixels import pixels_allowed
from ..common.model_files import SPEEDS
from ..common.text import printable
from ..inference.loading import FORMATS
from ..speed.options import MERGING, SIZES
from ..speed.section import table
from ..speed.table import make_table
from .options import add_data_dir, add_max_pixels, columns_of, positive, source_options


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code: 0 done, 2 it could not be done as asked, 130 stopped by Ctrl-C."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom speed_table",
        description="Measure what a classifier's speed settings gain and cost; store those worth having.",
        epilog="example: speed_table --model outputs/photos --data_dir photos/test; then "
        'from_pretrained("outputs/photos", speed="2x"), or predict --speed 2x. '
        "Exit codes: 0 done, 2 it could not be done as asked, 130 stopped by Ctrl-C.",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="saved model folder")
    add_data_dir(parser, "labelled images it was not trained on: a folder of class folders, or a table")
    add_max_pixels(parser)
    parser.add_argument("--token_merging", nargs="*", default=list(MERGING), metavar="2x", help="default: %(default)s")
    parser.add_argument(
        "--sizes", nargs="*", type=float, default=list(SIZES), metavar="SHARE", help="of the sides (%(default)s)"
    )
    parser.add_argument("--formats", nargs="*", default=["bfloat16"], choices=FORMATS, help="in addition to float32")
    parser.add_argument("--batch_size", type=positive, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing for each setting (%(default)s)")
    parser.add_argument("--max_images", type=positive, metavar="N", help="measure on the first N of them, shuffled")
    args = parser.parse_args(argv)
    disable_progress_bar()
    try:
        with pixels_allowed(args.max_pixels):
            report = make_table(
                args.model, source_options(args), args.token_merging, args.sizes, args.formats, args.batch_size,
                args.seconds, args.max_images, columns_of(args),
            )  # fmt: skip
    except (ValueError, OSError, ImportError) as error:
        print(printable(f"speed_table: {error}"), file=sys.stderr)
        return 2
    print(table(report))
    print(f"speeds: {', '.join(report['speeds']) or 'none is faster'}; wrote {args.model}/{SPEEDS} and config.json")
    return 0
