"""Golden outputs: example images that travel with a model, and the answers that it must give to them on any machine.

golden.json: {"format": 1, "tolerance", "images": ["examples/0.png", …], "logits": {backend: [images, classes]},
"pipeline": for each image its five best [{"label", "score"}], with "unknown" if the model says so, "versions",
"weights"}; "drawn": true if the images are drawn. For an encoder, "pooler_output" replaces "logits" and there is no
"pipeline": its pipeline must return the same numbers. Everything is measured in a fresh process that has only the
folder. A model of timm has one backend, "timm", and "pipeline" holds the scores that timm's outputs give. The images
are PNG without metadata, so that every machine sees the same pixels; for a model of neither 1 nor 3 channels they are
.npy files, uint8 [C, H, W].

The tolerance is relative to the largest absolute number of an image. Changes of the logits, measured on the photographs
of scikit-learn with random nano/8 and s/16 models: eager attention, two threads or float64 arithmetic up to 1.5e-6;
another resizing library (Pillow for torchvision, as another build might use) up to 4e-4; a mean of 0.485 in place of
0.5 at least 1.2e-2; swapped channels at least 0.1.
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
from ..tasks.hub import CLASSIFICATION, LISTINGS, Listing
from .forms import CUSTOM, HF, TIMM, Form, form_of, listing_for
from .report import Check

FORMAT = 1
TOLERANCE = 1e-3
MAX_IMAGES = 5
MAX_SIDE = 512  # pixels; larger examples are shrunk before they are measured
TOP_K = 5
BACKENDS = CUSTOM.backends
_FLOOR = 1e-6  # absolute tolerance, for logits near zero
_SCRIPTS = {form.name: Path(__file__).with_name("fresh_check.py") for form in (CUSTOM, HF)}
_SCRIPTS[TIMM.name] = Path(__file__).with_name("fresh_timm.py")


class GoldenError(ValueError):
    """Golden outputs cannot be made or read; the message says why."""


def write_golden(folder: Path, images: Sequence[Path], drawn: bool = False) -> None:
    """Copy one to five images into `folder`/examples and write the model's answers to golden.json.

    drawn: whether the images are drawn, not photographs of what the model knows; golden.json and the card say so.
    Runs the folder's code in a fresh process. Raises GoldenError for no images or more than five, for an image that
    cannot be decoded, for a missing backend, and if the folder does not load there or gives NaN or infinity.
    """
    folder = Path(folder)
    if not 1 <= len(images) <= MAX_IMAGES:
        raise GoldenError(f"{len(images)} example images: give 1 to {MAX_IMAGES}.")
    examples = folder / "examples"
    shutil.rmtree(examples, ignore_errors=True)
    examples.mkdir()
    config = read_json(folder / CONFIG)
    form, task = form_of(config), listing_for(config)
    channels = config.get("num_channels", 3) if form.has_code else 3
    names = [f"examples/{i}.{'png' if channels in (1, 3) else 'npy'}" for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        _write_example(Path(image), folder / name, channels)
    report = measure(folder, names)
    for part in (report["load"], *report["outputs"].values(), report.get("pipeline", {})):
        if isinstance(part, dict) and "error" in part:
            raise GoldenError(f"{folder.name} cannot answer: {part['error']}")
    if missing := [backend for backend in form.backends if backend not in report["outputs"]]:
        raise GoldenError(f"the {missing[0]} backend is missing here: install torchvision.")
    if not all(np.isfinite(rows).all() for rows in report["outputs"].values()):
        raise GoldenError(f"{folder.name} answers its example images with NaN or infinity: check its weights.")
    golden = {
        "format": FORMAT,
        "tolerance": TOLERANCE,
        "images": names,
        **({"drawn": True} if drawn else {}),
        task.output: {backend: _rounded(rows) for backend, rows in report["outputs"].items()},
    }
    if task is CLASSIFICATION:
        golden["pipeline"] = [
            [
                {"label": best["label"], "score": float(f"{best['score']:.7g}"), **_verdict(best)}
                for best in answer[:TOP_K]
            ]
            for answer in report["pipeline"]
        ]
    write_stamped(folder / GOLDEN, golden | {"versions": report["versions"]})


def _verdict(best: Mapping[str, Any]) -> dict[str, bool]:
    """Return {"unknown"} of an answer of a model that says so; else {}."""
    return {"unknown": bool(best["unknown"])} if "unknown" in best else {}


def _write_example(source: Path, target: Path, channels: int) -> None:
    in_colours = channels in (1, 3)
    try:
        pixels = decode_image(source, num_channels=3 if in_colours else channels).numpy()
    except ValueError as error:
        raise GoldenError(f"example image {error}") from error
    if not in_colours:
        bands = [Image.fromarray(band) for band in pixels]
        for band in bands:
            band.thumbnail((MAX_SIDE, MAX_SIDE))
        np.save(target, np.stack([np.asarray(band) for band in bands]))
        return
    image = Image.fromarray(np.moveaxis(pixels, 0, -1))
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    image.save(target, "PNG", optimize=True)


def _rounded(rows: list[list[float]]) -> list[list[float]]:
    """Rows rounded to seven significant digits, all that a float32 holds."""
    return [[float(f"{value:.7g}") for value in row] for row in rows]


def measure(folder: Path, images: Sequence[str] = ()) -> dict[str, Any]:
    """Return the report of `fresh_check` on a folder and `images` in it: load, classes, outputs, pipeline, versions.

    RUNS THE CODE OF THE FOLDER, if it has any. If the process itself fails, the report says that loading failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        try:
            config, files = read_json(folder / CONFIG), [folder.resolve() / name for name in images]
            form = form_of(config)
            more = {} if form.has_code else {"library": True, "problem_type": config.get("problem_type")}
            task = listing_for(config).for_process(**more)
            run_fresh(_SCRIPTS[form.name], folder.resolve(), report, task, *files)
            return json.loads(report.read_text(encoding="utf-8"))
        except (FreshProcessError, OSError, ValueError) as error:
            failed = {"error": str(error).splitlines()[-1]}
            return {"load": failed, "classes": failed, "outputs": {}, "versions": {}}


