"""A training from flags to a folder that serves: each task, from scratch, resumed, and from a checkpoint."""

import csv
import json
import logging
import os
import platform
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from real_digits import digit_image, write_class_folder, write_digit
from safetensors.torch import load_file
from tiny_training import TINY_MODEL, command, tiny_train, tiny_trainer
from torch.utils.data import get_worker_info
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from modeling_vit_custom.commands.train import main
from modeling_vit_custom.common.errors import DataError, UsageError
from modeling_vit_custom.data.dataset import ImageDataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write 24 training, 6 validation and 8 test images of two digits."""
    root = tmp_path_factory.mktemp("digits")
    for split, (count, first) in {"train": (12, 0), "validation": (3, 20), "test": (4, 30)}.items():
        write_class_folder(root / split, {"0": count, "1": count}, first)
    return root


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Return (the folder of a finished run of 6 epochs, its metrics)."""
    output_dir = tmp_path_factory.mktemp("runs") / "trained"
    metrics = tiny_train(output_dir, "--train_dir", folder, "--num_train_epochs", 6, "--learning_rate", 1e-2)
    return output_dir, metrics


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def test_output_is_a_complete_flat_repository(trained):
    output_dir, _ = trained
    files = {path.name for path in output_dir.iterdir() if path.is_file()}
    assert {
        "config.json", "model.safetensors", "preprocessor_config.json", "metrics.json", "training.png",
        "confusion_matrix.png", "training_args.json", "modeling_vit_custom.py", "image_processing_vit_custom.py",
    } <= files  # fmt: skip
    checkpoints = [path for path in output_dir.iterdir() if path.is_dir()]
    assert checkpoints and all(path.name.startswith("checkpoint-") for path in checkpoints)
    for path in [output_dir, *checkpoints]:
        config = json.loads((path / "config.json").read_text())
        assert all((path / f"{entry.split('.')[0]}.py").is_file() for entry in config["auto_map"].values())
        model = AutoModelForImageClassification.from_pretrained(path, trust_remote_code=True)
        processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=True)
        assert model.config.id2label == {0: "0", 1: "1"} and model.config.problem_type == "single_label_classification"
        assert processor(write_digit(output_dir.parent / "0.png", 0), return_tensors="pt")["pixel_values"].shape == (
            1,
            3,
            8,
            8,
        )


def test_no_pickle_and_nothing_of_this_machine(trained, folder):
    output_dir, _ = trained
    for path in output_dir.rglob("*"):
        assert path.name != "training_args.bin"
        if path.parent == output_dir and path.is_file():
            assert path.suffix in (".json", ".py", ".png", ".safetensors") or path.name in ("report.html", "images.npz")
            if path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    assert all(array.dtype.names or array.dtype.kind in "iu" for array in arrays.values()), "no text"
            if path.suffix == ".json":
                assert str(folder) not in path.read_text() and str(output_dir.parent) not in path.read_text()


def test_metrics_are_those_of_the_saved_model(trained, folder):
    output_dir, metrics = trained
    assert metrics == json.loads((output_dir / "metrics.json").read_text())
    assert (metrics["train"]["n"], metrics["validation"]["n"], metrics["test"]["n"]) == (24, 6, 8)
    classify = pipeline("image-classification", model=str(output_dir), trust_remote_code=True)
    files = sorted((folder / "test").rglob("*.png"))
    right = [classify(str(path), top_k=1)[0]["label"] == path.parent.name for path in files]
    assert np.mean(right) == pytest.approx(metrics["test"]["accuracy"])
    assert metrics["test"]["accuracy"] > 0.8, "0 and 1 are easy to distinguish"
    assert metrics["per_label"]["split"] == "test"
    assert [row["support"] for row in metrics["per_label"]["rows"]] == [4, 4]
    assert sum(row["recall"] * row["support"] for row in metrics["per_label"]["rows"]) == np.sum(right)


def test_environment_is_recorded_without_names_of_the_machine(trained):
    run = json.loads((trained[0] / "training_args.json").read_text())
    assert run["training"]["metric_for_best_model"] == "accuracy"
    environment = run["environment"]
    assert environment["torch"] == torch.__version__ and environment["cpu_cores"] >= 1 and environment["device"]
    assert platform.node() not in json.dumps(run)


def test_best_model_by_validation_is_the_one_saved(trained):
    output_dir, metrics = trained
    best = output_dir / f"checkpoint-{metrics['best']['step']}"
    assert metrics["best"]["metric"] == "accuracy"
    saved = weights(output_dir)
    assert best.is_dir() and all(torch.equal(value, saved[name]) for name, value in weights(best).items())


