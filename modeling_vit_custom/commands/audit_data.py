"""`vit-custom audit_data`: what is wrong with images and labels, before training."""

import argparse
import sys
from collections.abc import Sequence

from ..audit.audit import audit, text_report
from ..audit.findings import ERROR
from ..common.environment import available_cores
from ..common.errors import DataError
from ..common.json_files import write_json
from ..common.outputs import OutputError
from ..common.text import visible
from ..data.columns import PROBLEM_TYPES
from .options import add_table_options, report_file, table_options


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="audit_data",
        description="Look for what is wrong with images and labels before training on them.",
        epilog="""examples:
  %(prog)s photos                                  DIR/<class>/… or DIR/{train,validation,test}/<class>/…
  %(prog)s photos --html audit.html --json audit.json
  %(prog)s train.csv --validation_dir val.csv --image_column_name file --label_column_name tags

Exit code: 0 without errors (warnings and notes are none), 1 with errors, 2 if it could not be run.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("train_dir", metavar="DIR", help="folder, or CSV, TSV, JSON or Parquet file, as for train")
    parser.add_argument("--validation_dir", "--validation_file", metavar="DIR", help="the same for validation")
    parser.add_argument("--test_dir", "--test_file", metavar="DIR", help="the same for the test set")
    add_table_options(parser)
    parser.add_argument("--problem_type", choices=PROBLEM_TYPES, help="read off the label column if not given")
    parser.add_argument("--json", type=report_file, metavar="FILE", help="write the findings as JSON")
    parser.add_argument(
        "--html", type=report_file, metavar="FILE", help="write a page with pictures, one file that needs no other"
    )
    parser.add_argument(
        "--num_workers", type=int, default=available_cores(), metavar="N", help="decoding processes (%(default)s)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.num_workers < 0:
        parser.error(f"--num_workers is {args.num_workers}: give 0 or more.")
    try:
        result = audit(
            args.train_dir,
            args.validation_dir,
            args.test_dir,
            num_workers=args.num_workers,
            progress=True,
            **table_options(args, args.problem_type),
        )
        print(text_report(result))
        if args.json:
            print(f"wrote {write_json(args.json, result.report())}")
        if args.html:
            from ..audit.page import write_page

            print(f"wrote {write_page(args.html, result)}")
    except (DataError, OutputError, OSError) as error:
        print(f"audit_data: {visible(error)}", file=sys.stderr)
        return 2
    return 1 if result.count(ERROR) else 0
