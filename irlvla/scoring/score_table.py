"""A table of scores: what it comes to, and how it lies on disk.

Parquet holds the table as it is, its stamps in the file's metadata. A CSV has the columns of NAVSIM's own result file
first and in its order, then ours (`name`, the `_raw` ones, `weight`, `reason`), and ends with the official average or
summary rows; its stamps lie beside it in `NAME.csv.stamps.json`.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import arro3.core
import arro3.io
import numpy as np
from numpy.typing import NDArray

from irlvla.errors import DataError
from irlvla.files import write_atomically, write_text
from irlvla.types import Array

SUMMARY_TOKENS = ("extended_pdm_score_stage_one", "extended_pdm_score_stage_two", "extended_pdm_score_combined")
"""Rows that sum a two-stage table up, under the official names."""

AVERAGE_TOKENS = {True: "average_all_frames", False: "average"}
"""Row that sums a one-stage CSV up, under its name in NAVSIM v2 (with extended comfort) and in v1."""

Column = tuple[str, ...] | NDArray[Any]

_KEYS = {"token", "name", "score", "valid", "reason", "stage", "weight"}
_STAGES = ("one", "two")
_ROWS_AT_ONCE = 100_000


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores of plans, one row a plan.

    Whatever speaks Arrow takes it as it is, `pyarrow.table(scores)` or `polars.from_arrow(scores)`, with nulls where
    there is no figure.

    Example:
        >>> table = ScoreTable({"token": ("a", "b"), "score": np.array([0.5, np.nan])}, {"metric": "epdms-2.2"})
        >>> table["score"]
        array([0.5, nan])
        >>> list(table.rows())
        [{'token': 'a', 'score': 0.5}, {'token': 'b', 'score': None}]
    """

    columns: Mapping[str, Column]
    """[N] each: text; `valid` as booleans; figures, NaN where there is none."""
    stamps: Mapping[str, str] = field(default_factory=dict)
    """How it was made: metric, split, stage, traffic, human filter, scorer, versions, command."""

    def __len__(self) -> int:
        return len(self["token"])

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    @property
    def sub_scores(self) -> list[str]:
        """Names of the sub-scores, in order."""
        return [name for name in self.columns if name not in _KEYS and not name.endswith("_raw")]

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "ScoreTable":
        """The given rows, in that order."""
        picked = np.asarray(rows, dtype=np.int64)
        return ScoreTable(
            {
                name: tuple(column[row] for row in picked.tolist()) if isinstance(column, tuple) else column[picked]
                for name, column in self.columns.items()
            },
            self.stamps,
        )

    def equals(self, other: "ScoreTable") -> bool:
        """Whether both hold the same, to the last bit; stamps do not count."""
        return list(self.columns) == list(other.columns) and all(
            column == other[name] if isinstance(column, tuple) else _same_bits(column, other[name])
            for name, column in self.columns.items()
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each row by column name, None where there is no figure."""
        for start in range(0, len(self), _ROWS_AT_ONCE):
            values = [_plain(column[start : start + _ROWS_AT_ONCE]) for column in self.columns.values()]
            for row in zip(*values, strict=True):
                yield dict(zip(self.columns, row, strict=True))

    def to_pylist(self) -> list[dict[str, Any]]:
        return list(self.rows())

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._arrow().__arrow_c_stream__(requested_schema)

    def _arrow(self) -> arro3.core.Table:
        kinds = {name: _arrow_type(column) for name, column in self.columns.items()}
        schema = arro3.core.Schema(
            [arro3.core.Field(name, kind, nullable=True) for name, kind in kinds.items()], metadata=dict(self.stamps)
        )
        batches = []
        # In pieces: a column of millions of Python numbers at once would take more memory than the table.
        for start in range(0, max(len(self), 1), _ROWS_AT_ONCE):
            stop = start + _ROWS_AT_ONCE
            arrays = [
                arro3.core.Array(_plain(column[start:stop]), type=kinds[name]) for name, column in self.columns.items()
            ]
            batches.append(arro3.core.RecordBatch.from_arrays(arrays, schema=schema))
        return arro3.core.Table.from_batches(batches, schema=schema)


def _arrow_type(column: Column) -> arro3.core.DataType:
    if isinstance(column, tuple):
        return arro3.core.DataType.utf8()
    return arro3.core.DataType.bool() if column.dtype == np.bool_ else arro3.core.DataType.float64()


def _plain(column: Column) -> Sequence[Any]:
    """A column as Python values, None where a figure is missing."""
    if isinstance(column, tuple):
        return column
    values = column.tolist()
    return values if column.dtype == np.bool_ else [None if value != value else value for value in values]


def _same_bits(column: NDArray[Any], other: Column) -> bool:
    return not isinstance(other, tuple) and column.dtype == other.dtype and column.tobytes() == other.tobytes()


def write_table(table: ScoreTable, out: Path) -> None:
    """Write a table of scores, as CSV where `out` ends so and else as Parquet; it appears only when it is whole.

    Raises:
        DataError: The folder cannot be written.
        RunError: The disk is full.
    """
    try:
        if out.suffix == ".csv":
            write_text(out.with_name(f"{out.name}.stamps.json"), json.dumps(dict(table.stamps), indent=2) + "\n")
            write_text(out, _csv_text(table))
        else:
            write_atomically(out, lambda beside: _write_parquet(table, beside))
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error})") from error


def _write_parquet(table: ScoreTable, path: Path) -> None:
    with path.open("wb") as file:
        arro3.io.write_parquet(table, file, compression="snappy", key_value_metadata=dict(table.stamps))


def summarise(table: ScoreTable) -> dict[str, Any]:
    """What a table of scores comes to, fit for JSON.

    Returns:
        `plans`, `scored`: how many, and how many have a score. `unscored`: for each reason how many plans have it, and
        the first of them. `drivers`: by name how many plans, how many scored, and the means of `score` and of every
        sub-score over these; for a two-stage table the three official figures as well.
    """
    rows_of: dict[str, list[int]] = {}
    unscored: dict[str, dict[str, Any]] = {}
    totals = []
    for row, (token, name, reason) in enumerate(zip(table["token"], table["name"], table["reason"], strict=True)):
        if token in SUMMARY_TOKENS:
            totals.append((row, name, token))
            continue
        rows_of.setdefault(name, []).append(row)
        if reason:
            unscored.setdefault(reason, {"reason": reason, "plans": 0, "first": token})["plans"] += 1
    figures = ("score", *table.sub_scores)
    drivers: dict[str, dict[str, Any]] = {}
    for name, rows in rows_of.items():
        scored = int((~np.isnan(np.asarray(table["score"])[rows])).sum())
        means = {figure: _mean(np.asarray(table[figure])[rows]) for figure in figures}
        drivers[name] = {"plans": len(rows), "scored": scored, **means}
    for row, name, token in totals:
        drivers[name][token] = _mean(np.asarray(table["score"])[[row]])
    return {
        "plans": sum(driver["plans"] for driver in drivers.values()),
        "scored": sum(driver["scored"] for driver in drivers.values()),
        "unscored": list(unscored.values()),
        "drivers": drivers,
    }


def _mean(values: Array) -> float | None:
    """Mean of those that are there."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None


def _csv_text(table: ScoreTable) -> str:
    """The CSV; floating-point numbers in full, nothing where there is none."""
    names = table.sub_scores
    two_stages = "stage" in table.columns
    official = [f"{name}_stage_{stage}" for stage in _STAGES for name in names] if two_stages else names
    ours = ["name", *(name for name in table.columns if name.endswith("_raw"))]
    ours += ["weight", "reason"] if two_stages else ["reason"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", "token", "valid", *official, "score", *ours])
    rows = _two_stage_rows(table) if two_stages else _one_stage_rows(table)
    for number, row in enumerate(rows):
        cells = [row.get(column) for column in ("token", "valid", *official, "score", *ours)]
        writer.writerow([number, *("" if cell is None else cell for cell in cells)])
    return text.getvalue()


def _one_stage_rows(table: ScoreTable) -> Iterator[Mapping[str, Any]]:
    """The table's rows, then the average of each driver."""
    yield from table.rows()
    token = AVERAGE_TOKENS["two_frame_extended_comfort" in table.columns]
    for name, driver in summarise(table)["drivers"].items():
        valid = driver["scored"] == driver["plans"]
        means = {key: driver[key] for key in (*table.sub_scores, "score")}
        yield {"token": token, "name": name, "valid": valid, **means}


def _two_stage_rows(table: ScoreTable) -> Iterator[Mapping[str, Any]]:
    """The table's rows with each figure under its stage; the combined row repeats those of both stages."""
    stages: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in table.rows():
        if row["token"] in SUMMARY_TOKENS:
            stages[row["name"], row["stage"]] = row
        wanted = _STAGES if row["stage"] == "combined" else (row["stage"],)
        figures = {
            f"{name}_stage_{stage}": (stages[row["name"], stage] if row["stage"] == "combined" else row)[name]
            for stage in wanted
            for name in table.sub_scores
        }
        yield {**row, **figures}
