"""The report: one HTML page that stands alone, with the results, how training went, and scenes to look at."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from irlvla.data.maps import load_map
from irlvla.data.scenes import SceneSet, human_plan
from irlvla.data.sensors import load_image
from irlvla.errors import DataError, RunError
from irlvla.evaluation.birds_eye import draw_birds_eye
from irlvla.evaluation.chart import Series, interval_chart, line_chart
from irlvla.evaluation.draw import DrawnPlan, draw_camera, jpeg_data_uri, plan_colours
from irlvla.evaluation.page import PAGE
from irlvla.evaluation.results import Results, load_results, stacked
from irlvla.evaluation.table import SHORT_NAMES, Row, interval_text, make_rows, points, sub_score_text
from irlvla.files import write_text
from irlvla.types import Array, Scene, SubScores

Stage = Literal["imitation", "reward", "ppo"]

FRONT_CAMERAS = ("CAM_F0", "CAM_L0", "CAM_R0")
PICTURE_WIDTH_PX = {"CAM_F0": 960}
SMALL_PICTURE_WIDTH_PX = 560
LONG_NAMES = {
    "no_at_fault_collisions": "no at-fault collision",
    "drivable_area_compliance": "drivable area",
    "driving_direction_compliance": "driving direction",
    "traffic_light_compliance": "traffic lights",
    "ego_progress": "progress",
    "time_to_collision_within_bound": "time to collision",
    "lane_keeping": "lane keeping",
    "history_comfort": "comfort",
    "two_frame_extended_comfort": "comfort between frames",
}

_NOTABLE = {"ego_progress": 0.6}
"""Sub-scores below this are marked in a scene's table; progress is seldom whole."""

Answer = Callable[[Sequence[Scene]], list[str]]


@dataclass(frozen=True)
class Curves:
    """The metrics of one training run by name."""

    stage: str
    seed: int | None
    columns: Mapping[str, tuple[Array, Array]]
    """Name -> (steps, values); a metric that was logged now and then has fewer steps."""


def load_curves(run: Path) -> Curves:
    """Read `metrics.jsonl` of a run folder; a half-written last line is left out.

    Raises:
        RunError: the folder is no run, or has logged nothing yet.
    """
    config, metrics = run / "config.json", run / "metrics.jsonl"
    if not config.is_file():
        raise RunError(f"{run} is not a run folder (it has no config.json): give the folder `irlvla train` wrote")
    if not metrics.is_file():
        raise RunError(f"{run} has no metrics.jsonl yet: let its training log a step first")
    settings = json.loads(config.read_text(encoding="utf-8"))
    steps: dict[str, list[float]] = {}
    values: dict[str, list[float]] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # A run that is being written, or was killed in mid-line.
            break
        for name, value in entry.items():
            if name != "step" and isinstance(value, int | float):
                steps.setdefault(name, []).append(float(entry["step"]))
                values.setdefault(name, []).append(float(value))
    columns = {name: (np.array(steps[name]), np.array(values[name])) for name in values}
    return Curves(str(settings.get("stage", "")), settings.get("seed"), columns)


def write_report(
    results: Results | Path,
    out: Path,
    *,
    scenes: SceneSet | None = None,
    runs: Mapping[Stage, Path] | None = None,
    answer: Answer | None = None,
    subject: str = "ppo",
    reference: str = "imitation",
    scenes_a_group: int = 3,
) -> Path:
    """Write the report of an evaluation.

    Args:
        results: What `evaluate` found, or the folder it was written to.
        out: The HTML file; replaced whole.
        scenes: The evaluated scenes, for pictures; the page has none without.
        runs: Run folders by stage, for the training curves.
        answer: Puts the driving question to the model: one answer a scene.
        subject: Policy the page is about; the last one evaluated where the results do not hold it.
        reference: Policy it is compared with.
        scenes_a_group: How many of the biggest gains, biggest losses and typical scenes are shown.
    Returns:
        `out`.
    Raises:
        DataError: there is no finished evaluation in the folder.
        RunError: a run folder is missing or empty.
    """
    if isinstance(results, Path):
        results = load_results(results)
    if subject not in results.policies:
        subject = results.policies[-1]
    rows = make_rows(results, reference)
    colours = plan_colours(results.policies)
    curves = {stage: load_curves(path) for stage, path in (runs or {}).items()}
    html = (
        _environment()
        .from_string(PAGE)
        .render(
            title=f"Driving on {results.stamps.get('split', 'unnamed scenes')}",
            subject=subject,
            reference=reference,
            stamps=_stamp_chips(results.stamps),
            cards=_cards(rows, subject, reference),
            rows=rows,
            compared=any(row.difference for row in rows),
            two_stage=bool(results.groups),
            with_reward=any(row.predicted_reward is not None for row in rows),
            with_runs=any(row.runs > 1 for row in rows),
            short_names=SHORT_NAMES,
            long_names=LONG_NAMES,
            colours=colours,
            overview=interval_chart(
                [(r.policy, r.epdms, colours[r.policy]) for r in rows], title="EPDMS, 95 % interval"
            ),
            training=_training_charts(curves),
            reward_check=_reward_check((runs or {}).get("reward")),
            hacking=_hacking(curves.get("ppo"), results, rows, colours),
            groups=_scene_groups(results, scenes, subject, reference, colours, answer, scenes_a_group),
            failures=results.failures,
            all_stamps=sorted((key, json.dumps(value)) for key, value in results.stamps.items()),
            scene_count=len(results.tokens),
            log_count=len(set(results.log_names)),
        )
    )
    write_text(out, html)
    return out


