"""Colours of maps: even to the eye, and safe for colour-blind readers."""

import numpy as np
import pytest

from modeling_vit_custom.explanation.colours import DIVERGING, SEQUENTIAL, coloured, scale_of, share_of_scale

# Machado, Oliveira and Fernandes 2009, severity 1.0, for linear RGB.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)
D65 = np.array([0.95047, 1.0, 1.08883])


def linear(colours: np.ndarray) -> np.ndarray:
    share = colours / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    """Return CIELAB [..., 3] of linear sRGB (IEC 61966-2-1, white D65)."""
    part = np.clip(light, 0, 1) @ TO_XYZ.T / D65
    root = np.where(part > 216 / 24389, np.cbrt(part), (24389 / 27 * part + 16) / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def steps(colours: np.ndarray) -> np.ndarray:
    """Return the difference of neighbours in CIELAB."""
    return np.linalg.norm(np.diff(lab(linear(colours)), axis=0), axis=1)


def test_lightness_of_the_sequential_table_rises_in_equal_steps():
    rise = np.diff(lab(linear(SEQUENTIAL))[:, 0])
    assert len(SEQUENTIAL) == 16
    assert rise.min() > 0.94 * rise.mean() and rise.max() < 1.06 * rise.mean()
    assert lab(linear(SEQUENTIAL))[0, 0] < 20 and lab(linear(SEQUENTIAL))[-1, 0] > 90


def test_neighbours_differ_equally_to_the_eye():
    assert steps(SEQUENTIAL).max() < 1.1 * steps(SEQUENTIAL).min()
    for side in (DIVERGING[:9], DIVERGING[8:]):
        assert steps(side).max() < 1.15 * steps(side).min()


def test_the_sides_of_the_diverging_table_are_mirrored_about_white():
    lightness, a, b = lab(linear(DIVERGING)).T
    np.testing.assert_allclose(lightness, lightness[::-1], atol=0.5)
    fall = np.diff(lightness[8:])
    assert fall.max() < 0 and fall.min() > 1.15 * fall.mean()
    assert lightness[8] > 95 and np.hypot(a, b)[8] < 1
    assert b[0] < -35 and b[-1] > 35, "blue against, orange for"


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colour_blind_readers_see_the_same_order(blindness):
    seen = lab(linear(SEQUENTIAL) @ np.array(BLINDNESS[blindness]).T)
    assert np.diff(seen[:, 0]).min() > 2
    assert np.linalg.norm(np.diff(seen, axis=0), axis=1).min() > 2.5, "more than the eye needs, 2.3"
    both = lab(linear(DIVERGING) @ np.array(BLINDNESS[blindness]).T)
    apart = np.linalg.norm(both[:8] - both[:8:-1], axis=1)
    assert apart.min() > 5 and apart[0] > 40, "for and against stay apart"
    assert np.diff(both[:9, 0]).min() > 0 > np.diff(both[8:, 0]).max()


def test_colours_between_entries_are_interpolated():
    assert (coloured(np.linspace(0, 1, 16)).round() == SEQUENTIAL).all()
    assert (coloured(np.linspace(-1, 1, 17), signed=True).round() == DIVERGING).all()
    np.testing.assert_allclose(coloured(np.array(0.5 / 15)), (SEQUENTIAL[0].astype(float) + SEQUENTIAL[1]) / 2)


def test_the_scale_is_a_percentile_of_what_is_positive():
    grid = np.concatenate([np.linspace(0.01, 1, 100), np.zeros(50), np.full(50, -7.0)]).reshape(10, 20)
    assert scale_of(grid) == pytest.approx(np.percentile(np.linspace(0.01, 1, 100), 99))
    assert scale_of(grid, signed=True) == pytest.approx(7)
    assert scale_of(grid, 3 * grid) > scale_of(grid)
    assert scale_of(-np.abs(grid)) == 0


def test_one_outlier_does_not_darken_the_rest():
    grid = np.random.default_rng(0).random((14, 14))
    with_outlier = grid.copy()
    with_outlier[3, 3] = 1000
    assert scale_of(with_outlier) < 1.1 * scale_of(grid)


def test_shares_are_clipped_at_both_ends():
    grid = np.array([[-3.0, -1.0, 0.0, 1.0, 3.0]])
    assert share_of_scale(grid, 2).tolist() == [[0, 0, 0, 0.5, 1]]
    assert share_of_scale(grid, 2, signed=True).tolist() == [[-1, -0.5, 0, 0.5, 1]]
    assert share_of_scale(grid, 0).tolist() == [[0] * 5]
