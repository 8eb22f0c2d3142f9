"""The methods that begin with a fitted head: the head alone (fitted_head), or fine-tuning from there (search)."""

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ...common.environment import computes_faster_in_bfloat16
from ...common.fingerprint import fingerprint
from ...common.processes import Processes
from ...data.examples import Splits
from ...evaluation.result import Evaluation, score_examples
from ...explanation.mistakes.nearest import TrainingImages
from ...reporting.formatting import duration, figure, title
from ..arguments.data_arguments import DataArguments
from ..arguments.model_arguments import ModelArguments
from ..arguments.training_arguments import ViTTrainingArguments
from ..checkpointing.changes import CHANGEABLE
from ..checkpointing.images import check_images
from ..optimization.time_budget import CLOSING
from ..search.floor import CROSS_VALIDATION, Floor, build_floor
from ..search.folds import answers_in_folds
from ..search.kept_answers import KeptAnswers
from ..search.planning import Setting, augmentations_for, parts_of, plan
from ..search.search import Outcome, search
from ..search.trials import Tuner, cost_of, of_setting
from .beginning import begin_at, say
from .finishing import finish, train_to_the_end
from .records import begin_records
from .report import ReportCallback
from .unknown import Calibration


@dataclass(frozen=True)
class Story:
    """Everything a run has before anything is computed.

    run, conversion: for its records.   began: start of --max_minutes, by `time.monotonic()`.   notes: not printed yet.
    """

    model: Any
    processor: Any
    splits: Splits
    calibration: Calibration | None
    model_args: ModelArguments
    data_args: DataArguments
    training_args: ViTTrainingArguments
    run: dict[str, Any]
    conversion: dict[str, Any] | None
    began: float
    notes: list[str]

    def left(self, floor: Floor) -> float:
        """Return the seconds left of --max_minutes, less those that the final evaluation and report will take."""
        ends = sum(len(examples) for examples in (self.splits.validation, self.splits.test) if examples is not None)
        closing = CLOSING + floor.pace * ends / self.training_args.world_size
        return 60 * float(self.training_args.max_minutes or 0) - (time.monotonic() - self.began) - closing

    @property
    def processes(self) -> Processes:
        return self.training_args.processes

    @cached_property
    def tuner(self) -> Tuner:
        return Tuner(self.processor, self.splits, self.model_args, self.data_args, self.training_args)

    @cached_property
    def kept(self) -> KeptAnswers:
        """Answers and decisions that this same run has stored before; ignored if --resume_from_checkpoint is false."""
        weights: Any = self.model.vit
        settings = {name: value for name, value in self.run["training"].items() if name not in CHANGEABLE}
        run = {"model": self.run["model"], "data": self.run["data"], "training": settings}
        run["encoder"] = fingerprint(weights, self.processor, {"size": list(self.model.config.image_hw)})
        fresh = self.training_args.resume == "false"
        return KeptAnswers(self.training_args.output_dir, run, self.processes, fresh)

    def say(self, *lines: str) -> None:
        say(self.training_args, lines)

    def find_resume_checkpoint(self) -> str | None:
        """Return the checkpoint to continue from, or None. Raises UsageError for another run that has not ended."""
        return begin_at(self.training_args, self.run, len(self.splits.train), self.notes)

    def check_images(self, run: str | None) -> None:
        check_images(self.training_args.output_dir, self.splits, run, self.processes)

    def begin_records(self, checkpoint: str | None = None) -> None:
        if self.processes.is_first:
            recipe = self.model_args.chosen_recipe or (None if checkpoint else "")
            begin_records(self.training_args.output_dir, self.run, self.conversion, recipe)

    def floor(self) -> Floor:
        floor = build_floor(
            self.model, self.processor, self.splits, self.model_args, self.data_args, self.training_args
        )
        self.say(*floor.notes)
        return floor


def fit(story: Story) -> dict[str, Any]:
    """Run `--method fitted_head`, from an encoder to metrics.json; nothing is trained in steps."""
    began = time.perf_counter()
    story.find_resume_checkpoint()  # raises if the folder is of another run that has not ended
    story.check_images(None)
    return _finish_with(story, story.floor(), began)


