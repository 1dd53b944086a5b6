"""From a file of plans to a table of scores: `irlvla score`."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

import irlvla
from irlvla.checkout import checkout_commit, command_line, scorer_digest
from irlvla.data.maps import map_versions
from irlvla.data.plans import PlanTable, load_plans
from irlvla.data.scenes import SceneSet, open_scenes
from irlvla.data.splits import Split, TwoStageGroup, load_split
from irlvla.errors import ConfigError, SceneDataError
from irlvla.scoring.comfort import extended_comfort
from irlvla.scoring.context import ScoringContext, build_contexts, describe_scenes
from irlvla.scoring.editions import METRICS, Edition
from irlvla.scoring.epdms import epdms
from irlvla.scoring.human_filter import apply_human_filter
from irlvla.scoring.pdms import pdms
from irlvla.scoring.reactive import human_scores_reactive, score_rollout_reactive, traffic_start
from irlvla.scoring.record_store import RecordStore
from irlvla.scoring.score import score_rollout, score_rollout_pdms, simulate_plans
from irlvla.scoring.score_table import SUMMARY_TOKENS, Column, ScoreTable, write_table
from irlvla.scoring.two_stage import DrivenPlans, compare_group, group_rows, group_tokens, mapped_groups, stage_means
from irlvla.scoring.workers import Workers, check_workers, run_tasks
from irlvla.types import ROLLOUT_STATES, Array, PDMSubScores, SubScores

TRAFFIC = ("non_reactive", "reactive")
"""Log replay, or vehicles that follow their lane and brake for the plan they meet."""

_SCENES_PER_TASK = 16


@dataclass(frozen=True)
class _Method:
    """How plans are scored."""

    metric: str
    traffic: str
    human_filter: bool | None
    """None filters as the metric's edition of the benchmark does."""
    cache: Path | None
    keeps_rollouts: bool = False
    """Whether rollouts come back, for what compares scenes of different logs."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigError(f"unknown metric {self.metric!r}; this scorer computes {', '.join(METRICS)}")
        if self.traffic not in TRAFFIC:
            raise ConfigError(f"unknown traffic {self.traffic!r}; use --traffic {' or '.join(TRAFFIC)}")
        if not self.edition.is_extended and self.traffic == "reactive":
            raise ConfigError(
                f"{self.metric} replays the log in one stage; leave out --mapping and --traffic reactive, or name an "
                "EPDMS metric"
            )
        if not self.edition.is_extended and self.human_filter:
            raise ConfigError(f"{self.metric} has no human filter; leave out --human-filter on")

    @property
    def edition(self) -> Edition:
        return METRICS[self.metric]

    @property
    def filters(self) -> bool:
        return self.edition.is_extended and self.human_filter is not False

    def score(self, raw: SubScores, filtered: SubScores) -> Array:
        return epdms(raw if self.metric == "epdms-2.2-prefix" else filtered)


@dataclass(frozen=True)
class _Task:
    """Scenes of whole logs, and the plans for them."""

    scenes: SceneSet
    rows: NDArray[np.int64]
    """[R] rows of the plan file."""
    tokens: tuple[str, ...]
    names: tuple[str, ...]
    poses: Array
    """[R, 8 or 40, 3], all finite."""


@dataclass(frozen=True)
class _Scored:
    """What became of a task's plans."""

    rows: NDArray[np.int64]
    raw: Array
    """[R, K] the edition's sub-scores, NaN where there is none."""
    filtered: Array
    """[R, K]"""
    score: Array
    """[R]"""
    reasons: tuple[str, ...]
    """[R] why a row is not valid; empty where it is."""
    rollouts: Array
    """[R, 41, 11], or [0, 41, 11] where they are not kept."""
    ego_poses: Array
    """[R, 3] rear axle where each plan starts (world)."""
    now_us: NDArray[np.int64]
    """[R] time at which each plan starts."""


def _sub_scores(
    scenes: SceneSet, context: ScoringContext, rollouts: Array, method: _Method
) -> tuple[SubScores, SubScores]:
    """Sub-scores [C] of a scene's rollouts, and what is to be taken for the human's (scalars)."""
    if method.traffic == "non_reactive":
        return score_rollout(context, rollouts), context.human_scores
    start = traffic_start(scenes, context)
    human = human_scores_reactive(context, start) if method.filters else context.human_scores
    return score_rollout_reactive(context, start, rollouts), human


