"""Completion of flags: checks against each other, and the defaults that depend on the method."""

from dataclasses import fields

from transformers.trainer_utils import SaveStrategy

from ...common.errors import UsageError
from ...tasks.registry import task_named
from ..inputs.augmentation import VIEW_SCALE
from .conflicts import check_streaming, conflicts, try_parts
from .data_arguments import DataArguments
from .declarations import IN_STEPS, check_ranges
from .method import choose_method
from .model_arguments import ModelArguments
from .tables import FLAGS, ONLY_IN_TRAIN
from .training_arguments import ViTTrainingArguments

# Defaults of --learning_rate, --num_train_epochs and --weight_decay.
SCRATCH = {"learning_rate": 1e-3, "num_train_epochs": 30.0, "weight_decay": 0.05}
METHOD_DEFAULTS = {
    "full": {"learning_rate": 5e-5, "num_train_epochs": 5.0, "weight_decay": 0.05},
    "linear_probe": {"learning_rate": 1e-3, "num_train_epochs": 20.0, "weight_decay": 0.0},
    "lora": {"learning_rate": 1e-3, "num_train_epochs": 10.0, "weight_decay": 0.0},
    "head_then_full": {"learning_rate": 5e-5, "num_train_epochs": 5.0, "weight_decay": 0.05},
    "fitted_head": {},  # nothing is trained in steps
    "search": {},  # it chooses them
}
PRETRAINING_SCRATCH = SCRATCH | {"num_train_epochs": 100.0}
PRETRAINING = {"learning_rate": 1e-4, "num_train_epochs": 20.0, "weight_decay": 0.05}
VALIDATION = 0.15  # share of the training images, for methods that do not cross-validate


def complete_arguments(
    model_args: ModelArguments, data_args: DataArguments, training_args: ViTTrainingArguments
) -> None:
    """Check the flags against each other and set the defaults that depend on the method, in place.

    Raises UsageError before any data is read and before anything is written.
    """
    for group in (model_args, data_args, training_args):
        check_ranges(group, FLAGS)
    if model_args.method is None:
        model_args.method = choose_method(model_args, data_args, training_args)
    check_streaming(model_args.method, data_args, training_args)
    for wrong, message in conflicts(model_args, data_args, training_args):
        if wrong:
            raise UsageError(message)
    complete_distillation(training_args)
    defaults = SCRATCH if model_args.variant is not None else METHOD_DEFAULTS[model_args.method]
    for name, value in defaults.items():
        if getattr(training_args, name) is None:
            setattr(training_args, name, value)
    try_parts(training_args)
    if data_args.train_val_split is None and model_args.method not in IN_STEPS:
        data_args.train_val_split = VALIDATION
    if data_args.augmentation == "auto" and model_args.method != "search":  # search tries several
        plain = model_args.method == "fitted_head" and model_args.feature_views in (None, 1)
        frozen = plain or model_args.method == "linear_probe"
        data_args.augmentation = "none" if frozen else "standard"
    whole = VIEW_SCALE.get(data_args.augmentation) == 1
    if data_args.view_size is not None and (whole or len(data_args.view_size) > 2):
        raise UsageError(
            f"--view_size {data_args.view_size} with --augmentation {data_args.augmentation}: give one number or two, "
            "for an augmentation that cuts crops (standard)."
        )


def complete_pretraining_arguments(
    model_args: ModelArguments, data_args: DataArguments, training_args: ViTTrainingArguments
) -> None:
    """Complete as `complete_arguments` does, with the defaults of pre-training; refuse flags that only `train` has.

    Raises UsageError.
    """
    for group in (model_args, data_args, training_args):
        for given in fields(group):
            if given.name in ONLY_IN_TRAIN and getattr(group, given.name) != given.default:
                raise UsageError(f"--{given.name} has no meaning in pre-training, only in `train`: leave it out.")
    if not training_args.metric_is_default:
        raise UsageError("--metric_for_best_model: what is best in pre-training is the lowest eval_loss; leave it out.")
    if wants_best(training_args):
        set_best(training_args, "eval_loss", False)
    for name, value in (PRETRAINING_SCRATCH if model_args.variant is not None else PRETRAINING).items():
        if getattr(training_args, name) is None:
            setattr(training_args, name, value)
    model_args.method = "full"
    training_args.distillation = "none"  # of logits; --teacher gives features
    complete_arguments(model_args, data_args, training_args)


def complete_distillation(training_args: ViTTrainingArguments) -> None:
    """Set --distillation if it was not given. Raises UsageError for teacher flags without --teacher."""
    kind, teacher = training_args.distillation, training_args.teacher
    needy = {"--teacher_weights": training_args.teacher_weights, "--teacher_config": training_args.teacher_config}
    needy["--distillation"] = kind if kind != "none" else None
    if teacher is None and (lost := [f"{name} {value}" for name, value in needy.items() if value is not None]):
        raise UsageError(f"{lost[0]} needs a teacher: name one by --teacher.")
    if kind is None:
        training_args.distillation = "none" if teacher is None else "soft"


def choose_best_metric(training_args: ViTTrainingArguments, problem_type: str, num_labels: int) -> None:
    """Set the metric that decides which model is best, if it was not given, and whether greater is better.

    Raises UsageError for a metric that the task does not have, and for a --greater_is_better that contradicts it.
    """
    known = {**task_named(problem_type).measures(num_labels), "loss": False}
    if training_args.metric_is_default:
        if wants_best(training_args):
            set_best(training_args, *next(iter(known.items())))
        return
    name = str(training_args.metric_for_best_model).removeprefix("eval_")
    if name not in known:
        raise UsageError(f"--metric_for_best_model {name}: {problem_type} has {', '.join(known)}.")
    set_best(training_args, name, known[name])


def wants_best(training_args: ViTTrainingArguments) -> bool:
    """Return whether any flag depends on which validation was the best."""
    by_best = training_args.save_strategy == SaveStrategy.BEST or training_args.early_stopping_patience
    return bool(training_args.load_best_model_at_end or by_best)


def set_best(training_args: ViTTrainingArguments, metric: str, greater: bool) -> None:
    """Set the metric for the best model and its direction. Raises UsageError if --greater_is_better contradicts it."""
    if training_args.greater_was not in (None, greater):
        raise UsageError(
            f"--greater_is_better {training_args.greater_was} would keep the worst model by {metric}: leave it out."
        )
    training_args.metric_for_best_model, training_args.greater_is_better = metric, greater
