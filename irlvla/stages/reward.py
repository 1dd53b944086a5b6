"""Stage (b): inverse environment learning. The reward world model learns what the simulator would say of a plan.

First every scene is encoded by the imitation policy. Then plans of many kinds are made for every scene and scored
truly. Then the reward world model learns each sub-score from scene tokens and plan, and is measured on logs and on
kinds of plans it never saw. A maximum-entropy term can be added: the human's plan should be the likeliest under a
Boltzmann policy on the learned reward, which needs no label.

Legend: S scenes, G plans of one scene, E heads of the ensemble.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.stats import rankdata
from torch import Tensor

from irlvla.data.scenes import SceneSet, human_plan
from irlvla.errors import DataError
from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.reward import BINARY, PREDICTED, THREE_CLASS, RewardWorldModel
from irlvla.scoring.epdms import epdms
from irlvla.stages.optimisation import (
    WeightAverage,
    adamw,
    load_optimizer,
    optimizer_tensors,
    set_learning_rate,
    warm_up_cosine,
)
from irlvla.stages.proposals import (
    PLAN_KINDS,
    PlanKind,
    anchors_for_scene,
    denoising_plans,
    human_anchors,
    kind_numbers,
    perturb_human_plan,
)
from irlvla.stages.run import (
    OnProgress,
    Progress,
    RunFolder,
    cache_key,
    load_run_config,
    model_digest,
    no_progress,
    scene_batch,
    seed_step,
    write_atomically,
    write_json,
)
from irlvla.stages.scene_tokens import EncodedScenes, encode_scenes
from irlvla.stages.scenes import DataConfig, open_training_scenes, scene_logs, split_by_log
from irlvla.stages.true_scores import LONGEST_HISTORY, EgoStart, JudgePool, Verdicts
from irlvla.stages.watch import within_scene_rank_correlation
from irlvla.types import Array, SubScores


@dataclass(frozen=True)
class RewardConfig:
    """How stage (b) collects plans and trains. Values are our own choice: the paper names none."""

    anchors: int = 256
    """K-means centers of human plans."""
    anchors_per_scene: int = 24
    """Of these, how many are scored in a scene."""
    perturbations_per_kind: int = 5
    """Perturbed human plans a scene, of each kind."""
    policy_plans: int = 8
    """Plans a scene drawn from the policy's chain; every estimate before its last step is scored as well."""
    policy_min_std: float = 0.1
    """Floor of the sampling noise of that chain, as PPO will have."""
    held_out_kinds: tuple[PlanKind, ...] = ("offset",)
    """Kinds that are scored but never trained on, for the report."""

    steps: int = 1200
    """Optimizer steps."""
    scenes_per_step: int = 24
    """S, scenes a step."""
    plans_per_scene: int = 16
    """G, plans drawn of each scene, evenly over its kinds and over good and bad ones."""
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    weight_decay: float = 1e-2
    """AdamW; vectors are not decayed."""
    warm_up_steps: int = 50
    """Steps of linear warm-up; a half cosine follows."""
    gradient_norm: float = 1.0
    """Gradients are clipped to this norm."""
    average_decay: float = 0.995
    """Decay of the averaged weights, which are the ones saved."""
    max_entropy_weight: float = 0.0
    """Weight of the maximum-entropy inverse-RL loss; 0 leaves it out."""
    max_entropy_temperature: float = 0.1
    """Temperature of its Boltzmann policy, in EPDMS."""
    log_every: int = 10
    """Steps between lines in metrics.jsonl."""
    checkpoint_every: int = 200
    """Steps between resume states."""
    workers: int = 2
    """Processes that score plans."""


