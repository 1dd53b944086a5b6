"""Reactive traffic on a hand-made street: who follows, who brakes, who stays and who vanishes."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from streets import city_of_lanes, crowded_streets

from irlvla.data.maps import CityMap
from irlvla.errors import SceneDataError
from irlvla.simulation.observation import interpolate_tracks
from irlvla.simulation.reactive_traffic import TrafficStart, drive, react, start_traffic
from irlvla.types import OBJECT_TYPES, Array, Boxes, Frame

LANE, SIDE_LANE, SHORT_LANE = 1, 2, 3
"""Lanes along x at y = 0 (limit 10 m/s, to x = 300 m), y = 4 (no limit) and y = 12 (two vertices only)."""


@pytest.fixture(scope="module")
def street() -> CityMap:
    lines = {
        LANE: shapely.LineString([(x, 0.0) for x in range(-50, 302, 2)]),
        SIDE_LANE: shapely.LineString([(x, 4.0) for x in range(-50, 302, 2)]),
        SHORT_LANE: shapely.LineString([(-50.0, 12.0), (300.0, 12.0)]),
    }
    polygons = [shapely.box(-50.0, y - 2.0, 300.0, y + 2.0) for y in (0.0, 4.0, 12.0)]
    return city_of_lanes(lines, polygons, [10.0, np.nan, 10.0])


def frame(*things: tuple[str, float, float, float, float], time_us: int = 0) -> Frame:
    """Things (kind, x, y, heading, speed) around an ego vehicle whose ego frame is the world frame."""
    boxes = np.array([[x, y, 0.8, 4.5, 1.9, 1.6, heading] for _, x, y, heading, _ in things]).reshape(-1, 7)
    velocity = np.array([[v * np.cos(h), v * np.sin(h), 0.0] for _, _, _, h, v in things]).reshape(-1, 3)
    types = np.array([OBJECT_TYPES.index(thing[0]) for thing in things], dtype=np.int64)
    tokens = tuple(f"{kind}-{index}" for index, (kind, *_) in enumerate(things))
    zero = np.zeros(2)
    return Frame(
        f"{time_us}", time_us, np.zeros(3), zero, zero, np.eye(4, dtype=np.int64)[1], (), (),
        Boxes(boxes, types, velocity, tokens), {}, None,
    )  # fmt: skip


def standing_at(x: float, y: float = -40.0) -> Array:
    """An ego vehicle [41, 11] that stands still."""
    states = np.zeros((41, 11))
    states[:, :2] = x, y
    return states


FAR_AWAY = standing_at(0.0)


def started(street: CityMap, *things: tuple[str, float, float, float, float], ego: Array = FAR_AWAY) -> TrafficStart:
    now = frame(*things)
    return start_traffic("scene", now, interpolate_tracks([now]), ego[0, :3], street)


def test_a_free_vehicle_speeds_up_to_its_lanes_limit_and_no_further(street: CityMap) -> None:
    tracks = react(started(street, ("vehicle", 0.0, 0.3, 0.0, 5.0)), FAR_AWAY)
    speeds = np.hypot(*tracks.velocity_mps[0].T)
    assert np.all(np.diff(speeds[1:]) > 0.0)
    assert 8.0 < speeds[-1] < 10.0
    np.testing.assert_allclose(tracks.boxes[0, 1:, 1], 0.0, atol=1e-9)


def test_a_vehicle_brakes_for_the_ego_vehicle_in_its_way(street: CityMap) -> None:
    blocked = react(started(street, ("vehicle", 0.0, 0.0, 0.0, 8.0)), standing_at(25.0, 0.0))
    free = react(started(street, ("vehicle", 0.0, 0.0, 0.0, 8.0)), FAR_AWAY)
    assert np.hypot(*blocked.velocity_mps[0, -1]) < 4.0 < np.hypot(*free.velocity_mps[0, -1])
    assert blocked.boxes[0, -1, 0] < free.boxes[0, -1, 0] - 5.0


def test_the_ego_vehicle_is_seen_one_step_late(street: CityMap) -> None:
    appears = standing_at(0.0)
    appears[1:, :2] = 12.0, 0.0
    start = started(street, ("vehicle", 0.0, 0.0, 0.0, 8.0))
    speeds = [np.hypot(*react(start, states).velocity_mps[0].T) for states in (appears, FAR_AWAY)]
    assert speeds[0][1] == speeds[1][1]
    assert speeds[0][2] < speeds[1][2] - 0.1


def test_a_follower_brakes_behind_the_vehicle_before_it(street: CityMap) -> None:
    tracks = react(started(street, ("vehicle", 0.0, 0.0, 0.0, 9.0), ("vehicle", 35.0, 0.0, 0.0, 4.0)), FAR_AWAY)
    alone = react(started(street, ("vehicle", 0.0, 0.0, 0.0, 9.0)), FAR_AWAY)
    assert np.hypot(*tracks.velocity_mps[0, -1]) < np.hypot(*alone.velocity_mps[0, -1]) - 2.0
    assert np.all(tracks.boxes[1, :, 0] - tracks.boxes[0, :, 0] > 4.5)


def test_a_vehicle_brakes_even_for_one_behind_whose_headway_reaches_over_it(street: CityMap) -> None:
    chased = react(started(street, ("vehicle", 0.0, 0.0, 0.0, 10.0), ("vehicle", 8.0, 0.0, 0.0, 4.0)), FAR_AWAY)
    alone = react(started(street, ("vehicle", 8.0, 0.0, 0.0, 4.0)), FAR_AWAY)
    assert np.hypot(*chased.velocity_mps[1, 10]) < 4.0 < np.hypot(*alone.velocity_mps[0, 10])


def test_a_vehicle_stops_where_its_lane_ends_and_leaves_by_no_other(street: CityMap) -> None:
    tracks = react(started(street, ("vehicle", 280.0, 0.0, 0.0, 10.0), ego=standing_at(250.0)), standing_at(250.0))
    # The last vertex of a center line is lost: this lane ends at x = 298 m.
    assert tracks.boxes[0, -1, 0] <= 298.0
    assert np.hypot(*tracks.velocity_mps[0, -1]) < 5.0


def test_a_lane_without_a_limit_hands_on_the_limit_used_before(street: CityMap) -> None:
    alone = started(street, ("vehicle", 0.0, 4.0, 0.0, 5.0))
    assert alone.followers[0].wanted_speed_mps == 10.0
    slow_lane = replace(street.lanes, columns=street.lanes.columns | {"speed_limit_mps": np.array([6.0, np.nan, 10.0])})
    after_another = started(
        replace(street, lanes=slow_lane), ("vehicle", 0.0, 0.0, 0.0, 5.0), ("vehicle", 0.0, 4.0, 0.0, 5.0)
    )
    assert [follower.wanted_speed_mps for follower in after_another.followers] == [6.0, 6.0]


def test_a_parked_car_off_the_road_stays_and_a_moving_one_vanishes(street: CityMap) -> None:
    tracks = react(started(street, ("vehicle", 0.0, -9.0, 0.0, 0.0), ("vehicle", 20.0, -9.0, 0.0, 3.0)), FAR_AWAY)
    assert tracks.present[0].all()
    assert tracks.present[1].tolist() == [True] + [False] * 40


def test_of_two_parked_cars_in_one_place_only_the_first_stays(street: CityMap) -> None:
    tracks = react(started(street, ("vehicle", 0.0, -9.0, 0.0, 0.0), ("vehicle", 1.0, -9.0, 0.0, 0.0)), FAR_AWAY)
    assert tracks.present[0].all()
    assert not tracks.present[1, 1:].any()


def test_a_vehicle_that_overlaps_the_ego_vehicle_is_gone_after_the_current_step(street: CityMap) -> None:
    ego = standing_at(0.0, 0.0)
    tracks = react(started(street, ("vehicle", 3.0, 0.0, 0.0, 5.0), ego=ego), ego)
    assert tracks.present[0].tolist() == [True] + [False] * 40


def test_a_vehicle_out_of_reach_is_gone_for_good(street: CityMap) -> None:
    returning = standing_at(0.0)
    returning[3:6, 0] = 1000.0
    tracks = react(started(street, ("vehicle", 0.0, 0.0, 0.0, 5.0)), returning)
    assert tracks.present[0].tolist() == [True] * 4 + [False] * 37


def test_a_pedestrian_is_replayed_whatever_the_ego_vehicle_does(street: CityMap) -> None:
    now = frame(("pedestrian", 0.0, -3.0, 0.0, 1.0))
    later = frame(("pedestrian", 1.0, -3.0, 0.0, 1.0), time_us=500_000)
    start = start_traffic("scene", now, interpolate_tracks([now, later]), FAR_AWAY[0, :3], street)
    for states in (FAR_AWAY, standing_at(0.5, -3.0)):
        tracks = react(start, states)
        assert tracks.present[0].tolist() == [True] * 6 + [False] * 35
        np.testing.assert_allclose(tracks.boxes[0, :6, 0], np.arange(6) * 0.2)


def test_a_thing_seen_once_later_on_is_there_at_all_steps_but_the_current(street: CityMap) -> None:
    now, later = frame(), frame(("barrier", 5.0, -3.0, 0.0, 0.0), time_us=500_000)
    start = start_traffic("scene", now, interpolate_tracks([now, later]), FAR_AWAY[0, :3], street)
    assert react(start, FAR_AWAY).present[0].tolist() == [False] + [True] * 40


def test_traffic_of_one_plan_leaves_no_trace_in_the_next(street: CityMap) -> None:
    start = started(street, ("vehicle", 0.0, 0.0, 0.0, 8.0), ("vehicle", 20.0, 4.0, 0.0, 2.0))
    first = react(start, FAR_AWAY)
    react(start, standing_at(25.0, 0.0))
    again = react(start, FAR_AWAY)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    np.testing.assert_array_equal(first.present, again.present)


def test_a_lane_too_short_to_follow_is_named(street: CityMap) -> None:
    with pytest.raises(SceneDataError, match=f"scene.*lane {SHORT_LANE}"):
        started(street, ("vehicle", 0.0, 12.0, 0.0, 5.0))


def renamed(start: TrafficStart, *tokens: str) -> TrafficStart:
    return replace(start, vehicle_tokens=tokens)


def test_a_vehicle_whose_token_is_part_of_the_drivers_own_is_overlooked(street: CityMap) -> None:
    start = started(street, ("vehicle", 0.0, 0.0, 0.0, 8.0), ("vehicle", 14.0, 0.0, 0.0, 1.0))
    seen, overlooked = (renamed(start, token, "7") for token in ("18", "17"))
    behind_ego = standing_at(40.0, 0.0)
    speeds = [np.hypot(*react(each, behind_ego).velocity_mps[0].T) for each in (seen, overlooked)]
    assert speeds[0][20] < speeds[1][20] - 1.0


def test_a_driver_that_overlooks_all_there_is_in_its_way_has_no_traffic_as_officially(street: CityMap) -> None:
    start = started(street, ("vehicle", 0.0, 0.0, 0.0, 8.0), ("vehicle", 14.0, 0.0, 0.0, 1.0))
    with pytest.raises(SceneDataError, match=r"scene.*own token"):
        react(renamed(start, "17", "7"), FAR_AWAY)


def test_a_vehicle_called_like_the_ego_vehicle_is_taken_for_it(street: CityMap) -> None:
    start = started(street, ("vehicle", 0.0, 0.0, 0.0, 8.0), ("vehicle", 30.0, 0.0, 0.0, 0.0))
    parked = renamed(start, "a", "b")
    taken_for_ego = renamed(start, "a", "lego")
    ego = standing_at(0.0)
    ego[:, 3] = 9.0
    speeds = [np.hypot(*react(each, ego).velocity_mps[0].T) for each in (parked, taken_for_ego)]
    assert speeds[0][20] < speeds[1][20] - 1.0
    among_others = drive(taken_for_ego, np.stack([FAR_AWAY, ego, ego]))
    np.testing.assert_array_equal(among_others.speed_mps[1, 0, 1:], drive(taken_for_ego, ego[None]).speed_mps[0, 0, 1:])


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_meets_the_same_traffic_alone_and_among_others(seed: int) -> None:
    start, drives = crowded_streets(np.random.default_rng(seed))
    together = drive(start, drives)
    moved = 0
    for plan in range(len(drives)):
        alone = drive(start, drives[plan : plan + 1])
        for shared, own in zip(together, alone, strict=True):
            np.testing.assert_array_equal(shared[plan], own[0])
        moved += not np.array_equal(together.poses[plan], together.poses[-1])
    assert moved > 1, "no plan makes a difference; the agreement would prove nothing"
