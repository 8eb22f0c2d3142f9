"""The classification loss: hard, soft, multi-label and regression targets.

Shapes: B batch, C classes, T regression targets.
"""

import torch
import torch.nn.functional as F


def image_classification_loss(
    labels: torch.Tensor,
    logits: torch.Tensor,
    config,
    num_items_in_batch: torch.Tensor | float | None = None,
    **kwargs,
) -> torch.Tensor:
    """The scalar loss of logits [B, C] under `config.problem_type`, which is never written.

    Labels: [B] integers, cross-entropy; [B, C] floats, cross-entropy against soft targets (mixup, distillation), or
    binary cross-entropy where problem_type is "multi_label_classification"; [B] or [B, T], squared error where it
    is "regression" or there is one label. With `num_items_in_batch`, the number of label entries Trainer counted
    over all accumulated batches, the sum is divided by it, so that accumulation equals one large batch.

    Raises ValueError where labels and logits do not fit.
    """
    logits, labels = logits.float(), labels.to(logits.device)
    problem = config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")
    reduction = "mean" if num_items_in_batch is None else "sum"
    if problem == "regression":
        _require_entries(labels, logits, problem)
        loss = F.mse_loss(logits.flatten(), labels.float().flatten(), reduction=reduction)
    elif problem == "multi_label_classification":
        _require_entries(labels, logits, problem)
        loss = F.binary_cross_entropy_with_logits(logits, labels.float().view_as(logits), reduction=reduction)
    elif labels.is_floating_point():
        _require_entries(labels, logits, problem)
        loss = F.cross_entropy(logits, labels.float(), reduction=reduction)
        if num_items_in_batch is not None:
            num_items_in_batch = num_items_in_batch / logits.shape[1]  # Trainer counts B·C entries
    else:
        if labels.numel() != len(logits):
            _refuse_labels(labels, logits, "one class id per image; for multi-hot labels set problem_type")
        loss = F.cross_entropy(logits, labels.flatten(), reduction=reduction)
    if num_items_in_batch is None:
        return loss
    return loss / torch.as_tensor(num_items_in_batch, device=loss.device)


def _require_entries(labels: torch.Tensor, logits: torch.Tensor, problem: str):
    if labels.numel() != logits.numel():
        _refuse_labels(labels, logits, f"one entry per logit under problem_type={problem!r}; check num_labels")


def _refuse_labels(labels: torch.Tensor, logits: torch.Tensor, expected: str):
    raise ValueError(f"labels of shape {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}: give {expected}.")
