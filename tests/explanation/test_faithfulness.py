"""Faithfulness of maps: against slow, plain references, and against scores whose best map is known."""

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from modeling_vit_custom.explanation.faithfulness import confirm, deletion, hides, insertion, saco, srg
from modeling_vit_custom.explanation.perturbed import PerturbedImage, baseline_of

CELL = 4  # pixels


def sum_of_cells(weights: np.ndarray):
    """Return a score: each cell's mean brightness times its weight, summed. weights: [h, w]."""
    at = torch.from_numpy(weights).repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)
    return lambda images: (images.double().mean(dim=1) * at / CELL**2).sum(dim=(1, 2))


def white(weights: np.ndarray, channels: int = 3) -> torch.Tensor:
    return torch.ones(channels, *(CELL * side for side in weights.shape))


def additive(weights: np.ndarray, **options) -> PerturbedImage:
    """Return an image that loses a cell's weight when the cell is replaced (by black)."""
    image = white(weights)
    return PerturbedImage(sum_of_cells(weights), image, weights.shape, baseline=0 * image, **options)


@pytest.fixture
def weights() -> np.ndarray:
    """Return a weight for each of 3 x 5 cells, some below zero, all different."""
    return np.random.default_rng(0).normal(size=(3, 5))


# ---------- curves


