"""The loss that a single-label classifier is trained by: (binary) cross-entropy, of hard or of mixed labels.

Validation keeps the model's own loss, so that its values can be compared between trainings.

Shapes: B batch, L labels.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

LOSSES = ("ce", "bce")


class ClassificationLoss:
    """Trainer's `compute_loss_func`.

    loss: "ce", cross-entropy, or "bce", the mean over the classes of binary cross-entropy (Wightman et al. 2021,
    "ResNet strikes back"; Touvron et al. 2022, "DeiT III").
    label_smoothing: the share of a label that is spread over all classes.
    class_weights: [L], how much an example of each class counts; mixed labels mix them.
    """

    def __init__(self, loss: str = "ce", label_smoothing: float = 0.0, class_weights: torch.Tensor | None = None):
        self.loss, self.label_smoothing, self.class_weights = loss, label_smoothing, class_weights

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | float | None = None
    ) -> torch.Tensor:
        """outputs.logits [B, L], ids [B] or distributions [B, L] -> the scalar loss.

        num_items_in_batch: how many examples all accumulated batches have, which Trainer counts before any is mixed;
        the sum is divided by it, so that accumulation equals one large batch.
        """
        targets = distributions(labels, outputs["logits"].shape[1])
        return self.mean(self.of_labels(outputs["logits"], targets), targets, num_items_in_batch)

    def of_labels(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """[B]: each example's own loss, of its distribution in `targets` [B, L]; classes are not weighted yet."""
        smoothed = torch.lerp(targets, torch.full_like(targets, 1 / targets.shape[1]), self.label_smoothing)
        if self.loss == "bce":
            return F.binary_cross_entropy_with_logits(logits.float(), smoothed, reduction="none").mean(dim=1)
        return F.cross_entropy(logits.float(), smoothed, reduction="none")

    def mean(
        self, losses: torch.Tensor, targets: torch.Tensor, num_items_in_batch: torch.Tensor | float | None
    ) -> torch.Tensor:
        """The scalar of losses [B], each weighted by its classes in `targets` [B, L]."""
        if self.class_weights is not None:
            losses = losses * (targets @ self.class_weights.to(targets))
        count = len(losses) if num_items_in_batch is None else num_items_in_batch
        return losses.sum() / torch.as_tensor(count, device=losses.device)


def distributions(labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """[B] ids or [B, L] distributions -> float32 [B, L]"""
    return labels if labels.is_floating_point() else F.one_hot(labels, num_labels).float()


def balanced_weights(labels: np.ndarray, num_labels: int) -> torch.Tensor:
    """[L]: N / (classes · examples of the class), so that each class counts as much as any and 1 is the mean.

    labels: [N] ids. A class without an example has weight 0.
    """
    counts = np.bincount(labels, minlength=num_labels)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(np.where(counts, weights, 0.0)).float()
