"""Plans of many kinds with their true sub-scores, made and judged shard by shard, kept on disk."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from irlvla.data.reposed import repose, stands_clear
from irlvla.data.scenes import SceneSet, human_plan
from irlvla.errors import DataError, RunError
from irlvla.geometry import ego_to_world
from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.reward import PREDICTED
from irlvla.scoring.epdms import epdms
from irlvla.stages.proposals import (
    PLAN_KINDS,
    PlanKind,
    anchors_for_scene,
    denoising_plans,
    draw_start_offset,
    human_anchors,
    kind_numbers,
    perturb_human_plan,
    plans_from_start,
)
from irlvla.stages.run import OnProgress, Progress, no_progress, seed_step, write_atomically
from irlvla.stages.scene_tokens import EncodedScenes
from irlvla.stages.true_scores import LONGEST_HISTORY, EgoStart, JudgePool, ReposedPlans, Verdicts
from irlvla.types import PLAN_POSES, Array, Scene, SubScores

SCENES_PER_SHARD = 32
STARTS_TRIED = 5
"""Draws for a start that touches nothing, before it is given up."""


class _AtTheJudges(NamedTuple):
    path: Path
    rows: list[int]
    scenes: list[Scene]
    poses: NDArray[np.float32]
    kinds: NDArray[np.uint8]
    reposed: list[list[ReposedPlans]]
    verdicts: "Future[Verdicts]"


@dataclass(frozen=True)
class CollectConfig:
    """Which plans are made and scored for the reward world model. Values are our own choice."""

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
    reposed_starts: int = 1
    """Other ego starts a scene; see `draw_start_offset`."""
    plans_per_reposed_start: int = 16
    """Plans from each of them: anchors of about its speed, ways back to the human path, mistakes on these."""
    workers: int = 2
    """Processes that score plans; 0 scores in the training process."""


@dataclass(frozen=True)
class ScoredPlans:
    """Plans with their true sub-scores, the same number for every scene; rows follow the run's scene set.

    Plans of kind "reposed" stand last. All poses are in the scene's logged ego frame, wherever the plan begins.
    """

    rows: NDArray[np.int64]
    """[S] scene of each entry."""
    poses: NDArray[np.float32]
    """[S, G, 8, 3] ego frame."""
    kinds: NDArray[np.uint8]
    """[S, G] place in PLAN_KINDS."""
    valid: NDArray[np.bool_]
    """[S, G] False where there is no plan, because its start could not be scored."""
    plan_starts: NDArray[np.float32]
    """[S, G, 4] where each plan begins: pose in the logged ego frame (m, rad) and speed (m/s)."""
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

    def only(self, rows: Sequence[int]) -> "ScoredPlans":
        """The entries of some scenes."""
        kept = np.isin(self.rows, rows)
        return ScoredPlans(**{f.name: getattr(self, f.name)[kept] for f in fields(ScoredPlans)})

    @classmethod
    def cat(cls, parts: Sequence["ScoredPlans"]) -> "ScoredPlans":
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})


def collect_scored_plans(
    vla: DrivingVLA,
    encoded: EncodedScenes,
    scenes: SceneSet,
    config: CollectConfig,
    folder: Path,
    seed: int,
    on_progress: OnProgress = no_progress,
) -> ScoredPlans:
    """Make plans for every scene and score them truly; shards that are on disk already are read.

    Raises:
        DataError: no scene can be scored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    firsts = range(0, len(scenes), SCENES_PER_SHARD)
    shards = [list(range(first, min(first + SCENES_PER_SHARD, len(scenes)))) for first in firsts]
    paths = [folder / f"{first:07d}.safetensors" for first in firsts]
    missing = [(rows, path) for rows, path in zip(shards, paths, strict=True) if load_shard(path) is None]
    if missing:
        anchors = human_anchors(np.stack([human_plan(scene) for scene in scenes]), config.anchors, seed)
        done = len(scenes) - sum(len(rows) for rows, _ in missing)
        with JudgePool(scenes.root, config.workers) as pool:
            # Plans of a few shards wait for the judges; making more ahead of them gains nothing.
            waiting: deque[_AtTheJudges] = deque()
            for rows, path in missing:
                shard_scenes = list(scenes[rows[0] : rows[-1] + 1])
                seed_step(seed, rows[0], "plans")
                poses, kinds = plans_to_score(vla, encoded, shard_scenes, rows, anchors, config)
                reposed = reposed_plans(shard_scenes, anchors, config)
                verdicts = pool.submit(rows, shard_scenes, poses, reposed)
                waiting.append(_AtTheJudges(path, rows, shard_scenes, poses, kinds, reposed, verdicts))
                last = rows is missing[-1][0]
                while waiting and (last or len(waiting) > 2 * config.workers):
                    shard = waiting.popleft()
                    _save_shard(shard, config)
                    done += len(shard.rows)
                    on_progress(Progress("reward: score plans", done, len(scenes)))
    parts = [part for part in map(load_shard, paths) if part is not None and len(part.rows)]
    if not parts:
        raise DataError(
            f"{scenes.root}: none of the {len(scenes)} scenes can be scored; run `irlvla doctor` on the root"
        )
    return ScoredPlans.cat(parts)


