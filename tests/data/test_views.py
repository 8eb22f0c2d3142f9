"""Views are the pixels that `pipeline` sees, bit for bit; their random numbers are counter-based."""

import numpy as np
import pytest
import torch
from real_digits import digit_image
from sklearn.datasets import load_sample_image

from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.configuration_vit_custom import ViTCustomConfig
from modeling_vit_custom.data.counter_rng import example_keys, uniform
from modeling_vit_custom.data.views import ImageResizer, PixelValues, eval_resizer, larger_resizer
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor

PROCESSORS = {
    "squashed": {},
    "middle": {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": {"height": 24, "width": 32}},
    "imagenet": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3},
    "not normalised": {"do_normalize": False},
    "not rescaled": {"do_normalize": False, "do_rescale": False},
    "grey": {"num_channels": 1},
}


@pytest.fixture(scope="module")
def photos():
    return [load_sample_image(name) for name in ("china.jpg", "flower.jpg")] + [np.asarray(digit_image(3))]


@pytest.mark.parametrize("settings", PROCESSORS.values(), ids=PROCESSORS.keys())
def test_views_give_what_the_processor_gives(photos, settings):
    config = ViTCustomConfig(image_size=(24, 32), patch_size=8, num_channels=settings.get("num_channels", 3))
    processor = ViTCustomImageProcessor.for_model(config, **settings)
    views = eval_resizer(processor, config)(photos, ["china", "flower", "three"])
    assert views.dtype == torch.uint8
    expected = processor(photos, return_tensors="pt")["pixel_values"].float()
    assert torch.equal(PixelValues(processor)(views), expected)


def test_larger_views_keep_the_geometry(photos):
    config = ViTCustomConfig(image_size=32, patch_size=8)
    squashing = ViTCustomImageProcessor.for_model(config)
    larger = ViTCustomImageProcessor.for_model(config, size={"height": 37, "width": 37}, do_normalize=False)
    seen = larger_resizer(squashing, config, (37, 37))(photos, "abc").float() / 255
    torch.testing.assert_close(seen, larger(photos, return_tensors="pt")["pixel_values"])

    cropping = ViTCustomImageProcessor.for_model(
        config, size={"shortest_edge": 36}, do_center_crop=True, crop_size={"height": 32, "width": 32}
    )
    whole = photos[0][:, (640 - 427) // 2 : (640 + 427) // 2]  # the middle square of 427 x 640
    seen = larger_resizer(cropping, config, (37, 37))(photos[:1], "a").float()[0]
    expected = larger(whole, return_tensors="pt")["pixel_values"][0] * 255
    assert (seen - expected).abs().mean() < 3, "must be the whole middle, within a pixel of the cut"


def test_another_size_than_the_models_is_refused(photos):
    config = ViTCustomConfig(image_size=32, patch_size=8)
    processor = ViTCustomImageProcessor.for_model(config, size={"shortest_edge": 32})
    with pytest.raises(DataError, match=r"china: .*3 x 32 x 47.*not 3 x 32 x 32"):
        eval_resizer(processor, config)(photos[:1], ["china"])


def test_descriptions_tell_views_apart():
    config = ViTCustomConfig(image_size=32, patch_size=8)
    plain = eval_resizer(ViTCustomImageProcessor.for_model(config), config).description()
    normalised = ViTCustomImageProcessor.for_model(config, image_mean=[0.1, 0.2, 0.3])
    assert eval_resizer(normalised, config).description() == plain
    for other in ({"resample": 3}, {"background_color": [0, 0, 0]}):
        assert eval_resizer(ViTCustomImageProcessor.for_model(config, **other), config).description() != plain
    assert ImageResizer(normalised, (3, 37, 37)).description() != plain


def test_draws_are_even_and_unrelated():
    numbers = uniform(example_keys(0, 0, np.arange(20_000)), 8)
    assert numbers.dtype == np.float32 and numbers.min() >= 0 and numbers.max() < 1
    np.testing.assert_allclose(np.quantile(numbers, [0.1, 0.5, 0.9], axis=0).T, [[0.1, 0.5, 0.9]] * 8, atol=0.015)
    shifted = np.hstack([numbers[:-1], numbers[1:]])
    assert np.abs(np.corrcoef(shifted.T) - np.eye(16)).max() < 0.03, "within one example and between neighbours"
    epochs = [uniform(example_keys(seed, epoch, np.arange(5000)), 1)[:, 0] for seed in (0, 1) for epoch in (0, 1)]
    assert np.abs(np.corrcoef(epochs) - np.eye(4)).max() < 0.06


def test_draws_depend_on_seed_epoch_and_index_alone():
    numbers = uniform(example_keys(3, 5, [7, 2, 9]), 4)
    np.testing.assert_array_equal(numbers[1], uniform(example_keys(3, 5, [2]), 6)[0, :4])
    keys = {int(key) for seed in range(4) for epoch in range(4) for key in example_keys(seed, epoch, np.arange(100))}
    assert len(keys) == 1600
