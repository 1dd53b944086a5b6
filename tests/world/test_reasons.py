"""Reasons have grounds: what an answer names is really there, derived here anew from log and map."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon

from irlvla.data.language import load_answers
from irlvla.data.maps import CityMap, load_map
from irlvla.data.scenes import human_plan, open_scenes
from irlvla.geometry import EGO_LENGTH_M, REAR_AXLE_TO_CENTER_M, wrap_angle
from irlvla.types import COMMANDS, OBJECT_TYPES, Scene
from irlvla.world.city import City, Connector, Lane
from irlvla.world.logs import KeyFrame, SceneObject
from irlvla.world.obstacles import BusStop, Obstacles
from irlvla.world.reasons import RouteView, look_around, movement, reason

FRONT_M = EGO_LENGTH_M / 2 + REAR_AXLE_TO_CENTER_M


def _answers(world: Path) -> Iterator[tuple[Scene, CityMap, str]]:
    for folder in ("trainval", "test"):
        scenes = open_scenes(world, folder)
        for scene in scenes:
            answer = load_answers(world, scenes.split.data_split, scene.log_name)[scene.token]
            yield scene, load_map(world, scene.map_location), answer.answer.split(": ", 1)[1]


def _lights_on_the_way(scene: Scene, city_map: CityMap) -> list[bool]:
    """Whether each light ahead on the route is red."""
    route = {int(block) for block in scene.now.roadblock_ids}
    x, y, heading = scene.now.ego_pose_world
    found = []
    for connector, is_red in scene.now.traffic_lights:
        if city_map.roadblock_of(int(connector)) not in route:
            continue
        start = city_map.discrete_path(int(connector))[0]
        ahead = (start[0] - x) * np.cos(heading) + (start[1] - y) * np.sin(heading) - FRONT_M
        if -2.5 < ahead < 65.0 and abs(wrap_angle(start[2] - heading)) < 1.1:
            found.append(is_red)
    return found


def _in_the_way(scene: Scene, kinds: tuple[str, ...], behind_m: float = 0.0) -> NDArray[np.float64]:
    """[N, 4] gap to the front bumper, distance from the driven way or the car's own line, heading, speed; of objects
    ahead, and some behind."""
    boxes = scene.now.boxes
    rows = [k for k, kind in enumerate(boxes.types) if OBJECT_TYPES[kind] in kinds and boxes.boxes[k, 0] > -behind_m]
    plan = np.concatenate([np.zeros((1, 2)), human_plan(scene)[:, :2]])
    heading = human_plan(scene)[-1, 2]
    driven = shapely.LineString([*plan, plan[-1] + 80.0 * np.array([np.cos(heading), np.sin(heading)])])
    own = shapely.LineString([(-behind_m, 0.0), (90.0, 0.0)])
    return np.array(
        [
            (
                boxes.boxes[k, 0] - boxes.boxes[k, 3] / 2 - FRONT_M,
                min(line.distance(shapely.Point(boxes.boxes[k, :2])) for line in (driven, own)),
                boxes.boxes[k, 6],
                np.hypot(*boxes.velocity_mps[k, :2]),
            )
            for k in rows
        ]
    ).reshape(-1, 4)


@pytest.mark.slow
def test_every_reason_on_a_built_world_has_its_ground(human_world: Path) -> None:
    checked = dict.fromkeys(("red", "green", "ahead", "pedestrian", "oncoming", "works", "standing"), 0)
    for scene, city_map, why in _answers(human_world):
        if "road works" in why:
            cones = _in_the_way(scene, ("traffic_cone", "barrier"), behind_m=25.0)
            reach_m = (-30.0, 1.0) if "past" in why else (-5.0, 46.0)
            assert ((cones[:, 0] > reach_m[0]) & (cones[:, 0] < reach_m[1]) & (cones[:, 1] < 5.0)).any(), (why, cones)
            checked["works"] += 1
        if "standing" in why or "at its stop" in why:
            others = _in_the_way(scene, ("vehicle", "bicycle"), behind_m=25.0)
            assert ((others[:, 3] < 0.5) & (others[:, 1] < 5.0)).any(), (why, others)
            checked["standing"] += 1
        if "light" in why:
            lights = _lights_on_the_way(scene, city_map)
            assert lights, why
            if " red" in why:
                assert any(lights), why
                checked["red"] += 1
            if "is green" in why:
                assert not all(lights), why
                checked["green"] += 1
        named = re.search(r"(\d+) m ahead|ahead at (\d+) m|ahead is (\d+) m away", why)
        if named:
            gap_m = float(next(group for group in named.groups() if group))
            others = _in_the_way(scene, ("vehicle", "bicycle"))
            near = (np.abs(np.maximum(others[:, 0], 0.0) - gap_m) < 1.0) & (others[:, 1] < 4.0)
            assert near.any(), (why, others)
            checked["ahead"] += 1
        if "pedestrian" in why:
            people = _in_the_way(scene, ("pedestrian",))
            assert ((people[:, 0] < 25.0) & (people[:, 1] < 4.5)).any(), why
            checked["pedestrian"] += 1
        if "oncoming" in why:
            others = _in_the_way(scene, ("vehicle", "bicycle"))
            assert ((others[:, 0] < 45.0) & (np.abs(wrap_angle(others[:, 2])) > 2.3)).any(), why
            checked["oncoming"] += 1
        if "speed limit" in why:
            limit = float(re.findall(r"(\d+) km/h", why)[0]) / 3.6
            assert scene.now.ego_velocity_mps[0] > limit - 0.2
    assert checked["ahead"] >= 5
    assert checked["red"] >= 1
    assert checked["works"] >= 3


# --- hand-made scenes ---------------------------------------------------------------------------------------------

AREA = Polygon([(-60.0, -1.8), (60.0, -1.8), (60.0, 1.8), (-60.0, 1.8)])


def _lane(fid: int, block: int, start_x: float, y: float = 0.0, length_m: float = 20.0, index: int = 0) -> Lane:
    baseline = np.stack([np.linspace(start_x, start_x + length_m, 21), np.full(21, y)], axis=1)
    area = Polygon(
        [(start_x, y - 1.8), (start_x + length_m, y - 1.8), (start_x + length_m, y + 1.8), (start_x, y + 1.8)]
    )
    return Lane(fid, fid, 0, 0, f"e{block}_{index}", block, index, baseline, area, 3.6, 13.9, baseline[0], baseline[-1])


def _city(stop_line_x: float, *, route_turns: str = "s") -> City:
    """Two lanes to a junction with lights: the right one goes straight on, the left one turns left."""
    right, left = (_lane(fid, 1, stop_line_x - 60.0, y, 60.0, index) for fid, y, index in ((11, 0.0, 1), (12, 3.6, 0)))
    beyond = _lane(13, 3, stop_line_x + 15.0)
    side = _lane(14, 5, stop_line_x + 15.0, 20.0)
    city = City("x", np.zeros(2))
    city.lanes += [right, left, beyond, side]
    for fid, start, end, block, turn, link in ((21, right, beyond, 2, "s", 0), (22, left, side, 4, "l", 1)):
        line = np.stack(
            [np.linspace(start.end[0], end.begin[0], 9), np.linspace(start.end[1], end.begin[1], 9)], axis=1
        )
        area = Polygon(shapely.LineString(line).buffer(1.8, cap_style="flat").exterior)
        city.connectors.append(
            Connector(fid, 0, 0, 0, 0, start, end, block, 7, line, area, 13.9, turn, ("t", link), 8, (f":j_{link}",))
        )
    return city


def _view(city: City, *, left: bool = False) -> RouteView:
    return RouteView(city, ["1", "4", "5"] if left else ["1", "2", "3"])


def _object(kind: str, x: float, y: float, heading: float = 0.0, speed: float = 5.0, **state: bool) -> SceneObject:
    box = np.array([x, y, 0.8, 4.5, 1.8, 1.6, heading])
    velocity = speed * np.array([np.cos(heading), np.sin(heading)])
    is_walker = kind == "pedestrian"
    return SceneObject("t", "pedestrian" if is_walker else "vehicle", kind, box, velocity, state.get("braking", False))


def _frame(city: City, letters: str, *objects: SceneObject, speed: float = 8.0, x: float = 0.0) -> KeyFrame:
    lights = tuple((c, letter in "rRu", letter) for c, letter in zip(city.connectors, letters, strict=True))
    pose = np.array([x, 0.0, 0.0])
    return KeyFrame("0" * 16, 0, 0, pose, speed, 0.0, 0.0, COMMANDS.index("straight"), objects, lights)


def _why(
    words: tuple[str, str], frame: KeyFrame, view: RouteView, later: str | None = None, city: City | None = None
) -> str:
    ahead = (
        [_frame(city, later, x=frame.speed_mps * 0.5 * k) for k in range(1, 9)]
        if city and later
        else [
            KeyFrame("", 0, 0, np.array([frame.speed_mps * 0.4 * k, 0.0, 0.0]), 5.0, 0.0, 0.0, 1, (), frame.lights)
            for k in range(1, 9)
        ]
    )
    return reason(*words, frame.speed_mps, look_around(frame, ahead, view))


def test_only_the_light_of_the_own_way_counts() -> None:
    city = _city(30.0)
    assert _why(("slow down", "straight"), _frame(city, "rG"), _view(city)) == "the light ahead is red"
    assert "light" not in _why(("slow down", "straight"), _frame(city, "Gr"), _view(city))
    assert _why(("slow down", "straight"), _frame(city, "Gr"), _view(city, left=True)) == "the light ahead is red"


def test_a_light_far_away_is_no_reason_to_slow_down_yet() -> None:
    city = _city(80.0)
    assert "light" not in _why(("slow down", "straight"), _frame(city, "rG"), _view(city))


def test_who_starts_at_red_knows_that_it_turns_green() -> None:
    city = _city(9.0)
    frame = _frame(city, "rG", speed=0.0)
    assert _why(("start", "straight"), frame, _view(city), "GG", city) == "the light ahead is turning green"


def test_a_leader_is_named_with_what_it_does() -> None:
    city = _city(500.0)
    view = _view(city)
    city.lanes[0] = _lane(11, 1, -20.0, 0.0, 520.0, 1)
    at = FRONT_M + 10.0 + 2.25
    slow = ("slow down", "straight")
    assert _why(slow, _frame(city, "GG", _object("car1", at, 0.0, speed=0.0)), view) == "the car 10 m ahead is standing"
    braking = _object("truck0", at, 0.0, speed=5.0, braking=True)
    assert _why(slow, _frame(city, "GG", braking), view) == "the truck 10 m ahead is braking"
    assert _why(("keep speed", "straight"), _frame(city, "GG", _object("car1", at, 0.0, speed=8.0)), view) == (
        "follow the car ahead at 10 m"
    )
    beside = _object("car1", at, 3.6, speed=0.0)
    assert "car" not in _why(slow, _frame(city, "GG", beside), view)


def test_a_car_at_the_red_light_waits_there() -> None:
    city = _city(30.0)
    car = _object("car1", 25.0, 0.0, speed=0.0)
    assert _why(("stop", "straight"), _frame(city, "rG", car), _view(city)).endswith(
        "ahead is waiting at the red light"
    )
    assert _why(("stop", "straight"), _frame(city, "GG", car), _view(city)).endswith("ahead is standing")


def test_people_on_the_way_come_first_and_people_beside_it_do_not() -> None:
    city = _city(30.0)
    on_it = _object("pedestrian", 14.0, 0.5, speed=1.0)
    assert _why(("stop", "straight"), _frame(city, "rG", on_it), _view(city)) == "a pedestrian is in the way"
    stepping = _object("pedestrian", 14.0, 3.0, heading=-np.pi / 2, speed=1.2)
    assert _why(("stop", "straight"), _frame(city, "GG", stepping), _view(city)) == "a pedestrian is in the way"
    walking_off = _object("pedestrian", 14.0, 3.0, heading=np.pi / 2, speed=1.2)
    assert "pedestrian" not in _why(("slow down", "straight"), _frame(city, "GG", walking_off), _view(city))


def test_a_lane_change_for_the_route_says_so() -> None:
    city = _city(40.0)
    why = _why(("keep speed", "change lane left"), _frame(city, "GG"), _view(city, left=True))
    assert why == "the route goes on from the left lane"
    slow = _object("bus0", 25.0, 0.0, speed=2.0)
    assert _why(("keep speed", "change lane left"), _frame(city, "GG", slow), _view(city)) == "the bus ahead is slower"


def test_traffic_that_comes_from_the_side_is_a_reason_near_a_junction_only() -> None:
    crossing = _object("car1", 16.0, -12.0, heading=np.pi / 2, speed=6.0)
    near, far = _city(12.0), _city(70.0)
    slow = ("slow down", "straight")
    assert _why(slow, _frame(near, "GG", crossing), _view(near)) == "a vehicle comes from the right"
    assert "comes from" not in _why(slow, _frame(far, "GG", crossing), _view(far))


def _cone(x: float, y: float) -> SceneObject:
    return SceneObject(
        "s0", "traffic_cone", "traffic_cone", np.array([x, y, 0.4, 0.4, 0.4, 0.75, 0.0]), np.zeros(2), False
    )


def _said(words: tuple[str, str], frame: KeyFrame, view: RouteView) -> tuple[str, str]:
    """How the path is put, where otherwise than by its word, and why."""
    later = [KeyFrame("", 0, 0, np.array([2.0 * k, 0.0, 0.0]), 5.0, 0.0, 0.0, 1, (), frame.lights) for k in range(1, 9)]
    here = look_around(frame, later, view)
    return movement(words[1], here), reason(*words, frame.speed_mps, here)


def test_who_makes_way_for_road_works_says_so_and_who_passes_them_too() -> None:
    city = _city(500.0)
    city.lanes[0] = _lane(11, 1, -20.0, 0.0, 520.0, 1)
    view = _view(city)
    over, back = ("keep speed", "change lane left"), ("keep speed", "change lane right")
    works = _frame(city, "GG", _cone(25.0, -0.9), _cone(29.0, -0.9))
    assert _said(over, works, view) == ("move over to the left", "road works block the lane")
    assert _said(back, works, view)[0] != "move over to the right"
    assert _said(("slow down", "straight"), works, view)[1] == "road works block the lane"
    assert _said(("keep speed", "straight"), works, view)[1] == "there is room to pass the road works"
    behind = _frame(city, "GG", _cone(-6.0, -2.6))
    assert _said(back, behind, view) == ("move back to the right", "the way is free again past the road works")
    # Beside the pavement they are no reason for anything but care.
    aside = _frame(city, "GG", _cone(12.0, -2.0))
    assert _said(("slow down", "straight"), aside, view)[1] == "road works narrow the way"
    assert "works" not in _said(("slow down", "straight"), _frame(city, "GG", _cone(12.0, -4.0)), view)[1]


def test_a_vehicle_that_stands_for_good_is_told_from_one_that_waits() -> None:
    city = _city(500.0)
    city.lanes[0] = _lane(11, 1, -20.0, 0.0, 520.0, 1)
    van = _object("van1", 30.0, 0.0, speed=0.0)
    stands = replace(van, track="standing03")
    over = ("keep speed", "change lane left")
    assert _said(over, _frame(city, "GG", stands), _view(city))[1] == "a standing van blocks the lane"
    assert _said(over, _frame(city, "GG", van), _view(city))[1] == "the van ahead is standing"


def test_a_bus_is_at_its_stop_only_where_there_is_one() -> None:
    city = _city(500.0)
    city.lanes[0] = _lane(11, 1, -20.0, 0.0, 520.0, 1)
    bus = _object("bus0", 20.0, 0.0, speed=0.0)
    # The bus ends at 22.25 m, which is 42.25 m along the lane.
    for end_m, why in ((42.0, "is at its stop"), (90.0, "is standing")):
        stops = Obstacles(bus_stops=(BusStop("stop0", "e1_1", end_m),))
        view = RouteView(city, ["1", "2", "3"], stops)
        assert _said(("slow down", "straight"), _frame(city, "GG", bus), view)[1].endswith(why)


def test_an_s_bend_is_no_change_of_lanes() -> None:
    city = _city(40.0)
    way, why = _said(("keep speed", "change lane right"), _frame(city, "GG"), _view(city))
    assert way == "follow the road as it leads to the right"
    assert why == "the road ahead is free"
