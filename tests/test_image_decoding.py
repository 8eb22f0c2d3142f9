"""The decoder reads every kind of image that data sets and users are known to have, and refuses the others by name."""

import logging
from io import BytesIO

import numpy as np
import pytest
import torch
from image_files import encode, photograph, pixels, ramp, rotated, with_alpha, without_plugins
from PIL import Image, ImageOps

from modeling_vit_custom import image_limits_vit_custom
from modeling_vit_custom.image_decoding_vit_custom import decode_image, decode_images
from modeling_vit_custom.image_files_vit_custom import accepted_formats
from modeling_vit_custom.image_limits_vit_custom import ImageDecodingError

PHOTO = photograph()
GREY = PHOTO.convert("L")
RGB = pixels(PHOTO)  # [3, H, W]
GREY_RGB = pixels(GREY)
HEIGHT, WIDTH = RGB.shape[1:]
RAMP = ramp(WIDTH, HEIGHT)  # alpha from clear to opaque


@pytest.fixture(autouse=True)
def nothing_reported_yet(monkeypatch):
    monkeypatch.setattr(image_limits_vit_custom, "_reported", set())


def over(background, colour=RGB, alpha=RAMP):
    """Composite in float64, by the definition."""
    weight = alpha / 255.0
    return colour * weight + np.reshape(background, (3, 1, 1)) * (1 - weight)


# ---------- files: what is read


OPAQUE = {
    "jpeg": (PHOTO, "JPEG", {}),
    "jpeg, progressive": (PHOTO, "JPEG", {"progressive": True}),
    "jpeg, grey": (GREY, "JPEG", {}),
    "jpeg, cmyk": (PHOTO.convert("CMYK"), "JPEG", {}),
    "png": (PHOTO, "PNG", {}),
    "png, grey": (GREY, "PNG", {}),
    "png, 1 bit": (PHOTO.convert("1"), "PNG", {}),
    "png, palette": (PHOTO.convert("P", palette=Image.Palette.ADAPTIVE), "PNG", {}),
    "gif": (PHOTO, "GIF", {}),
    "bmp": (PHOTO, "BMP", {}),
    "tiff": (PHOTO, "TIFF", {}),
    "tiff, ycbcr": (PHOTO.convert("YCbCr"), "TIFF", {"compression": "tiff_lzw"}),
    "webp": (PHOTO, "WEBP", {}),
    "webp, lossless": (PHOTO, "WEBP", {"lossless": True}),
    "avif": (PHOTO, "AVIF", {}),
}


@pytest.mark.parametrize("image, file_format, options", OPAQUE.values(), ids=OPAQUE)
def test_opaque_files_hold_what_pillow_sees(image, file_format, options, tmp_path):
    file = tmp_path / "image"
    file.write_bytes(encode(image, file_format, **options))
    decoded = decode_image(file)
    assert decoded.dtype == torch.uint8 and decoded.shape == RGB.shape and decoded.is_contiguous()
    with Image.open(file) as reopened:
        assert np.array_equal(decoded, pixels(reopened))
        assert np.array_equal(
            decode_image(reopened, num_channels=1)[0], np.asarray(reopened.convert("RGB").convert("L"))
        )
    assert np.abs(decoded.numpy().astype(int) - pixels(image)).mean() < 12  # it is the same picture


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (200, 30, 90)])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_rgba_is_composited_on_the_background(file_format, background):
    decoded = decode_image(encode(with_alpha(PHOTO), file_format), background=background)
    assert np.abs(decoded.numpy() - over(background)).max() <= 0.5


def test_grey_with_alpha_is_composited_on_the_background():
    file = encode(with_alpha(GREY), "PNG")
    assert np.abs(decode_image(file).numpy() - over((255, 255, 255), GREY_RGB)).max() <= 0.5
    tinted = decode_image(file, background=(200, 30, 90))
    assert np.abs(tinted.numpy() - over((200, 30, 90), GREY_RGB)).max() <= 0.5
    luma = 0.299 * 200 + 0.587 * 30 + 0.114 * 90  # a grey model uses the background's luma
    grey = decode_image(file, num_channels=1, background=(200, 30, 90))
    assert np.abs(grey.numpy() - over((luma,) * 3, GREY_RGB)).max() <= 1.5


