"""What if somebody told the driver to turn, to stop, to change lanes: plans that obey, scored, scene by scene.

A plan comes from the map and from what is known of the next four seconds. It obeys; whether that is safe the scorer
says. Where a scene leaves no way to obey, the answer says why. Only scene, map and scoring context are read, so that
NAVSIM's own scenes can be instructed as well.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from irlvla.data.language import (
    INSTRUCTIONS,
    SPEED_CHANGE_MPS,
    SPEED_CHANGE_SHARE,
    InstructedPlan,
    load_instructions,
    meta_action,
    write_instructions,
)
from irlvla.data.maps import CityMap, load_map
from irlvla.data.scenes import human_plan, open_scenes
from irlvla.data.splits import SceneFilter, Split
from irlvla.geometry import EGO_FRONT_M, EGO_WIDTH_M, world_to_ego
from irlvla.scoring.context import ScoringContext, build_context, build_contexts
from irlvla.scoring.epdms import epdms
from irlvla.scoring.score import score
from irlvla.scoring.workers import Workers, run_tasks
from irlvla.types import PLAN_POSES, Array, Scene, SubScores
from irlvla.world.ways import (
    MAX_CURVATURE,
    WAY_M,
    Direction,
    Pace,
    Place,
    Way,
    along_route,
    bend_mps,
    chain,
    curvature,
    direction_of,
    drive,
    from_car,
    joined,
    lane_way,
    moved_over,
    neighbour,
    place_of,
    shifted,
)

JUNCTION_S = 5.0
JUNCTION_M = 15.0
"""Farther away than JUNCTION_S at the present speed and JUNCTION_M a junction is none to be instructed about."""
_LANE_CHANGE_S = 3.6
_SHORTEST_CHANGE_M = 11.0
_SHORTEST_WAY_M = 3.0
_STANDING_MPS = 0.5
_LIGHT_REACH_M = 40.0
_DEFAULT_LIMIT_MPS = 50 / 3.6
_STOP_BRAKING_MPS2 = 3.2
_SIDES: dict[str, Literal["left", "right"]] = {"lane left": "left", "lane right": "right"}
_DIRECTIONS: dict[str, Direction] = {"turn left": "left", "go straight": "straight", "turn right": "right"}
_TURN_WORDS = {"left": "to the left", "straight": "straight ahead", "right": "to the right"}


@dataclass(frozen=True)
class _Drive:
    """How an instruction is obeyed."""

    says: str
    way: Way
    pace: Pace
    over_m: float = 0.0
    """How far along the way the next lane, or the edge, is reached."""


class _Situation:
    """Where the ego vehicle is and how it drives."""

    def __init__(self, scene: Scene, city_map: CityMap, context: ScoringContext) -> None:
        self.scene, self.city_map, self.context = scene, city_map, context
        self.route = [int(block) for block in scene.now.roadblock_ids]
        self.pose = context.ego_state[:3]
        self.speed_mps = float(scene.now.ego_velocity_mps[0])
        self.place = place_of(city_map, self.pose, self.route)
        self.red: dict[int, list[bool]] = {}
        frames = (scene.now, *scene.future[:PLAN_POSES])
        for number, frame in enumerate(frames):
            for connector, is_red in frame.traffic_lights:
                self.red.setdefault(int(connector), [False] * len(frames))[number] = is_red

    def limit_mps(self, lane: int) -> float:
        return self.city_map.speed_limit_mps(lane) or _DEFAULT_LIMIT_MPS

    def way(self, lanes: Sequence[int]) -> Way:
        """Along lanes, from where the car stands."""
        return from_car(lane_way(self.city_map, lanes, self.pose), self.pose, self.speed_mps)

    def drive(self, way: Way, pace: Pace) -> Array:
        """[41, 3] poses along a way (world)."""
        acceleration = float(self.scene.now.ego_acceleration_mps2[0])
        return drive(way, self.speed_mps, acceleration, pace, self.context.tracks, self.red)

    def room_m(self, way: Way, pace: Pace) -> float:
        """How far a plan gets along a way."""
        return _travelled_m(self.drive(way, pace))

    def own_way(self, place: Place) -> Way:
        """In the middle of the lane, on along the route."""
        return self.way(chain(self.city_map, place.lane, along_route(self.city_map, self.route)))

    def human_way(self) -> Way | None:
        """Where the human drives in the next seconds, past what is in the way, and on along the route from there."""
        own = None if self.place is None else self.own_way(self.place)
        driven = np.stack([self.pose, *(frame.ego_pose_world for frame in self.scene.future[:PLAN_POSES])])
        end = place_of(self.city_map, driven[-1], self.route)
        if own is None or end is None or np.hypot(*(driven[-1, :2] - self.pose[:2])) < _SHORTEST_WAY_M:
            return own
        lanes = chain(self.city_map, end.lane, along_route(self.city_map, self.route))
        beyond = from_car(lane_way(self.city_map, lanes, driven[-1]), driven[-1], self.speed_mps)
        return Way(joined(driven, beyond.line), own.blocks, own.stops)


def instruct(scene: Scene, city_map: CityMap, context: ScoringContext) -> list[InstructedPlan]:
    """Every instruction of `INSTRUCTIONS` for one scene, in their order.

    Args:
        scene: With at least eight future frames.
        city_map: Its city.
        context: Its scoring context.
    """
    here = _Situation(scene, city_map, context)
    says: dict[str, str] = {}
    plans: dict[str, tuple[Way, Array]] = {}
    for kind in INSTRUCTIONS:
        answer = _OBEY[kind](here, kind)
        if isinstance(answer, _Drive):
            driven = here.drive(answer.way, answer.pace)
            plan = world_to_ego(driven[5::5], here.pose)
            answer = _shortfall(here, kind, answer, plan, driven) or answer
        if isinstance(answer, _Drive):
            plans[kind] = answer.way, plan
            says[kind] = answer.says + (_wait(here, answer.way, driven) if kind in _DIRECTIONS else "")
        else:
            says[kind] = answer
    scores = _scored(here, plans)
    poses = {kind: plan for kind, (_, plan) in plans.items()}
    return [_written(here, kind, says[kind], poses.get(kind), scores.get(kind)) for kind in INSTRUCTIONS]


def instruct_split(
    root: Path, split: str, *, workers: Workers = 1, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Instruct every scene of a split, and write the instructions of each log beside its answers.

    Scenes that have instructions keep them, so that an interrupted call goes on, and splits may share logs. Follow-up
    scenes, and those that cannot be scored, get none.

    Args:
        root: Data root, the embedded world's or NAVSIM's.
        workers: Who works, a log at a time; see `irlvla.scoring.workers`.
        on_progress: Called with (logs done, logs in all).
    Raises:
        DataError: The root, the split, a map, or what an earlier call wrote cannot be read.
    """
    scenes = open_scenes(root, split)
    data_split = scenes.split.data_split
    asked: dict[str, set[str]] = {}
    for token in scenes.tokens:
        if len(token) == 16:
            asked.setdefault(scenes.log_name(token), set()).add(token)
    tasks = []
    for name in sorted(asked):
        there = load_instructions(root, data_split, name)
        if asked[name] - there.keys():
            tasks.append((name, frozenset(asked[name] | there.keys())))
    report = on_progress or (lambda done, total: None)
    work = partial(_instruct_log, root=root.absolute(), data_split=data_split)
    for done, _ in enumerate(run_tasks(work, tasks, workers, lambda task: f"log {task[0]}"), start=1):
        report(done, len(tasks))