def choose_scenes(gains: Array, log_names: Sequence[str], count: int) -> dict[str, list[int]]:
    """Scenes worth a look: biggest gains, biggest losses, and typical ones, as few as possible from one log.

    Args:
        gains: [S] score of the subject minus that of the reference.
        log_names: [S].
        count: At most this many in each group.
    Returns:
        Row numbers by "gains", "losses" and "typical"; no scene stands in two groups.
    """
    order = np.argsort(-gains, kind="stable")
    taken: set[int] = set()

    def pick(candidates: Sequence[int]) -> list[int]:
        chosen: list[int] = []
        for new_logs_only in (True, False):
            for row in candidates:
                seen = {log_names[r] for r in chosen}
                if len(chosen) < count and row not in taken and not (new_logs_only and log_names[row] in seen):
                    chosen.append(row)
                    taken.add(row)
        return chosen

    noticeable = 0.005
    middle = np.argsort(np.abs(gains - np.median(gains)), kind="stable")
    return {
        "gains": pick([int(r) for r in order if gains[r] > noticeable]),
        "losses": pick([int(r) for r in order[::-1] if gains[r] < -noticeable]),
        "typical": pick([int(r) for r in middle]),
    }


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"points": points, "interval": interval_text, "sub_score": sub_score_text}
    return environment


def _stamp_chips(stamps: Mapping[str, Any]) -> list[tuple[str, str]]:
    wanted = ("metric", "split", "stage", "traffic", "human_filter", "scenes", "seed", "commit", "hardware")
    chips = [(key.replace("_", " "), str(stamps[key])) for key in wanted if stamps.get(key) is not None]
    return [(key, value[:12] if key == "commit" else value) for key, value in chips]


def _cards(rows: Sequence[Row], subject: str, reference: str) -> list[dict[str, str]]:
    """The few figures one should see first."""
    by_name = {row.policy: row for row in rows}
    ours = by_name[subject]
    cards = [{"value": points(ours.epdms.estimate), "label": f"EPDMS of {subject}", "note": _range_note(ours.epdms)}]
    if ours.difference is not None:
        sure = "interval excludes zero" if ours.difference.excludes_zero else "not distinguishable from zero"
        sign = "good" if ours.difference.estimate > 0 else "bad"
        cards.append(
            {
                "value": f"{100 * ours.difference.estimate:+.1f}",
                "label": f"against {reference}",
                "note": f"{_range_note(ours.difference)}; {sure}",
                "tone": sign if ours.difference.excludes_zero else "",
            }
        )
    if "human" in by_name and subject != "human":
        cards.append({"value": points(by_name["human"].epdms.estimate), "label": "EPDMS of the human", "note": ""})
    parts = [*ours.sub_scores.items(), *(ours.sub_scores_stage_two or {}).items()]
    weakest = min((v, n) for n, v in parts if v is not None)
    cards.append({"value": points(weakest[0]), "label": f"weakest part: {LONG_NAMES[weakest[1]]}", "note": ""})
    return cards


def _range_note(interval: Any) -> str:
    if interval.low is None:
        return "one log only: no interval"
    return f"95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _series(curves: Curves, name: str, label: str, colour: str, *, noisy: bool = False) -> list[Series]:
    if name not in curves.columns:
        return []
    steps, values = curves.columns[name]
    return [Series(label, steps, values, colour, noisy)]


