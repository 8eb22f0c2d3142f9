"""Resizing and rounding rules that Pillow lacks equal those of the libraries that the weights come from."""

import numpy as np
import pytest
import torch
from image_files import CHINA, FLOWER, photograph
from PIL import Image
from torchvision.transforms import v2

from modeling_vit_custom.conversion import google_reference
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor, ViTCustomImageProcessorPil

BACKENDS = [ViTCustomImageProcessor, ViTCustomImageProcessorPil]
AREA = 4
UNSCALED = {"do_rescale": False, "do_normalize": False}
both_backends = pytest.mark.parametrize("backend", BACKENDS)


def pixels(processor, images) -> np.ndarray:
    return processor(images, return_tensors="np")["pixel_values"].astype(np.float64)


def expected(picture: Image.Image, height: int, width: int, along) -> np.ndarray:
    """Return [3, height, width] by a reference that shares no code with ours."""
    rows = along(np.asarray(picture).astype(np.float64), height)
    return along(rows.swapaxes(0, 1), width).transpose(2, 1, 0)


@both_backends
@pytest.mark.parametrize("size", [(32, 32), (224, 224), (37, 501), (700, 900)])
@pytest.mark.parametrize("photo", [CHINA, FLOWER], ids=["china", "flower"])
def test_bilinear_without_antialiasing_and_area_are_tensorflow_s(backend, size, photo):
    with Image.open(photo) as image:
        picture = image.convert("RGB")
    for settings, along in (
        ({"antialias": False}, google_reference.bilinear),
        ({"resample": AREA}, google_reference.area),
    ):
        actual = pixels(backend(size=size, **UNSCALED, **settings), picture)[0]
        assert np.abs(actual - expected(picture, *size, along)).max() <= 0.51  # float32, rounded to whole levels


def test_the_references_agree_with_torch_where_it_has_the_same():
    """The reference is torch's bilinear without antialiasing, and average pooling if areas are whole pixels."""
    image = torch.rand(1, 3, 60, 90, dtype=torch.float64)
    rows = image[0].permute(1, 2, 0).numpy()
    for height in (7, 60, 101):
        by_torch = torch.nn.functional.interpolate(image, size=(height, 90), mode="bilinear", align_corners=False)
        actual = google_reference.bilinear(rows, height)
        np.testing.assert_allclose(actual, by_torch[0].permute(1, 2, 0).numpy(), rtol=0, atol=1e-12)
    by_torch = torch.nn.functional.avg_pool2d(image, (4, 1))
    np.testing.assert_allclose(
        google_reference.area(rows, 15), by_torch[0].permute(1, 2, 0).numpy(), rtol=0, atol=1e-12
    )
    weights = google_reference.area(np.eye(7), 3)  # each output covers 7/3 inputs; a shared one counts by its part
    np.testing.assert_allclose(weights[0], np.array([1, 1, 1 / 3, 0, 0, 0, 0]) * 3 / 7, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "settings", [{"antialias": False}, {"antialias": False, "resample": 3}, {"resample": AREA}], ids=str
)
def test_the_backends_agree(settings):
    for channels in (1, 3):
        one, other = (pixels(cls(num_channels=channels, size=50, **UNSCALED, **settings), CHINA) for cls in BACKENDS)
        assert np.array_equal(one, other)
    scaled = np.moveaxis(np.asarray(photograph()), -1, 0) / 255 - 3
    one, other = (pixels(cls(size=20, **UNSCALED, **settings), scaled) for cls in BACKENDS)
    assert np.array_equal(one, other) and one.min() < -2  # in their own range


@both_backends
def test_antialiasing_off_changes_shrinking_only_and_a_call_can_change_it(backend):
    processor = backend(size=32, antialias=False)
    plain, smooth = pixels(processor, CHINA), pixels(backend(size=32), CHINA)
    assert np.abs(plain - smooth).max() > 0.2
    assert np.array_equal(processor(CHINA, antialias=True, return_tensors="np")["pixel_values"], smooth)
    assert np.array_equal(pixels(processor, CHINA), plain) and processor.antialias is False
    small = photograph()
    enlarged = [pixels(backend(size=500, antialias=on), small) for on in (True, False)]
    assert np.abs(enlarged[0] - enlarged[1]).max() <= 1.01 / 127.5
    nearest = [pixels(backend(size=32, resample=0, antialias=on), CHINA) for on in (True, False)]
    assert np.array_equal(*nearest)


@both_backends
@pytest.mark.parametrize("hw", [(300, 401), (403, 300), (301, 305), (300, 300), (20, 500)], ids=str)
@pytest.mark.parametrize("rounding", ["floor", "round_crop", "round_edge"])
def test_sizes_become_whole_as_the_libraries_do_it(backend, hw, rounding):
    """The picture's pixels are all different and only resized to their own size, so the result shows the crop."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (*hw, 3), dtype=np.uint8))
    shorter, side = min(hw), min(hw) - 9
    processor = backend(
        size={"shortest_edge": shorter}, do_center_crop=True, crop_size=side, rounding=rounding, **UNSCALED
    )
    actual = pixels(processor, picture)[0].transpose(1, 2, 0)
    if rounding == "round_crop":
        cropped = v2.CenterCrop(side)(v2.Resize(shorter)(picture))
    else:
        top, left = ((length - side) // 2 for length in hw)
        cropped = picture.crop((left, top, left + side, top + side))
    assert np.array_equal(actual, np.asarray(cropped))


@both_backends
def test_the_longer_edge_is_rounded_down_or_to_the_nearest(backend):
    picture = Image.new("RGB", (400, 300))
    for rounding, longer in (("floor", 49), ("round_crop", 49), ("round_edge", 49)):  # 49.33
        assert pixels(backend(size={"shortest_edge": 37}, rounding=rounding), picture).shape[2:] == (37, longer)
    picture = Image.new("RGB", (320, 500))
    for rounding, longer in (("floor", 57), ("round_crop", 57), ("round_edge", 58)):  # 57.8
        assert pixels(backend(size={"shortest_edge": 37}, rounding=rounding), picture).shape[2:] == (longer, 37)


@both_backends
def test_settings_are_stored_and_wrong_ones_refused(backend, tmp_path):
    backend(size=16, antialias=False, rounding="round_edge").save_pretrained(tmp_path)
    for other in BACKENDS:
        loaded = other.from_pretrained(tmp_path)
        assert (loaded.antialias, loaded.rounding) == (False, "round_edge")
    with pytest.raises(ValueError, match="rounding='up': give one of floor, round_crop, round_edge"):
        backend(rounding="up")
    with pytest.raises(ValueError, match="antialias=False: resample=1 always antialiases"):
        backend(resample=1, antialias=False)
    with pytest.raises(ValueError, match="rounding='up'"):
        backend()(photograph(), rounding="up")


@both_backends
def test_what_is_smaller_than_the_crop_is_padded_as_before(backend):
    for side in (41, 100):
        processor = backend(do_resize=False, do_center_crop=True, crop_size=side, rounding="round_crop", **UNSCALED)
        actual = pixels(processor, Image.new("RGB", (41, 40), "white"))
        assert actual.shape == (1, 3, side, side) and actual.sum() == 41 * 40 * 3 * 255
