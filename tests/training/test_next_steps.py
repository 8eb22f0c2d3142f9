"""What a report recommends: only what the figures support, and commands that exist."""

import shlex
from pathlib import Path

import pytest

from modeling_vit_custom.audit.findings import Finding
from modeling_vit_custom.commands.evaluate import build_parser as evaluate_parser
from modeling_vit_custom.commands.predict import build_parser as predict_parser
from modeling_vit_custom.commands.publish import build_parser as publish_parser
from modeling_vit_custom.commands.training_flags import parse_args
from modeling_vit_custom.training.runs.next_steps import next_steps

SCRATCH = {"model": {"variant": "nano/8"}, "training": {"class_weights": "none"}, "data": {}}
TUNED = {**SCRATCH, "model": {"model_name_or_path": "vit"}}
UNEVEN = [Finding("warning", "imbalance", "", "", 1)]


def metrics(n=5_000, accuracy=0.9, macro_f1=0.88, measured=1_000, best=60, **train):
    train = {"n": n, "epochs": 20.0, "steps": 100, "stopped_by": None, **train}
    return {
        "train": train, "best": {"step": best}, "test": {"n": measured, "accuracy": accuracy, "macro_f1": macro_f1},
    }  # fmt: skip


def advised(run, figures, findings=()) -> list[str]:
    return [" ".join(step) for step in next_steps(Path("out"), run, figures, findings)[:-3]]


def test_a_finished_good_run_needs_nothing_more():
    assert advised(SCRATCH, metrics()) == advised(TUNED, metrics(n=100)) == []


@pytest.mark.parametrize(
    ("run", "figures", "findings", "expected"),
    [
        (SCRATCH, metrics(epochs=1.3), (), "1.3 passes over the images from random weights: far from finished"),
        (TUNED, metrics(epochs=0.4), (), "0.4 passes over the images from a checkpoint: far from finished"),
        (SCRATCH, metrics(best=100), (), "The last validation was the best one"),
        (SCRATCH, metrics(n=900), (), "900 images are few for random weights"),
        (SCRATCH, metrics(macro_f1=0.7), UNEVEN, "--class_weights balanced"),
        (TUNED, metrics(measured=40), (), "40 images measure it roughly"),
    ],
    ids=["scratch", "tuned", "rising", "few", "uneven", "rough"],
)
def test_what_is_missing_is_named(run, figures, findings, expected):
    (advice,) = advised(run, figures, findings)
    assert expected in advice


def test_no_advice_without_its_reason():
    assert advised(TUNED, metrics(epochs=1.3)) == []
    assert advised(SCRATCH, metrics(best=100, stopped_by="early stopping")) == []
    assert advised(SCRATCH, metrics(macro_f1=0.7)) == advised(SCRATCH, metrics(), UNEVEN) == []
    weighed = {**SCRATCH, "training": {"class_weights": "balanced"}}
    assert advised(weighed, metrics(macro_f1=0.7), UNEVEN) == []
    assert advised(TUNED, metrics(fitted={}, epochs=None)) == []


def test_its_commands_and_flags_exist():
    steps = next_steps(Path("my out"), SCRATCH, metrics(n=900, epochs=1, macro_f1=0.1, measured=9), UNEVEN)
    parsers = {"predict": predict_parser, "evaluate": evaluate_parser, "publish": publish_parser}
    for _, command in steps[-3:]:
        program, verb, *words = shlex.split(command)
        assert program == "vit-custom" and parsers[verb]().parse_args(words).model == "my out"
    flags = [word for _, command in steps[:-3] for word in shlex.split(command)]
    values = {"--max_minutes": "3", "--model_name_or_path": "vit"}
    words = [part for word in flags for part in ([word, values[word]] if word in values else [word])]
    assert len(steps) == 6 and parse_args(["--train_dir", "d", "--output_dir", "o", *words])