@pytest.mark.parametrize("mode", ["RGBa", "La", "PA"])
def test_rare_modes_with_alpha(mode):
    half = np.full_like(RAMP, 128)
    opaque = {"RGBa": PHOTO, "La": GREY, "PA": PHOTO.convert("P")}[mode]
    image = with_alpha(opaque, half)
    image = image if image.mode == mode else image.convert(mode)
    expected = over((255, 255, 255), pixels(opaque), half)
    assert np.abs(decode_image(image).numpy() - expected).max() <= 2  # premultiplied values are rounded


def test_palette_transparency_shows_the_background(tmp_path):
    palette = PHOTO.convert("P", palette=Image.Palette.ADAPTIVE)
    indices, opaque = np.asarray(palette), pixels(palette)
    one_clear = encode(palette, "PNG", transparency=7)
    decoded = decode_image(one_clear, background=(1, 2, 3)).numpy()
    clear = indices == 7
    assert clear.any() and (decoded[:, clear] == np.array([[1], [2], [3]])).all()
    assert np.array_equal(decoded[:, ~clear], opaque[:, ~clear])
    half_clear = encode(palette, "PNG", transparency=bytes([128] * 256))
    expected = over((1, 2, 3), opaque, np.full_like(RAMP, 128))
    assert np.abs(decode_image(half_clear, background=(1, 2, 3)).numpy() - expected).max() <= 0.5


def test_gif_transparency_shows_the_background():
    image = PHOTO.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    decoded = decode_image(encode(image, "GIF", transparency=3, optimize=False), background=(9, 9, 9)).numpy()
    clear = np.asarray(image) == 3
    assert clear.any() and (decoded[:, clear] == 9).all() and not (decoded[:, ~clear] == 9).all()


def test_a_transparent_colour_without_an_alpha_channel():
    grey = int(GREY.getpixel((0, 0)))
    decoded = decode_image(encode(GREY, "PNG", transparency=grey), background=(7, 8, 9)).numpy()
    clear = np.asarray(GREY) == grey
    assert (decoded[:, clear] == np.array([[7], [8], [9]])).all()
    assert np.array_equal(decoded[:, ~clear], GREY_RGB[:, ~clear])
    deep = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)
    decoded = decode_image(encode(deep, "PNG", transparency=grey * 257), background=(7, 8, 9)).numpy()
    assert (decoded[:, clear] == np.array([[7], [8], [9]])).all()
    assert np.array_equal(decoded[:, ~clear], GREY_RGB[:, ~clear])


DEEP = {
    "16-bit png": lambda: encode(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), "PNG"),
    "16-bit tiff": lambda: encode(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), "TIFF"),
    "16-bit tiff, big endian": lambda: encode(
        Image.frombytes("I;16B", GREY.size, (np.asarray(GREY).astype(">u2") * 257).tobytes()), "TIFF"
    ),
    "16-bit pgm": lambda: f"P5 {WIDTH} {HEIGHT} 65535\n".encode() + (np.asarray(GREY).astype(">u2") * 257).tobytes(),
    "32-bit integer tiff of 16-bit values": lambda: encode(
        Image.fromarray(np.asarray(GREY).astype(np.int32) * 257), "TIFF"
    ),
    "float tiff": lambda: encode(Image.fromarray(np.asarray(GREY).astype(np.float32) / 255), "TIFF"),
}


@pytest.mark.parametrize("file", DEEP.values(), ids=DEEP)
def test_deeper_files_are_scaled_by_their_type(file):
    assert np.array_equal(decode_image(file()), GREY_RGB)
    assert np.array_equal(decode_image(file(), num_channels=1)[0], np.asarray(GREY))


def test_deep_values_are_rounded_to_the_nearest_level():
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(decode_image(every, 1)[0], np.rint(every / 257))


def test_integer_grey_without_a_known_white_is_refused():
    values = np.asarray(GREY).astype(np.int32) * 100_000
    with pytest.raises(ImageDecodingError, match=r"no known white.*Fix"):
        decode_image(encode(Image.fromarray(values), "TIFF"))
    with pytest.raises(ImageDecodingError, match=r"float values must be in.*255"):
        decode_image(encode(Image.fromarray(np.asarray(GREY).astype(np.float32)), "TIFF"))


