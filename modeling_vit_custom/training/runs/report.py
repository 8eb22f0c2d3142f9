"""report.html of a run: its curves while it trains, and its results at the end."""

import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from ...audit.page import illustrated
from ...common.claims import STAMP, check_claims
from ...common.model_files import CONFIG, CONFUSION_PICTURE, FILES, METRICS, REPORT_PAGE, RUN_FILE, TRAINING_PICTURE
from ...data.examples import Splits
from ...evaluation.illustrations import Illustrate
from ...evaluation.page import sections, tiles
from ...evaluation.result import Evaluation
from ...publishing.facts import model_facts, promise, recipe_rows, result_facts, sentence, shown
from ...reporting import page
from ...reporting.charts import Chart, Series, line_chart
from ...reporting.formatting import duration
from ...reporting.history import Panel, newest_scores, panels
from .next_steps import next_steps

logger = logging.getLogger(__name__)

LINKED = (METRICS, RUN_FILE, CONFIG, TRAINING_PICTURE, CONFUSION_PICTURE)
STYLES = ("train", "validation", "test", "fourth")  # colours of curves


class ReportCallback(TrainerCallback):
    """Callback that writes the page when training begins and after each evaluation; it never stops a training."""

    def __init__(self, splits: Splits):
        self.splits, self.began = splits, (0.0, 0)

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = (time.perf_counter(), state.global_step)
        self.on_evaluate(args, state, control)

    def on_evaluate(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            write_report(args.output_dir, state, self.splits, left=self.seconds_left(state))

    def seconds_left(self, state: TrainerState) -> float | None:
        started, first = self.began
        done = state.global_step - first
        return (time.perf_counter() - started) / done * (state.max_steps - state.global_step) if done else None


def write_report(
    output_dir: str | os.PathLike,
    state: TrainerState,
    splits: Splits,
    metrics: Mapping[str, Any] | None = None,
    results: Mapping[str, Evaluation] | None = None,
    left: float | None = None,
    illustrate: Illustrate | None = None,
) -> None:
    """Write report.html beside training_args.json, for a run under way or, with `metrics`, for a finished one.

    metrics: content of metrics.json.   results: split -> evaluation of the final model; the last is shown in full.
    left: seconds that training still takes.   illustrate: makes what is shown beside the answers of the last split.
    A finished page names the weights beside it; if the records are of other weights, no page is written.
    Errors here are logged and stop nothing: the model matters more than the page.
    """
    try:
        content = report_content(Path(output_dir), state, splits, metrics or {}, results or {}, left, illustrate)
        page.write_page(Path(output_dir) / REPORT_PAGE, "training/runs/report.html.j2", content)
    except Exception:
        logger.exception(f"{REPORT_PAGE} could not be written")


def report_content(
    output_dir: Path,
    state: TrainerState,
    splits: Splits,
    metrics: Mapping[str, Any],
    results: Mapping[str, Evaluation],
    left: float | None,
    illustrate: Illustrate | None = None,
) -> dict[str, Any]:
    """Return the variables of the template report.html.j2; for the parameters see `write_report`."""
    run = json.loads((output_dir / RUN_FILE).read_text(encoding="utf-8"))
    figures = result_facts(metrics)
    if metrics:
        check_claims(output_dir, (RUN_FILE,), {METRICS: metrics})
    last = figures["last"]
    examples = {"cross_validation": splits.train, "validation": splits.validation, "test": splits.test}
    result = sections(results[last], examples[last], illustrate) if last else None  # type: ignore[arg-type]
    content = {
        "name": output_dir.resolve().name,
        "sentence": sentence(model_facts(output_dir), figures) if last else "",
        "progress": None if last else _progress(state, left),
        "tiles": _final_tiles(metrics, last, figures["baseline"]) if last else _tiles_so_far(state, splits),
        "splits": figures["splits"],
        "scores": figures["results"],
        "charts": curves(state, best=state.best_global_step if last else None),
        "result": result,
        "steps": next_steps(output_dir, run, metrics, splits.findings) if last else [],
        "notes": [*splits.notes, *_unknown_notes(metrics)],
        "findings": illustrated(splits.findings),
        "short": str,
        "command": shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
        "recipe": recipe_rows(run, metrics),
        "files": {name: FILES[name] for name in LINKED if (output_dir / name).is_file()} if last else {},
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "weights": metrics.get(STAMP),
        "scripted": True,
    }
    return content | {"anchors": _anchors(content)}


def _unknown_notes(metrics: Mapping[str, Any]) -> list[str]:
    """A sentence on a model that answers "unknown"."""
    found = metrics.get("unknown") or {}
    return [f'the model says "unknown" {promise(found)}'] if "promise" in found else []


def _progress(state: TrainerState, left: float | None) -> dict[str, Any]:
    return {"step": state.global_step, "steps": state.max_steps, "left": duration(left) if left else ""}


def _final_tiles(metrics: Mapping[str, Any], last: str, baseline: str | None) -> list[tuple[str, str, str]]:
    scores = {name: value for name, value in metrics[last].items() if name != "n"}
    n, train = metrics[last]["n"], metrics["train"]
    first = tiles(scores, n)[0]
    more = [f"on {n:,} {shown(last)}", first[2], f"for comparison, {baseline}" if baseline else ""]
    return [
        (first[0], first[1], ", ".join(filter(None, more))),
        _time_tile(train),
        ("training images", f"{train['n']:,}", ""),
        ("parameters", f"{metrics['parameters'] / 1e6:.3g} M", ""),
    ]


def _time_tile(train: Mapping[str, Any]) -> tuple[str, str, str]:
    sittings, seconds = train["sittings"], train["seconds"]
    if "fitted" in train:
        return "features and head", duration(seconds), ""
    count = f"{len(sittings)} sittings"
    if seconds is None:  # the first sitting was of an earlier version, which recorded no time
        return "training time", duration(sittings[-1]["seconds"]), f"in the last of {count}"
    return "training time", duration(seconds), f"in {count}" if len(sittings) > 1 else ""


def _tiles_so_far(state: TrainerState, splits: Splits) -> list[tuple[str, str, str]]:
    scores = newest_scores(state.log_history)
    where = f"on {len(splits.validation):,} validation images" if splits.validation else ""
    return [
        (name, value, f"{where}, {more}" if more else where)
        for name, value, more in tiles(scores, len(splits.validation or ()))
    ]


def curves(state: TrainerState, best: int | None = None) -> list[Chart]:
    """Return charts of everything that was logged, over steps and epochs; `best` marks the step of the kept model."""
    charts = [_chart(panel, state, best) for panel in panels(state.log_history)]
    return [chart for chart in charts if chart is not None]


def _chart(panel: Panel, state: TrainerState, best: int | None) -> Chart | None:
    rates = (entry["epoch"] / entry["step"] for entry in reversed(state.log_history) if entry.get("step"))
    measured = any(curve.validation for curve in panel.curves)
    drawn = [
        Series(curve.name, curve.steps, curve.values, style, dots=curve.validation)
        for curve, style in zip(panel.curves, cycle(STYLES), strict=False)
    ]
    return line_chart(
        panel.title[0].upper() + panel.title[1:],
        drawn,
        epochs_per_step=next(rates, None),
        marked=(best, "best model") if measured and best else None,
    )


def _anchors(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    result = content["result"] or {}
    every = (
        ("next", "Next", content["steps"]),
        ("figures", "Figures", content["scores"]),
        ("curves", "Curves", content["charts"]),
        ("classes", "Classes", result),
        ("confusions", "Confusions", result.get("matrix") or result.get("pairs")),
        ("mistakes", "Mistakes", result.get("mistakes")),
        ("calibration", "Calibration", result.get("charts")),
        ("data", "Data", True),
        ("recipe", "How it was trained", True),
        ("files", "Files", content["files"]),
    )
    return [(anchor, text) for anchor, text, there in every if there]
