from pathlib import Path

import numpy as np
import pytest

from irlvla.data.maps import load_map
from irlvla.data.reposed import StartOffset, repose, stands_clear
from irlvla.data.scenes import SceneSet, human_plan, open_scenes
from irlvla.errors import SceneDataError
from irlvla.geometry import world_to_ego
from irlvla.scoring.context import build_context
from irlvla.simulation.observation import boxes_in_world
from irlvla.types import Scene

OFFSET = StartOffset(longitudinal_m=1.0, lateral_m=-0.8, heading_rad=0.15, speed_factor=0.7)
NOWHERE = StartOffset(0.0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def scenes(golden: Path) -> SceneSet:
    return open_scenes(golden / "alpha", "test")


@pytest.fixture(scope="module")
def scene(scenes: SceneSet) -> Scene:
    return next(s for s in scenes if len(s.now.boxes) > 5 and s.now.ego_velocity_mps[0] > 2)


def test_the_ego_vehicle_moves_and_the_world_stays(scene: Scene) -> None:
    moved = repose(scene, OFFSET)
    np.testing.assert_allclose(world_to_ego(moved.now.ego_pose_world, scene.now.ego_pose_world), OFFSET.pose, atol=1e-6)
    for before, after in zip(scene.frames, moved.frames, strict=True):
        for old, new in zip(boxes_in_world(before), boxes_in_world(after), strict=True):
            np.testing.assert_allclose(np.sin(new), np.sin(old), atol=1e-6)
            np.testing.assert_allclose(new[:, :2], old[:, :2], atol=1e-6)


def test_the_way_driven_so_far_keeps_its_shape_and_changes_its_speed(scene: Scene) -> None:
    moved = repose(scene, OFFSET)
    for before, after in zip(scene.history, moved.history, strict=True):
        np.testing.assert_allclose(
            world_to_ego(after.ego_pose_world, moved.now.ego_pose_world),
            world_to_ego(before.ego_pose_world, scene.now.ego_pose_world),
            atol=1e-6,
        )
        np.testing.assert_allclose(after.ego_velocity_mps, 0.7 * before.ego_velocity_mps)
        np.testing.assert_allclose(after.ego_acceleration_mps2, 0.7 * before.ego_acceleration_mps2)


def test_starts_of_one_scene_have_tokens_of_their_own_and_count_as_synthetic(scene: Scene) -> None:
    starts = [repose(scene, OFFSET, letter) for letter in "ab"]
    assert {start.token for start in starts} == {scene.token + "a", scene.token + "b"}
    assert all(start.is_synthetic and start.now.token == start.token for start in starts)
    assert all(not frame.cameras and frame.lidar_path is None for frame in starts[0].history)
    with pytest.raises(SceneDataError, match="no human future"):
        human_plan(starts[0])
    with pytest.raises(SceneDataError, match="only logged scenes"):
        repose(starts[0], OFFSET)


def test_a_start_moved_nowhere_is_scored_as_the_scene_itself(scenes: SceneSet, scene: Scene) -> None:
    city = load_map(scenes.root, scene.map_location)
    here, again = build_context(scene, city), build_context(repose(scene, NOWHERE), city)
    np.testing.assert_allclose(again.ego_state, here.ego_state, atol=1e-9)
    np.testing.assert_allclose(again.tracks.boxes, here.tracks.boxes, atol=1e-6)
    assert again.pdm_progress_m == pytest.approx(here.pdm_progress_m, abs=1e-3)
    assert len(again.human_plan) == 0


def test_a_start_inside_another_car_does_not_stand_clear(scene: Scene) -> None:
    assert stands_clear(scene)
    x, y = scene.now.boxes.boxes[0, :2]
    assert not stands_clear(repose(scene, StartOffset(x, y, 0.0, 1.0)))
