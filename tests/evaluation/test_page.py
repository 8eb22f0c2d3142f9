"""The page of an evaluation shows the figures of the report, has a bounded size, and shows names as text."""

import json
import re
import time

import numpy as np
import pytest
from html_pages import HOSTILE, Tags, drop_policy, look
from real_digits import write_class_folder, write_digit
from saved_models import save_ours

from modeling_vit_custom.commands.evaluate import main
from modeling_vit_custom.common.json_files import write_json
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.evaluation import page
from modeling_vit_custom.evaluation.result import score_outputs
from modeling_vit_custom.tasks import regression
from modeling_vit_custom.tasks.multi_label import MULTI_LABEL
from modeling_vit_custom.tasks.regression import REGRESSION
from modeling_vit_custom.tasks.single_label import SINGLE_LABEL

CONTEXT = {"model": "outputs/<b>model", "data": "photos", "device": "cpu", "seconds": 61.5}


def write(tmp_path, logits, labels, task, names, files=None):
    """Write a page of made-up outputs, with real digits or without images; return (its path, the evaluation)."""
    id2label = dict(enumerate(names))
    files = files or [str(tmp_path / "gone.png")] * len(logits)
    result = score_outputs(logits, labels, files, task, id2label)
    examples = Examples(files, files, task.targets(labels))
    return page.write_page(tmp_path / "page.html", result, examples, CONTEXT), result


def random_outputs(n, classes):
    random = np.random.default_rng(0)
    return random.normal(size=(n, classes)), random.integers(0, classes, n)


@pytest.fixture
def hostile(tmp_path):
    """Write a page whose labels and file names could act as HTML."""
    logits, labels = random_outputs(40, 3)
    files = [str(write_digit(tmp_path / f"'{i}' & \u202e<script>.png", i % 10, i)) for i in range(40)]
    return write(tmp_path, logits, labels, SINGLE_LABEL, [HOSTILE, "</script><script>alert(1)", '猫 & "dog"'], files)[0]


def cells(text: str) -> list[list[str]]:
    """Return the exact values of the sortable table, row by row."""
    body = text[text.index('<table class="sortable">') :].split("</table>")[0]
    return [re.findall(r'data-value="([^"]*)"', row) for row in body.split("<tr>")[2:]]


def test_the_figures_are_those_of_the_report(tmp_path):
    logits, labels = random_outputs(60, 4)
    labels[labels == 2] = 3  # a class without images: its recall is undefined
    written, result = write(tmp_path, logits, labels, SINGLE_LABEL, "abcd")
    text = written.read_text(encoding="utf-8")
    report = json.loads(json.dumps(result.report()["per_class"], default=lambda value: value.item()))
    expected = [
        [row["label"], *("" if value is None or value != value else repr(value) for value in list(row.values())[2:])]
        for row in report
    ]
    assert cells(text) == expected and expected[2][2] == ""
    assert f"<b>{result.metrics['accuracy']:.1%}</b>Accuracy" in text and "1 min 2 s on cpu" in text
    matrix = text[text.index('<table class="matrix') :].split("</table>")[0]
    counts = [int(value) for value in re.findall(r"<span>(\d+)</span></td>", matrix)]
    assert counts == result.confusion[result.confusion > 0].tolist()
    wrong = int((logits.argmax(1) != labels).sum())
    assert f"{page.MAX_MISTAKES} of {wrong}" in text
    assert all(note in text for note in ("1 of 4 classes do not occur in these data", "temperature"))


def test_names_are_text_and_the_one_script_is_ours(hostile):
    text = hostile.read_text(encoding="utf-8")
    tags = Tags(text)
    assert tags.tags.count("script") == 1 and not tags.handlers and not {"iframe", "object", "link"} & set(tags.tags)
    assert all(address.startswith("data:image/png;base64,") for address in tags.addresses) and len(tags.addresses) >= 20
    assert "&lt;img src=x onerror=" in text and "\u202e" not in text and "\\u202e" in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_thousand_classes_are_cut_to_the_worst_and_that_is_said(tmp_path):
    logits, labels = random_outputs(5000, 400)
    logits[np.arange(5000), labels] += np.linspace(0, 6, 400)[labels]
    written, result = write(tmp_path, logits, labels, SINGLE_LABEL, [f"class {i}" for i in range(400)])
    text = written.read_text(encoding="utf-8")
    rows = cells(text)
    assert len(rows) == page.MAX_ROWS and f"The {page.MAX_ROWS} of 400 with the lowest F1" in text
    shown = {row[0] for row in rows}
    f1 = {row["label"]: row["f1"] for row in result.per_label}
    assert max(f1[name] for name in shown) <= min(f1[name] for name in f1 if name not in shown)
    assert '<table class="matrix' not in text
    assert text.count('<td class="word">') == 2 * page.MAX_PAIRS and len(text) < 150_000


