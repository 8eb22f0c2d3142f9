"""The part of the Trainer that deals with batches: order, augmentation, loss, throughput.

Shapes: B batch, C channels, S x S' the views' size, h x w the model's, K random numbers for each example, L labels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import find_batch_size

from ...common.cache_folders import keep_compiled_code_private
from ...data.dataset import ImageDataset
from ...data.stream import StreamedViews
from ...data.views import PixelValues
from ...tasks.measuring import TrainerMetrics
from ..arguments.training_arguments import ViTTrainingArguments
from ..inputs.augmentation import BatchAugmentation
from ..inputs.order import SetEpoch, StreamOrder, TrainingOrder
from ..objectives.feature_distillation import FeatureLoss
from .throughput import Throughput

KEPT = 2**26  # numbers in all predictions; above this, metrics are computed batch by batch


class BatchTrainer(Trainer):
    """Trainer for data sets of views (see `ImageDataset`); for other data sets it acts as transformers' own.

    augmentation: of training batches, [B, C, S, S'] and [B, K] -> [B, C, h, w].
    to_pixel_values: of validation batches, uint8 [B, C, h, w] -> float32.
    balanced: whether training draws each class equally often.
    measure: for an objective without labels: (a batch's inputs, the model's output) → [B, …], values for each image. A
    `FeatureLoss` is the loss, too.
    `compute_loss_func` is for training alone: validation keeps the model's own loss.
    """

    args: ViTTrainingArguments
    bfloat16 = False  # whether training steps (not validation) use bfloat16 autocast, whatever the arguments say

    def __init__(
        self,
        *args: Any,
        augmentation: BatchAugmentation | None = None,
        to_pixel_values: PixelValues | None = None,
        balanced: bool = False,
        measure: Callable[[dict[str, Any], Any], torch.Tensor] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if self.args.torch_compile:
            keep_compiled_code_private()
        self.augmentation, self.to_pixel_values, self.balanced = augmentation, to_pixel_values, balanced
        self.measure = measure
        if self.compute_loss_func is not None:
            self.label_smoother = None  # Trainer would use it in validation too
        self.throughput = Throughput(self.args.world_size)
        self.add_callback(self.throughput)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, ImageDataset):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        kind = StreamOrder if isinstance(dataset.views, StreamedViews) else TrainingOrder
        order = kind(dataset, seed, self.balanced)
        self.add_callback(SetEpoch(order))
        return order

    @contextmanager
    def _every_image(self) -> Iterator[None]:
        """Ignore --dataloader_drop_last, which is for training alone."""
        asked, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = asked

    def get_eval_dataloader(self, *args: Any, **kwargs: Any):
        with self._every_image():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any):
        with self._every_image():
            return super().get_test_dataloader(*args, **kwargs)

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any):
        """Run Trainer's loop; compute metrics batch by batch where predictions are many and only metrics are needed.

        Raises RuntimeError where there are not as many predictions as images.
        """
        dataset, metrics = dataloader.dataset, self.compute_metrics
        many = isinstance(metrics, TrainerMetrics) and metrics.num_labels * len(dataset) > KEPT
        self.args.batch_eval_metrics = many and description == "Evaluation"
        output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        measured = find_batch_size(output.predictions)
        if self.args.batch_eval_metrics and isinstance(metrics, TrainerMetrics):
            measured = metrics.seen
        if isinstance(dataset, ImageDataset) and measured not in (None, len(dataset)):
            raise RuntimeError(f"{measured} predictions of {len(dataset)} images: figures would be of others.")
        return output

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any):
        """Return Trainer's result; with `measure`, (None, the measured values of each image [B, …], its index [B]).

        (Trainer's eval_loss would repeat each batch's loss and drop the surplus.)
        """
        if self.measure is None:
            return super().prediction_step(model, inputs, *args, **kwargs)
        index = inputs["index"]
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**{name: value for name, value in inputs.items() if name != "teacher"})
        measured = self.measure(inputs, output)
        return None, measured, index.to(measured.device)

    def get_batch_samples(self, epoch_iterator: Iterator, *args: Any, **kwargs: Any):
        return super().get_batch_samples(self.throughput.timed(epoch_iterator), *args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as Trainer does; add "data_wait" and "images_per_second" (see `Throughput`) to a training loss."""
        super().log({**logs, **(self.throughput.take() if "loss" in logs else {})}, *args, **kwargs)

    @property
    def progress(self) -> float:
        """The share of the training that is done."""
        return self.state.global_step / max(1, self.state.max_steps)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch on the model's device, its views turned into pixel_values, without the index.

        "teacher" becomes the distributions [B, L] for the loss, mixed as the images are; or the features for a
        `FeatureLoss`, moved as the images are.
        """
        inputs = {name: value for name, value in super()._prepare_inputs(inputs).items() if name != "index"}
        draws = inputs.pop("draws", None)
        if draws is not None and self.augmentation is not None:
            views, labels = inputs["pixel_values"], inputs.pop("labels", None)
            inputs["pixel_values"], labels = self.augmentation(views, labels, draws, self.progress)
            inputs |= {} if labels is None else {"labels": labels}
            if "teacher" in inputs and not isinstance(self.measure, FeatureLoss):
                loss: Any = self.compute_loss_func
                targets, size = loss.targets(inputs["teacher"]), inputs["pixel_values"].shape[-2:]
                inputs["teacher"] = self.augmentation.mix.mix_targets(targets, draws, size)
                inputs |= loss.asks
        elif self.to_pixel_values is not None:
            inputs["pixel_values"] = self.to_pixel_values(inputs["pixel_values"])
        if isinstance(self.measure, FeatureLoss) and self.augmentation is not None:
            net: Any = self.accelerator.unwrap_model(self.model)
            size = net.config.grid_of(inputs["pixel_values"].shape[2:])
            follow = partial(self.augmentation.follow, size=size, draws=draws)
            inputs["teacher"] = self.measure.targets(inputs["teacher"], follow)
        return inputs

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any):
        if isinstance(self.measure, FeatureLoss):
            targets = inputs.pop("teacher")
            return self.measure.loss(model(**inputs), targets)
        training_loss = self.compute_loss_func
        self.compute_loss_func = training_loss if model.training else None
        if "teacher" in inputs:
            self.compute_loss_func = partial(training_loss, teacher=inputs.pop("teacher"))  # type: ignore[arg-type]
        low = self.bfloat16 and model.training
        try:
            with torch.autocast(self.args.device.type, torch.bfloat16) if low else nullcontext():
                return super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            self.compute_loss_func = training_loss
