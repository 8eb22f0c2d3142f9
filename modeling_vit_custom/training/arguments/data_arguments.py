# ruff: noqa: RUF009 - `flag` is dataclasses.field with its help beside it
"""The flags of data and augmentation, each declared once: name, type, default, help and facts.

Names are those of transformers' image-classification example wherever they exist.
"""

from dataclasses import dataclass

from ...audit.gate import MODES as AUDIT_MODES
from ...common.image_pixels import MAX_PIXELS, MAX_PIXELS_HELP
from ...tasks.registry import PROBLEM_TYPES
from ...tasks.task import ONE_LABEL
from ..inputs.augmentation import AUGMENTATIONS, POLICIES
from .declarations import FITTED, IN_STEPS, MANY, TRAIN, flag


@dataclass
class DataArguments:
    dataset: str | None = flag(help="A built-in dataset, written as files.", choices=("mnist5k",))
    data_root: str = flag(rare=True, default="data", help="Where --dataset writes its folder of images.")
    train_dir: str | None = flag(
        aliases="--train_file",
        help="Folder DIR/<class>/… or DIR/{train,validation,test}/<class>/…, or a CSV, TSV, JSON or Parquet file.",
    )
    validation_dir: str | None = flag(aliases="--validation_file", help="The same for validation.")
    test_dir: str | None = flag(
        default=None,
        aliases="--test_file",
        help="The same for the test set, which is read once, at the end.",
        commands=(TRAIN,),
    )
    dataset_name: str | None = flag(help="Hub dataset, or folder of save_to_disk or data files.")
    dataset_config_name: str | None = flag(rare=True, help="Its configuration.")
    dataset_revision: str | None = flag(rare=True, help="Its branch, tag or commit.")
    streaming: bool = flag(
        default=False,
        help="Read training images from shards while it trains, neither stored nor held in memory: --train_dir is then "
        "a folder of Parquet files or WebDataset tars, or a pattern, --dataset_name anything that `datasets` streams.",
        commands=(TRAIN,),
        recorded=True,
        says_how=True,
    )
    shuffle_buffer: int = flag(
        rare=True,
        default=1000,
        help="Of so many images of a stream the next one is drawn; the order of its shards is random too.",
        commands=(TRAIN,),
        range=(1, MANY),
        recorded=True,
    )
    image_column_name: str = flag(default="image", help="Column of images (bytes) or image paths.")
    label_column_name: str = flag(
        default="label",
        help='Column of labels; several, "a,b,c", for 0/1 labels or several targets.',
        commands=(TRAIN,),
    )
    label_separator: str = flag(
        rare=True, default="|", help="What separates several labels in one cell.", commands=(TRAIN,)
    )
    problem_type: str | None = flag(
        help="Read off the label column if not given.", choices=PROBLEM_TYPES, commands=(TRAIN,)
    )
    train_val_split: float | None = flag(
        help="Share of train held out if there is no validation set. Default: 0.15; none for fitted_head and search, "
        "which cross-validation measures.",
        range=(1e-6, 0.999999),
    )
    shots: int | None = flag(
        help="Train on so many examples of each class.", commands=(TRAIN,), range=(1, MANY), recorded=True
    )
    folds: int | None = flag(
        help="Have each training image answered by a model that has not seen it, in so many folds, such as 5: an "
        "accuracy from all of them, for search and fitted_head.",
        group="method",
        commands=(TRAIN,),
        range=(2, 1000),
        recorded=True,
    )
    max_train_samples: int | None = flag(help="Train on so many examples, stratified.", range=(1, MANY))
    max_eval_samples: int | None = flag(rare=True, help="Validate and test on so many examples each.", range=(1, MANY))
    reject: float | None = flag(
        help="Let the model say that it does not know an image: of images of its own classes at most such a share, "
        "such as 0.05. Keeps images for that (--method fitted_head with few images: uses them in folds).",
        group="unknown",
        commands=(TRAIN,),
        range=(0.0001, 0.5),
        needs=ONE_LABEL,
        recorded=True,
    )
    max_error: float | None = flag(
        help="Let the model say that it does not know an image, so that of its other answers at most such a share is "
        "wrong, such as 0.02, nine times in ten. Keeps images for that.",
        group="unknown",
        commands=(TRAIN,),
        range=(0.0001, 0.5),
        needs=ONE_LABEL,
        recorded=True,
    )
    augmentation: str = flag(
        default="auto",
        help="none, light (small affine; no mirroring: digits, text), shift (mirrored as well: small pictures) or "
        "standard (random crops, mirrored). "
        "auto: standard, and none for a linear probe.",
        choices=("auto", *AUGMENTATIONS),
        group="augmentation",
    )
    view_size: list[int] | None = flag(
        rare=True,
        help="Size of the stored pictures that standard cuts its crops from, one number, or height width. Default: "
        "1.15 times the model's.",
        group="augmentation",
        range=(1, 65_536),
        recorded=True,
    )
    auto_augment: str | None = flag(
        help="Colours and shapes changed at random as well.",
        choices=tuple(POLICIES),
        group="augmentation",
        recorded=True,
        idle_for=FITTED,
    )
    random_erasing: float = flag(
        default=0.0,
        help="How often a box of the image is erased: 0 to 1.",
        group="augmentation",
        commands=(TRAIN,),
        range=(0, 1),
        recorded=True,
        idle_for=FITTED,
    )
    random_grayscale: float = flag(
        rare=True,
        default=0.0,
        help="How often the colours of an image are taken away: 0 to 1.",
        group="augmentation",
        commands=(TRAIN,),
        range=(0, 1),
        recorded=True,
        idle_for=FITTED,
    )
    mixup: float = flag(
        default=0.0,
        help="Alpha of mixup, such as 0.8: pairs of images are blended. 0: none.",
        group="augmentation",
        commands=(TRAIN,),
        range=(0, 100),
        needs=ONE_LABEL,
        recorded=True,
        idle_for=IN_STEPS,
    )
    cutmix: float = flag(
        default=0.0,
        help="Alpha of CutMix, such as 1: a box comes from another image. 0: none.",
        group="augmentation",
        commands=(TRAIN,),
        range=(0, 100),
        needs=ONE_LABEL,
        recorded=True,
        idle_for=IN_STEPS,
    )
    mix_probability: float = flag(
        rare=True,
        default=1.0,
        help="How often a pair is mixed, by one of the two.",
        group="augmentation",
        commands=(TRAIN,),
        range=(0, 1),
        recorded=True,
    )
    progressive_resizing: float = flag(
        rare=True,
        default=1.0,
        help="Share of the image's sides to begin at, such as 0.5; whole after 0.7 of the training.",
        group="augmentation",
        commands=(TRAIN,),
        range=(0.1, 1),
        recorded=True,
        idle_for=IN_STEPS,
    )
    balanced_sampling: bool = flag(
        default=False,
        help="Draw each class equally often, however many images it has.",
        commands=(TRAIN,),
        needs=ONE_LABEL,
        recorded=True,
        idle_for=IN_STEPS,
    )
    image_cache: str = flag(
        default="auto",
        help="Decode each image once and keep it, small: auto (in $VIT_CUSTOM_CACHE/images or "
        "~/.cache/vit_custom/images, if that takes a quarter of the free disk at most), off, or the folder to keep it "
        "in. Its parts may be removed at any time.",
    )
    max_pixels: int = flag(default=MAX_PIXELS, help=f"{MAX_PIXELS_HELP}.", range=(1, MANY))
    follow_links: bool = flag(default=False, help="Follow links, and paths in tables and datasets, that lead outside.")
    audit: str = flag(
        default="refuse",
        help="What the same image under two labels or in two splits, images that would be left out and the like do: "
        "stop the run (refuse), be printed (warn), or not be looked for (off).",
        choices=AUDIT_MODES,
    )
