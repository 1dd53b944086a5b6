"""Small charts as inline SVG that follow the page's colours: lines, intervals in a row, histograms and shares.

`chart_sheet` makes a file of them that stands alone.
"""

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


@dataclass(frozen=True)
class Sample:
    """Values or shares of one set of scenes."""

    label: str
    values: Array
    colour: str


def histogram_chart(samples: Sequence[Sample], edges: Array, *, title: str, x_label: str) -> str:
    """How values are distributed: the first sample as bars, the others as outlines.

    Args:
        samples: Their values are finite. Those beyond the outer edges count in the outer bars, which then say so.
        edges: [B + 1] rising.
        title: Shown above.
        x_label: Shown below.
    Returns:
        The chart; empty text where the first sample has no value.
    """
    if not samples or not len(samples[0].values):
        return ""
    shares = [np.histogram(np.clip(s.values, edges[0], edges[-1]), edges)[0] / max(len(s.values), 1) for s in samples]
    y_ticks = nice_ticks(0.0, float(np.max(shares)), 4)
    baseline, top = HEIGHT - BOTTOM, TOP + 4

    def across(x: float) -> float:
        return LEFT + (x - edges[0]) / (edges[-1] - edges[0]) * (WIDTH - LEFT - RIGHT)

    def up(share: float) -> float:
        return baseline - share / y_ticks[-1] * (baseline - top)

    parts = []
    for tick in y_ticks:
        parts.append(f'<path d="M{LEFT} {up(tick):.1f}H{WIDTH - RIGHT}" style="stroke:{GRID}"/>')
        parts.append(_text(LEFT - 8, up(tick) + 4, f"{100 * tick:.4g} %", anchor="end"))
    for tick in nice_ticks(float(edges[0]), float(edges[-1]), 6):
        if edges[0] <= tick <= edges[-1]:
            beyond = {float(edges[0]): "≤ ", float(edges[-1]): "≥ "}.get(tick, "")
            below = any((s.values < edges[0]).any() for s in samples)
            above = any((s.values > edges[-1]).any() for s in samples)
            shown = beyond if (beyond == "≤ " and below) or (beyond == "≥ " and above) else ""
            parts.append(_text(across(tick), baseline + 18, f"{shown}{tick:.10g}", anchor="middle"))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 6, x_label, anchor="end"))
    for left, right, share in zip(edges[:-1], edges[1:], shares[0], strict=True):
        parts.append(
            f'<rect x="{across(left) + 0.5:.1f}" y="{up(share):.1f}" width="{across(right) - across(left) - 1:.1f}" '
            f'height="{baseline - up(share):.1f}" style="fill:{samples[0].colour};opacity:.75"/>'
        )
    for sample, heights in zip(samples[1:], shares[1:], strict=True):
        steps = "".join(
            f"V{up(share):.1f}H{across(right):.1f}" for right, share in zip(edges[1:], heights, strict=True)
        )
        parts.append(
            f'<path d="M{LEFT} {baseline}{steps}V{baseline}" style="fill:none;stroke:{sample.colour};stroke-width:2"/>'
        )
    return _svg(title, parts + _legend(samples), HEIGHT)


def share_chart(labels: Sequence[str], samples: Sequence[Sample], *, title: str) -> str:
    """Shares of scenes, one bar a label and sample, with the figure in per cent beside it.

    Args:
        labels: Shown at the left.
        samples: Values [len(labels)] in [0, 1].
        title: Shown above.
    """
    if not labels or not samples:
        return ""
    left, bar = 196, 12 if len(samples) > 1 else 14
    step = bar * len(samples) + 10
    height = TOP + step * len(labels) + 12
    longest = max(float(max(s.values.max() for s in samples)), 1e-9)
    parts = []
    for row, label in enumerate(labels):
        top = TOP + step * row
        parts.append(_text(left - 10, top + bar * len(samples) / 2 + 4, label, anchor="end", size=12))
        for number, sample in enumerate(samples):
            width = float(sample.values[row]) / longest * (WIDTH - left - RIGHT - 44)
            v = top + bar * number
            parts.append(
                f'<rect x="{left}" y="{v}" width="{width:.1f}" height="{bar - 1}" style="fill:{sample.colour}"/>'
            )
            parts.append(_text(left + width + 6, v + bar / 2 + 3.5, f"{100 * sample.values[row]:.1f} %", size=10))
    return _svg(title, parts + _legend(samples), height)


def chart_sheet(charts: Sequence[str], *, columns: int = 2) -> str:
    """Charts side by side as one SVG file, on white; charts that are empty text are left out."""
    shown = [chart for chart in charts if chart]
    gap, margin = 28, 20
    parts, top, tallest = [], margin, 0
    for index, chart in enumerate(shown):
        height = int(chart.split('viewBox="', 1)[1].split('"', 1)[0].split()[3])
        tallest = max(tallest, height)
        left = margin + index % columns * (WIDTH + gap)
        parts.append(chart.replace("<svg ", f'<svg x="{left}" y="{top}" width="{WIDTH}" height="{height}" ', 1))
        if index % columns == columns - 1 or index == len(shown) - 1:
            top, tallest = top + tallest + gap, 0
    width, height = 2 * margin + columns * WIDTH + (columns - 1) * gap, max(top - gap + margin, 2 * margin)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


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


def _legend(samples: Sequence[Sample]) -> list[str]:
    """Names of several samples above a chart."""
    parts: list[str] = []
    offset = LEFT
    for sample in samples if len(samples) > 1 else ():
        parts.append(f'<rect x="{offset}" y="24" width="14" height="8" rx="2" style="fill:{sample.colour}"/>')
        parts.append(_text(offset + 19, 32, sample.label, size=12))
        offset += 36 + round(6.8 * len(sample.label))
    return parts


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
