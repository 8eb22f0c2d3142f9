"""Knowledge distillation: a teacher's logits, computed once and cached, and the loss that learns from them.

Soft (Hinton et al. 2015, "Distilling the knowledge in a neural network", arXiv 1503.02531) or hard, by DeiT's
distillation token where the model has it (Touvron et al. 2021, arXiv 2012.12877). The teacher sees each image as it
is; the student sees it augmented. The gain would be largest if both saw the same augmented image (Beyer et al. 2022,
arXiv 2106.05237), but then the teacher would need a forward in each step.

A cache is a folder of `sealed_rows`, ROOT/teacher-<hash>/, named by the hash of the teacher, its preprocessing and the
images. Its rows are in logits.npy, float32 [N, K].

Shapes: N examples, B batch, K classes of the teacher, L classes of the data.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from ..._version import __version__
from ...common.environment import available_cores
from ...common.errors import DataError, UsageError
from ...data.cache import AUTO, MIN_IMAGES_PER_WORKER, OFF, place_of, room_in
from ...data.examples import Examples, Splits
from ...data.fingerprint import images_fingerprint, key_hash
from ...data.sealed_rows import SealedRows, UnfinishedRows, find_or_build
from ...image_decoding_vit_custom import decode_image
from ...inference.forward import PreparedImages
from ...tasks.registry import task_named
from ...weight_files_vit_custom import shorten_list
from .loss import ClassificationLoss, distributions
from .teacher_loading import Teacher

FORMAT = 1
LOGITS = "logits.npy"
BATCH = 64  # images per forward of the teacher; fixed, because another number would round differently


class DistillationLoss:
    """The distillation loss as Trainer's `compute_loss_func`: (1 - alpha)·labels' loss + alpha·teacher's loss.

    labels_loss: loss of the labels. Its class weights apply to both parts, since they weight whole examples.
    kind: "soft", T²·KL(teacher's probabilities at temperature T ‖ the model's); "hard", the cross-entropy with the
    teacher's decisions.
    by_token: as in DeiT, for kind "hard": the labels train the class token's head, the teacher the distillation
    token's (a register); at inference their outputs are averaged.
    asks: further keyword arguments of the model's forward, for `by_token`.
    """

    def __init__(
        self,
        labels_loss: ClassificationLoss,
        kind: str = "soft",
        alpha: float = 0.5,
        temperature: float = 3.0,
        by_token: bool = False,
    ):
        self.labels_loss, self.kind, self.alpha, self.temperature = labels_loss, kind, alpha, temperature
        self.by_token = by_token
        self.asks: dict[str, bool] = {"output_token_logits": True} if by_token else {}

    def targets(self, teacher: torch.Tensor) -> torch.Tensor:
        """Return distributions [B, L] of the teacher's logits [B, L]; they can be mixed like labels."""
        if self.kind == "hard":
            return F.one_hot(teacher.max(dim=1).indices, teacher.shape[1]).float()
        return F.softmax(teacher / self.temperature, dim=1)

    def __call__(
        self,
        outputs: Any,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | float | None = None,
        *,
        teacher: torch.Tensor,
    ) -> torch.Tensor:
        """Return the scalar loss; see `ClassificationLoss`.

        teacher: distributions [B, L] from `targets`, mixed if the images are.
        """
        names = ("cls_logits", "distillation_logits") if self.by_token else ("logits", "logits")
        logits, taught = (outputs[name] for name in names)
        targets = distributions(labels, logits.shape[1])
        own = self.labels_loss.of_labels(logits, targets)
        losses = (1 - self.alpha) * own + self.alpha * self.of_teacher(taught, teacher)
        return self.labels_loss.mean(losses, targets, num_items_in_batch)

    def of_teacher(self, logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Return [B]: each example's loss for the teacher's distributions [B, L]."""
        if self.kind == "hard":
            return F.cross_entropy(logits.float(), teacher, reduction="none")
        log_probabilities = F.log_softmax(logits.float() / self.temperature, dim=1)
        return self.temperature**2 * F.kl_div(log_probabilities, teacher, reduction="none").sum(dim=1)


class TeacherLogits:
    """The teacher's logits for the data's classes: [B] positions -> float32 [B, L].

    source: rows [N, K], cached or of this run alone.   columns: [L], which of the K each class is.
    """

    def __init__(self, source: SealedRows | np.ndarray, columns: Sequence[int]):
        self.source, self.columns = source, list(columns)

    def __call__(self, indices: Sequence[int]) -> torch.Tensor:
        """Return float32 [B, L]. Raises DataError for cached rows that are damaged or not finite."""
        if isinstance(self.source, np.ndarray):
            return torch.from_numpy(self.source[np.asarray(indices, np.int64)[:, None], np.asarray(self.columns)])
        rows, wrong = self.source.read(indices)
        wrong = wrong or np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist()
        if wrong:
            raise DataError(
                f"{self.source.folder} does not hold what the teacher said of image {int(indices[wrong[0]])} as it was "
                "written. Remove it and run the same command again: a training goes on from its last checkpoint."
            )
        return torch.from_numpy(np.ascontiguousarray(rows[:, self.columns]))


@dataclass(frozen=True)
class Distillation:
    """The settings of a distillation.

    kind: "soft" or "hard".   alpha: the teacher's share of the loss.   temperature: of soft distillation.
    """

    kind: str
    alpha: float
    temperature: float


def distil(
    teacher: Teacher,
    config: Any,
    splits: Splits,
    labels_loss: Any,
    image_cache: str,
    how: Distillation,
    device: torch.device,
    progress: bool,
) -> tuple[DistillationLoss, TeacherLogits, list[str]]:
    """Return (the loss, the teacher's logits of the training images, sentences on both and on the teacher's accuracy).

    Raises UsageError where the teacher is no better than chance, or the flags do not fit the model.
    """
    kind, alpha = how.kind, how.alpha
    by_token = kind == "hard" and config.has_distillation_token
    if by_token and not 0 < alpha < 1:
        raise UsageError(f"--distillation_alpha {alpha:g} would leave one of the model's two heads untrained.")
    opened = partial(open_logits, teacher, image_cache=image_cache, device=device, progress=progress)
    split = "train" if splits.validation is None else "validation"
    measured: Any = getattr(splits, split)
    judged = check_accuracy(teacher, opened(measured)[0], measured, split)
    logits, where = opened(splits.train)
    said = f"{kind} distillation, alpha {alpha:g}"
    said += f", temperature {how.temperature:g}" if kind == "soft" else ""
    said += ", by the distillation token" if by_token else ""
    loss = DistillationLoss(labels_loss, kind, alpha, how.temperature, by_token)
    return loss, logits, [*teacher.notes, judged, f"{said}; the teacher's logits are {where}"]


def check_accuracy(teacher: Teacher, logits: TeacherLogits, examples: Examples, split: str) -> str:
    """Return a sentence on the teacher's accuracy, with a warning where that could be chance.

    Raises UsageError where it is no higher than the share of the most frequent class.
    """
    task, labels = task_named(examples.targets.problem_type), examples.targets.values
    parts = [range(i, min(i + 4096, len(labels))) for i in range(0, len(labels), 4096)]
    right = [task.score(logits(part).numpy(), labels[part]) for part in parts]
    accuracy = float(np.concatenate(right).mean())
    chance = float(np.bincount(labels).max() / len(labels))
    said = f"the teacher's accuracy on the {len(labels):,} {split} images is {accuracy:.4f}"
    way_out = "look at its classes and its preprocessing above, and correct them by --teacher_config"
    if accuracy <= chance:
        raise UsageError(
            f"--teacher {teacher.name}: {said}, no better than always naming the most frequent class ({chance:.4f}). "
            f"{'; '.join(teacher.notes)}. {way_out.capitalize()}."
        )
    if accuracy <= chance + 2 * (chance * (1 - chance) / len(labels)) ** 0.5:
        return f"WARNING: {said}, which could be chance ({chance:.4f}): {way_out}"
    return said


# ---------- the cache


def open_logits(
    teacher: Teacher, examples: Examples, image_cache: str, device: torch.device, progress: bool = False
) -> tuple[TeacherLogits, str]:
    """Return (the teacher's logits of `examples`, words on where they are); compute them if they are not cached.

    image_cache: as for `open_views`. Several processes may call this at once: one computes, the others wait for it.
    Raises DataError for images that cannot be read, or a folder that cannot hold the file.
    """
    count = len(examples)
    computed = partial(_computed, teacher, examples, device=device, progress=progress)
    of_this_run = partial(_whole, computed, count, teacher.columns)
    if image_cache == OFF:
        return of_this_run(), "computed for this run alone"

    def build(rows: UnfinishedRows) -> None:
        wanted = set(rows.missing)
        batches = [batch for batch in _batches(count) if not wanted.isdisjoint(batch)]
        for batch, logits in zip(batches, computed(batches), strict=True):
            rows.write(batch, logits)

    root, key = place_of(image_cache), _key(teacher, examples, device)
    folder = root / f"teacher-{key_hash(key)}"
    try:
        limit = room_in(root, image_cache)
        rows, how = find_or_build(folder, LOGITS, key, (count, teacher.count), "<f4", build, limit, checked=None)
    except OSError as error:
        if image_cache != AUTO:
            raise DataError(f"--image_cache {root} cannot hold the teacher's logits: {error}.") from error
        return of_this_run(), f"not kept: {error}"
    how = "kept" if how == "built" else how
    return TeacherLogits(rows, teacher.columns), f"{how} in {folder}, which may be removed"


def _key(teacher: Teacher, examples: Examples, device: torch.device) -> dict[str, Any]:
    key: dict[str, Any] = {
        "format": FORMAT,
        **teacher.identity(),
        "images": images_fingerprint(examples.images),
        "device": device.type,
        "libraries": {"modeling_vit_custom": __version__},
    }
    for name in ("numpy", "pillow", "timm", "torch", "torchvision", "transformers"):
        with suppress(PackageNotFoundError):
            key["libraries"][name] = version(name)
    return key


def _batches(count: int) -> list[list[int]]:
    return [list(range(i, min(i + BATCH, count))) for i in range(0, count, BATCH)]


def _whole(computed: Any, count: int, columns: Sequence[int]) -> TeacherLogits:
    return TeacherLogits(np.concatenate(list(computed(_batches(count)))), columns)


def _computed(
    teacher: Teacher, examples: Examples, batches: list[list[int]], device: torch.device, progress: bool
) -> Iterator[np.ndarray]:
    """Logits float32 [B, K] of each of these batches in turn."""
    from tqdm import tqdm

    images = PreparedImages(examples.images, examples.names, teacher.processor)
    if not hasattr(teacher.processor, "decode"):
        images.decode = partial(decode_image, num_channels=teacher.channels)
    count, left = len(examples), sum(map(len, batches))
    workers = min(available_cores(), left // MIN_IMAGES_PER_WORKER) if device.type != "cpu" else 0
    loader = DataLoader(images, batch_sampler=batches, num_workers=workers, collate_fn=list)
    teacher.module.to(device)
    with torch.inference_mode(), tqdm(total=count, initial=count - left, desc="teacher", disable=not progress) as bar:
        for items in loader:
            if errors := [error for _, _, error in items if error is not None]:
                raise DataError(f"images cannot be read, remove or replace them: {shorten_list(errors)}")
            logits = _of_all_sizes(teacher, [pixels for _, pixels, _ in items], device)
            if bad := [examples.names[items[i][0]] for i in np.flatnonzero(~np.isfinite(logits).all(axis=1))]:
                raise UsageError(f"--teacher {teacher.name} gives NaN or infinity for {shorten_list(bad, 5)}.")
            yield logits
            bar.update(len(items))


def _of_all_sizes(teacher: Teacher, images: list[torch.Tensor], device: torch.device) -> np.ndarray:
    """Logits [B, K] of B images, one forward for each size: a processor that keeps proportions makes several sizes.

    Raises UsageError for images that the teacher cannot take.
    """
    logits = np.empty((len(images), teacher.count), np.float32)
    for shape in dict.fromkeys(image.shape for image in images):
        rows = [i for i, image in enumerate(images) if image.shape == shape]
        try:
            logits[rows] = teacher(torch.stack([images[i] for i in rows]).to(device)).cpu().numpy()
        except (RuntimeError, ValueError, AssertionError) as error:
            raise UsageError(f"--teacher {teacher.name} cannot take images of {tuple(shape)}: {error}") from error
    return logits
