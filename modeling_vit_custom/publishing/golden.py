"""Golden outputs: example images that travel with a model, and what it must answer to them anywhere.

golden.json: {"format": 1, "tolerance", "images": ["examples/0.png", …], "logits": {backend: [images, classes]},
"pipeline": for each image its five best [{"label", "score"}], "versions", "weights"}. An encoder has "pooler_output" in
place of "logits" and no "pipeline": its pipeline must answer just that. All is measured in a fresh process that has
nothing but the folder. The images are PNG, so that every machine sees the same pixels, without metadata.

The tolerance is relative to an image's largest number. Measured on the photographs of scikit-learn with random nano/8
and s/16 models: eager attention, two threads or float64 arithmetic move logits by up to 1.5e-6 of it, another resizing
library (Pillow for torchvision, as another build might) by up to 4e-4; a mean of 0.485 in place of 0.5 by 1.2e-2 and
more, swapped channels by 0.1 and more.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..common.claims import write_stamped
from ..common.fresh_process import FreshProcessError, run_fresh
from ..common.json_files import read_json
from ..common.model_files import CONFIG, GOLDEN
from ..image_decoding_vit_custom import decode_image
from ..tasks.hub import CLASSIFICATION, LISTINGS, Listing, listing_of
from .report import Check

FORMAT = 1
TOLERANCE = 1e-3
MAX_IMAGES = 5
MAX_SIDE = 512  # pixels: larger examples are shrunk, the golden outputs are those of the small ones
TOP_K = 5
BACKENDS = ("torchvision", "pil")
_FLOOR = 1e-6  # absolute, for logits near zero
_FRESH_CHECK = Path(__file__).with_name("fresh_check.py")


class GoldenError(ValueError):
    """Golden outputs cannot be made or read; the message says why."""


def write_golden(folder: Path, images: Sequence[Path]) -> None:
    """Copies up to five images into `folder`/examples as PNG and writes what the folder answers to golden.json.

    The folder's code is run, in a fresh process. Raises GoldenError for no images or more than five, for an image
    that cannot be decoded, and where the folder does not load there or gives no finite numbers.
    """
    folder = Path(folder)
    if not 1 <= len(images) <= MAX_IMAGES:
        raise GoldenError(f"{len(images)} example images: give 1 to {MAX_IMAGES}.")
    examples = folder / "examples"
    shutil.rmtree(examples, ignore_errors=True)
    examples.mkdir()
    names = [f"examples/{i}.png" for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        _write_example(Path(image), folder / name)
    report = measure(folder, names)
    for part in (report["load"], *report["outputs"].values(), report.get("pipeline", {})):
        if isinstance(part, dict) and "error" in part:
            raise GoldenError(f"{folder.name} cannot answer: {part['error']}")
    if missing := [backend for backend in BACKENDS if backend not in report["outputs"]]:
        raise GoldenError(f"the {missing[0]} backend is missing here: install torchvision.")
    if not all(np.isfinite(rows).all() for rows in report["outputs"].values()):
        raise GoldenError(f"{folder.name} answers its example images with NaN or infinity: check its weights.")
    task = listing_of(read_json(folder / CONFIG))
    golden = {
        "format": FORMAT,
        "tolerance": TOLERANCE,
        "images": names,
        task.output: {backend: _rounded(rows) for backend, rows in report["outputs"].items()},
    }
    if task is CLASSIFICATION:
        golden["pipeline"] = [
            [{"label": best["label"], "score": float(f"{best['score']:.7g}")} for best in answer[:TOP_K]]
            for answer in report["pipeline"]
        ]
    write_stamped(folder / GOLDEN, golden | {"versions": report["versions"]})


def _write_example(source: Path, target: Path) -> None:
    try:
        pixels = decode_image(source).numpy()
    except ValueError as error:
        raise GoldenError(f"example image {error}") from error
    image = Image.fromarray(np.moveaxis(pixels, 0, -1))
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    image.save(target, "PNG", optimize=True)


def _rounded(rows: list[list[float]]) -> list[list[float]]:
    """Seven digits: all that a float32 holds."""
    return [[float(f"{value:.7g}") for value in row] for row in rows]


def measure(folder: Path, images: Sequence[str] = ()) -> dict[str, Any]:
    """What `fresh_check` reports of a folder and `images` in it: load, classes, outputs, pipeline, versions.

    RUNS THE CODE OF THE FOLDER. A process that fails altogether is reported as one whose loading failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        try:
            task, files = listing_of(read_json(folder / CONFIG)), [folder.resolve() / name for name in images]
            run_fresh(_FRESH_CHECK, folder.resolve(), report, task.for_process(), *files)
            return json.loads(report.read_text(encoding="utf-8"))
        except (FreshProcessError, OSError, ValueError) as error:
            failed = {"error": str(error).splitlines()[-1]}
            return {"load": failed, "classes": failed, "outputs": {}, "versions": {}}


def read_golden(folder: Path) -> dict[str, Any]:
    """golden.json, checked: its images lie in examples/, its tolerance is no wider than ours, its numbers are finite.

    Raises GoldenError.
    """
    try:
        golden = read_json(Path(folder) / GOLDEN)
        _check_golden_form(golden, listing_of(read_json(Path(folder) / CONFIG)))
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise GoldenError(f"{GOLDEN}: {error}") from error
    for name in golden["images"]:
        path = Path(folder) / name
        if path.is_symlink() or not path.is_file():
            raise GoldenError(f"{GOLDEN} names {name}, which is not in the folder.")
    return golden


