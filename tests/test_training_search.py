"""Fine-tuning goes on from the fitted head, is tried on images it has not seen, and is kept only if it is better."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from real_digits import write_train_and_test
from safetensors.torch import load_file
from tiny_training import tiny_train

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.data.examples import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Examples, Splits
from modeling_vit_custom.inference.claims import check_claims
from modeling_vit_custom.publishing.card import recipe_rows
from modeling_vit_custom.training import search as searching
from modeling_vit_custom.training.flags import UsageError
from modeling_vit_custom.training.search import Setting, Trial, decide, freeze_below, plan, read_outcome, scores
from modeling_vit_custom.training.trainer import ViTCustomTrainer

SEARCH = ("--method", "search", "--augmentation", "light")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_train_and_test(tmp_path_factory.mktemp("data"), train=16, test=14)


@pytest.fixture(scope="module")
def base(digits, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("base") / "o"
    tiny_train(output_dir, "--train_dir", digits / "train", "--num_train_epochs", 1)
    return ["--model_name_or_path", str(output_dir)]


# ---------- what there is time for


def test_a_search_takes_ten_times_the_features_time():
    settings, seconds = plan(12, 12, 0.01, 1000, None, False)
    assert seconds == pytest.approx(100)
    one_pass = searching.OVERHEAD * 0.01 * 1000 * (12 + 2 * 12) / 12
    assert len(settings) == 1 and settings[0].epochs * 2 * one_pass == pytest.approx(100, rel=0.01)
    assert plan(12, 12, 1.0, 1000, None, False)[1] == searching.LONGEST
    assert plan(12, 12, 1.0, 1000, None, True)[1] == 10_000
    shallow, _ = plan(12, 6, 0.01, 1000, None, False)
    assert shallow[0].blocks == 6 and shallow[0].epochs == pytest.approx(2 * settings[0].epochs, rel=0.01)


def test_more_time_tries_more_settings_and_trains_longer():
    counts, epochs = [], []
    for seconds in (100, 400, 5000):
        settings, given = plan(12, 12, 0.01, 1000, seconds, False)
        assert given == seconds
        counts.append(len(settings))
        epochs.append(settings[0].epochs)
    assert counts[0] == 1 and counts[-1] == len(searching.SETTINGS) and counts == sorted(counts)
    assert epochs[-1] > epochs[0]
    assert plan(12, 12, 0.01, 1000, 20, False)[0] == []  # less than a pass


# ---------- what is kept


def splits_of(labels: np.ndarray, problem_type: str = SINGLE_LABEL, outputs: int = 2) -> Splits:
    examples = Examples([None] * len(labels), [str(i) for i in range(len(labels))], labels)
    return Splits(examples, None, None, problem_type, {i: str(i) for i in range(outputs)})


def answering(labels: np.ndarray, wrong: int) -> np.ndarray:
    """Logits [N, 2] that are right but for the first `wrong` examples."""
    answers = labels.copy()
    answers[:wrong] = 1 - answers[:wrong]
    return np.eye(2, dtype=np.float32)[answers]


@pytest.mark.parametrize("wrong,kept", [(10, True), (28, False), (30, False), (40, False)])
def test_fine_tuning_is_kept_if_it_is_better_by_more_than_chance(wrong, kept):
    labels = np.arange(100) % 2
    setting, worse = Setting(2, 1e-4, 3.0), Setting(1, 1e-4, 3.0)
    trials = [Trial(worse, answering(labels, 45), 1.0), Trial(setting, answering(labels, wrong), 1.0)]
    outcome = decide(trials, answering(labels, 30), labels, splits_of(labels), "logistic")
    assert (outcome.setting == setting) == kept and (outcome.setting is None) != kept
    expected = answering(labels, wrong if kept else 30)
    np.testing.assert_array_equal(outcome.logits, expected)
    assert outcome.record["gain"] == pytest.approx((30 - min(wrong, 45)) / 100)
    assert f"{30 - wrong:+.2f} ± " in outcome.notes[0] and "on 100 held-out images" in outcome.notes[0]
    assert ("the fitted head" in outcome.notes[1]) != kept


def test_scores_of_other_tasks_are_losses():
    hot = np.array([[1.0, 0.0]], np.float32)
    right, wrong = np.array([[3.0, -3.0]], np.float32), np.array([[-3.0, 3.0]], np.float32)
    assert scores(right, hot, MULTI_LABEL)[0] > scores(wrong, hot, MULTI_LABEL)[0]
    assert scores(np.array([[2.0]]), np.array([1.5]), REGRESSION)[0] == pytest.approx(-0.25)


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


def gained(monkeypatch, better: bool) -> None:
    """Makes the held-out images say so, whatever they would have said."""
    real = searching.decide

    def decided(trials, fitted, labels, *rest):
        answers = np.eye(3, dtype=np.float32)[labels]
        trials = [replace(trial, logits=answers if better else -answers) for trial in trials]
        return real(trials, fitted, labels, *rest)

    monkeypatch.setattr(searching, "decide", decided)


@pytest.mark.parametrize("better", [True, False])
def test_the_better_one_is_left_as_an_ordinary_model(digits, base, tmp_path, capsys, monkeypatch, better):
    gained(monkeypatch, better)
    flags = ("--train_dir", digits / "train", "--test_dir", digits / "test", *SEARCH)
    metrics = tiny_train(tmp_path / "o", *flags, model=base)
    printed = capsys.readouterr().out
    assert "blocks fine-tuned, learning rate" in printed and "held-out images" in printed
    assert (metrics["train"]["search"]["kept"] is not None) == better
    assert ("steps" in metrics["train"]) == better
    assert metrics["cross_validation"]["n"] == 48 and metrics["test"]["n"] == 42
    check_claims(tmp_path / "o")
    model = ViTCustomForImageClassification.from_pretrained(tmp_path / "o")
    assert model.config.pooling == metrics["train"]["fitted"]["pooling"]
    rows = recipe_rows(json.loads((tmp_path / "o" / "training_args.json").read_text()), metrics)
    assert ("last 2 blocks" in rows["fine-tuning"]) == better and "learning rate" not in rows
    recorded = json.loads((tmp_path / "o" / "training_args.json").read_text())["training"]
    assert recorded["learning_rate"] is None and recorded["num_train_epochs"] is None  # what was asked for
    assert tiny_train(tmp_path / "o", *flags, model=base) == metrics
    assert "nothing is trained" in capsys.readouterr().out


def test_each_image_is_answered_by_a_model_that_had_not_seen_it(digits, base, tmp_path, monkeypatch):
    seen, real = [], searching.search

    def watched(model, splits, floor, settings, tune, answers, *rest):
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

        return real(model, splits, floor, settings, noted, answered, *rest)

    monkeypatch.setattr("modeling_vit_custom.training.fitting.search", watched)
    tiny_train(tmp_path / "o", "--train_dir", digits / "train", *SEARCH, model=base)
    assert len(seen) >= 2 and seen[0] | seen[1] == set(range(48))


def test_a_fine_tuning_that_was_cut_off_goes_on_without_another_search(digits, base, tmp_path, monkeypatch):
    gained(monkeypatch, True)
    flags = ("--train_dir", digits / "train", *SEARCH, "--logging_steps", 1)
    whole = tiny_train(tmp_path / "whole", *flags, model=base)
    real = ViTCustomTrainer.training_step

    def cut_off(trainer, *args, **kwargs):
        if trainer.state.global_step == 8 and str(tmp_path / "cut") == str(trainer.args.output_dir):
            raise KeyboardInterrupt
        return real(trainer, *args, **kwargs)

    setting = Setting(**whole["train"]["search"]["kept"])
    monkeypatch.setattr("modeling_vit_custom.training.fitting.plan", lambda *_: ([setting], 1.0))  # as timed before
    monkeypatch.setattr(ViTCustomTrainer, "training_step", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tiny_train(tmp_path / "cut", *flags, model=base)
    monkeypatch.setattr(ViTCustomTrainer, "training_step", real)
    monkeypatch.setattr("modeling_vit_custom.training.fitting.search", None)  # not called again
    metrics = tiny_train(tmp_path / "cut", *flags, model=base)
    assert metrics["train"]["resumed"] and metrics["train"]["search"] == read_outcome(tmp_path / "cut").record
    assert metrics["cross_validation"] == whole["cross_validation"]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_chooses_the_rate_itself(digits, base, tmp_path):
    with pytest.raises(UsageError, match="--learning_rate: --method search chooses steps"):
        tiny_train(tmp_path / "o", "--train_dir", digits / "train", *SEARCH, "--learning_rate", 0.1, model=base)
