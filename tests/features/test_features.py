"""Features that are computed once equal those of an ordinary model, and the fitted heads equal scikit-learn's."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from real_digits import write_train_and_test
from rounding import assert_close_but_for_rounding
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.preprocessing import StandardScaler
from tiny import TINY
from tiny_training import tiny_checkpoint, tiny_train

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.common.errors import DataError, UsageError
from modeling_vit_custom.common.processes import Processes
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.data.splits import draw_of_each
from modeling_vit_custom.data.targets import ClassIds, MultiHot, Values
from modeling_vit_custom.features import fitted, store
from modeling_vit_custom.features.closed_forms import (
    NEVER,
    Scaling,
    fit_discriminants,
    fit_ridge,
    leave_one_out_answers,
    leave_one_out_errors,
)
from modeling_vit_custom.features.logistic import fit_logistic
from modeling_vit_custom.features.selection import (
    choose_features,
    cross_validate,
    fit_head,
    nearest_neighbours,
    stratified_folds,
)
from modeling_vit_custom.features.store import Features, open_features
from modeling_vit_custom.features.taps import Tap, Taps, narrowed
from modeling_vit_custom.tasks.single_label import SINGLE_LABEL


def clusters(count: int, width: int, classes: int = 3, apart: float = 1.0) -> tuple[torch.Tensor, np.ndarray]:
    """Return (features [N, D] of unequal scales around one centre for each class, class ids [N])."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    points = rng.normal(size=(count, width)) + apart * rng.normal(size=(classes, width))[labels]
    return torch.from_numpy(points * np.geomspace(0.1, 10, width) + 3).float(), labels


# ---------- taps


@torch.no_grad()
def test_every_tap_is_what_the_narrowed_model_pools(any_config, random_model):
    any_config.token_merging = None
    model = random_model(any_config)
    images = torch.randn(3, any_config.num_channels, *any_config.image_hw)
    taps = Taps(model)
    features = taps(images)
    assert taps.taps[0] == Tap(any_config.num_hidden_layers, any_config.pooling)
    for tap in taps.taps:
        other = narrowed(model, tap)
        assert other.config.pooling == tap.pooling and len(other.vit.layers) == tap.block
        expected = other.pre_logits(other.vit(images, pooled_only=True).pooler_output)
        assert_close_but_for_rounding(features[:, taps.columns(tap)], expected, any_config)


def test_taps_are_those_an_encoder_has_weights_for(random_model):
    def taps(**fields):
        return [str(tap) for tap in Taps(random_model(ViTCustomConfig(**{**TINY, **fields}))).taps]

    own = TINY["num_hidden_layers"]
    first = own - own // 2
    assert taps()[:4] == [f"{p} of block {own}" for p in ("cls", "mean", "cls_mean")] + [f"cls of block {own - 1}"]
    assert taps()[-1] == f"cls_mean of block {first}"
    assert {tap.split()[0] for tap in taps(pooling="mean", use_cls_token=False)} == {"mean"}
    assert {tap.split()[0] for tap in taps(pooling="map")} == {"map", "cls", "mean", "cls_mean"}
    assert {tap.split()[0] for tap in taps(pooling="cls_mean", final_norm="pooled")} == {"cls_mean"}
    assert taps(pre_logits_size=8) == [f"cls of block {own}"]


# ---------- closed forms


