"""The audit as one HTML page with thumbnails and without a script."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..reporting import page
from .audit import Audit
from .findings import SEVERITIES, Finding

MAX_THUMBNAILS = 240  # of a page: about a megabyte
MAX_CLASSES = 60  # with a bar of their own
SHOWN = 12  # examples of each finding


def write_page(path: str | Path, audit: Audit) -> Path:
    """Write the page and return its path."""
    return page.write_page(path, "audit/page.html.j2", _content(audit))


def _content(audit: Audit) -> dict[str, Any]:
    rows = _class_rows(audit)
    return {
        "audit": audit,
        "severities": [(severity, audit.count(severity)) for severity in SEVERITIES],
        "findings": illustrated(audit.findings, audit.images),
        "classes": rows[:MAX_CLASSES],
        "more_classes": max(0, len(rows) - MAX_CLASSES),
        "short": lambda text: _below(audit.sources, text),
    }


def illustrated(findings: Sequence[Finding], images: Any = None) -> list[dict[str, Any]]:
    """Return what finding.html.j2 shows of each finding: its first examples, with thumbnails.

    images: sources of all images by number; None: no thumbnails.
    """
    shown = []
    left = MAX_THUMBNAILS
    for one in findings:
        examples = []
        for example in one.examples if one.all_on_page else one.examples[:SHOWN]:
            thumbnails = _thumbnails(images, example.images[:left])
            examples.append((example, thumbnails))
            left -= len(thumbnails)
        gallery = all(len(thumbnails) == 1 for _, thumbnails in examples)
        shown.append({"finding": one, "examples": examples, "gallery": gallery})
    return shown


def _below(sources: Sequence[str], text: str) -> str:
    """`text` with paths relative to the audited folder, if there is just one; the heading names it."""
    folder = f"{sources[0].rstrip('/')}/"
    return text.replace(folder, "") if len(sources) == 1 and Path(folder).is_dir() else text


def _class_rows(audit: Audit) -> list[dict[str, Any]]:
    """For each class its images in each split, also as percent of the largest class."""
    names = dict.fromkeys(name for counts in audit.counts.values() for name in counts)
    rows = [(name, {split: counts.get(name, 0) for split, counts in audit.counts.items()}) for name in names]
    largest = max((sum(counts.values()) for _, counts in rows), default=1)
    return [
        {"name": name, "counts": counts, "shares": {split: 100 * n / largest for split, n in counts.items()}}
        for name, counts in rows
    ]


def _thumbnails(images: Any, numbers: Sequence[int]) -> list[str]:
    return [] if images is None else [data for i in numbers if (data := page.thumbnail(images[i]))]
