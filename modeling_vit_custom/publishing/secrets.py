"""The search of a folder for what must not be published though its file may: texts as of `secret_patterns`, positions
and names in photographs, and what lies behind an image's end.
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
_MEANT = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS", "CITATION")  # an address there is to be published
_AUTHOR = re.compile(r"<dc:creator>.{0,200}?<rdf:li[^>]*>\s*[^<\s]", re.DOTALL)  # in XMP
_AUTHOR_TEXTS = ("author", "artist", "creator")  # keys of a PNG's texts
_BY_LINE = (2, 80)  # of IPTC
_PRINTABLE = re.compile(rb"[\t\n\r\x20-\x7e]{16,}")  # shorter ones come about by chance
_PRINTABLE_WIDE = re.compile(rb"(?:[\x20-\x7e]\0){16,}[\x20-\x7e]?")  # UTF-16
MAX_PIXELS = 50_000_000  # of an image whose text is read
MAX_TEXT = 64 * 1024**2  # bytes of a file that is searched
MAX_HEADER = 16 * 1024**2  # bytes of a safetensors header that is searched


def scan_secrets(folder: Path) -> list[str]:
    """Every finding below `folder`, as "file:line: kind"; what was found is never part of it.

    Text, JSON and code are read line by line, of safetensors the metadata and names, of images texts, EXIF data,
    whatever else can be read in their bytes, and what lies behind their end.
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
        return  # public already
    if path.suffix == ".safetensors":
        yield from (f": {kind} in its metadata" for kind in kinds_in(_safetensors_metadata(path)))
    elif path.stat().st_size > MAX_TEXT:
        yield f": not searched, {path.stat().st_size:,} bytes are too many"
    elif path.suffix.lower() in _IMAGES:
        yield from _scan_image(path)
    else:
        yield from _scan_text(path)


def _scan_text(path: Path) -> Iterator[str]:
    """Line by line; of a file that is no text, what can be read in it."""
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
    """Secrets in an image's texts, data that say where it was taken and by whom, and what lies behind it."""
    data = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = open_image(path)
        with image:
            if image.width * image.height > MAX_PIXELS:
                yield f": not searched, {image.width} x {image.height} pixels are too many"
                return
            image.load()  # PNG texts may follow the pixels
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
        if named.get(tag, "").removeprefix("ASCII").strip("\0 "):  # the prefix names the coding of a comment
            yield f": {kind} in its EXIF data"
    if by_line or _AUTHOR.search(text) or any(key.lower() in _AUTHOR_TEXTS and texts[key].strip() for key in texts):
        yield ": author in its metadata"
    yield from (f": {kind} in its metadata" for kind in kinds_in("\n".join([text, *named.values()])))
    if behind := bytes_after(data):
        yield f": {len(behind):,} bytes after the end of the image"


def _printable(data: bytes) -> str:
    """What can be read in bytes, a run of printable characters a line."""
    runs = [*_PRINTABLE.findall(data), *(run.replace(b"\0", b"") for run in _PRINTABLE_WIDE.findall(data))]
    return "\n".join(run.decode("ascii") for run in runs)


def _as_text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _safetensors_metadata(path: Path) -> str:
    """The texts of a header's __metadata__ and tensor names, one a line; nothing for a file that has none."""
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = file.read(min(length, MAX_HEADER))
    try:
        table = json.loads(header)
    except (ValueError, RecursionError):
        return header.decode("latin-1")  # damaged: what lies there is searched as it is
    metadata = table.get("__metadata__") if isinstance(table, dict) else None
    texts = [f"{key} = {value}" for key, value in metadata.items()] if isinstance(metadata, dict) else []
    return "\n".join([*texts, *map(str, table)])
