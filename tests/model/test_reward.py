"""The reward world model and the critic."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_planner import make_tokens

from irlvla.errors import ConfigError
from irlvla.geometry import box_corners, ego_boxes
from irlvla.model.config import ModelConfig
from irlvla.model.reward import PREDICTED, RewardWorldModel, SceneCritic, epdms_tensor, outline_points
from irlvla.model.tokens import SceneTokens
from irlvla.scoring.epdms import epdms
from irlvla.types import Array, SubScores


@pytest.fixture
def reward(config: ModelConfig) -> RewardWorldModel:
    torch.manual_seed(0)
    return RewardWorldModel(config).eval()


@pytest.fixture
def tokens(config: ModelConfig) -> SceneTokens:
    return make_tokens(config, scenes=2)


@pytest.fixture
def poses(golden_plans: Array) -> torch.Tensor:
    return torch.tensor(golden_plans[:12], dtype=torch.float32).unflatten(0, (2, 6))


@pytest.mark.parametrize("with_extended_comfort", [True, False])
def test_epdms_of_tensors_equals_the_scorers_formula(with_extended_comfort: bool) -> None:
    values = np.random.default_rng(0).uniform(0, 1, (9, 50))
    values[:4, :10] = np.round(values[:4, :10])
    scores = SubScores(*values, has_earlier_frame=np.full(50, with_extended_comfort))
    named = {name: torch.tensor(getattr(scores, name)) for name in PREDICTED}
    extended = torch.tensor(scores.two_frame_extended_comfort) if with_extended_comfort else None
    np.testing.assert_allclose(epdms_tensor(named, extended).numpy(), epdms(scores), atol=1e-12)


def test_prediction_has_every_sub_score_in_range(
    reward: RewardWorldModel, poses: torch.Tensor, tokens: SceneTokens, config: ModelConfig
) -> None:
    predicted = reward.predict(poses, tokens)
    assert set(predicted.mean) == set(SubScores.names()) - {"two_frame_extended_comfort"}
    for name in predicted.mean:
        assert predicted.mean[name].shape == (2, 6)
        assert ((predicted.mean[name] >= 0) & (predicted.mean[name] <= 1)).all()
        assert (predicted.std[name] >= 0).all()
    assert predicted.epdms.shape == (config.reward_heads, 2, 6)


def test_pessimism_lowers_the_reward_by_the_heads_disagreement(
    reward: RewardWorldModel, poses: torch.Tensor, tokens: SceneTokens
) -> None:
    epdms_EBG = reward.predict(poses, tokens).epdms
    drop = reward.reward(poses, tokens) - reward.reward(poses, tokens, pessimism_beta=2.0)
    torch.testing.assert_close(drop, 2 * epdms_EBG.std(0))
    assert (drop > 0).all()


def test_exact_history_comfort_replaces_the_guess(
    reward: RewardWorldModel, poses: torch.Tensor, tokens: SceneTokens
) -> None:
    comfortable, harsh = (reward.predict(poses, tokens, torch.full((2, 6), v)) for v in (1.0, 0.0))
    assert (comfortable.mean["history_comfort"] == 1).all()
    gate_EBG = (comfortable.epdms - harsh.epdms) * 7
    assert (gate_EBG > 0).all()


def test_plans_of_a_scene_are_judged_one_by_one(
    reward: RewardWorldModel, poses: torch.Tensor, tokens: SceneTokens
) -> None:
    together = reward(poses, tokens)
    torch.testing.assert_close(reward(poses[:, 2:3], tokens), together[:, :, 2:3], atol=1e-5, rtol=1e-5)


def test_what_the_driver_sees_is_not_bent_by_its_judge(
    reward: RewardWorldModel, poses: torch.Tensor, tokens: SceneTokens
) -> None:
    watched = replace(tokens, bev_map=tokens.bev_map.clone().requires_grad_())
    losses = reward.losses(poses, watched, {name: torch.ones(2, 6) for name in PREDICTED})
    torch.stack(list(losses.values())).sum().backward()
    assert watched.bev_map.grad is None


def test_loss_reaches_every_weight(reward: RewardWorldModel, poses: torch.Tensor, tokens: SceneTokens) -> None:
    labels = {name: torch.rand(2, 6).round() for name in PREDICTED}
    torch.stack(list(reward.losses(poses, tokens, labels).values())).sum().backward()
    idle = [name for name, p in reward.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_padded_plans_and_missing_labels_do_not_count(
    reward: RewardWorldModel, poses: torch.Tensor, tokens: SceneTokens
) -> None:
    labels = {"ego_progress": torch.rand(2, 6), "no_at_fault_collisions": torch.ones(2, 6)}
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[:, 4:] = False
    kept = reward.losses(poses[:, :4], tokens, {name: label[:, :4] for name, label in labels.items()})
    labels["no_at_fault_collisions"][:, 4:] = 0.0
    masked = reward.losses(poses, tokens, labels, mask)
    assert set(masked) == set(labels)
    for name in labels:
        torch.testing.assert_close(masked[name], kept[name], atol=1e-5, rtol=1e-5)


def test_wrong_side_of_the_lane_is_learned_in_a_few_steps(config: ModelConfig, golden_plans: Array) -> None:
    """Plans that end left of y = 0 leave the road: soon told apart, plan by plan."""
    torch.manual_seed(0)
    reward = RewardWorldModel(config)
    tokens = make_tokens(config, scenes=4)
    poses = torch.tensor(golden_plans[:64], dtype=torch.float32).unflatten(0, (4, 16))
    poses[..., 1] += torch.randn(4, 16, 1) * torch.linspace(0.2, 3, 8)
    labels = {"drivable_area_compliance": (poses[..., -1, 1] < 0).float()}
    optimizer = torch.optim.AdamW(reward.parameters(), lr=1e-3)
    for _ in range(60):
        loss = reward.losses(poses, tokens, labels)["drivable_area_compliance"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    said = reward.eval().predict(poses, tokens).mean["drivable_area_compliance"] > 0.5
    assert (said == labels["drivable_area_compliance"].bool()).float().mean() > 0.95


def test_bev_is_looked_at_under_the_ego_outline(golden_plans: Array) -> None:
    plans = golden_plans[:5]
    points = outline_points(torch.tensor(plans)[None])[0]
    np.testing.assert_allclose(points[..., 0, :], plans[..., :2], atol=1e-9)
    np.testing.assert_allclose(points[..., 1:, :], box_corners(ego_boxes(plans)), atol=1e-6)


def test_reward_model_survives_saving(
    reward: RewardWorldModel, poses: torch.Tensor, tokens: SceneTokens, tmp_path: Path
) -> None:
    reward.save_pretrained(tmp_path / "rwm")
    back = RewardWorldModel.from_pretrained(tmp_path / "rwm").eval()
    assert torch.equal(back.reward(poses, tokens), reward.reward(poses, tokens))


def test_critic_folder_is_not_taken_for_a_reward_model(config: ModelConfig, tmp_path: Path) -> None:
    SceneCritic(config).save_pretrained(tmp_path / "critic")
    with pytest.raises(ConfigError, match="scene_critic"):
        RewardWorldModel.from_pretrained(tmp_path / "critic")


def test_critic_learns_which_scene_is_worth_more(config: ModelConfig, tokens: SceneTokens) -> None:
    torch.manual_seed(0)
    critic = SceneCritic(config)
    worth = torch.tensor([0.2, 0.9])
    optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-3)
    for _ in range(30):
        loss = (critic(tokens) - worth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(critic(tokens), worth, atol=0.1, rtol=0)


def test_a_plan_without_a_start_begins_where_the_scene_does(
    reward: RewardWorldModel, poses: torch.Tensor, tokens: SceneTokens
) -> None:
    start = torch.zeros(2, 6, 4)
    start[..., 3] = tokens.ego_status[:, :1]
    assert torch.equal(reward(poses, tokens), reward(poses, tokens, start))


def test_the_judge_knows_where_and_how_fast_a_plan_begins(
    reward: RewardWorldModel, poses: torch.Tensor, tokens: SceneTokens
) -> None:
    start = torch.zeros(2, 6, 4, requires_grad=True)
    reward.reward(poses, tokens, start=start).sum().backward()
    assert start.grad is not None
    assert (start.grad.abs().sum(dim=(0, 1)) > 0).all()


def test_a_head_learns_nothing_from_a_scene_it_does_not_see(
    reward: RewardWorldModel, poses: torch.Tensor, tokens: SceneTokens, config: ModelConfig
) -> None:
    sees = torch.ones(config.reward_heads, 2, dtype=torch.bool)
    sees[0] = False
    losses = reward.losses(poses, tokens, {name: torch.ones(2, 6) for name in PREDICTED}, heads_see=sees)
    torch.stack(list(losses.values())).sum().backward()
    moved = [any(bool(p.grad.any()) for p in head.parameters() if p.grad is not None) for head in reward.heads]
    assert moved == [False, *[True] * (config.reward_heads - 1)]


def test_priors_differ_between_heads_and_are_never_trained(
    reward: RewardWorldModel, poses: torch.Tensor, tokens: SceneTokens
) -> None:
    assert not any(name.startswith("priors") for name, _ in reward.named_parameters())
    with torch.no_grad():
        for parameter in reward.heads.parameters():
            parameter.zero_()
    outputs = reward(poses, tokens)
    assert (outputs.std(0) > 0).all()
    assert (outputs.std(2) > 0).all()
