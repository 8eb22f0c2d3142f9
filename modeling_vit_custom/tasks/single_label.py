"""Single-label classification: one class for each image.

Shapes: N examples, n of a batch, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.targets import ClassIds
from ..reporting.charts import Chart, bar_chart
from ..reporting.formatting import wilson_interval
from .calibration import Reliability, calibrate, confidences, reliability
from .entries import class_notes, ranked
from .hub import CLASSIFICATION
from .metrics import ClassCounts, checked
from .task import ONE_LABEL, Answers, Details, Mistake, Task

TOP_K = 5


def best_of(logits: np.ndarray) -> np.ndarray:
    """Return the class [N] of the largest logit."""
    return logits.argmax(axis=1)


class Metrics:
    """Accuracy, top-5 accuracy (with more than five classes), macro F1, expected calibration error."""

    def __init__(self, num_labels: int):
        self.counts, self.confidences, self.among_best = ClassCounts(num_labels), Reliability.empty(), 0
        self.num_labels, self.seen = num_labels, 0

    def update(self, outputs: np.ndarray, values: np.ndarray) -> None:
        logits, labels = checked(outputs, values, NAME, self.num_labels, True, self.num_labels, self.seen)
        predicted = best_of(logits)
        self.counts.add_ids(predicted, labels)
        self.confidences.add(confidences(logits), predicted == labels)
        if self.num_labels > TOP_K:
            own = np.take_along_axis(logits, labels[:, None], axis=1)
            before = np.arange(self.num_labels) < labels[:, None]  # of equal logits the first ranks higher
            self.among_best += int((((logits > own) | ((logits == own) & before)).sum(axis=1) < TOP_K).sum())
        self.seen += len(labels)

    def compute(self) -> dict[str, float]:
        top = {f"top{TOP_K}_accuracy": self.among_best / self.seen} if self.num_labels > TOP_K else {}
        return {
            "accuracy": int(self.counts.right.sum()) / self.seen,
            **top,
            "macro_f1": self.counts.macro_f1(),
            "ece": self.confidences.error(),
        }

    def per_label(self) -> dict[str, np.ndarray]:
        return self.counts.per_label()


def measures(num_labels: int) -> dict[str, bool]:
    """Return {metric: whether higher is better}; top-5 accuracy only with more than five classes."""
    top = {f"top{TOP_K}_accuracy": True} if num_labels > TOP_K else {}
    return {"accuracy": True, **top, "macro_f1": True, "ece": False}


def score(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return 1 where the label [N] has the largest of the logits [N, C], else 0."""
    return (best_of(logits) == labels).astype(np.float64)


def entries(logits: Any, names: Mapping[int, str], most: int) -> list[list[dict[str, Any]]]:
    """Return the classes of highest probability (softmax), best first.   logits: tensor [B, C]."""
    return ranked(logits.softmax(dim=-1), names, most)


def mistakes(logits: np.ndarray, labels: np.ndarray, names: Mapping[int, str], count: int) -> tuple[list[Mistake], int]:
    """Return the `count` wrong predictions of highest probability, and how many predictions are wrong."""
    predicted = best_of(logits)
    wrong = np.flatnonzero(predicted != labels)
    scores = confidences(logits[wrong])
    worst = [
        Mistake(i, names[true], names[given], score, f"{score:.1%}", given, true)
        for i, true, given, score in (
            (int(wrong[k]), int(labels[wrong[k]]), int(predicted[wrong[k]]), float(scores[k]))
            for k in np.argsort(-scores, kind="stable")[:count]
        )
    ]
    return worst, len(wrong)


