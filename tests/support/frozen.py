"""What is frozen of a version: where it lies, how it is asked, and how today's answers are measured the same way.

`golden/freeze.py` writes it, once at a version; `test_frozen.py` and `test_frozen_interface.py` compare. All of it is
of real parts: scikit-learn's digits, trainings that were killed, folders that the commands left.
"""

import argparse
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from real_digits import digits, write_class_folder
from transformers import AutoImageProcessor

from modeling_vit_custom.cli import COMMANDS
from modeling_vit_custom.cli import main as vit_custom
from modeling_vit_custom.commands.pretrain import main as pretrain
from modeling_vit_custom.commands.train import main as train
from modeling_vit_custom.training.arguments.data_arguments import DataArguments
from modeling_vit_custom.training.arguments.model_arguments import ModelArguments
from modeling_vit_custom.training.arguments.training_arguments import ViTTrainingArguments
from modeling_vit_custom.training.runs.pretrain import PretrainingArguments

ROOT = Path(__file__).parents[2]
FROZEN = Path(__file__).parents[1] / "golden" / "frozen-0.1.0"
CODE = FROZEN / "code.zip"  # the .py files of every folder that was saved, once
EXPORTED = FROZEN / "exports.zip"  # EXPORTS, whose files are tenth the size so
BACKENDS = ("torchvision", "pil")

# Kinds of saved folders: (Auto class, the outputs that are compared).
LOGITS = ("AutoModelForImageClassification", ("logits",))
MODELS = {
    "plain": LOGITS,
    "rope": LOGITS,
    "half": LOGITS,
    "lora": LOGITS,
    "distilled": LOGITS,
    "speeds": LOGITS,
    "converted": LOGITS,
    "encoder": ("AutoModel", ("pooler_output", "last_hidden_state")),
    "pretrained": ("AutoModelForMaskedImageModeling", ("reconstruction",)),
}
# Exports, and how far their logits may be off: of the largest. int8 has instructions that saturate without VNNI.
EXPORTS = {
    "onnx": ("onnx", "float32", 1e-4),
    "onnx-int8": ("onnx", "int8", 5e-2),
    "torch_export": ("torch_export", "float32", 1e-4),
    "openvino": ("openvino", "float32", 1e-4),
}

# Two trainings that are killed at step 6 and saved at step 4. Nothing but the counted numbers of augmentation and the
# order is random: dropout's random numbers depend on the processor. Adam's epsilon is large: of a gradient that is zero
# but for rounding (the keys' biases) it would otherwise make a step.
MODEL = [
    "--variant", "nano/4", "--image_size", "8", "--config_overrides",
    "stem=patch,hidden_size=8,num_hidden_layers=1,num_attention_heads=2,intermediate_size=12,num_channels=1,"
    "initializer_range=0.2",
]  # fmt: skip
RUN = [
    "--train_dir", "digits", "--max_steps", "8", "--per_device_train_batch_size", "4", "--train_val_split", "0.25",
    "--eval_strategy", "steps", "--eval_steps", "4", "--save_strategy", "steps", "--save_steps", "4",
    "--load_best_model_at_end", "false", "--learning_rate", "3e-3", "--adam_epsilon", "1e-4",
    "--drop_path_rate", "0", "--augmentation", "light",
    "--use_cpu", "true", "--disable_tqdm", "true", "--report_to", "none", "--output_dir", "run",
]  # fmt: skip
# A prediction that is killed after two batches of six.
PREDICT = [
    "predict",
    "digits",
    "--model",
    "plain",
    "--output",
    "predictions.jsonl",
    "--batch_size",
    "4",
    "--top_k",
    "2",
]
RUNS: dict[str, Callable[[Sequence[str]], int]] = {"training": train, "pretraining": pretrain}


def write_digits(root: Path) -> Path:
    """ROOT/digits, the images of all that is frozen: 12 noughts and 12 ones."""
    return write_class_folder(root / "digits", {"0": 12, "1": 12})


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Works in a folder: frozen files name images and models relative to it."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def restored(name: str, folder: Path, code: bool = True) -> Path:
    """A copy of FROZEN/name in `folder`, with its code again beside each configuration."""
    shutil.copytree(FROZEN / name, folder)
    for attributes in folder.rglob("gitattributes"):  # which would otherwise rule this repository's own files
        attributes.rename(attributes.with_name(".gitattributes"))
    if code:
        for config in folder.rglob("config.json"):
            unpacked(CODE, config.parent)
    return folder


def unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return folder


# ---------- what a folder answers


def outputs(model: Any, names: Sequence[str], pixel_values: torch.Tensor) -> dict[str, Any]:
    """The outputs of these names; of a masked model with every second patch hidden."""
    grid = model.config.grid_hw
    hidden = torch.arange(grid[0] * grid[1]).expand(len(pixel_values), -1) % 2 == 1
    asked = {"bool_masked_pos": hidden} if "reconstruction" in names else {}
    with torch.no_grad():
        output = model.eval()(pixel_values, **asked)
    return {name: output[name].float().tolist() for name in names}


