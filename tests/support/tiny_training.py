"""Trainings that take a second: a model of a few hundred parameters on a few dozen real digits of 8x8 pixels."""

from pathlib import Path
from typing import Any

from modeling_vit_custom.commands.training_flags import parse_args
from modeling_vit_custom.training.arguments.completion import choose_best_metric, complete_arguments
from modeling_vit_custom.training.initialization.build import build_model
from modeling_vit_custom.training.initialization.start_checkpoint import open_checkpoint
from modeling_vit_custom.training.runs.data_loading import load_data
from modeling_vit_custom.training.runs.train import train
from modeling_vit_custom.training.trainer.assembly import build_trainer, prepare_feed, start_of, teacher_for

TINY = (
    "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=24,initializer_range=0.2,"
    "hidden_dropout_prob=0.1"
)
TINY_MODEL = ["--variant", "nano/4", "--image_size", "8", "--config_overrides", TINY]
QUICK = [
    "--use_cpu", "true", "--disable_tqdm", "true", "--augmentation", "light", "--per_device_train_batch_size", "8",
    "--report_to", "none",
    "--keep_checkpoints", "all",  # so that a finished run can stand for one that was killed
]  # fmt: skip


def tiny_train(output_dir: Path, *flags: Any, model: list[str] | None = None) -> dict[str, Any]:
    """Run `train` as a command line would, with the tiny model unless `model` names another."""
    return train(*parse_args(command(output_dir, *flags, model=model)))


def tiny_checkpoint(output_dir: Path, train_dir: Path) -> list[str]:
    """Train the tiny model for one epoch; return the flags that start from it."""
    tiny_train(output_dir, "--train_dir", train_dir, "--num_train_epochs", 1)
    return ["--model_name_or_path", str(output_dir)]


def tiny_trainer(output_dir: Path, *flags: Any, model: list[str] | None = None):
    """Return (the Trainer that `train` would use, its splits), before training."""
    model_args, data_args, training_args = parse_args(command(output_dir, *flags, model=model))
    complete_arguments(model_args, data_args, training_args)
    pretrained = open_checkpoint(start_of(model_args))
    splits = load_data(data_args, training_args)
    choose_best_metric(training_args, splits.problem_type, len(splits.id2label))
    net, processor, splits = build_model(start_of(model_args), pretrained, splits, training_args.seed)
    teacher = teacher_for(splits, training_args)
    feed = prepare_feed(net.config, processor, splits, data_args, training_args, teacher)
    return build_trainer(net, processor, splits, model_args, feed, training_args), splits


def command(output_dir: Path, *flags: Any, model: list[str] | None = None) -> list[str]:
    return ["--output_dir", str(output_dir), *(model or TINY_MODEL), *QUICK, *map(str, flags)]
