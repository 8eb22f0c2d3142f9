"""Preprocessing is the stored one, or else the documented one with a note; what ours cannot express is refused."""

import json

import numpy as np
import pytest
import torch
import transformers
from conversion_sources import TINY
from huggingface_sources import MODELS, random_source
from image_files import CHINA
from PIL import Image
from safetensors.torch import save_file

from modeling_vit_custom.conversion.build import build
from modeling_vit_custom.conversion.check import compare
from modeling_vit_custom.conversion.engine import ConversionError
from modeling_vit_custom.conversion.sources import open_source

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5] * 3, [0.5] * 3)
OPENAI = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
WHOLE = {"height": 32, "width": 32}
# family: mean and std, resample, size, crop, at 32 pixels; DINOv2 always uses 224, whatever the size of its positions
DOCUMENTED = {
    "vit": (HALF, 2, WHOLE, None),
    "deit": (IMAGENET, 3, {"height": 36, "width": 36}, 32),
    "dinov2": (IMAGENET, 3, {"shortest_edge": 256}, 224),
    "dinov2_with_registers": (IMAGENET, 3, {"shortest_edge": 256}, 224),
    "dinov3_vit": (IMAGENET, 2, WHOLE, None),
    "vit_mae": (IMAGENET, 2, WHOLE, None),
    "ijepa": (IMAGENET, 2, WHOLE, None),
    "clip": (OPENAI, 3, {"shortest_edge": 32}, 32),
    "siglip": (HALF, 3, WHOLE, None),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_without_a_processor_gets_its_family_s_which_is_said(name, tmp_path):
    random_source(*MODELS[name]).float().save_pretrained(tmp_path)
    opened = open_source(str(tmp_path), {})
    made = build(opened.source, opened.family)
    (mean, std), resample, size, crop = DOCUMENTED[name.split("/")[0].split(",")[0]]
    processor = made.processor
    assert (list(processor.image_mean), list(processor.image_std)) == (mean, std)
    assert (processor.resample, dict(processor.size)) == (resample, size)
    assert (processor.crop_size.height if processor.do_center_crop else None) == crop
    assert sum("no preprocessor_config.json" in note for note in made.notes) == 1
    assert compare(opened.reference(made), made.model, processor)["passed"]


@pytest.mark.parametrize(
    ("name", "cls"),
    [("vit", "ViTImageProcessor"), ("clip", "CLIPImageProcessor"), ("siglip", "SiglipImageProcessor"),
     ("dinov3_vit", "DINOv3ViTImageProcessor")],
)  # fmt: skip
def test_the_documented_numbers_are_the_defaults_of_transformers_own_class(name, cls):
    (mean, std), resample, size, crop = DOCUMENTED[name]
    processor = getattr(transformers, cls)()
    assert (list(processor.image_mean), list(processor.image_std), processor.resample) == (mean, std, resample)
    assert dict(processor.size).keys() == size.keys() and bool(processor.do_center_crop) == bool(crop)


def test_bare_tensors_under_transformers_names_get_it_as_well(tmp_path):
    save_file(random_source(*MODELS["clip"]).float().state_dict(), tmp_path / "clip.safetensors")
    opened = open_source(str(tmp_path / "clip.safetensors"), {"num_attention_heads": 4})
    made = build(opened.source, opened.family)
    assert list(made.processor.image_mean) == OPENAI[0] and any("CLIP's mean" in note for note in made.notes)


@pytest.fixture
def folder(tmp_path):
    """Save a ViT; each test writes its processor."""
    transformers.ViTForImageClassification(transformers.ViTConfig(**TINY)).save_pretrained(tmp_path)
    return tmp_path


STORED = {
    "resolved by its class": {"image_processor_type": "CLIPImageProcessor", "size": 40, "crop_size": 32},
    "an old name": {"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "resample": 3, "image_std": [0.3] * 3},
    "DeiT's two sizes": {"image_processor_type": "DeiTImageProcessor", "size": 40, "crop_size": 32},
    "not resized": {"image_processor_type": "ViTImageProcessor", "size": 32, "do_normalize": False},
}


@pytest.mark.parametrize("name", STORED)
def test_a_stored_processor_prepares_as_it_does_in_transformers(folder, name):
    (folder / "preprocessor_config.json").write_text(json.dumps(STORED[name]))
    opened = open_source(str(folder), {})
    processor = build(opened.source, opened.family).processor
    theirs = transformers.AutoImageProcessor.from_pretrained(folder)
    with Image.open(CHINA) as image:
        picture = image.convert("RGB")
    expected = theirs(picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(processor(picture, return_tensors="pt")["pixel_values"], expected, rtol=0, atol=1e-6)


REFUSED = {
    "padding": ({"do_pad": True}, "do_pad=True"),
    "colours reversed": ({"do_flip_channel_order": True}, "do_flip_channel_order=True"),
    "a part that is cut": ({"crop_pct": 0.9}, r"crop_pct=0\.9"),
    "a filter": ({"resample": 5}, "resample=5"),
    "a class": ({"image_processor_type": "ConvNextImageProcessor"}, "ConvNextImageProcessor"),
    "a class that is none": ({"image_processor_type": "NoSuchProcessor"}, "cannot build its image processor"),
}


@pytest.mark.parametrize("settings, message", REFUSED.values(), ids=REFUSED)
def test_a_stored_processor_that_ours_cannot_express_is_refused(folder, settings, message):
    stored = {"image_processor_type": "ViTImageProcessor", "size": WHOLE, **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(stored))
    with pytest.raises(ConversionError, match=message):
        open_source(str(folder), {})


def test_every_route_of_images_keeps_antialiasing_off(tmp_path):
    """The stored setting holds for images that are decoded one by one, in batches, and by the processor's `decode`."""
    from modeling_vit_custom import ViTCustomImageProcessor

    ViTCustomImageProcessor(size=32, antialias=False).save_pretrained(tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    expected = ViTCustomImageProcessor(size=32, antialias=False)(CHINA, return_tensors="np")["pixel_values"]
    smooth = ViTCustomImageProcessor(size=32)(CHINA, return_tensors="np")["pixel_values"]
    with Image.open(CHINA) as image:
        for route in (CHINA, str(CHINA), CHINA.read_bytes(), image, processor.decode(CHINA), [CHINA]):
            assert np.array_equal(processor(route, return_tensors="np")["pixel_values"], expected)
    assert np.abs(expected - smooth).max() > 0.2
