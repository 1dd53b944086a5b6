"""What PPO practises on: encoded scenes with how the ego vehicle enters them, and the two judges of its plans there.

Legend: S scenes, G plans of one scene.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from irlvla.data.scenes import SceneSet, human_plan
from irlvla.errors import RunError
from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.planner import DiffusionPlanner
from irlvla.model.reward import PREDICTED, RewardWorldModel
from irlvla.model.tokens import SceneTokens
from irlvla.scoring.epdms import epdms
from irlvla.stages.run import OnProgress, Progress, cache_key, no_progress
from irlvla.stages.scene_tokens import EncodedScenes, encode_scenes
from irlvla.stages.scored_plans import ScoredPlans
from irlvla.stages.true_scores import EgoStart, TrueScorer, plans_comfort, two_frame_comfort
from irlvla.stages.watch import within_scene_rank_correlation
from irlvla.types import Array, SubScores


@dataclass(frozen=True)
class Practice:
    """Scenes by row of the run's scene set."""

    scenes: SceneSet
    encoded: EncodedScenes
    scorer: TrueScorer
    starts: dict[int, EgoStart]
    """Scenes that can be scored, and how the ego vehicle enters them."""
    earlier: list[int]
    """Row of the frame 0.5 s earlier, -1 where it is no scene or cannot be scored."""
    human_plans: Tensor
    """[scene, 8, 3] ego frame."""

    @classmethod
    def open(
        cls,
        vla: DrivingVLA,
        scenes: SceneSet,
        scored: ScoredPlans | None,
        folders: Sequence[Path],
        policy: str,
        on_progress: OnProgress = no_progress,
    ) -> "Practice":
        """Gather what practice needs; scene tokens of an earlier run are used where they fit.

        Args:
            vla: The imitation policy.
            scenes: Scenes to practise on.
            scored: Scored plans of the reward run on these scenes; None works the starts out again.
            folders: Run folders that may hold scene tokens; missing ones are written to the last.
            policy: Digest of the policy's weights.
            on_progress: Told while scenes are encoded.
        """
        key = cache_key(policy, scenes.tokens)
        places = [folder / "scene_tokens" / key for folder in folders]
        encoded = encode_scenes(
            vla,
            scenes,
            next((place for place in places if place.is_dir()), places[-1]),
            device=next(vla.parameters()).device,
            on_shard=lambda done, total: on_progress(Progress("ppo: encode scenes", done, total)),
        )
        kept = list(scenes)
        scorer = TrueScorer(scenes.root, kept)
        if scored is not None:
            starts = scored.starts()
        else:
            starts = {row: EgoStart.of(scorer.context(row)) for row in scorer.scorable(range(len(kept)))}
        if not starts:
            raise RunError(f"none of the {len(kept)} scenes of {scenes.root} can be scored: nothing to practise on")
        place = {token: row for row, token in enumerate(scenes.tokens)}
        before = [scenes.earlier_token(token) for token in scenes.tokens]
        earlier = [place[token] if token is not None and place[token] in starts else -1 for token in before]
        plans = torch.from_numpy(np.stack([human_plan(scene) for scene in kept])).float()
        return cls(scenes, encoded, scorer, starts, earlier, plans)


@torch.no_grad()
def plans_before(planner: DiffusionPlanner, practice: Practice, rows: Sequence[int]) -> Array:
    """The policy's own plan [S, 8, 3] at the frame before each scene; zeros where there is none."""
    plans = np.zeros((len(rows), 8, 3))
    paired = [i for i, row in enumerate(rows) if practice.earlier[row] >= 0]
    if paired:
        device = practice_device(planner)
        tokens = practice.encoded.rows([practice.earlier[rows[i]] for i in paired], device)
        plans[paired] = planner.plan(tokens).double().cpu().numpy()
    return plans


def practice_device(planner: DiffusionPlanner) -> torch.device:
    return next(planner.parameters()).device


