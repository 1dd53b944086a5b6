"""3D reasoning: lifting, matching, losses."""

import math
from dataclasses import replace

import pytest
import torch
from cameras import camera_at

from irlvla.model.config import ModelConfig
from irlvla.model.inputs import SceneInputs, SceneTargets
from irlvla.model.spatial import (
    SpatialPrediction,
    SpatialReasoner,
    focal_loss,
    look_up_in_cameras,
    map_losses,
    match,
    object_losses,
)
from irlvla.types import OBJECT_TYPES


def _one_camera(distortion: tuple[float, ...] = (0.0,) * 5) -> SceneInputs:
    camera = camera_at("CAM_F0", 0.0, None)
    rotation = torch.tensor(camera.rotation_ego.T, dtype=torch.float32)
    translation = -rotation @ torch.tensor(camera.translation_ego, dtype=torch.float32)
    return SceneInputs(
        images=torch.zeros(1, 1, 3, 144, 256, dtype=torch.uint8),
        intrinsic=torch.tensor(camera.intrinsic, dtype=torch.float32)[None, None],
        distortion=torch.tensor(distortion)[None, None],
        ego_to_camera=torch.cat([rotation, translation[:, None]], dim=1)[None, None],
        lidar=torch.zeros(1, 6, 128, 128, dtype=torch.uint8),
        has_lidar=torch.ones(1, dtype=torch.bool),
        ego_status=torch.zeros(1, 13),
        command=torch.zeros(1, 4),
        instructions=("",),
        tokens=("",),
    )


def test_point_ahead_at_camera_height_is_in_the_middle_of_the_picture() -> None:
    grid, seen = look_up_in_cameras(torch.tensor([[20.0, 0.0, 1.6]]), _one_camera(), 144, 256, 32)
    assert seen[0, 0] == 1
    torch.testing.assert_close(grid[0, 0], torch.tensor([0.5 / 128, 0.5 / 72]), atol=1e-5, rtol=0)


def test_left_is_left_low_is_low_and_behind_is_unseen() -> None:
    points = torch.tensor([[20.0, 4.0, 1.6], [20.0, 0.0, 0.0], [-20.0, 0.0, 1.6], [20.0, 60.0, 1.6]])
    grid, seen = look_up_in_cameras(points, _one_camera(), 144, 256, 32)
    assert seen[0].tolist() == [1, 1, 0, 0]
    assert grid[0, 0, 0] < -0.1
    assert grid[0, 1, 1] > 0.1


def test_point_is_taken_from_the_camera_that_has_it_nearest_the_middle(inputs: SceneInputs) -> None:
    """With three cameras side by side, straight ahead is the middle third, 55 degrees left the first."""
    ahead_and_left = torch.tensor([[30.0, 0.0, 1.6], [17.2, 24.6, 1.6]])
    grid, seen = look_up_in_cameras(ahead_and_left, inputs, 96, 256, 32)
    assert seen.all()
    thirds = ((grid[0, :, 0] + 1) / 2 * 3).floor()
    assert thirds.tolist() == [1, 0]


def test_barrel_distortion_pulls_inwards_and_never_folds_points_back() -> None:
    wide = torch.tensor([[10.0, 4.0, 1.6], [10.0, 60.0, 1.6]])
    straight, _ = look_up_in_cameras(wide, _one_camera(), 144, 256, 32)
    bent, seen = look_up_in_cameras(wide, _one_camera((-0.35, 0.15, 0.0, 0.0, -0.03)), 144, 256, 32)
    assert straight[0, 0, 0] < bent[0, 0, 0] < 0
    assert seen[0].tolist() == [1, 0]


def test_matching_finds_the_cheapest_pairing_not_the_greedy_one() -> None:
    # Greedy would take (0, 0) for 1 and be left with (1, 1) for 10.
    costs = torch.tensor([[1.0, 2.0], [2.0, 10.0], [9.0, 9.0]])
    assert match(costs) == ([0, 1], [1, 0])


def _prediction(boxes: torch.Tensor, types: torch.Tensor, polylines: torch.Tensor, kinds: torch.Tensor):
    empty = torch.zeros(0)
    return SpatialPrediction(empty, empty, empty, empty, empty, types, boxes, kinds, polylines)


