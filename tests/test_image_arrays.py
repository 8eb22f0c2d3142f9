"""Arrays and tensors: layout, type and channel order are read in one way, or refused."""

import numpy as np
import pytest
import torch
from image_files import encode, photograph, pixels, ramp, with_alpha
from PIL import Image
from transformers.image_utils import ChannelDimension

from modeling_vit_custom import ImageDecodingError, decode_image

PHOTO = photograph()
GREY = PHOTO.convert("L")
RGB = pixels(PHOTO)  # [3, H, W]
GREY_RGB = pixels(GREY)
HEIGHT, WIDTH = RGB.shape[1:]
RAMP = ramp(WIDTH, HEIGHT)  # alpha from clear to opaque
JPEG = encode(PHOTO, "JPEG")


# ---------- arrays: what is read

LAST = np.moveaxis(RGB, 0, -1)
ARRAYS = {
    "height, width": (RAMP, np.stack([RAMP] * 3)),
    "one channel last": (RAMP[..., None], np.stack([RAMP] * 3)),
    "one channel first": (RAMP[None], np.stack([RAMP] * 3)),
    "RGB last": (LAST, RGB),
    "RGB first": (RGB, RGB),
    "float64 in [0, 1]": (RGB / 255, RGB),
    "float32 in [0, 1]": ((RGB / 255).astype(np.float32), RGB),
    "float16 in [0, 1]": ((RGB / 255).astype(np.float16), RGB),
    "float, a rounding error outside [0, 1]": (RGB / 255 * (1 + 2e-6) - 1e-6, RGB),
    "uint16": (RGB.astype(np.uint16) * 257, RGB),
    "uint16, big endian": (RGB.astype(">u2") * 257, RGB),
    "bool": (RGB > 127, (RGB > 127).astype(np.uint8) * 255),
    "int64 in 0..255": (RGB.astype(np.int64), RGB),
    "uint32 in 0..255": (RGB.astype(np.uint32), RGB),
    "view with negative strides": (LAST[::-1, :, ::-1], RGB[::-1, ::-1]),
    "transposed view": (LAST.transpose(1, 0, 2), RGB.transpose(0, 2, 1)),
    "read-only": (np.frombuffer(LAST.tobytes(), np.uint8).reshape(LAST.shape), RGB),
}


@pytest.mark.parametrize("array, expected", ARRAYS.values(), ids=ARRAYS)
def test_arrays(array, expected):
    decoded = decode_image(array)
    assert decoded.dtype == torch.uint8 and np.array_equal(decoded, expected)


@pytest.mark.parametrize("key", [key for key in ARRAYS if key not in ("uint16, big endian", "read-only")])
def test_tensors(key):
    array, expected = ARRAYS[key]
    assert np.array_equal(decode_image(torch.from_numpy(array.copy())), expected)


def test_bfloat16_and_differentiable_tensors():
    image = torch.from_numpy(RGB / 255).requires_grad_()
    assert np.array_equal(decode_image(image), RGB)
    coarse = decode_image(image.to(torch.bfloat16)).numpy().astype(int)
    assert np.abs(coarse - RGB).max() <= 1  # 8 bits of mantissa


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float"])
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_arrays_with_alpha_agree_with_the_file(mode, layout, dtype):
    image = with_alpha(GREY if mode == "LA" else PHOTO)
    array = np.asarray(image)
    array = {"uint8": array, "uint16": array.astype(np.uint16) * 257, "float": array / 255}[dtype]
    array = np.moveaxis(array, -1, 0) if layout == "first" else array
    expected = decode_image(encode(image, "PNG"), background=(10, 20, 30))
    assert torch.equal(decode_image(array, background=(10, 20, 30)), expected)


def test_every_source_of_one_file_gives_the_same_tensor(tmp_path):
    file = tmp_path / "photo.jpg"
    file.write_bytes(JPEG)
    with Image.open(file) as image:
        loaded = np.asarray(image)
        routes = [str(file), JPEG, bytearray(JPEG), memoryview(JPEG), image, loaded, torch.tensor(loaded)]
        routes += [{"bytes": JPEG, "path": None}, {"bytes": None, "path": str(file)}]
        for num_channels in (1, 3):
            expected = decode_image(file, num_channels)
            assert all(torch.equal(decode_image(route, num_channels), expected) for route in routes)