@pytest.mark.parametrize("count,width", [(12, 30), (40, 7)])
def test_leave_one_out_is_leaving_each_one_out(count, width):
    features, labels = clusters(count, width)
    scaled, targets = Scaling(features)(features), torch.nn.functional.one_hot(torch.from_numpy(labels)).double()
    for strength in (0.01, 1.0):
        reference = cross_val_predict(Ridge(alpha=strength), scaled.numpy(), targets.numpy(), cv=LeaveOneOut())
        answers = leave_one_out_answers(scaled, targets, strength)
        torch.testing.assert_close(answers, torch.from_numpy(reference), rtol=1e-6, atol=1e-8)
        expected = ((reference - targets.numpy()) ** 2).sum(axis=1).mean()
        assert float(leave_one_out_errors(scaled, targets, [strength])) == pytest.approx(expected)
        weight, bias = fit_ridge(scaled, targets, strength)
        ridge = Ridge(alpha=strength).fit(scaled.numpy(), targets.numpy())
        torch.testing.assert_close(weight, torch.from_numpy(ridge.coef_), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(bias, torch.from_numpy(ridge.intercept_), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("count,width", [(12, 30), (60, 7)])
def test_discriminants_are_scikit_learns(count, width):
    features, labels = clusters(count, width)
    labels = np.sort(labels % 3 * (np.arange(count) % 5 > 0))  # unequal counts
    scaled = Scaling(features)(features)
    for shrinkage, (weight, bias) in zip(
        (0.9, 0.3), fit_discriminants(scaled, torch.from_numpy(labels), 3, (0.9, 0.3)), strict=True
    ):
        within = scaled - torch.stack([scaled[labels == label].mean(0) for label in range(3)])[labels]
        covariance = (within.T @ within / (count - 3)).numpy()
        shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / width * np.eye(width)
        means = np.stack([scaled[labels == label].mean(0).numpy() for label in range(3)])
        coefficients = np.linalg.solve(shrunk, means.T).T
        offset = np.log(np.bincount(labels) / count) - (coefficients * means).sum(axis=1) / 2
        np.testing.assert_allclose(weight, coefficients, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(bias, offset, rtol=1e-6)
        reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(scaled.numpy(), labels)
        agree = (scaled @ weight.T + bias).argmax(1).numpy() == reference.predict(scaled.numpy())
        assert agree.mean() > 0.9  # scikit-learn shrinks the covariance of each class, ours the pooled one


def test_full_shrinkage_is_the_nearest_prototype():
    features, labels = clusters(30, 6)
    scaled = Scaling(features)(features)
    ((weight, bias),) = fit_discriminants(scaled, torch.from_numpy(labels), 3, (1.0,))
    means = torch.stack([scaled[labels == label].mean(0) for label in range(3)])
    assert torch.equal((scaled @ weight.T + bias).argmax(1), torch.cdist(scaled, means).argmin(1))


def test_one_example_a_class_and_a_class_without_any():
    scaled = torch.eye(3, dtype=torch.float64)
    ((weight, bias),) = fit_discriminants(scaled, torch.tensor([0, 1, 3]), 4, (0.5,))
    assert torch.equal((scaled @ weight.T + bias).argmax(1), torch.tensor([0, 1, 3])) and bias[2] == NEVER
    head = fit_head(scaled.float(), ClassIds([0, 1, 3]), 4)
    assert head.held_out is None and head.kind == "logistic"
    assert torch.equal((scaled @ head.weight.T + head.bias).argmax(1), torch.tensor([0, 1, 3]))
    features, labels = clusters(30, 6)
    head = fit_head(features, ClassIds(labels), 4, "discriminant")
    assert head.bias.isfinite().all() and (features.double() @ head.weight.T + head.bias)[:, 3].max() < -100


# ---------- logistic regression


@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_logistic_regression_is_scikit_learns(strength):
    features, labels = clusters(60, 8)
    scaled = Scaling(features)(features)
    weight, bias = next(fit_logistic(scaled, torch.from_numpy(labels), 3, (strength,)))
    reference = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000).fit(scaled.numpy(), labels)
    np.testing.assert_allclose(weight, reference.coef_, rtol=1e-3, atol=1e-3)
    hot = np.eye(3)[labels]
    weight, bias = next(fit_logistic(scaled, torch.from_numpy(hot), 3, (strength,)))
    for column in range(3):
        one = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000).fit(scaled.numpy(), hot[:, column])
        np.testing.assert_allclose(weight[column], one.coef_[0], rtol=1e-3, atol=1e-3)
        assert float(bias[column]) == pytest.approx(float(one.intercept_[0]), rel=1e-3, abs=1e-3)


# ---------- selection


def test_folded_scaling_answers_as_scaled_features_do():
    features, labels = clusters(50, 5)
    features[:, 2] = 7.0  # never varies
    scaling = Scaling(features)
    np.testing.assert_allclose(
        scaling(features) * 5**0.5, StandardScaler().fit_transform(features.double().numpy()), atol=1e-6
    )
    weight, bias = next(fit_logistic(scaling(features), torch.from_numpy(labels), 3, (0.1,)))
    own, offset = scaling.folded(weight, bias)
    torch.testing.assert_close(features.double() @ own.T + offset, scaling(features) @ weight.T + bias)


def test_the_better_features_are_chosen_and_the_first_of_equals():
    good, labels = clusters(90, 10)
    noise = torch.randn(90, 10)
    options = {"noise": noise, "good": good, "same": good}
    assert choose_features(list(options), options.__getitem__, labels, 3)[0] == "good"
    chosen, errors = choose_features(["same", "good"], options.__getitem__, labels, 3)
    assert chosen == "same" and errors["same"] == errors["good"] < 0.5
    assert choose_features(["noise"], options.__getitem__, labels, 3)[1]["noise"] > 0.9


def test_folds_hold_every_example_once_and_each_class_in_all():
    groups = np.repeat([0, 1, 2], [20, 11, 2])
    folds = stratified_folds(groups, 5, 0)
    np.testing.assert_array_equal(np.sort(np.concatenate(folds)), np.arange(33))
    assert all((np.bincount(groups[fold], minlength=3)[:2] >= [4, 2]).all() for fold in folds)
    assert any(not np.array_equal(a, b) for a, b in zip(folds, stratified_folds(groups, 5, 1), strict=True))


def test_what_is_held_out_was_not_learnt():
    """Labels are random and there are many dimensions: a head that had seen an example would answer it correctly."""
    features, _ = clusters(60, 200)
    labels = np.random.default_rng(1).permutation(np.arange(60) % 2)
    head = fit_head(features, ClassIds(labels), 2)
    indices, logits = head.held_out
    assert len(indices) == 60
    seen = (features.double() @ head.weight.T + head.bias).argmax(1).numpy() == labels
    assert seen.mean() > 0.95 and (logits.argmax(1).numpy() == labels).mean() < 0.75


def test_probabilities_fit_held_out_examples():
    features, labels = clusters(1800, 10, apart=0.3)
    head = fit_head(features[:600], ClassIds(labels[:600]), 3)
    logits = features[600:].double() @ head.weight.T + head.bias
    target = torch.from_numpy(labels[600:])
    losses = [float(torch.nn.functional.cross_entropy(factor * logits, target)) for factor in (0.4, 1.0, 2.5)]
    assert losses[1] == min(losses)


@pytest.mark.parametrize("kind", ["logistic", "discriminant", "prototypes"])
def test_a_kind_that_is_asked_for_is_fitted(kind):
    features, labels = clusters(40, 6)
    head = fit_head(features, ClassIds(labels), 3, kind)
    assert head.kind == kind and (kind != "prototypes" or head.strength == 1)
    scaled = Scaling(features)(features)
    assert cross_validate(scaled, ClassIds(labels), SINGLE_LABEL, 3, (kind,), 0)[:2] == (kind, head.strength)


def test_regression_and_labels_that_do_not_exclude_each_other():
    features, labels = clusters(60, 6)
    values = (features[:, 0] * 2 + features[:, 3] / 10).numpy()
    head = fit_head(features, Values(values), 1)
    answers = (features.double() @ head.weight.T + head.bias)[:, 0].numpy()
    assert head.kind == "ridge" and np.corrcoef(answers, values)[0, 1] > 0.99
    assert np.corrcoef(head.held_out[1][:, 0], values)[0, 1] > 0.98
    hot = np.stack([labels == 0, labels >= 1], axis=1).astype(np.float32)
    head = fit_head(features, MultiHot(hot), 2)
    assert (((features.double() @ head.weight.T + head.bias) > 0).numpy() == hot).mean() > 0.95


def test_views_are_learnt_as_well():
    features, labels = clusters(30, 4, apart=0.5)
    moved = torch.cat([features, features + 5 * torch.randn(30, 4)])
    plain, both = (fit_head(features, ClassIds(labels), 3, "logistic", views=v) for v in (None, moved))
    assert plain.strength == both.strength and not torch.allclose(plain.weight, both.weight, rtol=0.1)
    again = fit_head(features, ClassIds(labels), 3, "logistic", views=torch.cat([features, features]))
    torch.testing.assert_close(again.weight, plain.weight, rtol=1e-3, atol=1e-4)


def test_nearest_neighbours_leave_the_example_out():
    features = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [1, 0.01]])
    assert nearest_neighbours(features, np.array([0, 0, 1, 1, 1]), 1) == pytest.approx(2 / 5)


