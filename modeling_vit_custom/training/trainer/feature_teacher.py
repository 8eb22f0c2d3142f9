"""The encoder that `pretrain --teacher` names, fitted to the student's images, and what learning from it needs."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from ...common.errors import UsageError
from ...common.fingerprint import digest
from ...data.cache import CachedViews
from ...data.examples import Examples, Splits
from ..arguments.data_arguments import DataArguments
from ..arguments.training_arguments import ViTTrainingArguments
from ..arguments.values import field_values
from ..initialization.build import fit_channels
from ..initialization.frozen_encoder import load_frozen
from ..initialization.start_checkpoint import FIELDS, Start, is_foreign
from ..objectives.feature_distillation import FeatureLoss, Statistics
from ..objectives.teacher_features import EncoderTeacher, TeacherFeatures, open_teacher_features

SIZE = "image_size"


def feature_teacher_for(config: Any, data_args: DataArguments, training_args: ViTTrainingArguments) -> EncoderTeacher:
    """Load the encoder that --teacher names, at the size that --teacher_config gives, else at its own.

    config: the student's. Raises UsageError where it cannot be read or converted, has other channels than the student,
    or where a flag would move the student's image in a way that the teacher's features cannot follow.
    """
    name = str(training_args.teacher)
    _check_student(config, data_args)
    fields = field_values(training_args.teacher_config, "--teacher_config")
    if unknown := sorted(fields.keys() - FIELDS - {SIZE}):
        takes = ", ".join(sorted(FIELDS | {SIZE}))
        raise UsageError(f"--teacher_config: {', '.join(unknown)} unknown; of an encoder it takes {takes}.")
    size = _size(fields.pop(SIZE, None))
    try:
        if fields and not is_foreign(name):
            raise UsageError(f"--teacher_config {sorted(fields)[0]}: {name} says it itself, only {SIZE} can change.")
        net, processor, said = load_frozen(Start(name, image_size=size, source_fields=fields or None))
    except UsageError as error:
        raise UsageError(_with_our_flags(str(error))) from error
    notes = Splits(Examples([], []), None, None, {}, notes=said)
    if config.num_channels == 1 and net.config.num_channels == 3:
        net.resize_input(num_channels=1)
        fit_channels(processor, 1, notes)
    if net.config.num_channels != config.num_channels:
        raise UsageError(
            f"--teacher {name} takes images of {net.config.num_channels} channels, the student {config.num_channels}: "
            f'give another teacher, or --config_overrides "num_channels={net.config.num_channels}".'
        )
    encoder = net.vit
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    height, width = encoder.config.image_hw
    shown = f"images of {height}x{width} in {encoder.config.grid_hw[0]}x{encoder.config.grid_hw[1]} patches"
    sentence = (
        f"teacher {name}: an encoder of {parameters:,} parameters and width {encoder.config.hidden_size}; {shown}"
    )
    if encoder.config.hidden_size < config.hidden_size:
        sentence += f"; it is narrower than the student, whose width is {config.hidden_size}"
    return EncoderTeacher(name, encoder, processor, digest(encoder.state_dict()), [sentence, *notes.notes])


def learn_features(
    teacher: EncoderTeacher,
    views: Mapping[str, Any],
    splits: Splits,
    image_cache: str,
    device: torch.device,
    progress: bool,
) -> tuple[FeatureLoss, dict[str, TeacherFeatures], list[str]]:
    """Return (the loss of a student, the teacher's features of each split, sentences on both).

    views: of the student, by split. Raises as `open_teacher_features`.
    """
    rows, notes = {}, list(teacher.notes)
    for split, view in views.items():
        maker = view.decoded.maker if isinstance(view, CachedViews) else view.maker
        examples: Any = getattr(splits, split)
        rows[split], where = open_teacher_features(teacher, examples, maker, image_cache, device, progress)
        notes.append(f"{split}: the teacher's features are {where}")
    return FeatureLoss(Statistics.of(rows["train"], teacher), teacher.grid), rows, notes


def _check_student(config: Any, data_args: DataArguments) -> None:
    if data_args.auto_augment:
        raise UsageError(
            f"--auto_augment {data_args.auto_augment} moves images in ways that a teacher's features cannot follow: "
            "leave it or --teacher out; --augmentation crops and mirrors both."
        )
    if config.patch_drop_rate:
        raise UsageError(
            f"--patch_drop_rate {config.patch_drop_rate:g} leaves out patches, and --teacher teaches every one: leave "
            "one of the two flags out."
        )


def _size(given: Any) -> int | tuple[int, int] | None:
    sides = given if isinstance(given, list | tuple) else [given]
    if given is None:
        return None
    if len(sides) not in (1, 2) or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UsageError(f"--teacher_config {SIZE}={given}: give whole pixels, {SIZE}=98 or {SIZE}=[98,140].")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _with_our_flags(text: str) -> str:
    text = re.sub(r"--source_config (\w+)=…", r'--teacher_config "\1=…"', text)
    return text.replace("--model_name_or_path", "--teacher").replace("--source_config", "--teacher_config")
