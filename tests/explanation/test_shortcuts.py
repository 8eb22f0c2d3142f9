"""A shortcut is accused if exchanged patches confirm it, and what merely looks suspicious is not."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from html_pages import HOSTILE, Tags, drop_policy, look
from moving_marks import CORNER, SIDE, marked_images, train_marks, write_marks
from photo_digits import BACKGROUND, CLASSES, TAG, photo_digits, train_photo_digits, write_photo_digits

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.cli import main
from modeling_vit_custom.common.errors import DataError, UsageError
from modeling_vit_custom.common.outputs import OutputError
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.data.targets import ClassIds
from modeling_vit_custom.explanation.explain import explain
from modeling_vit_custom.explanation.shortcuts import interventions
from modeling_vit_custom.explanation.shortcuts.boxes import off_object, read_boxes
from modeling_vit_custom.explanation.shortcuts.clusters import cluster
from modeling_vit_custom.explanation.shortcuts.evidence import Evidence, collect, drawn_rows
from modeling_vit_custom.explanation.shortcuts.finding import find_shortcuts, look_for_shortcuts
from modeling_vit_custom.explanation.shortcuts.interventions import holm, mixed, sign_flip_p
from modeling_vit_custom.explanation.shortcuts.suspicions import ring_of, surroundings_of
from modeling_vit_custom.explanation.shortcuts.verdicts import words_of

BOXED = "path,x0,y0,x1,y1\n"


def examples_of(fixed, count=240):
    images, labels = marked_images(count, fixed, seed=1)
    return Examples(list(images), [f"image {n}" for n in range(count)], ClassIds(labels))


@pytest.fixture(scope="module")
def fixed():
    """Return a model that knows red images by a mark in the corner, its processor, and what is found of it."""
    model, processor = train_marks(fixed=True)
    return model, processor, look_for_shortcuts(model, processor, examples_of(True), batch_size=64)


def evidence_of(shares, predicted=None):
    count = len(shares)
    predicted = np.zeros(count, int) if predicted is None else predicted
    return Evidence(None, np.arange(count), predicted, predicted, np.ones(count), shares)


# ---------- found and not found


def test_a_mark_in_the_corner_is_accused_and_moving_ones_are_not(fixed):
    """The corner alone, of the one class that has it: its patch taken away and pasted decides."""
    report = fixed[2]
    assert [report.names[trial.suspicion.target] for trial in report.accused] == ["red"]
    trial = report.accused[0]
    assert np.argwhere(trial.suspicion.cells[0]).tolist() == [list(CORNER)]
    assert trial.outcome.taken.change.value > 0.9 > 0.2 > trial.outcome.taken.control.value
    assert trial.outcome.pasted.change.value > 0.3 > 0.1 > trial.outcome.pasted.control.value
    said = report.sentences()[0]
    assert (
        said.startswith("class red: ") and "the lower right corner" in said and "lowers p(red) from 1.00 to 0.0" in said
    )


def test_a_clean_data_set_has_no_accusation():
    """All marks move: wherever the evidence of some images lies, that of others does as much elsewhere."""
    model, processor = train_marks(fixed=False)
    report = look_for_shortcuts(model, processor, examples_of(False), batch_size=64)
    assert (report.evidence.predicted == report.evidence.labels).mean() > 0.98
    assert report.accused == [] and report.looked_at and report.summary().startswith("no shortcut in 3 classes")


def test_evidence_is_that_of_explain_for_the_predicted_class(fixed):
    model, processor, _ = fixed
    images, labels = marked_images(6, True, seed=3)
    found = collect(model, processor, Examples(list(images), list("abcdef"), ClassIds(labels)), 4, False)
    pixels = processor(list(torch.from_numpy(images).permute(0, 3, 1, 2)), return_tensors="pt")["pixel_values"]
    said = explain(model, pixels, check=False, confirm=0)
    expected = said.shown.double() / said.shown.double().sum(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(torch.from_numpy(found.shares), expected, rtol=1e-5, atol=1e-7)
    assert found.predicted.tolist() == said.target
    torch.testing.assert_close(found.pixels([4, 1, 4]), pixels[[4, 1, 4]])


def test_an_unreadable_image_costs_itself_alone(fixed, tmp_path):
    model, processor, _ = fixed
    (tmp_path / "bad.png").write_bytes(b"no image")
    images, labels = marked_images(3, True, seed=3)
    sources = [images[0], str(tmp_path / "bad.png"), images[2]]
    found = collect(model, processor, Examples(sources, list("abc"), ClassIds(labels)), 2, False)
    assert found.rows.tolist() == [0, 2] and [*found.errors] == [1]
    with pytest.raises(DataError, match="none of the 1 images can be read"):
        collect(model, processor, Examples(sources[1:2], ["b"], ClassIds(labels[:1])), 2, False)


# ---------- interventions


def test_exchanged_cells_are_those_of_the_other_image():
    base, source = torch.zeros(1, 2, 8, 12), torch.ones(1, 2, 8, 12)
    cells = np.zeros((1, 2, 3), bool)
    cells[0, 1, 2] = True
    changed = mixed(base, source, cells)
    assert changed[0, :, 4:, 8:].min() == 1 and changed.sum() == 2 * 4 * 4


def test_the_p_value_of_random_signs_is_that_of_all_signs(monkeypatch):
    monkeypatch.setattr(interventions, "FLIPS", 200_000)
    values = np.array([0.4, -0.1, 0.3, 0.2, 0.05, -0.02, 0.3])
    signs = np.array(list(itertools.product((-1, 1), repeat=len(values))))
    exact = ((signs * values).mean(axis=1) >= values.mean() - 1e-12).mean()
    assert sign_flip_p(values, seed=0) == pytest.approx(exact, abs=0.002)
    assert sign_flip_p(-values, seed=0) > 0.9


def test_holm_multiplies_the_smallest_by_the_number_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


# ---------- places


def test_ring_and_surroundings_of_a_grid():
    assert ring_of((8, 8)).sum() == 28 and surroundings_of((8, 8)).sum() == 48
    assert not ring_of((3, 8)).any() and ring_of((28, 28)).sum() == 28 * 28 - 24 * 24


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ((7, 7), "the lower right corner"),
        ((0, 0), "the upper left corner"),
        ((0, 4), "the middle of the upper edge"),
        ((4, 0), "the middle of the left edge"),
        ((4, 3), "the middle"),
    ],
)
def test_places_have_names(cell, words):
    cells = np.zeros((8, 8), bool)
    cells[cell] = True
    assert words_of(cells) == words


def test_rows_are_drawn_evenly_and_repeatably():
    labels = np.array([0] * 50 + [1] * 3)
    rows = drawn_rows(labels, 10, seed=4)
    assert np.bincount(labels[rows]).tolist() == [10, 3] and (np.diff(rows) > 0).all()
    assert rows.tolist() == drawn_rows(labels, 10, seed=4).tolist() != drawn_rows(labels, 10, seed=5).tolist()


def test_maps_of_two_kinds_make_two_clusters_and_of_one_kind_none():
    rng = np.random.default_rng(0)
    shares = rng.random((40, 8, 8)) * 0.2
    one = cluster(0, np.arange(40), shares / shares.sum(axis=(1, 2), keepdims=True), seed=0)
    assert one is not None and one.clusters == ()
    shares[:25, 0, 0] += 30
    shares[25:, 7, 7] += 30
    two = cluster(0, np.arange(100, 140), shares / shares.sum(axis=(1, 2), keepdims=True), seed=0)
    assert [sorted(each.members.tolist()) for each in two.clusters] == [[*range(100, 125)], [*range(125, 140)]]
    assert cluster(0, np.arange(5), shares[:5], seed=0) is None


# ---------- boxes


def test_patches_off_the_boxes(fixed, tmp_path):
    """A box over the left half leaves the right half off the object; an image without a box has nothing off it."""
    model, processor, _ = fixed
    images, labels = marked_images(2, True, seed=3)
    paths = sorted(map(str, write_marks(tmp_path / "d", images, labels).rglob("*.png")))
    found = collect(model, processor, Examples(paths, paths, ClassIds(labels)), 2, False)
    (tmp_path / "d" / "boxes.csv").write_text(
        BOXED + f"{paths[0][len(str(tmp_path / 'd')) + 1 :]},0,0,{SIDE // 2},{SIDE}\n"
    )
    off = off_object(found, paths, read_boxes(tmp_path / "d" / "boxes.csv"), processor)
    assert off[0, :, 3:].all() and not off[0, :, :3].any() and not off[1].any()
    with pytest.raises(DataError, match="none of its 1 images"):
        off_object(found, paths, {"elsewhere.png": [(0, 0, 1, 1)]}, processor)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("b.json", "{}", "only CSV files"),
        ("b.csv", "path,x0\n", "no column y0, x1, y1"),
        ("b.csv", BOXED, "holds no box"),
        ("b.csv", BOXED + "a.png,5,5,5,9\n", "line 2: .* is no box"),
        ("b.csv", BOXED + "a.png,1,2,3\n", "must be numbers"),
        ("b.csv", BOXED + "a.png,nan,2,3,4\n", "is no box"),
    ],
)
def test_files_that_hold_no_boxes_are_refused_by_name(name, text, error, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=error):
        read_boxes(tmp_path / name)


# ---------- the page


@pytest.fixture(scope="module")
def saved(fixed, tmp_path_factory):
    """Return (folder with the model and the page, report) of images in a folder with a hostile name."""
    model, processor, _ = fixed
    folder = tmp_path_factory.mktemp("shortcuts")
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    images, labels = marked_images(120, True, seed=1)
    source = write_marks(folder / HOSTILE, images, labels)
    return folder, find_shortcuts(str(folder / "model"), source, folder / "page.html", batch_size=64, progress=False)


def test_the_page_shows_what_was_found_and_its_record_says_it(saved):
    folder, report = saved
    record = json.loads((folder / "page.json").read_text())
    assert [one["class"] for one in record["shortcuts"]] == ["red"] and record["images"] == 120
    assert record["shortcuts"][0]["cells"] == [list(CORNER)] and record["shortcuts"][0]["says"] == report.sentences()[0]
    text = (folder / "page.html").read_text()
    tags = Tags(text)
    assert "Class red is decided by" in text and "What this says, and what it does not" in text
    assert tags.handlers == [] and "script" not in tags.tags and text.count("&lt;img src=x") > 6
    assert all(address.startswith(("data:", "#")) for address in tags.addresses)


def test_the_page_in_a_browser(saved, chromium, tmp_path):
    """A hostile name runs nothing, with the page's policy and without it; a phone need not scroll sideways."""
    page = shutil.copy(saved[0] / "page.html", tmp_path / "page.html")
    look(chromium, page, tmp_path)
    drop_policy(page)
    look(chromium, page, tmp_path)


