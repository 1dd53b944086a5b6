"""Stage (c): improve the driver by PPO on its denoising chain, judged by the reward world model.

State = (scene, step k, noisy plan), action = the next, less noisy plan, reward = EPDMS of the finished plan as the
reward world model sees it. Each update draws scenes, lets the present policy make G plans a scene with full noise,
remembers every move's log-probability, has the plans judged, and improves the policy on the remembered moves with
clipped ratios. Encoders stay as imitation left them, so scene tokens are computed once.

Legend: S scenes, G plans of one scene, K denoising steps, C plan coefficients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from irlvla.errors import ConfigError, RunError
from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.planner import Chain, DiffusionPlanner
from irlvla.model.reward import RewardWorldModel, SceneCritic
from irlvla.model.tokens import SceneTokens
from irlvla.scoring.epdms import epdms
from irlvla.stages.advantages import critic_advantages, denoising_discounts, group_advantages
from irlvla.stages.optimisation import WeightAverage, adamw, load_optimizer, optimizer_tensors
from irlvla.stages.policy_gradient import clip_ranges, clipped_surrogate, kl_to_reference, reinforce
from irlvla.stages.run import (
    OnProgress,
    Progress,
    RunFolder,
    load_run_config,
    model_digest,
    no_progress,
    seed_step,
)
from irlvla.stages.scenes import DataConfig, open_training_scenes, scene_logs, split_by_log
from irlvla.stages.watch import WatchConfig, hacking_alarm, within_scene_rank_correlation
from irlvla.types import SubScores


@dataclass(frozen=True)
class PPOConfig:
    """How stage (c) trains. Values are our own choice: the paper names none."""

    updates: int = 100
    """Rounds of planning, judging and improving."""
    scenes_per_update: int = 16
    """S, scenes a round."""
    plans_per_scene: int = 8
    """G, plans a scene."""
    algorithm: Literal["ppo", "grpo", "reinforce"] = "ppo"
    """ppo: clipped ratios, baseline as below. grpo: the same with group baseline and a KL penalty towards the
    imitation policy. reinforce: one unclipped pass, group baseline."""
    baseline: Literal["group", "critic"] = "group"
    """What a plan is compared with: the scene's other plans, or a critic on the scene tokens."""
    reward: Literal["rwm", "simulator"] = "rwm"
    """Who judges: the reward world model, or the true scorer (the oracle arm)."""
    pessimism_beta: float = 1.0
    """Standard deviations over the ensemble taken off the reward."""
    extended_comfort: bool = True
    """Whether the reward compares each plan with the policy's own plan 0.5 s earlier, where that frame is in the set."""

    inner_epochs: int = 2
    """Passes over the moves of one round."""
    minibatches: int = 2
    """Parts, by scene, of one pass."""
    trained_steps: int = 5
    """Last denoising steps whose moves are improved."""
    denoising_discount: float = 0.8
    """Credit of each earlier step, relative to the one after it."""
    clip_noisy: float = 0.005
    """Clip range at the first trained step; see `clip_ranges`."""
    clip_final: float = 0.02
    """Clip range at the last step."""
    target_kl: float = 0.02
    """A round stops early where the policy has moved this far from the one that planned."""
    advantage_floor: float = 0.05
    """Smallest deviation of rewards that is scaled to one."""
    advantage_limit: float = 4.0
    """Advantages are cut off beyond this."""
    min_std: float = 0.1
    """Floor of the sampling noise of each move, in plan-space units (spread of human plans)."""
    min_likelihood_std: float = 0.1
    """Floor of the deviation in log-probabilities."""
    imitation_weight: float = 0.1
    """Weight of the loss against human plans of the same scenes."""
    imitation_draws: int = 4
    """Noise levels drawn a scene for that loss."""
    kl_weight: float = 0.05
    """grpo only: weight of the penalty towards the imitation policy."""
    learning_rate: float = 1e-4
    """AdamW on the planner."""
    critic_learning_rate: float = 1e-3
    """AdamW on the critic."""
    gradient_norm: float = 1.0
    """Gradients are clipped to this norm."""
    average_decay: float = 0.97
    """Decay of the averaged planner weights; they are what is checked and saved."""
    mixed_scene_share: float = 0.7
    """Share of the draw that favours scenes whose plans came out mixed; the rest is uniform."""

    refresh_every: int = 0
    """Updates between rounds of scoring the present policy's plans truly and training the reward model on them;
    0 never refreshes."""
    refresh_scenes: int = 64
    """Scenes a refresh."""
    refresh_steps: int = 50
    """Training steps of the reward model a refresh."""

    watch: WatchConfig = field(default_factory=WatchConfig)
    """Reward-hacking watch."""
    log_every: int = 1
    """Updates between lines in metrics.jsonl."""
    checkpoint_every: int = 10
    """Updates between resume states."""
    workers: int = 2
    """Processes that build scoring contexts."""

    def __post_init__(self) -> None:
        if self.algorithm != "ppo" and self.baseline == "critic":
            raise ConfigError(f"algorithm {self.algorithm!r} takes baseline 'group'; the critic belongs to 'ppo'")
        if self.plans_per_scene < 2 and self.baseline == "group":
            raise ConfigError("a group baseline needs plans_per_scene of 2 or more")