def _score_task(task: _Task, method: _Method) -> _Scored:
    contexts, failures = build_contexts(task.scenes, edition=method.edition, cache=method.cache)
    failed = {failure.token: failure.reason for failure in failures}
    count = len(task.rows)
    by_token: dict[str, list[int]] = {}
    for plan, token in enumerate(task.tokens):
        by_token.setdefault(token, []).append(plan)
    first = {pair: plan for plan, pair in reversed(list(enumerate(zip(task.tokens, task.names, strict=True))))}

    raw, filtered, score = _no_figures(count, method.edition)
    ego_poses, now_us = np.zeros((count, 3)), np.zeros(count, dtype=np.int64)
    kept = np.zeros((count if method.keeps_rollouts else 0, ROLLOUT_STATES, 11))
    rollouts: dict[str, Array] = {}
    for token, context in contexts.items():
        # A frame is compared with the one before it; older rollouts only take memory.
        rollouts = {before: rollouts[before] for before in rollouts if before == task.scenes.earlier_token(token)}
        plans = by_token[token]
        rollouts[token] = simulate_plans([context], task.poses[plans][None]).states_world[0]
        if not method.edition.is_extended:
            pdm_scores = score_rollout_pdms(context, rollouts[token])
            raw[plans] = filtered[plans] = _columns(pdm_scores)
            score[plans] = pdms(pdm_scores)
            continue
        try:
            scores, human = _sub_scores(task.scenes, context, rollouts[token], method)
        except SceneDataError as error:
            failed[token] = error.reason
            continue
        comfort, has_earlier = np.zeros(len(plans)), np.zeros(len(plans), dtype=np.bool_)
        earlier = task.scenes.earlier_token(token)
        if earlier in contexts:
            dt_s = (context.now_us - contexts[earlier].now_us) * 1e-6
            place = {plan: i for i, plan in enumerate(by_token[earlier])}
            partners = [first.get((earlier, task.names[plan])) for plan in plans]
            has_earlier = np.array([partner is not None for partner in partners])
            compared = rollouts[earlier][[place[partner] for partner in partners if partner is not None]]
            comfort[has_earlier] = extended_comfort(rollouts[token][has_earlier], compared, dt_s)
        scores = _with_comfort(scores, comfort, has_earlier)
        lifted = apply_human_filter(scores, human) if method.filters else scores
        raw[plans], filtered[plans] = _columns(scores), _columns(lifted)
        score[plans] = method.score(scores, lifted)
        ego_poses[plans], now_us[plans] = context.ego_state[:3], context.now_us
        if method.keeps_rollouts:
            kept[plans] = rollouts[token]
    reasons = tuple(failed.get(token, "") for token in task.tokens)
    return _Scored(task.rows, raw, filtered, score, reasons, kept, ego_poses, now_us)


def _no_figures(count: int, edition: Edition) -> tuple[Array, Array, Array]:
    """Raw and filtered sub-scores [count, K] and scores [count] of plans that have none yet."""
    shape = count, len(edition.sub_scores)
    return np.full(shape, np.nan), np.full(shape, np.nan), np.full(count, np.nan)


def _with_comfort(scores: SubScores, comfort: Array, has_earlier: NDArray[np.bool_]) -> SubScores:
    values = {f.name: getattr(scores, f.name) for f in fields(SubScores)}
    return SubScores(**values | {"two_frame_extended_comfort": comfort, "has_earlier_frame": has_earlier})


def _columns(scores: SubScores | PDMSubScores) -> Array:
    columns = np.stack([getattr(scores, name) for name in scores.names()], axis=-1)
    if isinstance(scores, SubScores):
        columns[~scores.has_earlier_frame, -1] = np.nan
    return columns


def _from_columns(columns: Array) -> SubScores:
    """Inverse of `_columns` for EPDMS."""
    has_earlier = ~np.isnan(columns[:, -1])
    values = dict(zip(SubScores.names(), columns.T, strict=True))
    values["two_frame_extended_comfort"] = np.where(has_earlier, columns[:, -1], 0.0)
    return SubScores(**values, has_earlier_frame=has_earlier)


def _open_split(root: Path, name: str, edition: Edition) -> SceneSet:
    """The split's scenes, cut to what scoring reads of the future where that leaves their windows in place."""
    split: Split = load_split(root, name)
    keeps_windows = split.scene_filter.frame_interval is not None
    return open_scenes(root, split, num_future_frames=edition.future_frames if keeps_windows else None)