def test_integer_grey_made_in_memory_follows_the_rule_for_arrays():
    assert np.array_equal(decode_image(Image.fromarray(np.asarray(GREY).astype(np.int32))), GREY_RGB)
    with pytest.raises(ImageDecodingError, match=r"must be in 0..255"):
        decode_image(Image.fromarray(np.asarray(GREY).astype(np.int32) * 257))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format, options", [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_exif_orientation_is_applied_once(file_format, options, orientation):
    file = rotated(PHOTO, file_format, orientation, **options)
    assert np.array_equal(decode_image(file), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_jpeg(orientation, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(rotated(PHOTO, "JPEG", orientation))
    with Image.open(tmp_path / "photo.jpg") as image:
        upright = ImageOps.exif_transpose(image)
    assert np.array_equal(decode_image(tmp_path / "photo.jpg"), pixels(upright))
    assert np.array_equal(decode_image(upright), pixels(upright))  # rotated by the caller, and not rotated again


def test_nonsense_in_exif_does_not_lose_the_image():
    broken = encode(PHOTO, "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xffnonsense")
    assert np.array_equal(decode_image(broken), RGB)
    assert np.array_equal(decode_image(rotated(PHOTO, "PNG", 9)), RGB)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_first_frame_of_an_animation_said_once(file_format, caplog):
    frames = [PHOTO, PHOTO.transpose(Image.Transpose.FLIP_LEFT_RIGHT), PHOTO.transpose(Image.Transpose.ROTATE_180)]
    options = {"lossless": True} if file_format == "WEBP" else {}
    file = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    single = encode(PHOTO, file_format, **options)
    with caplog.at_level(logging.WARNING):
        first = decode_image(file).numpy().astype(int)
        decode_image(file)
    assert np.abs(first - decode_image(single).numpy()).mean() < (5 if file_format == "AVIF" else 1e-9)
    assert caplog.text.count("of its 3 frames number 1 is used") == 1


def test_a_frame_that_the_caller_chose_is_kept_and_named(caplog, tmp_path):
    mirrored = PHOTO.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    (tmp_path / "two.tiff").write_bytes(encode(PHOTO, "TIFF", save_all=True, append_images=[mirrored]))
    with Image.open(tmp_path / "two.tiff") as image:
        image.seek(1)
        assert np.array_equal(decode_image(image), pixels(mirrored))
    assert "two.tiff: of its 2 frames number 2 is used" in caplog.text


def test_the_frames_notice_names_the_file_or_row(caplog, tmp_path, monkeypatch):
    (tmp_path / "two.gif").write_bytes(encode(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(9)]))
    for source, name in {tmp_path / "two.gif": None, (tmp_path / "two.gif").read_bytes(): "row 3 of t.parquet"}.items():
        monkeypatch.setattr("modeling_vit_custom.image_limits_vit_custom._reported", set())
        decode_image(source, name=name)
        assert f"{name or source}: of its 2 frames number 1 is used" in caplog.text


def test_frames_of_a_long_file_are_not_counted(caplog, monkeypatch):
    """Counting would read every frame: a file of millions of tiny ones would take minutes."""
    monkeypatch.setattr("modeling_vit_custom.image_files_vit_custom.MAX_BYTES_TO_COUNT", 100)
    decode_image(encode(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(9)]))
    assert "of its several frames number 1 is used" in caplog.text


@pytest.mark.parametrize("size", [(1, 1), (30, 1), (1, 30)])
def test_unusual_shapes_are_read_and_said_once(size, caplog):
    image = PHOTO.resize(size)
    for _ in range(2):
        assert np.array_equal(decode_image(encode(image, "PNG")), pixels(image))
    said = "a single pixel" if size == (1, 1) else "distorts it heavily"
    assert len(caplog.messages) == 1 and said in caplog.text


# ---------- files: what is refused

