"""What a training shows of its course: a short line for a log, a bar on a terminal, and what is left, measured.

step 40/350  loss 0.52  lr 1.0e-3  1,230 images/s
validation at step 70/350  accuracy 0.912  loss 0.31  best accuracy 0.912
350 steps: about 4 min, 2.1 GB (one empty batch was tried)
35 steps to go: about 4 min 2 s of steps, validation not counted; peak memory 2.1 GB
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_callback import CallbackHandler

from ...reporting.formatting import duration, number
from ...reporting.history import newest_scores
from ..optimization.time_budget import UNKNOWN_STEPS, WARM, TimeBudget
from .throughput import Throughput

MOST = 200  # lines on steps, in a whole training
WAITING = 0.1  # share of the time spent waiting for data from which a line says so
MEASURED_STEPS, MEASURED_SECONDS = 10, 5.0  # after the first WARM steps: one of these is enough to say what is left

Best = tuple[str, float] | None
Trial = Callable[[Any, Any], tuple[float, int | None] | None]


def log_line(logs: Mapping[str, Any], args: Any, state: Any) -> str | None:
    """Return what was logged as one line; None for the summary at the end, which others print."""
    step = f"{state.global_step:,}" + ("" if state.max_steps >= UNKNOWN_STEPS else f"/{state.max_steps:,}")
    if "eval_loss" in logs or newest_scores([logs]):
        scores = newest_scores([logs]) | ({"loss": logs["eval_loss"]} if "eval_loss" in logs else {})
        best = best_of(logs, args, state)
        words = [f"{name} {number(value)}" for name, value in scores.items()]
        return "  ".join(
            [f"validation at step {step}", *words, *([f"best {best[0]} {number(best[1])}"] if best else [])]
        )
    if "loss" not in logs:
        return None
    words = [f"step {step}", f"loss {number(logs['loss'])}"]
    if "learning_rate" in logs:
        words.append(f"lr {_short(logs['learning_rate'])}")
    if "images_per_second" in logs:
        words.append(f"{logs['images_per_second']:,.0f} images/s")
    if logs.get("data_wait", 0.0) >= WAITING:
        words.append(f"{logs['data_wait']:.0%} waiting for data")
    return "  ".join(words)


def best_of(logs: Mapping[str, Any], args: Any, state: Any) -> Best:
    """Return (metric, its best value so far, this validation's included); None if no metric selects the best model.

    Trainer compares only after it has logged.
    """
    if not (name := args.metric_for_best_model):
        return None
    name = name.removeprefix("eval_")
    values = [value for value in (logs.get(f"eval_{name}"), state.best_metric) if value is not None]
    return (name, float((max if args.greater_is_better else min)(values))) if values else None


def _short(rate: float) -> str:
    """A learning rate such as 1.0e-3."""
    digits, _, power = f"{rate:.1e}".partition("e")
    return f"{digits}e{int(power)}" if rate else "0"


class Lines(PrinterCallback):
    """Callback that prints lines; of a long training a step's line only where another 1/MOST of it is done."""

    def __init__(self, write: Callable[[str], None] | None = None):
        self.write = write or (lambda line: print(line, flush=True))
        self.shown = -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.shown = -1

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or (line := log_line(logs or {}, args, state)) is None:
            return
        if "loss" in logs and state.max_steps < UNKNOWN_STEPS:
            part = MOST * state.global_step // max(MOST, state.max_steps)
            if part == self.shown and state.global_step < state.max_steps:
                return
            self.shown = part
        self.write(line)


class Bar(ProgressCallback):
    """Trainer's progress bar with the loss and the best metric, above which `Lines` are written.

    Until a time budget has planned the number of steps it shows the time used instead. The time left counts from the
    step at which a resumed training began.
    """

    def __init__(self, budget: TimeBudget | None = None, max_str_len: int = 100):
        super().__init__(max_str_len)
        self.budget, self.figures = budget, dict[str, str]()
        self.lines = Lines(self._write)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps = state.max_steps
        state.max_steps = steps if self.budget is None or self.budget.planned else None
        super().on_train_begin(args, state, control, **kwargs)
        state.max_steps = steps
        bar: Any = self.training_bar
        if bar is not None:
            bar.initial = bar.n = bar.last_print_n = self.current_step = state.global_step
            bar.refresh()
        self.lines.on_train_begin(args, state, control)
        self._tell(state, refresh=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell(state)
        super().on_step_end(args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        bar: Any = self.training_bar
        if bar is None:
            return
        if "loss" in logs:
            self.figures["loss"] = number(logs["loss"])
        elif log_line(logs, args, state) and (best := best_of(logs, args, state)):
            self.figures[f"best {best[0]}"] = number(best[1])
        bar.set_postfix(self.figures, refresh=False)
        self.lines.on_log(args, state, control, logs=logs)

    def _write(self, line: str) -> None:
        bar: Any = self.training_bar
        bar.write(line)

    def _tell(self, state: Any, refresh: bool = False) -> None:
        bar, budget = self.training_bar, self.budget
        if bar is not None and budget is not None:
            clock = f"{bar.format_interval(budget.used())} of {bar.format_interval(budget.seconds)}"
            bar.set_description_str("" if budget.planned else clock, refresh)
            bar.total = state.max_steps if budget.planned else None


class Left(TrainerCallback):
    """Callback that prints how long the steps take and what memory they need: before the first, and after some.

    Only steps are counted: how long a validation takes is unknown before the first.   write: prints a line.
    trial: estimates a step (model, arguments) before the first one, see `try_step`.
    """

    def __init__(self, throughput: Throughput, write: Callable[[str], None], trial: Trial | None = None):
        self.throughput, self.write, self.trial = throughput, write, trial
        self.first, self.since = 0, (0, 0.0)
        self.said = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first, self.said = state.global_step, not state.is_world_process_zero
        left = state.max_steps - self.first
        if self.said or self.trial is None or left <= 0 or state.max_steps >= UNKNOWN_STEPS:
            return
        if (tried := self.trial(kwargs["model"], args)) is not None:
            seconds, peak = tried
            memory = "" if peak is None else f", {peak / 1e9:.1f} GB"
            self.write(f"{left:,} steps: about {duration(max(1, left * seconds))}{memory} (one empty batch was tried)")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        if self.said or state.max_steps >= UNKNOWN_STEPS:
            return
        if step <= self.first + WARM:  # the first steps are slower
            self.since = (step, self.throughput.seconds)
            return
        steps, seconds = step - self.since[0], self.throughput.seconds - self.since[1]
        if steps < MEASURED_STEPS and seconds < MEASURED_SECONDS:
            return
        self.said = True
        if (left := state.max_steps - step) > 0:
            line = f"{left:,} steps to go: about {duration(left * seconds / steps)} of steps, validation not counted"
            if (peak := peak_memory(args.device)) is not None:
                line += f"; peak memory {peak / 1e9:.1f} GB{' in each process' if args.world_size > 1 else ''}"
            self.write(line)


def peak_memory(device: torch.device) -> int | None:
    """Return the most bytes that this process has used so far, of the GPU if it trains there; None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if sys.platform == "win32":
        return None
    resource = import_module("resource")  # Windows has no such module
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else 1024 * kilobytes


def show_progress(
    callbacks: CallbackHandler, throughput: Throughput, budget: TimeBudget | None, trial: Trial | None = None
) -> None:
    """Replace Trainer's printer or bar by `Lines` or a `Bar`; `throughput` and `budget` must be callbacks already.

    Another bar, such as a notebook's, stays.
    """
    write: Callable[[str], None] = lambda line: print(line, flush=True)  # noqa: E731
    if callbacks.pop_callback(PrinterCallback) is not None:
        callbacks.add_callback(Lines())
    elif (old := next((c for c in callbacks.callbacks if type(c) is ProgressCallback), None)) is not None:
        callbacks.remove_callback(old)
        bar = Bar(budget, old.max_str_len)
        callbacks.add_callback(bar)
        write = bar._write
    callbacks.add_callback(Left(throughput, write, trial))