def plain_curve(score, image, baseline, grid, steps, shown):
    """Replace or show cell after cell in a loop; return the scores."""
    (h, w), (_, height, width) = grid.shape, image.shape
    ranked = sorted(itertools.product(range(h), range(w)), key=lambda cell: -grid[cell])
    scores = []
    for step in range(steps + 1):
        now = (baseline if shown else image).clone()
        source = image if shown else baseline
        for row, column in ranked[: round(step * h * w / steps)]:
            top, bottom = -(-row * height // h), -(-(row + 1) * height // h)
            left, right = -(-column * width // w), -(-(column + 1) * width // w)
            now[:, top:bottom, left:right] = source[:, top:bottom, left:right]
        scores.append(score(now[None]).item())
    return scores


@pytest.mark.parametrize("baseline", ["blur", "mean"])
@pytest.mark.parametrize(
    ("channels", "height", "width", "grid"), [(3, 12, 20, (3, 5)), (1, 13, 9, (4, 3)), (5, 8, 8, (8, 8))]
)
def test_curves_are_those_of_a_plain_loop(baseline, channels, height, width, grid):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(channels, height, width, generator=generator)
    values = torch.rand(grid, generator=generator)
    direction = torch.rand(channels, height, width, generator=generator)

    def score(images):
        return torch.sigmoid((images * direction).flatten(1).sum(dim=1) - direction.sum() / 2)

    steps = grid[0] * grid[1] if grid[0] * grid[1] % 8 else 8
    perturbed = PerturbedImage(score, image, grid, baseline=baseline, batch_size=5)
    shown = baseline_of(image, baseline)
    for measure, is_shown in ((deletion, False), (insertion, True)):
        curve = measure(perturbed, values, steps=steps)
        expected = plain_curve(score, image, shown, values.numpy(), steps, is_shown)
        assert curve.scores == pytest.approx(expected, abs=1e-6)
        assert curve.shares == pytest.approx(np.linspace(0, 1, steps + 1))
        assert curve.area == pytest.approx(np.trapezoid(expected, dx=1 / steps), abs=1e-6)


def test_ends_of_both_curves_are_the_image_and_the_baseline(weights):
    out, into = deletion(additive(weights), weights, steps=4), insertion(additive(weights), weights, steps=4)
    assert out.scores[0] == into.scores[-1] == pytest.approx(weights.sum())
    assert out.scores[-1] == into.scores[0] == 0


def test_blur_is_scipys_gaussian_with_mirrored_edges():
    image = torch.rand(2, 24, 40, generator=torch.Generator().manual_seed(0))
    expected = [gaussian_filter(band, sigma=24 / 8, mode="mirror", truncate=4) for band in image.numpy()]
    np.testing.assert_allclose(baseline_of(image, "blur"), expected, atol=1e-5)


def test_mean_colour_is_the_image_own_per_channel():
    image = torch.rand(2, 6, 5, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(baseline_of(image, "mean")[:, 2, 3], image.numpy().mean(axis=(1, 2)), rtol=1e-6)


# ---------- SRG


def test_srg_of_the_true_map_is_the_best_of_all_orders_and_of_its_negative_the_worst():
    weights = np.array([[0.3, -0.1, 0.7], [0.2, 0.9, -0.4]])
    image = additive(weights)
    every = [
        srg(image, np.array(order, float).reshape(2, 3), steps=6).srg for order in itertools.permutations(range(6))
    ]
    best = srg(image, weights, steps=6).srg
    assert best == pytest.approx(max(every)) and best > 0
    assert srg(image, -weights, steps=6).srg == pytest.approx(-best) == pytest.approx(min(every))
    assert np.mean(every) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("steps", [4, 7, 8, 15, 20])
def test_srg_of_a_map_and_its_negative_are_opposite_for_any_steps(weights, steps):
    image = additive(weights)
    assert srg(image, weights, steps=steps).srg == pytest.approx(-srg(image, -weights, steps=steps).srg)


def test_srg_of_a_constant_map_is_zero(weights):
    assert srg(additive(weights), np.full(weights.shape, 0.5)).srg == pytest.approx(0, abs=1e-12)


def test_ties_are_averaged_and_do_not_prefer_a_corner(weights):
    """Two cells matter and lie first, row by row; a map that is zero everywhere but in a third does not find them."""
    only_first = np.zeros_like(weights)
    only_first[0, :2] = 1
    other = np.zeros_like(weights)
    other[2, 4] = 1
    values = [srg(additive(only_first), other, seed=seed).srg for seed in range(20)]
    assert max(abs(value) for value in values) < 0.4
    assert srg(additive(only_first), only_first).srg > 1


def test_random_beside_the_map_is_seeded_and_zero_on_the_average(weights):
    image = additive(weights)
    one, again, other = (srg(image, weights, seed=seed).srg_random for seed in (0, 0, 1))
    assert one == again != other
    spread = np.std([srg(image, weights, seed=seed).srg_random for seed in range(50)])
    assert abs(srg(image, weights, draws=400).srg_random) < 4 * spread / 20
    assert srg(image, weights).srg > 3 * spread


def test_forwards_are_counted_and_shared(weights):
    """Eight steps have seven inner points on each curve; both curves share the two ends."""
    seen = []
    score = sum_of_cells(weights)
    big = white(weights)
    image = PerturbedImage(lambda images: (seen.append(len(images)), score(images))[1], big, (3, 5), batch_size=4)
    assert srg(image, weights, steps=8).forwards == 7 * 2 + 2 + 7 * 2 == sum(seen) == image.forwards
    assert max(seen) == 4
    before = image.forwards
    assert srg(image, weights, steps=8).forwards == 0
    hides(image, weights, share=2 / 8)
    deletion(image, weights)
    assert image.forwards == before
    confirm(image, weights, top=3)
    assert image.forwards <= before + 3


# ---------- SaCo


def plain_saco(weights, grid, groups):
    """SaCo as the paper states it, for the additive score."""
    order = np.argsort(-grid.reshape(-1))
    sums = [grid.reshape(-1)[part].sum() for part in np.split(order, groups)]
    drops = [weights.reshape(-1)[part].sum() for part in np.split(order, groups)]
    inside = total = 0.0
    for i in range(groups):
        for j in range(i + 1, groups):
            weight = sums[i] - sums[j]
            inside += weight if drops[i] >= drops[j] else -weight
            total += abs(weight)
    return inside / total


def test_saco_is_1_for_the_true_map_and_minus_1_for_its_negative(weights):
    image = additive(weights)
    assert saco(image, weights, groups=5) == pytest.approx(1)
    assert saco(image, -weights, groups=5) == pytest.approx(-1)
    assert saco(image, weights * 100, groups=5) == pytest.approx(1)


@pytest.mark.parametrize("groups", [2, 5, 8])
def test_saco_of_a_constant_map_is_zero_also_if_groups_have_unequal_sizes(weights, groups):
    assert saco(additive(weights), np.full(weights.shape, 0.1), groups=groups) == 0
    assert saco(additive(weights), weights, groups=groups) == pytest.approx(1)


def test_saco_is_that_of_a_plain_loop(weights):
    for seed in range(5):
        grid = np.random.default_rng(seed).normal(size=weights.shape)
        for groups in (3, 5, 15):
            assert saco(additive(weights), grid, groups=groups) == pytest.approx(plain_saco(weights, grid, groups))


def test_saco_of_random_maps_is_zero_on_the_average(weights):
    values = [saco(additive(weights), np.random.default_rng(seed).normal(size=(3, 5))) for seed in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 200**0.5


# ---------- confirm, hides


def test_confirm_names_cells_whose_loss_does_not_lower_the_score(weights):
    claimed = np.abs(weights)
    found = confirm(additive(weights), claimed, top=6)
    ranked = [tuple(np.unravel_index(cell, weights.shape)) for cell in np.argsort(-claimed.reshape(-1))[:6]]
    assert found.cells == tuple(ranked)
    assert found.drops == pytest.approx([weights[cell] for cell in ranked])
    assert found.confirmed == tuple(weights[cell] > 0 for cell in ranked)
    assert found.unconfirmed == tuple(cell for cell in ranked if weights[cell] < 0) != ()
    assert len(confirm(additive(weights), claimed, top=99).cells) == 15


def test_hides_compares_with_random_cells_and_says_so_in_words():
    weights = np.full((4, 4), 0.01)
    weights[1, :] = 0.2
    found = hides(additive(weights), weights, draws=200)
    assert (found.before, found.after) == pytest.approx((0.92, 0.12))
    assert found.random == pytest.approx(0.92 * 0.75, abs=0.03)
    assert str(found).startswith("hides the 25 % most important patches: 0.92 → 0.12; random 25 %: 0.92 → 0.6")


# ---------- what is refused


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_is_refused(weights, value):
    weights[1, 1] = value
    for measure in (deletion, insertion, srg, saco, confirm, hides):
        with pytest.raises(ValueError, match="not finite"):
            measure(additive(np.ones((3, 5))), weights)


def test_what_does_not_fit_is_refused_by_name(weights):
    image = white(weights)
    with pytest.raises(ValueError, match=r"grid: shape \[5, 3\].*\[3, 5\] cells"):
        srg(additive(weights), weights.T)
    with pytest.raises(ValueError, match=r"size=\(13, 5\).*12 x 20 pixels"):
        PerturbedImage(sum_of_cells(weights), image, (13, 5))
    with pytest.raises(ValueError, match="baseline='grey'"):
        PerturbedImage(sum_of_cells(weights), image, (3, 5), baseline="grey")
    with pytest.raises(ValueError, match=r"baseline: shape \[3, 2, 2\]"):
        PerturbedImage(sum_of_cells(weights), image, (3, 5), baseline=torch.zeros(3, 2, 2))
    with pytest.raises(ValueError, match=r"image: shape \[1, 3, 12, 20\]"):
        PerturbedImage(sum_of_cells(weights), image[None], (3, 5))
    with pytest.raises(ValueError, match=r"score: it gave shape \[9, 2\]"):
        deletion(PerturbedImage(lambda images: images.new_zeros(len(images), 2), image, (3, 5)), weights)
    with pytest.raises(ValueError, match="score: it gave a value that is not finite"):
        deletion(PerturbedImage(lambda images: images.new_zeros(len(images)) / 0, image, (3, 5)), weights)


def test_a_score_keeps_no_graph(weights):
    parameter = torch.ones((), dtype=torch.double, requires_grad=True)
    score = sum_of_cells(weights)
    seen = []
    image = PerturbedImage(lambda images: seen.append(score(images) * parameter) or seen[-1], white(weights), (3, 5))
    deletion(image, torch.from_numpy(weights).requires_grad_())
    assert not any(scores.requires_grad for scores in seen)
