"""The beginnings of a run: its data, its model, its folder.

Shapes: N examples, C classes.
"""

import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import set_seed

from ..audit.gate import audit_before_training
from ..configuration_vit_custom import ViTCustomConfig
from ..data.examples import Splits
from ..data.labels import plan_head
from ..data.mnist5k import write_mnist5k
from ..data.raw import DataError
from ..data.sources import assemble, read_splits, with_label_ids
from ..data.stream import stream_of
from ..image_processing_vit_custom import ViTCustomImageProcessor
from ..inference.claims import STAMP, ClaimError, named_weights, read_record, weights_digest
from ..inference.environment import hardware, versions
from ..inference.outputs import KINDS, kind_of
from ..inference.processes import Processes
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..pretrained_vit_custom import HEAD_PREFIX, resize_input
from ..weight_files_vit_custom import some
from .args import field_values
from .checkpoints import (
    MANIFEST,
    checkpoint_defect,
    discard,
    find_last_checkpoint,
    numbered,
    remove_leftovers,
    unsealed_defect,
)
from .flags import DataArguments, ModelArguments, UsageError, ViTTrainingArguments
from .images import IMAGES
from .kept_answers import FILE as KEPT_ANSWERS
from .lock import LOCK
from .pretrained import Pretrained
from .resuming import KEPT
from .settings import RUN_FILE, changes, goes_on, noted_changes, refused_changes, settings_of
from .streaming import load_streamed

logger = logging.getLogger(__name__)

RECIPE_FILE, METRICS = "recipe.yaml", "metrics.json"  # of the output folder
ANOTHER = "Name another --output_dir, or pass --resume_from_checkpoint false to train anew in this one"
DESCRIBED = ("examples", "labels", "fingerprint", "teacher", "masks")  # what a run records that is no flag's value
# What of DataArguments changes the images that are trained on; of these only what was asked for is recorded.
RECORDED = (
    "view_size", "auto_augment", "random_erasing", "mixup", "cutmix", "mix_probability", "balanced_sampling",
    "progressive_resizing", "streaming", "shuffle_buffer", "shots", "folds",
)  # fmt: skip


def load_data(data_args: DataArguments, training_args: ViTTrainingArguments) -> Splits:
    """The splits the flags name, audited; a built-in dataset is written first, by one process. Raises DataError."""
    if data_args.streaming:
        return load_streamed(data_args, training_args.seed)
    raw = read_splits(
        training_source(data_args, training_args),
        data_args.validation_dir,
        data_args.test_dir,
        data_args.dataset_name,
        dataset_config_name=data_args.dataset_config_name,
        dataset_revision=data_args.dataset_revision,
        image_column=data_args.image_column_name,
        label_column=data_args.label_column_name,
        problem_type=data_args.problem_type,
        label_separator=data_args.label_separator,
        follow_links=data_args.follow_links,
    )
    splits = assemble(
        raw,
        data_args.train_val_split,
        data_args.max_train_samples,
        data_args.max_eval_samples,
        training_args.seed,
        data_args.shots,
    )
    splits.findings.extend(audit_before_training(raw, data_args.audit))
    return splits


def training_source(data_args: DataArguments, training_args: ViTTrainingArguments) -> str | None:
    """The folder or table of --train_dir, or the folder of a built-in dataset, which is written now."""
    if data_args.dataset != "mnist5k":
        return data_args.train_dir
    with training_args.main_process_first(desc="writing MNIST 5k"):
        return str(write_mnist5k(Path(data_args.data_root) / "mnist5k"))


def build_model(
    model_args: ModelArguments, pretrained: Pretrained | None, splits: Splits, seed: int
) -> tuple[ViTCustomForImageClassification, Any, Splits]:
    """(model, image processor, splits with the model's label ids), from a variant or from a checkpoint."""
    set_seed(seed)
    if pretrained is None:
        return *from_variant(model_args, splits, ViTCustomForImageClassification), splits
    with checkpoint_explained(model_args):
        return _from_checkpoint(pretrained, model_args, splits)


@contextmanager
def checkpoint_explained(model_args: ModelArguments) -> Iterator[None]:
    """Makes UsageErrors that name the checkpoint of what loading or fitting it raises."""
    try:
        yield
    except (DataError, UsageError):
        raise
    except (ValueError, TypeError, RuntimeError, OSError, StrictDataclassError) as error:
        raise UsageError(f"--model_name_or_path {model_args.model_name_or_path} cannot be used: {error}") from error


