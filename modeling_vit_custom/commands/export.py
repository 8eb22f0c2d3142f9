"""`vit-custom export`: a classifier for another runtime."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ..common.text import printable
from ..engines.exported import FILES
from ..engines.writers import DTYPES
from ..speed.export import LOST, ExportError, Wanted, export
from ..speed.section import points_lost
from .options import add_table_options, table_options


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code: 0 done, 1 the file was not the model, 2 it could not be run as asked."""
    parser = argparse.ArgumentParser(
        prog="export",
        description="Write a classifier for another runtime; only what agrees with the original is written.",
        epilog="examples: export --model outputs/photos --output outputs/photos-onnx --data_dir photos/test; then "
        "predict, evaluate or serve --model outputs/photos-onnx",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="saved model folder, or a Hub id")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--format", dest="form", default="onnx", choices=FILES, help="default: %(default)s")
    kinds = dict.fromkeys(kind for group in DTYPES.values() for kind in group)
    parser.add_argument("--dtype", default="float32", choices=kinds, help="default: %(default)s")
    parser.add_argument("--dynamic", default="batch", help="which of batch,height,width may differ; '' for none")
    parser.add_argument("--batch_size", type=int, default=1, help="of a file whose batch may not differ")
    parser.add_argument("--preprocessing", action="store_true", help="resize and normalise inside the file")
    parser.add_argument("--speed", metavar="NAME", help="one of the checkpoint's speeds, such as 2x (see speed_table)")
    parser.add_argument(
        "--data_dir", metavar="DIR", help="labelled images, or a table of them, to compare the accuracy on"
    )
    parser.add_argument("--max_lost", type=float, default=LOST, help="points of accuracy it may lose (%(default)s)")
    add_table_options(parser)
    args = parser.parse_args(argv)
    try:
        dynamic = tuple(name for name in args.dynamic.split(",") if name)
        wanted = Wanted(args.form, args.dtype, dynamic, args.batch_size, args.preprocessing)
        record = export(
            args.model, args.output, wanted, args.data_dir, args.max_lost, speed=args.speed, **table_options(args)
        )
    except ExportError as error:
        print(printable(f"export: {error}"), file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError) as error:
        print(printable(f"export: {error}"), file=sys.stderr)
        return 2
    print(*described(record), f"wrote {args.output}", sep="\n")
    return 0


def described(record: dict[str, Any]) -> Iterator[str]:
    """What was found, in sentences."""
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
