from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from irlvla.errors import ConfigError
from irlvla.model.config import ModelConfig
from irlvla.model.plan_space import PlanSpace
from irlvla.model.planner import DiffusionPlanner
from irlvla.model.tokens import SceneTokens
from irlvla.stages.advantages import group_advantages
from irlvla.stages.optimisation import adamw
from irlvla.stages.ppo import PPOConfig, Rollouts, improve_policy

MODEL = ModelConfig(
    d_model=32,
    n_heads=2,
    bev_cells=8,
    bev_tokens=2,
    bev_channels=4,
    n_object_queries=2,
    n_map_queries=2,
    n_meta_tokens=2,
    planner_layers=1,
    denoising_steps=4,
    plan_coefficients=6,
)
TOY = PPOConfig(
    trained_steps=4,
    inner_epochs=2,
    minibatches=2,
    clip_noisy=0.05,
    clip_final=0.1,
    target_kl=1.0,
    imitation_weight=0.0,
    learning_rate=2e-3,
    min_std=0.1,
    min_likelihood_std=0.1,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def human_plans(count: int) -> np.ndarray:
    """Straight drives and gentle bends to either side."""
    rng = np.random.default_rng(0)
    time_s = 0.5 * np.arange(1, 9)
    speed, bend = rng.uniform(3, 9, (count, 1)), rng.normal(0, 0.1, (count, 1))
    return np.stack([speed * time_s, 0.5 * bend * time_s**2, np.broadcast_to(bend * time_s / 4, (count, 8))], axis=-1)


def toy_planner(seed: int = 0) -> DiffusionPlanner:
    torch.manual_seed(seed)
    return DiffusionPlanner(MODEL, PlanSpace.fit(human_plans(100), MODEL.plan_coefficients)).eval()


def toy_scenes(count: int) -> SceneTokens:
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return 0.3 * torch.randn(count, *shape, generator=generator)

    return SceneTokens(
        meta=draw(2, 32),
        bev=draw(4, 32),
        map=draw(2, 32),
        objects=draw(2, 32),
        command=draw(32),
        bev_map=draw(4, 8, 8),
        ego_status=draw(13),
    )


def roll_out(planner: DiffusionPlanner, scenes: int, plans: int, config: PPOConfig) -> Rollouts:
    tokens = toy_scenes(scenes)
    chain = planner.sample_chain(
        tokens, plans, eta=1.0, min_std=config.min_std, min_likelihood_std=config.min_likelihood_std
    )
    return Rollouts(tokens, chain, torch.from_numpy(human_plans(scenes)).float())


def end_one_metre_to_the_left(poses: Tensor) -> Tensor:
    return -(poses[..., -1, 1] - 1.0).abs()


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "reinforce"])
def test_policy_gradient_learns_to_end_one_metre_to_the_left(algorithm: str) -> None:
    config = replace(TOY, algorithm=algorithm)  # type: ignore[arg-type]
    planner, reference = toy_planner(), toy_planner()
    optimizer = adamw(planner, config.learning_rate, weight_decay=0.0)
    torch.manual_seed(1)
    rewards = []
    for _ in range(40):
        rollouts = roll_out(planner, scenes=4, plans=16, config=config)
        reward = end_one_metre_to_the_left(rollouts.chain.poses)
        rewards.append(float(reward.mean()))
        improve_policy(planner, optimizer, rollouts, group_advantages(reward, 0.05), config, reference=reference)
    assert np.mean(rewards[-5:]) > 0.6 * np.mean(rewards[:5]), rewards  # Rewards are negative: 40 % of the error gone.
    assert float(end_one_metre_to_the_left(planner.plan(toy_scenes(4))).mean()) > float(
        end_one_metre_to_the_left(reference.plan(toy_scenes(4))).mean()
    )


def test_ratio_is_one_before_the_first_inner_step_and_not_after() -> None:
    planner = toy_planner()
    config = replace(TOY, inner_epochs=1, minibatches=1)
    torch.manual_seed(1)
    rollouts = roll_out(planner, scenes=3, plans=8, config=config)
    advantages = group_advantages(end_one_metre_to_the_left(rollouts.chain.poses), 0.05)
    optimizer = adamw(planner, config.learning_rate, weight_decay=0.0)
    first = improve_policy(planner, optimizer, rollouts, advantages, config)
    second = improve_policy(planner, optimizer, rollouts, advantages, config)
    assert first["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert first["clip_fraction"] == 0.0
    assert abs(second["ratio"] - 1.0) > 1e-6
    assert 0.0 < second["clip_fraction"] <= 1.0
    assert second["kl"] > 0.0


def test_a_round_stops_at_the_target_kl() -> None:
    config = replace(TOY, inner_epochs=8, target_kl=1e-9)
    planner = toy_planner()
    torch.manual_seed(1)
    rollouts = roll_out(planner, scenes=4, plans=8, config=config)
    advantages = group_advantages(end_one_metre_to_the_left(rollouts.chain.poses), 0.05)
    facts = improve_policy(planner, adamw(planner, 1e-3, 0.0), rollouts, advantages, config)
    assert facts["minibatches"] < 16


def test_imitation_term_pulls_towards_human_plans_where_no_plan_is_better() -> None:
    config = replace(TOY, imitation_weight=1.0)
    planner = toy_planner()
    optimizer = adamw(planner, config.learning_rate, weight_decay=0.0)
    torch.manual_seed(1)
    losses = []
    for _ in range(25):
        rollouts = roll_out(planner, scenes=4, plans=4, config=config)
        losses.append(improve_policy(planner, optimizer, rollouts, torch.zeros(4, 4), config)["imitation_loss"])
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_critic_outside_ppo_is_refused() -> None:
    with pytest.raises(ConfigError, match="group"):
        PPOConfig(algorithm="reinforce", baseline="critic")


def test_a_group_of_one_plan_is_refused() -> None:
    with pytest.raises(ConfigError, match="plans_per_scene"):
        PPOConfig(plans_per_scene=1)


def test_the_control_arm_learns_the_same_whatever_the_reward() -> None:
    config = replace(TOY, policy_weight=0.0, imitation_weight=1.0)
    weights = []
    for sign in (1.0, -1.0):
        planner = toy_planner()
        torch.manual_seed(1)
        rollouts = roll_out(planner, scenes=4, plans=8, config=config)
        advantages = sign * group_advantages(end_one_metre_to_the_left(rollouts.chain.poses), 0.05)
        improve_policy(planner, adamw(planner, 1e-3, 0.0), rollouts, advantages, config)
        weights.append(torch.cat([p.detach().flatten() for p in planner.parameters()]))
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], torch.cat([p.detach().flatten() for p in toy_planner().parameters()]))