def test_the_result_shares_no_memory_with_the_source():
    array, tensor = RGB.copy(), torch.from_numpy(RGB.copy())
    decode_image(array).zero_(), decode_image(tensor).zero_()
    assert np.array_equal(array, RGB) and np.array_equal(tensor, RGB)


def test_shapes_that_could_be_either_need_the_format():
    array = np.arange(3 * 64 * 3, dtype=np.uint8).reshape(3, 64, 3)
    for ambiguous in (array, array[:, :3], torch.from_numpy(array)):
        with pytest.raises(ImageDecodingError, match=r"channels first or last. Fix: pass input_data_format"):
            decode_image(ambiguous)
    assert np.array_equal(decode_image(array, input_data_format="channels_first"), array)
    assert np.array_equal(decode_image(array, input_data_format="channels_last"), np.moveaxis(array, -1, 0))
    assert np.array_equal(decode_image(array, input_data_format=ChannelDimension.FIRST), array)


# ---------- arrays: what is refused

REFUSED = {
    "float, normalised": ((RGB / 255 - 0.5) / 0.5, r"in \[0, 1\], these are in \[-0.*do_rescale=False"),
    "float in 0..255": (RGB.astype(np.float32), r"in \[0, 1\].*divide by their white"),
    "NaN": (np.where(RGB.max() == RGB, np.nan, RGB / 255), "contains NaN or infinity"),
    "infinity": (np.where(RGB.max() == RGB, np.inf, RGB / 255), "contains NaN or infinity"),
    "int64 beyond 255": (RGB.astype(np.int64) * 257, "int64 values must be in 0..255.*cast to uint16"),
    "negative integers": (RGB.astype(np.int16) - 128, "int16 values must be in 0..255"),
    "complex": (RGB.astype(np.complex64), "complex64 is no pixel type"),
    "objects": (RGB.astype(object), "object is no pixel type"),
    "six channels": (np.zeros((20, 30, 6), np.uint8), "has 6 channels, the model takes 3"),
    "one axis": (np.zeros(30, np.uint8), "is not an image"),
    "five axes": (np.zeros((1, 1, 3, 8, 9), np.uint8), "is not an image"),
    "a batch": (np.zeros((2, 3, 8, 9), np.uint8), "is a batch.*one by one"),
    "height 0": (np.zeros((0, 30, 3), np.uint8), "holds no pixels"),
    "width 0": (np.zeros((3, 30, 0), np.uint8), "holds no pixels"),
}


@pytest.mark.parametrize("array, reason", REFUSED.values(), ids=REFUSED)
def test_arrays_without_a_clear_meaning_are_refused(array, reason):
    with pytest.raises(ImageDecodingError, match=f"^index 3: .*{reason}") as error:
        decode_image(array, name="index 3")
    assert "Fix: " in str(error.value)
    if array.dtype != object:
        with pytest.raises(ImageDecodingError, match=reason):
            decode_image(torch.from_numpy(array.copy()))


@pytest.mark.parametrize("thing", [None, 7, [[0, 1], [2, 3]], {"image": 1}, {1, 2}], ids=str)
def test_things_that_are_no_images(thing):
    with pytest.raises(ImageDecodingError, match=r"is not an image source. Fix: give a path"):
        decode_image(thing)


def test_impossible_arguments():
    for impossible in (0, 1_025, 2.0, True):
        with pytest.raises(
            ValueError, match=r"num_channels=.*: give 1 .grey., 3 .RGB. or the number of an image's bands"
        ):
            decode_image(RGB, num_channels=impossible)
    for background in (255, (1, 2), (0, 0, 256), (0.5, 0.5, 0.5), "red"):
        with pytest.raises(ValueError, match=r"background_color=.*integers in 0..255"):
            decode_image(RGB, background=background)
    with pytest.raises(ValueError, match="input_data_format='hwc': give 'channels_first'"):
        decode_image(RGB, input_data_format="hwc")
    with pytest.raises(ImageDecodingError, match=r"no axis of 1 to 4 channels .channels last"):
        decode_image(RGB, input_data_format="channels_last")


