"""`vit-custom audit_data`: all that can be reported about a folder or table of images before training on it."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..common.errors import DataError
from ..common.text import visible
from ..data.cache import AUTO
from ..data.examples import Joined
from ..data.names import natural_sorted
from ..data.raw import RawSplit
from ..data.source import Columns, Source
from ..data.sources import assemble, read_splits
from .candidates import next_findings, read_candidates, suggest
from .classes import class_counts, class_findings
from .duplicates import duplicate_findings, same_pixels
from .encoder import Encoder
from .files import files_on_disk, link_findings, loaded_files, split_trap, unloaded_findings
from .findings import ERROR, SEVERITIES, SPLITS, Catalogue, Finding, catalogue, finding
from .images import depth_findings, image_findings, unreadable_findings
from .labels import check_labels, label_findings, label_record, refuse_unchecked
from .scan import scan_images
from .similar import similar_findings

TRAINING_DEFAULTS: dict[str, Any] = {
    "train_val_split": 0.15,
    "max_train_samples": None,
    "max_eval_samples": None,
    "seed": 0,
}
BUDGET = 50  # images that are suggested for labelling


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    sources: the folders and tables as they were named.   files: number of files on disk.
    counts: split -> class -> images.   sizes: split -> images.   findings: worst first.
    images: sources of the examples, then of the images without labels, from which thumbnails are made; None if nothing
    could be loaded.
    notes: how a model looked at the labels.   by_model: entries of the JSON that it adds.
    """

    sources: list[str]
    files: int
    sizes: dict[str, int]
    counts: dict[str, dict[str, int]]
    findings: list[Finding]
    images: Any
    seconds: float
    notes: list[str] = field(default_factory=list)
    by_model: dict[str, Any] = field(default_factory=dict)

    def count(self, severity: str) -> int:
        return sum(one.severity == severity for one in self.findings)

    def summary(self) -> str:
        """Return how many findings there are of each severity, as in: 2 errors, 1 warning, 0 notes."""
        return ", ".join(f"{n} {name}{'s' * (n != 1)}" for name in SEVERITIES for n in [self.count(name)])

    def report(self) -> dict[str, Any]:
        """Return what --json writes."""
        return {
            "sources": self.sources,
            "files_on_disk": self.files,
            "examples": self.sizes,
            "classes": self.counts,
            "errors": self.count(ERROR),
            "findings": [
                {
                    "severity": one.severity,
                    "code": one.code,
                    "count": one.count,
                    "title": one.title,
                    "advice": one.advice,
                    "examples": [example.text for example in one.examples],
                }
                for one in self.findings
            ],
            **self.by_model,
            "seconds": round(self.seconds, 1),
        }


