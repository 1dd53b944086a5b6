"""Plans to be scored for the reward world model: human anchors, perturbed human plans, the policy's denoising chain.

Re-posed starts give plans that begin a little off, crooked or too fast, and find back to the human's path or do not.

A reward model is only as good as the plans it has seen judged. Each kind shows it something else: anchors the whole
range of driving, perturbations what a small mistake costs in this very scene, the chain what the policy itself does.
"""

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor

from irlvla.data.reposed import StartOffset
from irlvla.geometry import world_to_ego
from irlvla.model.diffusion import denoising_levels
from irlvla.model.planner import DiffusionPlanner
from irlvla.model.tokens import SceneTokens
from irlvla.types import PLAN_POSES, PLAN_STEP_S, Array

PlanKind = Literal["human", "anchor", "denoising", "policy", "speed", "brake", "offset", "drift", "refresh", "reposed"]
"""human: as driven; anchor: K-means center of human plans; denoising: the policy's estimate at an unfinished step;
policy: its finished plans; speed, brake, offset, drift: the human plan perturbed; refresh: plans of a policy in PPO;
reposed: plans from a start that is not the logged one."""

PLAN_KINDS: tuple[PlanKind, ...] = get_args(PlanKind)


def human_anchors(human_plans: Array, count: int, seed: int) -> Array:
    """Centers of human plans by K-means, over all poses' x, y and heading weighted with 3 m.

    Args:
        human_plans: [N, 8, 3] ego frame (m, rad).
        count: Centers wanted; no more than half the plans are returned, since a center of one plan is that plan.
        seed: Fixes the initial centers.
    Returns:
        [count, 8, 3].
    """
    weights = np.array([1.0, 1.0, 3.0])
    flat = (human_plans * weights).reshape(len(human_plans), -1)
    count = max(1, min(count, len(flat) // 2))
    centers, _ = kmeans2(flat, count, minit="++", rng=np.random.default_rng(seed), missing="warn")
    centers = centers[np.isfinite(centers).all(1)]
    return centers.reshape(-1, PLAN_POSES, 3) / weights


def anchors_for_scene(anchors: Array, speed_mps: float, count: int, rng: np.random.Generator) -> Array:
    """Anchors for one scene: half those that start at about its speed, half from anywhere.

    Args:
        anchors: [K, 8, 3].
        speed_mps: The ego vehicle's speed now.
        count: Anchors wanted.
        rng: Draws the second half.
    Returns:
        [min(count, K), 8, 3].
    """
    start_mps = np.linalg.norm(anchors[:, 0, :2], axis=-1) / PLAN_STEP_S
    by_speed = np.argsort(np.abs(start_mps - speed_mps), kind="stable")
    near, rest = by_speed[: (count + 1) // 2], by_speed[(count + 1) // 2 :]
    anywhere = rng.permutation(rest)[: count - len(near)]
    return anchors[np.concatenate([near, anywhere])]


def follow_path(plan: Array, distance_m: Array) -> Array:
    """Poses on a plan's path at other distances: another speed profile on the same line.

    Args:
        plan: [8, 3] ego frame.
        distance_m: [8] way from the origin; beyond the plan's end, and behind the origin, the path goes straight on.
    Returns:
        [8, 3].
    """
    knots = np.concatenate([np.zeros((1, 3)), plan])
    knots[:, 2] = np.unwrap(knots[:, 2])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(knots[:, :2], axis=0), axis=1))])
    x, y, heading = (np.interp(distance_m, along, knots[:, i]) for i in range(3))
    beyond = np.maximum(distance_m - along[-1], 0.0) + np.minimum(distance_m, 0.0)
    return np.stack([x + beyond * np.cos(heading), y + beyond * np.sin(heading), heading], axis=-1)


def scale_speed(plan: Array, factor: float) -> Array:
    """The same path, every speed times `factor`; [8, 3] to [8, 3]."""
    return follow_path(plan, factor * _distance_along(plan))


