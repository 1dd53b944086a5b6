"""Closed loop: let policies drive on the held-out networks, and write down what happened.

Follow one call of `drive_policies`: routes are chosen that SUMO's own driver manages; each driver drives each route,
which begins the same for all of them; the world's referee tells what truly happened; afterwards every plan made on the
way is scored as NAVSIM would score it, beside what was then truly driven. One JSON file a drive; a drive that has one
is not driven again.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from irlvla.errors import ConfigError, DataError, RunError, SceneDataError
from irlvla.evaluation.evaluate import measurement_stamps
from irlvla.evaluation.policies import ConstantVelocity, LearnedPolicy, PdmClosedPlanner
from irlvla.evaluation.results import file_stem
from irlvla.files import write_text
from irlvla.geometry import ego_to_world, world_to_ego
from irlvla.scoring.context import ScoringContext, build_context
from irlvla.scoring.epdms import epdms
from irlvla.scoring.score import score_frames, score_rollout
from irlvla.types import (
    COMMANDS,
    HISTORY_FRAMES,
    PLAN_POSES,
    PLAN_STEP_S,
    ROLLOUT_STATES,
    ROLLOUT_STEP_S,
    Array,
    Policy,
    Scene,
    SubScores,
)
from irlvla.world.closed_loop import FRAME_STEPS, ClosedLoop, NoDriveError, Stretch
from irlvla.world.overview import CAMERAS_PX, SIDE_PX, Overview
from irlvla.world.place import Place, held_out_networks, open_place
from irlvla.world.presets import WorldPreset

BUILT_IN = ("human", "constant-velocity", "pdm-closed")
"""Drivers that need no training; `human` is SUMO's own driver."""

FILMS_PER_S = 10
"""Pictures a second of a film: one a simulated step."""

WRONG_WAY_TOLERATED_M = 2.0
"""Wrong-way spells shorter than this are no happening, as the scorer forgives them."""

_MANAGED = "managed"
_WORDS = {"off_road": "off the road", "wrong_way": "wrong way"}
_FORMAT = 1

MIN_HUMAN_MPS = 1.5
"""Routes on which SUMO's own driver is slower than this are left out: it stands in a jam that nobody could leave."""

_TRIES_PER_ROUTE = 12

OnProgress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Driver:
    """Who drives."""

    name: str
    make_policy: Callable[[Place], Policy | None]
    """Policy for a place; None leaves the driving to SUMO."""
    seed: int | None = None
    """Seed of the training run."""
    identity: str = ""
    """Digest of the weights, so that drives of others are never taken for this driver's."""
    looks: bool = False
    """Whether it needs images and point clouds."""

    @property
    def stem(self) -> str:
        return file_stem(self.name, self.seed)


@dataclass(frozen=True)
class Route:
    """One drive to be driven by everybody."""

    name: str
    network: int
    """Into the preset's networks."""
    seed: int


@dataclass(frozen=True)
class Happening:
    """Something that went wrong, and when."""

    kind: str
    """`collision`, `red light`, `off the road` or `wrong way`."""
    time_s: float
    at_fault: bool = True
    what: str = ""
    """Type of what was touched."""


@dataclass(frozen=True)
class DriveRecord:
    """One drive of one driver."""

    driver: str
    seed: int | None
    route: str
    network: str
    end: str
    """Why it ended: an `irlvla.world.closed_loop.End`."""
    duration_s: float
    moved_m: float
    progress_m: float
    """Along the route."""
    route_m: float
    """Length of the route."""
    happenings: tuple[Happening, ...]
    off_road_s: float
    wrong_way_s: float
    wrong_way_m: float
    planned: dict[str, list[float | None]]
    """Sub-scores and `score` of each plan made on the way, in NAVSIM's pseudo-simulation; None where one does not
    apply."""
    driven: dict[str, list[float | None]]
    """The same of what was truly driven in the four seconds after each plan."""
    wall_s: float
    """Time it took, scoring left out."""

    @property
    def progress_share(self) -> float:
        return float(np.clip(self.progress_m / self.route_m, 0.0, 1.0))

    def count(self, kind: str, *, at_fault: bool = True) -> int:
        return sum(1 for item in self.happenings if item.kind == kind and item.at_fault == at_fault)


