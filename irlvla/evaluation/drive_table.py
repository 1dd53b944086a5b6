"""The table of closed-loop drives: what went wrong per drive and per kilometre, how far, how comfortably, and EPDMS on
the way, with intervals over drives."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import spearmanr

from irlvla.evaluation.bootstrap import Interval, ratio_interval
from irlvla.evaluation.drive import DriveRecord, Drives
from irlvla.files import write_text
from irlvla.scoring.epdms import epdms
from irlvla.types import Array, SubScores


@dataclass(frozen=True)
class Column:
    """One driver of the table."""

    driver: str
    drives: int
    figures: dict[str, Interval | None]
    """By the names in FIGURES; None where nothing can be said."""
    ends: dict[str, int]
    """Drives by why they ended."""
    plan_to_drive_correlation: float | None
    """Rank correlation of plans' scores in pseudo-simulation with those of what was then driven."""


@dataclass(frozen=True)
class _Figure:
    above: Callable[[DriveRecord], float]
    below: Callable[[DriveRecord], float]
    scale: float = 1.0
    digits: int = 2


# What never happened in n tries happens less often than 3 / n, with 95 % confidence.
_RULE_OF_THREE = 3.0


def _kilometres(record: DriveRecord) -> float:
    return record.moved_m / 1000.0


def _one(record: DriveRecord) -> float:
    return 1.0


def _events(kind: str, *, at_fault: bool = True) -> Callable[[DriveRecord], float]:
    return lambda record: float(record.count(kind, at_fault=at_fault))


def _sum_of(part: str, name: str) -> Callable[[DriveRecord], float]:
    return lambda record: sum(value for value in getattr(record, part)[name] if value is not None)


def _number_of(part: str, name: str) -> Callable[[DriveRecord], float]:
    return lambda record: float(sum(value is not None for value in getattr(record, part)[name]))


_COUNTED = {
    "at-fault collisions": _events("collision"),
    "other collisions": _events("collision", at_fault=False),
    "red lights run": _events("red light"),
    "times off the road": _events("off the road"),
    "times the wrong way": _events("wrong way"),
}

FIGURES: dict[str, _Figure] = {
    **{f"{name} / drive": _Figure(count, _one) for name, count in _COUNTED.items()},
    **{f"{name} / km": _Figure(count, _kilometres) for name, count in _COUNTED.items()},
    "progress, % of the route": _Figure(lambda record: record.progress_share, _one, 100.0, 1),
    "progress, m": _Figure(lambda record: record.progress_m, _one, 1.0, 0),
    "speed, m/s": _Figure(lambda record: record.moved_m, lambda record: record.duration_s, 1.0, 1),
    "comfortable, %": _Figure(_sum_of("driven", "history_comfort"), _number_of("driven", "history_comfort"), 100.0, 1),
    "EPDMS of the plans": _Figure(_sum_of("planned", "score"), _number_of("planned", "score"), 100.0, 1),
    "EPDMS of what was driven": _Figure(_sum_of("driven", "score"), _number_of("driven", "score"), 100.0, 1),
}
"""Rows of the table, with intervals over drives."""


def make_columns(drives: Drives) -> list[Column]:
    """Summarise drives, one column a driver; training runs of one driver count together."""
    columns = []
    for driver in drives.drivers:
        records = drives.of(driver)
        figures: dict[str, Interval | None] = {}
        for name, figure in FIGURES.items():
            above = np.array([figure.above(record) for record in records])
            below = np.array([figure.below(record) for record in records])
            interval = ratio_interval(above, below) if below.sum() > 0 else None
            if interval is not None and above.sum() == 0 and name.startswith(tuple(_COUNTED)):
                # Redrawing drives without events says nothing about the next drive; the rule of three does.
                interval = replace(interval, low=0.0, high=_RULE_OF_THREE / float(below.sum()))
            figures[name] = interval
        ends = sorted({record.end for record in records})
        counts = {end: sum(record.end == end for record in records) for end in ends}
        columns.append(Column(driver, len(records), figures, counts, _correlation(records)))
    return columns


