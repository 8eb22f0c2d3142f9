"""The records in a run's folder: what was asked for, and what came of it.

training_args.json says what was asked for and, once the run has ended, which weights came of it; metrics.json says what
happened. Both are written in such an order that none is ever taken for that of other weights, see `claims`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..conversion.convert import REPORT
from ..inference.claims import RECORDS, STAMP, read_record, unfinished, write_stamped
from ..inference.json_files import write_json, write_whole
from ..inference.processes import Processes
from .flags import ViTTrainingArguments
from .pushing import Pusher
from .settings import RUN_FILE
from .sittings import total
from .start import ANOTHER, METRICS, RECIPE_FILE


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
        (folder / REPORT).unlink(missing_ok=True)  # of an earlier training
    else:
        write_json(folder / REPORT, unfinished(_of_source(conversion)))
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
    for name in (REPORT, RUN_FILE):  # the latter says that the run has ended
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
    processes = Processes(training_args.process_index, training_args.world_size)

    def tell() -> None:
        print(f"{training_args.output_dir} holds this run, which has ended: nothing is trained. {ANOTHER}.", flush=True)
        if training_args.push_to_hub:
            pusher = Pusher(training_args)
            pusher.open()
            pusher.push_final()

    processes.from_first(tell)
    return metrics