def from_variant(model_args: ModelArguments, splits: Splits, model_class: type) -> tuple[Any, Any]:
    """(model with random weights, image processor), as --variant and the flags beside it say. Raises UsageError."""
    fields = _config_fields(model_args, splits)
    if (size := _image_size(model_args)) is not None:
        fields["image_size"] = size
    try:
        config = ViTCustomConfig.from_variant(str(model_args.variant), **fields)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UsageError(f"--variant {model_args.variant} with these flags is no model: {error}") from error
    return model_class(config), ViTCustomImageProcessor.for_model(config)


def _from_checkpoint(pretrained: Pretrained, model_args: ModelArguments, splits: Splits):
    config: Any = pretrained.config
    plan = plan_head(splits.id2label, splits.problem_type, config.id2label, config.problem_type)
    if not plan.new_head:
        splits = with_label_ids(splits, plan.id2label)
    model = load_checkpoint(pretrained, model_args, splits)
    if plan.new_head:
        head = nn.Linear(model.classifier.in_features, model.config.num_labels)
        model._init_weights(head)
        model.classifier = head.to(model.dtype)
    splits.notes.append(f"{'NEW HEAD, trained from zero' if plan.new_head else 'head'}: {plan.reason}")
    fit_to_size(model, pretrained.processor, model_args, splits)
    return model, pretrained.processor, splits


