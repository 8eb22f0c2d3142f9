"""Images of `benchmark few`: a training pool and a test part of each data set, and random draws from them.

Duplicate images (same content) are removed: an image of the test part is not in the pool, and no image occurs twice.
"""

import gzip
import hashlib
import io
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..common.errors import DataError
from ..data.folders import readable_suffixes
from ..data.mnist5k import write_mnist5k
from ..image_files_vit_custom import open_image

MNIST5K = "mnist5k"
FASHION = ("t_shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot")
CELLS = ("RBC", "WBC", "Platelets")
SMALLEST = 8  # minimum of a cell's shorter side, in pixels


@dataclass(frozen=True)
class Picture:
    """label: name of its class.   data: an encoded image, its file, or pixels [h, w] or [h, w, 3] uint8."""

    label: str
    data: bytes | Path | np.ndarray

    def encoded(self) -> bytes:
        """Return the image as the bytes of an image file; pixels are encoded as PNG."""
        if isinstance(self.data, np.ndarray):
            file = io.BytesIO()
            Image.fromarray(self.data).save(file, "PNG")
            return file.getvalue()
        return self.data.read_bytes() if isinstance(self.data, Path) else self.data

    @property
    def digest(self) -> bytes:
        """SHA-256 of the content; equal for two pictures of the same content."""
        pixels = self.data
        content = repr(pixels.shape).encode() + pixels.tobytes() if isinstance(pixels, np.ndarray) else self.encoded()
        return hashlib.sha256(content).digest()

    @property
    def grey(self) -> bool:
        with open_image(io.BytesIO(self.encoded())) as image:
            return image.mode in ("1", "L", "I;16")


Parts = tuple[list[Picture], list[Picture]]


def read_parts(name: str, source: str) -> Parts:
    """Read (pool, test part) of the data set `name` in the folder `source`. Raises DataError if a part is empty."""
    read = READERS.get(name, read_folder)
    parts = {part: list(read(Path(source), part)) for part in ("test", "train")}
    if empty := [part for part, pictures in parts.items() if not pictures]:
        raise DataError(f"--data {name}={source}: no images for {' and '.join(empty)}.")
    seen: set[bytes] = set()
    test, pool = ([picture for picture in parts[part] if _is_new(picture, seen)] for part in ("test", "train"))
    return pool, test


def _is_new(picture: Picture, seen: set[bytes]) -> bool:
    known = picture.digest in seen
    seen.add(picture.digest)
    return not known


# ---------- readers of the "train" or "test" part below a folder


def read_folder(folder: Path, part: str) -> Iterator[Picture]:
    """Yield the pictures of FOLDER/{train,test}/<class>/<file>."""
    for path in sorted((folder / part).glob("*/*")):
        if path.suffix.lower() in readable_suffixes():
            yield Picture(path.parent.name, path)


def read_mnist5k(folder: Path, part: str) -> Iterator[Picture]:
    """Yield the digits that `train mnist5k` uses; they are written to the folder first if missing."""
    return read_folder(write_mnist5k(folder), part)


def read_cifar10(folder: Path, part: str) -> Iterator[Picture]:
    """Yield the pictures of FOLDER/{train,test}-*.parquet with the columns image {bytes, path} and label, a text."""
    import pyarrow.parquet as parquet

    for path in sorted(folder.glob(f"{part}-*.parquet")):
        table = parquet.read_table(path, columns=["image", "label"])
        images, labels = (table.column(name).to_pylist() for name in ("image", "label"))
        yield from (Picture(label, image["bytes"]) for image, label in zip(images, labels, strict=True))


def read_fashion_mnist(folder: Path, part: str) -> Iterator[Picture]:
    """Yield the pictures of FOLDER/{train,t10k}-images-idx3-ubyte[.gz] with the labels of the file beside it."""
    prefix = "t10k" if part == "test" else part
    found = [[*folder.glob(f"{prefix}-{what}-ubyte*")] for what in ("images-idx3", "labels-idx1")]
    if all(found):
        images, labels = (_read_idx(paths[0]) for paths in found)
        yield from (Picture(FASHION[label], image) for image, label in zip(images, labels, strict=True))


def _read_idx(path: Path) -> np.ndarray:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    sizes = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


def read_bccd(folder: Path, part: str) -> Iterator[Picture]:
    """Yield single blood cells, cropped from the photographs of the official lists (train and val are the pool)."""
    lists = ("test",) if part == "test" else ("train", "val")
    files = [path for name in lists if (path := folder / "ImageSets" / "Main" / f"{name}.txt").is_file()]
    for stem in sorted({word for file in files for word in file.read_text().split()}):
        with open_image(folder / "JPEGImages" / f"{stem}.jpg") as image:
            photograph = np.asarray(image.convert("RGB"))
        for label, box in _boxes(folder / "Annotations" / f"{stem}.xml"):
            left, top, right, bottom = (max(0, edge) for edge in box)
            cell = photograph[top:bottom, left:right]
            if label in CELLS and min(cell.shape[:2]) >= SMALLEST:
                yield Picture(label, cell.copy())


def _boxes(path: Path) -> Iterator[tuple[str, list[int]]]:
    """(name, [left, top, right, bottom]) of each object in a Pascal VOC annotation file."""
    for item in ElementTree.parse(path).iter("object"):
        edges = [item.findtext(f"bndbox/{edge}", "0") for edge in ("xmin", "ymin", "xmax", "ymax")]
        yield item.findtext("name", ""), [round(float(edge)) for edge in edges]


READERS: dict[str, Callable[[Path, str], Iterator[Picture]]] = {
    "cifar10": read_cifar10,
    "fashion_mnist": read_fashion_mnist,
    "bccd": read_bccd,
    MNIST5K: read_mnist5k,
}

# ---------- random draws


def draw(pool: Sequence[Picture], images: int | None, seed: int) -> list[Picture]:
    """Draw `images` pictures of each class (None: all) at random by `seed`; a class that has fewer gives all."""
    return [picture for pictures in _shuffled(pool, seed).values() for picture in pictures[:images]]


def subset(test: Sequence[Picture], most: int) -> list[Picture]:
    """Return at most `most` pictures, stratified by class; always the same ones."""
    if len(test) <= most:
        return list(test)
    classes = _shuffled(test, 0)
    wanted = {label: len(pictures) * most / len(test) for label, pictures in classes.items()}
    counts = {label: math.floor(share) for label, share in wanted.items()}
    for label in sorted(counts, key=lambda label: counts[label] - wanted[label])[: most - sum(counts.values())]:
        counts[label] += 1
    return [picture for label, pictures in classes.items() for picture in pictures[: counts[label]]]


def _shuffled(pictures: Sequence[Picture], seed: int) -> dict[str, list[Picture]]:
    """The pictures of each class, shuffled by the seed."""
    rng = np.random.default_rng(seed)
    classes: dict[str, list[Picture]] = {label: [] for label in sorted({picture.label for picture in pictures})}
    for picture in pictures:
        classes[picture.label].append(picture)
    return {label: [own[i] for i in rng.permutation(len(own))] for label, own in classes.items()}


def write_pictures(pictures: Sequence[Picture], folder: Path) -> None:
    """Write the pictures to FOLDER/<class>/<number>.png or .jpg."""
    for number, picture in enumerate(pictures):
        data = picture.encoded()
        path = folder / picture.label / f"{number:05d}{'.jpg' if data.startswith(bytes([0xFF, 0xD8])) else '.png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