@dataclass(frozen=True)
class Drives:
    """All drives of one call."""

    stamps: Mapping[str, Any]
    records: tuple[DriveRecord, ...]
    left_out: Mapping[str, int]
    """Routes that were tried and left out, by what SUMO's own driver came to on them."""

    @property
    def drivers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(record.driver for record in self.records))

    def of(self, driver: str) -> tuple[DriveRecord, ...]:
        return tuple(record for record in self.records if record.driver == driver)


def find_driver(name: str) -> Driver:
    """A driver by its name on the command line: one of BUILT_IN, a run folder, or NAME=RUN.

    Raises:
        RunError: there is no finished run.
    """
    if name == "human":
        return Driver("human", lambda place: None)
    if name == "constant-velocity":
        return Driver(ConstantVelocity.name, lambda place: ConstantVelocity())
    if name == "pdm-closed":
        return Driver(PdmClosedPlanner.name, lambda place: PdmClosedPlanner(place.city_map))
    label, _, run = name.rpartition("=")
    if not Path(run).exists():
        raise RunError(f"{run} is no run folder, nor one of the built-in drivers: {', '.join(BUILT_IN)}")
    policy = LearnedPolicy(Path(run), name=label or None)
    return Driver(policy.name, lambda place: policy, policy.seed, policy.weights_digest, looks=True)


def drive_policies(
    drivers: Sequence[Driver],
    preset: WorldPreset,
    out: Path,
    *,
    drives: int = 10,
    seed: int = 0,
    time_limit_s: float = 60.0,
    film: bool = False,
    on_progress: OnProgress | None = None,
) -> Drives:
    """Let every driver drive the same drives.

    Args:
        drivers: Each with its own name; several training runs of one policy share a name and differ in `seed`.
        preset: World whose held-out networks are driven; the cameras are the preset's.
        out: Folder for one JSON file a drive, films, and the networks; an earlier call's drives in it are kept.
        drives: How many each.
        seed: Seed of the world and of the drives.
        time_limit_s: Longest drive.
        film: Whether an MP4 of cameras and the view from above is made of each drive.
        on_progress: Told (kind of work, done, in all, what was done).
    Raises:
        ConfigError: no driver, two that cannot be told apart, or no held-out network.
        RunError: `out` holds drives of another kind, or SUMO dies; what is finished is kept.
    """
    stems = [driver.stem for driver in drivers]
    doubled = sorted({stem for stem in stems if stems.count(stem) > 1})
    if not drivers or doubled:
        raise ConfigError(
            f"two drivers are both called {doubled[0]!r}: name one of them, as in NAME=RUN" if doubled else "no driver"
        )
    networks = held_out_networks(preset)
    if not networks or drives < 1 or time_limit_s <= 0:
        raise ConfigError(
            f"nothing to drive: {drives} drives of {time_limit_s:g} s on {len(networks)} held-out networks of preset "
            f"{preset.name!r}"
        )
    settings = {"preset": asdict(preset), "seed": seed, "time_limit_s": time_limit_s, "format": _FORMAT}
    _claim(out / "drives.json", settings, f"{out} holds drives of another world, seed or length")
    for driver in drivers:
        claim = {"driver": driver.name, "seed": driver.seed, "weights": driver.identity}
        _claim(
            out / "drives" / driver.stem / "driver.json",
            claim,
            f"{out / 'drives' / driver.stem} holds drives of other weights",
        )
    report = on_progress or (lambda work, done, total, what: None)
    places = _Places(preset, seed, out / "networks")
    routes, left_out = choose_routes(places, out / "routes.json", drives, time_limit_s, on_progress=report)
    records: dict[tuple[str, str], DriveRecord] = {}
    for route in routes:
        for driver in drivers:
            file = out / "drives" / driver.stem / f"{route.name}.json"
            movie = file.with_suffix(".mp4")
            record = _read_record(file)
            if record is None or (film and not movie.is_file()):
                place = places.open(route.network)
                with closing(ClosedLoop(place, time_limit_s=time_limit_s, sensors=driver.looks)) as loop:
                    record = drive_once(loop, driver, route, Film(movie, place) if film else None)
                write_text(file, json.dumps(asdict(record)) + "\n")
            records[driver.stem, route.name] = record
            report("drives", len(records), drives * len(drivers), f"{driver.name}, route {route.name}: {record.end}")
    facts = {
        "world": preset.name,
        "networks": [preset.networks[network].location for network in networks],
        "seed": seed,
        "time_limit_s": time_limit_s,
        "drives": drives,
        "stage": "closed loop",
        "traffic": "SUMO, reacts",
        "human_filter": False,
    }
    ordered = tuple(records[stem, route.name] for stem in stems for route in routes)
    return Drives({**measurement_stamps(), **facts}, ordered, left_out)


