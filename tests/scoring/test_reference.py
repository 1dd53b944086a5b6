"""The fast scorer and its plain twin agree, on golden scenes and plans between tame and absurd."""

from pathlib import Path

import numpy as np
import pytest
from streets import crowded_streets

from irlvla.data.maps import load_map
from irlvla.data.scenes import open_scenes
from irlvla.scoring.context import ScoringContext, build_context
from irlvla.scoring.reference import score as plain
from irlvla.scoring.reference.reactive_traffic import react as react_plainly
from irlvla.scoring.reference.surroundings import surroundings
from irlvla.scoring.reference.tracker import simulate as simulate_plainly
from irlvla.scoring.score import score_rollout, simulate_plans
from irlvla.simulation.reactive_traffic import TrafficStart, react, start_traffic
from irlvla.types import Array, SubScores

SCENES = 12
PLANS = 6


@pytest.fixture(scope="module")
def contexts(golden: Path) -> list[ScoringContext]:
    scenes = open_scenes(golden / "alpha", "test", num_future_frames=8)
    picked = np.linspace(0, len(scenes) - 1, SCENES).astype(int)
    return [build_context(scenes[i], load_map(golden / "alpha", scenes[i].map_location)) for i in picked]


def plans(context: ScoringContext) -> np.ndarray:
    """The human's plan, ever more disturbed: faster or slower, swerving, turned."""
    rng = np.random.default_rng(int(context.token[:8], 16))
    strength = np.linspace(0.0, 1.0, PLANS)[:, None, None]
    drift = np.cumsum(rng.normal(size=(PLANS, 8, 3)), axis=1) * [0.8, 0.4, 0.06]
    stretch = 1.0 + 0.5 * strength * rng.uniform(-1.0, 1.0, size=(PLANS, 1, 1))
    return context.human_plan * stretch + strength * drift


def test_fast_and_plain_sub_scores_are_equal(contexts: list[ScoringContext]) -> None:
    below_one = dict.fromkeys(SubScores.names(), 0)
    for context in contexts:
        rollouts = simulate_plans([context], plans(context)[None]).states_world[0]
        fast = score_rollout(context, rollouts)
        scene = surroundings(context)
        for i, rollout in enumerate(rollouts):
            slow = plain.score_rollout(context, scene, rollout)
            for name in SubScores.names():
                assert getattr(fast, name)[i] == pytest.approx(float(getattr(slow, name)), abs=1e-9), (
                    f"{name} of plan {i} in {context.token}"
                )
                below_one[name] += getattr(fast, name)[i] < 1.0
    exercised = {name for name, count in below_one.items() if count}
    assert exercised >= set(SubScores.names()) - {"traffic_light_compliance", "driving_direction_compliance"}


def test_fast_and_plain_rollouts_are_equal(contexts: list[ScoringContext]) -> None:
    for context in contexts[::3]:
        several = plans(context)
        fast = simulate_plans([context], several[None]).states_world[0]
        for plan, rollout in zip(several, fast, strict=True):
            reference = plain.reference_poses(plan, context.ego_state)
            slow = simulate_plainly(reference, context.ego_state)
            # The devkit's truncated times shift a pose by at most 1 us of travel.
            np.testing.assert_allclose(rollout[:, :2], slow[:, :2], atol=2e-4)
            np.testing.assert_allclose(rollout[:, 3:6], slow[:, 3:6], atol=2e-3)


def difference(start: TrafficStart, ego_states: Array) -> float:
    """Largest difference (m, rad, m/s) between fast and plain traffic; infinite where other vehicles are there."""
    fast, slow = react(start, ego_states), react_plainly(start, ego_states)
    if not np.array_equal(fast.present, slow.present):
        return np.inf
    apart = [fast.boxes - slow.boxes, fast.velocity_mps - slow.velocity_mps]
    return float(np.abs(np.concatenate(apart, axis=-1)[fast.present]).max(initial=0.0))


def test_fast_and_plain_reactive_traffic_agree_in_golden_scenes(golden: Path, contexts: list[ScoringContext]) -> None:
    scenes = open_scenes(golden / "alpha", "test", num_future_frames=8)
    followers = 0
    for context in contexts[::2]:
        scene = scenes.by_token(context.token)
        city_map = load_map(golden / "alpha", scene.map_location)
        start = start_traffic(context.token, scene.now, context.tracks, context.ego_state[:3], city_map)
        followers += len(start.followers)
        for rollout in simulate_plans([context], plans(context)[None, ::3]).states_world[0]:
            assert difference(start, rollout) < 1e-8, context.token
    assert followers > 12


@pytest.mark.parametrize("seed", range(6))
def test_fast_and_plain_reactive_traffic_agree_in_crowded_streets(seed: int) -> None:
    start, drives = crowded_streets(np.random.default_rng(seed))
    assert start.followers
    for ego_states in drives[seed % 2 :: 2]:
        # GEOS simplifies outlines to within 1e-5 m, which the pieces of the fast one are not.
        assert difference(start, ego_states) < 1e-5
