"""The official devkit's verdicts on 903 plans in 129 scenes, one by one."""

import numpy as np
import pytest
from official import Official

from irlvla.scoring.context import ScoringContext
from irlvla.scoring.epdms import epdms
from irlvla.scoring.score import score_simulated, simulate_plans, stack_sub_scores
from irlvla.types import Array, Rollout, SubScores

SCORED = tuple(name for name in SubScores.names() if name != "two_frame_extended_comfort")


@pytest.fixture(scope="module")
def rollouts(official: Official, alpha_contexts: dict[str, ScoringContext]) -> Array:
    """[903, 41, 11]"""
    return np.concatenate(
        [
            simulate_plans([alpha_contexts[token]], official.plans[token, name][None, None]).states_world[0]
            for token, name in official.rows
        ]
    )


@pytest.fixture(scope="module")
def scored(official: Official, alpha_contexts: dict[str, ScoringContext], rollouts: Array) -> dict[bool, SubScores]:
    """Sub-scores [903, 1], with and without the human filter."""
    contexts = [alpha_contexts[token] for token, _ in official.rows]
    rollout = Rollout(rollouts[:, None])
    return {on: score_simulated(contexts, rollout, human_filter=on) for on in (False, True)}


def test_simulated_states_agree_within_a_micrometre(official: Official, rollouts: Array) -> None:
    assert np.abs(rollouts - official.rollouts["sim"]).max() < 1e-6


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("filtered", [False, True])
def test_sub_score_equals_the_official_one(
    name: str, filtered: bool, official: Official, scored: dict[bool, SubScores]
) -> None:
    theirs = np.array(official.table[name if filtered else f"{name}_raw"])
    np.testing.assert_allclose(getattr(scored[filtered], name)[:, 0], theirs, rtol=0, atol=1e-6)


def test_final_score_agrees_within_a_millionth(official: Official, scored: dict[bool, SubScores]) -> None:
    np.testing.assert_allclose(epdms(scored[True])[:, 0], official.table["score"], rtol=0, atol=1e-6)


def test_the_golden_plans_exercise_every_sub_score(official: Official) -> None:
    for name in SCORED:
        assert min(official.table[f"{name}_raw"]) < 1.0, f"{name} is never below 1; its agreement would prove nothing"


def test_human_and_planner_are_simulated_as_officially(
    official: Official, alpha_contexts: dict[str, ScoringContext]
) -> None:
    contexts = [alpha_contexts[token] for token, _ in official.rows]
    for ours, theirs in (("human_rollout", "human_sim"), ("pdm_rollout", "pdm_sim")):
        assert np.abs(np.stack([getattr(c, ours) for c in contexts]) - official.rollouts[theirs]).max() < 1e-6


def test_human_is_scored_as_officially(official: Official, alpha_contexts: dict[str, ScoringContext]) -> None:
    humans = stack_sub_scores([alpha_contexts[token].human_scores for token, _ in official.rows])
    for name in SCORED:
        np.testing.assert_array_equal(getattr(humans, name), official.table[f"{name}_human"])
