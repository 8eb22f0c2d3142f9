"""Sources that could give a wrong model: the command refuses them by name and writes nothing, or reads them rightly."""

import json
import pickle
import zipfile

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
    """Return the command's message for a source that it refuses; check that nothing was written."""
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


def pickled_folder(path, shards=1):
    """Write a folder of transformers whose tensors torch.save wrote, whole or in shards with an index."""
    vit_folder(path, id2label={0: "cat", 1: "dog", 2: "eel"}, label2id={"cat": 0, "dog": 1, "eel": 2})
    state = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    if shards == 1:
        torch.save(state, path / "pytorch_model.bin")
        return path
    places = {name: f"pytorch_model-{1 + i % shards:05}-of-{shards:05}.bin" for i, name in enumerate(sorted(state))}
    for file in set(places.values()):
        torch.save({name: state[name] for name, place in places.items() if place == file}, path / file)
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return path


@pytest.mark.parametrize("source", ["one", "two", "one/pytorch_model.bin"])
def test_pytorch_model_bin_is_read_with_its_config(tmp_path, source):
    shards = 2 if source == "two" else 1
    pickled_folder(tmp_path / source.partition("/")[0], shards)
    expected = vit_folder(tmp_path / "safe", id2label={0: "cat", 1: "dog", 2: "eel"})
    assert main([str(tmp_path / source), str(tmp_path / "out"), "--check"]) == 0
    assert main([str(expected), str(tmp_path / "same")]) == 0
    made, same = (ViTCustomForImageClassification.from_pretrained(tmp_path / name) for name in ("out", "same"))
    assert made.config.num_attention_heads == 4 and made.config.id2label == {0: "cat", 1: "dog", 2: "eel"}
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in made.state_dict().items())


def repacked(path):
    """Write the same archive with its members compressed."""
    with zipfile.ZipFile(path) as archive:
        members = {one: archive.read(one) for one in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        [archive.writestr(name, data) for name, data in members.items()]


def test_pickles_of_a_folder_run_nothing_and_what_is_wrong_is_said(tmp_path, capsys):
    folder, proof = pickled_folder(tmp_path / "vit"), tmp_path / "proof"
    weights, sound = folder / "pytorch_model.bin", (folder / "pytorch_model.bin").read_bytes()
    for legacy in (False, True):
        torch.save({"x": Harmful(proof)}, weights, _use_new_zipfile_serialization=not legacy)
        assert "nothing in it was executed" in refused(capsys, tmp_path, folder)
    torch.save({"x": torch.zeros(1).expand(10**6, 10**5)}, weights)
    assert "claim 400,000,000,000 bytes" in refused(capsys, tmp_path, folder)
    weights.write_bytes(sound)
    repacked(weights)
    assert "compressed, as torch.save never does" in refused(capsys, tmp_path, folder)
    weights.unlink()
    assert "holds no .safetensors file and no pytorch_model.bin" in refused(capsys, tmp_path, folder)
    assert not proof.exists()


def test_shards_that_an_index_does_not_tell_right(tmp_path, capsys):
    folder = pickled_folder(tmp_path / "vit", shards=2)
    index = folder / "pytorch_model.bin.index.json"
    places = json.loads(index.read_text())["weight_map"]
    for place in ("../pytorch_model-00001-of-00002.bin", "model.bin", 3, None, ["x"]):
        index.write_text(json.dumps({"weight_map": {**places, "x": place}}))
        assert "its weight_map must give each tensor" in refused(capsys, tmp_path, folder)
    index.write_text(json.dumps({"weight_map": {**places, "x": places["vit.embeddings.cls_token"]}}))
    assert "its index names x, which its files do not hold" in refused(capsys, tmp_path, folder)
    index.write_text(json.dumps({"weight_map": places}))
    (folder / places["vit.embeddings.cls_token"]).unlink()
    assert "cannot be read as tensors" in refused(capsys, tmp_path, folder)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers(tmp_path, capsys, bad):
    folder = vit_folder(tmp_path / "vit")
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if name.endswith("layernorm_after.weight"))
    state[name][3] = bad
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert "not finite: vit.layers.0.layernorm_after.weight" in refused(capsys, tmp_path, folder)


def test_a_384_pixel_checkpoint_into_a_224_pixel_configuration(tmp_path, capsys):
    """A smaller size is refused, from flag and configuration; converted at 384, the model is resampled when it is
    loaded."""
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
    """so400m/14 at 384 has 27×27 patches; it ignores the last 6 pixels of each axis."""
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
