"""One fine-tuning of `--method search`: its arguments, and the parts of the model and of the data that it trains."""

import copy
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers.trainer_utils import IntervalStrategy

from ...data.dataset import ImageDataset
from ...data.examples import Examples, Splits
from ...pretrained_vit_custom import ViTCustomPreTrainedModel
from ...tasks.registry import task_of
from ..arguments.data_arguments import DataArguments
from ..arguments.model_arguments import ModelArguments
from ..arguments.training_arguments import ViTTrainingArguments
from ..inputs.augmentation import VIEW_SCALE
from ..trainer.assembly import TrainingInputs, as_evaluated, build_trainer, choose_workers, plain_feed, prepare_feed
from ..trainer.trainer import ViTCustomTrainer
from .planning import Cost, Setting

BATCHES = (8, 32)  # images of a step: a sixteenth of all, within these bounds
TIMED = 16  # images
OVERHEAD = 1.15  # factor for what a step takes beyond forward and backward: augmentation, optimizer
WEIGHT_DECAY, LAYER_DECAY = 0.05, 0.75


@dataclass
class Tuner:
    """Fine-tunes models of one run.   feeds: by augmentation, each prepared when it is first needed."""

    processor: Any
    splits: Splits
    model_args: ModelArguments
    data_args: DataArguments
    training_args: ViTTrainingArguments
    feeds: dict[str, TrainingInputs] = field(default_factory=dict)

    def feed(self, config: Any, augmentation: str) -> TrainingInputs:
        """Return the feed of all training images for one augmentation; its views may be cached."""
        if augmentation not in self.feeds:
            without = replace(self.splits, validation=None)
            data_args = replace(self.data_args, augmentation=augmentation)
            if VIEW_SCALE[augmentation] == 1:
                data_args.view_size = None  # only augmentations that cut crops take it
            self.feeds[augmentation] = prepare_feed(config, self.processor, without, data_args, self.training_args)
        return self.feeds[augmentation]

    def trainer(
        self,
        model: ViTCustomPreTrainedModel,
        setting: Setting,
        feed: TrainingInputs,
        args: ViTTrainingArguments,
        began: float | None = None,
    ) -> ViTCustomTrainer:
        """Return the Trainer of a setting; weights that the setting does not train are frozen."""
        model_args = self.model_args
        if setting.rank:
            model_args = replace(model_args, method="lora", lora_rank=setting.rank, lora_alpha=2.0 * setting.rank)
        else:
            freeze_below(model, setting.blocks)
        trainer = build_trainer(model, self.processor, self.splits, model_args, feed, args, began)
        trainer.bfloat16 = setting.bfloat16
        return trainer

    def tune(self, model: ViTCustomPreTrainedModel, setting: Setting, positions: np.ndarray) -> ViTCustomTrainer:
        """Fine-tune a model on some of the training examples; return the Trainer, and keep nothing on disk."""
        feed = part_of(self.feed(model.config, setting.augmentation), positions)
        with arguments_of_trial(self.training_args, setting, len(positions)) as args:
            trainer = self.trainer(model, setting, feed, args)
            trainer.train()
        return trainer

    def untrained(self, model: ViTCustomPreTrainedModel, publishes: bool = False) -> ViTCustomTrainer:
        """Return a Trainer that measures a model as it is; it may push the model to the Hub if `publishes`."""
        args: Any = copy.copy(self.training_args)
        if not publishes:
            untold(args)
        args.eval_strategy = args.save_strategy = IntervalStrategy.NO
        args.load_best_model_at_end, args.max_minutes = False, None
        choose_workers(args, cached=False)
        feed = plain_feed(model.config, self.processor, self.splits)
        return build_trainer(model, self.processor, self.splits, self.model_args, feed, args)

    def answers(self, trained: Any, examples: Examples) -> np.ndarray:
        """Return outputs [n, K] for images as evaluation sees them; `trained` is a model, or a Trainer that has one."""
        trainer = trained if isinstance(trained, ViTCustomTrainer) else self.untrained(trained)
        dataset = as_evaluated(examples, self.processor, trainer.net.config)
        with torch.autocast(trainer.args.device.type, torch.bfloat16, enabled=trainer.bfloat16):
            return np.asarray(trainer.predict(dataset).predictions)


