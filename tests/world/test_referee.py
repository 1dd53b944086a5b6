"""The referee's rules, on a crossroad with signals where everything is known."""

import numpy as np
import pytest
from crossroads import build_crossroad

from irlvla.geometry import REAR_AXLE_TO_CENTER_M
from irlvla.types import OBJECT_TYPES, Array
from irlvla.world.city import Connector
from irlvla.world.place import Place
from irlvla.world.referee import GOAL_MARGIN_M, Judgement, Objects, Referee

NOTHING = Objects((), np.zeros(0, dtype=np.int64), np.zeros((0, 5)), np.zeros(0))
CAR_M = (4.5, 1.9)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return build_crossroad(tmp_path_factory.mktemp("signals") / "place")


def _straight(place: Place) -> Connector:
    return next(c for c in place.city.connectors if c.from_lane.sumo_id == "west_in_0" and c.turn == "s")


def _referee(place: Place, x: float = 60.0) -> tuple[Referee, Array]:
    """A referee for the way from west to east, and the world position of x = y = 0 on that lane."""
    route = place.city.route_roadblocks(("west_in", "east_out"))
    lane = _straight(place).from_lane
    origin = lane.baseline[0]
    referee = Referee(place.city_map, route, np.array([origin[0] + x, origin[1], 0.0]))
    return referee, origin


def _drive(origin: Array, x: float, speed: float, *, steps: int = 5, y: float = 0.0, heading: float = 0.0) -> Array:
    """States [steps + 1, 11] straight on from x at a constant speed."""
    states = np.zeros((steps + 1, 11))
    along = 0.1 * speed * np.arange(steps + 1)
    states[:, 0] = origin[0] + x + along * np.cos(heading)
    states[:, 1] = origin[1] + y + along * np.sin(heading)
    states[:, 2], states[:, 3] = heading, speed
    return states


def _car(origin: Array, x: float, y: float = 0.0, *, speed: float = 0.0, kind: str = "vehicle") -> Objects:
    box = np.array([[origin[0] + x, origin[1] + y, 0.0, *CAR_M]])
    return Objects(("other",), np.array([OBJECT_TYPES.index(kind)]), box, np.array([speed]))


def _judge(referee: Referee, states: Array, objects: list[Objects], red: set[int] | None = None) -> Judgement:
    referee.begin(states[0], objects[0])
    return referee.judge(states, objects, [red or set()] * len(states))


def test_a_free_drive_is_clean_and_its_progress_is_its_length(place: Place) -> None:
    referee, origin = _referee(place)
    judged = _judge(referee, _drive(origin, 60, 10), [NOTHING] * 6)
    assert judged.is_clean
    assert judged.collisions == ()
    assert referee.progress_m == pytest.approx(5.0, abs=1e-6)
    assert judged.moved_m.sum() == pytest.approx(5.0, abs=1e-6)


def test_the_route_is_driven_shortly_before_its_end(place: Place) -> None:
    referee, origin = _referee(place)
    assert referee.route_m == pytest.approx(400 - 60 - REAR_AXLE_TO_CENTER_M - GOAL_MARGIN_M, abs=3.0)
    x = 60.0
    while x < 380 and not referee.arrived:
        states = _drive(origin, x, 10)
        referee.judge(states, [NOTHING] * 6, [set()] * 6)
        x += 5
    assert x == pytest.approx(60 + referee.route_m, abs=6.0)


def test_driving_into_a_standing_car_is_our_fault(place: Place) -> None:
    referee, origin = _referee(place)
    judged = _judge(referee, _drive(origin, 60, 10), [_car(origin, 70)] * 6)
    (touched,) = judged.collisions
    assert (touched.other, touched.other_type, touched.at_fault) == ("other", "vehicle", True)
    assert touched.ego_speed_mps == 10
    # Front bumper 4.05 m ahead of the rear axle, the other's rear end at 67.75 m: contact after 3.7 m.
    assert touched.step == 4
    assert not judged.is_clean


def test_being_hit_from_behind_is_not_our_fault(place: Place) -> None:
    referee, origin = _referee(place)
    states = _drive(origin, 60, 3)
    # Its front bumper starts 1.5 m behind ours and gains 0.7 m a step.
    behind = [_car(origin, 60 - 1.127 - 1.5 - CAR_M[0] / 2 + 1.0 * step, speed=10) for step in range(6)]
    (touched,) = _judge(referee, states, behind).collisions
    assert not touched.at_fault


def test_whoever_stands_is_not_at_fault(place: Place) -> None:
    referee, origin = _referee(place)
    ahead = [_car(origin, 70 - 1.0 * step, speed=10) for step in range(6)]
    (touched,) = _judge(referee, _drive(origin, 60, 0), ahead).collisions
    assert not touched.at_fault


