"""How the scenes of a split are distributed, and what the privileged and the trivial driver reach in them.

Works on any data root in NAVSIM's format: an embedded world, or NAVSIM's own data. Follow `measure_split`: scenes go to
workers in pieces; each builds scoring contexts, measures every scene, and scores constant velocity, the human and
PDM-Closed in log-replay traffic, by NAVSIM v2 and v1; the caller joins the pieces and gets groups of scenes, the
split's own and, where asked for, all windows of the same logs that the split's filter chose from.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from irlvla.data.faults import FAULTS, load_faults
from irlvla.data.language import PATH_WORDS, SPEED_WORDS
from irlvla.data.maps import load_map
from irlvla.data.scenes import SceneSet, open_scenes
from irlvla.data.splits import SceneFilter, Split, data_root, load_split
from irlvla.errors import DataError
from irlvla.evaluation.bootstrap import mean_interval
from irlvla.evaluation.evaluate import score_policy
from irlvla.evaluation.policies import ConstantVelocity, Human, PdmClosed
from irlvla.evaluation.scene_measures import INTERACTIONS, LIGHTS, SceneMeasures, measure_scene
from irlvla.scoring.context import ScoringContext, build_contexts, describe_scenes
from irlvla.scoring.editions import NAVSIM_V1
from irlvla.scoring.epdms import epdms
from irlvla.scoring.human_filter import apply_human_filter
from irlvla.scoring.pdms import pdms
from irlvla.scoring.score import score_pdms, stack_sub_scores
from irlvla.scoring.workers import Workers, check_workers, run_tasks
from irlvla.types import COMMANDS, OBJECT_TYPES, Array, PDMSubScores, Policy, SceneFailure, SubScores
from irlvla.world.presets import SLOT_FIDS

DRIVERS = ("constant velocity", "human", "PDM-Closed")
ALL_WINDOWS = "all windows"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
RADII_M = (10.0, 30.0, 100.0, 300.0, 1000.0)
"""Bounds between classes of the sharpest curve's radius."""

_Scores = TypeVar("_Scores", SubScores, PDMSubScores)

_SCENES_PER_TASK = 48
_MANIFEST = "world.json"


@dataclass(frozen=True)
class SceneGroup:
    """S scenes that are summarised together."""

    name: str
    measures: tuple[SceneMeasures, ...]
    raw: tuple[SubScores, ...]
    """[S] of each of DRIVERS, before the human filter."""
    human: SubScores
    """[S] what the human filter goes by."""
    navsim_v1: tuple[PDMSubScores, ...]
    """[S] of each of DRIVERS; empty where the split's windows are too short for NAVSIM v1."""
    faults: tuple[tuple[str, ...] | None, ...]
    """Kinds of fault of the human in each scene; None where the data labels none."""

    @property
    def log_names(self) -> list[str]:
        return [scene.log_name for scene in self.measures]

    def known(self, name: str) -> Array:
        """A figure of SceneMeasures in the scenes where it applies."""
        values = (getattr(scene, name) for scene in self.measures)
        return np.array([value for value in values if value is not None], dtype=np.float64)

    def scores(self, driver: int, *, human_filter: bool) -> SubScores:
        """Sub-scores [S] of one of DRIVERS."""
        raw = self.raw[driver]
        return apply_human_filter(raw, self.human) if human_filter else raw


@dataclass(frozen=True)
class Distribution:
    """A split, measured."""

    split: str
    groups: tuple[SceneGroup, ...]
    """The split's scenes; then all windows of its logs, where they were asked for and are more."""
    places: Mapping[tuple[str, int], str]
    """Location and slot -> what an embedded world shows there; empty for other data."""
    world: Mapping[str, Any]
    """Preset and seed of an embedded world; empty for other data."""
    failures: tuple[SceneFailure, ...]
    """Scenes in no figure, and why."""


@dataclass(frozen=True)
class _Piece:
    """What a worker found. The arrays' first axis is the scene."""

    measures: list[SceneMeasures]
    earlier: list[str | None]
    """Token of the scene half a second earlier, where that could be scored too."""
    raw: list[SubScores]
    human: SubScores | None
    """None where no scene is left."""
    navsim_v1: list[PDMSubScores]
    failures: list[SceneFailure]


