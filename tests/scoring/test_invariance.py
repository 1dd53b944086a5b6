"""What must not change a score: where the world lies, who else is scored, in which order objects are listed.

The world is moved as a whole, log and map, and everything is built anew from them. Its coordinates are first rounded to
2**-20 m, so that moving it by whole metres is exact. As long as they keep their power of two, every rounding falls as
before, and not one bit of a score may change. Elsewhere, and turned, sums are rounded to other neighbours (1e-9 m at
UTM northings): verdicts stay, progress may change in the ninth digit.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from irlvla.data.maps import CityMap, Layer, load_map
from irlvla.data.plans import PlanTable, load_plans
from irlvla.data.scenes import SceneSet, open_scenes
from irlvla.geometry import world_to_ego
from irlvla.scoring.context import ScoringContext, build_context
from irlvla.scoring.score import score, simulate_plans
from irlvla.scoring.score_table import ScoreTable
from irlvla.scoring.table import score_plans
from irlvla.types import OBJECT_TYPES, Array, Boxes, Scene, SubScores

ALPHA = Path(__file__).resolve().parent.parent / "golden" / "alpha"
GRID = 2.0**20
REACH_M = 600.0
"""Nothing that scoring looks at lies farther from the ego vehicle."""
QUARTER_TURNS = [np.array(turn, dtype=float) for turn in ([[1, 0], [0, 1]], [[0, -1], [1, 0]])]
QUARTER_TURNS += [-turn for turn in QUARTER_TURNS]

MoveXY = Callable[[Array], Array]


@lru_cache(maxsize=1)
def scenes() -> SceneSet:
    return open_scenes(ALPHA, "test", num_future_frames=8)


@lru_cache(maxsize=1)
def plan_table() -> PlanTable:
    return load_plans(ALPHA / "plans.npz")


TOKENS = list(dict.fromkeys(plan_table().tokens))[::9]
"""Scenes of every kind of log."""


def plans_of(token: str) -> Array:
    return plan_table().poses[[row for row, other in enumerate(plan_table().tokens) if other == token]]


def center(scene: Scene) -> Array:
    return np.round(scene.now.ego_pose_world[:2])


def moved_map(city_map: CityMap, move: MoveXY) -> CityMap:
    def moved(layer: Layer) -> Layer:
        return replace(layer, geometries=shapely.transform(layer.geometries, move)) if len(layer) else layer

    layers = {f.name: getattr(city_map, f.name) for f in fields(CityMap)}
    polygons, lines = city_map.connector_polygons, city_map.baselines
    return replace(
        city_map,
        **{name: moved(layer) for name, layer in layers.items() if isinstance(layer, Layer)},
        connector_polygons={fid: shapely.transform(polygon, move) for fid, polygon in polygons.items()},
        baselines={fid: shapely.transform(line, move) for fid, line in lines.items()},
    )


def moved_scene(scene: Scene, move: MoveXY, turn_rad: float) -> Scene:
    frames = []
    for frame in scene.frames:
        pose = np.append(move(frame.ego_pose_world[None, :2])[0], frame.ego_pose_world[2])
        if turn_rad:
            pose[2] = np.arctan2(np.sin(pose[2] + turn_rad), np.cos(pose[2] + turn_rad))
        frames.append(replace(frame, ego_pose_world=pose))
    return replace(scene, frames=tuple(frames))


def built(token: str, shift_m: Array, quarter_turns: int = 0) -> tuple[ScoringContext, MoveXY]:
    """The scene's context, worked out from a log and a map that lie elsewhere, and the way there."""
    scene = scenes().by_token(token)
    pivot, rotation = center(scene), QUARTER_TURNS[quarter_turns]

    def move(xy: Array) -> Array:
        return (np.round(xy * GRID) / GRID - pivot) @ rotation.T + pivot + shift_m

    city_map = moved_map(load_map(ALPHA, scene.map_location), move)
    return build_context(moved_scene(scene, move, quarter_turns * np.pi / 2), city_map), move


@lru_cache(maxsize=len(TOKENS))
def at_home(token: str) -> tuple[ScoringContext, SubScores, Array]:
    context, _ = built(token, np.zeros(2))
    return context, score([context], plans_of(token)[None]), rollouts(context)


