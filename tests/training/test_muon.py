"""Muon's updates are orthogonal and equal those of torch's Muon; AdamW trains the other parameters."""

import copy

import pytest
import torch
from real_digits import write_class_folder
from tiny_training import command, tiny_trainer

from modeling_vit_custom.commands.training_flags import parse_args
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.training.arguments.completion import complete_arguments
from modeling_vit_custom.training.optimization.muon import orthogonal, with_muon
from modeling_vit_custom.training.optimization.parameter_groups import block_matrices


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_what_is_orthogonal(shape):
    matrices = torch.randn(3, *shape)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ orthogonal(matrices) @ right.mT  # diagonal if the singular vectors stay
    singular = inside.diagonal(dim1=1, dim2=2)
    assert (inside - torch.diag_embed(singular)).abs().max() < 1e-3
    assert singular.max() < 1.25 and (singular > 0.6).float().mean() > 0.9  # the smallest need more than five steps
    assert torch.equal(orthogonal(torch.zeros(1, *shape)), torch.zeros(1, *shape))


def test_it_is_torchs_muon_and_adamw(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)  # torch's Muon iterates in bfloat16
    ours = torch.nn.Sequential(
        torch.nn.Linear(12, 20), torch.nn.Tanh(), torch.nn.Linear(20, 20), torch.nn.Linear(20, 3)
    )
    theirs = copy.deepcopy(ours)
    settings = {"lr": 0.02, "weight_decay": 0.1}
    optimizer = with_muon(torch.optim.AdamW(ours.parameters(), **settings), {ours[0].weight, ours[2].weight})
    peers = [
        torch.optim.Muon([theirs[0].weight, theirs[2].weight], **settings, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([theirs[0].bias, theirs[2].bias, *theirs[3].parameters()], **settings),
    ]
    inputs, start = torch.randn(50, 12), ours[2].weight.detach().clone()
    for _ in range(5):
        for model, steppers in ((ours, [optimizer]), (theirs, peers)):
            model.zero_grad()
            model(inputs).square().mean().backward()
            for stepper in steppers:
                stepper.step()
    for mine, peer in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, peer, rtol=1e-4, atol=1e-5)
    assert (ours[2].weight - start).abs().mean() > 0.005


def test_the_trainer_gives_it_the_matrices_of_blocks(tmp_path):
    data = write_class_folder(tmp_path / "d", {"0": 4, "1": 4})
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", data, "--muon", "true", "--layer_decay", 0.5)
    groups = trainer.create_optimizer().param_groups
    orthogonal_ones = {parameter for group in groups if group["orthogonal"] for parameter in group["params"]}
    names = {name for name, parameter in trainer.model.named_parameters() if parameter in orthogonal_ones}
    blocks = trainer.model.config.num_hidden_layers
    assert len(names) == 6 * blocks and orthogonal_ones == block_matrices(trainer.model)
    assert all(name.startswith("vit.layers.") for name in names)
    assert len({group["lr"] for group in groups if group["orthogonal"]}) == blocks
    assert sum(len(group["params"]) for group in groups) == len(list(trainer.model.parameters()))


@pytest.mark.parametrize("flags", [("--method", "lora"), ("--method", "linear_probe"), ("--optim", "sgd")])
def test_what_it_does_not_go_with(tmp_path, flags):
    model = ["--model_name_or_path", "some/checkpoint"] if flags[0] == "--method" else None
    line = command(tmp_path / "o", "--train_dir", tmp_path, "--muon", "true", *flags, model=model)
    with pytest.raises(UsageError, match="--muon"):
        complete_arguments(*parse_args(line))
