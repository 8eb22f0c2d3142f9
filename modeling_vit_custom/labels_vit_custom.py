"""What a configuration says of its classes: ids 0 to n - 1 and safe names, each table the inverse of the other."""

import numbers
import unicodedata
from collections import Counter
from typing import Any, NoReturn

from transformers.utils import logging

logger = logging.get_logger(__name__)

MAX_LABELS = 250_000  # the most classes of a public image set are about 200,000 (Google Landmarks v2)


def refuse(field: str, value: Any, fix: str) -> NoReturn:
    """Raises ValueError naming a field, its value (cut where it is long) and the fix."""
    shown = repr(value)
    raise ValueError(f"{field}={shown[:200]}{'…' * (len(shown) > 200)}: {fix}.")


def read_labels(
    id2label: Any, label2id: Any, num_labels: int | None
) -> tuple[dict[int, str] | None, dict[str, int] | None]:
    """Both as {int: str} and {str: int}, each derived from the other if absent; None, None if both are.

    Raises ValueError for tables that say no labels, or not `num_labels` of them.
    """
    if not isinstance(id2label, dict | None):
        refuse("id2label", id2label, "must map each id to its name, as {0: 'cat', 1: 'dog'}")
    if not isinstance(label2id, dict | None):
        refuse("label2id", label2id, "must map each name to its id, as {'cat': 0, 'dog': 1}")
    if id2label is None and label2id is not None:
        id2label = {_label_id("label2id", i): name for name, i in label2id.items()}
    if id2label is None:
        return None, None
    require_label_count(len(id2label))
    if num_labels is not None and num_labels != len(id2label):
        refuse("num_labels", num_labels, f"id2label has {len(id2label)} entries: leave num_labels out")
    names = {_label_id("id2label", i): name for i, name in id2label.items()}
    if len(names) < len(id2label):
        refuse("id2label", id2label, "holds an id twice, as a number and as a string")
    for i, name in names.items():
        _require_label_name(i, name)
    if label2id is None:
        return names, {name: i for i, name in names.items()}
    return names, {name: _label_id("label2id", i) for name, i in label2id.items()}


def validate_labels(id2label: dict[int, str], label2id: Any) -> None:
    """Raises ValueError unless ids have no gaps, names are safe and the tables agree; warns of a repeated name."""
    if sorted(id2label) != list(range(len(id2label))):
        refuse("id2label", sorted(id2label), f"ids must be 0 to {len(id2label) - 1} without gaps")
    for i, name in id2label.items():
        _require_label_name(i, name)
    repeated = [name for name, count in Counter(id2label.values()).items() if count > 1]
    if repeated:
        logger.warning_once(f"id2label names several classes alike: {repeated[:5]}. Their ids stay distinct.")
    elif (label2id or {}) != {name: i for i, name in id2label.items()}:
        refuse("label2id", label2id, "must be the inverse of id2label: leave one of the two out")


def require_label_count(value: Any) -> None:
    """Raises ValueError unless `value` can be a number of classes."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not 0 <= int(value) <= MAX_LABELS:
        refuse("num_labels", value, f"must be a whole number from 0 (no head) to {MAX_LABELS}")


def _label_id(field: str, value: Any) -> int:
    """The id that a key of id2label, a string in JSON, or a value of label2id stands for."""
    text = str(value)
    if not text.isdecimal() or len(text) > len(str(MAX_LABELS)) or str(int(text)) != text:
        refuse(field, text[:40], f"an id must be a whole number up to {MAX_LABELS}")
    return int(value)


def _require_label_name(i: int, name: Any) -> None:
    if not isinstance(name, str) or not name.strip():
        refuse(f"id2label[{i}]", name, "must be a non-empty string")
    if any(_is_unsafe(character) for character in name):
        refuse(f"id2label[{i}]", name, "must not hold control characters, '<' or '>': rename the class")


def _is_unsafe(character: str) -> bool:
    """Whether a label must not hold it: markup, and what is invisible or breaks lines. Joiners spell words."""
    invisible = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return character in "<>" or (invisible and character not in "\u200c\u200d")
