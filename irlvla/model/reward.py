"""The reward world model: what the simulator would say of a plan, told from scene tokens alone.

It has the planner's chain of attentions, but its query is a finished plan, embedded anew from its poses, and its output
the plan's sub-scores. Its trunk is its own; scene tokens come in without gradient (what the driver sees must not be
bent to please its judge).

A plan begins where the ego vehicle is; `start` says so where it begins elsewhere (a re-posed start): [B, G, 4] pose in
the scene's ego frame and speed (m, rad, m/s).

Doubt comes from an ensemble of heads that are made to differ where data are thin: each adds its own fixed random
function of plan and scene to what it learned (Osband et al. 2018, "Randomized Prior Functions for Deep Reinforcement
Learning", section 3), and the caller may let each learn from its own share of the scenes.

Shape letters: B scenes, G plans of a scene, P poses of a plan, E reward heads, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from irlvla.geometry import EGO_LENGTH_M, EGO_WIDTH_M, REAR_AXLE_TO_CENTER_M
from irlvla.model.attention import SceneAttention, sample_bev
from irlvla.model.checkpoint import load_checkpoint, save_checkpoint
from irlvla.model.config import ModelConfig
from irlvla.model.tokens import SceneTokens
from irlvla.scoring.epdms import (
    EXTENDED_COMFORT_WEIGHT,
    HISTORY_COMFORT_WEIGHT,
    LANE_KEEPING_WEIGHT,
    PROGRESS_WEIGHT,
    TIME_TO_COLLISION_WEIGHT,
)
from irlvla.types import PLAN_POSES, PLAN_STEP_S

THREE_CLASS = ("no_at_fault_collisions", "driving_direction_compliance")
"""Sub-scores worth 0, ½ or 1; their score is the expected value over the three classes."""
BINARY = (
    "drivable_area_compliance",
    "traffic_light_compliance",
    "time_to_collision_within_bound",
    "lane_keeping",
    "history_comfort",
)
"""Sub-scores worth 0 or 1; their score is a probability."""
REGRESSED = ("ego_progress",)
"""Sub-scores anywhere in [0, 1]."""
PREDICTED = (*THREE_CLASS, *BINARY, *REGRESSED)
"""Sub-scores with a head. Extended comfort has none: it follows exactly from two frames' plans."""

GATES = (
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "driving_direction_compliance",
    "traffic_light_compliance",
)
"""Sub-scores that multiply."""
WEIGHTS = {
    "ego_progress": PROGRESS_WEIGHT,
    "time_to_collision_within_bound": TIME_TO_COLLISION_WEIGHT,
    "lane_keeping": LANE_KEEPING_WEIGHT,
    "history_comfort": HISTORY_COMFORT_WEIGHT,
    "two_frame_extended_comfort": EXTENDED_COMFORT_WEIGHT,
}
"""Weights of the sub-scores that add."""
RARE_CLASS_WEIGHT_LIMIT = 8.0
"""Most that a rare outcome counts against a common one in a batch."""
PRIOR_SCALE = 1.0
"""Spread (logits) of the heads' fixed random functions over plans and scenes."""
MOTION_FEATURES = 13


@dataclass(frozen=True)
class RewardPrediction:
    """Sub-scores and score of plans, as the ensemble sees them."""

    mean: dict[str, Tensor]
    """Sub-score name -> [B, G] average over heads."""
    std: dict[str, Tensor]
    """Sub-score name -> [B, G] disagreement of the heads."""
    epdms: Tensor
    """[E, B, G] score by each head."""


