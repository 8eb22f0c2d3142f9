"""Both image processors: the same pixels on every route, checked settings, complete saved folders."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from image_files import CHINA, FLOWER, encode, photograph, rotated
from PIL import Image
from sklearn.datasets import load_digits

from modeling_vit_custom.configuration_vit_custom import ViTCustomConfig
from modeling_vit_custom.image_decoding_vit_custom import decode_image
from modeling_vit_custom.image_limits_vit_custom import ImageDecodingError, ImageLimits
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor, ViTCustomImageProcessorPil

BACKENDS = {"torchvision": ViTCustomImageProcessor, "pil": ViTCustomImageProcessorPil}
PHOTO = photograph()

both_backends = pytest.mark.parametrize("backend", BACKENDS)


def pixel_values(processor, images, **kwargs):
    return processor(images, return_tensors="pt", **kwargs)["pixel_values"]


def awkward_files(folder):
    """Write one file of every kind that loses something when it is read by another route than ours."""
    alpha = PHOTO.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.arange(PHOTO.width, dtype=np.uint8) * 4, (PHOTO.height, 1))))
    deep = Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257)
    contents = {
        "orientation.jpg": rotated(PHOTO, "JPEG", 6),
        "alpha.png": encode(alpha, "PNG"),
        "grey_alpha.png": encode(alpha.convert("LA"), "PNG"),
        "palette.png": encode(PHOTO.convert("P"), "PNG", transparency=7),
        "one_bit.png": encode(PHOTO.convert("1"), "PNG"),
        "sixteen_bit.png": encode(deep, "PNG"),
        "cmyk.jpg": encode(PHOTO.convert("CMYK"), "JPEG"),
        "float.tiff": encode(Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.float32) / 255), "TIFF"),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


# ---------- the same file, the same tensor


@both_backends
@pytest.mark.parametrize("num_channels", [1, 3])
def test_every_route_gives_the_same_tensor(backend, num_channels):
    processor = BACKENDS[backend](num_channels=num_channels, size=(96, 128))
    with Image.open(CHINA) as image:
        array = np.asarray(image)
        first = torch.tensor(array).permute(2, 0, 1)
        routes = [str(CHINA), CHINA, CHINA.read_bytes(), image, array, array / 255, first, first.numpy()]
        routes += [first.to(torch.int64), array.astype(np.uint16) * 257, processor.decode(CHINA)]
        expected = pixel_values(processor, CHINA)
        assert expected.shape == (1, num_channels, 96, 128) and expected.dtype == torch.float32
        for route in routes:
            assert torch.equal(pixel_values(processor, route), expected)
        batch = pixel_values(processor, [*routes, FLOWER])  # mixed sizes and types
        assert torch.equal(batch[:-1], expected.expand(len(routes), -1, -1, -1))
        assert torch.equal(batch[-1:], pixel_values(processor, FLOWER))


@both_backends
def test_every_route_agrees_on_awkward_files(backend, tmp_path):
    processor = BACKENDS[backend](size=32, background_color=[200, 30, 90])
    files = awkward_files(tmp_path)
    expected = pixel_values(processor, files)
    assert torch.equal(pixel_values(processor, [file.read_bytes() for file in files]), expected)
    assert torch.equal(pixel_values(processor, [processor.decode(file) for file in files]), expected)
    for file, value in zip(files, expected, strict=True):
        with Image.open(file) as image:
            assert torch.equal(pixel_values(processor, image)[0], value)


@both_backends
def test_rows_of_an_imagefolder_agree_with_the_files(backend, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="only needed for training")
    (tmp_path / "images" / "thing").mkdir(parents=True)
    files = awkward_files(tmp_path / "images" / "thing")
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "images"), split="train", cache_dir=str(tmp_path / "cache")
    )
    undecoded = rows.cast_column("image", datasets.Image(decode=False))
    assert len(rows) == len(files)
    processor = BACKENDS[backend](size=32)
    for row, record in zip(rows, undecoded, strict=True):
        expected = pixel_values(processor, record["image"]["path"])
        assert torch.equal(pixel_values(processor, record["image"]), expected)
        assert torch.equal(pixel_values(processor, row["image"]), expected)


@pytest.mark.parametrize("size", [32, 224, (96, 640), (500, 500)])
@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("photograph", [CHINA, FLOWER], ids=["china", "flower"])
def test_the_backends_differ_by_one_grey_level_at_most(photograph, num_channels, size):
    values = [pixel_values(cls(num_channels=num_channels, size=size), photograph) for cls in BACKENDS.values()]
    difference = (values[0] - values[1]).abs() * 0.5 * 255  # in grey levels
    assert difference.max() <= 1 + 1e-4 and difference.mean() < 0.02


def test_the_backends_differ_by_one_grey_level_at_most_on_digits():
    digits = list((load_digits().images[:200] / 16 * 255).astype(np.uint8))  # [8, 8] each
    values = [pixel_values(cls(num_channels=1, size=28), digits) for cls in BACKENDS.values()]
    assert values[0].shape == (200, 1, 28, 28)
    assert (values[0] - values[1]).abs().max() * 0.5 * 255 <= 1 + 1e-4


# ---------- what is computed


@both_backends
def test_pixel_values_are_rescaled_and_normalised(backend):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    processor = BACKENDS[backend](do_resize=False, image_mean=mean, image_std=std)
    image = np.asarray(PHOTO)
    expected = (image.astype(np.float64) / 255 - mean) / std
    assert np.abs(pixel_values(processor, image)[0].permute(1, 2, 0).numpy() - expected).max() < 1e-5


def test_the_pillow_backend_resizes_as_pillow_does():
    processor = ViTCustomImageProcessorPil(size=(31, 47), do_rescale=False, do_normalize=False)
    expected = np.asarray(PHOTO.resize((47, 31), Image.Resampling.BILINEAR))
    assert np.array_equal(pixel_values(processor, PHOTO)[0].permute(1, 2, 0), expected)


@both_backends
def test_google_s_vit_settings_are_the_default(backend):
    processor = BACKENDS[backend]()
    values = pixel_values(processor, CHINA)
    assert values.shape == (1, 3, 224, 224) and -1 <= values.min() < -0.9 and 0.9 < values.max() <= 1
    assert processor.resample == Image.Resampling.BILINEAR


@both_backends
def test_grey_models(backend):
    processor = BACKENDS[backend](num_channels=1, size=28)
    assert processor.image_mean == processor.image_std == (0.5,)
    expected = np.asarray(PHOTO.convert("L")) / 127.5 - 1
    values = pixel_values(processor, PHOTO, do_resize=False)
    assert np.abs(values[0, 0].numpy() - expected).max() < 1e-6


@both_backends
def test_settings_can_be_changed_for_one_call(backend):
    processor = BACKENDS[backend]()
    values = pixel_values(processor, PHOTO, size={"height": 16, "width": 24}, image_mean=0.0, image_std=1.0)
    assert values.shape == (1, 3, 16, 24) and values.min() >= 0
    clear = Image.new("RGBA", (8, 8))
    values = pixel_values(processor, clear, background_color=[255, 0, 0], size=8)
    assert torch.equal(values[0, :, 0, 0], torch.tensor([1.0, -1.0, -1.0]))
    grey = pixel_values(processor, PHOTO, num_channels=1, image_mean=[0.5], image_std=[0.5])
    assert grey.shape == (1, 1, 224, 224)


@both_backends
def test_images_that_are_scaled_already(backend):
    processor = BACKENDS[backend](do_rescale=False, do_normalize=False, do_resize=False)
    scaled = (np.moveaxis(np.asarray(PHOTO), -1, 0) / 255 - 0.485) / 0.229
    assert np.array_equal(pixel_values(processor, scaled)[0], scaled.astype(np.float32))
    assert np.array_equal(processor.decode(scaled), scaled.astype(np.float32))
    with pytest.raises(ImageDecodingError, match=r"image 1 of the batch is float32, image 0 is uint8.*one scale"):
        processor([PHOTO, scaled])


def test_images_that_are_scaled_already_are_resized_in_their_range():
    scaled = (np.moveaxis(np.asarray(PHOTO), -1, 0) / 255 - 0.485) / 0.229
    values = [
        pixel_values(cls(do_rescale=False, do_normalize=False, size=(20, 30)), scaled) for cls in BACKENDS.values()
    ]
    assert values[0].shape == values[1].shape == (1, 3, 20, 30)
    assert (values[0] - values[1]).abs().max() < 1e-4 and values[0].min() < -1


@both_backends
def test_the_shape_of_a_batch(backend):
    processor = BACKENDS[backend](size=16)
    array = np.stack([np.asarray(PHOTO), np.asarray(PHOTO)[::-1]])
    expected = pixel_values(processor, list(array))
    for batch in (array, torch.tensor(array), [array], [list(array)], [array[:1], array[1]]):
        assert torch.equal(pixel_values(processor, batch), expected)
    assert np.array_equal(np.stack(processor(array)["pixel_values"]), expected)
    with pytest.raises(ValueError, match="images: there is none"):
        processor([])


@both_backends
def test_errors_name_the_image_of_a_batch(backend, tmp_path):
    processor = BACKENDS[backend](size=16)
    (tmp_path / "cut.jpg").write_bytes(encode(PHOTO, "JPEG")[:500])
    with pytest.raises(ImageDecodingError, match=r"^image 1 of the batch \(.*cut\.jpg\): .*Fix"):
        processor([PHOTO, str(tmp_path / "cut.jpg")])
    with pytest.raises(ImageDecodingError, match=r"^image 2 of the batch: contains NaN"):
        processor([PHOTO, PHOTO, np.full((8, 9, 3), np.nan)])
    with pytest.raises(ImageDecodingError, match=r"^\S*cut\.jpg: "):
        processor(tmp_path / "cut.jpg")
    with pytest.raises(ImageDecodingError, match=r"^row 5: "):
        processor.decode(tmp_path / "cut.jpg", name="row 5")
    with pytest.raises(ImageDecodingError, match="only local files are read"):
        processor("https://example.org/cat.jpg")


@both_backends
def test_ambiguous_arrays_take_the_input_data_format(backend):
    processor = BACKENDS[backend](do_resize=False, do_rescale=False, do_normalize=False)
    array = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    with pytest.raises(ImageDecodingError, match="channels first or last"):
        processor(array)
    assert np.array_equal(pixel_values(processor, array, input_data_format="channels_first")[0], array)
    last = pixel_values(processor, array, input_data_format="channels_last")[0]
    assert np.array_equal(last, np.moveaxis(array, -1, 0))


@both_backends
def test_fetch_images_is_the_same_decoder(backend, tmp_path):
    processor = BACKENDS[backend](num_channels=1)
    files = awkward_files(tmp_path)
    for file, fetched in zip(files, processor.fetch_images([[str(file)] for file in files]), strict=True):
        assert torch.equal(fetched[0], decode_image(file, num_channels=1))


# ---------- settings

IMPOSSIBLE = {
    "std 0": ({"image_std": [0.5, 0.0, 0.5]}, "image_std=.*give positive"),
    "std 0 for all": ({"image_std": 0.0}, "image_std=.*give positive"),
    "std NaN": ({"image_std": [float("nan")] * 3}, "image_std=.*nan.*give finite"),
    "mean NaN": ({"image_mean": [float("nan")] * 3}, "image_mean=.*nan.*give finite"),
    "mean infinite": ({"image_mean": float("inf")}, "image_mean=.*inf.*give finite"),
    "mean too short": ({"image_mean": [0.5]}, "image_mean=.*1 values for num_channels=3. Give one for each"),
    "mean too long": ({"num_channels": 1, "image_mean": [0.5] * 3}, "image_mean=.*3 values for num_channels=1"),
    "no channels": ({"num_channels": 0}, "num_channels=0: give 1"),
    "means for three of five": ({"num_channels": 5, "image_mean": [0.5] * 3}, "3 values for num_channels=5. Give one"),
    "size huge": ({"size": 100_000}, "size=.*100000.*from 1 to 8192"),
    "size 0": ({"size": {"height": 0, "width": 4}}, "size=.*height must be an integer from 1"),
    "size negative": ({"size": (4, -4)}, "size=.*width must be an integer from 1"),
    "size unbounded": ({"size": {"longest_edge": 9}}, "size=.*give height and width"),
    "crop huge": ({"crop_size": 100_000}, "crop_size=.*from 1 to 8192"),
    "padding huge": ({"pad_size": 100_000}, "pad_size=.*from 1 to 8192"),
    "rescale 0": ({"rescale_factor": 0.0}, "rescale_factor=0.0: give a positive number"),
    "rescale NaN": ({"rescale_factor": float("nan")}, "rescale_factor=nan"),
    "background": ({"background_color": [0, 0, 256]}, "background_color=.*256.*0..255"),
    "channels last": ({"data_format": "channels_last"}, "data_format='channels_last'"),
    "no such filter": ({"resample": 9}, "resample=9: give one of .*2 bilinear"),
}


@both_backends
@pytest.mark.parametrize("settings, reason", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_settings_are_refused_when_made_and_when_called(backend, settings, reason):
    with pytest.raises(ValueError, match=reason):
        BACKENDS[backend](**settings)
    with pytest.raises(ValueError, match=reason):
        BACKENDS[backend]()(PHOTO, **settings)


@both_backends
@pytest.mark.parametrize("settings", [{"do_resize": "yes"}, {"num_channels": "3"}, {"image_mean": "grey"}], ids=str)
def test_settings_of_the_wrong_type_are_refused_by_name(backend, settings):
    ((field, value),) = settings.items()
    for call in (BACKENDS[backend], lambda **kwargs: BACKENDS[backend]()(PHOTO, **kwargs)):
        with pytest.raises(StrictDataclassFieldValidationError, match=f"{field}(.|\n)*{value}"):
            call(**settings)


@both_backends
def test_settings_spoiled_later_are_refused_at_the_next_call(backend):
    processor = BACKENDS[backend]()
    processor.image_std = (0.5, 0.5, 0.0)
    with pytest.raises(ValueError, match="image_std"):
        processor(PHOTO)


@both_backends
def test_unknown_settings_are_refused_but_other_classes_configurations_load(backend):
    with pytest.raises(TypeError, match=r"no setting 'image_meen'. The settings are: .*image_mean"):
        BACKENDS[backend](image_meen=0.5)
    google = {"do_normalize": True, "feature_extractor_type": "ViTFeatureExtractor", "resample": 2, "size": 224}
    processor = BACKENDS[backend].from_dict(google | {"crop_pct": 0.9, "_processor_class": "ViTProcessor"})
    assert dict(processor.size) == {"height": 224, "width": 224} and not hasattr(processor, "crop_pct")


@both_backends
def test_instances_share_no_settings(backend):
    one, other = BACKENDS[backend](), BACKENDS[backend]()
    one.size["height"] = 7
    one.auto_map.clear()
    assert other.size["height"] == BACKENDS[backend].size["height"] == 224 and other.auto_map


@both_backends
def test_for_model(backend):
    config = ViTCustomConfig.from_variant("s/16", image_size=(48, 80), num_channels=1)
    processor = BACKENDS[backend].for_model(config)
    assert pixel_values(processor, CHINA).shape == (1, 1, 48, 80)
    processor = BACKENDS[backend].for_model(config, size=32, background_color=(0, 0, 0))
    assert pixel_values(processor, CHINA).shape == (1, 1, 32, 32) and processor.background_color == (0, 0, 0)
    with pytest.raises(ValueError, match="num_channels=0"):
        BACKENDS[backend].for_model(SimpleNamespace(image_hw=(32, 32), num_channels=0))


# ---------- batches with unreadable images, settings of one call


@both_backends
def test_unreadable_images_are_left_out_when_asked(backend, tmp_path, caplog):
    processor = BACKENDS[backend](size=16)
    (tmp_path / "cut.jpg").write_bytes(encode(PHOTO, "JPEG")[:500])
    images = [CHINA, tmp_path / "cut.jpg", FLOWER, np.full((8, 9, 3), np.nan)]
    reported = processor(images, return_tensors="pt", on_error="report")
    assert list(reported) == ["pixel_values"]  # the model gets nothing else
    assert torch.equal(reported["pixel_values"], pixel_values(processor, [CHINA, FLOWER]))
    assert reported.kept_indices == [0, 2] and set(reported.errors) == {1, 3} and "cut.jpg" in reported.errors[1]
    assert reported.to(torch.float16).errors == reported.errors and not caplog.messages
    skipped = processor(images, return_tensors="pt", on_error="skip")
    assert skipped.errors == reported.errors
    assert [message.split(":")[0] for message in caplog.messages] == ["LEFT OUT", "LEFT OUT"]
    whole = processor([CHINA, FLOWER], return_tensors="pt")
    assert whole.kept_indices == [0, 1] and whole.errors == {}
    with pytest.raises(ImageDecodingError, match=r"none of the 2 images can be read\. image 0 of the batch"):
        processor([b"nothing", b"nothing"], on_error="skip")
    with pytest.raises(ValueError, match="on_error='ignore'"):
        processor(images, on_error="ignore")


@both_backends
def test_bgr_arrays(backend):
    processor = BACKENDS[backend](size=16)
    bgr = np.asarray(PHOTO)[..., ::-1]
    expected = pixel_values(processor, PHOTO)
    assert torch.equal(pixel_values(processor, [bgr, PHOTO], channel_order="bgr"), expected.expand(2, -1, -1, -1))
    assert torch.equal(pixel_values(BACKENDS[backend](size=16, channel_order="bgr"), bgr), expected)
    with pytest.raises(ValueError, match="channel_order='gbr'"):
        processor(bgr, channel_order="gbr")


@both_backends
def test_limits_are_an_attribute_of_the_processor(backend):
    processor = BACKENDS[backend](size=16)
    processor.limits = ImageLimits(pixels=1000)
    for call in (processor, processor.decode, processor.fetch_images):
        with pytest.raises(ImageDecodingError, match="more than 1,000 pixels"):
            call(PHOTO)
    assert BACKENDS[backend](size=16).limits == ImageLimits()


@both_backends
def test_what_belongs_to_a_call_is_neither_saved_nor_believed(backend, tmp_path, caplog):
    """A downloaded configuration must not switch downloads on, or change the meaning of a user's arrays."""
    given = {"allow_urls": True, "channel_order": "bgr", "on_error": "skip"}
    BACKENDS[backend](**given).save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    saved = json.loads(file.read_text())
    assert not set(given) & set(saved)
    file.write_text(json.dumps(saved | given | {"limits": {"pixels": 10**12}}))
    loaded = BACKENDS[backend].from_pretrained(tmp_path)
    assert (loaded.allow_urls, loaded.channel_order, loaded.on_error) == (False, "rgb", "raise")
    assert loaded.limits == ImageLimits()
    assert BACKENDS[backend].from_pretrained(tmp_path, channel_order="bgr").channel_order == "bgr"
