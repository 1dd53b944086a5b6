"""What each of the other sub-scores rewards, on hand-made scenes."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from scenes import Thing, driving, empty_road, red_light_ahead, scene, stopped_car_ahead, straight_road

from irlvla.scoring.context import ScoringContext
from irlvla.scoring.progress import ego_progress
from irlvla.scoring.score import score_rollout
from irlvla.simulation.polygons import polygon_set
from irlvla.simulation.traffic import RedLights
from irlvla.types import SubScores


def scored(context: ScoringContext, rollout: np.ndarray) -> SubScores:
    return score_rollout(context, rollout[None])


def test_the_middle_of_the_lane_is_drivable() -> None:
    assert scored(empty_road(), driving(10.0)).drivable_area_compliance[0] == 1.0


def test_one_corner_off_the_road_is_enough_to_fail() -> None:
    assert scored(empty_road(), driving(10.0, y=-0.61)).drivable_area_compliance[0] == 0.0


def test_a_corner_on_the_edge_of_the_road_is_off_it() -> None:
    # Half a width of 2.297 m from a center at -0.6015 m ends on the edge at -1.75 m, within rounding of the edge.
    edge = shapely.box(-100, -2.297 / 2, 300, 10.0)
    road = straight_road()._replace(polygons=polygon_set([edge]), kind=np.array([0]), on_route=np.array([False]))
    assert scored(scene(road=road), driving(10.0)).drivable_area_compliance[0] == 0.0


@pytest.mark.parametrize(("speed_mps", "expected"), [(1.5, 1.0), (4.0, 0.5), (10.0, 0.0)])
def test_the_other_direction_is_forbidden_beyond_six_metres_a_second(speed_mps: float, expected: float) -> None:
    assert scored(empty_road(), driving(speed_mps, y=7.0)).driving_direction_compliance[0] == expected


def test_driving_direction_is_free_within_an_intersection() -> None:
    road = straight_road(intersection=True)
    assert scored(scene(road=road), driving(10.0, y=7.0)).driving_direction_compliance[0] == 1.0


def test_crossing_a_red_light_fails() -> None:
    assert scored(red_light_ahead(), driving(10.0)).traffic_light_compliance[0] == 0.0


def test_arriving_after_the_light_turned_green_passes() -> None:
    assert scored(red_light_ahead(), driving(5.0)).traffic_light_compliance[0] == 1.0


def test_standing_on_a_red_connector_from_the_start_fails() -> None:
    under_us = RedLights(polygon_set([shapely.box(-5, -2, 5, 2)]), np.ones((1, 41), dtype=np.bool_))
    assert scored(replace(empty_road(), lights=under_us), driving(0.0)).traffic_light_compliance[0] == 0.0


def test_time_to_collision_fails_before_the_collision_itself() -> None:
    rollout = driving(8.0)
    rollout[15:] = rollout[15]
    rollout[15:, 3] = 0.0
    scores = scored(stopped_car_ahead(), rollout)
    assert scores.no_at_fault_collisions[0] == 1.0
    assert scores.time_to_collision_within_bound[0] == 0.0


def test_contact_beside_us_counts_as_ahead_only_in_an_intersection() -> None:
    beside = Thing("vehicle", x=1.5, y=2.0, speed_mps=10.0)
    assert scored(scene(beside), driving(10.0)).time_to_collision_within_bound[0] == 1.0
    crossing = scene(beside, road=straight_road(intersection=True))
    assert scored(crossing, driving(10.0)).time_to_collision_within_bound[0] == 0.0


def test_a_standing_ego_vehicle_has_no_time_to_collision() -> None:
    oncoming = scene(Thing("vehicle", x=20.0, heading=np.pi, speed_mps=4.0))
    assert scored(oncoming, driving(0.0)).time_to_collision_within_bound[0] == 1.0


def test_lane_keeping_fails_half_a_metre_off_the_centerline() -> None:
    assert scored(empty_road(), driving(10.0, y=0.49)).lane_keeping[0] == 1.0
    assert scored(empty_road(), driving(10.0, y=0.51)).lane_keeping[0] == 0.0


def test_lane_keeping_allows_a_short_excursion() -> None:
    rollout = driving(10.0)
    rollout[10:29, 1] = 0.6
    assert scored(empty_road(), rollout).lane_keeping[0] == 1.0
    rollout[29, 1] = 0.6
    assert scored(empty_road(), rollout).lane_keeping[0] == 0.0


def test_lane_keeping_pauses_within_an_intersection() -> None:
    assert scored(scene(road=straight_road(intersection=True)), driving(10.0, y=0.6)).lane_keeping[0] == 1.0


def test_progress_is_the_share_of_what_the_planner_reaches() -> None:
    assert scored(empty_road(), driving(5.0)).ego_progress[0] == pytest.approx(0.5)


def test_progress_beyond_the_planner_earns_no_more_than_all() -> None:
    assert scored(empty_road(), driving(20.0)).ego_progress[0] == 1.0


def test_progress_does_not_matter_where_nobody_gets_five_metres_far() -> None:
    jammed = replace(empty_road(), pdm_progress_m=4.9)
    assert scored(jammed, driving(0.0)).ego_progress[0] == 1.0


def test_a_plan_that_fails_a_gate_does_not_raise_the_bar_for_progress() -> None:
    progress = ego_progress(np.array([100.0, 100.0]), np.array([1.0, 0.0]), 40.0, 1.0)
    np.testing.assert_allclose(progress, [1.0, 1.0])
    assert ego_progress(np.array([3.0]), np.array([0.0]), 40.0, 0.0)[0] == 1.0


def test_steady_driving_is_comfortable() -> None:
    assert scored(empty_road(), driving(10.0)).history_comfort[0] == 1.0


def test_hard_braking_is_not_comfortable() -> None:
    rollout = driving(10.0)
    rollout[:, 5] = -4.2
    assert scored(empty_road(), rollout).history_comfort[0] == 0.0


def test_a_jolt_at_the_seam_to_the_history_is_felt() -> None:
    context = empty_road()
    jolted = replace(context, history_states=context.history_states.copy())
    jolted.history_states[:, 5] = 2.3
    assert scored(context, driving(10.0)).history_comfort[0] == 1.0
    assert scored(jolted, driving(10.0)).history_comfort[0] == 0.0
