"""Reactive traffic and the scores in it against the official devkit's, agent by agent and row by row."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from irlvla.data.plans import write_plans
from irlvla.data.scenes import SceneSet
from irlvla.geometry import wrap_angle
from irlvla.scoring.context import ScoringContext
from irlvla.scoring.epdms import epdms
from irlvla.scoring.human_filter import apply_human_filter
from irlvla.scoring.reactive import human_scores_reactive, score_reactive, score_rollout_reactive, traffic_start
from irlvla.scoring.reference.reactive_traffic import react as react_plainly
from irlvla.scoring.score import simulate_plans, stack_sub_scores
from irlvla.scoring.table import score_plans_file
from irlvla.simulation.observation import Tracks
from irlvla.simulation.reactive_traffic import Follower, Rail, TrafficStart, react
from irlvla.types import Array, SubScores

SCORED = tuple(name for name in SubScores.names() if name != "two_frame_extended_comfort")


@dataclass(frozen=True)
class Reactive:
    """The 86 official rows: their figures, scenes, plans, and our rollouts."""

    table: dict[str, list[Any]]
    contexts: list[ScoringContext]
    starts: list[TrafficStart]
    poses: Array
    rollouts: Array
    official_rollouts: Array


@pytest.fixture(scope="module")
def reactive(golden: Path, alpha_scenes: SceneSet, alpha_contexts: dict[str, ScoringContext]) -> Reactive:
    alpha = golden / "alpha"
    table = dict(pq.read_table(alpha / "official_reactive.parquet").to_pydict())
    plans, recorded = np.load(alpha / "plans_reactive.npz"), np.load(alpha / "rollouts_reactive.npz")
    assert recorded["tokens"].tolist() == table["token"]
    row_of = {pair: row for row, pair in enumerate(zip(plans["token"], plans["name"], strict=True))}
    poses = plans["poses"][[row_of[pair] for pair in zip(table["token"], table["name"], strict=True)]]
    starts = {token: traffic_start(alpha_scenes, alpha_contexts[token]) for token in set(table["token"])}
    contexts = [alpha_contexts[token] for token in table["token"]]
    return Reactive(
        table,
        contexts,
        [starts[token] for token in table["token"]],
        poses,
        simulate_plans(contexts, poses[:, None]).states_world[:, 0],
        recorded["sim"],
    )


@pytest.fixture(scope="module")
def humans(reactive: Reactive) -> SubScores:
    """Sub-scores [86] of each row's human."""
    of_scene = {
        context.token: human_scores_reactive(context, start)
        for context, start in zip(reactive.contexts, reactive.starts, strict=True)
    }
    return stack_sub_scores([of_scene[context.token] for context in reactive.contexts])


@pytest.fixture(scope="module")
def scored(reactive: Reactive, humans: SubScores) -> dict[bool, SubScores]:
    """Sub-scores [86], with and without the human filter."""
    rows = zip(reactive.contexts, reactive.starts, reactive.rollouts, strict=True)
    parts = [score_rollout_reactive(context, start, rollout[None]) for context, start, rollout in rows]
    raw = SubScores(*(value[:, 0] for value in vars(stack_sub_scores(parts)).values()))
    return {False: raw, True: apply_human_filter(raw, humans)}


def worst_difference(tracks: Tracks, official: Any) -> float:
    """Largest difference (m, rad, m/s) of any object at any step; infinite where the objects differ."""
    worst, row_of = 0.0, {token: row for row, token in enumerate(tracks.tokens)}
    for step in range(41):
        at_step = official["step"] == step
        theirs = official["track"][at_step].tolist()
        ours = {token for token, row in row_of.items() if tracks.present[row, step]}
        if ours != set(theirs) or len(theirs) != len(set(theirs)):
            return np.inf
        rows = [row_of[token] for token in theirs]
        state = np.concatenate([tracks.boxes[rows, step], tracks.velocity_mps[rows, step]], axis=1)
        difference = state - official["xyhlwv"][at_step]
        difference[:, 2] = wrap_angle(difference[:, 2])
        worst = max(worst, float(np.abs(difference).max(initial=0.0)))
    return worst


def test_every_object_at_every_step_agrees_within_a_micrometre(golden: Path, reactive: Reactive) -> None:
    moved = 0
    for row, (start, rollout) in enumerate(zip(reactive.starts, reactive.official_rollouts, strict=True)):
        official = np.load(golden / "alpha" / "traffic_reactive" / f"{row:06d}.npz")
        assert str(official["token"]) == start.token
        assert worst_difference(react(start, rollout), official) < 1e-6, start.token
        moved += len(start.followers)
    assert moved > 86, "hardly anything reacts; the agreement would prove nothing"


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("filtered", [False, True])
def test_sub_score_equals_the_official_one(
    name: str, filtered: bool, reactive: Reactive, scored: dict[bool, SubScores]
) -> None:
    theirs = np.array(reactive.table[name if filtered else f"{name}_raw"])
    np.testing.assert_allclose(getattr(scored[filtered], name), theirs, rtol=0, atol=1e-6)


def test_final_score_agrees_within_a_millionth(reactive: Reactive, scored: dict[bool, SubScores]) -> None:
    np.testing.assert_allclose(epdms(scored[True]), reactive.table["score"], rtol=0, atol=1e-6)


