"""from_pretrained on another library's checkpoint gives one error, with the command that converts it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from foreign_checkpoints import save_encoder, save_npz, save_vit
from model_classes import MODELS
from saved_models import save_ours
from transformers import AutoConfig, AutoModel, VisionEncoderDecoderConfig

from modeling_vit_custom import (
    ViTCustomConfig,
    ViTCustomForImageClassification,
)
from modeling_vit_custom.conversion.convert import convert
from modeling_vit_custom.foreign_vit_custom import refuse_foreign_config
from modeling_vit_custom.inference.loading import load_classifier

CLASSES = (ViTCustomConfig, *MODELS)


def of_timm(root: Path) -> Path:
    model = timm.create_model("test_vit", num_classes=2)
    timm.models.save_for_hf(model, root / "timm", safe_serialization=True)
    return root / "timm"


def in_folder(file: Path) -> Path:
    (folder := file.parent / "folder").mkdir()
    shutil.move(file, folder)
    return folder


def pickled(root: Path) -> Path:
    torch.save({"cls_token": torch.zeros(1)}, root / "dinov2.pth")
    return root / "dinov2.pth"


FOREIGN = {
    # what: (function that makes it, part of the error, file to convert)
    "a folder of transformers": (lambda root: save_encoder(root / "dinov2"), "a model of type 'dinov2'", ""),
    "a folder of timm": (of_timm, "a model of type 'timm_wrapper'", ""),
    "a .npz": (lambda root: save_npz(root / "B_16.npz"), "is a file of weights", ""),
    "a .pth": (pickled, "is a file of weights", ""),
    "a folder with a .npz": (
        lambda root: in_folder(save_npz(root / "B_16.npz")),
        "B_16.npz and no config",
        "/B_16.npz",
    ),
    "a folder with a .pth": (lambda root: in_folder(pickled(root)), "dinov2.pth and no config.json", "/dinov2.pth"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_every_class_names_the_command(tmp_path, what):
    make, wrong, file = FOREIGN[what]
    source = make(tmp_path)
    command = f"vit-custom convert --model {source}{file} --output OUT"
    for cls in CLASSES:
        with pytest.raises(ValueError, match=re.escape(command)) as raised:
            cls.from_pretrained(source)
        assert wrong in str(raised.value), cls
    if source.is_dir():  # for a file, AutoModel looks for adapters before it calls our class
        with pytest.raises(ValueError, match=re.escape(command)):
            AutoModel.from_pretrained(source, config=ViTCustomConfig())


@pytest.mark.parametrize("what", [what for what in FOREIGN if "folder of" not in what])
def test_commands_name_it_too(tmp_path, what):
    """Folders of other libraries with a config.json are left out, because the commands run those models themselves."""
    make, wrong, _ = FOREIGN[what]
    with pytest.raises(ValueError, match=f"{wrong}.*vit-custom convert"):
        load_classifier(str(make(tmp_path)))


def test_a_hub_name_is_to_be_downloaded_first():
    with pytest.raises(
        ValueError, match="hf download ada/vit --local-dir FOLDER; vit-custom convert --model FOLDER --output OUT"
    ):
        refuse_foreign_config("ada/vit", {"model_type": "vit"}, "vit_custom")
    with pytest.raises(ValueError, match="'vit_small_patch16_224'"):
        refuse_foreign_config("ada/vit", {"architecture": "vit_small_patch16_224"}, "vit_custom")


def test_what_the_command_makes_is_loaded(tmp_path):
    convert(str(save_vit(tmp_path / "vit", ["a", "b"])), tmp_path / "ours", {})
    for cls in CLASSES:
        cls.from_pretrained(tmp_path / "ours")


def test_ours_is_found_in_a_composite_configuration_and_a_folder_of_bare_weights_takes_a_configuration(tmp_path):
    parts = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTCustomConfig(hidden_size=24, num_attention_heads=2), AutoConfig.for_model("gpt2")
    )
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "config.json").write_text(json.dumps(parts.to_dict(), default=str))
    assert ViTCustomConfig.from_pretrained(tmp_path / "both").hidden_size == 24
    ours = save_ours(tmp_path / "ours")
    config = ViTCustomConfig.from_pretrained(ours)
    (ours / "config.json").unlink()
    ViTCustomForImageClassification.from_pretrained(ours, config=config)
