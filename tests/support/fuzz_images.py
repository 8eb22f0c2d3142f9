"""Fuzzing the decoder: damaged files of every format that Pillow writes, arrays, tensors and Pillow images.

Each input must give a finite tensor of the right shape and type, or an ImageDecodingError, within a time limit.

    python tests/support/fuzz_images.py --count 100000 --jobs 2

Worker processes take the inputs in bounded portions, so that a crash or a hang of the interpreter costs one portion
and is reported with the number of its input; `--start N --count 1` repeats input N.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import torch
from image_files import photograph
from PIL import Image

from modeling_vit_custom import (
    ImageDecodingError,
    ImageLimits,
    ViTCustomImageProcessor,
    ViTCustomImageProcessorPil,
    decode_image,
)

PORTION = 5000  # inputs for each worker process
SECONDS = 5  # for one input; a longer one counts as a hang
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "PA", "La", "RGBa")
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "JPEG": [{}, {"progressive": True}, {"quality": 5, "subsampling": 2}],
    "PNG": [{}, {"save_all": True}],
    "GIF": [{}, {"save_all": True}, {"transparency": 3}],
    "WEBP": [{}, {"lossless": True}, {"save_all": True}],
    "AVIF": [{"speed": 10}, {"speed": 10, "save_all": True}],
    "TIFF": [{"compression": name} for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4")]
    + [{"save_all": True}],
    "TGA": [{}, {"compression": "tga_rle"}],
    "JPEG2000": [{}, {"irreversible": True, "quality_layers": [20]}],
    "ICO": [{"sizes": [(16, 12)]}, {"sizes": [(16, 12)], "bitmap_format": "bmp"}],
}
MODES_OF = {"jpeg": ("L", "RGB"), "group4": ("1",)}  # of TIFF; Pillow corrupts memory when it writes other modes
EXIF_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")
DTYPES = (
    "bool",
    "u1",
    "u2",
    ">u2",
    "u4",
    "u8",
    "i1",
    "i2",
    "i4",
    "i8",
    "f2",
    "f4",
    ">f4",
    "f8",
    "g",
    "c8",
    "O",
    "M8[s]",
)
SPECIAL = (0, 1, -1, 0.5, 255, 256, 65535, 1e-30, 1e30, 3e38, -1e-5, 1.00001, np.nan, np.inf, -np.inf)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert `image` to any of `MODES`; Pillow makes some of them only from grey, or only from an alpha channel."""
    through = {"LA": "L", "PA": "P", "La": "LA", "RGBa": "RGBA", "I;16": "L", "I": "L", "F": "L", "LAB": "RGB"}
    image = image.convert("L") if mode in ("I;16", "I", "F", "LA", "La") else image
    if mode == "LAB":
        return Image.merge("LAB", image.convert("RGB").split())
    return image.convert(through.get(mode, "RGB")).convert(mode)


