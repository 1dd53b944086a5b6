"""People at the wheel: what they drive a car can drive, near what SUMO drove, and no two alike."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from irlvla.geometry import EGO_WHEEL_BASE_M
from irlvla.world.human_driver import human_track, human_vehicle_types, is_sidestep, write_driven_network
from irlvla.world.motion import STEP_S, Track, vehicle_track

CAR = (5.176, 2.297, 1.78)


def _round_a_corner(radius_m: float = 10.0, bend_mps: float = 3.6) -> tuple[NDArray[np.float64], NDArray[np.object_]]:
    """SUMO's way: 10 m/s, brake, a left turn, speed up as soon as the front is out of it, stop for 5 s, drive off."""
    legs = (100.0, radius_m * np.pi / 2, 150.0)
    speed, at, standing_s = 10.0, [0.0], 0.0
    while at[-1] < sum(legs) - 20.0:
        stop_m = legs[0] + legs[1] + 80.0 - at[-1]
        if at[-1] < legs[0]:
            slows = legs[0] - at[-1] < (speed**2 - bend_mps**2) / 4.0 + 1.0
            speed = max(bend_mps, speed - 0.2) if slows else speed
        elif at[-1] >= legs[0] + legs[1]:
            slows = standing_s < 5.0 and stop_m < speed**2 / 4.0 + 0.5
            speed = max(0.0, speed - 0.2) if slows else min(10.0, speed + 0.2)
            standing_s += STEP_S * (speed == 0.0)
        at.append(at[-1] + speed * STEP_S)
    path = np.array(at)
    turn = np.clip((path - legs[0]) / radius_m, 0.0, np.pi / 2)
    x = np.minimum(path, legs[0]) + radius_m * np.sin(turn)
    y = radius_m * (1 - np.cos(turn)) + np.maximum(path - legs[0] - legs[1], 0.0)
    lanes = np.full(len(path), "in_0", dtype=object)
    lanes[path >= legs[0]] = ":J_3_0"
    lanes[path >= legs[0] + legs[1]] = "out_0"
    return np.stack([x, y], axis=1), lanes


def _person(name: str, radius_m: float = 10.0) -> Track:
    front, lanes = _round_a_corner(radius_m)
    return human_track(name, "ego3", 0, front, lanes, CAR)


def test_what_a_person_drives_a_bicycle_model_can_drive() -> None:
    for name in ("a", "b", "c", "d"):
        track = _person(name, radius_m=8.0)
        inner = slice(5, -5)
        yaw_rate = np.gradient(track.rear_axle[:, 2], STEP_S)
        steering = np.arctan(EGO_WHEEL_BASE_M * yaw_rate / np.maximum(track.speed_mps, 1.0))
        assert np.abs(steering).max() < 0.6
        assert np.abs(np.gradient(steering, STEP_S))[inner].max() < 0.5
        step = np.gradient(track.rear_axle[:, :2], axis=0)
        across = -np.sin(track.rear_axle[:, 2]) * step[:, 0] + np.cos(track.rear_axle[:, 2]) * step[:, 1]
        assert np.abs(across[inner]).max() < 0.02
        acceleration = np.gradient(track.speed_mps, STEP_S)[inner]
        assert acceleration.min() > -4.0
        assert acceleration.max() < 2.3


def test_people_leave_a_bend_slower_than_sumo_and_are_back_with_it_soon() -> None:
    front, lanes = _round_a_corner()
    sumo = vehicle_track("sumo", "ego3", 0, front, lanes, CAR)
    for name in ("a", "b", "c"):
        person = human_track(name, "ego3", 0, front, lanes, CAR)
        yaw_rate = {track.name: np.gradient(track.rear_axle[:, 2], STEP_S).max() for track in (sumo, person)}
        assert yaw_rate[name] < 0.375 < yaw_rate["sumo"]
        apart = np.hypot(*(person.rear_axle - sumo.rear_axle)[:, :2].T)
        assert apart.max() < 6.0
        assert apart[-20:].max() < 3.0


