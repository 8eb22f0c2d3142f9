"""The commands as functions: each does the same as its command, and command and function have the same flags."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_parsers import parser_of
from PIL import Image
from real_digits import write_class_folder, write_train_and_test
from saved_models import save_ours, save_transformers_vit
from transformers import ViTConfig, ViTForImageClassification, ViTModel

import modeling_vit_custom
from modeling_vit_custom import (
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomForMaskedImageModeling,
    ViTCustomModel,
    api,
)
from modeling_vit_custom.cli import main
from modeling_vit_custom.commands.pretrain import parse_pretraining_args
from modeling_vit_custom.commands.training_flags import parse_args
from modeling_vit_custom.common.claims import sha256_of
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.common.outputs import OutputError
from modeling_vit_custom.conversion.engine import ConversionError
from modeling_vit_custom.publishing.upload import PublishError
from modeling_vit_custom.publishing.verify import VerifyError
from modeling_vit_custom.speed import export as speed_export
from modeling_vit_custom.training.arguments.completion import complete_arguments
from modeling_vit_custom.training.runs.groups import pretraining_groups, training_groups

SHORTCUT_FLAGS = {
    "data_dir", "dataset_name", "dataset_config_name", "dataset_revision", "split", "image_column_name",
    "label_column_name", "label_separator", "problem_type", "boxes", "per_class",
}  # fmt: skip
# Commands without dataclasses of flags: (flags that the function lacks, parameters that the command lacks).
THIN = {
    "audit_data": ({"named"}, {"progress"}),  # the second name of train_dir; a command draws bars
    "evaluate": (set(), set()),
    "predict": (set(), {"processes"}),  # a command joins the processes it was launched with
    "convert": ({"list"}, set()),  # prints
    "index": (set(), set()),
    "search": (set(), set()),
    "map_images": (set(), set()),
    "explain_files": (SHORTCUT_FLAGS, set()),
    "find_shortcuts": ({"inputs", "target", "contrast", "method", "choose", "format", "check", "confirm"}, set()),
    "export": (set(), set()),
    "publish": (set(), set()),
    "verify": (set(), set()),
}
COMMAND_OF = {
    "map_images": "map",  # Python has a `map`
    "explain_files": "explain",  # `explain` takes images
    "find_shortcuts": "explain",
}
TINY = {
    "variant": "nano/4", "image_size": 8, "augmentation": "light", "max_steps": 1, "per_device_train_batch_size": 8,
    "config_overrides": "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=24",
    "report_to": "none", "use_cpu": True, "disable_tqdm": True,
}  # fmt: skip


def words_of(flags):
    """Return a command line that says the same."""
    words = []
    for name, value in flags.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return words


def settings(groups):
    """Return the fields of dataclasses of flags, one dataclass after the other."""
    return [{each.name: getattr(group, each.name) for each in fields(group)} for group in groups]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 16, "1": 16})


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Return (the folder, the result of `train`)."""
    folder = tmp_path_factory.mktemp("trained") / "o"
    return folder, api.train(train_dir=digits, output_dir=folder, **TINY)


# ---------- training


def test_train_is_the_command(digits, trained, tmp_path):
    folder, metrics = trained
    assert metrics == json.loads((folder / "metrics.json").read_text()) and metrics["train"]["steps"] == 1
    assert main(["train", *words_of({"train_dir": digits, "output_dir": tmp_path / "o", **TINY})]) == 0
    record = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert record["validation"] == metrics["validation"] and record.keys() == metrics.keys()
    assert sha256_of(tmp_path / "o" / "model.safetensors") == sha256_of(folder / "model.safetensors")


def test_pretrain_is_the_command(digits, tmp_path):
    flags = {**TINY, "image_size": [8, 12], "mask_ratio": 0.5}
    metrics = api.pretrain(train_dir=digits, output_dir=tmp_path / "o", **flags)
    assert metrics["validation"]["loss"] > 0 and (tmp_path / "o" / "reconstruction.png").is_file()
    words = words_of({"train_dir": digits, "output_dir": tmp_path / "o", **flags})
    kept = pretraining_groups({"train_dir": digits, "output_dir": tmp_path / "o", **flags})
    assert settings(kept) == settings(parse_pretraining_args(words)) and kept[1].image_size == [8, 12]


