"""The labels of a configuration: ids 0 to n - 1 and safe names, in two tables that are inverse to each other."""

import numbers
import unicodedata
from collections import Counter
from typing import Any, NoReturn

from transformers.utils import logging

logger = logging.get_logger(__name__)

JOINERS = "\u200c\u200d"  # invisible, but part of Persian and Hindi words and of emoji
MAX_LABELS = 250_000  # the most classes of a public image set are about 200,000 (Google Landmarks v2)


def reject_field(field: str, value: Any, fix: str) -> NoReturn:
    """Raise ValueError that names a field, its value (shortened) and the fix."""
    shown = repr(value)
    raise ValueError(f"{field}={shown[:200]}{'…' * (len(shown) > 200)}: {fix}.")


def read_labels(
    id2label: Any, label2id: Any, num_labels: int | None
) -> tuple[dict[int, str] | None, dict[str, int] | None]:
    """Return id2label as {int: str} and label2id as {str: int}, each derived from the other if it is None.

    Returns (None, None) if both are. Raises ValueError for an invalid table or one without `num_labels` entries.
    """
    if not isinstance(id2label, dict | None):
        reject_field("id2label", id2label, "must map each id to its name, as {0: 'cat', 1: 'dog'}")
    if not isinstance(label2id, dict | None):
        reject_field("label2id", label2id, "must map each name to its id, as {'cat': 0, 'dog': 1}")
    if id2label is None and label2id is not None:
        id2label = {_label_id("label2id", i): name for name, i in label2id.items()}
    if id2label is None:
        return None, None
    require_label_count(len(id2label))
    if num_labels is not None and num_labels != len(id2label):
        reject_field("num_labels", num_labels, f"id2label has {len(id2label)} entries: leave num_labels out")
    names = {_label_id("id2label", i): name for i, name in id2label.items()}
    if len(names) < len(id2label):
        reject_field("id2label", id2label, "holds an id twice, as a number and as a string")
    for i, name in names.items():
        _require_label_name(i, name)
    if label2id is None:
        return names, {name: i for i, name in names.items()}
    return names, {name: _label_id("label2id", i) for name, i in label2id.items()}


def validate_labels(id2label: dict[int, str], label2id: Any) -> None:
    """Raise ValueError unless ids have no gaps, names are safe and the tables agree; warn of a repeated name."""
    if sorted(id2label) != list(range(len(id2label))):
        reject_field("id2label", sorted(id2label), f"ids must be 0 to {len(id2label) - 1} without gaps")
    for i, name in id2label.items():
        _require_label_name(i, name)
    repeated = [name for name, count in Counter(id2label.values()).items() if count > 1]
    if repeated:
        logger.warning_once(f"id2label names several classes alike: {repeated[:5]}. Their ids stay distinct.")
    elif (label2id or {}) != {name: i for i, name in id2label.items()}:
        reject_field("label2id", label2id, "must be the inverse of id2label: leave one of the two out")


def require_label_count(value: Any) -> None:
    """Raise ValueError unless `value` can be a number of classes."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not 0 <= int(value) <= MAX_LABELS:
        reject_field("num_labels", value, f"must be a whole number from 0 (no head) to {MAX_LABELS}")


def _label_id(field: str, value: Any) -> int:
    """The id in a key of id2label (in JSON a string) or in a value of label2id. Raises ValueError for any other."""
    text = str(value)
    if not text.isdecimal() or len(text) > len(str(MAX_LABELS)) or str(int(text)) != text:
        reject_field(field, text[:40], f"an id must be a whole number up to {MAX_LABELS}")
    return int(value)


def _require_label_name(i: int, name: Any) -> None:
    if not isinstance(name, str) or not name.strip():
        reject_field(f"id2label[{i}]", name, "must be a non-empty string")
    if unsafe_characters(name):
        reject_field(f"id2label[{i}]", name, "must not hold control characters, '<' or '>': rename the class")


def unsafe_characters(name: str) -> list[str]:
    """Return the characters that a label must not hold: '<', '>', line breaks and invisible ones.

    Joiners are allowed in a label that also holds visible characters.
    """
    joiners = JOINERS if any(c not in JOINERS and not c.isspace() for c in name) else ""
    invisible = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [c for c in name if c in "<>" or (unicodedata.category(c) in invisible and c not in joiners)]