class TrajectoryEncoder(nn.Module):
    """Embeds plans from their decoded poses: where the car is, how it moves, and what the BEV shows under its outline.

    Each pose looks at the BEV at the rear axle and at the four corners of the ego box there. Poses are encoded by one
    shared network, then joined in order into a single token.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.d_model
        self.look = nn.Linear(5 * config.bev_channels, width)
        self.motion = nn.Linear(MOTION_FEATURES, width)
        self.time = nn.Parameter(torch.randn(PLAN_POSES, width) * 0.02)
        self.pose = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width // 2))
        self.dropout = nn.Dropout(config.dropout)
        self.join = nn.Linear(PLAN_POSES * (width // 2), width)

    def forward(self, poses_BGP3: Tensor, motion_BGPF: Tensor, tokens: SceneTokens) -> Tensor:
        """[B, G, D]"""
        seen = sample_bev(tokens.bev_map, outline_points(poses_BGP3).flatten(1, 3), self.config)
        seen = seen.unflatten(1, (poses_BGP3.shape[1], PLAN_POSES, 5)).flatten(3)
        hidden = self.look(seen) + self.motion(motion_BGPF) + self.time
        return self.join(self.dropout(self.pose(hidden)).flatten(2))


class RandomPriors(nn.Module):
    """One fixed random function of plan and scene per head; it is saved with the model and never trained."""

    first: Tensor
    second: Tensor

    def __init__(self, features: int, outputs: int, heads: int, hidden: int = 64) -> None:
        super().__init__()
        self.register_buffer("first", torch.randn(heads, features, hidden) / features**0.5)
        self.register_buffer("second", torch.randn(heads, hidden, outputs) * PRIOR_SCALE / hidden**0.5)

    def forward(self, features_BGF: Tensor) -> Tensor:
        """[E, B, G, outputs]"""
        spread = functional.layer_norm(features_BGF, features_BGF.shape[-1:])
        hidden = torch.einsum("bgf,efh->ebgh", spread, self.first).tanh()
        return torch.einsum("ebgh,eho->ebgo", hidden, self.second)


class RewardWorldModel(nn.Module):
    """Predicts every sub-score of EPDMS for many plans per scene, with an ensemble of heads for doubt."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.d_model
        self.trajectory = TrajectoryEncoder(config)
        self.layers = SceneAttention(width, config.n_heads, config.dropout, config.reward_layers)
        self.norm = nn.LayerNorm(width)
        outputs = 3 * len(THREE_CLASS) + len(BINARY) + len(REGRESSED)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(width, outputs))
            for _ in range(config.reward_heads)
        )
        self.priors = RandomPriors(PLAN_POSES * MOTION_FEATURES + width, outputs, config.reward_heads)

    def forward(self, poses_BGP3: Tensor, tokens: SceneTokens, start: Tensor | None = None) -> Tensor:
        """Raw head outputs [E, B, G, outputs]: three logits per three-class sub-score, one per other sub-score."""
        tokens = tokens.detach()
        motion = _motion(poses_BGP3, _logged_start(poses_BGP3, tokens) if start is None else start)
        queries = self.trajectory(poses_BGP3, motion, tokens)
        condition = tokens.command[:, None]
        queries = self.norm(self.layers(queries, self.layers.read(tokens), condition))
        scene = condition.expand(-1, poses_BGP3.shape[1], -1)
        priors = self.priors(torch.cat([motion.flatten(2).detach(), scene], dim=-1))
        return torch.stack([head(queries) for head in self.heads]) + priors

    def predict(
        self,
        poses: Tensor,
        tokens: SceneTokens,
        history_comfort: Tensor | None = None,
        extended_comfort: Tensor | None = None,
        start: Tensor | None = None,
    ) -> RewardPrediction:
        """Sub-scores and EPDMS of plans.

        Args:
            poses: [B, G, 8, 3] ego frame (m, rad).
            tokens: of B scenes.
            history_comfort: [B, G] exact values from the simulator; without them the head's guess counts.
            extended_comfort: [B, G] exact values from the plans of two frames; without them EPDMS has no such part.
            start: [B, G, 4] where plans begin elsewhere than in the scene.
        """
        scores = _scores(self(poses, tokens, start))
        if history_comfort is not None:
            scores["history_comfort"] = history_comfort.to(poses.dtype).expand_as(scores["history_comfort"])
        return RewardPrediction(
            {name: score.mean(0) for name, score in scores.items()},
            {name: score.std(0) for name, score in scores.items()},
            epdms_tensor(scores, extended_comfort),
        )

    def reward(
        self,
        poses: Tensor,
        tokens: SceneTokens,
        pessimism_beta: float = 0.0,
        history_comfort: Tensor | None = None,
        extended_comfort: Tensor | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Pessimistic reward [B, G]: mean over heads less `pessimism_beta` times their disagreement; see `predict`."""
        epdms = self.predict(poses, tokens, history_comfort, extended_comfort, start).epdms
        return epdms.mean(0) - pessimism_beta * epdms.std(0)

    def losses(
        self,
        poses: Tensor,
        tokens: SceneTokens,
        labels: Mapping[str, Tensor],
        mask: Tensor | None = None,
        start: Tensor | None = None,
        heads_see: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss of each sub-score against the simulator's verdict; their sum is the training loss.

        Rare outcomes (collisions, leaving the road) are weighted up to parity, within a limit.

        Args:
            poses: [B, G, 8, 3].
            tokens: of B scenes.
            labels: sub-score name -> [B, G] true values; names without labels are left out of the result.
            mask: [B, G] False where a plan is padding.
            start: [B, G, 4] where plans begin elsewhere than in the scene.
            heads_see: [E, B] False where a head does not learn from a scene; every head sees all if left out.
        """
        outputs = self(poses, tokens, start)
        heads = outputs.shape[:3]
        weight = torch.ones(heads, device=poses.device) if mask is None else mask.float().expand(heads)
        if heads_see is not None:
            weight = weight * heads_see[..., None]
        losses: dict[str, Tensor] = {}
        for name, value in _split(outputs).items():
            if name not in labels:
                continue
            label = labels[name].to(value.dtype)
            if name in THREE_CLASS:
                classes = (2 * label).round().long()
                balance = _balance(classes, 3, mask)
                loss = functional.cross_entropy(
                    value.flatten(0, 2), classes.expand(heads).flatten(), reduction="none"
                ).view(heads)
            elif name in BINARY:
                classes = label.round().long()
                balance = _balance(classes, 2, mask)
                loss = functional.binary_cross_entropy_with_logits(value[..., 0], label.expand(heads), reduction="none")
            else:
                balance = torch.ones_like(label)
                loss = (value[..., 0].sigmoid() - label).abs() + (value[..., 0].sigmoid() - label) ** 2
            weighted = weight * balance
            losses[name] = (loss * weighted).sum() / weighted.sum().clamp(min=1.0)
        return losses

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors; a reader never sees a half-written file."""
        save_checkpoint(Path(folder), "reward_world_model", self.config.to_dict(), self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path) -> "RewardWorldModel":
        """Load what `save_pretrained` wrote, ready for use (evaluation mode).

        Raises:
            ConfigError: the folder holds another kind of model, or its settings do not fit.
            DataError: a file is missing or damaged.
        """
        stored = load_checkpoint(Path(folder), "reward_world_model")
        model = cls(ModelConfig.from_dict(stored.settings))
        stored.load_weights(model)
        return model.eval()


class SceneCritic(nn.Module):
    """Value of a scene for PPO: the reward its present driver can expect, before any plan is known."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.d_model
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.layers = SceneAttention(width, config.n_heads, config.dropout, layers=1)
        self.value = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, tokens: SceneTokens) -> Tensor:
        """Expected reward [B]."""
        tokens = tokens.detach()
        query = self.query.expand(len(tokens), -1, -1)
        return self.value(self.layers(query, self.layers.read(tokens), tokens.command[:, None]))[:, 0, 0]

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors; a reader never sees a half-written file."""
        save_checkpoint(Path(folder), "scene_critic", self.config.to_dict(), self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path) -> "SceneCritic":
        """Load what `save_pretrained` wrote; raises as `RewardWorldModel.from_pretrained` does."""
        stored = load_checkpoint(Path(folder), "scene_critic")
        model = cls(ModelConfig.from_dict(stored.settings))
        stored.load_weights(model)
        return model.eval()


def epdms_tensor(scores: Mapping[str, Tensor], extended_comfort: Tensor | None = None) -> Tensor:
    """EPDMS of predicted sub-scores; differentiable twin of `irlvla.scoring.epdms.epdms`.

    Args:
        scores: sub-score name -> [...], with every name in `PREDICTED`.
        extended_comfort: broadcastable to [...]; without it its weight drops out, as for a frame with no earlier one.
    """
    gate = torch.ones_like(scores["ego_progress"])
    for name in GATES:
        gate = gate * scores[name]
    parts = dict(scores)
    if extended_comfort is not None:
        parts["two_frame_extended_comfort"] = extended_comfort.to(gate.dtype)
    present = {name: weight for name, weight in WEIGHTS.items() if name in parts}
    quality = sum((weight * parts[name] for name, weight in present.items()), torch.zeros_like(gate))
    return gate * quality / sum(present.values())


def outline_points(poses_BGP3: Tensor) -> Tensor:
    """Points [B, G, P, 5, 2] of poses: rear axle, then the corners in the order of `irlvla.geometry.box_corners`."""
    heading = poses_BGP3[..., 2]
    cos, sin = heading.cos(), heading.sin()
    front, rear, side = (
        REAR_AXLE_TO_CENTER_M + EGO_LENGTH_M / 2,
        REAR_AXLE_TO_CENTER_M - EGO_LENGTH_M / 2,
        EGO_WIDTH_M / 2,
    )
    along = poses_BGP3.new_tensor([0.0, front, rear, rear, front])
    across = poses_BGP3.new_tensor([0.0, side, side, -side, -side])
    x = poses_BGP3[..., 0, None] + along * cos[..., None] - across * sin[..., None]
    y = poses_BGP3[..., 1, None] + along * sin[..., None] + across * cos[..., None]
    return torch.stack([x, y], dim=-1)


def _split(outputs: Tensor) -> dict[str, Tensor]:
    sizes = [3] * len(THREE_CLASS) + [1] * (len(BINARY) + len(REGRESSED))
    return dict(zip(PREDICTED, outputs.split(sizes, dim=-1), strict=True))


def _scores(outputs: Tensor) -> dict[str, Tensor]:
    scores = {}
    for name, value in _split(outputs).items():
        if name in THREE_CLASS:
            scores[name] = value.softmax(-1) @ value.new_tensor([0.0, 0.5, 1.0])
        else:
            scores[name] = value[..., 0].sigmoid()
    return scores


def _balance(classes: Tensor, n_classes: int, mask: Tensor | None) -> Tensor:
    kept = torch.ones_like(classes, dtype=torch.bool) if mask is None else mask
    counts = torch.bincount(classes[kept], minlength=n_classes).to(torch.float32).clamp(min=1.0)
    weights = (counts.max() / counts).sqrt().clamp(max=RARE_CLASS_WEIGHT_LIMIT)
    return weights[classes]


def _logged_start(poses_BGP3: Tensor, tokens: SceneTokens) -> Tensor:
    """Start [B, G, 4] of plans that begin where the scene does."""
    speed_B = tokens.ego_status[:, 0]
    pose = poses_BGP3.new_zeros((*poses_BGP3.shape[:2], 3))
    return torch.cat([pose, speed_B[:, None, None].expand(-1, poses_BGP3.shape[1], 1)], dim=-1)


def _motion(poses_BGP3: Tensor, start_BG4: Tensor) -> Tensor:
    """Kinematic features [B, G, P, 13] of order one: pose, speed, acceleration, yaw rate, sideways drift, start."""
    step = torch.diff(torch.cat([start_BG4[:, :, None, :3], poses_BGP3], dim=2), dim=2)
    heading = poses_BGP3[..., 2]
    along = step[..., 0] * heading.cos() + step[..., 1] * heading.sin()
    across = -step[..., 0] * heading.sin() + step[..., 1] * heading.cos()
    speed = along / PLAN_STEP_S
    start_speed = start_BG4[..., 3:]
    acceleration = torch.diff(torch.cat([start_speed, speed], dim=-1), dim=-1) / PLAN_STEP_S
    yaw_rate = step[..., 2] / PLAN_STEP_S
    features = [
        poses_BGP3[..., 0] / 20,
        poses_BGP3[..., 1] / 5,
        heading.sin(),
        heading.cos(),
        speed / 10,
        acceleration / 3,
        yaw_rate / 0.5,
        across / PLAN_STEP_S,
        yaw_rate * speed / 3,
        *(
            feature.expand_as(speed)
            for feature in (start_speed / 10, start_BG4[..., :1], start_BG4[..., 1:2], start_BG4[..., 2:3] / 0.1)
        ),
    ]
    return torch.stack(features, dim=-1)
