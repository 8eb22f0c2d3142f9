"""The model card: figures with their n, metadata that reads back equal, and other people's text shown as text."""

import html
import json
import shutil
from pathlib import Path

import pytest
from card_pages import HOSTILE, Page
from huggingface_hub import ModelCard
from real_digits import write_class_folder, write_digit
from saved_models import save_ours
from tiny_training import tiny_train

from modeling_vit_custom.publishing.card import write_card
from modeling_vit_custom.reporting.formatting import figure


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train; return (the folder, its metrics, its run)."""
    root = tmp_path_factory.mktemp("card")
    for split, (count, first) in {"train": (8, 0), "validation": (3, 20), "test": (4, 30)}.items():
        write_class_folder(root / "data" / split, {"0": count, "1": count}, first)
    folder = root / "out"
    tiny_train(folder, "--train_dir", root / "data", "--num_train_epochs", 2)
    return folder, *(json.loads((folder / name).read_text()) for name in ("metrics.json", "training_args.json"))


def copy(trained, folder: Path) -> Path:
    return Path(shutil.copytree(trained[0], folder, ignore=shutil.ignore_patterns("checkpoint-*")))


def add_golden(folder: Path, labels: list[str], drawn: bool = False) -> None:
    names = [f"examples/{n}.png" for n in range(len(labels))]
    for n, name in enumerate(names):
        write_digit(folder / name, n)
    pipeline = [[{"label": label, "score": 0.75}] for label in labels]
    golden = {"format": 1, "images": names, "pipeline": pipeline, **({"drawn": True} if drawn else {})}
    (folder / "golden.json").write_text(json.dumps(golden))


def test_metadata_hold_every_figure_with_split_and_n(trained, tmp_path):
    folder, metrics, run = copy(trained, tmp_path / "m"), *trained[1:]
    given = {"license": "mit", "datasets": ["someone/digits"], "base_model": "someone/base"}
    data = ModelCard.load(write_card(folder, "someone/digits_2", metrics=metrics, run=run, **given)).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "image-classification", "mit")
    assert (data.base_model, data.base_model_relation) == ("someone/base", "finetune")
    assert data.datasets == ["someone/digits"] and data.model_name == "digits_2"
    found = {
        (r.dataset_split, r.dataset_args["num_examples"], r.metric_type): r.metric_value for r in data.eval_results
    }
    assert found[("test", 8, "accuracy")] == metrics["test"]["accuracy"]
    assert found[("validation", 6, "f1")] == metrics["validation"]["macro_f1"]
    assert len(found) == sum(len(metrics[split]) - 1 for split in ("validation", "test"))


def test_text_shows_what_training_recorded(trained, tmp_path):
    folder, metrics, run = copy(trained, tmp_path / "m"), *trained[1:]
    add_golden(folder, ["0", "1"])
    text = write_card(folder, "someone/digits", metrics=metrics, run=run, revision="v1.0").read_text()
    page = Page(text)
    rows = dict(zip(page.cells[:-1], page.cells[1:], strict=True))
    assert rows["Accuracy"].startswith(f"{metrics['validation']['accuracy']:.1%} (")
    assert rows["started from"] == "random weights, variant nano/4" and rows["training images"] == "16"
    assert run["environment"]["torch"] in rows["versions"] and run["environment"]["device"] in rows["hardware"]
    assert 'repo, revision = "someone/digits", "v1.0"' in text and "`main`" not in text
    images = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert images == ["examples/0.png", "examples/1.png", "confusion_matrix.png", "training.png"]
    described = "Confusion matrix of the test images: rows true, columns predicted"
    assert described in [attributes["alt"] for tag, attributes in page.elements if tag == "img"]
    assert "The rarest class has 4 test images" in text and "0 0.750" in page.cells
    listed = {cell for cell in page.cells if (folder / cell).exists()}
    assert {"model.safetensors", "golden.json", "metrics.json", "training_args.json"} <= listed


def test_drawn_pictures_are_shown_without_a_class(trained, tmp_path):
    folder = copy(trained, tmp_path / "m")
    add_golden(folder, ["0", "1"], drawn=True)
    text = write_card(folder, "someone/digits", metrics=None, run=None).read_text()
    page = Page(text)
    assert "examples/0.png" in [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert "0 0.750" not in page.cells and "are drawn: they show nothing that the model knows" in text


def test_an_example_that_the_model_does_not_know_is_shown_as_unknown(trained, tmp_path):
    folder = copy(trained, tmp_path / "m")
    add_golden(folder, ["0", "1"])
    golden = json.loads((folder / "golden.json").read_text())
    golden["pipeline"][1][0]["unknown"] = True
    (folder / "golden.json").write_text(json.dumps(golden))
    cells = Page(write_card(folder, "someone/digits", metrics=None, run=None).read_text()).cells
    assert "0 0.750" in cells and "unknown, 1 0.750" in cells


def test_the_accuracy_of_always_answering_the_most_frequent_class_stands_beside_ours(trained, tmp_path):
    metrics = json.loads(json.dumps(trained[1]))
    for row, support in zip(metrics["per_label"]["rows"], (6, 2), strict=True):
        row["support"] = support
    folder = copy(trained, tmp_path / "m")
    for name in ("metrics.json", "training_args.json"):
        (folder / name).unlink()
    text = write_card(folder, "someone/digits", metrics=metrics, run=None).read_text()
    assert "For comparison, always answering 0: 75.0% of the test images." in html.unescape(text)


def test_the_snippet_runs(trained, tmp_path, monkeypatch, capsys):
    folder = copy(trained, tmp_path / "m")
    text = write_card(folder, "someone/digits", metrics=None, run=None).read_text()
    snippet = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    write_digit(tmp_path / "photo.jpg", 1)
    exec(snippet.replace('"someone/digits"', repr(str(folder))), {})
    assert {"label", "score"} == set(eval(capsys.readouterr().out)[0])


def test_what_is_not_known_is_said(trained, tmp_path):
    folder = copy(trained, tmp_path / "m")
    (folder / "notes.txt").write_text("x")
    text = write_card(folder, "someone/digits", metrics=None, run=None).read_text()
    for sentence in ("Nothing was measured.", "No record of the training", "No licence was given", "says `main`"):
        assert sentence in text
    assert "notes.txt" in text and "model-index" not in text and "The labels: 0, 1." in text
    without_test = {name: value for name, value in trained[1].items() if name not in ("test", "per_label")}
    text = write_card(folder, "someone/digits", metrics=without_test, run={"training": {}}).read_text()
    assert "There is no test set" in text


@pytest.mark.parametrize("task", ["multi_label_classification", "regression"])
def test_other_tasks(tmp_path, task):
    folder = save_ours(tmp_path / "m", problem_type=task)
    name = "mae" if task == "regression" else "mean_average_precision"
    metrics = {"validation": {"n": 50, name: 0.25, "r2": None}, "problem_type": task}
    text = write_card(folder, "someone/other", metrics=metrics, run=None).read_text()
    assert ("estimates 10 numbers" if task == "regression" else "gives each of 10 labels") in text
    assert "0.25 |" in text and "undefined |" in text and "interval" not in text


def test_hostile_labels_come_out_as_text(trained, tmp_path):
    folder, metrics, run = copy(trained, tmp_path / "m"), *map(json.dumps, trained[1:])
    metrics, run = json.loads(metrics), json.loads(run)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(i): label for i, label in enumerate(HOSTILE)}
    config["image_size"] = ["<script>", "<script>"]
    (folder / "config.json").write_text(json.dumps(config))
    row = metrics["per_label"]["rows"][0]
    metrics["per_label"]["rows"] = [{**row, "label": label} for label in HOSTILE]
    run["model"]["config_overrides"] = HOSTILE[0]
    (folder / "<b>.txt").write_text("x")
    add_golden(folder, HOSTILE[:5])
    page = Page(write_card(folder, "someone/digits", metrics=metrics, run=run).read_text())
    shown = {" ".join(label.split()) for label in HOSTILE}
    assert shown <= set(page.cells), sorted(shown - set(page.cells))
    assert {f"{label} 0.750" for label in HOSTILE[:5]} <= set(page.cells) and "<b>.txt" in page.cells
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "strong", "del", "s"})
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == ["https://arxiv.org/abs/2010.11929"]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    without_table = {**metrics, "per_label": {"split": "test", "rows": []}}
    text = write_card(folder, "someone/digits", metrics=without_table, run=run).read_text()
    assert "<script" not in text and "javascript:" not in text
    assert ModelCard(text).data.license is None


def test_characters_that_hide_or_reorder_are_shown(trained, tmp_path):
    folder = copy(trained, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "a\u202eb", "1": "\u0646\u200c\u0645\x00"}
    (folder / "config.json").write_text(json.dumps(config))
    assert "aU+202Eb, \u0646\u200c\u0645U+0000." in write_card(folder, "x/y", metrics=None, run=None).read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repo_id": "a/b/c"}, "a/b/c"),
        ({"datasets": ["x\nlicense: mit"]}, "license: mit"),
        ({"base_model": "../up"}, r"\.\./up"),
        ({"revision": '"; import os'}, "revision="),
        ({"metrics": {"test": {"n": 4, "accuracy": float("nan")}}}, "came back as"),
    ],
)
def test_what_cannot_be_published_is_refused(trained, tmp_path, change, message):
    folder = copy(trained, tmp_path / "m")
    arguments = {"repo_id": "someone/digits", "metrics": None, "run": None, **change}
    with pytest.raises(ValueError, match=message):
        write_card(folder, **arguments)


@pytest.mark.parametrize("path", ["examples/../config.json", "/etc/hostname", "examples/gone.png", "config.json"])
def test_golden_may_only_name_example_images(trained, tmp_path, path):
    folder = copy(trained, tmp_path / "m")
    golden = {"images": [path], "pipeline": [[{"label": "0", "score": 1.0}]]}
    (folder / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(ValueError, match="no file in examples/"):
        write_card(folder, "someone/digits", metrics=None, run=None)


def test_interval_is_wilsons():
    """The values are those of Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662."""
    assert figure("accuracy", {"accuracy": 81 / 263}, 263) == "30.8% (25.5% to 36.6%)"