class _Places:
    """The networks of a call, laid out when they are needed; one at a time is kept."""

    def __init__(self, preset: WorldPreset, seed: int, folder: Path) -> None:
        self.networks = held_out_networks(preset)
        self.seed = seed
        self._preset = preset
        self._folder = folder
        self._opened: tuple[int, Place] | None = None

    def open(self, network: int) -> Place:
        if self._opened is None or self._opened[0] != network:
            self._opened = network, open_place(self._preset, network, self.seed, self._folder)
        return self._opened[1]


def choose_routes(
    places: _Places, file: Path, count: int, time_limit_s: float, *, on_progress: OnProgress
) -> tuple[list[Route], dict[str, int]]:
    """Routes that SUMO's own driver drives without touching anything, and gets along on; ordered by network.

    NAVSIM leaves scenes out that the human fails; here, what the traffic makes impossible says nothing about a policy.

    Args:
        file: Remembers what was tried, so that an interrupted search goes on and a finished one is not repeated.
        count: Routes wanted, shared evenly by the networks.
    Returns:
        The routes, and how many were left out, by why.
    Raises:
        NoDriveError: too few are found.
    """
    tried: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    routes: list[Route] = []
    for place_number, network in enumerate(places.networks):
        share = len(range(place_number, count, len(places.networks)))
        outcomes = tried.setdefault(str(network), [])
        found = 0
        for attempt in range(_TRIES_PER_ROUTE * share):
            if found == share:
                break
            seed = int(np.random.default_rng([places.seed, network, attempt, 67]).integers(2**31))
            if attempt == len(outcomes):
                with closing(ClosedLoop(places.open(network), time_limit_s=time_limit_s, sensors=False)) as loop:
                    outcomes.append(_rehearse(loop, seed))
                write_text(file, json.dumps(tried) + "\n")
            if outcomes[attempt] == _MANAGED:
                routes.append(Route(f"{network}-{attempt:03d}", network, seed))
                found += 1
            on_progress("routes", len(routes), count, outcomes[attempt])
        if found < share:
            raise NoDriveError(
                f"only {found} of {share} routes were found on network {network} in {len(outcomes)} tries: give "
                "another seed, a preset with larger networks, or fewer drives"
            )
    failed = [outcome for outcomes in tried.values() for outcome in outcomes if outcome != _MANAGED]
    return routes, {outcome: failed.count(outcome) for outcome in sorted(set(failed))}


def _rehearse(loop: ClosedLoop, seed: int) -> str:
    """What SUMO's own driver comes to on a route."""
    try:
        loop.start(seed, "sumo")
    except NoDriveError:
        return "no car to begin with"
    stretches = [loop.advance()]
    while stretches[-1].end is None:
        stretches.append(loop.advance())
    if stretches[-1].end not in ("time limit", "route driven"):
        return stretches[-1].end
    happened = _happenings(stretches)
    if happened:
        return happened[0].kind
    moved_m = sum(float(stretch.judgement.moved_m.sum()) for stretch in stretches)
    return _MANAGED if moved_m >= MIN_HUMAN_MPS * PLAN_STEP_S * len(stretches) else "jam"


