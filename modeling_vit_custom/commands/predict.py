"""`vit-custom predict`: predict image files to JSON lines or CSV, and show a short answer."""

import argparse
import sys
import tempfile
from functools import partial

from transformers.utils.logging import disable_progress_bar

from ..api.classifying import predict
from ..common.processes import Processes, joined_processes
from ..common.stopping import stopped
from ..common.text import printable
from ..inference.answers import CSV, FEW, JSONL, PREDICTIONS, WRITTEN, default_output, reason, shown
from ..inference.inputs import STANDARD, find_images
from ..inference.loading import FORMATS
from ..inference.predict import Summary
from ..inference.resume import ResumeError
from .options import add_data_dir, add_max_pixels, add_model, add_trust, fewer_workers, positive, ran_out, say_loaded


class _Unnamed(str):
    """The default output: a file that the user has not named."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom predict",
        description="Predict image files with a saved classifier: one JSON line, or row of CSV, for each image. "
        "Answers to a few images are shown, too.",
        epilog="""examples:
  %(prog)s --model outputs/mnist photo.png
  %(prog)s --model outputs/mnist photos/ more/*.jpg --top_k 3 --output predictions.jsonl --num_workers 4
  %(prog)s --model outputs/mnist "photos/**/*.jpg" --format csv
  find photos -name "*.jpg" | %(prog)s --model outputs/mnist - --output - | jq ".predictions[0].label"
  %(prog)s --model outputs/mnist --dataset_name ylecun/mnist --split test
  %(prog)s --model outputs/mnist photos/ --embeddings --output embeddings.jsonl
  %(prog)s --model outputs/mnist photos/ --explain why --output explained.jsonl

Folders are searched in depth, in natural order (2 before 10); "-" reads file names from standard input, one a line.
A file that cannot be read gets a line with "error" and stops nothing. A run that was cut off continues where it was
when started again; files that failed are tried again, as are images that have changed since. A second run to the
same output meanwhile ends at once. --output - writes nothing but lines to standard output, and keeps none; beside a
CSV file, FILE.csv.jsonl keeps what a later run goes on from.
Several processes share the work under accelerate launch (--multi_gpu, also on a machine without any GPU, or it
starts one process only). Embeddings are read back by
  [json.loads(line).get("embedding") for line in open("embeddings.jsonl")]
Exit codes: 0 done, 1 an image could not be read, 2 it could not be done as asked, 130 stopped by Ctrl-C.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="IMAGE|FOLDER|-",
        help='image files, folders of them, quoted patterns such as "photos/*.jpg"',
    )
    add_model(parser)
    parser.add_argument(
        "--output",
        default=_Unnamed(PREDICTIONS),
        metavar="FILE",
        help="default: %(default)s, or predictions.csv; -: standard output",
    )
    parser.add_argument("--format", choices=WRITTEN, default=JSONL, help="JSON lines or CSV (default: %(default)s)")
    parser.add_argument("--top_k", type=positive, default=5, metavar="K", help="default: %(default)s")
    parser.add_argument("--embeddings", action="store_true", help="add the pooled vector to each line")
    parser.add_argument(
        "--explain", metavar="DIR", help="write a picture of where the evidence for each answer lies; costs 40 forwards"
    )
    parser.add_argument("--batch_size", type=positive, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--num_workers", type=int, default=0, metavar="N", help="processes that read images")
    parser.add_argument("--overwrite", action="store_true", help="discard what the output holds and start afresh")
    add_max_pixels(parser)
    add_data_dir(
        parser, "instead of files: a folder, or a CSV, TSV, JSON or Parquet file of images or paths", labelled=False
    )
    add_trust(parser)
    parser.add_argument(
        "--fast", action="store_true", help="the same answers by the fastest engine, timed once and kept"
    )
    parser.add_argument("--speed", metavar="NAME", help="one of the checkpoint's speeds, such as 2x (see speed_table)")
    parser.add_argument("--dtype", choices=FORMATS, help="of the computation, such as bfloat16 on a GPU (as stored)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code: 0 done, 1 an image failed, 2 not done as asked, 130 stopped."""
    args = build_parser().parse_args(argv)
    disable_progress_bar()
    kept = "nothing is kept" if args.output == STANDARD else f"lines beside {args.output} are kept"
    with joined_processes() as processes:
        try:
            summary, end = _predicted(args, processes)
        except KeyboardInterrupt:
            return stopped("predict", kept if args.output == STANDARD else f"{kept}, and the same command goes on")
        except (ValueError, OSError) as error:
            if processes.is_first:
                print(printable(f"predict: {error}"), file=sys.stderr)
            return 2
        except (RuntimeError, MemoryError) as error:
            half = [] if args.dtype in ("bfloat16", "float16") else ["--dtype bfloat16 in a new --output"]
            return ran_out("predict", error, args.batch_size, *half, *fewer_workers(args.num_workers))
        if not processes.is_first:
            return 0  # the first process speaks for all
        _report(summary, args.format, end)
        say_loaded("predict", argv, args.model, args.revision)
        return 1 if summary.failed else 0


def _predicted(args: argparse.Namespace, processes: Processes) -> tuple[Summary, str]:
    """Predict; return a summary and the last sentence on it.

    Answers to a few images are shown in any case. If the default output holds those to other images, it stays as it is.
    """
    try:
        summary = predict(**vars(args), processes=processes)
        return summary, f"wrote {summary.output}"
    except ResumeError:
        unnamed = isinstance(args.output, _Unnamed) and args.inputs and STANDARD not in args.inputs
        if not unnamed or args.overwrite or processes.count > 1 or len(find_images(args.inputs)[0]) > FEW:
            raise
    with tempfile.TemporaryDirectory() as place:
        summary = predict(**{**vars(args), "output": f"{place}/{args.output}"}, processes=processes)
    return (
        summary,
        f"not written, {default_output(args.format)} holds other answers and stays: name an --output to keep these",
    )


def _report(summary: Summary, form: str, end: str) -> None:
    """Print what was done: to standard output, or to standard error where the lines are there.   end: last sentence."""
    piped = str(summary.output) == STANDARD
    say = partial(print, file=sys.stderr if piped else sys.stdout)
    for note in summary.notes:
        say(printable(f"note: {note}"))
    for line in shown(summary.answers):
        say(line)
    sys.stdout.flush()
    for record in summary.failures:
        print(f"predict: {reason(record)}", file=sys.stderr)
    kept = f", {summary.resumed:,} of them from before" if summary.resumed else ""
    by = "" if summary.processes == 1 else f" by {summary.processes} processes"
    say(f"{summary.images:,} images{by}{kept}, {summary.failed:,} failed")
    if piped:
        return
    if summary.failed > len(summary.failures):
        column = f"column error of {summary.output}" if form == CSV else f"grep '\"error\"' {summary.output}"
        say(f"the failed ones and why: {column}")
    say(end)
