"""What a request holds: an image as it is, a form of files, or JSON with images in base64.

    image/…               the bytes of one image file
    multipart/form-data   files, under any field names: -F file=@a.jpg -F file=@b.png
    application/json      {"images": ["<base64>", …]}, or {"inputs": "<base64>"} and {"inputs": ["<base64>", …]}, each
                          with {"parameters": {"top_k": 3}} if the address has no top_k; data: URLs are base64 too

A body is read whole, within the limits on bodies, before anything here looks at it. Starlette's parser reads a form: it
limits boundary, headers and number of parts, and here it keeps the files in memory. Nothing is written to the disk,
fetched or run. Errors are HTTPExceptions that name the part and the fix, and repeat nothing of the body but names.
"""

import asyncio
import binascii
import json
import logging
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from ..common.text import visible

FORM, JSON = "multipart/form-data", "application/json"
ONE = "the image"  # its name in errors
NAME_CHARACTERS = 100  # of a file's name in answers
PIECE = 2**16  # bytes of a form that are parsed before the files in it are added to
BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046
SHAPE = '{"images": ["<base64>", …]} or {"inputs": "<base64>"}'
# What Starlette says of a form begins so; ours follows.
_FORM_ERRORS = {
    "cut off": "it is cut off: its last boundary is missing. Fix: send it whole.",
    "Too many fields": "it holds a field that is no file. Fix: send files only (curl: -F file=@FILE), and top_k in the "
    "address, as in /predict?top_k=5",
    'The Content-Disposition header field "name"': "a part has no name in its Content-Disposition. Fix: name each part "
    "(curl: -F file=@FILE).",
}
_UNREADABLE = (
    "it does not follow its boundary, or the head of a part is damaged, of more than 8 lines or too long. "
    "Fix: let a library write the form (curl: -F file=@FILE; Python: requests.post(url, files=…))."
)

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns of each damaged form


@dataclass(frozen=True)
class Asked:
    """The images of a request as (name, bytes of a file), whether a list answers it, and its top_k if it has one."""

    images: list[tuple[str, bytes]]
    listed: bool = False
    top_k: int | None = None


def kind_of(headers: Mapping[str, str]) -> str:
    """Return "image", FORM or JSON, how the body is sent; raise HTTPException (415) for anything else."""
    given = headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        kind = "image"
    elif kind not in (FORM, JSON):
        raise HTTPException(
            415,
            f"Content-Type {given[:80]!r}: send the bytes of one image file, with Content-Type: image/jpeg, image/png "
            f"or another image type (curl: --data-binary @FILE), files as {FORM} (curl: -F file=@FILE), or {JSON}: "
            f"{SHAPE}.",
        )
    if encoding := headers.get("content-encoding"):
        raise HTTPException(415, f"Content-Encoding {encoding[:80]!r}: send the body as it is, without any.")
    return kind


def read_form(content_type: str, body: bytes, most: int) -> Asked:
    """Return the files of a form; raise HTTPException: 400 if it cannot be read, 413 if it holds more than `most`."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"").decode("latin-1")
    if not BOUNDARY.fullmatch(boundary):
        raise HTTPException(
            400,
            "Content-Type: multipart/form-data has no boundary=, or not one of 1 to 70 letters, digits and "
            "'()+_,-./:=? characters. Fix: let a library write header and body together (curl: -F file=@FILE).",
        )
    try:
        images = asyncio.run(_files(_FormInMemory(boundary, body, most)))
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(most) from None
        said = next((ours for theirs, ours in _FORM_ERRORS.items() if error.message.startswith(theirs)), _UNREADABLE)
        raise HTTPException(400, f"the form cannot be read: {said}") from None
    if not images:
        raise HTTPException(400, "the form holds no file. Fix: send one or more (curl: -F file=@FILE).")
    return Asked(images, listed=True)


class _FormInMemory(MultiPartParser):
    """Starlette's parser of forms, which keeps files in memory, however large, and refuses a form without an end."""

    spool_max_size = 0  # tempfile's "never to the disk"; the body is in memory, and limited, already
    complete = False

    def __init__(self, boundary: str, body: bytes, most: int):
        # The boundary alone: a charset would choose a codec for the names, and some codecs fail.
        headers = Headers({"content-type": f'{FORM}; boundary="{boundary}"'})
        super().__init__(headers, self._pieces(body), max_files=most, max_fields=0)

    def on_end(self) -> None:
        """Keep in mind that the closing boundary was there: without one, the last file is left out silently."""
        self.complete = True

    async def _pieces(self, body: bytes) -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), PIECE):  # each line break of a piece can become an object
            yield body[start : start + PIECE]
        if not self.complete:
            raise MultiPartException("cut off")


