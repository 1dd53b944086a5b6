"""Compare policies on a split: the same scenes, the same scorer, every sub-score of every plan.

Follow one call of `evaluate`: scenes that cannot be scored are set aside; each policy plans; plans are driven through
the simulator and scored before and after the human filter; extended comfort compares each plan with the same policy's
plan 0.5 s earlier; a reward world model, where given, says what it expected of each plan.
"""

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from irlvla import __version__
from irlvla.checkout import checkout_commit, command_line, scorer_digest
from irlvla.data.scenes import SceneSet
from irlvla.data.splits import TwoStageGroup
from irlvla.errors import ConfigError, DataError, SceneDataError
from irlvla.evaluation.results import PolicyScores, Results, file_stem, write_results
from irlvla.evaluation.two_stage import PlanScores, score_two_stage
from irlvla.scoring.context import ScoringContext
from irlvla.scoring.epdms import epdms
from irlvla.scoring.human_filter import apply_human_filter
from irlvla.scoring.score import score_simulated, simulate_plans, stack_sub_scores, with_extended_comfort
from irlvla.scoring.two_stage import group_tokens, mapped_groups
from irlvla.types import Array, Policy, Scene, SceneFailure, SubScores

CHUNK_SCENES = 32
"""Scenes that all policies plan for before the next ones are read."""

METRIC = "epdms-2.2"

OnProgress = Callable[[int, int], None]


class PredictsReward(Protocol):
    """The reward world model, as far as evaluation knows it."""

    def predict(
        self,
        scenes: Sequence[Scene],
        plans: Array,
        history_comfort: Array | None = None,
        extended_comfort: Array | None = None,
        has_earlier_frame: NDArray[np.bool_] | None = None,
    ) -> Array:
        """Expected EPDMS [S, C] of plans [S, C, 8, 3], given their exact comfort."""
        ...


