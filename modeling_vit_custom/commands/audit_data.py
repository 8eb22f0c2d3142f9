"""`vit-custom audit_data`: find errors in images and labels before training."""

import argparse
import sys
from collections.abc import Sequence

from ..api.auditing import CORES, audit_data
from ..audit.audit import BUDGET, text_report
from ..audit.findings import ERROR
from ..common.errors import DataError, UsageError
from ..common.json_files import write_json
from ..common.outputs import OutputError
from ..common.text import visible
from ..data.cache import AUTO
from .options import (
    MODEL_HELP,
    add_dataset_options,
    add_max_pixels,
    add_table_options,
    positive,
    report_file,
    say_loaded,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom audit_data",
        description="Look for what is wrong with images and labels before training on them.",
        epilog="""examples:
  %(prog)s photos                                  DIR/<class>/… or DIR/{train,validation,test}/<class>/…
  %(prog)s photos --html audit.html --json audit.json
  %(prog)s train.csv --validation_dir val.csv --image_column_name file --label_column_name tags
  %(prog)s photos --model outputs/dinov2           labels that are probably wrong
  %(prog)s photos --model outputs/dinov2 --unlabelled more --budget 100     and what to label next

Exit codes: 0 no errors (warnings and notes are none), 1 errors, 2 it could not be done as asked, 130 stopped by
Ctrl-C.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "train_dir", nargs="?", metavar="DIR", help="folder, or CSV, TSV, JSON or Parquet file, as of train"
    )
    parser.add_argument(
        "--train_dir", "--train_file", dest="named", metavar="DIR", help="the same, by its flag of train"
    )
    parser.add_argument("--validation_dir", "--validation_file", metavar="DIR", help="the same for validation")
    parser.add_argument("--test_dir", "--test_file", metavar="DIR", help="the same for the test set")
    add_dataset_options(parser)
    add_max_pixels(parser)
    add_table_options(parser)
    parser.add_argument("--json", type=report_file, metavar="FILE", help="write the findings as JSON")
    parser.add_argument(
        "--html", type=report_file, metavar="FILE", help="write a page with pictures, one file that needs no other"
    )
    parser.add_argument("--num_workers", type=int, default=CORES, metavar="N", help="decoding processes (%(default)s)")
    by_model = parser.add_argument_group("labels that a model finds probably wrong, and what to label next")
    by_model.add_argument(
        "--model", metavar="MODEL", help=f"{MODEL_HELP}, of any classes or none, or what convert reads; its encoder"
    )
    by_model.add_argument("--revision", metavar="COMMIT", help="of a Hub id: commit, tag or branch (default: main)")
    by_model.add_argument("--unlabelled", metavar="DIR", help="folder or table of images to choose from for labelling")
    by_model.add_argument(
        "--budget", type=positive, metavar="N", help=f"how many of them to suggest (default: {BUDGET})"
    )
    by_model.add_argument(
        "--image_cache", default=AUTO, metavar="DIR", help="where features are kept: auto, off or DIR (%(default)s)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 no errors, 1 errors, 2 it could not be done as asked, 130 stopped."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.num_workers < 0:
        parser.error(f"--num_workers is {args.num_workers}: give 0 or more.")
    if args.train_dir is not None and args.named is not None:
        parser.error(f"name the training data once, not as {args.train_dir} and --train_dir {args.named}.")
    named = args.named if args.train_dir is None else args.train_dir
    if (named is None) == (args.dataset_name is None):
        parser.error("name the training data once: a folder or table, or --dataset_name.")
    flags = {name: value for name, value in vars(args).items() if name != "named"} | {"train_dir": named}
    try:
        result = audit_data(**flags | {"json": None, "html": None}, progress=True)
        print(text_report(result))  # first, even if a file cannot be written
        if args.json:
            print(f"wrote {write_json(args.json, result.report())}")
        if args.html:
            from ..audit.page import write_page

            print(f"wrote {write_page(args.html, result)}")
    except (DataError, UsageError, OutputError, OSError) as error:
        print(f"audit_data: {visible(error)}", file=sys.stderr)
        return 2
    if args.model is not None:
        say_loaded("audit_data", argv, args.model, args.revision)
    return 1 if result.count(ERROR) else 0
