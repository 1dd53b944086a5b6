"""The distribution report of a split: JSON figures, Markdown tables and SVG plots, beside what NAVSIM publishes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from irlvla.data.language import PATH_WORDS
from irlvla.errors import DataError
from irlvla.evaluation.bootstrap import RESAMPLES, Interval
from irlvla.evaluation.chart import Sample, chart_sheet, histogram_chart, interval_chart, share_chart
from irlvla.evaluation.distribution import DRIVERS, QUANTILES, Distribution, summarise_group
from irlvla.evaluation.evaluate import measurement_stamps
from irlvla.evaluation.scene_measures import LEADER_REACH_M, LIGHT_REACH_M, OBJECT_REACH_M
from irlvla.evaluation.table import SHORT_NAMES, interval_text, points
from irlvla.files import write_text
from irlvla.types import Array, PDMSubScores

COLOURS = ("#3b82f6", "#ff7a1a")
DRIVER_COLOURS = dict(zip(DRIVERS, ("#8b93a1", "#22b573", "#8b5cf6"), strict=True))


@dataclass(frozen=True)
class PublishedScore:
    """What a driver reaches on one of NAVSIM's benchmarks, as printed."""

    benchmark: str
    driver: str
    score: float | None
    """In points; None where nothing is published."""
    sub_scores: Mapping[str, str]
    """Short name -> as printed; of two stages both."""
    source: str
    """Paper and table."""


# The papers' tables were read in public transcriptions of them.
_NAVSIM = "NAVSIM, arXiv:2406.15349v2, table 1"
_NAVTEST_V1 = "navtest, PDMS of NAVSIM v1"
_HAD = "HAD, arXiv:2604.03581v1"
PUBLISHED = (
    PublishedScore("navtest, EPDMS", "constant velocity", None, {}, ""),
    PublishedScore(
        "navtest, EPDMS",
        "human",
        90.3,
        {"NC": "100", "DAC": "100", "DDC": "99.8", "TLC": "100", "EP": "87.4", "TTC": "100", "LK": "100", "HC": "98.1",
         "EC": "90.1"},
        f"{_HAD}, table 2; the score is of the time before the devkit's human filter was corrected (September 2025), "
        "when it lifted sub-scores but not the score made of them: compare it with human filter off",
    ),
    PublishedScore("navtest, EPDMS", "PDM-Closed", None, {}, ""),
    PublishedScore("navhard, EPDMS of two stages", "constant velocity", None, {}, ""),
    PublishedScore(
        "navhard, EPDMS of two stages", "human", None, {}, "cannot be: no human drove on in a follow-up scene"
    ),
    PublishedScore(
        "navhard, EPDMS of two stages",
        "PDM-Closed",
        51.3,
        {"NC": "94.4 / 88.1", "DAC": "98.8 / 90.6", "DDC": "100 / 96.3", "TLC": "99.5 / 98.5", "EP": "100 / 100",
         "TTC": "93.5 / 83.1", "LK": "99.3 / 73.7", "HC": "87.7 / 91.5", "EC": "36.0 / 25.4"},
        f"{_HAD}, table 11",
    ),
    PublishedScore(
        _NAVTEST_V1,
        "constant velocity",
        20.6,
        {"NC": "68.0", "DAC": "57.8", "EP": "19.4", "TTC": "50.0", "C": "100"},
        _NAVSIM,
    ),
    PublishedScore(
        _NAVTEST_V1,
        "human",
        94.8,
        {"NC": "100", "DAC": "100", "EP": "87.5", "TTC": "100", "C": "99.9"},
        _NAVSIM,
    ),
    PublishedScore(
        _NAVTEST_V1,
        "PDM-Closed",
        89.1,
        {"NC": "94.6", "DAC": "99.8"},
        "LWDrive, arXiv:2606.29879v2, table 1; its EP, TTC and C appear to stand in one another's columns there",
    ),
)  # fmt: skip

_SHORT_NAMES_V1 = {name: SHORT_NAMES.get(name, "C") for name in PDMSubScores.names()}

_MOTION = {
    "speed_mps": ("speed, m/s", 1),
    "acceleration_mps2": ("acceleration, m/s²", 2),
    "travel_m": ("way within 4 s, m", 1),
    "curvature_per_m": ("sharpest curvature within 4 s, 1/m", 3),
    "gap_m": ("gap to the leader, m", 1),
    "time_gap_s": ("time gap to the leader, s", 2),
}
_SHARES = {
    "command": "driving command",
    "speed_word": "speed in words",
    "path_word": "path in words",
    "sharpest_curve_radius_m": "radius of the sharpest curve, m",
    "light": f"next light within {LIGHT_REACH_M:.0f} m",
    "interaction": "interaction (several at once)",
    "location": "location",
    "place": "network",
}


