"""Pages show the map of the very answer and the nearest images of its classes; a failure costs no page."""

import base64
import io
import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from real_digits import write_class_folder
from saved_models import save_ours, save_transformers_vit

from modeling_vit_custom.api import evaluate, predict
from modeling_vit_custom.common.claims import STAMP
from modeling_vit_custom.common.errors import DataError, UsageError
from modeling_vit_custom.common.outputs import OutputError
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.data.source import Source
from modeling_vit_custom.data.targets import ClassIds, MultiHot, Values
from modeling_vit_custom.evaluation import page
from modeling_vit_custom.evaluation.result import score_outputs
from modeling_vit_custom.explanation.explain import explain
from modeling_vit_custom.explanation.mistakes import nearest
from modeling_vit_custom.explanation.mistakes.illustrate import illustrator, illustrator_of_run
from modeling_vit_custom.explanation.mistakes.nearest import TrainingImages, bank_of_index
from modeling_vit_custom.explanation.mistakes.pacing import parts_in_time
from modeling_vit_custom.explanation.pictures.panels import overlay_panel, subject_of
from modeling_vit_custom.explanation.predicted import picture_of
from modeling_vit_custom.explanation.result import png_bytes
from modeling_vit_custom.features.index_build import build_index
from modeling_vit_custom.features.index_files import Index
from modeling_vit_custom.features.nearest_classes import vectors_of
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.inference.resume import ResumeError
from modeling_vit_custom.tasks.single_label import SINGLE_LABEL
from modeling_vit_custom.tasks.task import Mistake

