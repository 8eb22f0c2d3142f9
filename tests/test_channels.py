"""Images with any number of channels: .npy and TIFF files, hostile ones too, and a model of five channels."""

import importlib
import io
import json
import math
import zlib

import numpy as np
import pytest
import torch
from fresh_process import run_without_package
from image_files import STORED_AS, encode, photograph, with_alpha
from PIL import Image
from real_digits import write_class_folder
from tiny_training import TINY, tiny_checkpoint, tiny_train

from modeling_vit_custom import ViTCustomImageProcessor, ViTCustomImageProcessorPil
from modeling_vit_custom.audit.audit import audit
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.evaluation.evaluate import evaluate
from modeling_vit_custom.image_bands_vit_custom import BYTES_PER_PIXEL
from modeling_vit_custom.image_decoding_vit_custom import decode_image
from modeling_vit_custom.image_files_vit_custom import file_header
from modeling_vit_custom.image_limits_vit_custom import ImageDecodingError, ImageLimits
from modeling_vit_custom.inference.predict import predict
from modeling_vit_custom.publishing.checks import no_pickles
from modeling_vit_custom.reporting.page import thumbnail

tifffile = pytest.importorskip("tifffile", reason="reads and writes TIFF of any number of bands")

BACKENDS = (ViTCustomImageProcessor, ViTCustomImageProcessorPil)
FIVE = ["--config_overrides", f"num_channels=5,{TINY}"]


def bands(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 40, 50), dtype=np.uint8)


def npy(array: np.ndarray, **options) -> bytes:
    np.lib.format.write_array(file := io.BytesIO(), array, **options)
    return file.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    tifffile.imwrite(file := io.BytesIO(), array, photometric="minisblack", **options)
    return file.getvalue()


def forms(image: np.ndarray) -> dict[str, bytes]:
    """Return the same [C, H, W] uint8 in every kind of file that can hold it."""
    last, apart, together = image.transpose(1, 2, 0).copy(), {"planarconfig": "separate"}, {"planarconfig": "contig"}
    return {
        "npy, channels first": npy(image),
        "npy, channels last": npy(last),
        "npy, by columns, version 2": npy(np.asfortranarray(image), version=(2, 0)),
        "npy, uint16, big-endian": npy((image.astype(np.uint16) * 257).astype(">u2")),
        "npy, float": npy(image / 255),
        "tiff, bands together": tiff(last, **together),
        "tiff, bands apart": tiff(image, **apart),
        "tiff, deflate and predictor": tiff(image, **apart, compression="zlib", predictor=True),
        "tiff, strips": tiff(image, **apart, rowsperstrip=7, compression="deflate"),
        "tiff, tiles": tiff(last, **together, tile=(16, 32), compression="zlib"),
        "tiff, a page a band": tiff(image, metadata=None),
        "bigtiff": tiff(image, **apart, bigtiff=True),
        "tiff, uint16, big-endian": tiff(image.astype(np.uint16) * 257, **apart, byteorder=">"),
        "tiff, float": tiff((image / 255).astype(np.float32), **apart),
    }


@pytest.mark.parametrize("count", [2, 4, 5, 12])
def test_every_kind_of_file_gives_the_same_pixel_values(count):
    image = bands(count)
    for cls in BACKENDS:
        processor = cls(num_channels=count, size=32)
        expected = processor(image, return_tensors="pt")["pixel_values"]
        assert expected.shape == (1, count, 32, 32) and list(processor.image_mean) == [0.5] * count
        each = [cls(num_channels=1, size=32)(band, return_tensors="pt")["pixel_values"][0] for band in image]
        assert torch.equal(expected[0], torch.cat(each))  # no channel affects another, or counts as transparency
        for name, content in forms(image).items():
            found = processor(content, return_tensors="pt")["pixel_values"]
            assert torch.equal(found, expected), name


def test_lzw_is_read_with_imagecodecs():
    pytest.importorskip("imagecodecs", reason="reads LZW")
    image = bands(6)
    content = tiff(image, planarconfig="separate", compression="lzw", rowsperstrip=16)
    assert np.array_equal(decode_image(content, 6), image)


