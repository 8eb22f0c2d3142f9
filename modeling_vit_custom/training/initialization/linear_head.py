"""A linear head fitted to frozen features before everything is trained: a random head would distort the features.

LP-FT; Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution",
arXiv 2202.10054.

Shapes: N examples, D width of the features, L logits.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from ...data.dataset import ImageDataset, collate
from ...data.examples import Examples
from ...loss_vit_custom import image_classification_loss

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # L2; from the simplest head on, each fit starts from the one before
ALONE = 1e-3  # L2 penalty if there are no validation images to choose by
ITERATIONS = 200


def fit_head(trainer: Any, train: ImageDataset, validation: ImageDataset | None) -> str:
    """Set the classifier to the best linear one on the encoder's features of images without augmentation.

    Every process computes the features of its share of the images; the first one fits. Returns a sentence on the fit.
    """
    net = trainer.net
    splits = {"train": features(trainer, train)}
    if validation is not None:
        splits["validation"] = features(trainer, validation)
    weight, bias, note = trainer.processes.from_first(lambda: _fitted(net, splits, train.examples, validation))
    with torch.no_grad():
        net.classifier.weight.copy_(torch.from_numpy(weight))
        net.classifier.bias.copy_(torch.from_numpy(bias))
    return note


def features(trainer: Any, dataset: ImageDataset) -> torch.Tensor:
    """Return float32 [N, D], the classifier's inputs for all images; each process computes its share of them."""
    net, args, processes = trainer.net, trainer.args, trainer.processes
    mine = range(processes.rank, len(dataset), processes.count)
    loader = DataLoader(
        Subset(dataset, mine),
        batch_size=args.eval_batch_size,
        num_workers=args.dataloader_num_workers,
        collate_fn=collate,
    )
    was_training, seen = net.training, []
    net.eval()
    with torch.inference_mode():
        for batch in loader:
            output = net(trainer.to_pixel_values(batch["pixel_values"].to(args.device)))
            seen.append(net.pre_logits(output.pooler_output).float().cpu())
    net.train(was_training)
    parts = processes.gathered(torch.cat(seen) if seen else torch.empty(0))
    whole = torch.empty(len(dataset), parts[0].shape[1])
    for rank, part in enumerate(parts):
        whole[rank :: processes.count] = part
    return whole


def _fitted(
    net: Any, splits: dict[str, torch.Tensor], train: Examples, validation: ImageDataset | None
) -> tuple[np.ndarray, np.ndarray, str]:
    """(weight [L, D], bias [L], a sentence): fitted by the model's own loss with the penalty that validates best."""
    head = nn.Linear(*reversed(net.classifier.weight.shape), dtype=torch.float64)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)

    def loss(split: str, labels: torch.Tensor) -> torch.Tensor:
        return image_classification_loss(labels, head(splits[split].double()), net.config)

    targets = torch.as_tensor(train.targets.values)
    checks = None if validation is None else torch.as_tensor(validation.examples.targets.values)
    best: tuple[float, float, np.ndarray, np.ndarray] | None = None
    for penalty in PENALTIES if checks is not None else (ALONE,):
        optimizer = torch.optim.LBFGS(head.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def closure(optimizer: Any = optimizer, penalty: float = penalty) -> torch.Tensor:
            optimizer.zero_grad()
            total = loss("train", targets) + penalty / 2 * head.weight.square().sum()
            total.backward()
            return total

        optimizer.step(closure)
        with torch.no_grad():
            measured = float(loss("train", targets) if checks is None else loss("validation", checks))
        if best is None or measured < best[0]:
            best = (measured, penalty, head.weight.detach().numpy().copy(), head.bias.detach().numpy().copy())
    assert best is not None
    measured, penalty, weight, bias = best
    where = "training" if checks is None else "validation"
    return weight, bias, f"head fitted to {len(targets):,} frozen features: {where} loss {measured:.4f}, L2 {penalty:g}"
