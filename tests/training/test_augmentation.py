"""Augmentation of batches: the geometry is torch's and torchvision's, and results do not depend on batch or process."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loaded_splits import load_splits
from real_digits import digit_image, write_class_folder
from sklearn.datasets import load_sample_image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from modeling_vit_custom.configuration_vit_custom import ViTCustomConfig
from modeling_vit_custom.data.counter_rng import example_keys, uniform
from modeling_vit_custom.data.dataset import DRAWS, ImageDataset, collate
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.data.targets import ClassIds
from modeling_vit_custom.data.views import DecodedViews, PixelValues, eval_resizer, larger_resizer
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor
from modeling_vit_custom.training.inputs import augmentation as augment
from modeling_vit_custom.training.inputs.augmentation import (
    AUGMENTATIONS,
    POLICIES,
    BatchAugmentation,
    GrowingSize,
    RandomGrayscale,
    random_crop,
    small_affine,
    warp,
)

CONFIG = ViTCustomConfig(image_size=(24, 32), patch_size=8)
PROCESSOR = ViTCustomImageProcessor.for_model(CONFIG)
PHOTOS = Examples([load_sample_image(name) for name in ("china.jpg", "flower.jpg")], ["a", "b"], ClassIds([0, 1]))


def draws(count: int, **fixed: float) -> torch.Tensor:
    """Return random numbers [count, K]; `fixed` sets the values of some columns."""
    numbers = torch.from_numpy(uniform(example_keys(0, 0, np.arange(count)), DRAWS))
    for name, value in fixed.items():
        numbers[:, getattr(augment, name.upper())] = value
    return numbers


def dataset(examples=PHOTOS, view_hw=(28, 37), seed=0, policy=None) -> ImageDataset:
    return ImageDataset(examples, DecodedViews(examples, larger_resizer(PROCESSOR, CONFIG, view_hw)), seed, policy)


def augmentation(name: str) -> BatchAugmentation:
    return BatchAugmentation(AUGMENTATIONS[name], CONFIG.image_hw, PixelValues(PROCESSOR))


def augmented(batch, name="standard") -> torch.Tensor:
    return augmentation(name)(batch["pixel_values"], batch["labels"], batch["draws"])[0]


def test_none_is_the_processor():
    data = ImageDataset(PHOTOS, DecodedViews(PHOTOS, eval_resizer(PROCESSOR, CONFIG)), seed=0)
    expected = PROCESSOR(PHOTOS.images, return_tensors="pt")["pixel_values"]
    assert torch.equal(augmented(data.__getitems__([0, 1]), "none"), expected)
    assert torch.equal(augmented(collate([data[0], data[1]]), "none"), expected)


@pytest.mark.parametrize("name", ["light", "standard"])
def test_shape_range_and_labels(name):
    batch = dataset().__getitems__([0, 1])
    pixel_values, labels = augmentation(name)(batch["pixel_values"], batch["labels"], batch["draws"])
    assert pixel_values.shape == (2, 3, 24, 32) and pixel_values.dtype == torch.float32
    assert -1.00001 < pixel_values.min() < pixel_values.max() < 1.00001
    assert torch.equal(labels, batch["labels"])


def test_warp_is_torchs_affine_sampling():
    images, maps = dataset().__getitems__([0, 1])["pixel_values"], torch.randn(2, 2, 3)
    grid = F.affine_grid(maps, [2, 3, 24, 32], align_corners=False)
    expected = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(warp(images, maps, (24, 32)), expected, atol=1e-2, rtol=0)


def test_small_affine_is_torchvisions():
    """Rotation, shift and scale about the centre equal torchvision's, away from the edges."""
    smooth = v2.functional.gaussian_blur(torch.tensor(PHOTOS.images[0]).permute(2, 0, 1), [21, 21])
    image = v2.functional.resize(smooth, [60, 80])[None]
    for turn, x, zoom in ((0.9, 0.5, 0.5), (0.5, 0.75, 0.5), (0.5, 0.5, 1.0), (0.2, 0.25, 0.1)):
        numbers = draws(1, rotation=turn, shift_x=x, shift_y=0.5, scale=zoom, shear=0.5)  # x moves by 4 or -4 pixels
        ours = warp(image, small_affine(numbers, (60, 80)), (60, 80))
        theirs = v2.functional.affine(
            image.float(),
            angle=-(2 * turn - 1) * 12,
            translate=[round((2 * x - 1) * 0.1 * 80), 0],
            scale=1 + (2 * zoom - 1) * 0.15,
            shear=[0.0, 0.0],
            interpolation=v2.InterpolationMode.BILINEAR,
        )
        assert (ours - theirs)[..., 12:-12, 16:-16].abs().max() < 6