# ---------- arrays that are already scaled


def test_keep_float_passes_finite_floats_through():
    scaled = (RGB / 255 - 0.485) / 0.229
    kept = decode_image(np.moveaxis(scaled, 0, -1), keep_float=True)
    assert kept.dtype == torch.float32 and np.array_equal(kept, scaled.astype(np.float32))
    assert np.array_equal(decode_image(RGB, keep_float=True), RGB)  # other types are decoded as usual
    grey = decode_image(scaled, num_channels=1, keep_float=True)
    np.testing.assert_allclose(grey[0], np.tensordot([0.299, 0.587, 0.114], scaled, 1), atol=1e-4)
    assert np.array_equal(decode_image(scaled[:1], keep_float=True), np.repeat(scaled[:1], 3, 0).astype(np.float32))


def test_keep_float_still_refuses_what_no_model_can_use():
    with pytest.raises(ImageDecodingError, match="NaN"):
        decode_image(np.full((3, 8, 9), np.nan), keep_float=True)
    with pytest.raises(ImageDecodingError, match="composite it first"):
        decode_image(np.zeros((4, 8, 9), np.float32), keep_float=True)


# ---------- channel order


def test_bgr_arrays_are_put_in_order_when_asked():
    bgr, alpha = LAST[..., ::-1], RAMP[..., None]  # a view with a negative stride, as OpenCV users write it
    grey = np.asarray(GREY)
    for array in (bgr, bgr.copy(), np.moveaxis(bgr, -1, 0), bgr / 255, torch.from_numpy(bgr.copy())):
        assert np.array_equal(decode_image(array, channel_order="bgr"), RGB)
        assert np.array_equal(decode_image(array), RGB[::-1])
    bgra = np.concatenate([bgr, alpha], axis=-1)
    expected = decode_image(np.concatenate([LAST, alpha], axis=-1), background=(10, 20, 30))
    assert torch.equal(decode_image(bgra, background=(10, 20, 30), channel_order="bgr"), expected)
    assert np.array_equal(decode_image(grey, channel_order="bgr"), GREY_RGB)
    scaled = (RGB / 255 - 0.5) / 0.5
    assert np.array_equal(decode_image(scaled[::-1], channel_order="bgr", keep_float=True), scaled.astype(np.float32))
    for source in (JPEG, PHOTO):  # files and Pillow images know their own order
        assert torch.equal(decode_image(source, channel_order="bgr"), decode_image(source))
    with pytest.raises(ValueError, match="channel_order='gbr': give one of rgb, bgr"):
        decode_image(RGB, channel_order="gbr")


# ---------- tensors and arrays without plain pixels

ODD = {
    "sparse": lambda: torch.zeros(3, 8, 9).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(3, 8, 9), 0.1, 0, torch.quint8),
    "without data": lambda: torch.zeros(3, 8, 9, device="meta"),
    "complex, conjugated": lambda: torch.zeros(3, 8, 9, dtype=torch.complex64).conj(),
    "masked": lambda: np.ma.masked_less(LAST, 9),
    "dates": lambda: np.zeros((8, 9, 3), "datetime64[s]"),
    "text": lambda: np.full((8, 9, 3), "a"),
    "records": lambda: np.zeros((8, 9), [("r", np.uint8)]),
    "float64 beyond float32, scaled already": lambda: np.full((8, 9, 3), 1e300),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
@pytest.mark.parametrize("keep_float", [False, True])
def test_odd_containers_are_refused(make, keep_float):
    with pytest.raises(ImageDecodingError, match="Fix: "):
        decode_image(make(), keep_float=keep_float)


def test_float8_tensors_are_read():
    image = torch.tensor([[0.0, 0.5], [0.25, 1.0]]).to(torch.float8_e4m3fn)
    assert decode_image(image, num_channels=1).tolist() == [[[0, 128], [64, 255]]]