def drive_once(loop: ClosedLoop, driver: Driver, route: Route, film: "Film | None" = None) -> DriveRecord:
    """One drive, from its beginning to its end, and the scores of its plans."""
    policy = driver.make_policy(loop.place)
    start = time.perf_counter()
    scene = loop.start(route.seed, "sumo" if policy is None else "plans")
    plans: list[Array] = []
    stretches: list[Stretch] = []
    with film or nullcontext():
        while not stretches or stretches[-1].end is None:
            plan = None if policy is None else _checked_plan(policy, scene)
            plan_world = None if plan is None else ego_to_world(plan, loop.now.ego_state[:3])
            stretches.append(loop.advance(plan))
            scene = loop.scene
            if plan is not None:
                plans.append(plan)
            if film is not None:
                film.show(loop, stretches[-1], plan_world, driver.name)
    loop.run_out()
    wall_s = time.perf_counter() - start
    planned, driven = _scores(loop, plans, len(stretches))
    judgements = [stretch.judgement for stretch in stretches]
    end = stretches[-1].end
    assert end is not None
    return DriveRecord(
        driver=driver.name,
        seed=driver.seed,
        route=route.name,
        network=loop.place.spec.location,
        end=end,
        duration_s=round(PLAN_STEP_S * len(stretches), 3),
        moved_m=float(sum(judgement.moved_m.sum() for judgement in judgements)),
        progress_m=loop.progress_m,
        route_m=loop.referee.route_m,
        happenings=_happenings(stretches),
        off_road_s=round(ROLLOUT_STEP_S * sum(int(judgement.off_road.sum()) for judgement in judgements), 3),
        wrong_way_s=round(ROLLOUT_STEP_S * sum(int(judgement.wrong_way.sum()) for judgement in judgements), 3),
        wrong_way_m=float(sum(judgement.moved_m[judgement.wrong_way].sum() for judgement in judgements)),
        planned=planned,
        driven=driven,
        wall_s=round(wall_s, 3),
    )


class Film:
    """An MP4 of one drive, ten pictures a second.

    Args:
        path: The file; it appears when the film is complete.
        place: Where is driven.
    """

    def __init__(self, path: Path, place: Place) -> None:
        self._path = path
        self._part = path.with_suffix(".part.mp4")
        self._overview = Overview(place)

    def __enter__(self) -> "Film":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._part), code, FILMS_PER_S, (CAMERAS_PX + SIDE_PX, SIDE_PX))
        if not self._writer.isOpened():
            raise RunError(f"this OpenCV cannot write {self._path}: leave films out, or install one with FFmpeg")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._writer.release()
        if kind is None:
            self._part.replace(self._path)
        else:
            self._part.unlink(missing_ok=True)

    def show(self, loop: ClosedLoop, stretch: Stretch, plan_world: Array | None, name: str) -> None:
        """Add one half second."""
        command = COMMANDS[int(np.argmax(loop.scene.now.command))]
        for number, moment in enumerate(stretch.moments[1:], start=1):
            time_s = loop.time_s - (len(stretch.moments) - 1 - number) * ROLLOUT_STEP_S
            words = [
                f"{name}   {time_s:.1f} s   {3.6 * moment.ego_state[3]:.0f} km/h   {command}",
                f"{loop.progress_m:.0f} of {loop.referee.route_m:.0f} m",
            ]
            if stretch.end is not None:
                words.append(stretch.end)
            picture = self._overview.picture(loop, moment, plan_world, words)
            self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def _checked_plan(policy: Policy, scene: Scene) -> Array:
    plan = policy.plan([scene])[0]
    if not np.isfinite(plan).all():
        raise SceneDataError(scene.token, f"{policy.name!r} plans poses that are not finite numbers")
    return plan


