"""The demo page shows the model's own answers, changes no image before the model gets it, and reveals nothing else."""

import ast
import base64
import csv
import json
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from io import BytesIO, StringIO
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from demo_attacks import ATTACKS, MARK, counting_server
from demo_server import WATCH_NETWORK, running_demo
from huggingface_hub.repocard import metadata_load
from image_files import encode, huge_png, photograph, rotated
from PIL import Image
from safetensors.torch import load_file, save_file
from saved_models import save_ours, save_transformers_vit
from transformers import AutoImageProcessor, AutoModelForImageClassification

from modeling_vit_custom.commands.demo import main as demo_command
from modeling_vit_custom.image_decoding_vit_custom import decode_image
from modeling_vit_custom.publishing.golden import _write_example
from modeling_vit_custom.publishing.publish import draw_images
from modeling_vit_custom.publishing.space import write_space
from modeling_vit_custom.tasks import classification_demo as demo
from modeling_vit_custom.tasks.hub import CLASSIFICATION

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</div></td>{{ 7 * 7 }}&lt;b&gt;"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Save an RGB classifier with two example images."""
    folder = save_ours(tmp_path_factory.mktemp("demo") / "digits", num_channels=3)
    (folder / "examples").mkdir()
    for n in range(2):
        photograph(30 + n, 24).save(folder / "examples" / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write files that decoding or encoding by the page would change, and one that is not an image."""
    folder = tmp_path_factory.mktemp("files")
    photo = photograph()
    half = photo.convert("RGBA")
    half.putalpha(Image.linear_gradient("L").resize(photo.size))
    deep = Image.fromarray((np.asarray(photo.convert("L")).astype(np.uint16) * 257)[::-1].copy())
    frames = {"save_all": True, "append_images": [photo.rotate(90), photo.rotate(180)]}
    contents = {
        "plain.png": encode(photo, "PNG"),
        "transparent.png": encode(half, "PNG"),
        "deep.png": encode(deep, "PNG"),
        "turned.jpg": rotated(photo, "JPEG", 6),
        "moving.gif": encode(photo, "GIF", **frames),
        "page.tif": encode(photo, "TIFF"),
        "bad.jpg": b"no image",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """Run a written Space's app.py on a local folder, in a process without this package."""
    work = tmp_path_factory.mktemp("space")
    write_space(work / "space", "someone/digits", COMMIT, CLASSIFICATION)
    with running_demo(work / "space" / "app.py", model, work) as running:
        yield running


def expected(model: Path, path: Path) -> list[tuple[str, float]]:
    """Return (label, score) from best to worst, from the model called directly."""
    net = AutoModelForImageClassification.from_pretrained(model, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(model, trust_remote_code=True)
    with torch.no_grad():
        scores = net(processor(str(path), return_tensors="pt")["pixel_values"]).logits[0].softmax(-1)
    return sorted(((net.config.id2label[i], float(s)) for i, s in enumerate(scores)), key=lambda pair: -pair[1])


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("plain.png", None),
        ("transparent.png", "transparent parts"),
        ("deep.png", "16 bits"),
        ("turned.jpg", "turned upright"),
        ("moving.gif", "the first of 3 frames"),
        ("page.tif", None),
    ],
)
def test_a_space_answers_over_http_what_the_model_says(server, model, files, name, note):
    found, page, emptied = server.call("classify", server.upload(files[name]))
    best = expected(model, files[name])[:5]
    assert [entry["label"] for entry in found["predictions"]] == [label for label, _ in best]
    assert [entry["score"] for entry in found["predictions"]] == pytest.approx([score for _, score in best], abs=1e-5)
    assert found["file"] == name and emptied is None
    assert len(found["notes"]) == (note is not None) and (note is None or note in found["notes"][0])
    assert page.count("data:image/png;base64,") == 2 and f"{best[0][1]:.1%}" in page
    assert found["model_ms"] > 0 and found["preprocess_ms"] > 0


