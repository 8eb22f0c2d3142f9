"""`vit-custom evaluate`: a saved classifier on labelled images."""

import argparse
import sys

from transformers.utils.logging import disable_progress_bar

from ..common.model_files import METRICS
from ..common.text import printable
from ..evaluation.evaluate import evaluate
from .options import add_table_options, report_file, table_options


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate",
        description="Measure a saved image classifier on labelled images.",
        epilog="""examples:
  %(prog)s --model outputs/mnist --data_dir data/mnist/test --output metrics.json
  %(prog)s --model outputs/mnist --data_dir photos --html evaluation.html
  %(prog)s --model outputs/tags --data_dir photos/test.csv --on_error skip --num_workers 4

Writes the metrics as JSON and, for single-label models, confusion_matrix.png beside it; to /dev/stdout or
another stream the metrics alone.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="saved model folder, or a Hub id")
    parser.add_argument(
        "--data_dir", required=True, metavar="DIR", help="folder of class folders, or a CSV, TSV, JSON or Parquet file"
    )
    parser.add_argument("--output", type=report_file, default=METRICS, metavar="FILE", help="default: %(default)s")
    parser.add_argument(
        "--html", type=report_file, metavar="FILE", help="write a page with pictures, one file that needs no other"
    )
    add_table_options(parser)
    parser.add_argument("--batch_size", type=int, default=64, metavar="N", help="default: %(default)s")
    parser.add_argument("--num_workers", type=int, default=0, metavar="N", help="processes that read images")
    parser.add_argument(
        "--on_error",
        choices=("raise", "skip"),
        default="raise",
        help="an image that cannot be read stops the run (default), or is left out and listed in the output",
    )
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run other people's code in --model; of a Hub id, pin --revision",
    )
    parser.add_argument("--revision", metavar="COMMIT", help="of a Hub id: commit, tag or branch (default: main)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 0 done, 1 could not be done."""
    args = build_parser().parse_args(argv)
    disable_progress_bar()
    how = {"batch_size": args.batch_size, "num_workers": args.num_workers, "on_error": args.on_error}
    where = {"trust_remote_code": args.trust_remote_code, "revision": args.revision}
    try:
        result, context, written = evaluate(
            args.model, args.data_dir, args.output, args.html, **how, **where, **table_options(args)
        )
    except (ValueError, OSError) as error:
        print(printable(f"evaluate: {error}"), file=sys.stderr)
        return 1
    took = f"{context['seconds']:.1f} s on {context['device']}"
    print(f"{len(result.names):,} images, {len(result.skipped):,} skipped, {took}")
    for name, value in result.metrics.items():
        print(f"  {name:<24}{value:.4f}")
    for note in result.notes:
        print(printable(f"  note: {note}"))
    print("wrote " + ", ".join(map(str, written)))
    return 0
