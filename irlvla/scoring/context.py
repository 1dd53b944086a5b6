"""Everything about a scene that scoring needs, worked out once from log and map."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely

from irlvla.checkout import scorer_digest
from irlvla.data.maps import CityMap, load_map
from irlvla.data.scenes import SceneSet
from irlvla.errors import SceneDataError
from irlvla.geometry import world_to_ego
from irlvla.scoring.editions import NAVSIM_V2, Edition
from irlvla.scoring.record_store import RecordStore
from irlvla.scoring.rollout_scores import score_rollouts
from irlvla.scoring.workers import Workers, run_tasks
from irlvla.simulation.bicycle import AX, AY, HEADING, VX, VY, X, Y
from irlvla.simulation.drivable import Road, nearby_polygons
from irlvla.simulation.observation import Tracks, interpolate_tracks, red_lights, replayed
from irlvla.simulation.pdm_closed import forecast, proposals, reference_of_proposal
from irlvla.simulation.polygons import polygon_set
from irlvla.simulation.reference import reference_poses, resample_poses, through_center
from irlvla.simulation.route import centerline, correct_route, lanes_of_route, start_lane
from irlvla.simulation.tracker import simulate
from irlvla.simulation.traffic import RedLights, Traffic, traffic_from_boxes
from irlvla.types import HISTORY_FRAMES, PLAN_POSES, Array, Frame, Scene, SceneFailure, SubScores

HISTORY_STEP_US = 100_000

_SCENES_PER_TASK = 16

_NOTHING_FAILED = SubScores(
    **{name: np.ones(()) for name in SubScores.names()}, has_earlier_frame=np.zeros((), dtype=np.bool_)
)


@dataclass(frozen=True)
class ScoringContext:
    """One scene as the scorer sees it: plain arrays, in the world frame unless said otherwise."""

    token: str
    edition: str
    """Name of the edition of the benchmark that this is the context for; see `irlvla.scoring.editions`."""
    map_location: str
    now_us: int
    """Time of the current frame."""
    ego_state: Array
    """[11] rear-axle state now."""
    history_states: Array
    """[H, 11] the 1.5 s before now at 0.1 s (H is 14 or 15), for history comfort."""
    road: Road
    tracks: Tracks
    """Every object over the edition's traffic steps as logged, those included that log replay removes."""
    traffic: Traffic
    """Log-replay traffic, laid out for the kernels."""
    lights: RedLights
    """Connectors of the logged route and when they are red."""
    pdm_proposal: int
    """Which of its 15 proposals PDM-Closed drives."""
    pdm_reference: Array
    """[41, 3] poses PDM-Closed asks for."""
    pdm_rollout: Array
    """[41, 11] states when they are tracked."""
    pdm_progress_m: float
    """Its progress along the route in log-replay traffic."""
    pdm_gate: float
    """Product of its multiplicative sub-scores in log-replay traffic."""
    human_plan: Array
    """[8, 3] what the human drove, in the ego frame; [0, 3] in a synthetic scene."""
    human_rollout: Array
    """[41, 11] states when that is tracked; [0, 11] in a synthetic scene."""
    human_scores: SubScores
    """Scalars: the human alone in log-replay traffic; all 1 in a synthetic scene and where the edition has no human
    filter, so that nothing is filtered."""

    @property
    def is_synthetic(self) -> bool:
        return len(self.token) == 17


def _ego_state(frame: Frame) -> Array:
    """State [11] of a logged frame; steering and yaw rate are not logged and stay zero."""
    x, y, heading = frame.ego_pose_world
    state = np.zeros(11)
    state[X], state[Y] = through_center(x, y, heading)
    state[HEADING] = heading
    state[VX], state[VY] = frame.ego_velocity_mps
    state[AX], state[AY] = frame.ego_acceleration_mps2
    return state


def _history_states(scene: Scene) -> Array:
    """States [H, 11] driven before now, sampled every 0.1 s from the first history frame; now itself is left out.

    Source: navsim `PDMScorer._calculate_history_comfort`. 1.5 s to the microsecond give 14 states, slightly more 15.
    """
    times_us = np.array([frame.time_us for frame in scene.history], dtype=np.int64)
    logged = np.stack([_ego_state(frame) for frame in scene.history])
    wanted_us = np.arange(times_us[0], times_us[-1], HISTORY_STEP_US, dtype=np.int64)[:-1]
    states = np.zeros((len(wanted_us), 11))
    states[:, [X, Y, HEADING]] = resample_poses(logged[:, [X, Y, HEADING]], times_us, wanted_us)
    for column in (VX, VY, AX, AY):
        states[:, column] = np.interp(wanted_us, times_us, logged[:, column])
    return states


