"""The evidence of every image of a data set: where in it the model's own answer comes from.

Shapes: N images, B batch, K classes, C channels, H×W pixels, h×w grid of patches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ...common.errors import DataError
from ...data.examples import Examples
from ...inference.forward import PreparedImages, read_ahead
from ...tasks.registry import task_of
from ..explain import explain


@dataclass(frozen=True)
class Evidence:
    """What was found of N images that could be read.

    The evidence is that for the class that the model chose, right or wrong: a shortcut makes it choose a class, and
    shows in wrong answers as in right ones.

    rows: [N], their places in `images`.   predicted, labels: [N] class ids.   probabilities: [N], of the predicted
    class.
    shares: [N, h, w] float64, the positive evidence of Libra, each image's adding up to 1; 0 where it has none.
    images: the data set.   errors: place → why an image could not be read.
    """

    images: PreparedImages
    rows: np.ndarray
    predicted: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    shares: np.ndarray
    errors: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return self.shares.shape[1], self.shares.shape[2]

    def pixels(self, chosen: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Return the model's view of some of the N images, float32 [n, C, H, W]; they are read once more."""
        items = self.images.take([int(self.rows[one]) for one in dict.fromkeys(map(int, chosen))])
        found = {}
        for place, pixels, error in items:
            if pixels is None:
                raise DataError(f"{error}, though it could be read before")
            found[place] = pixels
        return torch.stack([found[int(self.rows[one])] for one in chosen])


def drawn_rows(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return the places of at most `most` examples of each label [N], drawn at random, in order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    kept = [order[labels[order] == label][:most] for label in np.unique(labels)]
    return np.sort(np.concatenate(kept)) if kept else order


def collect(model: Any, processor: Any, examples: Examples, batch_size: int, progress: bool) -> Evidence:
    """Return the evidence of each example, labelled with the model's class ids.

    Raises DataError if none can be read, or if the processor leaves them at several sizes: places in images of several
    sizes cannot be compared.
    """
    images = PreparedImages(examples.images, examples.names, processor)
    batches = [list(range(start, min(start + batch_size, len(images)))) for start in range(0, len(images), batch_size)]
    rows: list[int] = []
    found: list[tuple[np.ndarray, ...]] = []
    errors: dict[int, str] = {}
    sizes: set[tuple[int, ...]] = set()
    with tqdm(total=len(images), desc="evidence", unit="img", disable=not progress) as bar:
        for items in read_ahead(images, batches):
            bar.update(len(items))
            errors |= {place: error for place, _, error in items if error is not None}
            read = [(place, pixels) for place, pixels, _ in items if pixels is not None]
            sizes |= {tuple(pixels.shape) for _, pixels in read}
            if len(sizes) > 1:
                raise DataError(
                    f"the processor gives images of several sizes, such as {sizes.pop()} and {sizes.pop()}: places in "
                    "them cannot be compared. Give a processor that crops or resizes to one size."
                )
            if not read:
                continue
            seen = explain(model, torch.stack([one for _, one in read]), check=False, confirm=0, batch_size=len(read))
            rows += [place for place, _ in read]
            found.append((np.array(seen.target), seen.probability.numpy(), seen.shown.double().numpy()))
    if not rows:
        raise DataError(f"none of the {len(images)} images can be read, such as {next(iter(errors.values()), 'none')}")
    predicted, probabilities, shown = (np.concatenate(parts) for parts in zip(*found, strict=True))
    totals = shown.sum(axis=(1, 2), keepdims=True)
    shares = np.divide(shown, totals, out=np.zeros_like(shown), where=totals > 0)
    labels = np.asarray(examples.targets.values)[rows]
    return Evidence(images, np.array(rows), predicted, labels, probabilities.astype(float), shares, errors)


class Answering:
    """A model that is asked for the probability of classes, in batches of `batch_size`."""

    def __init__(self, model: Any, batch_size: int):
        self.model, self.batch_size = model, batch_size
        self.task = task_of(model.config)
        self.forwards = 0

    def parts(self, pixels: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield probabilities [b, K] of each batch of pixels [n, C, H, W]."""
        if self.task.answers is None or self.task.answers.probabilities is None:
            raise DataError(f"a model for {self.task.name} gives no probabilities of classes")
        self.model.eval()
        for start in range(0, len(pixels), self.batch_size):
            part = pixels[start : start + self.batch_size]
            with torch.inference_mode():
                output = self.model(pixel_values=part.to(self.model.device, self.model.dtype))
            self.forwards += len(part)
            yield self.task.answers.probabilities(output[self.task.listing.output].float()).cpu()

    def probability(self, pixels: torch.Tensor, target: int) -> np.ndarray:
        """Return the probability of the class `target`, float64 [n], for pixels [n, C, H, W]."""
        return torch.cat([part[:, target] for part in self.parts(pixels)]).double().numpy()
