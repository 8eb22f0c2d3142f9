"""timm's plain Vision Transformers with random parameters give the same numbers here, and when written back."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from transformers import AutoImageProcessor, AutoModelForImageClassification

from modeling_vit_custom.commands.convert import main
from modeling_vit_custom.conversion.build import build
from modeling_vit_custom.conversion.convert import convert
from modeling_vit_custom.conversion.engine import ConversionError, write
from modeling_vit_custom.conversion.export_timm import TARGETS
from modeling_vit_custom.conversion.family import Source
from modeling_vit_custom.conversion.sources import from_timm
from modeling_vit_custom.conversion.target import choose
from modeling_vit_custom.conversion.timm_vit import family_of, labels_of

SMALL = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 5,
    "img_size": 32,
    "patch_size": 8,
    "dynamic_img_size": True,
}
MODELS = {
    "vit": ("vit_base_patch16_224", {}),
    "no head": ("vit_base_patch16_224", {"num_classes": 0}),
    "clip, pre-norm": ("vit_base_patch16_clip_224.openai", {}),
    "siglip, map": ("vit_base_patch16_siglip_224", {}),
    "siglip, gap": ("vit_base_patch16_siglip_gap_224", {}),
    "fc_norm": ("vit_base_patch16_224", {"global_pool": "avg", "class_token": False}),
    "registers in the table": ("vit_base_patch16_224", {"reg_tokens": 3}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", {"patch_size": 8, "num_classes": 5}),
    "dinov2, swiglu": ("vit_giant_patch14_dinov2", {}),
    "deit3": ("deit3_base_patch16_224", {}),
    "qk norm": ("vit_base_patch16_224", {"qk_norm": True}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "dinov3": ("vit_small_patch16_dinov3", {}),
    "dinov3, biases": ("vit_small_patch16_dinov3_qkvb", {}),
    "dinov3, swiglu": ("vit_small_plus_patch16_dinov3", {}),
}


def random_source(name: str, fields: dict):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **{**SMALL, **fields}).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_converted_equals_source_in_float64(name):
    reference = random_source(*MODELS[name])
    conversion = build(Source(name, reference.state_dict()), family_of(reference))
    for height, width in ((32, 32), (48, 48), (40, 56)):
        images = torch.randn(2, 3, height, width, dtype=torch.float64)
        expected, output = reference(images), conversion.model(images)
        actual = output.logits if "logits" in output else output.pooler_output
        exact = (height, width) == (32, 32) and "dinov3" not in name  # timm resamples and rotates in float32
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9 if exact else 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_written_back_gives_the_source(name):
    reference = random_source(*MODELS[name])
    family = family_of(reference)
    model = build(Source(name, reference.state_dict()), family).model
    prefix = "" if model.config.num_labels else "vit."
    ours = {prefix + key: tensor for key, tensor in model.state_dict().items()}
    into_itself = write(family.table, ours, {key: tensor.shape for key, tensor in reference.state_dict().items()})
    exported = choose(TARGETS, model.config).build(model.config, ours, None)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = reference(images)
    torch.testing.assert_close(exported.model.double()(images), expected, rtol=1e-12, atol=1e-12)
    reference.load_state_dict(into_itself)
    torch.testing.assert_close(reference(images), expected, rtol=1e-12, atol=1e-12)
    again = build(Source(name, exported.model.state_dict()), family_of(exported.model)).model
    assert again.config.to_dict() == model.config.to_dict()
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


def test_attention_pooling_over_prefix_tokens_is_refused():
    eva = random_source("vit_small_patch16_dinov3", {"global_pool": "map"})
    with pytest.raises(ConversionError, match="pooling that includes prefix tokens"):
        family_of(eva)


# ---------- folders as timm pushes them to the Hub, and class names

SETTINGS = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear", "crop_pct": 0.9}


def save_folder(path, **extra):
    """Save a model with its own settings as timm does for the Hub."""
    model = random_source("vit_base_patch16_224", {"global_pool": "avg", "class_token": False}).float()
    model.pretrained_cfg = {**model.pretrained_cfg, **SETTINGS}
    arguments = {**SMALL, "global_pool": "avg", "class_token": False}
    save_for_hf(model, path, model_config={"model_args": arguments, **extra}, safe_serialization=True)
    return model


def test_a_folder_of_timm_s_keeps_its_settings_and_labels(tmp_path):
    names = [f"thing {i}" for i in range(5)]
    save_folder(tmp_path / "model", label_names=names)
    assert main([str(tmp_path / "model"), str(tmp_path / "out"), "--check"]) == 0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert list(model.config.id2label.values()) == names and model.config.pooling == "mean"
    assert (list(processor.image_mean), processor.resample) == ([0.1, 0.2, 0.3], 2)
    assert (processor.size.shortest_edge, processor.crop_size.height) == (35, 32)


def test_its_pickled_weights_are_read_without_timm(tmp_path, capsys):
    model = save_folder(tmp_path / "model")
    assert main([str(tmp_path / "model"), str(tmp_path / "safe")]) == 0
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    assert main([str(tmp_path / "model"), str(tmp_path / "out"), "--check"]) == 0
    made, same = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "safe"))
    assert made.keys() == same.keys() and all(torch.equal(made[name], same[name]) for name in made)
    torch.save({**model.state_dict(), "surplus": torch.ones(1)}, tmp_path / "model" / "pytorch_model.bin")
    assert main([str(tmp_path / "model"), str(tmp_path / "none")]) == 2
    assert "timm cannot build it" in capsys.readouterr().err


def test_its_bare_file_looks_like_meta_s_which_is_said(tmp_path):
    save_file(random_source("vit_base_patch16_224", {}).float().state_dict(), tmp_path / "model.safetensors")
    report = convert(str(tmp_path / "model.safetensors"), tmp_path / "out", {"num_attention_heads": 4})
    assert report["family"] == "meta_vit" and any("timm's files look alike" in note for note in report["notes"])
    save_folder(tmp_path / "model")
    with pytest.raises(ConversionError, match=r"no known family.*For a model of timm's give the folder"):
        convert(str(tmp_path / "model" / "model.safetensors"), tmp_path / "other", {})


def test_a_damaged_folder_of_timm_s_is_refused(tmp_path):
    save_folder(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "architecture": "no_such_model"}))
    with pytest.raises(ConversionError, match="no_such_model"):
        convert(str(tmp_path / "model"), tmp_path / "out", {})
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ConversionError, match=r"no \.safetensors file"):
        convert(str(tmp_path / "model"), tmp_path / "out", {})


@pytest.mark.parametrize(("classes", "first"), [(1000, "tench"), (21843, "organism")])
def test_imagenet_s_names_are_those_of_its_number_of_classes(classes, first):
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", **{**SMALL, "num_classes": classes})
    model.pretrained_cfg["num_classes"] = classes
    labels, notes = labels_of(model)
    assert len(labels) == classes and labels[0].startswith(first) and len(notes) == 1
    model.pretrained_cfg["num_classes"] = 10  # another head: its classes are unknown
    assert labels_of(model) == ({}, [])


def test_descriptions_are_taken_where_labels_have_them():
    model = random_source("vit_base_patch16_224", {})
    names = ["n01", "n02", "n03", "n04", "n05"]
    model.pretrained_cfg["label_names"] = names
    assert list(labels_of(model)[0].values()) == names
    model.pretrained_cfg["label_descriptions"] = {"n01": "cat"}
    assert list(labels_of(model)[0].values()) == ["cat", *names[1:]]
    model.pretrained_cfg["label_descriptions"] = list("abcde")
    assert list(labels_of(model)[0].values()) == list("abcde")


@torch.no_grad()
def test_two_classes_of_one_name_stay_two(tmp_path):
    """ImageNet has two classes named crane: a bird and a machine."""
    model = random_source("vit_base_patch16_224", {"num_classes": 1000}).float()
    model.pretrained_cfg["num_classes"] = 1000
    opened = from_timm(model, "timm:tiny", {})
    made = build(opened.source, opened.family)
    made.model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.num_labels == 1000
    assert [i for i, name in loaded.config.id2label.items() if name.startswith("crane")] == [134, 517]
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images).logits, model(images), rtol=1e-4, atol=1e-4)