def test_test_set_is_read_once_at_the_end(folder, tmp_path, monkeypatch):
    from modeling_vit_custom.training.runs import finishing

    measured = []
    whole = finishing.measure
    monkeypatch.setattr(
        finishing,
        "measure",
        lambda trainer, examples, *rest: (
            measured.append((trainer.state.epoch, Path(examples.names[0]).parts[-3])) or whole(trainer, examples, *rest)
        ),
    )
    tiny_train(tmp_path / "o", "--train_dir", folder, "--num_train_epochs", 2)
    assert measured == [(2, "validation"), (2, "test")]


def test_resuming_gives_the_same_model_bit_for_bit(folder, tmp_path):
    """With dropout, augmentation and a schedule, as if the run had been killed during the save after epoch 3 of 4."""
    flags = ("--train_dir", folder, "--num_train_epochs", 4, "--save_total_limit", 10, "--logging_steps", 1)
    tiny_train(tmp_path / "whole", *flags)
    cut = tmp_path / "cut"
    cut.mkdir()
    shutil.copy(tmp_path / "whole" / "training_args.json", cut)
    shutil.copytree(tmp_path / "whole" / "checkpoint-6", cut / "checkpoint-6")
    shutil.copytree(tmp_path / "whole" / "checkpoint-9", cut / "checkpoint-9")
    (cut / "checkpoint-9" / "trainer_state.json").write_text("{")  # killed while saving: skipped
    run = json.loads((cut / "training_args.json").read_text())
    run["environment"] |= {"torch": "0.0", "device": "another"}  # recorded, not compared
    (cut / "training_args.json").write_text(json.dumps(run))
    assert tiny_train(cut, *flags)["train"]["resumed"]
    assert not (cut / "checkpoint-3").exists(), "it must resume from step 6, not from the start"
    history = [
        json.loads((path / "checkpoint-12" / "trainer_state.json").read_text()) for path in (tmp_path / "whole", cut)
    ]
    losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in history]
    assert len(losses[0]) == 12 and losses[0] == losses[1]
    for name, value in weights(tmp_path / "whole" / "checkpoint-12").items():
        assert torch.equal(value, weights(cut / "checkpoint-12")[name]), name


def test_a_resumed_run_says_so_first_and_not_how_it_began(trained, tmp_path, capfd, caplog):
    data = write_class_folder(tmp_path / "d", {"0": 16, "1": 16, "8": 16})
    flags, model = ("--train_dir", data, "--num_train_epochs", 2), from_checkpoint(trained[0], "--method", "full")
    misleading = ("NEW HEAD", "NEWLY INITIALISED", "LOAD REPORT", "Loading weights")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    steps = tiny_train(whole, *flags, model=model)["train"]["steps"]
    out, err = capfd.readouterr()
    assert all(words in out + err + caplog.text for words in misleading[:2]) and "continues" not in out
    shutil.copytree(whole / f"checkpoint-{steps // 2}", cut / f"checkpoint-{steps // 2}")
    run = json.loads((whole / "training_args.json").read_text())
    (cut / "training_args.json").write_text(json.dumps(run | {"weights": None}))
    caplog.clear()
    assert tiny_train(cut, *flags, model=model)["train"]["resumed"]
    out, err = capfd.readouterr()
    assert out.splitlines()[0] == f"continues at step {steps // 2} of {steps} from checkpoint-{steps // 2}"
    assert not [words for words in misleading if words in out + err + caplog.text]
    tiny_train(cut, *flags, model=model)
    out, err = capfd.readouterr()
    assert "has ended: nothing is trained" in out.splitlines()[0]
    assert not [words for words in misleading if words in out + err + caplog.text]


def test_the_step_of_a_resumed_run_is_printed_before_any_warning(trained, folder, tmp_path, monkeypatch, capsys):
    """stdout and stderr are one, as on a terminal."""
    flags, run = ("--train_dir", folder, "--num_train_epochs", 6, "--learning_rate", 1e-2), tmp_path / "o"
    shutil.copytree(trained[0], run)
    (run / "metrics.json").unlink()
    kept, newest = sorted(int(path.name.removeprefix("checkpoint-")) for path in run.glob("checkpoint-*"))
    (run / f"checkpoint-{newest}" / "optimizer.pt").write_bytes(b"")
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    warnings = logging.StreamHandler(sys.stdout)
    logging.root.addHandler(warnings)
    try:
        assert tiny_train(run, *flags)["train"]["resumed"]
    finally:
        logging.root.removeHandler(warnings)
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first == f"continues at step {kept} of {newest} from checkpoint-{kept}"
    assert f"checkpoint-{newest} cannot be continued from" in second and "is passed over" in second


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"model": "x", "data": {}, "training": {}}'])
def test_a_run_with_a_damaged_record_is_not_continued(trained, folder, tmp_path, damage):
    shutil.copytree(trained[0], tmp_path / "o")
    (tmp_path / "o" / "training_args.json").write_text(damage)
    with pytest.raises(UsageError, match=r"training_args\.json is damaged.*--resume_from_checkpoint false"):
        tiny_train(tmp_path / "o", "--train_dir", folder, "--num_train_epochs", 6, "--learning_rate", 1e-2)


