"""Measures a known failure of maps, and draws the pictures of docs/explain.md.

    python tests/support/map_failures.py --work DIR [--pictures docs/pictures]

A small model learns handwritten digits on pieces of two photographs, without tags. Then a gaudy tag that it has never
seen is pasted into a corner of other images. Printed are: how often the tag lowers the logit of the model's former
answer, how often the map of that answer is highest at the tag all the same, and how often the tag is hatched as not
confirmed.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from photo_digits import CLASSES, PATCH, photo_digits, train_photo_digits
from PIL import Image
from planted_shortcuts import tagged

from modeling_vit_custom.api import explain, load
from modeling_vit_custom.explanation.pictures.drawing import draw_rows

STEPS, WIDTH, LAYERS, PLACES = 700, 64, 3, (0, 5)
COUNT = 50  # images of a class
METHODS = ("libra", "place", "chefer", "legrad")


def model_of(folder: Path):
    """Return (model, processor) from a folder, trained there if it is empty."""
    if not (folder / "config.json").is_file():
        began = time.process_time()
        model, processor = train_photo_digits({}, 300, STEPS, WIDTH, LAYERS, places=PLACES)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        print(f"trained in {time.process_time() - began:.0f} CPU seconds", flush=True)
    return load(folder, device="cpu")


def values(processor, images: np.ndarray) -> torch.Tensor:
    """Return pixel_values of images uint8 [N, H, W, 3]."""
    return processor(list(torch.from_numpy(images).permute(0, 3, 1, 2)), return_tensors="pt")["pixel_values"]


def measure(model, processor) -> tuple[np.ndarray, np.ndarray, int]:
    """Print the figures; return the images that were answered rightly, plain and tagged, uint8 [N, H, W, 3], those
    that mislead libra first, and how many these are."""
    images, labels, _ = photo_digits(COUNT, 7, {}, places=PLACES)
    plain = explain(model, values(processor, images), processor=processor, check=False, confirm=0)
    right = np.flatnonzero(np.array(plain.target) == labels)
    kept, target = images[right], labels[right].tolist()
    rng = np.random.default_rng(0)
    pasted = np.stack([tagged(image, rng) for image in kept])
    at = (pasted != kept).any(axis=(0, 3))
    rows, columns = np.nonzero(at)
    print(f"{len(images)} images, {len(kept)} answered rightly: these count")
    for method in METHODS:
        said = explain(model, values(processor, pasted), target, method, processor=processor, check=False)
        top = said.ranking.flatten(1).max(dim=1).indices.numpy()
        row, column = np.divmod(top, said.grid.shape[2])
        there = (row >= rows.min() // PATCH) & (column >= columns.min() // PATCH)
        falls = (said.logit < plain.logit[torch.from_numpy(right)]).numpy()
        unsure = np.array([not cells[int(r), int(c)] for cells, r, c in zip(said.confirmed, row, column, strict=True)])
        print(
            f"{method}: logit falls {falls.mean():.1%}; top patch on the tag {there.mean():.1%}; both "
            f"{(falls & there).mean():.1%}, of these not confirmed {unsure[falls & there].mean():.1%}; p "
            f"{plain.probability[torch.from_numpy(right)].mean():.2f} → {said.probability.mean():.2f}",
            flush=True,
        )
        if method == "libra":
            changes = (said.logit - plain.logit[torch.from_numpy(right)]).numpy()
            misled = falls & there & unsure
            order = np.argsort(np.where(misled, changes, np.inf))
    return kept[order], pasted[order], int(misled.sum())


def draw(model, processor, plain: np.ndarray, pasted: np.ndarray | None, folder: Path) -> None:
    """Write the pictures of the documents.   plain: an answered image.   pasted: the same with a tag that misleads."""

    def save(image: np.ndarray, name: str, **options) -> None:
        found = explain(model, Image.fromarray(image), processor=processor, **options)
        found.image(0, side=160).quantize(128).save(folder / name, optimize=True)

    save(plain, "explain-answer.png")
    if pasted is not None:
        save(pasted, "explain-failure.png", target=explain(model, Image.fromarray(plain), processor=processor).target)
    save(two_digits(), "explain-unsure.png", target="4")
    both = nought_and_four(model, processor)
    found = [explain(model, Image.fromarray(both), name, processor=processor) for name in ("0", "4")]
    rows = draw_rows(both, [each.drawn(0) for each in found], side=160)
    rows.quantize(128).save(folder / "explain-two.png", optimize=True)


def two_digits() -> np.ndarray:
    """Return an image of a nought with another and a four pasted over it, uint8 [H, W, 3]."""
    images, labels, boxes = photo_digits(1, 3, {}, places=PLACES)
    image = images[0].copy()
    for place, name in ((0, "0"), (1, "4")):
        x0, y0, x1, y1 = boxes[CLASSES.index(name)]
        assert labels[CLASSES.index(name)] == CLASSES.index(name)
        image[10:30, 20 * place : 20 * place + 20] = images[CLASSES.index(name)][y0:y1, x0:x1]
    return image


def nought_and_four(model, processor) -> np.ndarray:
    """Return the image of both, side by side or one above the other, of which the model is least sure, uint8."""
    images, labels, boxes = photo_digits(12, 3, {}, places=PLACES)
    found = []
    for first, second in itertools.product(*(np.flatnonzero(labels == CLASSES.index(name)) for name in ("0", "4"))):
        x0, y0, x1, y1 = boxes[second]
        if np.abs(np.array(boxes[first]) - boxes[second]).max() >= 20:  # they do not overlap
            found.append(images[first].copy())
            found[-1][y0:y1, x0:x1] = images[second][y0:y1, x0:x1]
    with torch.inference_mode():
        shares = model(values(processor, np.stack(found))).logits.softmax(dim=1)
    least = shares[:, [CLASSES.index("0"), CLASSES.index("4")]].min(dim=1).values
    return found[int(least.argmax())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pictures", type=Path)
    args = parser.parse_args()
    model, processor = model_of(args.work / "model")
    plain, pasted, misled = measure(model, processor)
    if args.pictures is not None:
        draw(model, processor, plain[0], pasted[0] if misled else None, args.pictures)


if __name__ == "__main__":
    main()