def render_terminal(columns: Sequence[Column]) -> Table:
    """The table for a terminal: one column a driver."""
    table = Table(padding=(0, 1), pad_edge=False)
    table.add_column(no_wrap=True)
    for column in columns:
        table.add_column(column.driver, justify="right")
    for name, *cells in _rows(columns):
        table.add_row(name, *(cell.replace(" [", "\n[") for cell in cells))
    return table


def render_markdown(columns: Sequence[Column]) -> str:
    """The same table in Markdown."""
    lines = [["", *(column.driver for column in columns)], ["---"] + ["---:"] * len(columns), *_rows(columns)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write_drives(drives: Drives, out: Path) -> None:
    """Write `results.json` (stamps, figures, every drive) and `results.md` (the table and its stamps)."""
    columns = make_columns(drives)
    document = {
        "stamps": dict(drives.stamps),
        "drivers": [asdict(column) for column in columns],
        "drives": [_summary(record) for record in drives.records],
        "left_out": dict(drives.left_out),
    }
    write_text(out / "results.json", json.dumps(document, indent=1) + "\n")
    stamps = drives.stamps
    facts = [
        f"World `{stamps['world']}`, seed {stamps['seed']}, held-out networks {', '.join(stamps['networks'])}; "
        f"{stamps['drives']} drives each, at most {stamps['time_limit_s']:g} s; SUMO's traffic reacts.",
        f"irlvla {stamps['irlvla']}, commit {stamps['commit']}, {stamps['hardware']}. Intervals: 95 %, drives redrawn.",
        left_out_text(drives),
    ]
    write_text(out / "results.md", render_markdown(columns) + "\n" + "\n".join(facts) + "\n")


def left_out_text(drives: Drives) -> str:
    """Which routes were left out, in a sentence."""
    listed = ", ".join(f"{count} × {why}" for why, count in drives.left_out.items()) or "none"
    return f"Routes left out for what SUMO's own driver came to on them: {listed}."


def _summary(record: DriveRecord) -> dict[str, Any]:
    """A drive without the scores of its single plans, which its own file holds."""
    content = asdict(record)
    for part in ("planned", "driven"):
        scores = content.pop(part)["score"]
        content[f"{part}_epdms"] = float(np.mean(scores)) if scores else None
    return content


def _rows(columns: Sequence[Column]) -> list[list[str]]:
    rows = [["drives", *(str(column.drives) for column in columns)]]
    ends = sorted({end for column in columns for end in column.ends})
    rows += [[f"ended: {end}", *(str(column.ends.get(end, 0)) for column in columns)] for end in ends]
    rows += [[name, *(_cell(column.figures[name], figure) for column in columns)] for name, figure in FIGURES.items()]
    correlations = [column.plan_to_drive_correlation for column in columns]
    rows.append(["rank correlation of the two", *("–" if value is None else f"{value:.2f}" for value in correlations)])
    return rows


def _cell(interval: Interval | None, figure: _Figure) -> str:
    if interval is None:
        return "–"
    estimate = f"{figure.scale * interval.estimate:.{figure.digits}f}"
    if interval.low is None or interval.high is None:
        return estimate
    low, high = figure.scale * interval.low, figure.scale * interval.high
    return f"{estimate} [{low:.{figure.digits}f}, {high:.{figure.digits}f}]"


def _correlation(records: Sequence[DriveRecord]) -> float | None:
    planned = _without_extended_comfort(records, "planned")
    driven = _without_extended_comfort(records, "driven")
    if len(planned) < 3 or np.ptp(planned) == 0 or np.ptp(driven) == 0:
        return None
    return float(spearmanr(planned, driven).statistic)


def _without_extended_comfort(records: Sequence[DriveRecord], part: str) -> Array:
    """EPDMS of all half seconds by the sub-scores that both parts have: one drive has no second plan to differ from."""
    columns = {
        name: np.array([v for record in records for v in getattr(record, part)[name]], dtype=np.float64)
        for name in SubScores.names()
        if name != "two_frame_extended_comfort"
    }
    number = len(columns["ego_progress"])
    return epdms(
        SubScores(
            **columns, two_frame_extended_comfort=np.zeros(number), has_earlier_frame=np.zeros(number, dtype=np.bool_)
        )
    )
