"""`--method search`: from the fitted head fine-tuning goes on, kept where held-out images say that it is better.

A setting is tried on images held out of the training images: a head is fitted to the others, the last blocks are
fine-tuned from there, and both answer the images held out. The best setting is fine-tuned once more on all images if
its answers are the better ones; else the fitted head is kept.

Shapes: N examples that are asked, K outputs.
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
from ...modeling_vit_custom import ViTCustomForImageClassification
from ...reporting.formatting import duration
from .floor import Floor
from .kept_answers import KeptAnswers
from .planning import Part, Setting
from .scores import gain_of, scores, told

CLEARLY = 0.5  # standard errors by which fine-tuning has to be better; on all images it gains more than on some


@dataclass(frozen=True)
class Trial:
    """What a setting came to. logits [N, K]: of examples that the model had not seen.   seconds: of all parts."""

    setting: Setting
    logits: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """setting: to be fine-tuned by on all images; None where the fitted head is kept.

    asked [N], logits [N, K]: positions of training examples, and what models of that kind answered that had not seen
    them.
    """

    setting: Setting | None
    asked: np.ndarray
    logits: np.ndarray
    notes: list[str]
    record: dict[str, Any]


def search(
    model: ViTCustomForImageClassification,
    splits: Splits,
    floor: Floor,
    settings: Sequence[Setting],
    parts: Sequence[Part],
    tune: Callable[[ViTCustomForImageClassification, Setting, np.ndarray], Any],
    answers: Callable[[Any, Examples], np.ndarray],
    seed: int,
    kept: KeptAnswers,
    until: float,
    progress: Callable[[str], None] = print,
) -> Outcome | None:
    """Try the settings on the first part, the best one on the others, and compare it with the fitted head.

    None where all have diverged.
    kept: answers of before are not asked for again.
    until: by `time.monotonic()`, when the last fine-tuning should have ended: what would go beyond is not tried.
    tune: (a model, a setting, positions of the examples to learn) → a Trainer that has trained it.
    answers: (that Trainer or a model, examples) → logits [n, K].
    """
    labels = [np.asarray(part.examples(splits).labels) for part in parts]
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

    def told_of(logits: np.ndarray) -> str:
        return told(logits, labels[0], splits.problem_type)

    progress(f"fitted head: {told_of(fitted[0])}, on {len(labels[0]):,} images held out")
    trials: list[Trial] = []
    share = (len(splits.train) + sum(len(part.learned) for part in parts[1:])) / len(parts[0].learned)
    for setting in settings:
        late = lambda: time.monotonic() + (1 + share) * trials[-1].seconds > until  # noqa: E731
        if trials and kept.decided(f"late: {setting}", late):
            progress(f"not tried, for want of time: {setting}")
            continue
        if (found := tried(setting, 0)) is not None:
            trials.append(Trial(setting, *found))
            progress(f"{setting}: {told_of(found[0])}, {duration(found[1])}")
    if not trials:
        return None
    trials.sort(key=lambda trial: -scores(trial.logits, labels[0], splits.problem_type).mean())
    for at in range(1, len(parts)):
        if (found := tried(trials[0].setting, at)) is None:
            return None
        logits = np.concatenate([trials[0].logits, found[0]])
        trials[0] = replace(trials[0], logits=logits, seconds=trials[0].seconds + found[1])
    asked = np.concatenate([part.asked for part in parts])
    outcome = decide(trials, np.concatenate(fitted), asked, np.concatenate(labels), splits, str(floor.fitted.head))
    each = trials[0].seconds / sum(len(part.learned) for part in parts)
    outcome.record["seconds_of_last"] = round(each * len(splits.train), 1)
    return outcome


def decide(
    trials: Sequence[Trial],
    fitted: np.ndarray,
    asked: np.ndarray,
    labels: np.ndarray,
    splits: Splits,
    head: str,
) -> Outcome:
    """Keep the first setting, the best, if its answers to the same examples are better than the fitted heads'."""
    trial, task = trials[0], splits.problem_type
    gain = gain_of(trial.logits, fitted, labels, task)
    better = gain.mean > max(CLEARLY * gain.error, 0.0)
    return Outcome(
        setting=trial.setting if better else None,
        asked=asked,
        logits=trial.logits if better else fitted,
        notes=[
            f"fitted head: {told(fitted, labels, task)}; fine-tuned: {gain}",
            f"kept: {trial.setting if better else f'the fitted head ({head})'}",
        ],
        record={
            "fitted_head": float(scores(fitted, labels, task).mean()),
            "trials": [
                {
                    **each.setting.record(),
                    "n": len(each.logits),
                    "score": float(scores(each.logits, labels[: len(each.logits)], task).mean()),
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
    """Return float32 [n, K]: what a head answers that was fitted to what the part learns."""
    if part.of_validation:  # whose features are not at hand; it learns all, as the floor has
        return answers(floor.model, part.examples(splits))
    return processes.from_first(lambda: floor.answers(floor.fitted.tap, head, part.asked))