def audit(
    train: Source | str | Path,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    *,
    num_workers: int = 0,
    progress: bool = False,
    columns: Columns = Columns(),
    follow_links: bool = False,
    encoder: Encoder | None = None,
    unlabelled: Source | None = None,
    budget: int = BUDGET,
    image_cache: str = AUTO,
) -> Audit:
    """Look at every file and decode every image that training would take by the same arguments.

    train: the training data, or the `Source` of all splits, which replaces validation, test and follow_links.
    columns, follow_links: as in training.   encoder: looks for labels that are probably wrong, and chooses `budget` of
    the images `unlabelled` to label next.   image_cache: where its features are kept, as in training.
    Raises DataError if a source does not exist; UsageError for labels that no encoder can check.
    """
    started = time.perf_counter()
    source = train if isinstance(train, Source) else Source(train, validation, test, follow_links=follow_links)
    sources = [path for path in (source.train, source.validation, source.test) if path is not None]
    if missing := [str(path) for path in sources if not Path(path).exists()]:
        raise DataError(f"{', '.join(missing)} does not exist.")
    findings: list[Finding] = []
    raw: dict[str, RawSplit] = {}
    images = None
    try:
        raw = read_splits(source, columns, refuse_links=False)
    except DataError as error:
        findings += _refused(error)
    if encoder is not None and raw:
        refuse_unchecked(raw)
    candidates = read_candidates(unlabelled) if unlabelled is not None and encoder is not None and raw else None
    notes: list[str] = []
    by_model: dict[str, Any] = {}
    files, refused_links = files_on_disk(sources, raw, source.follow_links)
    findings += link_findings(refused_links)
    if raw:
        known, loaded = catalogue(raw), loaded_files(raw)
        images = known.images
        unloaded = {path: root for path, root in files.items() if str(path) not in loaded}
        findings += unloaded_findings(unloaded, len(known))
        if source.train is not None:
            findings += _split_trap(Path(source.train), files, known)
        by_class = class_findings(raw)
        findings += by_class + _assembled(raw, by_class)
        records, errors = scan_images(known.images, known.names, num_workers, progress)
        findings += unreadable_findings(errors) + image_findings(known, records)
        findings += depth_findings(known, records)
        findings += duplicate_findings(known, same_pixels(records)) + similar_findings(known, records)
        if encoder is not None:
            checked = check_labels(encoder, raw, known, records, image_cache, progress)
            findings += label_findings(known, checked)
            notes += checked.notes
            by_model = {"model": encoder.name, "label_errors": label_record(known, checked)}
            if candidates is not None:
                suggested = suggest(
                    encoder, candidates, known, records, checked, budget, image_cache, num_workers, progress
                )
                findings += next_findings(suggested, len(known))
                notes += suggested.notes
                by_model["label_next"] = suggested.record()
                images = Joined([known.images, suggested.images])
    return Audit(
        [*([] if source.dataset_name is None else [source.dataset_name]), *map(str, sources)],
        len(files),
        {split: len(raw[split]) for split in SPLITS if split in raw},
        {split: _ordered(class_counts(raw[split])) for split in SPLITS if split in raw},
        sorted(findings, key=lambda one: SEVERITIES.index(one.severity)),
        images,
        time.perf_counter() - started,
        notes,
        by_model,
    )


def _ordered(counts: dict[str, int]) -> dict[str, int]:
    return {name: counts[name] for name in natural_sorted(counts)}


def _refused(error: DataError) -> list[Finding]:
    return finding(
        ERROR, "refused", "training would refuse these data", "Fix this first, then look again.", [str(error)]
    )


def _assembled(raw: dict[str, RawSplit], by_class: list[Finding]) -> list[Finding]:
    """What training refuses about splits that do not go together, unless a finding on classes is an error already."""
    if any(one.severity == ERROR for one in by_class):
        return []
    try:
        assemble(raw, **TRAINING_DEFAULTS)
    except DataError as error:
        return _refused(error)
    return []


def _split_trap(root: Path, files: dict[Path, Path], images: Catalogue) -> list[Finding]:
    if not root.is_dir():
        return []
    ours = {name: SPLITS[split] for name, split in zip(images.names, images.splits, strict=True)}
    return split_trap(root, [path for path, under in files.items() if under == root], ours)


def text_report(audit: Audit) -> str:
    """Return a short summary, then each finding with its first examples; safe to print."""
    lines = [f"{' '.join(audit.sources)}: {audit.summary()}"]
    lines += [
        f"  {split:<11}{size:>9,} images" + (f" of {len(audit.counts[split]):,} classes" if audit.counts[split] else "")
        for split, size in audit.sizes.items()
    ]
    lines += [f"  {audit.files:,} files on disk; {audit.seconds:.1f} s"]
    lines += [f"  {note}" for note in audit.notes]
    for one in audit.findings:
        lines += ["", f"{one.severity.upper():<7}  {one.title}: {one.count:,}  [{one.code}]"]
        lines += [f"    {example.text}" for example in one.examples[:5]]
        lines += [f"    … and {one.count - 5:,} more"] if one.count > 5 else []
        lines += [f"  -> {one.advice}"]
    return "\n".join(visible(line) for line in lines)
