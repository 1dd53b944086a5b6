"""The interval must be honest about how little independent evidence correlated keyframes give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irlvla.evaluation.bootstrap import difference_interval, mean_interval, ratio_interval

scores = st.lists(st.floats(0, 1), min_size=6, max_size=24)


def _logs(count: int, logs: int) -> list[str]:
    return [f"log-{i % logs}" for i in range(count)]


@given(scores, st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_policy_differs_from_itself_by_exactly_nothing(values: list[float], logs: int) -> None:
    ours = np.array(values)
    difference = difference_interval(ours, ours, _logs(len(ours), logs), resamples=200)
    assert (difference.estimate, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert not difference.excludes_zero


@given(scores, st.floats(0.01, 0.5))
@settings(max_examples=40, deadline=None)
def test_constant_gain_on_every_scene_has_no_spread(values: list[float], gain: float) -> None:
    baseline = np.array(values)
    difference = difference_interval(baseline + gain, baseline, _logs(len(values), 3), resamples=200)
    assert difference.low == pytest.approx(gain)
    assert difference.high == pytest.approx(gain)
    assert difference.excludes_zero


@given(scores, scores, st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_swapping_sides_flips_the_sign(ours: list[float], theirs: list[float], logs: int) -> None:
    scenes = min(len(ours), len(theirs))
    a, b, log_names = np.array(ours[:scenes]), np.array(theirs[:scenes]), _logs(scenes, logs)
    forth = difference_interval(a, b, log_names, resamples=300)
    back = difference_interval(b, a, log_names, resamples=300)
    assert forth.estimate == pytest.approx(-back.estimate, abs=1e-12)
    assert forth.low == pytest.approx(-back.high, abs=1e-9)  # type: ignore[operator]


@given(scores, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_of_scenes_does_not_matter(values: list[float], random: object) -> None:
    array, log_names = np.array(values), np.array(_logs(len(values), 3))
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    straight = mean_interval(array, log_names.tolist(), resamples=200)
    shuffled = mean_interval(array[order], log_names[order].tolist(), resamples=200)
    assert shuffled.estimate == pytest.approx(straight.estimate)
    assert shuffled.low == pytest.approx(straight.low)


@given(scores)
@settings(max_examples=40, deadline=None)
def test_repeating_keyframes_inside_a_log_adds_no_certainty(values: list[float]) -> None:
    array, log_names = np.array(values), _logs(len(values), 4)
    once = mean_interval(array, log_names, resamples=300)
    nine_times = mean_interval(np.tile(array, 9), log_names * 9, resamples=300)
    assert nine_times.low == pytest.approx(once.low)
    assert nine_times.high == pytest.approx(once.high)


def test_interval_covers_the_truth_about_as_often_as_it_claims() -> None:
    rng = np.random.default_rng(7)
    logs, frames, truth = 40, 8, 0.6
    log_names = [f"log-{log}" for log in range(logs) for _ in range(frames)]
    clustered = naive = 0
    trials = 300
    for trial in range(trials):
        ease = rng.normal(truth, 0.2, size=logs)
        values = np.repeat(ease, frames) + rng.normal(0, 0.05, size=logs * frames)
        ours = mean_interval(values, log_names, resamples=400, seed=trial)
        scenes_as_logs = mean_interval(values, [str(i) for i in range(len(values))], resamples=400, seed=trial)
        clustered += ours.low <= truth <= ours.high  # type: ignore[operator]
        naive += scenes_as_logs.low <= truth <= scenes_as_logs.high  # type: ignore[operator]
    assert 0.89 <= clustered / trials <= 0.98
    assert naive / trials < 0.7, "redrawing single keyframes pretends to know more than it does"


def test_pairing_is_sharper_than_comparing_two_means() -> None:
    rng = np.random.default_rng(3)
    difficulty = np.repeat(rng.uniform(0, 1, size=30), 5)
    log_names = [f"log-{i // 5}" for i in range(150)]
    ours = difficulty + 0.02 + rng.normal(0, 0.01, size=150)
    paired = difference_interval(ours, difficulty, log_names)
    alone = mean_interval(ours, log_names)
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)  # type: ignore[operator]


def test_disagreeing_seeds_widen_the_interval() -> None:
    scenes = np.linspace(0, 1, 40)
    log_names = _logs(40, 20)
    agreeing = mean_interval(np.stack([scenes, scenes, scenes]), log_names)
    disagreeing = mean_interval(np.stack([scenes - 0.2, scenes, scenes + 0.2]), log_names)
    assert disagreeing.estimate == pytest.approx(agreeing.estimate)
    assert disagreeing.high - disagreeing.low > 1.3 * (agreeing.high - agreeing.low)  # type: ignore[operator]
    assert disagreeing.runs == 3


def test_runs_that_grew_out_of_each_other_are_redrawn_together() -> None:
    baseline = np.stack([np.full(12, 0.3), np.full(12, 0.5), np.full(12, 0.7)])
    together = difference_interval(baseline + 0.05, baseline, _logs(12, 6), paired_runs=True)
    apart = difference_interval(baseline + 0.05, baseline, _logs(12, 6), paired_runs=False)
    assert together.excludes_zero
    assert not apart.excludes_zero


def test_values_that_do_not_apply_are_left_out() -> None:
    values = np.array([1.0, 0.0, 1.0, 0.0])
    valid = np.array([True, False, True, False])
    assert mean_interval(values, ["a", "a", "b", "b"], valid=valid).estimate == 1.0
    assert mean_interval(values, ["a", "b", "a", "b"], valid=valid).logs == 1


def test_one_log_gives_an_estimate_and_no_interval() -> None:
    single = mean_interval(np.array([0.2, 0.4]), ["a", "a"])
    assert single.estimate == pytest.approx(0.3)
    assert single.low is None
    assert not single.excludes_zero


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ValueError, match="no valid value"):
        mean_interval(np.array([1.0]), ["a"], valid=np.array([False]))
    with pytest.raises(ValueError, match="log names"):
        mean_interval(np.array([1.0, 2.0]), ["a"])


def test_a_ratio_of_sums_weighs_units_by_their_denominator() -> None:
    interval = ratio_interval(np.array([1.0, 0.0, 3.0]), np.array([2.0, 5.0, 1.0]), resamples=2000)
    assert interval.estimate == pytest.approx(0.5)
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low < 0.5 < interval.high
    same = ratio_interval(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]), resamples=200)
    assert (same.low, same.high) == pytest.approx((0.5, 0.5))
    single = ratio_interval(np.array([1.0]), np.array([4.0]))
    assert (single.estimate, single.low, single.high) == (0.25, None, None)


def test_a_ratio_without_denominator_is_refused() -> None:
    with pytest.raises(ValueError, match="no ratio"):
        ratio_interval(np.array([1.0, 2.0]), np.zeros(2))
    with pytest.raises(ValueError, match="no ratio"):
        ratio_interval(np.ones(2), np.ones(3))