# ---------- the store


@pytest.fixture
def encoder(tiny_config, random_model):
    return random_model(tiny_config)


class Calls:
    """The pixels of N random images; records the requested rows, and may fail at one of them."""

    def __init__(self, config, count, fails_at=None):
        self.images = torch.randn(count, config.num_channels, *config.image_hw)
        self.asked, self.fails_at = [], fails_at

    def __call__(self, indices, view):
        if self.fails_at in indices:
            raise KeyboardInterrupt
        self.asked += [(view, index) for index in indices]
        return self.images[list(indices)] + view


class Processor:
    """Holds the name that distinguishes one preprocessing from another."""

    def __init__(self, name="a"):
        self.name = name

    def to_dict(self):
        return {"name": self.name}


def examples(folder, count):
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for path in paths:
        path.write_bytes(b"x")
    return Examples([str(path) for path in paths], [path.name for path in paths])


def test_features_are_computed_once(encoder, tmp_path):
    taps, data = Taps(encoder), examples(tmp_path / "images", 7)
    calls = Calls(encoder.config, 7)
    options = {"image_cache": str(tmp_path / "cache"), "batch": 3}
    first, note = open_features(taps, data, calls, Processor(), views=2, **options)
    assert sorted(calls.asked) == [(view, i) for view in (0, 1) for i in range(7)] and "kept in" in note
    tap = taps.taps[1]
    expected = torch.cat([taps(calls.images + view)[:, taps.columns(tap)] for view in (0, 1)])
    torch.testing.assert_close(first.of(tap, views=2), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(first.of(tap, [4, 2]), first.of(tap)[[4, 2]])
    calls.asked.clear()
    again, note = open_features(taps, data, calls, Processor(), views=2, **options)
    assert not calls.asked and "found in" in note and torch.equal(again.of(tap), first.of(tap))
    (tmp_path / "images" / "3.png").write_bytes(b"other")
    open_features(taps, data, calls, Processor(), views=2, **options)
    open_features(taps, data, calls, Processor("b"), views=2, **options)
    with torch.no_grad():
        encoder.vit.layers[0].mlp.fc1.weight[0, 0] += 1
    open_features(taps, data, calls, Processor(), views=2, **options)
    assert len(calls.asked) == 3 * 14
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match=r"--image_cache .*file cannot hold the features"):
        open_features(taps, data, calls, Processor(), image_cache=str(tmp_path / "file"))
    alone, note = open_features(taps, data, calls, Processor(), image_cache="off")
    assert len(calls.asked) == 3 * 14 + 7 and "this run alone" in note and alone.of(tap).shape[0] == 7


