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

    Raises ValueError where labels and logits do not fit, or the model has no head.
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
        loss = F.cross_entropy(logits, labels.flatten().long(), reduction=reduction)
    if num_items_in_batch is None:
        return loss
    return loss / torch.as_tensor(num_items_in_batch, device=loss.device)


def _one_per_logit(labels: torch.Tensor, logits: torch.Tensor, problem: str) -> torch.Tensor:
    """The labels as floats of the logits' shape; [B] stands for [B, 1]."""
    labels = labels[:, None] if labels.ndim == 1 else labels
    if labels.shape != logits.shape:
        _refuse_labels(labels, logits, f"one entry per logit under problem_type={problem!r}; check num_labels")
    return labels.float()


def _refuse_labels(labels: torch.Tensor, logits: torch.Tensor, expected: str):
    raise ValueError(f"labels of shape {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}: give {expected}.")