@dataclass(frozen=True)
class ScoredPlans:
    """Plans with their true sub-scores, the same number for every scene; rows follow the run's scene set."""

    rows: NDArray[np.int64]
    """[S] scene of each entry."""
    poses: NDArray[np.float32]
    """[S, G, 8, 3] ego frame."""
    kinds: NDArray[np.uint8]
    """[S, G] place in PLAN_KINDS."""
    labels: NDArray[np.float16]
    """[S, G, sub-score] in the order of PREDICTED; human-filtered."""
    start_numbers: NDArray[np.int64]
    """[S, 2] see EgoStart."""
    start_states: Array
    """[S, 1 + LONGEST_HISTORY, 11] see EgoStart."""

    def label(self, name: str) -> NDArray[np.float16]:
        """[S, G] true values of one sub-score."""
        return self.labels[..., PREDICTED.index(name)]

    def true_epdms(self) -> Array:
        """[S, G] EPDMS without extended comfort."""
        parts = {name: self.label(name).astype(np.float64) for name in PREDICTED}
        nothing = np.zeros(self.labels.shape[:2])
        return epdms(SubScores(**parts, two_frame_extended_comfort=nothing, has_earlier_frame=nothing > 0))

    def starts(self) -> dict[int, EgoStart]:
        """Ego start of each scene, by row."""
        return {
            int(row): EgoStart.from_arrays(numbers, states)
            for row, numbers, states in zip(self.rows, self.start_numbers, self.start_states, strict=True)
        }

    @classmethod
    def cat(cls, parts: Sequence["ScoredPlans"]) -> "ScoredPlans":
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})


def train_reward(
    imitation_run: Path,
    config: RewardConfig,
    data: DataConfig,
    out: Path,
    *,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
) -> Path:
    """Train the reward world model; goes on where an interrupted run of the same settings stopped.

    Args:
        imitation_run: Finished run of stage (a).
        config: What to collect and how to train.
        data: Scenes to learn from.
        out: Run folder; report.json holds what the model can and cannot do.
        seed: Fixes plans, initial weights and data order.
        on_progress: Told after every shard and step.
    Returns:
        Folder of the final weights, `RewardWorldModel.from_pretrained` reads it.
    Raises:
        RunError: `imitation_run` is not a finished run, `out` holds another run, or the disk is full.
        DataError: the data root or one of its files is missing or damaged, or no scene can be scored.
    """
    load_run_config(imitation_run, "imitation")
    policy = model_digest(imitation_run)
    run = RunFolder(out, "reward", {"reward": config, "data": data, "imitation_model": policy}, seed)
    if run.finished:
        return run.model_path
    vla = DrivingVLA.from_pretrained(imitation_run / "model")
    scenes = open_training_scenes(data, seed)
    training_rows, held_out_rows = split_by_log(scene_logs(scenes), data.held_out_share, seed)

    encoded = encode_scenes(
        vla,
        scenes,
        out / "scene_tokens" / cache_key(policy, scenes.tokens),
        on_shard=lambda done, total: on_progress(Progress("reward: encode scenes", done, total)),
    )
    scored = collect_scored_plans(vla, encoded, scenes, config, out / "scored_plans", seed, on_progress)

    held_out_kinds = [PLAN_KINDS.index(kind) for kind in config.held_out_kinds]
    training = _only_rows(scored, training_rows)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seed_step(seed, 0, "weights")
    model = RewardWorldModel(vla.config).to(device).train()
    optimizer = adamw(model, config.learning_rate, config.weight_decay)
    average = WeightAverage(model, config.average_decay)
    start = 0
    checkpoint = run.load_checkpoint()
    if checkpoint is not None:
        start = checkpoint.step
        model.load_state_dict(checkpoint.part("model"))
        load_optimizer(optimizer, checkpoint.part("optimizer"))
        average.load(checkpoint.part("average"), updates=start)

    weights = draw_weights(training, held_out_kinds)
    for step in range(start, config.steps):
        seed_step(seed, step, "reward")
        set_learning_rate(optimizer, config.learning_rate * warm_up_cosine(step, config.steps, config.warm_up_steps))
        entries = np.array(scene_batch(seed, step, config.scenes_per_step, len(training.rows)))
        losses = reward_losses(model, encoded, training, entries, weights, config, device)
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_norm)
        optimizer.step()
        average.update(model)

        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            metrics = {"loss": float(loss.detach()), "gradient_norm": float(norm)}
            metrics |= {f"loss/{name}": float(value.detach()) for name, value in losses.items()}
            run.log(done, metrics)
            on_progress(Progress("reward: train", done, config.steps, metrics))
        if done % config.checkpoint_every == 0 and done < config.steps:
            run.save_checkpoint(
                done,
                {"model": model.state_dict(), "optimizer": optimizer_tensors(optimizer), "average": average.average},
            )

    with average.applied_to(model):
        model.eval()
        report = {
            "held_out_logs": report_on(model, encoded, _only_rows(scored, held_out_rows), held_out_kinds, device),
            "training_logs": report_on(model, encoded, training, held_out_kinds, device),
        }
        write_json(out / "report.json", report)
        run.finish(model.save_pretrained, config.steps, scenes=len(training.rows), plans=int(training.kinds.size))
    return run.model_path