def _route(scene: Scene, city_map: CityMap) -> list[int]:
    """Distinct blocks of the logged route."""
    if not scene.now.roadblock_ids:
        raise SceneDataError(scene.token, "the log gives no route; leave such scenes out with the filter's has_route")
    route = list(dict.fromkeys(int(block) for block in scene.now.roadblock_ids))
    unknown = [block for block in route if not city_map.has_roadblock(block)]
    if unknown:
        raise SceneDataError(
            scene.token, f"the map of {city_map.location} knows no roadblock {unknown[0]}; log and map do not match"
        )
    return route


def build_context(scene: Scene, city_map: CityMap, edition: Edition = NAVSIM_V2) -> ScoringContext:
    """Work out what scoring needs of a scene, PDM-Closed's and the human's drives included.

    Args:
        scene: History, now, and at least as many future frames as the edition's traffic takes.
        city_map: The city the scene lies in.
        edition: Whose scoring the context is for.
    Raises:
        SceneDataError: The scene has no route, too short a future, or a route the map does not know, or the edition has
            no such scenes.
    Source: navsim `MetricCacheProcessor.compute_metric_cache`; PDM-Closed's memory across scenes is left out.
    """
    if scene.is_synthetic and not edition.is_extended:
        raise SceneDataError(scene.token, f"{edition.name} knows no synthetic follow-up scenes")
    if len(scene.future) < edition.future_frames or len(scene.history) < HISTORY_FRAMES:
        raise SceneDataError(
            scene.token,
            f"has {len(scene.history)} history and {len(scene.future)} future frames, scoring needs "
            f"{HISTORY_FRAMES} and {edition.future_frames}",
        )
    now = scene.now
    ego_state = _ego_state(now)
    ego_pose = ego_state[:3]
    following = (now, *scene.future[: edition.future_frames])
    logged_route = _route(scene, city_map)
    ahead = _road_ahead(scene, city_map)
    road = ahead.road

    lights = red_lights(following, set(lanes_of_route(city_map, logged_route)), city_map)
    tracks = interpolate_tracks(following, edition.traffic_steps)
    replay = replayed(tracks, ego_pose) if edition.clears_start else tracks
    traffic = traffic_from_boxes(replay.boxes, replay.present, replay.types, replay.first_speed_mps)

    proposal, pdm_reference = _pdm_closed(edition, now, ahead, city_map)
    pdm_rollout = simulate(pdm_reference, ego_state)
    pdm = edition.judge(road, traffic, lights, pdm_rollout[None])

    human_plan, human_rollout = np.zeros((0, 3)), np.zeros((0, 11))
    human_scores = _NOTHING_FAILED
    if not scene.is_synthetic:
        poses_world = np.stack([frame.ego_pose_world for frame in scene.future[:PLAN_POSES]])
        human_plan = world_to_ego(poses_world, now.ego_pose_world)
        human_rollout = simulate(reference_poses(human_plan[None], ego_pose, now.time_us), ego_state)[0]
    if not scene.is_synthetic and edition.is_extended:
        human = score_rollouts(road, traffic, lights, human_rollout[None], None).with_progress(np.ones(1))
        human_scores = SubScores(*(np.squeeze(value) for value in vars(human).values()))
    return ScoringContext(
        token=scene.token,
        edition=edition.name,
        map_location=scene.map_location,
        now_us=now.time_us,
        ego_state=ego_state,
        history_states=_history_states(scene),
        road=road,
        tracks=tracks,
        traffic=traffic,
        lights=lights,
        pdm_proposal=proposal,
        pdm_reference=pdm_reference,
        pdm_rollout=pdm_rollout,
        pdm_progress_m=float(pdm.progress_m[0]),
        pdm_gate=float(pdm.gate[0]),
        human_plan=human_plan,
        human_rollout=human_rollout,
        human_scores=human_scores,
    )


class _RoadAhead(NamedTuple):
    """The road along the corrected route, as far as it is known from the present frame."""

    road: Road
    lanes: list[int]
    """Lanes and connectors of the route."""
    start: int
    """Lane of the ego vehicle."""


def _road_ahead(scene: Scene, city_map: CityMap) -> _RoadAhead:
    ego_pose = _ego_state(scene.now)[:3]
    route = correct_route(city_map, ego_pose, _route(scene, city_map))
    lanes = lanes_of_route(city_map, route)
    if not lanes:
        raise SceneDataError(scene.token, "no block of the route has a lane; log and map do not match")
    geometries, kinds, ids = nearby_polygons(city_map, ego_pose)
    start = start_lane(city_map, ego_pose, lanes, shapely.STRtree(geometries), ids)
    is_lane = np.array([city_map.has_lane(int(lane)) for lane in ids], dtype=np.bool_)
    road = Road(
        polygon_set(geometries), kinds, np.isin(ids, lanes) & is_lane, centerline(city_map, start, lanes, route)
    )
    return _RoadAhead(road, lanes, start)


