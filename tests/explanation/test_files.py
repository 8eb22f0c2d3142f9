"""`vit-custom explain` writes what `explain` finds: for each image a picture, a part of a page or a record."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from real_digits import write_class_folder
from saved_models import save_ours

from modeling_vit_custom import api
from modeling_vit_custom.cli import main
from modeling_vit_custom.explanation import writing
from modeling_vit_custom.explanation.files import COMPARED, picture_name
from modeling_vit_custom.explanation.resume import UnfinishedFiles


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a model and four digits in two folders, of equal names."""
    place = tmp_path_factory.mktemp("explain")
    save_ours(place / "model")
    write_class_folder(place / "digits", {"0": 2, "1": 2})
    return place


def run(place, *flags):
    return main(["explain", "--model", str(place / "model"), str(place / "digits"), *map(str, flags)])


def records_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_each_image_gets_the_picture_and_the_record_of_explain(place, tmp_path, capsys):
    assert run(place, "--output", tmp_path / "out") == 0
    records = records_of((tmp_path / "out" / "explanations.jsonl").read_text())
    assert [record["picture"] for record in records] == ["0.png", "1.png", "0-2.png", "1-2.png"]
    alone = api.explain(place / "model", records[2]["path"])
    assert torch.tensor(records[2]["grid"]) == pytest.approx(alone.grid[0], abs=1e-5)
    assert records[2]["faithfulness"]["srg"] == pytest.approx(alone.faithfulness[0]["srg"], abs=1e-5)
    with Image.open(tmp_path / "out" / records[2]["picture"]) as picture:
        assert picture.size == alone.image().size
    shown = capsys.readouterr().out
    assert all(record["faithfulness"]["sentence"] in shown for record in records)


def test_a_target_may_be_a_name_or_a_number_and_a_contrast_changes_the_map(place):
    (plain,) = api.explain_files(place / "model", place / "digits" / "0" / "0.png", target="3", output="-").records
    assert (plain["label"], plain["target"], plain["contrast"]) == ("3", 3, None)
    options = {"target": "3", "output": "-", "check": False, "confirm": 0}
    (against,) = api.explain_files(place / "model", place / "digits" / "0" / "0.png", contrast="5", **options).records
    assert against["contrast"] == "5" and against["grid"] != plain["grid"]
    assert against["faithfulness"] is None and all(cell["confirmed"] is None for cell in against["top_cells"])


def test_all_methods_stand_on_one_sheet(place, tmp_path):
    image = place / "digits" / "1" / "0.png"
    explained = api.explain_files(place / "model", image, method="all", output=tmp_path / "out", confirm=0)
    assert [record["method"] for record in explained.records] == list(COMPARED)
    assert {record["picture"] for record in explained.records} == {"0.png"}
    blind = [record["method"] for record in explained.records if record["caveat"]]
    assert blind == ["attention", "rollout"]
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def test_the_page_shows_every_answer_in_words_too(place, tmp_path):
    assert run(place, "--output", tmp_path / "out", "--format", "html", "--confirm", 0) == 0
    text = (tmp_path / "out" / "explanations.html").read_text()
    records = records_of((tmp_path / "out" / "explanations.jsonl").read_text())
    for record in records:
        assert record["path"] in text and record["faithfulness"]["sentence"] in text
    alternatives = re.findall(r'alt="([^"]*)"', text)
    assert len(alternatives) == 2 * len(records) and all(alternatives)
    assert not list((tmp_path / "out").glob("*.png"))


def test_a_page_stops_growing(place, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "MAX_ON_PAGE", 2)
    assert run(place, "--output", tmp_path / "out", "--format", "html", "--check", "off", "--confirm", 0) == 0
    text = (tmp_path / "out" / "explanations.html").read_text()
    assert "2 answers, the first 2" in text and text.count("<section") == 2


