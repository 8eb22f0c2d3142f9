"""Trainings in one or several processes, whose results are compared bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from ranks import free_port
from tiny_training import command, tiny_trainer

from modeling_vit_custom.data.dataset import collate

ROOT = Path(__file__).parents[2]
PLAIN = [
    "--augmentation", "none", "--config_overrides",
    "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=24,initializer_range=0.2",
    "--num_train_epochs", "2", "--logging_steps", "1", "--learning_rate", "1e-2",
]  # fmt: skip


EVERYTHING = [
    "--augmentation", "standard", "--auto_augment", "trivialaugment", "--random_erasing", "0.5", "--mixup", "0.5",
    "--cutmix", "1", "--label_smoothing_factor", "0.1", "--class_weights", "balanced",
]  # fmt: skip
QUIET = ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--save_strategy", "no"]


def run(output_dir: Path, *flags, multi_hot: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Train; return the loss of each step and the parameters at the end."""
    trainer, _ = tiny_trainer(output_dir, *PLAIN, *QUIET, *flags)
    if multi_hot:
        trainer.model.config.problem_type = "multi_label_classification"
        trainer.compute_loss_func = None
        trainer.data_collator = multi_hot_collate
    trainer.train()
    # A key's bias shifts a whole row of attention logits, so its gradient is zero but for noise, which Adam scales up.
    named = trainer.model.named_parameters()
    weights = torch.cat([p.detach().flatten() for n, p in named if not n.endswith("k_proj.bias")])
    return torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]), weights


def multi_hot_collate(batch):
    items = collate(batch)
    return {**items, "labels": torch.nn.functional.one_hot(items["labels"], 2).float()}


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
