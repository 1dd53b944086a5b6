from dataclasses import replace

import numpy as np
from shapely.geometry import Polygon

from irlvla.types import COMMANDS
from irlvla.world.city import Connector, Lane
from irlvla.world.language import _look_around, _reason
from irlvla.world.logs import KeyFrame, SceneObject

AHEAD = np.stack([5.0 * np.arange(1, 9) * 0.5, np.zeros(8), np.zeros(8)], axis=1)


def _object(kind: str, x: float, y: float, heading: float = 0.0, speed: float = 5.0) -> SceneObject:
    box = np.array([x, y, 0.8, 4.5, 1.8, 1.6, heading])
    velocity = speed * np.array([np.cos(heading), np.sin(heading)])
    return SceneObject("t", "pedestrian" if kind == "pedestrian" else "vehicle", kind, box, velocity, False)


def _light(distance_m: float, letter: str) -> tuple[Connector, bool, str]:
    end = np.array([distance_m, 0.0])
    baseline = np.stack([end - [20.0, 0.0], end - [1.0, 0.0], end])
    area = Polygon()
    lane = Lane(1, 2, 3, 4, "e_0", 5, 0, baseline, area, 3.5, 13.9, baseline[0], end)
    beyond = baseline + np.array([20.0, 0.0])
    connector = Connector(6, 7, 8, 9, 10, lane, lane, 11, 12, beyond, area, 13.9, "s", ("t", 0), 13, ())
    return connector, letter in "rRu", letter


def _frame(*objects: SceneObject, lights: tuple[tuple[Connector, bool, str], ...] = ()) -> KeyFrame:
    return KeyFrame("0" * 16, 0, 0, np.zeros(3), 5.0, 0.0, 0.0, COMMANDS.index("straight"), objects, lights)


def _why(speed_word: str, path_word: str, frame: KeyFrame) -> str:
    return _reason(speed_word, path_word, _look_around(frame, AHEAD))


def test_a_free_road_is_the_reason_to_keep_going() -> None:
    assert _why("keep speed", "straight", _frame()) == "the road ahead is free"


def test_the_gap_to_the_car_ahead_is_named() -> None:
    car = _object("car1", 4.05 + 12.0 + 2.25, 0.2)
    assert _why("keep speed", "straight", _frame(car)) == "follow the car ahead at 12 m"


def test_a_car_in_the_next_lane_is_no_leader() -> None:
    assert _why("keep speed", "straight", _frame(_object("car1", 15.0, 3.5))) == "the road ahead is free"


def test_a_red_light_is_the_reason_to_stop() -> None:
    assert _why("stop", "straight", _frame(lights=(_light(20.0, "r"),))) == "the light ahead is red"


def test_a_red_light_behind_the_ego_is_no_reason() -> None:
    assert "red" not in _why("slow down", "straight", _frame(lights=(_light(-5.0, "r"),)))


def test_a_pedestrian_in_the_way_comes_first() -> None:
    frame = _frame(_object("pedestrian", 10.0, 0.5, speed=1.0), lights=(_light(20.0, "r"),))
    assert _why("stop", "straight", frame) == "a pedestrian is in the way"


def test_slowing_before_a_turn_names_the_turn() -> None:
    frame = replace(_frame(), command=COMMANDS.index("right"))
    assert _why("slow down", "straight", frame) == "a turn is coming up"


def test_a_left_turn_yields_to_oncoming_traffic() -> None:
    frame = _frame(_object("car1", 25.0, 3.5, heading=np.pi))
    assert _why("slow down", "turn left", frame) == "yield to oncoming traffic"