@pytest.mark.parametrize(
    "flags",
    [
        {"num_train_epochs": 3, "seed": 7, "learning_rate": 1e-5, "max_minutes": 0.5},
        {"load_best_model_at_end": False, "muon": True, "bf16": False},
        {"image_size": (24, 32), "lora_targets": ["q_proj", "v_proj"], "report_to": ["none"]},
        {"image_size": 24, "report_to": "none", "validation_dir": Path("more")},
        {"train_file": "d.csv", "per-device-train-batch-size": 4, "logging_strategy": "no", "optim": "sgd"},
        {"learning_rate": "2e-3", "seed": np.int64(3), "weight_decay": np.float32(0.1), "muon": "true"},
        {"resume_from_checkpoint": False, "label_column_name": "a,b,c", "train_val_split": 0.1},
    ],
)
def test_keywords_are_flags(tmp_path, flags):
    flags = {"output_dir": tmp_path / "o", "train_dir": Path("photos"), "variant": "nano/4", **flags}
    groups = training_groups(flags)
    assert settings(groups) == settings(parse_args(words_of(flags)))
    assert groups[1].train_dir in ("photos", "d.csv")


def test_what_no_command_line_can_say(tmp_path):
    given = {"output_dir": tmp_path / "o", "train_dir": "d", "variant": "nano/4"}
    restarts = {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}}
    _, _, args = training_groups({**given, **restarts, "save_total_limit": None, "report_to": []})
    assert args.save_total_limit is None and args.report_to == [] and args.lr_scheduler_kwargs == {"num_cycles": 2}


def test_recipes_and_flags_that_win_over_them(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("variant: nano/4\nimage_size: 24\nlearning_rate: 2e-3\nnum_train_epochs: 10\nmuon: true\n")
    given = {"train_dir": "d", "output_dir": tmp_path / "o", "num_train_epochs": 3}
    for recipe, said in ((own, str(own)), ("fashion_mnist", "fashion_mnist")):
        groups = training_groups(given, recipe)
        assert settings(groups) == settings(parse_args([said, *words_of(given)]))
        assert groups[2].num_train_epochs == 3
    assert training_groups(given, own)[0].image_size == [24] and training_groups(given, own)[2].learning_rate == 2e-3


def test_auto_looks_at_the_images(digits, tmp_path, capsys):
    given = {"train_dir": digits, "output_dir": tmp_path / "o", "num-train-epochs": 3, "report_to": "none"}
    groups = training_groups(given, "auto")
    assert "chosen by --recipe auto" in capsys.readouterr().out and groups[2].num_train_epochs == 3
    assert "num_train_epochs" not in yaml.safe_load(groups[0].chosen_recipe)
    assert settings(groups) == settings(parse_args(["auto", *words_of(given)]))


@pytest.mark.parametrize(
    "flags,message",
    [
        ({"num_train_epoch": 3}, "num_train_epoch is no flag: the nearest is num_train_epochs"),
        ({"no_load_best_model_at_end": True}, "is no flag: the nearest is load_best_model_at_end"),
        ({"method": "fulll"}, "--method fulll: give one of full, linear_probe"),
        ({"seed": 1.5}, "--seed 1.5: invalid literal"),
        ({"muon": 3}, "--muon 3: Truthy value expected"),
        ({"variant": ["a", "b"]}, "--variant .* is of type list"),
        ({"data_root": None}, "--data_root None is of type NoneType"),
        ({"learning_rate": {}}, "--learning_rate {} is of type dict"),
        ({"recipe": "no_such"}, "no recipe 'no_such': .* one of .*mnist5k"),
    ],
)
@pytest.mark.parametrize("function", ["train", "pretrain"])
def test_what_is_no_flag_or_no_value_of_one(tmp_path, function, flags, message):
    with pytest.raises(UsageError, match=message):
        getattr(api, function)(output_dir=tmp_path / "o", **({"train_dir": "d"} | flags))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"variant": "nano/4"},
        {"variant": "nano/4", "output_dir": "o"},
        {"output_dir": "o", "train_dir": "d", "variant": "nano/4", "learning_rate": -1.0},
        {"output_dir": "o", "train_dir": "d", "variant": "nano/4", "mixup": float("nan")},
        {"output_dir": "o", "train_dir": "d", "variant": "nano/4", "method": "lora"},
        {"output_dir": "o", "train_dir": "d", "variant": "nano/4", "hub_token": "hf_secret"},
        {"output_dir": "o", "train_dir": "d", "variant": "nano/4", "lr_scheduler_type": "none such"},
    ],
)
def test_refused_in_the_words_of_the_command(monkeypatch, tmp_path, flags):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as by_command:
        complete_arguments(*parse_args(words_of(flags)))
    with pytest.raises(UsageError, match=re.escape(str(by_command.value))):
        api.train(**flags)


