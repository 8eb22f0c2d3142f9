"""The part of the Trainer that keeps the served weights apart from the trained ones.

They differ where an average is kept (`--ema_decay`), where adapters are trained (`--method lora`), and where a layer is
trained that is thrown away (`feature_projection`). The served weights are evaluated, and saved as model.safetensors,
always whole and plain. A checkpoint also holds the trained ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.module import _IncompatibleKeys

from ...common.errors import UsageError
from ...common.model_files import WEIGHTS
from ...common.sharding import assign, plain_class, reshard, whole
from ..initialization.feature_projection import is_projection
from ..initialization.lora import adapted_layers, frozen_digest, is_adapter, merged, plain_name
from ..optimization.ema import WeightAverage
from .resuming import ResumingTrainer

TRAINED = "training_weights.safetensors"
PROJECTION = "feature_projection.safetensors"  # beside a checkpoint's model, with which it is measured


class EmaLoraTrainer(ResumingTrainer):
    """Trainer that averages the weights (`--ema_decay`) and merges adapters when it saves; under FSDP2 as well."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.average: WeightAverage | None = None
        self.adapted = any(is_adapter(name) for name, _ in self.model.named_parameters())  # type: ignore[union-attr]
        self.projects = any(is_projection(name) for name, _ in self.model.named_parameters())  # type: ignore[union-attr]
        self.frozen_digest = frozen_digest(self.net) if self.adapted else ""

    @property
    def net(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    def trained(self) -> dict[str, nn.Parameter]:
        reshard(self.net)
        return {name: parameter for name, parameter in self.net.named_parameters() if parameter.requires_grad}

    def served_parameters(self) -> int:
        """Return the number of parameters of the saved model."""
        return sum(p.numel() for name, p in self.net.named_parameters() if not is_adapter(name) | is_projection(name))

    @contextmanager
    def with_served_weights(self) -> Iterator[None]:
        """Put the served weights into the model for a while: the average, if one is kept."""
        with nullcontext() if self.average is None else self.average.in_place():
            yield

    # ---------- the average

    def begin(self) -> None:
        if self.is_deepspeed_enabled and (self.args.ema_decay or self.adapted):
            raise UsageError("--ema_decay and --method lora are not for DeepSpeed: use FSDP2 (launch/fsdp2.yaml).")
        if self.projects and (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            raise UsageError("--teacher in pre-training is not for DeepSpeed or FSDP: start plain processes instead.")
        if self.args.ema_decay and self.average is None:
            self.average = WeightAverage(self.net, self.args.ema_decay)
        super().begin()

    def step_done(self) -> None:
        super().step_done()
        if self.average is not None:
            self.average.update()

    def evaluation_loop(self, *args: Any, **kwargs: Any):
        with self.with_served_weights():
            return super().evaluation_loop(*args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any):
        """As Trainer's; then the model keeps the served weights."""
        result = super()._finalize_training(*args, **kwargs)
        if self.average is not None:
            self.average.exchange()
            self.average = None
        return result

    # ---------- saving and loading

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the served weights, whole even where each process holds only a part of them."""
        with self.with_served_weights():
            if self.is_fsdp_enabled:
                state = self.accelerator.get_state_dict(self.model)
                with plain_class(self.net):
                    self._save(output_dir, state)
            else:
                super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.adapted:
            state_dict = merged(self.net.state_dict() if state_dict is None else state_dict, adapted_layers(self.net))
        if self.projects:
            every = self.net.state_dict()
            state_dict = {name: tensor for name, tensor in every.items() if not is_projection(name)}
            if self.aside is not None:
                Path(str(output_dir)).mkdir(parents=True, exist_ok=True)
                projection = {name: every[name].contiguous() for name in every.keys() - state_dict.keys()}
                save_file(projection, Path(str(output_dir)) / PROJECTION)
        super()._save(output_dir, state_dict)

    def needed_bytes(self) -> int:
        trained = sum(parameter.nbytes for parameter in self.trained().values())
        return super().needed_bytes() + trained * ((self.average is not None) * 2 or self.adapted or self.projects)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.average is None and not self.adapted and not self.projects:
            return
        tensors = {f"weights.{name}": whole(parameter) for name, parameter in self.trained().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": whole(tensor) for name, tensor in self.average.average.items()}
        noted = {"frozen": self.frozen_digest, "steps": str(self.average.steps if self.average else 0)}
        if self.args.should_save:
            save_file(tensors, Path(output_dir) / TRAINED, metadata=noted)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        apart = self.adapted or self.projects
        if not apart or self.is_fsdp_enabled:  # otherwise TRAINED holds everything that training changes
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and (path := Path(checkpoint) / TRAINED).is_file():
            self._load_trained(path)

    def _load_trained(self, path: Path) -> None:
        """Load the trained weights and the average. Raises UsageError where adapters are for other frozen weights."""
        with safe_open(path, "pt") as file:
            noted = file.metadata()
        if noted["frozen"] != self.frozen_digest:
            raise UsageError(
                f"{path.parent} has adapters for other weights than --model_name_or_path gives now: name the "
                "checkpoint that the run was begun with, or a new --output_dir."
            )
        tensors = load_file(path)
        for name, parameter in self.trained().items():
            assign(parameter, tensors[f"weights.{name}"])
        if self.args.ema_decay and int(noted["steps"]):
            self.average = WeightAverage(self.net, self.args.ema_decay)
            self.average.steps = int(noted["steps"])
            for name, average in self.average.average.items():
                assign(average, tensors[f"average.{name}"])

    def _load_best_model(self) -> None:
        """Load the served weights of the best checkpoint; adapters, merged in them, are set to have no effect."""
        if self.is_deepspeed_enabled:
            return super()._load_best_model()
        best = Path(self.best_checkpoint())
        tensors = load_file(best / WEIGHTS) | (load_file(best / PROJECTION) if self.projects else {})
        reshard(self.net)
        own = {plain_name(name): tensor for name, tensor in self.net.state_dict(keep_vars=True).items()}
        adapters = [name for name in own if is_adapter(name)]
        missing, unexpected = own.keys() - tensors.keys() - {*adapters}, tensors.keys() - own.keys()
        self._issue_warnings_after_load(_IncompatibleKeys(sorted(missing), sorted(unexpected)))
        for name, tensor in tensors.items():
            assign(own[name], tensor)
        for name in adapters:
            if ".lora_B." in name:
                assign(own[name], torch.zeros(own[name].shape))
        self.average = None
        return None
