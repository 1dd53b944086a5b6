import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from irlvla.model.reward import PREDICTED
from irlvla.stages.proposals import PLAN_KINDS
from irlvla.stages.reward import draw_weights, heads_see_scenes, max_entropy_loss
from irlvla.stages.reward_report import alternatives_in, area_under_curve
from irlvla.stages.scored_plans import ScoredPlans
from irlvla.stages.watch import within_scene_rank_correlation


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scored_plans(kinds: list[str], collides: list[bool]) -> ScoredPlans:
    count = len(kinds)
    labels = np.ones((1, count, len(PREDICTED)), dtype=np.float16)
    labels[0, collides, PREDICTED.index("no_at_fault_collisions")] = 0
    return ScoredPlans(
        rows=np.zeros(1, np.int64),
        poses=np.zeros((1, count, 8, 3), np.float32),
        kinds=np.array([[PLAN_KINDS.index(kind) for kind in kinds]], dtype=np.uint8),  # type: ignore[arg-type]
        valid=np.ones((1, count), np.bool_),
        plan_starts=np.zeros((1, count, 4), np.float32),
        labels=labels,
        start_numbers=np.zeros((1, 2), np.int64),
        start_states=np.zeros((1, 17, 11)),
    )


def test_max_entropy_loss_against_hand_numbers() -> None:
    # Weights e^0.9, e^0.4, e^0.1 at temperature 1: the human's share is 0.4842.
    loss = max_entropy_loss(torch.tensor([0.9]), torch.tensor([[0.4, 0.1]]), temperature=1.0)
    share = math.exp(0.9) / (math.exp(0.9) + math.exp(0.4) + math.exp(0.1))
    assert float(loss) == pytest.approx(-math.log(share), rel=1e-5)


def test_max_entropy_recovers_a_reward_from_choices_alone() -> None:
    """A human who picks by reward w·x at temperature 1 is seen choosing; the weights are found without any label."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4000, 6, 2, generator=generator)
    wanted = torch.tensor([1.5, -0.8])
    choice = torch.multinomial(torch.softmax(features @ wanted, dim=1), 1, generator=generator)
    human = torch.take_along_dim(features, choice[..., None], dim=1)[:, 0]
    others = features[torch.arange(6)[None] != choice].view(4000, 5, 2)
    weights = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        max_entropy_loss(human @ weights, others @ weights, temperature=1.0).backward()
        optimizer.step()
    torch.testing.assert_close(weights.detach(), wanted, atol=0.1, rtol=0)


def test_draws_are_even_over_kinds_and_over_good_and_bad_plans() -> None:
    kinds = ["policy"] * 8 + ["anchor"] * 2
    collides = [True] + [False] * 9
    plans = scored_plans(kinds, collides)
    # The median plan is perfect: the colliding one alone is worse.
    weights = draw_weights(plans, held_out_kinds=[])[0]
    assert weights.sum() == pytest.approx(1.0)
    assert weights[0] == pytest.approx(weights[1:8].sum())
    assert weights[8:].sum() == pytest.approx(weights[1:8].sum())


def test_held_out_kinds_are_never_drawn() -> None:
    plans = scored_plans(["policy", "offset", "offset", "anchor"], [False, True, False, True])
    weights = draw_weights(plans, held_out_kinds=[PLAN_KINDS.index("offset")])[0]
    assert weights[1] == weights[2] == 0
    assert weights[0] > 0
    assert weights[3] > 0


def test_true_epdms_of_scored_plans_leaves_extended_comfort_out() -> None:
    plans = scored_plans(["policy", "policy"], [False, True])
    assert plans.true_epdms().tolist() == [[1.0, 0.0]]


def test_area_under_curve_with_ties_and_with_one_class_only() -> None:
    assert area_under_curve(np.array([0.2, 0.2]), np.array([True, False])) == 0.5
    assert area_under_curve(np.array([0.1, 0.9]), np.array([False, True])) == 1.0
    assert math.isnan(area_under_curve(np.array([0.1, 0.9]), np.array([True, True])))


def test_rank_correlation_agrees_with_scipy_even_with_ties() -> None:
    rng = np.random.default_rng(0)
    predicted, true = rng.integers(0, 4, (5, 12)).astype(float), rng.integers(0, 3, (5, 12)).astype(float)
    expected = np.mean([spearmanr(p, t).statistic for p, t in zip(predicted, true, strict=True)])
    assert within_scene_rank_correlation(predicted, true) == pytest.approx(expected)


def test_plans_of_reposed_starts_have_a_share_of_their_own_where_there_are_any() -> None:
    plans = scored_plans(["policy", "anchor", "reposed", "reposed"], [False, True, True, False])
    weights = draw_weights(plans, held_out_kinds=[], reposed_share=0.25)[0]
    assert weights[2:].sum() == pytest.approx(0.25)
    nothing_there = replace(plans, valid=np.array([[True, True, False, False]]))
    np.testing.assert_allclose(draw_weights(nothing_there, [], 0.25)[0], [0.5, 0.5, 0.0, 0.0])


def test_each_head_leaves_out_a_third_of_the_logs_and_not_the_same() -> None:
    logs = [f"log{i // 2}" for i in range(24)]
    sees = heads_see_scenes(logs, heads=4, seed=0)
    assert (sees.sum(1) == 16).all()
    assert torch.equal(sees[:, ::2], sees[:, 1::2])
    assert len({tuple(row.tolist()) for row in sees}) == 4
    assert torch.equal(sees, heads_see_scenes(logs, heads=4, seed=0))


def test_plans_are_alternatives_only_to_those_of_the_same_start() -> None:
    plans = scored_plans(["policy", "policy", "reposed", "reposed", "reposed"], [False] * 5)
    plans.plan_starts[0, 2:4] = [0.5, 0.0, 0.0, 3.0]
    plans.plan_starts[0, 4] = [0.0, 1.0, 0.0, 3.0]
    groups = [columns.tolist() for _, columns in alternatives_in(plans, plans.valid)]
    assert sorted(groups) == [[0, 1], [2, 3], [4]]
