# ruff: noqa: RUF009 - `flag` is dataclasses.field with its help beside it
"""The flags of model and method, each declared once: name, type, default, help and facts."""

from dataclasses import dataclass, field

from ...features.selection import KINDS
from .declarations import FITTED, TRAIN, flag

METHODS = ("full", "linear_probe", "lora", "head_then_full", "fitted_head", "search")


@dataclass
class ModelArguments:
    model_name_or_path: str | None = flag(
        help="Checkpoint to start from: a folder or a Hub name; or what `convert` reads of other libraries: timm:NAME, "
        "torchvision:NAME, a folder saved by transformers, a .npz, .safetensors or .pth file."
    )
    source_config: str | None = flag(
        rare=True, help='What such a source does not say of itself: "image_size=224,num_attention_heads=6", "family=…".'
    )
    variant: str | None = flag(help='Start from random weights: a named size, such as "micro/4".')
    method: str | None = flag(
        help="Fit the head to features that are computed once, then fine-tune from there by what held-out images say "
        "is best, if anything is better (search); nothing but that fit (fitted_head: seconds for some hundred images); "
        "train everything (full), the head alone (linear_probe), adapters and the head (lora), or everything after the "
        "head was fitted (head_then_full). Default: search from a checkpoint, full from random weights or where flags "
        "such as --learning_rate or --num_train_epochs say how to train.",
        choices=METHODS,
        group="method",
        commands=(TRAIN,),
    )
    head: str | None = flag(
        help="Which head fitted_head fits. Default: the best in cross-validation; ridge for regression.",
        choices=KINDS,
        group="method",
        commands=(TRAIN,),
    )
    feature_views: int | None = flag(
        rare=True,
        help="Of so many views of each image, augmented but for the first, fitted_head takes the features. Default: 1.",
        group="method",
        commands=(TRAIN,),
        range=(1, 1000),
    )
    image_size: list[int] | None = flag(
        help="Input size in pixels, whole patches, to which a checkpoint is resampled: one number, or height width.",
        range=(1, 32_768),
    )
    drop_path_rate: float | None = flag(help="Stochastic depth of the last block.", range=(0, 0.99), idle_for=FITTED)
    patch_drop_rate: float | None = flag(
        rare=True,
        help="Share of the patches that each training step leaves out, at random.",
        commands=(TRAIN,),
        range=(0, 0.99),
        idle_for=FITTED,
    )
    lora_rank: int = flag(
        default=8,
        help="Rank r of the adapters of --method lora.",
        group="method",
        commands=(TRAIN,),
        range=(1, 65_536),
        says_how=True,
    )
    lora_alpha: float = flag(
        rare=True,
        default=16.0,
        help="Their outputs are multiplied by alpha / r.",
        group="method",
        commands=(TRAIN,),
        range=(1e-6, 1e6),
        says_how=True,
    )
    lora_dropout: float = flag(
        rare=True,
        default=0.0,
        help="Dropout of their inputs.",
        group="method",
        commands=(TRAIN,),
        range=(0, 0.99),
        says_how=True,
    )
    lora_targets: list[str] | None = flag(
        rare=True,
        help="Layers that get them, such as q_proj v_proj. Default: all.",
        group="method",
        commands=(TRAIN,),
        says_how=True,
    )
    config_overrides: str | None = flag(help='More configuration fields, "pooling=map,num_channels=1".', says_how=True)
    model_revision: str = flag(default="main", help="Branch, tag or commit of a Hub checkpoint.")
    cache_dir: str | None = flag(rare=True, help="Where downloads from the Hub are kept.")
    chosen_recipe: str = field(default="", init=False)  # the recipe that "auto" chose, as YAML
    ignore_mismatched_sizes: bool = flag(
        rare=True,
        default=False,
        help="Initialise again what does not fit, beyond the head (a new head needs no flag).",
        commands=(TRAIN,),
        says_how=True,
    )