# ---------- the others


def test_evaluate_is_the_command(trained, digits, tmp_path):
    folder, _ = trained
    measured = api.evaluate(folder, digits, tmp_path / "a.json", batch_size=7)
    flags = {"model": folder, "data_dir": digits, "output": tmp_path / "b.json", "batch_size": 7}
    assert main(["evaluate", *words_of(flags)]) == 0
    ours, theirs = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert ours.keys() == theirs.keys() and ours["metrics"] == theirs["metrics"] == measured.result.metrics
    assert measured.context["data"] == str(digits) and measured.written[0] == tmp_path / "a.json"
    with pytest.raises(OutputError, match="is a folder"):
        api.evaluate(folder, digits, tmp_path)
    with pytest.raises(UsageError, match="--on_error ignore: give one of raise, skip"):
        api.evaluate(folder, digits, tmp_path / "c.json", on_error="ignore")


def test_predict_is_the_command(trained, digits, tmp_path):
    folder, _ = trained
    summary = api.predict(folder, digits / "0", tmp_path / "a.jsonl", top_k=1)
    flags = {"model": folder, "output": tmp_path / "b.jsonl", "top_k": 1}
    assert main(["predict", str(digits / "0"), *words_of(flags)]) == 0
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()
    assert summary.images == 16 and summary.failed == 0 and summary.output == tmp_path / "a.jsonl"
    for wrong, message in (({"top_k": 0}, "--top_k is 0"), ({"dtype": "int3"}, "--dtype int3: give one of .*float32")):
        with pytest.raises(UsageError, match=message):
            api.predict(folder, [digits], tmp_path / "c.jsonl", **wrong)


def test_convert_is_the_command_both_ways(tmp_path):
    source = save_transformers_vit(tmp_path / "source")
    report = api.convert(source, tmp_path / "a", hidden_act="gelu_pytorch_tanh")
    assert main(["convert", str(source), str(tmp_path / "b"), "--hidden_act", "gelu_pytorch_tanh"]) == 0
    record = [json.loads((tmp_path / name / "conversion.json").read_text()) for name in "ab"]
    assert record[0] == record[1] == report and report["source"] == "source"
    assert api.convert(tmp_path / "a", tmp_path / "back", to="hf")["check"]["passed"]
    with pytest.raises(ConversionError, match="leave out image_size"):
        api.convert(tmp_path / "a", tmp_path / "c", to="hf", image_size=32)
    with pytest.raises(UsageError, match="--to keras: give one of None, hf, timm"):
        api.convert(tmp_path / "a", tmp_path / "c", to="keras")


def test_export_takes_the_model_s_place(trained, digits, tmp_path, monkeypatch):
    time_in_turn = speed_export.time_in_turn
    monkeypatch.setattr(speed_export, "time_in_turn", lambda calls, seconds: time_in_turn(calls, 0.1))
    folder, _ = trained
    record = api.export(folder, tmp_path / "e", format="torch_export", dynamic=["batch"], data_dir=digits, max_lost=0)
    assert record == json.loads((tmp_path / "e" / "export.json").read_text()) and record["dynamic"] == ["batch"]
    measured = api.evaluate(tmp_path / "e", digits, tmp_path / "m.json", trust_remote_code=True)
    assert measured.result.metrics["accuracy"] == record["accuracy"]["exported"] == record["accuracy"]["original"]
    with pytest.raises(UsageError, match="--format tflite: give one of onnx"):
        api.export(folder, tmp_path / "f", format="tflite")
    with pytest.raises(ValueError, match="--dynamic depth"):
        api.export(folder, tmp_path / "f", dynamic="batch,depth")


