"""The trained classifier that --teacher names, and the matching of its classes to the data's.

Shapes: K classes of the teacher, L classes of the data.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...common.errors import UsageError
from ...common.fingerprint import digest
from ...data.examples import Splits
from ...data.names import canonical_name, in_order
from ...tasks.registry import one_label, task_named
from ...weight_files_vit_custom import shorten_list
from .teacher_loading import Teacher, teacher_of

# The names that --teacher_config accepts; for a folder only the last, since its own files hold the others.
FIELDS = ("image_size", "image_mean", "image_std", "crop_pct", "interpolation", "labels")
_NO_NAME = re.compile(r"LABEL_\d+")  # transformers' placeholder for a class without a name


def open_teacher(name: str, weights: str | None, settings: Mapping[str, Any], splits: Splits) -> Teacher:
    """Load the teacher that --teacher names and match its classes to the data's.

    Raises UsageError where it cannot be read, is no single-label classifier, or does not know the data's classes.
    """
    if not task_named(splits.problem_type).one_label:
        raise UsageError(f"--teacher is for {one_label()}, but the data is {splits.problem_type}: leave it out.")
    if unknown := sorted(settings.keys() - {*FIELDS}):
        raise UsageError(f"--teacher_config: {', '.join(unknown)} unknown; it takes {', '.join(FIELDS)}.")
    try:
        teacher = teacher_of(name, weights, settings)
    except UsageError:
        raise
    except (ValueError, RuntimeError, ImportError, OSError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"--teacher {name} cannot be used: {' '.join(str(error).split())[:400]}") from error
    if "labels" in settings:
        teacher = replace(teacher, labels={i: str(label) for i, label in enumerate(settings["labels"])})
    columns, note = match_classes(teacher, splits.id2label)
    size = sum(parameter.numel() for parameter in teacher.module.parameters())
    notes = [f"teacher {teacher.name}: {size:,} parameters; {'; '.join([*teacher.notes, note])}"]
    module = teacher.module.float().eval().requires_grad_(False)
    return replace(teacher, module=module, columns=columns, notes=notes, weights=digest(module.state_dict()))


def match_classes(teacher: Teacher, id2label: Mapping[int, str]) -> tuple[list[int], str]:
    """Return ([L] columns of the teacher's logits, a sentence): by name, or by number where the teacher has no names.

    Raises UsageError, with both lists, where the data has a class that the teacher lacks.
    """
    ours = in_order(id2label)
    known = {canonical_name(label): i for i, label in teacher.labels.items()}
    here = f"the data has {len(ours)} ({shorten_list(ours)})"
    if known and len(teacher.labels) != teacher.count:
        raise UsageError(f"--teacher {teacher.name} has {teacher.count} classes, not {len(teacher.labels)} labels.")
    if known and not all(_NO_NAME.fullmatch(label) for label in known):
        if missing := [label for label in ours if label not in known]:
            raise UsageError(
                f"--teacher {teacher.name} does not know {shorten_list(missing)}: it has {len(known)} class(es) "
                f"({shorten_list(list(known))}), {here}. Give one trained on these, or its own names for them, in its "
                'order, as --teacher_config "labels=[…]".'
            )
        beyond = f", {len(known) - len(ours)} others are left out" if len(known) > len(ours) else ""
        return [known[label] for label in ours], f"its classes are the data's by name{beyond}"
    if teacher.count != len(ours):
        raise UsageError(
            f"--teacher {teacher.name} has {teacher.count} classes without names, {here}: they cannot be matched. Give "
            'its names in its order, --teacher_config "labels=[…]".'
        )
    order = f"its classes have no names and are taken to be, in this order, {shorten_list(ours, 5)}"
    if ours != sorted(ours):
        order += f"; torchvision's ImageFolder would have numbered them {shorten_list(sorted(ours), 5)}"
    return list(range(len(ours))), f'{order} (otherwise --teacher_config "labels=[…]")'