def surest(logits: np.ndarray, labels: np.ndarray, names: Mapping[int, str], count: int) -> list[Mistake]:
    """Return the right answer of highest probability of each of `count` classes, the surest classes first."""
    right = np.flatnonzero(best_of(logits) == labels)
    scores = confidences(logits[right])
    found: dict[int, Mistake] = {}
    for k in np.argsort(-scores, kind="stable"):
        i, score = int(right[k]), float(scores[k])
        own = int(labels[i])
        if own not in found and len(found) < count:
            others = np.delete(np.arange(logits.shape[1]), own)
            rival = int(others[logits[i, others].argmax()]) if len(others) else None
            found[own] = Mistake(i, names[own], names[own], score, f"{score:.1%}", own, rival)
    return list(found.values())


def details(
    logits: np.ndarray, labels: np.ndarray, report: Mapping[str, np.ndarray], names: Mapping[int, str]
) -> Details:
    """Return the confusions, the calibration, and notes on undefined recall and precision."""
    pairs, times = np.unique(labels * len(names) + best_of(logits), return_counts=True)
    confused = np.stack([times, *np.divmod(pairs, len(names))], axis=1)
    calibration, note = calibrate(logits, labels)
    return Details([note, *class_notes(report, names)], confused, calibration)


def charts(logits: np.ndarray, labels: np.ndarray, names: Mapping[int, str]) -> list[Chart]:
    """Return two charts over confidence: the share of right predictions, and the number of images."""
    found = reliability(confidences(logits), best_of(logits) == labels)
    filled = np.maximum(found.count, 1)
    accuracy, confidence = found.right / filled, found.confidence / filled
    edges = np.linspace(0, 1, len(filled) + 1)
    texts = [
        f"confidence {edges[b]:.2f} to {edges[b + 1]:.2f}: {int(found.count[b]):,} images"
        + (f", {accuracy[b]:.1%} right, mean confidence {confidence[b]:.1%}" if found.count[b] else "")
        for b in range(len(filled))
    ]
    counts = found.count.tolist()
    intervals = [wilson_interval(share, n) if n else None for share, n in zip(accuracy.tolist(), counts, strict=True)]
    labels_of = ["" if n == 0 else f"{n}" if n < 10_000 else f"{n / 1000:.0f}k" for n in counts]
    right, many = "Share right at each confidence, 95% interval", "Images at each confidence"
    return [
        bar_chart(right, accuracy.tolist(), texts, "confidence", intervals=intervals, y_limits=(0, 1), diagonal=True),
        bar_chart(many, counts, texts, "confidence", labels=labels_of),
    ]


def baseline(rows: Sequence[Mapping[str, Any]]) -> tuple[str, float] | None:
    """Return the most frequent class and the accuracy of always answering it."""
    if not rows or not (total := sum(row["support"] for row in rows)):
        return None
    most = max(rows, key=lambda row: row["support"])
    return most["label"], most["support"] / total


def does(images: str, model: Mapping[str, Any]) -> str:
    return f"sorts {images} into {len(model['labels'])} classes"


def limits(model: Mapping[str, Any]) -> list[str]:
    count = len(model["labels"])
    if model.get("unknown"):
        measured = "How many pictures of anything else it recognises depends on them: measure it with your own."
        return [f'It knows {count} classes, and says "unknown" beside its answer {model["unknown"]}. {measured}']
    sure = "A picture of anything else gets one of these labels too, sometimes with a high score."
    return [f"It knows {count} classes and nothing else. {sure}"]


NAME = ClassIds.problem_type
SINGLE_LABEL = Task(
    name=NAME,
    listing=CLASSIFICATION,
    targets=ClassIds,
    does=does,
    limits=limits,
    measures=measures,
    metrics=Metrics,
    score=score,
    agree=lambda logits, others: best_of(logits) == best_of(others),
    entries=entries,
    mistakes=mistakes,
    surest=surest,
    details=details,
    charts=charts,
    baseline=baseline,
    answers=Answers(lambda logits: logits.argmax(-1, keepdim=True).tolist(), lambda logits: logits.softmax(-1)),
    score_name="accuracy",
    in_points=True,
    heads=("logistic", "discriminant", "prototypes"),
    supports=frozenset({ONE_LABEL}),
)
