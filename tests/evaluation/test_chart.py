"""Charts must show what is there and stay silent where nothing is."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irlvla.evaluation.bootstrap import Interval
from irlvla.evaluation.chart import (
    HEIGHT,
    WIDTH,
    Sample,
    Series,
    chart_sheet,
    histogram_chart,
    interval_chart,
    line_chart,
    nice_ticks,
    running_mean,
    share_chart,
)

numbers = st.floats(-1e6, 1e6)


@given(numbers, st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_cover_the_range_evenly(low: float, span: float, count: int) -> None:
    ticks = nice_ticks(low, low + span, count)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= low + span - 1e-6 * step
    np.testing.assert_allclose(np.diff(ticks), step, rtol=1e-6)
    assert len(ticks) <= 2 * count + 2


@pytest.mark.parametrize("values", [[1.0, 0.5, 0.25], [0.8, 0.8, 0.8], [0.0, 0.0], [3.0], [-2.0, 5.0]])
def test_line_stays_inside_the_chart(values: list[float]) -> None:
    chart = line_chart(
        [Series("loss", np.arange(len(values), dtype=float), np.array(values), "#ff0000")], title="a < b"
    )
    svg = ElementTree.fromstring(chart)
    for circle in svg.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 <= float(circle.get("cx", "-1")) <= WIDTH
        assert 0 <= float(circle.get("cy", "-1")) <= HEIGHT


def test_higher_values_are_drawn_higher() -> None:
    chart = line_chart([Series("score", np.arange(3.0), np.array([0.1, 0.5, 0.9]), "#ff0000")], title="score")
    heights = [float(v) for v in re.findall(r'cy="([\d.]+)"', chart)]
    assert heights == sorted(heights, reverse=True)


def test_missing_values_are_left_out_and_nothing_gives_no_chart() -> None:
    gap = Series("a", np.arange(4.0), np.array([1.0, np.nan, 2.0, np.inf]), "#ff0000")
    assert line_chart([gap], title="t").count("<circle") == 2
    assert line_chart([Series("a", np.arange(2.0), np.full(2, np.nan), "#ff0000")], title="t") == ""
    assert line_chart([], title="t") == ""


def test_running_mean_keeps_a_constant_constant() -> None:
    np.testing.assert_allclose(running_mean(np.full(9, 0.7), 4), 0.7)


def test_interval_without_spread_is_a_dot_alone() -> None:
    sure = ("a", Interval(0.5, 0.4, 0.6, 0.95, 9, 1), "#ff0000")
    single = ("b", Interval(0.7, None, None, 0.95, 1, 1), "#00ff00")
    chart = interval_chart([sure, single], title="EPDMS")
    assert chart.count("<circle") == 2
    assert chart.count("stroke-linecap:round") == 1


def test_histogram_counts_what_lies_beyond_in_the_outer_bars_and_says_so() -> None:
    inside = Sample("a", np.array([0.5, 0.5, 1.5, 2.5]), "#ff0000")
    plain = histogram_chart([inside], np.arange(4.0), title="t", x_label="m")
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" style="fill:#ff0000', plain)]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)
    assert "≥" not in plain
    beyond = Sample("a", np.array([0.5, 0.5, 1.5, 99.0]), "#ff0000")
    assert "≥ 3" in histogram_chart([beyond], np.arange(4.0), title="t", x_label="m")
    assert histogram_chart([Sample("a", np.zeros(0), "#ff0000")], np.arange(4.0), title="t", x_label="m") == ""


def test_second_sample_of_a_histogram_may_be_empty() -> None:
    samples = [Sample("a", np.ones(3), "#ff0000"), Sample("b", np.zeros(0), "#00ff00")]
    ElementTree.fromstring(histogram_chart(samples, np.arange(4.0), title="t", x_label="m"))


def test_bars_are_as_long_as_their_shares_and_nothing_gives_no_bar() -> None:
    chart = share_chart(["x", "y", "z"], [Sample("a", np.array([0.2, 0.1, 0.0]), "#ff0000")], title="t")
    widths = [float(w) for w in re.findall(r'width="([\d.]+)" height="\d+" style="fill:#ff0000', chart)]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)
    assert widths[2] == 0.0
    assert "20.0 %" in chart
    ElementTree.fromstring(share_chart(["x"], [Sample("a", np.zeros(1), "#ff0000")], title="none at all"))


def test_sheet_holds_every_chart_inside_and_none_upon_another() -> None:
    charts = [
        share_chart(list("xyz"[: k + 1]), [Sample("a", np.full(k + 1, 0.5), "#ff0000")], title="t") for k in (0, 2, 1)
    ]
    sheet = ElementTree.fromstring(chart_sheet([charts[0], "", *charts[1:]]))
    width, height = float(sheet.get("width", 0)), float(sheet.get("height", 0))
    boxes = [
        [float(part.get(key, -1)) for key in ("x", "y", "width", "height")]
        for part in sheet
        if part.tag.endswith("svg")
    ]
    assert len(boxes) == 3
    for x, y, w, h in boxes:
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
    for first, (x, y, w, h) in enumerate(boxes):
        for other_x, other_y, other_w, other_h in boxes[first + 1 :]:
            assert x + w <= other_x or other_x + other_w <= x or y + h <= other_y or other_y + other_h <= y
