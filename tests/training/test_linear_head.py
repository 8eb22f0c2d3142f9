"""The head that is fitted first equals the one that scikit-learn fits to the same features."""

import numpy as np
import pytest
import torch
from real_digits import write_class_folder
from sklearn.linear_model import LogisticRegression, Ridge
from tiny_training import tiny_train, tiny_trainer

from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.data.dataset import ImageDataset
from modeling_vit_custom.data.targets import LABELLED
from modeling_vit_custom.data.views import DecodedViews, eval_resizer
from modeling_vit_custom.training.initialization import linear_head as heads

SHORT = ("--num_train_epochs", 1, "--save_strategy", "epoch")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 24, "1": 24, "2": 24})


@pytest.fixture(scope="module")
def base(digits, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("base") / "o"
    tiny_train(output_dir, "--train_dir", digits, *SHORT)
    return ["--model_name_or_path", str(output_dir)]


def prepared(tmp_path, digits, base, *flags):
    trainer, splits = tiny_trainer(
        tmp_path / "o", "--train_dir", digits, *SHORT, "--method", "head_then_full", *flags, model=base
    )
    views = DecodedViews(splits.train, eval_resizer(trainer.processing_class, trainer.model.config))
    return trainer, splits, ImageDataset(splits.train, views)


@pytest.mark.parametrize("problem", ["single_label_classification", "regression", "multi_label_classification"])
def test_it_is_the_best_linear_head(digits, base, tmp_path, monkeypatch, problem):
    monkeypatch.setattr(heads, "ALONE", 1e-2)
    trainer, splits, train = prepared(tmp_path, digits, base)
    trainer.model.config.problem_type = problem
    labels = splits.train.targets.values
    hot = np.eye(3, dtype=np.float32)[labels]
    if problem != "single_label_classification":
        object.__setattr__(splits.train, "targets", LABELLED[problem](hot))
    x = heads.features(trainer, train).double().numpy()
    note = heads.fit_head(trainer, train, None)
    assert note.startswith(f"head fitted to {len(train)} frozen features: training loss ")
    weight, bias = (p.detach().double().numpy() for p in trainer.model.classifier.parameters())
    n, share = len(labels), 1e-2
    if problem == "single_label_classification":
        reference = LogisticRegression(C=1 / (share * n), tol=1e-10, max_iter=10_000).fit(x, labels)
        expected = reference.coef_, reference.intercept_ - reference.intercept_.mean()
        bias = bias - bias.mean()
    elif problem == "regression":
        reference = Ridge(alpha=share * n * 3 / 2).fit(x, hot)
        expected = reference.coef_, reference.intercept_
    else:
        each = [
            LogisticRegression(C=1 / (share * n * 3), tol=1e-10, max_iter=10_000).fit(x, hot[:, i]) for i in range(3)
        ]
        expected = np.concatenate([e.coef_ for e in each]), np.concatenate([e.intercept_ for e in each])
    np.testing.assert_allclose(weight, expected[0], atol=2e-3)
    np.testing.assert_allclose(bias, expected[1], atol=2e-3)


def test_the_penalty_is_chosen_by_validation(digits, base, tmp_path):
    trainer, _, train = prepared(tmp_path, digits, base)
    trainer.model.classifier.reset_parameters()
    before = trainer.evaluate()
    note = heads.fit_head(trainer, train, trainer.eval_dataset)
    after = trainer.evaluate()
    assert f"validation loss {after['eval_loss']:.4f}" in note and after["eval_loss"] < before["eval_loss"]


def test_the_features_are_those_that_the_classifier_is_given(digits, base, tmp_path):
    trainer, _, train = prepared(tmp_path, digits, base)
    x = heads.features(trainer, train)
    given = []
    trainer.model.classifier.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    pixel_values = trainer.to_pixel_values(train.__getitems__(range(5))["pixel_values"])
    trainer.model.eval()(pixel_values)
    torch.testing.assert_close(x[:5], given[0].detach(), atol=1e-5, rtol=1e-4)


def test_the_whole_command_fits_the_head_first_and_once(digits, base, tmp_path, capsys):
    flags = ("--train_dir", digits, *SHORT, "--method", "head_then_full")
    tiny_train(tmp_path / "o", *flags, model=base)
    assert "head fitted to 60 frozen features: validation loss" in capsys.readouterr().out
    tiny_train(tmp_path / "o", *flags, model=base)
    assert "head fitted" not in capsys.readouterr().out, "a resumed run must not fit it again"


def test_without_a_checkpoint_there_are_no_features(digits, tmp_path):
    with pytest.raises(UsageError, match="--method head_then_full builds on a checkpoint's features"):
        tiny_train(tmp_path / "o", "--train_dir", digits, "--method", "head_then_full")