@torch.no_grad()
def model_reward(
    judge: RewardWorldModel,
    practice: Practice,
    rows: Sequence[int],
    tokens: SceneTokens,
    poses_SG83: Tensor,
    earlier_plans: Array | None,
    pessimism_beta: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the reward world model gives for plans; both comforts are not guessed but simulated exactly.

    Args:
        judge: Reward world model.
        practice: Scenes.
        rows: S scenes.
        tokens: Of these scenes.
        poses_SG83: [S, G, 8, 3] plans.
        earlier_plans: [S, 8, 3] plan of the frame before, for extended comfort; None leaves it out.
        pessimism_beta: Standard deviations over the ensemble taken off.
    Returns:
        reward [S, G], and [S, G] the mean of each sub-score and "ensemble_deviation".
    """
    starts = [practice.starts[row] for row in rows]
    comfort, rollouts = plans_comfort(starts, poses_SG83.double().cpu().numpy())
    comfort_SG = torch.from_numpy(comfort).to(poses_SG83)
    paired = [i for i, row in enumerate(rows) if earlier_plans is not None and practice.earlier[row] >= 0]
    alone = sorted(set(range(len(rows))) - set(paired))
    reward = torch.zeros_like(comfort_SG)
    facts = {name: torch.zeros_like(reward) for name in (*PREDICTED, "ensemble_deviation")}
    facts["two_frame_extended_comfort"] = torch.full_like(reward, torch.nan)
    if paired and earlier_plans is not None:
        before = [practice.starts[practice.earlier[rows[i]]] for i in paired]
        extended = two_frame_comfort([starts[i] for i in paired], rollouts[paired], before, earlier_plans[paired])
        facts["two_frame_extended_comfort"][paired] = torch.from_numpy(extended).to(reward)
    for group in (paired, alone):
        if not group:
            continue
        prediction = judge.predict(
            poses_SG83[group],
            tokens.index_select(group),
            history_comfort=comfort_SG[group],
            extended_comfort=facts["two_frame_extended_comfort"][group] if group is paired else None,
        )
        deviation = prediction.epdms.std(0)
        reward[group] = prediction.epdms.mean(0) - pessimism_beta * deviation
        facts["ensemble_deviation"][group] = deviation
        for name in PREDICTED:
            facts[name][group] = prediction.mean[name]
    return reward, facts


def true_scores(
    practice: Practice, rows: Sequence[int], poses_SG83: Tensor, earlier_plans: Array | None
) -> tuple[Array, SubScores]:
    """EPDMS [S, G] and sub-scores by the true scorer; arguments as `model_reward`."""
    earlier = [practice.earlier[row] if earlier_plans is not None else -1 for row in rows]
    before = np.zeros((len(rows), 8, 3)) if earlier_plans is None else earlier_plans
    scores = practice.scorer.score(rows, poses_SG83.double().cpu().numpy(), earlier, before)
    return epdms(scores), scores


@torch.no_grad()
def check_policy(
    planner: DiffusionPlanner,
    judge: RewardWorldModel | None,
    practice: Practice,
    rows: Sequence[int],
    plans: int,
    min_std: float,
    extended_comfort: bool,
) -> tuple[dict[str, float], Array]:
    """Judge the policy's plans on fixed scenes twice: by the reward world model and truly.

    Args:
        planner: The policy.
        judge: Reward world model, or None for the true verdict alone.
        practice: Scenes.
        rows: The fixed scenes.
        plans: Sampled plans a scene for the rank correlation, beside the deterministic one.
        min_std: Floor of their sampling noise.
        extended_comfort: Whether the verdict compares with the plan of the frame before.
    Returns:
        Figures, and [S] the true EPDMS of each scene's deterministic plan. The figures are, of that plan: "true_epdms",
        "true/<sub-score>", and with a judge "predicted_reward" and "predicted/<sub-score>". Of the sampled plans:
        "ensemble_deviation", "best_of_n_regret", and "rank_correlation" where any scene's sampled plans differ in
        truth.
    """
    tokens = practice.encoded.rows(rows, practice_device(planner))
    deterministic = planner.plan(tokens)[:, None]
    sampled = planner.sample_chain(tokens, plans, eta=1.0, min_std=min_std).poses
    poses = torch.cat([deterministic, sampled], dim=1)
    before = plans_before(planner, practice, rows) if extended_comfort else None
    true, scores = true_scores(practice, rows, poses, before)
    has_earlier = scores.has_earlier_frame[:, 0]
    figures = {"true_epdms": float(true[:, 0].mean()), "true_epdms_sampled": float(true[:, 1:].mean())}
    for name in SubScores.names():
        column = getattr(scores, name)[:, 0]
        if name != "two_frame_extended_comfort":
            figures[f"true/{name}"] = float(column.mean())
        elif has_earlier.any():
            figures[f"true/{name}"] = float(column[has_earlier].mean())
    if judge is None:
        return figures, true[:, 0]
    reward, facts = model_reward(judge, practice, rows, tokens, poses, before, pessimism_beta=0.0)
    predicted = reward.double().cpu().numpy()
    figures["predicted_reward"] = float(predicted[:, 0].mean())
    figures |= {f"predicted/{name}": float(facts[name][:, 0].mean()) for name in PREDICTED}
    figures["ensemble_deviation"] = float(facts["ensemble_deviation"].mean())
    correlation = within_scene_rank_correlation(predicted[:, 1:], true[:, 1:])
    if np.isfinite(correlation):
        figures["rank_correlation"] = correlation
    chosen = predicted.argmax(axis=1)
    figures["best_of_n_regret"] = float((true.max(axis=1) - true[np.arange(len(rows)), chosen]).mean())
    return figures, true[:, 0]