def test_human_is_scored_as_officially(reactive: Reactive, humans: SubScores) -> None:
    for name in SCORED:
        np.testing.assert_array_equal(getattr(humans, name), reactive.table[f"{name}_human"])


def test_the_front_door_scores_a_batch_as_row_by_row(reactive: Reactive, scored: dict[bool, SubScores]) -> None:
    batch = score_reactive(reactive.contexts[:4], reactive.starts[:4], reactive.poses[:4, None])
    for name in SCORED:
        np.testing.assert_array_equal(getattr(batch, name)[:, 0], getattr(scored[True], name)[:4])


def test_the_table_of_reactive_scores_is_the_official_one(golden: Path, reactive: Reactive, tmp_path: Path) -> None:
    alpha, out = golden / "alpha", tmp_path / "scores.parquet"
    count = 6
    names = reactive.table["name"][:count]
    write_plans(tmp_path / "plans.npz", reactive.table["token"][:count], reactive.poses[:count], names)
    score_plans_file(alpha, "test", tmp_path / "plans.npz", out, traffic="reactive")
    table = pq.read_table(out).to_pydict()
    for name in (*SCORED, "score"):
        np.testing.assert_allclose(table[name], reactive.table[name][:count], rtol=0, atol=1e-6)
    assert pq.read_schema(out).metadata[b"traffic"] == b"reactive"


def pile_up() -> TrafficStart:
    """A car at 8 m/s before twelve that cross its lane in one place, and two that stand at the end of another lane, one
    within the other: its headway overlaps nearly all of them, so that nearly all are 0 m away."""
    x, y = 664400.0, 3996800.0
    cars = [(x, y, 0.0, 120.0, 10.0, 8.0, 4.5)]
    for k in range(12):
        heading, back_m = 0.35 + 0.45 * k, 1.0 + k % 4
        begin = x + 15.0 + 0.7 * k - 20.0 * np.cos(heading), y - 20.0 * np.sin(heading)
        cars.append((*begin, heading, 45.0, 20.0 - back_m, 1.0 + (7 * k) % 5, 4.5 + 0.1 * (k % 3)))
    cars += [(x + 1.0, y, 0.0, 20.0, 20.0 + k, 3.0 * k + 0.5, 4.0 + k) for k in range(2)]
    followers = []
    for row, (begin_x, begin_y, heading, end_m, at_m, speed_mps, length_m) in enumerate(cars):
        along_m = np.arange(0.0, end_m + 0.5)
        cos, sin = np.cos(heading), np.sin(heading)
        poses = np.stack([begin_x + along_m * cos, begin_y + along_m * sin, np.full(len(along_m), heading)], axis=1)
        box = np.array([begin_x + at_m * cos, begin_y + at_m * sin, heading, length_m, 1.9])
        followers.append(Follower(row, Rail(along_m, poses), at_m, speed_mps, 10.0, box))
    boxes = np.stack([follower.snapped_box for follower in followers])
    speeds = np.array([[follower.speed_mps] for follower in followers])
    velocity = speeds * np.stack([np.cos(boxes[:, 2]), np.sin(boxes[:, 2])], axis=1)
    nothing = Tracks((), np.zeros(0, int), np.zeros((0, 41, 5)), np.zeros((0, 41, 2)), np.zeros((0, 41), np.bool_))
    return TrafficStart(
        "pile-up", tuple(f"{k:016x}" for k in range(15)), boxes, velocity, tuple(followers), (), nothing
    )


OFFICIAL_PILE_UP_MPS = {
    5: [7.0, 0.1403, 2.0, 4.0, 1.0, 3.0, 0.1554, 2.0, 4.0, 1.0, 3.0, 0.4033, 2.0, 0.0298, 2.5],
    10: [6.0, 0.1422, 1.0, 3.0, 0.1428, 2.0, 0.0235, 1.0, 3.0, 0.136, 2.0, 0.1439, 1.0, 0.0032, 1.5],
    20: [4.0, 0.0023, 0.0057, 1.0, 0.0021, 0.1756, 0.0006, 0.0204, 1.0, 0.0031, 0.1416, 0.0077, 0.028, 0.0001, 0.0493],
    40: [4.4463, 0.0, 0.0, 1.7838, 0.0, 0.0004, 0.0, 0.0, 0.0006, 0.0, 0.0001, 0.0, 0.0, 0.0, 0.0],
}
"""Speeds by step of the cars of `pile_up` under navsim's own `NavsimIDMAgentManager`, with GEOS 3.11.4."""


@pytest.mark.parametrize("driven", [react, react_plainly])
def test_of_several_vehicles_in_its_way_at_once_a_driver_minds_the_official_one(
    driven: Callable[[TrafficStart, Array], Tracks],
) -> None:
    ego_states = np.zeros((41, 11))
    ego_states[:, :2] = 664360.0, 3996840.0
    tracks = driven(pile_up(), ego_states)
    for step, speeds in OFFICIAL_PILE_UP_MPS.items():
        np.testing.assert_allclose(np.hypot(*tracks.velocity_mps[:, step].T), speeds, atol=6e-5)
