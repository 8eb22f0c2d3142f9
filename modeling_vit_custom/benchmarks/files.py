"""`benchmark files`: from image files to answers, `predict` against transformers' ViT in transformers' pipeline.

Both models are of one size, saved and loaded as their users would; each run reads and decodes every file anew, in turn,
in batches of one size. The files have been read once before, so that the disk does not count.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..image_processing_vit_custom import ViTCustomImageProcessor
from ..inference.environment import hardware, versions
from ..inference.json_files import write_json
from ..inference.loading import default_device
from ..inference.markdown import markdown_table
from ..inference.outputs import report_file
from ..inference.predict import find_images, predict
from .peers import LIBRARIES, Shape

ROUNDS = 3


def compare(shape: Shape, folder: str, batch_size: int, flags: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each of the two: images a second, of the median of some runs."""
    from transformers import ViTImageProcessor, pipeline

    paths, _ = find_images([folder])
    for path in paths:
        Path(path).read_bytes()
    with tempfile.TemporaryDirectory() as root:
        ours: Any = LIBRARIES["ours"](shape)
        ours.model.save_pretrained(f"{root}/ours")
        ViTCustomImageProcessor.for_model(ours.model.config).save_pretrained(f"{root}/ours")
        theirs: Any = LIBRARIES["transformers"](shape)
        theirs.model.save_pretrained(f"{root}/theirs")
        size = {"height": shape.image, "width": shape.image}
        ViTImageProcessor(size=size).save_pretrained(f"{root}/theirs")
        classify = pipeline("image-classification", model=f"{root}/theirs", device=default_device())
        calls = {
            "ours, predict": lambda: predict(
                f"{root}/ours", [folder], f"{root}/o.jsonl", batch_size=batch_size, overwrite=True, **flags
            ),
            "transformers, pipeline": lambda: list(classify(paths, batch_size=batch_size)),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        calls["ours, predict"]()  # finds the engine, which is kept
        for _ in range(ROUNDS):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - began)
    return [
        {"shape": shape.name, "who": name, "n": len(paths), "batch": batch_size,
         "images_per_second": len(paths) / statistics.median(taken), "runs": taken}
        for name, taken in times.items()
    ]  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        peer = next(other for other in rows if other["shape"] == row["shape"] and "transformers" in other["who"])
        ratio = row["images_per_second"] / peer["images_per_second"]
        speed = f"{row['images_per_second']:.1f}"
        cells.append([row["shape"], row["n"], row["batch"], row["who"], speed, f"{ratio:.2f}"])
    return markdown_table(["model", "files", "batch", "who", "images/s", "ratio"], cells)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `benchmark files`."""
    parser = argparse.ArgumentParser(
        prog="benchmark files",
        description="Image files to answers: predict against transformers' ViT in its pipeline.",
        epilog="example: python scripts/benchmark.py files --images photos --shapes ti/16@224 s/16@224",
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="a folder of image files")
    parser.add_argument("--shapes", nargs="+", default=["ti/16@224", "s/16@224"], metavar="VARIANT@PIXELS")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--fast", action="store_true", help="by the fastest exact engine, chosen before")
    parser.add_argument("--num_workers", type=int, default=0, help="of predict")
    parser.add_argument("--output", type=report_file, metavar="FILE", help="JSON of all rows")
    args = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    for shape in map(Shape.of, args.shapes):
        rows += compare(shape, args.images, args.batch_size, {"num_workers": args.num_workers, "fast": args.fast})
    print(table(rows))
    if args.output:
        write_json(args.output, {"rows": rows, **versions(), **hardware(default_device())})
    return 0
