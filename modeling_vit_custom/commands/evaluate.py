"""`vit-custom evaluate`: measure a saved classifier on labelled images."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from transformers.utils.logging import disable_progress_bar

from ..api.classifying import evaluate
from ..common.model_files import METRICS
from ..common.stopping import stopped
from ..common.text import printable
from .options import add_data_dir, add_max_pixels, add_model, add_trust, fewer_workers, ran_out, report_file, say_loaded


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom evaluate",
        description="Measure a saved image classifier on labelled images.",
        epilog="""examples:
  %(prog)s --model outputs/mnist --data_dir data/mnist/test --output metrics.json
  %(prog)s --model outputs/mnist --data_dir photos --html evaluation.html
  %(prog)s --model outputs/mnist --data_dir photos --html evaluation.html --index photos-index
  %(prog)s --model outputs/mnist --dataset_name ylecun/mnist --split test
  %(prog)s --model outputs/tags --data_dir photos/test.csv --on_error skip --num_workers 4
  %(prog)s --model outputs/mnist --data_dir data/mnist/test --unknown_dir photos

Writes the metrics as JSON and, for single-label models, confusion_matrix.png beside it; to /dev/stdout or
another stream the metrics alone.
Exit codes: 0 done, 2 it could not be done as asked, 130 stopped by Ctrl-C.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(parser)
    add_data_dir(parser, "folder of class or split folders, a CSV, TSV, JSON or Parquet file, or shards")
    parser.add_argument("--output", type=report_file, default=METRICS, metavar="FILE", help="default: %(default)s")
    parser.add_argument(
        "--html", type=report_file, metavar="FILE", help="write a page with pictures, one file that needs no other"
    )
    parser.add_argument(
        "--index", metavar="DIR", help="with --html: show the images of this index that are most like each mistake"
    )
    parser.add_argument("--batch_size", type=int, default=64, metavar="N", help="default: %(default)s")
    parser.add_argument("--num_workers", type=int, default=0, metavar="N", help="processes that read images")
    add_max_pixels(parser)
    parser.add_argument(
        "--on_error",
        choices=("raise", "skip"),
        default="raise",
        help="an image that cannot be read stops the run (default), or is left out and listed in the output",
    )
    parser.add_argument(
        "--unknown_dir", metavar="DIR", help="images of none of the classes: measure how well they are recognised"
    )
    add_trust(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code: 0 done, 2 it could not be done as asked, 130 stopped by Ctrl-C."""
    args = build_parser().parse_args(argv)
    disable_progress_bar()
    try:
        result, context, written = evaluate(**vars(args))
    except KeyboardInterrupt:
        return stopped("evaluate")
    except (ValueError, OSError) as error:
        print(printable(f"evaluate: {error}"), file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        return ran_out("evaluate", error, args.batch_size, *fewer_workers(args.num_workers))
    took = f"{context['seconds']:.1f} s on {context['device']}"
    print(f"{len(result.names):,} images, {len(result.skipped):,} skipped, {took}")
    for name, value in result.metrics.items():
        print(f"  {name:<24}{value:.4f}")
    for line in _unknown_lines(context.get("unknown")):
        print(f"  {line}")
    for note in result.notes:
        print(printable(f"  note: {note}"))
    print("wrote " + ", ".join(map(str, written)))
    say_loaded("evaluate", argv, args.model, args.revision)
    return 0


def _unknown_lines(found: dict[str, Any] | None) -> Iterator[str]:
    """Yield what is printed of the context's "unknown"."""
    if found is None:
        return
    if found["level"] is not None:
        error = "" if found["error_of_answers"] is None else f", {found['error_of_answers']:.2%} of these wrong"
        yield f"answered{found['answered']:>22.2%}{error}; the others: unknown"
    if "auroc" in found:
        caught = "" if found["recognised"] is None else f", {found['recognised']:.2%} of them recognised"
        yield (
            f"unknown images: {found['n_unknown']:,}{caught}; AUROC by {found['by']} {found['auroc']:.4f}, with 95 % "
            f"recognised {found['false_alarms_at_95_recognised']:.2%} false alarms"
        )
