"""What a training prints of its course: lines, and what is left of it. (`test_run_log` reads those of real runs.)"""

import re
from types import SimpleNamespace

import pytest
import torch

from modeling_vit_custom.training.optimization.time_budget import UNKNOWN_STEPS
from modeling_vit_custom.training.trainer.progress import Left, Lines, best_of, log_line

ARGS = SimpleNamespace(
    metric_for_best_model="accuracy", greater_is_better=True, device=torch.device("cpu"), world_size=1
)


def state(step=40, steps=350, best=None, first=True):
    return SimpleNamespace(global_step=step, max_steps=steps, best_metric=best, is_world_process_zero=first)


def test_a_logged_step_is_one_short_line():
    logs = {"loss": 0.52, "learning_rate": 1e-3, "images_per_second": 1230.4, "grad_norm": 2.0, "data_wait": 0.01}
    assert log_line(logs, ARGS, state()) == "step 40/350  loss 0.52  lr 1.0e-3  1,230 images/s"
    assert log_line({**logs, "data_wait": 0.35}, ARGS, state()).endswith("35% waiting for data")
    assert log_line({"loss": 2.0, "learning_rate": 0.0}, ARGS, state(7, UNKNOWN_STEPS)) == "step 7  loss 2  lr 0"
    assert log_line({"train_runtime": 3.0, "train_loss": 1.0}, ARGS, state()) is None


def test_a_validation_says_the_best_so_far_its_own_included():
    logs = {"eval_accuracy": 0.912, "eval_loss": 0.31, "eval_runtime": 9.0, "eval_samples_per_second": 3.0}
    said = "validation at step 40/350  accuracy 0.912  loss 0.31  best accuracy"
    assert log_line(logs, ARGS, state()) == f"{said} 0.912" == log_line(logs, ARGS, state(best=0.9))
    assert log_line(logs, ARGS, state(best=0.95)) == f"{said} 0.95"
    lower = SimpleNamespace(metric_for_best_model="eval_loss", greater_is_better=False)
    assert best_of(logs, lower, state(best=0.4)) == ("loss", 0.31)
    assert log_line({"eval_loss": 0.5}, SimpleNamespace(metric_for_best_model=None), state()).endswith("  loss 0.5")


def test_a_long_training_prints_no_thousands_of_lines_and_other_processes_none():
    said = []
    lines = Lines(said.append)
    for step in range(1, 20_001):
        lines.on_log(ARGS, state(step, 20_000), None, logs={"loss": 1.0})
    assert 195 <= len(said) <= 201 and said[-1] == "step 20,000/20,000  loss 1"
    said.clear()
    lines.on_train_begin(ARGS, state(), None)
    for step in range(1, 151):
        lines.on_log(ARGS, state(step, 150), None, logs={"loss": 1.0})
    assert len(said) == 150
    lines.on_log(ARGS, state(first=False), None, logs={"loss": 1.0})
    assert len(said) == 150


def steps(left, throughput, first, last, total, seconds, first_process=True):
    left.on_train_begin(ARGS, state(first, total, first=first_process), None)
    for step in range(first + 1, last + 1):
        throughput.seconds += 100.0 if step <= first + 3 else seconds  # the first ones are slow
        left.on_step_end(ARGS, state(step, total), None)


@pytest.mark.parametrize(
    ("first", "last", "total", "seconds", "expected"),
    [
        (0, 350, 350, 0.1, "337 steps to go: about 34 s "),  # ten steps are measured
        (0, 35, 35, 6.0, "31 steps to go: about 3 min 6 s "),  # one that takes long is enough
        (300, 350, 350, 1.0, "42 steps to go: about 42 s "),  # a resumed run counts from where it began
        (0, 12, 12, 0.1, None),  # nothing is left to tell
    ],
)
def test_what_is_left_is_measured_in_steps_and_said_once(first, last, total, seconds, expected):
    said, throughput = [], SimpleNamespace(seconds=0.0)
    steps(Left(throughput, said.append), throughput, first, last, total, seconds)
    assert [line[: len(expected)] for line in said] == [expected] if expected else not said
    assert all(re.search(r"of steps, validation not counted; peak memory [\d.]+ GB$", line) for line in said)
    quiet = []
    steps(Left(throughput, quiet.append), throughput, first, last, total, seconds, first_process=False)
    assert not quiet
