"""Sources that would make a wrong model, through the command: refused by name with nothing written, or read rightly."""

import json
import pickle

import numpy as np
import pytest
import torch
from flax_vit import NEW, Spec, random_arrays, stored
from meta_layouts import LAYOUTS, random_state
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageClassification,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
)

from modeling_vit_custom import ViTCustomForImageClassification, ViTCustomModel
from modeling_vit_custom.commands.convert import main

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
HEADS = ("--num_attention_heads", "4")


class Harmful:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def vit_folder(path, **fields):
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**TINY, **{"patch_size": 8, "image_size": 32, **fields})).save_pretrained(path)
    return path


def refused(capsys, path, source, *flags) -> str:
    """What the command says of a source it does not convert; nothing has been written."""
    out = path / "out"
    assert main([str(source), str(out), *flags]) == 2
    assert not out.exists()
    return capsys.readouterr().err


def test_a_wrong_family_forced(tmp_path, capsys):
    said = refused(capsys, tmp_path, vit_folder(tmp_path / "vit"), "--family", "siglip")
    assert "is not of the family siglip: no 'encoder.layers.*.layer_norm1.weight'" in said


@pytest.mark.parametrize("suffix", [".npz", ".pth", ".safetensors"])
def test_a_truncated_file(tmp_path, capsys, suffix):
    path = tmp_path / f"model{suffix}"
    if suffix == ".npz":
        np.savez(path, **stored(random_arrays(Spec())))
    elif suffix == ".pth":
        torch.save(random_state(LAYOUTS["meta_vit"]), path)
    else:
        save_file(random_state(LAYOUTS["meta_vit"]), path)
    path.write_bytes(path.read_bytes()[:-4000])
    assert f"model{suffix}" in refused(capsys, tmp_path, path, *HEADS)


def test_code_in_a_pth_is_refused_and_not_run(tmp_path, capsys):
    executed = tmp_path / "executed"
    torch.save({**random_state(LAYOUTS["meta_vit"]), "extra": Harmful(executed)}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Harmful(executed), protocol=2))
    for name in ("zip.pth", "plain.pth"):
        assert "nothing in it was executed" in refused(capsys, tmp_path, tmp_path / name, *HEADS)
    assert not executed.exists()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers(tmp_path, capsys, bad):
    folder = vit_folder(tmp_path / "vit")
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if name.endswith("layernorm_after.weight"))
    state[name][3] = bad
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert "not finite: vit.layers.0.layernorm_after.weight" in refused(capsys, tmp_path, folder)


def test_a_384_pixel_checkpoint_into_a_224_pixel_configuration(tmp_path, capsys):
    """Refused, whoever claims the smaller size; converted at its own, it is resampled when it is loaded."""
    folder = vit_folder(tmp_path / "vit", image_size=384, patch_size=32)
    said = refused(capsys, tmp_path, folder, "--image_size", "224")
    assert "image_size=224 has 7x7 patches" in said and "those of image_size=384" in said
    config = json.loads((folder / "config.json").read_text())
    assert main([str(folder), str(tmp_path / "converted")]) == 0
    (folder / "config.json").write_text(json.dumps(config | {"image_size": 224}))
    assert "those of image_size=384" in refused(capsys, tmp_path, folder)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "converted", image_size=224)
    assert model(torch.randn(1, 3, 224, 224)).logits.shape == (1, 2)


def test_pre_logits_of_imagenet_21k_become_a_layer(tmp_path):
    np.savez(tmp_path / "in21k.npz", **stored(random_arrays(Spec(pre_logits=24, classes=7))))
    assert main([str(tmp_path / "in21k.npz"), str(tmp_path / "out")]) == 0
    model = ViTCustomForImageClassification.from_pretrained(tmp_path / "out")
    assert model.config.pre_logits_size == 24 and model.config.num_labels == 7
    assert isinstance(model.pre_logits[1], torch.nn.Tanh)


@torch.no_grad()
def test_a_grid_that_leaves_a_remainder_of_pixels(tmp_path):
    """so400m/14 at 384: 27×27 patches, the last 6 pixels of each axis unseen."""
    torch.manual_seed(0)
    source = SiglipVisionModel(SiglipVisionConfig(**TINY, image_size=384, patch_size=14)).eval()
    source.save_pretrained(tmp_path / "so400m")
    assert main([str(tmp_path / "so400m"), str(tmp_path / "out")]) == 0
    model = ViTCustomModel.from_pretrained(tmp_path / "out")
    assert model.config.grid_hw == (27, 27) and model.config.image_hw == (384, 384)
    images = torch.randn(2, 3, 384, 384)
    beyond = images.clone()
    beyond[:, :, 378:], beyond[:, :, :, 378:] = 9.0, 9.0
    expected = source(images)
    for pixels in (images, beyond):
        output = model(pixels)
        torch.testing.assert_close(output.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-5)
        torch.testing.assert_close(output.pooler_output, expected.pooler_output, rtol=0, atol=1e-5)


@pytest.mark.parametrize("positions", ["pos_embedding", ""])
def test_a_file_does_not_tell_such_a_remainder_and_its_own_size_counts(tmp_path, capsys, positions):
    spec = Spec(NEW, positions, cls_in_positions=False, pool="map", patch=14, side=56)
    np.savez(tmp_path / "so400m.npz", **stored(random_arrays(spec)))
    if not positions:
        assert "--image_size" in refused(capsys, tmp_path, tmp_path / "so400m.npz")
    assert main([str(tmp_path / "so400m.npz"), str(tmp_path / "out"), "--image_size", "60"]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["image_size"] == 60


def test_a_transposed_kernel(tmp_path, capsys):
    folder = vit_folder(tmp_path / "vit")
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if ".1." in name and name.endswith("intermediate.dense.weight"))
    save_file(state | {name: state[name].T.contiguous()}, folder / "model.safetensors", {"format": "pt"})
    said = refused(capsys, tmp_path, folder)
    assert "mlp.fc1.weight (32, 48) instead of (48, 32)" in said


def test_tensors_left_over_or_missing_are_listed(tmp_path, capsys):
    folder = vit_folder(tmp_path / "vit")
    state = load_file(folder / "model.safetensors")
    save_file(state | {"vit.extra.weight": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    assert "left over in the source: extra.weight" in refused(capsys, tmp_path, folder)
    del state["classifier.bias"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert "classifier" in refused(capsys, tmp_path, folder)
