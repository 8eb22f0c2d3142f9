"""Resizing by matrices equals `F.interpolate` in float64, and resized patch kernels give the same embeddings."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from modeling_vit_custom.interpolation_vit_custom import (
    RESIZE_RULES,
    ResizeRule,
    resize_channels,
    resize_grid,
    resize_matrix,
    resize_patch_kernel,
)

MODES = [ResizeRule(kernel) for kernel in ("nearest", "nearest-exact", "area", "bilinear", "bicubic")]
MODES += [ResizeRule(kernel, antialias=True) for kernel in ("bilinear", "bicubic")]
MODES += [ResizeRule(kernel, align_corners=True) for kernel in ("bilinear", "bicubic")]
SIZES = [(14, 14), (16, 24), (7, 5), (3, 9), (28, 2)]


def interpolate(table: torch.Tensor, size: tuple[int, int], rule: ResizeRule) -> torch.Tensor:
    """Return torch's result for a [h, w, D] table."""
    options = {}
    if rule.kernel in ("bilinear", "bicubic"):
        options = {"antialias": rule.antialias, "align_corners": rule.align_corners}
    return F.interpolate(table.permute(2, 0, 1)[None], size=size, mode=rule.kernel, **options)[0].permute(1, 2, 0)


@pytest.mark.parametrize("rule", MODES, ids=str)
def test_every_mode_is_exact_in_float64(rule):
    for (h, w), size in itertools.product([(14, 14), (7, 11), (1, 9), (5, 1)], SIZES):
        table = torch.randn(h, w, 3, dtype=torch.float64)
        torch.testing.assert_close(resize_grid(table, size, rule), interpolate(table, size, rule), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", MODES, ids=str)
def test_one_column_grids_follow_the_one_row_ones(rule):
    """torch's antialiased modes are wrong if the output has one column, so the transposed case is the reference."""
    column = torch.randn(14, 1, 3, dtype=torch.float64)
    expected = interpolate(column.transpose(0, 1), (1, 9), rule).transpose(0, 1)
    torch.testing.assert_close(resize_grid(column, (9, 1), rule), expected, rtol=0, atol=1e-12)


def test_offset_rule_is_dino_scale_factor():
    table = torch.randn(37, 37, 2, dtype=torch.float64)
    expected = F.interpolate(table.permute(2, 0, 1)[None], scale_factor=(16.1 / 37, 24.1 / 37), mode="bicubic")
    resized = resize_grid(table, (16, 24), RESIZE_RULES["bicubic_offset"])
    torch.testing.assert_close(resized, expected[0].permute(1, 2, 0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", RESIZE_RULES)
def test_rows_sum_to_one_and_equal_sizes_are_the_identity(name):
    rule = RESIZE_RULES[name]
    for n, m in [(14, 9), (9, 14), (1, 5), (5, 1)]:
        torch.testing.assert_close(resize_matrix(n, m, rule).sum(1), torch.ones(m, dtype=torch.float64))
    if not rule.offset:
        torch.testing.assert_close(resize_matrix(7, 7, rule), torch.eye(7, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (ResizeRule("lanczos"), "lanczos"),
        (ResizeRule("area", antialias=True), "area"),
        (ResizeRule("bicubic", antialias=True, align_corners=True), "exclude"),
    ],
)
def test_rules_that_mean_nothing_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        resize_matrix(4, 8, rule)


@pytest.mark.parametrize("size", [(16, 16), (12, 32), (8, 9)])
def test_larger_patches_embed_exactly_as_before(size):
    """Resizing patches and kernel together does not change the embeddings (FlexiViT's criterion)."""
    kernel = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    patches = torch.randn(20, 3, 8, 8, dtype=torch.float64)
    resized = F.interpolate(patches, size=size, mode="bilinear")
    before = torch.einsum("ncpq,dcpq->nd", patches, kernel)
    after = torch.einsum("ncpq,dcpq->nd", resized, resize_patch_kernel(kernel, size))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)


def test_smaller_patches_are_the_least_squares_answer():
    """No kernel of the new size comes closer: the residual is orthogonal to all of them."""
    kernel = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    small = resize_patch_kernel(kernel, (4, 6))
    rows, columns = (resize_matrix(8, m, RESIZE_RULES["bilinear"]) for m in (4, 6))
    residual = torch.einsum("yp,dcyx,xq->dcpq", rows, small, columns) - kernel
    projected = torch.einsum("yp,dcpq,xq->dcyx", rows, residual, columns)
    torch.testing.assert_close(projected, torch.zeros_like(projected), rtol=0, atol=1e-10)


def test_grey_images_embed_alike_in_any_number_of_channels():
    kernel = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    grey = torch.randn(7, 1, 4, 4, dtype=torch.float64)
    expected = F.conv2d(grey.expand(-1, 3, -1, -1), kernel)
    for channels in (1, 3, 6):
        actual = F.conv2d(grey.expand(-1, channels, -1, -1), resize_channels(kernel, channels))
        torch.testing.assert_close(actual, expected)
