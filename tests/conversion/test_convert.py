"""`convert` makes any source that a user names a folder that loads, and checks it against the source's own library."""

import json
import re
import socket
import zipfile

import numpy as np
import pytest
import torch
from huggingface_sources import COMMON, LABELS
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageClassification,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from modeling_vit_custom.commands.convert import main
from modeling_vit_custom.conversion import check
from modeling_vit_custom.conversion.convert import convert
from modeling_vit_custom.conversion.engine import ConversionError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Save transformers' ViT with random parameters and its processor; return the folder."""
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**COMMON, **LABELS)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    path = tmp_path_factory.mktemp("source") / "vit"
    model.save_pretrained(path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("timm:resnet18", "timm:resnet18: ResNet, which is none of VisionTransformer"),
        ("timm:nothing", "Unknown model"),
        ("timm:hf-hub:X", "names no revision.* give timm:hf-hub:X@COMMIT"),
        ("timm:hf_hub:a/b@", "names no revision"),
        (
            "torchvision:os.system",
            "torchvision:os.system is no Vision Transformer of torchvision: give one of vit_b_16",
        ),
        ("torchvision:resnet18", "torchvision:resnet18 is no Vision Transformer"),
    ],
)
def test_a_name_without_a_model_is_refused_before_anything_is_downloaded(source, said, tmp_path, monkeypatch, capsys):
    def download(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", download)
    assert main([source, str(tmp_path / "out")]) == 2
    assert re.search(f"^convert: .*{said}", capsys.readouterr().err) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("shape", [f"({10**30},)", f"({2**40}, {2**40})", "(-1,)"])
def test_an_npz_that_claims_more_than_it_holds_is_refused(shape, tmp_path, capsys):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "big.npz", "w") as archive:
        archive.writestr("embedding/kernel.npy", b"\x93NUMPY\x01\x00\x76\x00" + header + bytes(16))
    assert main([str(tmp_path / "big.npz"), str(tmp_path / "out")]) == 2
    assert "big.npz cannot be read as .npz" in capsys.readouterr().err


def test_a_folder_of_transformers_is_converted_and_checked(folder, tmp_path, capfd):
    assert main([str(folder), str(tmp_path / "out"), "--check"]) == 0
    printed, said = capfd.readouterr()
    assert printed == (tmp_path / "out" / "conversion.json").read_text() and "check passed" in said
    report = json.loads(printed)
    assert report["family"] == "vit" and report["source"] == "vit" and report["classes"] == 5
    assert [row["size"] for row in report["check"]["from_tensors"]] == [[32, 32], [48, 48], [24, 56]]
    assert report["check"]["from_pixels"]["grey_levels"] < 1e-3
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    source = ViTForImageClassification.from_pretrained(folder)
    assert model.config.id2label == source.config.id2label
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images).logits, source(images).logits, rtol=1e-4, atol=1e-4)


def test_a_check_that_fails_says_so_and_exits_with_1(folder, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(check, "GREY_LEVELS", -1.0)
    assert main([str(folder), str(tmp_path / "out"), "--check"]) == 1
    printed, said = capfd.readouterr()
    assert not json.loads(printed)["check"]["passed"] and "CHECK FAILED" in said


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_where_nothing_is_rounded_by_it(folder, tmp_path, dtype):
    """A table with a row for the class token is added into the token: half precision cannot hold the sum."""
    config = SiglipVisionConfig(**COMMON)
    for name, model in {
        "vit": ViTForImageClassification.from_pretrained(folder),
        "siglip": SiglipVisionModel(config),
    }.items():
        model.to(dtype).save_pretrained(tmp_path / name)
        report = convert(str(tmp_path / name), tmp_path / f"{name} out", {}, check=True)
        assert report["check"]["passed"]
        stored = load_file(tmp_path / f"{name} out" / "model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.float32 if name == "vit" else dtype}
        assert any("stored in float32" in note and "cls_token" in note for note in report["notes"]) == (name == "vit")


def test_bare_tensors_are_known_by_their_names(folder, tmp_path, capsys):
    source = ViTForImageClassification.from_pretrained(folder)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    for name in ("weights.safetensors", "weights.pth"):
        report = convert(str(tmp_path / name), tmp_path / f"{name}.out", {"num_attention_heads": 4})
        assert report["family"] == "vit" and any("layer_norm_eps=1e-12" in note for note in report["notes"])
    flags = ["--num_attention_heads", "4", "--check"]
    assert main([str(tmp_path / "weights.pth"), str(tmp_path / "out"), *flags]) == 0
    report = json.loads(capsys.readouterr().out)["check"]
    assert report["passed"] and "ViTForImageClassification" in report["reference"]
    assert "settings that were assumed" in report["reference"]


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