def rollouts(context: ScoringContext) -> Array:
    return simulate_plans([context], plans_of(context.token)[None]).states_world[0]


def values(scores: SubScores) -> Array:
    return np.stack([getattr(scores, f.name).astype(float) for f in fields(SubScores)])


def within_binade(coordinate_m: float, share: float) -> float:
    """A shift in whole metres to another place with the same power of two."""
    low_m = 2.0 ** np.floor(np.log2(coordinate_m))
    assert low_m + REACH_M < coordinate_m < 2 * low_m - REACH_M
    return round(low_m + REACH_M + share * (low_m - 2 * REACH_M) - coordinate_m)


@settings(max_examples=15, deadline=None)
@given(token=st.sampled_from(TOKENS), east=st.floats(0, 1), north=st.floats(0, 1))
def test_moving_the_world_changes_not_one_bit(token: str, east: float, north: float) -> None:
    home, home_scores, home_rollouts = at_home(token)
    shift_m = np.array([within_binade(c, share) for c, share in zip(home.ego_state[:2], (east, north), strict=True)])
    there, _ = built(token, shift_m)
    assert there.pdm_proposal == home.pdm_proposal
    assert np.array_equal(values(score([there], plans_of(token)[None])), values(home_scores))
    states = rollouts(there)
    assert np.array_equal(states[..., :2], home_rollouts[..., :2] + shift_m)
    assert np.array_equal(states[..., 2:], home_rollouts[..., 2:])


@settings(max_examples=15, deadline=None)
@given(
    token=st.sampled_from(TOKENS),
    east_m=st.integers(-300_000, 300_000),
    north_m=st.integers(-4_000_000, 3_000_000),
    quarter_turns=st.integers(0, 3),
)
def test_moving_and_turning_the_world_changes_no_verdict(
    token: str, east_m: int, north_m: int, quarter_turns: int
) -> None:
    home, home_scores, home_rollouts = at_home(token)
    there, move = built(token, np.array([east_m, north_m], dtype=float), quarter_turns)
    there_scores = score([there], plans_of(token)[None])
    assert there.pdm_proposal == home.pdm_proposal
    for name in SubScores.names():
        limit = 1e-8 if name == "ego_progress" else 0.0
        assert np.abs(getattr(there_scores, name) - getattr(home_scores, name)).max() <= limit, name
    states = rollouts(there)
    np.testing.assert_allclose(states[..., :2], move(home_rollouts[..., :2]), rtol=0, atol=2e-6)
    np.testing.assert_allclose(states[..., 3:], home_rollouts[..., 3:], rtol=0, atol=1e-7)


# --- objects -----------------------------------------------------------------------------------------------------


def picked(boxes: Boxes, rows: Array) -> Boxes:
    rows = rows.astype(int)
    tokens = tuple(boxes.track_tokens[row] for row in rows)
    return Boxes(boxes.boxes[rows], boxes.types[rows], boxes.velocity_mps[rows], tokens)


def with_boxes(scene: Scene, change: Callable[[int, Boxes], Boxes]) -> Scene:
    frames = (replace(frame, boxes=change(number, frame.boxes)) for number, frame in enumerate(scene.frames))
    return replace(scene, frames=tuple(frames))


def assert_scored_alike(changed: Scene) -> None:
    original = scenes().by_token(changed.token)
    city_map = load_map(ALPHA, original.map_location)
    before, after = build_context(original, city_map), build_context(changed, city_map)
    plans = plans_of(changed.token)[None]
    assert after.pdm_proposal == before.pdm_proposal
    assert np.array_equal(after.pdm_rollout, before.pdm_rollout)
    assert np.array_equal(values(score([after], plans)), values(score([before], plans)))


@settings(max_examples=20, deadline=None)
@given(token=st.sampled_from(TOKENS), seed=st.integers(0, 2**31))
def test_the_order_of_objects_in_a_frame_does_not_matter(token: str, seed: int) -> None:
    """In log replay. Officially it does in reactive traffic, where vehicles move one after the other."""
    rng = np.random.default_rng(seed)
    assert_scored_alike(
        with_boxes(scenes().by_token(token), lambda _, boxes: picked(boxes, rng.permutation(len(boxes))))
    )


