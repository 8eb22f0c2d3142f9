"""Fine-tuning starts from the fitted head, is tried on held-out images, and is kept only if it is better."""

import json
import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import fork, log_to, places
from real_digits import write_train_and_test
from safetensors.torch import load_file
from tiny_training import command, tiny_checkpoint, tiny_train

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.commands.train import main as train_command
from modeling_vit_custom.common.claims import check_claims
from modeling_vit_custom.common.environment import computes_faster_in_bfloat16
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.data.examples import Examples, Splits
from modeling_vit_custom.data.targets import ClassIds
from modeling_vit_custom.publishing.facts import recipe_rows
from modeling_vit_custom.tasks.registry import TASKS, task_named
from modeling_vit_custom.training.search import planning
from modeling_vit_custom.training.search import search as searching
from modeling_vit_custom.training.search.planning import Cost, Part, Setting, parts_of, plan
from modeling_vit_custom.training.search.scores import gain_of
from modeling_vit_custom.training.search.search import Trial, decide
from modeling_vit_custom.training.search.trials import Tuner, freeze_below
from modeling_vit_custom.training.trainer.trainer import ViTCustomTrainer

SEARCH = ("--method", "search", "--augmentation", "light", "--max_minutes", 9)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_train_and_test(tmp_path_factory.mktemp("data"), train=16, test=14)


@pytest.fixture(scope="module")
def base(digits, tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("base") / "o", digits / "train")


# ---------- what fits into the time


COST = Cost(learned=0.03, answered=0.01, features=0.03, bfloat16=False)  # seconds
HALVES = [Part(np.arange(500), np.arange(500, 1000)), Part(np.arange(500, 1000), np.arange(500))]


def test_a_search_takes_ten_times_the_features_time():
    settings, seconds = plan(12, COST, 1000, HALVES, None, ["standard"], False)
    assert seconds == pytest.approx(10 * 30)
    count = len(settings)
    learned, asked = count * 500 + 500 + 1000, count * 500 + 500
    assert all(setting.epochs == settings[0].epochs and setting.augmentation == "standard" for setting in settings)
    assert settings[0].epochs * 0.03 * learned + 0.01 * asked == pytest.approx(300, rel=0.01)
    assert plan(12, replace(COST, features=1.0), 1000, HALVES, None, ["none"], False)[1] == planning.LONGEST
    assert plan(12, replace(COST, features=1.0), 1000, HALVES, None, ["none"], True)[1] == 10_000


def test_more_time_tries_more_settings_and_trains_longer():
    counts, epochs = [], []
    for seconds in (100, 400, 5000):
        settings, given = plan(12, COST, 1000, HALVES, seconds, ["standard", "light"], False)
        assert given == seconds
        counts.append(len(settings))
        epochs.append(settings[0].epochs)
    assert counts[0] == 1 and counts[-1] == len(planning.SETTINGS) and counts == sorted(counts)
    assert epochs[-1] > epochs[0]
    assert plan(12, COST, 1000, HALVES, 30, ["standard"], False)[0] == []  # less than half an epoch
    assert {setting.augmentation for setting in settings} == {"standard", "light"}
    assert len({*settings}) == len(settings)


def test_bfloat16_is_for_processors_that_have_it(monkeypatch):
    cpu = torch.device("cpu")
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False}, raising=False)
    assert not computes_faster_in_bfloat16(cpu)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert computes_faster_in_bfloat16(cpu) and not computes_faster_in_bfloat16(torch.device("meta"))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not computes_faster_in_bfloat16(cpu)


def test_settings_are_compared_on_all_images_in_turn_or_on_enough_of_them():
    few = parts_of(splits_of(np.arange(100) % 2), 0)
    assert sorted(np.concatenate([part.asked for part in few])) == [*range(100)]
    assert all(not {*part.asked} & {*part.learned} and len(part.learned) == 50 for part in few)
    assert parts_of(splits_of(np.arange(7), outputs=7), 0) == []
    many = splits_of(np.arange(planning.ENOUGH * 5) % 2)
    (part,) = parts_of(many, 0)
    assert len(part.asked) == planning.ENOUGH and not {*part.asked} & {*part.learned}
    (part,) = parts_of(replace(splits_of(np.arange(40) % 2), validation=many.train), 0)
    assert part.of_validation and len(part.learned) == 40 and part.examples(replace(many, validation=many.train))
    assert len(parts_of(replace(many, train=few_examples(40), validation=few_examples(60)), 0)) == planning.FOLDS