def _instruct_log(task: tuple[str, frozenset[str]], root: Path, data_split: str) -> None:
    name, tokens = task
    there = load_instructions(root, data_split, name)
    whole = SceneFilter(
        num_future_frames=PLAN_POSES, frame_interval=1, log_names=frozenset({name}), tokens=tokens, has_route=False
    )
    scenes = open_scenes(root, Split(data_split, data_split, whole))
    contexts, _ = build_contexts(scenes.subset(token for token in scenes.tokens if token not in there))
    plans: list[InstructedPlan] = []
    for scene in scenes:
        if scene.token in there:
            plans += there[scene.token]
        elif scene.token in contexts:
            plans += instruct(scene, load_map(root, scene.map_location), contexts[scene.token])
    write_instructions(root, data_split, name, plans)


def _shortfall(here: _Situation, kind: str, answer: _Drive, plan: Array, driven: Array) -> str:
    """Why the drive does not get as far as the instruction asks for; empty where it does."""
    speed_word, _ = meta_action(plan, here.speed_mps)
    if _travelled_m(driven) < 0.9 * answer.over_m:
        return f"There is no room ahead to {f'move to the {_SIDES[kind]} lane' if kind in _SIDES else 'pull over'} now."
    if kind == "faster" and speed_word not in ("speed up", "start"):
        if float(bend_mps(answer.way).min()) < here.speed_mps + _gain_mps(here):
            return "The road bends ahead, so the car cannot drive faster."
        if answer.way.length_m < WAY_M - 1.0:
            return "The way ahead is too short to drive faster."
        return "The car would need more than four seconds to get faster."
    if kind == "slower" and speed_word not in ("slow down", "stop"):
        return f"The car drives no more than {_kilometres(here.speed_mps)} km/h; it does not go slower."
    return ""


