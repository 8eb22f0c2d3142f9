"""`audit_data --model`: wrong labels among real digits are found, and what to label next repeats nothing."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from audit_folders import write_clean
from html_pages import HOSTILE, Tags
from PIL import Image
from real_digits import digit_image, write_class_folder
from saved_models import save_ours, save_transformers_vit

from modeling_vit_custom import ViTCustomConfig, ViTCustomForMaskedImageModeling, api
from modeling_vit_custom.audit.audit import text_report
from modeling_vit_custom.commands.audit_data import main
from modeling_vit_custom.common.errors import DataError, UsageError
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor

CLASSES = {"0": 30, "1": 30, "4": 30, "7": 30}
SIZE = {"image_size": 16, "patch_size": 4, "num_channels": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a classifier of ten other classes with random weights: its features still tell digits apart."""
    return save_ours(tmp_path_factory.mktemp("model") / "m", **SIZE)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """Return (a folder of 120 digits, {the name of each whose label is wrong: the right one})."""
    root = write_class_folder(tmp_path_factory.mktemp("spoilt") / "data", CLASSES)
    wrong = {}
    for name, other in (("0", "1"), ("1", "7"), ("4", "0"), ("7", "4")):
        for n in (3, 11, 19):
            shutil.move(root / name / f"{n}.png", root / other / f"moved-{name}-{n}.png")
            wrong[f"moved-{name}-{n}.png"] = name
    return root, wrong


@pytest.fixture(scope="module")
def checked(spoilt, model, tmp_path_factory):
    return api.audit_data(spoilt[0], model=model, num_workers=0, json=tmp_path_factory.mktemp("j") / "a.json")


def found(audit, code):
    return next(one for one in audit.findings if one.code == code)


def test_wrong_labels_of_real_digits_come_first(spoilt, checked):
    _, wrong = spoilt
    rows = checked.report()["label_errors"]["suspects"]
    first = [row["image"].rpartition("/")[2] for row in rows[: len(wrong)]]
    precision = np.mean([name in wrong for name in first])
    print(f"{precision:.2f} of the first {len(first)}; by chance {len(wrong) / 120:.2f}")
    assert precision > 0.6
    right = [row["likely"] == wrong[name] for row, name in zip(rows, first, strict=False) if name in wrong]
    assert np.mean(right) > 0.7


def test_the_finding_says_what_looks_like_what_and_that_it_is_an_estimate(checked):
    one = found(checked, "label-errors")
    assert one.severity == "warning" and 4 <= one.count <= 24 and len(one.examples) == one.count
    assert re.search(
        r"\.png \[train\]: labelled \d, looks like \d \(p \d\.\d\d, own label 0\.\d\d\)", one.examples[0].text
    )
    assert "estimate" in one.title and "expected to be wrong" in one.advice
    record = checked.report()["label_errors"]
    assert record["checked"] == 120 and record["listed"] == one.count >= record["expected_wrong_among_listed"]
    assert sorted(row["p_label"] for row in record["suspects"]) == [row["p_label"] for row in record["suspects"]]


def test_without_a_model_nothing_is_added(spoilt):
    plain = api.audit_data(spoilt[0], num_workers=0)
    assert plain.notes == [] and {"model", "label_errors", "label_next"}.isdisjoint(plain.report())
    assert "label-errors" not in {one.code for one in plain.findings}


def test_command_and_function_find_the_same(spoilt, model, tmp_path, capsys, checked):
    words = [str(spoilt[0]), "--model", str(model), "--num_workers", "0", "--json", str(tmp_path / "a.json")]
    assert main([*words, "--html", str(tmp_path / "a.html")]) == 0
    said = capsys.readouterr().out
    ours, theirs = json.loads((tmp_path / "a.json").read_text()), checked.report()
    assert ours["label_errors"] == theirs["label_errors"] and ours["model"] == str(model)
    assert "[label-errors]" in said and "features of 120 images" in said
    printed, reported = (re.sub(r"in [\d.]+ s\b", "in … s", text).splitlines() for text in (said, text_report(checked)))
    assert reported[5:] == printed[5:-2]  # but for where features are
    assert (tmp_path / "a.html").read_text().count("data:image/png") >= found(checked, "label-errors").count


