"""The saved weights are the averaged and merged ones; the trained weights resume bit for bit from a checkpoint."""

import json
import shutil

import pytest
import torch
from real_digits import write_class_folder
from safetensors.torch import load_file
from tiny_training import tiny_train, tiny_trainer
from transformers import AutoModelForImageClassification, TrainerCallback

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.common.model_files import WEIGHTS
from modeling_vit_custom.training.checkpointing.checkpoints import checkpoint_defect
from modeling_vit_custom.training.trainer.ema_lora import TRAINED

SHORT = (
    "--max_steps", 6, "--eval_strategy", "steps", "--eval_steps", 2, "--save_strategy", "steps", "--save_steps", 2,
    "--save_total_limit", 5,
    "--logging_steps", 1, "--learning_rate", 1e-2,
)  # fmt: skip
AVERAGED = ("--ema_decay", 0.5)
LORA = ("--method", "lora", "--lora_rank", 2)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Write 24 images, 20 of them for training: three steps an epoch."""
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 12, "1": 12})


@pytest.fixture(scope="module")
def base(digits, tmp_path_factory):
    """Train a checkpoint to fine-tune; return the flags that name it."""
    output_dir = tmp_path_factory.mktemp("base") / "o"
    tiny_train(output_dir, "--train_dir", digits, *SHORT)
    return ["--model_name_or_path", str(output_dir)]


class Weights(TrainerCallback):
    """Keeps a copy of the trained weights after each step."""

    def __init__(self):
        self.after: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args, state, control, model, **kwargs):
        self.after.append({name: p.detach().clone() for name, p in model.named_parameters()})


def trained(output_dir, digits, *flags, model=None, resume=None):
    trainer, _ = tiny_trainer(output_dir, "--train_dir", digits, *SHORT, *flags, model=model)
    trainer.add_callback(weights := Weights())
    trainer.train(resume_from_checkpoint=resume)
    return trainer, weights.after


def test_the_average_is_evaluated_and_saved(digits, tmp_path):
    start, _ = tiny_trainer(tmp_path / "s", "--train_dir", digits, *SHORT)
    expected = {name: p.detach().clone() for name, p in start.model.named_parameters()}
    trainer, after = trained(tmp_path / "o", digits, *AVERAGED)
    plain, plain_after = trained(tmp_path / "p", digits)
    for step, weights in enumerate(after):
        assert all(torch.equal(weights[name], plain_after[step][name]) for name in weights), "training is unchanged"
        decay = min(0.5, (1 + step) / (10 + step))
        expected = {name: decay * expected[name] + (1 - decay) * weight for name, weight in weights.items()}
        if step == 3:
            saved = load_file(tmp_path / "o" / "checkpoint-4" / WEIGHTS)
            torch.testing.assert_close({name: saved[name] for name in expected}, expected, atol=1e-6, rtol=0)
    losses = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    checkpoint = ["--model_name_or_path", str(tmp_path / "o" / "checkpoint-4"), "--method", "full"]
    served, _ = tiny_trainer(tmp_path / "e", "--train_dir", digits, model=checkpoint)
    assert losses[4] == pytest.approx(served.evaluate()["eval_loss"], abs=1e-6)
    assert losses[4] != {e["step"]: e["eval_loss"] for e in plain.state.log_history if "eval_loss" in e}[4]


@pytest.mark.parametrize("best", ["true", "false"])
def test_what_is_left_at_the_end_is_the_average(digits, tmp_path, best):
    trainer, after = trained(tmp_path / "o", digits, *AVERAGED, "--load_best_model_at_end", best)
    trainer.save_model()
    saved = load_file(tmp_path / "o" / WEIGHTS)
    if best == "true":
        checkpoint = load_file(f"{trainer.state.best_model_checkpoint}/{WEIGHTS}")
        assert all(torch.equal(saved[name], checkpoint[name]) for name in checkpoint)
    assert not all(torch.equal(saved[name], weight) for name, weight in after[-1].items())
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, saved[name])


def test_lora_trains_adapters_and_the_head_alone_and_leaves_a_plain_repository(digits, base, tmp_path):
    trainer, after = trained(tmp_path / "o", digits, *LORA, model=base)
    before = load_file(f"{base[1]}/{WEIGHTS}")
    for name, weight in after[-1].items():
        if ".base_layer." in name or ("lora_" not in name and name.startswith("vit.")):
            assert torch.equal(weight, before[name.replace(".base_layer.", ".")]), name
        elif "lora_A" not in name:
            assert not torch.equal(weight, after[0][name]), name
    folder = tmp_path / "o" / "checkpoint-4"
    assert checkpoint_defect(folder) is None
    merged = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
    images = torch.randn(3, 3, 8, 8)
    with_adapters, _ = tiny_trainer(tmp_path / "w", "--train_dir", digits, *SHORT, *LORA, model=base)
    with_adapters.model.load_state_dict(after[3], strict=False)
    torch.testing.assert_close(merged(images).logits, with_adapters.model.eval()(images).logits, atol=1e-5, rtol=1e-4)
    assert load_file(folder / WEIGHTS).keys() == before.keys()
    from peft.tuners.lora import LoraLayer

    for module in list(with_adapters.model.modules()):
        if isinstance(module, LoraLayer):
            module.merge()  # peft's own merging
    torch.testing.assert_close(
        merged.vit.layers[1].mlp.fc1.weight, with_adapters.model.vit.layers[1].mlp.fc1.base_layer.weight
    )
    trainer.save_model()
    best = load_file(f"{trainer.state.best_model_checkpoint}/{WEIGHTS}")
    final = load_file(tmp_path / "o" / WEIGHTS)
    assert all(torch.equal(final[name], best[name]) for name in best)


@pytest.mark.parametrize(
    "flags",
    [AVERAGED, LORA, (*LORA, *AVERAGED, "--lora_dropout", 0.3), (*AVERAGED, "--layer_decay", 0.5)],
    ids=["averaged", "lora", "lora averaged", "averaged by depth"],
)
def test_resumed_equals_uninterrupted_bit_for_bit(digits, base, tmp_path, flags):
    model = base if "lora" in flags else None
    whole, after = trained(tmp_path / "o", digits, *flags, model=model)
    (tmp_path / "r").mkdir()
    again, after_again = trained(
        tmp_path / "r", digits, *flags, model=model, resume=str(tmp_path / "o" / "checkpoint-2")
    )
    assert len(after_again) == 4
    for name, weight in after[-1].items():
        assert torch.equal(weight, after_again[-1][name]), name
    histories = [[e for e in t.state.log_history if "loss" in e or "eval_loss" in e] for t in (whole, again)]
    for one, other in zip(*histories, strict=True):
        assert all(one[key] == other[key] for key in ("loss", "eval_loss", "eval_accuracy") if key in one)
    for trainer, name in ((whole, "o"), (again, "r")):
        trainer.save_model(str(tmp_path / name / "final"))
    saved = [load_file(tmp_path / name / "final" / WEIGHTS) for name in "or"]
    assert all(torch.equal(saved[0][key], saved[1][key]) for key in saved[0])


def test_adapters_do_not_resume_on_other_weights(digits, base, tmp_path):
    trained(tmp_path / "o", digits, *LORA, model=base)
    other = ViTCustomForImageClassification.from_pretrained(base[1])
    with torch.no_grad():
        other.vit.layers[0].attention.q_proj.weight[0, 0] += 1e-3
    other.save_pretrained(tmp_path / "other")
    shutil.copy(f"{base[1]}/preprocessor_config.json", tmp_path / "other")
    model = ["--model_name_or_path", str(tmp_path / "other")]
    with pytest.raises(UsageError, match=r"checkpoint-2 has adapters for other weights"):
        trained(tmp_path / "r", digits, *LORA, model=model, resume=str(tmp_path / "o" / "checkpoint-2"))


def test_an_unknown_target_is_refused(digits, base, tmp_path):
    with pytest.raises(UsageError, match=r"--lora_targets query is no layer of a block: fc1, fc2, k_proj, "):
        tiny_trainer(tmp_path / "o", "--train_dir", digits, *LORA, "--lora_targets", "query", model=base)


def test_the_whole_command_with_lora_and_an_average(digits, base, tmp_path):
    metrics = tiny_train(tmp_path / "o", "--train_dir", digits, *SHORT, *LORA, *AVERAGED, model=base)
    saved = load_file(tmp_path / "o" / WEIGHTS)
    assert metrics["parameters"] == sum(
        tensor.numel() for name, tensor in saved.items() if "position_embeddings" not in name
    )
    assert not (tmp_path / "o" / TRAINED).exists()
    assert json.loads((tmp_path / "o" / "training_args.json").read_text())["model"]["lora_rank"] == 2
    again = tiny_train(
        tmp_path / "e", "--train_dir", digits, "--max_steps", 1, model=["--model_name_or_path", str(tmp_path / "o")]
    )
    assert again["validation"]["n"] == metrics["validation"]["n"]


def test_training_stops_when_validation_gets_no_better(digits, tmp_path):
    flags = ("--early_stopping_patience", 2, "--early_stopping_threshold", 10, "--max_steps", 20)
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *SHORT, *flags)
    trainer.train()
    assert trainer.state.global_step == 6