async def _files(parser: MultiPartParser) -> list[tuple[str, bytes]]:
    form = await parser.parse()
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        return [(_shown(file.filename) or f"file {n}", await file.read()) for n, file in enumerate(files, 1)]
    finally:
        await form.close()


def read_json(body: bytes, most: int) -> Asked:
    """Return the images of JSON; raise HTTPException: 400 for another shape, 413 for more than `most` images."""
    # Base64 has none of these characters, a data: URL two: what is not images is never built.
    if sum(map(body.count, (b"[", b"{", b",", b":"))) > 4 * most + 100:
        raise HTTPException(413, f"the JSON holds more values than {most} images need. Fix: send {SHAPE} and no more.")
    try:
        found = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise HTTPException(400, f"the body is not JSON in UTF-8. Fix: send {SHAPE}.") from None
    fields = set(found) if isinstance(found, dict) else set()
    if len(named := fields & {"images", "inputs"}) != 1 or fields - named - {"parameters"}:
        raise HTTPException(400, f"the JSON has another shape. Fix: send {SHAPE}, at most with parameters beside it.")
    (field,) = named
    given = found[field]
    texts = given if isinstance(given, list) else [given]
    if not texts:
        raise HTTPException(400, f"{field} is an empty list. Fix: send one image or more.")
    if len(texts) > most:
        raise _too_many(most)
    names = [f"{field}[{number}]" for number in range(len(texts))] if isinstance(given, list) else [field]
    images = [(name, _unpacked(name, text)) for name, text in zip(names, texts, strict=True)]
    return Asked(images, isinstance(given, list), _top_k(found.get("parameters", {})))


def _unpacked(name: str, text: Any) -> bytes:
    if not isinstance(text, str):
        raise HTTPException(400, f"{name} is no text. Fix: send {SHAPE}.")
    if text.startswith(("http:", "https:")):
        raise HTTPException(400, f"{name} is an address, which is not fetched. Fix: send the image itself in base64.")
    if text.startswith("data:"):
        text = text.partition(";base64,")[2]
    try:
        return binascii.a2b_base64(text.encode("ascii").translate(None, b" \t\r\n"), strict_mode=True)
    except ValueError:
        raise HTTPException(
            400, f"{name} is not base64. Fix: encode the file's bytes (Python: base64.b64encode(data).decode())."
        ) from None


def _top_k(parameters: Any) -> int | None:
    if not isinstance(parameters, dict) or parameters.keys() - {"top_k"}:
        raise HTTPException(422, 'parameters: only top_k is known. Fix: {"parameters": {"top_k": 5}}')
    top_k = parameters.get("top_k")
    if top_k is not None and (type(top_k) is not int or not 0 < top_k < 10**9):
        raise HTTPException(422, 'parameters: top_k is no whole number from 1 on, as in {"top_k": 5}')
    return top_k


def _too_many(most: int) -> HTTPException:
    return HTTPException(
        413, f"the request holds more than {most:,} image{'s' * (most > 1)}. Fix: send fewer in each request."
    )


def _shown(name: str | None) -> str:
    return visible((name or "")[:NAME_CHARACTERS])