def test_a_build_that_was_killed_resumes_and_damage_is_refused(encoder, tmp_path):
    taps, data = Taps(encoder), examples(tmp_path / "images", 9)
    options = {"image_cache": str(tmp_path / "cache"), "batch": 2}
    with pytest.raises(KeyboardInterrupt):
        open_features(taps, data, Calls(encoder.config, 9, fails_at=6), Processor(), **options)
    calls = Calls(encoder.config, 9)
    features, _ = open_features(taps, data, calls, Processor(), **options)
    assert [index for _, index in calls.asked] == [6, 7, 8]
    path = features.rows.folder / store.NAME
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="does not hold the features that were computed for image 8"):
        features.of(taps.taps[0])


def test_an_encoder_that_gives_no_numbers_is_refused(encoder, tmp_path):
    with torch.no_grad():
        encoder.vit.layers[1].mlp.fc1.weight[0, 0] = torch.nan
    with pytest.raises(DataError, match="NaN or infinity"):
        open_features(
            Taps(encoder), examples(tmp_path / "i", 2), Calls(encoder.config, 2), Processor(), image_cache="off"
        )


def test_processes_share_the_images(encoder, tmp_path, monkeypatch):
    """Two processes in lockstep, with a stand-in for the collective calls: each computes every second batch."""
    taps, data = Taps(encoder), examples(tmp_path / "images", 8)
    calls = Calls(encoder.config, 8)
    rows = {}

    def gathered(self, mine):
        if mine is None or isinstance(mine, Exception):
            return [None, None]
        others = store._features_of(taps, calls, 8, rows["other"].pop(0))
        return [mine, (mine[0] and [row + 2 for row in mine[0]], others)]

    rows["other"] = [[2, 3], [6, 7]]
    monkeypatch.setattr(Processes, "from_first", lambda self, make: make())
    monkeypatch.setattr(Processes, "gathered", gathered)
    features, _ = open_features(taps, data, calls, Processor(), image_cache="off", batch=2, processes=Processes(0, 2))
    whole = taps(calls.images)[:, taps.columns(taps.taps[0])]
    torch.testing.assert_close(features.of(taps.taps[0]), whole, rtol=1e-4, atol=1e-5)


