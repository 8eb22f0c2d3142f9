"""The methods that begin with a fitted head, each told from the top: the head alone, or fine-tuning from there."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers.trainer_utils import IntervalStrategy

from ..data.examples import Splits
from ..data.raw import printable
from ..evaluation.evaluate import Evaluation, score_outputs
from ..inference.processes import Processes
from .feeding import Feed, choose_workers, plain_feed, prepare_feed
from .finishing import build_trainer, finish, train_to_the_end
from .flags import DataArguments, ModelArguments, ViTTrainingArguments
from .floor import CROSS_VALIDATION, Floor, build_floor
from .images import check_images
from .records import begin_records
from .report import ReportCallback
from .search import (
    Outcome,
    answers_of,
    freeze_below,
    of_setting,
    plan,
    read_outcome,
    search,
    selected,
    trial_arguments,
    write_outcome,
)
from .start import find_start


@dataclass(frozen=True)
class Story:
    """All that a run has before anything is computed. run, conversion: for its records.   began: for --max_minutes."""

    model: Any
    processor: Any
    splits: Splits
    model_args: ModelArguments
    data_args: DataArguments
    training_args: ViTTrainingArguments
    run: dict[str, Any]
    conversion: dict[str, Any] | None
    began: float

    @property
    def left(self) -> float:
        """Seconds of --max_minutes."""
        return 60 * float(self.training_args.max_minutes or 0) - (time.monotonic() - self.began)

    def say(self, *lines: str) -> None:
        if self.training_args.process_index == 0:
            print(*map(printable, lines), sep="\n", flush=True)

    def floor(self) -> Floor:
        floor = build_floor(
            self.model, self.processor, self.splits, self.model_args, self.data_args, self.training_args
        )
        self.say(*floor.notes)
        return floor


def fit(story: Story) -> dict[str, Any]:
    """`--method fitted_head`, from an encoder to metrics.json: nothing is trained in steps."""
    began = time.perf_counter()
    find_start(story.training_args, story.run)  # refuses the folder of another run that has not ended
    check_images(story.training_args, story.splits, None)
    return _finish_with(story, story.floor(), began)


def fit_and_tune(story: Story) -> dict[str, Any]:
    """`--method search`: the fitted head, settings tried in folds, and the better of both on all images."""
    began = time.perf_counter()
    args, splits = story.training_args, story.splits
    processes = Processes(args.process_index, args.world_size)
    checkpoint = find_start(args, story.run)
    check_images(args, splits, None if checkpoint is None else args.output_dir)
    floor = story.floor()
    feed = prepare_feed(floor.model.config, story.processor, replace(splits, validation=None), story.data_args, args)
    outcome = None if checkpoint is None else processes.from_first(lambda: read_outcome(args.output_dir))
    if outcome is None:
        outcome = _searched(story, floor, feed, processes)
    if outcome is None:
        return _finish_with(story, floor, began)
    story.say(*outcome.notes)
    measured = {CROSS_VALIDATION: _measured(outcome.logits, splits)}
    if outcome.setting is None:
        return _finish_fitted(story, floor, began, measured, splits, search=outcome.record)
    freeze_below(floor.model, outcome.setting.blocks)
    own = of_setting(args, outcome.setting, len(splits.train))
    if args.max_minutes is not None and processes.from_first(lambda: story.left < outcome.record["seconds_of_best"]):
        own.max_minutes = args.max_minutes  # as many passes as the rest of the time allows, fewer than were tried
    trainer = build_trainer(floor.model, story.processor, splits, story.model_args, feed, own, story.began)
    trainer.add_callback(ReportCallback(splits))
    if trainer.is_world_process_zero():
        begin_records(own.output_dir, story.run, story.conversion, None if checkpoint else "")
        write_outcome(own.output_dir, outcome)
    train = train_to_the_end(trainer, checkpoint, len(splits.train))
    train |= {"fitted": floor.record, "search": outcome.record}
    return finish(trainer, splits, train, story.processor, measured)


METHODS_OF_FITTING = {"fitted_head": fit, "search": fit_and_tune}


def _searched(story: Story, floor: Floor, feed: Feed, processes: Processes) -> Outcome | None:
    """What the settings that there is time for came to; None where there is too little for one."""
    args, splits = story.training_args, story.splits
    left = None if args.max_minutes is None else story.left
    layers, kept = len(story.model.vit.layers), len(floor.model.vit.layers)
    settings, seconds = processes.from_first(
        lambda: plan(layers, kept, floor.pace(), len(splits.train), left, args.on_accelerator)
    )
    if not settings:
        story.say(f"no fine-tuning: {seconds:.0f} s are too few for it; --max_minutes gives more")
        return None
    if args.max_minutes is None:
        story.say(f"fine-tuning is given {seconds:.0f} s; --max_minutes lets it try more, and train longer")

    def tune(net: Any, setting: Any, positions: np.ndarray) -> Any:
        freeze_below(net, setting.blocks)
        part = selected(feed, positions)
        with trial_arguments(args, setting, len(positions)) as own:
            trainer = build_trainer(net, story.processor, splits, story.model_args, part, own)
            trainer.train()
        return trainer

    return search(
        story.model,
        splits,
        floor,
        settings,
        tune,
        lambda trainer, examples: answers_of(trainer, examples, story.processor),
        args.seed,
        processes,
        time.monotonic() + seconds,
        story.say,
    )


def _finish_with(story: Story, floor: Floor, began: float) -> dict[str, Any]:
    measured = {} if floor.held_out is None else {CROSS_VALIDATION: floor.held_out}
    examples = floor.examples or story.splits.train
    return _finish_fitted(story, floor, began, measured, replace(story.splits, train=examples))


def _finish_fitted(
    story: Story, floor: Floor, began: float, measured: dict[str, Evaluation], splits: Splits, **more: Any
) -> dict[str, Any]:
    args = story.training_args
    args.eval_strategy = args.save_strategy = IntervalStrategy.NO
    args.load_best_model_at_end = False
    choose_workers(args, cached=False)
    feed = plain_feed(floor.model.config, story.processor, splits)
    trainer = build_trainer(floor.model, story.processor, splits, story.model_args, feed, args)
    if trainer.is_world_process_zero():
        begin_records(args.output_dir, story.run, story.conversion)
    train = {
        "n": len(story.splits.train),
        "seconds": round(time.perf_counter() - began, 3),
        "images": floor.record["views"] * len(story.splits.train),
        "fitted": floor.record,
        "sittings": [],
        **more,
    }
    known = {} if splits.validation is not None and not more else measured
    return finish(trainer, splits, train, story.processor, known)


def _measured(logits: np.ndarray, splits: Splits) -> Evaluation:
    examples = splits.train
    names, labels = list(examples.names), np.asarray(examples.labels)
    return score_outputs(logits, labels, names, splits.problem_type, splits.id2label)
