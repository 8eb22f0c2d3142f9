"""Unusual images through every way into our models, beside transformers' own.

    python tests/support/image_table.py      prints the table as Markdown

Each case holds the input and its meaning in 8-bit RGB, or says that it must be refused. A way in (a "door") is right if
its pixels differ by at most one grey level on average from those that the same processor computes from that meaning. An
error is clear if it names the file or the position of the image. Any other result is silent garbage or an unclear
error.
"""

import contextlib
import http.server
import logging
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from image_files import encode, huge_png, photograph, pixels, ramp, rotated, with_alpha
from PIL import Image
from saved_models import save_ours, save_transformers_vit
from transformers import ImageClassificationPipeline, ViTImageProcessor, pipeline

from modeling_vit_custom import ImageLimits, ViTCustomImageProcessor, ViTCustomImageProcessorPil
from modeling_vit_custom.data.folders import read_class_folder
from modeling_vit_custom.data.views import ImageResizer, PixelValues

PHOTO = Image.fromarray(np.asarray(photograph(48, 36)))  # without its colour profile
OTHER = Image.fromarray(np.asarray(photograph(60, 44)))  # beside arrays, so that an error must name a position
SIZE = {"height": 16, "width": 16}


@dataclass(frozen=True)
class Case:
    """One input and its expected outcome.

    given: a file, or a batch of anything. means: [3, H, W] in 0..255 for each image; None: must be refused.
    named: what the error must contain. doors: the ways in that the case is for.
    """

    name: str
    given: Any
    means: list[np.ndarray] | None
    named: str
    doors: tuple[str, ...]


FILE_DOORS = ("processor", "processor, Pillow", "path", "pipeline", "folder")
ARRAY_DOORS = ("processor", "processor, Pillow", "pipeline")
PIPE = ("pipeline",)


# ---------- the cases