def read_golden(folder: Path) -> dict[str, Any]:
    """Return golden.json after checking its form.

    The images must lie in examples/, the tolerance must not exceed TOLERANCE, and all numbers must be finite. Raises
    GoldenError.
    """
    try:
        golden = read_json(Path(folder) / GOLDEN)
        config = read_json(Path(folder) / CONFIG)
        _check_golden_form(golden, listing_for(config), form_of(config))
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise GoldenError(f"{GOLDEN}: {error}") from error
    for name in golden["images"]:
        path = Path(folder) / name
        if path.is_symlink() or not path.is_file():
            raise GoldenError(f"{GOLDEN} names {name}, which is not in the folder.")
    return golden


def _check_golden_form(golden: Mapping[str, Any], task: Listing, form: Form) -> None:
    if golden["format"] != FORMAT:
        raise ValueError(f"format {golden['format']!r} is unknown; this version reads {FORMAT}")
    if not 0 < golden["tolerance"] <= TOLERANCE:
        raise ValueError(f"tolerance {golden['tolerance']!r} must be above 0 and at most {TOLERANCE}")
    images = golden["images"]
    forms = [[f"examples/{i}.{kind}" for i in range(len(images))] for kind in ("png", "npy")]
    if images not in forms or not 1 <= len(images) <= MAX_IMAGES:
        raise ValueError(f"images must be examples/0.png and on, 1 to {MAX_IMAGES}, not {images!r}")
    if others := [other.output for other in LISTINGS if other is not task and other.output in golden]:
        raise ValueError(f"{others[0]} are of another task than {task.name}, which config.json is for")
    name, outputs = task.output, golden[task.output]
    if sorted(outputs) != sorted(form.backends):
        raise ValueError(f"{name} must be there for {' and '.join(form.backends)}, not for {sorted(outputs)}")
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
    """Check that the folder answers its golden images as golden.json says. RUNS THE CODE OF THE FOLDER."""
    folder = Path(folder)
    try:
        golden = read_golden(folder)
    except GoldenError as error:
        return [Check("golden images", False, str(error))]
    return compare_golden(golden, measure(folder, golden["images"]))


