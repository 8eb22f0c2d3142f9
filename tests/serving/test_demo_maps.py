"""The maps below an answer of the demo are those of `explain`; plain answers beside them stay as they are."""

import base64
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from demo_attacks import _first_lines
from demo_server import running_demo
from html_pages import HOSTILE, Tags
from image_files import photograph
from PIL import Image
from saved_models import save_ours

from modeling_vit_custom.api import explain, load
from modeling_vit_custom.explanation.live import LiveExplainer
from modeling_vit_custom.explanation.pictures.colours import scale_of
from modeling_vit_custom.explanation.pictures.panels import overlay_panel, subject_of
from modeling_vit_custom.explanation.result import Explanation
from modeling_vit_custom.serving.demo_maps import ANSWER, HINT, NONE, SIDE, maps_of, page_of
from modeling_vit_custom.tasks import classification_demo as demo

LABELS = {0: "cat", 1: "dog", 2: "tea & pot"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = save_ours(tmp_path_factory.mktemp("demo") / "m", num_channels=3, num_labels=3, id2label=LABELS)
    (folder / "examples").mkdir()
    for n in range(2):
        photograph(30 + n, 24).save(folder / "examples" / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def classifier(model):
    return demo.Classifier(str(model))


@pytest.fixture(scope="module")
def explainer(classifier):
    return LiveExplainer(classifier.model, classifier.processor)


def pictures_in(page: str) -> list[np.ndarray]:
    """Return the pictures of the figures of a page."""
    found = re.findall(r'<figure[^>]*>\s*<img class="photo" src="data:image/png;base64,([^"]*)"', page)
    return [np.asarray(Image.open(BytesIO(base64.b64decode(one)))) for one in found]


@cache
def explained(model: Path, path: Path, *classes: int | None) -> list[Explanation]:
    net, processor = load(model)
    return [explain(net, str(path), one, processor=processor) for one in classes]


def expected(model: Path, path: Path, *classes: int | None) -> list[np.ndarray]:
    """Return the pictures of the maps that `explain` makes, on one scale."""
    found = explained(model, path, *classes)
    drawn = [one.drawn(0) for one in found]
    scale = scale_of(*(one.grid for one in drawn))
    subject = subject_of(found[0].photos[0], drawn, (0, 0, *found[0].seen), SIDE, cells=False)
    return [np.asarray(overlay_panel(subject, one, scale)) for one in drawn]


def test_maps_are_those_of_explain_on_one_scale_with_their_caveats(model, classifier, explainer):
    path = model / "examples" / "0.png"
    for first, second, classes in ((ANSWER, NONE, [None]), (0, 2, [0, 2])):
        page = maps_of(classifier, explainer, str(path), first, second)
        wanted = expected(model, path, *classes)
        assert all(np.array_equal(*pair) for pair in zip(pictures_in(page), wanted, strict=True))
        for found in explained(model, path, *classes):
            little = found.little(0)
            assert escape(found.faithfulness[0]["sentence"]) in page and (not little or escape(little) in page)
            assert escape(found.drawn(0).title) in page
    page = page_of([replace(found, label=[HOSTILE], remarks=[[HOSTILE]], notes=[HOSTILE])])
    tags = Tags(page)
    assert tags.tags.count("img") == 2 and not tags.handlers and page.count(escape(HOSTILE)) == 5


def test_an_image_that_is_none_is_said_as_the_page_says_it(classifier, explainer, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    page = maps_of(classifier, explainer, str(tmp_path / "bad.jpg"), ANSWER)
    assert page == demo.classify(classifier, str(tmp_path / "bad.jpg"))[1] and 'role="alert"' in page
    assert str(tmp_path) not in maps_of(classifier, explainer, str(tmp_path / "gone.jpg"), ANSWER)
    assert HINT in maps_of(classifier, explainer, None, ANSWER)
    (drawn, *_) = demo.drawn_pictures(*classifier.size, 3)
    assert len(pictures_in(maps_of(classifier, explainer, drawn, 0, 1))) == 2


def test_answers_beside_maps_are_those_alone(model, classifier, explainer):
    paths = [str(model / "examples" / f"{n}.png") for n in range(2)]

    def scores(path: str):
        return classifier.scores(classifier.prepare(path).pixels[None])

    alone, maps = [*map(scores, paths)], [maps_of(classifier, explainer, path, ANSWER) for path in paths]
    with ThreadPoolExecutor(6) as pool:
        drawn = [pool.submit(maps_of, classifier, explainer, paths[n % 2], ANSWER) for n in range(4)]
        answers = [pool.submit(scores, paths[n % 2]) for n in range(40)]
        assert [one.result() for one in answers] == alone * 20
        assert [one.result() for one in drawn] == maps * 2


@pytest.mark.slow
def test_in_a_browser(model, chromium, tmp_path):
    """The command's own page: off by default, one class, two classes, the next image, an unreadable one."""
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    script = Path(__file__).parents[2] / "scripts" / "demo.py"
    with running_demo(script, model, tmp_path, hidden=False) as server:
        answer = server.call("classify", server.upload(model / "examples" / "0.png"))
        assert answer[0]["predictions"] and answer[2:] == [None, None], "where the image lies stays on the server"
        for index in range(10):  # a stranger names the image himself
            said = {"data": [str(model / "examples" / "0.png"), True, ANSWER, NONE], "fn_index": index}
            said["session_hash"] = f"stranger{index}"
            if server.http.post("/gradio_api/queue/join", json=said).status_code == 200:
                where = f"/gradio_api/queue/data?session_hash=stranger{index}"
                with server.http.stream("GET", where) as stream:
                    assert "<figure" not in _first_lines(stream).text, index
        page = chromium.new_page(viewport={"width": 1280, "height": 860})
        page.goto(server.url)
        page.locator("#examples button").nth(0).click()
        page.locator("#one").get_by_text("0.png").wait_for()
        assert page.locator("#maps figure").count() == 0 and not page.get_by_label("Beside it").is_visible()
        page.locator("#tick input").check()
        page.locator("#maps figure").wait_for()
        wanted = expected(model, model / "examples" / "0.png", None)
        assert np.array_equal(pictures_in(page.inner_html("#maps"))[0], wanted[0])
        page.get_by_label("Evidence for").click()
        page.get_by_role("option", name="cat").click()
        page.locator("#maps").get_by_text("cat, p").wait_for()
        page.get_by_label("Beside it").click()
        page.get_by_role("option", name="dog").click()
        page.locator("#maps figure").nth(1).wait_for()
        assert "dog, p" in page.inner_text("#maps figure:nth-child(2)")
        page.locator("#examples button").nth(1).click()
        page.locator("#one").get_by_text("1.png").wait_for()
        wanted = expected(model, model / "examples" / "1.png", 0, 1)
        for _ in range(100):
            found = pictures_in(page.inner_html("#maps"))
            if len(found) == 2 and np.array_equal(found[0], wanted[0]):
                break
            page.wait_for_timeout(100)
        assert all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))
        for width in (1280, 400):
            page.set_viewport_size({"width": width, "height": 860})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing hangs over the side"
        page.set_input_files("#drop input[type=file]", tmp_path / "bad.jpg")
        page.locator("#one").get_by_role("alert").wait_for()
        page.locator("#maps").get_by_text(HINT).wait_for()
        page.close()
        assert "OUTSIDE" not in server.log.read_text()
