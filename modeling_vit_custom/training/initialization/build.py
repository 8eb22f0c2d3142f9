"""The model that a training begins with: of a named size with random weights, or from a checkpoint.

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
from ...configuration_vit_custom import ViTCustomConfig
from ...data.examples import Splits
from ...data.labels import plan_head
from ...data.sources import with_label_ids
from ...image_processing_vit_custom import ViTCustomImageProcessor
from ...modeling_vit_custom import ViTCustomForImageClassification
from ...pretrained_vit_custom import HEAD_PREFIX, resize_input
from ...weight_files_vit_custom import some
from .start_checkpoint import Pretrained, Start


def build_model(
    start: Start, pretrained: Pretrained | None, splits: Splits, seed: int
) -> tuple[ViTCustomForImageClassification, Any, Splits]:
    """(model, image processor, splits with the model's label ids), from a variant or from a checkpoint."""
    set_seed(seed)
    if pretrained is None:
        return *from_variant(start, splits, ViTCustomForImageClassification), splits
    with checkpoint_explained(start):
        return _from_checkpoint(pretrained, start, splits)


@contextmanager
def checkpoint_explained(start: Start) -> Iterator[None]:
    """Makes UsageErrors that name the checkpoint of what loading or fitting it raises."""
    try:
        yield
    except (DataError, UsageError):
        raise
    except (ValueError, TypeError, RuntimeError, OSError, StrictDataclassError) as error:
        raise UsageError(f"--model_name_or_path {start.checkpoint} cannot be used: {error}") from error


def from_variant(start: Start, splits: Splits, model_class: type) -> tuple[Any, Any]:
    """(model with random weights, image processor), as --variant and the flags beside it say. Raises UsageError."""
    fields = start.fields | labels_of(splits)
    if start.image_size is not None:
        fields["image_size"] = start.image_size
    try:
        config = ViTCustomConfig.from_variant(str(start.variant), **fields)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UsageError(f"--variant {start.variant} with these flags is no model: {error}") from error
    return model_class(config), ViTCustomImageProcessor.for_model(config)


def _from_checkpoint(pretrained: Pretrained, start: Start, splits: Splits):
    config: Any = pretrained.config
    plan = plan_head(splits.id2label, splits.problem_type, config.id2label, config.problem_type)
    if not plan.new_head:
        splits = with_label_ids(splits, plan.id2label)
    model = load_checkpoint(pretrained, start, splits)
    if plan.new_head:
        head = nn.Linear(model.classifier.in_features, model.config.num_labels)
        model._init_weights(head)
        model.classifier = head.to(model.dtype)
    splits.notes.append(f"{'NEW HEAD, trained from zero' if plan.new_head else 'head'}: {plan.reason}")
    fit_to_size(model, pretrained.processor, start.image_size, splits)
    return model, pretrained.processor, splits


def load_checkpoint(pretrained: Pretrained, start: Start, splits: Splits) -> Any:
    """The model in float32; splits.notes say what of the checkpoint it leaves out, and what the checkpoint lacks."""
    splits.notes.extend(pretrained.notes)
    model, loaded = pretrained.load(
        start.fields | labels_of(splits),
        ignore_mismatched_sizes=start.ignore_mismatched_sizes,
        dtype=torch.float32,  # in half precision small steps would be lost
        output_loading_info=True,
    )
    if (dtype := pretrained.config.dtype) not in (None, torch.float32):
        splits.notes.append(f"the checkpoint holds {dtype} weights: they are trained, and saved, as float32")
    if getattr(model.config, "speeds", None):
        model.config.speeds = None
        splits.notes.append("the checkpoint's speeds were measured with its own weights: left out (see speed_table)")
    if left_out := sorted(loaded["unexpected_keys"]):
        splits.notes.append(f"left out of the checkpoint, this model has no use for them: {some(left_out, limit=100)}")
    if new := sorted(name for name in loaded["missing_keys"] if not name.startswith(HEAD_PREFIX)):
        splits.notes.append(f"NEW WEIGHTS, trained from zero, the checkpoint has none: {some(new, limit=100)}")
        untrained = [name for name in new if name.startswith("vit.pooler.attention_pooling.")]
        if untrained and start.head_alone:
            raise UsageError(
                f"--method linear_probe would leave random weights, which the checkpoint lacks: {some(untrained)}. "
                "Train all of it, with --method full."
            )
    return model


def fit_to_size(model: Any, processor: Any, size: int | tuple[int, int] | None, splits: Splits) -> None:
    """Resamples model and processor, in place, for --image_size; without it the model for what the processor makes."""
    if size is not None:
        resize_input(model, processor, size)
    elif (made := _made_by(processor)) not in (None, model.config.image_hw):
        splits.notes.append(
            f"the image processor makes {_pixels(made)} of each image, the weights are for "
            f"{_pixels(model.config.image_hw)}: resampled for the former; --image_size changes both"
        )
        model.resize_input(image_size=made)


def _made_by(processor: Any) -> tuple[int, int] | None:
    """Height and width of what the processor gives; None where they are the image's own or follow its proportions."""
    size = processor.crop_size if processor.do_center_crop else processor.size if processor.do_resize else None
    return (size.height, size.width) if size is not None and size.height and size.width else None


def _pixels(hw: Any) -> str:
    return f"{hw[0]}x{hw[1]} pixels"


def labels_of(splits: Splits) -> dict[str, Any]:
    """The configuration fields that say what the logits mean; of data without labels that there are none."""
    return {
        "id2label": splits.id2label,
        "label2id": {name: i for i, name in splits.id2label.items()},
        "problem_type": splits.problem_type if splits.id2label else None,
    }