def evaluate(
    policies: Sequence[Policy],
    scenes: SceneSet,
    contexts: Mapping[str, ScoringContext],
    *,
    reward: PredictsReward | None = None,
    failures: Sequence[SceneFailure] = (),
    stamps: Mapping[str, Any] | None = None,
    out: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Results:
    """Score policies on the scenes of a split.

    One stage, in log-replay traffic; or, where the split maps follow-up scenes, two stages in traffic that reacts. A
    scene that one policy has no plan for is left out for all, and with it its two-stage group, so that differences stay
    paired.

    Args:
        policies: Each with its own name; several training runs of one policy share a name and differ in `seed`.
        scenes: The split.
        contexts: Scoring context by token; scenes without one are left out.
        reward: Asked what it expects of every policy's plans.
        failures: Why contexts are missing, reported beside those found here.
        stamps: What else to record: split, seeds, recipe.
        out: Folder for one Parquet file a policy run and `results.json`.
        on_progress: Told how many scenes are planned, of how many.
    Raises:
        ConfigError: no policy, or two that cannot be told apart.
        DataError: no scene of the split can be scored.
    Source: navsim 0a380a9 `run_pdm_score_one_stage`, `run_pdm_score`.
    """
    _check_names(policies)
    failed = [*scenes.failures, *failures]
    known = {failure.token for failure in failed}
    if scenes.split.mapping:
        scenes = scenes.subset(t for group in mapped_groups(scenes) for t in group_tokens(group) if t in scenes)
    tokens = [token for token in scenes.tokens if token in contexts]
    failed += [SceneFailure(t, "has no scoring context") for t in scenes.tokens if t not in contexts and t not in known]
    plans: list[list[Array]] = [[] for _ in policies]
    kept: list[str] = []
    logs: list[str] = []
    for first in range(0, len(tokens), CHUNK_SCENES):
        chunk = [scenes.by_token(token) for token in tokens[first : first + CHUNK_SCENES]]
        chunk, poses = _plan_chunk(policies, chunk, failed)
        if chunk:
            kept += [scene.token for scene in chunk]
            logs += [scene.log_name for scene in chunk]
            for parts, of_policy in zip(plans, poses, strict=True):
                parts.append(of_policy)
        if on_progress is not None:
            on_progress(min(first + CHUNK_SCENES, len(tokens)), len(tokens))
    if not kept:
        cause = f"; first: scene {failed[0].token}: {failed[0].reason}" if failed else ""
        raise DataError(f"no scene of split {scenes.split.name!r} in {scenes.root} can be evaluated{cause}")

    ordered = [contexts[token] for token in kept]
    poses_of = [np.concatenate(parts) for parts in plans]
    groups: tuple[TwoStageGroup, ...] = ()
    if scenes.split.mapping:
        groups, rows, scores_of = score_two_stage(poses_of, scenes, ordered, failed, on_progress)
        kept, logs = [kept[row] for row in rows], [logs[row] for row in rows]
    else:
        place = {token: index for index, token in enumerate(kept)}
        earlier = np.array([place.get(scenes.earlier_token(token) or "", -1) for token in kept], dtype=np.int64)
        scores_of = [PlanScores(poses_S, *score_policy(ordered, poses_S, earlier)) for poses_S in poses_of]
    scored = [
        PolicyScores(
            policy.name,
            getattr(policy, "seed", None),
            tuple(kept),
            tuple(logs),
            scores.poses,
            scores.filtered,
            scores.raw,
            epdms(scores.filtered),
            weights=scores.weights,
        )
        for policy, scores in zip(policies, scores_of, strict=True)
    ]
    if reward is not None:
        predicted = predict_rewards(reward, scenes, scored)
        scored = [replace(scores, predicted_reward=predicted[:, i]) for i, scores in enumerate(scored)]
    facts = {"split": scenes.split.name, "scenes": len(kept), "logs": len(set(logs)), "failures": len(failed)}
    if groups:
        facts |= {"stage": "two", "traffic": "reactive", "groups": len(groups)}
    results = Results({**measurement_stamps(), **facts, **(stamps or {})}, tuple(scored), tuple(failed), groups)
    if out is not None:
        write_results(results, out)
    return results


def first_scenes(scenes: SceneSet, count: int) -> SceneSet:
    """The first scenes of a set: at most `count`, or in two stages as many whole groups, but at least one."""
    if not scenes.split.mapping:
        return scenes.subset(scenes.tokens[:count])
    chosen: list[str] = []
    for group in mapped_groups(scenes):
        tokens = [token for token in group_tokens(group) if token in scenes]
        if chosen and len(chosen) + len(tokens) > count:
            break
        chosen += tokens
    return scenes.subset(chosen)


def score_policy(
    contexts: Sequence[ScoringContext], poses: Array, earlier_index: NDArray[np.int64]
) -> tuple[SubScores, SubScores]:
    """Sub-scores [S] of one plan a scene, after and before the human filter, extended comfort included.

    Args:
        contexts: S scenes.
        poses: [S, 8, 3] or [S, 40, 3] in each scene's ego frame.
        earlier_index: [S] which of these scenes is 0.5 s earlier in the same log; -1 for none.
    """
    rollout = simulate_plans(contexts, poses[:, None])
    both = score_simulated(contexts, rollout, human_filter=False)
    raw = SubScores(**{name: values[:, 0] for name, values in vars(both).items()})
    raw = with_extended_comfort(contexts, rollout.states_world[:, 0], earlier_index, raw)
    human = stack_sub_scores([context.human_scores for context in contexts])
    return apply_human_filter(raw, human), raw


def predict_rewards(reward: PredictsReward, scenes: SceneSet, scored: Sequence[PolicyScores]) -> Array:
    """What a reward world model expects of every policy's plans, [S, policy].

    Comfort is handed to it as scored: it follows from plans alone, and is exact in training too.
    """
    tokens, paired = scored[0].tokens, scored[0].filtered.has_earlier_frame
    plans = np.stack([_at_2_hz(scores.poses) for scores in scored], axis=1)
    comfort = np.stack([scores.filtered.history_comfort for scores in scored], axis=1)
    between_frames = np.stack([scores.filtered.two_frame_extended_comfort for scores in scored], axis=1)
    parts = []
    for first in range(0, len(tokens), CHUNK_SCENES):
        here = slice(first, first + CHUNK_SCENES)
        chunk = [scenes.by_token(token) for token in tokens[here]]
        parts.append(reward.predict(chunk, plans[here], comfort[here], between_frames[here], paired[here]))
    return np.concatenate(parts)


def measurement_stamps() -> dict[str, Any]:
    """What a number must be read with: metric, scorer, versions, machine."""
    versions = {"python": platform.python_version()}
    for package in ("numpy", "scipy", "numba", "torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "metric": METRIC,
        "stage": "one",
        "traffic": "non_reactive",
        "human_filter": True,
        "irlvla": __version__,
        "commit": checkout_commit(),
        "scorer_code": scorer_digest().hex(),
        "command": command_line(),
        "versions": versions,
        "hardware": _hardware(),
    }


def _check_names(policies: Sequence[Policy]) -> None:
    if not policies:
        raise ConfigError("nothing to evaluate: give at least one run, plan file or baseline")
    stems = [file_stem(policy.name, getattr(policy, "seed", None)) for policy in policies]
    doubled = sorted({stem for stem in stems if stems.count(stem) > 1})
    if doubled:
        raise ConfigError(f"two policies are both called {doubled[0]!r}: give one of them another name")


def _plan_chunk(
    policies: Sequence[Policy], chunk: list[Scene], failed: list[SceneFailure]
) -> tuple[list[Scene], list[Array]]:
    """All policies' plans for the scenes that all of them can plan for."""
    poses: list[Array] = []
    try:
        poses = [_checked_plan(policy, chunk) for policy in policies]
    except SceneDataError:
        # One scene spoils the batch: find out which, and go on without it.
        good = []
        for scene in chunk:
            try:
                for policy in policies:
                    _checked_plan(policy, [scene])
            except SceneDataError as error:
                failed.append(SceneFailure(scene.token, error.reason, "plan"))
            else:
                good.append(scene)
        return (good, [_checked_plan(policy, good) for policy in policies]) if good else ([], [])
    return chunk, poses


def _checked_plan(policy: Policy, scenes: Sequence[Scene]) -> Array:
    poses = policy.plan(scenes)
    broken = ~np.isfinite(poses).all(axis=(1, 2))
    if broken.any():
        token = scenes[int(np.argmax(broken))].token
        raise SceneDataError(token, f"{policy.name!r} plans poses that are not finite numbers")
    return poses


def _at_2_hz(poses: Array) -> Array:
    return poses[:, 4::5] if poses.shape[1] == 40 else poses


def _hardware() -> str:
    names = [f"{os.cpu_count()} CPU cores, {platform.machine()}"]
    # Asking is worth no import: where torch is not loaded, no GPU computed anything.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        names.append(str(torch.cuda.get_device_name()))
    return ", ".join(names)
