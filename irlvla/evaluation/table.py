"""The results table: policies in rows, EPDMS and its sub-scores in columns, × 100, with intervals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.table import Table

from irlvla.evaluation.bootstrap import Interval, difference_interval, mean_interval
from irlvla.evaluation.results import Results, by_group, stacked
from irlvla.types import Array, SubScores

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
    """In two stages, of the products of both."""
    sub_scores: dict[str, float | None]
    """Mean over scenes and runs by sub-score name; None where it never applies. In two stages, of the first."""
    difference: Interval | None
    """EPDMS minus the reference's; None for the reference itself and where there is none."""
    predicted_reward: float | None
    """Mean reward the world model expects; None without one."""
    runs: int
    stages: tuple[Interval, Interval] | None = None
    """EPDMS of stage one and of stage two, where there are two."""
    sub_scores_stage_two: dict[str, float | None] | None = None
    """Weighted means over the follow-up scenes, where there are any."""


def make_rows(results: Results, reference: str | None = "imitation") -> list[Row]:
    """Summarise an evaluation.

    Args:
        results: At least one policy on at least one scene.
        reference: Policy that the others are compared with; ignored where the evaluation does not hold it.
    """
    if reference not in results.policies:
        reference = None
    return [_row(results, policy, reference) for policy in results.policies]


def _row(results: Results, policy: str, reference: str | None) -> Row:
    runs = results.runs_of(policy)
    values, clusters = _scores(results, policy)
    difference = None
    if reference is not None and policy != reference:
        paired = [run.seed for run in runs] == [run.seed for run in results.runs_of(reference)]
        theirs, _ = _scores(results, reference)
        difference = difference_interval(values, theirs, clusters, paired_runs=paired)
    rewards = [run.predicted_reward for run in runs if run.predicted_reward is not None]
    predicted = float(np.mean(rewards)) if rewards else None
    row = Row(policy, mean_interval(values, clusters), {}, difference, predicted, len(runs))
    if not results.groups:
        columns = {name: stacked(runs, name) for name in SubScores.names()}
        means = {name: float(c[applies].mean()) if applies.any() else None for name, (c, applies) in columns.items()}
        return replace(row, sub_scores=means)
    one, two, _ = by_group(results, runs, "score")
    parts = {name: by_group(results, runs, name) for name in SubScores.names()}
    return replace(
        row,
        stages=(mean_interval(one, clusters), mean_interval(two, clusters)),
        sub_scores={name: float(first.mean()) for name, (first, _, _) in parts.items()},
        sub_scores_stage_two={name: float(second.mean()) for name, (_, second, _) in parts.items()},
    )


def _scores(results: Results, policy: str) -> tuple[Array, list[str]]:
    """EPDMS [K, S or G] of a policy's runs by scene, or in two stages by group, and the log each belongs to."""
    runs = results.runs_of(policy)
    if not results.groups:
        return stacked(runs, "score")[0], list(results.log_names)
    return by_group(results, runs, "score")[2], [results.log_names[group.now] for group in results.group_rows()]


def render_terminal(rows: Sequence[Row], title: str = "", reference: str = "imitation") -> Table:
    """The table for a terminal: one column a policy, intervals below estimates, so that five fit into 80 columns."""
    header, lines = _cells(rows, reference)
    table = Table(title=title, title_justify="left", padding=(0, 1), pad_edge=False)
    table.add_column(no_wrap=True)
    for line in lines:
        table.add_column(line[0], justify="right")
    for index, name in enumerate(header[1:], start=1):
        two_stage = any(" / " in line[index] for line in lines)
        label = f"{name}\n  stage two" if two_stage else name.removesuffix(" [95 %]")
        table.add_row(label, *(line[index].replace(" [", "\n[").replace(" / ", "\n") for line in lines))
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


def sub_score_text(row: Row, name: str) -> str:
    """A sub-score in points; in two stages that of stage one and that of stage two, `98.2 / 91.0`."""
    if row.sub_scores_stage_two is None:
        return points(row.sub_scores[name])
    return f"{points(row.sub_scores[name])} / {points(row.sub_scores_stage_two[name])}"


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
    header += ["stage one [95 %]", "stage two [95 %]"] if any(row.stages for row in rows) else []
    header += [f"Δ {reference} [95 %]"] if differences else []
    header += list(SHORT_NAMES.values())
    header += ["predicted"] if rewards else []
    header += ["runs"] if several_runs else []
    lines = []
    for row in rows:
        line = [row.policy, interval_text(row.epdms)]
        if row.stages is not None:
            line += [interval_text(stage) for stage in row.stages]
        if differences:
            line.append("–" if row.difference is None else interval_text(row.difference, signed=True))
        line += [sub_score_text(row, name) for name in SHORT_NAMES]
        if rewards:
            line.append(points(row.predicted_reward))
        if several_runs:
            line.append(str(row.runs))
        lines.append(line)
    return header, lines
