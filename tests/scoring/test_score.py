"""Scoring as a whole: batches, frames, refusals, invariances."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import Thing, car_from_the_left, driving, empty_road, red_light_ahead, scene, stopped_car_ahead

from irlvla.geometry import ego_to_world
from irlvla.scoring.context import ScoringContext
from irlvla.scoring.epdms import epdms
from irlvla.scoring.score import score, score_frames, score_parallel, score_rollout, simulate_plans
from irlvla.simulation.drivable import Road
from irlvla.simulation.polygons import PolygonSet
from irlvla.simulation.traffic import RedLights, traffic_from_boxes
from irlvla.types import Array, SubScores

BUSY = scene(
    Thing("vehicle", x=25.0, speed_mps=4.0),
    Thing("vehicle", x=10.0, y=3.5, speed_mps=9.0),
    Thing("pedestrian", x=35.0, y=-3.0, heading=np.pi / 2, speed_mps=1.2, length=0.7, width=0.7),
    Thing("traffic_cone", x=15.0, y=-1.6, length=0.4, width=0.4),
)


def random_plans(count: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    speed = rng.uniform(0.0, 14.0, size=(count, 1))
    bend = rng.normal(0.0, 0.01, size=(count, 1))
    along = speed * np.arange(1, 9) * 0.5
    return np.stack([along, bend * along**2, 2 * bend * along], axis=-1)


def values(scores: SubScores) -> Array:
    return np.stack([getattr(scores, f.name).astype(float) for f in fields(SubScores)])


@settings(max_examples=8, deadline=None)
@given(count=st.integers(1, 9), seed=st.integers(0, 10_000))
def test_a_plan_scores_the_same_alone_and_in_company(count: int, seed: int) -> None:
    plans = random_plans(count, seed)
    together = simulate_plans([BUSY], plans[None]).states_world[0]
    alone = np.concatenate([simulate_plans([BUSY], plan[None, None]).states_world[0] for plan in plans])
    assert np.array_equal(together, alone)
    assert np.array_equal(
        values(score([BUSY], plans[None]))[:, 0],
        np.concatenate([values(score([BUSY], plan[None, None]))[:, 0] for plan in plans], axis=1),
    )


def moved(context: ScoringContext, to: Array) -> ScoringContext:
    """The whole scene at another place: the old origin lands on the pose `to`."""

    def place(points: Array) -> Array:
        heading = points[..., 2:3] if points.shape[-1] > 2 else np.zeros((*points.shape[:-1], 1))
        return ego_to_world(np.concatenate([points[..., :2], heading], axis=-1), to)

    def polygons(old: PolygonSet) -> PolygonSet:
        vertices = place(old.vertices)[:, :2]
        boxes = [vertices[a : b + 1] for a, b in zip(old.chain_start, old.chain_end, strict=True)]
        chain_box = np.array([[*part.min(axis=0), *part.max(axis=0)] for part in boxes]).reshape(-1, 4)
        whole = [chain_box[a:b] for a, b in zip(old.polygon_chain, old.polygon_chain[1:], strict=False)]
        box = np.array([[*part[:, :2].min(axis=0), *part[:, 2:].max(axis=0)] for part in whole]).reshape(-1, 4)
        return old._replace(vertices=vertices, chain_box=chain_box, polygon_box=box)

    boxes = context.tracks.boxes.copy()
    boxes[..., :3] = place(boxes[..., :3])
    tracks = replace(context.tracks, boxes=boxes)
    state, road = context.ego_state.copy(), context.road
    state[:3] = place(state[:3])
    history = context.history_states.copy()
    history[:, :3] = place(history[:, :3])
    return replace(
        context,
        ego_state=state,
        history_states=history,
        road=Road(polygons(road.polygons), road.kind, road.on_route, place(road.centerline)),
        lights=RedLights(polygons(context.lights.polygons), context.lights.red),
        traffic=traffic_from_boxes(boxes, tracks.present, tracks.types, tracks.first_speed_mps),
    )


@settings(max_examples=12, deadline=None)
@given(
    x=st.floats(-5e5, 5e5),
    y=st.floats(0.0, 5e6),
    quarter_turns=st.integers(0, 3),
    which=st.sampled_from([BUSY, red_light_ahead(), car_from_the_left()]),
)
def test_scores_do_not_depend_on_where_the_scene_lies(
    x: float, y: float, quarter_turns: int, which: ScoringContext
) -> None:
    plans = random_plans(6, 17)[None]
    here, there = score([which], plans), score([moved(which, np.array([x, y, quarter_turns * np.pi / 2]))], plans)
    np.testing.assert_allclose(values(here), values(there), atol=1e-6)


def test_threads_score_as_one_does() -> None:
    contexts = [BUSY, empty_road(), stopped_car_ahead(), red_light_ahead()]
    plans = random_plans(12, 5).reshape(4, 3, 8, 3)
    assert np.array_equal(values(score(contexts, plans)), values(score_parallel(contexts, plans, 3)))


def test_poses_ten_times_a_second_score_like_their_half_second_knots() -> None:
    coarse = random_plans(5, 2)
    knots = np.concatenate([np.zeros((5, 1, 3)), coarse], axis=1)
    fine = np.stack(
        [[np.interp(np.arange(1, 41) * 0.1, np.arange(9) * 0.5, plan[:, k]) for k in range(3)] for plan in knots]
    ).transpose(0, 2, 1)
    np.testing.assert_allclose(values(score([BUSY], coarse[None])), values(score([BUSY], fine[None])), atol=1e-4)


def test_a_plan_with_nan_is_refused_by_name() -> None:
    plans = random_plans(6, 1).reshape(2, 3, 8, 3)
    plans[1, 2, 4, 0] = np.nan
    with pytest.raises(ValueError, match="plan 2 of scene 1"):
        score([BUSY, empty_road()], plans)


@pytest.mark.parametrize("shape", [(1, 8, 3), (1, 2, 9, 3), (2, 1, 8, 3), (1, 2, 8, 2)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="plans must be"):
        score([BUSY], np.zeros(shape))


def test_no_scene_gives_no_score() -> None:
    assert epdms(score([], np.zeros((0, 4, 8, 3)))).shape == (0, 4)


def test_frames_without_an_earlier_one_have_no_extended_comfort() -> None:
    later = replace(empty_road(), now_us=empty_road().now_us + 500_000)
    straight = empty_road().human_plan
    weaving = straight + np.array([0.0, 1.0, 0.0]) * np.array([1, -1] * 4)[:, None]
    scores = score_frames([empty_road(), later], np.stack([straight, weaving]), np.array([-1, 0]))
    assert scores.has_earlier_frame.tolist() == [False, True]
    assert scores.two_frame_extended_comfort.tolist() == [0.0, 0.0]
    same = score_frames([empty_road(), later], np.stack([straight, straight]), np.array([-1, 0]))
    assert same.two_frame_extended_comfort.tolist() == [0.0, 1.0]


def test_raw_rollout_scores_ignore_the_human() -> None:
    failed = replace(stopped_car_ahead(), human_scores=score_rollout(stopped_car_ahead(), driving(10.0)[None]))
    assert score_rollout(failed, driving(10.0)[None]).no_at_fault_collisions[0] == 0.0