def _training_charts(curves: Mapping[Stage, Curves]) -> list[dict[str, str]]:
    """One chart for each thing a stage is meant to improve."""
    blue, orange = "#3b82f6", "#ff7a1a"
    charts = []
    if "imitation" in curves:
        run = curves["imitation"]
        losses = _series(run, "loss", "loss", blue, noisy=True)
        charts.append((line_chart(losses, title="Imitation: training loss"), "Sum of the weighted losses."))
        errors = _series(run, "held_out_mean_error_m", "mean", blue)
        errors += _series(run, "held_out_final_error_m", "after 4 s", orange)
        charts.append(
            (line_chart(errors, title="Imitation: distance to the human (m)"), "On logs that were never trained on.")
        )
    if "reward" in curves:
        losses = _series(curves["reward"], "loss", "loss", blue, noisy=True)
        charts.append((line_chart(losses, title="Reward world model: training loss"), "Sum over the sub-scores."))
    if "ppo" in curves:
        reward = _series(curves["ppo"], "reward", "reward", orange, noisy=True)
        charts.append(
            (
                line_chart(reward, title="PPO: reward of its trial plans (× 100)", x_label="update", percent=True),
                "By the reward world model, of plans drawn with noise.",
            )
        )
        distance = _series(curves["ppo"], "kl", "KL", blue, noisy=True)
        charts.append(
            (
                line_chart(distance, title="PPO: how far a round moves the policy (KL)", x_label="update"),
                "Between the policy that made the plans and the one that learned from them.",
            )
        )
    return [{"svg": svg, "note": note} for svg, note in charts if svg]


def _reward_check(run: Path | None) -> dict[str, Any] | None:
    """What the reward stage found its model can do on logs it never saw, from the run's report.json."""
    if run is None or not (run / "report.json").is_file():
        return None
    measured = json.loads((run / "report.json").read_text(encoding="utf-8")).get("held_out_logs") or {}
    lines = [
        {
            "plans": label,
            "count": f"{group['plans']:,}",
            "rank": "–" if group["rank_correlation"] is None else f"{group['rank_correlation']:.2f}",
            "regret": points(group["best_of_n_regret"]),
            "error": points(group["mean_absolute_error"]),
            "areas": [_decimals(group["sub_scores"].get(name, {}).get("area_under_curve")) for name in _JUDGED],
        }
        for key, label in _PLAN_GROUPS.items()
        if (group := measured.get(key))
    ]
    return {"lines": lines, "judged": [SHORT_NAMES[name] for name in _JUDGED], "scenes": measured.get("scenes")}


_PLAN_GROUPS = {
    "all_kinds": "all plans",
    "policy_plans": "the policy's own",
    "kinds_never_trained_on": "kinds never trained on",
}
_JUDGED = (
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "driving_direction_compliance",
    "traffic_light_compliance",
    "time_to_collision_within_bound",
    "lane_keeping",
)


