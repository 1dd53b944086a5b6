"""What an evaluation found: every sub-score of every policy on every scene, in memory and on disk.

pyarrow is imported where files are read and written: figures can be summarised without it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from irlvla.data.splits import TwoStageGroup
from irlvla.errors import DataError
from irlvla.files import write_atomically, write_text
from irlvla.scoring.two_stage import GroupRows, group_means, group_rows
from irlvla.types import SceneFailure, SubScores

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.float64]

STAMPS_KEY = b"irlvla"
"""Key of the stamps in a Parquet file's metadata."""


@dataclass(frozen=True)
class PolicyScores:
    """One policy, or one training run of it, on every scene of a split. S scenes, in log and time order."""

    policy: str
    seed: int | None
    """Seed of the training run; None for a policy that was not trained."""
    tokens: tuple[str, ...]
    log_names: tuple[str, ...]
    poses: Array
    """[S, 8, 3] plans in each scene's ego frame; [S, 40, 3] where the policy plans at 10 Hz."""
    filtered: SubScores
    """[S] sub-scores after the human filter; EPDMS is made of these."""
    raw: SubScores
    """[S] sub-scores before the human filter."""
    epdms: Array
    """[S] in [0, 1], with extended comfort against the plan made 0.5 s earlier where that scene is in the split."""
    predicted_reward: Array | None = None
    """[S] what the reward world model expects of the plan; None for a policy without one."""
    weights: Array | None = None
    """[S] in two stages: of a follow-up scene among its siblings, 1 in the first stage. None in one stage."""

    @property
    def label(self) -> str:
        return self.policy if self.seed is None else f"{self.policy}, seed {self.seed}"


@dataclass(frozen=True)
class Results:
    """All policies of one evaluation, on the same scenes in the same order."""

    stamps: Mapping[str, Any]
    """Metric version, split, stage, traffic, filter, commit, versions, hardware, seed."""
    scores: tuple[PolicyScores, ...]
    failures: tuple[SceneFailure, ...] = ()
    """Scenes left out for all policies alike, and why."""
    groups: tuple[TwoStageGroup, ...] = ()
    """Two-stage groups, all of whose scenes are there; none in one stage."""

    @property
    def policies(self) -> tuple[str, ...]:
        """Names in order of first appearance."""
        return tuple(dict.fromkeys(scores.policy for scores in self.scores))

    @property
    def tokens(self) -> tuple[str, ...]:
        return self.scores[0].tokens

    @property
    def log_names(self) -> tuple[str, ...]:
        return self.scores[0].log_names

    def group_rows(self) -> list[GroupRows]:
        """Where the scenes of each group stand in every policy's arrays."""
        row_of = {token: row for row, token in enumerate(self.tokens)}
        return [group_rows(group, row_of) for group in self.groups]

    def runs_of(self, policy: str) -> tuple[PolicyScores, ...]:
        """All training runs of one policy, in order of their seeds."""
        runs = [scores for scores in self.scores if scores.policy == policy]
        return tuple(sorted(runs, key=lambda scores: -1 if scores.seed is None else scores.seed))


def stacked(runs: tuple[PolicyScores, ...], column: str) -> tuple[Array, NDArray[np.bool_]]:
    """One column of a policy's runs, [K, S], and where it applies.

    Args:
        column: A sub-score (after the human filter), `score`, or `predicted_reward`.
    """
    if column == "score":
        values = np.stack([run.epdms for run in runs])
    elif column == "predicted_reward":
        values = np.stack([run.predicted_reward for run in runs if run.predicted_reward is not None])
    else:
        values = np.stack([getattr(run.filtered, column) for run in runs])
    applies = np.ones(values.shape, dtype=bool)
    if column == "two_frame_extended_comfort":
        applies = np.stack([run.filtered.has_earlier_frame for run in runs])
    return values, applies


def by_group(results: Results, runs: tuple[PolicyScores, ...], column: str) -> tuple[Array, Array, Array]:
    """One column of a policy's runs in two stages, [K, G] each: stage one, stage two, and the product of both."""
    rows = results.group_rows()
    values, _ = stacked(runs, column)
    parts = [
        group_means(of_run[:, None], run.weights, rows)
        for of_run, run in zip(values, runs, strict=True)
        if run.weights is not None
    ]
    one, two, combined = (np.stack([part[stage][:, 0] for part in parts]) for stage in range(3))
    return one, two, combined


