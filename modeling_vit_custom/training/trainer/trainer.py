"""transformers' Trainer, extended for Vision Transformers and for output folders that can be published."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import HubStrategy

from ...common.claims import put_model
from ...common.errors import UsageError
from ..checkpointing.checkpoints import UNFINISHED
from ..checkpointing.disk import disk_full_explained
from ..optimization.muon import with_muon
from ..optimization.parameter_groups import block_matrices, decay_learning_rates, decay_parameter_names
from ..optimization.time_budget import UNKNOWN_STEPS, TimeBudget
from .ema_lora import EmaLoraTrainer
from .hub_push import Pusher
from .progress import show_progress
from .trial import try_step

SCHEDULED = 100_000  # nominal steps of the schedule that a time budget stretches


class ViTCustomTrainer(EmaLoraTrainer):
    """Trainer with weight decay on matrices only, Muon and layer-wise learning rates on request, and a frozen part.

    For the rest see `EmaLoraTrainer`, `ResumingTrainer` and `BatchTrainer`. What it pushes to the Hub is staged,
    checked and complete: see `hub_push`.

    frozen: the part of the model that is not trained (its parameters require no gradient). It stays in eval mode, so
    dropout and drop path are off in it.
    budget: plans the number of steps; without one the arguments set it.
    """

    def __init__(self, *args: Any, frozen: nn.Module | None = None, budget: TimeBudget | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.frozen, self.budget = frozen, budget
        if budget is not None:
            self.args.max_steps = UNKNOWN_STEPS
            self.add_callback(budget)
        if self.args.early_stopping_patience:
            patience = EarlyStoppingCallback(self.args.early_stopping_patience, self.args.early_stopping_threshold)
            self.add_callback(patience)
        show_progress(self.callback_handler, self.throughput, budget, try_step)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return decay_parameter_names(model)

    def create_optimizer(self, model: nn.Module | None = None):
        fresh = self.optimizer is None
        net: Any = self.model if model is None else model
        optimizer: Any = super().create_optimizer(model)
        if fresh and self.args.muon:
            optimizer = self.optimizer = with_muon(optimizer, block_matrices(net))
        if fresh and self.args.layer_decay != 1:
            decay_learning_rates(optimizer, net, net.config.num_hidden_layers, self.args.layer_decay)
        return optimizer

    @property
    def progress(self) -> float:
        """The share of the training that is done: of the steps, or of the schedule of a time budget."""
        return super().progress if self.budget is None else self.budget.progress(self.state.global_step)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None):
        """Build Trainer's learning-rate schedule, stretched to the time budget if there is one."""
        if self.budget is None:
            return super().create_scheduler(num_training_steps, optimizer)
        scheduler: Any = super().create_scheduler(SCHEDULED, optimizer)
        progress = self.budget.progress
        scheduler.lr_lambdas = [
            lambda step, rate=rate: rate(SCHEDULED * progress(step)) for rate in scheduler.lr_lambdas
        ]
        return scheduler

    def compute_loss(self, model, inputs, *args: Any, **kwargs: Any):
        if self.frozen is not None:
            self.frozen.eval()  # Trainer puts the whole model into train mode before each step
        return super().compute_loss(model, inputs, *args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: Trainer's estimate counts tokens of text, and visits all parameters at each step to do so."""
        return 0

    # ---------- the Hub

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository on the Hub. Raises UsageError where the run could not be published."""
        self.pusher = Pusher(self.args)
        self.hub_model_id = self.args.hub_model_id  # type: ignore[assignment]
        if self.is_world_process_zero():
            self.pusher.open()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model as Trainer does, but without a push: `push_to_hub` pushes, with metrics and pictures.

        In the run's folder (the default), the model is written aside and then moved into place, see `put_model`.
        """
        if output_dir is not None:
            return super().save_model(output_dir, _internal_call=True)
        run = Path(str(self.args.output_dir))
        aside = run / UNFINISHED / "model"

        def write() -> None:
            super(ViTCustomTrainer, self).save_model(str(aside), _internal_call=True)

        def finish() -> None:
            if self.args.should_save:
                put_model(aside, run)
                with suppress(OSError):
                    aside.parent.rmdir()

        self.processes.together(lambda: shutil.rmtree(aside, ignore_errors=True))
        with disk_full_explained(run, self.needed_bytes(), "at the end", aside):
            self.processes.together(write)
            self.processes.together(finish)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.aside is None and self.is_world_process_zero() and self.args.hub_strategy == HubStrategy.EVERY_SAVE:
            self.pusher.push_checkpoint(checkpoint_folder, f"Training in progress, step {self.state.global_step}")

    def _finish_current_push(self) -> None:
        if self.args.push_to_hub:
            self.pusher.wait()

    def push_to_hub(self, commit_message: str | None = None, revision: str | None = None) -> str | None:
        """Save the model and publish the output folder; return the commit's SHA in the first process, None in others.

        Raises PublishError with the command to try again, and UsageError without push_to_hub in the arguments.
        """
        if not self.args.push_to_hub:
            raise UsageError("set push_to_hub, hub_model_id and hub_license in the arguments of the training.")
        self.save_model()
        return self.pusher.push_final(commit_message, revision) if self.is_world_process_zero() else None
