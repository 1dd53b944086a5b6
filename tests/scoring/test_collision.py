"""Whose fault a collision is."""

import numpy as np
import pytest
from scenes import Thing, car_from_the_left, cone_ahead, driving, empty_road, scene, stopped_car_ahead, tailgater

from irlvla.scoring.context import ScoringContext
from irlvla.scoring.score import score_rollout

LANE_EDGE_M = 1.75


def collisions(context: ScoringContext, rollout: np.ndarray) -> float:
    return float(score_rollout(context, rollout[None]).no_at_fault_collisions[0])


def test_driving_into_a_stopped_car_is_our_fault() -> None:
    assert collisions(stopped_car_ahead(), driving(10.0)) == 0.0


def test_stopping_short_of_a_car_is_no_collision() -> None:
    assert collisions(stopped_car_ahead(), driving(3.0)) == 1.0


def test_hitting_a_cone_costs_half() -> None:
    assert collisions(cone_ahead(), driving(10.0)) == 0.5


def test_hitting_a_cone_and_a_pedestrian_costs_all() -> None:
    context = scene(
        Thing("traffic_cone", x=20.0, length=0.4, width=0.4),
        Thing("pedestrian", x=30.0, y=-1.0, speed_mps=0.5, length=1.2, width=0.6),
    )
    assert collisions(context, driving(10.0)) == 0.0


def test_rear_end_hit_by_other_car_is_not_our_fault() -> None:
    assert collisions(tailgater(), driving(2.0)) == 1.0


def test_hit_while_standing_is_not_our_fault() -> None:
    assert collisions(scene(Thing("vehicle", x=20.0, heading=np.pi, speed_mps=8.0)), driving(0.0)) == 1.0


def test_side_hit_within_our_lane_is_not_our_fault() -> None:
    assert collisions(car_from_the_left(), driving(10.0)) == 1.0


def test_side_hit_between_lanes_is_our_fault() -> None:
    assert collisions(car_from_the_left(), driving(10.0, y=LANE_EDGE_M)) == 0.0


def test_a_car_that_hit_us_from_behind_is_never_held_against_us_later() -> None:
    slow_then_ahead = scene(Thing("vehicle", x=-8.0, speed_mps=10.0), speed_mps=2.0)
    rollout = driving(2.0)
    rollout[25:, 3] = 30.0
    rollout[25:, 0] = rollout[24, 0] + np.arange(1, 17) * 3.0
    assert collisions(slow_then_ahead, rollout) == 1.0


@pytest.mark.parametrize("context", [empty_road(), scene(Thing("vehicle", x=10.0, to_step=15))])
def test_what_is_not_there_cannot_be_hit(context: ScoringContext) -> None:
    assert collisions(context, driving(2.0)) == 1.0
