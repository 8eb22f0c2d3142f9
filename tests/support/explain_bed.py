"""Scenes with two objects each, small models that find the objects, and what each method's maps are worth on them.

The objects are photos of Tux Paint's stamps, whose alpha channel is an exact mask, on crops of scikit-learn's two
photos. The target of a map is the class of the first object; the second one is of another class. So a map that does not
depend on the class lies on the wrong object as often as on the right one.
Shapes: N scenes, S x S pixels, h x w cells of a map, K classes.

    python tests/support/explain_bed.py cls mean --seeds 0 1 --count 150 --srg 60

prints the table of the models named. The stamps: `apt-get install tuxpaint-stamps-default`, or the folder in
VIT_CUSTOM_STAMPS.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from explain_peers import PEERS, peer_maps
from PIL import Image

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.explanation.measures.faithfulness import saco, srg
from modeling_vit_custom.explanation.measures.localisation import average_precision, discrimination, hits, iou_at_area
from modeling_vit_custom.explanation.measures.perturbed import PerturbedImage

STAMPS = "VIT_CUSTOM_STAMPS"
INSTALLED = "/usr/share/tuxpaint/stamps"
CLASSES = {
    "bird": "animals/birds: penguin rooster",
    "fish": "animals/fish: butterflyfish bluegroper",
    "fruit": "food/fruit: apple_red orange",
    "car": "vehicles: auto/beetle emergency/firetruck",
    "clothes": "clothes: t_jacket t_baseballcap",
}
MORE_CLASSES = {"tool": "household/tools: hammer saw spade wrench"}
OBJECT = (0.4, 0.55)  # longer side of an object, as a share of the scene's
SMALLEST = 20  # pixels of an object's mask
MEAN, STD = 0.5, 0.5


def stamps_folder() -> Path | None:
    """Return the folder of the stamps, None if they are not installed."""
    folder = Path(os.environ.get(STAMPS, INSTALLED))
    return folder if (folder / "animals").is_dir() else None


@cache
def stamps(folder: Path, side: int, names: tuple[str, ...]) -> list[list[Image.Image]]:
    """Return the stamps of each class, RGBA, cut to their object, at most `side` pixels long."""
    found = []
    for name in names:
        root, _, files = ({**CLASSES, **MORE_CLASSES})[name].partition(": ")
        images = [Image.open(folder / root / f"{file}.png").convert("RGBA") for file in files.split()]
        cut = [image.crop(image.getchannel("A").getbbox()) for image in images]
        for image in cut:
            image.thumbnail((side, side))
        found.append(cut)
    return found


@cache
def photos() -> list[Image.Image]:
    """Return scikit-learn's two photos."""
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(photo) for photo in load_sample_images().images]


@dataclass
class Scenes:
    """pixels: uint8 [N, S, S, 3].   classes: int [N, 2], of the first and the second object.   masks: bool
    [N, 2, S, S], where they are.
    """

    pixels: np.ndarray
    classes: np.ndarray
    masks: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def inputs(self, mean: float | Sequence[float] = MEAN, std: float | Sequence[float] = STD) -> torch.Tensor:
        """Return the normalised images [N, 3, S, S]."""
        return torch.from_numpy((self.pixels / 255 - mean) / std).permute(0, 3, 1, 2).float()

    def labels(self, classes: int) -> torch.Tensor:
        """Return 1 for the two classes of each scene, float [N, K]."""
        return torch.zeros(len(self), classes).scatter(1, torch.from_numpy(self.classes), 1)

    def only(self, kept: np.ndarray) -> "Scenes":
        """Return the scenes at these places, or where the mask is True."""
        return Scenes(self.pixels[kept], self.classes[kept], self.masks[kept])


def make_scenes(folder: Path, count: int, side: int, seed: int, names: Sequence[str] = tuple(CLASSES)) -> Scenes:
    """Return `count` scenes of two objects of different classes that do not overlap."""
    rng, objects = np.random.default_rng(seed), stamps(folder, 2 * side, tuple(names))
    pixels = np.empty((count, side, side, 3), np.uint8)
    classes, masks = np.empty((count, 2), np.int64), np.zeros((count, 2, side, side), bool)
    for n in range(count):
        while True:
            canvas, pair = _background(rng, side), rng.permutation(len(objects))[:2]
            placed = [_paste(canvas, objects[one][rng.integers(len(objects[one]))], rng, side) for one in pair]
            if min(mask.sum() for mask in placed) >= SMALLEST and not (placed[0] & placed[1]).any():
                break
        pixels[n], classes[n], masks[n] = np.asarray(canvas), pair, placed
    return Scenes(pixels, classes, masks)


