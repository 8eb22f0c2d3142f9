"""An index holds what the model says of each image, whole or not at all; a search finds what brute force finds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from real_digits import digit_image, encoded_digit, write_class_folder
from saved_models import save_ours, save_resnet

from modeling_vit_custom import ViTCustomConfig, ViTCustomModel, api
from modeling_vit_custom.cli import main
from modeling_vit_custom.common.errors import DataError, UsageError
from modeling_vit_custom.common.outputs import OutputError
from modeling_vit_custom.features import graph, index_build, neighbours
from modeling_vit_custom.features.index_files import Index
from modeling_vit_custom.features.index_images import content_of
from modeling_vit_custom.features.journal import Journal
from modeling_vit_custom.features.neighbours import nearest
from modeling_vit_custom.features.search import same_class
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.publishing.staging import plan_staging


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_ours(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def digits(tmp_path):
    return write_class_folder(tmp_path / "digits", {"0": 4, "1": 4, "2": 4})


def brute_force(vectors, queries, count, left_out=None):
    """All similarities in float64, sorted downwards; of equal ones the first row comes first."""
    found = []
    for number, query in enumerate(queries.astype(np.float64)):
        similar = [(-float((row * query).sum()), place) for place, row in enumerate(vectors.astype(np.float64))]
        if left_out is not None:
            similar.pop(left_out[number])
        found.append([place for _, place in sorted(similar)[:count]])
    return found


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# ---------- the nearest


@pytest.mark.parametrize("block", [2**25, 1024, 4])
def test_nearest_is_brute_force_whatever_the_blocks(block, monkeypatch):
    """Every vector is there three times, far apart: ties are in all blocks, and at the last place that counts."""
    monkeypatch.setattr(neighbours, "BLOCK", block)
    monkeypatch.setattr(neighbours, "QUERIES", 7)
    generator = np.random.default_rng(0)
    vectors = np.tile(unit(generator.standard_normal((40, 9))), (3, 1))
    queries = np.concatenate([vectors[:5], unit(generator.standard_normal((6, 9)))])
    for count in (1, 2, 4, 7, 200):
        rows, similarities = nearest(vectors, queries, count)
        assert rows.tolist() == brute_force(vectors, queries, count)
        expected = np.take_along_axis(queries.astype(np.float64) @ vectors.T.astype(np.float64), rows, axis=1)
        np.testing.assert_allclose(similarities, expected, atol=1e-12)
    own = np.arange(11) * 3
    rows, _ = nearest(vectors, vectors[own], 4, left_out=own)
    assert rows.tolist() == brute_force(vectors, vectors[own], 4, left_out=own.tolist())


def test_nearest_of_equal_vectors_and_of_one():
    same = np.tile(unit(np.ones((1, 5))), (9, 1))
    assert nearest(same, same[:1], 3)[0].tolist() == [[0, 1, 2]]
    assert nearest(same[:1], same[:1], 3)[0].tolist() == [[0]]
    assert nearest(same[:1], same[:1], 3, left_out=[0])[0].shape == (1, 0)


# ---------- an index


def test_vectors_are_the_classifier_s_input_at_length_one(model, digits, tmp_path):
    built = api.index(model, digits, tmp_path / "ix")
    assert (built.images, built.computed, built.failed, built.labelled) == (12, 12, 0, 12)
    index = Index(tmp_path / "ix")
    net, processor = load_classifier(str(model), device="cpu")
    seen = []
    net.classifier.register_forward_hook(lambda _module, args, _output: seen.append(args[0]))
    with torch.no_grad():
        net(processor([line["path"] for line in index.images], return_tensors="pt")["pixel_values"])
    np.testing.assert_allclose(index.vectors, unit(seen[0].numpy()), atol=1e-5)
    assert [(Path(line["path"]).parts[-2], line["label"]) for line in index.images] == [
        (digit, digit) for digit in "012" for _ in range(4)
    ]
    assert sorted(os.listdir(tmp_path / "ix")) == ["images.jsonl", "index.json", "vectors.npy"]
    assert json.loads(built.to_json())["preprocessing"]["size"] == {"height": 24, "width": 32}


def test_the_same_command_computes_new_images_alone(model, digits, tmp_path, monkeypatch):
    api.index(model, digits, tmp_path / "ix")
    before = np.array(Index(tmp_path / "ix").vectors)
    digit_image(3).save(digits / "0" / "new.png")
    shutil.copy(digits / "1" / "0.png", digits / "1" / "copy.png")
    (digits / "2" / "3.png").unlink()
    asked = []
    real = index_build.run_batches
    monkeypatch.setattr(
        index_build,
        "run_batches",
        lambda net, images, batches, *a, **k: asked.extend(batches) or real(net, images, batches, *a, **k),
    )
    built = api.index(model, digits, tmp_path / "ix", batch_size=5)
    assert [len(batch) for batch in asked] == [1] and built.computed == 1 and built.images == 13
    assert any("1 images that the index held" in note for note in built.notes)
    index = Index(tmp_path / "ix")
    place = {Path(line["path"]).relative_to(digits).as_posix(): row for row, line in enumerate(index.images)}
    assert np.array_equal(index.vectors[place["2/2.png"]], before[10])
    assert np.array_equal(index.vectors[place["1/copy.png"]], index.vectors[place["1/0.png"]])
    whole = api.index(model, digits, tmp_path / "whole")
    assert whole.computed == 12  # of equal files, one goes through the model
    np.testing.assert_allclose(Index(tmp_path / "whole").vectors, index.vectors, atol=1e-6)
    stamp = (tmp_path / "ix" / "vectors.npy").stat().st_mtime_ns
    assert api.index(model, digits, tmp_path / "ix").computed == 0
    assert (tmp_path / "ix" / "vectors.npy").stat().st_mtime_ns == stamp, "nothing changed, nothing is written"


KILLED = """
import os, sys
from modeling_vit_custom.features import index_build, journal
from modeling_vit_custom.cli import main
batches = []
def add(self, *args, real=journal.Journal.add):
    real(self, *args)
    batches.append(1)
    if len(batches) == 2 and sys.argv[1] == "batch":
        self.file.write(b"torn")
        self.file.flush()
        os._exit(9)
