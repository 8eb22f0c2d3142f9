"""Images are prepared together and ahead of the model, without any effect on the results."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from modeling_vit_custom import ViTCustomImageProcessor
from modeling_vit_custom.engines.exported import in_parts_of
from modeling_vit_custom.inference import forward
from modeling_vit_custom.inference.forward import PreparedImages, read_ahead, stacked


class Watched(ViTCustomImageProcessor):
    """Records the number of images in each call."""

    def __call__(self, images, **kwargs):
        self.__dict__.setdefault("calls", []).append(len(images))
        return super().__call__(images, **kwargs)


@pytest.fixture
def sources():
    """Return images of two sizes in turn, a missing file, and an image too narrow to shrink to 32 pixels on a side."""
    china, flower = (Image.fromarray(image) for image in load_sample_images().images)
    photos = [china, flower.resize((160, 107)), flower, china.resize((160, 107))]
    return [*photos, "nowhere.png", Image.new("RGB", (90, 1)), *photos]


@pytest.mark.parametrize("size", [{"height": 32, "width": 32}, {"max_height": 32, "max_width": 32}])
def test_images_prepared_together_are_those_prepared_alone(sources, size):
    processor = Watched(size=size)
    images = PreparedImages(sources, [f"image {i}" for i in range(len(sources))], processor)
    together = images.take(range(len(sources)))
    assert max(processor.calls) == 4
    alone = [images[i] for i in range(len(sources))]
    for (index, pixels, error), (same_index, same_pixels, same_error) in zip(together, alone, strict=True):
        assert (index, error) == (same_index, same_error)
        assert (pixels is None) == (same_pixels is None)
        assert pixels is None or torch.equal(pixels, same_pixels)
    assert [index for index, _, error in together if error] == ([4, 5] if "max_height" in size else [4])


def test_large_images_do_not_pile_up_in_memory(sources, monkeypatch):
    monkeypatch.setattr(forward, "TOGETHER", 1_000_000)  # a photograph of 640 by 427 pixels has 819,840 bytes
    processor = Watched(size={"height": 32, "width": 32})
    photos = [sources[0]] * 6
    assert all(error is None for _, _, error in PreparedImages(photos, ["photo"] * 6, processor).take(range(6)))
    assert processor.calls == [2, 2, 2]


def test_the_next_batch_is_prepared_while_one_is_used(sources):
    prepared = {i: threading.Event() for i in range(4)}

    class Recorded(PreparedImages):
        def take(self, indices):
            items = super().take(indices)
            prepared[indices[0]].set()
            return items

    photos = [np.asarray(sources[1])] * 4
    batches = read_ahead(Recorded(photos, ["photo"] * 4, ViTCustomImageProcessor()), [[i] for i in range(4)])
    assert next(batches)[0][0] == 0
    assert prepared[1].wait(60)  # before it is asked for
    assert not prepared[3].is_set()  # but no further
    assert [items[0][0] for items in batches] == [1, 2, 3]


def test_a_reader_that_is_left_early_ends_its_thread(sources):
    before = threading.active_count()
    photos = [np.asarray(sources[1])] * 8
    batches = read_ahead(PreparedImages(photos, ["photo"] * 8, ViTCustomImageProcessor()), [[i] for i in range(8)])
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_images_that_are_a_batch_already_are_not_copied():
    batch = torch.randn(3, 3, 4, 4)
    rows = list(batch)
    assert stacked(rows) is batch
    for others in (
        rows[::-1],
        rows[:2],
        [rows[0], rows[0], rows[2]],
        [*rows, batch[0]],
        [rows[0], rows[1], torch.zeros(3, 4, 4)],
    ):
        copy = stacked(others)
        assert copy.data_ptr() != batch.data_ptr()
        assert torch.equal(copy, torch.stack(others))


@pytest.mark.parametrize("count", [1, 4, 5, 8, 9, 20])
def test_parts_are_of_one_size_and_give_each_image_its_own_logits(count):
    images, seen = torch.randn(9, 3, 4, 4), []

    def run(part):
        seen.append(len(part))
        return part.flatten(1)[:, :5]

    assert torch.equal(in_parts_of(count, run, images), images.flatten(1)[:, :5])
    assert set(seen) == {count}
    assert len(seen) == -(-9 // count)
