"""Charts must show what is there and stay silent where nothing is."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irlvla.evaluation.bootstrap import Interval
from irlvla.evaluation.chart import HEIGHT, WIDTH, Series, interval_chart, line_chart, nice_ticks, running_mean

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