def test_the_command_writes_and_prints_what_is_found(saved, capsys):
    """With boxes around other patches than the marks; what does not go together is refused by name."""
    folder, data = saved[0], saved[0] / HOSTILE
    lines = [f"{path.relative_to(folder)},0,0,4,4\n" for path in data.rglob("*.png")]
    (folder / "boxes.csv").write_text(BOXED + "".join(lines), encoding="utf-8")
    words = ["explain", "--model", str(folder / "model"), "--data", str(data), "--per_class", "30"]
    assert main([*words, "--output", str(folder / "o"), "--boxes", str(folder / "boxes.csv")]) == 0
    printed, record = capsys.readouterr().out, json.loads((folder / "o" / "shortcuts.json").read_text())
    said = [record["summary"], *(one["says"] for one in record["shortcuts"])]
    assert printed.startswith("\n".join([*said, "wrote "])) and record["classes"][0]["off_object"] > 0.5
    assert (folder / "o" / "shortcuts.html").is_file()
    for others, message in (
        ([*words, "--target", "red"], "--target is for maps of images"),
        ([*words, str(data)], "IMAGE is for maps of images"),
        ([*words[:3], str(data), "--boxes", "b.csv"], "--boxes is for a labelled data set"),
        (words[:3], "name images, or a labelled data set"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(others)
        assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two models are trained here: 20 CPU seconds, more on a busy machine
def test_planted_on_real_images_a_tag_and_a_background_are_accused_and_nothing_on_clean_ones(tmp_path):
    """One class has a tag and one its own photograph; the background is tried where boxes say what it is."""
    planted = {"1": TAG, "4": BACKGROUND}
    reports = {}
    for kind, plants in (("planted", planted), ("clean", {})):
        model, processor = train_photo_digits(plants)
        images, labels, boxes = photo_digits(60, 5, plants)
        write_photo_digits(tmp_path / kind / "data", images, labels, boxes)
        names = [str(tmp_path / kind / "data" / CLASSES[label] / f"{n}.png") for n, label in enumerate(labels)]
        for boxed in (None, read_boxes(tmp_path / kind / "boxes.csv"))[kind == "clean" :]:
            report = look_for_shortcuts(
                model, processor, Examples(names, names, ClassIds(labels)), boxed, batch_size=30
            )
            reports[kind, boxed is not None] = report
            assert (report.evidence.predicted == report.evidence.labels).mean() > 0.75
    found = {key: [(r.names[t.suspicion.target], t.suspicion.kind) for t in r.accused] for key, r in reports.items()}
    assert found["clean", True] == []
    assert ("1", "cells") in found["planted", False]
    assert "background" in [kind for _, kind in found["planted", True]]
    assert not any(kind == "background" for _, kind in found["planted", False])


def test_the_page_of_private_images_is_kept_out_of_a_model(saved):
    model = saved[0] / "model"
    with pytest.raises(OutputError, match="the folder of a model"):
        find_shortcuts(str(model), saved[0] / HOSTILE, model / "page.html", progress=False)
    with pytest.raises(UsageError, match=r"name an \.html file"):
        find_shortcuts(str(model), saved[0] / HOSTILE, saved[0] / "page.txt", progress=False)


def test_models_of_other_tasks_are_refused():
    config = ViTCustomConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_labels=3, problem_type="multi_label_classification",
    )  # fmt: skip
    with pytest.raises(UsageError, match="one class an image"):
        look_for_shortcuts(ViTCustomForImageClassification(config), None, examples_of(True, 6))
