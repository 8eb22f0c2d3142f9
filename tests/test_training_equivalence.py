"""The same global batch gives the same training: accumulated, or spread over processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from real_digits import write_class_folder
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


def soft_collate(batch):
    """Labels as distributions, as mixup makes them: one part in four goes to the neighbour's class."""
    items = collate(batch)
    one_hot = torch.nn.functional.one_hot(items["labels"], 2).float()
    return {**items, "labels": 0.75 * one_hot + 0.25 * one_hot.roll(1, dims=0)}


def multi_hot_collate(batch):
    items = collate(batch)
    return {**items, "labels": torch.nn.functional.one_hot(items["labels"], 2).float()}


@pytest.mark.parametrize(
    ("collator", "problem_type"),
    [
        (collate, None),
        (soft_collate, None),
        (multi_hot_collate, "multi_label_classification"),
    ],
)
def test_accumulation_equals_one_large_batch(folder, tmp_path, collator, problem_type):
    logs, weights = [], []
    for size, steps in ((8, 1), (4, 2)):
        flags = [
            *PLAIN,
            "--train_dir",
            folder,
            "--gradient_accumulation_steps",
            steps,
            "--eval_strategy",
            "no",
            "--load_best_model_at_end",
            "false",
            "--save_strategy",
            "no",
        ]
        trainer, _ = tiny_trainer(tmp_path / str(size), *flags, "--per_device_train_batch_size", size)
        if problem_type:
            trainer.model.config.problem_type = problem_type
        # A soft batch of 8 and two of 4 mix other neighbours: build both from the same pairs.
        trainer.data_collator = lambda batch: join([collator(batch[i : i + 4]) for i in range(0, len(batch), 4)])
        trainer.train()
        assert trainer.model.config.problem_type == (problem_type or "single_label_classification")
        logs.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        # A key's bias shifts a whole row of attention logits: its gradient is zero, and Adam scales up its noise.
        named = trainer.model.named_parameters()
        weights.append(torch.cat([p.detach().flatten() for n, p in named if not n.endswith("k_proj.bias")]))
    assert len(logs[0]) == 2 * 4 and logs[0] != logs[0][:1] * 8
    torch.testing.assert_close(torch.tensor(logs[1]), torch.tensor(logs[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(weights[1], weights[0], atol=1e-4, rtol=0)


def join(batches):
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(output_dir: Path, processes: int, *flags, model: list[str] | None = None) -> list[dict]:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
    launcher += ["--dynamo_backend", "no", "--num_processes", str(processes)]
    launcher += ["--multi_gpu", "--main_process_port", str(free_port())] if processes > 1 else ["--cpu"]
    flags = (*flags, "--ddp_backend", "gloo") if processes > 1 else flags
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(ROOT / "scripts" / "train.py"), *command(output_dir, *flags, model=model)],
        env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    state = max(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])) / "trainer_state.json"
    return json.loads(state.read_text())["log_history"]


@pytest.mark.slow
def test_two_processes_equal_one(folder, tmp_path):
    """24 images: whole batches. (Of a last half batch accelerate makes a whole one, with images of the first.)"""
    flags = [*PLAIN, "--train_dir", folder, "--train_val_split", 0.25]
    one = launch(tmp_path / "one", 1, *flags, "--per_device_train_batch_size", 8)
    two = launch(tmp_path / "two", 2, *flags, "--per_device_train_batch_size", 4)
    losses = [torch.tensor([entry["loss"] for entry in log if "loss" in entry]) for log in (one, two)]
    assert len(losses[0]) == 6
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=0)
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert metrics[0]["validation"]["n"] == metrics[1]["validation"]["n"] == 8
    assert metrics[0]["validation"]["accuracy"] == metrics[1]["validation"]["accuracy"]