def test_the_orientation_of_a_tiff_is_followed_as_pillow_does():
    image = bands(5)
    for orientation, stored in STORED_AS.items():
        lying = np.stack([np.asarray(Image.fromarray(band).transpose(stored)) for band in image])
        content = tiff(lying, planarconfig="separate", extratags=[(274, 3, 1, orientation)])
        assert np.array_equal(decode_image(content, 5), image), orientation


def test_rgba_stays_four_channels_for_a_model_of_four_and_is_composited_for_one_of_three():
    image = with_alpha(photograph())
    whole = np.moveaxis(np.asarray(image), -1, 0)
    for source in (image, encode(image, "PNG"), whole, np.asarray(image)):
        assert np.array_equal(decode_image(source, 4), whole)
        assert decode_image(source, 3).shape[0] == 3
    grey = with_alpha(photograph().convert("L"))
    assert np.array_equal(decode_image(encode(grey, "PNG"), 2), np.moveaxis(np.asarray(grey), -1, 0))
    swapped = decode_image(whole, 4, channel_order="bgr")
    assert np.array_equal(swapped, whole[[2, 1, 0, 3]])
    with pytest.raises(ImageDecodingError, match="channel_order='bgr' says nothing of 5 channels"):
        decode_image(bands(5), 5, channel_order="bgr")