def test_small_affine_is_small_and_fills_with_the_border():
    image = torch.full((200, 3, 40, 40), 200, dtype=torch.uint8)
    image[..., 15:25, 15:25] = 20
    moved = warp(image, small_affine(draws(200), (40, 40)), (40, 40))
    assert (moved[..., [0, 0, -1, -1], [0, -1, 0, -1]] - 200).abs().max() < 0.01, "corners have the border's colour"
    dark = (moved[:, 0] < 110).sum(dim=(1, 2))
    assert (dark > 65).all() and (dark < 145).all(), "the square keeps its size within 15 % a side"
    for square in moved[:, 0] < 110:
        rows, columns = torch.nonzero(square, as_tuple=True)
        assert abs(rows.float().mean() - 19.5) < 5 and abs(columns.float().mean() - 19.5) < 5


def test_a_map_without_motion_is_the_identity():
    images = dataset(view_hw=(24, 32)).__getitems__([0, 1])["pixel_values"]
    still = draws(2, rotation=0.5, shift_x=0.5, shift_y=0.5, scale=0.5, shear=0.5, area=1.0, ratio=0.5, mirror=0.9)
    for geometry in (small_affine, random_crop):
        torch.testing.assert_close(warp(images, geometry(still, (24, 32)), (24, 32)), images.float(), atol=0.01, rtol=0)
    mirrored = warp(images, random_crop(still * 0 + still.masked_fill(still == 0.9, 0.1), (24, 32)), (24, 32))
    torch.testing.assert_close(mirrored, images.flip(-1).float(), atol=0.01, rtol=0)


def test_crops_are_cut_where_the_numbers_say():
    """A square quarter of the area is cut from the upper right corner and resized, as torchvision does."""
    images = dataset(view_hw=(48, 64)).__getitems__([0, 1])["pixel_values"]
    corner = draws(2, area=(0.25 - 0.08) / 0.92, ratio=0.5, left=1.0, top=0.0, mirror=0.9)
    expected = v2.functional.resized_crop(images, 0, 32, 24, 32, [24, 32], antialias=False)
    torch.testing.assert_close(warp(images, random_crop(corner, (24, 32)), (24, 32)), expected.float(), atol=1, rtol=0)


def test_crops_have_torchvisions_areas_and_ratios():
    maps = random_crop(draws(20_000), (24, 32))
    width, height = maps[:, 0, 0].abs(), maps[:, 1, 1]
    assert (maps[:, 0, 2].abs() + width <= 1 + 1e-5).all() and (maps[:, 1, 2].abs() + height <= 1 + 1e-5).all()
    torch.manual_seed(0)
    image = torch.empty(3, 1000, 1000)
    boxes = torch.tensor([v2.RandomResizedCrop(9).make_params([image])["height"] for _ in range(2000)]) / 1000
    assert abs(height.mean() - boxes.mean()) < 0.02 and abs(height.std() - boxes.std()) < 0.02
    assert width.min() * height.min() > 0.04 and (width / height).log().abs().max() < math.log(4 / 3) + 1e-5
    assert 0.48 < (maps[:, 0, 0] < 0).float().mean() < 0.52


def test_depends_on_seed_epoch_and_index_alone(tmp_path):
    write_class_folder(tmp_path, {"0": 6, "1": 6})
    examples = load_splits(tmp_path).train

    def epoch(seed, number, workers=0, order=None, size=4, policy=None):
        data = dataset(examples, seed=seed, policy=policy)
        data.set_epoch(number)
        torch.manual_seed(torch.seed() % 1000)  # the generator's state must not matter
        loader = DataLoader(data, size, sampler=order, num_workers=workers, collate_fn=collate)
        return torch.cat([augmented(batch) for batch in loader])

    policy = v2.RandAugment()
    for options in ({}, {"policy": policy}):
        first = epoch(0, 0, **options)
        assert torch.equal(first, epoch(0, 0, workers=2, **options))
        assert torch.equal(first, epoch(0, 0, size=3, **options))
        backwards = list(range(len(examples)))[::-1]
        assert torch.equal(first.flip(0), epoch(0, 0, order=backwards, **options))
    plain = epoch(0, 0)
    for other in (epoch(1, 0), epoch(0, 1)):
        assert (plain != other).flatten(1).any(dim=1).all(), "every image must be augmented differently"
    assert (plain != first).flatten(1).any(dim=1).sum() > len(plain) / 2, "the policy must change most images"


