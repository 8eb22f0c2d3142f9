"""`--method search`: from the fitted head fine-tuning goes on, kept where held-out images say that it is better.

A setting is tried by cross-validation on the training images: in each fold a head is fitted to the other images, some
of the last blocks are fine-tuned from there, and both answer the images held out. The best setting is kept, and
fine-tuned once more on all images, if its answers are better than the fitted heads' by more than chance; else the
fitted head is.

Shapes: N examples, K outputs.
"""

import copy
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers.trainer_utils import IntervalStrategy

from ..data.dataset import ImageDataset
from ..data.examples import MULTI_LABEL, SINGLE_LABEL, Examples, Splits
from ..data.labels import strata
from ..data.views import DecodedViews, eval_views
from ..evaluation.figures import duration
from ..features.fitted import with_head
from ..features.selection import stratified_folds
from ..inference.outputs import write_whole
from ..inference.processes import Processes
from ..modeling_vit_custom import ViTCustomForImageClassification
from .feeding import Feed
from .flags import ViTTrainingArguments
from .floor import Floor

OUTCOME = "search.npz"  # of the output folder; it is not published
FOLDS = 2
BUDGET = 10.0  # times the seconds of all features that a search may take without --max_minutes
LONGEST = 600.0  # seconds of it on a CPU
LEAST_EPOCHS = 3.0  # of a setting, below which fewer settings are tried
MOST_EPOCHS = 30.0
OVERHEAD = 1.2  # of a step of training beyond its products: augmentation, optimizer
BATCHES = (8, 32)  # images of a step: a sixteenth of all within these
CLEARLY = 1.64  # standard errors by which fine-tuning has to be better: by chance in one case of twenty
# (share of the blocks, learning rate): tried in this order, as many as there is time for
SETTINGS = ((1.0, 1e-4), (1.0, 3e-4), (2 / 3, 1e-4), (1 / 3, 1e-4))


@dataclass(frozen=True)
class Setting:
    """blocks: how many of the last ones are trained, with norms and head.   epochs: passes over the images."""

    blocks: int
    learning_rate: float
    epochs: float

    def __str__(self) -> str:
        return f"last {self.blocks} blocks fine-tuned, learning rate {self.learning_rate:g}, {self.epochs:.1f} passes"


@dataclass(frozen=True)
class Trial:
    """logits [N, K]: of each example by a model that had not seen it.   seconds: of all folds."""

    setting: Setting
    logits: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """setting: to be fine-tuned by on all images; None where the fitted head is kept.   logits: of what is kept."""

    setting: Setting | None
    logits: np.ndarray
    notes: list[str]
    record: dict[str, Any]


def plan(
    layers: int, kept: int, pace: float, examples: int, seconds: float | None, accelerator: bool
) -> tuple[list[Setting], float]:
    """Return the settings there is time for, and the seconds they may take with the last fine-tuning.

    layers, kept: blocks of the encoder, and of the model with the fitted head.   pace: seconds of an image through the
    encoder.   seconds: that are left of --max_minutes, or None.
    """
    if seconds is None:
        seconds = BUDGET * pace * examples
        seconds = seconds if accelerator else min(seconds, LONGEST)
    options = [(max(1, round(share * kept)), rate) for share, rate in SETTINGS]
    costs = [OVERHEAD * pace * (kept + 2 * blocks) / layers * examples for blocks, _ in options]  # of one pass
    passes = FOLDS - 1  # over all images, of the folds together
    count = min(len(options), int((seconds / (max(costs) * LEAST_EPOCHS) - 1) / passes))
    if count < 1 and seconds < 2 * max(costs):  # less than a pass
        return [], seconds
    count = max(1, count)
    epochs = min(MOST_EPOCHS, seconds / (passes * sum(costs[:count]) + max(costs[:count])))
    return [Setting(blocks, rate, round(epochs, 2)) for blocks, rate in options[:count]], seconds


