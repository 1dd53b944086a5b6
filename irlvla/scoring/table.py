"""From a file of plans to a table of scores: `irlvla score`."""

import multiprocessing
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import irlvla
from irlvla.data.plans import PlanTable, load_plans
from irlvla.data.scenes import SceneSet, open_scenes
from irlvla.data.splits import Split, load_split
from irlvla.errors import ConfigError, DataError
from irlvla.scoring.comfort import extended_comfort
from irlvla.scoring.context import build_contexts, code_digest
from irlvla.scoring.epdms import epdms
from irlvla.scoring.human_filter import apply_human_filter
from irlvla.scoring.score import score_rollout, simulate_plans
from irlvla.types import PLAN_POSES, Array, SubScores

METRICS = ("epdms-2.2", "epdms-2.2-prefix")
"""`epdms-2.2` is the devkit's v2.2 with the repaired human filter. Before the repair the filter changed the printed
sub-scores but not the score made of them; `epdms-2.2-prefix` reproduces that, for tables printed at that time."""

TRAFFIC = ("non_reactive",)

_SCENES_PER_TASK = 16


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
    """[R, 9] sub-scores, NaN where there is none."""
    filtered: Array
    """[R, 9]"""
    score: Array
    """[R]"""
    reasons: tuple[str, ...]
    """[R] why a row is not valid; empty where it is."""


def scorer_commit() -> str:
    """Commit of the checkout this package runs from, marked where files differ from it; `unknown` outside of one."""
    folder = Path(irlvla.__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain", "--", "."],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+changes" if changed else "")


def _score_task(task: _Task, metric: str, human_filter: bool, cache: Path | None) -> _Scored:
    contexts, failures = build_contexts(task.scenes, cache=cache)
    failed = {failure.token: failure.reason for failure in failures}
    count = len(task.rows)
    by_token: dict[str, list[int]] = {}
    for plan, token in enumerate(task.tokens):
        by_token.setdefault(token, []).append(plan)
    first = {pair: plan for plan, pair in reversed(list(enumerate(zip(task.tokens, task.names, strict=True))))}

    raw, filtered, score = np.full((count, 9), np.nan), np.full((count, 9), np.nan), np.full(count, np.nan)
    rollouts: dict[str, Array] = {}
    for token, context in contexts.items():
        plans = by_token[token]
        rollouts[token] = simulate_plans([context], task.poses[plans][None]).states_world[0]
        scores = score_rollout(context, rollouts[token])
        comfort, has_earlier = np.zeros(len(plans)), np.zeros(len(plans), dtype=np.bool_)
        earlier = task.scenes.earlier_token(token)
        if earlier in contexts:
            dt_s = (context.now_us - contexts[earlier].now_us) * 1e-6
            for i, plan in enumerate(plans):
                partner = first.get((earlier, task.names[plan]))
                if partner is not None:
                    rollout = rollouts[earlier][by_token[earlier].index(partner)]
                    comfort[i], has_earlier[i] = extended_comfort(rollouts[token][i], rollout, dt_s), True
        scores = _with_comfort(scores, comfort, has_earlier)
        lifted = apply_human_filter(scores, context.human_scores) if human_filter else scores
        raw[plans], filtered[plans] = _columns(scores), _columns(lifted)
        score[plans] = epdms(scores if metric == "epdms-2.2-prefix" else lifted)
    reasons = tuple(failed.get(token, "") for token in task.tokens)
    return _Scored(task.rows, raw, filtered, score, reasons)


def _with_comfort(scores: SubScores, comfort: Array, has_earlier: NDArray[np.bool_]) -> SubScores:
    values = {f.name: getattr(scores, f.name) for f in fields(SubScores)}
    return SubScores(**values | {"two_frame_extended_comfort": comfort, "has_earlier_frame": has_earlier})


def _columns(scores: SubScores) -> Array:
    columns = np.stack([getattr(scores, name) for name in SubScores.names()], axis=-1)
    columns[~scores.has_earlier_frame, -1] = np.nan
    return columns


def _open_split(root: Path, name: str) -> SceneSet:
    """The split's scenes, cut to what scoring reads of the future where that leaves their windows in place."""
    split: Split = load_split(root, name)
    keeps_windows = split.scene_filter.frame_interval is not None
    return open_scenes(root, split, num_future_frames=PLAN_POSES if keeps_windows else None)


def _tasks(scenes: SceneSet, plans: PlanTable) -> Iterator[_Task]:
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(plans.valid).tolist():
        rows_of.setdefault(plans.tokens[row], []).append(row)
    wanted = scenes.subset(token for token in rows_of if token in scenes)
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