def cost_of(model: ViTCustomPreTrainedModel, features: float, bfloat16: bool, processes: int) -> Cost:
    """Return the cost of an image if `processes` share the work, timed in steps on noise, which take as long.

    features: seconds in which one process computed the features of an image.
    """
    net: Any = copy.deepcopy(model).train().requires_grad_(True)
    config = net.config
    output = task_of(config).listing.output
    pixels = torch.randn(TIMED, config.num_channels, *config.image_hw, device=net.device)
    answered = learned = float("inf")
    for _ in range(3):  # the first one warms up; the fastest counts, since other work may slow one down
        began = time.perf_counter()
        with torch.autocast(net.device.type, torch.bfloat16, enabled=bfloat16):
            loss = net(pixel_values=pixels)[output].float().square().mean()
        float(loss.detach())
        seen = time.perf_counter() - began
        loss.backward()
        float(sum(parameter.grad.sum() for parameter in net.parameters() if parameter.grad is not None))
        answered, learned = min(answered, seen), min(learned, time.perf_counter() - began)
    share = TIMED * processes
    return Cost(OVERHEAD * learned / share, answered / share, features / processes, bfloat16)


def untold(args: Any) -> None:
    """Turn off reports, progress bars and pushing to the Hub, in place."""
    args.report_to, args.disable_tqdm, args.push_to_hub = [], True, False


@contextmanager
def arguments_of_trial(training_args: ViTTrainingArguments, setting: Setting, examples: int) -> Iterator[Any]:
    """Yield the arguments of one fine-tuning that keeps nothing on disk; its temporary folder is removed afterwards."""
    args = of_setting(training_args, setting, examples)
    args.save_strategy = args.logging_strategy = IntervalStrategy.NO
    untold(args)
    with tempfile.TemporaryDirectory() as folder:
        args.output_dir = folder
        yield args


def of_setting(training_args: ViTTrainingArguments, setting: Setting, examples: int) -> Any:
    """Return the arguments of a fine-tuning by `setting`; `examples` is the number of its training examples."""
    args: Any = copy.copy(training_args)
    args.learning_rate, args.num_train_epochs, args.max_steps = setting.learning_rate, setting.epochs, -1
    args.weight_decay, args.layer_decay, args.max_minutes = WEIGHT_DECAY, LAYER_DECAY, None
    if args.per_device_train_batch_size == type(args).per_device_train_batch_size:
        args.per_device_train_batch_size = max(BATCHES[0], min(BATCHES[1], examples // 16 // max(1, args.world_size)))
    args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
    return args


def freeze_below(model: Any, blocks: int) -> None:
    """Freeze all weights but those of the last `blocks` and what follows them; freeze nothing if these are all."""
    layers = model.vit.layers
    model.requires_grad_(blocks >= len(layers))
    for part in (*layers[len(layers) - blocks :], model.vit.layernorm):
        part.requires_grad_(True)
    for name, weight in model.named_parameters():
        if name.startswith(model.head_prefixes):
            weight.requires_grad_(True)


class Selected:
    """The views of some examples of a split, selected by position."""

    def __init__(self, views: Any, positions: np.ndarray):
        self.views, self.positions = views, positions

    def __call__(self, indices: Sequence[int]) -> torch.Tensor:
        return self.views([int(self.positions[index]) for index in indices])


def part_of(feed: TrainingInputs, positions: np.ndarray) -> TrainingInputs:
    """Return the feed of the training examples at `positions`; their views are not copied."""
    whole = feed.train
    views = Selected(whole.views, positions)
    return replace(feed, train=ImageDataset(whole.examples.select(positions.tolist()), views, whole.seed, whole.policy))
