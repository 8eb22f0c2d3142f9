"""Charts: every value is at its place, ticks are round, and long lines are thinned but keep their extremes."""

import math

import numpy as np
import pytest

from modeling_vit_custom.reporting.charts import (
    BOTTOM,
    BUCKETS,
    LEFT,
    RIGHT,
    TOP,
    Axis,
    Series,
    bar_chart,
    line_chart,
    thinned,
)


def test_a_line_passes_through_its_values():
    chart = line_chart("loss", [Series("training", [0, 50, 100], [2.0, 1.0, 0.0], "train", dots=True)], y_limits=(0, 2))
    assert chart is not None and chart.readable
    assert chart.lines[0].points == f"{LEFT},{TOP} {(LEFT + RIGHT) / 2:g},{(TOP + BOTTOM) / 2:g} {RIGHT},{BOTTOM}"
    assert (chart.lines[0].x, chart.lines[0].y) == ("0 50 100", "2 1 0") and len(chart.lines[0].dots) == 3
    assert chart.x_ticks[0] == (LEFT, "0") and chart.x_ticks[-1] == (RIGHT, "100")


def test_epochs_run_along_the_top_and_a_step_is_marked():
    series = [Series("a", [20, 40], [1, 2], "train")]
    chart = line_chart("a", series, epochs_per_step=0.1, marked=(20, "best"))
    assert chart is not None
    assert chart.top_ticks == [(pixel, f"{int(text) // 10}") for pixel, text in chart.x_ticks if int(text) % 10 == 0]
    assert chart.marked == ((LEFT + RIGHT) / 2, "best")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.97, 0.981), (-3, 2e6), (0, 3e-5), (0, 1237)])
def test_ticks_are_round_few_and_inside(low, high):
    ticks = Axis(low, high, 0, 100).ticks()
    values = [float(text.replace(",", "")) for _, text in ticks]
    assert 2 <= len(ticks) <= 7 and low <= values[0] and values[-1] <= high * (1 + 1e-9)
    steps = np.diff(values)
    assert np.allclose(steps, steps[0])
    assert f"{steps[0]:e}"[0] in "125" and all(0 <= pixel <= 100 for pixel, _ in ticks)
    assert [pixel for pixel, _ in ticks] == Axis(low, high, 0, 100).pixels(values)


def test_a_long_line_keeps_its_ends_and_extremes():
    y = np.random.default_rng(0).normal(size=100_000)
    y[41_234], y[7] = 99, -99
    x, kept = thinned(range(len(y)), y.tolist())
    assert len(kept) <= 2 * BUCKETS + 2 and max(kept) == 99 and min(kept) == -99
    assert (x[0], x[-1]) == (0, len(y) - 1) and x == sorted(x) and all(y[a] == b for a, b in zip(x, kept, strict=True))


def test_what_is_no_number_is_not_drawn():
    assert line_chart("loss", [Series("a", [1, 2], [math.nan, math.inf], "train")]) is None
    assert line_chart("loss", []) is None
    chart = line_chart("loss", [Series("a", [1, 2, 3], [1.0, math.nan, 1.0], "train")])
    assert chart is not None and chart.lines[0].y == "1 1", "a constant must have an axis too"
    single = line_chart("loss", [Series("a", [5], [0.0], "train")])
    assert single is not None and len(single.lines[0].dots) == 1, "one point must be a dot"


def test_bars_stand_on_the_axis():
    chart = bar_chart(
        "b", [0.0, 0.5, 1.0], ["x", "y", "z"], "c", intervals=[None, (0.25, 0.75), (0.5, 1.0)], y_limits=(0, 1)
    )
    full = BOTTOM - TOP
    assert [bar.height for bar in chart.bars] == [0, full / 2, full]
    assert [bar.whisker for bar in chart.bars] == [None, [BOTTOM - full / 4, TOP + full / 4], [TOP + full / 2, TOP]]