def _scored(
    tasks: Sequence[_Task], workers: int, metric: str, human_filter: bool, cache: Path | None
) -> Iterator[_Scored]:
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield _score_task(task, metric, human_filter, cache)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=spawn) as pool:
        for future in as_completed([pool.submit(_score_task, task, metric, human_filter, cache) for task in tasks]):
            yield future.result()


def score_plans(
    scenes: SceneSet,
    plans: PlanTable,
    *,
    metric: str = "epdms-2.2",
    traffic: str = "non_reactive",
    human_filter: bool = True,
    workers: int = 1,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Score a table of plans.

    Args:
        scenes: Scenes the plans are for.
        plans: Any number of plans per scene.
        metric: One of METRICS.
        traffic: One of TRAFFIC.
        human_filter: Lift what the human driver failed as well.
        workers: Processes.
        cache: Folder where scoring contexts are kept; None keeps none.
        on_progress: Called with (plans done, plans in all).
    Returns:
        One row a plan, in order: `token`, `name`, the nine sub-scores under the official names, the same with `_raw`
        (before the human filter), `score`, `valid`, `reason`. A row that is not valid has nulls for figures; extended
        comfort is null where the frame 0.5 s earlier has no plan of the same name.
    Raises:
        ConfigError: Unknown metric or traffic.
    """
    if metric not in METRICS:
        raise ConfigError(f"unknown metric {metric!r}; this scorer computes {' and '.join(METRICS)}")
    if traffic not in TRAFFIC:
        raise ConfigError(f"traffic {traffic!r} is not supported yet; use --traffic {' or '.join(TRAFFIC)}")
    count, names = len(plans), SubScores.names()
    raw, filtered, score = np.full((count, 9), np.nan), np.full((count, 9), np.nan), np.full(count, np.nan)
    unread = {failure.token: failure.reason for failure in scenes.failures}
    reasons = [
        "the plan holds NaN or infinite poses"
        if not is_finite
        else ""
        if token in scenes
        else unread.get(token, f"split {scenes.split.name!r} has no such scene")
        for token, is_finite in zip(plans.tokens, plans.valid, strict=True)
    ]
    done = sum(bool(reason) for reason in reasons)
    for part in _scored(list(_tasks(scenes, plans)), workers, metric, human_filter, cache):
        raw[part.rows], filtered[part.rows], score[part.rows] = part.raw, part.filtered, part.score
        for row, reason in zip(part.rows.tolist(), part.reasons, strict=True):
            reasons[row] = reason
        done += len(part.rows)
        if on_progress is not None:
            on_progress(done, count)
    columns: dict[str, Any] = {"token": pa.array(plans.tokens, pa.string()), "name": pa.array(plans.names, pa.string())}
    for suffix, values in (("", filtered), ("_raw", raw)):
        for column, name in enumerate(names):
            columns[name + suffix] = pa.array(values[:, column], from_pandas=True)
    columns["score"] = pa.array(score, from_pandas=True)
    columns["valid"] = pa.array([not reason for reason in reasons], pa.bool_())
    columns["reason"] = pa.array(reasons, pa.string())
    return pa.table(columns)


def score_plans_file(
    root: Path,
    split: str,
    plans: Path,
    out: Path,
    *,
    metric: str = "epdms-2.2",
    traffic: str = "non_reactive",
    human_filter: bool = True,
    workers: int = 1,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Score a file of plans and write the table as Parquet, stamped with how it was made.

    Args:
        root: Data root.
        split: Split the plans' scenes belong to.
        plans: A `plans.npz`, or an official submission.
        out: Parquet file; appears only when it is whole.
        metric, traffic, human_filter, workers, cache, on_progress: As in `score_plans`.
    Returns:
        The table as written.
    Raises:
        ConfigError: Unknown metric or traffic.
        DataError: Data root, split, plans or output folder cannot be used.
    """
    table = score_plans(
        _open_split(root, split),
        load_plans(plans),
        metric=metric,
        traffic=traffic,
        human_filter=human_filter,
        workers=workers,
        cache=cache,
        on_progress=on_progress,
    )
    stamps = {
        "metric": metric,
        "split": split,
        "stage": "one",
        "traffic": traffic,
        "human_filter": "on" if human_filter else "off",
        "scorer": f"irlvla {irlvla.__version__}",
        "scorer_commit": scorer_commit(),
        "scorer_code": code_digest().hex(),
        "numpy": np.__version__,
    }
    table = table.replace_schema_metadata(stamps)
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, partial)
        partial.replace(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error})") from error
    return table
