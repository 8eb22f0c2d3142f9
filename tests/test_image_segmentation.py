"""Image processors of segmentation: masks follow their images, ids are never colours, maps come back in any size."""

from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY

from modeling_vit_custom import (
    ImageDecodingError,
    ImageLimits,
    ViTCustomConfig,
    ViTCustomSegmentationImageProcessor,
    ViTCustomSegmentationImageProcessorPil,
)
from modeling_vit_custom.image_masks_vit_custom import read_mask

BOTH = pytest.mark.parametrize(
    "cls", [ViTCustomSegmentationImageProcessor, ViTCustomSegmentationImageProcessorPil], ids=["torchvision", "pil"]
)
IDS = np.random.default_rng(0).integers(0, 5, (50, 70), dtype=np.uint8)
# The image shows the ids as grey levels, so that a mask that leaves its image shows.
IMAGE = Image.fromarray(IDS * 50).convert("RGB")
UNCHANGED = {"do_rescale": False, "do_normalize": False, "resample": 0}


@BOTH
@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 24, "width": 34}},
        {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 25, "width": 28}},
        {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 64, "width": 41}},
        {"size": {"height": 20, "width": 30}, "do_pad": True, "pad_size": {"height": 23, "width": 37}},
    ],
    ids=["resize", "crop", "crop beyond the image", "pad"],
)
def test_labels_are_the_classes_of_the_pixels_shown(cls, settings):
    features = cls(**{**UNCHANGED, **settings})([IMAGE, IMAGE], [IDS, Image.fromarray(IDS)], return_tensors="pt")
    pixels, labels = features["pixel_values"][:, 0], features["labels"]
    assert labels.dtype == torch.int64 and labels.shape == pixels.shape and features.original_sizes == [(50, 70)] * 2
    inside = labels != -100
    if "size" in settings and "shortest_edge" not in settings["size"]:  # torchvision's own nearest has other centres
        size = (settings["size"]["width"], settings["size"]["height"])
        resized = torch.from_numpy(np.array(Image.fromarray(IDS).resize(size, Image.Resampling.NEAREST))).long()
        assert torch.equal(labels[0, : size[1], : size[0]], resized)
    if cls is ViTCustomSegmentationImageProcessorPil or not settings.get("do_resize", True):
        assert torch.equal(labels[inside] * 50, pixels[inside].long())
    assert not pixels[~inside].any() and bool((~inside).any()) == (labels.shape[1:] in ((64, 41), (23, 37)))


@BOTH
def test_ids_are_reduced_and_ignored(cls):
    ids = np.array([[0, 1, 2], [255, 3, 7]], np.uint8)
    image = Image.new("RGB", (3, 2))
    labels = {
        (reduce, ignored): cls(do_resize=False)(image, ids, do_reduce_labels=reduce, ignore_index=ignored)["labels"]
        for reduce in (False, True)
        for ignored in (255, 7)
    }
    assert np.array_equal(labels[False, 255][0], [[0, 1, 2], [-100, 3, 7]])
    assert np.array_equal(labels[False, 7][0], [[0, 1, 2], [255, 3, -100]])
    assert np.array_equal(labels[True, 255][0], [[-100, 0, 1], [-100, 2, 6]])
    head = {"kind": "image-segmentation", "ignore_index": 9}
    assert cls.for_model(ViTCustomConfig(**TINY, head=head)).ignore_index == 9