def answers(folder: Path, auto: str, names: Sequence[str], **options: Any) -> dict[str, Any]:
    """What a folder answers to the first four digits, by each backend of its processor."""
    model = getattr(transformers, auto).from_pretrained(folder, dtype=torch.float32, **options)
    return {backend: outputs(model, names, pixels(folder, backend)) for backend in BACKENDS}


def pixels(folder: Path, backend: str, **options: Any) -> torch.Tensor:
    processor = AutoImageProcessor.from_pretrained(folder, backend=backend, **options)
    return processor(list(digits()[0][:4]), return_tensors="pt")["pixel_values"]


def differences(frozen: Any, now: Any, relative: float = 1e-4) -> Iterator[str]:
    """Where two nested answers differ: numbers by more than `relative` of the largest beside them, others at all."""
    if isinstance(frozen, dict):
        for name, value in frozen.items():
            yield from (f"{name}.{where}" for where in differences(value, now[name], relative))
        return
    a, b = torch.tensor(frozen), torch.tensor(now)
    if a.shape != b.shape:
        yield f" {tuple(a.shape)}, now {tuple(b.shape)}"
    elif not (apart := float((a - b).abs().max())) <= relative * max(1.0, float(a.abs().max())):
        yield f" off by {apart:.1e}"


# ---------- what a JSON holds


def shape(value: Any) -> Any:
    """The names in a JSON, nested; of a list those of all its entries together, of a plain value None."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list):
        merged: dict[str, Any] = {}
        for item in value:
            merged |= shape(item) if isinstance(item, dict) else {}
        return [merged] if merged else None
    return None


def vanished(frozen: Any, now: Any, where: str = "") -> Iterator[str]:
    """The names of a shape that are no more in another."""
    if isinstance(frozen, list):
        yield from vanished(frozen[0], now[0] if isinstance(now, list) else None, f"{where}[]")
    elif isinstance(frozen, dict):
        for name, value in frozen.items():
            if not isinstance(now, dict) or name not in now:
                yield f"{where}.{name}"
            else:
                yield from vanished(value, now[name], f"{where}.{name}")


# ---------- flags


class _Shown(Exception):
    pass


def parser_of(command: Sequence[str]) -> argparse.ArgumentParser:
    """The parser that `vit-custom COMMAND --help` would show, however the command makes it."""

    def show(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise _Shown(parser)

    with mock.patch.object(argparse.ArgumentParser, "print_help", show):
        try:
            vit_custom([*command, "--help"])
        except _Shown as shown:
            return shown.args[0]
    raise AssertionError(f"{command} has no --help")


def commands() -> list[list[str]]:
    from modeling_vit_custom.commands.benchmark import BENCHMARKS

    return [*([name] for name in COMMANDS), *(["benchmark", what] for what in BENCHMARKS)]


OURS = {field.name for group in (PretrainingArguments, ModelArguments, DataArguments) for field in fields(group)}
OURS |= set(ViTTrainingArguments.__annotations__)


def documented() -> set[str]:
    """The flags that README, recipes, launchers and examples name."""
    texts = [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "scripts" / "launch").iterdir()]
    texts += [ROOT / "modeling_vit_custom" / "training" / name for name in ("args.py", "pretraining.py")]
    recipes = "\n".join(path.read_text() for path in (ROOT / "modeling_vit_custom" / "recipes").glob("*.yaml"))
    found = re.findall(r"--(\w+)", "\n".join(path.read_text() for path in texts))
    return {*found, *re.findall(r"^(\w+):", recipes, re.MULTILINE)}


def flag_rows(command: Sequence[str]) -> list[dict[str, Any]]:
    """Each flag with its names, default, choices, and an example: what is written, and what it becomes.

    Of transformers' own flags those that are documented, without their defaults: both are transformers'.
    """
    parser, rows = parser_of(command), []
    needed = [word for action in parser._actions if action.required for word in written(action)]
    for action in parser._actions:
        theirs = command[0] in ("train", "pretrain") and action.dest not in OURS
        if action.dest == "help" or action.help == argparse.SUPPRESS or (theirs and action.dest not in documented()):
            continue
        row: dict[str, Any] = {"dest": action.dest, "names": list(action.option_strings), "required": action.required}
        if not theirs:
            row |= {"default": plain(action.default), "choices": plain(action.choices and list(action.choices))}
        example = example_of(parser, action, needed)
        rows.append(
            row | {"nargs": plain(action.nargs), "example": example, "becomes": parsed(parser, action, example)}
        )
    return rows


def plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value, default=str))


def written(action: argparse.Action, value: str = "3") -> list[str]:
    value = str(list(action.choices)[-1]) if action.choices else value
    return [*action.option_strings[:1], *([] if action.nargs == 0 else [value])]


def example_of(parser: argparse.ArgumentParser, action: argparse.Action, needed: Sequence[str]) -> list[str]:
    for value in ("3", "false"):
        words = [*needed, *written(action, value)] if action.option_strings else list(needed) or written(action, value)
        try:
            parsed(parser, action, words)
        except SystemExit:
            continue
        return words
    raise AssertionError(f"no example of {action.dest}")


def parsed(parser: argparse.ArgumentParser, action: argparse.Action, words: Sequence[str]) -> Any:
    return plain(getattr(parser.parse_args(list(words)), action.dest))
