"""The run of one method on images: what is explained, the maps, what is measured of them.

Shapes: B images, R rows (an image and what is explained of it), C channels, H×W pixels, h×w grid, L blocks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..common.errors import UsageError
from ..tasks.registry import task_of
from .checks import HIDING, checked
from .images import Originals, read_images, several, viewable
from .methods.context import encoder_of, in_full_precision, lacks_gradients, prepared, unwrapped
from .methods.maps import Maps, grid_of, pixel_map, seen_pixels
from .methods.table import Method, method_named
from .methods.work import Work
from .result import Explanation
from .targets import Target, Targets, checked_score, read_targets

COPIED = "A float32 copy of the model is explained, because half precision rounds gradients."


def run(
    model: Any,
    images: Any,
    target: Target | Sequence[int | str],
    method: str,
    *,
    contrast: int | str | None = None,
    processor: Any = None,
    check: bool | str = True,
    confirm: int = 8,
    batch_size: int = 8,
    layers: Sequence[int] | None = None,
) -> Explanation:
    """Return the maps of one method, as `explain` does for a loaded model; it says what the arguments are."""
    chosen = method_named(method)
    model = unwrapped(model)
    model, copied = _able(model, method, chosen)
    encoder = encoder_of(model)
    blocks = _blocks(layers, encoder, method, chosen)
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: give 1 or more.")
    if confirm < 0:
        raise UsageError(f"confirm={confirm}: give the number of cells to replace, 0 for none.")
    if not isinstance(check, bool) and check != HIDING:
        raise UsageError(f"check={check!r}: give True, False or {HIDING!r}.")
    if contrast is not None and not chosen.class_specific:
        raise UsageError(f"contrast={contrast!r}: method={method!r} depends on no class; leave contrast out.")
    pixels = read_images(images, processor)
    points, target = _points(target, len(pixels)) if method == "similarity" else (None, target)
    with prepared(model):
        pixels = _on_device(pixels, model)
        targets, logit, probability = _answers(model, pixels, target, contrast, batch_size, chosen.class_specific)
        seen = seen_pixels(model.config, pixels.shape[2:])
        grid = grid_of(model.config, pixels.shape[2:])
        found = []
        for rows in _parts(len(targets.images), batch_size):
            part = pixels[[targets.images[row] for row in rows]]
            cells = None if points is None else [points[row] for row in rows]
            work = Work(
                model, encoder, part, _scored(targets, rows), grid, seen, blocks, check is True, batch_size, cells
            )
            found.append(chosen.run(work))
        maps = Maps.joined(found)
        if copied:
            maps.notes.append(COPIED)
        result = _result(method, chosen, targets, logit, probability, maps, viewable(pixels, processor), seen)
        if not torch.is_tensor(images):
            result.originals = Originals(several(images), processor)
        if not chosen.features and (check or confirm):
            _check(result, model, targets, pixels[:, :, : seen[0], : seen[1]], check, confirm, batch_size)
    return result


def _check(
    result: Explanation,
    model: Any,
    targets: Targets,
    pixels: torch.Tensor,
    check: bool | str,
    confirm: int,
    batch_size: int,
) -> None:
    """Measure the maps of a result and write into it what was found."""
    found = []
    for row, ranking in enumerate(result.ranking):

        def probability(images: torch.Tensor, row: int = row) -> torch.Tensor:
            return targets.probability(model(pixel_values=images), [row] * len(images))

        def logit(images: torch.Tensor, row: int = row) -> torch.Tensor:
            return targets.score(model(pixel_values=images), [row] * len(images))

        image = pixels[targets.images[row]]
        found.append(checked(ranking, image, probability, logit, check, confirm, batch_size))
    result.faithfulness = [one.faithfulness for one in found if one.faithfulness is not None] or None
    result.confirmed = [one.confirmed for one in found if one.confirmed is not None] or None


def _remarks(maps: Maps, logit: torch.Tensor) -> list[list[str]]:
    """What must be known of each row's map."""
    found: list[list[str]] = [[] for _ in logit]
    if maps.outliers is not None:
        for row in maps.outliers.nonzero()[:, 0].tolist():
            found[row].append(
                "single tokens have norms far above all others, as in large models without registers: their cells may "
                "be hot far from any object; look at the methods legrad and chefer too"
            )
    if maps.constant is not None:
        for row in (maps.constant.abs() > logit.abs() / 2).nonzero()[:, 0].tolist():
            found[row].append("more than half of the logit comes from no pixel: any image would get that")
    return found