def write_distribution_report(distribution: Distribution, out: Path, *, command: str) -> dict[str, Any]:
    """Write SPLIT.json, SPLIT.md and the plots SPLIT-motion.svg, -scenes.svg and -epdms.svg; each whole or not at all.

    Args:
        distribution: What was measured.
        out: Folder.
        command: How to get the same again, without names of this machine.
    Returns:
        The figures, as the JSON file holds them.
    Raises:
        DataError: The folder cannot be written.
        RunError: The disk is full.
    """
    figures = collect_figures(distribution, command=command)
    name = distribution.split
    files = {
        f"{name}-motion.svg": draw_motion(distribution),
        f"{name}-scenes.svg": draw_scenes(figures),
        f"{name}-epdms.svg": draw_scores(figures),
        f"{name}.json": json.dumps(figures, indent=1, ensure_ascii=False) + "\n",
        f"{name}.md": render_markdown(figures),
    }
    for file, content in files.items():
        try:
            write_text(out / file, content)
        except OSError as error:
            raise DataError(f"{out / file}: cannot be written ({error}); give another --out") from error
    return figures


def collect_figures(distribution: Distribution, *, command: str) -> dict[str, Any]:
    """Everything that the report says, fit for JSON.

    Returns:
        `groups`, name to figures as `summarise_group` gives them; `published`; `failures`; and `stamps`.
    """
    stamps = {
        **measurement_stamps(),
        "human_filter": "on and off",
        "split": distribution.split,
        "command": command,
        "bootstrap": {"resamples": RESAMPLES, "unit": "log", "seed": 0},
        **({"world": dict(distribution.world)} if distribution.world else {}),
    }
    return {
        "split": distribution.split,
        "groups": {group.name: summarise_group(group, distribution.places) for group in distribution.groups},
        "published": [asdict(score) for score in PUBLISHED],
        "failures": [asdict(failure) for failure in distribution.failures],
        "stamps": stamps,
    }


def draw_motion(distribution: Distribution) -> str:
    """Histograms of speed, acceleration, curvature and gaps, one SVG."""
    bins = {
        "speed_mps": np.arange(0.0, 30.5, 1.0),
        "acceleration_mps2": np.arange(-4.0, 4.25, 0.5),
        "curvature_per_m": np.arange(0.0, 0.205, 0.01),
        "travel_m": np.arange(0.0, 121.0, 5.0),
        "gap_m": np.arange(0.0, LEADER_REACH_M + 1, 2.5),
        "time_gap_s": np.arange(0.0, 10.25, 0.5),
    }

    def chart(name: str, edges: Array) -> str:
        samples = [
            Sample(group.name, group.known(name), colour)
            for group, colour in zip(distribution.groups, COLOURS, strict=False)
        ]
        label, _ = _MOTION[name]
        what, _, unit = label.rpartition(", ")
        share = f"{len(samples[0].values)} of {len(distribution.groups[0].measures)} scenes"
        return histogram_chart(samples, edges, title=f"{what.capitalize()} ({share})", x_label=unit)

    return chart_sheet([chart(name, edges) for name, edges in bins.items()])


def draw_scenes(figures: Mapping[str, Any]) -> str:
    """Shares of scenes by manoeuvre, interaction, light and curve, and what is around, one SVG."""
    groups = figures["groups"]
    titles = {
        "speed_word": "Speed over the next 4 s, in words",
        "path_word": "Path over the next 4 s, in words",
        "interaction": "Interactions (several at once)",
        "sharpest_curve_radius_m": "Radius of the sharpest curve, m",
        "command": "Driving command",
        "light": f"Next light within {LIGHT_REACH_M:.0f} m",
    }

    def chart(title: str, shares: Mapping[str, Mapping[str, float]]) -> str:
        labels = list(next(iter(shares.values())))
        return share_chart(
            [label.replace("_", " ") for label in labels],
            [
                Sample(name, np.array([of_group[label] for label in labels]), colour)
                for (name, of_group), colour in zip(shares.items(), COLOURS, strict=False)
            ],
            title=title,
        )

    charts = [chart(title, {name: group[key] for name, group in groups.items()}) for key, title in titles.items()]
    around = {
        name: {kind: figure["share_with_any"] for kind, figure in group["objects"].items()}
        for name, group in groups.items()
    }
    charts.append(chart(f"Scenes with any of these within {OBJECT_REACH_M:.0f} m", around))
    faults = {name: group["faults"]["share"] for name, group in groups.items() if group["faults"] is not None}
    if faults:
        charts.append(chart("Scenes with a fault of the human", faults))
    return chart_sheet(charts)


