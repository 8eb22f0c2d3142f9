"""Measures how faithful each method is to a trained classifier; prints a table of docs/benchmarks.md.

    python tests/support/faithful_figures.py MODEL DATA --count 40

DATA: class folders that the model has not seen, of which `count` images are drawn. Explained is the model's answer.
"""

import argparse
import time

import numpy as np
import torch
from explain_bed import faithful

from modeling_vit_custom.data.eval_examples import load_eval_examples
from modeling_vit_custom.explanation.explain import explain
from modeling_vit_custom.explanation.images import read_images
from modeling_vit_custom.explanation.measures.perturbed import PerturbedImage
from modeling_vit_custom.explanation.methods import pixel_maps
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.tasks.registry import task_of

METHODS = ("libra", "place", "chefer", "legrad", "gradcam", "attention", "rollout", "ig", "occlusion")
COLUMNS = ("method", "SRG", "ahead of `libra`", "SaCo", "CPU s")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="libra is always measured")
    given = parser.parse_args()
    pixel_maps.STEPS = pixel_maps.STEPS[:1]  # of integrated gradients
    model, processor = load_classifier(given.model)
    examples, _ = load_eval_examples(given.data, model.config.id2label, task_of(model.config).targets)
    drawn = np.random.default_rng(0).permutation(len(examples.images))[: given.count]
    images = read_images([examples.images[place] for place in drawn], processor)
    with torch.no_grad():
        sure, answers = model(pixel_values=images).logits.softmax(dim=1).max(dim=1)
    right = np.mean(answers.numpy() == np.asarray(examples.targets.values)[drawn])
    print(f"{len(images)} images, {right:.0%} answered right, mean probability of the answer {sure.mean():.3f}\n")

    grid = model.config.grid_of(tuple(images.shape[2:]))
    perturbed = [
        PerturbedImage(
            lambda batch, answer=answer: model(pixel_values=batch).logits.softmax(dim=1)[:, answer],
            image, grid, batch_size=32,
        )
        for image, answer in zip(images, answers, strict=True)
    ]  # fmt: skip
    print("| " + " | ".join(COLUMNS) + " |\n" + "| - " * len(COLUMNS) + "|", flush=True)
    libra = None
    for method in ("libra", *(name for name in given.methods if name != "libra"), "Random"):
        began = time.process_time()
        if method == "Random":
            maps = np.random.default_rng(0).random((len(images), *grid))
        else:
            maps = explain(model, images, answers.tolist(), method, check=False, confirm=0).ranking.numpy()
        spent = (time.process_time() - began) / len(images)
        found = faithful(maps, perturbed)
        libra = found["srg"] if libra is None else libra
        cells = [
            _mean_and_error(found["srg"]), "–" if method == "libra" else _mean_and_error(found["srg"] - libra),
            f"{found['saco'].mean():.3f}", f"{spent:.3f}",
        ]  # fmt: skip
        print(f"| {method} | " + " | ".join(cells) + " |", flush=True)


def _mean_and_error(values: np.ndarray) -> str:
    return f"{values.mean():.3f} ± {values.std(ddof=1) / len(values) ** 0.5:.3f}"


if __name__ == "__main__":
    main()
