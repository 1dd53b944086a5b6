import math

import numpy as np
import pytest

from irlvla.stages.watch import WatchConfig, hacking_alarm, sure_fall, within_scene_rank_correlation

HONEST = {"predicted_reward": 0.6, "true_epdms": 0.6, "rank_correlation": 0.8, "sure_fall": 0.0}


def test_reward_up_and_truth_down_raises_an_alarm() -> None:
    hacked = {"predicted_reward": 0.8, "true_epdms": 0.5, "rank_correlation": 0.8, "sure_fall": 0.04}
    alarm = hacking_alarm([HONEST, hacked], WatchConfig(margin=0.03))
    assert alarm is not None
    assert "0.600 to 0.800" in alarm
    assert "0.600 to 0.500" in alarm


def test_both_falling_is_bad_luck_but_no_hacking() -> None:
    worse = {"predicted_reward": 0.5, "true_epdms": 0.5, "rank_correlation": 0.8, "sure_fall": 0.04}
    assert hacking_alarm([HONEST, worse], WatchConfig()) is None


def test_a_reward_that_no_longer_ranks_plans_raises_an_alarm() -> None:
    blind = {"predicted_reward": 0.7, "true_epdms": 0.7, "rank_correlation": 0.05, "sure_fall": 0.0}
    alarm = hacking_alarm([HONEST, blind], WatchConfig(least_rank_correlation=0.2))
    assert alarm is not None
    assert "0.05" in alarm


def test_a_sample_without_spread_raises_no_alarm() -> None:
    assert (
        hacking_alarm([HONEST, {"predicted_reward": 0.6, "true_epdms": 0.6, "sure_fall": 0.0}], WatchConfig()) is None
    )


def test_rank_correlation_averages_scenes_and_leaves_out_those_without_spread() -> None:
    true = np.array([[0.0, 0.5, 1.0], [0.0, 0.5, 1.0], [1.0, 1.0, 1.0]])
    predicted = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.9, 0.1, 0.5]])
    assert within_scene_rank_correlation(predicted, true) == pytest.approx(0.0)
    assert within_scene_rank_correlation(predicted[:1], true[:1]) == pytest.approx(1.0)
    assert math.isnan(within_scene_rank_correlation(predicted[2:], true[2:]))


def test_a_constant_prediction_ranks_nothing() -> None:
    assert within_scene_rank_correlation(np.ones((1, 3)), np.array([[0.0, 0.5, 1.0]])) == 0.0


def test_a_fall_that_may_be_chance_raises_no_alarm() -> None:
    chance = {"predicted_reward": 0.8, "true_epdms": 0.5, "rank_correlation": 0.8, "sure_fall": -0.01}
    assert hacking_alarm([HONEST, chance], WatchConfig(margin=0.03)) is None


def test_a_fall_is_sure_where_most_scenes_lose() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(0.4, 1.0, 80)
    assert 0.0 < sure_fall(before, before - 0.1 * rng.uniform(0.0, 2.0, 80)) < 0.1
    assert sure_fall(before, rng.permutation(before)) <= 0.0
    one_scene_lost = before.copy()
    one_scene_lost[0] = 0.0
    assert sure_fall(before, one_scene_lost) <= 0.0