@dataclass(frozen=True)
class Rollouts:
    """One round's plans and all that improving on them needs."""

    tokens: SceneTokens
    chain: Chain
    rewards_SG: Tensor
    human_plans: Tensor
    """[S, 8, 3]"""


def improve_policy(
    planner: DiffusionPlanner,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    advantages_SG: Tensor,
    config: PPOConfig,
    *,
    reference: DiffusionPlanner | None = None,
) -> dict[str, float]:
    """Improve the policy on the moves of one round.

    Args:
        planner: The policy; changed in place.
        optimizer: Over the planner's weights.
        rollouts: The round, with log-probabilities as they were when the moves were made.
        advantages_SG: [S, G] how much better each plan did than expected.
        config: How to improve.
        reference: grpo: the policy to stay close to.
    Returns:
        Means over all minibatches: losses, ratio, clip fraction, KL; and "minibatches", how many were taken.
    """
    total_steps = len(rollouts.chain.latents) - 1
    steps = list(range(total_steps - min(config.trained_steps, total_steps), total_steps))
    credit_K = denoising_discounts(len(steps), config.denoising_discount).to(advantages_SG)
    reach_K = clip_ranges(len(steps), config.clip_noisy, config.clip_final).to(advantages_SG)
    noise = {"eta": 1.0, "min_std": config.min_std, "min_likelihood_std": config.min_likelihood_std}
    sums: dict[str, float] = {}
    count = 0
    epochs = 1 if config.algorithm == "reinforce" else config.inner_epochs
    for _ in range(epochs):
        for scenes in torch.randperm(len(rollouts.tokens)).chunk(config.minibatches):
            tokens = rollouts.tokens.index_select(scenes)
            latents = rollouts.chain.latents[:, scenes]
            log_probs = planner.log_prob(tokens, latents, steps, **noise)
            old_log_probs = rollouts.chain.log_probs[steps][:, scenes]
            advantages_KSG = credit_K[:, None, None] * advantages_SG[scenes]
            surrogate = clipped_surrogate(log_probs, old_log_probs, advantages_KSG, reach_K)
            figures = {
                "ratio": surrogate.ratio_mean,
                "clip_fraction": surrogate.clip_fraction,
                "kl": surrogate.kl,
            }
            policy_loss = surrogate.loss
            if config.algorithm == "reinforce":
                policy_loss = reinforce(log_probs, advantages_KSG)
            elif config.algorithm == "grpo" and reference is not None:
                with torch.no_grad():
                    reference_log_probs = reference.log_prob(tokens, latents, steps, **noise)
                penalty = kl_to_reference(log_probs, reference_log_probs)
                policy_loss = policy_loss + config.kl_weight * penalty
                figures["kl_to_imitation"] = float(penalty)
            if count and surrogate.kl > config.target_kl:
                return {name: value / count for name, value in sums.items()} | {"minibatches": float(count)}
            coefficient_loss, waypoint_loss = planner.denoising_loss(
                tokens, rollouts.human_plans[scenes], draws=config.imitation_draws
            )
            imitation_loss = coefficient_loss + 0.5 * waypoint_loss
            loss = policy_loss + config.imitation_weight * imitation_loss
            optimizer.zero_grad()
            loss.backward()
            figures["gradient_norm"] = float(torch.nn.utils.clip_grad_norm_(planner.parameters(), config.gradient_norm))
            optimizer.step()
            figures |= {"policy_loss": float(policy_loss), "imitation_loss": float(imitation_loss)}
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
    return {name: value / count for name, value in sums.items()} | {"minibatches": float(count)}