@cache
def seed_files() -> list[tuple[str, bytes]]:
    """Return (format, bytes) of every format that Pillow both writes and reads, in every mode and option it takes."""
    Image.init()
    small = Image.fromarray(np.asarray(photograph(16, 12)))  # without its profile, which is longer than its pixels
    files = []
    for name in sorted(set(Image.SAVE) & set(Image.OPEN)):
        for mode in MODES:
            image = in_mode(small, mode)
            for options in OPTIONS.get(name, [{}]):
                if mode not in MODES_OF.get(options.get("compression"), MODES):
                    continue
                more: dict[str, Any] = {}
                if options.get("save_all"):
                    more["append_images"] = [image.transpose(Image.Transpose.ROTATE_180)]
                if name in EXIF_FORMATS and not (name == "AVIF" and more):  # Pillow crashes on animated AVIF with EXIF
                    more["exif"] = Image.Exif()
                    more["exif"][0x0112] = 6
                stream = BytesIO()
                try:
                    image.save(stream, name, **options, **more)
                except Exception:  # a mode or option that this format does not have
                    continue
                files.append((name, stream.getvalue()))
    return files


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return `content` after up to six random edits, often near the start, where the headers are."""
    data = bytearray(content)
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 6))):
        if not data:
            break
        where = rng.randrange(min(len(data), rng.choice((16, 64, 400, 10**9))))
        length = rng.choice((1, 1, 2, 4, 8, 40))
        edit = rng.randrange(8)
        if edit == 0:
            del data[where:]
        elif edit == 1:
            del data[where : where + length]
        elif edit == 2:
            data[where:where] = rng.randbytes(length)
        elif edit == 3:
            data[where:where] = data[where : where + 50 * length]
        elif edit == 4:
            data[where] ^= 1 << rng.randrange(8)
        elif edit == 5:
            number = rng.choice((0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1))
            data[where : where + 4] = number.to_bytes(4, rng.choice(("big", "little")))
        elif edit == 6:
            other = rng.choice(seed_files())[1]
            data[where:] = other[rng.randrange(len(other)) :]
        else:
            data[where : where + length] = rng.randbytes(length)
    return bytes(data)


def random_array(rng: random.Random) -> np.ndarray:
    """Return an array with any number of axes, sizes and values, with some preference for images."""
    axes = rng.choice((0, 1, 2, 2, 2, *[3] * 12, 4, 5))
    shape = [rng.choice((0, 1, 2, 3, 5, 8, 9, 12, 16, 120)) for _ in range(axes)]
    while np.prod(shape) > 100_000:  # keep arrays small: the decoder is tested, not numpy
        shape[int(np.argmax(shape))] //= 2
    if axes == 3 and rng.random() < 0.9:
        shape[rng.choice((0, 2))] = rng.choice((1, 2, 3, 4))
    usual = (("u1", (0, 255)), ("f4", (0, 1)), ("u2", (0, 65535)), ("f4", (-3, 3)))
    odd = (rng.choice(DTYPES), rng.choice(((0, 1), (0, 255), (-1, 1), (-1e6, 1e6))))
    dtype, (low, high) = rng.choice((*usual, odd, odd))
    values = np.random.default_rng(rng.getrandbits(64)).uniform(low, high, shape)
    if values.size and rng.random() < 0.2:
        values.flat[rng.randrange(values.size)] = rng.choice(SPECIAL)
    with np.errstate(all="ignore"):
        array = values.astype(dtype)
    change = rng.randrange(6)
    if change == 0 and axes:
        array = array[::-1]
    elif change == 1:
        array = array.T
    elif change == 2 and axes:
        array = array[..., ::2]
    elif change == 3:
        array = array.view(np.ma.MaskedArray) if rng.random() < 0.2 else array
    return array


def random_pillow(rng: random.Random) -> Image.Image:
    """Return a Pillow image of any mode, some with a transparent colour or an orientation."""
    image = photograph(16, 12).resize((rng.choice((1, 3, 16)), rng.choice((1, 2, 12))))
    image = in_mode(image, rng.choice(MODES))
    if rng.random() < 0.3:
        image.info["transparency"] = rng.choice((0, 3, 255, (1, 2, 3), b"\x00\x80", "x", None))
    if rng.random() < 0.3:
        image.getexif()[0x0112] = rng.choice((0, 6, 9, "x"))
    return image


def make_input(index: int) -> tuple[str, Any, dict[str, Any]]:
    """Return input number `index`: (kind, source, settings of `decode_image`)."""
    rng = random.Random(index)
    kind = rng.random()
    if kind < 0.75:
        name = rng.choice(sorted({name for name, _ in seed_files()}))
        source: Any = damaged(rng.choice([content for each, content in seed_files() if each == name]), rng)
    elif kind < 0.95:
        name, source = "array", random_array(rng)
        if rng.random() < 0.4:
            try:
                name, source = "tensor", torch.from_numpy(source.copy())
                source = source.to(rng.choice((torch.bfloat16, torch.float8_e5m2, source.dtype, source.dtype)))
            except (TypeError, ValueError, RuntimeError):  # torch lacks the dtype
                name = "array"
    else:
        name, source = "Pillow image", random_pillow(rng)
    settings = {
        "num_channels": rng.choice((1, 3)),
        "keep_float": rng.random() < 0.2,
        "channel_order": rng.choice(("rgb", "bgr")),
        "input_data_format": rng.choice((None, None, "channels_first", "channels_last")),
        "limits": ImageLimits(pixels=rng.choice((10**6, 10**6, 10**6, 4 * 10**6))),
    }
    return name, source, settings


def outcome(index: int) -> tuple[str, str]:
    """Return (kind of input `index`, its outcome): "image", "refused", or a description of the failure."""
    name, source, settings = make_input(index)
    try:
        decoded = decode_image(source, **settings)
    except ImageDecodingError:
        return name, "refused"
    kept = settings["keep_float"] and decoded.dtype == torch.float32
    if decoded.dtype != torch.uint8 and not kept:
        return name, f"WRONG TYPE {decoded.dtype}"
    if decoded.ndim != 3 or decoded.shape[0] != settings["num_channels"] or 0 in decoded.shape:
        return name, f"WRONG SHAPE {tuple(decoded.shape)}"
    if not decoded.isfinite().all():
        return name, "NOT FINITE"
    if index % 5 == 0 and not kept:  # both processors must accept every decoded image
        for cls in (ViTCustomImageProcessor, ViTCustomImageProcessorPil):
            values = cls(size=8, num_channels=settings["num_channels"])(decoded, input_data_format="channels_first")
            if not np.isfinite(np.asarray(values["pixel_values"][0])).all():
                return name, "NOT FINITE"
    return name, "image"


class TooSlow(BaseException):
    """The time limit of one input. Not an Exception, so that no `except Exception` catches it."""


def _too_slow(*_):
    raise TooSlow


def run(indices: range, heartbeat: bool = False) -> dict[str, Any]:
    """Run many inputs; return {"outcomes": {"kind: outcome": count}, "bad": ["input N: …"], "slowest": seconds}."""
    outcomes: Counter = Counter()
    bad = []
    slowest = 0.0
    seed_files()  # built before the clock starts
    signal.signal(signal.SIGALRM, _too_slow)
    for index in indices:
        if heartbeat:
            print(index, flush=True)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        begun = time.perf_counter()
        try:
            name, became = outcome(index)
        except TooSlow:
            name, became = make_input(index)[0], "HANG"
        except Exception as error:
            name, became = make_input(index)[0], f"CRASH {type(error).__name__}: {error}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.perf_counter() - begun)
        outcomes[f"{name}: {became.split()[0] if became.isupper() else became.split(' ')[0]}"] += 1
        if became not in ("image", "refused"):
            bad.append(f"input {index} ({name}): {became}")
    return {"outcomes": dict(outcomes), "bad": bad, "slowest": slowest}


def run_in_processes(start: int, count: int, jobs: int) -> dict[str, Any]:
    """Run many inputs in worker processes; report the input at which a process died or hung."""

    def portion(first: int) -> dict[str, Any]:
        size = min(PORTION, start + count - first)
        command = [sys.executable, __file__, "--worker", "--start", str(first), "--count", str(size)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120 + size, check=False)
            printed, died = done.stdout, done.returncode != 0
            reason = f"THE PROCESS DIED with {done.returncode}: {done.stderr[-300:]}"
        except subprocess.TimeoutExpired as error:
            printed, died, reason = (error.stdout or b"").decode(), True, "THE PROCESS HANGS"
        lines = printed.split()
        if died:
            return {"outcomes": {}, "bad": [f"input {lines[-1] if lines else first}: {reason}"], "slowest": 0.0}
        return json.loads(printed.splitlines()[-1])

    with ThreadPoolExecutor(jobs) as pool:
        parts = list(pool.map(portion, range(start, start + count, PORTION)))
    outcomes: Counter = Counter()
    for part in parts:
        outcomes.update(part["outcomes"])
    return {
        "outcomes": dict(sorted(outcomes.items())),
        "bad": [bad for part in parts for bad in part["bad"]],
        "slowest": max(part["slowest"] for part in parts),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        warnings.simplefilter("ignore")
        print(json.dumps(run(range(args.start, args.start + args.count), heartbeat=True)))
        return 0
    begun = time.perf_counter()
    report = run_in_processes(args.start, args.count, args.jobs)
    print(json.dumps(report, indent=1))
    print(f"{sum(report['outcomes'].values()):,} inputs, {len(report['bad'])} bad, {time.perf_counter() - begun:.0f} s")
    return 1 if report["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())