def write_results(results: Results, out: Path) -> None:
    """Write one Parquet file a policy run and `results.json` with stamps and failures; each file whole or not at all.

    The columns are those of `irlvla score`, with the log's name, the plan, and the predicted reward besides.
    """
    import pyarrow.parquet as pq

    files = []
    for scores in results.scores:
        name = f"{file_stem(scores.policy, scores.seed)}.parquet"
        table = _to_table(scores).replace_schema_metadata({STAMPS_KEY: json.dumps(dict(results.stamps)).encode()})
        write_atomically(out / name, partial(pq.write_table, table))
        files.append({"policy": scores.policy, "seed": scores.seed, "file": name})
    document = {
        "stamps": dict(results.stamps),
        "policies": files,
        "failures": [asdict(failure) for failure in results.failures],
        "groups": results.groups,
    }
    write_text(out / "results.json", json.dumps(document, indent=2) + "\n")


def load_results(folder: Path) -> Results:
    """Read what `write_results` wrote.

    Raises:
        DataError: there is no finished evaluation in the folder, or a file of it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "results.json"
    if not path.is_file():
        raise DataError(f"{folder} holds no results.json: run `irlvla evaluate` with --out {folder} first")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        scores = tuple(
            _from_table(entry["policy"], entry["seed"], pq.read_table(folder / entry["file"]))
            for entry in document["policies"]
        )
        failures = tuple(SceneFailure(**failure) for failure in document["failures"])
        groups = tuple(
            (now, earlier, tuple((a, b) for a, b in pairs)) for now, earlier, pairs in document.get("groups", ())
        )
    except (KeyError, TypeError, ValueError, pa.ArrowInvalid, FileNotFoundError) as error:
        raise DataError(f"{folder}: damaged evaluation ({error}); run `irlvla evaluate` again") from error
    return Results(document["stamps"], scores, failures, groups)


def file_stem(policy: str, seed: int | None) -> str:
    """Name of a policy run's file, without its ending."""
    safe = "".join(letter if letter.isalnum() or letter in "-_+" else "-" for letter in policy)
    return safe if seed is None else f"{safe}.seed-{seed}"


def _to_table(scores: PolicyScores) -> "pa.Table":
    import pyarrow as pa

    columns: dict[str, Any] = {"token": list(scores.tokens), "log_name": list(scores.log_names)}
    columns["name"] = [scores.policy] * len(scores.tokens)
    for suffix, part in (("", scores.filtered), ("_raw", scores.raw)):
        for name in SubScores.names():
            missing = ~part.has_earlier_frame if name == "two_frame_extended_comfort" else None
            columns[name + suffix] = pa.array(getattr(part, name), mask=missing)
    columns["score"] = scores.epdms
    if scores.weights is not None:
        columns["weight"] = scores.weights
    if scores.predicted_reward is not None:
        columns["predicted_reward"] = scores.predicted_reward
    plans = pa.array(scores.poses.reshape(-1), type=pa.float64())
    columns["poses"] = pa.FixedSizeListArray.from_arrays(plans, scores.poses.shape[1] * 3)
    return pa.table(columns)


def _from_table(policy: str, seed: int | None, table: "pa.Table") -> PolicyScores:
    def column(name: str) -> Array:
        return table[name].fill_null(0.0).to_numpy().astype(np.float64)

    parts = []
    for suffix in ("", "_raw"):
        values = {name: column(name + suffix) for name in SubScores.names()}
        has_earlier_frame = table["two_frame_extended_comfort" + suffix].is_valid().to_numpy()
        parts.append(SubScores(**values, has_earlier_frame=has_earlier_frame))
    poses = table["poses"].combine_chunks().flatten().to_numpy().reshape(len(table), -1, 3)
    return PolicyScores(
        policy,
        seed,
        tuple(table["token"].to_pylist()),
        tuple(table["log_name"].to_pylist()),
        poses,
        parts[0],
        parts[1],
        column("score"),
        column("predicted_reward") if "predicted_reward" in table.column_names else None,
        column("weight") if "weight" in table.column_names else None,
    )
