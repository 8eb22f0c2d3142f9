"""Measures "unknown" of a trained classifier; prints the tables of docs/unknown.md.

    python tests/support/unknown_figures.py MODEL DATA OTHER…

DATA: a folder of class folders that the model has not seen.   OTHER: folders of images of none of its classes.
First: promised and reached, over 100 random splits of DATA. Then: how well five scores tell DATA from OTHER, and the
model's right answers from its wrong ones, with statistics of half of DATA.

Shapes: N images, D width, K classes.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from modeling_vit_custom.data.eval_examples import load_eval_examples
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.evaluation.unknown import auroc
from modeling_vit_custom.features.unknown import class_statistics, limit_error, needed_for_error, reject_in_split
from modeling_vit_custom.inference.inputs import find_images
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.tasks.registry import task_of
from modeling_vit_custom.training.runs.unknown import Answers
from modeling_vit_custom.unknown_vit_custom import distances

SPLITS, CALIBRATION = 100, 300
NEIGHBOURS, KEPT = 10, 0.95  # k of k-NN; share of the variance that PCA keeps


def promised_and_reached(vectors: torch.Tensor, outputs: torch.Tensor, labels: np.ndarray) -> None:
    print(f"| promised | reached, mean of {SPLITS} splits | standard error | splits with more |\n| - | - | - | - |")
    right = outputs.argmax(dim=1).numpy() == labels
    half = (len(labels) - CALIBRATION) // 2
    for flag, share in [("reject", a) for a in (0.01, 0.05, 0.1)] + [("max_error", e) for e in (0.05, 0.1, 0.2)]:
        found, none = [], 0
        for seed in range(SPLITS):
            train, calibration, rest = np.split(np.random.default_rng(seed).permutation(len(labels)), [half, -half])
            if flag == "reject":
                own = reject_in_split(vectors[train], labels[train], vectors[calibration], outputs.shape[1], share)
                found.append(float((own(vectors[rest], outputs[rest]) <= share).float().mean()))
            elif len(calibration) >= needed_for_error(share):
                own = limit_error(outputs[calibration].numpy(), right[calibration], share)
                sure = outputs[rest].softmax(dim=1).amax(dim=1).numpy()
                answered = sure > (1 if own is None else own.level)
                none += not answered.any()
                found += [float(1 - right[rest][answered].mean())] if answered.any() else []
        more = sum(one > share for one in found)
        note = f"; no line in {none}" if none else ""
        mean = f"{np.mean(found):.2%}" if found else "–"
        print(f"| --{flag} {share:g} | {mean} | {np.std(found) / math.sqrt(len(found) or 1):.2%} | {more}{note} |")


def scores_from(vectors: torch.Tensor, labels: np.ndarray, classes: int) -> dict:
    """Return {name: function from (vectors [N, D], outputs [N, K]) to typicality [N]}, fitted to known vectors."""
    unit = F.normalize(vectors, dim=1)
    statistics = class_statistics(unit, labels, classes)
    mean = vectors.mean(dim=0)
    _, spread, axes = torch.linalg.svd(vectors - mean, full_matrices=False)
    kept = int((spread.square().cumsum(0) / spread.square().sum() < KEPT).sum()) + 1
    return {
        "mahalanobis": lambda x, z: -distances(F.normalize(x, dim=1), *statistics),
        "k-NN": lambda x, z: (F.normalize(x, dim=1) @ unit.T).topk(NEIGHBOURS, dim=1).values[:, -1],
        "PCA residual": lambda x, z: -((x - mean) @ axes[kept:].T).norm(dim=1),
        "energy": lambda x, z: z.logsumexp(dim=1),
        "probability": lambda x, z: z.softmax(dim=1).amax(dim=1),
    }


def main(model: str, data: str, *others: str) -> None:
    net, processor = load_classifier(model)
    config = net.config
    answers = Answers(net, processor, 50)
    examples, _ = load_eval_examples(data, config.id2label, task_of(config).targets)
    vectors, outputs, _ = answers(examples)
    labels = np.asarray(examples.targets.values)
    right = outputs.argmax(dim=1).numpy() == labels
    print(f"{Path(model).name} on {len(labels):,} images of {data}: accuracy {right.mean():.4f}\n")
    promised_and_reached(vectors, outputs, labels)
    first, rest = np.split(np.random.default_rng(0).permutation(len(labels)), 2)
    scores = scores_from(vectors[first], labels[first], config.num_labels)
    known = {name: score(vectors[rest], outputs[rest]).numpy() for name, score in scores.items()}
    print("\n| AUROC | " + " | ".join(scores) + " |\n|" + " - |" * (1 + len(scores)))
    for folder in others:
        paths, _ = find_images([folder])
        x, z, _ = answers(Examples(paths, paths))
        cells = [f"{auroc(known[name], score(x, z).numpy()):.3f}" for name, score in scores.items()]
        print(f"| {Path(folder).name} | " + " | ".join(cells) + " |", flush=True)
    cells = [f"{auroc(known[name][right[rest]], known[name][~right[rest]]):.3f}" for name in scores]
    print("| own wrong answers | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(*sys.argv[1:])
