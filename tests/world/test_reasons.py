"""Reasons have grounds: what an answer names is really there, derived here anew from log and map."""

import re
from collections.abc import Iterator
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
from irlvla.world.reasons import RouteView, look_around, reason

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


def _in_the_way(scene: Scene, kinds: tuple[str, ...]) -> NDArray[np.float64]:
    """[N, 3] gap to the front bumper, distance from the driven way or the car's own line, heading; of objects ahead."""
    boxes = scene.now.boxes
    rows = [k for k, kind in enumerate(boxes.types) if OBJECT_TYPES[kind] in kinds and boxes.boxes[k, 0] > 0.0]
    plan = np.concatenate([np.zeros((1, 2)), human_plan(scene)[:, :2]])
    heading = human_plan(scene)[-1, 2]
    driven = shapely.LineString([*plan, plan[-1] + 80.0 * np.array([np.cos(heading), np.sin(heading)])])
    own = shapely.LineString([(0.0, 0.0), (90.0, 0.0)])
    return np.array(
        [
            (
                boxes.boxes[k, 0] - boxes.boxes[k, 3] / 2 - FRONT_M,
                min(line.distance(shapely.Point(boxes.boxes[k, :2])) for line in (driven, own)),
                boxes.boxes[k, 6],
            )
            for k in rows
        ]
    ).reshape(-1, 3)


@pytest.mark.slow
def test_every_reason_on_a_built_world_has_its_ground(human_world: Path) -> None:
    checked = dict.fromkeys(("red", "green", "ahead", "pedestrian", "oncoming"), 0)
    for scene, city_map, why in _answers(human_world):
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
    assert checked["red"] >= 1
    assert checked["ahead"] >= 5


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
