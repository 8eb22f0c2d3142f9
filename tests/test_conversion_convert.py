"""`convert` from what a user names to a folder that loads, checked against the source by its own library."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from test_conversion_huggingface import COMMON, LABELS
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification, ViTImageProcessor

from modeling_vit_custom.conversion.build import build
from modeling_vit_custom.conversion.check import compare
from modeling_vit_custom.conversion.convert import convert, main
from modeling_vit_custom.conversion.engine import ConversionError
from modeling_vit_custom.conversion.sources import from_timm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """transformers' ViT, random in every parameter, with its processor, as save_pretrained leaves it."""
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**COMMON, **LABELS)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    path = tmp_path_factory.mktemp("source") / "vit"
    model.save_pretrained(path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def test_a_folder_of_transformers_is_converted_and_checked(folder, tmp_path, capsys):
    assert main([str(folder), str(tmp_path / "out"), "--check"]) == 0
    assert "check passed" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert report["family"] == "vit" and report["source"] == "vit" and report["classes"] == 5
    assert [row["size"] for row in report["check"]["from_tensors"]] == [[32, 32], [48, 48], [24, 56]]
    assert all(row["relative"] < 1e-5 for row in report["check"]["from_tensors"])
    assert report["check"]["from_pixels"]["pixels"] < 1e-6
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    source = ViTForImageClassification.from_pretrained(folder)
    assert model.config.id2label == source.config.id2label
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images).logits, source(images).logits, rtol=1e-4, atol=1e-4)


def test_any_one_tensor_that_is_wrong_fails_the_check():
    """Sharp: with random parameters everywhere, noise on any one is seen, but for what softmax cancels."""
    torch.manual_seed(0)
    source = timm.create_model(
        "vit_base_patch16_224", embed_dim=32, depth=1, num_heads=4, num_classes=5, img_size=32, patch_size=8,
        init_values=0.5, qk_norm=True, dynamic_img_size=True,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    opened = from_timm(source, "timm:tiny", {})
    conversion = build(opened.source, opened.family)
    model, processor = conversion.model, conversion.processor
    assert compare(opened.reference, model, processor)["passed"]
    for name, parameter in model.named_parameters():
        kept = parameter.data.clone()
        parameter.data.add_(torch.randn_like(kept) * 0.05)
        invisible = name.endswith("k_norm.bias")  # moves all scores of a query alike
        assert compare(opened.reference, model, processor)["passed"] == invisible, name
        parameter.data.copy_(kept)
    assert compare(opened.reference, model, processor)["passed"]


def test_bare_tensors_are_known_by_their_names(folder, tmp_path, capsys):
    source = ViTForImageClassification.from_pretrained(folder)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    for name in ("weights.safetensors", "weights.pth"):
        report = convert(str(tmp_path / name), tmp_path / f"{name}.out", {"num_attention_heads": 4})
        assert report["family"] == "vit" and any("layer_norm_eps=1e-12" in note for note in report["notes"])
    assert main([str(tmp_path / "weights.pth"), str(tmp_path / "out"), "--check"]) == 2
    assert "no library's model to check" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "is no file, no folder"),
        (lambda path: path.write_bytes(b"x"), "files end in"),
        (lambda path: path.mkdir(), "no config.json"),
    ],
)
def test_what_is_no_source_is_said(tmp_path, make, message):
    make(tmp_path / "thing.txt")
    with pytest.raises(ConversionError, match=message):
        convert(str(tmp_path / "thing.txt"), tmp_path / "out", {})


def test_tensors_of_no_family_and_a_wrong_family_are_refused(folder, tmp_path):
    save_file({"a.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ConversionError, match="no known family"):
        convert(str(tmp_path / "other.safetensors"), tmp_path / "out", {})
    with pytest.raises(ConversionError, match="is not of the family dinov2: no "):
        convert(str(folder), tmp_path / "out", {}, family="dinov2")
    with pytest.raises(ConversionError, match="--family resnet is unknown"):
        convert(str(folder), tmp_path / "out", {}, family="resnet")
    assert not (tmp_path / "out").exists()


def test_damaged_and_pickled_sources_are_refused(folder, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    np.savez(tmp_path / "objects.npz", cls=np.array([{"a": 1}], dtype=object))
    for name in ("cut.safetensors", "objects.npz"):
        with pytest.raises(ValueError, match=name):
            convert(str(tmp_path / name), tmp_path / "out", {})


def test_a_folder_with_something_in_it_is_not_written_to(folder, tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(ConversionError, match="new or an empty folder"):
        convert(str(folder), tmp_path, {})
