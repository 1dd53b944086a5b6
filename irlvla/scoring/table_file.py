"""A table of scores on disk, and what it comes to.

Parquet holds the table as it is, its stamps in the schema's metadata. A CSV has the columns of NAVSIM's own result file
first and in its order, then ours (`name`, the `_raw` ones, `weight`, `reason`), and ends with the official average or
summary rows; its stamps lie beside it in `NAME.csv.stamps.json`.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from irlvla.errors import DataError
from irlvla.files import write_atomically, write_text

SUMMARY_TOKENS = ("extended_pdm_score_stage_one", "extended_pdm_score_stage_two", "extended_pdm_score_combined")
"""Rows that sum a two-stage table up, under the official names."""

AVERAGE_TOKEN = "average_all_frames"
"""Row that sums a one-stage CSV up, under the official name."""

_KEYS = {"token", "name", "score", "valid", "reason", "stage", "weight"}
_STAGES = ("one", "two")


def table_stamps(table: pa.Table) -> dict[str, str]:
    """How a table of scores was made: metric, split, stage, traffic, human filter, scorer, versions, command."""
    return {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}


def write_table(table: pa.Table, out: Path) -> None:
    """Write a table of scores, as CSV where `out` ends so and else as Parquet; it appears only when it is whole.

    Raises:
        DataError: The folder cannot be written.
        RunError: The disk is full.
    """
    try:
        if out.suffix == ".csv":
            write_text(out.with_name(f"{out.name}.stamps.json"), json.dumps(table_stamps(table), indent=2) + "\n")
            write_text(out, _csv_text(table))
        else:
            write_atomically(out, lambda beside: pq.write_table(table, beside))
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error})") from error


def sub_score_names(table: pa.Table) -> list[str]:
    """The sub-scores of a table of scores, in its order."""
    return [name for name in table.column_names if name not in _KEYS and not name.endswith("_raw")]


def summarise(table: pa.Table) -> dict[str, Any]:
    """What a table of scores comes to, fit for JSON.

    Returns:
        `plans`, `scored`: how many, and how many have a score. `unscored`: for each reason how many plans have it, and
        the first of them. `drivers`: by name how many plans, how many scored, and the means of `score` and of every
        sub-score over these; for a two-stage table the three official figures as well.
    """
    is_summary = pc.is_in(table["token"], value_set=pa.array(SUMMARY_TOKENS))
    plans, figures = table.filter(pc.invert(is_summary)), [*sub_score_names(table), "score"]
    wanted = [(figure, "mean") for figure in figures]
    means = plans.group_by("name", use_threads=False).aggregate([([], "count_all"), ("score", "count"), *wanted])
    drivers: dict[str, dict[str, Any]] = {
        row["name"]: {
            "plans": row["count_all"],
            "scored": row["score_count"],
            **{figure: row[f"{figure}_mean"] for figure in ["score", *figures[:-1]]},
        }
        for row in means.to_pylist()
    }
    for row in table.filter(is_summary).to_pylist():
        drivers.setdefault(row["name"], {})[row["token"]] = row["score"]
    failed = plans.filter(pc.invert(plans["valid"])).group_by("reason", use_threads=False)
    unscored = failed.aggregate([([], "count_all"), ("token", "first")]).to_pylist()
    return {
        "plans": len(plans),
        "scored": len(plans) - plans["score"].null_count,
        "unscored": [
            {"reason": row["reason"], "plans": row["count_all"], "first": row["token_first"]} for row in unscored
        ],
        "drivers": drivers,
    }


def _csv_text(table: pa.Table) -> str:
    """The CSV; floating-point numbers in full, nothing where there is none."""
    names = sub_score_names(table)
    two_stages = "stage" in table.column_names
    official = [f"{name}_stage_{stage}" for stage in _STAGES for name in names] if two_stages else names
    ours = ["name", *(f"{name}_raw" for name in names), *(["weight"] if two_stages else []), "reason"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", "token", "valid", *official, "score", *ours])
    rows = _two_stage_rows(table, names) if two_stages else _one_stage_rows(table, names)
    for number, row in enumerate(rows):
        cells = [row.get(column) for column in ("token", "valid", *official, "score", *ours)]
        writer.writerow([number, *("" if cell is None else cell for cell in cells)])
    return text.getvalue()


def _one_stage_rows(table: pa.Table, names: list[str]) -> Iterator[Mapping[str, Any]]:
    """The table's rows, then the average of each driver."""
    yield from _rows(table)
    for name, driver in summarise(table)["drivers"].items():
        valid = driver["scored"] == driver["plans"]
        yield {"token": AVERAGE_TOKEN, "name": name, "valid": valid, **{key: driver[key] for key in (*names, "score")}}


def _two_stage_rows(table: pa.Table, names: list[str]) -> Iterator[Mapping[str, Any]]:
    """The table's rows with each figure under its stage; the combined row repeats those of both stages."""
    stages: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in _rows(table):
        if row["token"] in SUMMARY_TOKENS:
            stages[row["name"], row["stage"]] = row
        wanted = _STAGES if row["stage"] == "combined" else (row["stage"],)
        figures = {
            f"{name}_stage_{stage}": (stages[row["name"], stage] if row["stage"] == "combined" else row)[name]
            for stage in wanted
            for name in names
        }
        yield {**row, **figures}


def _rows(table: pa.Table) -> Iterator[Mapping[str, Any]]:
    for batch in table.to_batches(max_chunksize=10_000):
        yield from batch.to_pylist()