def _check_golden_form(golden: Mapping[str, Any], task: Listing) -> None:
    if golden["format"] != FORMAT:
        raise ValueError(f"format {golden['format']!r} is unknown; this version reads {FORMAT}")
    if not 0 < golden["tolerance"] <= TOLERANCE:
        raise ValueError(f"tolerance {golden['tolerance']!r} must be above 0 and at most {TOLERANCE}")
    images = golden["images"]
    if images != [f"examples/{i}.png" for i in range(len(images))] or not 1 <= len(images) <= MAX_IMAGES:
        raise ValueError(f"images must be examples/0.png and on, 1 to {MAX_IMAGES}, not {images!r}")
    if others := [other.output for other in LISTINGS if other is not task and other.output in golden]:
        raise ValueError(f"{others[0]} are of another task than {task.name}, which config.json is for")
    name, outputs = task.output, golden[task.output]
    if sorted(outputs) != sorted(BACKENDS):
        raise ValueError(f"{name} must be there for {' and '.join(BACKENDS)}, not for {sorted(outputs)}")
    for rows in outputs.values():
        expected = np.asarray(rows, dtype=float)
        if expected.ndim != 2 or len(expected) != len(images) or not np.isfinite(expected).all():
            raise ValueError(f"{name} must be one row of finite numbers for each image")
    if task is CLASSIFICATION:
        _check_answers(golden, images)


def _check_answers(golden: Mapping[str, Any], images: Sequence[str]) -> None:
    if len(golden["pipeline"]) != len(images) or not all(golden["pipeline"]):
        raise ValueError("pipeline must hold an answer for each image")
    if not all(isinstance(best["label"], str) and np.isfinite(best["score"]) for a in golden["pipeline"] for best in a):
        raise ValueError("pipeline must hold labels with finite scores")


def check_golden(folder: Path) -> list[Check]:
    """Whether the folder answers its golden images as golden.json says. RUNS THE CODE OF THE FOLDER."""
    folder = Path(folder)
    try:
        golden = read_golden(folder)
    except GoldenError as error:
        return [Check("golden images", False, str(error))]
    return compare_golden(golden, measure(folder, golden["images"]))


def compare_golden(golden: Mapping[str, Any], report: Mapping[str, Any]) -> list[Check]:
    """One check for each backend and one for the pipeline; a backend that is missing here has proven nothing."""
    checks = []
    output = next(task.output for task in LISTINGS if task.output in golden)
    for backend in BACKENDS:
        name = f"golden images, {backend} backend"
        if "error" in report["load"]:
            checks.append(Check(name, False, "not run: the model did not load"))
        elif backend not in report["outputs"]:
            checks.append(Check(name, False, f"not run: {backend} is missing here; install it and verify again"))
        else:
            checks.append(_compare_rows(name, golden, golden[output][backend], report["outputs"][backend]))
    name = "golden images, pipeline"
    if "torchvision" not in report["outputs"]:
        why = "the model did not load" if "error" in report["load"] else "recorded with torchvision, missing here"
        return [*checks, Check(name, False, f"not run: {why}")]
    if output == CLASSIFICATION.output:
        return [*checks, _compare_labels(name, golden, report["pipeline"])]
    return [*checks, _compare_rows(name, golden, golden[output]["torchvision"], report["pipeline"])]


def _compare_rows(name: str, golden: Mapping[str, Any], expected: Any, actual: Any) -> Check:
    """expected: [images, numbers].   actual: the same, or with axes of length 1 between."""
    if isinstance(actual, dict):
        return Check(name, False, str(actual["error"]))
    wanted, found = np.asarray(expected, float), np.asarray(actual, float)
    found = found.reshape(len(found), -1)
    if wanted.shape != found.shape:
        return Check(name, False, f"numbers of shape {list(found.shape)}, expected {list(wanted.shape)}")
    largest = np.abs(wanted).max(1)
    difference = np.abs(found - wanted).max(1)  # NaN where there is one
    good = difference <= _allowed(golden, wanted)
    worst = int(np.argmax(np.where(np.isnan(difference), np.inf, difference / np.maximum(largest, _FLOOR))))
    relative = difference[worst] / max(largest[worst], _FLOOR)
    detail = f"numbers off by {relative:.1e} of the largest, at most {golden['tolerance']:g} is allowed"
    return Check(name, bool(good.all()), detail if good.all() else f"{golden['images'][worst]}: {detail}")


def _compare_labels(name: str, golden: Mapping[str, Any], answers: Any) -> Check:
    """Every recorded label has its score again. Softmax and sigmoid move scores less than their logits moved."""
    if isinstance(answers, dict):
        return Check(name, False, str(answers["error"]))
    allowed = _allowed(golden, np.asarray(golden["logits"]["torchvision"], float))
    worst = 0.0
    for image, expected, answer, limit in zip(golden["images"], golden["pipeline"], answers, allowed, strict=True):
        scores = {best["label"]: best["score"] for best in answer}
        for best in expected:
            found = scores.get(best["label"])
            if found is None or not abs(found - best["score"]) <= limit:
                what = "not among the labels" if found is None else f"{found:.4f}"
                return Check(name, False, f"{image}: {best['label']!r} is {what}, expected {best['score']:.4f}")
            worst = max(worst, abs(found - best["score"]))
    return Check(name, True, f"scores off by {worst:.1e}")


def _allowed(golden: Mapping[str, Any], logits: np.ndarray) -> np.ndarray:
    """[images]: how far the logits of each image may be off."""
    return golden["tolerance"] * np.abs(logits).max(1) + _FLOOR