def test_an_unreadable_file_is_named_without_the_servers_paths(server, files):
    found, page, _ = server.call("classify", server.upload(files["bad.jpg"]))
    assert found["error"].startswith("bad.jpg: not an image") and 'role="alert"' in page
    assert "/" not in found["error"].split("Fix")[0]


@pytest.mark.parametrize("side", [12_000, 30_000], ids=["refused here", "refused by Pillow"])
def test_too_large_an_image_is_refused_in_words_for_no_programmer(server, tmp_path, side):
    (tmp_path / "huge.png").write_bytes(huge_png(side))
    found, page, _ = server.call("classify", server.upload(tmp_path / "huge.png"))
    rows, table = server.call("classify_many", [server.upload(tmp_path / "huge.png")])
    assert found["error"].startswith("huge.png: refused before decoding: ") and found["error"] == rows[0]["error"]
    assert found["error"].endswith(" Fix: shrink it.")
    assert not [word for word in ("ImageLimits", "PIL", "--max_pixels") if word in page + table]


def test_a_batch_reports_every_file_in_order(server, model, files):
    rows, page = server.call("classify_many", [server.upload(path) for path in files.values()])
    assert [row["file"] for row in rows] == list(files)
    for row in rows[:-1]:
        label, score = expected(model, files[row["file"]])[0]
        assert (row["label"], row["error"]) == (label, "") and float(row["score"]) == pytest.approx(score, abs=1e-4)
    assert rows[-1]["label"] == "" and rows[-1]["error"].startswith("bad.jpg: ")
    assert "7 files, 1 of them unreadable" in page


def test_too_many_files_are_refused_with_the_way_out(server, files):
    rows, page = server.call("classify_many", [server.upload(files["plain.png"])] * (demo.MAX_FILES + 1))
    assert rows == [] and "at most 200" in page


def test_nothing_else_of_the_machine_is_given_away(server, model, files):
    own = Path(demo.__file__)
    for path in (own, model / "config.json", model / "examples" / "0.png", files["plain.png"], Path("app.py")):
        assert server.http.get(f"/gradio_api/file={path}").status_code in (403, 404), path
        forged = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        assert server.call("classify", forged) is None and server.call("classify_many", [forged]) is None, path


def test_an_address_is_not_fetched(server):
    for url in (f"{server.url}/config", "http://example.com/x.png", "file:///etc/hostname"):
        for forged in ({"path": url}, {"path": "x.png", "url": url}, {"url": url}):
            assert server.call("classify", {**forged, "meta": {"_type": "gradio.FileData"}}) is None, url


def test_large_files_are_refused(server, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(21 * 1024 * 1024))
    content = (tmp_path / "large.png").read_bytes()
    assert server.http.post("/gradio_api/upload", files={"files": ("large.png", content)}).status_code == 413


@pytest.mark.parametrize("name", ATTACKS)
def test_a_stranger_gets_no_file_and_no_address_of_the_machine(server, files, name):
    """No answer holds the file, nothing requests the address, and the page still works."""
    secret = server.log.parent / "secret.txt"
    secret.write_text(MARK)
    with counting_server() as (address, asked):
        answers = list(ATTACKS[name](server, secret, address))
    assert answers and not [answer.url for answer in answers if MARK in answer.text]
    assert not [answer.url for answer in answers if str(address) in answer.headers.get("location", "")]
    assert not asked and "OUTSIDE" not in server.log.read_text()
    assert server.call("classify", server.upload(files["plain.png"]))[0]["predictions"]


def test_a_bomb_is_refused_and_many_at_once_are_answered(server, model, files, tmp_path):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 10_000)).save(bomb)
    assert "limit" in server.call("classify", server.upload(bomb))[0]["error"]

    def one(name: str) -> str:
        return server.call("classify", server.upload(files[name]))[0]["predictions"][0]["label"]

    names = [name for name in files if name != "bad.jpg"] * 3
    with ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(one, names))
    assert labels == [expected(model, files[name])[0][0] for name in names]