# ---------- what is kept


def few_examples(count: int) -> Examples:
    return Examples([None] * count, [str(i) for i in range(count)], ClassIds(np.arange(count) % 2))


def splits_of(labels: np.ndarray, outputs: int = 2) -> Splits:
    examples = Examples([None] * len(labels), [str(i) for i in range(len(labels))], ClassIds(labels))
    return Splits(examples, None, None, {i: str(i) for i in range(outputs)})


def answering(labels: np.ndarray, wrong: int) -> np.ndarray:
    """Return logits [N, 2] that are wrong for the first `wrong` examples only."""
    answers = labels.copy()
    answers[:wrong] = 1 - answers[:wrong]
    return np.eye(2, dtype=np.float32)[answers]


@pytest.mark.parametrize("wrong,kept", [(10, True), (28, True), (30, False), (40, False)])
def test_fine_tuning_is_kept_if_it_is_better_by_more_than_chance(wrong, kept):
    labels = np.arange(100) % 2
    setting, worse = Setting(2, 1e-4, 3.0, "light"), Setting(1, 1e-4, 3.0, "light")
    trials = [Trial(setting, answering(labels, wrong), 1.0), Trial(worse, answering(labels, 45)[:50], 1.0)]
    everything = np.arange(100)
    outcome = decide(trials, answering(labels, 30), everything, labels, task_named(ClassIds.problem_type), "logistic")
    assert (outcome.setting == setting) == kept and (outcome.setting is None) != kept
    expected = answering(labels, wrong if kept else 30)
    np.testing.assert_array_equal(outcome.outputs, expected)
    assert outcome.record["gain"] == pytest.approx((30 - wrong) / 100)
    assert f"{30 - wrong:+.2f} ± " in outcome.notes[0] and "on 100 held-out images" in outcome.notes[0]
    assert ("the fitted head" in outcome.notes[1]) != kept


def test_scores_of_other_tasks_are_losses():
    hot = np.array([[1.0, 0.0]], np.float32)
    right, wrong = np.array([[3.0, -3.0]], np.float32), np.array([[-3.0, 3.0]], np.float32)
    labels, numbers = TASKS["multi_label_classification"], TASKS["regression"]
    assert labels.score(right, hot)[0] > labels.score(wrong, hot)[0]
    assert numbers.score(np.array([[2.0]]), np.array([1.5]))[0] == pytest.approx(-0.25)
    gain = gain_of(right, wrong, hot, labels)
    assert pickle.loads(pickle.dumps(gain)) == gain and "in the score on 1 held-out images" in str(gain)


