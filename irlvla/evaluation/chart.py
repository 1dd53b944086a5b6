"""Small charts as inline SVG that follow the page's colours: lines over training steps, and intervals in a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from irlvla.evaluation.bootstrap import Interval

Array = NDArray[np.float64]

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 40, 40
INK, GRID = "var(--ink-soft,#5b6472)", "var(--rule,#e3e6ea)"


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    x: Array
    y: Array
    """Same length as x; points that are not finite interrupt nothing, they are left out."""
    colour: str
    noisy: bool = False
    """Draw the values faintly and their running mean on top."""


def line_chart(series: Sequence[Series], *, title: str, x_label: str = "step", percent: bool = False) -> str:
    """Lines over a common horizontal axis.

    Args:
        series: At least one finite point between them, else the chart is empty text.
        title: Shown above.
        x_label: Shown below.
        percent: Values are shares; the axis shows points out of 100.
    """
    shown = [(s, *_finite(s)) for s in series]
    shown = [(s, x, y) for s, x, y in shown if len(x)]
    if not shown:
        return ""
    x_all, y_all = np.concatenate([x for _, x, _ in shown]), np.concatenate([y for _, _, y in shown])
    x_ticks = nice_ticks(float(x_all.min()), float(x_all.max()), 5)
    # One early spike would flatten the rest of the line against the axis.
    high = float(min(y_all.max(), np.quantile(y_all, 0.98) * 1.3)) if y_all.min() >= 0 else float(y_all.max())
    low = float(y_all.min())
    # A constant line still needs an axis to stand on.
    y_ticks = nice_ticks(low, max(high, low + 0.02 * max(abs(low), 1.0)), 4)
    x_low, x_high, y_low, y_high = float(x_all.min()), float(x_all.max()), y_ticks[0], max(y_ticks[-1], high)

    def across(x: Array) -> Array:
        return LEFT + (x - x_low) / max(x_high - x_low, 1e-12) * (WIDTH - LEFT - RIGHT)

    def up(y: Array) -> Array:
        return HEIGHT - BOTTOM - (np.clip(y, y_low, y_high) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in y_ticks:
        v = float(up(np.array(tick)))
        text = f"{100 * tick:.4g}" if percent else f"{tick:.4g}"
        parts.append(f'<path d="M{LEFT} {v:.1f}H{WIDTH - RIGHT}" style="stroke:{GRID}"/>')
        parts.append(_text(LEFT - 8, v + 4, text, anchor="end"))
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            parts.append(_text(float(across(np.array(tick))), HEIGHT - BOTTOM + 18, f"{tick:,.10g}", anchor="middle"))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 6, x_label, anchor="end"))
    for line, x, y in shown:
        if line.noisy and len(x) > 12:
            parts.append(_polyline(across(x), up(y), line.colour, 1.0, 0.25))
            y = running_mean(y, max(3, len(y) // 25))
        parts.append(_polyline(across(x), up(y), line.colour, 2.2, 1.0))
        if len(x) < 40:
            points = zip(across(x), up(y), strict=True)
            parts.extend(f'<circle cx="{u:.1f}" cy="{v:.1f}" r="3" style="fill:{line.colour}"/>' for u, v in points)
    offset = LEFT
    if len(shown) > 1:
        for line, _, _ in shown:
            parts.append(f'<rect x="{offset}" y="27" width="14" height="4" rx="2" style="fill:{line.colour}"/>')
            parts.append(_text(offset + 19, 33, line.label, size=12))
            offset += 34 + round(6.6 * len(line.label))
    return _svg(title, parts, HEIGHT)


def interval_chart(rows: Sequence[tuple[str, Interval, str]], *, title: str) -> str:
    """Estimates with their intervals, one below the other.

    Args:
        rows: Label, interval of shares, colour.
        title: Shown above.
    """
    left, step = 150, 30
    height = TOP + step * len(rows) + 30
    values = [v for _, i, _ in rows for v in (i.estimate, i.low, i.high) if v is not None]
    ticks = nice_ticks(min(values), max(max(values), min(values) + 0.02), 5)
    low, high = min(ticks[0], min(values)), max(ticks[-1], max(values))

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * (WIDTH - left - RIGHT - 8)

    parts = []
    for tick in ticks:
        parts.append(f'<path d="M{across(tick):.1f} {TOP - 8}V{height - 26}" style="stroke:{GRID}"/>')
        parts.append(_text(across(tick), height - 8, f"{100 * tick:.4g}", anchor="middle"))
    for index, (label, interval, colour) in enumerate(rows):
        v = TOP + step * index + 8
        parts.append(_text(left - 14, v + 4, label, anchor="end", size=13))
        if interval.low is not None and interval.high is not None:
            parts.append(
                f'<path d="M{across(interval.low):.1f} {v}H{across(interval.high):.1f}" '
                f'style="stroke:{colour};stroke-width:5;stroke-linecap:round;opacity:.4"/>'
            )
        parts.append(f'<circle cx="{across(interval.estimate):.1f}" cy="{v}" r="5.5" style="fill:{colour}"/>')
    return _svg(title, parts, height)


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that cover [low, high].

    Example:
        >>> nice_ticks(0.0, 0.9, 4)
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    span = max(high - low, abs(high) * 1e-9, 1e-12)
    rough = span / count
    power = 10.0 ** np.floor(np.log10(rough))
    step = next((float(power * m) for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999), float(power * 10))
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    return [round(float(k * step), 12) for k in np.arange(first, last + 1)]


def running_mean(values: Array, window: int) -> Array:
    """Centered mean over `window` values, shorter at the ends."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _finite(series: Series) -> tuple[Array, Array]:
    keep = np.isfinite(series.x) & np.isfinite(series.y)
    return series.x[keep], series.y[keep]


def _polyline(u: Array, v: Array, colour: str, width: float, opacity: float) -> str:
    points = " ".join(f"{a:.1f} {b:.1f}" for a, b in zip(u, v, strict=True))
    return (
        f'<path d="M{points}" style="fill:none;stroke:{colour};stroke-width:{width};opacity:{opacity};'
        'stroke-linejoin:round;stroke-linecap:round"/>'
    )


def _text(u: float, v: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return (
        f'<text x="{u:.1f}" y="{v:.1f}" font-size="{size}" text-anchor="{anchor}" style="fill:{INK}">'
        f"{escape(text)}</text>"
    )


def _svg(title: str, parts: Sequence[str], height: int) -> str:
    heading = (
        f'<text x="0" y="15" font-size="14" font-weight="600" style="fill:var(--ink,#1d2129)">{escape(title)}</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif">{heading}{"".join(parts)}</svg>'
    )