def load_checkpoint(pretrained: Pretrained, model_args: ModelArguments, splits: Splits) -> Any:
    """The model in float32; splits.notes say what of the checkpoint it leaves out, and what the checkpoint lacks."""
    splits.notes.extend(pretrained.notes)
    model, loaded = pretrained.load(
        _config_fields(model_args, splits),
        ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
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
        if untrained and model_args.method == "linear_probe":
            raise UsageError(
                f"--method linear_probe would leave random weights, which the checkpoint lacks: {some(untrained)}. "
                "Train all of it, with --method full."
            )
    return model


def fit_to_size(model: Any, processor: Any, model_args: ModelArguments, splits: Splits) -> None:
    """Resamples model and processor, in place, for --image_size; without it the model for what the processor makes."""
    if (size := _image_size(model_args)) is not None:
        resize_input(model, processor, size)
    elif (made := _made_by(processor)) not in (None, model.config.image_hw):
        splits.notes.append(
            f"the image processor makes {_pixels(made)} of each image, the weights are for "
            f"{_pixels(model.config.image_hw)}: resampled for the former; --image_size changes both"
        )
        model.resize_input(image_size=made)


def _config_fields(model_args: ModelArguments, splits: Splits) -> dict[str, Any]:
    """What the flags and the labels of the data say of the configuration, but for the size."""
    fields = field_values(model_args.config_overrides, "--config_overrides") | labels_of(splits)
    rates = {name: getattr(model_args, name) for name in ("drop_path_rate", "patch_drop_rate")}
    return fields | {name: rate for name, rate in rates.items() if rate is not None}


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


def _image_size(model_args: ModelArguments) -> int | tuple[int, int] | None:
    size = model_args.image_size
    return None if size is None else size[0] if len(size) == 1 else (size[0], size[1])


def describe_run(
    model_args: ModelArguments, data_args: DataArguments, training_args: ViTTrainingArguments, splits: Splits
) -> dict[str, Any]:
    """What was run, fit to be published: no paths of this machine; the data as a fingerprint of its labels.

    (Of a stream also of its shards' names and sizes.)
    """
    digest = hashlib.sha256()
    for examples in (splits.train, splits.validation):
        if examples is not None:
            if (stream := stream_of(examples)) is not None:
                digest.update(json.dumps(stream[0].record).encode() + stream[1].tobytes())
            else:
                names = (os.path.basename(name) for name in examples.names)
                digest.update("\n".join(names).encode("utf-8", "replace"))
            digest.update(b"" if examples.labels is None else np.asarray(examples.labels).tobytes())
    model = asdict(model_args) | {"cache_dir": None, "chosen_recipe": None}
    if model["model_name_or_path"] and (path := Path(model["model_name_or_path"]).expanduser()).exists():
        model["model_name_or_path"] = Path(os.path.abspath(path)).name
    return {
        "model": {name: value for name, value in model.items() if value is not None},
        "data": {
            "examples": len(splits.train),
            "labels": list(splits.id2label.values()),
            "augmentation": data_args.augmentation,
            **{name: value for name in RECORDED if (value := getattr(data_args, name)) != getattr(DataArguments, name)},
            "fingerprint": digest.hexdigest(),
        },
        "training": settings_of(training_args),
        "environment": versions() | hardware(training_args.device),
    }


def check_output_dir(output_dir: str | Path) -> None:
    """Raises UsageError unless the folder can be written and is new, empty, or an earlier run's."""
    path = Path(output_dir)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--output_dir {path} is a file: name a folder.")
    there = {child.name: kind_of(child) for child in path.iterdir()} if path.is_dir() else {}
    for name, kind in there.items():
        if kind not in (None, KINDS[stat.S_IFDIR]):
            raise UsageError(f"--output_dir {path} holds {name}, which is {kind}: remove it, or name another folder.")
    strangers = there.keys() - {LOCK, IMAGES, KEPT_ANSWERS}  # of a run that was killed before its first record
    if strangers and not (path / RUN_FILE).is_file():
        raise UsageError(
            f"--output_dir {path} is not empty and holds no earlier run ({RUN_FILE} is missing): name a new folder."
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output_dir {path} cannot be made: {error.strerror}.") from error
    if not os.access(path, os.W_OK):
        raise UsageError(f"--output_dir {path} cannot be written.")


def ended_run(training_args: ViTTrainingArguments, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """What metrics.json holds where the output folder has this very run and it has ended, else None.

    The first process looks, for all of them. Raises UsageError where another run has ended there, unless this one goes
    on from it, and where the weights are no longer that run's.
    """
    if (training_args.resume_from_checkpoint or "true").lower() != "true":
        return None
    processes = Processes(training_args.process_index, training_args.world_size)
    return processes.from_first(lambda: _ended_run(Path(training_args.output_dir), run))


def _ended_run(folder: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    earlier, metrics = read_record(folder / RUN_FILE), read_record(folder / METRICS)
    if not _has_ended(folder, earlier, metrics):
        return None
    before = earlier["training"]
    now = {**run["training"], "processes": before.get("processes")}  # however many ask for it now
    _check_same_run(folder, {**run, "training": now})
    if (changed := changes(before, now)) == {}:
        if metrics.get("test", {}).get("n") != run.get("test", {}).get("examples") or (
            STAMP in earlier and earlier.get("test") != run.get("test")
        ):
            raise UsageError(
                f"{folder} holds a run that has ended, and was measured on another test set: measure its model on this "
                f"one with `vit-custom evaluate --model {folder}`. {ANOTHER}."
            )
        return metrics
    train = metrics.get("train", {})
    made = {"steps": train.get("steps", _newest_step(folder)), "epochs": train.get("epochs", train.get("epoch"))}
    if not goes_on(before, now, made):
        raise _other_settings(folder, sorted(changed), before, now, ", has ended, and would have nothing more to do")
    if not numbered(folder):
        raise UsageError(f"{folder} holds a run that has ended, and no checkpoint to go on from. {ANOTHER}.")
    return None


def _has_ended(folder: Path, earlier: Mapping[str, Any], metrics: Mapping[str, Any]) -> bool:
    if not earlier or "train" not in metrics or (digest := weights_digest(folder)) is None:
        return False
    if STAMP not in earlier:  # of an earlier version: its newest checkpoint says how far it came
        state = read_record(folder / f"checkpoint-{_newest_step(folder)}" / TRAINER_STATE_NAME)
        return STAMP not in metrics and 0 < state.get("max_steps", 0) <= state.get("global_step", 0)
    try:
        named, measured = named_weights(earlier), named_weights(metrics)
    except ClaimError as error:
        raise UsageError(f"{folder}, {RUN_FILE} or {METRICS}: {error}. {ANOTHER}.") from error
    if named is None:
        return False
    if named != digest:
        raise UsageError(
            f"{folder} holds other weights than those that {RUN_FILE} names: they were changed since the run ended, "
            f"and would be lost. Move them elsewhere. {ANOTHER}."
        )
    return measured == digest


def _newest_step(folder: Path) -> int:
    return max(numbered(folder), default=0)


def find_start(training_args: ViTTrainingArguments, run: Mapping[str, Any]) -> str | None:
    """The checkpoint to continue from, or None to start afresh; the first process looks, for all of them.

    Without --resume_from_checkpoint it is the newest valid one of the output folder; with "false", earlier
    checkpoints there are removed. Raises UsageError if none is valid, if the one that is named is damaged or has newer
    ones beside it, and if it belongs to a run with other data, another model or other settings that a run keeps: they
    would be mixed.
    """
    processes = Processes(training_args.process_index, training_args.world_size)
    return processes.from_first(lambda: _find_start(training_args, run))


def _find_start(training_args: ViTTrainingArguments, run: Mapping[str, Any]) -> str | None:
    path, given = Path(training_args.output_dir), training_args.resume_from_checkpoint or "true"
    notes = remove_leftovers(path)
    if given.lower() == "false":
        for old in numbered(path).values():
            notes.append(f"removing {old} of an earlier run")
            discard(old)
        checkpoint = None
    elif given.lower() == "true":
        checkpoint, passed_over = find_last_checkpoint(path)
        notes += passed_over
        if checkpoint is None and passed_over:
            raise UsageError(
                f"no checkpoint can be continued from: {'; '.join(passed_over)}. Name one by --resume_from_checkpoint "
                "if it is of an earlier version, or pass --resume_from_checkpoint false to remove all and train anew."
            )
        if checkpoint is not None:
            notes += _check_same_run(path, run)
    else:
        checkpoint = Path(given)
        notes += _check_named(checkpoint, path) + _check_settings(checkpoint, training_args)
    for note in notes:
        logger.warning(note)
    if checkpoint is None:
        return None
    if (before := len(list(checkpoint.glob("rng_state*.pth")))) != training_args.world_size:
        logger.warning(
            f"{checkpoint} is of {before} process(es), now there are {training_args.world_size}: the training goes on, "
            "but not bit for bit as it would have"
        )
    return str(checkpoint)


def _check_named(checkpoint: Path, path: Path) -> list[str]:
    """Notes on the checkpoint that --resume_from_checkpoint names; raises UsageError where it cannot be used."""
    if not checkpoint.is_dir():
        raise UsageError(f"--resume_from_checkpoint {checkpoint} is not a folder.")
    notes = []
    defect = checkpoint_defect(checkpoint)
    if not (checkpoint / MANIFEST).exists() and (defect := unsealed_defect(checkpoint)) is None:
        notes.append(
            f"{checkpoint} has no {MANIFEST}, being of an earlier version: nobody knows if its bytes are right"
        )
    if defect is not None:
        raise UsageError(f"--resume_from_checkpoint {checkpoint} cannot be used: {defect}.")
    step = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    if newer := [str(other) for number, other in sorted(numbered(path).items()) if number > step]:
        raise UsageError(
            f"--resume_from_checkpoint {checkpoint} is at step {step}, and {', '.join(newer)} would be taken for its "
            "continuation: remove them, name another --output_dir, or go on from the newest without that flag."
        )
    return notes


def _check_same_run(path: Path, run: Mapping[str, Any]) -> list[str]:
    """Notes on settings that have changed; raises UsageError where they are such as a run keeps."""
    earlier = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
    now = json.loads(json.dumps(run))
    before = {**earlier["model"], **earlier["data"], "seed": earlier["training"]["seed"]}
    after = {**now["model"], **now["data"], "seed": now["training"]["seed"]}
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    changed += [name for name in refused_changes(earlier["training"], now["training"]) if name not in changed]
    if changed:
        raise _other_settings(path, changed, before | earlier["training"], after | now["training"])
    return noted_changes(f"{path} was begun", earlier["training"], now["training"])


def _check_settings(checkpoint: Path, training_args: ViTTrainingArguments) -> list[str]:
    """The same for a checkpoint that was named, which holds the settings it was trained with, if not of old."""
    kept = read_record(checkpoint / TRAINER_STATE_NAME).get("stateful_callbacks", {}).get(KEPT, {})
    before, now = kept.get("settings", {}), settings_of(training_args)
    if refused := refused_changes(before, now):
        raise _other_settings(checkpoint, refused, before, now)
    return noted_changes(f"{checkpoint} was made", before, now)


def _other_settings(
    folder: Path, names: Sequence[str], before: Mapping[str, Any], now: Mapping[str, Any], state: str = ""
) -> UsageError:
    """Names them all, and the values of those that are flags."""
    values = [
        f"--{name} {before.get(name, 'not given')} there, {now.get(name, 'not given')} now"
        for name in names
        if name not in DESCRIBED and (name in before or name in now)
    ]
    told = f": {'; '.join(values)}" if values else ""
    return UsageError(f"{folder} holds a run with other settings ({', '.join(names)}){state}{told}. {ANOTHER}.")