def search(
    model: ViTCustomForImageClassification,
    splits: Splits,
    floor: Floor,
    settings: Sequence[Setting],
    tune: Callable[[ViTCustomForImageClassification, Setting, np.ndarray], Any],
    answers: Callable[[Any, Examples], np.ndarray],
    seed: int,
    processes: Processes,
    until: float,
    progress: Callable[[str], None] = print,
) -> Outcome:
    """Try the settings and compare the best one with the fitted head, example by example.

    until: by `time.monotonic()`, when the last fine-tuning should have ended: what would go beyond is not tried.
    tune: (a model, a setting, positions of the examples to learn) → a Trainer that has trained it.
    answers: (that Trainer, examples) → logits [n, K].
    """
    labels = np.asarray(splits.train.labels)
    folds = processes.from_first(lambda: stratified_folds(strata(labels, splits.problem_type), FOLDS, seed))
    heads, fitted = processes.from_first(lambda: _fitted_in_folds(floor, labels, splits, folds, seed))
    trials: list[Trial] = []
    for setting in settings:
        if trials and processes.from_first(lambda: time.monotonic() + 2 * trials[-1].seconds > until):
            progress(f"not tried, for want of time: {setting}")
            continue
        began = time.perf_counter()
        logits = np.empty_like(fitted)
        for head, held_out in zip(heads, folds, strict=True):
            net = with_head(model, replace(floor.fitted, head=head))
            trainer = tune(net, setting, np.setdiff1d(np.arange(len(labels)), held_out))
            logits[held_out] = answers(trainer, splits.train.select(held_out.tolist()))
        trials.append(Trial(setting, logits, time.perf_counter() - began))
        progress(
            f"{setting}: {_told(scores(logits, labels, splits.problem_type), splits)}, {duration(trials[-1].seconds)}"
        )
    return decide(trials, fitted, labels, splits, str(floor.fitted.head))


def decide(trials: Sequence[Trial], fitted: np.ndarray, labels: np.ndarray, splits: Splits, head: str) -> Outcome:
    """Keep the best setting if it is clearly better than the fitted heads on the same examples; else those."""
    own = scores(fitted, labels, splits.problem_type)
    best = max(trials, key=lambda trial: scores(trial.logits, labels, splits.problem_type).mean())
    gains = scores(best.logits, labels, splits.problem_type) - own
    error = float(gains.std(ddof=1)) / len(gains) ** 0.5 if len(gains) > 1 else float("inf")
    better = float(gains.mean()) > max(CLEARLY * error, 0.0)
    unit, factor = ("points", 100) if splits.problem_type == SINGLE_LABEL else ("in the score", 1)
    verdict = f"{factor * gains.mean():+.2f} ± {factor * 1.96 * error:.2f} {unit} on {len(gains):,} held-out images"
    kept = f"kept: {best.setting if better else f'the fitted head ({head})'}"
    return Outcome(
        setting=best.setting if better else None,
        logits=best.logits if better else fitted,
        notes=[f"fitted head: {_told(own, splits)}; fine-tuned: {verdict}", kept],
        record={
            "fitted_head": float(own.mean()),
            "trials": [
                {
                    **asdict(trial.setting),
                    "score": float(scores(trial.logits, labels, splits.problem_type).mean()),
                    "seconds": round(trial.seconds, 1),
                }
                for trial in trials
            ],
            "seconds_of_best": round(best.seconds, 1),
            "gain": float(gains.mean()),
            "standard_error": error,
            "kept": asdict(best.setting) if better else None,
        },
    )


def write_outcome(folder: str, outcome: Outcome) -> None:
    """Keep it in the run's folder, so that a fine-tuning that was cut off goes on without another search."""
    record = np.frombuffer(json.dumps({"notes": outcome.notes, **outcome.record}).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, logits=outcome.logits, record=record)
    write_whole(Path(folder) / OUTCOME, file.getvalue())


def read_outcome(folder: str) -> Outcome | None:
    """Return what was kept there; None where there is nothing that can be read."""
    try:
        with np.load(Path(folder) / OUTCOME, allow_pickle=False) as file:
            logits, record = file["logits"], json.loads(file["record"].tobytes())
    except (OSError, ValueError, KeyError):
        return None
    notes, kept = record.pop("notes"), record["kept"]
    return Outcome(None if kept is None else Setting(**kept), logits, notes, record)


