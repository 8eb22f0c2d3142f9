"""Evaluation of saved checkpoints on real images equals scikit-learn on the same outputs."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from real_digits import write_class_folder, write_digit
from saved_models import save_ours, save_transformers_vit
from sklearn import metrics as sk
from transformers import AutoImageProcessor, AutoModelForImageClassification

from modeling_vit_custom.commands.evaluate import main
from modeling_vit_custom.common.claims import sha256_of, weights_digest
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.data.targets import ClassIds
from modeling_vit_custom.evaluation.evaluate import data_fingerprint, evaluate_model
from modeling_vit_custom.evaluation.result import score_outputs
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.tasks.single_label import SINGLE_LABEL

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_ours(tmp_path_factory.mktemp("models") / "ours")


@pytest.fixture
def digits(tmp_path):
    return write_class_folder(tmp_path / "digits", {str(d): 8 for d in range(10)})


def run(*arguments):
    return main([str(argument) for argument in arguments])


def strict_json(path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse)


def outputs_of(model, paths):
    classifier = AutoModelForImageClassification.from_pretrained(model).eval()
    processor = AutoImageProcessor.from_pretrained(model)
    with torch.no_grad():
        return classifier(processor([str(path) for path in paths], return_tensors="pt")["pixel_values"]).logits.numpy()


def test_the_command_writes_what_scikit_learn_computes(model, digits, tmp_path, capsys):
    output = tmp_path / "new" / "metrics.json"
    assert run("--model", model, "--data_dir", digits, "--output", output, "--batch_size", 7) == 0
    report = strict_json(output)
    paths = sorted(digits.rglob("*.png"))
    labels = [int(path.parent.name) for path in paths]
    logits = outputs_of(model, paths)
    predicted = logits.argmax(axis=1)

    assert report["n"] == 80 and report["n_skipped"] == 0 and report["skipped"] == []
    assert report["model"] == str(model) and report["data"] == str(digits)
    assert report["weights"] == {"sha256": weights_digest(model)}
    assert report["files"] == {"confusion_matrix.png": sha256_of(tmp_path / "new" / "confusion_matrix.png")}
    assert report["metrics"]["accuracy"] == pytest.approx(np.mean(predicted == labels))
    assert report["metrics"]["top5_accuracy"] == pytest.approx(sk.top_k_accuracy_score(labels, logits, k=5))
    assert report["confusion_matrix"]["counts"] == sk.confusion_matrix(labels, predicted).tolist()
    expected = sk.classification_report(labels, predicted, output_dict=True, zero_division=np.nan)
    for row in report["per_class"]:
        for column, name in {"precision": "precision", "recall": "recall", "f1": "f1-score"}.items():
            value = expected[row["label"]][name]
            assert row[column] == (None if np.isnan(value) else pytest.approx(value))
        assert row["support"] == 8
    assert set(report["versions"]) == {"vit_custom", "transformers", "torch", "python"}
    with Image.open(tmp_path / "new" / "confusion_matrix.png") as image:
        assert image.format == "PNG"
    printed = capsys.readouterr().out
    assert "accuracy" in printed and str(output) in printed


def test_an_unreadable_image_stops_the_run_or_is_reported(model, digits, tmp_path, capsys):
    (digits / "3" / "torn.png").write_bytes((digits / "3" / "0.png").read_bytes()[:60])
    assert run("--model", model, "--data_dir", digits, "--output", tmp_path / "m.json") == 2
    message = capsys.readouterr().err
    assert "torn.png" in message and "--on_error skip" in message and not (tmp_path / "m.json").exists()

    assert run("--model", model, "--data_dir", digits, "--output", tmp_path / "m.json", "--on_error", "skip") == 0
    report = strict_json(tmp_path / "m.json")
    assert report["n"] == 80 and report["n_skipped"] == 1
    assert report["skipped"][0]["name"].endswith("torn.png")
    assert "torn.png" in capsys.readouterr().out


def test_a_set_of_unreadable_images_is_an_error(model, tmp_path):
    classifier, processor = load_classifier(str(model))
    examples = Examples([b"no image"], ["a.png"], ClassIds([0]))
    with pytest.raises(ValueError, match=r"none of the 1 images.*a\.png"):
        evaluate_model(classifier, processor, examples, on_error="skip", progress=False)


def test_skipped_images_do_not_shift_the_labels(model, digits):
    classifier, processor = load_classifier(str(model))
    paths = sorted(digits.rglob("*.png"))
    labels = np.array([int(path.parent.name) for path in paths])
    sources = [str(path) for path in paths]
    sources[0] = sources[33] = b"no image"
    examples = Examples(sources, list(map(str, paths)), ClassIds(labels))
    result = evaluate_model(classifier, processor, examples, batch_size=9, on_error="skip", progress=False)
    kept = [i for i in range(80) if i not in (0, 33)]
    assert result.names == [str(paths[i]) for i in kept]
    np.testing.assert_array_equal(result.values, labels[kept])
    np.testing.assert_allclose(result.outputs, outputs_of(model, [paths[i] for i in kept]), atol=1e-4)


def test_the_model_is_left_in_the_mode_it_was_in(model, digits):
    classifier, processor = load_classifier(str(model))
    paths = sorted(map(str, digits.rglob("*.png")))[:4]
    examples = Examples(paths, paths, ClassIds([0, 0, 0, 0]))
    classifier.train()
    evaluate_model(classifier, processor, examples, progress=False)
    assert classifier.training


def test_classes_that_do_not_occur_are_said(model, tmp_path):
    data = write_class_folder(tmp_path / "data", {"3": 5, "7": 5})
    assert run("--model", model, "--data_dir", data, "--output", tmp_path / "m.json") == 0
    report = strict_json(tmp_path / "m.json")
    assert report["per_class"][0]["recall"] is None and report["per_class"][0]["support"] == 0
    assert any("8 of 10 classes do not occur in these data" in note for note in report["notes"])


def test_a_class_the_checkpoint_does_not_know_is_refused(model, tmp_path, capsys):
    data = write_class_folder(tmp_path / "data", {"3": 2, "digit7": 2})
    assert run("--model", model, "--data_dir", data, "--output", tmp_path / "m.json") == 2
    assert "digit7" in capsys.readouterr().err


def write_table(path, rows):
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([["image", "label"], *rows])
    return path


def test_multi_label(tmp_path):
    labels = {0: "round", 1: "straight"}
    folder = save_ours(tmp_path / "m", problem_type="multi_label_classification", num_labels=2, id2label=labels)
    tags = {0: "round", 1: "straight", 2: "round|straight", 7: "straight", 8: "round"}
    paths = [write_digit(tmp_path / f"{d}.png", d) for d in tags]
    table = write_table(tmp_path / "t.csv", [[p.name, tag] for p, tag in zip(paths, tags.values(), strict=True)])
    assert run("--model", folder, "--data_dir", table, "--output", tmp_path / "m.json") == 0
    report = strict_json(tmp_path / "m.json")
    truth = np.array([[name in tag.split("|") for name in labels.values()] for tag in tags.values()])
    expected = sk.average_precision_score(truth, outputs_of(folder, paths), average=None)
    assert [row["average_precision"] for row in report["per_class"]] == pytest.approx(expected)
    assert report["metrics"]["mean_average_precision"] == pytest.approx(np.mean(expected))
    assert "confusion_matrix" not in report and not (tmp_path / "confusion_matrix.png").exists()


def test_regression(tmp_path):
    folder = save_ours(tmp_path / "m", problem_type="regression", num_labels=1, id2label={0: "label"})
    paths = [write_digit(tmp_path / f"{d}.png", d) for d in range(6)]
    table = write_table(tmp_path / "t.csv", [[p.name, d * 1.5] for d, p in enumerate(paths)])
    assert run("--model", folder, "--data_dir", table, "--output", tmp_path / "m.json") == 0
    report = strict_json(tmp_path / "m.json")
    truth, values = np.arange(6) * 1.5, outputs_of(folder, paths)[:, 0]
    assert report["metrics"]["mae"] == pytest.approx(np.abs(values - truth).mean())
    assert report["metrics"]["r2"] == pytest.approx(sk.r2_score(truth, values))
    assert [row["label"] for row in report["per_target"]] == ["label"]


def test_other_classifiers_work_too(digits, tmp_path):
    folder = save_transformers_vit(tmp_path / "vit")
    assert run("--model", folder, "--data_dir", digits, "--output", tmp_path / "m.json") == 0


def test_nan_outputs_are_refused(model, digits):
    classifier, processor = load_classifier(str(model))
    with torch.no_grad():
        classifier.classifier.bias[0] = torch.nan
    paths = sorted(map(str, digits.rglob("*.png")))[:4]
    with pytest.raises(ValueError, match="logits: 4 of 4 rows hold NaN"):
        evaluate_model(classifier, processor, Examples(paths, paths, ClassIds(np.zeros(4, int))), progress=False)


def test_unlabelled_examples_are_refused(model):
    classifier, processor = load_classifier(str(model))
    with pytest.raises(ValueError, match="no labels"):
        evaluate_model(classifier, processor, Examples([], []), progress=False)


def test_temperature_improves_an_overconfident_model():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2000, 4)) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    names = list(map(str, range(2000)))
    result = score_outputs(logits * 3, labels, names, SINGLE_LABEL, dict(enumerate("abcd")))
    calibration = result.details.calibration
    assert calibration["temperature"] == pytest.approx(3, rel=0.1)
    assert calibration["ece_with_temperature"] < 0.25 * calibration["ece"]
    assert calibration["ece"] == result.metrics["ece"]
    assert any("these same images" in note for note in result.notes)


def test_the_script_runs_although_it_is_called_like_the_library(model, digits, tmp_path):
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "evaluate.py", "--model", model, "--data_dir", digits],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert strict_json(tmp_path / "metrics.json")["n"] == 80


def test_the_fingerprint_is_of_the_data():
    pixels = [np.full((4, 4, 3), i, np.uint8) for i in range(2)]
    one = data_fingerprint(Examples(pixels, ["a", "b"], ClassIds([0, 1])))
    assert one == data_fingerprint(Examples(pixels, ["/elsewhere/a", "b"], ClassIds([0, 1])))
    assert one != data_fingerprint(Examples(pixels, ["a", "b"], ClassIds([1, 0])))
    assert one != data_fingerprint(Examples(pixels, ["a", "c"], ClassIds([0, 1])))


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    assert "examples:" in capsys.readouterr().out
