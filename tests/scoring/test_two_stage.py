"""How follow-up scenes are weighed and two stages multiplied."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irlvla.scoring.two_stage import follow_up_weights, group_rows, group_tokens, stage_means

GROUP = ("now", "earlier", (("a", "b"), ("c", "d")))
ROWS = {token: row for row, token in enumerate(("c", "now", "d", "earlier", "b", "a"))}


def test_the_nearest_follow_up_scene_counts_most() -> None:
    weights = follow_up_weights(np.array([10.0, 5.0]), np.array([[10.0, 5.5], [10.1, 5.0], [10.0, 7.0]]))
    assert weights.argmax() == 1
    assert weights[0] / weights[1] == pytest.approx(np.exp(-(0.5**2 - 0.1**2) / 0.2))


def test_follow_up_scenes_all_far_away_count_alike() -> None:
    np.testing.assert_array_equal(follow_up_weights(np.zeros(2), np.full((4, 2), 30.0)), np.full(4, 0.25))


@given(st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=1, max_size=8))
def test_weights_sum_to_one(starts_m: list[tuple[float, float]]) -> None:
    assert follow_up_weights(np.zeros(2), np.array(starts_m)).sum() == pytest.approx(1.0)


def test_each_frame_is_followed_by_its_own_scenes() -> None:
    rows = group_rows(GROUP, ROWS)
    assert group_tokens(GROUP) == ["now", "earlier", "a", "b", "c", "d"]
    assert (rows.after_now.tolist(), rows.after_earlier.tolist()) == ([5, 0], [4, 2])
    assert rows.frame_pairs == [(1, 3), (5, 4), (0, 2)]


def test_the_combined_score_multiplies_each_frame_with_what_follows_it() -> None:
    values, weights = np.zeros((6, 1)), np.ones(6)
    score = {"now": 0.8, "earlier": 0.5, "a": 1.0, "c": 0.0, "b": 0.4, "d": 0.8}
    for token, row in ROWS.items():
        values[row] = score[token]
    weights[ROWS["a"]], weights[ROWS["c"]] = 0.75, 0.25
    weights[ROWS["b"]], weights[ROWS["d"]] = 0.5, 0.5
    one, two, combined = stage_means(values, weights, [group_rows(GROUP, ROWS)])
    assert one[0] == pytest.approx((0.8 + 0.5) / 2)
    assert two[0] == pytest.approx((0.75 + 0.6) / 2)
    assert combined[0] == pytest.approx((0.8 * 0.75 + 0.5 * 0.6) / 2)


def test_a_group_with_a_scene_that_has_no_row_is_refused() -> None:
    with pytest.raises(KeyError, match="d"):
        group_rows(GROUP, {token: row for token, row in ROWS.items() if token != "d"})
