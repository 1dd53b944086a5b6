"""Faults of the human driver are found where they are, and nowhere else."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from shapely.geometry import Polygon, box

from irlvla.data.faults import FAULTS, HumanFault, faults_path, load_faults, write_faults
from irlvla.data.scenes import open_scenes
from irlvla.errors import DataError
from irlvla.world.city import Area, City, Connector, Lane
from irlvla.world.drives import Drive, TrafficIndex
from irlvla.world.faults import find_faults
from irlvla.world.motion import STEP_S, Outline, Track, assembled_track
from irlvla.world.traffic import RecordedTraffic

EGO = (5.176, 2.297, 1.78)
STOP_LINE_M = 100.0
STEPS = 151
DRIVE = Drive(0, 0, 31)


def _lane(fid: int, name: str, start: tuple[float, float], end: tuple[float, float]) -> Lane:
    baseline = np.linspace(start, end, 51)
    area = Polygon(
        [(start[0], start[1] - 1.8), (end[0], end[1] - 1.8), (end[0], end[1] + 1.8), (start[0], start[1] + 1.8)]
    )
    return Lane(fid, fid, 0, 0, name, fid, 0, baseline, area, 3.6, 13.9, baseline[0], baseline[-1])


def _city(left_turn_radius_m: float | None = None) -> City:
    """A street to a junction with lights at x = 100 m, straight across it or round to the left."""
    city = City("x", np.zeros(2))
    into = _lane(1, "in_0", (-50.0, 0.0), (STOP_LINE_M, 0.0))
    if left_turn_radius_m is None:
        out = _lane(2, "out_0", (STOP_LINE_M + 20.0, 0.0), (300.0, 0.0))
        line = np.linspace(into.end, out.begin, 21)
    else:
        angle = np.linspace(0.0, np.pi / 2, 41)
        line = np.array([STOP_LINE_M, 0.0]) + left_turn_radius_m * np.stack([np.sin(angle), 1 - np.cos(angle)], axis=1)
        out = _lane(2, "out_0", tuple(line[-1]), (line[-1, 0], line[-1, 1] + 100.0))  # type: ignore[arg-type]
    city.lanes += [into, out]
    turn = "s" if left_turn_radius_m is None else "l"
    city.connectors.append(
        Connector(3, 0, 0, 0, 0, into, out, 4, 5, line, Polygon(), 13.9, turn, ("light", 0), 6, (":j_0",))
    )
    city.roadblocks.append(Area(7, box(-60.0, -2.3, 320.0, 200.0)))
    return city


def _track(name: str, centers: NDArray[np.float64], lanes: list[str], kind: str = "ego0") -> Track:
    """Track whose rear axle lies 1.461 m behind given centres."""
    step = np.gradient(centers, axis=0)
    heading = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
    axle = centers - 1.461 * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    poses = np.concatenate([axle, heading[:, None]], axis=1)
    return assembled_track(name, kind, 0, Outline.of(kind, EGO), poses, np.array(lanes, dtype=object))


def _straight(
    speed: NDArray[np.float64] | float, start_x: float = -40.0, y: NDArray[np.float64] | float = 0.0
) -> Track:
    x = start_x + np.concatenate([[0.0], np.cumsum(np.broadcast_to(speed, STEPS)[1:] * STEP_S)])
    front = x + 2.588
    lanes = np.select([front < STOP_LINE_M, front < STOP_LINE_M + 20.0], ["in_0", ":j_0"], "out_0")
    return _track("a", np.stack([x, np.broadcast_to(y, STEPS)], axis=1), lanes.tolist())


def _faults(
    city: City, track: Track, *others: Track, light: str = "G", obstacle: tuple[float, float] | None = None
) -> dict[str, NDArray[np.float64]]:
    lights = (light * STEPS)[:STEPS] if len(light) == 1 else light
    traffic = RecordedTraffic((track, *others), {}, {"light": tuple(lights)}, STEPS - 1)
    obstacles = None if obstacle is None else np.array([obstacle])
    found = find_faults(city, TrafficIndex(traffic, city.offset), DRIVE, obstacles)
    assert set(found) == set(FAULTS)
    return {kind: amounts for kind, amounts in found.items() if amounts.any()}


def test_who_drives_well_has_no_faults() -> None:
    assert (
        _faults(
            _city(),
            _straight(10.0),
            _track("b", np.array([[200.0, 0.0]] * STEPS) + [[1e-3 * k, 0] for k in range(STEPS)], ["out_0"] * STEPS),
        )
        == {}
    )
    assert _faults(_city(), _straight(10.0, y=0.3 * np.sin(np.arange(STEPS) / 12.0))) == {}


def test_braking_hard_is_seen_and_braking_gently_is_not() -> None:
    def braking(rate: float) -> NDArray[np.float64]:
        return np.clip(10.0 - rate * STEP_S * np.arange(STEPS).clip(30) + rate * 3.0, 0.0, 10.0)

    hard = _faults(_city(), _straight(braking(4.0)))
    assert list(hard) == ["hard braking"]
    assert np.isclose(hard["hard braking"].max(), 4.0, atol=0.2)
    assert 25 < np.flatnonzero(hard["hard braking"])[0] < 35
    assert _faults(_city(), _straight(braking(2.0))) == {}


def test_following_too_closely_is_seen_and_a_car_in_the_next_lane_is_no_leader() -> None:
    def other(gap_m: float, y: float = 0.0) -> Track:
        ahead = _straight(10.0, -40.0 + 5.176 + gap_m)
        return _track("b", ahead.center[:, :2] + [0.0, y], [str(lane) for lane in ahead.lanes], "car0")

    close = _faults(_city(), _straight(10.0), other(6.0))
    assert list(close) == ["tailgating"]
    assert np.isclose(close["tailgating"][60], 0.6, atol=0.02)
    assert _faults(_city(), _straight(10.0), other(12.0)) == {}
    assert _faults(_city(), _straight(10.0), other(6.0, y=3.6)) == {}


def test_entering_on_late_yellow_is_seen_and_early_yellow_is_not() -> None:
    # The front reaches x = 100 m after about 13.7 s at 10 m/s.
    crossing = int((STOP_LINE_M + 40.0 - 2.588) / 1.0)
    late = "G" * (crossing - 30) + "y" * 60
    found = _faults(_city(), _straight(10.0), light=(late + "r" * STEPS)[:STEPS])
    assert list(found) == ["late yellow"]
    assert np.isclose(found["late yellow"].max(), 3.0, atol=0.2)
    assert np.flatnonzero(found["late yellow"]).tolist() == [crossing] or len(np.flatnonzero(found["late yellow"])) == 1
    early = "G" * (crossing - 10) + "y" * 60
    assert _faults(_city(), _straight(10.0), light=(early + "r" * STEPS)[:STEPS]) == {}


def test_drifting_over_the_line_is_seen_and_changing_lanes_is_not() -> None:
    drift = 1.0 * np.exp(-0.5 * ((np.arange(STEPS) - 70.0) / 12.0) ** 2)
    found = _faults(_city(), _straight(8.0, y=drift))
    assert list(found) == ["over the line"]
    assert 0.2 < found["over the line"].max() < 0.6
    assert _faults(_city(), _straight(8.0, y=drift), obstacle=(20.0, -2.0)) == {}
    assert list(_faults(_city(), _straight(8.0, y=drift), obstacle=(200.0, -2.0))) == ["over the line"]
    city = _city()
    city.lanes.append(_lane(9, "in_1", (-50.0, 3.6), (STOP_LINE_M, 3.6)))
    y = 3.6 / (1 + np.exp(-(np.arange(STEPS) - 70.0) / 6.0))
    straight = _straight(8.0, y=y)
    lanes = ["in_1" if across > 1.8 else "in_0" for across in y]
    assert "over the line" not in _faults(city, _track("a", straight.center[:, :2], lanes))


def test_cutting_a_left_turn_is_seen() -> None:
    radius_m = 11.0
    path = -40.0 + 8.0 * STEP_S * np.arange(STEPS)

    def turning(inside_m: float) -> Track:
        along = np.minimum(path, STOP_LINE_M)
        turn = np.clip((path - STOP_LINE_M + 60.0) / radius_m, 0.0, np.pi / 2)
        beyond = np.maximum(path + 60.0 - STOP_LINE_M - radius_m * np.pi / 2, 0.0)
        x = np.minimum(along + 60.0, STOP_LINE_M) + radius_m * np.sin(turn)
        y = radius_m * (1 - np.cos(turn)) + beyond
        inward = inside_m * np.exp(-0.5 * ((turn - np.pi / 4) / 0.3) ** 2) * (turn > 0) * (turn < np.pi / 2)
        x, y = x - inward * np.sin(turn), y + inward * np.cos(turn)
        lanes = np.select([turn <= 0.0, turn < np.pi / 2], ["in_0", ":j_0"], "out_0")
        return _track("a", np.stack([x, y], axis=1), lanes.tolist())

    found = _faults(_city(radius_m), turning(1.6))
    assert "cut corner" in found
    assert 1.2 < found["cut corner"].max() < 1.9
    assert "cut corner" not in _faults(_city(radius_m), turning(0.5))


def test_grazing_the_kerb_is_seen() -> None:
    found = _faults(_city(), _straight(8.0, y=-1.35))
    assert np.isclose(found["over the kerb"].max(), 0.2, atol=0.02)


def test_labels_come_back_as_they_were_written_and_damage_is_named(tmp_path: Path) -> None:
    rows = [("0a", (HumanFault("tailgating", 0.0, 4.0, 0.61), HumanFault("hard braking", 1.2, 1.9, 3.4))), ("0b", ())]
    write_faults(tmp_path, "test", "drive", rows)
    assert load_faults(tmp_path, "test", "drive") == dict(rows)
    assert load_faults(tmp_path, "test", "elsewhere") == {}
    faults_path(tmp_path, "test", "drive").write_text('{"token":"0a","faults":[{"kind":"tailgating"}]}\n')
    with pytest.raises(DataError, match="line 1 is no label of faults"):
        load_faults(tmp_path, "test", "drive")
    faults_path(tmp_path, "test", "drive").write_text(
        '{"token":"0a","faults":[{"kind":"yawning","from_s":0,"to_s":1,"amount":1}]}\n'
    )
    with pytest.raises(DataError, match="unknown kind of fault 'yawning'"):
        load_faults(tmp_path, "test", "drive")


@pytest.mark.slow
def test_every_scene_of_a_built_world_is_labelled_and_faults_are_rare(human_world: Path) -> None:
    scenes, faulty = 0, 0
    for folder in ("trainval", "test"):
        for scene in open_scenes(human_world, folder):
            found = load_faults(human_world, folder, scene.log_name)[scene.token]
            assert all(0.0 <= fault.from_s <= fault.to_s <= 4.0 for fault in found)
            scenes, faulty = scenes + 1, faulty + bool(found)
    assert faulty < 0.35 * scenes
