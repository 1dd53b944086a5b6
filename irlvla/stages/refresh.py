"""Refreshing the judge: the reward world model learns the truth about the plans the policy makes now.

PPO moves the policy to where the reward model has seen few plans, and errs there most. Every so often the present
policy's plans are scored truly and learned from, mixed with the plans of stage (b) so that nothing is forgotten.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from irlvla.model.planner import DiffusionPlanner
from irlvla.model.reward import PREDICTED, RewardWorldModel
from irlvla.stages.optimisation import adamw
from irlvla.stages.practice import Practice
from irlvla.stages.proposals import denoising_plans, kind_numbers
from irlvla.stages.reward import RewardConfig, draw_weights, reward_losses
from irlvla.stages.run import write_atomically
from irlvla.stages.scored_plans import ScoredPlans, labels_of, load_shard, logged_starts
from irlvla.stages.true_scores import LONGEST_HISTORY


@dataclass(frozen=True)
class RefreshConfig:
    """When and how the reward model is refreshed."""

    every: int = 0
    """PPO updates between refreshes; 0 never refreshes."""
    scenes: int = 64
    """Scenes whose plans are scored a refresh."""
    plans_per_scene: int = 8
    """Finished plans a scene; the chain's estimates before its last step are scored as well."""
    min_std: float = 0.1
    """Floor of the sampling noise, as in PPO."""
    steps: int = 40
    """Training steps of the reward model a refresh."""
    learning_rate: float = 3e-4
    """AdamW on the reward model."""


class JudgeRefresh:
    """The reward world model of a PPO run, and the plans it learned from since.

    Args:
        judge: Reward world model, trained in place.
        practice: Scenes.
        scored: Plans it learned from in stage (b), of training scenes alone.
        heads_see: [E, scene] from which scenes each head learns.
        config: When and how.
        folder: Where newly scored plans are kept.
    """

    def __init__(
        self,
        judge: RewardWorldModel,
        practice: Practice,
        scored: ScoredPlans,
        heads_see: Tensor,
        config: RefreshConfig,
        folder: Path,
    ) -> None:
        self.judge = judge
        self.practice = practice
        self.scored = scored
        self.heads_see = heads_see
        self.config = config
        self.folder = folder
        self.refreshed: list[ScoredPlans] = []

    def is_due(self, update: int) -> bool:
        return bool(self.config.every) and update > 0 and update % self.config.every == 0

    def state(self) -> dict[str, Tensor]:
        """For the resume state; empty where nothing is ever refreshed."""
        return dict(self.judge.state_dict()) if self.config.every else {}

    def load_state(self, tensors: Mapping[str, Tensor], update: int) -> None:
        """Take up the judge as it was after `update` updates."""
        if not self.config.every:
            return
        self.judge.load_state_dict(dict(tensors))
        due = (self._path(earlier) for earlier in range(update) if self.is_due(earlier))
        self.refreshed = [plans for plans in map(load_shard, due) if plans is not None]

    def save(self, folder: Path) -> None:
        """Write the refreshed judge as a model folder."""
        write_atomically(folder, self.judge.save_pretrained)

    def refresh(self, planner: DiffusionPlanner, training_rows: list[int], update: int) -> dict[str, float]:
        """Score the present policy's plans and learn from them.

        Args:
            planner: The policy.
            training_rows: Scenes to draw from.
            update: PPO update this happens before.
        Returns:
            "refresh/loss" and "refresh/error": mean absolute error of EPDMS on the new plans before learning.
        """
        config = self.config
        drawn = torch.randperm(len(training_rows))[: config.scenes].tolist()
        rows = [training_rows[i] for i in drawn]
        device = next(self.judge.parameters()).device
        tokens = self.practice.encoded.rows(rows, device)
        drawn_plans = denoising_plans(planner, tokens, config.plans_per_scene, config.min_std)
        poses = torch.cat(drawn_plans, dim=1)
        unpaired = [-1] * len(rows)
        scores = self.practice.scorer.score(rows, poses.double().cpu().numpy(), unpaired, np.zeros((len(rows), 8, 3)))
        starts = [self.practice.starts[row].to_arrays() for row in rows]
        plans = ScoredPlans(
            rows=np.array(rows, dtype=np.int64),
            poses=poses.cpu().numpy(),
            kinds=np.tile(kind_numbers(["refresh"] * poses.shape[1]), (len(rows), 1)),
            valid=np.ones(poses.shape[:2], dtype=np.bool_),
            plan_starts=logged_starts(tokens.ego_status[:, 0].double().cpu().numpy(), poses.shape[1]),
            labels=labels_of(scores),
            start_numbers=np.stack([numbers for numbers, _ in starts]),
            start_states=np.stack([states for _, states in starts]).reshape(-1, 1 + LONGEST_HISTORY, 11),
        )
        write_atomically(self._path(update), lambda beside: save_file(dict(vars(plans)), beside))
        error = self._error(plans, device)
        self.refreshed.append(plans)
        return {"refresh/error": error, "refresh/loss": self._learn(device)}

    @torch.no_grad()
    def _error(self, plans: ScoredPlans, device: torch.device) -> float:
        tokens = self.practice.encoded.rows(plans.rows, device)
        comfort = torch.from_numpy(plans.label("history_comfort").astype(np.float32)).to(device)
        predicted = self.judge.predict(torch.from_numpy(plans.poses).to(device), tokens, history_comfort=comfort)
        return float(np.abs(predicted.epdms.mean(0).cpu().numpy() - plans.true_epdms()).mean())

    def _learn(self, device: torch.device) -> float:
        """Each step takes as many plans of stage (b) as of all refreshes; returns the mean loss."""
        settings = RewardConfig(scenes_per_step=12)
        optimizer = adamw(self.judge, self.config.learning_rate, settings.weight_decay)
        fresh = ScoredPlans.cat(self.refreshed)
        sources = [(plans, draw_weights(plans, (), settings.reposed_share)) for plans in (self.scored, fresh)]
        total = 0.0
        self.judge.train()
        for _ in range(self.config.steps):
            loss = torch.zeros((), device=device)
            for plans, weights in sources:
                entries = torch.randint(len(plans.rows), (settings.scenes_per_step,)).numpy()
                losses = reward_losses(
                    self.judge, self.practice.encoded, plans, entries, weights, self.heads_see, settings, device
                )
                loss = loss + torch.stack([losses[name] for name in PREDICTED]).sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.judge.parameters(), settings.gradient_norm)
            optimizer.step()
            total += float(loss.detach())
        self.judge.eval()
        return total / max(1, self.config.steps)

    def _path(self, update: int) -> Path:
        return self.folder / f"{update:07d}.safetensors"