def collect_scored_plans(
    vla: DrivingVLA,
    encoded: EncodedScenes,
    scenes: SceneSet,
    config: RewardConfig,
    folder: Path,
    seed: int,
    on_progress: OnProgress = no_progress,
) -> ScoredPlans:
    """Make plans for every scene and score them truly; shards that are on disk already are read.

    Raises:
        DataError: no scene can be scored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = [
        range(first, min(first + SCENES_PER_SHARD, len(scenes))) for first in range(0, len(scenes), SCENES_PER_SHARD)
    ]
    paths = [folder / f"{shard.start:07d}.safetensors" for shard in shards]
    missing = [(shard, path) for shard, path in zip(shards, paths, strict=True) if _load_shard(path) is None]
    if missing:
        anchors = human_anchors(np.stack([human_plan(scene) for scene in scenes]), config.anchors, seed)
        done = len(scenes) - sum(len(shard) for shard, _ in missing)
        with JudgePool(scenes.root, config.workers) as pool:
            waiting: list[tuple[Any, ...]] = []
            for shard, path in missing:
                shard_scenes = list(scenes[shard.start : shard.stop])
                seed_step(seed, shard.start, "plans")
                poses, kinds = plans_to_score(vla, encoded, shard_scenes, list(shard), anchors, config)
                waiting.append((path, poses, kinds, shard, pool.submit(list(shard), shard_scenes, poses)))
                # Plans of a few shards wait in memory; making more ahead of the judges gains nothing.
                while len(waiting) > 2 * max(config.workers, 1) or (waiting and shard is missing[-1][0]):
                    path, poses, kinds, judged, future = waiting.pop(0)
                    _save_shard(path, judged, poses, kinds, future.result())
                    done += len(judged)
                    on_progress(Progress("reward: score plans", done, len(scenes)))
    parts = [part for part in map(_load_shard, paths) if part is not None and len(part.rows)]
    if not parts:
        raise DataError(
            f"{scenes.root}: none of the {len(scenes)} scenes can be scored; run `irlvla doctor` on the root"
        )
    return ScoredPlans.cat(parts)


SCENES_PER_SHARD = 32


def plans_to_score(
    vla: DrivingVLA,
    encoded: EncodedScenes,
    scenes: Sequence[Any],
    rows: Sequence[int],
    anchors: Array,
    config: RewardConfig,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Plans [S, G, 8, 3] of all kinds for some scenes, and their kinds [S, G]; drawn from the global generators."""
    estimates, plans = denoising_plans(
        vla.planner, encoded.rows(rows), config.policy_plans, min_std=config.policy_min_std
    )
    policy: list[PlanKind] = ["denoising"] * estimates.shape[1] + ["policy"] * plans.shape[1]
    rng = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002 - seeded by the caller's `seed_step`.
    all_poses, all_kinds = [], []
    for row, scene in enumerate(scenes):
        perturbed, kinds = perturb_human_plan(human_plan(scene), rng, config.perturbations_per_kind)
        near = anchors_for_scene(anchors, float(scene.now.ego_velocity_mps[0]), config.anchors_per_scene, rng)
        all_poses.append(
            np.concatenate([perturbed, near, estimates[row].double().numpy(), plans[row].double().numpy()])
        )
        all_kinds.append(kind_numbers([*kinds, *["anchor"] * len(near), *policy]))
    return np.stack(all_poses).astype(np.float32), np.stack(all_kinds)


