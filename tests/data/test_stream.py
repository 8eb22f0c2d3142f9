"""Streams: every example once an epoch, in an order given by (seed, epoch), read lazily; errors name the file."""

import gc
import json
import pickle
import shutil

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value
from datasets.iterable_dataset import IterableDataset
from datasets.packaged_modules.parquet.parquet import Parquet
from real_digits import encoded_digit, write_class_folder, write_shards, write_tars

from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.data.source import Columns, Source
from modeling_vit_custom.data.sources import read_splits
from modeling_vit_custom.data.stream import Row, StreamedViews, shuffled, stream_of
from modeling_vit_custom.data.streamed_splits import hold_out_fronts, read_streamed_splits
from modeling_vit_custom.data.targets import MultiHot, Values

COUNTS = (10, 11, 12)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Write 33 digits in three Parquet files of three row groups each."""
    return write_shards(tmp_path_factory.mktemp("shards"), COUNTS)


def streamed(raw, buffer: int = 5) -> StreamedViews:
    return StreamedViews(Examples(raw.images, raw.names), None, buffer)


def order(views: StreamedViews, *seed: int) -> list[int]:
    return [int(row) for row in views.rows(np.random.default_rng(seed))]


def test_each_image_comes_once_with_its_label_and_name(shards):
    raw = read_streamed_splits(Source(str(shards)))["train"]
    assert raw.class_names == ["nought", "one"] and raw.labels == [["nought", "one"][n % 2] for n in range(33)]
    rows = list(streamed(raw).rows(np.random.default_rng(0)))
    assert sorted(rows) == list(range(33))
    assert all(row.source == encoded_digit(row % 2, row // 2) for row in rows)
    assert raw.names[21] == f"row 1 of {shards}/train-00002.parquet" and len(list(raw.names)) == 33
    assert raw.images[32] == encoded_digit(0, 16), "an image can be read by itself as well"


def test_tars_hold_the_same(tmp_path):
    write_tars(tmp_path, COUNTS)
    columns = Columns("png", "cls")
    raw = read_streamed_splits(Source(str(tmp_path)), columns)["train"]
    assert raw.labels == [str(n % 2) for n in range(33)]
    assert all(row.source == encoded_digit(row % 2, row // 2) for row in streamed(raw).rows(np.random.default_rng(0)))
    assert len(read_streamed_splits(Source(str(tmp_path / "*-0000[12].tar")), columns)["train"]) == 23


@pytest.mark.filterwarnings("ignore:unclosed file", "ignore:Exception ignored in")  # `datasets` leaves metadata open
@pytest.mark.parametrize("name", ["[D_DATA] a", "a*b", "wh?t"])
def test_a_path_that_looks_like_a_pattern_is_the_one_of_that_name(tmp_path, monkeypatch, name):
    folder = write_shards(tmp_path / name, (4, 5))
    write_shards(tmp_path / "aab", (9,))
    monkeypatch.chdir(folder)
    for place, count in {
        folder: 9, folder / "train-00001.parquet": 5, f"{folder}/train-*1.parquet": 5, "train-*.parquet": 9,
    }.items():  # fmt: skip
        assert len(read_streamed_splits(Source(str(place)))["train"]) == count, place
    shutil.copy(folder / "train-00000.parquet", folder / "train-*.parquet")
    assert len(read_streamed_splits(Source(f"{folder}/train-*.parquet"))["train"]) == 4, "files too"
    (folder / "train-*.parquet").unlink()
    named = {"dataset_name": str(folder), "cache_dir": str(tmp_path / "cache")}
    assert len(read_splits(Source(**named))["train"]) == 9
    write_class_folder(tmp_path / "images" / name, {"0": 1, "1": 1})
    lines = ["file_name,label", "0/0.png,a", "1/0.png,b"]
    (tmp_path / "images" / name / "metadata.csv").write_text("\n".join(lines))
    assert read_streamed_splits(Source(dataset_name=str(tmp_path / "images" / name)))["train"].labels == ["a", "b"]
    gc.collect()


def test_the_order_follows_from_seed_and_epoch(shards):
    views = streamed(read_streamed_splits(Source(str(shards)))["train"])
    first = order(views, 0, 0)
    assert first == order(views, 0, 0)
    assert first != order(views, 0, 1) != order(views, 1, 0)
    firsts = {index // 10 for epoch in range(20) for index in order(views, 0, epoch)[:1]}
    assert firsts >= {0, 1, 2}, "each shard must come first in some epoch"


def test_a_buffer_moves_items_but_loses_none():
    drawn = list(shuffled(iter(range(1000)), 100, np.random.default_rng(0)))
    assert sorted(drawn) == list(range(1000))
    assert min(np.asarray(drawn) - np.arange(1000)) < -100, "some items must wait long"
    assert max(np.asarray(drawn) - np.arange(1000)) <= 100, "no item comes before it was read"
    assert list(shuffled(iter(range(9)), 1, np.random.default_rng(0))) == list(range(9))


def test_no_more_is_read_than_the_buffer_holds(shards, monkeypatch):
    views, read = streamed(read_streamed_splits(Source(str(shards)))["train"], buffer=5), []
    whole = IterableDataset.__iter__
    monkeypatch.setattr(IterableDataset, "__iter__", lambda self: (read.append(0) or item for item in whole(self)))
    rows = views.rows(np.random.default_rng(0))
    for n in range(1, 20):
        next(rows)
        assert len(read) == n + 5
    read.clear()
    assert views.images.fetched(np.array([11, 0])) == [encoded_digit(1, 5), encoded_digit(0, 0)]
    assert len(read) == 1 + 2, "each shard is read only up to the wanted row"


def test_labels_and_images_are_read_without_each_other(shards, monkeypatch):
    """Of Parquet files, no other column is read; nothing is decoded in either pass."""
    read = []
    whole = Parquet._generate_tables
    monkeypatch.setattr(
        Parquet, "_generate_tables", lambda self, *a, **k: read.append(self.config.columns) or whole(self, *a, **k)
    )
    monkeypatch.setattr(Image, "decode_example", None)
    views = streamed(read_streamed_splits(Source(str(shards)))["train"])
    assert read == [["label"]] * 3
    order(views, 0)
    assert read[3:] == [["image"]] * 3


def test_a_row_travels_whole():
    row = pickle.loads(pickle.dumps(Row(np.int64(7), b"image")))
    assert row == 7 and row.source == b"image" and np.asarray([row], np.int64) == 7


def test_the_front_of_every_shard_is_held_out_but_no_last_image_of_a_class(tmp_path):
    write_shards(tmp_path, COUNTS)
    raw = read_streamed_splits(Source(str(tmp_path)))["train"]
    train, validation = hold_out_fronts(raw, 0.2, None)
    held_out = stream_of(Examples(validation.images, validation.names))[1]
    assert held_out.tolist() == [0, 1, 2, 10, 11, 21, 22]
    kept = stream_of(Examples(train.images, train.names))[1]
    assert sorted([*kept, *held_out]) == list(range(33))
    assert [validation.images[i] for i in (0, 3)] == [encoded_digit(0, 0), encoded_digit(0, 5)]
    assert sorted(order(streamed(train), 0)) == list(range(26)) and "row 1 of" not in "".join(train.names)
    assert len(hold_out_fronts(raw, 0.2, 3)[1]) == 3
    rare = read_streamed_splits(Source(str(tmp_path)))["train"]
    rare.labels[:] = ["rare", *["frequent"] * 32]
    assert "rare" not in hold_out_fronts(rare, 0.2, None)[1].labels


def test_other_tasks(tmp_path):
    features = Features({"image": Image(), "tags": Sequence(ClassLabel(names=["a", "b"])), "value": Value("float32")})
    rows = {"image": [{"bytes": encoded_digit(0), "path": None}] * 3, "tags": [[0], [0, 1], []], "value": [1.0, 2, 4]}
    Dataset.from_dict(rows, features).to_parquet(tmp_path / "train.parquet")
    tags = read_streamed_splits(Source(str(tmp_path)), Columns(label="tags"))["train"]
    assert (tags.targets, tags.labels) == (MultiHot, [["a"], ["a", "b"], []])
    values = read_streamed_splits(Source(str(tmp_path / "train.parquet")), Columns(label="value"))["train"]
    assert values.targets is Values and values.labels.tolist() == [1, 2, 4]


def test_image_files_beside_a_table_of_labels(tmp_path):
    """The layout is that of `datasets`' imagefolder: cells name the files."""
    (tmp_path / "train").mkdir()
    for n in range(6):
        (tmp_path / "train" / f"{n}.png").write_bytes(encoded_digit(n % 2, n))
    rows = [json.dumps({"file_name": f"{n}.png", "label": "ab"[n % 2]}) for n in range(6)]
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(rows))
    raw = read_streamed_splits(Source(str(tmp_path)))["train"]
    images = {row.source: raw.labels[row] for row in streamed(raw).rows(np.random.default_rng(0))}
    assert images == {encoded_digit(n % 2, n): "ab"[n % 2] for n in range(6)}