def test_the_page_comes_from_this_machine_alone(server):
    """Runs after the others: the process has contacted nothing outside. The next test shows that this would be seen."""
    assert "OUTSIDE" not in server.log.read_text()
    assert not Path(demo.__file__).with_suffix(".pyi").exists(), "Gradio writes a .pyi beside a component's subclass"
    page = server.http.get("/").text
    assert "fonts.googleapis" not in page and "fonts.gstatic" not in page
    assert server.http.get("/config").json()["analytics_enabled"] is False


def test_the_network_watch_sees(tmp_path):
    look_up = "import socket\n" + WATCH_NETWORK + "\ntry: socket.create_connection(('192.0.2.1', 9), 0.01)\n"
    done = subprocess.run([sys.executable, "-c", look_up + "except OSError: pass"], capture_output=True, text=True)
    assert "OUTSIDE socket.getaddrinfo 192.0.2.1" in done.stderr


# ---------- the functions


@pytest.fixture(scope="module")
def classifier(model):
    return demo.Classifier(str(model))


def test_the_model_view_is_the_image_itself_where_nothing_is_resized(classifier, tmp_path):
    height, width = classifier.size
    photo = photograph(width, height)
    photo.save(tmp_path / "exact.png")
    view = classifier.model_view(classifier.prepare(str(tmp_path / "exact.png")).pixels)
    assert np.array_equal(np.asarray(view), np.asarray(photo))


@pytest.mark.parametrize(
    ("size", "channels"), [((20, 32), 3), ((20, 32), 1), ((20, 32), 5), ((20, 32), 2), ((384, 384), 3)], ids=str
)
def test_drawn_examples_of_a_publication_are_known_as_drawn(tmp_path, size, channels):
    """Those that `publish` draws, as they lie in examples/, also where they were shrunk; photographs are not."""
    drawn = demo.drawn_pictures(*size, channels)
    for number, source in enumerate(draw_images(tmp_path, {"image_size": size, "num_channels": channels})):
        example = tmp_path / f"example{number}{source.suffix}"
        _write_example(source, example, channels)
        decoded = decode_image(example, num_channels=channels)
        assert demo.example_of(str(example), decoded, drawn) is drawn[number]
    if channels in (1, 3):
        photograph(60, 44).save(tmp_path / "photo.png")
        decoded = decode_image(tmp_path / "photo.png", num_channels=channels)
        assert demo.example_of("photo.png", decoded, drawn) == "photo.png"


def test_without_examples_drawn_ones_are_offered_and_shown_as_no_photographs(model, tmp_path, classifier, monkeypatch):
    bare = demo.Classifier(shutil.copytree(model, tmp_path / "m", ignore=shutil.ignore_patterns("examples")))
    for shown, count, words in ((classifier, 2, "these</p>"), (bare, 3, "these, which are drawn, not photographs</p>")):
        monkeypatch.setitem(sys.modules, "gradio", gradio := MagicMock())  # Gradio's own leaves event loops open
        demo.build(shown)
        assert [len(call.args[0]) for call in gradio.Gallery.call_args_list] == [count]
        assert [call for call in gradio.HTML.call_args_list if call.args[0].endswith(f"or try one of {words}")]
    for one in demo.drawn_pictures(*bare.size, 3):
        found, html = demo.classify(bare, one)
        assert "<h2>Not a photograph</h2>" in html and html.count("<h2>") == 1
        assert found["notes"] == [demo.DRAWN_NOTE] and demo.DRAWN_NOTE in html and found["file"] == "a drawn picture"
        assert 'id="model-view"' in html