def _decimals(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _hacking(
    ppo: Curves | None, results: Results, rows: Sequence[Row], colours: Mapping[str, str]
) -> dict[str, Any] | None:
    """What tells whether the policy learned to drive or to please the reward world model."""
    measured = [row for row in rows if row.predicted_reward is not None]
    charts = []
    sub_scores: list[dict[str, str]] = []
    if ppo is not None:
        both = _series(ppo, "watch/predicted_reward", "predicted", "#ff7a1a")
        both += _series(ppo, "watch/true_epdms", "true", "#22b573")
        rank = _series(ppo, "watch/rank_correlation", "rank correlation", "#8b5cf6")
        charts = [
            line_chart(
                both, title="During PPO: predicted reward and true EPDMS (× 100)", x_label="update", percent=True
            ),
            line_chart(rank, title="During PPO: rank correlation within a scene", x_label="update"),
        ]
        for name in SHORT_NAMES:
            if f"watch/true/{name}" in ppo.columns:
                _, values = ppo.columns[f"watch/true/{name}"]
                sub_scores.append(
                    {
                        "name": LONG_NAMES[name],
                        "true": _first_to_last(ppo, f"watch/true/{name}"),
                        "predicted": _first_to_last(ppo, f"watch/predicted/{name}"),
                        "fell": "lost" if values[-1] < values[0] - 0.01 else "",
                    }
                )
    if not measured and not any(charts):
        return None
    table = []
    for row in measured:
        runs = results.runs_of(row.policy)
        predicted, _ = stacked(runs, "predicted_reward")
        true, _ = stacked(runs, "score")
        table.append(
            {
                "policy": row.policy,
                "colour": colours[row.policy],
                "predicted": points(float(predicted.mean())),
                "true": points(float(true.mean())),
                "gap": f"{100 * float(predicted.mean() - true.mean()):+.1f}",
                "rank": "–" if (rho := rank_correlation(predicted.ravel(), true.ravel())) is None else f"{rho:.2f}",
            }
        )
    return {"table": table, "charts": [chart for chart in charts if chart], "sub_scores": sub_scores}


def _first_to_last(curves: Curves, name: str) -> str:
    if name not in curves.columns:
        return "exact"
    _, values = curves.columns[name]
    return f"{points(values[0])} → {points(values[-1])}"


def rank_correlation(a: Array, b: Array) -> float | None:
    """Spearman's rank correlation; None where one side is constant.

    Example:
        >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 15.0]))
        0.5
    """
    from scipy.stats import rankdata

    rank_a, rank_b = rankdata(a), rankdata(b)
    if len(a) < 2 or np.ptp(rank_a) == 0 or np.ptp(rank_b) == 0:
        return None
    return round(float(np.corrcoef(rank_a, rank_b)[0, 1]), 12)


def _scene_groups(
    results: Results,
    scenes: SceneSet | None,
    subject: str,
    reference: str,
    colours: Mapping[str, str],
    answer: Answer | None,
    count: int,
) -> list[dict[str, Any]]:
    if scenes is None or count == 0:
        return []
    ours = stacked(results.runs_of(subject), "score")[0].mean(axis=0)
    compared = reference in results.policies and reference != subject
    theirs = (
        stacked(results.runs_of(reference), "score")[0].mean(axis=0) if compared else np.full_like(ours, ours.mean())
    )
    titles = (
        {
            "gains": f"Biggest gains of {subject} over {reference}",
            "losses": f"Biggest losses of {subject} against {reference}",
            "typical": "Typical scenes",
        }
        if compared
        else {"gains": "Best scenes", "losses": "Worst scenes", "typical": "Typical scenes"}
    )
    groups = []
    for name, rows in choose_scenes(ours - theirs, results.log_names, count).items():
        chosen = [scenes.by_token(results.tokens[row]) for row in rows]
        answers = answer(chosen) if answer is not None and chosen else [""] * len(chosen)
        cards = [
            _scene_card(results, scenes, scene, row, subject, reference, colours, said)
            for scene, row, said in zip(chosen, rows, answers, strict=True)
        ]
        if cards:
            groups.append({"title": titles[name], "cards": cards})
    return groups


def _scene_card(
    results: Results,
    scenes: SceneSet,
    scene: Scene,
    row: int,
    subject: str,
    reference: str,
    colours: Mapping[str, str],
    said: str,
) -> dict[str, Any]:
    shown = [name for name in (reference, subject) if name in results.policies and name != "human"]
    shown = list(dict.fromkeys(shown))
    plans = [] if scene.is_synthetic else [DrawnPlan("human", human_plan(scene), colours["human"])]
    plans += [DrawnPlan(name, results.runs_of(name)[0].poses[row], colours[name]) for name in shown]
    names = [*shown, *(["human"] if "human" in results.policies else [])]
    table = []
    for name in names:
        run = results.runs_of(name)[0]
        cells = []
        for column in SubScores.names():
            if column == "two_frame_extended_comfort" and not run.filtered.has_earlier_frame[row]:
                cells.append({"text": "–", "lost": False, "lifted": False})
                continue
            value, raw = float(getattr(run.filtered, column)[row]), float(getattr(run.raw, column)[row])
            cells.append({"text": points(value, 0), "lost": value < _NOTABLE.get(column, 1.0), "lifted": value != raw})
        table.append({"policy": name, "colour": colours[name], "score": points(float(run.epdms[row])), "cells": cells})
    pictures, missing = _pictures(scene, plans)
    return {
        "token": scene.token,
        "log": scene.log_name,
        "city": scene.map_location,
        "speed": f"{float(np.hypot(*scene.now.ego_velocity_mps)) * 3.6:.0f} km/h",
        "pictures": pictures,
        "missing": missing,
        "bev": draw_birds_eye(scene, load_map(scenes.root, scene.map_location), plans),
        "legend": [{"label": plan.label, "colour": plan.colour} for plan in reversed(plans)],
        "table": table,
        "question": scene.instruction,
        "answer": said,
    }


def _pictures(scene: Scene, plans: Sequence[DrawnPlan]) -> tuple[list[dict[str, str]], str]:
    """The front cameras with plans and boxes; and a sentence where there are none."""
    pictures, missing = [], "The log names no camera images for this scene."
    for name in FRONT_CAMERAS:
        camera = scene.now.cameras.get(name)
        if camera is None or camera.image_path is None:
            continue
        try:
            image = load_image(camera)
        except DataError as error:
            missing = f"No camera images: {error}"
            continue
        width_px = PICTURE_WIDTH_PX.get(name, SMALL_PICTURE_WIDTH_PX)
        drawn = draw_camera(camera, image, plans=plans, boxes=scene.now.boxes, width_px=width_px)
        pictures.append({"name": name, "data": jpeg_data_uri(drawn)})
    return pictures, "" if pictures else missing