def draw_scores(figures: Mapping[str, Any]) -> str:
    """Scores of the drivers with intervals, one SVG; PDMS of the split beside the published one of navtest."""
    charts, charts_v1 = [], []
    for name, group in figures["groups"].items():
        for key, said in (("human_filter_on", "on"), ("human_filter_off", "off")):
            rows = [
                (driver, Interval(**group["drivers"][driver][key]["score"]), DRIVER_COLOURS[driver])
                for driver in DRIVERS
            ]
            charts.append(interval_chart(rows, title=f"EPDMS, {name}, human filter {said}"))
        if not all(group["drivers"][driver]["navsim_v1"] for driver in DRIVERS):
            continue
        rows = []
        for driver in DRIVERS:
            rows.append((driver, Interval(**group["drivers"][driver]["navsim_v1"]["score"]), DRIVER_COLOURS[driver]))
            printed = next(s.score for s in PUBLISHED if (s.benchmark, s.driver) == (_NAVTEST_V1, driver))
            if name == figures["split"] and printed is not None:
                rows.append(("on navtest", Interval(printed / 100, None, None, 0.95, 0, 0), DRIVER_COLOURS[driver]))
        beside = ", and as published for navtest" if name == figures["split"] else ""
        charts_v1.append(interval_chart(rows, title=f"PDMS (NAVSIM v1), {name}{beside}"))
    return chart_sheet(charts + charts_v1)


def render_markdown(figures: Mapping[str, Any]) -> str:
    """The report as a section of Markdown that stands beside the plots."""
    groups: Mapping[str, Any] = figures["groups"]
    split = figures["split"]
    own = groups[split]
    parts = [
        f"## How the scenes of `{split}` are distributed",
        _claim(split, own),
        *(f"{name}: {group['scenes']} scenes of {group['logs']} logs." for name, group in list(groups.items())[1:]),
        f"![Histograms of speed, acceleration, curvature, way and gaps of {split}]({split}-motion.svg)",
        _table(("motion", "scenes", "in", "mean ± deviation", *_quantile_names()), _motion_rows(groups)),
        f"![Shares of scenes of {split} by manoeuvre, interaction, curve, light and objects]({split}-scenes.svg)",
        _table(("share of scenes, %", "", *groups), _share_rows(groups)),
        "Speed and path together, % of the scenes:",
        _table(("", *PATH_WORDS), _manoeuvre_rows(own)),
        f"Objects within {OBJECT_REACH_M:.0f} m:",
        _table(("kind", "scenes", "mean", "most", "scenes with any, %"), _object_rows(groups)),
        *_fault_parts(groups),
        "### What drivers reach",
        f"![EPDMS of constant velocity, human and PDM-Closed on {split}]({split}-epdms.svg)",
        _table(
            ("driver", "scenes", "human filter", "EPDMS [95 %]", *SHORT_NAMES.values()),
            _score_rows(groups),
        ),
        *_navsim_v1_parts(groups),
        "NAVSIM's, as published (C is comfort in NAVSIM v1; two figures are stage one / stage two):",
        _table(("benchmark", "driver", "score", "sub-scores", "source"), _published_rows()),
        "navtest has 12,146 scenes of 136 logs (devkit 0a380a9, `navtest.yaml`). No published figures were found for "
        "the distribution of its speeds, curvatures, gaps, objects, manoeuvres or interactions.",
        f"**Command**\n```sh\n{figures['stamps']['command']}\n```",
        _read_with(figures),
        _not_shown(figures),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _claim(split: str, own: Mapping[str, Any]) -> str:
    speed = own["motion"]["speed_mps"]["quantiles"]
    none = own["interaction"]["none of these"]
    scores = ", ".join(
        f"{driver} {points(own['drivers'][driver]['human_filter_on']['score']['estimate'])}" for driver in DRIVERS
    )
    return (
        f"{own['scenes']} scenes of {own['logs']} logs. The human drives {speed['0.5']:.1f} m/s in the median "
        f"({speed['0.05']:.1f} to {speed['0.95']:.1f} in nine of ten scenes) and has to do with others, a red light or "
        f"an obstacle in {100 * (1 - none):.0f} % of the scenes. EPDMS with human filter: {scores}."
    )


def _table(header: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    numeric = ["---"] * min(2, len(header)) + ["---:"] * (len(header) - 2)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, numeric, *rows))


def _quantile_names() -> list[str]:
    return ["median" if share == 0.5 else f"{100 * share:.0f} %" for share in QUANTILES]


