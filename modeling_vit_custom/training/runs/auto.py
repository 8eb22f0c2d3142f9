"""`--recipe auto` for a command line: looks at the data, the hardware and the checkpoint, and has `choose` choose."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from ...common.environment import available_cores
from ...common.errors import UsageError
from ...common.model_files import RECIPE_FILE
from ...data.examples import Splits
from ...modeling_vit_custom import ViTCustomForImageClassification
from ...tasks.registry import task_named
from ...tasks.task import ONE_LABEL
from ..arguments.tables import SAY_HOW
from ..arguments.training_arguments import ViTTrainingArguments
from ..initialization.start_checkpoint import open_checkpoint
from ..inputs.looks import looks_of
from ..trainer.assembly import start_of
from .auto_choice import Checkpoint, Choice, Facts, choose
from .data_loading import load_data


def auto_recipe(argv: list[str], parse: Callable[[list[str]], Any]) -> str:
    """The recipe, as YAML, for the flags `argv`, whose own choices are left to them; it is printed by one process.

    A run that goes on keeps to what was chosen before. parse: from flags to the three groups of them.
    """
    model_args, data_args, training_args = parse(argv)
    kept = Path(training_args.output_dir) / RECIPE_FILE
    if kept.is_file() and training_args.resume != "false":
        return told(kept.read_text(encoding="utf-8"), training_args, f"as chosen before, in {kept}")
    if data_args.streaming:
        raise UsageError("--recipe auto looks at the images, which --streaming has not at hand: name a recipe.")
    splits = load_data(replace(data_args, audit="off"), training_args)
    pretrained = None if model_args.model_name_or_path is None else open_checkpoint(start_of(model_args))
    checkpoint = None if pretrained is None else checkpoint_of(pretrained.config, model_args.image_size)
    given = {word.removeprefix("--").partition("=")[0] for word in argv if word.startswith("--")}
    facts = facts_of(splits, training_args.max_minutes, checkpoint)
    choices = choose(replace(facts, method=model_args.method, in_steps=bool(given & {*SAY_HOW})))
    return told(as_recipe([c for c in choices if c.flag not in given]), training_args, "chosen by --recipe auto")


def told(recipe: str, training_args: ViTTrainingArguments, title: str) -> str:
    """The recipe, printed on the way."""
    if training_args.process_index == 0:
        print(f"# {title}:", *recipe.splitlines()[1:], sep="\n", end="\n\n", flush=True)
    return recipe


def checkpoint_of(config: Any, image_size: Sequence[int] | None) -> Checkpoint:
    """What a checkpoint is, at the size that was asked for, if one was."""
    with torch.device("meta"):
        model = ViTCustomForImageClassification(config)
        parameters = sum(parameter.numel() for parameter in model.parameters())
    if image_size is not None:
        config = copy.deepcopy(config)
        config.image_size = image_size[0] if len(image_size) == 1 else list(image_size)
    return Checkpoint(parameters, config)


def facts_of(splits: Splits, minutes: float | None, checkpoint: Checkpoint | None) -> Facts:
    """What the rules look at; of the images so many are opened that it takes no time."""
    side, grey = looks_of(splits.train)
    on = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return Facts(
        images=len(splits.train),
        side=side,
        grey=grey,
        single_label=ONE_LABEL in task_named(splits.problem_type).supports,
        minutes=minutes,
        cores=available_cores(),
        accelerator=None if on is None else str(on),
        memory=torch.cuda.get_device_properties(0).total_memory if on is not None and on.type == "cuda" else 0,
        checkpoint=checkpoint,
    )


def as_recipe(choices: Sequence[Choice]) -> str:
    """The YAML that is kept, reasons as comments."""
    head = "# Chosen by --recipe auto. Flags of the command won over these.\n"
    return head + "".join(f"\n# {c.why}\n{yaml.safe_dump({c.flag: c.value})}" for c in choices)
