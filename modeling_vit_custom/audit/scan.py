"""One look at every image: decoded as training decodes it, and summed up in a record of fixed size.

Shapes: N images, B of one batch.
"""

import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..common.errors import DataError
from ..image_arrays_vit_custom import first_three
from ..image_decoding_vit_custom import decode_image
from ..image_files_vit_custom import file_header, open_image
from ..image_limits_vit_custom import DEFAULT_LIMITS, ImageDecodingError
from .findings import Catalogue

THUMBNAIL = 32
BLANK_RANGE = 2  # of 255, in every channel: lossy compression moves a plain colour by this much
BATCH = 32
SAMPLE = 16  # images; those of them with 16 bits are decoded before a training
WORKERS_PAY_FROM = 500  # images; with fewer, one process is done before others have started

RECORD = np.dtype(
    [
        ("pixels", "u8", 2),  # digest of the decoded image
        ("height", "i4"),  # as decoded, upright; 0 if it cannot be decoded
        ("width", "i4"),
        ("format", "S12"),  # as Pillow calls it
        ("mode", "S12"),  # as Pillow calls it; for an array its channels and type, "5 uint16"
        ("turned", "?"),  # by its EXIF orientation
        ("transparent", "?"),
        ("animated", "?"),
        ("blank", "?"),
        ("brightest", "u1"),  # largest value of any channel, as decoded
        ("thumbnail", "u1", (THUMBNAIL, THUMBNAIL)),  # grey
    ]
)


def scan_images(
    images: Sequence[Any], names: Sequence[str], num_workers: int, progress: bool = False
) -> tuple[np.ndarray, dict[int, str]]:
    """Return ([N] of RECORD, {number of an unreadable image: why}), decoded by `num_workers` processes.

    About 1.1 kB are kept of each image. Raises DataError if a process dies, for example by a crash inside a codec.
    """
    records = np.zeros(len(images), RECORD)
    errors: dict[int, str] = {}
    loader: DataLoader = DataLoader(
        _Scan(images, names),
        batch_size=BATCH,
        num_workers=num_workers if len(images) >= WORKERS_PAY_FROM else 0,
        collate_fn=_as_it_is,
    )
    start = 0
    with _quiet_decoder(), tqdm(total=len(images), desc="audit", unit="img", disable=not progress, delay=2) as bar:
        try:
            for batch, failed in loader:
                records[start : start + len(batch)] = batch
                errors |= {start + i: message for i, message in failed.items()}
                start += len(batch)
                bar.update(len(batch))
        except RuntimeError as error:  # from DataLoader, if a process is gone
            raise DataError(
                f"a process died while it decoded images at or after {names[start]}: a damaged file may have crashed "
                f"its decoder, or memory ran out. Look at the files from there on, or pass --num_workers 1. ({error})"
            ) from error
    return records, errors


def deep_sample(catalogue: Catalogue) -> np.ndarray:
    """Return [N] of RECORD, filled in only for 16-bit files among SAMPLE images that are spread over all."""
    images = catalogue.images
    spread = np.unique(np.linspace(0, len(images) - 1, min(SAMPLE, len(images)), dtype=int)).tolist()
    deep = [index for index in spread if _is_deep(images[index])]
    records = np.zeros(len(images), RECORD)
    records[deep] = scan_images([images[i] for i in deep], [catalogue.names[i] for i in deep], num_workers=0)[0]
    return records


def _is_deep(source: Any) -> bool:
    """Whether the header of a file, or of its bytes, says 16 bits of grey or of bands."""
    if not isinstance(source, bytes) and not (isinstance(source, str) and os.path.isfile(source)):
        return False
    try:
        if (header := file_header(source)) is not None:
            return header.dtype.name == "uint16"
        with open_image(BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.mode.startswith("I")
    except (OSError, ValueError, SyntaxError):
        return False


def _as_it_is(batch: Any) -> Any:
    return batch


class _Scan(Dataset):
    def __init__(self, images: Sequence[Any], names: Sequence[str]):
        self.images, self.names = images, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, indices: list[int]) -> tuple[np.ndarray, dict[int, str]]:
        """Records and errors of a whole batch, which a data loader asks for at once."""
        records = np.zeros(len(indices), RECORD)
        errors = {}
        for row, index in enumerate(indices):
            try:
                look_at(self.images[index], self.names[index], records[row])
            except ImageDecodingError as error:
                errors[row] = str(error)
        return records, errors


@contextmanager
def _quiet_decoder():
    """Silences the decoder's log messages on single images: the findings report them."""
    package = logging.getLogger(__package__.partition(".")[0])
    level = package.level
    package.setLevel(logging.ERROR)
    try:
        yield
    finally:
        package.setLevel(level)


def look_at(source: Any, name: str, record: np.void) -> None:
    """Fill in the record of one image; raise ImageDecodingError if it cannot be decoded."""
    data = _file_bytes(source, name)
    source = source if data is None else data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, on EXIF blocks and large images: the findings report these
        pixels = decode_image(source, num_channels=None, name=name).numpy()  # [C, H, W]; C is 3, except for arrays
        if data is not None:
            _read_header(data, record)
    digest = blake2b(np.ascontiguousarray(pixels).data, digest_size=16, salt=str(pixels.shape[1]).encode())
    record["pixels"] = np.frombuffer(digest.digest(), np.uint64)
    record["height"], record["width"] = pixels.shape[1:]
    record["brightest"] = pixels.max()
    record["blank"] = int(np.ptp(pixels, axis=(1, 2)).max()) <= BLANK_RANGE
    bands = [Image.fromarray(band) for band in first_three(pixels)]
    small = Image.merge("RGB", bands).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=3.0)
    record["thumbnail"] = np.asarray(small.convert("L"))


def _file_bytes(source: Any, name: str) -> bytes | None:
    """The encoded file; None for an image that comes decoded, and for a file that the decoder will refuse unread."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            return path.read_bytes() if path.is_file() and path.stat().st_size <= DEFAULT_LIMITS.file_bytes else None
        except OSError as error:
            raise ImageDecodingError(f"{name}: cannot be read ({error.strerror}).") from error
    return source if isinstance(source, bytes) else None


def _read_header(data: bytes, record: np.void) -> None:
    if (header := file_header(data)) is not None:
        record["format"], record["mode"] = header.format.encode(), f"{header.hwc[2]} {header.dtype}".encode()
        return
    with open_image(BytesIO(data)) as image:
        record["format"], record["mode"] = (image.format or "").encode(), image.mode.encode()
        record["transparent"] = image.has_transparency_data
        try:
            record["animated"] = getattr(image, "is_animated", False)
            record["turned"] = image.getexif().get(0x0112, 1) in range(2, 9)
        except Exception:  # malformed blocks fail in many ways; the pixels have been decoded already
            pass
