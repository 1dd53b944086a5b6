"""Others see the ego vehicle: they brake, queue and yield; and a SUMO that dies says so."""

import itertools
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from crossroads import Car, build_crossroad, write_trips

from irlvla.errors import RunError
from irlvla.geometry import box_corners
from irlvla.simulation.polygons import boxes_touch
from irlvla.world.live_traffic import LiveTraffic, RoadUser, Snapshot
from irlvla.world.place import Place, held_out_networks, open_place
from irlvla.world.presets import PRESETS

EGO_SIZE = (5.18, 2.3)


@pytest.fixture(scope="module")
def priority(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return build_crossroad(tmp_path_factory.mktemp("priority") / "place", signal=False)


def _ego_box(front: tuple[float, float], heading: float) -> np.ndarray:
    back = EGO_SIZE[0] / 2
    return np.array([front[0] - back * math.cos(heading), front[1] - back * math.sin(heading), heading, *EGO_SIZE])


def _touches(user: RoadUser, box: np.ndarray) -> bool:
    theirs = np.array([*user.center, *user.size_m[:2]])
    return bool(boxes_touch(box_corners(box), box_corners(theirs)))


def _brake_to_a_stop(traffic: LiveTraffic, front: tuple[float, float], speed: float, steps: int) -> list[Snapshot]:
    """The ego drives east, brakes at 4 m/s² and stays where it stops."""
    snapshots = []
    x, y = front
    for _ in range(steps):
        speed = max(0.0, speed - 0.4)
        x += 0.1 * speed
        snapshots.append(traffic.step((x, y), 0.0))
    return snapshots


def _convoy(place: Place, folder: Path) -> LiveTraffic:
    cars = [Car("v0.ego0", 0, "west", "east", "ego0", 60)]
    cars += [Car(f"v{k}.car0", 0, "west", "east", "car0", 60 - 16 * k) for k in (1, 2, 3)]
    return LiveTraffic(place.network, write_trips(folder / "demand.rou.xml", *cars), 1)


def test_cars_behind_the_ego_stop_when_it_does_and_would_not_have_otherwise(priority: Place, tmp_path: Path) -> None:
    traffic = _convoy(priority, tmp_path)
    traffic.run_until(3.0)
    traffic.watch("v0.ego0")
    before = traffic.step()
    assert before.ego is not None
    traffic.take_over()
    snapshots = _brake_to_a_stop(traffic, before.ego.front, before.ego.speed_mps, 250)
    traffic.close()
    ego = snapshots[-1].ego
    assert ego is not None
    box = _ego_box(ego.front, 0.0)
    assert not any(_touches(user, _ego_box(s.ego.front, 0.0)) for s in snapshots if s.ego for user in s.users)
    behind = [user for user in snapshots[-1].users if user.center[0] < box[0]]
    assert len(behind) == 3
    assert all(user.speed_mps < 0.2 for user in behind)
    assert all(0 < ego.front[0] - user.center[0] < 45 for user in behind)

    free = _convoy(priority, tmp_path)
    free.run_until(3.0)
    free.watch("v0.ego0")
    snapshots = [free.step() for _ in range(100)]
    free.close()
    assert all(user.speed_mps > 5 for user in snapshots[-1].users)


def test_cross_traffic_waits_for_an_ego_that_stands_in_the_junction(priority: Place, tmp_path: Path) -> None:
    cars = [Car("v0.ego0", 0, "west", "east", "ego0", 150), Car("v1.car0", 6, "south", "north", "car0", 60)]
    cars.append(Car("v2.car0", 6, "north", "south", "car0", 60))
    traffic = LiveTraffic(priority.network, write_trips(tmp_path / "demand.rou.xml", *cars), 1)
    traffic.run_until(0.3)
    traffic.watch("v0.ego0")
    start = traffic.step()
    assert start.ego is not None
    traffic.take_over()
    (x, y), snapshots = start.ego.front, []
    middle = 200.0 + 3.3
    for _ in range(300):
        x = min(x + 0.8, middle)
        snapshots.append(traffic.step((x, y), 0.0))
    traffic.close()
    box = _ego_box((middle, y), 0.0)
    assert not any(_touches(user, box) for s in snapshots[150:] for user in s.users)
    waiting = [
        user for user in snapshots[-1].users if user.speed_mps < 0.2 and math.dist(user.center[:2], box[:2]) < 25
    ]
    assert {user.name for user in waiting} == {"v1.car0", "v2.car0"}


def test_the_ego_stands_exactly_where_it_is_put(priority: Place, tmp_path: Path) -> None:
    traffic = _convoy(priority, tmp_path)
    traffic.run_until(3.0)
    traffic.watch("v0.ego0")
    before = traffic.step()
    assert before.ego is not None
    traffic.take_over()
    x, y = before.ego.front
    # Beside its lane's middle, and slanted: no lane would have it there.
    snapshot = traffic.step((x + 0.7, y + 0.63), 0.2)
    traffic.close()
    assert snapshot.ego is not None
    assert snapshot.ego.front == pytest.approx((x + 0.7, y + 0.63), abs=1e-6)


def test_an_ego_in_the_oncoming_lane_and_back_is_found_again(priority: Place, tmp_path: Path) -> None:
    traffic = _convoy(priority, tmp_path)
    traffic.run_until(3.0)
    traffic.watch("v0.ego0")
    before = traffic.step()
    assert before.ego is not None
    traffic.take_over()
    x, y = before.ego.front
    lanes = []
    for step, aside in enumerate([0.0] * 3 + [3.6] * 5 + [0.0] * 5):
        snapshot = traffic.step((x + 0.8 * (step + 1), y + aside), 0.0, on_route=aside == 0.0)
        assert snapshot.ego is not None
        lanes.append(snapshot.ego.lane)
    traffic.close()
    assert lanes[0] == lanes[-1] == "west_in_0"
    assert "west_out_0" in lanes


def test_equal_seeds_give_equal_traffic(priority: Place, tmp_path: Path) -> None:
    def run() -> list[Snapshot]:
        traffic = _convoy(priority, tmp_path)
        traffic.run_until(2.0)
        traffic.watch("v0.ego0")
        snapshots = [traffic.step() for _ in range(60)]
        traffic.close()
        return snapshots

    assert run() == run()


def test_bodies_follow_their_front_without_jumps(priority: Place, tmp_path: Path) -> None:
    cars = [Car("v0.ego0", 0, "west", "east", "ego0", 60), Car("v1.car0", 0, "south", "east", "car0", 140)]
    traffic = LiveTraffic(priority.network, write_trips(tmp_path / "demand.rou.xml", *cars), 1)
    traffic.run_until(0.5)
    traffic.watch("v0.ego0")
    turns = []
    for _ in range(230):
        turns += [user for user in traffic.step().users if user.name == "v1.car0"]
    traffic.close()
    headings = np.unwrap([user.center[2] for user in turns])
    assert headings[0] == pytest.approx(math.pi / 2, abs=0.05)
    assert headings[-1] == pytest.approx(0.0, abs=0.05)
    assert np.abs(np.diff(headings)).max() < 0.12
    moved = np.array([math.dist(a.center[:2], b.center[:2]) for a, b in itertools.pairwise(turns)])
    speeds = np.array([user.speed_mps for user in turns])
    assert np.abs(moved / 0.1 - speeds[1:]).max() < 1.5
    # The car's direction of motion at its middle is near its heading: it does not slide.
    slide = [
        abs(math.remainder(math.atan2(u.velocity_mps[1], u.velocity_mps[0]) - u.center[2], 2 * math.pi))
        for u in turns[3:]
        if u.speed_mps > 1
    ]
    assert max(slide) < 0.35


def test_a_dead_sumo_says_when_and_what_to_do(priority: Place, tmp_path: Path) -> None:
    traffic = _convoy(priority, tmp_path)
    traffic.run_until(2.0)
    traffic.watch("v0.ego0")
    os.kill(traffic.process_id, signal.SIGKILL)
    with pytest.raises(RunError, match=r"SUMO died 2\.0 s into the simulation.*same command again"):
        traffic.step()
    traffic.close()


def test_a_network_that_sumo_refuses_is_named_with_its_last_words(priority: Place, tmp_path: Path) -> None:
    missing = tmp_path / "missing.net.xml"
    demand = write_trips(tmp_path / "demand.rou.xml", Car("v0.ego0", 0, "west", "east", "ego0"))
    with pytest.raises(RunError, match=r"does not start on .*missing\.net\.xml.*last words: .*missing\.net\.xml"):
        LiveTraffic(missing, demand, 1)


def test_closing_leaves_no_process_behind(priority: Place, tmp_path: Path) -> None:
    traffic = _convoy(priority, tmp_path)
    process = traffic.process_id
    traffic.close()
    traffic.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_an_ego_that_cuts_across_the_junction_off_its_route_leaves_sumo_alive(tmp_path: Path) -> None:
    place = build_crossroad(tmp_path / "place")
    cars = [Car("v0.ego0", 0, "west", "south", "ego0", 120), Car("v1.car0", 0, "east", "west", "car0", 60)]
    cars += [Car(f"v{k}.car0", 3 * k, "south", "east", "car0", 100) for k in (2, 3)]
    traffic = LiveTraffic(place.network, write_trips(tmp_path / "demand.rou.xml", *cars), 1)
    traffic.run_until(1.0)
    traffic.watch("v0.ego0")
    before = traffic.step()
    assert before.ego is not None
    traffic.take_over()
    (x, y), heading = before.ego.front, 0.0
    for step in range(160):
        # Into the oncoming lane, then slantwise over the junction and off into the field beyond.
        heading = min(0.9, 0.02 * max(0, step - 40))
        x, y = x + 0.9 * math.cos(heading), y + 0.9 * math.sin(heading)
        snapshot = traffic.step((x, y), heading, on_route=step < 45)
        if snapshot.ego is not None:
            assert snapshot.ego.front == pytest.approx((x, y), abs=1e-6)
    traffic.close()


def test_road_works_and_standing_vehicles_are_passed_and_only_vehicles_are_seen(tmp_path: Path) -> None:
    preset = PRESETS["city-mini"]
    place = open_place(preset, held_out_networks(preset)[0], 0, tmp_path / "places")
    assert place.obstacles.road_works
    assert place.obstacles.standing
    demand, bus_stops = place.write_demand(1, 90.0, tmp_path)
    assert "works0.stand-in" in demand.read_text()
    cones = [item for item in place.scenery.objects if item.type == "traffic_cone"]
    assert cones
    traffic = LiveTraffic(place.network, demand, 1, bus_stops)
    traffic.run_until(preset.warm_up_s)
    seen: dict[str, list[tuple[float, float]]] = {}
    for turn in range(4):
        egos = [name for name, _ in traffic.possible_egos()]
        traffic.watch(egos[turn * len(egos) // 4])
        for _ in range(150):
            snapshot = traffic.step()
            if snapshot.ego is None:
                break
            for user in snapshot.users:
                seen.setdefault(user.name, []).append(user.center[:2])
    traffic.close()
    standing = {name for name in seen if name.startswith("standing")}
    assert standing
    assert not any(name.startswith("works") for name in seen)
    assert max(np.ptp(seen[name], axis=0).max() for name in standing) < 0.1
    # Somebody comes from behind a standing vehicle and goes on in front of it.
    places = [np.array(seen[name][0]) for name in standing]
    lines = [np.array(way) for name, way in seen.items() if name.startswith("v") and len(way) > 40]
    passed = [
        way
        for way in lines
        for spot in places
        if 1.5 < np.hypot(*(way - spot).T).min() < 5.0 and np.hypot(*(way[[0, -1]] - spot).T).min() > 8.0
    ]
    assert passed
