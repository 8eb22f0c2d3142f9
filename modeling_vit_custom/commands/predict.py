"""`vit-custom predict`: image files to JSON lines."""

import argparse
import sys

from transformers.utils.logging import disable_progress_bar

from ..common.processes import joined_processes
from ..common.text import printable
from ..inference.loading import FORMATS
from ..inference.predict import Summary, predict
from .options import positive


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="predict",
        description="Predict image files with a saved classifier: one JSON line for each image.",
        epilog="""examples:
  %(prog)s --model outputs/mnist photo.png
  %(prog)s --model outputs/mnist photos/ more/*.jpg --top_k 3 --output predictions.jsonl --num_workers 4
  %(prog)s --model outputs/mnist photos/ --embeddings --output embeddings.jsonl

Folders are searched in depth, in natural order (2 before 10). A file that cannot be read gets a line with
"error" and stops nothing. A run that was cut off continues where it was when started again; files that failed
are tried again, as are images that have changed since. A second run to the same output meanwhile ends at once.
Several processes share the work under accelerate launch (--multi_gpu, also on a machine without any GPU, or it
starts one process only). Embeddings are read back by
  [json.loads(line).get("embedding") for line in open("embeddings.jsonl")]""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="+", metavar="IMAGE|FOLDER", help="image files and folders of them")
    parser.add_argument("--model", required=True, metavar="DIR", help="saved model folder, or a Hub id")
    parser.add_argument("--output", default="predictions.jsonl", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--top_k", type=positive, default=5, metavar="K", help="default: %(default)s")
    parser.add_argument("--embeddings", action="store_true", help="add the pooled vector to each line")
    parser.add_argument("--batch_size", type=positive, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--num_workers", type=int, default=0, metavar="N", help="processes that read images")
    parser.add_argument("--overwrite", action="store_true", help="discard what the output holds and start afresh")
    parser.add_argument("--follow_links", action="store_true", help="follow links that lead out of a folder")
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run other people's code in --model; of a Hub id, pin --revision",
    )
    parser.add_argument("--revision", metavar="COMMIT", help="of a Hub id: commit, tag or branch (default: main)")
    parser.add_argument(
        "--fast", action="store_true", help="the same answers by the fastest engine, timed once and kept"
    )
    parser.add_argument("--speed", metavar="NAME", help="one of the checkpoint's speeds, such as 2x (see speed_table)")
    parser.add_argument("--dtype", choices=FORMATS, help="of the computation, such as bfloat16 on a GPU (as stored)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 0 done, 1 every image failed, 2 it could not be run as asked."""
    args = build_parser().parse_args(argv)
    disable_progress_bar()
    with joined_processes() as processes:
        try:
            summary = predict(**vars(args), processes=processes)
        except (ValueError, OSError) as error:
            if processes.is_first:
                print(printable(f"predict: {error}"), file=sys.stderr)
            return 2
        if processes.is_first:
            _report(summary)
        return 1 if summary.failed == summary.images else 0


def _report(summary: Summary) -> None:
    for note in summary.notes:
        print(printable(f"note: {note}"))
    kept = f", {summary.resumed:,} of them from before" if summary.resumed else ""
    by = "" if summary.processes == 1 else f" by {summary.processes} processes"
    print(f"{summary.images:,} images{by}{kept}, {summary.failed:,} failed")
    if summary.failed:
        print(f"the failed ones and why: grep '\"error\"' {summary.output}")
    print(f"wrote {summary.output}")