def test_a_killed_loading_process_is_a_sentence(folder, tmp_path, monkeypatch, capsys):
    whole = ImageDataset.__getitems__

    def killed(self, indices):
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, indices)

    monkeypatch.setattr(ImageDataset, "__getitems__", killed)
    flags = command(tmp_path / "o", "--train_dir", folder, "--dataloader_num_workers", 1, "--image_cache", "off")
    assert main(flags) == 3
    said = capsys.readouterr().err
    assert "train: a loading process is gone" in said and "--dataloader_num_workers" in said


def test_another_run_in_the_same_folder_is_refused_or_starts_from_scratch(trained, folder, tmp_path):
    output_dir = tmp_path / "o"
    shutil.copytree(trained[0], output_dir)
    with pytest.raises(UsageError, match=r"other settings \(.*image_size.*seed"):
        tiny_train(output_dir, "--train_dir", folder, "--image_size", 12, "--seed", 1)
    metrics = tiny_train(
        output_dir, "--train_dir", folder, "--num_train_epochs", 1, "--seed", 1, "--resume_from_checkpoint", "false"
    )
    assert [path.name for path in output_dir.glob("checkpoint-*")] == ["checkpoint-3"] and metrics["best"]["step"] == 3


def table(root: Path, labels: list[str], name: str, first: int = 0) -> Path:
    rows = [[str(write_digit(root / f"{name}{i}.png", i % 2, first + i)), label] for i, label in enumerate(labels)]
    with open(root / f"{name}.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "label"], *rows])
    return root / f"{name}.csv"


@pytest.mark.parametrize(
    ("problem_type", "labels", "metric"),
    [
        ("multi_label_classification", ["round|even", "odd", "even", "odd|thin"] * 6, "mean_average_precision"),
        ("regression", ["0.25", "1.5"] * 12, "mae"),
    ],
)
def test_other_tasks(tmp_path, problem_type, labels, metric):
    flags = ("--train_dir", table(tmp_path, labels, "train"), "--num_train_epochs", 2)
    metrics = tiny_train(tmp_path / "o", *flags, "--test_dir", table(tmp_path, labels[:8], "test", first=24))
    assert metrics["problem_type"] == problem_type and metrics["best"]["metric"] == metric
    assert np.isfinite(metrics["test"][metric])
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "o", trust_remote_code=True)
    assert model.config.problem_type == problem_type
    assert model.config.id2label == (
        {0: "label"} if problem_type == "regression" else dict(enumerate(["even", "odd", "round", "thin"]))
    )
    assert not (tmp_path / "o" / "confusion_matrix.png").exists()


def test_dataset_of_encoded_images(tmp_path):
    features = Features({"img": Image(), "label": ClassLabel(names=["nought", "one"])})
    rows = {"img": [digit_image(i % 2, i) for i in range(24)], "label": [i % 2 for i in range(24)]}
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    flags = ("--dataset_name", tmp_path / "saved", "--image_column_name", "img", "--num_train_epochs", 1)
    workers = ("--dataloader_num_workers", 1, "--dataloader_multiprocessing_context", "spawn")  # as on macOS
    metrics = tiny_train(tmp_path / "o", *flags, *workers)
    assert (metrics["train"]["n"], metrics["validation"]["n"]) == (20, 4) and "test" not in metrics
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "o", trust_remote_code=True)
    assert model.config.id2label == {0: "nought", 1: "one"}


def from_checkpoint(path: Path, *flags: str) -> list[str]:
    return ["--model_name_or_path", str(path), *flags]


def test_linear_probe_trains_the_head_alone(trained, folder, tmp_path):
    model = from_checkpoint(trained[0], "--method", "linear_probe", "--config_overrides", "hidden_dropout_prob=0.5")
    flags = ("--train_dir", folder, "--num_train_epochs", 2, "--drop_path_rate", 0.5)
    tiny_train(tmp_path / "o", *flags, model=model)
    before, after = weights(trained[0]), weights(tmp_path / "o")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}

    trainer, _ = tiny_trainer(tmp_path / "p", *flags, model=model)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    losses = {trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).item() for _ in range(5)}
    assert len(losses) == 1, "dropout and drop path must be off in the frozen part"


