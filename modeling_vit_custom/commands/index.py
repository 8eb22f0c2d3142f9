"""`vit-custom index`: keep the vectors of images in a folder, to search among them."""

import argparse
import sys

from transformers.utils.logging import disable_progress_bar

from ..api.searching import index
from ..common.stopping import stopped
from ..common.text import printable
from ..features.graph import CHOICES, EXACT
from ..inference.answers import FEW
from .options import add_data_dir, add_max_pixels, add_model, add_trust, fewer_workers, positive, ran_out, say_loaded


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom index",
        description="Put every image through a model once, and keep its pooled vector, its name and its label.",
        epilog="""examples:
  %(prog)s --model outputs/photos --data_dir photos --output photos-index
  %(prog)s --model outputs/dinov2 --data_dir photos.csv --label_column_name kind --output photos-index
  %(prog)s --model outputs/photos --dataset_name ylecun/mnist --split test --output mnist-index

The same command again computes new images alone, also after a kill; images that are gone leave the index. A file that
cannot be read is reported and left out. An index shows what your images hold, see SECURITY.md: it is refused in the
folder of a model, and nothing publishes it.
Exit codes: 0 done, 1 an image could not be read, 2 it could not be done as asked, 130 stopped by Ctrl-C.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(parser)
    add_data_dir(parser, "a folder, or a CSV, TSV, JSON or Parquet file of images or paths", all_splits=True)
    parser.add_argument("--output", default="index", metavar="DIR", help="a folder for the index (%(default)s)")
    parser.add_argument(
        "--approximate",
        choices=CHOICES,
        default=CHOICES[0],
        help=f"add a graph for approximate search (%(default)s: above {EXACT:,} images; needs the extra search)",
    )
    parser.add_argument("--batch_size", type=positive, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--num_workers", type=int, default=0, metavar="N", help="processes that read images")
    parser.add_argument("--overwrite", action="store_true", help="replace an index of another model")
    add_max_pixels(parser)
    add_trust(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code: 0 done, 1 an image failed, 2 not done as asked, 130 stopped."""
    args = build_parser().parse_args(argv)
    disable_progress_bar()
    try:
        built = index(**vars(args))
    except KeyboardInterrupt:
        return stopped("index", f"vectors beside {args.output} are kept, and the same command goes on")
    except (ValueError, OSError) as error:
        print(printable(f"index: {error}"), file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        return ran_out("index", error, args.batch_size, *fewer_workers(args.num_workers))
    for note in built.notes:
        print(printable(f"note: {note}"))
    for failure in built.failures:
        print(printable(f"index: {failure}"), file=sys.stderr)
    if built.failed > FEW:
        print(f"index: … and {built.failed - FEW:,} more", file=sys.stderr)
    before = built.images - built.computed
    kept = f", {before:,} of them from before or equal to others" if before > 0 else ""
    labels = f", {built.labelled:,} with a label" if built.labelled else ""
    print(f"{built.images:,} images{kept}, {built.failed:,} failed{labels}; vectors of {built.width} numbers")
    print(printable(f"wrote {args.output}{', with a graph for approximate search' if built.graph else ''}"))
    say_loaded("index", argv, args.model, args.revision)
    return 1 if built.failed else 0
