"""Augmentation: what it leaves alone, and that an image's augmentation depends on (seed, epoch, index) only."""

import numpy as np
import pytest
import torch
from real_digits import digit_image, write_class_folder
from sklearn.datasets import load_sample_image
from torch.utils.data import DataLoader

from modeling_vit_custom.configuration_vit_custom import ViTCustomConfig
from modeling_vit_custom.data.dataset import ImageDataset, collate, eval_transform
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.data.sources import load_splits
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor
from modeling_vit_custom.training.augment import SmallAffine, train_transform


@pytest.fixture(scope="module")
def processor():
    return ViTCustomImageProcessor.for_model(ViTCustomConfig(image_size=(24, 32), patch_size=8))


@pytest.fixture(scope="module")
def photos():
    images = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    return Examples(images, ["china", "flower"], np.array([0, 1]))


def test_none_is_the_processor(processor, photos):
    dataset = ImageDataset(photos, train_transform(processor, "none", (24, 32)))
    expected = processor(photos.images, return_tensors="pt")["pixel_values"]
    assert torch.equal(collate([dataset[0], dataset[1]])["pixel_values"], expected)
    assert torch.equal(collate(dataset.__getitems__([0, 1]))["pixel_values"], expected)
    assert torch.equal(torch.stack([eval_transform(processor)(processor.decode(p)) for p in photos.images]), expected)


@pytest.mark.parametrize("name", ["light", "standard"])
def test_shape_and_range(processor, photos, name):
    item = ImageDataset(photos, train_transform(processor, name, (24, 32)))[1]
    assert item["pixel_values"].shape == (3, 24, 32) and item["pixel_values"].dtype == torch.float32
    assert -1 <= item["pixel_values"].min() < item["pixel_values"].max() <= 1
    assert item["labels"] == 1


def test_unknown_name(processor):
    with pytest.raises(ValueError, match="augmentation='heavy'"):
        train_transform(processor, "heavy", (24, 32))


def test_depends_on_seed_epoch_and_index_alone(processor, tmp_path):
    write_class_folder(tmp_path, {"0": 6, "1": 6})
    examples = load_splits(tmp_path).train

    def epoch(seed, number, workers=0, order=None):
        dataset = ImageDataset(examples, train_transform(processor, "light", (24, 32)), seed)
        dataset.set_epoch(number)
        torch.manual_seed(torch.seed() % 1000)  # whatever happened before
        loader = DataLoader(dataset, 4, sampler=order, num_workers=workers, collate_fn=collate)
        return torch.cat([batch["pixel_values"] for batch in loader])

    first = epoch(0, 0)
    assert torch.equal(first, epoch(0, 0, workers=2))
    backwards = list(range(len(examples)))[::-1]
    assert torch.equal(first.flip(0), epoch(0, 0, order=backwards))
    for other in (epoch(1, 0), epoch(0, 1)):
        assert (first != other).flatten(1).any(dim=1).all(), "every image is augmented anew"


def test_processes_that_persist_see_each_epoch(processor, photos):
    """A loading process keeps its copy of the dataset: an epoch set in the main process must reach it."""
    dataset = ImageDataset(photos, train_transform(processor, "light", (24, 32)))
    loader = DataLoader(dataset, 2, num_workers=1, persistent_workers=True, collate_fn=collate)
    passes = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        passes.append(next(iter(loader))["pixel_values"])
    assert torch.equal(passes[0], passes[2]) and not torch.equal(passes[0], passes[1])


def test_augmenting_leaves_the_global_generator_alone(processor, photos):
    dataset = ImageDataset(photos, train_transform(processor, "standard", (24, 32)))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dataset[0]
    assert torch.equal(torch.rand(3), expected)


def test_small_affine_is_small_and_fills_with_the_border():
    image = torch.full((3, 40, 40), 200, dtype=torch.uint8)
    image[:, 15:25, 15:25] = 20
    torch.manual_seed(0)
    for _ in range(50):
        moved = SmallAffine()(image)
        assert moved.shape == image.shape and moved.dtype == torch.uint8
        assert (moved[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 200).all(), "corners have the border's colour"
        dark = (moved[0] < 110).sum().item()
        assert 65 < dark < 145, "the square keeps its size but for 15 % on each side"
        rows, columns = torch.nonzero(moved[0] < 110, as_tuple=True)
        assert abs(rows.float().mean() - 19.5) < 5 and abs(columns.float().mean() - 19.5) < 5


def test_small_affine_without_motion_is_the_identity():
    still = SmallAffine(degrees=0, shift=0, scale=0, shear=0)
    for image in (np.array(digit_image(3))[None], load_sample_image("china.jpg")[:60, :50].transpose(2, 0, 1)):
        tensor = torch.from_numpy(np.ascontiguousarray(image))
        assert torch.equal(still(tensor), tensor)
