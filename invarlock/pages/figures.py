"""The figures of a report's page as inline SVG: the interval of the ratio, and the loss differences by window.

Coordinates are sums, differences and quotients rounded to a tenth, so that they are the same on every platform.
"""

from __future__ import annotations

from collections.abc import Sequence

from invarlock.pages.markup import Markup, element, join

WIDTH = 720
INTERVAL_HEIGHT = 64
WINDOWS_HEIGHT = 150
# More bars than this could not be distinguished; beyond it a bar combines several windows.
MAX_BARS = 240
# The margins left and right of the drawing, and above and below.
MARGIN = 8.0
BAR_SHARE = 0.7


def interval_figure(ratio: float, low: float, high: float, limit: float) -> Markup:
    """Return a figure of the ratio and its interval relative to 1 and the limit."""
    values = (1.0, ratio, low, high, limit)
    first, last = min(values), max(values)
    room = (last - first) * 0.08 or 0.05
    scale = _Scale(first - room, last + room, MARGIN, WIDTH - MARGIN)
    middle = INTERVAL_HEIGHT / 2
    holds = ratio <= limit and high <= limit
    return element(
        "svg",
        _line(scale(1.0), 14.0, scale(1.0), INTERVAL_HEIGHT - 14.0, "axis"),
        _line(scale(limit), 14.0, scale(limit), INTERVAL_HEIGHT - 14.0, "limit"),
        _line(MARGIN, middle, WIDTH - MARGIN, middle, "axis"),
        _line(scale(low), middle, scale(high), middle, "range" if holds else "range beyond"),
        element("circle", cx=_shown(scale(ratio)), cy=_shown(middle), r=6, class_="point" if holds else "point beyond"),
        _label(scale(1.0), INTERVAL_HEIGHT - 2.0, "1"),
        _label(scale(limit), 10.0, f"limit {limit:g}"),
        viewBox=f"0 0 {WIDTH} {INTERVAL_HEIGHT}",
        role="img",
        aria_label=f"ratio {ratio:.6g}, interval {low:.6g} to {high:.6g}, limit {limit:g}",
    )


def window_figure(differences: Sequence[float | None], limit: float | None) -> tuple[Markup, int]:
    """Return a figure with bars of loss differences in window order, and the number of windows per bar.

    A bar of several windows spans their smallest and largest values and zero; windows that are not finite have no bar.

    Args:
        differences: subject minus baseline, None if a loss is not finite; at least one is finite.
        limit: the limit of the tail, drawn as a line; None if the tail was not judged.
    """
    each = -(-len(differences) // MAX_BARS)
    bars: list[tuple[int, float, float]] = []
    for start in range(0, len(differences), each):
        known = [value for value in differences[start : start + each] if value is not None]
        if known:
            bars.append((start // each, min(0.0, *known), max(0.0, *known)))
    top = max(bar[2] for bar in bars)
    bottom = min(bar[1] for bar in bars)
    if limit is not None and top > limit / 4:
        # a distant limit would flatten the bars
        top = max(top, limit)
    height = (top - bottom) or 1.0
    scale = _Scale(bottom - 0.04 * height, top + 0.04 * height, WINDOWS_HEIGHT - MARGIN, MARGIN)
    step = (WIDTH - 2 * MARGIN) / -(-len(differences) // each)
    within: list[str] = []
    beyond: list[str] = []
    zero = _shown(scale(0.0))
    for place, least, most in bars:
        path = beyond if limit is not None and most > limit else within
        # most bars start at zero
        low = f"{scale(least):.1f}" if least else zero
        high = f"{scale(most):.1f}" if most else zero
        path.append(f"M{MARGIN + (place + 0.5) * step:.1f} {low}V{high}")
    width = _shown(max(1.0, BAR_SHARE * step))
    # a path exceeds the length limit of texts, and contains only numbers
    drawn = [
        Markup(f'<path class="{name}" stroke-width="{width}" d="{"".join(path)}"/>')
        for path, name in ((within, "bars"), (beyond, "bars beyond"))
        if path
    ]
    lines = [_line(MARGIN, scale(0.0), WIDTH - MARGIN, scale(0.0), "axis")]
    if limit is not None and top >= limit:
        lines.append(_line(MARGIN, scale(limit), WIDTH - MARGIN, scale(limit), "limit"))
    figure = element(
        "svg",
        join(drawn),
        join(lines),
        viewBox=f"0 0 {WIDTH} {WINDOWS_HEIGHT}",
        role="img",
        aria_label="loss differences by window",
    )
    return figure, each


class _Scale:
    """A linear map from values to coordinates."""

    def __init__(self, first: float, last: float, start: float, end: float) -> None:
        self._first, self._start = first, start
        self._factor = (end - start) / (last - first)

    def __call__(self, value: float) -> float:
        return self._start + (value - self._first) * self._factor


def _shown(value: float) -> str:
    return f"{value:.1f}"


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> Markup:
    return element("line", x1=_shown(x1), y1=_shown(y1), x2=_shown(x2), y2=_shown(y2), class_=name)


def _label(x: float, y: float, label: str) -> Markup:
    return element("text", label, x=_shown(x), y=_shown(y), text_anchor="middle")