def _happenings(stretches: Sequence[Stretch]) -> tuple[Happening, ...]:
    found = []
    for number, stretch in enumerate(stretches):
        start_s = PLAN_STEP_S * number
        judgement = stretch.judgement
        found += [
            Happening("collision", start_s + ROLLOUT_STEP_S * touched.step, touched.at_fault, touched.other_type)
            for touched in judgement.collisions
        ]
        found += [Happening("red light", start_s + ROLLOUT_STEP_S * step) for step in judgement.red_lights_run]
    moved = np.concatenate([stretch.judgement.moved_m for stretch in stretches])
    for kind, least_m in (("off_road", 0.0), ("wrong_way", WRONG_WAY_TOLERATED_M)):
        flags = np.concatenate([getattr(stretch.judgement, kind) for stretch in stretches])
        for first, last in _spells(flags):
            if moved[first : last + 1][flags[first : last + 1]].sum() >= least_m:
                found.append(Happening(_WORDS[kind], ROLLOUT_STEP_S * (first + 1)))
    rounded = (replace(item, time_s=round(item.time_s, 3)) for item in found)
    return tuple(sorted(rounded, key=lambda item: item.time_s))


def _spells(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last step of each spell of True; a gap below a second does not end it."""
    spells: list[tuple[int, int]] = []
    for step in np.flatnonzero(flags).tolist():
        if spells and step - spells[-1][1] <= round(1.0 / ROLLOUT_STEP_S):
            spells[-1] = spells[-1][0], step
        else:
            spells.append((step, step))
    return spells


Scores = dict[str, list[float | None]]


def _scores(loop: ClosedLoop, plans: Sequence[Array], count: int) -> tuple[Scores, Scores]:
    """Sub-scores of the plans made at the first `count` half seconds, and of what was driven after each of them."""
    names = (*SubScores.names(), "score")
    planned: Scores = {name: [] for name in names}
    driven: Scores = {name: [] for name in names}
    contexts: list[ScoringContext] = []
    poses: list[Array] = []
    for number in range(count):
        frames = loop.frames[number : number + HISTORY_FRAMES + PLAN_POSES]
        states = np.array(loop.states[FRAME_STEPS * number : FRAME_STEPS * number + ROLLOUT_STATES])
        # Where SUMO took its own driver off the road, the last seconds have no future.
        if len(frames) < HISTORY_FRAMES + PLAN_POSES or len(states) < ROLLOUT_STATES:
            break
        now = frames[HISTORY_FRAMES - 1]
        scene = Scene(now.token, loop.name, loop.place.spec.location, tuple(frames))
        context = build_context(scene, loop.place.city_map)
        future = np.stack([frame.ego_pose_world for frame in scene.future])
        contexts.append(context)
        poses.append(plans[number] if plans else world_to_ego(future, now.ego_pose_world))
        _append(driven, score_rollout(context, states[None]))
    if contexts:
        earlier = np.arange(-1, len(contexts) - 1)
        _append(planned, score_frames(contexts, np.stack(poses), earlier))
    return planned, driven


def _append(scores: Scores, more: SubScores) -> None:
    for name in SubScores.names():
        values = getattr(more, name).tolist()
        if name == "two_frame_extended_comfort":
            values = [v if has else None for v, has in zip(values, more.has_earlier_frame.tolist(), strict=True)]
        scores[name] += values
    scores["score"] += epdms(more).tolist()


def _claim(file: Path, content: Mapping[str, Any], refusal: str) -> None:
    """Make a folder ours, or find that it is.

    Raises:
        RunError: It is somebody else's.
    """
    text = json.dumps(content, sort_keys=True, indent=1) + "\n"
    if not file.is_file():
        write_text(file, text)
    elif file.read_text(encoding="utf-8") != text:
        raise RunError(f"{refusal}: give another --out, or delete it")


def _read_record(file: Path) -> DriveRecord | None:
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        happenings = tuple(Happening(**item) for item in content.pop("happenings"))
        return DriveRecord(**content, happenings=happenings)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file}: damaged drive ({error}); delete it and give the same command again") from error