def _wait(here: _Situation, way: Way, driven: Array) -> str:
    front_m = EGO_FRONT_M + _travelled_m(driven)
    for connector, begins_m in way.stops:
        if here.red.get(connector, [False])[0] and front_m < begins_m + 1.0 and begins_m < EGO_FRONT_M + _LIGHT_REACH_M:
            return " The light is red, so wait for it first."
    return ""


def _travelled_m(poses: Array) -> float:
    return float(np.hypot(*np.diff(poses[:, :2], axis=0).T).sum())


def _written(
    here: _Situation, kind: str, says: str, poses: Array | None, scores: dict[str, float] | None
) -> InstructedPlan:
    plan = human_plan(here.scene) if poses is None else poses
    speed_word, path_word = meta_action(plan, here.speed_mps)
    hazard = "" if scores is None else _hazard(scores)
    ways = INSTRUCTIONS[kind]
    pick = hashlib.blake2b(f"{here.scene.token}/{kind}".encode(), digest_size=4).digest()[0] % len(ways)
    return InstructedPlan(
        token=here.scene.token,
        kind=kind,
        instruction=ways[pick],
        answer=says + (f" That is not safe: {hazard}." if hazard else ""),
        is_possible=poses is not None,
        is_safe=poses is not None and not hazard,
        speed_word=speed_word,
        path_word=path_word,
        poses=() if poses is None else tuple((round(x, 3), round(y, 3), round(h, 4)) for x, y, h in poses.tolist()),
        scores=scores or {},
    )


def _hazard(scores: dict[str, float]) -> str:
    """The worst that the scorer finds; empty where the plan is safe."""
    for name, words in (
        ("no_at_fault_collisions", "the car would hit something"),
        ("drivable_area_compliance", "the car would leave the road"),
        ("driving_direction_compliance", "the way leads against the traffic"),
        ("traffic_light_compliance", "the light is red"),
        ("time_to_collision_within_bound", "the distance would become too small"),
    ):
        if scores[name] < 1.0:
            return words
    return ""


def _scored(here: _Situation, plans: dict[str, tuple[Way, Array]]) -> dict[str, dict[str, float]]:
    """Sub-scores and EPDMS of each plan, on the route that it takes."""
    by_route: dict[tuple[int, ...], list[str]] = {}
    on_route = set(here.route)
    for kind, (way, _) in plans.items():
        # Only a way that leaves the route within its first junctions needs another one.
        leaves = not set(way.blocks[:4]) <= on_route and kind in _DIRECTIONS
        by_route.setdefault(way.blocks if leaves else (), []).append(kind)
    found = {}
    for blocks, kinds in by_route.items():
        context = here.context if not blocks else _rerouted(here, blocks)
        poses = np.stack([plans[kind][1] for kind in kinds])[None]
        sub_scores = score([context], poses, human_filter=False)
        points = epdms(sub_scores)[0]
        names = [name for name in SubScores.names() if name != "two_frame_extended_comfort"]
        for k, kind in enumerate(kinds):
            values = {name: round(float(getattr(sub_scores, name)[0, k]), 4) for name in names}
            found[kind] = {**values, "epdms": round(float(points[k]), 4)}
    return found


def _rerouted(here: _Situation, blocks: tuple[int, ...]) -> ScoringContext:
    route = tuple(str(block) for block in blocks)
    frames = tuple(replace(frame, roadblock_ids=route) for frame in here.scene.frames)
    return build_context(replace(here.scene, frames=frames), here.city_map)


def _ordinary_pace(here: _Situation, lane: int) -> Pace:
    return Pace(max(here.speed_mps, 0.9 * here.limit_mps(lane)))


