"""What the official devkit worked out on the way, in the 43 scenes recorded in full."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from irlvla.data.maps import CityMap, load_map
from irlvla.data.scenes import SceneSet
from irlvla.geometry import wrap_angle
from irlvla.scoring.context import ScoringContext
from irlvla.simulation.drivable import nearby_polygons
from irlvla.simulation.observation import interpolate_tracks, red_lights
from irlvla.simulation.pdm_closed import forecast, proposals
from irlvla.simulation.route import correct_route, lanes_of_route, start_lane
from irlvla.simulation.tracker import simulate
from irlvla.types import Array, Scene

Recorded = tuple[Any, ScoringContext, Scene, CityMap]


@pytest.fixture(scope="module")
def recorded(golden: Path, alpha_scenes: SceneSet, alpha_contexts: dict[str, ScoringContext]) -> list[Recorded]:
    rows = []
    for path in sorted((golden / "alpha" / "contexts").glob("*.npz")):
        scene = alpha_scenes.by_token(path.stem)
        rows.append((np.load(path), alpha_contexts[path.stem], scene, load_map(alpha_scenes.root, scene.map_location)))
    assert len(rows) == 43
    return rows


def assert_poses_agree(ours: Array, theirs: Array) -> None:
    """Within a micrometre and a microradian, pi being the same heading as -pi."""
    np.testing.assert_allclose(ours[..., :2], theirs[..., :2], rtol=0, atol=1e-6)
    np.testing.assert_allclose(wrap_angle(ours[..., 2] - theirs[..., 2]), 0.0, rtol=0, atol=1e-6)


def test_route_correction_and_start_lane(recorded: list[Recorded]) -> None:
    for official, context, scene, city_map in recorded:
        ego_pose = context.ego_state[:3]
        route = correct_route(city_map, ego_pose, list(dict.fromkeys(map(int, scene.now.roadblock_ids))))
        assert [str(block) for block in route] == official["route_roadblock_ids_corrected"].tolist()
        lanes = lanes_of_route(city_map, route)
        assert [str(lane) for lane in lanes] == official["route_lane_ids"].tolist()
        polygons, _, ids = nearby_polygons(city_map, ego_pose)
        start = start_lane(city_map, ego_pose, lanes, shapely.STRtree(polygons), ids)
        assert str(start) == str(official["prop_start_lane"])


def test_ego_state_centerline_and_drivable_map_are_bit_equal(recorded: list[Recorded]) -> None:
    kind_of = {17: 0, 0: 1, 11: 2, 1: 3, 15: 4}
    for official, context, scene, city_map in recorded:
        np.testing.assert_array_equal(context.ego_state, official["ego_state"])
        np.testing.assert_array_equal(context.road.centerline[:, :2], official["centerline"][:, :2])
        np.testing.assert_allclose(context.road.centerline[:, 2], official["centerline"][:, 2], rtol=0, atol=1e-14)
        polygons, kinds, ids = nearby_polygons(city_map, context.ego_state[:3])
        assert [str(fid) for fid in ids] == official["map_tokens"].tolist(), scene.token
        assert kinds.tolist() == [kind_of[kind] for kind in official["map_types"].tolist()]
        assert [polygon.wkb_hex for polygon in polygons] == official["map_wkb_hex"].tolist()


def test_tracks_at_every_step(recorded: list[Recorded]) -> None:
    for official, context, _, _ in recorded:
        tracks = context.tracks
        ours = [
            (step, tracks.tokens[row], int(tracks.types[row]))
            for step in range(41)
            for row in np.argsort(tracks.types, kind="stable")
            if tracks.present[row, step]
        ]
        theirs = zip(official["obs_step"], official["obs_token"], official["obs_type"], strict=True)
        assert ours == [(int(step), str(token), int(kind)) for step, token, kind in theirs]
        row_of = {token: row for row, token in enumerate(tracks.tokens)}
        rows = np.array([row_of[token] for _, token, _ in ours], dtype=np.int64)
        steps = np.array([step for step, _, _ in ours], dtype=np.int64)
        boxes = np.concatenate([tracks.boxes[rows, steps], tracks.velocity_mps[rows, steps]], axis=1)
        np.testing.assert_allclose(boxes, official["obs_xyhlwv"], rtol=0, atol=2e-9)


def test_red_lights_at_every_step(recorded: list[Recorded]) -> None:
    seen = 0
    for official, context, _, _ in recorded:
        areas = shapely.from_wkb(official["red_wkb_hex"]) if len(official["red_step"]) else []
        ours = np.array([area for step in range(41) for area in _red_areas(context, step)])
        assert [int(context.lights.red[:, step].sum()) for step in range(41)] == [
            int((official["red_step"] == step).sum()) for step in range(41)
        ]
        np.testing.assert_allclose(np.sort(ours), np.sort([area.bounds[0] for area in areas]))
        seen += len(areas)
    assert seen > 100


def _red_areas(context: ScoringContext, step: int) -> Iterator[float]:
    yield from context.lights.polygons.polygon_box[context.lights.red[:, step], 0]


def test_pdm_closed_proposals_rollouts_and_choice(recorded: list[Recorded]) -> None:
    for official, context, scene, city_map in recorded:
        lanes = {int(lane) for lane in official["route_lane_ids"]}
        expected = forecast(
            interpolate_tracks([scene.now]), context.ego_state[:3], red_lights([scene.now], lanes, city_map)
        )
        limit = city_map.speed_limit_mps(int(official["prop_start_lane"]))
        poses = proposals(context.road.centerline, context.ego_state, limit, expected)
        assert_poses_agree(poses, official["prop_states"][:, :41, :3])
        np.testing.assert_allclose(simulate(poses, context.ego_state), official["prop_sim"], rtol=0, atol=1e-6)
        assert context.pdm_proposal == int(official["prop_chosen"]), scene.token
        assert_poses_agree(context.pdm_reference, official["pdm_states_41"][:, :3])


def test_history_holds_what_the_car_drove(recorded: list[Recorded]) -> None:
    lengths = {len(context.history_states) for _, context, _, _ in recorded}
    assert lengths <= {14, 15}
    for official, context, _, _ in recorded:
        np.testing.assert_allclose(context.history_states[0, :4], official["past_states"][0, :4], rtol=0, atol=2e-9)
        between = official["past_states"][[0, -1], 3]
        assert context.history_states[:, 3].min() >= min(official["past_states"][:, 3]) - 1e-9, between
