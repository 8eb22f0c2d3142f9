"""The records in a run's folder: what was asked for, and what came of it.

training_args.json says what was asked for and, once the run has ended, which weights came of it; metrics.json says what
happened. Both are written in such an order that none is ever taken for that of other weights, see `claims`.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...common.claims import RECORDS, STAMP, read_record, unfinished, write_stamped
from ...common.environment import hardware, versions
from ...common.json_files import write_json, write_whole
from ...common.model_files import CONVERSION, METRICS, RECIPE_FILE, RUN_FILE
from ...data.examples import Splits
from ...data.stream import stream_of
from ..arguments.data_arguments import DataArguments
from ..arguments.model_arguments import ModelArguments
from ..arguments.settings import settings_of
from ..arguments.tables import RECORDED
from ..arguments.training_arguments import ViTTrainingArguments
from ..checkpointing.continuing import ANOTHER
from ..trainer.hub_push import Pusher
from ..trainer.sittings import total


def begin_records(
    output_dir: str | Path, run: Mapping[str, Any], conversion: Mapping[str, Any] | None, recipe: str | None = ""
) -> None:
    """Writes what is asked for, how its weights came from another library, what was chosen for it; for one process.

    The weights that may lie there are not those of this run: its records name none until it ends.
    recipe: None keeps the one that is there.
    """
    folder = Path(output_dir)
    write_json(folder / RUN_FILE, unfinished(run))
    if conversion is None:
        (folder / CONVERSION).unlink(missing_ok=True)  # of an earlier training
    else:
        write_json(folder / CONVERSION, unfinished(_of_source(conversion)))
    if recipe:
        write_whole(folder / RECIPE_FILE, recipe)
    elif recipe is not None:
        (folder / RECIPE_FILE).unlink(missing_ok=True)


def _of_source(conversion: Mapping[str, Any]) -> dict[str, Any]:
    """A conversion's report for what was trained from it: the weights that it names are those before the training."""
    source = conversion.get(STAMP)
    return {**conversion, **({"before_training": source} if source else {})}


def end_records(output_dir: str | Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Writes metrics.json, then has the other records name the weights too; returns what metrics.json holds."""
    folder = Path(output_dir)
    metrics = write_stamped(folder / METRICS, metrics, RECORDS[METRICS][0])
    for name in (CONVERSION, RUN_FILE):  # the latter says that the run has ended
        if record := read_record(folder / name):
            write_stamped(folder / name, record, RECORDS[name][0])
    return metrics


def what_happened(trainer: Any, images: int) -> dict[str, Any]:
    """Of metrics.json's "train": how far the training came, in how long and why it stopped. images: in its data."""
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


def told_again(training_args: ViTTrainingArguments, metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a run that has ended before; nothing of it changes, but it is published if that is asked for."""
    processes = training_args.processes

    def tell() -> None:
        print(f"{training_args.output_dir} holds this run, which has ended: nothing is trained. {ANOTHER}.", flush=True)
        if training_args.push_to_hub:
            pusher = Pusher(training_args)
            pusher.open()
            pusher.push_final()

    processes.from_first(tell)
    return metrics


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
