"""report.html of a run shows what was measured and logged, during the training and afterwards."""

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from html_pages import Tags, look
from real_digits import write_class_folder, write_digit
from tiny_training import tiny_train
from transformers import TrainerState

from modeling_vit_custom.commands.training_flags import parse_args
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.data.examples import Examples, Splits
from modeling_vit_custom.data.targets import Values
from modeling_vit_custom.reporting import page
from modeling_vit_custom.reporting.formatting import figure, title
from modeling_vit_custom.training.runs import report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return (the folder of a finished run with a copy among its training images, its metrics, its pages)."""
    root = tmp_path_factory.mktemp("report")
    for split, (count, first) in {"train": (12, 0), "validation": (6, 20), "test": (8, 30)}.items():
        write_class_folder(root / "data" / split, {"0": count, "1": count, "8": count}, first)
    write_digit(root / "data" / "train" / "0" / "copy.png", 0, 31)  # the copy of a test image
    pages: list[str] = []
    whole = page.write_page

    def watched(*args):
        path = whole(*args)
        pages.append(path.read_text(encoding="utf-8"))
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write_page", watched)
        patch.setattr(sys, "argv", ["/usr/bin/vit-custom", "train", "--train_dir", "my <b>photos"])
        flags = ("--train_dir", root / "data", "--num_train_epochs", 3, "--logging_steps", 2, "--audit", "warn")
        metrics = tiny_train(root / "out", *flags)
    return root / "out", metrics, pages


def test_the_finished_page_shows_what_was_measured(run):
    output_dir, metrics, pages = run
    text = (output_dir / "report.html").read_text(encoding="utf-8")
    assert text == pages[-1] and "refresh" not in text and "under way" not in text
    for split in ("validation", "test"):
        assert f"{split}, n = {metrics[split]['n']}" in text
        for name in set(metrics[split]) - {"n"}:
            assert f'<th scope="row">{title(name)}</th>' in text
            assert f"<td>{figure(name, metrics[split], metrics[split]['n'])}</td>" in text
    headline = figure("accuracy", metrics["test"], 24)
    assert (
        f"<b>{headline.split()[0]}</b>" in text
        and f"on 24 test images, 95% interval {headline.split('(')[1][:-1]}" in text
    )
    for row in metrics["per_label"]["rows"]:
        for name in ("precision", "recall", "f1"):
            assert f'data-value="{"" if row[name] is None else repr(row[name])}"' in text
    environment = json.loads((output_dir / "training_args.json").read_text())["environment"]
    assert environment["torch"] in text and environment["device"] in text
    assert "vit-custom train --train_dir &#39;my &lt;b&gt;photos&#39;" in text
    links = [address for address in Tags(text).addresses if not address.startswith(("data:", "#"))]
    assert set(links) == set(report.LINKED) and all((output_dir / link).is_file() for link in links)


def test_its_curves_are_the_log(run):
    output_dir, metrics, pages = run
    last = max(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    state = TrainerState.load_from_json(str(last / "trainer_state.json"))
    drawn = {line.name: line for line in report.curves(state, best=metrics["best"]["step"])[0].lines}
    for name, key in (("training", "loss"), ("validation", "eval_loss")):
        logged = [(entry["step"], entry[key]) for entry in state.log_history if key in entry]
        assert drawn[name].x == " ".join(str(step) for step, _ in logged) and len(logged) >= 3
        assert drawn[name].y == " ".join(f"{value:.4g}" for _, value in logged)
        assert drawn[name].y in pages[-1]
    assert pages[-1].count('class="marked"') >= 2, "every chart of validation must mark the best step"


def test_the_audit_is_shown_as_it_was_found(run):
    text = run[2][0]
    assert "finding error" in text or "finding warning" in text
    assert "copy.png" in text and text.count("copy.png") == 1


def test_while_it_trains_the_page_follows(run):
    _, _, (begun, *under_way, finished) = run
    assert len(under_way) == 3, "there must be a page after each evaluation"
    for text, step in zip([begun, *under_way], (0, 5, 10, 15), strict=True):
        assert '<meta http-equiv="refresh"' in text and f"Step {step} of 15" in text
        assert "mistakes" not in Tags(text).addresses and '<h2 id="classes">' not in text
    assert "<svg" not in begun and " left" not in begun.split("<main>")[1].split("</nav>")[0]
    assert "on 18 validation images" in under_way[0] and "left" in under_way[0]
    assert '<h2 id="classes">' in finished


def test_a_page_that_cannot_be_written_stops_nothing(tmp_path, caplog, monkeypatch):
    def fail(*args):
        raise OSError("the disk is full")

    monkeypatch.setattr(page, "write_page", fail)
    data = write_class_folder(tmp_path / "data", {"0": 8, "1": 8})
    metrics = tiny_train(tmp_path / "o", "--train_dir", data, "--num_train_epochs", 1)
    assert metrics["validation"]["n"] > 0 and not (tmp_path / "o" / "report.html").exists()
    assert "report.html could not be written" in caplog.text and "the disk is full" in caplog.text
    assert all(record.levelno < logging.ERROR or "report.html" in record.message for record in caplog.records)


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_process_writes(tmp_path, first):
    (tmp_path / "training_args.json").write_text("{}")
    none = Examples([], [], Values([]))
    callback = report.ReportCallback(Splits(none, None, None, {}))
    state = TrainerState(is_world_process_zero=first, max_steps=10)
    callback.on_train_begin(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    assert (tmp_path / "report.html").is_file() == first


def test_tensorboard_holds_the_log_too(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert parse_args(["--output_dir", "o", "--use_cpu", "true"])[2].report_to == ["tensorboard"]
    data = write_class_folder(tmp_path / "data", {"0": 8, "1": 8})
    flags = ("--train_dir", data, "--num_train_epochs", 2, "--logging_steps", 1, "--report_to", "tensorboard")
    tiny_train(tmp_path / "o", *flags)
    (runs,) = (tmp_path / "o" / "runs").iterdir()
    events = accumulator.EventAccumulator(str(runs)).Reload()
    state = max((tmp_path / "o").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    log = json.loads((state / "trainer_state.json").read_text())["log_history"]
    for tag, key in (("train/loss", "loss"), ("eval/accuracy", "eval_accuracy")):
        expected = [(entry["step"], pytest.approx(entry[key])) for entry in log if key in entry]
        assert [(event.step, event.value) for event in events.Scalars(tag)] == expected and expected


def test_reporters_can_be_turned_off_and_an_unknown_one_is_refused():
    flags = ["--output_dir", "o", "--use_cpu", "true", "--report_to"]
    assert parse_args([*flags, "none"])[2].report_to == []
    with pytest.raises(UsageError, match="--report_to tensorbord is not installed"):
        parse_args([*flags, "tensorbord"])


def test_in_a_browser(run, tmp_path, chromium):
    def check(tab):
        assert tab.title() == "Report: out"
        chart = tab.locator("svg.read").first
        chart.hover()
        assert "training" in tab.locator(".said").first.inner_text()
        tab.mouse.move(0, 0)
        chart.focus()
        said = []
        for key in ("ArrowRight", "ArrowRight", "End", "Home"):
            tab.keyboard.press(key)
            said.append(tab.locator(".said").first.inner_text())
        assert all("training" in text for text in said) and said[0] == said[3] and len(set(said)) == 3
        chart.blur()
        assert not tab.locator(".said").first.inner_text()

    look(chromium, Path(run[0]) / "report.html", tmp_path, check)