def _gain_mps(here: _Situation) -> float:
    """What counts as a change of speed."""
    return max(SPEED_CHANGE_MPS, SPEED_CHANGE_SHARE * here.speed_mps)


def _ahead(to_end_m: float) -> str:
    return f"{to_end_m:.0f} m ahead" if to_end_m > 3.0 else "right ahead"


def _kilometres(speed_mps: float) -> str:
    return f"{3.6 * speed_mps:.0f}"


def _turn(here: _Situation, kind: str) -> _Drive | str:
    direction, city_map = _DIRECTIONS[kind], here.city_map
    if here.place is None:
        return _OFF_LANE
    keep = along_route(city_map, here.route)
    # The lanes up to the next choice; a junction without one is just a bend in the road.
    lanes, lane = [here.place.lane], here.place.lane
    to_end_m = here.place.to_end_m
    while not city_map.is_lane(lane) or len(city_map.next_roadblocks(city_map.roadblock_of(lane))) == 1:
        following = city_map.next_lanes(lane)
        chosen = keep(lane, following) if following else None
        if chosen is None or chosen in lanes:
            return "The road has no junction ahead to turn at; follow it."
        lane = chosen
        lanes.append(lane)
        to_end_m += float(city_map.baseline(lane).length)
        if to_end_m > 2 * WAY_M:
            break
    if to_end_m > JUNCTION_M + JUNCTION_S * here.speed_mps:
        return f"The next junction is {to_end_m:.0f} m away; drive on until then."
    if not city_map.next_roadblocks(city_map.roadblock_of(lane)):
        return "The road ends before the next junction; follow it."
    wanted = [c for c in city_map.next_lanes(lane) if direction_of(city_map, lane, c) == direction]
    towards = _TURN_WORDS[direction]
    pace = _ordinary_pace(here, lane)
    if wanted:
        driven = here.human_way() if city_map.roadblock_of(wanted[0]) in here.route else None
        way = driven or here.way([*lanes, *chain(city_map, wanted[0], keep)])
        return _checked(
            f"{'Go' if direction == 'straight' else 'Turn'} {towards.replace('to the ', '')} at the junction "
            f"{_ahead(to_end_m)}.",
            way,
            pace,
        )
    block = city_map.roadblock_of(lane)
    others = [
        other
        for other in city_map.lanes_of(block)
        if any(direction_of(city_map, other, c) == direction for c in city_map.next_lanes(other))
    ]
    if not others:
        return f"No way leads {towards} at the next junction."
    for side in ("left", "right"):
        beside = neighbour(city_map, lane, min(here.place.at_m, city_map.baseline(lane).length), side)
        over_m = max(_LANE_CHANGE_S * here.speed_mps, _SHORTEST_CHANGE_M)
        if beside in others and len(lanes) == 1 and to_end_m + EGO_FRONT_M > over_m + 4.0:
            connector = next(c for c in city_map.next_lanes(beside) if direction_of(city_map, beside, c) == direction)
            target = lane_way(city_map, [beside, *chain(city_map, connector, keep)], here.pose)
            way = moved_over(here.own_way(here.place), target, 1.0, over_m)
            return _checked(
                f"Move to the {side} lane, which leads {towards} at the junction {_ahead(to_end_m)}.", way, pace
            )
    return f"The way {towards} leaves from another lane, and the junction is already {_ahead(to_end_m)}."


def _change_lane(here: _Situation, kind: str) -> _Drive | str:
    side = _SIDES[kind]
    if here.place is None:
        return _OFF_LANE
    if not here.city_map.is_lane(here.place.lane):
        return "There are no lanes to change between within the junction; drive through it first."
    beside = neighbour(here.city_map, here.place.lane, here.place.at_m, side)
    if beside is None:
        return f"There is no lane to the {side}; stay in this one."
    pace = _ordinary_pace(here, here.place.lane)
    own = here.own_way(here.place)
    # Whoever is held up changes lanes over what they can drive.
    over_m = min(max(_LANE_CHANGE_S * here.speed_mps, _SHORTEST_CHANGE_M), 0.85 * here.room_m(own, pace))
    if over_m < _SHORTEST_CHANGE_M:
        return f"There is no room ahead to move to the {side} lane now."
    if here.place.to_end_m + EGO_FRONT_M < over_m + 2.0:
        return f"The junction is {_ahead(here.place.to_end_m)}, too near to change lanes before it."
    keep = along_route(here.city_map, here.route)
    target = lane_way(here.city_map, chain(here.city_map, beside, keep), here.pose)
    return _checked(f"Move to the {side} lane.", moved_over(own, target, 0.0, over_m), pace, over_m)


