"""Which method is most faithful to a model, measured on its own images, and kept in its folder."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import try_to_load_from_cache

from ..common.claims import ClaimError, digest_of, named_weights, read_record, write_stamped
from ..common.errors import UsageError
from ..common.model_files import CONFIG, EXPLANATION
from ..common.outputs import check_replaceable
from .images import read_images
from .methods.context import unwrapped
from .methods.table import DEFAULT
from .run import run

AUTO = "auto"
CANDIDATES = (DEFAULT, "place", "legrad", "chefer")  # those that explain the class by one backward
ENOUGH = 32  # images, below which the differences are noise


def choose_method(
    model: Any, images: Any, *, processor: Any = None, batch_size: int = 8, folder: str | os.PathLike | None = None
) -> dict[str, Any]:
    """Measure the faithfulness of each of `CANDIDATES` to a model's answers for images, and choose a method.

    It is `libra`, unless the one of highest mean SRG is ahead of it by two standard errors of the paired differences.
    Returns {"method", "images", "srg": {method: mean}, "ahead": {method: (mean, standard error)}, "srg_random"}.

    images: at least 32, as for `explain`.   folder: the saved model's, where the choice is kept for method="auto".
    Raises UsageError for fewer images, or a folder without a model.
    """
    if folder is not None:
        if not (Path(folder) / CONFIG).is_file():
            raise UsageError(f"folder={os.fspath(folder)} is no saved model's: name one that save_pretrained made.")
        check_replaceable(Path(folder) / EXPLANATION)
    pixels = read_images(images, processor)
    if len(pixels) < ENOUGH:
        raise UsageError(f"images are {len(pixels)}: to choose a method by, give at least {ENOUGH}.")
    gains, random = {}, math.nan
    for name in CANDIDATES:
        found = run(model, pixels, None, name, confirm=0, batch_size=batch_size).faithfulness
        assert found is not None
        gains[name] = np.array([one["srg"] for one in found])
        random = float(np.mean([one["srg_random"] for one in found]))
    record = {"method": chosen(gains), "images": len(pixels), **_figures(gains), "srg_random": random}
    if folder is not None:
        write_stamped(Path(folder) / EXPLANATION, record)
    return record


def chosen(gains: dict[str, np.ndarray]) -> str:
    """Return the method to use, by the SRG of each on the same images; the first unless another is clearly better."""
    first, best = next(iter(gains)), max(gains, key=lambda name: float(gains[name].mean()))
    mean, error = _paired(gains[best] - gains[first])
    return best if mean > 2 * error else first


def _paired(differences: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(differences)))


def _figures(gains: dict[str, np.ndarray]) -> dict[str, Any]:
    first, *others = gains
    return {
        "srg": {name: float(values.mean()) for name, values in gains.items()},
        "ahead": {name: _paired(gains[name] - gains[first]) for name in others},
    }


def stored_method(source: str) -> str | None:
    """Return the method that `choose_method` kept in a model's folder or Hub repository.

    None if there is none, or if it was chosen for other weights than those beside it.
    """
    folder = Path(source).expanduser()
    path = folder / EXPLANATION if folder.is_dir() else try_to_load_from_cache(source, EXPLANATION)
    if not isinstance(path, str | Path):
        return None
    record = read_record(Path(path))
    try:
        known = record.get("method") in CANDIDATES and named_weights(record) == digest_of(source)
    except ClaimError:
        return None
    return record["method"] if known else None


def best_method(model: Any, images: Any, processor: Any, batch_size: int) -> str:
    """Return the method stored beside a model, or the one that `choose_method` finds on these images.

    Raises UsageError if none is stored and the images are too few.
    """
    source = getattr(unwrapped(model), "name_or_path", "")
    if source and (found := stored_method(source)) is not None:
        return found
    pixels = read_images(images, processor)
    if len(pixels) < ENOUGH:
        raise UsageError(
            f"method='auto': no choice is stored beside this model, and {len(pixels)} images are too few to make one. "
            f"Call choose_method(model, images, folder=…) with {ENOUGH} or more, or name a method, such as "
            f"{DEFAULT!r}."
        )
    return choose_method(model, pixels, batch_size=batch_size)["method"]
