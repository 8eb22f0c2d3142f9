"""The audit as one HTML page with thumbnails: no script, no other file, nothing fetched.

Every text goes through Jinja2's autoescape after `visible`, and the page forbids scripts to itself besides.
"""

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ..image_decoding_vit_custom import ImageDecodingError, decode_image
from .audit import Audit
from .findings import SEVERITIES, Catalogue, visible

THUMBNAIL_SIDE = 96  # pixels
MAX_THUMBNAILS = 240  # of a page: about a megabyte
MAX_CLASSES = 60  # with a bar of their own
SHOWN = 12  # examples of each finding


def write_page(path: str | Path, audit: Audit) -> Path:
    """Writes the page and returns its path."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.get_template("page.html.j2").render(_content(audit)), encoding="utf-8")
    return path


def _shown(value: Any) -> Any:
    """What Jinja2 calls on each value before it escapes it."""
    return visible(value) if type(value) is str else value


def _content(audit: Audit) -> dict[str, Any]:
    rows = _class_rows(audit)
    findings = []
    left = MAX_THUMBNAILS
    for one in audit.findings:
        illustrated = []
        for example in one.examples[:SHOWN]:
            thumbnails = _thumbnails(audit.images, example.images[:left])
            illustrated.append((example, thumbnails))
            left -= len(thumbnails)
        gallery = all(len(thumbnails) == 1 for _, thumbnails in illustrated)
        findings.append({"finding": one, "examples": illustrated, "gallery": gallery})
    return {
        "audit": audit,
        "severities": [(severity, audit.count(severity)) for severity in SEVERITIES],
        "findings": findings,
        "classes": rows[:MAX_CLASSES],
        "more_classes": max(0, len(rows) - MAX_CLASSES),
        "short": lambda text: _below(audit.sources, text),
    }


def _below(sources: Sequence[str], text: str) -> str:
    """`text` with paths written from the one folder that was audited, which the heading names."""
    folder = f"{sources[0].rstrip('/')}/"
    return text.replace(folder, "") if len(sources) == 1 and Path(folder).is_dir() else text


def _class_rows(audit: Audit) -> list[dict[str, Any]]:
    """For each class its images in each split, and the share of the largest class in percent."""
    names = dict.fromkeys(name for counts in audit.counts.values() for name in counts)
    rows = [(name, {split: counts.get(name, 0) for split, counts in audit.counts.items()}) for name in names]
    largest = max((sum(counts.values()) for _, counts in rows), default=1)
    return [
        {"name": name, "counts": counts, "shares": {split: 100 * n / largest for split, n in counts.items()}}
        for name, counts in rows
    ]


def _thumbnails(images: Catalogue | None, numbers: Sequence[int]) -> list[str]:
    return [] if images is None else [data for i in numbers if (data := _thumbnail(images.images[i]))]


def _thumbnail(source: Any) -> str:
    """A data: address, or nothing for an image that cannot be decoded."""
    try:
        pixels = decode_image(source).numpy()
    except ImageDecodingError:
        return ""
    image = Image.merge("RGB", [Image.fromarray(band) for band in pixels])
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), reducing_gap=3.0)
    kind = "png" if max(image.size) <= 32 else "jpeg"
    file = BytesIO()
    image.save(file, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