def test_processes_that_persist_see_each_epoch():
    """A loading process keeps its copy of the data set: an epoch set in the main process must reach it."""
    data = dataset()
    loader = DataLoader(data, 2, num_workers=1, persistent_workers=True, collate_fn=collate)
    passes = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        passes.append(augmented(next(iter(loader))))
    assert torch.equal(passes[0], passes[2]) and not torch.equal(passes[0], passes[1])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_policies_change_views_and_leave_the_generator_alone(policy, channels):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    config = ViTCustomConfig(image_size=32, patch_size=8, num_channels=channels)
    views = DecodedViews(PHOTOS, eval_resizer(ViTCustomImageProcessor.for_model(config), config))
    changed = ImageDataset(PHOTOS, views, 0, POLICIES[policy]()).__getitems__([0, 1] * 4)["pixel_values"]
    plain = views([0, 1] * 4)
    assert changed.dtype == torch.uint8 and changed.shape == plain.shape
    assert torch.equal(changed[0], changed[2]) and not torch.equal(changed, plain)
    assert torch.equal(torch.rand(3), expected)


def test_sizes_grow_in_whole_patches_and_are_whole_in_time():
    growing = GrowingSize((64, 96), (8, 16), 0.5)
    assert growing.at(0) == (32, 48) and growing.at(0.35) == (48, 64) and growing.at(0.7) == growing.at(1) == (64, 96)
    sizes = [growing.at(progress / 100) for progress in range(101)]
    assert sizes == sorted(sizes) and all(h % 8 == 0 and w % 16 == 0 for h, w in sizes)
    assert GrowingSize((32, 32), (8, 8), 0.1).at(0) == (8, 8)


def test_smaller_images_are_the_same_pictures():
    images = torch.stack([torch.from_numpy(np.array(digit_image(d).resize((64, 64)))) for d in range(4)])[:, None]
    small = GrowingSize((64, 64), (8, 8), 0.5)(images, 0.0)
    expected = v2.functional.resize(images.float(), [32, 32], antialias=True)
    torch.testing.assert_close(small, expected)
    assert GrowingSize((64, 64), (8, 8), 0.5)(images, 0.9) is images


def test_shifted_pictures_are_moved_by_whole_pixels_and_mirrored_half_of_the_time():
    draws = torch.rand(400, DRAWS)
    maps = AUGMENTATIONS["shift"](draws, (24, 48))
    assert (maps[:, 0, 2] * 48 / 2).round(decimals=4).unique().tolist() == [-2, -1, 0, 1, 2]
    assert (maps[:, 1, 2] * 24 / 2).round(decimals=4).unique().tolist() == [-1, 0, 1]
    assert set(maps[:, 0, 0].tolist()) == {-1.0, 1.0} and 0.4 < (maps[:, 0, 0] < 0).float().mean() < 0.6
    images = torch.randint(0, 256, (400, 1, 24, 48), dtype=torch.uint8)
    moved = warp(images, maps, (24, 48))
    torch.testing.assert_close(moved, moved.round(), atol=1e-2, rtol=0)  # nothing is blurred
    still = torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    torch.testing.assert_close(warp(images[:1], still, (24, 48)), images[:1].flip(3).float(), atol=1e-2, rtol=0)


def test_colours_are_taken_away_as_torchvision_does_from_as_many_images_as_asked():
    photos = torch.stack([torch.tensor(image).permute(2, 0, 1)[:, :200, :300] for image in PHOTOS.images] * 200)
    numbers = draws(len(photos))
    found = RandomGrayscale(0.3)(photos, numbers)
    grey = (found == found[:, :1]).flatten(1).all(dim=1)
    assert torch.equal(grey, numbers[:, augment.GREY] < 0.3) and 0.2 < grey.float().mean() < 0.4
    expected = v2.functional.rgb_to_grayscale(photos[grey].float(), num_output_channels=3)
    torch.testing.assert_close(found[grey], expected)
    assert torch.equal(found[~grey], photos[~grey].float())


def test_images_without_colours_and_a_probability_of_0_change_nothing():
    photos = torch.from_numpy(np.stack(PHOTOS.images)).permute(0, 3, 1, 2)
    assert RandomGrayscale()(photos, draws(2)) is photos
    one_channel = photos[:, :1]
    assert RandomGrayscale(1.0)(one_channel, draws(2)) is one_channel