def file_cases(folder: Path) -> list[Case]:
    """Write the files of all file cases to `folder`; return the cases."""
    grey = np.asarray(PHOTO.convert("L"))
    clear = with_alpha(PHOTO)
    palette = PHOTO.convert("P", palette=Image.Palette.ADAPTIVE)
    jpeg, png = encode(PHOTO, "JPEG", quality=95), encode(PHOTO, "PNG")
    rgb, grey_rgb = pixels(PHOTO), np.stack([grey] * 3)
    on_white = np.where(np.asarray(palette) == 7, 255, pixels(palette))
    frames = {"save_all": True, "append_images": [PHOTO.transpose(Image.Transpose.ROTATE_180)]}

    def over_white(colour):
        weight = ramp(*PHOTO.size) / 255
        return colour * weight + 255 * (1 - weight)

    def as_pillow_reads(content):
        with Image.open(BytesIO(content)) as image:
            return pixels(image)

    contents: dict[str, tuple[str, bytes, np.ndarray | None]] = {
        "truncated JPEG": ("cut.jpg", jpeg[: len(jpeg) // 2], None),
        "truncated PNG": ("cut.png", png[: len(png) // 2], None),
        "zero bytes": ("empty.jpg", b"", None),
        "text named .jpg": ("text.jpg", b"this is no image", None),
        "SVG named .png": ("drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', None),
        "grey (L)": ("grey.png", encode(PHOTO.convert("L"), "PNG"), grey_rgb),
        "1 bit": ("bit.png", encode(PHOTO.convert("1"), "PNG"), pixels(PHOTO.convert("1"))),
        "palette": ("palette.png", encode(palette, "PNG"), pixels(palette)),
        "palette, one colour transparent": ("hole.png", encode(palette, "PNG", transparency=7), on_white),
        "GIF": ("still.gif", encode(PHOTO, "GIF"), as_pillow_reads(encode(PHOTO, "GIF"))),
        "CMYK JPEG": ("cmyk.jpg", c := encode(PHOTO.convert("CMYK"), "JPEG"), as_pillow_reads(c)),
        "grey with alpha (LA)": ("la.png", encode(clear.convert("LA"), "PNG"), over_white(grey_rgb)),
        "RGBA, a ramp of transparency": ("rgba.png", encode(clear, "PNG"), over_white(rgb)),
        "16-bit PNG": ("deep.png", encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"), grey_rgb),
        "float TIFF in 0..1": ("float.tiff", encode(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"), grey_rgb),
        "EXIF orientation 6": ("turned.png", rotated(PHOTO, "PNG", 6), rgb),
        "animated WebP": ("moving.webp", encode(PHOTO, "WEBP", lossless=True, **frames), rgb),
        "animated GIF": ("moving.gif", g := encode(PHOTO, "GIF", **frames), as_pillow_reads(g)),
        "AVIF": ("photo.avif", a := encode(PHOTO, "AVIF", quality=90), as_pillow_reads(a)),
        "HEIC": ("photo.heic", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(400), None),
        "1 x 1": ("dot.png", encode(PHOTO.resize((1, 1)), "PNG"), pixels(PHOTO.resize((1, 1)))),
        "5000 x 1": ("line.png", encode(PHOTO.resize((5000, 1)), "PNG"), None),
        "900 megapixels": ("bomb.png", huge_png(30_000), None),
        "100 megapixels": ("large.png", huge_png(10_000), None),
    }
    cases = []
    for name, (file, content, means) in contents.items():
        (folder / file).write_bytes(content)
        doors = FILE_DOORS if opens(folder / file) else FILE_DOORS[2:]  # without it there is no Pillow image to pass
        cases.append(Case(name, folder / file, None if means is None else [means], file, doors))
    return cases


def opens(path: Path) -> bool:
    """Return whether Pillow can read a file's header."""
    try:
        with Image.open(path):
            return True
    except Exception:
        return False


def array_cases(files: Path, address: str) -> list[Case]:
    """Return the cases of arrays and batches; `address` answers 404."""
    rgb, last, other = pixels(PHOTO), np.asarray(PHOTO), pixels(OTHER)
    grey = np.asarray(PHOTO.convert("L"))
    normalised = (rgb / 255 - 0.5) / 0.5
    spoiled = (rgb / 255).copy()
    spoiled[0, 5, 5] = np.nan
    arrays: dict[str, tuple[Any, np.ndarray | None]] = {
        "float 0..1": (last / 255, rgb),
        "float, normalised": (normalised.astype(np.float32), None),
        "NaN": (spoiled, None),
        "infinity": (np.where(np.isnan(spoiled), np.inf, spoiled), None),
        "uint16": (last.astype(np.uint16) * 257, rgb),
        "bool": (last > 127, (rgb > 127) * 255),
        "(3, 64, 3)": (np.arange(576, dtype=np.uint8).reshape(3, 64, 3), None),
        "(3, 3, 3)": (np.arange(27, dtype=np.uint8).reshape(3, 3, 3), None),
        "height x width": (grey, np.stack([grey] * 3)),
        "height x width x 2": (np.stack([grey, np.full_like(grey, 255)], -1), np.stack([grey] * 3)),
        "6 channels": (np.concatenate([last, last], -1), None),
        "the bytes of a PNG": (encode(PHOTO, "PNG"), rgb),
        "None": (None, None),
        "height 0": (last[:0], None),
    }
    cases = [
        Case(name, [OTHER, array], None if means is None else [other, means], "image 1", ARRAY_DOORS)
        for name, (array, means) in arrays.items()
    ]
    bgr = last[..., ::-1]
    return [
        *cases,
        Case("BGR view, its order given", [bgr], [rgb], "image 0", ARRAY_DOORS),
        Case("4-D array", np.stack([last, 255 - last]), [rgb, 255 - rgb], "image 0", ARRAY_DOORS),
        Case("uint8 and float in one batch", [last, last / 255], [rgb, rgb], "image 1", ARRAY_DOORS),
        Case("several sizes", [last, np.asarray(OTHER)], [rgb, other], "image 1", ARRAY_DOORS),
        Case("empty list", [], None, "there is no", ARRAY_DOORS),
        Case(
            "one bad file in a batch", [str(files / "la.png"), str(files / "cut.jpg")], None, "cut.jpg", ("pipeline",)
        ),
        Case("address that answers 404", [address], None, "404", ("processor", "pipeline")),
    ]


@contextlib.contextmanager
def answering_404() -> Iterator[str]:
    """Run a server on this machine that has no image; yield an address on it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/cat.jpg"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# ---------- the doors: input -> the pixels [3, h, w] of each image that the model gets


def pixel_values(processor: Any, images: Any, **options: Any) -> list[np.ndarray]:
    return list(np.asarray(processor(images, return_tensors="np", **options)["pixel_values"]))


def from_user(processor: Any, given: Any, **options: Any) -> list[np.ndarray]:
    """Open a file with Pillow, as a user would, and pass the image to the processor."""
    if not isinstance(given, Path):
        return pixel_values(processor, given, **options)
    with Image.open(given) as image:
        return pixel_values(processor, image, **options)


def through_pipeline(classify: Any, given: Any, **options: Any) -> list[np.ndarray]:
    """Return the pixels that the model received, one array for each result: an image without a result is lost."""
    seen: list[np.ndarray] = []
    watch = classify.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.extend(kwargs["pixel_values"].numpy()), with_kwargs=True
    )
    try:
        results = classify(str(given) if isinstance(given, Path) else given, **options)
    finally:
        watch.remove()
    return seen[: len(results) if isinstance(results[0], list) else 1]


def through_folder(processor: Any, given: Path) -> list[np.ndarray]:
    """Read the file as training reads DIR/<class>/…; raise the split's note if it was left out."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in ((given.name, given.read_bytes()), ("good.png", encode(OTHER, "PNG"))):
            (Path(folder) / "class").mkdir(exist_ok=True)
            (Path(folder) / "class" / name).write_bytes(content)
        split = read_class_folder(folder, "train")
        index = next((i for i, name in enumerate(split.names) if name.endswith(given.name)), None)
        if index is None:
            raise ValueError(" ".join(split.notes))
        maker = ImageResizer(processor, (processor.num_channels, SIZE["height"], SIZE["width"]))
        return list(PixelValues(processor)(maker([split.images[index]], [split.names[index]])).numpy())


def our_doors(folder: Path) -> dict[str, tuple[Any, Callable[[Any], list[np.ndarray]]]]:
    """Return {door: (the processor that defines the right pixels, the function that goes through the door)}."""
    torchvision, pillow = ViTCustomImageProcessor(size=SIZE), ViTCustomImageProcessorPil(size=SIZE)
    classify = pipeline(
        "image-classification", model=str(save_ours(folder, num_channels=3)), image_processor=torchvision
    )
    for processor in (torchvision, pillow):
        processor.limits = ImageLimits(private_addresses=True)

    def stated(given: Any) -> dict[str, Any]:
        """Return the options that a user would state for this input."""
        first = given[0] if isinstance(given, list) and given else None
        options = {"allow_urls": True} if isinstance(first, str) and first.startswith("http") else {}
        return options | ({"channel_order": "bgr"} if isinstance(first, np.ndarray) and first.strides[-1] < 0 else {})

    return {
        "processor": (torchvision, lambda given: from_user(torchvision, given, **stated(given))),
        "processor, Pillow": (pillow, lambda given: from_user(pillow, given, **stated(given))),
        "path": (torchvision, lambda given: pixel_values(torchvision, str(given))),
        "pipeline": (torchvision, lambda given: through_pipeline(classify, given, **stated(given))),
        "folder": (torchvision, lambda given: through_folder(torchvision, given)),
    }


def todays_doors(folder: Path) -> dict[str, tuple[Any, Callable[[Any], list[np.ndarray]]]]:
    """Return the same doors for transformers' ViTImageProcessor and its pipeline."""
    from transformers import ViTForImageClassification, ViTImageProcessorPil

    torchvision, pillow = ViTImageProcessor(size=SIZE), ViTImageProcessorPil(size=SIZE)
    model = ViTForImageClassification.from_pretrained(save_transformers_vit(folder))
    classify = ImageClassificationPipeline(model=model, image_processor=torchvision, task="image-classification")
    return {
        "processor": (torchvision, lambda given: from_user(torchvision, given)),
        "processor, Pillow": (pillow, lambda given: from_user(pillow, given)),
        "path": (torchvision, lambda given: pixel_values(torchvision, torchvision.fetch_images(str(given)))),
        "pipeline": (torchvision, lambda given: through_pipeline(classify, given)),
    }


# ---------- the verdict


def verdict(case: Case, processor: Any, door: Callable[[Any], list[np.ndarray]]) -> str:
    """Return "right", "clear error", "unclear error", or "GARBAGE …"."""
    try:
        seen = door(case.given)
    except Exception as error:
        clear = isinstance(error, ValueError) and case.named in str(error)
        return "clear error" if clear else "unclear error"
    if case.means is None:
        return "GARBAGE, accepted"
    if len(seen) != len(case.means):
        return f"GARBAGE, {len(seen)} of {len(case.means)} images"
    meant = [np.rint(means).astype(np.uint8) for means in case.means]
    right = [pixel_values(processor, image, input_data_format="channels_first")[0] for image in meant]
    levels = max(np.abs(a - b).mean() for a, b in zip(seen, right, strict=True)) * 127.5
    return "right" if levels <= 1 else f"GARBAGE, {levels:.0f} levels off"  # NaN is not <= 1


def all_cases(folder: Path, address: str) -> list[Case]:
    folder.mkdir()
    return [*file_cases(folder), *array_cases(folder, address)]


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    columns = [*FILE_DOORS]
    print("| case | " + " | ".join(f"{column}: today → ours" for column in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    tally = {"today": 0, "ours": 0}
    with tempfile.TemporaryDirectory() as folder, answering_404() as address:
        ours, today = our_doors(Path(folder, "ours")), todays_doors(Path(folder, "today"))
        for case in all_cases(Path(folder, "files"), address):
            cells = []
            for column in columns:
                if column not in case.doors:
                    cells.append("")
                    continue
                before = verdict(case, *today[column]) if column in today else "not transformers'"
                after = verdict(case, *ours[column])
                tally["today"] += before.startswith("GARBAGE")
                tally["ours"] += after.startswith("GARBAGE")
                cells.append(f"{before} → {after}")
            print(f"| {case.name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\nSilent garbage: {tally['today']} cells today, {tally['ours']} ours.")


if __name__ == "__main__":
    sys.exit(main())
