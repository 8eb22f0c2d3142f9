"""The audit's cheap part, run before every training: it decodes only a few 16-bit images."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from ..common.errors import DataError
from ..common.text import visible
from ..data.raw import RawSplit
from .classes import class_findings
from .duplicates import duplicate_findings, same_bytes
from .files import unloaded_findings
from .findings import ERROR, NOTE, WARNING, Finding, catalogue
from .images import depth_findings
from .scan import deep_sample

MODES = ("refuse", "warn", "off")
SHOWN = 3


def quick_findings(raw: Mapping[str, RawSplit]) -> list[Finding]:
    """Return errors and warnings that need almost no decoding: unloaded files, classes, equal files, dark 16-bit."""
    unloaded = {path: part.contents.root for part in raw.values() if part.contents for path in part.contents.skipped}
    images = catalogue(dict(raw))
    found = unloaded_findings(unloaded, len(images)) + class_findings(raw)
    found += duplicate_findings(images, same_bytes(images.images)) + depth_findings(images, deep_sample(images))
    return [one for one in found if one.severity != NOTE]


def audit_before_training(raw: Mapping[str, RawSplit], mode: str, tolerated: Collection[str] = ()) -> list[Finding]:
    """Return what was found; raise DataError for anything that would make the result silently wrong.

    mode: "refuse"; "warn" returns such errors as findings; "off" looks at nothing.
    tolerated: codes of findings that count as warnings at most.
    """
    if mode == "off":
        return []
    found = [replace(one, severity=WARNING) if one.code in tolerated else one for one in quick_findings(raw)]
    errors = [_sentence(one) for one in found if one.severity == ERROR]
    if errors and mode == "refuse":
        raise DataError(
            "the result would be silently wrong:\n  - "
            + "\n  - ".join(errors)
            + "\n`vit-custom audit_data DIR --html audit.html` shows all of it. Fix it, or train nevertheless with "
            "--audit warn."
        )
    return found


def format_finding(one: Finding) -> str:
    """Return a finding as a line of a log."""
    return f"{one.severity.upper()}, {_sentence(one)}"


def _sentence(one: Finding) -> str:
    examples = "; ".join(example.text for example in one.examples[:SHOWN]) + (" …" if one.count > SHOWN else "")
    return visible(f"{one.title}: {one.count:,} ({examples}). {one.advice}")