def test_publish_dry_and_verify(trained, tmp_path, monkeypatch, capsys):
    """The fresh processes are left out, because they have their own tests."""
    monkeypatch.setattr("modeling_vit_custom.publishing.publish.write_golden", lambda *args, **kwargs: None)
    monkeypatch.setattr("modeling_vit_custom.publishing.checks.fresh_checks", lambda _: [])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder, _ = trained
    staged = api.publish(folder, "ada/digits", license="mit", dry_run=True)
    assert isinstance(staged, Path) and "license: mit" in (staged / "model" / "README.md").read_text()
    assert main(["publish", str(folder), "ada/digits", "--license", "mit", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "staged, not uploaded: " in printed and "model/model.safetensors" in printed
    assert not api.verify(staged / "model") and "there is no golden.json" in capsys.readouterr().out
    with pytest.raises(PublishError, match="--license is missing"):
        api.publish(folder, "ada/digits", dry_run=True)
    with pytest.raises(VerifyError, match="is no folder"):
        api.verify(tmp_path / "nowhere")


# ---------- command and function agree


@pytest.mark.parametrize("name", THIN)
def test_a_command_calls_the_function_by_its_flags(name):
    """Guards `vars` of the parsed flags as arguments: each flag is a parameter and has the same default."""
    called, function = COMMAND_OF.get(name, name), getattr(api, name)
    assert getattr(import_module(f"modeling_vit_custom.commands.{called}"), name) is function
    flags = {action.dest: action for action in parser_of([called])._actions if action.dest != "help"}
    parameters = inspect.signature(function).parameters
    not_ours, not_theirs = THIN[name]
    assert flags.keys() - not_ours == parameters.keys() - not_theirs
    for each in parameters.keys() & flags.keys():
        default = parameters[each].default
        if default is not inspect.Parameter.empty and not flags[each].required:
            assert default == (tuple(flags[each].default) if flags[each].default == [] else flags[each].default), each


@pytest.mark.parametrize("name", ["train", "pretrain"])
def test_training_names_flags_that_are_there(name):
    flags = {action.dest for action in parser_of([name])._actions}
    parameters = inspect.signature(getattr(api, name)).parameters
    assert {*parameters} - flags == {"recipe", "flags"}
    assert all(each.default is None for each in parameters.values() if each.kind is each.KEYWORD_ONLY)


def test_every_function_says_what_it_returns_and_raises():
    assert sorted(api.__all__) == dir(api) == sorted([*THIN, "explain", "load", "train", "pretrain"])
    for name in api.__all__:
        said = inspect.getdoc(getattr(api, name))
        assert "returns" in said and "Raises" in said, name
    with pytest.raises(AttributeError, match="has no attribute 'describe'"):
        api.describe  # noqa: B018


def test_importing_it_loads_nothing_before_a_function_is_used():
    """The import loads only the package, which registers its models with transformers, and this module; not torch."""
    code = (
        "import sys, types; package = types.ModuleType('modeling_vit_custom'); package.__path__ = [sys.argv[1]];"
        "sys.modules['modeling_vit_custom'] = package; import modeling_vit_custom.api;"
        "print(*sorted(name for name in sys.modules if name.startswith(('modeling_vit_custom', 'torch', 'numpy'))))"
    )
    package = Path(modeling_vit_custom.__file__).parent
    done = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["modeling_vit_custom", "modeling_vit_custom.api"]


def test_every_name_stays_what_it_is_after_every_module_was_imported():
    """Importing a module of the same name would replace the attribute: `evaluation.evaluate`, `conversion.convert`."""
    code = """
import pkgutil, sys, types
import modeling_vit_custom as package
before = {name: getattr(package, name) for name in package.__all__}
for found in pkgutil.walk_packages(package.__path__, "modeling_vit_custom."):
    __import__(found.name)
from modeling_vit_custom import (
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomForMaskedImageModeling,
    ViTCustomModel,
    api,
)
assert all(getattr(package, name) is value for name, value in before.items())
assert all(isinstance(getattr(api, name), types.FunctionType) for name in api.__all__)
exec(f"from modeling_vit_custom.api import {', '.join(api.__all__)}")
assert all(eval(name) is getattr(api, name) for name in api.__all__)
print(sum(name.startswith("modeling_vit_custom.") for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200


# ---------- load


@pytest.mark.parametrize(
    "kind", ["classifier", "encoder", "masked", "transformers' classifier", "transformers' encoder"]
)
def test_load_finds_the_task_of_every_model(kind, trained, tmp_path):
    source: Path = trained[0]
    config = ViTCustomConfig.from_pretrained(source)
    if kind == "encoder":
        source = save_ours(tmp_path / "m", num_labels=0)
        ViTCustomModel(ViTCustomConfig.from_pretrained(source)).save_pretrained(source)
    elif kind == "masked":
        source = save_ours(tmp_path / "m")
        ViTCustomForMaskedImageModeling(ViTCustomConfig.from_pretrained(source)).save_pretrained(source)
    elif kind.startswith("transformers'"):
        source = save_transformers_vit(tmp_path / "m")
        if kind.endswith("encoder"):
            ViTModel(ViTConfig.from_pretrained(source)).save_pretrained(source)
    model, processor = api.load(source, device="cpu")
    expected = {
        "classifier": ViTCustomForImageClassification, "encoder": ViTCustomModel,
        "masked": ViTCustomForMaskedImageModeling, "transformers' classifier": ViTForImageClassification,
        "transformers' encoder": ViTModel,
    }[kind]  # fmt: skip
    assert type(model) is expected and not model.training
    pixels = processor(
        Image.new("L" if kind == "masked" or kind == "encoder" else "RGB", (32, 32)), return_tensors="pt"
    )
    with torch.inference_mode():
        output = model(**pixels)
    name = {"classifier": "logits", "masked": "reconstruction"}.get(kind.split()[-1], "pooler_output")
    assert output[name].isfinite().all() and config.num_labels == 2


def test_load_takes_what_the_commands_take(trained, tmp_path):
    folder, _ = trained
    model, _ = api.load(str(folder), dtype="bfloat16", device="cpu")
    assert model.dtype is torch.bfloat16
    for wrong, message in (
        ({"dtype": "int3"}, "--dtype int3: give one of None, float32"),
        ({"speed": "2x"}, "speed='2x': this checkpoint has none yet"),
        ({"revision": "v1"}, "is a folder and has no revision='v1'"),
    ):
        with pytest.raises(ValueError, match=message):
            api.load(folder, **wrong)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        api.load(tmp_path / "nowhere")
    at = shutil.copytree(folder, tmp_path / "me@v1")
    assert type(api.load(at)[0]) is ViTCustomForImageClassification, "the name of a folder is not split at @"


def test_names_that_parameters_had_stay(trained, tmp_path):
    folder, _ = trained
    with pytest.raises(ConversionError, match="is not empty"):
        api.convert(source=folder, output=folder)
    with pytest.raises(ConversionError, match="is not empty"):
        api.convert(model=folder, output=folder)
    for named in ({"source": tmp_path / "nowhere"}, {"model": tmp_path / "nowhere"}):
        with pytest.raises(VerifyError, match="is no folder"):
            api.verify(**named)
    for named in ({"model_dir": folder}, {"model": folder}):
        with pytest.raises(PublishError, match="--license is missing"):
            api.publish(**named, repo_id="a/b", dry_run=True)
    with pytest.raises(UsageError, match="--model is given twice"):
        api.verify(folder, source=folder)
    with pytest.raises(UsageError, match="--repo_id is missing"):
        api.publish(folder)


def test_readme_s_lines_run(tmp_path, monkeypatch, capsys):
    """The minutes in README are replaced by seconds."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if ".api import" in text]
    assert block.count("max_minutes=5") == 1
    write_train_and_test(tmp_path / "photos", train=12, test=4)
    monkeypatch.chdir(tmp_path)
    exec(compile(block.replace("max_minutes=5", "max_minutes=0.05"), "README.md", "exec"), {})
    assert all(0 <= float(record) <= 1 for record in capsys.readouterr().out.splitlines()[-1].split())