journal.Journal.add = add
if sys.argv[1] in ("vectors", "moved"):
    def wrote(*args, real=getattr(index_build, "write_json")):
        real(*args)
        if sys.argv[1] == "vectors":
            os._exit(9)
    index_build.write_json = wrote
    def moved(*args, real=os.rename):
        real(*args)
        os._exit(9)
    if sys.argv[1] == "moved":
        index_build.os.rename = moved
sys.exit(main(["index", *sys.argv[2:]]))
"""


@pytest.mark.parametrize(("when", "computed"), [("batch", 4), ("vectors", 0), ("moved", 0)])
def test_a_build_that_was_killed_goes_on(model, digits, tmp_path, when, computed):
    """Killed after two of three batches, with a torn record; before the index is renamed; between the two renames."""
    words = ["--model", str(model), "--data_dir", str(digits), "--output", str(tmp_path / "ix"), "--batch_size", "4"]
    expected = tmp_path / "expected"
    api.index(model, digits, expected, batch_size=4)
    if when == "moved":  # an index of fewer images is there, which is being replaced
        (digits / "2" / "3.png").rename(tmp_path / "3.png")
        assert main(["index", *words]) == 0
        (tmp_path / "3.png").rename(digits / "2" / "3.png")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, when, *words], env=environment, capture_output=True
    )
    assert done.returncode == 9, done.stderr
    if when == "batch":
        with pytest.raises(DataError, match="is no index"):
            Index(tmp_path / "ix")
    built = api.index(model, digits, tmp_path / "ix", batch_size=4)
    assert built.computed == computed and built.images == 12
    for name in ("images.jsonl", "index.json"):
        assert (tmp_path / "ix" / name).read_bytes() == (expected / name).read_bytes()
    np.testing.assert_allclose(Index(tmp_path / "ix").vectors, Index(expected).vectors, atol=1e-6)  # in other batches
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".unfinished-")}
    assert left == {"digits", "expected", "ix"}


def test_a_journal_of_another_model_or_with_damage_is_not_believed(tmp_path):
    path, vectors = tmp_path / "j", unit(np.random.default_rng(0).standard_normal((3, 4)))
    contents = [content_of(bytes([number])) for number in range(3)]
    with Journal(path, "a" * 64) as journal:
        journal.add(contents, vectors)
    again = Journal(path, "a" * 64)
    assert again.contents == contents and np.array_equal(again.vectors(), vectors)
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 1
    path.write_bytes(raw)
    assert Journal(path, "a" * 64).contents == contents[:2]
    with Journal(path, "b" * 64) as other:
        assert other.contents == [] and other.width == 0
        other.add(contents[:1], vectors[:1])
        other.finish()
    assert not path.exists()


def test_a_broken_image_is_reported_and_stops_nothing(model, digits, tmp_path, capsys):
    (digits / "1" / "bad.png").write_bytes(b"no image")
    (digits / "1" / "bad-copy.png").write_bytes(b"no image")
    words = ["index", "--model", str(model), "--data", str(digits), "--output", str(tmp_path / "ix")]
    assert main(words) == 1
    said = capsys.readouterr()
    assert (
        "12 images, 2 failed, 12 with a label" in said.out
        and "bad-copy.png: not an image" in said.err
        and "bad.png: its content is" in said.err
    )
    assert len(Index(tmp_path / "ix")) == 12
    for path in digits.rglob("bad*"):
        path.unlink()
    assert main(words) == 0


def test_no_image_is_refused_and_one_is_enough(model, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="no images in"):
        api.index(model, tmp_path / "none", tmp_path / "ix")
    (tmp_path / "none" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of the 1 images can be read"):
        api.index(model, tmp_path / "none", tmp_path / "ix")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none"]
    digit_image(7).save(tmp_path / "none" / "a.png")
    assert api.index(model, tmp_path / "none", tmp_path / "ix").images == 1
    (record,) = api.search(tmp_path / "ix", tmp_path / "none" / "a.png", top_k=3).records
    assert len(record["neighbours"]) == 1 and record["neighbours"][0]["similarity"] == pytest.approx(1)
    with pytest.raises(DataError, match="no labels"):
        api.search(tmp_path / "ix", evaluate=True)
    mapped = api.map_images(tmp_path / "map.html", tmp_path / "ix")
    assert (mapped.points, mapped.pictures, mapped.trustworthiness) == (1, 1, None)


def test_other_models_other_folders_and_other_versions_are_refused(model, digits, tmp_path):
    api.index(model, digits, tmp_path / "ix")
    other = save_ours(tmp_path / "other", seed=1)
    query = digits / "0" / "0.png"
    with pytest.raises(DataError, match=r"ix was made by .*m, and .*other has other weights"):
        api.search(tmp_path / "ix", query, other)
    with pytest.raises(DataError, match="other weights"):
        api.index(other, digits, tmp_path / "ix")
    shutil.copytree(model, tmp_path / "resized")
    settings = json.loads((tmp_path / "resized" / "preprocessor_config.json").read_text())
    (tmp_path / "resized" / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.4]}))
    with pytest.raises(DataError, match="other preprocessing"):
        api.search(tmp_path / "ix", query, tmp_path / "resized")
    shutil.copytree(model, tmp_path / "moved")
    assert api.search(tmp_path / "ix", query, tmp_path / "moved").failed == 0
    assert api.index(other, digits, tmp_path / "ix", overwrite=True).computed == 12
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        api.index(model, digits, tmp_path / "full", overwrite=True)
    record = json.loads((tmp_path / "ix" / "index.json").read_text())
    for change, said in (({"format": 2}, "has format 2"), ({"count": 11}, "is damaged"), ({"model": 3}, "is damaged")):
        (tmp_path / "ix" / "index.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(DataError, match=said):
            Index(tmp_path / "ix")


def test_what_is_private_stays_out_of_a_model_s_folder_and_of_what_is_published(digits, tmp_path):
    model = save_ours(tmp_path / "m")
    query = digits / "0" / "0.png"
    with pytest.raises(OutputError, match=r"lies in .*m, the folder of a model"):
        api.index(model, digits, model / "deep" / "ix")
    api.index(model, digits, tmp_path / "ix")
    for refused in (
        lambda: api.search(tmp_path / "ix", query, output=model / "similar.jsonl"),
        lambda: api.map_images(model / "map.html", tmp_path / "ix"),
    ):
        with pytest.raises(OutputError, match="the folder of a model"):
            refused()
    api.map_images(tmp_path / "map.html", tmp_path / "ix")
    for place in (model, model / "ix", model / "examples"):
        shutil.copytree(tmp_path / "ix", place, dirs_exist_ok=True)
    shutil.copy(tmp_path / "map.html", model)
    copied = set(plan_staging(model).copied)
    assert not [name for name in copied if "vectors" in name or "images.jsonl" in name or "index.json" in name]
    assert "map.html" not in copied and "model.safetensors" in copied


# ---------- sources, and models of other kinds


def test_tables_give_names_and_labels_if_they_have_any(model, tmp_path):
    rows = ["image,label,kind"]
    for digit in (0, 1):
        digit_image(digit).save(tmp_path / f"{digit}.png")
        rows += [f"{digit}.png,{'ab'[digit]},{digit}"] * 2
    (tmp_path / "t.csv").write_text("\n".join(rows))
    api.index(model, tmp_path / "t.csv", tmp_path / "ix")
    assert [line["label"] for line in Index(tmp_path / "ix").images] == ["a", "b"]  # each image once
    api.index(model, tmp_path / "t.csv", tmp_path / "ix", label_column_name="kind")
    assert [line["label"] for line in Index(tmp_path / "ix").images] == ["0", "1"]
    with pytest.raises(DataError, match="has no column 'other'"):
        api.index(model, tmp_path / "t.csv", tmp_path / "ix", label_column_name="other")
    (tmp_path / "u.csv").write_text("image\n0.png\n1.png\n")
    api.index(model, tmp_path / "u.csv", tmp_path / "ix")
    assert all("label" not in line for line in Index(tmp_path / "ix").images)
    with pytest.raises(DataError, match="name the images once"):
        api.index(model, output=tmp_path / "ix")


def test_several_labels_bytes_in_a_table_and_splits(model, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": [encoded_digit(digit) for digit in range(3)], "label": [["a"], ["a", "b"], []]})
    pq.write_table(table, tmp_path / "t.parquet")
    api.index(model, tmp_path / "t.parquet", tmp_path / "ix")
    index = Index(tmp_path / "ix")
    assert [line["label"] for line in index.images] == [["a"], ["a", "b"], []]
    with pytest.raises(DataError, match="multi_label_classification"):
        same_class(index)
    for split in ("train", "test"):
        write_class_folder(tmp_path / "split" / split, {"0": 2, "1": 2}, first=4 * (split == "test"))
    assert api.index(model, tmp_path / "split", tmp_path / "both").images == 8
    assert {line["label"] for line in Index(tmp_path / "both").images} == {"0", "1"}
    assert api.index(model, tmp_path / "split", tmp_path / "both", split="test").images == 4


def test_encoders_and_models_of_transformers_can_be_indexed(digits, tmp_path):
    from tiny import TINY

    config = ViTCustomConfig(**{**TINY, "num_channels": 1})
    ViTCustomModel(config).save_pretrained(tmp_path / "encoder")
    ViTCustomImageProcessor.for_model(config).save_pretrained(tmp_path / "encoder")
    assert api.index(tmp_path / "encoder", digits, tmp_path / "ix").images == 12
    for path in digits.rglob("*.png"):
        digit_image(int(path.parent.name), int(path.stem)).convert("RGB").save(path)
    assert api.index(save_resnet(tmp_path / "resnet"), digits, tmp_path / "other").width == 16


# ---------- search


def test_a_search_gives_the_nearest_of_the_index(model, digits, tmp_path, capsys):
    api.index(model, digits, tmp_path / "ix")
    index = Index(tmp_path / "ix")
    (digits / "0" / "z.png").write_bytes(b"no image")
    words = ["search", "--index", str(tmp_path / "ix"), str(digits / "0"), "--top_k", "3"]
    assert main([*words, "--output", str(tmp_path / "found.jsonl")]) == 1
    said = capsys.readouterr()
    records = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [Path(record["path"]).name for record in records] == ["0.png", "1.png", "2.png", "3.png", "z.png"]
    assert "error" in records[4] and "z.png: not an image" in said.err and "  1.000  0  " in said.out
    paths = [line["path"] for line in index.images]
    for record, rows in zip(records, brute_force(index.vectors, np.array(index.vectors[:4]), 3), strict=False):
        assert [entry["path"] for entry in record["neighbours"]] == [paths[row] for row in rows]
        assert [entry["label"] for entry in record["neighbours"]] == [index.images[row]["label"] for row in rows]
    assert main([*words, "--output", "-"]) == 1
    assert capsys.readouterr().out == (tmp_path / "found.jsonl").read_text()
    with pytest.raises(UsageError, match="or --evaluate"):
        api.search(tmp_path / "ix")


def test_same_class_neighbours_by_hand(model, digits, tmp_path, capsys):
    api.index(model, digits, tmp_path / "ix")
    index = Index(tmp_path / "ix")
    labels = np.array([line["label"] for line in index.images])
    rows = np.array(brute_force(index.vectors, np.array(index.vectors), 2, left_out=list(range(12))))
    same = labels[rows] == labels[:, None]
    found = same_class(index, 2)
    assert (found.any, found.share) == (same.any(axis=1).mean(), same.mean())
    assert found.chance == pytest.approx(3 / 11) and (found.images, found.classes, found.copies) == (12, 3, 0)
    assert main(["search", "--index", str(tmp_path / "ix"), "--evaluate", "--top_k", "2"]) == 0
    assert f"{same.any(axis=1).mean():.1%} have one of their own class among the 2 nearest" in capsys.readouterr().out


def test_a_graph_finds_what_exact_search_finds(model, digits, tmp_path, monkeypatch):
    pytest.importorskip("usearch")
    monkeypatch.setattr(graph, "EXACT", 11)
    built = api.index(model, digits, tmp_path / "ix")
    assert built.graph and (tmp_path / "ix" / "graph.usearch").is_file()
    query = [digits / "0" / "0.png", digits / "1" / "2.png"]
    near, exact = (api.search(tmp_path / "ix", query, exact=exact).records for exact in (False, True))
    assert near == exact and len(near[0]["neighbours"]) == 10
    assert not api.index(model, digits, tmp_path / "ix", approximate="no").graph
    assert not (tmp_path / "ix" / "graph.usearch").exists()


def test_recall_of_the_graph(tmp_path):
    pytest.importorskip("usearch")
    vectors = unit(np.random.default_rng(0).standard_normal((3000, 24)))
    graph.write_graph(tmp_path / "g", vectors)
    expected, _ = nearest(vectors, vectors[:100], 10)
    found = graph.near(tmp_path / "g", vectors[:100], 10)
    assert np.mean([len({*a} & {*b}) / 10 for a, b in zip(expected.tolist(), found, strict=True)]) > 0.97


def test_without_usearch_a_sentence_names_the_extra(model, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"vit-custom\[search\]"):
        api.index(model, digits, tmp_path / "ix", approximate="yes")
