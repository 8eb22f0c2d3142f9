"""`--max_minutes`: a schedule that fits the wall clock, and a run that ends on time.

How many steps fit is unknown before some have been made. So the schedule is a function of progress, from 0 to 1. A plan
maps steps to progress: `[(step, progress), …]`, linear between. The first steps cover PROBED of the schedule. Then the
plan is made from their speed. After a validation it is made again where it would miss the end by more than TOLERATED of
the whole time. Each checkpoint stores the plan, and a resumed run keeps to it.
"""

import time
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import has_length

from ...common.processes import Processes

UNKNOWN_STEPS = 10**8  # Trainer's max_steps as long as there is no plan
WARM, PROBE, PROBED = 3, 40, 0.01  # first steps, not timed; last step that is timed for the plan; progress by then
PROBE_SHARE = 0.02  # of the time; once it is used, fewer steps are enough for a plan
TOLERATED, MARGIN = 0.02, 0.01
CLOSING = 8.0  # seconds for the best weights, pictures and the report
FORWARD = 1 / 3  # of a training step's time, until a validation has been timed


class TimeBudget(TrainerCallback, ExportableState):
    """Callback that plans the steps of a training.

    minutes: of the whole run.   began: the clock when it began.   clock: in seconds, as time.monotonic.
    validation: images in each validation.   closing: images that are evaluated after the training.
    """

    def __init__(
        self,
        minutes: float,
        processes: Processes,
        validation: int = 0,
        closing: int = 0,
        began: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.seconds, self.processes, self.validation, self.closing = 60 * minutes, processes, validation, closing
        self.clock, self.began = clock, clock() if began is None else began
        self.after = min(CLOSING, self.seconds / 10)
        self.used_before = 0.0  # seconds, before the run was interrupted
        self.planned_for = self.seconds  # seconds for which the plan was made, before an interruption
        self.plan: list[tuple[int, float]] = [(0, 0.0), (PROBE, PROBED)]
        self.image_cost = 0.0  # seconds to evaluate one
        self.since: tuple[int, float] = (0, 0.0)  # step and clock from which the speed is measured
        self.next_look = 0

    def state(self) -> dict[str, Any]:
        return {
            "args": {},
            "attributes": {
                "plan": self.plan,
                "used_before": self.used(),
                "image_cost": self.image_cost,
                "planned_for": self.seconds,
            },
        }

    @property
    def planned(self) -> bool:
        return self.plan[-1][1] == 1

    def used(self) -> float:
        """Return the seconds that the run has used so far."""
        return self.used_before + self.clock() - self.began

    def progress(self, step: float) -> float:
        """Return the share of the schedule that is done after so many steps."""
        if step >= self.plan[-1][0]:
            return self.plan[-1][1]
        at = max(1, min(bisect_right(self.plan, step, key=lambda knot: knot[0]), len(self.plan) - 1))
        (before, low), (after, high) = self.plan[at - 1], self.plan[at]
        return min(1.0, low + (high - low) * (step - before) / max(1, after - before))

    # ---------- Trainer's moments

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.plan = [(int(step), float(progress)) for step, progress in self.plan]  # JSON has no tuples
        if self.planned and self.planned_for < self.seconds:
            self._stretch(args, state)
        self._tell(args, state)
        self.since = (state.global_step, self.clock())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        if step == WARM:
            self.since = (step, self.clock())
        if not self.planned and step > WARM:
            self._probe(args, state, kwargs["train_dataloader"])
        elif step >= self.next_look and self.planned and step < state.max_steps:
            pace, over = self.processes.from_first(lambda: (self._pace(step), self._left() < 0))
            self.next_look = step + max(1, int(1 / pace))
            if over:
                self.plan[-1] = (step, 1.0)
                control.should_training_stop = control.should_save = True
                control.should_evaluate = args.eval_strategy != "no"
                self._tell(args, state)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        if self.validation:
            self.image_cost = metrics.get("eval_runtime", 0.0) / self.validation
        step, measured = state.global_step, state.global_step - self.since[0]
        if not self.planned or measured < WARM or step >= state.max_steps:
            return
        pace, left = self.processes.from_first(lambda: (self._pace(step), self._left()))
        if abs(left - pace * (state.max_steps - step)) > TOLERATED * self.seconds:
            self._make(args, state, left / pace)

    # ---------- planning

    def _pace(self, step: int) -> float:
        """Recent seconds per step, validations and saving included."""
        return max(1e-6, (self.clock() - self.since[1]) / max(1, step - self.since[0]))

    def _left(self) -> float:
        """Seconds left for steps."""
        return (1 - MARGIN) * self.seconds - self.used() - self.after - self.closing * self.image_cost

    def _probe(self, args: Any, state: Any, loader: Any) -> None:
        """Make the first plan, once enough steps have been timed."""
        step = state.global_step
        pace, spent = self.processes.from_first(lambda: (self._pace(step), self.clock() - self.since[1]))
        if step < PROBE and spent < PROBE_SHARE * self.seconds:
            return
        self.image_cost = self.image_cost or FORWARD * pace / images_of_step(args)
        once, left = self.processes.from_first(lambda: (self.validation * self.image_cost, self._left()))
        at_any_rate, each_step = self._validations(args, loader)
        self._make(args, state, (left - once * at_any_rate) / (pace + once * each_step))

    @staticmethod
    def _validations(args: Any, loader: Any) -> tuple[float, float]:
        """(number of validations independent of the number of steps, further ones per step)."""
        if args.eval_strategy == "no":
            return 0.0, 0.0
        if args.eval_strategy == "epoch":
            return 1.0, args.gradient_accumulation_steps / len(loader) if has_length(loader) else 0.0
        return (1 / args.eval_steps, 0.0) if args.eval_steps < 1 else (1.0, 1 / args.eval_steps)

    def _make(self, args: Any, state: Any, steps: float) -> None:
        step = state.global_step
        done = self.progress(step)
        self.plan = [knot for knot in self.plan if knot[0] < step] + [(step, done), (step + max(1, int(steps)), 1.0)]
        self.since = (step, self.clock())
        self._tell(args, state)

    def _stretch(self, args: Any, state: Any) -> None:
        """Adapt the plan of a resumed run that has more time than before: its progress so far shrinks accordingly."""
        share = self.planned_for / self.seconds
        self.plan = [(step, share * progress) for step, progress in self.plan]
        pace, left = self.processes.from_first(lambda: (self.used_before / max(1, state.global_step), self._left()))
        self._make(args, state, max(0.0, left) / max(1e-6, pace))

    def _tell(self, args: Any, state: Any) -> None:
        """Set Trainer's number of steps to the planned one."""
        state.max_steps = self.plan[-1][0] if self.planned else UNKNOWN_STEPS
        state.compute_steps(args, state.max_steps)


def images_of_step(args: Any) -> int:
    """Return the number of images per optimizer step, of all processes together."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def time_budget(
    minutes: float | None, processes: Processes, validation: int, test: int, began: float | None = None
) -> TimeBudget | None:
    """Build the budget of --max_minutes; None if it is not given.

    validation, test: images of each set. The first is evaluated each time, both after the training.
    """
    return None if minutes is None else TimeBudget(minutes, processes, validation, validation + test, began)