def _background(rng: np.random.Generator, side: int) -> Image.Image:
    photo = photos()[rng.integers(2)]
    size = int(rng.integers(side, min(photo.size)))
    left, top = int(rng.integers(0, photo.width - size)), int(rng.integers(0, photo.height - size))
    return photo.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + size, top + size))


def _paste(canvas: Image.Image, stamp: Image.Image, rng: np.random.Generator, side: int) -> np.ndarray:
    factor = side * rng.uniform(*OBJECT) / max(stamp.size)
    small = stamp.resize([max(2, round(length * factor)) for length in stamp.size], Image.Resampling.BOX)
    if rng.integers(2):
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    at = tuple(int(rng.integers(0, side - length + 1)) for length in small.size)
    canvas.paste(small, at, small)
    mask = Image.new("L", (side, side))
    mask.paste(small.getchannel("A"), at)
    return np.asarray(mask) > 127


# ---------- models

MODELS = {
    "cls": {"image_size": 48, "patch_size": 6},
    "mean": {"image_size": 40, "patch_size": 4, "stem": "conv", "pooling": "mean", "use_cls_token": False},
}
TRAINING = {"cls": (4000, 8), "mean": (4000, 8)}  # scenes, epochs
LEARNING_RATE = 2e-3
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "initializer_range": 0.12,
}


def config_of(kind: str, **fields) -> ViTCustomConfig:
    """Return the configuration of a model of the bed: one output a class, each answered yes or no."""
    names = dict(enumerate(CLASSES))
    return ViTCustomConfig(
        **SMALL, **MODELS[kind], **fields, id2label=names, label2id={name: number for number, name in names.items()},
        problem_type="multi_label_classification",
    )  # fmt: skip


def trained(kind: str, seed: int, folder: Path, cached: Path | None = None) -> ViTCustomForImageClassification:
    """Train a model of the bed, or load it from `cached`, where it is saved."""
    if cached is not None and (cached / "config.json").is_file():
        return ViTCustomForImageClassification.from_pretrained(cached).eval()
    torch.manual_seed(seed)
    model, (count, epochs) = ViTCustomForImageClassification(config_of(kind)), TRAINING[kind]
    scenes = make_scenes(folder, count, model.config.image_hw[0], 1000 + seed)
    fit(model, scenes.inputs(), scenes.labels(len(CLASSES)), epochs)
    if cached is not None:
        model.save_pretrained(cached)
    return model.eval()


