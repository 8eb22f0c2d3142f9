"""The record of a training is true, whether it was resumed, cut short, stopped early or fitted to the clock."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from real_digits import write_class_folder
from tiny_training import command, tiny_train, tiny_trainer
from transformers import TrainerState

from modeling_vit_custom.commands.train import main
from modeling_vit_custom.common.claims import ClaimError, check_claims, weights_digest
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.publishing.card import write_card
from modeling_vit_custom.training.checkpointing.changes import goes_on, refused_changes
from modeling_vit_custom.training.checkpointing.checkpoints import MANIFEST, STATE_KEY, seal
from modeling_vit_custom.training.trainer.resuming import ResumingTrainer

STEPS = ("--eval_strategy", "steps", "--save_strategy", "steps", "--logging_steps", 1)
TWO = (*STEPS, "--eval_steps", 2, "--save_steps", 2, "--max_steps", 4, "--save_total_limit", 9)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Write 17 training images: 3 steps an epoch, of 8, 8 and 1."""
    root = tmp_path_factory.mktemp("digits")
    write_class_folder(root / "validation", {"0": 2, "1": 2}, 20)
    write_class_folder(root / "train", {"0": 9, "1": 8})
    return root


@pytest.fixture(scope="module")
def ended(digits, tmp_path_factory):
    """Train 4 steps to the end; return the folder."""
    run = tmp_path_factory.mktemp("ended") / "o"
    tiny_train(run, "--train_dir", digits, *TWO)
    return run


@pytest.fixture
def run(ended, tmp_path):
    return Path(shutil.copytree(ended, tmp_path / "o"))


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def metrics_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


# ---------- a run that has ended


