"""The trial before the first step: it says what a step costs, and changes nothing of the training."""

from types import SimpleNamespace

import pytest
import torch
from real_digits import write_class_folder
from safetensors.torch import load_file
from tiny import TINY
from tiny_training import tiny_train

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification, ViTCustomForMaskedImageModeling
from modeling_vit_custom.training.trainer import trainer as trainer_module
from modeling_vit_custom.training.trainer.trial import try_step


def arguments(**changes):
    given = {"world_size": 1, "torch_compile": False, "deepspeed": None, "fsdp": [], "bf16": False, "fp16": False}
    return SimpleNamespace(**given | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3} | changes)


@pytest.mark.parametrize("cls", [ViTCustomForImageClassification, ViTCustomForMaskedImageModeling])
def test_a_trial_runs_a_whole_batch_and_leaves_no_trace(cls):
    model = cls(ViTCustomConfig(**TINY, drop_path_rate=0.3, hidden_dropout_prob=0.2)).eval()
    model.vit.layers[0].train()
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    flags, random, seen = [module.training for module in model.modules()], torch.get_rng_state(), []
    handle = model.vit.layers[-1].register_forward_hook(lambda module, _, out: seen.append((len(out), module.training)))
    seconds, peak = try_step(model, arguments())
    handle.remove()
    assert set(seen) == {(4, True)} and seconds > 0 and peak > 1e8
    assert [module.training for module in model.modules()] == flags and torch.equal(torch.get_rng_state(), random)
    for name, weight in model.named_parameters():
        assert weight.grad is None and torch.equal(weight, weights[name])


@pytest.mark.parametrize("changes", [{"world_size": 2}, {"torch_compile": True}, {"fsdp": ["full_shard"]}], ids=str)
def test_what_cannot_be_tried_is_not(changes):
    assert try_step(None, arguments(**changes)) is None


def test_a_training_with_a_trial_is_that_without_bit_for_bit(tmp_path, monkeypatch):
    digits = write_class_folder(tmp_path / "digits", {"0": 12, "1": 12})
    flags = ("--train_dir", digits, "--num_train_epochs", 2, "--drop_path_rate", 0.3)
    tiny_train(tmp_path / "tried", *flags)
    monkeypatch.setattr(trainer_module, "try_step", lambda *_: None)
    tiny_train(tmp_path / "not", *flags)
    tried, other = (load_file(tmp_path / name / "model.safetensors") for name in ("tried", "not"))
    assert all(torch.equal(tensor, tried[name]) for name, tensor in other.items())