WRONG = {
    "an RGB photograph for four": (encode(photograph(), "JPEG"), 4, "it has 3 channels, the model takes 4"),
    "an array of five for three": (bands(5), 3, r"shape \(5, 40, 50\) has 5 channels, the model takes 3"),
    "five in .npy for six": (npy(bands(5)), 6, r"shape \(5, 40, 50\) has 5 channels, the model takes 6"),
    "a TIFF of five for three": (tiff(bands(5), planarconfig="separate"), 3, "it has 5 channels, the model takes 3"),
    "a packed TIFF of five for one": (
        tiff(bands(5), planarconfig="separate", compression="zlib"), 1, "it has 5 channels, the model takes 1",
    ),
    "grey for five": (bands(1)[0], 5, "it has 1 channel, the model takes 5"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_another_number_of_channels_names_both_and_the_fix(case):
    source, count, message = WRONG[case]
    with pytest.raises(ImageDecodingError, match=f"^x: {message}. Fix: give images of {count} channel"):
        decode_image(source, count, name="x")


def test_layouts_that_fit_both_ways_must_be_named():
    image = bands(5)[:, :9, :5]  # [5, 9, 5]
    with pytest.raises(ImageDecodingError, match=r"channels first or last. Fix: pass input_data_format"):
        decode_image(npy(image), 5)
    assert np.array_equal(decode_image(npy(image), 5, input_data_format="channels_first"), image)
    assert np.array_equal(decode_image(npy(image), 5, input_data_format="channels_last"), image.transpose(2, 0, 1))


# ---------- hostile files


def claiming(shape, dtype="|u1") -> bytes:
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def bomb() -> bytes:
    """Return a small TIFF whose only strip unpacks to a thousand times the size in its header."""
    content = bytearray(tiff(np.zeros((40, 50, 5), np.uint8), planarconfig="contig", compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages[0]
        counts = page.tags["StripByteCounts"]
    packed = zlib.compress(bytes(10_000_000))
    content += packed
    for tag, value in (("StripOffsets", len(content) - len(packed)), ("StripByteCounts", len(packed))):
        at = page.tags[tag]
        size = {3: 2, 4: 4}[int(at.dtype)]
        content[at.valueoffset : at.valueoffset + size] = value.to_bytes(size, "little")
    assert counts.count == 1
    return bytes(content)


HOSTILE = {
    "pickled objects": (npy(np.array([[{}]], object)), "object is no pixel type"),
    "records": (npy(np.zeros((8, 9), [("r", "u1")])), "is no pixel type"),
    "10^30 values": (claiming((5, 10**15, 10**15)), r"refused before decoding.*about 10\^30 bytes"),
    "more bytes than a pixel limit allows": (claiming((12, 9_000, 9_000), "<f8"), "refused before decoding"),
    "more than there is": (npy(bands(5))[:-1], "cut off: 9,999 bytes of values are there, its header says 10,000"),
    "negative": (claiming((5, -8, 9)), "damaged"),
    "no shape": (claiming("five"), "damaged"),
    "a name that is called": (claiming((5, 8, 9)).replace(b"False", b"exit()"), "damaged"),
    "a header cut off": (npy(bands(5))[:20], "damaged"),
    "an unknown version": (b"\x93NUMPY\x09\x00" + npy(bands(5))[8:], "damaged"),
    "a batch": (npy(bands(5)[None]), "is a batch"),
    "one long row": (npy(np.zeros((5, 1, 9_000), np.uint8)), "more than 100 times"),
    "TIFF, cut off": (tiff(bands(5), planarconfig="separate")[:-100], "decodes to other than its|damaged or cut off"),
    "TIFF, a bomb": (bomb(), "part 0 decodes to other than its 10,000 bytes"),
    "TIFF, complex": (tiff(bands(5).astype(np.complex64), planarconfig="separate"), "values of .* bits is not read"),
    "TIFF, no tags": (b"II*\0" + bytes(60), "damaged"),
    "TIFF, all ones": (b"MM\0*" + b"\xff" * 60, "damaged"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_by_a_sentence(case):
    content, message = HOSTILE[case]
    with pytest.raises(ImageDecodingError, match=message) as error:
        decode_image(content, 5)
    assert "Fix: " in str(error.value)


def test_limits_hold_before_anything_is_decoded():
    image = bands(5)
    for content in (npy(image), tiff(image, planarconfig="separate", compression="zlib")):
        for limits in (ImageLimits(pixels=40 * 50 - 1), ImageLimits(pixels=40 * 50 * 5 // BYTES_PER_PIXEL - 1)):
            with pytest.raises(ImageDecodingError, match=r"refused before decoding.*raise ImageLimits"):
                decode_image(content, 5, limits=limits)
        assert (
            decode_image(content, 5, limits=ImageLimits(pixels=math.ceil(40 * 50 * 5 / BYTES_PER_PIXEL))).shape[0] == 5
        )
        assert file_header(content).hwc == (40, 50, 5)


def test_flipped_bytes_never_raise_anything_else():
    rng = np.random.default_rng(0)
    for content in (npy(bands(5)[:, :9, :8]), tiff(bands(5)[:, :9, :8], planarconfig="separate", compression="zlib")):
        for _ in range(150):
            damaged = bytearray(content)
            for at in rng.integers(0, min(300, len(content)), 3):
                damaged[at] = rng.integers(0, 256)
            try:
                assert decode_image(bytes(damaged), 5).shape[0] == 5
            except ImageDecodingError as error:
                assert "Fix: " in str(error)


def test_without_tifffile_the_fix_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    content = tiff(bands(5), planarconfig="separate")
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImageDecodingError, match=r"not installed. Fix: pip install tifffile"):
        decode_image(content, 5)


# ---------- from end to end


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write two classes that differ only in one channel, as .npy in both layouts and as TIFF."""
    root = tmp_path_factory.mktemp("channels")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dry", "wet")):
        for kind in ("npy", "tif"):
            (root / kind / name).mkdir(parents=True)
        for i in range(8):
            image = rng.integers(0, 100, (5, 36, 40), dtype=np.uint8)
            image[4] += np.uint8(120 * label)
            np.save(root / "npy" / name / f"{i}.npy", image if i % 2 else image.transpose(1, 2, 0))
            tifffile.imwrite(root / "tif" / name / f"{i}.tif", image, planarconfig="separate", photometric="minisblack")
    return root


PIPELINE = """
from transformers import pipeline
classify = pipeline("image-classification", model=sys.argv[1], trust_remote_code=True)
print([classify(path)[0]["label"] for path in sys.argv[2:]])
"""


def test_five_channels_from_training_to_the_pipeline(folders, tmp_path):
    answers = {}
    for kind in ("npy", "tif"):
        run = tmp_path / kind
        tiny_train(run, "--train_dir", folders / kind, "--max_steps", 2, *FIVE)
        summary = predict(str(run), [str(folders / kind)], str(tmp_path / f"{kind}.jsonl"))
        assert (summary.images, summary.failed) == (16, 0)
        lines = [json.loads(line) for line in (tmp_path / f"{kind}.jsonl").read_text().splitlines()]
        answers[kind] = [line["predictions"] for line in lines]
    assert answers["npy"] == answers["tif"]  # the same pictures, so the same model

    labels = [best[0]["label"] for best in answers["tif"]]
    page = tmp_path / "page.html"
    result, *_ = evaluate(str(tmp_path / "npy"), str(folders / "npy"), tmp_path / "metrics.json", html=page)
    right = [label == ("dry" if i < 8 else "wet") for i, label in enumerate(labels)]
    assert result.metrics["accuracy"] == np.mean(right)
    assert all(right) or "data:image/" in page.read_text()  # the page shows mistakes
    paths = [folders / "tif" / "dry" / "0.tif", folders / "npy" / "wet" / "7.npy"]
    assert run_without_package(PIPELINE, tmp_path / "fresh", tmp_path / "npy", *paths).strip() == str(
        [labels[0], labels[15]]
    )


def test_a_checkpoint_of_one_channel_is_trained_on_with_five(folders, tmp_path):
    start = tiny_checkpoint(tmp_path / "grey", write_class_folder(tmp_path / "digits", {"0": 4, "1": 4}))
    tiny_train(
        tmp_path / "run", "--train_dir", folders / "tif", "--max_steps", 1, "--method", "full", *FIVE, model=start
    )
    processor = ViTCustomImageProcessor.from_pretrained(tmp_path / "run")
    assert processor.num_channels == 5 and list(processor.image_mean) == [0.5] * 5


def test_colour_policies_are_refused_by_name(folders, tmp_path):
    for flag, value in (("auto_augment", "randaugment"), ("random_grayscale", "0.5")):
        with pytest.raises(UsageError, match=f"--{flag} {value} is for grey and RGB images, the model takes 5"):
            tiny_train(tmp_path / flag, "--train_dir", folders / "npy", f"--{flag}", value, *FIVE)


def test_an_audit_looks_at_every_channel(folders, tmp_path):
    assert {finding.code for finding in audit(folders / "npy").findings} <= {"tiny-classes"}
    one, other = bands(5), bands(5)
    other[4] = 255 - other[4]  # a difference outside the first three channels
    for label, image in (("a", one), ("b", other)):
        (tmp_path / label).mkdir()
        np.save(tmp_path / label / "0.npy", image)
    assert not [finding for finding in audit(tmp_path).findings if "more than once" in finding.title]
    np.save(tmp_path / "b" / "1.npy", one.transpose(1, 2, 0))
    assert [finding for finding in audit(tmp_path).findings if "more than once" in finding.title]
    dim = tmp_path / "dim" / "a"
    dim.mkdir(parents=True)
    np.save(dim / "0.npy", bands(5).astype(np.uint16) << 4)  # 12 bits
    assert "about 12 bits" in {f.code: f.title for f in audit(dim.parent).findings}["deep-but-dark"]
    assert thumbnail(tmp_path / "a" / "0.npy").startswith("data:image/")


def test_example_arrays_may_be_published_unless_they_hold_objects(tmp_path):
    (tmp_path / "examples").mkdir()
    np.save(tmp_path / "examples" / "0.npy", bands(5))
    no_pickles(tmp_path)
    np.save(tmp_path / "examples" / "1.npy", np.array([[{}]], object))
    with pytest.raises(ImageDecodingError, match="object is no pixel type"):
        no_pickles(tmp_path)
    (tmp_path / "examples" / "1.npy").rename(tmp_path / "weights.npy")
    with pytest.raises(ValueError, match="reading it can run code"):
        no_pickles(tmp_path)
