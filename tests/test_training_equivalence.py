"""The same global batch gives the same training: accumulated, or spread over processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks import free_port
from real_digits import write_class_folder, write_shards
from tiny_training import command, tiny_trainer

from modeling_vit_custom.data.dataset import collate

ROOT = Path(__file__).parents[1]
PLAIN = [
    "--augmentation", "none", "--config_overrides",
    "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=24,initializer_range=0.2",
    "--num_train_epochs", "2", "--logging_steps", "1", "--learning_rate", "1e-2",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """28 training images: the last batch of an epoch, of 8 or of 2 x 4, is half full."""
    return write_class_folder(tmp_path_factory.mktemp("d"), {"0": 16, "1": 16})


EVERYTHING = [
    "--augmentation", "standard", "--auto_augment", "trivialaugment", "--random_erasing", "0.5", "--mixup", "0.5",
    "--cutmix", "1", "--label_smoothing_factor", "0.1", "--class_weights", "balanced",
]  # fmt: skip
QUIET = ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--save_strategy", "no"]


def run(output_dir: Path, *flags, multi_hot: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """(the loss of each step, the parameters at the end)"""
    trainer, _ = tiny_trainer(output_dir, *PLAIN, *QUIET, *flags)
    if multi_hot:
        trainer.model.config.problem_type = "multi_label_classification"
        trainer.compute_loss_func = None
        trainer.data_collator = multi_hot_collate
    trainer.train()
    # A key's bias shifts a whole row of attention logits: its gradient is zero, and Adam scales up its noise.
    named = trainer.model.named_parameters()
    weights = torch.cat([p.detach().flatten() for n, p in named if not n.endswith("k_proj.bias")])
    return torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]), weights


def multi_hot_collate(batch):
    items = collate(batch)
    return {**items, "labels": torch.nn.functional.one_hot(items["labels"], 2).float()}


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ([], {}),
        (EVERYTHING, {}),
        ([*EVERYTHING, "--loss", "bce"], {}),
        ([], {"multi_hot": True}),
    ],
    ids=["plain", "everything", "bce", "multi-hot"],
)
def test_accumulation_equals_one_large_batch(folder, tmp_path, flags, options):
    flags = ["--train_dir", folder, *flags]
    whole = run(tmp_path / "1", *flags, "--per_device_train_batch_size", 8, **options)
    parts = run(
        tmp_path / "2", *flags, "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2, **options
    )
    assert len(whole[0]) == 2 * 4 and len(set(whole[0].tolist())) > 1
    torch.testing.assert_close(parts[0], whole[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(parts[1], whole[1], atol=1e-4, rtol=0)


def test_cache_and_workers_change_nothing(folder, tmp_path):
    flags = ["--train_dir", folder, *EVERYTHING]
    losses, weights = run(tmp_path / "1", *flags)
    for number, others in enumerate((["--image_cache", "off"], ["--dataloader_num_workers", 2]), start=2):
        same = run(tmp_path / str(number), *flags, *others)
        assert torch.equal(same[0], losses) and torch.equal(same[1], weights), others
    other = run(tmp_path / "4", *flags, "--seed", 1)
    assert not torch.equal(other[0], losses)


def test_a_run_cut_off_within_an_epoch_goes_on_bit_for_bit(folder, tmp_path):
    """With dropout too, whose random numbers augmentation leaves alone."""
    flags = ["--train_dir", folder, *EVERYTHING, *QUIET[:-1], "steps", "--save_steps", 3, "--logging_steps", 1]
    flags += ["--num_train_epochs", 2, "--learning_rate", "1e-2"]
    trainer, _ = tiny_trainer(tmp_path / "o", *flags)
    trainer.train()
    resumed, _ = tiny_trainer(tmp_path / "p", *flags)
    resumed.train(resume_from_checkpoint=str(tmp_path / "o" / "checkpoint-6"))
    histories = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (trainer, resumed)]
    assert len(histories[0]) == 8 and histories[0] == histories[1]
    for (name, value), other in zip(trainer.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(value, other), name


def launch(
    output_dir: Path, processes: int, *flags, model: list[str] | None = None, script: str = "train.py"
) -> list[dict]:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
    launcher += ["--dynamo_backend", "no", "--num_processes", str(processes)]
    launcher += ["--multi_gpu", "--main_process_port", str(free_port())] if processes > 1 else ["--cpu"]
    flags = (*flags, "--ddp_backend", "gloo") if processes > 1 else flags
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(ROOT / "scripts" / script), *command(output_dir, *flags, model=model)],
        env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    state = max(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])) / "trainer_state.json"
    return json.loads(state.read_text())["log_history"]


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True], ids=["files", "shards"])
@pytest.mark.parametrize("options", [[], EVERYTHING], ids=["plain", "everything"])
def test_two_processes_equal_one(folder, tmp_path, options, streamed):
    """24 images: whole batches. (Of a last half batch accelerate makes a whole one, with images of the first.)"""
    data = ["--train_dir", folder]
    if streamed:
        data = ["--streaming", "true", "--train_dir", write_shards(tmp_path / "shards", (8, 8, 8, 8))]
    flags = [*PLAIN, *data, "--train_val_split", 0.25, *options]
    one = launch(tmp_path / "one", 1, *flags, "--per_device_train_batch_size", 8)
    two = launch(tmp_path / "two", 2, *flags, "--per_device_train_batch_size", 4)
    losses = [torch.tensor([entry["loss"] for entry in log if "loss" in entry]) for log in (one, two)]
    assert len(losses[0]) == 6
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=0)
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert metrics[0]["validation"]["n"] == metrics[1]["validation"]["n"] == 8
    assert metrics[0]["validation"]["accuracy"] == metrics[1]["validation"]["accuracy"]