def test_an_unreadable_image_has_its_error_and_stops_nothing(place, tmp_path, capsys):
    folder = tmp_path / "mixed"
    write_class_folder(folder, {"0": 2})
    (folder / "0" / "0.png").write_bytes(b"no image")
    assert main(["explain", "--model", str(place / "model"), str(folder), "--output", "-", "--check", "off"]) == 1
    printed = capsys.readouterr()
    bad, good = records_of(printed.out)
    assert "error" in bad and "0.png" in printed.err and good["path"].endswith("1.png")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--target", "cat"], "target='cat' is none of the model's 10 classes"),
        (["--target", "3", "--contrast", "3"], "contrast='3' is what is explained"),
        (["--output", "MODEL/maps"], "lies in"),
        (["--output", "OTHER"], "holds other files and no explanations.jsonl"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(place, tmp_path, flags, said, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    places = {"MODEL/maps": place / "model" / "maps", "OTHER": tmp_path / "other"}
    flags = [str(places.get(flag, flag)) for flag in flags]
    output = [] if "--output" in flags else ["--output", str(tmp_path / "new")]
    assert run(place, *flags, *output) == 2
    assert said in capsys.readouterr().err
    assert not (place / "model" / "maps").exists() and not list(tmp_path.glob("new/*.png"))


def test_pictures_never_share_a_name():
    used: dict[str, int] = {}
    given = ["a/cat.jpg", "b/cat.png", "cat-2.jpg", "c/cat.jpg", "c/cat-2.gif"]
    names = [picture_name(path, used) for path in given]
    assert len({*names}) == len(given) and names[:2] == ["cat.png", "cat-2.png"]


@pytest.mark.parametrize("form", ["png", "html"])
def test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_been(place, tmp_path, monkeypatch, form):
    """Killed at the third answer, with a torn line; another target starts afresh."""
    given = {"model": place / "model", "inputs": place / "digits", "format": form, "check": False, "confirm": 0}
    given |= {"batch_size": 1}
    whole, folder = api.explain_files(**given, output=tmp_path / "whole"), tmp_path / "out"
    add, count = UnfinishedFiles.add, []

    def stop(self, *what):
        count.append(None)
        if len(count) == 4:
            with open(folder / "explanations.jsonl", "a") as torn:
                torn.write('{"path": "')
            raise KeyboardInterrupt
        add(self, *what)

    with monkeypatch.context() as stopped:
        stopped.setattr(UnfinishedFiles, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            api.explain_files(**given, output=folder)
    other = shutil.copytree(folder, tmp_path / "other")
    again = api.explain_files(**given, output=folder)
    assert again.notes[0].startswith("2 images were explained before") and again.records == whole.records
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert all((folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)
    changed = api.explain_files(**given, target=3, output=other)
    assert not any("before this run" in note for note in changed.notes) and {r["target"] for r in changed.records} == {
        3
    }


def test_pictures_show_the_photo_itself_with_what_was_cropped_hatched(place, tmp_path):
    """The view of the model is the part of the photo that the map covers, and a tensor has no photo."""
    from photo_digits import photographs

    model, processor = api.load(place / "model")
    processor.do_center_crop, processor.crop_size = True, {"height": 8, "width": 8}
    processor.size = {"shortest_edge": 8}
    photo = photographs()[1].crop((0, 0, 640, 320))
    explained = api.explain(model, photo, processor=processor, check=False, confirm=0)
    shown, (top, left, bottom, right) = explained.photo(0)
    assert shown.shape == (320, 640, 3) and (top, left, bottom, right) == (0, 160, 320, 480)
    part = Image.fromarray(shown[top:bottom, left:right]).resize((8, 8), Image.Resampling.BILINEAR)
    view = explained.photos[0].astype(float)
    assert abs(np.asarray(part.convert("L"), float) - view.mean(axis=2)).mean() < 12
    assert (
        explained.image(0).size
        != api.explain(
            model, processor(photo, return_tensors="pt")["pixel_values"], processor=processor, check=False, confirm=0
        )
        .image(0)
        .size
    )
