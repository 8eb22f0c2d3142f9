"""Images that are refused from their header, before they cost memory or time."""

import os
import time
from io import BytesIO

import numpy as np
import pytest
from image_files import encode, huge_png, photograph, pixels
from PIL import Image

from modeling_vit_custom import ImageDecodingError, ImageLimits, decode_image
from modeling_vit_custom.common.image_pixels import pixels_allowed

PHOTO = photograph()


@pytest.mark.parametrize("pillows_own", [Image.MAX_IMAGE_PIXELS, None], ids=["pillow limits too", "pillow unlimited"])
def test_a_decompression_bomb_is_refused_before_decoding(pillows_own, tmp_path, monkeypatch):
    (tmp_path / "bomb.png").write_bytes(huge_png(30_000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_own)
    start = time.perf_counter()
    with pytest.raises(ImageDecodingError, match=r"bomb\.png: refused before decoding.*Fix: shrink it"):
        decode_image(tmp_path / "bomb.png")
    assert time.perf_counter() - start < 0.5  # decoding it would take seconds


LIMITED = {
    "pixels": (PHOTO, ImageLimits(pixels=60 * 44 - 1), r"44 x 60 is more than 2,639 pixels.*pixels=…"),
    "flat": (PHOTO.resize((5000, 1)), ImageLimits(), r"1 x 5000 pixels: .* more than 100 times.*aspect_ratio=…"),
    "tall": (PHOTO.resize((1, 101)), ImageLimits(), r"101 x 1 pixels"),
    "bytes": (PHOTO, ImageLimits(file_bytes=100), r"bytes are more than 100. Fix.*file_bytes=…"),
}


@pytest.mark.parametrize("image, limits, reason", LIMITED.values(), ids=LIMITED)
def test_limits_are_named_and_can_be_raised(image, limits, reason, tmp_path):
    file = tmp_path / "image.png"
    image.save(file)
    generous = ImageLimits(aspect_ratio=5000)
    with Image.open(file) as opened:
        for source in (file, file.read_bytes(), opened, np.asarray(image)):
            assert np.array_equal(
                decode_image(source, limits=generous, input_data_format="channels_last"), pixels(image)
            )
            if "bytes" in reason and not isinstance(source, bytes | type(file)):
                continue
            with pytest.raises(ImageDecodingError, match=reason):
                decode_image(source, limits=limits, input_data_format="channels_last")


def test_a_command_raises_the_limit_and_pillow_s_and_names_its_flag(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    PHOTO.save(tmp_path / "photo.png")
    with pixels_allowed(2639):
        for source in (tmp_path / "photo.png", np.asarray(PHOTO)):
            with pytest.raises(ImageDecodingError, match=r"2,?639 pixels.* Fix: shrink it, or raise --max_pixels"):
                decode_image(source)
        with pytest.raises(ImageDecodingError, match=r"resizing leaves nothing to recognise\. Fix: crop it\.$"):
            decode_image(PHOTO.resize((500, 1)))
        with pytest.raises(ImageDecodingError, match="more than 10 pixels"):
            decode_image(PHOTO, limits=ImageLimits(pixels=10))
    with pixels_allowed(2640):
        assert np.array_equal(decode_image(tmp_path / "photo.png"), pixels(PHOTO))
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(ImageDecodingError, match=r"PIL\.Image\.MAX_IMAGE_PIXELS"):
        decode_image(tmp_path / "photo.png")
    with pixels_allowed(1000), pytest.raises(ImageDecodingError, match=r"refused.*raise --max_pixels if you trust it"):
        decode_image(tmp_path / "photo.png")  # Pillow refuses above twice its limit, before our check


def test_the_size_in_an_icon_s_directory_is_not_believed():
    """The icon's directory says 1 x 1, but the PNG inside would be decoded."""
    icon = bytearray(encode(PHOTO.resize((64, 64)), "ICO", sizes=[(64, 64)]))
    icon[6:8] = b"\x01\x01"
    with pytest.warns(UserWarning, match="not the expected size"):
        opened = Image.open(BytesIO(icon))  # opened by the caller: we open no icons
    with opened, pytest.raises(ImageDecodingError, match="64 x 64 is more than 100 pixels"):
        decode_image(opened, limits=ImageLimits(pixels=100))


def test_a_progressive_jpeg_of_endless_scans_is_refused_at_once():
    """One more scan takes a dozen bytes in the file, but a pass over the whole image in the decoder."""
    image = PHOTO.resize((3000, 3000))
    file = encode(image, "JPEG", progressive=True, quality=1)
    start = file.rindex(b"\xff\xda")
    last_scan, end = file[start:-2], file[-2:]
    decode_image(file)
    bomb = file[:start] + last_scan * 10_000 + end
    with Image.open(BytesIO(bomb)) as opened:
        for source in (bomb, opened):
            begun = time.perf_counter()
            with pytest.raises(ImageDecodingError, match=r"progressive JPEG of 10,0\d\d scans, where 100 is plenty"):
                decode_image(source)
            assert time.perf_counter() - begun < 1


def test_a_postscript_file_starts_no_other_program():
    file = encode(PHOTO, "EPS")
    with pytest.raises(ImageDecodingError, match="EPS has to be drawn first"):
        decode_image(file)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    for path in (tmp_path / "pipe.png", "/dev/zero", "a\0b"):
        with pytest.raises(ImageDecodingError, match="cannot be opened"):
            decode_image(path)