def fit_and_tune(story: Story) -> dict[str, Any]:
    """Run `--method search`: fit the head, try settings on held-out images, finish the better of both on all images."""
    began = time.perf_counter()
    args, splits = story.training_args, story.splits
    checkpoint = story.find_resume_checkpoint()
    story.check_images(None if checkpoint is None else args.output_dir)
    floor = story.floor()
    outcome = _searched(story, floor)
    if outcome is None:
        return _finish_with(story, floor, began)
    story.say(*outcome.notes)
    if (outputs := _in_folds(story, floor, outcome.setting)) is not None:
        outcome = replace(outcome, asked=np.arange(len(outputs)), outputs=outputs)
    held_out = splits.validation is None or story.data_args.folds
    measured = {CROSS_VALIDATION: _measured(outcome.asked, outcome.outputs, splits)} if held_out else {}
    setting = outcome.setting
    if setting is None:
        return _finish_fitted(story, floor, began, measured, splits, search=outcome.record)
    feed = story.tuner.feed(floor.model.config, setting.augmentation)  # sets the number of loading processes in args
    own = of_setting(args, setting, len(splits.train))
    if args.max_minutes is not None and story.processes.from_first(
        lambda: story.left(floor) < outcome.record["seconds_of_last"]
    ):
        own.max_minutes = args.max_minutes  # the rest of the time allows fewer passes than the trials had
    trainer = story.tuner.trainer(floor.model, setting, feed, own, story.began)
    trainer.add_callback(ReportCallback(splits))
    story.begin_records(checkpoint)
    train = train_to_the_end(trainer, checkpoint, len(splits.train))
    train |= {"fitted": floor.record, "search": outcome.record}
    return finish(trainer, splits, train, story.processor, measured, calibration=story.calibration)


METHODS_OF_FITTING = {"fitted_head": fit, "search": fit_and_tune}


def _searched(story: Story, floor: Floor) -> Outcome | None:
    """Outcome of the settings that there is time for; None without time or images for one, or if all diverged."""
    args, splits = story.training_args, story.splits
    if not (parts := parts_of(splits, args.seed)):
        story.say("no fine-tuning: no class has two images, of which one could tell whether it is better")
        return None
    augmentations = augmentations_for(story.data_args.augmentation, splits.train)

    def planned() -> tuple[list[dict[str, Any]], float]:
        left = None if args.max_minutes is None else story.left(floor)
        faster = computes_faster_in_bfloat16(args.device)
        cost = cost_of(floor.model, floor.pace, faster, args.world_size)
        count, layers = len(splits.train), floor.fitted.tap.block
        folds = story.data_args.folds or 1
        found, seconds = plan(layers, cost, count, parts, left, augmentations, args.on_accelerator, folds)
        return [setting.record() for setting in found], seconds

    records, seconds = story.kept.decided("plan", planned)
    settings = [Setting(**record) for record in records]
    if not settings:
        story.say(f"no fine-tuning: {seconds:.0f} s are too few for it; --max_minutes gives more")
        return None
    if args.max_minutes is None:
        story.say(f"fine-tuning is given {duration(seconds)}; --max_minutes lets it try more, and train longer")
    return search(
        story.model,
        splits,
        floor,
        settings,
        parts,
        story.tuner.tune,
        story.tuner.answers,
        args.seed,
        story.kept,
        time.monotonic() + seconds,
        story.say,
    )


def _in_folds(story: Story, floor: Floor, setting: Setting | None) -> np.ndarray | None:
    """Outputs for all training examples, by --folds; None if that flag is not given."""
    if (folds := story.data_args.folds) is None:
        return None
    kept = None if setting is None else story.kept
    outputs = answers_in_folds(story.model, floor, setting, story.tuner, folds, story.processes, kept, story.say)
    everything = np.arange(len(outputs))
    metrics, n = _measured(everything, outputs, story.splits).metrics, len(outputs)
    main = next(iter(metrics))
    story.say(f"{folds} folds: {title(main).lower()} {figure(main, metrics, n)} of {n:,} images that no model had seen")
    return outputs


def _finish_with(story: Story, floor: Floor, began: float) -> dict[str, Any]:
    """Finish with the fitted head, if no fine-tuning was tried."""
    splits = story.splits
    if (outputs := _in_folds(story, floor, None)) is not None:
        measured = {CROSS_VALIDATION: _measured(np.arange(len(outputs)), outputs, splits)}
    elif splits.validation is None and floor.held_out is not None and floor.examples is not None:
        measured, splits = {CROSS_VALIDATION: floor.held_out}, replace(splits, train=floor.examples)
    else:
        measured = {}
    return _finish_fitted(story, floor, began, measured, splits)


def _finish_fitted(
    story: Story, floor: Floor, began: float, measured: dict[str, Evaluation], splits: Splits, **more: Any
) -> dict[str, Any]:
    trainer = replace(story.tuner, splits=splits).untrained(floor.model, publishes=True)
    story.begin_records()
    train = {
        "n": len(story.splits.train),
        "seconds": round(time.perf_counter() - began, 3),
        "images": floor.record["views"] * len(story.splits.train),
        "fitted": floor.record,
        "sittings": [],
        **more,
    }
    shown = TrainingImages(story.splits.train, story.splits.id2label, floor.vectors)
    return finish(trainer, splits, train, story.processor, measured, calibration=story.calibration, training=shown)


def _measured(asked: np.ndarray, outputs: np.ndarray, splits: Splits) -> Evaluation:
    return score_examples(outputs, splits.train.select(asked.tolist()), splits)
