"""The image cache returns the same pixels as decoding, whatever happens to its files or to the process that writes
them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from cached_images import MAKER, PHOTO_MAKER, PROCESSOR, Counting, digits, folder_of, many_photos
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage
from real_digits import digit_image, write_digit
from sklearn.datasets import load_sample_image

from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.data import cache
from modeling_vit_custom.data.cache import CachedViews, open_views
from modeling_vit_custom.data.dataset import ImageDataset
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.data.fingerprint import cache_key
from modeling_vit_custom.data.hub_datasets import DatasetImages
from modeling_vit_custom.data.views import DecodedViews, ImageResizer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def counting():
    return Counting(PROCESSOR, MAKER.shape)


def test_a_cache_holds_what_decoding_gives(tmp_path, counting):
    examples = digits(tmp_path / "d")
    views, note = open_views("train", examples, counting, str(tmp_path / "c"))
    assert isinstance(views, CachedViews) and "built in" in note and str(tmp_path / "c") in note and "40 views" in note
    assert len(views) == counting.made == 40
    order = [7, 3, 39, 3]
    expected = DecodedViews(examples, MAKER)(order)
    assert torch.equal(views(order), expected)
    for seed in (None, 0):
        cached, decoded = (ImageDataset(examples, source, seed) for source in (views, DecodedViews(examples, MAKER)))
        for (name, value), (_, other) in zip(
            cached.__getitems__(order).items(), decoded.__getitems__(order).items(), strict=True
        ):
            assert torch.equal(value, other), name
    views(order).zero_()
    assert torch.equal(views(order), expected), "a batch must be a copy"
    assert "found in" in open_views("train", examples, counting, str(tmp_path / "c"))[1] and counting.made == 40


def test_several_processes_build_the_same(tmp_path, monkeypatch):
    examples = digits(tmp_path / "d", 90)
    monkeypatch.setattr(cache, "MIN_IMAGES_PER_WORKER", 20)
    monkeypatch.setattr(cache, "MAX_CHUNK", 7)
    views, _ = open_views("train", examples, MAKER, str(tmp_path / "c"))
    assert torch.equal(views(range(90)), DecodedViews(examples, MAKER)(range(90)))


def test_two_runs_at_once_build_it_once(tmp_path, counting, caplog):
    examples = digits(tmp_path / "d", 200)
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(open_views, "train", examples, counting, str(tmp_path / "c")) for _ in range(2)]
        notes = sorted(job.result()[1] for job in jobs)
    assert counting.made == 200 and "built in" in notes[0] and "found in" in notes[1]
    assert "waiting for the process that builds" in caplog.text


BUILD = """
import sys
from PIL import Image
sys.path.insert(0, sys.argv[1])
from cached_images import many_photos, PHOTO_MAKER
from modeling_vit_custom.data.cache import open_views
open_views("train", many_photos(sys.argv[2]), PHOTO_MAKER, sys.argv[3])
"""


def test_a_killed_build_resumes_where_it_stopped(tmp_path):
    file, root = str(tmp_path / "china.jpg"), tmp_path / "c"
    PillowImage.fromarray(load_sample_image("china.jpg")).save(file)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(ROOT / "tests" / "support"), file, str(root)], env=environment
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        marks = list(root.glob("*.building/rows.npy"))
        if marks and marks[0].stat().st_size == 128 + 4 * 400 and np.count_nonzero(np.load(marks[0])) > 30:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it must be killed while it builds"
    done = np.count_nonzero(np.load(next(root.glob("*.building/rows.npy"))))
    assert 30 < done < 400

    partial = next(root.glob("*.building"))
    rows = np.lib.format.open_memmap(partial / "views.npy", mode="r+")
    rows[5] = 0  # as after a power loss: the row is marked, but not on disk
    rows.flush()
    maker = Counting(PROCESSOR, PHOTO_MAKER.shape, PHOTO_MAKER.settings)
    views, note = open_views("train", many_photos(file), maker, str(root))
    assert maker.made == 400 - done + 1 and "built in" in note
    assert not partial.exists()
    expected = PHOTO_MAKER([file], ["china"])
    assert all(torch.equal(views([i]), expected) for i in (0, 5, done - 1, done, 399))


@pytest.mark.parametrize("name", ["views.npy", "rows.npy", "key.json", "seal"])
@pytest.mark.parametrize("damage", ["missing", "cut", "overwritten"])
def test_damaged_caches_are_built_again(tmp_path, counting, caplog, name, damage):
    examples = digits(tmp_path / "d", 12)
    open_views("train", examples, counting, str(tmp_path / "c"))
    path = folder_of(tmp_path / "c") / name
    content = path.read_bytes()
    changed = {"missing": None, "cut": content[:-3], "overwritten": content[:-3] + b"abc"}[damage]
    path.unlink() if changed is None else path.write_bytes(changed)
    views, note = open_views("train", examples, counting, str(tmp_path / "c"))
    assert counting.made == 24 and "built in" in note and "is damaged" in caplog.text
    assert torch.equal(views(range(12)), DecodedViews(examples, MAKER)(range(12)))


def test_a_folder_of_another_cache_is_not_taken_for_this_one(tmp_path):
    first, second = digits(tmp_path / "d", 12), digits(tmp_path / "e", 12)
    open_views("train", first, MAKER, str(tmp_path / "c"))
    ours = folder_of(tmp_path / "c")
    shutil.copytree(ours, tmp_path / "other")
    shutil.rmtree(ours)
    open_views("train", second, MAKER, str(tmp_path / "c"))
    theirs = folder_of(tmp_path / "c")
    shutil.rmtree(theirs)
    (tmp_path / "other").rename(theirs)
    assert "built in" in open_views("train", second, MAKER, str(tmp_path / "c"))[1]


def test_changed_files_settings_and_selections_are_other_caches(tmp_path):
    examples = digits(tmp_path / "d", 12)
    key = cache_key(examples, MAKER)
    assert cache_key(digits(tmp_path / "d", 12), MAKER) != key, "files written again have other times"
    key = cache_key(examples, MAKER)
    assert cache_key(examples, MAKER) == key
    assert cache_key(examples.select(range(11)), MAKER) != cache_key(examples.select(range(1, 12)), MAKER)
    assert cache_key(examples, ImageResizer(PROCESSOR, (3, 17, 17))) != key
    digit_image(5, 5).resize((9, 9)).save(tmp_path / "d" / "3.png")
    assert cache_key(examples, MAKER) != key


def test_the_changed_file_is_what_is_read(tmp_path):
    examples = digits(tmp_path / "d", 12)
    before = open_views("train", examples, MAKER, str(tmp_path / "c"))[0]([3])
    digit_image(5, 5).save(tmp_path / "d" / "3.png")
    after = open_views("train", examples, MAKER, str(tmp_path / "c"))[0]([3])
    assert not torch.equal(after, before) and torch.equal(after, MAKER([examples.images[3]], ["3"]))


def test_images_in_memory_are_identified_by_their_content(tmp_path):
    def key(number):
        image = digit_image(1, number)
        sources = [image, np.asarray(image), (write_digit(tmp_path / "x.png", 1, number)).read_bytes()]
        return [cache_key(Examples([source], ["x"]), MAKER)["images"] for source in sources]

    assert key(0) == key(0) and not set(key(0)) & set(key(1))


def test_datasets_are_identified_by_their_fingerprint(tmp_path):
    features = Features({"image": Image(decode=False), "n": Value("int64")})
    for name, first in (("a", 0), ("b", 1)):
        rows = [{"bytes": write_digit(tmp_path / "x.png", 1, first + i).read_bytes(), "path": None} for i in range(4)]
        Dataset.from_dict({"image": rows, "n": range(4)}, features=features).save_to_disk(tmp_path / name)

    def key(name):
        images = DatasetImages(Dataset.load_from_disk(tmp_path / name).select_columns(["image"]), "image")
        return cache_key(Examples(images, list("abcd")).select([0, 2]), MAKER)

    assert key("a") == key("a") != key("b")


def test_unreadable_images_are_named_all_at_once(tmp_path, counting):
    examples = digits(tmp_path / "d", 12)
    good = (tmp_path / "d" / "4.png").read_bytes()
    for number in (4, 9):
        (tmp_path / "d" / f"{number}.png").write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match=r"2 of 12 images cannot be read.*4\.png.*9\.png"):
        open_views("train", examples, counting, str(tmp_path / "c"))
    assert counting.made == 12


def test_auto_says_what_it_does(tmp_path, monkeypatch):
    examples = digits(tmp_path / "d", 12)
    monkeypatch.setenv("VIT_CUSTOM_CACHE", str(tmp_path / "auto"))
    assert isinstance(open_views("train", examples, MAKER)[0], CachedViews)
    assert folder_of(tmp_path / "auto" / "images")
    monkeypatch.setattr(cache, "SHARE_OF_FREE_DISK", 1e-12)
    assert isinstance(open_views("train", examples, MAKER)[0], CachedViews), "an existing cache is used"
    views, note = open_views("validation", examples.select(range(5)), MAKER)
    assert isinstance(views, DecodedViews) and "5 views of 3 x 16 x 16" in note and "--image_cache DIR" in note
    assert "decoded again" in open_views("train", examples, MAKER, "off")[1]


def test_a_place_that_cannot_hold_it(tmp_path, monkeypatch):
    examples = digits(tmp_path / "d", 12)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"--image_cache .*file cannot hold 12 views.*Name another, or off"):
        open_views("train", examples, MAKER, str(tmp_path / "file"))
    monkeypatch.setenv("VIT_CUSTOM_CACHE", str(tmp_path / "file"))
    views, note = open_views("train", examples, MAKER)
    assert isinstance(views, DecodedViews) and "no cache" in note

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(DataError, match="No space left"):
        open_views("train", examples, MAKER, str(tmp_path / "c"))
    assert not [path for path in (tmp_path / "c").iterdir() if path.is_dir()], "a partial cache is left behind"
