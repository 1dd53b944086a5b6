"""The results table: policies in rows, EPDMS and its sub-scores in columns, × 100, with intervals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from irlvla.evaluation.bootstrap import Interval, difference_interval, mean_interval
from irlvla.evaluation.results import Results, stacked
from irlvla.types import SubScores

SHORT_NAMES = {
    "no_at_fault_collisions": "NC",
    "drivable_area_compliance": "DAC",
    "driving_direction_compliance": "DDC",
    "traffic_light_compliance": "TLC",
    "ego_progress": "EP",
    "time_to_collision_within_bound": "TTC",
    "lane_keeping": "LK",
    "history_comfort": "HC",
    "two_frame_extended_comfort": "EC",
}


@dataclass(frozen=True)
class Row:
    """One policy of the results table; all figures in [0, 1]."""

    policy: str
    epdms: Interval
    sub_scores: dict[str, float | None]
    """Mean over scenes and runs by sub-score name; None where it never applies."""
    difference: Interval | None
    """EPDMS minus the reference's; None for the reference itself and where there is none."""
    predicted_reward: float | None
    """Mean reward the world model expects; None without one."""
    runs: int


def make_rows(results: Results, reference: str | None = "imitation") -> list[Row]:
    """Summarise an evaluation.

    Args:
        results: At least one policy on at least one scene.
        reference: Policy that the others are compared with; ignored where the evaluation does not hold it.
    """
    log_names = results.log_names
    if reference not in results.policies:
        reference = None
    rows = []
    for policy in results.policies:
        runs = results.runs_of(policy)
        values, _ = stacked(runs, "score")
        difference = None
        if reference is not None and policy != reference:
            their_runs = results.runs_of(reference)
            paired = [run.seed for run in runs] == [run.seed for run in their_runs]
            difference = difference_interval(values, stacked(their_runs, "score")[0], log_names, paired_runs=paired)
        sub_scores: dict[str, float | None] = {}
        for name in SubScores.names():
            column, applies = stacked(runs, name)
            sub_scores[name] = float(column[applies].mean()) if applies.any() else None
        rewards = [run.predicted_reward for run in runs if run.predicted_reward is not None]
        predicted = float(np.mean(rewards)) if rewards else None
        rows.append(Row(policy, mean_interval(values, log_names), sub_scores, difference, predicted, len(runs)))
    return rows


def render_terminal(rows: Sequence[Row], title: str = "", reference: str = "imitation") -> Table:
    """The table for a terminal: one column a policy, intervals below estimates, so that five fit into 80 columns."""
    header, lines = _cells(rows, reference)
    table = Table(title=title, title_justify="left", padding=(0, 1), pad_edge=False)
    table.add_column(no_wrap=True)
    for line in lines:
        table.add_column(line[0], justify="right")
    for index, name in enumerate(header[1:], start=1):
        table.add_row(name.removesuffix(" [95 %]"), *(line[index].replace(" [", "\n[") for line in lines))
    return table


def render_markdown(
    rows: Sequence[Row], reference: str = "imitation", *, stamps: Mapping[str, Any] | None = None
) -> str:
    """The same table in Markdown, and below it what its numbers must be read with."""
    header, lines = _cells(rows, reference)
    rule = ["---"] + ["---:"] * (len(header) - 1)
    table = "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *lines]) + "\n"
    return table + "".join(f"\n- {key}: `{json.dumps(value)}`" for key, value in (stamps or {}).items())


def points(value: float | None, digits: int = 1) -> str:
    """A share as points out of 100; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def interval_text(interval: Interval, *, signed: bool = False) -> str:
    """Estimate and interval in points, `71.3 [65.0, 77.2]`."""
    sign = "+" if signed else ""
    estimate = f"{100 * interval.estimate:{sign}.1f}"
    if interval.low is None or interval.high is None:
        return estimate
    return f"{estimate} [{100 * interval.low:{sign}.1f}, {100 * interval.high:{sign}.1f}]"


def _cells(rows: Sequence[Row], reference: str) -> tuple[list[str], list[list[str]]]:
    differences = any(row.difference is not None for row in rows)
    several_runs = any(row.runs > 1 for row in rows)
    rewards = any(row.predicted_reward is not None for row in rows)
    header = ["policy", "EPDMS [95 %]"]
    header += [f"Δ {reference} [95 %]"] if differences else []
    header += list(SHORT_NAMES.values())
    header += ["predicted"] if rewards else []
    header += ["runs"] if several_runs else []
    lines = []
    for row in rows:
        line = [row.policy, interval_text(row.epdms)]
        if differences:
            line.append("–" if row.difference is None else interval_text(row.difference, signed=True))
        line += [points(row.sub_scores[name]) for name in SHORT_NAMES]
        if rewards:
            line.append(points(row.predicted_reward))
        if several_runs:
            line.append(str(row.runs))
        lines.append(line)
    return header, lines