def scores(logits: np.ndarray, labels: np.ndarray, problem_type: str) -> np.ndarray:
    """Return [N], the more the better: whether each example is right, or minus its loss where labels are no classes."""
    if problem_type == SINGLE_LABEL:
        return (logits.argmax(axis=1) == labels).astype(np.float64)
    answers, truth = torch.from_numpy(logits).double(), torch.from_numpy(labels).double().reshape(len(labels), -1)
    if problem_type == MULTI_LABEL:
        return -F.binary_cross_entropy_with_logits(answers, truth, reduction="none").mean(dim=1).numpy()
    return -(answers - truth).square().mean(dim=1).numpy()


@contextmanager
def trial_arguments(training_args: ViTTrainingArguments, setting: Setting, examples: int) -> Iterator[Any]:
    """Yield the arguments of one fine-tuning, of which nothing is kept on disk; their folder goes afterwards."""
    args = of_setting(training_args, setting, examples)
    args.save_strategy = args.logging_strategy = IntervalStrategy.NO
    args.report_to, args.disable_tqdm, args.push_to_hub = [], True, False
    with tempfile.TemporaryDirectory() as folder:
        args.output_dir = folder
        yield args


def of_setting(training_args: ViTTrainingArguments, setting: Setting, examples: int) -> Any:
    """Return the arguments of a fine-tuning on so many examples, by a setting."""
    args: Any = copy.copy(training_args)
    args.learning_rate, args.num_train_epochs, args.max_steps = setting.learning_rate, setting.epochs, -1
    args.weight_decay, args.layer_decay, args.max_minutes = 0.05, 0.75, None
    args.per_device_train_batch_size = max(BATCHES[0], min(BATCHES[1], examples // 16 // max(1, args.world_size)))
    args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
    return args


def freeze_below(model: ViTCustomForImageClassification, blocks: int) -> None:
    """Leave gradients to the last `blocks` and to what comes after them; to everything if these are all blocks."""
    layers = model.vit.layers
    model.requires_grad_(blocks >= len(layers))
    for part in (
        *layers[len(layers) - blocks :],
        model.vit.layernorm,
        model.vit.pooler,
        model.pre_logits,
        model.classifier,
    ):
        if part is not None:
            part.requires_grad_(True)


class Selected:
    """Some of the views of a split, by their positions."""

    def __init__(self, views: Any, positions: np.ndarray):
        self.views, self.positions = views, positions

    def __call__(self, indices: Sequence[int]) -> torch.Tensor:
        return self.views([int(self.positions[index]) for index in indices])


def selected(feed: Feed, positions: np.ndarray) -> Feed:
    """Return the feed of a part of the training examples; their views stay where they are."""
    whole = feed.train
    views = Selected(whole.views, positions)
    return replace(feed, train=ImageDataset(whole.examples.select(positions.tolist()), views, whole.seed, whole.policy))


def answers_of(trainer: Any, examples: Examples, processor: Any) -> np.ndarray:
    """Return logits [n, K] of images as evaluation sees them."""
    views = DecodedViews(examples, eval_views(processor, trainer.model.config))
    return np.asarray(trainer.predict(ImageDataset(examples, views)).predictions)


def _fitted_in_folds(
    floor: Floor, labels: np.ndarray, splits: Splits, folds: Sequence[np.ndarray], seed: int
) -> tuple[list[Any], np.ndarray]:
    """Return (the head fitted without each fold, float32 [N, K]: what these answer for it)."""
    heads, logits = [], np.empty((len(labels), len(splits.id2label)), np.float32)
    for held_out in folds:
        rest = np.setdiff1d(np.arange(len(labels)), held_out)
        head = floor.refit(rest, splits, seed)
        assert floor.features is not None
        features = floor.features.of(floor.fitted.tap, held_out.tolist()).double()
        logits[held_out] = (features @ head.weight.T + head.bias).float().clamp_min(-1e4).numpy()
        heads.append(replace(head, held_out=None))
    return heads, logits


def _told(values: np.ndarray, splits: Splits) -> str:
    """Return the mean of scores with its 95 % interval."""
    mean, error = values.mean(), values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    name = "accuracy" if splits.problem_type == SINGLE_LABEL else "score"
    return f"{name} {mean:.4f} ± {1.96 * error:.4f}"
