"""Search of a folder for secrets and personal data in files that could otherwise be published.

It finds the patterns of `secret_patterns` in text, positions and names in photographs, and data behind the end of an
image.
"""

import codecs
import io
import json
import re
import struct
import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from PIL import ExifTags, Image, IptcImagePlugin

from ..image_files_vit_custom import open_image
from .code_files import is_shipped
from .image_ends import bytes_after
from .secret_patterns import MAIL, detectors, kinds_in, without_nul

_SECRET_FILES = (".env", ".env.*", "*.env", ".netrc", "_netrc", ".git-credentials", "*.pem", "id_rsa*", "id_ed25519*")
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".heic")
_PERSONAL_TAGS = {
    "ImageDescription": "description", "Artist": "artist", "CameraOwnerName": "owner",
    "BodySerialNumber": "serial number", "UserComment": "comment", "XPComment": "comment", "XPAuthor": "author",
}  # fmt: skip
_MEANT = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS", "CITATION")  # addresses in these are public
_AUTHOR = re.compile(r"<dc:creator>.{0,200}?<rdf:li[^>]*>\s*[^<\s]", re.DOTALL)  # in XMP
_AUTHOR_TEXTS = ("author", "artist", "creator")  # keys of PNG text chunks
_BY_LINE = (2, 80)  # IPTC record and data set
_PRINTABLE = re.compile(rb"[\t\n\r\x20-\x7e]{16,}")  # shorter runs occur by chance
_PRINTABLE_WIDE = re.compile(rb"(?:[\x20-\x7e]\0){16,}[\x20-\x7e]?")  # UTF-16
MAX_PIXELS = 50_000_000  # a larger image is reported as not searched
MAX_TEXT = 64 * 1024**2  # bytes; a larger file, unless it is safetensors, is reported as not searched
MAX_HEADER = 16 * 1024**2  # bytes of a safetensors header that are searched


def scan_secrets(folder: Path) -> list[str]:
    """Return every finding below `folder` as "file:line: kind" or, for a binary file, "file: kind"; never the secret.

    Text, JSON and code are searched line by line. Of safetensors, the metadata and tensor names are searched. Of
    images, texts, EXIF data, other readable bytes and data behind the end of the image are searched.
    """
    folder = Path(folder)
    findings: list[str] = []
    with detectors():
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
            findings += [f"{path.relative_to(folder).as_posix()}{finding}" for finding in _scan_file(path)]
    return findings


def _scan_file(path: Path) -> Iterator[str]:
    if any(fnmatchcase(path.name, pattern) for pattern in _SECRET_FILES):
        yield ": a file of secrets by its name"
    if is_shipped(path):
        return  # shipped with this package, so public already
    if path.suffix == ".safetensors":
        yield from (f": {kind} in its metadata" for kind in kinds_in(_safetensors_metadata(path)))
    elif path.stat().st_size > MAX_TEXT:
        yield f": not searched, {path.stat().st_size:,} bytes are too many"
    elif path.suffix.lower() in _IMAGES:
        yield from _scan_image(path)
    else:
        yield from _scan_text(path)


def _scan_text(path: Path) -> Iterator[str]:
    """Findings line by line; for a binary file, findings in its printable runs."""
    data = path.read_bytes()
    start = data[:4096].replace(b"\0", b"")
    if sum(byte < 9 or 13 < byte < 32 for byte in start) > len(start) / 20:
        yield from (f": {kind}" for kind in kinds_in(_printable(data)))
        return
    for mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF8):
        data = data.removeprefix(mark)
    text = io.StringIO(without_nul(data.decode("utf-8", "replace")), newline=None)
    meant = {MAIL} if path.name.upper().startswith(_MEANT) else set()
    for number, line in enumerate(text, 1):
        yield from (f":{number}: {kind}" for kind in kinds_in(line) if kind not in meant)


def _scan_image(path: Path) -> Iterator[str]:
    """Findings in an image: secrets in its texts, its position and author, and data behind its end."""
    data = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = open_image(path)
        with image:
            if image.width * image.height > MAX_PIXELS:
                yield f": not searched, {image.width} x {image.height} pixels are too many"
                return
            image.load()  # PNG text chunks may follow the pixels
            texts = {str(key): _as_text(value) for key, value in image.info.items() if isinstance(value, str | bytes)}
            texts |= {key: _printable(image.info[key]) for key in ("icc_profile", "exif") if key in image.info}
            exif = image.getexif()
            tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
            position = exif.get_ifd(ExifTags.IFD.GPSInfo)
            by_line = (IptcImagePlugin.getiptcinfo(image) or {}).get(_BY_LINE)
    except Exception as error:  # Pillow raises a dozen types on damaged files
        yield f": not searched, no readable image ({type(error).__name__})"
        return
    text = "\n".join([*texts.values(), _printable(data)])
    named = {ExifTags.TAGS.get(tag, ""): _as_text(value) for tag, value in tags.items()}
    if position or "GPSLatitude" in text:
        yield ": GPS position in its metadata"
    for tag, kind in _PERSONAL_TAGS.items():
        if named.get(tag, "").removeprefix("ASCII").strip("\0 "):  # the prefix names the comment's encoding
            yield f": {kind} in its EXIF data"
    if by_line or _AUTHOR.search(text) or any(key.lower() in _AUTHOR_TEXTS and texts[key].strip() for key in texts):
        yield ": author in its metadata"
    yield from (f": {kind} in its metadata" for kind in kinds_in("\n".join([text, *named.values()])))
    if behind := bytes_after(data):
        yield f": {len(behind):,} bytes after the end of the image"


def _printable(data: bytes) -> str:
    """Runs of printable ASCII or UTF-16 characters in `data`, one run a line."""
    runs = [*_PRINTABLE.findall(data), *(run.replace(b"\0", b"") for run in _PRINTABLE_WIDE.findall(data))]
    return "\n".join(run.decode("ascii") for run in runs)


def _as_text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _safetensors_metadata(path: Path) -> str:
    """Metadata and tensor names of a safetensors header, one a line; "" for a file without a header."""
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = file.read(min(length, MAX_HEADER))
    try:
        table = json.loads(header)
    except (ValueError, RecursionError):
        return header.decode("latin-1")  # damaged header: its raw bytes are searched
    metadata = table.get("__metadata__") if isinstance(table, dict) else None
    texts = [f"{key} = {value}" for key, value in metadata.items()] if isinstance(metadata, dict) else []
    return "\n".join([*texts, *map(str, table)])
