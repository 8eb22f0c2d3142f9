"""Measures of a map with a mask: against scikit-learn and plain loops over pixels."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from modeling_vit_custom.explanation.localisation import (
    average_precision,
    cell_shares,
    discrimination,
    hits,
    iou_at_area,
)


def blob(height, width, top, left, bottom, right):
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def enlarged(grid, height, width):
    """Return a map [h, w] at [H, W], without interpolation."""
    rows, columns = np.arange(height) * grid.shape[0] // height, np.arange(width) * grid.shape[1] // width
    return grid[rows][:, columns]


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize(("height", "width", "size"), [(24, 32, (6, 8)), (25, 31, (6, 8)), (9, 7, (9, 7))])
def test_average_precision_is_scikit_learns_on_pixels(levels, height, width, size):
    draw = np.random.default_rng(levels)
    grid = draw.integers(0, levels, size) / levels - 0.3
    mask = blob(height, width, 2, 1, 8, 6)
    expected = average_precision_score(mask.ravel(), enlarged(grid, height, width).ravel())
    assert average_precision(grid, mask) == pytest.approx(expected)
    assert average_precision(torch.tensor(grid), torch.tensor(mask)) == pytest.approx(expected, abs=1e-6)


def test_a_map_of_the_object_itself_is_perfect_and_its_negative_is_the_worst():
    mask = blob(24, 32, 4, 8, 12, 20)
    shares = cell_shares(mask, (6, 8))
    other = blob(24, 32, 16, 24, 20, 32)
    assert average_precision(shares, mask) == hits(shares, mask) == iou_at_area(shares, mask) == 1
    assert discrimination(shares, mask, other) == 1
    assert hits(-shares, mask) == iou_at_area(-shares, mask) == discrimination(-shares, mask, other) == 0
    assert average_precision(-shares, mask) == mask.mean(), "all of it is found last, at once"


def test_a_constant_map_is_worth_what_chance_is():
    mask, other = blob(24, 32, 4, 8, 12, 20), blob(24, 32, 16, 24, 20, 32)
    grid = np.zeros((6, 8))
    assert average_precision(grid, mask) == pytest.approx(mask.mean())
    assert hits(grid, mask) == pytest.approx((cell_shares(mask, (6, 8)) > 0).mean())
    assert discrimination(grid, mask, other) == 0.5
    assert iou_at_area(grid, mask) == pytest.approx(mask.mean() / (2 - mask.mean()))


def test_pointing_counts_a_cell_that_the_object_only_touches():
    mask = blob(8, 8, 3, 3, 5, 5)
    grid = np.zeros((2, 2))
    grid[1, 1] = 1
    assert cell_shares(mask, (2, 2))[1, 1] == 1 / 16
    assert hits(grid, mask) == 1


def test_discrimination_weighs_cells_by_the_pixels_of_the_object():
    grid = np.array([[4.0, 0.0], [2.0, 2.0]])
    mostly_zero = blob(8, 8, 0, 3, 2, 8)  # 1 of 5 columns under the cell of 4
    assert discrimination(grid, mostly_zero, blob(8, 8, 6, 0, 8, 8)) == 0
    assert discrimination(grid, blob(8, 8, 0, 0, 2, 6), blob(8, 8, 6, 0, 8, 8)) == 1


def test_iou_takes_as_many_pixels_as_the_object_has():
    """Without ties: the object has the area of two and a half cells, and the third one counts by half."""
    mask = blob(8, 8, 0, 0, 4, 8) | blob(8, 8, 4, 0, 6, 4)
    grid = np.array([[3.0, 0.0], [2.0, 1.0]])
    taken_inside = 16 + 8 + 0
    assert iou_at_area(grid, mask) == pytest.approx(taken_inside / (2 * 40 - taken_inside))


def test_what_has_no_answer_is_refused_by_name():
    mask = blob(8, 8, 0, 0, 4, 4)
    with pytest.raises(ValueError, match="mask: it is empty"):
        average_precision(np.zeros((2, 2)), mask & False)
    with pytest.raises(ValueError, match=r"mask: uint8 of shape \[8, 8\]"):
        hits(np.zeros((2, 2)), mask.astype(np.uint8))
    with pytest.raises(ValueError, match=r"\[9, 2\] cells for a mask of \[8, 8\] pixels"):
        iou_at_area(np.zeros((9, 2)), mask)
    with pytest.raises(ValueError, match="not finite"):
        discrimination(np.full((2, 2), np.nan), mask, mask)
