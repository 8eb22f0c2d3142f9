"""`--reject` and `--max_error`: images that nothing else uses, a saved model that answers "unknown", clear refusals."""

import csv
import json

import numpy as np
import pytest
import torch
from real_digits import write_class_folder, write_digit
from safetensors.torch import load_file
from tiny_training import tiny_checkpoint, tiny_train

from modeling_vit_custom.common.errors import DataError, UsageError
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.training.runs import unknown as calibration
from modeling_vit_custom.training.runs.unknown import draw_at_random


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 60, "1": 60})


@pytest.fixture(scope="module")
def rejecting(tmp_path_factory, digits):
    """Return (folder, metrics, names of the calibration images) of a run with --reject 0.1."""
    run, seen = tmp_path_factory.mktemp("runs") / "run", {}
    keep = calibration.keep_for_calibration

    def watched(splits, *groups):
        found = keep(splits, *groups)
        seen["kept"], seen["train"] = set(found[1].held_out.names), set(found[0].train.names)
        return found

    calibration_of_train = "modeling_vit_custom.training.runs.train.keep_for_calibration"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_of_train, watched)
        metrics = tiny_train(run, "--train_dir", digits, "--num_train_epochs", 2, "--reject", 0.1)
    return run, metrics, seen


def test_calibration_images_are_used_for_nothing_else(rejecting, digits):
    run, metrics, seen = rejecting
    assert len(seen["kept"]) == 20 and not seen["kept"] & seen["train"]
    assert metrics["train"]["n"] == len(seen["train"]) == 82 and metrics["validation"]["n"] == 18
    assert metrics["unknown"]["images"] == [20] and metrics["unknown"]["bound"] == 0.1
    assert json.loads((run / "training_args.json").read_text())["data"]["reject"] == 0.1


def test_the_saved_model_answers_unknown_and_the_records_name_its_weights(rejecting):
    run, metrics, _ = rejecting
    config = json.loads((run / "config.json").read_text())
    assert config["unknown"] == {name: metrics["unknown"][name] for name in config["unknown"]}
    model, processor = load_classifier(str(run))
    digit = processor(processor.decode(write_digit(run.parent / "0.png", 0)), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        assert 0 < float(model(digit).typicality) <= 1
    assert metrics["weights"]["sha256"] in (run / "training_args.json").read_text()
    row = metrics["unknown"]["validation"]
    assert row["n"] == 18 and 0 <= row["unknown"] < 0.7


def test_the_same_run_gives_the_same_numbers(rejecting, digits, tmp_path):
    tiny_train(tmp_path / "again", "--train_dir", digits, "--num_train_epochs", 2, "--reject", 0.1)
    one, other = (load_file(folder / "model.safetensors") for folder in (rejecting[0], tmp_path / "again"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_from_it_starts_without_its_calibration(rejecting, digits, tmp_path):
    start = ["--model_name_or_path", str(rejecting[0])]
    tiny_train(tmp_path / "run", "--train_dir", digits, "--num_train_epochs", 1, model=start)
    assert "unknown" not in json.loads((tmp_path / "run" / "config.json").read_text())
    assert not [name for name in load_file(tmp_path / "run" / "model.safetensors") if "unknown" in name]


def test_few_images_and_a_fitted_head_are_calibrated_in_folds(digits, tmp_path):
    start = tiny_checkpoint(tmp_path / "start", digits)
    flags = ("--train_dir", digits, "--method", "fitted_head", "--reject", 0.1)
    metrics = tiny_train(tmp_path / "head", *flags, model=start)
    found = metrics["unknown"]
    assert metrics["train"]["n"] == 120 == sum(found["images"]) and len(found["images"]) == 10
    assert 0.2 < found["bound"] < 0.3
    assert load_file(tmp_path / "head" / "model.safetensors")["unknown.whitening"].shape == (10, 16, 16)


def test_max_error_draws_a_line_or_says_that_there_is_none(digits, tmp_path, capsys):
    metrics = tiny_train(tmp_path / "run", "--train_dir", digits, "--num_train_epochs", 1, "--max_error", 0.3)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    printed = capsys.readouterr().out
    if metrics["unknown"].get("found") is False:
        assert "unknown" not in config and "UNKNOWN IS NEVER ANSWERED" in printed
    else:
        assert config["unknown"]["score"] == "probability" and "at most 30.0% of the other answers" in printed


def test_the_draw_leaves_one_image_of_each_class():
    strata = np.array([0] * 50 + [1] * 2 + [2])
    for seed in range(50):
        rest, chosen = draw_at_random(strata, 40, seed)
        assert sorted([*rest, *chosen]) == list(range(53)) and set(strata[rest]) == {0, 1, 2}


def test_flags_that_cannot_be_kept_are_refused_before_anything_is_trained(digits, tmp_path):
    table = tmp_path / "values.csv"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows(
            [("image", "label"), *((str(path), i / 7) for i, path in enumerate(sorted(digits.rglob("*.png"))))]
        )

    def refused(error, message, *flags, data=digits):
        with pytest.raises(error, match=message):
            tiny_train(tmp_path / "run", "--train_dir", data, *flags)
        assert not (tmp_path / "run" / "config.json").exists()

    refused(UsageError, "--reject and --max_error", "--reject", 0.1, "--max_error", 0.1)
    refused(DataError, r"--reject 0.01 needs 99 images .* are 20", "--reject", 0.01)
    refused(DataError, r"--max_error 0.05 needs 77 images", "--max_error", 0.05)
    refused(UsageError, "--reject is for single_label", "--reject", 0.1, "--follow_links", "true", data=table)
    refused(UsageError, "--reject 0.9: give a number from", "--reject", 0.9)
