"""Label maps: the names in a split, their ids, and whether a checkpoint's head is kept."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..common.errors import DataError
from ..weight_files_vit_custom import shorten_list
from .names import canonical_name, check_class_names, natural_sorted
from .raw import RawSplit
from .targets import Targets


def label_map(raw: RawSplit) -> dict[int, str]:
    """Return id -> name for the classes (or targets) of the training split.

    A declared order is kept; names found in the data are put in natural order. A merely alphabetical order
    (`imagefolder` declares 1, 10, 2) counts as found in the data.
    """
    found = raw.class_names if raw.class_names is not None else distinct_names(raw)
    check_class_names(found)
    if len(set(found)) < len(found):
        doubled = next(name for name in found if found.count(name) > 1)
        raise DataError(f"class name {doubled!r} is declared twice: ids would be ambiguous. Rename one of them.")
    if raw.targets.named and found == sorted(found):
        found = natural_sorted(found)
    raw.targets.check_names(found)
    return {i: canonical_name(name) for i, name in enumerate(found)}


def distinct_names(raw: RawSplit) -> list[str]:
    """Return the class names that occur in a split's labels, in natural order; [] if labels are numbers."""
    if not raw.targets.named:
        return []
    return natural_sorted({name for label in raw.labels for name in raw.targets.names_of(label)})


def unshared_classes(splits: Mapping[str, RawSplit]) -> dict[str, tuple[list[str], list[str]]]:
    """Return for each held-out split (classes that train lacks, classes of train that it lacks), in natural order."""
    found = {split: {canonical_name(name) for name in distinct_names(raw)} for split, raw in splits.items()}
    return {
        split: (natural_sorted(names - found["train"]), natural_sorted(found["train"] - names))
        for split, names in found.items()
        if split != "train"
    }


def compare_class_sets(splits: Mapping[str, RawSplit], id2label: Mapping[int, str]) -> list[str]:
    """Return notes on classes missing from a split.

    Raises DataError if a held-out split holds a class that training does not: it could only be predicted wrong.
    """
    notes: list[str] = []
    trained = {canonical_name(name) for name in distinct_names(splits["train"])}
    if not splits["train"].targets.named:
        return notes
    if unseen := [name for name in id2label.values() if name not in trained]:
        notes.append(f"no training image for the declared class(es) {shorten_list(unseen)}: they cannot be learned.")
    for split, (extra, absent) in unshared_classes(splits).items():
        if extra:
            raise DataError(
                f"{split} holds class(es) that train does not: {shorten_list(extra)}. Add training images for "
                f"them, or take them out of {split}. (Classes of train: {shorten_list(natural_sorted(trained))}.)"
            )
        if absent:
            notes.append(f"{split} has no image of class(es) {shorten_list(absent)}: nothing is measured on them.")
    return notes


@dataclass(frozen=True)
class HeadPlan:
    """What happens to a checkpoint's head: the label map to train with, whether the head is new, and why."""

    id2label: dict[int, str]
    new_head: bool
    reason: str


def plan_head(
    data: Mapping[int, str], targets: type[Targets], checkpoint: Mapping[int, str], checkpoint_type: str | None
) -> HeadPlan:
    """Compare the data's label map with a checkpoint's and decide whether its head is kept.

    If both have the same task and set of names, the head *and its ids* are kept, whatever order the data has. Any other
    set needs a new head, because a stored row of weights belongs to the class it was trained for.
    """
    data, checkpoint = dict(data), {int(i): canonical_name(name) for i, name in checkpoint.items()}
    kept = dict(sorted(checkpoint.items()))
    if not checkpoint:
        return HeadPlan(data, True, "the checkpoint is an encoder, without a head")
    if checkpoint_type not in (None, targets.problem_type):
        why = f"the checkpoint was trained for {checkpoint_type}, the data is {targets.problem_type}"
        return HeadPlan(data, True, why)
    if data == kept:
        return HeadPlan(kept, False, "the checkpoint's labels are the data's: its head is kept")
    if targets.named and sorted(data.values()) == sorted(kept.values()):
        return HeadPlan(kept, False, "the checkpoint has the same labels in another order: its ids are kept")
    common = set(data.values()) & set(kept.values())
    reason = (
        f"the checkpoint's head knows {len(kept)} label(s) ({shorten_list(list(kept.values()), 5)}), the data has "
        f"{len(data)} ({shorten_list(list(data.values()), 5)}), {len(common)} in common"
    )
    return HeadPlan(data, True, reason)
