"""The training loss of single-label classifiers: (binary) cross-entropy of hard or mixed labels.

Validation keeps the model's own loss, so that its values can be compared between trainings.

Shapes: B batch, L labels.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

LOSSES = ("ce", "bce")


class ClassificationLoss:
    """The loss as Trainer's `compute_loss_func`.

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
        """Return the scalar loss of the logits [B, L] in outputs, for ids [B] or distributions [B, L].

        num_items_in_batch: the number of examples in all accumulated batches, which Trainer counts before any is mixed.
        The sum is divided by it, so that accumulation equals one large batch. None: this batch's own number.
        """
        targets = distributions(labels, outputs["logits"].shape[1])
        return self.mean(self.of_labels(outputs["logits"], targets), targets, num_items_in_batch)

    def of_labels(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return [B]: each example's loss for its distribution in `targets` [B, L], without class weights."""
        smoothed = torch.lerp(targets, torch.full_like(targets, 1 / targets.shape[1]), self.label_smoothing)
        if self.loss == "bce":
            return F.binary_cross_entropy_with_logits(logits.float(), smoothed, reduction="none").mean(dim=1)
        return F.cross_entropy(logits.float(), smoothed, reduction="none")

    def mean(
        self, losses: torch.Tensor, targets: torch.Tensor, num_items_in_batch: torch.Tensor | float | None
    ) -> torch.Tensor:
        """Return the mean of losses [B], each weighted by the class weights of its `targets` [B, L]."""
        if self.class_weights is not None:
            losses = losses * (targets @ self.class_weights.to(targets))
        count = len(losses) if num_items_in_batch is None else num_items_in_batch
        return losses.sum() / torch.as_tensor(count, device=losses.device)


def distributions(labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """Return labels as distributions, float32 [B, L]: ids [B] as one-hot rows, distributions [B, L] unchanged."""
    return labels if labels.is_floating_point() else F.one_hot(labels, num_labels).float()


def balanced_weights(labels: np.ndarray, num_labels: int) -> torch.Tensor:
    """Return class weights [L], N / (classes · examples of the class): classes count equally, an example 1 on average.

    labels: [N] ids. A class without an example has weight 0, and is not counted among the classes.
    """
    counts = np.bincount(labels, minlength=num_labels)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(np.where(counts, weights, 0.0)).float()
