"""A run with --max_minutes ends in time and finishes its schedule; a resumed one keeps its plan."""

import json
import time

import pytest
import torch
from real_digits import write_class_folder
from tiny_training import tiny_train, tiny_trainer
from transformers import TrainerCallback

from modeling_vit_custom._startup import BEGAN
from modeling_vit_custom.commands import pretrain as pretrain_command
from modeling_vit_custom.commands import train as train_command
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.common.processes import Processes
from modeling_vit_custom.training.optimization.time_budget import PROBE, TimeBudget

FLAGS = ("--logging_steps", 1, "--eval_strategy", "steps", "--save_strategy", "steps", "--learning_rate", 1e-2)
RATIO = ("--eval_steps", 0.25, "--save_steps", 0.25)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 10, "1": 10})


class Hands(TrainerCallback):
    """A fake clock that advances by so many seconds with each step and each validation."""

    def __init__(self, step=lambda number: 0.1, validation: float = 0.0):
        self.now, self.step, self.validation = 100.0, step, validation

    def on_step_end(self, args, state, control, **kwargs):
        self.now += self.step(state.global_step)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.now += self.validation
        metrics["eval_runtime"] = self.validation


def timed_trainer(output_dir, digits, hands: Hands, seconds: float, *flags):
    trainer, _ = tiny_trainer(output_dir, "--train_dir", digits, *FLAGS, "--max_minutes", seconds / 60, *flags)
    budget = trainer.budget
    budget.clock, budget.began = lambda: hands.now, hands.now
    callbacks = trainer.callback_handler.callbacks
    callbacks.insert(0, hands)  # before the budget reads the clock
    return trainer, budget


@pytest.mark.parametrize("evaluated", [RATIO, ("--eval_steps", 20, "--save_steps", 20)], ids=["ratio", "steps"])
@pytest.mark.parametrize(
    ("step", "validation"),
    [(lambda n: 0.1, 0.0), (lambda n: 0.1, 0.9), (lambda n: 0.1 if n < 60 else 0.25, 0.2), (lambda n: 0.1, 0.02)],
    ids=["steady", "long validations", "slows down", "short validations"],
)
def test_it_ends_within_its_time_and_close_to_it(digits, tmp_path, evaluated, step, validation):
    hands = Hands(step, validation)
    trainer, budget = timed_trainer(tmp_path / "o", digits, hands, 20, *evaluated)
    speed = trainer.train().metrics
    per_step = speed["train_samples_per_second"] / speed["train_steps_per_second"]
    assert per_step == pytest.approx(trainer.args.train_batch_size, rel=0.02)  # both are rounded
    assert 0.7 * 20 < budget.used() <= 20 - 2 * validation * 0.9
    assert budget.planned and trainer.state.global_step == trainer.state.max_steps
    assert budget.progress(trainer.state.global_step) == 1
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert max(rates) == pytest.approx(1e-2, rel=0.05) and rates[-1] < 5e-4
    warm = rates.index(max(rates)) / len(rates)
    assert 0.05 < warm < 0.35


def test_a_hurried_end_is_an_end(digits, tmp_path):
    """If steps suddenly take ten times as long, the run still stops in time, evaluated and saved."""
    hands = Hands(lambda n: 0.1 if n < 80 else 1.0)
    trainer, budget = timed_trainer(tmp_path / "o", digits, hands, 20, "--eval_steps", 50, "--save_steps", 50)
    trainer.train()
    assert budget.used() < 20
    last = trainer.state.global_step
    assert trainer.state.log_history[-2]["step"] == last and "eval_loss" in trainer.state.log_history[-2]
    assert (tmp_path / "o" / f"checkpoint-{last}").is_dir()
    again, budget = timed_trainer(tmp_path / "o", digits, Hands(), 20, "--eval_steps", 50, "--save_steps", 50)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == last, "the run had ended"


