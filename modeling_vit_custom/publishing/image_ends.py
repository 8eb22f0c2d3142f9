"""Data behind the end of an image in its file, where no viewer shows it; found by walking the file's structure."""

import re
import struct
from collections.abc import Callable

_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # ends a JPEG's pixels; stuffing and restart markers do not


def bytes_after(data: bytes) -> bytes:
    """Return the bytes behind the end of a PNG, JPEG, GIF, WebP or BMP; b"" for other files and for a file cut short.

    Padding at both ends (zeros, 0xFF, spaces, line ends) is removed.
    """
    for magic, end in _ENDS.items():
        if data.startswith(magic):
            try:
                return data[end(data) :].strip(b"\0\r\n \xff")
            except (IndexError, struct.error):
                return b""
    return b""


def _png(data: bytes) -> int:
    at = 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length  # length, kind, content, checksum
        if kind == b"IEND":
            return at


def _jpeg(data: bytes) -> int:
    at = 2
    while True:
        match = _NEXT_MARKER.search(data, at)
        if match is None:
            return len(data)
        kind, at = data[match.end() - 1], match.end()
        if kind == 0xD9:
            return at
        if kind not in (0x01, 0xD8):
            at += struct.unpack_from(">H", data, at)[0]


def _gif(data: bytes) -> int:
    def table(packed: int) -> int:
        return 3 << ((packed & 7) + 1) if packed & 0x80 else 0

    def blocks(at: int) -> int:
        while length := data[at]:
            at += 1 + length
        return at + 1

    at = 13 + table(data[10])
    while (kind := data[at]) != 0x3B:
        at = blocks(at + 2) if kind == 0x21 else blocks(at + 11 + table(data[at + 9]))
    return at + 1


def _riff(data: bytes) -> int:
    length = struct.unpack_from("<I", data, 4)[0]
    return 8 + length + length % 2


def _bmp(data: bytes) -> int:
    return struct.unpack_from("<I", data, 2)[0] or len(data)


_ENDS: dict[bytes, Callable[[bytes], int]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8": _jpeg,
    b"GIF8": _gif,
    b"RIFF": _riff,
    b"BM": _bmp,
}