def measure_split(
    root: Path | None,
    split: str | Path,
    *,
    with_all_windows: bool = False,
    workers: Workers = 1,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Distribution:
    """Measure every scene of a split that a human drove; of two stages the first.

    Args:
        root: Data root; None takes OPENSCENE_DATA_ROOT.
        split: Name or YAML file.
        with_all_windows: Measure also every window of the split's logs, whatever the split's list of scenes says.
        workers: Who works; see `irlvla.scoring.workers`.
        cache: Folder that keeps scoring contexts between calls.
        on_progress: Told how many scenes are done, of how many.
    Raises:
        ConfigError: `workers` is none of the known ones.
        DataError: Root, split, maps or labels are missing or damaged, or no scene can be measured.
    """
    workers = check_workers(workers)
    root = data_root(root)
    places, world = _read_manifest(root)
    chosen = _first_stage(load_split(root, split))
    own = open_scenes(root, chosen)
    scenes = open_scenes(root, _all_windows(chosen)) if with_all_windows else own
    labels = _load_labels(root, chosen.data_split, {scenes.log_name(token) for token in scenes.tokens})
    pieces = _run(scenes, workers, cache, on_progress)
    failures = [*scenes.failures, *(failure for piece in pieces for failure in piece.failures)]
    found = [piece for piece in pieces if piece.human is not None]
    if not found:
        raise DataError(
            f"no scene of split {chosen.name!r} in {root} can be measured; first: scene {failures[0].token}: "
            f"{failures[0].reason}"
        )
    everything = _group(ALL_WINDOWS, found, labels, frozenset(scenes.tokens))
    in_split = frozenset(own.tokens)
    if not any(scene.token in in_split for scene in everything.measures):
        raise DataError(f"no scene of split {chosen.name!r} in {root} can be measured, only others of its logs")
    groups = [_group(chosen.name, found, labels, in_split)]
    if len(everything.measures) > len(groups[0].measures):
        groups.append(everything)
    return Distribution(chosen.name, tuple(groups), places, world, tuple(failures))


def _first_stage(split: Split) -> Split:
    scene_filter = replace(split.scene_filter, include_synthetic_scenes=False)
    return replace(split, scene_filter=scene_filter, mapping=())


def _all_windows(split: Split) -> Split:
    """Every window of the logs of a split, one a frame, as long as those of the split."""
    kept = split.scene_filter
    scene_filter = SceneFilter(
        num_future_frames=kept.num_future_frames,
        frame_interval=1,
        has_route=kept.has_route,
        log_names=kept.log_names,
    )
    return replace(split, scene_filter=scene_filter)


def _load_labels(root: Path, data_split: str, log_names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Kinds of the human's faults by token, as far as the data labels them."""
    labels: dict[str, tuple[str, ...]] = {}
    for log_name in sorted(log_names):
        for token, faults in load_faults(root, data_split, log_name).items():
            labels[token] = tuple(dict.fromkeys(fault.kind for fault in faults))
    return labels


def _read_manifest(root: Path) -> tuple[dict[tuple[str, int], str], dict[str, Any]]:
    """Places and origin of an embedded world; nothing for other data."""
    path = root / _MANIFEST
    if not path.is_file():
        return {}, {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        places = {(str(p["location"]), int(p["slot"])): str(p["shows"]) for p in manifest.get("places", ())}
        return places, {"preset": str(manifest["preset"]["name"]), "seed": int(manifest["seed"])}
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: is no description of an embedded world ({error!r}); build it again") from error


def _run(
    scenes: SceneSet, workers: Workers, cache: Path | None, on_progress: Callable[[int, int], None] | None
) -> list[_Piece]:
    light = scenes.detached()
    tasks = []
    for first in range(0, len(light), _SCENES_PER_TASK):
        # Extended comfort of a piece's first scene needs the plan made half a second earlier.
        lead = int(light.earlier_token(light.tokens[first]) is not None)
        tasks.append((light[first - lead : first + _SCENES_PER_TASK], lead))
    pieces: list[_Piece | None] = [None] * len(tasks)
    done = 0
    measure = partial(_measure_some, cache=None if cache is None else cache.absolute())
    for index, piece in run_tasks(measure, tasks, workers, lambda task: describe_scenes(task[0])):
        pieces[index] = piece
        done += len(tasks[index][0]) - tasks[index][1]
        if on_progress is not None:
            on_progress(done, len(scenes))
    return [piece for piece in pieces if piece is not None]


def _measure_some(task: tuple[SceneSet, int], cache: Path | None) -> _Piece:
    """Measure and score a few scenes in this process; the first `lead` ones serve their successor alone."""
    scenes, lead = task
    leading = set(scenes.tokens[:lead])
    contexts, failures = build_contexts(scenes, cache=cache)
    contexts_v1: Mapping[str, ScoringContext] = {}
    if scenes.split.scene_filter.num_future_frames >= NAVSIM_V1.future_frames:
        contexts_v1, failures_v1 = build_contexts(scenes.subset(contexts), edition=NAVSIM_V1, cache=cache)
        failures += failures_v1
        contexts = {token: contexts[token] for token in contexts_v1}
    failures = [failure for failure in failures if failure.token not in leading]
    kept = [scenes.by_token(token) for token in scenes.tokens if token in contexts]
    reported = [row for row, scene in enumerate(kept) if scene.token not in leading]
    if not reported:
        return _Piece([], [], [], None, [], failures)
    ordered = [contexts[scene.token] for scene in kept]
    earlier = [scenes.earlier_token(scene.token) for scene in kept]
    place = {scene.token: row for row, scene in enumerate(kept)}
    earlier_row = np.array([place.get(token or "", -1) for token in earlier], dtype=np.int64)
    policies: list[Policy] = [ConstantVelocity(), Human(), PdmClosed(contexts)]
    assert tuple(policy.name for policy in policies) == DRIVERS
    raw = [score_policy(ordered, policy.plan(kept), earlier_row)[1] for policy in policies]
    navsim_v1 = []
    if contexts_v1:
        policies[-1] = PdmClosed(contexts_v1)
        of_kept = [contexts_v1[scene.token] for scene in kept]
        for policy in policies:
            scores = score_pdms(of_kept, policy.plan(kept)[:, None])
            navsim_v1.append(PDMSubScores(**{name: values[:, 0] for name, values in vars(scores).items()}))
    human = stack_sub_scores([context.human_scores for context in ordered])
    return _Piece(
        [
            measure_scene(kept[row], load_map(scenes.root, kept[row].map_location), ordered[row].road.centerline)
            for row in reported
        ],
        [earlier[row] if earlier_row[row] >= 0 else None for row in reported],
        [_rows(scores, reported) for scores in raw],
        _rows(human, reported),
        [_rows(scores, reported) for scores in navsim_v1],
        failures,
    )


def _rows(scores: _Scores, rows: Sequence[int]) -> _Scores:
    picked = np.asarray(rows, dtype=np.int64)
    return type(scores)(**{name: values[picked] for name, values in vars(scores).items()})


def _joined(parts: Sequence[_Scores]) -> _Scores:
    names = vars(parts[0])
    return type(parts[0])(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _group(
    name: str, pieces: Sequence[_Piece], labels: Mapping[str, tuple[str, ...]], tokens: frozenset[str]
) -> SceneGroup:
    """The scenes with these tokens; extended comfort counts where the earlier scene is one of them too."""
    measures = [scene for piece in pieces for scene in piece.measures]
    earlier = [token for piece in pieces for token in piece.earlier]
    rows = [row for row, scene in enumerate(measures) if scene.token in tokens]
    paired = np.array([earlier[row] in tokens for row in rows], dtype=np.bool_)
    raw = []
    for driver in range(len(DRIVERS)):
        scores = _rows(_joined([piece.raw[driver] for piece in pieces]), rows)
        comfort = np.where(paired, scores.two_frame_extended_comfort, 0.0)
        raw.append(replace(scores, two_frame_extended_comfort=comfort, has_earlier_frame=paired))
    human = _rows(_joined([piece.human for piece in pieces if piece.human is not None]), rows)
    navsim_v1 = [_rows(_joined(parts), rows) for parts in zip(*(piece.navsim_v1 for piece in pieces), strict=True)]
    kept = tuple(measures[row] for row in rows)
    faults = tuple(labels.get(scene.token) for scene in kept)
    return SceneGroup(name, kept, tuple(raw), human, tuple(navsim_v1), faults)


def summarise_group(group: SceneGroup, places: Mapping[tuple[str, int], str]) -> dict[str, Any]:
    """A group of scenes in figures, fit for JSON; shares are of its scenes, in [0, 1].

    Returns:
        `scenes`, `logs`; for each figure of `motion` its mean, standard deviation, QUANTILES, and in how many scenes it
        applies (`count`); for each kind of `objects` its mean number and the share of scenes with any; shares by
        `sharpest_curve_radius_m`, `light`, `command`, `speed_word`, `path_word`, `manoeuvre` (both words),
        `interaction` (several hold at once), `location` and `place`; shares of human `faults`, None where the data
        labels none; and of each of `drivers` the score with its interval and the means of all sub-scores: EPDMS with
        `human_filter_on` and `human_filter_off`, and PDMS as `navsim_v1`, None where the windows are too short for it.
    """
    measures = group.measures
    return {
        "scenes": len(measures),
        "logs": len(set(group.log_names)),
        "motion": {
            name: _summary(group.known(name))
            for name in ("speed_mps", "acceleration_mps2", "travel_m", "curvature_per_m", "gap_m", "time_gap_s")
        },
        "objects": _object_figures(np.array([scene.objects for scene in measures])),
        "sharpest_curve_radius_m": _radius_shares(group),
        "light": _shares([scene.light for scene in measures], LIGHTS),
        "command": _shares([scene.command for scene in measures], COMMANDS),
        "speed_word": _shares([scene.speed_word for scene in measures], SPEED_WORDS),
        "path_word": _shares([scene.path_word for scene in measures], PATH_WORDS),
        "manoeuvre": {
            speed_word: _shares(
                [scene.path_word for scene in measures if scene.speed_word == speed_word], PATH_WORDS, len(measures)
            )
            for speed_word in SPEED_WORDS
        },
        "interaction": {
            **{name: float(np.mean([name in scene.interactions for scene in measures])) for name in INTERACTIONS},
            "none of these": float(np.mean([not scene.interactions for scene in measures])),
        },
        "location": _shares([scene.location for scene in measures]),
        "place": _shares([_place(scene, places) for scene in measures]) if places else None,
        "faults": _fault_shares(group.faults),
        "drivers": {
            name: {
                "human_filter_on": _driver_figures(group, driver, human_filter=True),
                "human_filter_off": _driver_figures(group, driver, human_filter=False),
                "navsim_v1": _driver_figures_v1(group, driver) if group.navsim_v1 else None,
            }
            for driver, name in enumerate(DRIVERS)
        },
    }


def _summary(values: Array) -> dict[str, Any]:
    if not len(values):
        return {"count": 0, "mean": None, "deviation": None, "quantiles": None}
    quantiles = dict(zip(map(str, QUANTILES), np.quantile(values, QUANTILES).tolist(), strict=True))
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "deviation": float(values.std()),
        "quantiles": quantiles,
    }


def _shares(values: Sequence[str], names: Sequence[str] | None = None, total: int | None = None) -> dict[str, float]:
    """Share of each name, in the order given, or else the most frequent first."""
    count = total or len(values)
    if names is None:
        names = sorted(set(values), key=lambda name: (-values.count(name), name))
    return {name: values.count(name) / count for name in names}


def _object_figures(counts: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "mean": float(counts[:, kind].mean()),
            "most": int(counts[:, kind].max()),
            "share_with_any": float((counts[:, kind] > 0).mean()),
        }
        for kind, name in enumerate(OBJECT_TYPES)
    }


def _radius_shares(group: SceneGroup) -> dict[str, float]:
    """Classes of the sharpest curve, tightest first; those that hardly move are one of their own."""
    curvature = group.known("curvature_per_m")
    bounds = np.array([1 / radius for radius in RADII_M[::-1]])
    rows = np.bincount(np.digitize(curvature, bounds), minlength=len(RADII_M) + 1)[::-1]
    names = [f"below {RADII_M[0]:.0f}"]
    names += [f"{low:.0f} to {high:.0f}" for low, high in pairwise(RADII_M)]
    names += [f"above {RADII_M[-1]:.0f}"]
    total = len(group.measures)
    shares = {name: int(count) / total for name, count in zip(names, rows, strict=True)}
    return {**shares, "hardly moves": 1 - len(curvature) / total}


def _place(scene: SceneMeasures, places: Mapping[tuple[str, int], str]) -> str:
    slot = scene.roadblock // SLOT_FIDS
    return f"{scene.location}/{slot}: {places.get((scene.location, slot), 'unknown')}"


def _fault_shares(faults: Sequence[tuple[str, ...] | None]) -> dict[str, Any] | None:
    labelled = [kinds for kinds in faults if kinds is not None]
    if not labelled:
        return None
    shares = {kind: float(np.mean([kind in kinds for kinds in labelled])) for kind in FAULTS}
    return {"labelled": len(labelled), "any": float(np.mean([bool(kinds) for kinds in labelled])), "share": shares}


def _driver_figures(group: SceneGroup, driver: int, *, human_filter: bool) -> dict[str, Any]:
    scores = group.scores(driver, human_filter=human_filter)
    means: dict[str, float | None] = {name: float(getattr(scores, name).mean()) for name in SubScores.names()}
    paired = scores.has_earlier_frame
    means["two_frame_extended_comfort"] = (
        float(scores.two_frame_extended_comfort[paired].mean()) if paired.any() else None
    )
    return {"score": asdict(mean_interval(epdms(scores), group.log_names)), "sub_scores": means}


def _driver_figures_v1(group: SceneGroup, driver: int) -> dict[str, Any]:
    scores = group.navsim_v1[driver]
    means = {name: float(getattr(scores, name).mean()) for name in PDMSubScores.names()}
    return {"score": asdict(mean_interval(pdms(scores), group.log_names)), "sub_scores": means}
