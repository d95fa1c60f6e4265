"""The figures of a report's page as inline SVG: the interval of the ratio, and the loss differences by window.

Coordinates are sums, differences and quotients rounded to a tenth, so that they are the same on every platform.
"""

from __future__ import annotations

from collections.abc import Sequence

from invarlock.pages.markup import Markup, element, join

WIDTH = 480
INTERVAL_HEIGHT = 92
WINDOWS_HEIGHT = 190
# More bars than this could not be distinguished; with more windows, a bar combines several windows.
MAX_BARS = 240
# The margins of the drawing: right and top, left for numbers, and bottom for numbers and the name of the axis.
MARGIN = 10.0
LEFT = 58.0
BELOW = 36.0
BAR_SHARE = 0.7
# An axis has at most this many ticks.
MAX_TICKS = 6
# Larger ratios are drawn as this value, since their value in per cent would overflow.
LARGEST = 1e290
# Steps between ticks are 1, 2 or 5 times a power of ten with one of these exponents.
EXPONENTS = range(-9, 7)


def interval_figure(ratio: float, low: float, high: float, limit: float) -> Markup:
    """Return a figure of the change and its interval, in per cent, relative to no change and to the limit."""
    change, first, last, most = (100.0 * (min(value, LARGEST) - 1.0) for value in (ratio, low, high, limit))
    values = (0.0, change, first, last, most)
    least, largest = min(values), max(values)
    room = (largest - least) * 0.08 or 0.05
    scale = _Scale(least - room, largest + room, MARGIN, WIDTH - MARGIN)
    bottom = INTERVAL_HEIGHT - BELOW
    middle = (bottom + 18.0) / 2
    holds = ratio <= limit and high <= limit
    ticks = [
        part
        for tick in _ticks(least - room, largest + room)
        for part in (
            _line(scale(tick), bottom, scale(tick), bottom + 4.0, "axis"),
            _label(scale(tick), bottom + 16.0, f"{tick:+g} %" if tick else "0"),
        )
    ]
    return element(
        "svg",
        _line(MARGIN, bottom, WIDTH - MARGIN, bottom, "axis"),
        *ticks,
        _line(scale(0.0), 18.0, scale(0.0), bottom, "axis"),
        _line(scale(most), 18.0, scale(most), bottom, "limit"),
        _line(scale(first), middle, scale(last), middle, "range" if holds else "range beyond"),
        element(
            "circle", cx=_shown(scale(change)), cy=_shown(middle), r=6, class_="point" if holds else "point beyond"
        ),
        _label(scale(most), 13.0, f"limit {most:+.4g} %", scale(most)),
        _label(WIDTH / 2, INTERVAL_HEIGHT - 5.0, "change of perplexity"),
        viewBox=f"0 0 {WIDTH} {INTERVAL_HEIGHT}",
        role="img",
        aria_label=f"change {change:+.4g} %, interval {first:+.4g} % to {last:+.4g} %, limit {most:+.4g} %",
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
        # the limit is included only if it is near, since a distant limit would flatten the bars
        top = max(top, limit)
    height = (top - bottom) or 1.0
    ends = (bottom - 0.04 * height, top + 0.04 * height)
    scale = _Scale(*ends, WINDOWS_HEIGHT - BELOW, MARGIN)
    count = -(-len(differences) // each)
    step = (WIDTH - LEFT - MARGIN) / count
    within: list[str] = []
    beyond: list[str] = []
    zero = _shown(scale(0.0))
    for place, least, most in bars:
        path = beyond if limit is not None and most > limit else within
        # most bars start at zero
        low = f"{scale(least):.1f}" if least else zero
        high = f"{scale(most):.1f}" if most else zero
        path.append(f"M{LEFT + (place + 0.5) * step:.1f} {low}V{high}")
    width = _shown(max(1.0, BAR_SHARE * step))
    # the path is not escaped: it exceeds the length limit of texts, and contains only numbers
    drawn = [
        Markup(f'<path class="{name}" stroke-width="{width}" d="{"".join(path)}"/>')
        for path, name in ((within, "bars"), (beyond, "bars beyond"))
        if path
    ]
    lines = [_line(LEFT, scale(0.0), WIDTH - MARGIN, scale(0.0), "axis")]
    for tick in _ticks(*ends):
        lines += [
            _line(LEFT - 4.0, scale(tick), LEFT, scale(tick), "axis"),
            _label(LEFT - 7.0, scale(tick) + 4.0, f"{tick:g}", anchor="end"),
        ]
    lines.append(_line(LEFT, MARGIN, LEFT, WINDOWS_HEIGHT - BELOW, "axis"))
    if limit is not None and top >= limit:
        lines.append(_line(LEFT, scale(limit), WIDTH - MARGIN, scale(limit), "limit"))
        lines.append(_label(WIDTH - MARGIN, scale(limit) - 3.0, f"limit {limit:g}", anchor="end"))
    under = WINDOWS_HEIGHT - BELOW + 15.0
    lines += [
        _label(LEFT, under, "1"),
        _label(WIDTH - MARGIN, under, str(len(differences)), anchor="end"),
        _label((LEFT + WIDTH) / 2, WINDOWS_HEIGHT - 5.0, "window; left: nats a token"),
    ]
    figure = element(
        "svg",
        join(drawn),
        join(lines),
        viewBox=f"0 0 {WIDTH} {WINDOWS_HEIGHT}",
        role="img",
        aria_label="loss differences by window",
    )
    return figure, each


def _ticks(first: float, last: float) -> list[float]:
    """Return the ticks of an axis from ``first`` to ``last``; none for a range beyond the supported exponents.

    Only comparisons, divisions and multiplications are used, so that the ticks are the same on every platform.
    """
    for exponent in EXPONENTS:
        for digit in (1, 2, 5):
            step = float(f"{digit}e{exponent}")
            if (last - first) / step <= MAX_TICKS:
                start = -(-first // step)
                return [(start + number) * step for number in range(MAX_TICKS + 1) if (start + number) * step <= last]
    return []


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


def _label(x: float, y: float, label: str, edge: float | None = None, anchor: str = "middle") -> Markup:
    """Return a text label; if its middle is close to an edge of the drawing, it starts or ends there."""
    if edge is not None:
        anchor = "end" if edge > WIDTH - 60 else "start" if edge < 60 else "middle"
    return element("text", label, x=_shown(x), y=_shown(y), text_anchor=anchor)
