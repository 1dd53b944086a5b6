"""Closed-loop drives on the small preset's held-out networks."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from irlvla.data.scenes import constant_velocity_plan
from irlvla.data.sensors import load_image, load_point_cloud
from irlvla.errors import RunError
from irlvla.scoring.comfort import history_comfort
from irlvla.scoring.context import build_context
from irlvla.scoring.score import simulate_plans
from irlvla.simulation.reference import reference_poses
from irlvla.simulation.tracker import simulate
from irlvla.types import HISTORY_FRAMES, PLAN_POSES, Scene
from irlvla.world.closed_loop import LOST_S, MIN_ROUTE_M, ClosedLoop, NoDriveError
from irlvla.world.place import Place, held_out_networks, open_place
from irlvla.world.presets import PRESETS

MINI = PRESETS["mini"]
STAY = np.zeros((PLAN_POSES, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("places")


@pytest.fixture(scope="module")
def place(folder: Path) -> Place:
    return open_place(MINI, held_out_networks(MINI)[1], 0, folder)


def test_a_place_is_laid_out_once_and_found_again(place: Place, folder: Path) -> None:
    before = place.network.stat().st_mtime_ns
    again = open_place(MINI, held_out_networks(MINI)[1], 0, folder)
    assert again.network.stat().st_mtime_ns == before
    assert [lane.fid for lane in again.city.lanes] == [lane.fid for lane in place.city.lanes]
    # The scorer's map has every lane of the city, at the same place.
    lane = place.city.lanes[0]
    assert np.abs(place.city_map.discrete_path(lane.fid)[:, :2] - lane.baseline).max() < 1e-3
    assert len(place.city_map.car_parks) == len(place.city.car_parks)


def test_a_drive_begins_with_a_scene_as_a_log_has_it(place: Place) -> None:
    loop = ClosedLoop(place)
    scene = loop.start(1)
    assert len(scene.frames) == HISTORY_FRAMES
    assert np.diff([frame.time_us for frame in scene.frames]).tolist() == [500_000] * 3
    assert scene.is_synthetic
    assert set(scene.now.roadblock_ids) <= {
        str(area.fid) for area in (*place.city.roadblocks, *place.city.roadblock_connectors)
    }
    for frame in scene.frames:
        assert frame.lidar_path is not None
        assert len(load_point_cloud(frame.lidar_path)) > 1000
        image = load_image(frame.cameras["CAM_F0"])
        assert image.shape == (MINI.image_height_px, MINI.image_width_px, 3)
        assert image.std() > 10
    assert scene.now.cameras["CAM_B0"].image_path is None
    # SUMO drove the history: the poses are as far apart as the speed says.
    moved = np.hypot(*np.diff([frame.ego_pose_world[:2] for frame in scene.frames], axis=0).T)
    speeds = np.array([frame.ego_velocity_mps[0] for frame in scene.frames])
    assert moved == pytest.approx(0.25 * (speeds[:-1] + speeds[1:]), abs=0.35)
    assert scene.now.ego_velocity_mps[0] > 0.5 or moved[-1] < 1.5
    assert loop.referee.route_m >= MIN_ROUTE_M
    assert len(scene.now.boxes) > 3
    loop.close()


def test_what_is_driven_is_what_the_scorer_simulates(place: Place) -> None:
    loop = ClosedLoop(place, time_limit_s=0.5, sensors=False)
    scene = loop.start(1)
    state = loop.now.ego_state
    plan = constant_velocity_plan(scene)
    plan[:, 1] = 0.05 * np.arange(1, 9)
    expected = simulate(reference_poses(plan[None], state[:3], scene.now.time_us), state)[0]
    assert loop.advance(plan).end == "time limit"
    assert np.array_equal(np.array(loop.states), expected[:6])
    loop.run_out()
    assert np.array_equal(np.array(loop.states), expected[: 1 + 5 * PLAN_POSES])
    assert len(loop.frames) == HISTORY_FRAMES + PLAN_POSES
    # A log knows no steering angle, so the scorer's own rollout of the same plan starts with straight wheels.
    whole = Scene(scene.token, scene.log_name, scene.map_location, tuple(loop.frames))
    pseudo = simulate_plans([build_context(whole, place.city_map)], plan[None, None]).states_world[0, 0]
    assert np.hypot(*(pseudo[-1, :2] - expected[-1, :2])) < 0.5
    loop.close()


def test_equal_seeds_and_plans_give_equal_drives_to_the_last_pixel(place: Place) -> None:
    def drive() -> list[object]:
        loop = ClosedLoop(place)
        seen: list[object] = []
        scene = loop.start(2)
        for _ in range(4):
            now = scene.now
            seen.append((now.ego_pose_world.tolist(), now.boxes.boxes.tolist(), now.traffic_lights, scene.token))
            seen.append(load_image(now.cameras["CAM_F0"]).tobytes())
            assert now.lidar_path is not None
            seen.append(load_point_cloud(now.lidar_path).tobytes())
            loop.advance(constant_velocity_plan(scene))
            scene = loop.scene
        loop.close()
        return seen

    first = drive()
    assert first == drive()
    loop = ClosedLoop(place)
    other = loop.start(3)
    loop.close()
    assert other.now.ego_pose_world.tolist() != first[0][0]  # type: ignore[index]


def test_all_drivers_begin_the_same_drive_at_the_same_place(place: Place) -> None:
    loop = ClosedLoop(place, sensors=False)
    planned = loop.start(2)
    human = loop.start(2, "sumo")
    loop.close()
    assert np.abs(planned.now.ego_pose_world - human.now.ego_pose_world).max() < 0.2
    assert planned.now.roadblock_ids == human.now.roadblock_ids


def test_sumos_own_driver_drives_comfortably_and_touches_nothing(place: Place) -> None:
    loop = ClosedLoop(place, time_limit_s=20.0, sensors=False)
    loop.start(5, "sumo")
    stretches = [loop.advance()]
    while stretches[-1].end is None:
        stretches.append(loop.advance())
    states = np.array(loop.states)
    loop.close()
    assert stretches[-1].end in ("time limit", "route driven")
    assert all(stretch.judgement.is_clean for stretch in stretches)
    assert loop.referee.progress_m > 20
    windows = np.stack([states[start : start + 56] for start in range(0, len(states) - 56, 10)])
    comfortable = [history_comfort(window[:15], window[None, 15:])[0] for window in windows]
    assert np.mean(comfortable) > 0.8


def test_a_plan_that_stays_stops_the_car_and_the_time_limit_ends_the_drive(place: Place) -> None:
    loop = ClosedLoop(place, time_limit_s=4.0, sensors=False)
    loop.start(1)
    ends = []
    while not ends or ends[-1] is None:
        ends.append(loop.advance(STAY).end)
    assert loop.states[-1][3] < 0.3
    assert ends[-1] in ("time limit", "collision")
    assert loop.time_s <= 4.0
    with pytest.raises(RuntimeError, match="begin one"):
        loop.advance(STAY)
    loop.close()


def test_driving_into_the_field_ends_the_drive(place: Place) -> None:
    loop = ClosedLoop(place, time_limit_s=40.0, sensors=False)
    loop.start(1)
    veer = np.zeros((PLAN_POSES, 3))
    veer[:, 2] = -0.15 * np.arange(1, 9)
    veer[:, 0] = 1.5 * np.arange(1, 9)
    veer[:, 1] = -0.12 * np.arange(1, 9) ** 2
    straight = np.zeros((PLAN_POSES, 3))
    straight[:, 0] = 2.0 * np.arange(1, 9)
    stretches = [loop.advance(veer) for _ in range(3)]
    while stretches[-1].end is None:
        stretches.append(loop.advance(straight))
    loop.close()
    assert stretches[-1].end in ("off the road", "collision")
    if stretches[-1].end == "off the road":
        off = np.concatenate([stretch.judgement.off_road for stretch in stretches])
        assert off[-round(LOST_S / 0.1) :].all()


def test_only_the_sensors_a_scene_can_show_stay_on_disk(place: Place) -> None:
    loop = ClosedLoop(place)
    first = loop.start(1)
    paths = [frame.cameras["CAM_F0"].image_path for frame in first.frames]
    for _ in range(2):
        loop.advance(constant_velocity_plan(loop.scene))
    now = [frame.cameras["CAM_F0"].image_path for frame in loop.scene.frames]
    assert [path is not None and path.is_file() for path in paths] == [False, False, True, True]
    assert all(path is not None and path.is_file() for path in now)
    loop.close()
    assert not any(path is not None and path.exists() for path in now)


def test_plans_of_the_wrong_shape_or_without_finite_numbers_are_refused(place: Place) -> None:
    loop = ClosedLoop(place, sensors=False)
    loop.start(1)
    with pytest.raises(ValueError, match=r"\[8, 3\] or \[40, 3\]"):
        loop.advance(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="NaN"):
        loop.advance(np.full((8, 3), np.nan))
    loop.advance(np.zeros((40, 3)))
    loop.close()


def test_a_sumo_that_dies_on_the_way_ends_the_drive_with_a_cause(place: Place) -> None:
    loop = ClosedLoop(place, sensors=False)
    loop.start(1)
    assert loop.traffic is not None
    os.kill(loop.traffic.process_id, signal.SIGKILL)
    with pytest.raises(RunError, match="SUMO died"):
        loop.advance(STAY)
    loop.close()
    # The next drive is none the worse.
    loop.start(1)
    loop.advance(STAY)
    loop.close()


def test_traffic_without_a_car_to_drive_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irlvla.world.closed_loop.MIN_ROUTE_M", 1e6)
    monkeypatch.setattr("irlvla.world.closed_loop._SEARCH_S", 5.0)
    loop = ClosedLoop(place, sensors=False)
    with pytest.raises(NoDriveError, match="another seed"):
        loop.start(1)
    loop.close()
