"""Features on disk: each image goes through the frozen encoder once, and any head is then fitted to its features.

A store is a folder of `sealed_rows`, ROOT/features-<hash>/, named by the hash of the weights, the preprocessing and the
images. Its rows are in features.npy, float32 [V·N, W]: all images as they are, then all of them in each further view. A
build that was killed continues where it stopped.

Shapes: N examples, V views of each, B batch, W features of an image.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from .._version import __version__
from ..common.errors import DataError
from ..common.fingerprint import fingerprint
from ..common.processes import Processes
from ..data.cache import AUTO, OFF, place_of, room_in
from ..data.examples import Examples
from ..data.fingerprint import images_fingerprint, key_hash
from ..data.sealed_rows import SealedRows, UnfinishedRows, find_or_build
from .taps import Tap, Taps

FORMAT = 1
NAME = "features.npy"
READ = 1024  # rows at once
Pixels = Callable[[Sequence[int], int], torch.Tensor]  # (positions [B], which view) -> pixel values [B, C, H, W']


class Features:
    """The features of N examples in V views; memory holds those of one tap at a time.

    rows: [V·N, W].   count: N.
    """

    def __init__(self, taps: Taps, rows: SealedRows | np.ndarray, count: int):
        self.taps, self.rows, self.count = taps, rows, count

    def of(self, tap: Tap, indices: Sequence[int] | None = None, views: int = 1) -> torch.Tensor:
        """Return the features of one tap, float32 [views·n, D'], for the n `indices` or all examples.

        Raises DataError for rows that are damaged.
        """
        chosen = np.arange(self.count) if indices is None else np.asarray(indices, np.int64)
        wanted = np.concatenate([chosen + view * self.count for view in range(views)])
        columns = self.taps.columns(tap)
        if isinstance(self.rows, np.ndarray):
            return torch.from_numpy(np.ascontiguousarray(self.rows[wanted, columns]))
        found = np.empty((len(wanted), columns.stop - columns.start), np.float32)
        for start in range(0, len(wanted), READ):
            part, wrong = self.rows.read(wanted[start : start + READ].tolist())
            if wrong:
                raise DataError(
                    f"{self.rows.folder} does not hold the features that were computed for image "
                    f"{int(wanted[start + wrong[0]]) % self.count}. Remove it and run the same command again."
                )
            found[start : start + READ] = part[:, columns]
        return torch.from_numpy(found)


def open_features(
    taps: Taps,
    examples: Examples,
    pixels: Pixels,
    processor: Any,
    views: int = 1,
    augmentation: str = "",
    image_cache: str = AUTO,
    batch: int = 64,
    processes: Processes | None = None,
    progress: bool = False,
) -> tuple[Features | None, str]:
    """Return (the features, words on where they are); compute those that are missing.

    All processes of a group call this and compute a share each; the first one gets the features, the others None.
    pixels: makes pixel values.   processor: makes the first view.   augmentation: identifies the further ones.
    image_cache: as for `open_views`.
    Raises DataError for images that cannot be read, or a folder that cannot hold the store.
    """
    count, processes = len(examples), processes or Processes()
    shape = (views * count, taps.width)
    compute = partial(_computed, taps, pixels, count, batch, processes, progress)
    if image_cache == OFF:
        return _of_this_run(taps, compute, shape, count, processes), "computed for this run alone"
    if not processes.is_first:
        for _ in compute(processes.from_first(list)):
            pass
        return None, ""
    root, asked = place_of(image_cache), False

    def build(rows: UnfinishedRows) -> None:
        nonlocal asked
        asked = True
        for indices, values in compute(processes.from_first(lambda: rows.missing)):
            rows.write(indices, values)

    try:
        key = _key(taps, examples, processor, {"count": views, "augmentation": augmentation})
        limit = room_in(root, image_cache)
        rows, how = find_or_build(root / f"features-{key_hash(key)}", NAME, key, shape, np.float32, build, limit, None)
    except OSError as error:
        if not asked and image_cache == AUTO:
            return _of_this_run(taps, compute, shape, count, processes), f"not kept: {error}"
        refusal = DataError(f"--image_cache {root} cannot hold the features: {error}. Name another, or off.")
        if not asked:
            processes.from_first(partial(_refuse, refusal))  # raises in all processes: the others wait
        raise refusal from error
    if not asked:
        processes.from_first(list)  # no rows are missing; the others wait for this list
    return Features(taps, rows, count), f"{'kept' if how == 'built' else how} in {rows.folder}, which may be removed"


def _key(taps: Taps, examples: Examples, processor: Any, views: dict[str, Any]) -> dict[str, Any]:
    libraries = {name: version(name) for name in ("numpy", "pillow", "torch", "torchvision", "transformers")}
    return {
        "format": FORMAT,
        "encoder": fingerprint(taps.model.vit, processor, {"device": taps.model.device.type}),
        "taps": taps.describe(),
        "views": views,
        "images": images_fingerprint(examples.images),
        "libraries": libraries | {"modeling_vit_custom": __version__},
    }


def _refuse(error: Exception) -> None:
    raise error


def _of_this_run(taps: Taps, compute: Any, shape: tuple[int, int], count: int, processes: Processes) -> Features | None:
    rows = np.empty(shape, np.float32)
    for indices, values in compute(processes.from_first(lambda: list(range(shape[0])))):
        rows[indices] = values
    return Features(taps, rows, count) if processes.is_first else None


def _computed(
    taps: Taps, pixels: Pixels, count: int, batch: int, processes: Processes, progress: bool, missing: list[int]
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (row numbers, features) of all processes in the first one, nothing in others; they share `missing`."""
    from tqdm import tqdm

    views = range(max(missing, default=-1) // count + 1)
    taken = [part for view in views for part in _batches(missing, view, count, batch)]
    rounds = [taken[start : start + processes.count] for start in range(0, len(taken), processes.count)]
    bar = tqdm(total=len(missing), desc="features", unit=" images", disable=not progress or not missing)
    with bar:
        for parts in rounds:
            mine = parts[processes.rank] if processes.rank < len(parts) else []
            made: list[Any] = []
            processes.together(lambda mine=mine, made=made: made.append(_features_of(taps, pixels, count, mine)))
            for rows, values in processes.gathered((mine, made[0])):
                if rows and processes.is_first:
                    yield rows, values
                    bar.update(len(rows))


def _batches(missing: list[int], view: int, count: int, batch: int) -> list[list[int]]:
    """The missing rows of one view, in batches."""
    own = [row for row in missing if row // count == view]
    return [own[start : start + batch] for start in range(0, len(own), batch)]


def _features_of(taps: Taps, pixels: Pixels, count: int, rows: list[int]) -> np.ndarray:
    if not rows:
        return np.empty((0, taps.width), np.float32)
    values = pixels([row % count for row in rows], rows[0] // count)
    found = taps(values.to(taps.model.device, taps.model.dtype)).cpu().numpy()
    if not np.isfinite(found).all():
        raise DataError("the encoder gives NaN or infinity for some images: its weights cannot be used.")
    return found