def as_file(image: Image.Image, form: str) -> bytes:
    stream = BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def test_ids_are_read_from_any_kind_of_mask(tmp_path):
    grey = Image.fromarray(IDS)
    palette = grey.convert("P")
    palette.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200, 0, 0, 0, 9, 9, 9])
    palette.putdata(IDS.flatten().tolist())
    grey.save(tmp_path / "grey.png")
    np.save(tmp_path / "ids.npy", IDS.astype(np.int32))
    deep = Image.fromarray(IDS.astype(np.uint16) * 300)
    sources = [tmp_path / "grey.png", str(tmp_path / "ids.npy"), grey, palette, as_file(palette, "PNG"), IDS[None]]
    sources += [IDS[:, :, None], torch.from_numpy(IDS), {"bytes": as_file(grey, "TIFF"), "path": None}]
    assert all(np.array_equal(read_mask(source), IDS) for source in sources)
    assert np.array_equal(read_mask(as_file(deep, "PNG")), IDS.astype(int) * 300)
    assert np.array_equal(read_mask(grey.convert("1")), np.array(grey.convert("1")))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (IMAGE, r"its pixels are colours \(mode RGB\), not class ids"),
        (as_file(Image.fromarray(IDS), "JPEG"), "JPEG changes class ids when it is stored. Fix: store masks as PNG"),
        (IDS / 5, "float64 values are no class ids"),
        (np.zeros((2, 3, 4), int), r"shape \(2, 3, 4\) is no mask"),
        (b"", "empty, 0 bytes"),
        (b"no image", "not an image that Pillow reads"),
        ("nowhere.png", "there is no such file"),
        (as_file(Image.fromarray(IDS), "PNG")[:60], "damaged or cut off"),
        (7, "int is no mask"),
        (np.zeros((200, 200), int), "refused before decoding: 200 x 200 is more than 10,000 pixels"),
    ],
    ids=["colours", "jpeg", "floats", "three axes", "empty", "text", "no file", "cut off", "a number", "too large"],
)
def test_what_is_no_mask_is_refused_by_name(source, message):
    with pytest.raises(ImageDecodingError, match=f"^a.png: .*{message}"):
        read_mask(source, "a.png", ImageLimits(pixels=10_000))


def test_masks_that_do_not_fit_are_named(tmp_path):
    processor = ViTCustomSegmentationImageProcessor()
    with pytest.raises(ImageDecodingError, match="mask 1 of the batch has 50x69 pixels, its image 50x70"):
        processor([IMAGE, IMAGE], [IDS, IDS[:, 1:]])
    with pytest.raises(ValueError, match="1 masks for 2 images"):
        processor([IMAGE, IMAGE], IDS)
    with pytest.raises(ImageDecodingError, match="mask 0 holds ids below 0"):
        processor(IMAGE, IDS.astype(int) - 1)
    kept = processor([IMAGE, b"", IMAGE], [IDS, IDS, IDS * 0], on_error="report", return_tensors="pt")
    assert kept.kept_indices == [0, 2] and kept["labels"].shape[0] == 2 and not kept["labels"][1].any()


@BOTH
def test_maps_come_back_in_the_size_of_the_images(cls):
    logits = torch.randn(2, 5, 6, 8)
    outputs, processor = SimpleNamespace(logits=logits), cls()
    plain = processor.post_process_semantic_segmentation(outputs)
    assert torch.equal(torch.stack(plain), logits.argmax(1))
    scored = processor.post_process_semantic_segmentation(outputs, [(50, 70), (9, 8)], return_segmentation_scores=True)
    scores = torch.nn.functional.interpolate(logits[:1], (50, 70), mode="bilinear")[0]
    assert torch.equal(scored[0].segmentation_scores, scores) and torch.equal(scored[0].segmentation, scores.argmax(0))
    assert scored[1].segmentation.shape == (9, 8)
    with pytest.raises(ValueError, match="target_sizes: 1 for 2 images"):
        processor.post_process_semantic_segmentation(outputs, [(50, 70)])
    with pytest.raises(ValueError, match="NaN or infinite"):
        processor.post_process_semantic_segmentation(SimpleNamespace(logits=logits / 0))
    with pytest.raises(ValueError, match="this processor crops or pads"):
        cls(do_center_crop=True, crop_size=20).post_process_semantic_segmentation(outputs, [(50, 70)] * 2)
    assert not hasattr(processor, "post_process_panoptic_segmentation"), "the pipeline would prefer it"