# ---------- the command


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_train_and_test(tmp_path_factory.mktemp("data"), train=12, test=9)


@pytest.fixture(scope="module")
def base(digits, tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("base") / "o", digits / "train")


FITTED = ("--method", "fitted_head", "--augmentation", "auto")


def test_the_command_leaves_an_ordinary_model(digits, base, tmp_path, capsys):
    flags = ("--train_dir", digits / "train", "--test_dir", digits / "test", *FITTED)
    metrics = tiny_train(tmp_path / "o", *flags, model=base)
    assert metrics["cross_validation"]["n"] == 36 and metrics["test"]["n"] == 27 and "validation" not in metrics
    assert metrics["test"]["accuracy"] > 0.8 and metrics["train"]["fitted"]["head"] in ("logistic", "discriminant")
    printed = capsys.readouterr().out
    assert "features: " in printed and "chosen and fitted to 36 images" in printed
    model = ViTCustomForImageClassification.from_pretrained(tmp_path / "o")
    fitted = metrics["train"]["fitted"]
    assert (model.config.pooling, model.config.num_hidden_layers) == (fitted["pooling"], fitted["block"])
    assert tiny_train(tmp_path / "o", *flags, model=base) == metrics  # read from the record, not computed again
    assert "nothing is trained" in capsys.readouterr().out


def test_shots_take_so_many_of_each_class(digits, base, tmp_path):
    flags = ("--train_dir", digits / "train", "--test_dir", digits / "test", *FITTED, "--shots")
    metrics = tiny_train(tmp_path / "o", *flags, 1, model=base)
    assert metrics["train"]["n"] == 3 and metrics["test"]["accuracy"] > 0.5 and "cross_validation" not in metrics
    metrics = tiny_train(tmp_path / "p", *flags, 4, "--feature_views", 3, "--head", "logistic", model=base)
    assert metrics["train"]["n"] == 12 and metrics["train"]["images"] == 36
    few, more = (draw_of_each(np.repeat([0, 1], [5, 2]), size, 0) for size in (2, 4))
    assert set(few) < set(more) and len(few) == 4 and len(more) == 6


def test_a_share_is_held_out_where_it_is_asked_for(digits, base, tmp_path):
    metrics = tiny_train(
        tmp_path / "o", "--train_dir", digits / "train", *FITTED, "--train_val_split", 0.25, model=base
    )
    assert metrics["train"]["n"] + metrics["validation"]["n"] == 36 and metrics["validation"]["n"] == 9
    assert "cross_validation" not in metrics


