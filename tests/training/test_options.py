"""Options that the model or torch carries out: each flag reaches its option and has its effect."""

import pytest
import torch
from real_digits import write_class_folder
from tiny_training import TINY, tiny_trainer
from transformers import TrainerCallback

FLAGS = ("--max_steps", 4, "--logging_steps", 1, "--eval_strategy", "no", "--save_strategy", "no",
         "--load_best_model_at_end", "false", "--learning_rate", 1e-2)  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 20, "1": 20})


class Tokens(TrainerCallback):
    """Records how many tokens the first linear layer of an MLP gets in each call from the first step on."""

    def __init__(self, trainer):
        self.counts: list[int] = []
        self.linear = trainer.model.vit.layers[0].mlp.fc1
        trainer.add_callback(self)

    def on_step_begin(self, args, state, control, **kwargs):
        if not state.global_step:
            self.linear.register_forward_hook(lambda module, args, output: self.counts.append(output.shape[1]))


def trained(output_dir, digits, *flags):
    trainer, _ = tiny_trainer(output_dir, "--train_dir", digits, *FLAGS, *flags)
    tokens = Tokens(trainer)
    trainer.train()
    losses = torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    return trainer, losses, weights, tokens.counts


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")  # 5.24's new name
def test_gradient_checkpointing_changes_nothing_but_memory(digits, tmp_path):
    _, losses, weights, counts = trained(tmp_path / "1", digits)
    _, again, weights_again, recomputed = trained(tmp_path / "2", digits, "--gradient_checkpointing", "true")
    assert torch.equal(losses, again) and torch.equal(weights, weights_again)
    assert len(recomputed) == 2 * len(counts), "each block must be computed once more"


def test_bf16_computes_in_half_and_keeps_weights_whole(digits, tmp_path):
    seen = []
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *FLAGS, "--bf16", "true")
    linear = trainer.model.vit.layers[0].mlp.fc1
    linear.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    trainer.train()
    assert set(seen) == {torch.bfloat16} and linear.weight.dtype == torch.float32
    plain = torch.tensor([e["loss"] for e in trained(tmp_path / "p", digits)[0].state.log_history if "loss" in e])
    half = torch.tensor([e["loss"] for e in trainer.state.log_history if "loss" in e])
    torch.testing.assert_close(half, plain, atol=0.05, rtol=0.05)
    assert not torch.equal(half, plain)


@pytest.mark.parametrize("flags", [(), ("--ema_decay", 0.9, "--mixup", 0.5, "--drop_path_rate", 0.2)])
def test_compiled_training_is_the_same_training(digits, tmp_path, flags):
    """The backend needs no C++ compiler; inductor is tested in a slow test."""
    compiled = ("--torch_compile", "true", "--torch_compile_backend", "aot_eager")
    plain, compiled = (trained(tmp_path / str(i), digits, *flags, *more) for i, more in enumerate(((), compiled)))
    torch.testing.assert_close(compiled[1], plain[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(compiled[2], plain[2], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_inductor_compiles_the_training(digits, tmp_path):
    still = (
        "--config_overrides",
        TINY.replace("hidden_dropout_prob=0.1", "hidden_dropout_prob=0"),
    )  # it draws other numbers
    flags = (still, (*still, "--torch_compile", "true"))
    plain, compiled = (trained(tmp_path / str(i), digits, *more) for i, more in enumerate(flags))
    torch.testing.assert_close(compiled[1], plain[1], atol=1e-4, rtol=1e-4)


def test_early_images_are_smaller_and_positions_follow(digits, tmp_path):
    size = ("--image_size", 32, "--max_steps", 8)
    *_, counts = trained(tmp_path / "o", digits, *size, "--progressive_resizing", 0.5)
    assert counts[0] == 4 * 4 and counts[-1] == 8 * 8 and counts == sorted(counts)


def test_dropped_patches_cost_nothing_and_come_back_for_evaluation(digits, tmp_path):
    trainer, losses, _, counts = trained(tmp_path / "o", digits, "--patch_drop_rate", 0.5)
    assert set(counts) == {2} and losses.isfinite().all()
    trainer.evaluate()
    assert trainer.model.config.patch_drop_rate == 0.5
