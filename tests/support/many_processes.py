"""Trainings in several processes, compared with one process; `python tests/support/many_processes.py` prints the table.

Rows say what is trained and how. Columns say where: two processes (DDP), two nodes with one process each, two processes
that shard the weights (FSDP2), all over gloo on this machine. Each is compared with one process of the same global
batch: every loss, every validation, the final weights. Then each is resumed from its middle and must end equal, bit for
bit.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from ranks import allow_fsdp_on_cpu, fork, fsdp_environment, log_to, places
from real_digits import write_class_folder
from safetensors.torch import load_file
from tiny_training import command

from modeling_vit_custom.commands.train import main as train_command
from modeling_vit_custom.training.checkpointing.checkpoints import numbered

CLEAN = "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=24,initializer_range=0.2"
SCRATCH = ["--variant", "nano/4", "--image_size", "8", "--config_overrides", CLEAN]
# 24 training images, 3 steps an epoch. The gradient of a key's bias is only rounding, which Adam would scale up.
FLAGS = (
    "--train_val_split", 0.25, "--max_steps", 6, "--learning_rate", 1e-2, "--adam_epsilon", 1e-4, "--logging_steps", 1,
    "--eval_strategy", "steps", "--eval_steps", 2, "--save_strategy", "steps", "--save_steps", 2,
    "--save_total_limit", 9, "--image_cache", "off",
)  # fmt: skip
MIXED = (
    "--augmentation", "standard", "--mixup", 0.5, "--cutmix", 1, "--random_erasing", 0.5, "--label_smoothing_factor",
    0.1, "--balanced_sampling", "true",
)  # fmt: skip
ROWS = {
    "plain": (),
    "mixup, CutMix, erasing, balanced": MIXED,
    "averaged weights": ("--ema_decay", 0.9),
    "rates by depth": ("--layer_decay", 0.5),
    "Muon, rates by depth": ("--muon", "true", "--layer_decay", 0.5),
    "all of these": (*MIXED, "--ema_decay", 0.9, "--layer_decay", 0.5),
    "LoRA": ("--method", "lora", "--lora_rank", 2),
    "LoRA, averaged": ("--method", "lora", "--lora_rank", 2, "--ema_decay", 0.9),
    "head, then all": ("--method", "head_then_full"),
    "accumulated": ("--gradient_accumulation_steps", 2),
}
# Rows that CI leaves out: other rows contain them.
PARTS_OF_OTHERS = {"plain", "mixup, CutMix, erasing, balanced", "averaged weights", "rates by depth", "LoRA"}
COLUMNS = ("2 processes", "2 nodes", "FSDP2")


def _train(environment: dict[str, str], run: str, flags: Sequence, model: list[str]) -> None:
    log_to(f"{run}.log{environment.get('RANK', '')}")
    if "ACCELERATE_USE_FSDP" in environment:
        allow_fsdp_on_cpu()
    sys.exit(train_command(command(Path(run), *flags, model=model)))


@dataclass
class Lab:
    root: Path
    alone: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self):
        self.images = write_class_folder(self.root / "digits", {"0": 16, "1": 16})
        self.base = self.train(self.root / "base", "2 processes", (), SCRATCH)

    def train(self, run: Path, column: str, flags: Sequence, model: list[str]) -> Path:
        """Train with eight images a step, divided among the processes."""
        count = 1 if column == "1 process" else 2
        parts = count * (2 if "--gradient_accumulation_steps" in flags else 1)
        environments = places(count, nodes=2 if column == "2 nodes" else 1)
        if column == "FSDP2":
            environments = [place | fsdp_environment() for place in environments]
        more = ["--ddp_backend", "gloo"] if count > 1 else []
        flags = ["--train_dir", self.images, *FLAGS, *flags, "--per_device_train_batch_size", 8 // parts, *more]
        codes = fork(_train, environments, str(run), flags, model)
        assert codes == [0] * count, "".join(path.read_text()[-3000:] for path in run.parent.glob(f"{run.name}.log*"))
        return run

    def compare(self, row: str, column: str) -> tuple[float, bool]:
        """Return (largest difference to one process, whether the resumed second half ended with the same weights and
        figures)."""
        flags = ROWS[row]
        model = ["--model_name_or_path", str(self.base)] if "--method" in flags else SCRATCH
        if row not in self.alone:
            self.alone[row] = self.train(self.root / f"one {row}", "1 process", flags, model)
        run = self.train(Path(tempfile.mkdtemp(dir=self.root)) / "run", column, flags, model)
        difference = distance(run, self.alone[row])
        again = run.parent / "again"
        shutil.copytree(run, again)
        for step, folder in numbered(again).items():
            if step > 2:
                shutil.rmtree(folder)
        (again / "model.safetensors").unlink()
        self.train(again, column, flags, model)
        assert json.loads((again / "metrics.json").read_text())["train"]["resumed"]
        return difference, distance(run, again) == 0


def distance(one: Path, other: Path) -> float:
    """Return the largest difference of two runs in their logs, measures and final weights."""
    measured = []
    for run in (one, other):
        log = json.loads((numbered(run)[6] / "trainer_state.json").read_text())["log_history"]
        values = [entry[key] for entry in log for key in ("loss", "eval_loss", "eval_accuracy") if key in entry]
        weights = load_file(run / "model.safetensors")
        biases = [name for name in weights if name.endswith("k_proj.bias")]
        tensors = [weights[name].flatten() for name in sorted(weights) if name not in biases]
        final = json.loads((run / "metrics.json").read_text())["validation"]
        measured.append(torch.cat([torch.tensor([*values, final["accuracy"], final["n"]]), *tensors]).double())
    assert len(measured[0]) == len(measured[1]) > 700
    return float((measured[0] - measured[1]).abs().max())


def main(*rows: str) -> int:
    print("| | " + " | ".join(COLUMNS) + " |\n|" + " - |" * (len(COLUMNS) + 1))
    wrong = 0
    with tempfile.TemporaryDirectory() as root:
        lab = Lab(Path(root))
        for row in rows or ROWS:
            cells = []
            for column in COLUMNS:
                difference, same = lab.compare(row, column)
                wrong += difference > TOLERATED or not same
                cells.append(f"{difference:.0e}, resumed {'equal' if same else 'NOT EQUAL'}")
            print(f"| {row} | {' | '.join(cells)} |", flush=True)
    return wrong


TOLERATED = 1e-4

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
