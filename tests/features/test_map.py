"""A map puts similar images near one another, and its page is one file in which no name can run as code."""

import json
import re

import numpy as np
import pytest
from html_pages import HOSTILE, Tags, drop_policy, look
from real_digits import digit_image, encoded_digit, write_class_folder
from saved_models import save_ours

from modeling_vit_custom import api
from modeling_vit_custom.cli import main
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.features.projection import project, trustworthiness_of


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_ours(tmp_path_factory.mktemp("model") / "m")


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_neighbours_stay_neighbours():
    """Three groups of directions: the nearest place of a point is one of its own group, and chance is no better."""
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(3), 20)
    vectors = unit(generator.standard_normal((3, 16))[groups] + 0.1 * generator.standard_normal((60, 16)))
    places = project(vectors)
    assert places.shape == (60, 2) and places.min() >= 0 and places.max() <= 1 and np.ptp(places, axis=0).max() == 1
    far = np.linalg.norm(places[:, None] - places, axis=2) + 9 * np.eye(60)
    assert (groups[far.argmin(axis=1)] == groups).all()
    assert trustworthiness_of(vectors, places) > 0.9 > 0.6 > trustworthiness_of(vectors, generator.random((60, 2)))
    assert np.array_equal(places, project(vectors))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_few_and_equal_vectors_have_places(count):
    for vectors in (unit(np.ones((count, 5))), unit(np.random.default_rng(0).standard_normal((count, 5)))):
        places = project(vectors)
        assert places.shape == (count, 2) and np.isfinite(places).all() and (places >= 0).all() and (places <= 1).all()


@pytest.fixture
def hostile(tmp_path):
    """Return a folder with a class and files whose names could act as HTML, JSON or text that steers."""
    root = write_class_folder(tmp_path / "data", {"0": 6, "1": 6})
    (root / "1").rename(root / "a & 'b' \"c\"")
    for number, name in enumerate([f"{HOSTILE}.png", "</template><script>alert(1)<.png", "\u202esame\U000e0041.png"]):
        path = root / "0" / name.replace("/", "\u2215")
        path.parent.mkdir(exist_ok=True)
        digit_image(2, number).save(path)
    return root


def test_the_page_is_one_file_whose_names_are_text(model, hostile, tmp_path):
    (hostile / "0" / "bad.png").write_bytes(b"no image")
    mapped = api.map_images(tmp_path / "map.html", model=model, data_dir=hostile)
    assert (mapped.images, mapped.points, mapped.classes, mapped.pictures) == (15, 15, 2, 15)
    assert any("bad.png" in note for note in mapped.notes)
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    tags = Tags(text)
    assert tags.tags.count("script") == 1 and not {"img", "iframe", "object", "link"} & set(tags.tags)
    assert not tags.handlers and not tags.addresses and "\u202e" not in text
    assert "default-src 'none'" in text and "http" not in text.replace("http-equiv", "")
    assert len(re.findall(r"M[\d.]+ [\d.]+h0", text)) == 15


@pytest.mark.parametrize("with_policy", [True, False])
def test_in_a_browser_pointer_keys_and_buttons_show_images(model, hostile, tmp_path, chromium, with_policy):
    api.map_images(tmp_path / "map.html", model=model, data_dir=hostile)
    if not with_policy:
        drop_policy(tmp_path / "map.html")

    def check(tab):
        name, label = tab.locator(".seen .text"), tab.locator(".seen b")
        tab.locator(".map svg").focus()
        seen = set()
        for key in ["ArrowLeft"] * 15 + ["ArrowRight"] * 15 + ["ArrowDown"] * 6 + ["ArrowUp"] * 9:
            tab.keyboard.press(key)
            seen.add(name.inner_text())
        assert len(seen) > 5 and all(each.endswith(".png") for each in seen)
        assert tab.evaluate("getComputedStyle(document.querySelector('.tile-of i')).backgroundImage").startswith("url(")
        button = tab.locator(".legend button").nth(1)
        button.click()
        assert button.get_attribute("aria-pressed") == "true" and tab.locator("svg path.picked").count() == 1
        tab.locator(".map svg").focus()
        tab.keyboard.press("ArrowLeft")
        assert label.inner_text() == "a & 'b' \"c\""
        button.click()
        box = tab.evaluate(
            """() => { const svg = document.querySelector(".map svg"), path = svg.querySelector("path");
            svg.scrollIntoView(); const at = path.getAttribute("d").slice(1).split("h")[0].split(" ").map(Number);
            const place = new DOMPoint(...at).matrixTransform(svg.getScreenCTM());
            return [place.x, place.y, JSON.parse(path.dataset.points)[0][0]] }"""
        )
        tab.mouse.move(box[0], box[1])
        assert name.inner_text() == box[2]

    look(chromium, tmp_path / "map.html", tmp_path, check)


def test_more_images_are_sampled_and_pictures_come_from_the_data(model, tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": [encoded_digit(n % 3, n) for n in range(30)], "label": [str(n % 3) for n in range(30)]})
    pq.write_table(table, tmp_path / "t.parquet")
    api.index(model, tmp_path / "t.parquet", tmp_path / "ix")
    words = ["map", "--index", str(tmp_path / "ix"), "--output", str(tmp_path / "m.html"), "--points", "25"]
    assert main(words) == 0
    assert "25 of 30 images, 3 classes, 0 pictures" in capsys.readouterr().out
    assert "25 of these images could not be opened" in (tmp_path / "m.html").read_text()
    assert main([*words, "--data", str(tmp_path / "t.parquet")]) == 0
    assert "25 of 30 images, 3 classes, 25 pictures, trustworthiness" in capsys.readouterr().out
    text = (tmp_path / "m.html").read_text()
    assert "25 of 30 images are drawn, chosen at random with seed 0" in text
    with pytest.raises(UsageError, match="one of the two"):
        api.map_images(tmp_path / "m.html", tmp_path / "ix", model)
    with pytest.raises(UsageError, match="needs images"):
        api.map_images(tmp_path / "m.html", model=model)


def test_images_without_a_label_and_many_classes(model, tmp_path):
    for number in range(34):
        digit_image(number % 10, number).save(tmp_path / f"{number}.png")
    rows = [f"{n}.png,class {n if n else 1}" for n in range(34)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label", *rows]))
    api.map_images(tmp_path / "m.html", model=model, data_dir=tmp_path / "t.csv")
    text = (tmp_path / "m.html").read_text()
    assert "3 more classes" in text and text.count("<button") == 31
    (tmp_path / "u.csv").write_text("image\n0.png\n1.png\n2.png")
    mapped = api.map_images(tmp_path / "m.html", model=model, data_dir=tmp_path / "u.csv")
    assert mapped.classes == 0 and "<button" not in (tmp_path / "m.html").read_text()
    assert json.loads(mapped.to_json())["points"] == 3
