"""Measures of unknown images equal scikit-learn's and a count by hand; `evaluate --unknown_dir` reports them."""

import json

import numpy as np
import pytest
from PIL import Image
from real_digits import write_class_folder
from saved_models import save_ours
from sklearn.metrics import roc_auc_score, roc_curve

from modeling_vit_custom.commands.evaluate import main
from modeling_vit_custom.evaluation.unknown import auroc, false_alarms, risk_coverage


def test_auroc_and_false_alarms_equal_scikit_learns():
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(1, 1, 400).round(1), rng.normal(0, 1, 300).round(1)  # rounded: there are ties
    labels, scores = np.r_[np.zeros(400), np.ones(300)], -np.r_[known, unknown]
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(labels, scores))
    alarms, recalls, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert false_alarms(known, unknown) == pytest.approx(alarms[np.flatnonzero(recalls >= 0.95)[0]])


def test_risk_over_coverage_is_counted_by_hand():
    curve = risk_coverage(np.array([0.9, 0.2, 0.8, 0.4]), np.array([1.0, 0.0, 0.0, 1.0]))
    assert curve.tolist() == [[0.25, 0], [0.5, 0.5], [0.75, pytest.approx(1 / 3)], [1, 0.5]]
    assert len(risk_coverage(np.random.default_rng(0).random(5000), np.ones(5000))) == 100


def test_the_command_measures_images_of_no_class(tmp_path, capsys):
    model = save_ours(tmp_path / "m")
    digits = write_class_folder(tmp_path / "digits", {str(d): 4 for d in range(10)})
    others = tmp_path / "others"
    others.mkdir()
    for i in range(5):
        Image.effect_noise((20, 20), 90 + i).save(others / f"{i}.png")
    flags = ["--model", str(model), "--data_dir", str(digits), "--output", str(tmp_path / "m.json")]
    assert main(flags) == 0
    plain = json.loads((tmp_path / "m.json").read_text())
    assert "unknown" not in plain
    page = tmp_path / "page.html"
    assert main([*flags, "--unknown_dir", str(others), "--html", str(page)]) == 0
    report = json.loads((tmp_path / "m.json").read_text())
    found = report["unknown"]
    assert found["n_unknown"] == 5 and found["by"] == "probability" and found["recognised"] is None
    assert 0 <= found["auroc"] <= 1 and found["risk_coverage"][-1][0] == 1
    assert found["risk_coverage"][-1][1] == pytest.approx(1 - plain["metrics"]["accuracy"])
    assert report["metrics"] == plain["metrics"]
    assert "unknown images: 5; AUROC by probability" in capsys.readouterr().out
    text = page.read_text()
    assert "Unknown images" in text and "5 images of none of the classes" in text


def test_other_tasks_are_refused_by_name(tmp_path, capsys):
    model = save_ours(tmp_path / "m", problem_type="multi_label_classification")
    table = tmp_path / "labels.csv"
    image = next(write_class_folder(tmp_path / "digits", {"1": 1}).rglob("*.png"))
    table.write_text(f'image,label\n{image},"1|2"\n')
    flags = ["--model", str(model), "--data_dir", str(table), "--output", str(tmp_path / "m.json")]
    assert main([*flags, "--unknown_dir", str(tmp_path / "digits")]) == 2
    assert "--unknown_dir is for one label an image" in capsys.readouterr().err