def test_folds_answer_each_image_by_a_head_that_has_not_seen_it(digits, base, tmp_path, capsys, monkeypatch):
    asked, real = [], fitted.fit

    def watched(features, targets, *args):
        asked.append(args[-1])
        return real(features, targets, *args)

    monkeypatch.setattr("modeling_vit_custom.training.search.folds.fit", watched)
    flags = ("--train_dir", digits / "train", *FITTED, "--folds", 4)
    metrics = tiny_train(tmp_path / "o", *flags, model=base)
    assert metrics["cross_validation"]["n"] == 36
    right = round(36 * metrics["cross_validation"]["accuracy"])
    printed = capsys.readouterr().out
    assert f"4 folds: accuracy {right / 36:.1%} (" in printed and "of 36 images that no model had seen" in printed
    assert len(asked) == 4 and all(len(indices) == 27 for indices in asked)
    assert sorted(np.concatenate([np.setdiff1d(np.arange(36), indices) for indices in asked])) == [*range(36)]
    plain = tiny_train(tmp_path / "p", *flags[:-2], model=base)
    untimed = {"fit_seconds": 0, "features_seconds": 0}
    assert metrics["train"]["fitted"] | untimed == plain["train"]["fitted"] | untimed


def test_a_head_fitted_to_a_part_equals_that_of_a_smaller_data_set(digits, base, tmp_path):
    """Guards --folds: held-out images take no part in any choice."""
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    rows[:, 0] += labels_of(40) * 2
    taps = SimpleNamespace(taps=[Tap(1, "cls")], columns=lambda tap: slice(0, 8))
    some = np.arange(0, 40, 2)
    whole, part = Features(taps, rows, 40), Features(taps, rows[some], 20)
    one = fitted.fit(whole, ClassIds(labels_of(40)), 2, indices=some)
    other = fitted.fit(part, ClassIds(labels_of(40)[some]), 2)
    assert torch.equal(one.head.weight, other.head.weight) and one.head.kind == other.head.kind


def labels_of(count: int) -> np.ndarray:
    return np.arange(count) // 3 % 2


@pytest.mark.parametrize(
    "flags,said",
    [
        (("--learning_rate", 0.1, "--mixup", 0.2), "--learning_rate, --mixup: --method fitted_head makes no steps"),
        (("--head", "ridge"), "--head ridge: single_label_classification has logistic, discriminant, prototypes"),
        (("--shots", 2, "--max_train_samples", 5), "--shots and --max_train_samples"),
        (("--folds", 1), "--folds 1: give a number from 2"),
        (("--method", "lora", "--folds", 5), "--folds: for --method fitted_head and search, not for lora"),
        (("--shots", 0), "--shots 0: give a number from 1"),
        (
            ("--method", "full", "--feature_views", 2),
            "--feature_views: for --method fitted_head and search",
        ),
    ],
)
def test_what_it_has_no_use_for_is_refused(digits, base, tmp_path, flags, said):
    with pytest.raises(UsageError, match=said):
        tiny_train(tmp_path / "o", "--train_dir", digits / "train", *FITTED, *flags, model=base)


def test_a_run_that_has_not_ended_is_not_written_over(digits, base, tmp_path):
    flags = ("--train_dir", digits / "train")
    tiny_train(tmp_path / "o", *flags, "--num_train_epochs", 1, model=base)
    (tmp_path / "o" / "metrics.json").unlink()
    with pytest.raises(UsageError, match=r"holds a run with other settings .*method"):
        tiny_train(tmp_path / "o", *flags, *FITTED, model=base)


def test_validation_images_that_are_given_measure_it(digits, base, tmp_path):
    metrics = tiny_train(
        tmp_path / "o", "--train_dir", digits / "train", "--validation_dir", digits / "test", *FITTED, model=base
    )
    assert metrics["validation"]["n"] == 27 and "cross_validation" not in metrics and "test" not in metrics