def _tasks(scenes: SceneSet, plans: PlanTable) -> Iterator[_Task]:
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(plans.valid).tolist():
        rows_of.setdefault(plans.tokens[row], []).append(row)
    wanted = scenes.subset(token for token in rows_of if token in scenes).detached()
    tokens = wanted.tokens
    start = 0
    for stop in range(1, len(tokens) + 1):
        # Frames of one log stay together: extended comfort compares them.
        is_log_end = stop == len(tokens) or wanted.log_name(tokens[stop]) != wanted.log_name(tokens[stop - 1])
        if is_log_end and (stop - start >= _SCENES_PER_TASK or stop == len(tokens)):
            rows = np.array([row for token in tokens[start:stop] for row in rows_of[token]], dtype=np.int64)
            yield _Task(
                wanted[start:stop],
                rows,
                tuple(plans.tokens[row] for row in rows),
                tuple(plans.names[row] for row in rows),
                plans.poses[rows],
            )
            start = stop


def _task_key(task: _Task, method: _Method) -> bytes:
    """Digest of all that a task's scores are made of; files count by their time and size."""
    hasher = hashlib.blake2b(scorer_digest(), digest_size=20)
    versions = np.__version__, shapely.__version__, task.scenes.split.scene_filter, replace(method, cache=None)
    for part in (*versions, *map_versions(task.scenes.root), *task.scenes.versions(), task.tokens, task.names):
        hasher.update(repr(part).encode())
    hasher.update(task.rows.tobytes() + repr(task.poses.shape).encode() + np.ascontiguousarray(task.poses).tobytes())
    return hasher.digest()


def _scored(tasks: Sequence[_Task], workers: Workers, method: _Method, parts: Path | None) -> Iterator[_Scored]:
    """What became of each task, in any order; what an earlier call has left in `parts` first."""
    workers = check_workers(workers)
    if method.cache is not None:
        method = replace(method, cache=method.cache.absolute())
    waiting, keys = list(tasks), list[bytes]()
    store = None if parts is None else RecordStore(parts)
    if store is not None:
        waiting = []
        for task in tasks:
            key = _task_key(task, method)
            done = store.load(key, _Scored)
            if done is None:
                waiting.append(task)
                keys.append(key)
            else:
                yield done
    score_one = partial(_score_task, method=method)
    for index, scored in run_tasks(score_one, waiting, workers, lambda task: describe_scenes(task.scenes)):
        if store is not None:
            store.write(keys[index], scored)
        yield scored


def _score_all(
    scenes: SceneSet,
    plans: PlanTable,
    method: _Method,
    workers: Workers,
    parts: Path | None,
    on_progress: Callable[[int, int], None] | None,
) -> _Scored:
    """Scores of all plans, in their order."""
    count = len(plans)
    unread = {failure.token: failure.reason for failure in scenes.failures}
    frames = scenes.split.scene_filter.num_future_frames
    missing = f"split {scenes.split.name!r} has no such scene with {frames} frames after it"
    reasons = [
        "the plan holds NaN or infinite poses"
        if not is_finite
        else ""
        if token in scenes
        else unread.get(token, missing)
        for token, is_finite in zip(plans.tokens, plans.valid, strict=True)
    ]
    raw, filtered, score = _no_figures(count, method.edition)
    ego_poses, now_us = np.zeros((count, 3)), np.zeros(count, dtype=np.int64)
    rollouts = np.zeros((count if method.keeps_rollouts else 0, ROLLOUT_STATES, 11))
    done = sum(bool(reason) for reason in reasons)
    for part in _scored(list(_tasks(scenes, plans)), workers, method, parts):
        raw[part.rows], filtered[part.rows], score[part.rows] = part.raw, part.filtered, part.score
        ego_poses[part.rows], now_us[part.rows] = part.ego_poses, part.now_us
        if method.keeps_rollouts:
            rollouts[part.rows] = part.rollouts
        for row, reason in zip(part.rows.tolist(), part.reasons, strict=True):
            reasons[row] = reason
        done += len(part.rows)
        if on_progress is not None:
            on_progress(done, count)
    return _Scored(np.arange(count), raw, filtered, score, tuple(reasons), rollouts, ego_poses, now_us)


def _table(tokens: Sequence[str], names: Sequence[str], scored: _Scored, edition: Edition) -> ScoreTable:
    columns: dict[str, Column] = {"token": tuple(tokens), "name": tuple(names)}
    written = [("", scored.filtered)] + ([("_raw", scored.raw)] if edition.is_extended else [])
    for suffix, values in written:
        for column, name in enumerate(edition.sub_scores):
            columns[name + suffix] = values[:, column]
    columns["score"] = scored.score
    columns["valid"] = np.array([not reason for reason in scored.reasons], dtype=np.bool_)
    columns["reason"] = tuple(scored.reasons)
    return ScoreTable(columns)


