"""Charts as pixels and texts; a macro in charts.html.j2 draws them as SVG: crisp, small, in the page's own colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 468, 24, 212  # edges of the plot, in pixels of the drawing
BUCKETS = 250  # of points in a long line; each keeps its lowest and highest


@dataclass(frozen=True)
class Series:
    """A line of y over x, drawn in the page's colour `style`; `dots` marks its points, `line` joins them."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str
    dots: bool = False
    line: bool = True


@dataclass(frozen=True)
class Axis:
    """An axis that maps values from `low` to `high` to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def pixels(self, values: Sequence[float]) -> list[float]:
        share = (np.asarray(values, np.float64) - self.low) / (self.high - self.low)
        return np.round(self.start + share * (self.end - self.start), 1).tolist()

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """Return about `count` round numbers within the axis, as (pixel, text)."""
        step = round_step((self.high - self.low) / count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [round(i * step, 12) for i in range(first, last + 1)]
        return list(zip(self.pixels(values), map(short, values), strict=True))


@dataclass(frozen=True)
class Bar:
    """A bar over `width` pixels from `x`, `height` pixels up from the bottom.

    text: shown when pointed at.   label: text above it.   whisker: [bottom, top] pixels of an interval.
    """

    x: float
    width: float
    height: float
    text: str
    label: str
    whisker: list[float] | None


@dataclass(frozen=True)
class Line:
    """points: of an SVG polyline.   x, y: the values there, as text.   dots: (x, y) pixels."""

    name: str
    style: str
    points: str
    x: str
    y: str
    dots: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Everything that is drawn.   x_, y_, top_ticks: (pixel, text).   marked: (pixel, text) of a vertical line."""

    title: str
    x_name: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    top_name: str = ""
    top_ticks: list[tuple[float, str]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    diagonal: str = ""
    marked: tuple[float, str] | None = None
    readable: bool = False


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else f"{value:.6g}"


def round_step(step: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def span(values: Sequence[float], margin: float = 0.04) -> tuple[float, float]:
    """Return (low, high) with a margin, never empty; low is 0 if the smallest value is near 0."""
    low, high = min(values), max(values)
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low <= (high - low) else low - room), high + room


def thinned(x: Sequence[float], y: Sequence[float], buckets: int = BUCKETS) -> tuple[list[float], list[float]]:
    """Return the points with finite y, at most about 2 * `buckets` of them.

    Of a longer line the first, the last, and those with the lowest and highest y in each bucket of points are kept.
    """
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
    if len(points) > 2 * buckets:
        kept: list[tuple[float, float]] = []
        for part in np.array_split(np.arange(len(points)), buckets):
            ends = {extreme(part.tolist(), key=lambda i: points[i][1]) for extreme in (min, max)}
            kept += [points[i] for i in sorted(ends)]
        points = [points[0], *kept, points[-1]]
    return [a for a, _ in points], [b for _, b in points]


def line_chart(
    title: str,
    series: Sequence[Series],
    x_name: str = "step",
    *,
    epochs_per_step: float | None = None,
    marked: tuple[float, str] | None = None,
    x_limits: tuple[float, float] | None = None,
    y_limits: tuple[float, float] | None = None,
    diagonal: bool = False,
) -> Chart | None:
    """Return a chart of lines over one axis, or None if there is nothing to draw.

    epochs_per_step: if given, epochs run along the top.   marked: a value of x and its text.   diagonal: also draw y =
    x, for axes with the same limits.
    """
    thin = [(one, *thinned(one.x, one.y)) for one in series]
    thin = [(one, x, y) for one, x, y in thin if x]
    if not thin:
        return None
    low, high = x_limits or (0.0, max(max(x) for _, x, _ in thin) or 1.0)
    across = Axis(low, high, LEFT, RIGHT)
    up = Axis(*(y_limits or span([value for _, _, y in thin for value in y])), BOTTOM, TOP)
    lines = []
    for one, x, y in thin:
        places = list(zip(across.pixels(x), up.pixels(y), strict=True))
        lines.append(
            Line(
                one.name,
                one.style,
                " ".join(f"{a:g},{b:g}" for a, b in places) if one.line else "",
                " ".join(f"{value:g}" for value in x),
                " ".join(f"{value:.4g}" for value in y),
                places if one.dots or len(x) == 1 else [],
            )
        )
    epochs = Axis(low * epochs_per_step, high * epochs_per_step, LEFT, RIGHT) if epochs_per_step else None
    return Chart(
        title,
        x_name,
        across.ticks(),
        up.ticks(),
        "epoch" if epochs else "",
        epochs.ticks() if epochs else [],
        lines,
        diagonal=f"M{LEFT} {BOTTOM}L{RIGHT} {TOP}" if diagonal else "",
        marked=marked and (across.pixels([marked[0]])[0], marked[1]),
        readable=any(line.points for line in lines),
    )


def bar_chart(
    title: str,
    heights: Sequence[float],
    texts: Sequence[str],
    x_name: str,
    *,
    labels: Sequence[str] = (),
    intervals: Sequence[tuple[float, float] | None] = (),
    y_limits: tuple[float, float] | None = None,
    diagonal: bool = False,
) -> Chart:
    """Return a chart of equally wide bars over x from 0 to 1, each with a text on hover, a label and an interval."""
    across, up = Axis(0, 1, LEFT, RIGHT), Axis(*(y_limits or (0.0, max(*heights, 1) * 1.05)), BOTTOM, TOP)
    edges = across.pixels(np.linspace(0, 1, len(heights) + 1).tolist())
    whiskers = [ends and up.pixels(ends) for ends in intervals or [None] * len(heights)]
    bars = [
        Bar(round(left + 1, 1), round(right - left - 2, 1), round(BOTTOM - top, 1), text, label, whisker)
        for left, right, top, text, label, whisker in zip(
            edges[:-1], edges[1:], up.pixels(heights), texts, labels or [""] * len(heights), whiskers, strict=True
        )
    ]
    line = f"M{LEFT} {BOTTOM}L{RIGHT} {TOP}" if diagonal else ""
    return Chart(title, x_name, across.ticks(), up.ticks(), bars=bars, diagonal=line)
