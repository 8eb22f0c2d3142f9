"""`benchmark files`: from image files to predictions, `predict` against transformers' ViT in transformers' pipeline.

Both models have the same size, and are saved and loaded as their users would. The runs take turns, with the same batch
size; each reads and decodes every file again. All files are read once in advance, so that the disk does not count.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..image_processing_vit_custom import ViTCustomImageProcessor
from ..inference.loading import default_device
from ..inference.predict import find_images, predict
from ..reporting.markdown import markdown_table
from .peers import LIBRARIES, Shape

ROUNDS = 3


def compare(shape: Shape, folder: str, batch_size: int, flags: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure both; return one row each, with images a second of the median run."""
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
        calls["ours, predict"]()  # chooses the engine, which is cached
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