def test_the_same_command_again_tells_the_same_results_and_writes_nothing(run, digits, capsys):
    before, metrics = contents(run), metrics_of(run)
    assert tiny_train(run, "--train_dir", digits, *TWO, "--logging_steps", 2) == metrics
    assert "has ended: nothing is trained" in capsys.readouterr().out
    for name in run.glob("checkpoint-*"):  # removed to save space: no reason to train again
        shutil.rmtree(name)
    assert tiny_train(run, "--train_dir", digits, *TWO) == metrics
    assert {name: before[name] for name in contents(run)} == contents(run) and metrics["train"]["seconds"] > 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--learning_rate", 1e-4), r"\(learning_rate\): --learning_rate 0.001 there, 0.0001 now. Name another"),
        (("--weight_decay", 0.5), "--weight_decay 0.05 there, 0.5 now"),
        (("--muon", "true"), "--muon False there, True now"),
        (("--max_steps", 2), "has ended, and would have nothing more to do: --max_steps 4 there, 2 now"),
        (("--per_device_train_batch_size", 4), "--per_device_train_batch_size 8 there, 4 now"),
        (("--image_size", 12), r"--image_size \[8\] there, \[12\] now"),
        (("--max_steps", -1, "--max_minutes", 1), "--max_minutes None there, 1.0 now"),
        (("--learning_rate", 1e-4, "--max_steps", 8), "--learning_rate 0.001 there"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_another_setting_is_refused_with_its_flag_its_values_and_the_way_out(run, digits, flags, says):
    before = contents(run)
    with pytest.raises(UsageError, match=says) as refused:
        tiny_train(run, "--train_dir", digits, *TWO, *flags)
    assert "--resume_from_checkpoint false" in str(refused.value) and contents(run) == before


def test_figures_of_one_test_set_are_not_reported_for_another(run, digits, tmp_path):
    before, test = contents(run), write_class_folder(tmp_path / "test", {"0": 2, "1": 2}, 30)
    with pytest.raises(UsageError, match=r"was measured on another test set: .* `vit-custom evaluate --model"):
        tiny_train(run, "--train_dir", digits, *TWO, "--test_dir", test)
    assert contents(run) == before


def test_a_named_checkpoint_keeps_its_settings_too(run, digits, tmp_path):
    flags = ("--train_dir", digits, *TWO, "--max_steps", 6, "--resume_from_checkpoint", run / "checkpoint-4")
    with pytest.raises(UsageError, match=r"--weight_decay 0.05 there, 0.5 now"):
        tiny_train(tmp_path / "p", *flags, "--weight_decay", 0.5)


def test_more_steps_continue_the_run_and_both_sittings_are_recorded(run, digits, caplog):
    first = metrics_of(run)["train"]
    with caplog.at_level(logging.WARNING):
        train = tiny_train(run, "--train_dir", digits, *TWO, "--max_steps", 6)["train"]
    assert "begun with other settings (max_steps, 4, now 6)" in caplog.text
    assert [(one["first_step"], one["last_step"], one["max_steps"]) for one in train["sittings"]] == [
        (0, 4, 4),
        (4, 6, 6),
    ]
    assert train["steps"] == 6 and train["images"] == 2 * 17 and first["images"] == 17 + 8
    assert train["epochs"] == 2 and first["epochs"] == pytest.approx(4 / 3, abs=1e-4)
    second = train["sittings"][1]["seconds"]
    assert train["seconds"] == pytest.approx(train["sittings"][0]["seconds"] + second)
    assert train["train_steps_per_second"] == pytest.approx(2 / train["train_runtime"], rel=0.01)
    text = write_card(run, "a/b", metrics=metrics_of(run), run=json.loads((run / "training_args.json").read_text()))
    text = text.read_text()
    assert "| epochs | 2 |" in text and "4 steps, then 6 steps" in text and "s in 2 sittings |" in text
    assert "in 2 sittings" in (run / "report.html").read_text()


def test_weights_that_were_changed_since_are_not_lost(run, digits):
    (run / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"other weights than those that training_args.json names"):
        tiny_train(run, "--train_dir", digits, *TWO)
    assert (run / "model.safetensors").read_bytes() == b"mine"


def without_stamps(run: Path) -> None:
    """Change the folder to the form that the version before would have left."""
    for name in ("metrics.json", "training_args.json"):
        record = json.loads((run / name).read_text())
        record = {key: value for key, value in record.items() if key not in ("weights", "files")}
        if name == "metrics.json":
            made = ("steps", "planned_steps", "epochs", "images", "stopped_by", "kept_step", "sittings")
            record["train"] = {key: value for key, value in record["train"].items() if key not in made}
        else:
            record["training"] = {key: value for key, value in record["training"].items() if key != "muon"}
        (run / name).write_text(json.dumps(record))
    for state in run.glob("checkpoint-*/trainer_state.json"):
        kept = json.loads(state.read_text())
        for name in ("settings", "sittings"):
            del kept["stateful_callbacks"][STATE_KEY][name]
        state.write_text(json.dumps(kept))
        (state.parent / MANIFEST).unlink()
        seal(state.parent)


@pytest.mark.slow
def test_a_run_of_the_version_before_is_reported_again_refused_and_continued(run, digits):
    without_stamps(run)
    before = contents(run)
    assert tiny_train(run, "--train_dir", digits, *TWO, "--muon", "false")["train"]["n"] == 17
    with pytest.raises(UsageError, match=r"--learning_rate 0.001 there"):
        tiny_train(run, "--train_dir", digits, *TWO, "--learning_rate", 1e-4)
    assert contents(run) == before and check_claims(run)[1] == ["metrics.json", "training_args.json"]
    train = tiny_train(run, "--train_dir", digits, *TWO, "--max_steps", 6)["train"]
    assert train["steps"] == 6 and train["images"] is None and train["seconds"] is None
    assert [one["seconds"] is None for one in train["sittings"]] == [True, False]
    assert "in the last of 2 sittings" in (run / "report.html").read_text() and check_claims(run)[1] == []


# ---------- a run that was cut off


def cut_off(monkeypatch, run: Path, step: int, *flags) -> None:
    whole = ResumingTrainer.training_step

    def dies(trainer, *args, **kwargs):
        if trainer.state.global_step == step:
            raise KeyboardInterrupt
        return whole(trainer, *args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ResumingTrainer, "training_step", dies)
        tiny_train(run, *flags)


@pytest.mark.slow
def test_settings_that_may_change_in_mid_run_are_recorded_and_others_refused(digits, tmp_path, monkeypatch):
    flags = ("--train_dir", digits, *TWO)
    cut_off(monkeypatch, tmp_path / "o", 3, *flags)
    assert json.loads((tmp_path / "o" / "training_args.json").read_text())["weights"] is None
    with pytest.raises(UsageError, match=r"\(per_device_train_batch_size\): .* 8 there, 4 now"):
        tiny_train(tmp_path / "o", *flags, "--per_device_train_batch_size", 4)
    for name, value in (("learning_rate", 1e-4), ("lr_scheduler_type", "linear"), ("data_seed", 7)):
        with pytest.raises(UsageError, match=rf"--{name} .* there, {value} now"):
            tiny_train(tmp_path / "o", *flags, f"--{name}", value)
    halves = ("--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2, "--early_stopping_patience", 5)
    train = tiny_train(tmp_path / "o", *flags, *halves)["train"]
    one, two = train["sittings"]
    assert (one["last_step"], two["first_step"], two["last_step"], train["images"]) == (2, 2, 4, 17 + 8)
    assert (one["gradient_accumulation_steps"], two["gradient_accumulation_steps"]) == (1, 2)
    assert one["seconds"] > 0 and train["resumed"]


def test_a_second_training_that_is_killed_is_not_taken_for_the_first(run, digits, monkeypatch, tmp_path):
    """The weights are old, but the record holds settings with which they were not trained."""
    old = weights_digest(run)
    flags = ("--train_dir", digits, *TWO, "--learning_rate", 1e-2, "--resume_from_checkpoint", "false")
    cut_off(monkeypatch, run, 1, *flags)
    assert weights_digest(run) == old and check_claims(run, ["metrics.json"]) == (["metrics.json"], [])
    with pytest.raises(ClaimError, match=r"training_args.json is of a training that has not ended"):
        check_claims(run)
    with pytest.raises(ValueError, match="has not ended"):
        record = json.loads((run / "training_args.json").read_text())
        write_card(run, "a/b", metrics=metrics_of(run), run=record)
    metrics = tiny_train(run, *flags[:-2])
    assert check_claims(run)[1] == [] and metrics["weights"] == {"sha256": weights_digest(run)}
    assert metrics["weights"] != {"sha256": old}


# ---------- what happened


@pytest.mark.slow
def test_early_stopping_is_recorded(digits, tmp_path):
    """The learning rate is 0, so the first validation stays the best."""
    flags = ("--learning_rate", 0, "--num_train_epochs", 9, "--early_stopping_patience", 2)
    train = tiny_train(tmp_path / "o", "--train_dir", digits, *flags)["train"]
    assert train["stopped_by"] == "early stopping"
    assert (train["epochs"], train["steps"], train["planned_steps"]) == (3, 9, 27)
    assert train["kept_step"] == 3 and train["images"] == 3 * 17
    run = json.loads((tmp_path / "o" / "training_args.json").read_text())
    text = write_card(tmp_path / "o", "a/b", metrics=metrics_of(tmp_path / "o"), run=run).read_text()
    assert "| epochs | 3, stopped early |" in text and "cosine over 27 steps, of which 9 were made" in text
    assert "| weights kept | those of step 3 |" in text and "the checkpoint, step 3" in text


@pytest.mark.slow
def test_a_run_with_max_minutes_records_the_epochs_it_made(digits, tmp_path):
    flags = ("--max_minutes", 0.05, *STEPS, "--eval_steps", 0.5, "--save_steps", 0.5)
    train = tiny_train(tmp_path / "o", "--train_dir", digits, *flags)["train"]
    assert train["stopped_by"] == "time" and train["steps"] == train["planned_steps"]
    assert train["epochs"] == pytest.approx(train["steps"] / 3, abs=1e-3) and train["epochs"] != 30
    whole, rest = divmod(train["steps"], 3)
    assert train["images"] == 17 * whole + 8 * rest
    run = json.loads((tmp_path / "o" / "training_args.json").read_text())
    text = write_card(tmp_path / "o", "a/b", metrics=metrics_of(tmp_path / "o"), run=run).read_text()
    assert f"| epochs | {train['epochs']:.4g}, as many as 0.05 minutes allow |" in text
    assert text.count("| epochs |") == 1
    more = tiny_train(tmp_path / "o", "--train_dir", digits, *flags, "--max_minutes", 0.1)["train"]
    assert more["steps"] > train["steps"] and [one["max_minutes"] for one in more["sittings"]] == [0.05, 0.1]


@pytest.mark.slow
def test_the_last_step_is_kept_where_the_best_is_not_asked_for(digits, tmp_path):
    flags = ("--load_best_model_at_end", "false", "--metric_for_best_model", "accuracy", "--learning_rate", 0)
    metrics = tiny_train(tmp_path / "o", "--train_dir", digits, *TWO, *flags)
    assert metrics["best"]["step"] == 2 and metrics["train"]["kept_step"] == 4
    run = json.loads((tmp_path / "o" / "training_args.json").read_text())
    text = write_card(tmp_path / "o", "a/b", metrics=metrics, run=run).read_text()
    assert "chose the checkpoint" not in text and "those of step 4" in text


@pytest.mark.slow
def test_the_remainder_of_accumulation_is_counted_as_it_was(digits, tmp_path):
    """17 images in batches of 4, two a step, make steps of 8, 8 and 1."""
    split = ("--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2, "--num_train_epochs", 2)
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *split)
    trainer.train()
    assert trainer.sittings.until(trainer.state.global_step)[0]["images"] == 2 * 17 and trainer.state.global_step == 6


def test_rules_of_what_may_change():
    before = {"learning_rate": 1.0, "max_steps": -1, "num_train_epochs": 5.0, "max_minutes": None, "bf16": False}
    step = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "processes": 2}
    before |= step
    assert refused_changes(before, before | {"num_train_epochs": 9, "bf16": True, "unknown of old": 1}) == []
    assert refused_changes(before, before | {"learning_rate": 2}) == ["learning_rate"]
    assert refused_changes(before, before | {"processes": 4}) == ["processes"]
    assert refused_changes(before, before | {"processes": 4, "per_device_train_batch_size": 4}) == []
    made = {"steps": 10, "epochs": 5}
    assert goes_on(before, before | {"num_train_epochs": 6}, made)
    assert not goes_on(before, before | {"num_train_epochs": 5}, made)
    assert goes_on(before, before | {"max_steps": 11}, made) and not goes_on(before, before | {"max_steps": 10}, made)
    assert not goes_on(before, before | {"max_minutes": 5}, made)
    assert goes_on(before | {"max_minutes": 4}, before | {"max_minutes": 5}, made)


def test_the_command_says_it_and_changes_nothing(run, digits, capsys):
    before = contents(run)
    assert main(command(run, "--train_dir", digits, *TWO)) == 0
    assert "validation  n 4  accuracy" in capsys.readouterr().out
    assert main(command(run, "--train_dir", digits, *TWO, "--learning_rate", 1)) == 2
    assert "--learning_rate 0.001 there, 1.0 now" in capsys.readouterr().err and contents(run) == before


def test_the_state_of_a_checkpoint_is_one_that_transformers_reads(run):
    state = TrainerState.load_from_json(str(run / "checkpoint-4" / "trainer_state.json"))
    assert state.stateful_callbacks[STATE_KEY]["sittings"][0]["last_step"] == 4