def test_own_splits_of_a_folder(tmp_path):
    write_shards(tmp_path, (4,))
    write_shards(tmp_path, (3,), "validation")
    write_shards(tmp_path, (2,), "test")
    assert {split: len(raw) for split, raw in read_streamed_splits(Source(str(tmp_path))).items()} == {
        "train": 4,
        "validation": 3,
        "test": 2,
    }


# ---------- errors


def test_shards_that_would_be_left_out(tmp_path):
    write_shards(tmp_path, (4, 4))
    (tmp_path / "README.md").write_text("no shard")
    shutil.copy(tmp_path / "train-00000.parquet", tmp_path / "more.parquet")
    with pytest.raises(DataError, match=r"would be left out.*more\.parquet.*by a pattern"):
        read_streamed_splits(Source(str(tmp_path)))
    assert len(read_streamed_splits(Source(f"{tmp_path}/*.parquet"))["train"]) == 12
    for path in tmp_path.glob("train-*"):
        path.rename(tmp_path / path.name.removeprefix("train-"))
    assert len(read_streamed_splits(Source(str(tmp_path)))["train"]) == 12, "no name says a split: all are train"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns("img"), "no column 'img', its columns are image, label, note.*--image_column_name"),
        (Columns(label="cls"), "no column 'cls'"),
        (Columns("note"), "'note' .*images are bytes"),
    ],
)
def test_columns_that_are_not_there(shards, columns, message):
    with pytest.raises(DataError, match=message):
        read_streamed_splits(Source(str(shards)), columns)