def _able(model: Any, name: str, method: Method) -> tuple[Any, bool]:
    """The model, or a float32 copy of it. Raises UsageError if the method cannot explain it."""
    if method.encoder and encoder_of(model) is None:
        raise UsageError(
            f"method={name!r} reads this package's encoder, which {type(model).__name__} does not have: give the model "
            "that it was made from, or method='occlusion', which needs only answers."
        )
    if method.gradient and (why := lacks_gradients(model)) is not None:
        raise UsageError(
            f"method={name!r} needs gradients, and {type(model).__name__} {why}: explain the model that it was made "
            "from, or use method='occlusion', which needs only answers."
        )
    return in_full_precision(model) if lacks_gradients(model) is None else (model, False)


def _blocks(layers: Sequence[int] | None, encoder: Any, name: str, method: Method) -> list[int] | None:
    if layers is None:
        return None
    if not method.by_block:
        raise UsageError(f"layers={list(layers)}: method={name!r} does not sum over blocks; leave layers out.")
    count = len(encoder.layers)
    if not layers or any(not -count <= block < count for block in layers):
        raise UsageError(f"layers={list(layers)}: the model has the blocks 0 to {count - 1}.")
    return sorted({block % count for block in layers})


def _points(target: Any, count: int) -> tuple[list[tuple[int, int]] | None, None]:
    """The patch of each image that `similarity` compares with all: `target` as (row, column), or a list of these."""
    if target is None:
        return None, None
    try:
        cells = [target] * count if isinstance(target, tuple) else list(target)
        found = [(int(row), int(column)) for row, column in cells]
    except (TypeError, ValueError):
        raise UsageError(f"target={target!r}: method='similarity' takes a patch, (row, column), or a list.") from None
    if len(found) != count:
        raise UsageError(f"target has {len(found)} patches for {count} images: give one for each, or one for all.")
    return found, None


def _on_device(pixels: torch.Tensor, model: Any) -> torch.Tensor:
    parameter = next(model.parameters(), None)
    if parameter is None or not parameter.is_floating_point():
        return pixels.float()
    return pixels.clone().to(parameter.device, parameter.dtype)


def _parts(count: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def _scored(targets: Targets, rows: list[int]) -> Callable[[Any, Sequence[int]], torch.Tensor]:
    return lambda outputs, places: targets.score(outputs, [rows[place] for place in places])


def features(outputs: Any) -> torch.Tensor:
    """Return 0 for each image, which stands for no answer: [B] of an encoder's outputs."""
    return outputs.last_hidden_state.new_zeros(len(outputs.last_hidden_state))


@torch.no_grad()
def _answers(
    model: Any, pixels: torch.Tensor, target: Any, contrast: Any, batch_size: int, needed: bool
) -> tuple[Targets, torch.Tensor, torch.Tensor]:
    """The rows to explain, their scores [R] and probabilities [R].

    needed: whether the method depends on what is explained; else an encoder without answers will do.
    """
    field = task_of(model.config).listing.output
    values, scores = [], []
    for part in _parts(len(pixels), batch_size):
        outputs = model(pixel_values=pixels[part])
        if callable(target):
            scores.append(checked_score(target(outputs), len(part)))
        elif field in outputs:
            values.append(outputs[field])
    every = torch.cat(values) if values and task_of(model.config).answers is not None else None
    if every is None and target is None and not needed:
        scores, target = [torch.zeros(len(pixels))], features
    targets = read_targets(model.config, target, contrast, every, len(pixels))
    if every is None:
        return targets, torch.cat(scores).float().cpu(), torch.full((len(pixels),), torch.nan)
    every = every[targets.images].float().cpu()
    rows = range(len(targets.images))
    return targets, targets.score_of(every, rows), targets.probability_of(every, rows)


def _result(
    name: str, method: Method, targets: Targets, logit: torch.Tensor, probability: torch.Tensor,
    maps: Maps, photos: np.ndarray, seen: tuple[int, int],
) -> Explanation:  # fmt: skip
    signed = targets.signed and method.class_specific
    return Explanation(
        method=name,
        rows=targets.images,
        target=targets.ids,
        label=targets.labels,
        contrast=targets.contrast,
        probability=probability,
        logit=logit,
        grid=maps.grid,
        shown=maps.shown,
        map=pixel_map(maps.grid if signed else maps.shown, photos.shape[1:3], seen),
        photos=photos,
        seen=seen,
        layers=maps.layers,
        heads=maps.heads,
        colours=maps.colours,
        completeness=maps.error,
        constant=maps.constant,
        class_specific=method.class_specific,
        signed=signed,
        caveat=method.caveat,
        notes=maps.notes,
        remarks=_remarks(maps, logit),
    )
