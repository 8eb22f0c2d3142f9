"""A cache is not trusted: rows that changed are made again, whatever changed them, and whenever."""

import errno
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from cached_images import MAKER, PROCESSOR, Counting, digits, folder_of
from faults import small_disk
from torch.utils.data import DataLoader

from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.data import cache
from modeling_vit_custom.data.cache import CachedViews, open_views
from modeling_vit_custom.data.dataset import ImageDataset, collate
from modeling_vit_custom.data.sealed_rows import SealedRows, find_or_build
from modeling_vit_custom.data.views import DecodedViews, ImageResizer

N = 100  # 64 of them are compared when a cache is opened
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("d"), N)


@pytest.fixture(scope="module")
def expected(examples):
    return DecodedViews(examples, MAKER)(range(N))


def opened(examples, tmp_path):
    views, note = open_views("train", examples, MAKER, str(tmp_path / "c"))
    assert isinstance(views, CachedViews), note
    return views, note


def change(path, act):
    """Change the array of a .npy file in place, as a process that has it open would."""
    rows = np.lib.format.open_memmap(path, mode="r+")
    act(rows)
    rows.flush()


def unseen(rows: np.ndarray) -> list[int]:
    """Return the rows that opening the cache does not check."""
    return sorted({*range(len(rows))} - {*np.linspace(0, len(rows) - 1, 64).astype(int).tolist()})


# ---------- damage


def invert(rows):
    rows[unseen(rows)] ^= 255


def swap(rows):
    first, second, *_ = unseen(rows)
    rows[[first, second]] = rows[[second, first]]


def flip_a_bit(rows):
    rows[unseen(rows)[-1]].reshape(-1)[5] ^= 1


@pytest.mark.parametrize("damage", [invert, swap, flip_a_bit])
def test_rows_that_opening_does_not_look_at_are_not_believed_either(examples, expected, tmp_path, caplog, damage):
    opened(examples, tmp_path)
    change(folder_of(tmp_path / "c") / "views.npy", damage)
    views, note = opened(examples, tmp_path)
    assert "found in" in note, "the sample that opening checks is right"
    assert torch.equal(views(range(N)), expected) and torch.equal(views([N - 1, 1, 1]), expected[[N - 1, 1, 1]])
    [said] = [record.message for record in caplog.records]
    image = examples.names[0].removesuffix("0.png")
    assert f"{views.folder} does not hold what was written for {image}" in said and "decoded again" in said


def test_rows_and_checksums_that_change_together_are_built_again(examples, expected, tmp_path, caplog):
    opened(examples, tmp_path)
    folder = folder_of(tmp_path / "c")
    change(folder / "views.npy", invert)
    views = np.load(folder / "views.npy")

    def agree(checksums):
        checksums[:] = [cache.checksum(row) for row in views]

    change(folder / "rows.npy", agree)
    views, note = opened(examples, tmp_path)
    assert "built in" in note and "is damaged (its seal is of other contents)" in caplog.text
    assert torch.equal(views(range(N)), expected)


def test_a_cache_without_a_seal_is_built_again(examples, tmp_path, caplog):
    opened(examples, tmp_path)
    (folder_of(tmp_path / "c") / "seal").unlink()
    assert "built in" in opened(examples, tmp_path)[1] and "it has no seal: an earlier version's" in caplog.text


# ---------- while it is read


def cut(folder):
    os.truncate(folder / "views.npy", 4000)


def emptied(folder):
    os.truncate(folder / "views.npy", 0)


def overwritten(folder):
    change(folder / "views.npy", invert)


def replaced(folder):
    """Replace the cache, as another run does that finds it damaged: the new one lies in other files."""
    rows = np.load(folder / "views.npy")
    shutil.rmtree(folder)

    def build(new):
        new.write(range(N), 255 - rows)

    find_or_build(folder, "views.npy", {"of": "another"}, rows.shape, np.uint8, build)


@pytest.mark.parametrize("act", [shutil.rmtree, cut, emptied, overwritten, replaced])
def test_whatever_happens_to_a_cache_while_it_is_read(examples, expected, tmp_path, act):
    views = opened(examples, tmp_path)[0]
    assert torch.equal(views([3]), expected[[3]])
    act(folder_of(tmp_path / "c"))
    assert torch.equal(views(range(N)), expected)