def test_same_labels_in_another_order_keep_head_and_ids(trained, tmp_path, folder):
    """The checkpoint has the ids in the opposite order: its head is kept, and the data takes its ids."""
    reversed_ids = tmp_path / "reversed"
    shutil.copytree(trained[0], reversed_ids)
    config = json.loads((reversed_ids / "config.json").read_text())
    config |= {"id2label": {"0": "1", "1": "0"}, "label2id": {"1": 0, "0": 1}}
    (reversed_ids / "config.json").write_text(json.dumps(config))
    trainer, splits = tiny_trainer(tmp_path / "o", "--train_dir", folder, model=from_checkpoint(reversed_ids))
    assert trainer.model.config.id2label == splits.id2label == {0: "1", 1: "0"}
    stored = weights(reversed_ids)["classifier.weight"]
    assert torch.equal(trainer.model.classifier.weight, stored)
    for name, label in zip(splits.test.names, splits.test.targets.values, strict=True):
        assert splits.id2label[int(label)] == Path(name).parent.name


@pytest.mark.parametrize("classes", [{"0": 8, "8": 8}, {"0": 8, "1": 8, "8": 8}])
def test_other_labels_get_a_new_head_said_loudly(trained, tmp_path, classes):
    """As many labels with other names would fit the stored head, and give wrong answers."""
    data = write_class_folder(tmp_path / "d", classes)
    model = from_checkpoint(trained[0], "--method", "full")
    trainer, splits = tiny_trainer(tmp_path / "o", "--train_dir", data, model=model)
    assert any("NEW HEAD" in note for note in splits.notes)
    head = trainer.model.classifier
    assert head.weight.shape[0] == len(classes) and trainer.model.config.id2label == splits.id2label
    stored = weights(trained[0])
    assert not torch.isclose(head.weight[:2], stored["classifier.weight"]).any()
    assert torch.equal(trainer.model.vit.layernorm.weight, stored["vit.layernorm.weight"])


def test_checkpoint_at_another_size(trained, folder, tmp_path):
    model = from_checkpoint(trained[0], "--image_size", "12", "16")
    tiny_train(tmp_path / "o", "--train_dir", folder, "--num_train_epochs", 1, model=model)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "o", trust_remote_code=True)
    assert (processor.size["height"], processor.size["width"]) == (12, 16)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "o", trust_remote_code=True)
    assert tuple(loaded.config.image_size) == (12, 16)


def test_diverged_training_stops_and_says_so(folder, tmp_path):
    with pytest.raises(FloatingPointError, match=r"diverged.*--learning_rate"):
        tiny_train(tmp_path / "o", "--train_dir", folder, "--learning_rate", 1e38, "--warmup_steps", 0)


@pytest.mark.parametrize(
    ("prepare", "flags", "error", "message"),
    [
        (lambda out: out.write_text("x"), [], UsageError, "is a file"),
        (lambda out: (out / "sub").mkdir(parents=True), [], UsageError, "not empty"),
        (
            lambda out: None,
            ["--augmentation", "none", "--config_overrides", "hidden_size=17"],
            UsageError,
            "num_attention_heads=3: must divide hidden_size=17",
        ),
        (lambda out: None, ["--resume_from_checkpoint", "nowhere"], UsageError, "nowhere is not a folder"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(folder, tmp_path, prepare, flags, error, message):
    output_dir = tmp_path / "o"
    prepare(output_dir)
    with pytest.raises(error, match=message):
        tiny_train(output_dir, "--train_dir", folder, *flags)
    assert not output_dir.is_dir() or not list(output_dir.glob("*.json"))


def test_unreadable_images_are_named_before_training(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "d")
    (tmp_path / "d" / "test" / "0" / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        tiny_train(tmp_path / "o", "--train_dir", tmp_path / "d")


def test_command_prints_notes_metrics_and_errors(folder, tmp_path, capsys):
    flags = command(tmp_path / "o", "--train_dir", folder, "--num_train_epochs", 1)
    assert main(flags) == 0
    printed = capsys.readouterr().out
    assert "24 files on disk, 24 examples" in printed and "test  n 8  accuracy" in printed
    assert main(command(tmp_path / "p", "--train_dir", tmp_path / "nothing")) == 2
    assert "nothing is not a folder" in capsys.readouterr().err
    assert main([*command(tmp_path / "p", "--train_dir", folder), "--model_name_or_path", "x"]) == 2
    assert len(TINY_MODEL) == 6