def test_no_two_people_drive_alike_and_nobody_drives_differently_twice() -> None:
    once, again, other = _person("a"), _person("a"), _person("b")
    np.testing.assert_array_equal(once.rear_axle, again.rear_axle)
    assert np.hypot(*(once.rear_axle - other.rear_axle)[:, :2].T).max() > 0.2
    # SUMO holds 10 m/s to the last digit here.
    assert 0.002 < np.ptp(once.speed_mps[20:60]) < 1.5


def test_who_stands_stands_still() -> None:
    front, _ = _round_a_corner()
    sumo_stands = np.flatnonzero(np.hypot(*np.diff(front, axis=0).T) < 1e-9)
    assert len(sumo_stands) > 40
    for name in ("a", "b", "c"):
        track = _person(name)
        assert np.abs(track.speed_mps[sumo_stands[8:-8]]).max() < 0.02
        assert track.speed_mps.min() > -1e-6


def test_long_vehicles_get_round_corners_too() -> None:
    front, lanes = _round_a_corner(radius_m=12.0)
    track = human_track("line0.bus0", "bus0", 0, front, lanes, (11.8, 2.5, 3.1))
    assert np.isclose(track.rear_axle[-1, 2], np.pi / 2, atol=0.05)
    assert np.hypot(*(track.rear_axle[-1, :2] - front[-1])) < 0.8 * 11.8 + 3.0


def test_a_car_that_sumo_pushes_sideways_is_seen() -> None:
    pushed = np.stack([np.full(40, 3.0), np.concatenate([np.zeros(20), 0.08 * np.arange(20)])], axis=1)
    assert is_sidestep(pushed, np.zeros(40))[20:].all()
    assert not is_sidestep(pushed, np.zeros(40))[:19].any()
    crawling = np.stack([0.05 * np.arange(40), np.zeros(40)], axis=1)
    assert not is_sidestep(crawling, np.full(40, 0.5)).any()
    changing_lanes = np.stack([0.8 * np.arange(40), 0.1 * np.arange(40)], axis=1)
    assert not is_sidestep(changing_lanes, np.full(40, 8.0)).any()


def test_bends_of_junctions_get_slower_and_nothing_else_does(tmp_path: Path) -> None:
    arc = " ".join(f"{8 * np.sin(a):.2f},{8 - 8 * np.cos(a):.2f}" for a in np.linspace(0, np.pi / 2, 12))
    (tmp_path / "net.xml").write_text(
        "<net>"
        f'<edge id=":J_0" function="internal"><lane id=":J_0_0" speed="5.60" length="12.6" shape="{arc}"/></edge>'
        '<edge id=":J_1" function="internal"><lane id=":J_1_0" speed="13.89" length="12" shape="0,0 6,0 12,0"/></edge>'
        '<edge id="a"><lane id="a_0" speed="13.89" length="90.0" shape="0,0 90,0"/></edge>'
        '<edge id="b"><lane id="b_0" speed="13.89" length="6.0" shape="0,0 6,0"/></edge>'
        "</net>"
    )
    write_driven_network(tmp_path / "net.xml", tmp_path / "driven.xml")
    root = ElementTree.parse(tmp_path / "driven.xml").getroot()
    speed = {lane.get("id"): float(lane.get("speed", "0")) for lane in root.iter("lane")}
    assert 2.0 <= speed[":J_0_0"] < 3.2
    assert speed[":J_1_0"] == speed["a_0"] == speed["b_0"] == 13.89
    assert [edge.get("id") for edge in root.iter("edge") if edge.find("stopOffset") is not None] == ["a"]


def test_a_few_people_have_bad_habits() -> None:
    types = human_vehicle_types(np.random.default_rng(0), "ego")
    share = {name: share for name, share, _ in types}
    egos = {name for name in share if name.startswith("ego")}
    careless = {name for name in egos if "-" in name}
    assert 0.03 < sum(share[name] for name in careless) / sum(share[name] for name in egos) < 0.2
    ordinary = [attributes for name, _, attributes in types if name in egos - careless]
    assert len({attributes["tau"] for attributes in ordinary}) > 8
    assert all({"treaction", "startupDelay", "speedFactor", "decel"} <= set(attributes) for attributes in ordinary)
