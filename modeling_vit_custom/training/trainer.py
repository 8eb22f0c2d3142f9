"""transformers' Trainer with what a Vision Transformer and a publishable folder need of it."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy

from ..pretrained_vit_custom import nonfinite_weights
from ..weight_files_vit_custom import some
from .args import UsageError
from .batches import BatchTrainer
from .optim import decay_parameter_names
from .pushing import Pusher


class ViTCustomTrainer(BatchTrainer):
    """Decays matrices only, keeps a frozen part in eval mode, stops at a loss that is no number, loads strictly,
    saves neither pickles nor broken weights. What it is fed: see `batches`.

    What it pushes to the Hub is staged, checked and complete: see `pushing`.

    frozen: the part of the model that is not trained (its parameters require no gradient); dropout and drop
    path stay off in it.
    """

    def __init__(self, *args: Any, frozen: nn.Module | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.frozen = frozen

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository. Raises UsageError where this user could not publish."""
        self.pusher = Pusher(self.args)
        self.hub_model_id = self.args.hub_model_id  # type: ignore[assignment]
        if self.is_world_process_zero():
            self.pusher.open()

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return decay_parameter_names(model)

    def compute_loss(self, model, inputs, *args: Any, **kwargs: Any):
        if self.frozen is not None:
            self.frozen.eval()  # Trainer puts the whole model into train mode before each step
        return super().compute_loss(model, inputs, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As Trainer's; raises FloatingPointError where Trainer would log a loss of 0 and train on NaN."""
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}: the training has diverged. Lower "
                f"--learning_rate (now {self.args.learning_rate:g}), lengthen --warmup_steps, or resume from an "
                "earlier checkpoint."
            )
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: Trainer's estimate counts tokens of text, and walks through all parameters at each step to do so."""
        return 0

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Model, code and processor; not `training_args.bin`, a pickle that can hold a token.

        Raises FloatingPointError, before anything is written, where weights are NaN or infinite.
        """
        model: Any = self.model
        if names := nonfinite_weights(model):
            raise FloatingPointError(
                f"NaN or infinite weights at step {self.state.global_step}, not saved: {some(names)}. Lower "
                f"--learning_rate (now {self.args.learning_rate:g}) and resume from an earlier checkpoint."
            )
        super()._save(output_dir, state_dict)
        (Path(output_dir or self.args.output_dir or ".") / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer's, but pushes nothing: `push_to_hub` does, when metrics and pictures are there too."""
        super().save_model(output_dir, _internal_call=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero() and self.args.hub_strategy == HubStrategy.EVERY_SAVE:
            self.pusher.push_checkpoint(checkpoint_folder, f"Training in progress, step {self.state.global_step}")

    def _finish_current_push(self) -> None:
        if self.args.push_to_hub:
            self.pusher.wait()

    def push_to_hub(self, commit_message: str | None = None, revision: str | None = None) -> str | None:
        """Saves the model and publishes the output folder; returns the sha, or None in other processes than the first.

        Raises PublishError, with the command that tries again, UsageError without push_to_hub in the arguments.
        """
        if not self.args.push_to_hub:
            raise UsageError("set push_to_hub, hub_model_id and hub_license in the arguments of the training.")
        self.save_model()
        return self.pusher.push_final(commit_message, revision) if self.is_world_process_zero() else None

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raises UsageError where a checkpoint to resume from, or the best one, lacks weights or holds others."""
        for what, names in (("lacks", load_result.missing_keys), ("holds, unknown here,", load_result.unexpected_keys)):
            if names:
                raise UsageError(
                    f"the checkpoint {what} {some(list(names))}: it is of another model or damaged. Resume from an "
                    "earlier checkpoint, or name a new --output_dir."
                )
