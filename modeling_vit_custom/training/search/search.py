"""`--method search`: fine-tuning from the fitted head, kept if it is better on held-out images.

A setting is tried on held-out images, from the validation or the training set: a head is fitted to the other training
images, the last blocks are fine-tuned from there, and both models answer the held-out images. The best setting is
fine-tuned once more on all images if its answers are better; else the fitted head is kept.

Shapes: N held-out examples, K outputs.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...common.processes import Processes
from ...data.examples import Examples, Splits
from ...features.fitted import with_head
from ...features.selection import Head
from ...pretrained_vit_custom import ViTCustomPreTrainedModel
from ...reporting.formatting import duration
from ...tasks.registry import task_named
from ...tasks.task import Task
from .floor import Floor
from .kept_answers import KeptAnswers
from .planning import Part, Setting
from .scores import format_score, gain_of

CLEARLY = 0.5  # standard errors that the gain must exceed; on all images fine-tuning gains more than in a trial


@dataclass(frozen=True)
class Trial:
    """The result of a setting.   outputs [N, K]: for examples that the model had not seen.   seconds: of all parts."""

    setting: Setting
    outputs: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """The result of a search.

    setting: for fine-tuning on all images; None if the fitted head is kept.
    asked [N]: positions of the held-out examples, as in `Part`.
    outputs [N, K]: for these examples, of models of the kept kind that had not seen them.
    """

    setting: Setting | None
    asked: np.ndarray
    outputs: np.ndarray
    notes: list[str]
    record: dict[str, Any]


def search(
    model: ViTCustomPreTrainedModel,
    splits: Splits,
    floor: Floor,
    settings: Sequence[Setting],
    parts: Sequence[Part],
    tune: Callable[[ViTCustomPreTrainedModel, Setting, np.ndarray], Any],
    answers: Callable[[Any, Examples], np.ndarray],
    seed: int,
    kept: KeptAnswers,
    until: float,
    progress: Callable[[str], None] = print,
) -> Outcome | None:
    """Try the settings on the first part and the best one on the others, then compare it with the fitted head.

    Returns None if all settings diverge, or the best one does on another part.
    kept: stores answers; stored ones are not computed again.
    until: time, by `time.monotonic()`, at which the last fine-tuning should end; settings that would exceed it are
    skipped.
    tune: (a model, a setting, positions of the examples to learn) → a Trainer that has trained it.
    answers: (that Trainer or a model, examples) → outputs [n, K].
    """
    task, values = task_named(splits.problem_type), [part.examples(splits).targets.values for part in parts]
    processes = kept.processes
    heads = processes.from_first(lambda: [floor.refit(part.learned, splits, seed) for part in parts])
    fitted = [_answers_of_head(floor, *of, splits, answers, processes) for of in zip(heads, parts, strict=True)]

    def tried(setting: Setting, at: int) -> tuple[np.ndarray, float] | None:
        part, head, name = parts[at], heads[at], f"part {at + 1}: {setting}"

        def answer() -> np.ndarray:
            trainer = tune(with_head(model, replace(floor.fitted, head=head)), setting, part.learned)
            return answers(trainer, part.examples(splits))

        if name not in kept.decisions:
            try:
                return kept.answered(name, answer)
            except FloatingPointError:
                kept.decided(name, lambda: "diverged")
        progress(f"{setting}: diverged, left out")
        return None

    def score_of(outputs: np.ndarray) -> str:
        return format_score(outputs, values[0], task)

    progress(f"fitted head: {score_of(fitted[0])}, on {len(values[0]):,} images held out")
    trials: list[Trial] = []
    share = (len(splits.train) + sum(len(part.learned) for part in parts[1:])) / len(parts[0].learned)
    for setting in settings:
        late = lambda: time.monotonic() + (1 + share) * trials[-1].seconds > until  # noqa: E731
        if trials and kept.decided(f"late: {setting}", late):
            progress(f"not tried, for want of time: {setting}")
            continue
        if (found := tried(setting, 0)) is not None:
            trials.append(Trial(setting, *found))
            progress(f"{setting}: {score_of(found[0])}, {duration(found[1])}")
    if not trials:
        return None
    trials.sort(key=lambda trial: -task.score(trial.outputs, values[0]).mean())
    for at in range(1, len(parts)):
        if (found := tried(trials[0].setting, at)) is None:
            return None
        outputs = np.concatenate([trials[0].outputs, found[0]])
        trials[0] = replace(trials[0], outputs=outputs, seconds=trials[0].seconds + found[1])
    asked = np.concatenate([part.asked for part in parts])
    outcome = decide(trials, np.concatenate(fitted), asked, np.concatenate(values), task, str(floor.fitted.head))
    each = trials[0].seconds / sum(len(part.learned) for part in parts)
    outcome.record["seconds_of_last"] = round(each * len(splits.train), 1)
    return outcome


def decide(
    trials: Sequence[Trial],
    fitted: np.ndarray,
    asked: np.ndarray,
    values: np.ndarray,
    task: Task,
    head: str,
) -> Outcome:
    """Keep the first trial's setting, which is the best, if its outputs are better than the fitted heads'.

    trials: best first.   fitted [N, K]: outputs of the fitted heads.   asked [N], values: the examples of both, and
    their labels.   head: the fitted head, for the screen.
    """
    trial = trials[0]
    gain = gain_of(trial.outputs, fitted, values, task)
    better = gain.mean > max(CLEARLY * gain.error, 0.0)
    return Outcome(
        setting=trial.setting if better else None,
        asked=asked,
        outputs=trial.outputs if better else fitted,
        notes=[
            f"fitted head: {format_score(fitted, values, task)}; fine-tuned: {gain}",
            f"kept: {trial.setting if better else f'the fitted head ({head})'}",
        ],
        record={
            "fitted_head": float(task.score(fitted, values).mean()),
            "trials": [
                {
                    **each.setting.record(),
                    "n": len(each.outputs),
                    "score": float(task.score(each.outputs, values[: len(each.outputs)]).mean()),
                    "seconds": round(each.seconds, 1),
                }
                for each in trials
            ],
            "gain": gain.mean,
            "standard_error": gain.error,
            "kept": trial.setting.record() if better else None,
        },
    )


def _answers_of_head(
    floor: Floor,
    head: Head,
    part: Part,
    splits: Splits,
    answers: Callable[[Any, Examples], np.ndarray],
    processes: Processes,
) -> np.ndarray:
    """Return float32 [n, K], the outputs for a part's held-out examples of the head fitted to its others."""
    if part.of_validation:  # has no features at hand; the part learns all, as the floor's head has
        return answers(floor.model, part.examples(splits))
    return processes.from_first(lambda: floor.answers(floor.fitted.tap, head, part.asked))
