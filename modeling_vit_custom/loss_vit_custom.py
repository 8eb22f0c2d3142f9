"""Losses: of classification, with hard, soft, multi-label and regression targets; of masked pixels; of segmentation.

Shapes: B batch, C classes, T regression targets, H×W pixels, h×w logits.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

IGNORED = -100  # class id of an image or a pixel that the loss leaves out, as in torch

# Options "loss" of a head that predicts pixels → the error of each value of predictions and pixels, same shape.
PIXEL_ERRORS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "l1": lambda predicted, pixels: (pixels - predicted).abs(),
    "smooth_l1": lambda predicted, pixels: F.smooth_l1_loss(predicted, pixels, reduction="none"),
    "l2": lambda predicted, pixels: (pixels - predicted).square(),
}


def image_classification_loss(
    labels: torch.Tensor,
    logits: torch.Tensor,
    config,
    num_items_in_batch: torch.Tensor | float | None = None,
    **kwargs,
) -> torch.Tensor:
    """Return the scalar loss of logits [B, C]; `config.problem_type` is read, never written.

    labels: one of
        [B] integers      class ids: cross-entropy; IGNORED leaves an image out
        [B, C] floats     soft targets (mixup, distillation): cross-entropy
        [B, C]            multi-hot, if problem_type is "multi_label_classification": binary cross-entropy
        [B] or [B, T]     targets, if problem_type is "regression" or there is one label: squared error
    num_items_in_batch: number of label entries that Trainer counted over all accumulated batches. The summed loss is
    divided by it, so that gradient accumulation equals one large batch.

    Raises ValueError if labels and logits do not fit, a class id is out of range, or the model has no head.
    """
    if not config.num_labels:
        raise ValueError("num_labels=0: there is no head to train; load the model with num_labels=…")
    logits, labels = logits.float(), labels.to(logits.device)
    problem = config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")
    reduction = "mean" if num_items_in_batch is None else "sum"
    if problem == "regression":
        loss = F.mse_loss(logits, _one_per_logit(labels, logits, problem), reduction=reduction)
    elif problem == "multi_label_classification":
        labels = _one_per_logit(labels, logits, problem)
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction=reduction)
    elif labels.is_floating_point():
        loss = F.cross_entropy(logits, _one_per_logit(labels, logits, problem), reduction=reduction)
        if num_items_in_batch is not None:
            num_items_in_batch = num_items_in_batch / logits.shape[1]  # Trainer counts B·C entries
    else:
        if labels.numel() != len(logits):
            _refuse_labels(labels, logits, "one class id per image; for multi-hot labels set problem_type")
        ids = labels.flatten().long()
        _check_class_ids(ids, logits.shape[1])
        loss = F.cross_entropy(logits, ids, reduction=reduction)
    if num_items_in_batch is None:
        return loss
    return loss / torch.as_tensor(num_items_in_batch, device=loss.device)


def semantic_segmentation_loss(
    labels: torch.Tensor,
    logits: torch.Tensor,
    ignore_index: int,
    num_items_in_batch: torch.Tensor | float | None = None,
    **kwargs,
) -> torch.Tensor:
    """Return the mean cross-entropy over the labelled pixels, of logits [B, C, h, w] resized to the labels [B, H, W].

    labels: class ids; IGNORED and `ignore_index` leave a pixel out.
    num_items_in_batch: number of pixels that Trainer counted over all accumulated batches, those with IGNORED left out.
    The summed loss is divided by it, so that gradient accumulation equals one large batch.

    Raises ValueError if labels and logits do not fit or a class id is out of range.
    """
    if labels.ndim != 3 or len(labels) != len(logits) or labels.is_floating_point():
        _refuse_labels(labels, logits, f"one map of integer class ids an image, [{len(logits)}, height, width]")
    ids = labels.to(logits.device).long()
    ids = ids.masked_fill(ids == ignore_index, IGNORED)
    _check_class_ids(ids, logits.shape[1])
    resized = F.interpolate(logits.float(), size=ids.shape[1:], mode="bilinear", align_corners=False)
    pixels = (ids != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
    summed = F.cross_entropy(resized, ids, reduction="sum", ignore_index=IGNORED)
    return summed / torch.as_tensor(pixels, device=summed.device).clamp(min=1)


def _one_per_logit(labels: torch.Tensor, logits: torch.Tensor, problem: str) -> torch.Tensor:
    """The labels as floats in the shape of the logits; [B] is read as [B, 1]."""
    labels = labels[:, None] if labels.ndim == 1 else labels
    if labels.shape != logits.shape:
        _refuse_labels(labels, logits, f"one entry per logit under problem_type={problem!r}; check num_labels")
    return labels.float()


def _check_class_ids(ids: torch.Tensor, num_labels: int) -> None:
    """Raise ValueError for ids outside 0 to num_labels - 1; on a GPU and in compiled code, assert it asynchronously."""
    fine = (((ids >= 0) & (ids < num_labels)) | (ids == IGNORED)).all()
    expected = f"labels must be class ids from 0 to {num_labels - 1} (num_labels={num_labels}), or {IGNORED} for none"
    if ids.device.type == "cuda" or torch.compiler.is_compiling():
        torch._assert_async(fine, expected)
    elif ids.device.type == "cpu" and not fine:
        bad = ids[(ids != IGNORED) & ((ids < 0) | (ids >= num_labels))].unique().tolist()
        raise ValueError(f"labels={bad[:5]}: {expected}. Ids that start at 1 need 1 taken off.")


def _refuse_labels(labels: torch.Tensor, logits: torch.Tensor, expected: str):
    raise ValueError(f"labels of shape {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}: give {expected}.")
