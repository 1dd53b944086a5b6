"""Road works, standing vehicles and bus stops: SUMO's drivers pass what the scenery shows."""

from dataclasses import replace

import numpy as np
import pytest
import shapely

from irlvla.geometry import box_corners
from irlvla.world.city import City, read_city
from irlvla.world.drives import Drive, TrafficIndex, _passes, choose_drives
from irlvla.world.networks import write_network
from irlvla.world.obstacles import Obstacles, obstacle_places, plan_obstacles
from irlvla.world.presets import PRESETS
from irlvla.world.scenery import Scenery, lay_out_scenery
from irlvla.world.traffic import RecordedTraffic, read_recording, simulate_traffic

PRESET = PRESETS["city-mini"]


Busy = tuple[City, Obstacles, Scenery, RecordedTraffic]


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Busy:
    preset = replace(PRESET, simulated_s=60.0, road_works_per_km=2.5, standing_vehicles_per_km=2.0)
    folder = tmp_path_factory.mktemp("busy")
    network = write_network("arterial", 600.0, 4, folder, opposites=True)
    city = read_city(network, "us-ma-boston", np.array([331000.0, 4690500.0]))
    obstacles = plan_obstacles(city, preset, 4)
    scenery = lay_out_scenery(city, 4, obstacles)
    simulate_traffic(network, preset, 4, folder, obstacles)
    return city, obstacles, scenery, read_recording(folder, preset)


def test_obstacles_stand_on_the_lanes_that_they_name(busy: Busy) -> None:
    city, obstacles, scenery, _ = busy
    lanes = {lane.sumo_id: lane for lane in city.lanes}
    assert len(obstacles.road_works) >= 3
    cones = [item for item in scenery.objects if item.type == "traffic_cone"]
    for works in obstacles.road_works:
        lane = lanes[works.sumo_lane]
        closed = [cone for cone in cones if lane.polygon.contains(shapely.Point(cone.pose[:2]))]
        assert closed, "road works close a part of the lane, so cones stand on it"
        assert works.length_m < works.end_m < len(lane.baseline)


def test_cars_drive_around_the_cones(busy: Busy) -> None:
    city, _, scenery, traffic = busy
    index = TrafficIndex(traffic, city.offset)
    closed = [item for item in scenery.objects if item.type in ("traffic_cone", "barrier")]
    boxes = np.array([[*item.pose, *item.size_m[:2]] for item in closed])
    tree = shapely.STRtree(shapely.polygons(box_corners(boxes)))
    hit, close = 0, set()
    for step in range(0, traffic.steps, 5):
        present = [i for i in index.present(step) if traffic.tracks[i].kind != "pedestrian"]
        outlines = shapely.polygons(box_corners(index.boxes(present, step)))
        touching, _ = tree.query(outlines, predicate="intersects")
        hit += len(set(touching.tolist()))
        near, _ = tree.query(outlines, predicate="dwithin", distance=2.5)
        close |= {present[i] for i in near.tolist() if traffic.tracks[present[i]].speed_mps.max() > 4}
    assert len(close) > 10
    assert hit < 0.02 * sum(len(index.present(step)) for step in range(0, traffic.steps, 5))


def test_closed_lanes_have_no_vehicle_of_their_own(busy: Busy) -> None:
    _, obstacles, _, traffic = busy
    assert obstacles.road_works
    assert not [track for track in traffic.tracks if track.kind.startswith("works")]


def test_standing_vehicles_stand_along_their_lane(busy: Busy) -> None:
    city, obstacles, _, traffic = busy
    lanes = {lane.sumo_id: lane for lane in city.lanes}
    standing = sorted((t for t in traffic.tracks if t.name.startswith("standing")), key=lambda track: track.name)
    assert obstacles.standing
    assert len(standing) == len(obstacles.standing)
    for track, item in zip(standing, obstacles.standing, strict=True):
        lane = lanes[item.sumo_lane]
        assert np.ptp(track.center, axis=0).max() == 0
        assert track.speed_mps.max() == 0
        nearest = int(np.argmin(np.hypot(*(lane.baseline - city.offset - track.center[0, :2]).T)))
        along = lane.baseline[min(nearest + 1, len(lane.baseline) - 1)] - lane.baseline[max(nearest - 1, 0)]
        assert np.cos(np.arctan2(along[1], along[0]) - track.center[0, 2]) > 0.98
        # It blocks its lane.
        assert np.hypot(*(lane.baseline[nearest] - city.offset - track.center[0, :2])) < 1.0


def test_buses_halt_at_their_stops(busy: Busy) -> None:
    _, obstacles, _, traffic = busy
    assert obstacles.bus_stops
    lanes = {stop.sumo_lane for stop in obstacles.bus_stops}
    buses = [track for track in traffic.tracks if track.name.startswith("line")]
    halted = [t for t in buses if any(lane in lanes and v < 0.1 for lane, v in zip(t.lanes, t.speed_mps, strict=True))]
    assert halted


def test_a_preset_without_obstacles_plans_none(busy: Busy) -> None:
    assert plan_obstacles(busy[0], PRESETS["mini"], 4) == Obstacles()


def test_drives_past_obstacles_are_preferred(busy: Busy) -> None:
    city, obstacles, scenery, traffic = busy
    places = obstacle_places(city, obstacles)
    assert len(places) == len(obstacles.road_works) + len(obstacles.standing)

    def passing(drives: list[Drive]) -> int:
        return sum(_passes(traffic.tracks[d.track_index], d, places - city.offset) > 0 for d in drives)

    frames = PRESET.frames_per_log
    plain = choose_drives(city, scenery, traffic, 4, frames, 4)
    preferred = choose_drives(city, scenery, traffic, 4, frames, 4, places)
    assert passing(preferred) > passing(plain)
