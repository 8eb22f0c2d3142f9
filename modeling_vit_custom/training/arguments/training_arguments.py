# ruff: noqa: RUF009 - `flag` is dataclasses.field with its help beside it
"""The flags of training, each declared once: name, type, default, help and facts.

Names are those of transformers' image-classification example and of TrainingArguments wherever they exist.
"""

from dataclasses import dataclass

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import SchedulerType

from ...common.errors import UsageError
from ...common.processes import Processes
from ...publishing.upload import PublishError, check_target
from ...tasks.task import ONE_LABEL
from ..objectives.loss import LOSSES
from .declarations import FITTED, IN_STEPS, TRAIN, flag
from .trainer_fields import refusal

CLASS_WEIGHTS = ("none", "balanced")
DISTILLATIONS = ("soft", "hard", "none")
HUB_STRATEGIES = ("end", "every_save")


@dataclass
class ViTTrainingArguments(TrainingArguments):
    """TrainingArguments with defaults for images; None means: by method, see METHOD_DEFAULTS."""

    output_dir: str = flag(default="", help="Folder of the run; becomes a complete Hub repository.")
    learning_rate: float | None = flag(help="Peak learning rate. Default: by method.")  # type: ignore[assignment]
    num_train_epochs: float | None = flag(help="Passes over the data. Default: by method.")  # type: ignore[assignment]
    weight_decay: float | None = flag(help="Decay of weight matrices. Default: by method.")  # type: ignore[assignment]
    lr_scheduler_type: str = flag(
        default="cosine", help=f"Learning rate schedule: {', '.join(kind.value for kind in SchedulerType)}."
    )
    warmup_steps: float = flag(default=0.1, help="Warm-up: steps, or below 1 a share of all steps.")
    per_device_train_batch_size: int = flag(default=32, help="Training batch of each process.")
    per_device_eval_batch_size: int = flag(default=64, help="Evaluation batch of each process.")
    eval_strategy: str = flag(default="epoch", help="When to validate: epoch, steps.")
    save_strategy: str = flag(default="epoch", help="When to save: the same as eval_strategy.")
    logging_steps: float = flag(default=20, help="Log every so many steps, or below 1 a share of all steps.")
    logging_nan_inf_filter: bool = flag(
        default=False, help="Must be false: the first loss that is no number ends the run."
    )
    load_best_model_at_end: bool = flag(default=True, help="Keep the best model by validation.")
    save_total_limit: int | None = flag(default=2, help="Checkpoints kept: the best and the last.")
    remove_unused_columns: bool = flag(default=False, help="Must be false: images are no column.")
    ddp_find_unused_parameters: bool | None = flag(default=False, help="Not needed here.")
    loss: str = flag(
        default="ce",
        help="Of single labels: cross-entropy (ce), or binary cross-entropy (bce).",
        choices=LOSSES,
        group="loss",
        commands=(TRAIN,),
        needs=ONE_LABEL,
        recorded=True,
        idle_for=FITTED,
    )
    class_weights: str = flag(
        default="none",
        help="balanced: rare classes count as much as frequent ones.",
        choices=CLASS_WEIGHTS,
        group="loss",
        commands=(TRAIN,),
        needs=ONE_LABEL,
        recorded=True,
        idle_for=FITTED,
    )
    teacher: str | None = flag(
        help="A trained classifier to learn from as well, convolutional ones too: a folder saved by transformers, by "
        "timm or by this package, or timm:NAME or torchvision:NAME with --teacher_weights. Nothing is downloaded.",
        group="loss",
        commands=(TRAIN,),
        idle_for=IN_STEPS,
    )
    teacher_weights: str | None = flag(
        help="Its state dict: a .safetensors file, or a .pth file (read safely).", group="loss", commands=(TRAIN,)
    )
    teacher_config: str | None = flag(
        help="What such a file does not say of how its images are prepared, and its classes in order: "
        '"image_size=64,image_mean=[0.5,0.5,0.5],image_std=[0.5,0.5,0.5],crop_pct=1,labels=[cat,dog]".',
        group="loss",
        commands=(TRAIN,),
    )
    distillation: str | None = flag(
        help="Learn the teacher's probabilities (soft, the default) or its decisions (hard; by DeiT's distillation "
        "token where the model has it: --config_overrides "
        '"pooling=cls_register,use_cls_token=true,num_register_tokens=1").',
        choices=DISTILLATIONS,
        group="loss",
        commands=(TRAIN,),
        recorded=True,
    )
    distillation_alpha: float = flag(
        default=0.5,
        help="The teacher's share of the loss.",
        group="loss",
        commands=(TRAIN,),
        range=(0, 1),
        recorded=True,
    )
    distillation_temperature: float = flag(
        default=3.0,
        help="Of soft distillation: the higher, the more the less likely classes count.",
        group="loss",
        commands=(TRAIN,),
        range=(0.01, 1000),
        recorded=True,
    )
    ema_decay: float = flag(
        default=0.0,
        help="Average the weights, such as 0.999 of the average kept at each step; evaluated and saved.",
        group="optimization",
        range=(0, 0.999999),
        recorded=True,
        idle_for=IN_STEPS,
    )
    muon: bool = flag(
        default=False,
        help="Train the matrices of the blocks by Muon, which learns more in each step, and the rest by --optim.",
        group="optimization",
        recorded=True,
        idle_for=IN_STEPS,
    )
    layer_decay: float = flag(
        default=1.0,
        help="Learning rate of a block, relative to that of the next, such as 0.75.",
        group="optimization",
        range=(0.1, 1),
        recorded=True,
        idle_for=IN_STEPS,
    )
    early_stopping_patience: int = flag(
        default=0,
        help="Stop after so many validations without a new best one. 0: never.",
        group="evaluation",
        range=(0, 1_000_000),
        recorded=True,
        idle_for=IN_STEPS,
    )
    early_stopping_threshold: float = flag(
        default=0.0, help="How much better a validation has to be to count.", group="evaluation", recorded=True
    )
    max_minutes: float | None = flag(
        help="Wall clock of the whole run, to which the schedule is fitted; --num_train_epochs then counts no more.",
        group="the run",
        range=(0.01, 1_000_000),
        recorded=True,
        idle_for=FITTED,
    )
    dataloader_num_workers: int = flag(
        default=-1, help="Loading processes; -1: as many as decoding needs, few or none with a cache."
    )
    report_to: list[str] | None = flag(
        help="Where curves go besides report.html: tensorboard (OUTPUT_DIR/runs), wandb, … or none. "
        "Default: tensorboard where it is installed."
    )
    push_to_hub: bool = flag(default=False, help="Publish as --hub_model_id, as `publish` does; see --hub_strategy.")
    hub_strategy: str = flag(
        default="end", help="When: end, or every_save (checkpoints too, each one complete and checked)."
    )
    hub_license: str | None = flag(
        help="Of the published weights, as the Hub names it: apache-2.0, mit, …", group="the Hub"
    )

    @property
    def processes(self) -> Processes:
        """Those that train together, of which this is one."""
        return Processes(self.process_index, self.world_size)

    @property
    def resume(self) -> str:
        """Where from: "true", the newest checkpoint if there is one; "false", nowhere; else the checkpoint named."""
        given = self.resume_from_checkpoint or "true"
        return given.lower() if given.lower() in ("true", "false") else given

    def __post_init__(self):
        if not self.output_dir:
            raise UsageError("--output_dir is missing: name the folder this run shall fill.")
        if (why := refusal(self)) is not None:
            raise UsageError(why)
        if self.push_to_hub:
            self.check_hub_flags()
        if self.save_total_limit == 1 and (self.load_best_model_at_end or self.metric_for_best_model):
            self.save_total_limit = 2  # Trainer would end by removing the last, from which a run goes on
        self.metric_is_default, self.greater_was = self.metric_for_best_model is None, self.greater_is_better
        self.on_accelerator = torch.accelerator.is_available() and not self.use_cpu
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.on_accelerator
        reporters = get_available_reporting_integrations()
        if self.report_to is None:
            self.report_to = ["tensorboard"] if "tensorboard" in reporters else ["none"]
        try:
            super().__post_init__()
        except (ImportError, OSError, TypeError, ValueError) as error:
            alone = "--ddp_backend is for several processes. " if "process group" in str(error) else ""
            raise UsageError(f"{alone}transformers' TrainingArguments: {error}") from error
        if missing := [name for name in self.report_to if name not in reporters]:
            raise UsageError(f"--report_to {missing[0]} is not installed: {', '.join(reporters) or 'none'} would work.")

    def check_hub_flags(self) -> None:
        """Raises UsageError for what would only fail, or publish too much, at the end of the training."""
        if not self.hub_license:
            raise UsageError("--push_to_hub needs --hub_license: what others may do, for example apache-2.0.")
        if self.hub_strategy not in HUB_STRATEGIES:
            raise UsageError(
                f"--hub_strategy {self.hub_strategy} would publish the optimizer's state, which is pickled: give "
                f"{' or '.join(HUB_STRATEGIES)}."
            )
        try:
            check_target(self.hub_model_id or "", self.hub_revision)
        except PublishError as error:
            raise UsageError(f"--push_to_hub needs --hub_model_id NAMESPACE/NAME. {error}") from error
