"""`vit-custom export`: export a classifier for another runtime."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ..api.converting import export
from ..common.stopping import stopped
from ..common.text import printable
from ..engines.exported import FILES
from ..engines.writers import DTYPES
from ..speed.export import MAX_ACCURACY_DROP, ExportError
from ..speed.section import points_lost
from .options import add_data_dir, add_max_pixels, add_model, ran_out, say_loaded


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Return its exit code: 0 done, 1 the file's answers differ from the model's, 2 not done as asked, 130 stopped.
    """
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom export",
        description="Write a classifier for another runtime; only what agrees with the original is written.",
        epilog="examples: export --model outputs/photos --output outputs/photos-onnx --data_dir photos/test; then "
        "predict, evaluate or serve --model outputs/photos-onnx. Exit codes: 0 done, 1 the file's answers are not the "
        "model's, 2 it could not be done as asked, 130 stopped by Ctrl-C.",
    )
    add_model(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--format", default="onnx", choices=FILES, help="default: %(default)s")
    kinds = dict.fromkeys(kind for group in DTYPES.values() for kind in group)
    parser.add_argument("--dtype", default="float32", choices=kinds, help="default: %(default)s")
    parser.add_argument("--dynamic", default="batch", help="which of batch,height,width may differ; '' for none")
    parser.add_argument("--batch_size", type=int, default=1, help="of a file whose batch may not differ")
    parser.add_argument("--preprocessing", action="store_true", help="resize and normalise inside the file")
    parser.add_argument("--speed", metavar="NAME", help="one of the checkpoint's speeds, such as 2x (see speed_table)")
    parser.add_argument(
        "--max_lost", type=float, default=MAX_ACCURACY_DROP, help="points of accuracy it may lose (%(default)s)"
    )
    add_max_pixels(parser)
    add_data_dir(parser, "labelled images, or a table of them, to compare the accuracy on")
    args = parser.parse_args(argv)
    try:
        record = export(**vars(args))
    except KeyboardInterrupt:
        return stopped("export")
    except ExportError as error:
        print(printable(f"export: {error}"), file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError) as error:
        print(printable(f"export: {error}"), file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        return ran_out("export", error, args.batch_size, "--speed NAME for smaller images, where the model has one")
    print(*described(record), f"wrote {args.output}", sep="\n")
    say_loaded("export", argv, args.model, args.revision)
    return 0


def described(record: dict[str, Any]) -> Iterator[str]:
    """Yield the results of an export as sentences."""
    for row in record["compared"]:
        size = "x".join(map(str, row["size"]))
        yield f"{size}: logits differ by {row['relative']:.1e} of the largest, top-1 agreement {row['top1']:.0%}"
    if accuracy := record.get("accuracy"):
        lost, least, most = points_lost(accuracy)
        interval = f"{least:.2f} to {most:.2f}"
        yield f"accuracy: {accuracy['exported']:.2%} of {accuracy['n']:,} images, {lost:.2f} points lost ({interval})"
    yield f"size: {record['bytes'] / 1e6:.1f} MB, the original's weights {record['original_bytes'] / 1e6:.1f} MB"
    found = record["speed"]
    verdict = f"{found['ratio']:.2f} times the original's" + (", SLOWER" if found["ratio"] < 1 else "")
    yield f"speed: {found['exported']:.1f} images/s, {verdict}"
