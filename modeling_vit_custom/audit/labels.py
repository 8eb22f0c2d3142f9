"""Findings of a model on labels: those that are probably wrong.

Shapes: N images that can be checked, K classes.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.errors import UsageError
from ..data.examples import Examples, Joined
from ..data.names import natural_sorted
from ..data.raw import RawSplit
from ..data.targets import ClassIds
from ..features.fitted import Fitted, fit
from ..features.label_errors import Estimate, LabelErrors, estimate_errors, find_label_errors
from ..features.selection import held_out_logits
from ..features.store import Features
from .classes import class_counts
from .duplicates import same_pixels
from .encoder import Encoder
from .findings import NOTE, SPLITS, WARNING, Catalogue, Example, Finding, finding

LEAST = 5  # images that a class needs to be checked: as many as there are folds
HEAD = "discriminant"  # in closed form: heads are fitted up to 60 times
SHOWN = 60  # suspects among the examples; the JSON lists all


@dataclass(frozen=True)
class Checked:
    """The labels of N images, looked at by a model.

    numbers: [N] of the catalogue.   classes: [K] names.   labels: [N] class ids.   features: of the N images.
    fitted: the head that was fitted to all of them.   errors: see `find_label_errors`.
    estimate: of the number of wrong labels; see `estimate_errors`.
    unchecked: examples of the finding on small classes.   notes: how the features were made.
    """

    numbers: np.ndarray
    classes: list[str]
    labels: np.ndarray
    features: Features
    fitted: Fitted
    errors: LabelErrors
    estimate: Estimate
    unchecked: list[str]
    notes: list[str]

    @property
    def count(self) -> int:
        """The number of labels that the finding reports."""
        return min(round(self.estimate.wrong), len(self.errors.suspects))

    @property
    def expected(self) -> int:
        """How many of these are expected to be wrong."""
        if not self.count:
            return 0
        return min(self.count, round(self.estimate.among(float(self.errors.own[self.errors.suspects[self.count - 1]]))))


def refuse_unchecked(raw: Mapping[str, RawSplit]) -> None:
    """Raise UsageError unless every image has one class and two classes or more have enough images."""
    for split, part in raw.items():
        if part.targets is not ClassIds:
            kind = part.targets.problem_type or "without labels"
            raise UsageError(
                f"--model looks for wrong labels where each image has one class, and {split} is {kind}: leave --model "
                "out."
            )
    counts = sum((class_counts(part) for part in raw.values()), Counter[str]())
    if (enough := sum(count >= LEAST for count in counts.values())) < 2:
        raise UsageError(
            f"--model looks for wrong labels among two classes or more that have {LEAST} images each; here are "
            f"{enough} such classes: add images, or leave --model out."
        )


def check_labels(
    encoder: Encoder,
    raw: Mapping[str, RawSplit],
    catalogue: Catalogue,
    records: np.ndarray,
    image_cache: str,
    progress: bool,
) -> Checked:
    """Look at the labels of all splits together; see `refuse_unchecked`.

    records: of all images; those that cannot be decoded are left out, and classes with fewer than `LEAST` others.
    Raises DataError for features that cannot be computed or kept.
    """
    readable = np.flatnonzero(records["height"] > 0)
    names = [str(label) for label in catalogue.labels]
    counts = Counter(names[i] for i in readable)
    classes = natural_sorted(name for name in counts if counts[name] >= LEAST)
    ids = {name: place for place, name in enumerate(classes)}
    numbers = np.array([i for i in readable if names[i] in ids], np.int64)
    labels = np.array([ids[names[i]] for i in numbers], np.int64)
    if len(classes) < 2:
        raise UsageError(f"--model needs two classes with {LEAST} images that can be decoded: leave --model out.")
    images = Joined([raw[split].images for split in SPLITS if split in raw])
    examples = Examples(images, catalogue.names).select(numbers.tolist())
    features, where = encoder.features(examples, image_cache, progress)
    fitted = fit(features, ClassIds(labels), len(classes), HEAD)
    rows, copies = features.of(fitted.tap), _copies(records)[numbers]

    def probabilities(labels: np.ndarray, seed: int) -> np.ndarray:
        strength = fitted.head.strength
        return held_out_logits(rows, labels, len(classes), HEAD, strength, copies, seed).softmax(dim=1).numpy()

    errors = find_label_errors(labels, probabilities(labels, 0))
    estimate = estimate_errors(labels, len(classes), probabilities)
    small = natural_sorted({*names} - {*classes})
    return Checked(
        numbers,
        classes,
        labels,
        features,
        fitted,
        errors,
        estimate,
        [f"{name}: {counts[name]:,} image(s)" for name in small],
        [*encoder.notes, f"features of {len(numbers):,} images {where}", *fitted.sentences()],
    )


def _copies(records: np.ndarray) -> np.ndarray:
    """For each image the number of the first one with the same pixels."""
    copies = np.arange(len(records))
    for group in same_pixels(records):
        copies[group] = group[0]
    return copies


def label_findings(catalogue: Catalogue, checked: Checked) -> list[Finding]:
    """Return findings on labels that are probably wrong, worst first, and on classes that could not be checked."""
    total, count = len(checked.numbers), checked.count
    unchecked = finding(
        NOTE,
        "unchecked-labels",
        f"classes with fewer than {LEAST} images, whose labels no model could check",
        "Look at their labels yourself, or add images.",
        checked.unchecked,
    )
    if not count:
        return unchecked
    title = f"labels that are probably wrong, of {total:,} (an estimate)"
    advice = (
        f"Look at each before you change it: about {checked.expected:,} of these {count:,} are expected to be wrong, "
        "estimated from labels swapped at random. Similar classes that were confused are harder to find: --json lists "
        f"{len(checked.errors.suspects):,} suspects, among them hard images with right labels."
    )
    examples = [
        Example(
            f"{catalogue.names[row['number']]} [{row['split']}]: labelled {row['label']}, looks like {row['likely']} "
            f"(p {row['p_likely']:.2f}, own label {row['p_label']:.2f})",
            (row["number"],),
        )
        for row in suspects(catalogue, checked)[: min(count, SHOWN)]
    ]
    return [Finding(WARNING, "label-errors", title, advice, count, examples, all_on_page=True), *unchecked]


def suspects(catalogue: Catalogue, checked: Checked) -> list[dict[str, Any]]:
    """Return a row for each label that is suspected, worst first, fit for JSON."""
    errors = checked.errors
    return [
        {
            "number": int(checked.numbers[i]),
            "image": catalogue.names[checked.numbers[i]],
            "split": SPLITS[catalogue.splits[checked.numbers[i]]],
            "label": checked.classes[checked.labels[i]],
            "likely": checked.classes[errors.likely[i]],
            "p_label": round(float(errors.own[i]), 4),
            "p_likely": round(float(errors.likely_probability[i]), 4),
            "confident": bool(errors.confident[i]),
        }
        for i in errors.suspects
    ]


def label_record(catalogue: Catalogue, checked: Checked) -> dict[str, Any]:
    """Return the entry "label_errors" of the JSON."""
    rows = suspects(catalogue, checked)
    return {
        "checked": len(checked.numbers),
        "estimated_wrong": round(checked.estimate.wrong, 1),
        "listed": checked.count,
        "expected_wrong_among_listed": checked.expected,
        "counted_by_confident_learning": round(checked.errors.counted, 1),
        "features": str(checked.fitted.tap),
        "head": str(checked.fitted.head),
        "suspects": [{key: value for key, value in row.items() if key != "number"} for row in rows],
    }