def _targets(targets: SceneTargets) -> SceneTargets:
    """One car ahead, one lane piece; nothing else."""
    one = targets.index_select([0])
    boxes = torch.zeros_like(one.boxes)
    boxes[..., 2:4] = 1.0
    boxes[0, 0] = torch.tensor([10.0, 2.0, 4.5, 1.9, 0.1, 5.0, 0.0])
    lane = torch.zeros_like(one.map_polylines)
    lane[0, 0, :, 0] = torch.linspace(0, 28, 8)
    box_types, map_types = torch.full_like(one.box_types, -1), torch.full_like(one.map_types, -1)
    box_types[0, 0], map_types[0, 0] = 0, 0
    return replace(one, boxes=boxes, box_types=box_types, map_polylines=lane, map_types=map_types)


def _perfect(config: ModelConfig) -> SpatialPrediction:
    boxes = torch.full((1, config.n_object_queries, 8), 30.0)
    boxes[0, 5] = torch.tensor([10.0, 2.0, 0, 0, 0, 0, 0.5, 0.0])
    boxes[0, 5, 2:6] = torch.tensor([4.5, 1.9, 0.1, 0.1]).log()
    boxes[0, 5, 4:6] = torch.tensor([math.sin(0.1), math.cos(0.1)])
    types = torch.full((1, config.n_object_queries, len(OBJECT_TYPES) + 1), -20.0)
    types[..., -1] = 20.0
    types[0, 5, 0], types[0, 5, -1] = 20.0, -20.0
    lines = torch.full((1, config.n_map_queries, 8, 2), 40.0)
    lines[0, 3, :, 0], lines[0, 3, :, 1] = torch.linspace(28, 0, 8), 0.0
    kinds = torch.full((1, config.n_map_queries, 5), -20.0)
    kinds[..., -1] = 20.0
    kinds[0, 3, 0], kinds[0, 3, -1] = 20.0, -20.0
    return _prediction(boxes, types, lines, kinds)


def test_perfect_detection_in_any_slot_costs_nothing(targets: SceneTargets, config: ModelConfig) -> None:
    types, boxes = object_losses(_perfect(config), _targets(targets))
    assert types == pytest.approx(0, abs=1e-4)
    assert boxes == pytest.approx(0, abs=1e-4)


def test_lane_traced_backwards_costs_nothing(targets: SceneTargets, config: ModelConfig) -> None:
    types, points = map_losses(_perfect(config), _targets(targets))
    assert types == pytest.approx(0, abs=1e-4)
    assert points == pytest.approx(0, abs=1e-4)


def test_scene_without_objects_teaches_only_nothing(targets: SceneTargets, config: ModelConfig) -> None:
    bare = replace(_targets(targets), box_types=torch.full((1, config.n_object_queries), -1))
    types, boxes = object_losses(_perfect(config), bare)
    assert types > 0.1
    assert boxes == 0


def test_center_heat_map_punishes_a_missed_and_a_false_peak() -> None:
    heat = torch.zeros(1, 4, 4)
    heat[0, 1, 1] = 1.0
    right = torch.full((1, 4, 4), -6.0)
    right[0, 1, 1] = 6.0
    missed = torch.full((1, 4, 4), -6.0)
    false_alarm = right.clone()
    false_alarm[0, 3, 3] = 6.0
    assert focal_loss(right, heat) < 0.01
    assert focal_loss(missed, heat) > 1
    assert focal_loss(false_alarm, heat) > 1


def test_object_queries_start_at_the_peaks_of_the_heat_map(config: ModelConfig) -> None:
    torch.manual_seed(0)
    reasoner = SpatialReasoner(config)
    bev_map = torch.zeros(1, config.bev_channels, 32, 32)
    # Light up one cell in the direction in which the center head looks.
    bev_map[0, :, 20, 5] = 50 * reasoner.objects.centers.weight[0, :, 0, 0].detach()
    _, centers, _, boxes = reasoner.objects(bev_map, torch.zeros(1, 64, config.d_model))
    assert centers[0].argmax() == 20 * 32 + 5
    assert (boxes[0, :, :2] - torch.tensor([25.0, -21.0])).norm(dim=-1).min() < 2.0


def test_command_changes_the_route_and_nothing_else_of_the_picture(config: ModelConfig) -> None:
    torch.manual_seed(0)
    reasoner = SpatialReasoner(config)
    bev_map = torch.randn(1, config.bev_channels, 32, 32)
    left, right = (reasoner.picture(bev_map, torch.randn(1, config.d_model)) for _ in range(2))
    assert torch.equal(left[:, :-1], right[:, :-1])
    assert not torch.allclose(left[:, -1], right[:, -1])