@pytest.mark.parametrize("act", [shutil.rmtree, overwritten])
def test_whatever_happens_to_a_cache_in_mid_training(examples, expected, tmp_path, act):
    dataset = ImageDataset(examples, opened(examples, tmp_path)[0])
    loader = DataLoader(dataset, batch_size=20, num_workers=1, collate_fn=collate)
    for epoch in range(2):  # the second epoch's workers are new
        batches = iter(loader)
        seen = [next(batches)]
        if epoch == 0:
            act(folder_of(tmp_path / "c"))
        seen += list(batches)
        assert torch.equal(torch.cat([batch["pixel_values"] for batch in seen]), expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_process_that_is_started_is_handed_the_open_file(expected, tmp_path, method):
    examples = digits(tmp_path / "d", N)
    counting = Counting(PROCESSOR, MAKER.shape)
    views, _ = open_views("train", examples, counting, str(tmp_path / "c"))
    shutil.rmtree(folder_of(tmp_path / "c"))
    (tmp_path / "d" / "7.png").unlink()  # so that it cannot be decoded again
    loader = DataLoader(
        ImageDataset(examples, views), 20, num_workers=1, collate_fn=collate, multiprocessing_context=method
    )
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in loader]), expected)


def test_elsewhere_it_is_opened_by_name_or_decoded(examples, expected, tmp_path):
    views = opened(examples, tmp_path)[0]
    sent = pickle.dumps(views.rows)
    assert len(sent) < 1000
    assert pickle.loads(sent).read(range(N))[1] == []
    folder = folder_of(tmp_path / "c")
    shutil.copytree(folder, tmp_path / "other")
    replaced(folder)
    assert pickle.loads(sent).read(range(N))[1] == list(range(N)), "rows of another cache must not be used"
    shutil.rmtree(folder)
    assert torch.equal(pickle.loads(pickle.dumps(views))(range(N)), expected)
    (tmp_path / "other").rename(folder)
    assert pickle.loads(sent).read(range(N))[1] == []


def test_positions_are_those_of_a_sequence(examples, expected, tmp_path):
    views = opened(examples, tmp_path)[0]
    assert torch.equal(views([-1]), expected[[-1]]) and views([]).shape == (0, *MAKER.shape)
    with pytest.raises(IndexError):
        views([N])


# ---------- full disks: without the reserved space, a signal would end the tests themselves


@root_only
def test_checksums_that_do_not_fit_beside_their_rows_are_an_error(tmp_path):
    with small_disk(tmp_path):  # 8 MiB, for 7.6 MiB of rows and 3.8 MiB of checksums
        with pytest.raises(OSError) as raised:
            find_or_build(tmp_path / "c", "views.npy", {}, (10**6, 8), np.uint8, lambda rows: pytest.fail("too late"))
        assert raised.value.errno == errno.ENOSPC
        assert [path.name for path in tmp_path.iterdir()] in ([], ["c.lock"]), "nothing is left behind"


def fill(disk, left: int = 0):
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(file.tell() - left)


@root_only
def test_what_was_reserved_is_there_when_the_disk_fills_up(tmp_path):
    def build(rows):
        fill(tmp_path)
        rows.write(range(1000), np.arange(4000, dtype=np.uint8).reshape(1000, 4))

    with small_disk(tmp_path):
        rows, how = find_or_build(tmp_path / "c", "views.npy", {}, (1000, 4), np.uint8, build)
        assert how == "built" and rows.read([0, 999])[0].tolist() == [[0, 1, 2, 3], [156, 157, 158, 159]]
        assert SealedRows(tmp_path / "c", "views.npy").find_wrong() == []
        del rows  # otherwise the disk is busy


@root_only
@pytest.mark.parametrize("image_cache", ["auto", "a folder"])
def test_a_disk_that_fills_up_where_nothing_can_be_reserved(examples, tmp_path, monkeypatch, image_cache):
    """The case of file systems that copy on write, compress, or cannot preallocate."""
    full = []

    class FillsUp(ImageResizer):
        def __call__(self, sources, names):
            if not full and names[0].endswith("50.png"):
                fill(disk, left=20_000)
                full.append(names)
            return super().__call__(sources, names)

    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    (disk := tmp_path / "disk").mkdir()
    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    monkeypatch.setattr(cache, "SHARE_OF_FREE_DISK", 1e3)
    monkeypatch.setattr(cache, "MAX_CHUNK", 4)
    monkeypatch.setenv("VIT_CUSTOM_CACHE", str(disk))
    maker = FillsUp(PROCESSOR, (3, 64, 64), {"size": {"height": 64, "width": 64}})
    with small_disk(disk):
        if image_cache == "auto":
            views, note = open_views("train", examples, maker)
            assert isinstance(views, DecodedViews) and "no cache: [Errno 28] No space left on device" in note
        else:
            with pytest.raises(DataError, match=r"--image_cache .* cannot hold 100 views.*No space left.*or off"):
                open_views("train", examples, maker, str(disk / "images"))
        assert full and not [path for path in (disk / "images").iterdir() if path.is_dir()], "nothing is left behind"
        (disk / "filler").unlink()
        assert "built in" in open_views("train", examples, maker, str(disk / "images"))[1]
