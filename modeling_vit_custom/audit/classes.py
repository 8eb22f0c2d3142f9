"""Findings on class names and class sizes, before a single image is opened.

Shapes: C classes.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping

from ..data.folders import SPLIT_FOLDERS, empty_classes
from ..data.labels import distinct_names, unshared_classes
from ..data.names import canonical_name, class_name_problems, natural_sorted
from ..data.raw import RawSplit
from .findings import ERROR, WARNING, Finding, finding

TINY_CLASS = 10  # images of train
IMBALANCE = 10.0  # largest class over smallest


def class_counts(part: RawSplit) -> Counter[str]:
    """Return how many images of a split each class has; it is empty if labels are numbers."""
    groups = (set(part.targets.names_of(label)) for label in part.labels)
    return Counter(canonical_name(name) for group in groups for name in group)


def class_findings(raw: Mapping[str, RawSplit]) -> list[Finding]:
    """Return findings on names, sets and sizes of classes."""
    return name_findings(raw) + set_findings(raw) + size_findings(raw)


def name_findings(raw: Mapping[str, RawSplit]) -> list[Finding]:
    """Return findings on names that no label map should hold, that look alike, or that are splits, not classes."""
    names = natural_sorted({name for part in raw.values() for name in distinct_names(part)})
    alike = defaultdict(list)
    for name in natural_sorted({canonical_name(name) for name in names}):
        alike[unicodedata.normalize("NFKC", name).casefold().strip(" _-.")].append(name)
    words = [name for name in names if canonical_name(name).lower() in SPLIT_FOLDERS]
    all_words = len(words) == len(names)
    return [
        *finding(
            ERROR,
            "class-names",
            "class names that cannot be used",
            "Rename or merge these classes.",
            class_name_problems(names),
        ),
        *finding(
            WARNING,
            "look-alike-classes",
            "classes that differ only by case, by spaces or underscores around, or by width of letters",
            "Merge them if they mean the same: a model would be asked to tell them apart.",
            [" and ".join(map(repr, group)) for group in alike.values() if len(group) > 1],
        ),
        *finding(
            ERROR if all_words else WARNING,
            "classes-named-as-splits",
            "classes called as splits are" + (", and no others" if all_words else ""),
            "A split needs class folders in it: DIR/train/<class>/. Without them the folder itself is taken for a "
            "class. Sort the images into classes; rename the folder if it is indeed a class.",
            words,
        ),
    ]


def set_findings(raw: Mapping[str, RawSplit]) -> list[Finding]:
    """Return findings on classes that a split lacks."""
    empty = [
        f"{split}: {part.contents.root / name}"
        for split, part in raw.items()
        if part.contents
        for name in empty_classes(part.contents)
    ]
    declared = set(map(canonical_name, raw["train"].class_names or []))
    unlearnt = natural_sorted(declared - set(class_counts(raw["train"]))) if class_counts(raw["train"]) else []
    differences = unshared_classes(raw)
    return [
        *finding(
            ERROR,
            "untrained-classes",
            "classes of held-out splits without a training image, which could only be got wrong",
            "Add training images for them, or take them out.",
            [f"{split}: {name}" for split, (extra, _) in differences.items() for name in extra],
        ),
        *finding(
            WARNING,
            "unmeasured-classes",
            "classes of train that a held-out split lacks, so that nothing is measured on them",
            "Hold out some images of each class.",
            [f"{split}: {name}" for split, (_, absent) in differences.items() for name in absent],
        ),
        *finding(
            WARNING,
            "empty-classes",
            "classes without any image, which the model will not know",
            "Fill or remove the folder (or the declared name).",
            empty + [f"train: {name}" for name in unlearnt],
        ),
    ]


def size_findings(raw: Mapping[str, RawSplit]) -> list[Finding]:
    """Return findings on classes of train that are small, or of very different sizes."""
    counts = class_counts(raw["train"])
    ranked = [(name, counts[name]) for name in natural_sorted(counts)]
    ranked.sort(key=lambda item: item[1])
    ratio = ranked[-1][1] / ranked[0][1] if ranked else 1.0
    named = [f"{name}: {count:,} image(s)" for name, count in ranked]
    return [
        *finding(
            WARNING,
            "tiny-classes",
            f"classes with fewer than {TINY_CLASS} training images",
            "Add images, or merge classes: so few are learnt by heart, and measured by chance.",
            [text for (_, count), text in zip(ranked, named, strict=True) if count < TINY_CLASS],
        ),
        *finding(
            WARNING,
            "imbalance",
            f"the largest class has {ratio:.1f} times the training images of the smallest",
            "Read the figures of each class, not accuracy alone: always answering the largest class looks good. With "
            "one label an image, --class_weights balanced makes rare classes count as much as frequent ones.",
            [f"{named[-1]}, but {named[0]}"] if ratio >= IMBALANCE else [],
        ),
    ]