JPEG, PNG = encode(PHOTO, "JPEG"), encode(PHOTO, "PNG")
UNUSABLE = {
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "damaged or cut off"),
    "headless.jpg": (JPEG[:60], "damaged"),
    "truncated.png": (PNG[: len(PNG) // 2], "damaged or cut off"),
    "flipped_bits.png": (PNG[:200] + bytes(b ^ 255 for b in PNG[200:400]) + PNG[400:], "damaged"),
    "empty.jpg": (b"", "0 bytes"),
    "text.jpg": (b"this is not an image", "not an image that Pillow reads"),
    "drawing.svg.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG has to be drawn"),
    "phone.heic": (b"\x00\x00\x00\x18ftypheic" + bytes(200), "a HEIC photo.*Fix: pip install pillow-heif, or convert"),
    "phone.jpg": (b"\x00\x00\x00\x18ftypmif1" + bytes(200), "a HEIC photo.*Fix: pip install pillow-heif, or convert"),
    "next.jxl": (b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(200), "JPEG XL image.*pip install pillow-jxl-plugin"),
    "saved.jpg": (b"\n<!DOCTYPE html><html></html>", "a web page"),
    "paper.png": (b"%PDF-1.7 and so on", "a PDF document"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_files_are_named_with_reason_and_fix(name, tmp_path, monkeypatch):
    without_plugins(monkeypatch)
    content, reason = UNUSABLE[name]
    (tmp_path / name).write_bytes(content)
    for source in (tmp_path / name, str(tmp_path / name), {"bytes": None, "path": str(tmp_path / name)}):
        with pytest.raises(ImageDecodingError, match=reason) as error:
            decode_image(source)
        assert str(tmp_path / name) in str(error.value) and "Fix: " in str(error.value)
    with pytest.raises(ImageDecodingError, match=f"^row 17 of train.parquet: .*({reason})"):
        decode_image(content, name="row 17 of train.parquet")


def test_a_truncated_image_opened_by_the_caller_is_named_too(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(JPEG[: len(JPEG) // 2])
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(ImageDecodingError, match=r"cut\.jpg.*cut off"):
        decode_image(image)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(ImageDecodingError, match=r"nowhere\.jpg: there is no such file\. Fix"):
        decode_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageDecodingError, match="cannot be opened"):
        decode_image(tmp_path)
    with pytest.raises(ImageDecodingError, match=r"aaa… \(100000 characters\)") as error:
        decode_image("a" * 100_000)  # base64 text given as a path
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/cat.jpg",
        "http://x/y.png",
        "s3://bucket/key",
        "file:///etc/hostname",
        "data:image/png;base64,AA",
    ],
)
def test_urls_are_refused(url):
    with pytest.raises(ImageDecodingError, match=r"only local files are read. Fix: download"):
        decode_image(url)


# ---------- batches, plugins


def test_batches_tell_what_was_left_out(caplog):
    sources = [PHOTO, b"nothing", RGB, "nowhere.png"]
    with pytest.raises(ImageDecodingError, match=r"^image 1 of the batch: not an image"):
        decode_images(sources)
    batch = decode_images(iter(sources), on_error="report", num_channels=1)
    assert batch.kept == [0, 2] and len(batch.images) == 2 and batch.images[0].shape == (1, HEIGHT, WIDTH)
    assert set(batch.errors) == {1, 3} and "nowhere.png" in batch.errors[3] and not caplog.messages
    assert decode_images(sources, on_error="skip").errors == batch.errors
    assert [message.count("LEFT OUT: image") for message in caplog.messages] == [1, 1]
    assert decode_images([], on_error="skip").images == []
    with pytest.raises(ValueError, match="on_error='ignore': give one of raise, skip, report"):
        decode_images(sources, on_error="ignore")


def test_photos_of_several_pictures_are_jpegs():
    """Phones write such files; Pillow calls them MPO and opens them as JPEG."""
    file = encode(PHOTO, "MPO", save_all=True, append_images=[PHOTO.rotate(90)], quality=95)
    with Image.open(BytesIO(file)) as image:
        assert image.format == "MPO"
    assert np.abs(decode_image(file).numpy().astype(int) - RGB).mean() < 6


def test_heic_and_avif(tmp_path):
    """AVIF is built in. HEIC is read without registering anything if its plugin is installed."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="reads HEIC")
    file = tmp_path / "photo.heic"
    heif = pillow_heif.from_pillow(PHOTO)
    try:
        heif.save(file, quality=95)
    except (RuntimeError, ValueError) as error:
        pytest.skip(f"this build writes no HEIC: {error}")
    assert np.abs(decode_image(file).numpy().astype(int) - RGB).mean() < 6
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ImageDecodingError, match=r"photo\.heic: .*damaged"):
        decode_image(file)


def test_jpeg_xl_is_read_where_its_plugin_is_installed(tmp_path):
    pytest.importorskip("pillow_jxl", reason="reads JPEG XL")
    accepted_formats()
    PHOTO.save(tmp_path / "photo.jxl", lossless=True)
    assert np.array_equal(decode_image(tmp_path / "photo.jxl"), RGB)
