"""Folders and shards of real images for tests: scikit-learn's handwritten digits as 8x8 PNG files."""

import io
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return (images [1797, 8, 8] uint8, labels [1797])."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images * 255 / 16).round().astype(np.uint8), data.target


def digit_image(digit: int, number: int = 0) -> Image.Image:
    images, labels = digits()
    return Image.fromarray(images[np.flatnonzero(labels == digit)[number]])


def write_digit(path: Path, digit: int, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    digit_image(digit, number).save(path)
    return path


def write_class_folder(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    """Write ROOT/<name>/<n>.png: `counts[name]` images of the digit at the end of the name."""
    for name, count in counts.items():
        for n in range(count):
            write_digit(root / name / f"{first + n}.png", int(name[-1]), first + n)
    return root


def encoded_digit(digit: int, number: int = 0) -> bytes:
    file = io.BytesIO()
    digit_image(digit, number).save(file, "PNG")
    return file.getvalue()


def write_shards(root: Path, counts: Sequence[int], split: str = "train", declared: bool = True) -> Path:
    """Write ROOT/<split>-<k>.parquet with `counts[k]` images each: noughts and ones in turn, all different.

    declared: the labels are a ClassLabel with "nought" and "one"; otherwise they are the texts "0" and "1".
    """
    from datasets import ClassLabel, Dataset, Features, Image, Value, disable_progress_bars

    disable_progress_bars()
    root.mkdir(parents=True, exist_ok=True)
    label = ClassLabel(names=["nought", "one"]) if declared else Value("string")
    features, i = Features({"image": Image(), "label": label, "note": Value("string")}), 0
    for shard, count in enumerate(counts):
        rows = range(i, i := i + count)
        columns = {
            "image": [{"bytes": encoded_digit(n % 2, n // 2), "path": None} for n in rows],
            "label": [n % 2 if declared else str(n % 2) for n in rows],
            "note": ["not read"] * count,
        }
        Dataset.from_dict(columns, features).to_parquet(root / f"{split}-{shard:05d}.parquet", batch_size=4)
    return root


def write_tars(root: Path, counts: Sequence[int]) -> Path:
    """Write the same images as WebDataset tars with members N.png and N.cls."""
    root.mkdir(parents=True, exist_ok=True)
    i = 0
    for shard, count in enumerate(counts):
        with tarfile.open(root / f"train-{shard:05d}.tar", "w") as tar:
            for n in range(i, i := i + count):
                for suffix, data in (("png", encoded_digit(n % 2, n // 2)), ("cls", str(n % 2).encode())):
                    member = tarfile.TarInfo(f"{n}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return root


def write_train_and_test(folder: Path, train: int, test: int) -> Path:
    """Write FOLDER/{train,test}/<class>/… with so many images of each of three digits; no image is in both."""
    write_class_folder(folder / "train", dict.fromkeys("012", train + test))
    for path in (folder / "train").glob("*/*.png"):
        if int(path.stem) >= train:
            (folder / "test" / path.parent.name).mkdir(parents=True, exist_ok=True)
            path.rename(folder / "test" / path.parent.name / path.name)
    return folder
