"""The frozen state of a version: where it lies, how it was asked, and how today's answers are measured in the same way.

`golden/freeze.py` writes it once for a version; `test_frozen.py` and `test_frozen_interface.py` compare. All its parts
are real: scikit-learn's digits, trainings that were killed, folders that the commands left.
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

import torch
import transformers
from command_parsers import parser_of
from real_digits import digits, write_class_folder
from transformers import AutoImageProcessor

from modeling_vit_custom.commands.pretrain import main as pretrain
from modeling_vit_custom.commands.train import main as train
from modeling_vit_custom.training.arguments.data_arguments import DataArguments
from modeling_vit_custom.training.arguments.model_arguments import ModelArguments
from modeling_vit_custom.training.arguments.pretraining_arguments import PretrainingArguments
from modeling_vit_custom.training.arguments.training_arguments import ViTTrainingArguments

ROOT = Path(__file__).parents[2]
FROZEN = Path(__file__).parents[1] / "golden" / "frozen-0.1.0"
CODE = FROZEN / "code.zip"  # the .py files of every saved folder, stored once
EXPORTED = FROZEN / "exports.zip"  # the folders in EXPORTS, at a tenth of their size
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
# Exports: folder, dtype, tolerance relative to the largest logit. Without VNNI, sums of int8 products saturate.
CPUINFO = Path("/proc/cpuinfo")
SATURATES = not CPUINFO.is_file() or "vnni" not in CPUINFO.read_text()
EXPORTS = {
    "onnx": ("onnx", "float32", 1e-4),
    "onnx-int8": ("onnx", "int8", 0.25 if SATURATES else 5e-2),
    "torch_export": ("torch_export", "float32", 1e-4),
    "openvino": ("openvino", "float32", 1e-4),
}

# Two trainings, saved at step 4 and killed at step 6. Only the order and the counter-based numbers of augmentation are
# random: random numbers of dropout depend on the processor. Adam's epsilon is large, because the keys' biases have a
# gradient of zero but for rounding, which Adam would otherwise scale up to a full step.
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
# A prediction that is killed after two of its six batches.
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
    """Write ROOT/digits, the images for everything that is frozen: 12 noughts and 12 ones."""
    return write_class_folder(root / "digits", {"0": 12, "1": 12})


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Change into a folder for a block: frozen files name images and models relative to it."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def restored(name: str, folder: Path, code: bool = True) -> Path:
    """Copy FROZEN/name to `folder`, and put its code beside each configuration."""
    shutil.copytree(FROZEN / name, folder)
    for attributes in folder.rglob("gitattributes"):  # under its own name it would apply to this repository
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
    """Return the outputs of these names; a masked model gets every second patch hidden."""
    grid = model.config.grid_hw
    hidden = torch.arange(grid[0] * grid[1]).expand(len(pixel_values), -1) % 2 == 1
    asked = {"bool_masked_pos": hidden} if "reconstruction" in names else {}
    with torch.no_grad():
        output = model.eval()(pixel_values, **asked)
    return {name: output[name].float().tolist() for name in names}


def answers(folder: Path, auto: str, names: Sequence[str], **options: Any) -> dict[str, Any]:
    """Return the outputs of a folder's model for the first four digits, with each backend of its processor."""
    model = getattr(transformers, auto).from_pretrained(folder, dtype=torch.float32, **options)
    return {backend: outputs(model, names, pixels(folder, backend)) for backend in BACKENDS}


def pixels(folder: Path, backend: str, **options: Any) -> torch.Tensor:
    processor = AutoImageProcessor.from_pretrained(folder, backend=backend, **options)
    return processor(list(digits()[0][:4]), return_tensors="pt")["pixel_values"]


def differences(frozen: Any, now: Any, relative: float = 1e-4) -> Iterator[str]:
    """Yield where two nested answers differ: by more than `relative` of the largest number in the same tensor."""
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
    """Return the nested names in a JSON: for a list, the names of all its entries merged; for a plain value, None."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list):
        merged: dict[str, Any] = {}
        for item in value:
            merged |= shape(item) if isinstance(item, dict) else {}
        return [merged] if merged else None
    return None


def vanished(frozen: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield the names of a frozen shape that another shape lacks."""
    if isinstance(frozen, list):
        yield from vanished(frozen[0], now[0] if isinstance(now, list) else None, f"{where}[]")
    elif isinstance(frozen, dict):
        for name, value in frozen.items():
            if not isinstance(now, dict) or name not in now:
                yield f"{where}.{name}"
            else:
                yield from vanished(value, now[name], f"{where}.{name}")


# ---------- flags


OURS = {field.name for group in (PretrainingArguments, ModelArguments, DataArguments) for field in fields(group)}
OURS |= set(ViTTrainingArguments.__annotations__)


def documented() -> set[str]:
    """Return the flags that README, SECURITY, docs, recipes, launchers and the examples of `--help` name."""
    texts = [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")]
    texts += (ROOT / "scripts" / "launch").iterdir()
    texts += [ROOT / "modeling_vit_custom" / "commands" / name for name in ("training_flags.py", "pretrain.py")]
    recipes = "\n".join(path.read_text() for path in (ROOT / "modeling_vit_custom" / "recipes").glob("*.yaml"))
    found = re.findall(r"--(\w+)", "\n".join(path.read_text() for path in texts))
    return {*found, *re.findall(r"^(\w+):", recipes, re.MULTILINE)}


def flag_rows(command: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each flag: names, default, choices, and an example with its parsed value.

    Of transformers' own flags, only those in `documented` are included, without default and choices.
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
    """Return the value as it comes back from JSON."""
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