def plans_to_score(
    vla: DrivingVLA,
    encoded: EncodedScenes,
    scenes: Sequence[Scene],
    rows: Sequence[int],
    anchors: Array,
    config: CollectConfig,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Plans [S, G, 8, 3] of all kinds for some scenes, and their kinds [S, G]; drawn from the global generators."""
    tokens = encoded.rows(rows, next(vla.parameters()).device)
    drawn = denoising_plans(vla.planner, tokens, config.policy_plans, min_std=config.policy_min_std)
    estimates, plans = (poses.double().cpu().numpy() for poses in drawn)
    estimated: list[PlanKind] = ["denoising"] * estimates.shape[1]
    finished: list[PlanKind] = ["policy"] * plans.shape[1]
    rng = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002 - seeded by the caller's `seed_step`.
    all_poses, all_kinds = [], []
    for row, scene in enumerate(scenes):
        perturbed, kinds = perturb_human_plan(human_plan(scene), rng, config.perturbations_per_kind)
        near = anchors_for_scene(anchors, float(scene.now.ego_velocity_mps[0]), config.anchors_per_scene, rng)
        all_poses.append(np.concatenate([perturbed, near, estimates[row], plans[row]]))
        anchor: list[PlanKind] = ["anchor"] * len(near)
        all_kinds.append(kind_numbers([*kinds, *anchor, *estimated, *finished]))
    return np.stack(all_poses).astype(np.float32), np.stack(all_kinds)


def reposed_plans(scenes: Sequence[Scene], anchors: Array, config: CollectConfig) -> list[list[ReposedPlans]]:
    """Plans from other starts, of each scene as many as asked for that touch nothing; drawn from NumPy's generator."""
    rng = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002 - seeded by the caller's `seed_step`.
    plans: list[list[ReposedPlans]] = []
    for scene in scenes:
        starts = []
        for number in range(config.reposed_starts):
            letter = chr(ord("a") + number)
            offsets = (draw_start_offset(rng) for _ in range(STARTS_TRIED))
            offset = next((o for o in offsets if stands_clear(repose(scene, o, letter))), None)
            if offset is None:
                continue
            speed_mps = float(scene.now.ego_velocity_mps[0])
            poses = plans_from_start(human_plan(scene), offset, speed_mps, anchors, config.plans_per_reposed_start, rng)
            starts.append(ReposedPlans(offset, letter, poses))
        plans.append(starts)
    return plans


def logged_starts(speeds_mps: Sequence[float] | Array, plans: int) -> NDArray[np.float32]:
    """`ScoredPlans.plan_starts` [S, plans, 4] of plans that begin where their scenes do."""
    starts = np.zeros((len(speeds_mps), plans, 4), dtype=np.float32)
    starts[..., 3] = np.asarray(speeds_mps)[:, None]
    return starts


def labels_of(sub_scores: SubScores) -> NDArray[np.float16]:
    """True sub-scores as an array [..., sub-score] in the order of PREDICTED."""
    return np.stack([getattr(sub_scores, name) for name in PREDICTED], axis=-1).astype(np.float16)


def _save_shard(shard: _AtTheJudges, config: CollectConfig) -> None:
    verdicts = shard.verdicts.result()
    kept = [shard.rows.index(row) for row in verdicts.rows]
    numbers, states = np.zeros((len(kept), 2), np.int64), np.zeros((len(kept), 1 + LONGEST_HISTORY, 11))
    for i, start in enumerate(verdicts.starts):
        numbers[i], states[i] = start.to_arrays()
    speeds_mps = np.array([shard.scenes[i].now.ego_velocity_mps[0] for i in kept])
    here = {
        "poses": shard.poses[kept],
        "kinds": shard.kinds[kept],
        "valid": np.ones((len(kept), shard.poses.shape[1]), dtype=np.bool_),
        "plan_starts": logged_starts(speeds_mps, shard.poses.shape[1]),
        "labels": labels_of(verdicts.sub_scores),
    }
    elsewhere = _reposed_arrays([shard.reposed[i] for i in kept], verdicts, speeds_mps, config)
    arrays: dict[str, NDArray[Any]] = {
        "rows": np.array(verdicts.rows, dtype=np.int64),
        "start_numbers": numbers,
        "start_states": states,
        **{name: np.concatenate([here[name], elsewhere[name]], axis=1) for name in here},
    }
    write_atomically(shard.path, lambda beside: save_file(arrays, beside))


def _reposed_arrays(
    reposed: Sequence[Sequence[ReposedPlans]], verdicts: Verdicts, speeds_mps: Array, config: CollectConfig
) -> dict[str, NDArray[Any]]:
    """Plans from other starts as columns of `ScoredPlans`, room being kept for those that could not be scored."""
    shape = (len(reposed), config.reposed_starts, config.plans_per_reposed_start)
    arrays: dict[str, NDArray[Any]] = {
        "poses": np.zeros((*shape, PLAN_POSES, 3), dtype=np.float32),
        "kinds": np.full(shape, PLAN_KINDS.index("reposed"), dtype=np.uint8),
        "valid": np.zeros(shape, dtype=np.bool_),
        "plan_starts": np.zeros((*shape, 4), dtype=np.float32),
        "labels": np.zeros((*shape, len(PREDICTED)), dtype=np.float16),
    }
    for row, (starts, judged) in enumerate(zip(reposed, verdicts.reposed, strict=True)):
        for column, (plans, scores) in enumerate(zip(starts, judged, strict=True)):
            if scores is None:
                continue
            arrays["poses"][row, column] = ego_to_world(plans.poses, plans.offset.pose)
            arrays["valid"][row, column] = True
            arrays["plan_starts"][row, column, :, :3] = plans.offset.pose
            arrays["plan_starts"][row, column, :, 3] = plans.offset.speed_factor * speeds_mps[row]
            arrays["labels"][row, column] = labels_of(scores)
    columns = shape[1] * shape[2]
    return {name: array.reshape(shape[0], columns, *array.shape[3:]) for name, array in arrays.items()}


def load_shard(path: Path) -> ScoredPlans | None:
    """Scored plans of one file; None where it is missing, damaged or of another version."""
    if not path.is_file():
        return None
    try:
        arrays = load_file(path)
    except SafetensorError:  # Damaged by the disk: shards are written whole. Score it again.
        return None
    return ScoredPlans(**arrays) if arrays.keys() == {f.name for f in fields(ScoredPlans)} else None


def load_scored_plans(reward_run: Path) -> ScoredPlans:
    """The plans that a finished run of this stage learned from.

    Raises:
        RunError: they are gone, or of another version.
    """
    parts = [part for part in map(load_shard, sorted((reward_run / "scored_plans").glob("*.safetensors"))) if part]
    parts = [part for part in parts if len(part.rows)]
    if not parts:
        raise RunError(f"{reward_run}/scored_plans holds no plans that can be read: train the reward model again")
    return ScoredPlans.cat(parts)