@settings(max_examples=20, deadline=None)
@given(token=st.sampled_from(TOKENS), seed=st.integers(0, 2**31), count=st.integers(1, 40))
def test_objects_far_away_do_not_matter(token: str, seed: int, count: int) -> None:
    rng, scene = np.random.default_rng(seed), scenes().by_token(token)
    angle, far_m = rng.uniform(-np.pi, np.pi, size=(2, count)), rng.uniform(300.0, 2000.0, size=count)
    spots = scene.now.ego_pose_world[:2] + far_m[:, None] * np.stack([np.cos(angle[0]), np.sin(angle[0])], axis=-1)
    types = rng.integers(0, len(OBJECT_TYPES), size=count)
    # Some are seen in a few frames only, so that they come before or after others in the order of first appearance.
    seen = rng.uniform(size=(len(scene.frames), count)) < rng.uniform(0.3, 1.0, size=count)

    def padded(number: int, boxes: Boxes) -> Boxes:
        poses = np.column_stack([spots, angle[1]])[seen[number]]
        there = np.zeros((len(poses), 7))
        there[:, [0, 1, 6]] = world_to_ego(poses, scene.frames[number].ego_pose_world)
        there[:, 2:6] = 0.8, 4.5, 1.9, 1.6
        tokens = tuple(f"far-{index}" for index in np.flatnonzero(seen[number]))
        together = Boxes(
            np.concatenate([boxes.boxes, there]),
            np.concatenate([boxes.types, types[seen[number]]]),
            np.concatenate([boxes.velocity_mps, np.zeros((len(poses), 3))]),
            boxes.track_tokens + tokens,
        )
        return picked(together, rng.permutation(len(together)))

    assert_scored_alike(with_boxes(scene, padded))


# --- batches -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adjacent(golden: Path) -> tuple[SceneSet, PlanTable, ScoreTable]:
    """Frames of two logs, two drivers' plans for each, and their scores in one go."""
    found = open_scenes(golden / "beta", "test", num_future_frames=8)
    table = load_plans(golden / "beta" / "plans_adjacent_frames.npz")
    by_log: dict[str, list[str]] = {}
    for token in dict.fromkeys(table.tokens):
        by_log.setdefault(found.log_name(token), []).append(token)
    first, second, *_ = by_log.values()
    wanted = {*first[:18], *second[:18]}
    rows = [r for r, token in enumerate(table.tokens) if token in wanted and table.names[r] in ("human", "pert0")]
    plans = take(table, rows)
    return found, plans, score_plans(found, plans)


def take(plans: PlanTable, rows: list[int]) -> PlanTable:
    return PlanTable(tuple(plans.tokens[r] for r in rows), tuple(plans.names[r] for r in rows), plans.poses[rows])


@pytest.mark.parametrize("workers", [1, 2])
def test_any_order_of_the_plans_gives_the_same_bits(
    workers: int, adjacent: tuple[SceneSet, PlanTable, ScoreTable]
) -> None:
    found, plans, together = adjacent
    order = np.random.default_rng(workers).permutation(len(plans)).tolist()
    shuffled = score_plans(found, take(plans, order), workers=workers)
    assert shuffled.equals(together.take(order))
    assert not np.isnan(together["two_frame_extended_comfort"]).all()


def test_any_batch_gives_the_same_bits(adjacent: tuple[SceneSet, PlanTable, ScoreTable]) -> None:
    """But for extended comfort, which asks for the plan of the frame before, and the score: compared by driver."""
    found, plans, together = adjacent

    def alone(table: ScoreTable) -> ScoreTable:
        return ScoreTable({k: v for k, v in table.columns.items() if "comfort" not in k and k != "score"})

    rng = np.random.default_rng(0)
    for size in (1, 3, 10):
        rows = sorted(rng.choice(len(plans), size=size, replace=False).tolist())
        assert alone(score_plans(found, take(plans, rows))).equals(alone(together.take(rows)))
    for name in set(plans.names):
        rows = [row for row, other in enumerate(plans.names) if other == name]
        assert score_plans(found, take(plans, rows)).equals(together.take(rows))
