"""Which images a classifier should answer with "unknown": how typical each is of the images that it was calibrated on.

`config.unknown` says how that is measured and where the line is drawn; without it nothing here is computed. The number
is called the typicality of an image, from 0 to 1:

    mahalanobis   the share of the calibration images that are at least as far from every class as this one: a p-value.
                  Of images of known classes, on average, a share of at most `level` gets one not above `level`
                  (conformal prediction, Vovk et al. 2005; for several folds see `proven_bound`). The distance is
                  Mahalanobis' (Lee et al. 2018, arXiv 1807.03888) on vectors scaled to length 1 (Mueller & Hein 2025,
                  arXiv 2505.18032).
    probability   the largest probability of a class (Hendrycks & Gimpel 2017, arXiv 1610.02136).

Shapes: B batch, D width of the classifier's input, K classes, F folds, N calibration images.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from .labels_vit_custom import reject_field

CONFIDENCE = 0.9  # with which max_error is kept
_MAX_FOLDS, _MAX_IMAGES = 64, 1_000_000


@strict
@dataclass
class UnknownOptions:
    """How a model decides that an image is unknown; measured by `vit-custom train --reject` or `--max_error`.

    score: how typicality is measured.   level: an image is unknown if its typicality is not above this.
    images: the number of calibration images, in each fold.   promise: "reject", of images of known classes at most a
    share `asked` is unknown, on average; or "max_error", of the answers that are not unknown at most a share `asked` is
    wrong, with a confidence of 90 %.
    """

    score: Literal["mahalanobis", "probability"]
    level: float
    images: list[int]
    promise: Literal["reject", "max_error"]
    asked: float


def read_unknown(given: Any) -> dict[str, Any] | None:
    """Return a checked copy of `config.unknown`. Raises ValueError that names the option, its value and the fix."""
    if given is None:
        return None
    known = UnknownOptions.__dataclass_fields__
    if not isinstance(given, Mapping) or given.keys() != known.keys():
        names = sorted(map(str, given)) if isinstance(given, Mapping) else given
        reject_field("unknown", names, f"its options are {', '.join(known)}, all of them")
    numbers: Any = {name: float(value) if type(value) is int else value for name, value in given.items()}
    try:
        options = UnknownOptions(**numbers)
    except StrictDataclassError as error:
        reject_field("unknown", dict(given), str(error.__cause__ or error).rstrip("."))
    for name in ("level", "asked"):
        if not 0 <= (value := getattr(options, name)) < 1:
            reject_field(f"unknown[{name!r}]", value, "give a share, at least 0 and below 1")
    counts = options.images
    if not 1 <= len(counts) <= _MAX_FOLDS or min(counts) < 1 or sum(counts) > _MAX_IMAGES:
        reject_field("unknown['images']", counts, f"give 1 to {_MAX_FOLDS} folds, {_MAX_IMAGES:,} images in all")
    if options.score == "probability" and len(counts) > 1:
        reject_field("unknown['images']", counts, "score='probability' has one fold")
    return asdict(options)


def proven_bound(options: Mapping[str, Any]) -> float:
    """Return the proven bound on what `asked` limits.

    With several folds: Barber et al. 2021, "Predictive inference with the jackknife+" (arXiv 1905.02928), theorem 4.
    """
    share, folds, images = options["asked"], len(options["images"]), sum(options["images"])
    if folds == 1:
        return share
    few, many = 2 * (1 - 1 / folds) / (images / folds + 1), (1 - folds / images) / (folds + 1)
    return 2 * share + min(few, many)


class ViTCustomUnknown(nn.Module):
    """Typicality of images, float32 [B], from the classifier's input [B, D] and its logits [B, K].

    whitening: [F, D, D], turns the covariance within classes into the identity.   means: [F, K, D], of the classes,
    whitened.   distances: [N], of the calibration images to the nearest class; those of fold 0 first. They are measured
    with the statistics of a fold, which are those of all images but the fold's.
    """

    _keep_in_fp32_modules_strict = {"unknown"}  # the model's name of this part; `post_init` of transformers reads it

    whitening: torch.Tensor
    means: torch.Tensor
    distances: torch.Tensor

    def __init__(self, options: Mapping[str, Any], width: int, num_labels: int):
        super().__init__()
        self.options = dict(options)
        self.score, self.level, self.counts = options["score"], options["level"], list(options["images"])
        if self.score == "mahalanobis":
            folds = len(self.counts)
            self.register_buffer("whitening", torch.zeros(folds, width, width))
            self.register_buffer("means", torch.zeros(folds, num_labels, width))
            self.register_buffer("distances", torch.zeros(sum(self.counts)))

    def forward(self, pooled: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        if self.score == "probability":
            return from_logits(self.options, logits)["typicality"]
        at_least = torch.ones(len(pooled), device=pooled.device)
        unit = nn.functional.normalize(pooled.float(), dim=-1)
        folds = zip(self.whitening, self.means, torch.split(self.distances, self.counts), strict=True)
        for whitening, means, known in folds:
            found = distances(unit, whitening.float(), means.float())
            at_least = at_least + (known.float() >= found[:, None]).sum(dim=1)
        return at_least / (1 + len(self.distances))


def distances(unit: torch.Tensor, whitening: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Return the squared distance [B] of vectors [B, D] to the nearest of the whitened means [K, D]."""
    whitened = unit @ whitening
    squares = whitened.square().sum(dim=1, keepdim=True) - 2 * whitened @ means.T + means.square().sum(dim=1)
    return squares.clamp_min(0).amin(dim=1)


def from_logits(options: Mapping[str, Any] | None, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return {"typicality", "unknown"}, each [B], where logits [B, K] alone tell them; else {}."""
    if options is None or options["score"] != "probability":
        return {}
    typicality = logits.float().softmax(dim=-1).amax(dim=-1)
    return {"typicality": typicality, "unknown": typicality <= options["level"]}
