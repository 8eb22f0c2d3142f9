"""Hostile files: each row of the table spoils a sound checkpoint in one way.

`python tests/support/attacks.py` prints the table. Every row is tried on transformers' own ViT and on ours, spoilt in
the same way.
"""

import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file, save_file
from saved_models import save_ours, save_transformers_vit
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification, ViTCustomImageProcessor
from modeling_vit_custom.inference.loading import load_classifier

DEEP = "[" * 100_000 + "]" * 100_000
WEIGHTS = "model.safetensors"
TODAY = {"config.json": ViTConfig, "preprocessor_config.json": ViTImageProcessor, WEIGHTS: ViTForImageClassification}
OURS = {
    "config.json": ViTCustomConfig,
    "preprocessor_config.json": ViTCustomImageProcessor,
    WEIGHTS: ViTCustomForImageClassification,
}


class AnyClassifier:
    """Load any model folder in the way the commands load it."""

    @staticmethod
    def from_pretrained(folder: Path) -> Any:
        return load_classifier(str(folder), device="cpu")


ANY = {"config.json": AnyClassifier}


@dataclass(frozen=True)
class Attack:
    """One way to spoil a checkpoint.

    file: the hostile file, which also decides what is loaded. spoil: changes the folder in place. says: pattern of our
    error."""

    name: str
    file: str
    spoil: Callable[[Path], None]
    says: str


# ---------- headers


def split_file(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(path: Path, header: str | dict, body: bytes, length: int | None = None):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)


def header(change: Callable[[dict], Any]) -> Callable[[Path], None]:
    """Change the header's entries; if `change` returns a value, it replaces the header."""

    def spoil(folder: Path):
        entries, body = split_file(folder / WEIGHTS)
        with_header(folder / WEIGHTS, change(entries) or entries, body)

    return spoil


def first(field: str, value: Any) -> Callable[[Path], None]:
    """Set one field of the first tensor to another value."""

    def change(entries: dict):
        entries[next(name for name in entries if name != "__metadata__")][field] = value

    return header(change)


def claimed_length(length: int) -> Callable[[Path], None]:
    def spoil(folder: Path):
        with_header(folder / WEIGHTS, *split_file(folder / WEIGHTS), length=length)

    return spoil


def twice(entries: dict) -> str:
    name = list(entries)[-1]
    return json.dumps(entries)[:-1] + f", {json.dumps(name)}: {json.dumps(entries[name])}}}"


def many_tensors(entries: dict) -> dict:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return {**entries, **{f"t{i}": empty for i in range(20_000)}}


def appended(data: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path):
        with open(folder / WEIGHTS, "ab") as file:
            file.write(data)

    return spoil


def cut_off(folder: Path):
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 400)


# ---------- weights


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def spoil(folder: Path):
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def one_nan(tensors):
    next(value for name, value in tensors.items() if value.ndim == 2 and ".layer" in name)[0, 0] = torch.nan
    return tensors


def pickled(folder: Path):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def sharded(place: str) -> Callable[[Path], None]:
    """Move the weights to `place`, relative to the folder, and write an index that names them as the only shard."""

    def spoil(folder: Path):
        target = (folder / place).resolve()
        target.parent.mkdir(exist_ok=True)
        shutil.move(folder / WEIGHTS, target)
        names = [name for name in split_file(target)[0] if name != "__metadata__"]
        index = {"metadata": {"total_size": 0}, "weight_map": dict.fromkeys(names, place)}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))

    return spoil


def linked(folder: Path):
    outside = folder.with_name(f"{folder.name}-elsewhere.safetensors")
    shutil.move(folder / WEIGHTS, outside)
    (folder / WEIGHTS).symlink_to(outside)


# ---------- JSON


def fields(file: str, **values: Any) -> Callable[[Path], None]:
    def spoil(folder: Path):
        stored = json.loads((folder / file).read_text())
        if "id2label" in values:
            stored.pop("label2id", None)
        (folder / file).write_text(json.dumps({**stored, **values}))

    return spoil