def draw_weights(scored: ScoredPlans, held_out_kinds: Sequence[int]) -> NDArray[np.float32]:
    """[S, G] chance of each plan to be drawn for training: even over kinds, and within a kind over good and bad.

    Half of a kind's weight goes to plans below the scene's median EPDMS, so that rare failures are seen.
    """
    weights = np.zeros(scored.kinds.shape)
    true = scored.true_epdms()
    is_bad = true < np.median(true, axis=1, keepdims=True)
    for kind in np.unique(scored.kinds):
        if kind in held_out_kinds:
            continue
        for group in (is_bad, ~is_bad):
            members = (scored.kinds == kind) & group
            weights += members / np.maximum(members.sum(axis=1, keepdims=True), 1)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def reward_losses(
    model: RewardWorldModel,
    encoded: EncodedScenes,
    scored: ScoredPlans,
    entries: NDArray[np.int64],
    weights: NDArray[np.float32],
    config: RewardConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    """Losses of one step on some entries of the scored plans; plans are drawn from torch's global generator."""
    drawn = torch.multinomial(torch.from_numpy(weights[entries]), config.plans_per_scene, replacement=True).numpy()
    poses = torch.from_numpy(np.take_along_axis(scored.poses[entries], drawn[..., None, None], axis=1)).to(device)
    labels = np.take_along_axis(scored.labels[entries], drawn[..., None], axis=1).astype(np.float32)
    tokens = encoded.rows(scored.rows[entries], device)
    losses = model.losses(
        poses, tokens, {name: torch.from_numpy(labels[..., i]).to(device) for i, name in enumerate(PREDICTED)}
    )
    if config.max_entropy_weight:
        human = torch.from_numpy(scored.poses[entries, :1]).to(device)
        rewards_EBG = model.predict(torch.cat([human, poses], dim=1), tokens).epdms
        losses["max_entropy"] = config.max_entropy_weight * max_entropy_loss(
            rewards_EBG[..., 0], rewards_EBG[..., 1:], config.max_entropy_temperature
        )
    return losses


def max_entropy_loss(human_reward: Tensor, other_rewards: Tensor, temperature: float) -> Tensor:
    """How unlikely the human's plan is under a Boltzmann policy on the learned reward.

    The partition function is estimated from the human's plan and the others of its scene, taken as drawn evenly.

    Args:
        human_reward: [...] predicted reward of the human's plan.
        other_rewards: [..., G] of other plans of the same scene.
        temperature: Reward difference that makes a plan e times likelier.
    Returns:
        Mean negative log-likelihood, scalar.
    Source: Ziebart et al. 2008, "Maximum Entropy Inverse Reinforcement Learning", Eq. 2, with the sampled partition
        function of Finn et al. 2016 (arXiv 1603.00448) Eq. 3.
    Example:
        >>> float(max_entropy_loss(torch.zeros(1), torch.zeros(1, 3), temperature=1.0))  # log 4
        1.3862943649291992
    """
    scaled = torch.cat([human_reward[..., None], other_rewards], dim=-1) / temperature
    return (scaled.logsumexp(-1) - scaled[..., 0]).mean()


@torch.no_grad()
def report_on(
    model: RewardWorldModel,
    encoded: EncodedScenes,
    scored: ScoredPlans,
    held_out_kinds: Sequence[int],
    device: torch.device,
) -> dict[str, Any]:
    """What the model gets right on some scenes: overall, on kinds never trained on, and on the policy's own plans.

    Returns:
        Per group of kinds: rank correlation, best-of-N regret, and per sub-score AUC and Brier score; history comfort
        is exact in use, its head's figures are reported all the same. Empty where there is no scene.
    """
    if not len(scored.rows):
        return {}
    means: dict[str, list[Array]] = {name: [] for name in PREDICTED}
    scores, spreads = [], []
    for entry in range(0, len(scored.rows), 8):
        part = slice(entry, entry + 8)
        tokens = encoded.rows(scored.rows[part], device)
        poses = torch.from_numpy(scored.poses[part]).to(device)
        comfort = torch.from_numpy(scored.label("history_comfort")[part].astype(np.float32)).to(device)
        exact, guessed = model.predict(poses, tokens, history_comfort=comfort), model.predict(poses, tokens)
        scores.append(exact.epdms.mean(0).double().cpu().numpy())
        spreads.append(exact.epdms.std(0).double().cpu().numpy())
        for name in PREDICTED:
            means[name].append(guessed.mean[name].double().cpu().numpy())
    predicted = {name: np.concatenate(parts) for name, parts in means.items()}
    score, spread, true = np.concatenate(scores), np.concatenate(spreads), scored.true_epdms()
    policy_kinds = [PLAN_KINDS.index("policy")]
    groups = {
        "all_kinds": list(range(len(PLAN_KINDS))),
        "kinds_never_trained_on": list(held_out_kinds),
        "policy_plans": policy_kinds,
    }
    report: dict[str, Any] = {"scenes": len(scored.rows)}
    for group, kinds in groups.items():
        members = np.isin(scored.kinds, kinds)
        columns = members[0]  # Every scene has the same kinds in the same places.
        if not columns.any():
            continue
        chosen = score[:, columns].argmax(axis=1)
        truth = true[:, columns]
        report[group] = {
            "plans": int(members.sum()),
            "rank_correlation": _finite(within_scene_rank_correlation(score[:, columns], truth)),
            "best_of_n_regret": float((truth.max(axis=1) - np.take_along_axis(truth, chosen[:, None], 1)[:, 0]).mean()),
            "mean_error": float((score[:, columns] - truth).mean()),
            "mean_absolute_error": float(np.abs(score[:, columns] - truth).mean()),
            "ensemble_deviation": float(spread[:, columns].mean()),
            "sub_scores": {
                name: _sub_score_figures(name, predicted[name][members], scored.label(name)[members].astype(np.float64))
                for name in PREDICTED
            },
        }
    return report


def _sub_score_figures(name: str, predicted: Array, true: Array) -> dict[str, float | None]:
    figures: dict[str, float | None] = {
        "true_mean": float(true.mean()),
        "predicted_mean": float(predicted.mean()),
        "mean_squared_error": float(((predicted - true) ** 2).mean()),
    }
    if name in BINARY or name in THREE_CLASS:
        # A half counts as failed: the plan is at fault, only less so.
        figures["area_under_curve"] = _finite(area_under_curve(predicted, true > 0.75))
        figures["brier"] = figures["mean_squared_error"]
    return figures


def area_under_curve(predicted: Array, positive: NDArray[np.bool_]) -> float:
    """Chance that a random positive is ranked above a random negative; NaN where one of them is missing.

    Example:
        >>> area_under_curve(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
        0.875
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(predicted)
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _only_rows(scored: ScoredPlans, rows: Sequence[int]) -> ScoredPlans:
    kept = np.isin(scored.rows, rows)
    return ScoredPlans(**{f.name: getattr(scored, f.name)[kept] for f in fields(ScoredPlans)})


def labels_of(sub_scores: SubScores) -> NDArray[np.float16]:
    """True sub-scores as an array [..., sub-score] in the order of PREDICTED."""
    return np.stack([getattr(sub_scores, name) for name in PREDICTED], axis=-1).astype(np.float16)


def _save_shard(
    path: Path, rows: Sequence[int], poses: NDArray[np.float32], kinds: NDArray[np.uint8], verdicts: Verdicts
) -> None:
    kept = [rows.index(row) for row in verdicts.rows]
    numbers, states = np.zeros((len(kept), 2), np.int64), np.zeros((len(kept), 1 + LONGEST_HISTORY, 11))
    for i, start in enumerate(verdicts.starts):
        numbers[i], states[i] = start.to_arrays()
    arrays = {
        "rows": np.array(verdicts.rows, dtype=np.int64),
        "poses": poses[kept],
        "kinds": kinds[kept],
        "labels": labels_of(verdicts.sub_scores),
        "start_numbers": numbers,
        "start_states": states,
    }
    write_atomically(path, lambda beside: save_file(arrays, beside))


def _load_shard(path: Path) -> ScoredPlans | None:
    if not path.is_file():
        return None
    try:
        return ScoredPlans(**load_file(path))
    except SafetensorError:  # Damaged by the disk: shards are written whole. Score it again.
        return None


def load_scored_plans(reward_run: Path) -> ScoredPlans:
    """The plans that a finished run of this stage learned from."""
    parts = [part for part in map(_load_shard, sorted((reward_run / "scored_plans").glob("*.safetensors"))) if part]
    return ScoredPlans.cat([part for part in parts if len(part.rows)])