def compare_golden(golden: Mapping[str, Any], report: Mapping[str, Any]) -> list[Check]:
    """Return one check for each backend and one for the pipeline (of timm, for its scores).

    The check of a backend that is not installed here fails as "not run".
    """
    checks = []
    output = next(task.output for task in LISTINGS if task.output in golden)
    form = TIMM if TIMM.backends[0] in golden[output] else CUSTOM
    for backend in form.backends:
        name = f"golden images, {backend} backend"
        if "error" in report["load"]:
            checks.append(Check(name, False, "not run: the model did not load"))
        elif backend not in report["outputs"]:
            checks.append(Check(name, False, f"not run: {backend} is missing here; install it and verify again"))
        else:
            checks.append(_compare_rows(name, golden, golden[output][backend], report["outputs"][backend]))
    name, first = f"golden images, {form.answers}", form.backends[0]
    if first not in report["outputs"]:
        why = "the model did not load" if "error" in report["load"] else f"recorded with {first}, missing here"
        return [*checks, Check(name, False, f"not run: {why}")]
    if output == CLASSIFICATION.output:
        return [*checks, _compare_labels(name, golden, report["pipeline"])]
    return [*checks, _compare_rows(name, golden, golden[output][first], report["pipeline"])]


def _compare_rows(name: str, golden: Mapping[str, Any], expected: Any, actual: Any) -> Check:
    """expected: [images, numbers].   actual: the same; axes of length 1 may stand between."""
    if isinstance(actual, dict):
        return Check(name, False, str(actual["error"]))
    wanted, found = np.asarray(expected, float), np.asarray(actual, float)
    found = found.reshape(len(found), -1)
    if wanted.shape != found.shape:
        return Check(name, False, f"numbers of shape {list(found.shape)}, expected {list(wanted.shape)}")
    largest = np.abs(wanted).max(1)
    difference = np.abs(found - wanted).max(1)  # NaN if a number is NaN
    good = difference <= _allowed(golden, wanted)
    apart = np.where(np.isnan(difference), np.inf, difference / np.maximum(largest, _FLOOR))
    worst = int(np.flatnonzero(apart == apart.max())[0])
    relative = difference[worst] / max(largest[worst], _FLOOR)
    detail = f"numbers off by {relative:.1e} of the largest, at most {golden['tolerance']:g} is allowed"
    return Check(name, bool(good.all()), detail if good.all() else f"{golden['images'][worst]}: {detail}")


def _compare_labels(name: str, golden: Mapping[str, Any], answers: Any) -> Check:
    """Check that every recorded label has the recorded score, within the tolerance of the logits.

    That tolerance suffices: softmax and sigmoid change scores by less than the logits changed.
    """
    if isinstance(answers, dict):
        return Check(name, False, str(answers["error"]))
    logits = golden["logits"]
    allowed = _allowed(golden, np.asarray(logits.get(BACKENDS[0], next(iter(logits.values()))), float))
    worst = 0.0
    for image, expected, answer, limit in zip(golden["images"], golden["pipeline"], answers, allowed, strict=True):
        scores = {best["label"]: best["score"] for best in answer}
        if answer and _verdict(expected[0]) != _verdict(answer[0]):
            return Check(
                name, False, f"{image}: {_verdict(answer[0]) or 'no unknown'}, expected {_verdict(expected[0])}"
            )
        for best in expected:
            found = scores.get(best["label"])
            if found is None or not abs(found - best["score"]) <= limit:
                what = "not among the labels" if found is None else f"{found:.4f}"
                return Check(name, False, f"{image}: {best['label']!r} is {what}, expected {best['score']:.4f}")
            worst = max(worst, abs(found - best["score"]))
    return Check(name, True, f"scores off by {worst:.1e}")


def _allowed(golden: Mapping[str, Any], logits: np.ndarray) -> np.ndarray:
    """Allowed deviation of each image's logits, [images]."""
    return golden["tolerance"] * np.abs(logits).max(1) + _FLOOR