def brake_to_stop(plan: Array, stop_s: float) -> Array:
    """The same path, slowing down evenly from the plan's first speed to a stop after `stop_s` seconds."""
    time_s = PLAN_STEP_S * np.arange(1, PLAN_POSES + 1)
    start_mps = _distance_along(plan)[0] / PLAN_STEP_S
    moving_s = np.minimum(time_s, stop_s)
    return follow_path(plan, start_mps * (moving_s - moving_s**2 / (2 * stop_s)))


def offset_laterally(plan: Array, offset_m: float) -> Array:
    """Drift smoothly to the left (or right, negative) by `offset_m` over the four seconds; [8, 3] to [8, 3]."""
    share = np.arange(1, PLAN_POSES + 1) / PLAN_POSES
    shift = offset_m * share**2 * (3 - 2 * share)
    slope = offset_m * 6 * share * (1 - share) / PLAN_POSES
    step_m = np.maximum(np.diff(_distance_along(plan), prepend=0.0), 0.5)
    return np.stack(
        [
            plan[:, 0] - shift * np.sin(plan[:, 2]),
            plan[:, 1] + shift * np.cos(plan[:, 2]),
            plan[:, 2] + np.arctan2(slope, step_m),
        ],
        axis=-1,
    )


def drift_heading(plan: Array, curvature_1pm: float) -> Array:
    """Bend the path by a constant extra curvature (1/m, positive to the left); [8, 3] to [8, 3]."""
    knots = np.concatenate([np.zeros((1, 3)), plan])
    steps = np.diff(knots[:, :2], axis=0)
    length = np.linalg.norm(steps, axis=1)
    turned = curvature_1pm * np.cumsum(length)
    middle = turned - 0.5 * curvature_1pm * length
    cos, sin = np.cos(middle), np.sin(middle)
    bent = np.stack([cos * steps[:, 0] - sin * steps[:, 1], sin * steps[:, 0] + cos * steps[:, 1]], axis=-1)
    return np.concatenate([np.cumsum(bent, axis=0), (plan[:, 2] + turned)[:, None]], axis=-1)


def perturb_human_plan(plan: Array, rng: np.random.Generator, per_kind: int) -> tuple[Array, list[PlanKind]]:
    """The human plan and `per_kind` mistakes of each kind, from hardly to badly wrong.

    Returns:
        plans [1 + 4 * per_kind, 8, 3] and their kinds.
    """
    plans, kinds = [plan], ["human"]
    for _ in range(per_kind):
        plans += [
            scale_speed(plan, float(rng.uniform(0.2, 1.8))),
            brake_to_stop(plan, float(rng.uniform(1.0, 6.0))),
            offset_laterally(plan, float(rng.normal(0.0, 1.5))),
            drift_heading(plan, float(rng.normal(0.0, 0.03))),
        ]
        kinds += ["speed", "brake", "offset", "drift"]
    return np.stack(plans), kinds  # type: ignore[return-value]


def draw_start_offset(rng: np.random.Generator) -> StartOffset:
    """A start beside the logged one: about a lane's slack sideways, a few degrees crooked, up to 30 % off in speed."""
    return StartOffset(
        longitudinal_m=float(rng.normal(0.0, 1.0)),
        lateral_m=float(np.clip(rng.normal(0.0, 0.7), -1.5, 1.5)),
        heading_rad=float(rng.normal(0.0, np.deg2rad(6.0))),
        speed_factor=float(rng.uniform(0.7, 1.3)),
    )


