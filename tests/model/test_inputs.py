"""From observations and scenes to tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from irlvla.data.maps import CityMap
from irlvla.data.scenes import human_plan
from irlvla.data.sensors import write_point_cloud
from irlvla.errors import SceneDataError
from irlvla.model.config import ModelConfig
from irlvla.model.inputs import BEV_LAYERS, SceneInputs, SceneTargets, derive_answer, lidar_histogram
from irlvla.types import Frame, Observation, Scene


def _with_now(scene: Scene, **changes: object) -> Observation:
    observation = scene.observation()
    return replace(observation, frames=(*observation.frames[:-1], replace(observation.now, **changes)))


def test_inputs_have_the_shapes_the_config_promises(inputs: SceneInputs, config: ModelConfig) -> None:
    scenes = len(inputs)
    assert inputs.images.shape == (scenes, 3, 3, config.image_height, config.image_width)
    assert inputs.images.dtype == torch.uint8
    assert inputs.lidar.shape == (scenes, config.lidar_channels, config.lidar_cells, config.lidar_cells)
    assert inputs.ego_status.shape == (scenes, 13)
    assert torch.equal(inputs.command.sum(1), torch.ones(scenes))
    assert inputs.has_lidar.all()


def test_missing_camera_is_an_error_that_names_camera_and_scene(scenes: Sequence[Scene], config: ModelConfig) -> None:
    cameras = {name: camera for name, camera in scenes[0].now.cameras.items() if name != "CAM_L0"}
    with pytest.raises(SceneDataError, match="CAM_L0") as caught:
        SceneInputs.from_observations([_with_now(scenes[0], cameras=cameras)], config)
    assert caught.value.token == scenes[0].token


def test_camera_only_frame_is_legal_and_says_so(scenes: Sequence[Scene], config: ModelConfig) -> None:
    inputs = SceneInputs.from_observations([_with_now(scenes[0], lidar_path=None)], config)
    assert not inputs.has_lidar[0]
    assert not inputs.lidar.any()


def test_same_view_direction_lands_on_the_same_pixel_after_scaling_and_cropping(
    scenes: Sequence[Scene], config: ModelConfig, tmp_path: Path
) -> None:
    """A bright dot in a large picture is where the fitted pinhole matrix says it is."""
    direction = np.array([0.2, 0.05, 1.0])
    camera = scenes[0].now.cameras["CAM_F0"]
    large = np.zeros((720, 1280, 3), dtype=np.uint8)
    intrinsic = np.array([[1000.0, 0, 640.0], [0, 1000.0, 360.0], [0, 0, 1.0]])
    u, v, _ = intrinsic @ direction
    cv2.circle(large, (round(u), round(v)), 9, (255, 255, 255), -1)
    path = tmp_path / "dot.jpg"
    cv2.imwrite(str(path), large)
    cameras = {"CAM_F0": replace(camera, image_path=path, intrinsic=intrinsic)}
    fitted = SceneInputs.from_observations(
        [_with_now(scenes[0], cameras=cameras)], replace(config, cameras=("CAM_F0",))
    )
    image = fitted.images[0, 0].float().mean(0)
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(256.0), indexing="ij")
    seen = torch.stack([(image * columns).sum(), (image * rows).sum()]) / image.sum()
    expected = fitted.intrinsic[0, 0] @ torch.tensor(direction, dtype=torch.float32)
    assert (seen - expected[:2]).abs().max() < 0.5


def test_earlier_sweep_is_moved_into_the_current_ego_frame(
    scenes: Sequence[Scene], config: ModelConfig, tmp_path: Path
) -> None:
    """A post that stands still fills the same cell in both sweeps although the car drove on and turned."""
    scene = scenes[0]
    post_world = np.array([20.0, 5.0])
    frames: list[Frame] = []
    for frame, pose in zip(scene.history[-2:], ([0.0, 0.0, 0.0], [6.0, 1.0, 0.3]), strict=True):
        cos, sin = np.cos(pose[2]), np.sin(pose[2])
        offset = post_world - pose[:2]
        points = np.zeros((50, 6), dtype=np.float32)
        points[:, :3] = [cos * offset[0] + sin * offset[1], -sin * offset[0] + cos * offset[1], 0.8]
        path = tmp_path / f"{frame.token}.pcd"
        write_point_cloud(path, points)
        frames.append(replace(frame, ego_pose_world=np.array(pose), lidar_path=path))
    observation = replace(scene.observation(), frames=(*scene.history[:2], *frames))
    histogram, has_lidar = lidar_histogram(observation, config)
    now, earlier = histogram.reshape(2, -1, *histogram.shape[1:])
    assert has_lidar
    assert now.any()
    np.testing.assert_array_equal(now, earlier)


def test_height_bands_begin_at_the_street_which_lies_below_the_ego_origin(
    scenes: Sequence[Scene], config: ModelConfig, tmp_path: Path
) -> None:
    points = np.zeros((3, 6), dtype=np.float32)
    above_street_m = np.array([0.0, 0.7, 2.0])
    points[:, :3] = np.stack([[10.0, 20.0, 30.0], np.zeros(3), above_street_m - 0.35], axis=1)
    write_point_cloud(tmp_path / "one.pcd", points)
    scene = scenes[0]
    bare = replace(scene.now, lidar_path=tmp_path / "one.pcd")
    earlier = [replace(frame, lidar_path=None) for frame in scene.history[:-1]]
    histogram, _ = lidar_histogram(replace(scene.observation(), frames=(*earlier, bare)), config)
    filled = np.argwhere(histogram[: len(config.lidar_bands_m) - 1])
    band, row = filled[np.argsort(filled[:, 1]), :2].T
    assert band.tolist() == [0, 1, 2]
    assert (np.diff(row) > 0).all()


def test_targets_hold_the_human_plan_and_the_nearest_objects(
    scenes: Sequence[Scene], targets: SceneTargets, config: ModelConfig
) -> None:
    np.testing.assert_allclose(targets.plan.numpy(), np.stack([human_plan(scene) for scene in scenes]), atol=1e-5)
    for row, scene in enumerate(scenes):
        kept = targets.box_types[row] >= 0
        x, y = scene.now.boxes.boxes[:, 0], scene.now.boxes.boxes[:, 1]
        inside = (x > -16) & (x < 48) & (np.abs(y) < 32)
        assert int(kept.sum()) == min(int(inside.sum()), config.n_object_queries)
        distance = targets.boxes[row, kept, :2].norm(dim=-1)
        assert (distance.diff() >= 0).all()


def test_ego_vehicle_stands_on_drawn_road_and_route(targets: SceneTargets) -> None:
    cell = targets.bev_semantics.shape[-1]
    row, column = round(16 / 64 * cell), cell // 2
    under_ego = targets.bev_semantics[:, :, row - 1 : row + 1, column - 1 : column + 1].flatten(2).amax(-1)
    assert under_ego[:, BEV_LAYERS.index("drivable")].all()
    assert under_ego[:, BEV_LAYERS.index("route")].float().mean() > 0.5


def test_agents_are_drawn_where_they_are_now_and_later(scenes: Sequence[Scene], targets: SceneTargets) -> None:
    cell = targets.bev_semantics.shape[-1]
    hits = total = moved = 0
    for row, scene in enumerate(scenes):
        for box, kind in zip(scene.now.boxes.boxes, scene.now.boxes.types, strict=True):
            x, y = int((box[0] + 16) / 64 * cell), int((box[1] + 32) / 64 * cell)
            if kind < 3 and 0 <= x < cell and 0 <= y < cell:
                total += 1
                hits += int(targets.bev_semantics[row, BEV_LAYERS.index("agents_0s"), x, y])
        now, later = (targets.bev_semantics[row, BEV_LAYERS.index(f"agents_{s}s")] for s in (0, 4))
        moved += int((now != later).any())
    assert total > 5
    assert hits == total
    assert moved > 0


def test_map_pieces_lie_within_reach_and_are_evenly_spaced(targets: SceneTargets) -> None:
    real = targets.map_types >= 0
    assert real.sum() > len(targets)
    points = targets.map_polylines[real]
    assert points[..., 0].min() >= -16.01
    assert points[..., 0].max() <= 48.01
    assert points[..., 1].abs().max() <= 32.01
    steps = points.diff(dim=1).norm(dim=-1)
    assert (steps.amax(1) <= 1.5 * steps.mean(1) + 0.2).all()


def test_answers_are_derived_from_the_human_future_where_none_are_given(
    scenes: Sequence[Scene], maps: Mapping[str, CityMap], config: ModelConfig, targets: SceneTargets
) -> None:
    assert targets.answers == tuple(derive_answer(scene).answer for scene in scenes)
    told = replace(derive_answer(scenes[0]), answer="Stop for the queue ahead.", speed_word="stop")
    given = SceneTargets.from_scenes(scenes[:1], maps, config, {told.token: told})
    assert given.answers == ("Stop for the queue ahead.",)


def test_observation_carries_nothing_of_the_targets(scenes: Sequence[Scene], config: ModelConfig) -> None:
    """Inputs do not change when the future and all annotations do."""
    scene = scenes[0]
    blank = replace(scene, frames=(*scene.observation().frames, *scene.future[::-1]))
    left = SceneInputs.from_observations([scene.observation()], config)
    right = SceneInputs.from_observations([blank.observation()], config)
    for name, value in left.to_arrays().items():
        np.testing.assert_array_equal(value, right.to_arrays()[name])