def pdm_closed_plan(scene: Scene, city_map: CityMap) -> Array:
    """What PDM-Closed would drive, [41, 3] reference poses (world) every 0.1 s; needs no future.

    Raises:
        SceneDataError: The scene has no route, or one the map does not know.
    """
    return _pdm_closed(NAVSIM_V2, scene.now, _road_ahead(scene, city_map), city_map)[1]


def _pdm_closed(edition: Edition, now: Frame, ahead: _RoadAhead, city_map: CityMap) -> tuple[int, Array]:
    """PDM-Closed's choice among its proposals, and the reference poses [41, 3] that it makes of it."""
    ego_state = _ego_state(now)
    lights = red_lights([now], set(ahead.lanes), city_map)
    expected = forecast(interpolate_tracks([now]), ego_state[:3], lights, edition.traffic_steps)
    poses = proposals(ahead.road.centerline, ego_state, city_map.speed_limit_mps(ahead.start), expected)
    judged = edition.judge(ahead.road, expected.traffic, expected.lights, simulate(poses, ego_state))
    best_m = float((judged.progress_m * judged.gate).max())
    choice = int(np.argmax(judged.score(best_m, 1.0)))
    return choice, reference_of_proposal(poses[choice], now.time_us)


def _digest(*parts: bytes) -> bytes:
    hasher = hashlib.blake2b(digest_size=20)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.digest()


@lru_cache(maxsize=16)
def _file_digest(path: Path, _modified_ns: int) -> bytes:
    return _digest(path.read_bytes())


def _cache_key(scene: Scene, city_map: CityMap, edition: Edition) -> bytes:
    """Digest of all that a context is made of: a cached one can be missing, but never stale."""
    parts = [scorer_digest(), _file_digest(city_map.path, city_map.path.stat().st_mtime_ns)]
    parts.append(repr((edition.name, scene.token, scene.map_location, np.__version__, shapely.__version__)).encode())
    for frame in scene.frames:
        named = (frame.time_us, frame.roadblock_ids, frame.traffic_lights, frame.boxes.track_tokens)
        ego = (frame.ego_pose_world, frame.ego_velocity_mps, frame.ego_acceleration_mps2)
        objects = (frame.boxes.boxes, frame.boxes.velocity_mps, frame.boxes.types)
        parts += [repr(named).encode(), *(array.tobytes() for array in (*ego, *objects))]
    return _digest(*parts)


Built = tuple[list[ScoringContext], list[SceneFailure]]


def _build_some(scenes: SceneSet, edition: Edition, cache: Path | None) -> Built:
    """Contexts of a few scenes in this process."""
    contexts, failures = [], []
    store = None if cache is None else RecordStore(cache)
    for position, token in enumerate(scenes.tokens):
        try:
            scene = scenes[position]
            city_map = load_map(scenes.root, scene.map_location)
            if store is None:
                contexts.append(build_context(scene, city_map, edition))
                continue
            key = _cache_key(scene, city_map, edition)
            context = store.load(key, ScoringContext)
            if context is None:
                context = build_context(scene, city_map, edition)
                store.write(key, context)
            contexts.append(context)
        except SceneDataError as error:
            failures.append(SceneFailure(token, error.reason, "context"))
    return contexts, failures


def build_contexts(
    scenes: SceneSet,
    *,
    edition: Edition = NAVSIM_V2,
    workers: Workers = 1,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, ScoringContext], list[SceneFailure]]:
    """Scoring contexts of a set of scenes.

    Args:
        scenes: The scenes.
        edition: Whose scoring the contexts are for.
        workers: Who builds; 1 builds in this process. See `irlvla.scoring.workers`.
        cache: Folder where contexts are kept between runs; an interrupted build goes on where it stopped. None keeps
            nothing.
        on_progress: Called with (scenes done, scenes in all) now and then.
    Returns:
        Contexts by token, in the order of the set; and the scenes that have none, with the reason.
    Raises:
        ConfigError: `workers` is none of the known ones, or its cluster cannot be used.
        DataError: A map or the cache cannot be used.
        RunError: Some scenes keep killing the worker that handles them.
    """
    light, cache = scenes.detached(), None if cache is None else cache.absolute()
    tasks = [light[start : start + _SCENES_PER_TASK] for start in range(0, len(scenes), _SCENES_PER_TASK)]
    built: list[Built] = [([], [])] * len(tasks)
    done = 0
    build = partial(_build_some, edition=edition, cache=cache)
    for index, result in run_tasks(build, tasks, workers, describe_scenes):
        built[index] = result
        done += len(tasks[index])
        if on_progress is not None:
            on_progress(done, len(scenes))
    contexts = {context.token: context for some, _ in built for context in some}
    return contexts, [failure for _, failures in built for failure in failures]


def describe_scenes(scenes: SceneSet) -> str:
    """A few scenes by name, for messages."""
    tokens = scenes.tokens
    return f"scenes {', '.join(tokens[:3])}" + (f" … {tokens[-1]} ({len(tokens)})" if len(tokens) > 3 else "")