CLASSES = ("0", "1", "8")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, loaded model, processor): a model, images in class folders, an index of some of them, a page."""
    root = tmp_path_factory.mktemp("mistakes")
    save_ours(root / "model")
    write_class_folder(root / "data", dict.fromkeys(CLASSES, 4), 30)
    build_index(str(root / "model"), Source(write_class_folder(root / "train", dict.fromkeys(CLASSES, 6))),
                root / "index", progress=False)  # fmt: skip
    evaluate(root / "model", root / "data", root / "m.json", root / "page.html", index=root / "index")
    return root, *load_classifier(str(root / "model"))


def asked(root):
    """Some images, their names, and two answers to look at."""
    paths = sorted(map(str, (root / "data").rglob("*.png")))[:2]
    return paths, paths, [Mistake(0, "0", "8", 0.5, "", 8, 0), Mistake(1, "0", "1", 0.5, "", 1, 0)]


def pixels_of(url):
    head, _, data = url.partition(",")
    assert re.fullmatch(r"data:image/(png|jpeg);base64", head)
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def by_hand(index_images, vectors, query, label, count=3):
    similar = vectors.astype(float) @ query.astype(float)
    rows = [row for row, own in enumerate(index_images) if own == label]
    return [(row, similar[row]) for row in sorted(rows, key=lambda row: -similar[row])[:count]]


def test_the_map_is_that_of_the_answer_and_the_nearest_are_those_of_brute_force(made):
    root, model, processor = made
    images, names, answers = asked(root)
    found = illustrator("it", model, processor, index=root / "index")(images, names, answers)
    lines = [json.loads(line) for line in (root / "index" / "images.jsonl").read_text().splitlines()]
    vectors = np.load(root / "index" / "vectors.npy")
    for path, answer, one in zip(names, answers, found.each, strict=True):
        alone = explain(model, [path], [answer.output], processor=processor, check="hiding", confirm=0)
        drawn = alone.drawn(0)
        subject = subject_of(alone.photos[0], [drawn], None, 160, cells=False)
        expected = np.array(overlay_panel(subject, drawn, drawn.scale())).astype(int)
        assert np.abs(pixels_of(one.map.url) - expected).max() <= 2
        assert one.map.alt.startswith(f"{answer.predicted}, p ") and one.map.caption == f"evidence for {drawn.title}"
        full = explain(model, [path], [answer.output], processor=processor, confirm=0)
        assert one.lines[0].partition(":")[0] == full.faithfulness[0]["sentence"].partition(":")[0]
        assert alone.faithfulness[0]["hidden"] == pytest.approx(full.faithfulness[0]["hidden"], abs=1e-5)
        assert "srg" not in alone.faithfulness[0]
        (query,) = vectors_of(model, processor([path], return_tensors="pt")["pixel_values"])
        assert list(one.nearest) == [answer.predicted, answer.true]
        for label, shown in one.nearest.items():
            hand = by_hand([line["label"] for line in lines], vectors, query, label)
            assert [each.alt for each in shown] == [
                f"{label}, cosine {similarity:.2f}: {lines[row]['path']}" for row, similarity in hand
            ]
            assert (
                np.abs(pixels_of(shown[0].url) - np.array(Image.open(lines[hand[0][0]]["path"]).convert("RGB"))).max()
                <= 2
            )
    assert "18 images of the index index" in " ".join(found.notes)


def test_the_page_holds_pictures_that_decode_with_words(made):
    text = (made[0] / "page.html").read_text(encoding="utf-8")
    pictures = re.findall(r'<img[^>]*alt="([^"]*)"[^>]*src="([^"]*)"', text)
    shown = json.loads((made[0] / "m.json").read_text())["n"]
    assert len(pictures) >= 2 * shown and all(alt for alt, _ in pictures)
    for url in {url for _, url in pictures}:
        assert pixels_of(url).ndim == 3
    assert text.count(">evidence for ") == shown and "All this took" in text


def test_the_surest_right_answers_are_shown_too():
    logits = np.diag([3.0, 9.0, 5.0, 4.0, 8.0]) + np.eye(5)[[1, 2, 3, 4, 0]]
    found = SINGLE_LABEL.surest(logits, np.arange(5), dict(enumerate("vwxyz")), 4)
    assert [one.index for one in found] == [1, 4, 2, 3] and [one.output for one in found] == [1, 4, 2, 3]
    assert [one.rival for one in found] == [2, 0, 3, 4] and found[0].predicted == "w"


def test_what_does_not_fit_is_refused_and_what_fails_costs_no_page(made, tmp_path):
    root, model, processor = made
    other = save_ours(tmp_path / "other", seed=1)
    with pytest.raises(DataError, match="was made by"):
        evaluate(other, root / "data", tmp_path / "m.json", tmp_path / "p.html", index=root / "index")
    with pytest.raises(UsageError, match="--html"):
        evaluate(root / "model", root / "data", tmp_path / "m.json", index=root / "index")
    assert not (tmp_path / "m.json").exists()
    foreign = save_transformers_vit(tmp_path / "foreign")
    evaluate(foreign, root / "data", tmp_path / "m.json", tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text()
    assert "No maps: they need this package&#39;s own encoder" in text and "<figure>" not in text

    def broken(*_):
        raise RuntimeError("out of memory")

    images, names, _ = asked(root)
    result = score_outputs(np.eye(10)[[1, 2]] * 9.0, [0, 0], names, SINGLE_LABEL, model.config.id2label)
    shown = page.sections(result, Examples(images, names, ClassIds([0, 0])), broken)
    assert (
        shown["illustrated"] == ["No maps and no nearest images: out of memory"]
        and len(shown["mistakes"]["shown"]) == 2
    )
    published = Index(root / "index")
    published.record[STAMP] = {"sha256": "of somebody"}
    entries = bank_of_index(published).nearest(published.vectors[0], ["8"], images[0], names[0])["8"]
    assert [one.url for one in entries] == [""] * 3 and all("8, cosine" in one.alt for one in entries)
    late = illustrator("it", model, processor, seconds=-1)(*asked(root))
    assert late.each[0].map is None and "Only for the first 0 of 2 maps" in late.notes[0]


def test_training_images_of_the_classes_in_question(made, monkeypatch):
    root, model, processor = made
    paths = sorted(map(str, (root / "train").rglob("*.png")))
    labels = [path.split("/")[-2] for path in paths]
    training = Examples(paths, paths, ClassIds([int(label) for label in labels]))
    images, names, answers = asked(root)
    vectors = vectors_of(model, processor(paths, return_tensors="pt")["pixel_values"])
    (query,) = vectors_of(model, processor(images[:1], return_tensors="pt")["pixel_values"])
    computed = illustrator_of_run(root / "model", TrainingImages(training, model.config.id2label))
    kept = TrainingImages(training, model.config.id2label, lambda rows: 7 * vectors[rows])  # of any length
    for illustrate in (computed, illustrator_of_run(root / "model", kept)):
        found = illustrate(images, names, answers)
        for label in ("8", "0"):
            expected = [paths[row] for row, _ in by_hand(labels, vectors, query, label)]
            assert [each.alt.partition(": ")[2] for each in found.each[0].nearest[label]] == expected
        assert "the 18 training images of these classes" in " ".join(found.notes)
    monkeypatch.setattr(nearest, "MOST", 5)
    own = [*paths[:1], *images[1:]], [*paths[:1], *names[1:]], answers
    bank = TrainingImages(training, model.config.id2label).bank(model, processor, CLASSES, time.monotonic() + 60)
    assert bank.said.startswith("5 of the 18") and sorted(map(len, bank.asked.rows.values())) == [1, 2, 2]
    found = illustrator_of_run(root / "model", kept)(*own)
    assert paths[0] not in [each.alt.partition(": ")[2] for each in found.each[0].nearest["0"]]
    tags = Examples(paths, paths, MultiHot(np.eye(10, dtype=int)[training.targets.values]))
    assert TrainingImages(tags, model.config.id2label)._rows("8") == TrainingImages(
        training, model.config.id2label
    )._rows("8")
    numbers = Examples(paths, paths, Values(np.zeros((18, 1))))
    assert TrainingImages(numbers, {0: "age"}).bank(model, processor, ["age"], time.monotonic() + 9) is None


def test_work_ends_before_its_time_is_over():
    parts = []
    began = time.monotonic()
    for part in parts_in_time(list("aaaabbaaaa"), began + 60, 3, lambda item: item):
        parts.append("".join(part))
    assert parts == ["a", "aaa", "bb", "aaa", "a"]
    done = []
    for part in parts_in_time(range(1000), time.monotonic() + 0.2, 4):
        done += part
        time.sleep(0.02 * len(part))
    assert 1 <= len(done) <= 10 and time.monotonic() - began < 10


def test_predict_explains_each_line_and_goes_on(made, tmp_path):
    root, model, processor = made
    images, why, lines = sorted((root / "data" / "8").glob("*.png")), tmp_path / "why", tmp_path / "p.jsonl"
    (tmp_path / "broken.png").write_bytes(b"no image")
    predict(root / "model", [*images[:1], tmp_path / "broken.png"], lines, explain=why)
    first, broken = [json.loads(line) for line in lines.read_text().splitlines()]
    assert "explanation" not in broken
    alone = explain(model, [str(images[0])], processor=processor)
    assert first["explanation"]["label"] == alone.label[0] == first["predictions"][0]["label"]
    assert (
        first["explanation"] | {"method": "libra", "faithfulness": alone.faithfulness[0]["sentence"]}
        == first["explanation"]
    )
    view = replace(alone, originals=None)  # it draws on what the model sees
    picture = why / first["explanation"]["picture"]
    assert picture.name == picture_of(str(images[0])) and picture.read_bytes() == png_bytes(view.image(0))
    stamp = picture.stat().st_mtime_ns
    summary = predict(root / "model", [*images[:2], tmp_path / "broken.png"], lines, explain=why)
    assert summary.resumed == 1 and picture.stat().st_mtime_ns == stamp and len(list(why.iterdir())) == 2
    with pytest.raises(ResumeError, match="changed: explain"):
        predict(root / "model", [*images[:2], tmp_path / "broken.png"], lines)
    with pytest.raises(OutputError, match="holds other files"):
        predict(root / "model", images, tmp_path / "q.jsonl", explain=root / "data")
    with pytest.raises(OutputError, match="folder of a model"):
        predict(root / "model", images, tmp_path / "q.jsonl", explain=root / "model" / "why")
    with pytest.raises(UsageError, match="--explain is not written to CSV"):
        predict(root / "model", images, tmp_path / "q.csv", format="csv", explain=why)
    predict(save_transformers_vit(tmp_path / "foreign"), images[:1], tmp_path / "f.jsonl", explain=tmp_path / "f")
    assert json.loads((tmp_path / "f.jsonl").read_text())["explanation"]["method"] == "occlusion"
