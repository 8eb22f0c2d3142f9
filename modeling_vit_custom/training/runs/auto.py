"""`--recipe auto`: gathers facts on the data, the hardware and the checkpoint, from which `choose` chooses."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from ...common.environment import available_cores
from ...common.errors import UsageError
from ...common.model_files import RECIPE_FILE
from ...data.examples import Splits
from ...tasks.registry import task_named, task_of
from ..arguments.data_arguments import DataArguments
from ..arguments.model_arguments import ModelArguments
from ..arguments.tables import SAY_HOW
from ..arguments.training_arguments import ViTTrainingArguments
from ..initialization.start_checkpoint import open_checkpoint
from ..inputs.looks import looks_of
from ..trainer.assembly import start_of
from .auto_choice import Checkpoint, Choice, Facts, choose
from .data_loading import load_data


def auto_recipe(
    given: Collection[str], model_args: ModelArguments, data_args: DataArguments, training_args: ViTTrainingArguments
) -> str:
    """Return the recipe, as YAML, for everything that the given flags leave open; the first process prints it.

    A run that goes on keeps the recipe that was chosen before. given: names of the flags that were given.
    Raises UsageError for a stream, and the errors of loading the data and the checkpoint.
    """
    kept = Path(training_args.output_dir) / RECIPE_FILE
    if kept.is_file() and training_args.resume != "false":
        return print_recipe(kept.read_text(encoding="utf-8"), training_args, f"as chosen before, in {kept}")
    if data_args.streaming:
        raise UsageError("--recipe auto looks at the images, which --streaming has not at hand: name a recipe.")
    splits = load_data(replace(data_args, audit="off"), training_args)
    pretrained = None if model_args.model_name_or_path is None else open_checkpoint(start_of(model_args))
    checkpoint = None if pretrained is None else checkpoint_of(pretrained.config, model_args.image_size)
    facts = facts_of(splits, training_args.max_minutes, checkpoint)
    choices = choose(replace(facts, method=model_args.method, in_steps=not {*SAY_HOW}.isdisjoint(given)))
    recipe = as_recipe([c for c in choices if c.flag not in given])
    return print_recipe(recipe, training_args, "chosen by --recipe auto")


def print_recipe(recipe: str, training_args: ViTTrainingArguments, title: str) -> str:
    """Print the recipe under a title, in the first process, and return it."""
    if training_args.process_index == 0:
        print(f"# {title}:", *recipe.splitlines()[1:], sep="\n", end="\n\n", flush=True)
    return recipe


def checkpoint_of(config: Any, image_size: Sequence[int] | None) -> Checkpoint:
    """Return a checkpoint's number of parameters and configuration; `image_size` replaces the stored size if given."""
    with torch.device("meta"):
        model = task_of(config).listing.model(config)
        parameters = sum(parameter.numel() for parameter in model.parameters())
    if image_size is not None:
        config = copy.deepcopy(config)
        config.image_size = image_size[0] if len(image_size) == 1 else list(image_size)
    return Checkpoint(parameters, config)


def facts_of(splits: Splits, minutes: float | None, checkpoint: Checkpoint | None) -> Facts:
    """Return the facts that the rules look at; so few images are opened that it takes no time."""
    side, grey = looks_of(splits.train)
    on = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return Facts(
        images=len(splits.train),
        side=side,
        grey=grey,
        single_label=task_named(splits.problem_type).one_label,
        minutes=minutes,
        cores=available_cores(),
        accelerator=None if on is None else str(on),
        memory=torch.cuda.get_device_properties(0).total_memory if on is not None and on.type == "cuda" else 0,
        checkpoint=checkpoint,
    )


def as_recipe(choices: Sequence[Choice]) -> str:
    """Return the choices as YAML, with the reasons as comments."""
    head = "# Chosen by --recipe auto. Flags of the command won over these.\n"
    return head + "".join(f"\n# {c.why}\n{yaml.safe_dump({c.flag: c.value})}" for c in choices)
