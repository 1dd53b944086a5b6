"""Smoothing filters, and comfort between two frames."""

import numpy as np
import pytest
from scenes import driving
from scipy.signal import savgol_filter

from irlvla.scoring import comfort
from irlvla.scoring.comfort import extended_comfort, smoothing_filter
from irlvla.scoring.reference import comfort as reference


@pytest.mark.parametrize("samples", [36, 54, 55, 56])
@pytest.mark.parametrize(("window", "order", "derivative"), [(8, 2, 0), (15, 2, 1), (5, 2, 1), (5, 3, 2), (5, 2, 2)])
def test_filter_equals_scipys(samples: int, window: int, order: int, derivative: int) -> None:
    signal = np.random.default_rng(samples).normal(size=samples)
    by = smoothing_filter(samples, window, order, derivative)
    ours = (by.weights * signal[by.first[:, None] + np.arange(window)]).sum(axis=1)
    theirs = savgol_filter(signal, window, order, deriv=derivative, delta=0.1)
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_the_same_motion_twice_is_comfortable() -> None:
    assert extended_comfort(driving(10.0), driving(10.0, x=-5.0)) == 1.0


@pytest.mark.parametrize(("column", "change"), [(5, 0.75), (2, 0.2)])
def test_a_change_of_mind_between_frames_is_not_comfortable(column: int, change: float) -> None:
    rollout = driving(10.0)
    rollout[:, column] += change * np.arange(41) * 0.1 * (column == 2) + change * (column == 5)
    assert extended_comfort(rollout, driving(10.0)) == 0.0


def test_extended_comfort_broadcasts_candidates_against_one_earlier_plan() -> None:
    candidates = np.stack([driving(10.0), driving(10.0)])
    candidates[1, :, 5] = 2.0
    np.testing.assert_array_equal(extended_comfort(candidates, driving(10.0)), [1.0, 0.0])


def test_extended_comfort_of_wobbling_plans_equals_the_plain_twin() -> None:
    rng = np.random.default_rng(3)
    scale = np.array([0, 0, 0.004, 0, 0, 0.35, 0.2, 0, 0, 0, 0])
    now = driving(8.0) + np.cumsum(rng.normal(size=(200, 41, 11)), axis=1) * scale * 0.35
    earlier = driving(8.0) + np.cumsum(rng.normal(size=(200, 41, 11)), axis=1) * scale * 0.35
    ours = extended_comfort(now, earlier)
    plain = np.array([reference.extended_comfort(a, b) for a, b in zip(now, earlier, strict=True)])
    assert 0.05 < ours.mean() < 0.95
    np.testing.assert_array_equal(ours, plain)


def test_headings_that_wrap_around_feel_no_jerk() -> None:
    rollout = driving(10.0)
    rollout[:, 2] = np.pi - 0.005
    wrapping = rollout.copy()
    wrapping[20:, 2] = -np.pi + 0.001
    assert comfort.history_comfort(rollout[:14], wrapping[None])[0] == 1.0


@pytest.mark.parametrize("dt_s", [0.0, 0.6])
def test_frames_too_far_apart_are_refused(dt_s: float) -> None:
    with pytest.raises(ValueError, match="apart"):
        extended_comfort(driving(10.0), driving(10.0), dt_s)
