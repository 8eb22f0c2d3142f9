"""The model that a training begins with: a variant with random weights, or a checkpoint.

Shapes: N examples, C classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers.trainer_utils import set_seed

from ...common.errors import DataError, UsageError
from ...data.examples import Splits
from ...data.labels import plan_head
from ...data.sources import with_label_ids
from ...image_processing_vit_custom import ViTCustomImageProcessor
from ...pretrained_vit_custom import ViTCustomPreTrainedModel, resize_input
from ...tasks.hub import CLASSIFICATION
from ...weight_files_vit_custom import shorten_list
from .start_checkpoint import Pretrained, Start, variant_config

FROM_ZERO = "trained from zero"  # in notes on weights that a checkpoint lacks


def build_model(
    start: Start,
    pretrained: Pretrained | None,
    splits: Splits,
    seed: int,
    model_class: type[ViTCustomPreTrainedModel] = CLASSIFICATION.model,
) -> tuple[Any, Any, Splits]:
    """Return (model, image processor, splits with the model's label ids), from a variant or from a checkpoint.

    model_class: the class of the model; `pretrained` loads the same.
    """
    set_seed(seed)
    if pretrained is None:
        return *from_variant(start, splits, model_class), splits
    with checkpoint_explained(start):
        return _from_checkpoint(pretrained, start, splits)


@contextmanager
def checkpoint_explained(start: Start) -> Iterator[None]:
    """Turn errors of loading or adapting the checkpoint into UsageErrors that name it."""
    try:
        yield
    except (DataError, UsageError):
        raise
    except (ValueError, TypeError, RuntimeError, OSError, StrictDataclassError) as error:
        raise UsageError(f"--model_name_or_path {start.checkpoint} cannot be used: {error}") from error


def from_variant(start: Start, splits: Splits, model_class: type) -> tuple[Any, Any]:
    """Return (model with random weights, image processor) of --variant and the flags with it. Raises UsageError."""
    config = variant_config(start, **labels_of(splits))
    return model_class(config), ViTCustomImageProcessor.for_model(config)


def _from_checkpoint(pretrained: Pretrained, start: Start, splits: Splits):
    config: Any = pretrained.config
    plan = None
    if splits.id2label:
        plan = plan_head(splits.id2label, type(splits.train.targets), config.id2label, config.problem_type)
        splits = splits if plan.new_head else with_label_ids(splits, plan.id2label)
    model = load_checkpoint(pretrained, start, splits)
    if plan is not None:
        if plan.new_head:
            head = nn.Linear(model.classifier.in_features, model.config.num_labels)
            model._init_weights(head)
            model.classifier = head.to(model.dtype)
        splits.notes.append(f"{f'NEW HEAD, {FROM_ZERO}' if plan.new_head else 'head'}: {plan.reason}")
    fit_to_size(model, pretrained.processor, start.image_size, splits)
    return model, pretrained.processor, splits


def load_checkpoint(pretrained: Pretrained, start: Start, splits: Splits) -> Any:
    """Return the model in float32; add notes on weights that it leaves out or that the checkpoint lacks.

    The notes are added to splits.notes. Raises UsageError if a pooler that the checkpoint lacks would not be trained.
    """
    splits.notes.extend(pretrained.notes)
    model, loaded = pretrained.load(
        start.fields | labels_of(splits) | {"unknown": None},
        ignore_mismatched_sizes=start.ignore_mismatched_sizes,
        dtype=torch.float32,  # in half precision small updates would be lost
        output_loading_info=True,
    )
    if (dtype := pretrained.config.dtype) not in (None, torch.float32):
        splits.notes.append(f"the checkpoint holds {dtype} weights: they are trained, and saved, as float32")
    if getattr(model.config, "speeds", None):
        model.config.speeds = None
        splits.notes.append("the checkpoint's speeds were measured with its own weights: left out (see speed_table)")
    if left_out := sorted(loaded["unexpected_keys"]):
        splits.notes.append(
            f"left out of the checkpoint, this model has no use for them: {shorten_list(left_out, limit=100)}"
        )
    if new := sorted(name for name in loaded["missing_keys"] if not name.startswith(model.label_prefixes)):
        splits.notes.append(f"NEW WEIGHTS, {FROM_ZERO}, the checkpoint has none: {shorten_list(new, limit=100)}")
        untrained = [name for name in new if name.startswith("vit.pooler.attention_pooling.")]
        if untrained and start.head_alone:
            raise UsageError(
                "--method linear_probe would leave random weights, which the checkpoint lacks: "
                f"{shorten_list(untrained)}. Train all of it, with --method full."
            )
    return model


def fit_to_size(model: Any, processor: Any, size: int | tuple[int, int] | None, splits: Splits) -> None:
    """Resize model and processor, in place, to --image_size; without it, resize the model to the processor's output.

    Also sets the processor's number of channels to that of the model.
    """
    fit_channels(processor, model.config.num_channels, splits)
    if size is not None:
        resize_input(model, processor, size)
    elif (made := _made_by(processor)) not in (None, model.config.image_hw):
        splits.notes.append(
            f"the image processor makes {_pixels(made)} of each image, the weights are for "
            f"{_pixels(model.config.image_hw)}: fitted to the former; --image_size changes both"
        )
        model.resize_input(image_size=made)


def fit_channels(processor: Any, num_channels: int, splits: Splits) -> None:
    """Set the processor's number of channels; each gets the average over the old ones of image_mean and image_std."""
    before = getattr(processor, "num_channels", None)
    if before in (None, num_channels):
        return
    processor.num_channels = num_channels
    given = []
    for field in ("image_mean", "image_std"):
        if (values := getattr(processor, field)) is not None:
            one = sum(values) / len(values)
            setattr(processor, field, [one] * num_channels)
            given.append(f"{field} {one:.4g}")
    splits.notes.append(
        f"the checkpoint's image processor makes {before} channels, the model takes {num_channels}: it now makes "
        f"these, each with {' and '.join(given) or 'no mean'}, over which its own were averaged"
    )


def _made_by(processor: Any) -> tuple[int, int] | None:
    """Height and width of the processor's output; None if it keeps the image's own size or proportions."""
    size = processor.crop_size if processor.do_center_crop else processor.size if processor.do_resize else None
    return (size.height, size.width) if size is not None and size.height and size.width else None


def _pixels(hw: Any) -> str:
    return f"{hw[0]}x{hw[1]} pixels"


def labels_of(splits: Splits) -> dict[str, Any]:
    """Return the configuration fields that say what the logits mean; they are empty for data without labels."""
    return {
        "id2label": splits.id2label,
        "label2id": {name: i for i, name in splits.id2label.items()},
        "problem_type": splits.problem_type or None,
    }