def test_fault_looks_back_as_far_as_the_scorer_does(place: Place) -> None:
    """Leaning with our side on a car that stands is our fault, unless it was seen moving within the last 4 s."""

    def lean_on(first: Objects, quiet_stretches: int) -> bool:
        referee, origin = _referee(place, 62)
        states = _drive(origin, 62, 1)
        # Our front bumper is past the other car already.
        standing = _car(origin, 62, -2.3)
        referee.begin(states[0], first)
        for _ in range(quiet_stretches):
            assert referee.judge(_drive(origin, 62, 0), [standing] * 6, [set()] * 6).collisions == ()
        states[:, 1] -= np.linspace(0.0, 0.4, 6)
        judged = referee.judge(states, [standing] * 6, [set()] * 6)
        assert not judged.off_road.any()
        (touched,) = judged.collisions
        return touched.at_fault

    _, origin = _referee(place)
    assert lean_on(_car(origin, 62, -2.3), 1)
    assert not lean_on(_car(origin, 62, -2.3, speed=5), 1)
    assert lean_on(_car(origin, 62, -2.3, speed=5), 8)


def test_a_contact_counts_once_and_one_that_was_there_before_never(place: Place) -> None:
    referee, origin = _referee(place)
    along = _car(origin, 66)
    states = _drive(origin, 60, 1)
    assert _judge(referee, states, [along] * 6).collisions == ()
    referee, origin = _referee(place)
    states = _drive(origin, 56, 10)
    first = _judge(referee, states, [_car(origin, 66)] * 6)
    second = referee.judge(_drive(origin, 61, 1), [_car(origin, 66)] * 6, [set()] * 6)
    assert len(first.collisions) == 1
    assert second.collisions == ()


def test_entering_at_red_is_running_it_and_at_yellow_is_not(place: Place) -> None:
    connector = _straight(place)
    to_line = connector.baseline[0, 0] - _referee(place)[1][0]
    start = to_line - 4.05 - 2.0
    for red, run in (({connector.fid}, True), (set(), False)):
        referee, origin = _referee(place, start)
        judged = _judge(referee, _drive(origin, start, 10), [NOTHING] * 6, red)
        assert bool(judged.red_lights_run) == run
        assert judged.is_clean == (not run)


def test_a_light_that_turns_red_behind_the_bumper_was_not_run(place: Place) -> None:
    connector = _straight(place)
    to_line = connector.baseline[0, 0] - _referee(place)[1][0]
    referee, origin = _referee(place, to_line - 6)
    states = _drive(origin, to_line - 6, 10, steps=10)
    referee.begin(states[0], NOTHING)
    green = referee.judge(states[:6], [NOTHING] * 6, [set()] * 6)
    red = referee.judge(states[5:], [NOTHING] * 6, [{connector.fid}] * 6)
    assert green.red_lights_run == red.red_lights_run == ()


def test_one_red_light_is_one_offence_whatever_its_connectors(place: Place) -> None:
    approach = {c.fid for c in place.city.connectors if c.from_lane.sumo_id == "west_in_0"}
    assert len(approach) == 3
    to_line = _straight(place).baseline[0, 0] - _referee(place)[1][0]
    referee, origin = _referee(place, to_line - 6)
    states = _drive(origin, to_line - 6, 10, steps=20)
    runs = _judge(referee, states, [NOTHING] * 21, approach).red_lights_run
    assert len(runs) == 1


def test_a_corner_beside_the_road_is_off_the_road(place: Place) -> None:
    referee, origin = _referee(place)
    judged = _judge(referee, _drive(origin, 60, 10, y=-4.0), [NOTHING] * 6)
    assert judged.off_road.all()


def test_the_oncoming_lane_is_the_wrong_way_but_not_within_the_junction(place: Place) -> None:
    referee, origin = _referee(place)
    judged = _judge(referee, _drive(origin, 60, 10, y=3.6), [NOTHING] * 6)
    assert judged.wrong_way.all()
    assert not judged.is_clean
    middle = 200.0 - 3.0
    referee, origin = _referee(place, middle)
    judged = _judge(referee, _drive(origin, middle, 2, y=3.0), [NOTHING] * 6)
    assert not judged.wrong_way.any()


def test_a_drive_may_not_begin_in_contact_or_off_its_lanes(place: Place) -> None:
    referee, origin = _referee(place)
    free, wrong = _drive(origin, 60, 5)[0], _drive(origin, 60, 5, y=3.6)[0]
    assert referee.is_sound(free, NOTHING)
    assert not referee.is_sound(free, _car(origin, 62))
    assert not referee.is_sound(wrong, NOTHING)