def test_sources_that_are_no_shards(tmp_path):
    write_class_folder(tmp_path / "photos", {"0": 2, "1": 2})
    Dataset.from_dict({"image": [b""]}).save_to_disk(tmp_path / "saved")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train-0.parquet").write_bytes(b"PAR1 no table PAR1")
    for source, message in {
        "photos": "--train_dir, without --streaming",
        "nothing/*.parquet": "names no shards",
        "saved": "leave --streaming out",
        "photos/0/0.png": "end in .parquet or .tar",
        "bad": "cannot be read as a stream",
    }.items():
        with pytest.raises(DataError, match=message):
            read_streamed_splits(Source(str(tmp_path / source)))


@pytest.mark.parametrize(("label", "message"), [(None, "no label for .*row 2 of "), (-1, "class id -1 at row 2 of ")])
def test_a_label_without_a_meaning_is_named_before_training(tmp_path, label, message):
    features = Features({"image": Image(), "label": ClassLabel(names=["0", "1"])})
    rows = {"image": [{"bytes": encoded_digit(0, n), "path": None} for n in range(3)], "label": [0, label, 1]}
    Dataset.from_dict(rows, features).to_parquet(tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match=message + r".*train-0\.parquet"):
        read_streamed_splits(Source(str(tmp_path)))


def test_shards_that_change_or_break_while_they_are_read(tmp_path):
    write_shards(tmp_path, (8, 8))
    views = streamed(read_streamed_splits(Source(str(tmp_path)))["train"])
    whole = (tmp_path / "train-00001.parquet").read_bytes()
    write_shards(tmp_path, (8, 5))
    with pytest.raises(DataError, match=r"train-00001\.parquet held 8 examples and now ends after 5"):
        order(views, 0)
    (tmp_path / "train-00001.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"row 1 of .*train-00001\.parquet cannot be read"):
        order(views, 0)


def test_a_row_without_an_image(tmp_path):
    features = Features({"image": Image(), "label": Value("string")})
    rows = {"image": [{"bytes": encoded_digit(0), "path": None}, {"bytes": None, "path": "/etc/hostname"}]}
    Dataset.from_dict(rows | {"label": ["a", "b"]}, features).to_parquet(tmp_path / "train.parquet")
    views = streamed(read_streamed_splits(Source(str(tmp_path)))["train"])
    with pytest.raises(DataError, match=r"row 2 of .*train\.parquet: column 'image' holds no image"):
        order(views, 0)