def score_plans(
    scenes: SceneSet,
    plans: PlanTable,
    *,
    metric: str = "epdms-2.2",
    traffic: str = "non_reactive",
    human_filter: bool | None = None,
    workers: Workers = 1,
    cache: Path | None = None,
    parts: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoreTable:
    """Score a table of plans.

    Args:
        scenes: Scenes the plans are for.
        plans: Any number of plans per scene.
        metric: One of METRICS.
        traffic: One of TRAFFIC; `pdms-1.1` knows log replay alone.
        human_filter: Lift what the human driver failed as well; None does where the metric has such a filter, which
            `pdms-1.1` has not.
        workers: A number of processes, `ray` or `ray:HOST:PORT`; see `irlvla.scoring.workers`.
        cache: Folder where scoring contexts are kept; None keeps none.
        parts: Folder where scores are kept as they come, so that the same call goes on after it was killed; None keeps
            none. It is the caller's to remove.
        on_progress: Called with (plans done, plans in all).
    Returns:
        One row a plan, in order: `token`, `name`, the metric's sub-scores under the official names, for EPDMS the same
        with `_raw` (before the human filter), `score`, `valid`, `reason`. A row that is not valid has no figures (NaN
        here, null in files); nor has extended comfort where the frame 0.5 s earlier has no plan of the same name.
    Raises:
        ConfigError: Unknown metric, traffic or kind of workers, or ones that do not go together; a cluster that cannot
            be used.
        RunError: Some scenes keep killing the worker that handles them.
    """
    method = _Method(metric, traffic, human_filter, cache)
    scored = _score_all(scenes, plans, method, workers, parts, on_progress)
    return _table(plans.tokens, plans.names, scored, method.edition)


def score_two_stage(
    scenes: SceneSet,
    plans: PlanTable,
    *,
    metric: str = "epdms-2.2",
    human_filter: bool | None = None,
    workers: Workers = 1,
    cache: Path | None = None,
    parts: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoreTable:
    """Score plans for the scenes of a two-stage split and their follow-up scenes, in reactive traffic.

    Args:
        scenes: Scenes of a split with a mapping, follow-up scenes among them.
        plans: One plan per scene and name.
        metric, human_filter, workers, cache, parts, on_progress: As in `score_plans`.
    Returns:
        The table of `score_plans` with `stage` (`one`, `two`) and `weight` (of a scene among its siblings), and after
        it for every name the rows of SUMMARY_TOKENS. Extended comfort compares the frame pairs of the mapping, and both
        rows of a pair get its value. A scene that the mapping does not pair has no score; a summary that lacks a scene
        has none either, and says which.
    Raises:
        ConfigError: Unknown metric, or one that has no second stage.
        DataError: The split maps no group that has a scene in the set, a group without follow-up scenes, or frames
            that are no neighbours.
    Source: navsim `run_pdm_score.py`, `SceneAggregator`.
    """
    method = _Method(metric, "reactive", human_filter, cache, keeps_rollouts=True)
    groups = mapped_groups(scenes)
    scored = _score_all(scenes, plans, method, workers, parts, on_progress)
    reasons, weights = list(scored.reasons), np.full(len(plans), np.nan)
    comfort = np.full(len(plans), np.nan)
    driven = DrivenPlans(plans.tokens, plans.poses, scored.rollouts, scored.ego_poses, scored.now_us)
    summaries = []
    for name in dict.fromkeys(plans.names):
        row_of: dict[str, int] = {}
        for row in (row for row, other in enumerate(plans.names) if other == name):
            if row_of.setdefault(plans.tokens[row], row) != row:
                reasons[row] = "the scene has another plan of this name; two-stage scoring takes one"
        usable = {token: row for token, row in row_of.items() if not reasons[row]}
        complete = []
        for group in groups:
            if all(token in usable for token in group_tokens(group)):
                complete.append(group_rows(group, usable))
                compare_group(complete[-1], driven, comfort, weights)
        summaries.append((name, complete, _missing(groups, row_of, reasons)))
    for row in np.flatnonzero(np.isnan(comfort)).tolist():
        reasons[row] = reasons[row] or "the split's mapping does not pair this scene, or its group lacks a scored plan"
    raw, filtered = scored.raw.copy(), scored.filtered.copy()
    raw[:, -1] = filtered[:, -1] = comfort
    score = method.score(_from_columns(raw), _from_columns(filtered))
    score[np.isnan(comfort)] = np.nan
    figures = np.column_stack([filtered, score])
    following = {token for group in scenes.split.mapping for token in group_tokens(group)[2:]}
    tokens, names = list(plans.tokens), list(plans.names)
    stages = ["two" if token in following else "one" for token in tokens]
    for name, complete, missing in summaries:
        rows = np.full((3, figures.shape[1]), np.nan)
        if not missing:
            rows[0], rows[1], combined = stage_means(figures, weights, complete)
            rows[2, -1] = combined[-1]
        filtered, score = np.concatenate([filtered, rows[:, :-1]]), np.concatenate([score, rows[:, -1]])
        raw, weights = np.concatenate([raw, np.full((3, 9), np.nan)]), np.concatenate([weights, np.full(3, np.nan)])
        tokens += SUMMARY_TOKENS
        names += [name] * 3
        reasons += [missing] * 3
        stages += ["one", "two", "combined"]
    summed = replace(scored, raw=raw, filtered=filtered, score=score, reasons=tuple(reasons))
    table = _table(tokens, names, summed, method.edition)
    return ScoreTable({**table.columns, "stage": tuple(stages), "weight": weights})


def _missing(groups: Sequence[TwoStageGroup], row_of: Mapping[str, int], reasons: Sequence[str]) -> str:
    """Why the groups cannot be summed up; empty where they can."""
    lacking = [
        token for group in groups for token in group_tokens(group) if token not in row_of or reasons[row_of[token]]
    ]
    if not lacking:
        return ""
    why = reasons[row_of[lacking[0]]] if lacking[0] in row_of else "no plan"
    return f"{len(lacking)} scenes of the mapping have no score, among them {lacking[0]}: {why}"


def _open_two_stage(root: Path, split: str, mapping: Path) -> SceneSet:
    """Scenes and follow-up scenes that a split file maps, its follow-up folder looked up under the split's name."""
    named = replace(load_split(root, mapping), name=split)
    # Follow-up scenes belong to the last frame of a window, so its length stays.
    return open_scenes(root, named)


def score_plans_file(
    root: Path,
    split: str,
    plans: Path,
    out: Path,
    *,
    metric: str = "epdms-2.2",
    traffic: str = "non_reactive",
    human_filter: bool | None = None,
    mapping: Path | None = None,
    workers: Workers = 1,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoreTable:
    """Score a file of plans and write the table, stamped with how it was made.

    While it works, what is finished lies beside `out` in a hidden folder; the same call goes on from there after it was
    killed, and removes the folder at the end. Files and options that changed are noticed.

    Args:
        root: Data root.
        split: Split the plans' scenes belong to; with a mapping it names the folder of follow-up scenes.
        plans: A `plans.npz`, or an official submission.
        out: Parquet file, or with the ending `.csv` one in the layout of the official script; appears only when it is
            whole. See `irlvla.scoring.score_table`.
        mapping: Official split file with a `reactive_all_mapping`, its scene filter beside it: scores in two stages, in
            reactive traffic whatever `traffic` says, as officially. See `score_two_stage`.
        metric, traffic, human_filter, workers, cache, on_progress: As in `score_plans`.
    Returns:
        The table as written, with its stamps.
    Raises:
        ConfigError: Unknown metric, traffic or kind of workers, or options that do not go together; a cluster that
            cannot be used.
        DataError: Data root, split, mapping, plans or output folder cannot be used.
        RunError: The disk is full, or some scenes keep killing the worker that handles them.
    """
    method = _Method(metric, traffic if mapping is None else "reactive", human_filter, cache)
    parts = out.absolute().with_name(f".{out.name}.parts")
    # Made now, so that a place that cannot be written is known before anything is scored.
    RecordStore(parts)
    try:
        if mapping is None:
            table = score_plans(
                _open_split(root, split, method.edition),
                load_plans(plans),
                metric=metric,
                traffic=traffic,
                human_filter=human_filter,
                workers=workers,
                cache=cache,
                parts=parts,
                on_progress=on_progress,
            )
        else:
            table = score_two_stage(
                _open_two_stage(root, split, mapping),
                load_plans(plans),
                metric=metric,
                human_filter=human_filter,
                workers=workers,
                cache=cache,
                parts=parts,
                on_progress=on_progress,
            )
    finally:
        with suppress(OSError):
            # Succeeds where nothing was finished: then there is nothing to keep.
            parts.rmdir()
    stamps = {
        "metric": metric,
        "split": split,
        "stage": "one" if mapping is None else "two",
        "traffic": method.traffic,
        "human_filter": "on" if method.filters else "off",
        "scorer": f"irlvla {irlvla.__version__}",
        "scorer_commit": checkout_commit(),
        "scorer_code": scorer_digest().hex(),
        "numpy": np.__version__,
        "command": command_line(),
    }
    table = replace(table, stamps=stamps)
    write_table(table, out)
    shutil.rmtree(parts, ignore_errors=True)
    return table