@pytest.mark.parametrize("task", ["multi_label_classification", "regression"])
def test_other_tasks(tmp_path, files, task):
    folder = save_ours(tmp_path / "m", problem_type=task, num_labels=2, id2label={0: "round", 1: "thin"})
    other = demo.Classifier(str(folder))
    found, page = demo.classify(other, str(files["plain.png"]))
    pixels = other.prepare(str(files["plain.png"])).pixels[None]
    logits = other.model(pixel_values=pixels).logits[0].detach()
    if task == "regression":
        assert [entry["value"] for entry in found["predictions"]] == pytest.approx(logits.tolist(), abs=1e-5)
        assert "%" not in page.split("pictures")[0]
    else:
        scores = {entry["label"]: entry["score"] for entry in found["predictions"]}
        assert [scores["round"], scores["thin"]] == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)
    (row,) = demo.classify_many(other, [str(files["plain.png"])])
    assert row["label"] and not row["error"] and bool(row["score"]) == (task != "regression")


class Elements(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_labels_and_names_come_out_as_text(text):
    found = {
        "file": text, "notes": [text], "preprocess_ms": 1.0, "model_ms": 1.0,
        "predictions": [{"label": text, "score": 0.5}],
    }  # fmt: skip
    row = {"file": text, "label": text, "score": "0.5", "unknown": "", "error": ""}
    pages = [
        (demo.answer(found, torch.zeros(3, 4, 5, dtype=torch.uint8), Image.new("L", (4, 4)), text), 5),
        (demo.answers([row, row | {"error": text}]), 4),
        (demo.failure(text), 1),
    ]
    for page, times in pages:
        elements = Elements(page)
        assert elements.text.count(text) == times
        assert "script" not in elements.tags and not any(name.startswith("on") for name, _ in elements.attributes)
        assert sum(name == "src" for name, _ in elements.attributes) == (2 if "pictures" in page else 0)


def test_the_csv_holds_the_rows_and_runs_nothing():
    rows = [{"file": '=cmd|"/c calc"!A0', "label": "-1,5", "score": "0.5", "unknown": "", "error": ""}]
    href = next(value for name, value in Elements(demo.answers(rows)).attributes if name == "href")
    content = base64.b64decode(href.partition("base64,")[2]).decode()
    assert list(csv.reader(StringIO(content))) == [demo.COLUMNS, ['\'=cmd|"/c calc"!A0', "'-1,5", "0.5", "", ""]]


def test_a_hub_id_needs_the_commit_whose_code_will_run(model, tmp_path, monkeypatch, capsys):
    assert demo_command(["--model", "someone/digits"]) == 2
    assert "--revision" in capsys.readouterr().err
    assert demo_command(["--model", "someone/digits", "--revision", "main"]) == 2
    snapshot = tmp_path / "models--someone--digits" / "snapshots" / COMMIT
    shutil.copytree(model, snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    pinned = demo.Classifier("someone/digits", COMMIT)
    assert (pinned.folder.resolve(), pinned.name) == (snapshot.resolve(), "someone/digits")


def test_models_it_cannot_serve_are_refused(tmp_path, capsys):
    assert demo_command(["--model", str(save_transformers_vit(tmp_path / "vit"))]) == 2
    assert "no decode()" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_code_of_another_repository_is_refused(model, tmp_path, capsys, file):
    folder = shutil.copytree(model, tmp_path / "model")
    stored = json.loads((folder / file).read_text())
    name, target = next(iter(stored["auto_map"].items()))
    stored["auto_map"][name] = {"pil": "eve/code--a.B"} if isinstance(target, dict) else "eve/code--a.B"
    (folder / file).write_text(json.dumps(stored))
    assert demo_command(["--model", str(folder)]) == 2
    assert "auto_map names eve/code--a.B, code of another repository" in capsys.readouterr().err


def test_a_damaged_model_is_refused_in_one_line(model, tmp_path, capsys):
    folder = shutil.copytree(model, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file(
        weights | {"classifier.bias": weights["classifier.bias"] / 0}, folder / "model.safetensors", {"format": "pt"}
    )
    assert demo_command(["--model", str(folder)]) == 2
    assert "NaN or infinite weights: classifier.bias" in capsys.readouterr().err
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": "16"}))
    assert demo_command(["--model", str(folder)]) == 2
    assert "hidden_size" in capsys.readouterr().err


def test_a_space_is_the_page_and_a_pinned_model(tmp_path):
    write_space(tmp_path, "someone/digits", COMMIT, CLASSIFICATION)
    assert (tmp_path / "app.py").read_bytes() == Path(demo.__file__).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "app.py", "model.json", "requirements.txt"]
    front = metadata_load(tmp_path / "README.md")
    assert (front["sdk"], front["models"], front["app_file"]) == ("gradio", ["someone/digits"], "app.py")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set((tmp_path / "requirements.txt").read_text().split()) == set(project["dependencies"])
    for repo_id, revision in (("someone/digits", "main"), ("a/b/c", COMMIT)):
        with pytest.raises(ValueError, match=r"revision=|a/b/c"):
            write_space(tmp_path / "other", repo_id, revision, CLASSIFICATION)


def test_the_page_stands_alone():
    """Its file is the Space's app.py, so it imports nothing of this package and nothing that a Space lacks."""
    there = {"torch", "transformers", "huggingface_hub", "PIL", "numpy", "gradio"} | set(sys.stdlib_module_names)
    for node in ast.walk(ast.parse(Path(demo.__file__).read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module.partition(".")[0] in there, node.module
        elif isinstance(node, ast.Import):
            assert all(alias.name.partition(".")[0] in there for alias in node.names)


# ---------- in a browser


@pytest.mark.slow
def test_in_a_browser(server, model, files, chromium, tmp_path):
    context = chromium.new_context(viewport={"width": 1280, "height": 860}, accept_downloads=True)
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(server.url)

    for name in ("turned.jpg", "deep.png"):  # one after the other: the drop zone accepts the next file
        page.set_input_files("#drop input[type=file]", files[name])
        page.locator("#one").get_by_text(name).wait_for()
        label, score = expected(model, files[name])[0]
        assert page.inner_text("#one h2") == label and f"{score:.1%}" in page.inner_text("#one .bars")
    processor = AutoImageProcessor.from_pretrained(model, trust_remote_code=True)
    shown = page.get_attribute("#model-view", "src").partition(",")[2]
    with Image.open(BytesIO(base64.b64decode(shown))) as view:
        pixels = processor(str(files["deep.png"]), return_tensors="pt")["pixel_values"][0]
        difference = np.asarray(view).transpose(2, 0, 1) - (pixels.numpy() * 0.5 + 0.5) * 255
    assert np.abs(difference).max() <= 0.51
    assert page.locator("#model-view").evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    page.set_input_files("#drop input[type=file]", files["bad.jpg"])
    page.get_by_role("alert").wait_for()
    assert "not an image" in page.get_by_role("alert").inner_text()
    page.locator("#examples button").nth(1).click()
    page.locator("#one").get_by_text("1.png").wait_for()

    page.get_by_role("tab", name="Several images").click()
    page.set_input_files("#drop-many input[type=file]", [str(path) for path in files.values()])
    page.locator("#many table").wait_for()
    assert "7 files, 1 of them unreadable" in page.inner_text("#many")
    with page.expect_download() as download:
        page.get_by_text("Download CSV").click()
    download.value.save_as(tmp_path / "predictions.csv")
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == list(files)
    assert rows[0]["label"] == expected(model, files["plain.png"])[0][0] and rows[-1]["error"]

    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 860})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page must not scroll sideways"
        page.screenshot(path=tmp_path / f"{width}.png", full_page=True)
        with Image.open(tmp_path / f"{width}.png") as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50, "the page must not be empty"
    assert {url.split("/")[2] for url in requests if not url.startswith(("data:", "blob:"))} == {server.url[7:]}