def fit(
    model: ViTCustomForImageClassification,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    epochs: int,
    mirrored: bool = True,
) -> None:
    """Train by AdamW on a one-cycle schedule; half of the images of a batch are mirrored, if any."""
    batch = 32
    steps = epochs * (len(inputs) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.2)
    model.train()
    for order in (torch.randperm(len(inputs)) for _ in range(epochs)):
        for start in range(0, len(order) - batch + 1, batch):
            part = order[start : start + batch]
            images = inputs[part]
            if mirrored:
                images = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, images.flip(3), images)
            loss = model(pixel_values=images, labels=labels[part]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


@torch.no_grad()
def probabilities(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the probability of each class, [N, K]."""
    return torch.cat([model(pixel_values=part).logits.sigmoid() for part in images.split(100)])


# ---------- maps that know nothing of the model


def random_maps(scenes: Scenes, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).random((len(scenes), *size))


def centre_maps(scenes: Scenes, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (np.linspace(-1, 1, side) for side in size)
    return np.repeat(-np.hypot(rows[:, None], columns[None])[None], len(scenes), axis=0)


def sobel_maps(scenes: Scenes, size: tuple[int, int]) -> np.ndarray:
    """Return the strength of edges in each cell."""
    from scipy.ndimage import sobel

    grey = scenes.pixels.mean(axis=3)
    strength = np.hypot(sobel(grey, axis=1), sobel(grey, axis=2))
    at = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(strength)[:, None], size)
    return at[:, 0].numpy()


BLIND = {"centre": centre_maps, "Sobel": sobel_maps, "Random": random_maps}


# ---------- measures


@dataclass
class Placed:
    """Where the maps of a method lie: means over scenes, 0 to 1, and seconds a scene."""

    ap: float
    hit: float
    wrong: float
    disc: float
    iou: float


def placed(maps: np.ndarray, scenes: Scenes) -> Placed:
    """Return average precision, pointing at the right object and at the other one alone, discrimination and IoU."""
    rows = []
    for grid, (mask, other) in zip(maps, scenes.masks, strict=True):
        hit = hits(grid, mask)
        wrong = hits(grid, other) * (1 - hit)
        rows.append(
            (average_precision(grid, mask), hit, wrong, discrimination(grid, mask, other), iou_at_area(grid, mask))
        )
    return Placed(*np.mean(rows, axis=0).tolist())


Answer = Callable[[torch.Tensor], torch.Tensor]
"""From images [B, 3, S, S] to probabilities [B, K]."""


def faithful(maps: np.ndarray, images: Sequence[PerturbedImage]) -> dict[str, np.ndarray]:
    """Return for each scene srg, random and saco of its map, [N] each."""
    found: dict[str, list[float]] = {"srg": [], "random": [], "saco": []}
    for grid, image in zip(maps, images, strict=True):
        gain = srg(image, grid)
        found["srg"].append(gain.srg)
        found["random"].append(gain.srg_random)
        found["saco"].append(saco(image, grid))
    return {name: np.array(values) for name, values in found.items()}


# ---------- a real model


@dataclass(frozen=True)
class Bed:
    """A model, scenes in which it finds the target, their images [N, 3, S, S], and what it answers."""

    model: torch.nn.Module
    scenes: Scenes
    images: torch.Tensor
    found: float  # share of all scenes in which the target was found
    right: float  # share of right answers, over scenes and classes

    @property
    def targets(self) -> list[int]:
        """The class of the first object of each scene."""
        return self.scenes.classes[:, 0].tolist()

    @property
    def answer(self) -> Answer:
        """From images to probabilities."""
        return lambda images: probabilities(self.model, images)

    def perturbed(self, count: int, baseline: str = "blur") -> list[PerturbedImage]:
        """Return the first `count` images, each scored by the probability of its target; all maps share the scores."""
        return [
            PerturbedImage(
                lambda batch, target=target: self.answer(batch)[:, target], image,
                self.model.config.grid_of(tuple(image.shape[1:])), baseline=baseline, batch_size=32,
            )
            for image, target in zip(self.images[:count], self.targets, strict=False)
        ]  # fmt: skip


def bed(
    model: torch.nn.Module, scenes: Scenes, mean: float | Sequence[float] = MEAN, std: float | Sequence[float] = STD
) -> Bed:
    """Return the scenes in which the model finds the target, by a probability above a half."""
    images = scenes.inputs(mean, std)
    said = probabilities(model, images) > 0.5
    right = (said == scenes.labels(said.shape[1]).bool()).float().mean()
    found = said.gather(1, torch.from_numpy(scenes.classes))[:, 0].numpy()
    return Bed(model, scenes.only(found), images[torch.from_numpy(found)], float(found.mean()), float(right))


def real_bed(folder: Path, count: int, work: Path, side: int = 112, examples: int = 700) -> Bed:
    """Return scenes of six classes for the ViT-S/14 of `real_dinov2`, frozen, with a head fitted to other scenes.

    work: an empty folder, for the converted model.
    """
    from real_dinov2 import write_dinov2_folder
    from sklearn.linear_model import LogisticRegression

    from modeling_vit_custom import ViTCustomImageProcessor
    from modeling_vit_custom.commands.convert import main

    names = [*CLASSES, *MORE_CLASSES]
    assert main([str(write_dinov2_folder(work / "dinov2")), str(work / "converted")]) == 0
    processor = ViTCustomImageProcessor.from_pretrained(work / "converted")
    model = ViTCustomForImageClassification.from_pretrained(
        work / "converted", num_labels=len(names), problem_type="multi_label_classification"
    ).eval()
    scale = {"mean": processor.image_mean, "std": processor.image_std}
    seen = make_scenes(folder, examples, side, 2000, names)
    with torch.no_grad():
        pooled = torch.cat([model.vit(part).pooler_output for part in seen.inputs(**scale).split(50)]).numpy()
    spread = pooled.std(axis=0) + 1e-6
    with torch.no_grad():
        for output, label in enumerate(seen.labels(len(names)).T):
            head = LogisticRegression(C=0.02, max_iter=500).fit(pooled / spread, label)
            model.classifier.weight[output] = torch.from_numpy(head.coef_[0] / spread)
            model.classifier.bias[output] = float(head.intercept_[0])
    return bed(model, make_scenes(folder, count, side, 5, names), **scale)


# ---------- the table

METHODS = ("libra", "place", "chefer", "legrad", "gradcam", "ig", "occlusion", "attention", "rollout")


def maps_of(bed: Bed, method: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the maps as ranked, and signed, both [N, h, w], and the CPU seconds a scene.

    method: a name of ours, or of `explain_peers`.
    """
    from modeling_vit_custom.explanation.explain import explain

    started = time.process_time()
    if method in PEERS:
        ranked = signed = peer_maps(method, bed.model, bed.images, bed.targets)
    else:
        found = explain(bed.model, bed.images, bed.targets, method, check=False, confirm=0, batch_size=25)
        ranked, signed = found.ranking.numpy(), found.grid.numpy()
    return ranked, signed, (time.process_time() - started) / len(bed.scenes)


def rows(bed: Bed, methods: Sequence[str], measured: int) -> Iterator[list[str]]:
    """Yield the row of each method; SRG and SaCo on the first `measured` scenes."""
    images = {baseline: bed.perturbed(measured, baseline) for baseline in ("blur", "mean")}
    for method in methods:
        ranked, signed, seconds = maps_of(bed, method)
        yield _row(bed, method, ranked, seconds, images)
        if method == "libra":
            yield _row(bed, "libra, signed sum", signed, seconds, images)
    for name, make in BLIND.items():
        yield _row(bed, name, make(bed.scenes, bed.model.config.grid_of(tuple(bed.images.shape[2:]))), 0.0, images)


def _row(bed: Bed, name: str, maps: np.ndarray, seconds: float, images: dict[str, list[PerturbedImage]]) -> list[str]:
    at = placed(maps, bed.scenes)
    blur, mean = (faithful(maps[: len(some)], some) for some in images.values())
    error = blur["srg"].std() / len(blur["srg"]) ** 0.5
    return [
        name, *(f"{value:.3f}" for value in (at.ap, at.hit, at.wrong, at.disc, at.iou)),
        f"{blur['srg'].mean():.3f} ± {error:.3f}", f"{blur['random'].mean():.3f}", f"{mean['srg'].mean():.3f}",
        f"{blur['saco'].mean():.3f}", f"{seconds:.3f}",
    ]  # fmt: skip


COLUMNS = ("method", "AP", "hit", "wrong", "disc", "IoU", "SRG blur", "Random", "SRG mean", "SaCo", "CPU s")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=(*MODELS, "real"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--count", type=int, default=150, help="scenes")
    parser.add_argument("--srg", type=int, default=60, help="scenes on which SRG and SaCo are measured")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--work", type=Path, required=True, help="folder for the trained models, which are used again")
    given = parser.parse_args()
    folder = stamps_folder()
    if folder is None:
        raise SystemExit(f"No stamps: apt-get install tuxpaint-stamps-default, or set {STAMPS} to their folder.")
    for kind in given.models:
        for seed in given.seeds:
            started = time.process_time()
            if kind == "real":
                found = real_bed(folder, given.count, given.work)
            else:
                model = trained(kind, seed, folder, given.work / f"{kind}-{seed}")
                found = bed(model, make_scenes(folder, given.count, model.config.image_hw[0], 5))
            print(
                f"\n## {kind}, seed {seed}: {len(found.scenes)} of {given.count} scenes with the target found, answers "
                f"right {found.right:.3f}, {time.process_time() - started:.0f} CPU s before the maps\n"
            )
            print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
            for row in rows(found, given.methods, given.srg):
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