def test_features_are_kept_like_those_of_training(spoilt, model, tmp_path):
    first, again = (
        api.audit_data(spoilt[0], model=model, num_workers=0, image_cache=str(tmp_path)).notes for _ in range(2)
    )
    assert "kept in" in " ".join(first) and "found in" in " ".join(again)
    assert "this run alone" in " ".join(api.audit_data(spoilt[0], model=model, num_workers=0, image_cache="off").notes)


def test_small_classes_are_named_and_left_out(tmp_path, model):
    root = write_class_folder(tmp_path / "data", {"0": 20, "1": 20, "few-2": 3})
    audit = api.audit_data(root, model=model, num_workers=0)
    assert [example.text for example in found(audit, "unchecked-labels").examples] == ["few-2: 3 image(s)"]
    assert audit.report()["label_errors"]["checked"] == 40


def test_all_splits_are_checked_together(tmp_path, model):
    write_class_folder(tmp_path / "data" / "train", {"0": 20, "1": 20})
    write_class_folder(tmp_path / "data" / "test", {"0": 5, "1": 5}, first=20)
    digit_image(7, 0).save(tmp_path / "data" / "test" / "1" / "wrong.png")
    digit_image(0, 40).save(tmp_path / "data" / "test" / "1" / "zero.png")
    (tmp_path / "data" / "test" / "1" / "broken.png").write_bytes(b"no image")
    record = api.audit_data(tmp_path / "data", model=model, num_workers=0).report()["label_errors"]
    assert record["checked"] == 52
    assert any(row["image"].endswith("zero.png") and row["split"] == "test" for row in record["suspects"])


# ---------- any checkpoint


def masked(folder):
    config = ViTCustomConfig.from_variant("nano/4", **SIZE)
    ViTCustomForMaskedImageModeling(config).save_pretrained(folder)
    ViTCustomImageProcessor.for_model(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "save",
    [
        masked,
        save_transformers_vit,
        lambda folder: save_ours(folder, **SIZE, num_labels=0, id2label={}),
        lambda folder: save_ours(folder, **SIZE, pooling="map"),
    ],
    ids=["masked", "transformers", "encoder", "attention pooling"],
)
def test_the_encoder_of_any_checkpoint_is_used(spoilt, tmp_path, save):
    record = api.audit_data(spoilt[0], model=save(tmp_path / "m"), num_workers=0, image_cache="off").report()
    assert record["label_errors"]["checked"] == 120


def test_a_model_that_cannot_be_read_is_named_by_our_flag(spoilt, tmp_path):
    with pytest.raises(UsageError, match=r"--model .*nowhere cannot be used"):
        api.audit_data(spoilt[0], model=tmp_path / "nowhere", num_workers=0)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"^--model "):
        api.audit_data(spoilt[0], model=tmp_path, num_workers=0)