def _motion_rows(groups: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for key, (label, digits) in _MOTION.items():
        for name, group in groups.items():
            figure = group["motion"][key]
            if not figure["count"]:
                yield (label, name, "0", "–", *["–"] * len(QUANTILES))
                continue
            quantiles = [f"{figure['quantiles'][str(share)]:.{digits}f}" for share in QUANTILES]
            spread = f"{figure['mean']:.{digits}f} ± {figure['deviation']:.{digits}f}"
            yield (label, name, str(figure["count"]), spread, *quantiles)


def _share_rows(groups: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for key, label in _SHARES.items():
        if any(group[key] is None for group in groups.values()):
            continue
        # What only the split lacks would otherwise go missing.
        for what in dict.fromkeys(name for group in groups.values() for name in group[key]):
            yield (label, what, *(f"{100 * group[key].get(what, 0.0):.1f}" for group in groups.values()))
            label = ""


def _manoeuvre_rows(own: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for speed_word, shares in own["manoeuvre"].items():
        yield (speed_word, *(f"{100 * share:.1f}" if share else "–" for share in shares.values()))


def _object_rows(groups: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for kind in next(iter(groups.values()))["objects"]:
        for name, group in groups.items():
            figure = group["objects"][kind]
            yield (
                kind.replace("_", " "),
                name,
                f"{figure['mean']:.2f}",
                str(figure["most"]),
                f"{100 * figure['share_with_any']:.1f}",
            )


def _fault_parts(groups: Mapping[str, Any]) -> list[str]:
    labelled = {name: group["faults"] for name, group in groups.items() if group["faults"] is not None}
    if not labelled:
        return ["The data labels no faults of the human driver."]
    kinds = next(iter(labelled.values()))["share"]
    rows: list[Sequence[str]] = [
        (kind, *(f"{100 * faults['share'][kind]:.1f}" for faults in labelled.values())) for kind in kinds
    ]
    rows.append(("any of these", *(f"{100 * faults['any']:.1f}" for faults in labelled.values())))
    return ["Faults of the human within the four seconds, % of the scenes:", _table(("fault", *labelled), iter(rows))]


def _score_rows(groups: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for name, group in groups.items():
        for key, said in (("human_filter_on", "on"), ("human_filter_off", "off")):
            for driver in DRIVERS:
                figures = group["drivers"][driver][key]
                sub_scores = [points(figures["sub_scores"][long]) for long in SHORT_NAMES]
                yield (driver, name, said, interval_text(Interval(**figures["score"])), *sub_scores)


def _navsim_v1_parts(groups: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, group in groups.items():
        for driver in DRIVERS:
            figures = group["drivers"][driver]["navsim_v1"]
            if figures is None:
                return ["PDMS needs windows with ten frames after the present one; this split's are shorter."]
            sub_scores = [points(figures["sub_scores"][long]) for long in _SHORT_NAMES_V1]
            rows.append((driver, name, interval_text(Interval(**figures["score"])), *sub_scores))
    header = ("driver", "scenes", "PDMS [95 %]", *_SHORT_NAMES_V1.values())
    return ["By NAVSIM v1, whose score is published more often:", _table(header, iter(rows))]


def _published_rows() -> Iterator[Sequence[str]]:
    for score in PUBLISHED:
        value = f"{score.score:.1f}" if score.score is not None else "–" if score.source else "not published"
        sub_scores = ", ".join(f"{name} {printed}" for name, printed in score.sub_scores.items())
        yield (score.benchmark, score.driver, value, sub_scores or "–", score.source or "–")


def _read_with(figures: Mapping[str, Any]) -> str:
    stamps = figures["stamps"]
    world = stamps.get("world")
    said = [
        *([f"world: preset `{world['preset']}`, seed {world['seed']}"] if world else []),
        f"metrics `{stamps['metric']}` and `pdms-1.1`, one stage, log-replay traffic, human filter as said",
        f"irlvla {stamps['irlvla']}, commit `{stamps['commit']}`",
        ", ".join(f"{name} {version}" for name, version in stamps["versions"].items()),
        f"intervals: {stamps['bootstrap']['resamples']:,} resamples of whole logs, seed {stamps['bootstrap']['seed']}",
    ]
    return "\n".join(f"- {line}" for line in said)


def _not_shown(figures: Mapping[str, Any]) -> str:
    failed = len(figures["failures"])
    return (
        "**Not shown.** "
        + (f"{failed} scenes could not be measured; the JSON file names them and why. " if failed else "")
        + "Follow-up scenes of a second stage are not measured: no human drove on in them. Yellow lights count as "
        "green, as in the logs. Weather and time of day are labelled nowhere in the format. The thresholds of words "
        "and interactions are ours (`irlvla/data/language.py`, `irlvla/evaluation/scene_measures.py`), so shares "
        "compare between data sets that this command has measured, and with nothing else."
    )
