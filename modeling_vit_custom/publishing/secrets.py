"""What must not be published though its file may: tokens, keys, passwords, user names, positions in photographs.

Found by the detectors of the library detect-secrets and the patterns here. Those of detect-secrets that call any
random-looking text a secret are left out, since fingerprints and commit ids are random and public.
"""

import json
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from PIL import ExifTags, Image

from ..image_files_vit_custom import open_image
from .code_files import is_shipped

_NO_SECRETS = ("Base64HighEntropyString", "HexHighEntropyString", "IPPublicDetector")
# Lines that would silence detect-secrets: a file may not vouch for itself.
_SELF_VOUCHING = "detect_secrets.filters.allowlist.is_line_allowlisted"

_PATTERNS = {
    "Hugging Face token": re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}"),
    # NAME=value as in .env files and shells; not a value that is a variable, a placeholder or a call
    "assignment of a secret": re.compile(
        r"\b[A-Z0-9_]*(?:TOKEN|SECRET|PASSW(?:OR)?D|API_?KEY|(?:ACCESS|PRIVATE|SECRET)_KEY)="
        r"[\"']?(?!your|xxx|\.\.\.|…)[^\s\"'()<>\[\]{}$]{8,}"
    ),
    "path with a user name": re.compile(
        r"(?:(?<=file://)|(?<![\w.:/-]))/(?:home|Users)/[\w.-]+/|\b[A-Za-z]:\\+Users\\+[^\\\s\"]+\\"
    ),
}
_SECRET_FILES = (".env", ".env.*", "*.env", ".netrc", "_netrc", ".git-credentials", "*.pem", "id_rsa*", "id_ed25519*")
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".heic")
_PERSONAL_TAGS = {
    "ImageDescription": "description", "Artist": "artist", "CameraOwnerName": "owner",
    "BodySerialNumber": "serial number", "UserComment": "comment", "XPComment": "comment", "XPAuthor": "author",
}  # fmt: skip
MAX_PIXELS = 50_000_000  # of an image whose text is read
MAX_TEXT = 64 * 1024**2  # bytes of a file that is searched line by line
MAX_HEADER = 16 * 1024**2  # bytes of a safetensors header that is searched


def scan_secrets(folder: Path) -> list[str]:
    """Every finding below `folder`, as "file:line: kind"; what was found is never part of it.

    Text, JSON and code are read line by line, of safetensors the metadata, of images texts and EXIF data.
    """
    folder = Path(folder)
    findings: list[str] = []
    with _detectors():
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
            findings += [f"{path.relative_to(folder).as_posix()}{finding}" for finding in _scan_file(path)]
    return findings


@contextmanager
def _detectors() -> Iterator[None]:
    """detect-secrets switched on; its settings are global to the process. Raises ValueError where it is missing."""
    try:
        from detect_secrets.settings import default_settings, transient_settings
    except ModuleNotFoundError as error:
        raise ValueError("not run: detect-secrets is missing, pip install 'vit-custom[publish]'") from error

    with default_settings() as settings:
        plugins = [{"name": name} for name in settings.plugins if name not in _NO_SECRETS]
    with transient_settings({"plugins_used": plugins}) as settings:
        settings.disable_filters(_SELF_VOUCHING)
        yield


def _scan_file(path: Path) -> Iterator[str]:
    if any(fnmatchcase(path.name, pattern) for pattern in _SECRET_FILES):
        yield ": a file of secrets by its name"
    if path.suffix.lower() in _IMAGES:
        yield from _scan_image(path)
    elif is_shipped(path):
        return  # public already
    elif path.suffix == ".safetensors":
        yield from (f": {kind} in its metadata" for kind in _kinds_in(_safetensors_metadata(path)))
    elif path.stat().st_size > MAX_TEXT:
        yield f": not searched, {path.stat().st_size:,} bytes are too many"
    else:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                yield from (f":{number}: {kind}" for kind in _kinds_in(line.replace("\0", "")))  # UTF-16 has them


def _kinds_in(text: str) -> list[str]:
    """The kinds of secrets in a text, by the detectors that are switched on and the patterns here."""
    from detect_secrets.core.scan import scan_line

    kinds: dict[str, None] = {}
    for line in text.splitlines():
        kinds |= dict.fromkeys(name for name, pattern in _PATTERNS.items() if pattern.search(line))
        kinds |= dict.fromkeys(secret.type for secret in scan_line(line))
    return list(kinds)


def _scan_image(path: Path) -> Iterator[str]:
    """Secrets in an image's texts, and EXIF data that say where it was taken and by whom."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = open_image(path)
        with image:
            if image.width * image.height > MAX_PIXELS:
                yield f": not searched, {image.width} x {image.height} pixels are too many"
                return
            image.load()  # PNG texts may follow the pixels
            texts = [value for value in image.info.values() if isinstance(value, str | bytes)]
            exif = image.getexif()
            tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
            position = exif.get_ifd(ExifTags.IFD.GPSInfo)
    except Exception as error:  # Pillow raises a dozen types on damaged files
        yield f": not searched, no readable image ({type(error).__name__})"
        return
    text = "\n".join(map(_as_text, texts))
    named = {ExifTags.TAGS.get(tag, ""): _as_text(value) for tag, value in tags.items()}
    if position or "GPSLatitude" in text:
        yield ": GPS position in its metadata"
    for tag, kind in _PERSONAL_TAGS.items():
        if named.get(tag, "").removeprefix("ASCII").strip("\0 "):  # the prefix names the coding of a comment
            yield f": {kind} in its EXIF data"
    yield from (f": {kind} in its metadata" for kind in _kinds_in("\n".join([text, *named.values()])))


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
