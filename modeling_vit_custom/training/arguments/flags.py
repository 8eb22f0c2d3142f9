# ruff: noqa: RUF009 - `flag` is dataclasses.field with its help beside it
"""The flags of training: three dataclasses of names, defaults and help.

Names are those of transformers' image-classification example and of TrainingArguments wherever they exist.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import SchedulerType

from ...audit.gate import MODES as AUDIT_MODES
from ...common.errors import UsageError
from ...common.processes import Processes
from ...data.examples import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ...features.selection import KINDS
from ...publishing.upload import PublishError, check_target
from ..inputs.augmentation import AUGMENTATIONS, POLICIES
from ..objectives.loss import LOSSES
from .trainer_fields import refusal

METHODS = ("full", "linear_probe", "lora", "head_then_full", "fitted_head", "search")
CLASS_WEIGHTS = ("none", "balanced")
DISTILLATIONS = ("soft", "hard", "none")
HUB_STRATEGIES = ("end", "every_save")
PROBLEM_TYPES = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)


def flag(default: Any = None, help: str = "", **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class ModelArguments:
    model_name_or_path: str | None = flag(
        help="Checkpoint to start from: a folder or a Hub name; or what `convert` reads of other libraries: timm:NAME, "
        "torchvision:NAME, a folder saved by transformers, a .npz, .safetensors or .pth file."
    )
    source_config: str | None = flag(
        help='What such a source does not say of itself: "image_size=224,num_attention_heads=6", "family=…".'
    )
    variant: str | None = flag(help='Start from random weights: a named size, such as "micro/4".')
    method: str | None = flag(
        help="Fit the head to features that are computed once, then fine-tune from there by what held-out images say "
        "is best, if anything is better (search); nothing but that fit (fitted_head: seconds for some hundred images); "
        "train everything (full), the head alone (linear_probe), adapters and the head (lora), or everything after the "
        "head was fitted (head_then_full). Default: search from a checkpoint, full from random weights or where flags "
        "such as --learning_rate or --num_train_epochs say how to train.",
        choices=METHODS,
    )
    head: str | None = flag(
        help="Which head fitted_head fits. Default: the best in cross-validation; ridge for regression.", choices=KINDS
    )
    feature_views: int | None = flag(
        help="Of so many views of each image, augmented but for the first, fitted_head takes the features. Default: 1."
    )
    image_size: list[int] | None = flag(
        help="Input size in pixels, to which a checkpoint is resampled: one number, or height width."
    )
    drop_path_rate: float | None = flag(help="Stochastic depth of the last block.")
    patch_drop_rate: float | None = flag(help="Share of the patches that each training step leaves out, at random.")
    lora_rank: int = flag(default=8, help="Rank r of the adapters of --method lora.")
    lora_alpha: float = flag(default=16.0, help="Their outputs are multiplied by alpha / r.")
    lora_dropout: float = flag(default=0.0, help="Dropout of their inputs.")
    lora_targets: list[str] | None = flag(help="Layers that get them, such as q_proj v_proj. Default: all.")
    config_overrides: str | None = flag(help='More configuration fields, "pooling=map,num_channels=1".')
    model_revision: str = flag(default="main", help="Branch, tag or commit of a Hub checkpoint.")
    cache_dir: str | None = flag(help="Where downloads from the Hub are kept.")
    chosen_recipe: str = field(default="", init=False)  # by "auto", as YAML
    ignore_mismatched_sizes: bool = flag(
        default=False, help="Initialise anew what does not fit, beyond the head (a new head needs no flag)."
    )


@dataclass
class DataArguments:
    dataset: str | None = flag(help="A built-in dataset, written as files.", choices=("mnist5k",))
    data_root: str = flag(default="data", help="Where --dataset writes its folder of images.")
    train_dir: str | None = flag(
        aliases="--train_file",
        help="Folder DIR/<class>/… or DIR/{train,validation,test}/<class>/…, or a CSV, TSV, JSON or Parquet file.",
    )
    validation_dir: str | None = flag(aliases="--validation_file", help="The same for validation.")
    test_dir: str | None = flag(
        default=None, aliases="--test_file", help="The same for the test set, which is read once, at the end."
    )
    dataset_name: str | None = flag(help="Hub dataset, or folder of save_to_disk or data files.")
    dataset_config_name: str | None = flag(help="Its configuration.")
    dataset_revision: str | None = flag(help="Its branch, tag or commit.")
    streaming: bool = flag(
        default=False,
        help="Read training images from shards while it trains, neither stored nor held in memory: --train_dir is then "
        "a folder of Parquet files or WebDataset tars, or a pattern, --dataset_name anything that `datasets` streams.",
    )
    shuffle_buffer: int = flag(
        default=1000, help="Of so many images of a stream the next one is drawn; the order of its shards is random too."
    )
    image_column_name: str = flag(default="image", help="Column of images (bytes) or image paths.")
    label_column_name: str = flag(
        default="label", help='Column of labels; several, "a,b,c", for 0/1 labels or several targets.'
    )
    label_separator: str = flag(default="|", help="What separates several labels in one cell.")
    problem_type: str | None = flag(help="Read off the label column if not given.", choices=PROBLEM_TYPES)
    train_val_split: float | None = flag(
        help="Share of train held out if there is no validation set. Default: 0.15; none for fitted_head and search, "
        "which cross-validation measures.",
    )
    shots: int | None = flag(help="Train on so many examples of each class.")
    folds: int | None = flag(
        help="Have each training image answered by a model that has not seen it, in so many folds, such as 5: an "
        "accuracy from all of them, for search and fitted_head."
    )
    max_train_samples: int | None = flag(help="Train on so many examples, stratified.")
    max_eval_samples: int | None = flag(help="Validate and test on so many examples each.")
    augmentation: str = flag(
        default="auto",
        help="none, light (small affine; no mirroring: digits, text), shift (mirrored as well: small pictures) or "
        "standard (random crops, mirrored). "
        "auto: standard, and none for a linear probe.",
        choices=("auto", *AUGMENTATIONS),
    )
    view_size: list[int] | None = flag(
        help="Size of the stored pictures that standard cuts its crops from, one number, or height width. Default: "
        "1.15 times the model's.",
    )
    auto_augment: str | None = flag(help="Colours and shapes changed at random as well.", choices=tuple(POLICIES))
    random_erasing: float = flag(default=0.0, help="How often a box of the image is erased: 0 to 1.")
    mixup: float = flag(default=0.0, help="Alpha of mixup, such as 0.8: pairs of images are blended. 0: none.")
    cutmix: float = flag(default=0.0, help="Alpha of CutMix, such as 1: a box comes from another image. 0: none.")
    mix_probability: float = flag(default=1.0, help="How often a pair is mixed, by one of the two.")
    progressive_resizing: float = flag(
        default=1.0,
        help="Share of the image's sides to begin at, such as 0.5; whole after 0.7 of the training.",
    )
    balanced_sampling: bool = flag(default=False, help="Draw each class equally often, however many images it has.")
    image_cache: str = flag(
        default="auto",
        help="Decode each image once and keep it, small: auto (in $VIT_CUSTOM_CACHE/images or "
        "~/.cache/vit_custom/images, if that takes a quarter of the free disk at most), off, or the folder to keep it "
        "in. Its parts may be removed at any time.",
    )
    follow_links: bool = flag(default=False, help="Follow links, and paths in tables and datasets, that lead outside.")
    audit: str = flag(
        default="refuse",
        help="What the same image under two labels or in two splits, images that would be left out and the like do: "
        "stop the run (refuse), be printed (warn), or not be looked for (off).",
        choices=AUDIT_MODES,
    )


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
        default="ce", help="Of single labels: cross-entropy (ce), or binary cross-entropy (bce).", choices=LOSSES
    )
    class_weights: str = flag(
        default="none", help="balanced: rare classes count as much as frequent ones.", choices=CLASS_WEIGHTS
    )
    teacher: str | None = flag(
        help="A trained classifier to learn from as well, convolutional ones too: a folder saved by transformers, by "
        "timm or by this package, or timm:NAME or torchvision:NAME with --teacher_weights. Nothing is downloaded.",
    )
    teacher_weights: str | None = flag(help="Its state dict: a .safetensors file, or a .pth file (read safely).")
    teacher_config: str | None = flag(
        help="What such a file does not say of how its images are prepared, and its classes in order: "
        '"image_size=64,image_mean=[0.5,0.5,0.5],image_std=[0.5,0.5,0.5],crop_pct=1,labels=[cat,dog]".'
    )
    distillation: str | None = flag(
        help="Learn the teacher's probabilities (soft, the default) or its decisions (hard; by DeiT's distillation "
        "token where the model has it: --config_overrides "
        '"pooling=cls_register,use_cls_token=true,num_register_tokens=1").',
        choices=DISTILLATIONS,
    )
    distillation_alpha: float = flag(default=0.5, help="The teacher's share of the loss.")
    distillation_temperature: float = flag(
        default=3.0, help="Of soft distillation: the higher, the more the less likely classes count."
    )
    ema_decay: float = flag(
        default=0.0, help="Average the weights, such as 0.999 of the average kept at each step; evaluated and saved."
    )
    muon: bool = flag(
        default=False,
        help="Train the matrices of the blocks by Muon, which learns more in each step, and the rest by --optim.",
    )
    layer_decay: float = flag(default=1.0, help="Learning rate of a block, relative to that of the next, such as 0.75.")
    early_stopping_patience: int = flag(
        default=0, help="Stop after so many validations without a new best one. 0: never."
    )
    early_stopping_threshold: float = flag(default=0.0, help="How much better a validation has to be to count.")
    max_minutes: float | None = flag(
        help="Wall clock of the whole run, to which the schedule is fitted; --num_train_epochs then counts no more."
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
    hub_license: str | None = flag(help="Of the published weights, as the Hub names it: apache-2.0, mit, …")

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