def test_a_hurried_end_without_validation(digits, tmp_path):
    """The last fine-tuning of a search runs in this way."""
    flags = ("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false")
    trainer, budget = timed_trainer(tmp_path / "o", digits, Hands(lambda n: 0.1 if n < 80 else 1.0), 20, *flags)
    trainer.eval_dataset = None
    trainer.train()
    assert budget.used() < 20 and 80 < trainer.state.global_step == trainer.state.max_steps


def test_a_resumed_run_keeps_to_the_plan_bit_for_bit(digits, tmp_path):
    whole, _ = timed_trainer(tmp_path / "o", digits, Hands(), 15, *RATIO, "--save_total_limit", 9)
    whole.train()
    checkpoints = sorted(int(path.name.split("-")[1]) for path in (tmp_path / "o").glob("checkpoint-*"))
    (tmp_path / "r").mkdir()
    again, budget = timed_trainer(tmp_path / "r", digits, Hands(), 15, *RATIO)
    again.train(resume_from_checkpoint=str(tmp_path / "o" / f"checkpoint-{checkpoints[1]}"))
    assert again.state.global_step == whole.state.global_step > PROBE
    assert budget.used() == pytest.approx(whole.budget.used(), abs=0.5)
    for (name, one), other in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_the_bar_shows_time_until_the_number_of_steps_is_known(digits, tmp_path, capfd):
    trainer, _ = timed_trainer(tmp_path / "o", digits, Hands(), 15, *RATIO, "--disable_tqdm", "false")
    trainer.train()
    drawn, last = capfd.readouterr().err, trainer.state.global_step
    assert "00:00 of 00:15: 0it" in drawn and f"{last}/{last}" in drawn and "00000" not in drawn


def test_the_clock_of_a_command_counts_from_the_start_of_its_process(monkeypatch):
    assert 0 < time.monotonic() - BEGAN < 3600
    for command in (train_command, pretrain_command):
        given = {}
        name = command.__name__.rpartition(".")[2]
        monkeypatch.setattr(
            command, name, lambda *groups, given=given, **more: given.update(more) or {"validation": {}}
        )
        assert command.main(["--output_dir", "o", "--train_dir", "d", "--variant", "nano/4", "--use_cpu", "true"]) == 0
        assert given == {"began": BEGAN}


def test_progress_is_continuous_where_the_plan_changes():
    budget = TimeBudget(1, Processes())
    budget.plan = [(0, 0.0), (40, 0.01), (100, 0.4), (400, 1.0)]
    steps = torch.linspace(0, 500, 2001)
    progress = torch.tensor([budget.progress(step) for step in steps.tolist()])
    assert (progress.diff() >= 0).all() and progress.diff().max() < 0.01
    assert budget.progress(0) == 0 and budget.progress(100) == pytest.approx(0.4) and budget.progress(400) == 1


def test_the_whole_command_ends_on_time(digits, tmp_path):
    began = time.monotonic()
    flags = ("--max_minutes", 0.2, *FLAGS, *RATIO, "--learning_rate", 1e-3)
    metrics = tiny_train(tmp_path / "o", "--train_dir", digits, *flags)
    assert 6 < time.monotonic() - began < 15  # 12 are allowed; other tests may run at the same time
    assert json.loads((tmp_path / "o" / "training_args.json").read_text())["training"]["max_minutes"] == 0.2
    assert metrics["train"]["train_steps_per_second"] > 1


@pytest.mark.parametrize("flag", [("--max_steps", 10), ("--warmup_steps", 10)])
def test_what_contradicts_it_is_refused(digits, tmp_path, flag):
    with pytest.raises(UsageError, match="--max_minutes finds the number of steps"):
        tiny_train(tmp_path / "o", "--train_dir", digits, "--max_minutes", 1, *flag)


def test_a_schedule_without_an_end_is_refused(digits, tmp_path):
    flags = ("--lr_scheduler_type", "reduce_lr_on_plateau", "--max_minutes", 1)
    with pytest.raises(UsageError, match="reduce_lr_on_plateau"):
        tiny_trainer(tmp_path / "o", "--train_dir", digits, *flags)