def nested(folder: Path):
    text = (folder / "config.json").read_text().rstrip().removesuffix("}")
    (folder / "config.json").write_text(text + f', "problem_type": {DEEP}}}')


def config(name: str, says: str, **values: Any) -> Attack:
    return Attack(f"config: {name}", "config.json", fields("config.json", **values), says)


def processor(name: str, says: str, **values: Any) -> Attack:
    file = "preprocessor_config.json"
    return Attack(f"processor: {name}", file, fields(file, **values), says)


def file_of(name: str, says: str, spoil: Callable[[Path], None]) -> Attack:
    return Attack(name, WEIGHTS, spoil, says)


ATTACKS = [
    file_of("header: claims 2^60 bytes", "claims 1,152,921,504,606,846,976 bytes", claimed_length(2**60)),
    file_of("header: length 2^64-1 (-1 if signed)", "claims 18,446,744,073,709,551,615", claimed_length(2**64 - 1)),
    file_of("header: 3 MB of spaces", "more than 2,000,000", header(lambda e: json.dumps(e) + " " * 3_000_000)),
    file_of("header: no JSON", "no strict JSON", header(lambda e: "{'a': 1}")),
    file_of("header: JSON 100,000 deep", "no strict JSON", header(lambda e: '{"a":' + DEEP + "}")),
    file_of("header: a key twice", "occurs 2 times", header(twice)),
    file_of("header: 20,000 tensors", "20,0.. tensors, more than 10,000", header(many_tensors)),
    file_of("header: NaN as a shape", "NaN is no JSON number", first("shape", [float("nan")])),
    file_of("header: negative shape", "impossible shape", first("shape", [-1, -4])),
    file_of("header: shape of 2^80 numbers", "does not fill its bytes", first("shape", [2**40, 2**40])),
    file_of("header: shape that overflows 64 bits", "impossible shape", first("shape", [2**63, 2, 0])),
    file_of("header: unknown dtype", "unknown dtype 'O'", first("dtype", "O")),
    file_of("header: offsets beyond the file", "does not fill its bytes", first("data_offsets", [0, 2**40])),
    file_of("header: negative offsets", "impossible data_offsets", first("data_offsets", [-8, -4])),
    file_of("header: field nobody knows", "nothing else", first("code", "import os")),
    file_of("header: metadata of numbers", "strings to strings", header(lambda e: {**e, "__metadata__": {"a": 1}})),
    file_of(
        "header: control characters in a name", "printable characters",
        header(lambda e: {**e, "\x1b[2J": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
    ),
    file_of("file: bytes after the last tensor", "its tensors end at", appended(b"PK\x03\x04" * 100)),
    file_of("file: cut off", "its tensors end at", cut_off),
    file_of("file: a link out of the folder", "link that leads out", linked),
    file_of("index: shard in ../", "no safetensors file of its folder", sharded("../stolen.safetensors")),
    file_of("index: shard in a sub-folder", "no safetensors file of its folder", sharded("sub/shard.safetensors")),
    file_of("weights: pickled only", "Only safetensors are read", pickled),
    file_of(
        "weights: one encoder tensor missing", r"Missing: vit.layernorm.weight",
        weights(lambda w: {k: v for k, v in w.items() if k != "vit.layernorm.weight"}),
    ),
    file_of(
        "weights: all keys renamed", "Missing: .*classifier.bias",
        weights(lambda w: {f"model.{k}": v for k, v in w.items()}),
    ),
    file_of(
        "weights: classifier missing from a classifier", "Missing: classifier.bias; classifier.weight",
        weights(lambda w: {k: v for k, v in w.items() if "classifier" not in k}),
    ),
    file_of("weights: a block nobody asked for", "Not of this model: vit.layers.9", weights(
        lambda w: {**w, "vit.layers.9.mlp.fc1.weight": torch.zeros(4, 4)})),
    file_of("weights: NaN", "NaN or infinite weights: vit.layers.0", weights(one_nan)),
    file_of("config of a far larger model than the file", "Of another shape", fields(
        "config.json", hidden_size=4096, intermediate_size=16_384)),
    config("hidden_size 33 with 2 heads", "must divide", hidden_size=33, num_attention_heads=2),
    config("hidden_size 1e7", "from 1 to 16384", hidden_size=10**7),
    config("hidden_size a string", "hidden_size", hidden_size="64"),
    config("hidden_size a list", "hidden_size", hidden_size=[64]),
    config("num_hidden_layers -1", "num_hidden_layers=-1", num_hidden_layers=-1),
    config("num_hidden_layers 0", "num_hidden_layers=0", num_hidden_layers=0),
    config("num_attention_heads 0", "num_attention_heads=0", num_attention_heads=0),
    config("intermediate_size 1e9", "intermediate_size=1000000000", intermediate_size=10**9),
    config(
        "every size at its own bound", "billion parameters",
        hidden_size=16_384, num_hidden_layers=512, num_attention_heads=64, intermediate_size=131_072,
    ),
    config("patch_size 0", "patch_size=0", patch_size=0),
    config("image_size 1e9", "image_size=1000000000", image_size=10**9),
    config("num_channels 1e6", "num_channels=1000000", num_channels=10**6),
    config("layer_norm_eps NaN", "layer_norm_eps=nan", layer_norm_eps=float("nan")),
    config("initializer_range Infinity", "initializer_range=inf", initializer_range=float("inf")),
    config("hidden_act is code", "hidden_act=", hidden_act="__import__('os').system('id')"),
    config("dtype names a function", "dtype='load'", dtype="load"),
    config("num_labels -1", "num_labels=-1", num_labels=-1, id2label=None),
    config("a label <script>", "control characters, '<' or '>'", id2label={"0": "<script>alert(1)</script>", "1": "b"}),
    config("a label that steers the terminal", "control characters", id2label={"0": "\x1b[2Jok", "1": "b"}),
    config("a label that is a nested object", "non-empty string|id2label", id2label={"0": {"a": {"b": 1}}, "1": "b"}),
    config("ids 0 and 5", "without gaps", id2label={"0": "a", "5": "b"}),
    config("label ids of 5,000 digits", "id2label='9999.*whole number", id2label={"0": "a", "9" * 5000: "b"}),
    config("250,001 labels", "from 0 .no head. to 250000", id2label={str(i): str(i) for i in range(250_001)}),
    Attack("config: JSON 100,000 deep", "config.json", nested, ""),
    processor("size 1e5", "from 1 to 8192", size={"height": 100_000, "width": 100_000}),
    processor("size negative", "from 1 to 8192", size={"height": -1, "width": 8}),
    processor("image_std 0", "positive numbers", image_std=[0.0], image_mean=[0.5]),
    processor("image_mean NaN", "finite numbers", image_mean=[float("nan")]),
    processor("rescale_factor NaN", "rescale_factor=nan", rescale_factor=float("nan")),
    processor("rescale_factor Infinity", "rescale_factor=inf", rescale_factor=float("inf")),
    processor("resample 99", "resample", resample=99),
    processor("num_channels 1e9", "num_channels=1000000000", num_channels=10**9),
]  # fmt: skip

# For transformers' own ViT, loaded as every command loads it; transformers alone would fill the memory for most of
# them.
FOREIGN = [
    config("10^9 layers", "num_hidden_layers=1000000000", num_hidden_layers=10**9),
    config("25 layers of one", "num_hidden_layers=25.*hold 24 tensors", num_hidden_layers=25),
    config("16 layers of one", "larger model than its weight files hold", num_hidden_layers=16),
    config("0 layers", "num_hidden_layers=0", num_hidden_layers=0),
    config("-1 layers", "num_hidden_layers=-1", num_hidden_layers=-1),
    config("width 10^9", "hidden_size=1000000000", hidden_size=10**9),
    config("width 16,000", "larger model", hidden_size=16_000, num_attention_heads=1_000),
    config("a hidden layer of 10^7", "larger model", intermediate_size=10**7),
    config("a negative hidden layer", "makes no model", intermediate_size=-5),
    config("0 heads", "num_attention_heads=0", num_attention_heads=0),
    config("3 heads", "mismatched_sizes", num_attention_heads=3),
    config("images of 10^9", "image_size=1000000000", image_size=10**9),
    config("images of 10^6", "larger model", image_size=10**6),
    config("images of [10^6, 10^6]", "larger model|makes no model|image_size", image_size=[10**6, 10**6]),
    config("patches of 10^5", "larger model|makes no model", patch_size=10**5),
    config("patches of -8", "patch_size=-8", patch_size=-8),
    config("10^9 labels", "num_labels=1000000000", num_labels=10**9, id2label=None),
    config("200,000 labels", "num_labels=200000", num_labels=200_000, id2label=None),
    config("-1 labels", "num_labels=-1", num_labels=-1, id2label=None),
    config("eps NaN", "layer_norm_eps=nan", layer_norm_eps=float("nan")),
    config("dtype names a function", "torch_dtype='load'", torch_dtype="load"),
    config("a part nested 500 deep", "nested too deeply|finite|makes", extra=json.loads("[" * 900 + "1" + "]" * 900)),
    config("another kind, its backbone on the Hub", "names another model", model_type="detr", backbone="a/b"),
    config("another kind", "'detr' is not one", model_type="detr"),
    config("Swin of 10^9 blocks", "depths=1000000000", model_type="swin", depths=[10**9]),
    config("Swin of 10,000 stages", "depths=10000", model_type="swin", depths=[1] * 10_000),
    config("timm's, from the Hub", "plain name", model_type="timm_wrapper", architecture="hf-hub:a/b"),
    config(
        "timm's, from a file", "without checkpoint_path",
        model_type="timm_wrapper", architecture="resnet18", model_args={"checkpoint_path": "/etc/passwd"},
    ),
]  # fmt: skip


def attempt(attack: Attack, folder: Path, classes: dict[str, Any]) -> tuple[Exception | None, float]:
    """Try an attack: spoil the folder, load it; return (the error, or None if it was accepted, seconds)."""
    attack.spoil(folder)
    start = time.perf_counter()
    try:
        classes[attack.file].from_pretrained(folder)
    except Exception as error:
        return error, time.perf_counter() - start
    return None, time.perf_counter() - start


def table_cell(error: Exception | None, seconds: float) -> str:
    """Return one cell of the table."""
    if error is None:
        return f"**accepted** ({seconds:.2f} s)"
    text = re.sub(r"\S*/", "", " ".join(str(error).split())).replace("|", "\\|")
    return f"{type(error).__name__}, {seconds:.2f} s: {text[:90].encode('unicode_escape').decode()}"


def main():
    """Print the table of all attacks on transformers' ViT and on ours.

    Sizes that would fill the memory are tried on the configuration alone, for both."""
    print("| attack | today: transformers' ViT | ours |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        today, ours = save_transformers_vit(Path(scratch) / "today"), save_ours(Path(scratch) / "ours")
        for number, attack in enumerate(ATTACKS):
            cells = []
            for sound, classes in ((today, TODAY), (ours, OURS)):
                folder = Path(shutil.copytree(sound, Path(scratch) / f"{sound.name}-{number}"))
                cells.append(table_cell(*attempt(attack, folder, classes)))
                shutil.rmtree(folder)
            print(f"| {attack.name} | {cells[0]} | {cells[1]} |", flush=True)
        for attack in FOREIGN:
            folder = Path(shutil.copytree(today, Path(scratch) / "foreign"))
            print(f"| a ViT of {attack.name} | not tried | {table_cell(*attempt(attack, folder, ANY))} |", flush=True)
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