# ---------- what to label next


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Return 60 digits without labels; some are copies, of one another or of labelled ones."""
    root = tmp_path_factory.mktemp("pool") / "more"
    for digit in (0, 1, 4, 7):
        for n in range(30, 45):
            write_class_folder(root, {str(digit): 1}, first=n)
            (root / str(digit) / f"{n}.png").rename(root / f"{digit}-{n}.png")
    for n in range(30, 40):
        digit_image(0, n).save(root / f"again-{n}.png")
        digit_image(4, n).resize((32, 32), Image.Resampling.LANCZOS).save(root / f"larger-{n}.png")
        digit_image(1, n - 20).save(root / f"labelled-{n - 20}.png")
    (root / "broken.png").write_bytes(b"no image")
    Image.new("L", (8, 8), 9).save(root / "blank.png")
    return root


def shown(name):
    """Return the digit and its number that an image of the pool shows."""
    kind, number = name.removesuffix(".png").split("-")
    return {"again": "0", "larger": "4"}.get(kind, kind), int(number)


@pytest.mark.parametrize("budget", [10, 500])
def test_nothing_is_suggested_twice_or_is_labelled_already(spoilt, model, pool, budget):
    audit = api.audit_data(spoilt[0], model=model, num_workers=0, unlabelled=pool, budget=budget)
    record = audit.report()["label_next"]
    names = [row["image"].rpartition("/")[2] for row in record["images"]]
    assert len(names) == min(budget, record["considered"]) and 30 <= record["considered"] <= 60
    assert not [name for name in names if name.startswith(("labelled", "broken", "blank"))]
    assert len({shown(name) for name in names}) == len(names)
    one = found(audit, "label-next")
    assert one.severity == "note" and one.count == len(one.examples) == len(names)
    assert [audit.images[example.images[0]] for example in one.examples] == [row["image"] for row in record["images"]]


def test_the_default_is_fifty(spoilt, model, pool):
    write = api.audit_data(spoilt[0], model=model, num_workers=0, unlabelled=pool).report()["label_next"]
    assert len(write["images"]) == min(50, write["considered"])


# ---------- hostile names, refusals


def test_hostile_names_are_text(tmp_path, model):
    root = write_class_folder(tmp_path / "data", {"0": 40, "1": 40})
    (root / "1").rename(root / HOSTILE)
    for n in range(40, 48):
        digit_image(0, n).save(root / HOSTILE / f"\u202e<script>alert({n})<.png")
    more = tmp_path / "more"
    more.mkdir()
    for n in range(41, 46):
        digit_image(1, n).save(more / f"<u onclick=x>{n}.png")
    audit = api.audit_data(root, model=model, num_workers=0, unlabelled=more, html=tmp_path / "a.html")
    assert "\u202e<script>alert(4" in found(audit, "label-errors").examples[0].text
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    tags = Tags(text)
    assert not {"script", "u"} & set(tags.tags) and not tags.handlers and "\u202e" not in text
    assert "looks like 0" in text and f"labelled {'&lt;img src=x'}" in text and "label-next" in text
    assert "\u202e" not in text_report(audit)


def test_what_cannot_be_checked_is_refused_in_a_sentence_before_any_work(tmp_path, model, pool, monkeypatch):
    monkeypatch.setattr("modeling_vit_custom.audit.audit.scan_images", lambda *_: pytest.fail("images were decoded"))
    write_class_folder(tmp_path / "data", {"0": 8, "1": 8})
    for name, labels in (("tags", ["0|1", "1"]), ("values", ["0.5", "1.5"])):
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            rows = [[f"data/{i % 2}/{i // 2}.png", labels[i % 2]] for i in range(16)]
            csv.writer(file).writerows([["image", "label"], *rows])
        with pytest.raises(UsageError, match=r"one class, and train is (multi_label|regression).*leave --model out"):
            api.audit_data(tmp_path / f"{name}.csv", model=model, num_workers=0)
    few = write_class_folder(tmp_path / "few", {"0": 8, "1": 4})
    with pytest.raises(UsageError, match="two classes or more that have 5 images each; here are 1"):
        api.audit_data(few, model=model, num_workers=0)
    with pytest.raises(DataError, match="no image among"):
        (tmp_path / "empty").mkdir()
        api.audit_data(tmp_path / "data", model=model, num_workers=0, unlabelled=tmp_path / "empty")


@pytest.mark.parametrize(
    "flags,said",
    [
        ({"unlabelled": "more"}, "--unlabelled goes with --model"),
        ({"revision": "main"}, "--revision goes with --model"),
        ({"model": "m", "budget": 5}, "--budget says how many"),
        ({"model": "m", "unlabelled": "more", "budget": 0}, "--budget is 0"),
        ({"num_workers": -1}, "--num_workers is -1"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path, flags, said):
    with pytest.raises(UsageError, match=said):
        api.audit_data(write_clean(tmp_path / "data"), **flags)