def _slower(here: _Situation, kind: str) -> _Drive | str:
    way = here.human_way()
    if way is None:
        return _OFF_LANE
    if here.speed_mps < _STANDING_MPS:
        return "The car is standing already."
    target = max(0.0, here.speed_mps - max(float(np.clip(0.4 * here.speed_mps, 1.6, 4.0)), 1.2 * _gain_mps(here)))
    says = f"Slow down from {_kilometres(here.speed_mps)} to {_kilometres(target)} km/h."
    return _checked(says, way, Pace(target))


def _faster(here: _Situation, kind: str) -> _Drive | str:
    way = here.human_way()
    if way is None or here.place is None:
        return _OFF_LANE
    limit = here.limit_mps(here.place.lane)
    if here.speed_mps + _gain_mps(here) > 1.05 * limit:
        return (
            f"The car drives {_kilometres(here.speed_mps)} km/h and {_kilometres(limit)} km/h are allowed; it does not "
            "speed up."
        )
    pace = Pace(min(here.speed_mps + max(5.0, 0.4 * here.speed_mps), 1.15 * limit), heeds_others=False)
    stands = here.speed_mps < _STANDING_MPS
    return _checked("Drive off." if stands else f"Speed up from {_kilometres(here.speed_mps)} km/h.", way, pace)


def _stop(here: _Situation, kind: str) -> _Drive | str:
    way = here.human_way()
    if way is None:
        return _OFF_LANE
    if here.speed_mps < _STANDING_MPS:
        return _checked("Stay where the car stands.", way, Pace(0.0, heeds_others=False))
    room_m = here.speed_mps**2 / (2 * _STOP_BRAKING_MPS2) + 0.5 * here.speed_mps
    pace = Pace(0.0, heeds_others=False, braking_mps2=_STOP_BRAKING_MPS2)
    return _checked(f"Brake and stop within about {max(room_m, 1.0):.0f} m.", way, pace)


def _pull_over(here: _Situation, kind: str) -> _Drive | str:
    if here.place is None:
        return _OFF_LANE
    lane = here.place.lane
    if not here.city_map.is_lane(lane):
        return "Within the junction there is no place to stop; drive through it first."
    if neighbour(here.city_map, lane, here.place.at_m, "right") is not None:
        return "The car is not in the rightmost lane, so the edge of the road is out of reach."
    braking = 2.2
    room_m = EGO_FRONT_M + max(here.speed_mps**2 / (2 * braking) + 0.7 * here.speed_mps, 6.0)
    if here.place.to_end_m + EGO_FRONT_M < room_m + 2.0:
        return f"The junction is {_ahead(here.place.to_end_m)}, too near to stop before it."
    outline = here.city_map.lane_polygon(lane).exterior
    middle = here.city_map.baseline(lane).interpolate(min(here.place.at_m + room_m, here.place.at_m + 12.0))
    right_m = max(0.0, float(outline.distance(middle)) - EGO_WIDTH_M / 2 - 0.2)
    way = shifted(here.own_way(here.place), right_m, room_m)
    pace = Pace(max(here.speed_mps, 3.0), stop_at_m=room_m, braking_mps2=braking)
    return _checked("Slow down and stop at the right edge of the road.", way, pace, 0.85 * (room_m - EGO_FRONT_M))


def _checked(says: str, way: Way, pace: Pace, over_m: float = 0.0) -> _Drive | str:
    """The way, unless it bends more than the car can steer where a plan would drive it."""
    reach = min(len(way.line), 80)
    if reach < 4:
        return "The road ends here."
    if float(np.abs(curvature(way)[:reach]).max()) > MAX_CURVATURE:
        return "From where the car is the way is too tight to steer."
    return _Drive(says, way, pace, over_m)


_OFF_LANE = "The car is in no lane, so the map does not say where this would lead."
_OBEY: dict[str, Callable[[_Situation, str], _Drive | str]] = {
    **dict.fromkeys(_DIRECTIONS, _turn),
    **dict.fromkeys(_SIDES, _change_lane),
    "slower": _slower,
    "faster": _faster,
    "stop": _stop,
    "pull over": _pull_over,
}
