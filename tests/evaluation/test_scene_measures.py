"""Known answers on hand-made scenes: the ego vehicle drives along x from the origin of its own frame."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely

from irlvla.data.maps import CityMap, Layer
from irlvla.errors import SceneDataError
from irlvla.evaluation.scene_measures import SceneMeasures, measure_scene
from irlvla.geometry import EGO_LENGTH_M, REAR_AXLE_TO_CENTER_M, ego_to_world, world_to_ego
from irlvla.types import OBJECT_TYPES, Array, Boxes, Frame, Scene
from tests.scenes import Thing

FRONT_M = REAR_AXLE_TO_CENTER_M + EGO_LENGTH_M / 2
SECONDS = np.arange(1, 9) * 0.5
STRAIGHT_LINE = np.stack([np.arange(-50.0, 150.0), np.zeros(200), np.zeros(200)], axis=-1)
EGO_POSES = [np.zeros(3), np.array([331000.0, 4690500.0, 2.1])]

Line = Sequence[tuple[float, float]]


def straight(speed_mps: float, end_speed_mps: float | None = None) -> Array:
    """A plan along x whose speed changes evenly."""
    end = speed_mps if end_speed_mps is None else end_speed_mps
    x = speed_mps * SECONDS + (end - speed_mps) / 8 * SECONDS**2
    return np.stack([x, np.zeros(8), np.zeros(8)], axis=-1)


def arc(radius_m: float, along_m: Array) -> Array:
    """Poses on a circle to the left that begins along x."""
    angle = along_m / radius_m
    return np.stack([radius_m * np.sin(angle), radius_m * (1 - np.cos(angle)), angle], axis=-1)


def car_before(gap_m: float, **fields: float) -> Thing:
    """A car in the lane whose rear is this far before the front bumper."""
    return Thing("vehicle", x=FRONT_M + gap_m + 2.25, **fields)


def measure(
    plan: Array,
    *things: Thing,
    speed_mps: float = 8.0,
    centerline: Array = STRAIGHT_LINE,
    connectors: Mapping[int, Line] | None = None,
    red: Mapping[int, bool] | None = None,
    ego_pose: Array = EGO_POSES[1],
    later: Sequence[Thing] | None = None,
) -> SceneMeasures:
    """Measure a scene that is given in the present ego frame; with `later` the things are replaced after now."""
    connectors = connectors or {}
    lights = tuple((str(lane), is_red) for lane, is_red in (red or {}).items())
    poses = np.concatenate([np.zeros((4, 3)), plan])
    frames = []
    for number, pose in enumerate(poses):
        seconds = max(number - 3, 0) * 0.5
        frames.append(
            Frame(
                token=f"{number:016x}",
                time_us=number * 500_000,
                ego_pose_world=ego_to_world(pose, ego_pose),
                ego_velocity_mps=np.array([speed_mps, 0.0]),
                ego_acceleration_mps2=np.array([-0.5, 0.2]),
                command=np.array([0, 1, 0, 0]),
                roadblock_ids=("7",),
                traffic_lights=lights,
                boxes=_seen_from(pose, things if number <= 3 or later is None else later, seconds),
                cameras={},
                lidar_path=None,
            )
        )
    scene = Scene(frames[3].token, "log", "us-ma-boston", tuple(frames))
    return measure_scene(scene, _city(connectors, ego_pose), ego_to_world(centerline, ego_pose))


def _seen_from(pose: Array, things: Sequence[Thing], seconds: float) -> Boxes:
    rows, velocities = np.zeros((len(things), 7)), np.zeros((len(things), 3))
    for row, thing in enumerate(things):
        direction = np.array([np.cos(thing.heading), np.sin(thing.heading)])
        where = np.array([thing.x, thing.y]) + thing.speed_mps * seconds * direction
        there = world_to_ego(np.array([*where, thing.heading]), pose)
        rows[row] = [there[0], there[1], 0.4, thing.length, thing.width, 1.5, there[2]]
        velocities[row, :2] = thing.speed_mps * np.array([np.cos(there[2]), np.sin(there[2])])
    types = np.array([OBJECT_TYPES.index(thing.kind) for thing in things], dtype=np.int64)
    return Boxes(rows, types, velocities, tuple(map(str, range(len(things)))))


def _city(connectors: Mapping[int, Line], ego_pose: Array) -> CityMap:
    """A city that has nothing but lane connectors, given in the ego frame."""

    def in_world(line: Line) -> shapely.LineString:
        return shapely.LineString(ego_to_world(np.array([(*point, 0.0) for point in line]), ego_pose)[:, :2])

    lines = {lane: in_world(line) for lane, line in connectors.items()}
    geometries = np.empty(len(lines), dtype=object)
    geometries[:] = list(lines.values())
    nothing = Layer(np.zeros(0, dtype=np.int64), np.empty(0, dtype=object), {})
    empty = dict.fromkeys(
        (
            "lanes", "roadblocks", "roadblock_connectors", "intersections", "car_parks", "crosswalks", "stop_polygons",
            "walkways", "boundaries", "generic_drivable_areas",
        ),
        nothing,
    )  # fmt: skip
    return CityMap(
        location="us-ma-boston",
        path=Path("map.gpkg"),
        crs="epsg:32619",
        lane_connectors=Layer(np.array(list(lines), dtype=np.int64), geometries, {}),
        connector_polygons={},
        baselines=lines,
        **empty,
    )


@pytest.mark.parametrize("ego_pose", EGO_POSES)
def test_leader_at_12_m_is_12_m_ahead_wherever_the_scene_lies(ego_pose: Array) -> None:
    found = measure(straight(8.0), car_before(12.0, speed_mps=8.0), ego_pose=ego_pose)
    assert found.gap_m == pytest.approx(12.0, abs=0.01)
    assert found.time_gap_s == pytest.approx(1.5, abs=0.01)
    assert found.interactions == ("follows a leader",)


def test_far_leader_is_seen_but_not_followed() -> None:
    found = measure(straight(8.0), car_before(40.0, speed_mps=8.0))
    assert found.gap_m == pytest.approx(40.0, abs=0.01)
    assert found.interactions == ()
    assert measure(straight(8.0), car_before(52.0, speed_mps=8.0)).gap_m is None


def test_nearest_of_two_leads() -> None:
    found = measure(straight(8.0), car_before(30.0), car_before(10.0, speed_mps=8.0))
    assert found.gap_m == pytest.approx(10.0, abs=0.01)


@pytest.mark.parametrize(
    "thing",
    [
        car_before(12.0, y=3.5, speed_mps=8.0),
        car_before(12.0, heading=np.pi, speed_mps=8.0),
        Thing("vehicle", x=-9.0, speed_mps=8.0),
        Thing("pedestrian", x=16.0, length=0.6, width=0.6),
        Thing("traffic_cone", x=16.0, length=0.4, width=0.4),
    ],
    ids=["next lane", "oncoming", "behind", "pedestrian", "cone"],
)
def test_what_is_no_leader(thing: Thing) -> None:
    found = measure(straight(8.0), thing)
    assert found.gap_m is None
    assert found.time_gap_s is None
    assert "follows a leader" not in found.interactions


def test_standing_in_a_queue_is_following_without_a_time_gap() -> None:
    found = measure(np.zeros((8, 3)), car_before(3.0), speed_mps=0.0)
    assert found.gap_m == pytest.approx(3.0, abs=0.01)
    assert found.time_gap_s is None
    assert found.interactions == ("follows a leader",)
    assert (found.speed_word, found.path_word) == ("wait", "straight")


def test_leader_on_a_bend_is_found_along_the_bend() -> None:
    radius_m = 40.0
    x, y, heading = arc(radius_m, np.array(30.0))
    leader = Thing("vehicle", x=float(x), y=float(y), heading=float(heading), speed_mps=6.0)
    straight_on = Thing("vehicle", x=30.0, speed_mps=6.0)
    found = measure(arc(radius_m, 6.0 * SECONDS), leader, straight_on, centerline=arc(radius_m, np.arange(-20.0, 90.0)))
    assert found.gap_m == pytest.approx(30.0 - 2.25 - FRONT_M, abs=0.3)
    assert found.curvature_per_m == pytest.approx(1 / radius_m, rel=0.01)
    # Beyond what was driven, the route's bend goes on and the tangent does not.
    assert (
        measure(arc(radius_m, 6.0 * SECONDS), straight_on, centerline=arc(radius_m, np.arange(-20.0, 90.0))).gap_m
        is None
    )


def test_way_keeps_its_offset_to_the_centerline() -> None:
    cyclist = Thing("bicycle", x=30.0, y=0.9, speed_mps=3.0, length=1.8, width=0.6)
    beside = STRAIGHT_LINE - np.array([0.0, 1.5, 0.0])
    found = measure(straight(2.0), cyclist, speed_mps=2.0, centerline=beside)
    assert found.gap_m == pytest.approx(30.0 - 0.9 - FRONT_M, abs=0.01)


@pytest.mark.parametrize(("plan", "curvature"), [(straight(8.0), 0.0), (arc(20.0, 8.0 * SECONDS), 0.05)])
def test_curvature_is_that_of_the_path(plan: Array, curvature: float) -> None:
    assert measure(plan).curvature_per_m == pytest.approx(curvature, rel=0.02)


def test_motion_is_as_driven() -> None:
    found = measure(straight(8.0, 4.0))
    assert found.speed_mps == pytest.approx(8.0)
    assert found.acceleration_mps2 == pytest.approx(-0.5)
    assert found.travel_m == pytest.approx(24.0)
    assert (found.speed_word, found.path_word, found.command) == ("slow down", "straight", "straight")
    assert measure(np.zeros((8, 3)), speed_mps=0.0).curvature_per_m is None


def test_objects_count_by_kind_within_50_m() -> None:
    near = [Thing("vehicle", x=49.0, y=6.0), Thing("vehicle", x=-30.0, y=6.0), Thing("pedestrian", x=0.0, y=20.0)]
    found = measure(straight(8.0), *near, Thing("vehicle", x=49.0, y=20.0), Thing("barrier", x=3.0, y=-8.0))
    assert dict(zip(OBJECT_TYPES, found.objects, strict=True)) == {
        **dict.fromkeys(OBJECT_TYPES, 0),
        "vehicle": 2,
        "pedestrian": 1,
        "barrier": 1,
    }
    assert measure(straight(8.0)).objects == (0,) * len(OBJECT_TYPES)


AHEAD: Line = [(FRONT_M + 15.0, 0.0), (FRONT_M + 35.0, 0.0)]
TO_THE_LEFT: Line = [(FRONT_M + 15.0, 0.0), (FRONT_M + 25.0, 3.0), (FRONT_M + 28.0, 15.0)]
BESIDE: Line = [(FRONT_M + 15.0, 3.5), (FRONT_M + 35.0, 3.5)]
BEHIND: Line = [(-20.0, 0.0), (-1.0, 0.0)]


@pytest.mark.parametrize(
    ("connectors", "red", "light"),
    [
        ({1: AHEAD}, {1: True}, "red"),
        ({1: AHEAD}, {1: False}, "green"),
        ({1: BESIDE}, {1: True}, "none"),
        ({1: BEHIND}, {1: True}, "none"),
        ({1: AHEAD, 2: TO_THE_LEFT}, {1: False, 2: True}, "green"),
        ({1: AHEAD, 2: TO_THE_LEFT}, {2: False, 1: True}, "red"),
        ({1: AHEAD}, {99: True}, "none"),
        ({1: AHEAD}, {}, "none"),
    ],
    ids=[
        "red",
        "green",
        "next lane",
        "behind",
        "the arm driven is green",
        "... red",
        "unknown to the map",
        "no lights",
    ],
)
def test_next_light_on_the_way(connectors: Mapping[int, Line], red: Mapping[int, bool], light: str) -> None:
    assert measure(straight(8.0), connectors=connectors, red=red).light == light


def test_red_light_counts_where_it_holds_the_human_up() -> None:
    signal: dict[str, Mapping] = {"connectors": {1: AHEAD}, "red": {1: True}}
    assert measure(straight(8.0, 0.5), **signal).interactions == ("red light",)
    assert measure(straight(8.0), **signal).interactions == ()


def crossing_car() -> Thing:
    return Thing("vehicle", x=22.0, y=12.0, heading=-np.pi / 2, speed_mps=7.0)


def test_slowing_down_for_crossing_traffic_is_yielding_and_driving_on_is_not() -> None:
    assert measure(straight(6.0, 0.5), crossing_car(), speed_mps=6.0).interactions == ("yields to crossing traffic",)
    assert measure(straight(6.0), replace(crossing_car(), x=26.0), speed_mps=6.0).interactions == ()


def test_traffic_that_crosses_before_a_red_light_is_not_yielded_to() -> None:
    held = measure(straight(6.0, 0.5), crossing_car(), speed_mps=6.0, connectors={1: AHEAD}, red={1: True})
    assert held.interactions == ("red light",)


def test_traffic_that_crosses_behind_is_not_yielded_to() -> None:
    assert measure(straight(6.0, 0.5), replace(crossing_car(), x=-8.0), speed_mps=6.0).interactions == ()


def test_pedestrian_counts_near_the_way_ahead_only() -> None:
    def walker(x: float, y: float) -> Thing:
        return Thing("pedestrian", x=x, y=y, length=0.6, width=0.6)

    assert measure(straight(8.0), walker(20.0, 2.5)).interactions == ("pedestrian near the way",)
    assert measure(straight(8.0), walker(20.0, 4.0)).interactions == ()
    assert measure(straight(8.0), walker(-3.0, 1.8)).interactions == ()


def test_pedestrian_who_steps_onto_the_way_behind_the_car_does_not_count() -> None:
    late = Thing("pedestrian", x=8.0, y=12.0, heading=-np.pi / 2, speed_mps=3.0, length=0.6, width=0.6)
    assert measure(straight(8.0), late).interactions == ()
    assert measure(straight(1.0), late, speed_mps=1.0).interactions == ("pedestrian near the way",)


@pytest.mark.parametrize(("side", "word"), [(1.0, "turn left"), (-1.0, "turn right")])
def test_oncoming_traffic_counts_on_the_side_one_turns_to(side: float, word: str) -> None:
    plan = arc(12.0, 4.0 * SECONDS) * np.array([1.0, side, side])
    centerline = arc(12.0, np.arange(-20.0, 18.0)) * np.array([1.0, side, side])
    oncoming = Thing("vehicle", x=30.0, y=3.5, heading=np.pi, speed_mps=6.0)
    found = measure(plan, oncoming, speed_mps=4.0, centerline=centerline)
    assert found.path_word == word
    assert ("oncoming traffic while turning" in found.interactions) == (side > 0)


def swerve() -> Array:
    """Three metres to the left within 20 m, then on beside the lane."""
    x = 8.0 * SECONDS
    y = 3.0 * np.clip(x / 12.0, 0.0, 1.0)
    heading = np.where(x < 12.0, np.arctan2(3.0, 12.0), 0.0)
    return np.stack([x, y, heading], axis=-1)


@pytest.mark.parametrize(
    ("things", "interactions"),
    [
        ([Thing("vehicle", x=21.0)], ("passes a standing vehicle",)),
        ([Thing("vehicle", x=21.0, y=-3.2)], ()),
        ([Thing("vehicle", x=60.0)], ()),
        ([Thing("traffic_cone", x=x, length=0.4, width=0.4) for x in (18.0, 21.0, 24.0)], ("passes road works",)),
        ([Thing("barrier", x=21.0, y=-3.2, length=2.0, width=0.5)], ()),
    ],
    ids=["in the lane", "at the kerb", "far ahead", "cones in the lane", "barrier beside the lane"],
)
def test_passing_counts_what_blocks_the_lane(things: list[Thing], interactions: tuple[str, ...]) -> None:
    assert measure(swerve(), *things).interactions == interactions


def test_moving_car_is_not_passed_as_a_standing_one() -> None:
    assert "passes a standing vehicle" not in measure(swerve(), Thing("vehicle", x=21.0, speed_mps=2.0)).interactions


def test_car_that_stands_now_and_drives_on_is_not_passed() -> None:
    starting = Thing("vehicle", x=21.0)
    moved = replace(starting, x=41.0)
    assert "passes a standing vehicle" not in measure(swerve(), starting, later=[moved]).interactions
    assert "passes a standing vehicle" in measure(swerve(), starting, later=[starting]).interactions


def test_scene_without_a_driven_future_is_refused() -> None:
    with pytest.raises(SceneDataError, match="future frames"):
        measure(straight(8.0)[:5])