def test_what_is_below_is_frozen(tiny_config, random_model):
    model = random_model(tiny_config)
    freeze_below(model, 1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    last = tiny_config.num_hidden_layers - 1
    assert all(name.startswith((f"vit.layers.{last}.", "vit.layernorm.", "classifier.")) for name in trained)
    assert any("mlp" in name for name in trained) and "classifier.weight" in trained
    freeze_below(model, tiny_config.num_hidden_layers)
    assert all(parameter.requires_grad for parameter in model.parameters())


# ---------- the command


@pytest.fixture
def short(monkeypatch):
    """Allow few settings and epochs, however much time there is."""
    monkeypatch.setattr(planning, "SETTINGS", planning.SETTINGS[:3:2])
    monkeypatch.setattr(planning, "MOST_PASSES", 3.0)


def gained(monkeypatch, better: bool) -> None:
    """Make the decision of the search `better`, whatever the held-out images say."""
    real = searching.decide

    def decided(trials, fitted, asked, labels, *rest):
        answers = np.eye(3, dtype=np.float32)[labels]
        trials = [replace(trial, outputs=answers if better else -answers) for trial in trials]
        return real(trials, fitted, asked, labels, *rest)

    monkeypatch.setattr(searching, "decide", decided)


@pytest.mark.parametrize("better", [True, False])
def test_the_better_one_is_left_as_an_ordinary_model(short, digits, base, tmp_path, capsys, monkeypatch, better):
    gained(monkeypatch, better)
    flags = ("--train_dir", digits / "train", "--test_dir", digits / "test", *SEARCH)
    metrics = tiny_train(tmp_path / "o", *flags, model=base)
    printed = capsys.readouterr().out
    assert "fine-tuning the last 2 blocks (learning rate" in printed and "held-out images" in printed
    assert (metrics["train"]["search"]["kept"] is not None) == better
    assert ("steps" in metrics["train"]) == better
    assert metrics["cross_validation"]["n"] == 48 and metrics["test"]["n"] == 42
    check_claims(tmp_path / "o")
    model = ViTCustomForImageClassification.from_pretrained(tmp_path / "o")
    assert model.config.pooling == metrics["train"]["fitted"]["pooling"]
    rows = recipe_rows(json.loads((tmp_path / "o" / "training_args.json").read_text()), metrics)
    assert ("last 2 blocks" in rows["fine-tuning"]) == better and "learning rate" not in rows
    recorded = json.loads((tmp_path / "o" / "training_args.json").read_text())["training"]
    assert recorded["learning_rate"] is None and recorded["num_train_epochs"] is None  # the requested values
    assert tiny_train(tmp_path / "o", *flags, model=base) == metrics
    assert "nothing is trained" in capsys.readouterr().out


@pytest.mark.slow
def test_each_image_is_answered_by_a_model_that_had_not_seen_it(short, digits, base, tmp_path, monkeypatch):
    seen, real = [], searching.search

    def watched(model, splits, floor, settings, parts, tune, answers, *rest):
        def noted(net, setting, positions):
            seen.append(set(positions.tolist()))
            head = net.classifier.weight.detach().clone()
            trainer = tune(net, setting, positions)
            assert not torch.equal(head, trainer.net.classifier.weight)
            return trainer

        def answered(trainer, examples):
            names = [list(splits.train.names).index(name) for name in examples.names]
            assert not seen[-1] & {*names} and len(seen[-1]) + len(names) == len(splits.train)
            return answers(trainer, examples)

        return real(model, splits, floor, settings, parts, noted, answered, *rest)

    monkeypatch.setattr("modeling_vit_custom.training.runs.fitting.search", watched)
    tiny_train(tmp_path / "o", "--train_dir", digits / "train", *SEARCH, model=base)
    assert len(seen) == 3 and seen[0] == seen[1] and seen[0] | seen[2] == set(range(48))


def test_a_fine_tuning_that_was_cut_off_resumes_without_another_search(short, digits, base, tmp_path, monkeypatch):
    gained(monkeypatch, True)
    flags = ("--train_dir", digits / "train", *SEARCH, "--logging_steps", 1)
    whole = tiny_train(tmp_path / "whole", *flags, model=base)
    real = ViTCustomTrainer.training_step

    def cut_off(trainer, *args, **kwargs):
        if trainer.state.global_step == 8 and str(tmp_path / "cut") == str(trainer.args.output_dir):
            raise KeyboardInterrupt
        return real(trainer, *args, **kwargs)

    monkeypatch.setattr(ViTCustomTrainer, "training_step", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tiny_train(tmp_path / "cut", *flags, model=base)
    monkeypatch.setattr(ViTCustomTrainer, "training_step", real)
    monkeypatch.setattr(Tuner, "tune", None)  # must not be called again
    metrics = tiny_train(tmp_path / "cut", *flags, model=base)
    assert metrics["train"]["resumed"]
    assert untimed(metrics["train"]["search"]) == untimed(whole["train"]["search"])
    assert metrics["cross_validation"] == whole["cross_validation"]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def untimed(search: dict) -> dict:
    trials = [{**trial, "seconds": 0} for trial in search["trials"]]
    return {**search, "trials": trials, "seconds_of_last": 0}


@pytest.mark.slow
def test_a_search_that_was_cut_off_repeats_no_training(short, digits, base, tmp_path, monkeypatch):
    """A later run with the same time keeps what was planned and answered, and computes only the rest."""
    flags = ("--train_dir", digits / "train", *SEARCH, "--folds", 3)
    whole = tiny_train(tmp_path / "whole", *flags, model=base)
    tuned, real = [], Tuner.tune

    def cut_off(tuner, net, setting, positions):
        tuned.append((str(setting), len(positions)))
        if len(tuned) == 4:
            raise KeyboardInterrupt
        return real(tuner, net, setting, positions)

    gained(monkeypatch, True)
    monkeypatch.setattr(Tuner, "tune", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tiny_train(tmp_path / "cut", *flags, model=base)
    assert [count for _, count in tuned] == [24, 24, 24, 32]  # two settings, the other half, the first fold
    monkeypatch.setattr(planning, "MOST_PASSES", 7.0)  # a new plan would use it
    metrics = tiny_train(tmp_path / "cut", *flags, model=base)
    assert [count for _, count in tuned[4:]] == [32, 32, 32] and tuned[4] == tuned[3]
    assert [trial["epochs"] for trial in metrics["train"]["search"]["trials"]] == [3.0, 3.0]
    assert [t["score"] for t in whole["train"]["search"]["trials"]] != [] and metrics["cross_validation"]["n"] == 48
    tiny_train(tmp_path / "cut", *flags[:-2], "--resume_from_checkpoint", "false", model=base)
    assert len(tuned) == 10 and "7.0 passes" in tuned[-1][0]


@pytest.mark.slow
def test_a_setting_that_diverges_is_left_out(short, digits, base, tmp_path, capsys, monkeypatch):
    high = (1.0, 1e30, 0, 0)
    monkeypatch.setattr(planning, "SETTINGS", (high, *planning.SETTINGS[:1]))
    flags = ("--train_dir", digits / "train", *SEARCH)
    metrics = tiny_train(tmp_path / "o", *flags, model=base)
    assert [trial["learning_rate"] for trial in metrics["train"]["search"]["trials"]] == [2e-4]
    assert "diverged, left out" in capsys.readouterr().out
    monkeypatch.setattr(planning, "SETTINGS", (high,))
    metrics = tiny_train(tmp_path / "p", *flags, model=base)
    assert "search" not in metrics["train"] and metrics["cross_validation"]["n"] == 48


def test_it_chooses_the_rate_itself(digits, base, tmp_path):
    with pytest.raises(UsageError, match="--learning_rate: --method search chooses steps"):
        tiny_train(tmp_path / "o", "--train_dir", digits / "train", *SEARCH, "--learning_rate", 0.1, model=base)


@pytest.mark.slow
def test_the_whole_command_ends_on_time(digits, base, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "MOST_PASSES", 1e9)
    flags = ("--train_dir", digits / "train", "--test_dir", digits / "test", *SEARCH[:-1], 0.5)
    began = time.monotonic()
    metrics = tiny_train(tmp_path / "o", *flags, model=base)
    assert 12 < time.monotonic() - began < 33
    assert metrics["train"]["search"]["trials"]


def in_a_process(environment, folder, flags, model):
    """Train in one of several processes; at module level, so that they can find it."""
    log_to(f"{folder}.log{environment.get('RANK', '0')}")
    planning.SETTINGS, planning.MOST_PASSES = planning.SETTINGS[:3:2], 3.0
    sys.exit(train_command(command(Path(folder), *flags, model=model)))


@pytest.mark.slow
def test_two_processes_choose_and_keep_the_same(digits, base, tmp_path):
    flags = ["--train_dir", digits / "train", "--test_dir", digits / "test", *SEARCH, "--folds", 3, "--image_cache"]
    metrics = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        whole = [*flags, "off", "--per_device_train_batch_size", 8 // processes]
        codes = fork(in_a_process, places(processes), str(folder), whole, base, method="forkserver")
        assert codes == [0] * processes, Path(f"{folder}.log0").read_text()
        metrics.append(json.loads((folder / "metrics.json").read_text()))
    one, two = metrics
    for name in ("block", "pooling", "head", "strength"):
        assert one["train"]["fitted"][name] == two["train"]["fitted"][name]
    assert one["test"]["n"] == two["test"]["n"] == 42 and two["cross_validation"]["n"] == 48
    assert len(one["train"]["search"]["trials"]) == len(two["train"]["search"]["trials"]) == 2
    assert abs(one["train"]["search"]["gain"] - two["train"]["search"]["gain"]) <= 2 / 48  # only by rounding
    check_claims(tmp_path / "2")
