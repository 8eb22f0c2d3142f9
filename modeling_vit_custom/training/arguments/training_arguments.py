# ruff: noqa: RUF009 - `flag` is dataclasses.field with its help beside it
"""The flags of training, each declared once: name, type, default, help and facts.

Names are those of transformers' image-classification example and of TrainingArguments wherever they exist.
"""

import math
import sys
from dataclasses import dataclass
from operator import floordiv

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import SchedulerType

from ...common.errors import UsageError
from ...common.model_files import CONVERTED_FOLDERS
from ...common.processes import Processes
from ...publishing.upload import PublishError, check_target
from ...tasks.task import ONE_LABEL
from ..objectives.loss import LOSSES
from .declarations import FITTED, IN_STEPS, MANY, TRAIN, Facts, check_ranges, facts_in, flag
from .trainer_fields import FIELDS, Refused, refusal

CLASS_WEIGHTS = ("none", "balanced")
DISTILLATIONS = ("soft", "hard", "none")
KEPT_CHECKPOINTS = ("all", "last", "none")
TOTAL_LIMIT = 2  # default of --save_total_limit
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
    save_total_limit: int | None = flag(default=TOTAL_LIMIT, help="Checkpoints kept: the best and the last.")
    keep_checkpoints: str | None = flag(
        rare=True,
        help="Checkpoints that a finished run keeps: none; last, from which a longer run continues, with the best as a "
        "model alone; or all. Default: none; all where --save_total_limit is given another number.",
        choices=KEPT_CHECKPOINTS,
        group="checkpoints",
    )
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
        "timm or by this package, or timm:NAME or torchvision:NAME with --teacher_weights. Nothing is downloaded. In "
        "`pretrain`: an encoder whose features are learnt, without labels; what --model_name_or_path takes.",
        group="loss",
        idle_for=IN_STEPS,
    )
    teacher_weights: str | None = flag(
        rare=True,
        help="Its state dict: a .safetensors file, or a .pth file (read safely).",
        group="loss",
        commands=(TRAIN,),
    )
    teacher_config: str | None = flag(
        rare=True,
        help="What such a file does not say of how its images are prepared, and its classes in order: "
        '"image_size=64,image_mean=[0.5,0.5,0.5],image_std=[0.5,0.5,0.5],crop_pct=1,labels=[cat,dog]". In `pretrain`: '
        "image_size, at which the teacher sees images, and what --source_config takes.",
        group="loss",
    )
    distillation: str | None = flag(
        rare=True,
        help="Learn the teacher's probabilities (soft, the default) or its decisions (hard; by DeiT's distillation "
        "token where the model has it: --config_overrides "
        '"pooling=cls_register,use_cls_token=true,num_register_tokens=1").',
        choices=DISTILLATIONS,
        group="loss",
        commands=(TRAIN,),
        recorded=True,
    )
    distillation_alpha: float = flag(
        rare=True,
        default=0.5,
        help="The teacher's share of the loss.",
        group="loss",
        commands=(TRAIN,),
        range=(0, 1),
        recorded=True,
    )
    distillation_temperature: float = flag(
        rare=True,
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
        rare=True,
        default=0.0,
        help="How much better a validation has to be to count.",
        group="evaluation",
        range=(0, MANY),
        recorded=True,
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
        help="Where curves go in addition to report.html: tensorboard (OUTPUT_DIR/runs), wandb, … or none. "
        "Default: tensorboard where it is installed."
    )
    save_as: str | None = flag(
        rare=True,
        help="Write the finished model a second time, to OUTPUT_DIR/hf (or timm), as a model of transformers (or timm) "
        "that loads without remote code. A model that cannot be said there is refused before training.",
        choices=tuple(CONVERTED_FOLDERS),
        group="the run",
        commands=(TRAIN,),
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
        """The processes that train together; this is one of them."""
        return Processes(self.process_index, self.world_size)

    @property
    def resume(self) -> str:
        """What to continue from: the newest checkpoint, if any ("true"), nothing ("false"), or the named checkpoint."""
        given = self.resume_from_checkpoint or "true"
        return given.lower() if given.lower() in ("true", "false") else given

    def steps_for(self, examples: int) -> int | None:
        """Return the steps of a run on `examples` images; None if --max_minutes or a search decides."""
        if self.max_steps > 0:
            return self.max_steps
        if self.max_minutes is not None or self.num_train_epochs is None:
            return None
        divide = floordiv if self.dataloader_drop_last else ceildiv
        batches = divide(divide(examples, self.train_batch_size), self.world_size)
        return math.ceil(self.num_train_epochs * max(1, ceildiv(batches, self.gradient_accumulation_steps)))

    def check_warmup(self, examples: int) -> None:
        """Raise UsageError for a warm-up that is longer than the run."""
        if self.warmup_steps >= 1 and (steps := self.steps_for(examples)) is not None and self.warmup_steps > steps:
            raise UsageError(too_long(self.warmup_steps, steps))

    def __post_init__(self):
        if not self.output_dir:
            raise UsageError("--output_dir is missing: name the folder this run shall fill.")
        check_ranges(self, training_facts())
        if (why := refusal(self)) is not None:
            raise UsageError(why)
        if self.push_to_hub:
            self.check_hub_flags()
        if self.keep_checkpoints is None:
            self.keep_checkpoints = "none" if self.save_total_limit == TOTAL_LIMIT else "all"
        if self.keep_checkpoints not in KEPT_CHECKPOINTS:
            raise UsageError(f"--keep_checkpoints {self.keep_checkpoints}: give one of {', '.join(KEPT_CHECKPOINTS)}.")
        if self.save_total_limit == 1 and (self.load_best_model_at_end or self.metric_for_best_model):
            self.save_total_limit = 2  # else Trainer would finally remove the last, from which a run goes on
        if self.disable_tqdm is None and "ipykernel" not in sys.modules:
            self.disable_tqdm = not sys.stderr.isatty()  # a file would be filled with bars
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
        """Raise UsageError for Hub flags that would fail, or publish too much, only at the end of the training."""
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


def ceildiv(number: int, by: int) -> int:
    return -(-number // by)


def too_long(warmup: float, steps: int) -> str:
    return f"--warmup_steps {warmup:g} is longer than the run of {steps} steps: give fewer, or a share below 1."


def training_facts() -> dict[str, Facts]:
    """Return the facts of the flags of training, by name, without refused ones."""
    table = {name: field.facts for name, field in FIELDS.items() if not isinstance(field, Refused)}
    return table | {name: facts for name, facts in facts_in(ViTTrainingArguments).items() if name not in FIELDS}
