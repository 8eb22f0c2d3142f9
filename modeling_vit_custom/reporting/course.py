"""Course of a training, for card and report: epochs, steps, sittings. Figures that were only requested are marked so.

`train` is the "train" of metrics.json, `training` that of training_args.json; records of earlier versions hold less.
"""

from collections.abc import Mapping
from typing import Any

from .formatting import duration

STEP = {"per_device_train_batch_size": "images", "processes": "processes", "gradient_accumulation_steps": "steps"}


def course_rows(training: Mapping[str, Any], train: Mapping[str, Any]) -> dict[str, str | None]:
    """Return rows of the table: length, why it stopped, kept weights, batch, time and sittings."""
    sittings = train.get("sittings") or []
    several = len(sittings) > 1
    return {
        "epochs": epochs(training, train),
        "steps": f"{train['steps']:,}" if "steps" in train else None,
        "images seen": f"{train['images']:,}" if train.get("images") else None,
        "weights kept": f"those of step {train['kept_step']:,}" if "kept_step" in train else None,
        "schedule": schedule(training, train),
        "batch": batches(training, sittings),
        "time": time_taken(train),
        "sittings": "; ".join(_sitting(one) for one in sittings) if several else None,
    }


def epochs(training: Mapping[str, Any], train: Mapping[str, Any]) -> str | None:
    """Return the number of epochs made and why it stopped; if that number is not recorded, the requested length."""
    made = train.get("epochs", train.get("epoch"))
    if made is None:
        asked = asked_for(training)
        return asked and f"{asked} are asked for"
    why = {"early stopping": "stopped early", "time": f"as many as {asked_for(training)} allow"}.get(
        train.get("stopped_by") or ("time" if training.get("max_minutes") else ""), ""
    )
    return f"{made:.4g}{why and f', {why}'}"


def asked_for(training: Mapping[str, Any]) -> str | None:
    """Return the requested length: minutes if given, else steps, else epochs."""
    if training.get("max_minutes"):
        return f"{training['max_minutes']:g} minutes"
    if (training.get("max_steps") or 0) > 0:
        return f"{training['max_steps']:,} steps"
    return f"{training['num_train_epochs']:g} epochs" if training.get("num_train_epochs") else None


def schedule(training: Mapping[str, Any], train: Mapping[str, Any]) -> str | None:
    """Return the learning rate schedule with its planned steps, the steps made, and changes of its length."""
    name, planned, made = training.get("lr_scheduler_type"), train.get("planned_steps"), train.get("steps")
    if not name or not planned:
        return name
    cut = f", of which {made:,} were made" if made is not None and made < planned else ""
    lengths = dict.fromkeys(asked_for(sitting) for sitting in train.get("sittings", []) if "max_steps" in sitting)
    changed = f"; its length was changed on the way ({', then '.join(map(str, lengths))})" if len(lengths) > 1 else ""
    return f"{name} over {planned:,} steps{cut}{changed}"


def batches(training: Mapping[str, Any], sittings: list[Mapping[str, Any]]) -> str | None:
    """Return how a batch was split (images, processes, accumulation steps), once for each different split."""
    splits = [_batch(sitting) for sitting in sittings if "processes" in sitting] or [_batch(training)]
    return ", then ".join(dict.fromkeys(filter(None, splits))) or None


def _batch(settings: Mapping[str, Any]) -> str | None:
    counts = [f"{settings[name]} {unit}" for name, unit in STEP.items() if (settings.get(name) or 1) > 1]
    return " × ".join(counts) or None


def time_taken(train: Mapping[str, Any]) -> str | None:
    """Return the time of all sittings. Earlier versions timed only the last one; the text says so."""
    sittings = train.get("sittings")
    if not sittings:
        seconds = train.get("seconds")
        return seconds and f"{seconds:,.0f} s{' after the last resumption' if train.get('resumed') else ''}"
    known = [sitting["seconds"] for sitting in sittings if sitting["seconds"] is not None]
    within = f" in {len(sittings)} sittings" if len(sittings) > 1 else ""
    missing = " (of an earlier version's sittings no time was kept)" if len(known) < len(sittings) else ""
    return f"{sum(known):,.0f} s{within}{missing}"


def _sitting(one: Mapping[str, Any]) -> str:
    took = "time unknown" if one["seconds"] is None else duration(one["seconds"])
    count = one.get("processes")
    where = [f"{count} process{'es' if count > 1 else ''}"] if count else []
    if one.get("device"):
        where.append(f"on {one['device']}")
    precision = next((name for name in ("bf16", "fp16") if one.get(name)), "")
    return ", ".join([f"to step {one['last_step']:,}", took, *where, *([precision] if precision else [])])