def rejoin_path(plan: Array, offset: StartOffset, speed_mps: float, rejoined_s: float) -> Array:
    """From another start smoothly back to a plan's path and speed.

    Sideways a cubic over the way driven meanwhile, along the path a speed difference that fades evenly.

    Args:
        plan: [8, 3] from the logged start, in its ego frame.
        offset: The other start.
        speed_mps: Logged speed at t=0.
        rejoined_s: When path and speed are the plan's again.
    Returns:
        [8, 3] in the frame of the other start.
    """
    time_s = PLAN_STEP_S * np.arange(1, PLAN_POSES + 1)
    fading_s = np.minimum(time_s, rejoined_s)
    gained_m = (offset.speed_factor - 1.0) * speed_mps * (fading_s - fading_s**2 / (2 * rejoined_s))
    driven_m = np.maximum.accumulate(np.maximum(_distance_along(plan) + gained_m, 0.0))
    reach_m = max(float(np.interp(rejoined_s, time_s, driven_m)), 3.0)
    share = np.minimum(driven_m / reach_m, 1.0)
    slope = np.tan(offset.heading_rad)
    aside_m = offset.lateral_m * (2 * share**3 - 3 * share**2 + 1) + reach_m * slope * (share**3 - 2 * share**2 + share)
    turn = offset.lateral_m / reach_m * (6 * share**2 - 6 * share) + slope * (3 * share**2 - 4 * share + 1)
    x, y, heading = follow_path(plan, offset.longitudinal_m + driven_m).T
    back = np.stack([x - aside_m * np.sin(heading), y + aside_m * np.cos(heading), heading + np.arctan(turn)], axis=-1)
    return world_to_ego(back, offset.pose)


def plans_from_start(
    plan: Array, offset: StartOffset, speed_mps: float, anchors: Array, count: int, rng: np.random.Generator
) -> Array:
    """Plans from a re-posed start: a quarter anchors of about its speed, then ways back to the human path and mistakes.

    Args:
        plan: [8, 3] the human's, in the logged ego frame.
        offset: The start.
        speed_mps: Logged speed at t=0.
        anchors: [K, 8, 3].
        count: Plans wanted.
        rng: Draws how soon a way back rejoins, and the mistakes on it.
    Returns:
        [count, 8, 3] in the frame of the start.
    """
    start_mps = np.linalg.norm(anchors[:, 0, :2], axis=-1) / PLAN_STEP_S
    near = np.argsort(np.abs(start_mps - offset.speed_factor * speed_mps), kind="stable")[: count // 4]
    plans = list(anchors[near])
    while len(plans) < count:
        back = rejoin_path(plan, offset, speed_mps, float(rng.uniform(1.5, 4.0)))
        perturbed, _ = perturb_human_plan(back, rng, per_kind=1)
        plans += list(perturbed)
    return np.stack(plans[:count])


@torch.no_grad()
def denoising_plans(
    planner: DiffusionPlanner, tokens: SceneTokens, candidates: int, min_std: float
) -> tuple[Tensor, Tensor]:
    """What the policy plans, and what it thinks at every unfinished step of its chain.

    Args:
        planner: The policy.
        tokens: Of B scenes.
        candidates: Plans per scene, drawn with the full noise of the chain.
        min_std: Floor of the sampling noise, as in PPO.
    Returns:
        estimates [B, candidates * (K - 1), 8, 3] of the clean plan before the last step, and plans
        [B, 1 + candidates, 8, 3], the first of which is the deterministic one.
    """
    chain = planner.sample_chain(tokens, candidates, eta=1.0, min_std=min_std)
    memory = planner.read(tokens)
    levels = denoising_levels(planner.config.diffusion_levels, len(chain.latents) - 1)
    estimates = [
        planner.plan_space.decode(planner(latent, torch.tensor([[level]], device=latent.device), memory))
        for latent, level in zip(chain.latents[:-2], levels[:-2], strict=True)
    ]
    plans = torch.cat([planner.plan(tokens)[:, None], chain.poses], dim=1)
    return torch.cat(estimates, dim=1), plans


def kind_numbers(kinds: list[PlanKind]) -> NDArray[np.uint8]:
    """Places in PLAN_KINDS."""
    return np.array([PLAN_KINDS.index(kind) for kind in kinds], dtype=np.uint8)


def _distance_along(plan: Array) -> Array:
    steps = np.diff(np.concatenate([np.zeros((1, 2)), plan[:, :2]]), axis=0)
    return np.cumsum(np.linalg.norm(steps, axis=1))
