"""The records in a run's folder: its settings and its results.

training_args.json holds the settings and, once the run has ended, the SHA-256 of the resulting weights; metrics.json
holds the results. They are written in such an order that neither is ever taken for the record of other weights, see
`claims`.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...common.claims import RECORDS, STAMP, read_record, unfinished, write_stamped
from ...common.environment import hardware, versions
from ...common.json_files import write_json, write_whole
from ...common.model_files import CONVERSION, METRICS, RECIPE_FILE, RUN_FILE
from ...data.examples import Splits
from ...data.stream import stream_of
from ..arguments.data_arguments import DataArguments
from ..arguments.model_arguments import ModelArguments
from ..arguments.settings import settings_of
from ..arguments.tables import ONLY_IN_TRAIN, RECORDED
from ..arguments.training_arguments import ViTTrainingArguments
from ..checkpointing.continuing import ANOTHER
from ..objectives.masking import PatchMasks
from ..trainer.hub_push import Pusher
from ..trainer.sittings import total
from .saving_as import save_as


def begin_records(
    output_dir: str | Path, run: Mapping[str, Any], conversion: Mapping[str, Any] | None, recipe: str | None = ""
) -> None:
    """Write training_args.json, conversion.json and recipe.yaml; call it in one process only.

    The records name no weights until the run ends: weights that may already lie there are not those of this run.
    run: see `describe_run`.   conversion: report on weights from another library, or None.
    recipe: its YAML; "" removes an earlier one, None keeps it.
    """
    folder = Path(output_dir)
    write_json(folder / RUN_FILE, unfinished(run))
    if conversion is None:
        (folder / CONVERSION).unlink(missing_ok=True)  # left by an earlier training
    else:
        write_json(folder / CONVERSION, unfinished(_of_source(conversion)))
    if recipe:
        write_whole(folder / RECIPE_FILE, recipe)
    elif recipe is not None:
        (folder / RECIPE_FILE).unlink(missing_ok=True)


def _of_source(conversion: Mapping[str, Any]) -> dict[str, Any]:
    """The conversion's report for a model trained from it; the weights that it names become "before_training"."""
    source = conversion.get(STAMP)
    return {**conversion, **({"before_training": source} if source else {})}


def end_records(output_dir: str | Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Write metrics.json, then the weights' SHA-256 into the other records too; return the content of metrics.json."""
    folder = Path(output_dir)
    metrics = write_stamped(folder / METRICS, metrics, RECORDS[METRICS][0])
    for name in (CONVERSION, RUN_FILE):  # the latter marks the run as ended
        if record := read_record(folder / name):
            write_stamped(folder / name, record, RECORDS[name][0])
    return metrics


def what_happened(trainer: Any, images: int) -> dict[str, Any]:
    """Return entries of metrics.json's "train": steps, epochs, time and why the training stopped.

    images: number of training images.
    """
    state, args = trainer.state, trainer.args
    sittings = trainer.sittings.until(state.global_step)
    early = args.early_stopping_patience and state.global_step < state.max_steps
    stopped = "early stopping" if early else "time" if trainer.budget is not None else None
    kept = state.best_global_step if args.load_best_model_at_end and state.best_model_checkpoint else None
    return {
        "n": images,
        "steps": state.global_step,
        "planned_steps": state.max_steps,
        "epochs": round(float(state.epoch or 0), 4),
        "images": total(sittings, "images"),
        "stopped_by": stopped,
        "kept_step": kept or state.global_step,
        "seconds": total(sittings, "seconds"),
        "resumed": len(sittings) > 1,
        "sittings": sittings,
    }


def report_again(training_args: ViTTrainingArguments, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics of a run that has already ended, unchanged; push its model if --push_to_hub is given."""
    processes = training_args.processes

    def tell() -> None:
        print(f"{training_args.output_dir} holds this run, which has ended: nothing is trained. {ANOTHER}.", flush=True)
        save_as(training_args)
        if training_args.push_to_hub:
            pusher = Pusher(training_args)
            pusher.open()
            pusher.push_final()

    processes.from_first(tell)
    return metrics


def describe_run(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
    splits: Splits,
    masks: PatchMasks | None = None,
    labelled: bool = True,
) -> dict[str, Any]:
    """Return the settings, data and environment of a run, fit to be published: no paths of this machine.

    The data is recorded as a fingerprint of file names and labels; for a stream, of its shards' names and sizes and of
    labels.
    masks: of pre-training by masked images.   labelled: False in pre-training; settings that only `train` has are then
    left out.
    """
    digest = hashlib.sha256()
    for examples in (splits.train, splits.validation):
        if examples is not None:
            if (stream := stream_of(examples)) is not None:
                digest.update(json.dumps(stream[0].record).encode() + stream[1].tobytes())
            else:
                names = (os.path.basename(name) for name in examples.names)
                digest.update("\n".join(names).encode("utf-8", "replace"))
            digest.update(examples.targets.fingerprint())
    model = asdict(model_args) | {"cache_dir": None, "chosen_recipe": None}
    if model["model_name_or_path"] and (path := Path(model["model_name_or_path"]).expanduser()).exists():
        model["model_name_or_path"] = Path(os.path.abspath(path)).name
    without = () if labelled else ONLY_IN_TRAIN
    return {
        "model": {name: value for name, value in model.items() if value is not None and name not in without},
        "data": {
            "examples": len(splits.train),
            "labels": list(splits.id2label.values()),
            "augmentation": data_args.augmentation,
            **{name: value for name in RECORDED if (value := getattr(data_args, name)) != getattr(DataArguments, name)},
            "fingerprint": digest.hexdigest(),
            **({} if masks is None else {"masks": masks.record()}),
        },
        "training": {name: value for name, value in settings_of(training_args).items() if name not in without},
        "environment": versions() | hardware(training_args.device),
    }