def test_several_labels_have_neither_matrix_nor_calibration(tmp_path):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (30, 3))
    text = write(tmp_path, random.normal(size=(30, 3)), labels, MULTI_LABEL, "abc")[0].read_text(encoding="utf-8")
    assert "Mean average precision" in text and ">AP<" in text and "not a" in text
    assert "Calibration" not in text and '<table class="matrix' not in text


def test_a_regression_has_its_targets_drawn_and_bounded(tmp_path):
    random = np.random.default_rng(0)
    labels = random.normal(size=(regression.MAX_POINTS + 500, regression.MAX_TARGETS + 2))
    names = [f"target {i}" for i in range(labels.shape[1])]
    text = write(tmp_path, labels + 0.1, labels, REGRESSION, names)[0].read_text(encoding="utf-8")
    assert text.count("<svg") == regression.MAX_TARGETS and "Not drawn: 2 further targets" in text
    assert "500 further images" in text and text.count("h0") <= regression.MAX_TARGETS * regression.MAX_POINTS


def test_a_model_without_mistakes(tmp_path):
    text = write(tmp_path, np.eye(2) * 9, np.arange(2), SINGLE_LABEL, "ab")[0].read_text(encoding="utf-8")
    assert "<p>None.</p>" in text and "100.0%" in text


def test_the_command_writes_it(tmp_path, capsys):
    model = save_ours(tmp_path / "model")
    labels = json.loads((model / "config.json").read_text())["id2label"].values()
    for i, label in enumerate(labels):
        write_class_folder(tmp_path / "data", {f"x{i}": 2})
        (tmp_path / "data" / f"x{i}").rename(tmp_path / "data" / label)
    flags = ["--model", str(model), "--data_dir", str(tmp_path / "data"), "--output", str(tmp_path / "metrics.json")]
    assert main([*flags, "--html", str(tmp_path / "deep" / "page.html"), "--trust_remote_code"]) == 0
    assert "page.html" in capsys.readouterr().out
    text = (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["weights"]["sha256"] in text
    assert f"<b>{metrics['metrics']['accuracy']:.1%}</b>" in text
    assert [row[1:] for row in cells(text)] == [
        ["" if row[name] is None else repr(row[name]) for name in ("precision", "recall", "f1", "support")]
        for row in metrics["per_class"]
    ]


@pytest.mark.parametrize("with_policy", [True, False])
def test_in_a_browser_it_sorts_and_nothing_else_runs(hostile, tmp_path, chromium, with_policy):
    if not with_policy:
        drop_policy(hostile)

    def check(tab):
        assert tab.title() == "Evaluation: outputs/<b>model" and tab.locator("script").count() == 1
        assert tab.get_by_text(HOSTILE, exact=True).first.is_visible()
        heading, column = tab.get_by_role("button", name="recall"), "table.sortable tbody td:nth-child(3)"
        for order in (1, -1):
            heading.click()
            values = [float(text) for text in tab.locator(column).all_inner_texts()]
            assert values == sorted(values)[::order]

    look(chromium, hostile, tmp_path, check)


def test_ten_thousand_classes_cost_seconds_and_no_matrix(tmp_path):
    random = np.random.default_rng(0)
    labels = random.integers(0, 10_000, 2000)
    logits = random.normal(size=(2000, 10_000)).astype(np.float32)
    logits[np.arange(2000), labels] += 3.5
    logits[:20, 7] = 99  # the most frequent mistake
    labels[:20] = 9_999
    began = time.process_time()
    written, result = write(tmp_path, logits, labels, SINGLE_LABEL, [f"class {i}" for i in range(10_000)])
    report = write_json(tmp_path / "metrics.json", result.report())
    assert time.process_time() - began < 20
    assert written.stat().st_size < 200_000 and report.stat().st_size < 3_000_000
    held = json.loads(report.read_text())
    assert result.confusion is None and "confusion_matrix" not in held
    assert held["most_confused"]["columns"] == ["times", "true", "predicted"]
    assert held["most_confused"]["rows"][0] == [20, 9_999, 7] and len(held["most_confused"]["rows"]) <= 1000
    right = logits.argmax(axis=1) == labels
    assert held["metrics"]["accuracy"] == right.mean()
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    assert held["metrics"]["top5_accuracy"] == (best == labels[:, None]).any(axis=1).mean()
    assert "class 9999" in written.read_text() and "the most frequent mistakes" in written.read_text()


@pytest.mark.parametrize("classes", [1000, 1001])
def test_up_to_a_thousand_classes_the_matrix_is_written(classes):
    logits, labels = random_outputs(30, classes)
    report = score_outputs(logits, labels, ["x"] * 30, SINGLE_LABEL, dict(enumerate(map(str, range(classes))))).report()
    assert ("confusion_matrix" in report) == (classes == 1000) != ("most_confused" in report)
