"""Why the driver does what they do: the reason for a decision, from privileged state and nothing else.

Every word has a ground that can be checked: a light is named only if it stands at the ego's own way, a vehicle only if
it is in that way, oncoming traffic only if it comes, road works only if they stand at that way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from irlvla.geometry import EGO_WIDTH_M, ego_to_world, world_to_ego, wrap_angle
from irlvla.types import COMMANDS
from irlvla.world.city import City, Connector, Lane
from irlvla.world.logs import KeyFrame, SceneObject
from irlvla.world.obstacles import BUS_STOP_LENGTH_M, STANDING_PREFIX, Obstacles, along_lane

Array = NDArray[np.float64]

EGO_FRONT_M = 4.05
CORRIDOR_M = 1.9
ROUTE_REACH_M = 100.0
LIGHT_REACH_M = 60.0
LEADER_REACH_M = 60.0
PEDESTRIAN_REACH_M = 25.0
ONCOMING_REACH_M = 45.0
CROSSING_REACH_M = 30.0
JUNCTION_REACH_M = 10.0
JUNCTION_REACH_S = 2.0
OBSTACLE_REACH_M = 45.0
PASSED_REACH_M = 20.0
_CAREFUL_M, _CAREFUL_AHEAD_M = 0.8, 20.0
_STANDING_MPS = 0.5
_COMFORT_GAP_M = 3.0
_STANDING_GAP_M = 10.0
_FOLLOWING_S = 3.0
_WORTH_BRAKING_MPS2 = 0.4
_HALTING = ("wait", "stop", "slow down")


@dataclass(frozen=True)
class Leader:
    """What is ahead in the ego's way."""

    name: str
    gap_m: float
    speed_mps: float
    is_braking: bool
    at_stop: bool
    """Whether it is a bus that halts where buses do."""


@dataclass(frozen=True)
class Obstacle:
    """Road works, or a vehicle that does not drive on, at the ego's way."""

    name: str
    verb: str
    """What it does to the lane, in the right number."""
    gap_m: float
    """Negative where the front bumper is past its begin."""
    is_in_lane: bool
    """Whether the car would touch it in the middle of its lane."""


@dataclass(frozen=True)
class Surroundings:
    """What matters for the decision at one keyframe."""

    light: str
    """"red", "yellow" or "green" at the next stop line of the ego's route; empty where there is none within reach."""
    turns_green: bool
    """Whether that light is red or yellow now and green within the four seconds."""
    light_m: float
    """From the front bumper to that stop line."""
    junction_m: float
    """From the front bumper to the next junction of the route; 0 inside of one."""
    near_junction: bool
    """Whether it is time to think of that junction."""
    leader: Leader | None
    """In the way that will be driven."""
    lane_leader: Leader | None
    """In the lane as it runs on, whatever way will be driven."""
    pedestrian_m: float
    """To a person on the way or stepping onto it; infinite where there is none."""
    oncoming: bool
    crossing: str
    """"left" or "right" where a vehicle comes from there across the way, else empty."""
    junction_taken: bool
    """Whether somebody is on the junction ahead."""
    obstacle: Obstacle | None
    """The nearest ahead that is in the lane or close beside the way."""
    passed: tuple[str, str]
    """What stands beside the car or shortly behind it, to the left and to the right; empty where nothing does."""
    sides: tuple[str, ...]
    """On which sides the street has another lane of this direction."""
    speed_limit_mps: float
    turn_ahead: bool
    """Whether the route turns within the reach of the driving command."""
    turn_m: float
    """To the next junction if the route turns there, else infinite."""
    bend_ahead: bool
    """Whether the lane bends."""
    other_lane: str
    """"left" or "right" where the route leaves from a lane on that side, else empty."""


class RouteView:
    """A drive's route as its driver sees it."""

    def __init__(self, city: City, route: Sequence[str], obstacles: Obstacles | None = None) -> None:
        lanes = {lane.sumo_id: lane for lane in city.lanes}
        stops = () if obstacles is None else obstacles.bus_stops
        self.bus_stops = np.array([along_lane(lanes[stop.sumo_lane], np.array([stop.end_m]))[0] for stop in stops])
        blocks = [int(block) for block in route]
        self._lanes = [lane for lane in city.lanes if lane.roadblock in set(blocks)]
        self._lane_areas = np.array([lane.polygon for lane in self._lanes], dtype=object)
        groups: dict[int, list[Connector]] = {block: [] for block in blocks}
        for connector in city.connectors:
            if connector.roadblock_connector in groups:
                groups[connector.roadblock_connector].append(connector)
        self._groups = [groups[block] for block in blocks if groups[block]]
        self._group_of_block = {group[0].from_lane.roadblock: group for group in reversed(self._groups)}

    def lane(self, pose: Array) -> Lane | None:
        """The route's lane under the middle of the car, the best aligned one; None in junctions."""
        center = pose[:2] + 1.461 * np.array([np.cos(pose[2]), np.sin(pose[2])])
        best, least = None, 0.8
        for row in np.flatnonzero(shapely.contains_xy(self._lane_areas, *center)):
            lane = self._lanes[row]
            nearest = int(np.argmin(np.hypot(*(lane.baseline[:-1] - center).T)))
            along = lane.baseline[nearest + 1] - lane.baseline[nearest]
            off = abs(float(wrap_angle(np.arctan2(along[1], along[0]) - pose[2])))
            if off < least:
                best, least = lane, off
        return best

    def connector_under(self, pose: Array) -> Connector | None:
        """The route's connector that the front bumper is on."""
        front = pose[:2] + EGO_FRONT_M * np.array([np.cos(pose[2]), np.sin(pose[2])])
        for group in self._groups:
            for connector in group:
                if shapely.contains_xy(connector.polygon, *front):
                    return connector
        return None

    def next_connector(self, pose: Array) -> tuple[Connector, float] | None:
        """The next way through a junction that lies ahead, and the distance (m) from the front bumper to it.

        Of the ways that the route allows it is the one that begins nearest to the ego's line.
        """
        best: tuple[float, Connector, float] | None = None
        for group in self._groups:
            for connector in group:
                ends = connector.from_lane.baseline[-2:]
                heading = np.arctan2(*(ends[1] - ends[0])[::-1])
                x, y, turned = world_to_ego(np.array([*connector.from_lane.end, heading]), pose)
                ahead_m = float(x) - EGO_FRONT_M
                if not (-1.5 < ahead_m < ROUTE_REACH_M and abs(turned) < 1.0 and abs(y) < 5.0 + 0.3 * x):
                    continue
                # Nearest junction first, then nearest lane.
                worse = ahead_m + 0.3 * abs(float(y))
                if best is None or worse < best[0]:
                    best = worse, connector, max(0.0, ahead_m)
        return None if best is None else (best[1], best[2])

    def sides(self, lane: Lane) -> tuple[str, ...]:
        """On which sides of a lane there is another one."""
        beside = {
            other.index_from_left - lane.index_from_left for other in self._lanes if other.roadblock == lane.roadblock
        }
        return tuple(side for side, step in (("left", -1), ("right", 1)) if step in beside)

    def other_lane(self, lane: Lane) -> str:
        """On which side the lanes are that the route leaves from, where this one is none of them."""
        group = self._group_of_block.get(lane.roadblock)
        if group is None or any(c.from_lane.fid == lane.fid for c in group):
            return ""
        wanted = {c.from_lane.index_from_left for c in group}
        return "left" if min(wanted) < lane.index_from_left else "right"


def look_around(frame: KeyFrame, later: Sequence[KeyFrame], view: RouteView) -> Surroundings:
    """What matters at a keyframe.

    Args:
        later: The eight keyframes after it, which tell the driven way and what the light does.
        view: The drive's route.
    """
    poses = world_to_ego(np.stack([item.ego_pose for item in later]), frame.ego_pose)
    lane = view.lane(frame.ego_pose)
    under = view.connector_under(frame.ego_pose)
    following = view.next_connector(frame.ego_pose)
    light, light_m, junction_m, turn_m, turns_green = "", np.inf, np.inf, np.inf, False
    if following is not None:
        connector, junction_m = following
        turn_m = junction_m if connector.turn in "lLrRt" else np.inf
        light = _light_of(connector, frame) if junction_m < LIGHT_REACH_M else ""
        light_m = junction_m if light else np.inf
        turns_green = light in ("red", "yellow") and any(_light_of(connector, item) == "green" for item in later)
    if under is not None:
        junction_m = 0.0
    near_junction = junction_m < JUNCTION_REACH_M + JUNCTION_REACH_S * frame.speed_mps
    path = path_ahead(poses)
    lane_line = path if lane is None else _line_in_ego(lane.baseline, frame.ego_pose)
    limit = lane.speed_limit_mps if lane is not None else under.speed_limit_mps if under is not None else np.inf
    return Surroundings(
        light=light,
        turns_green=turns_green,
        light_m=light_m,
        junction_m=junction_m,
        leader=_leader(frame, path, view),
        lane_leader=_leader(frame, lane_line, view),
        pedestrian_m=_pedestrian_m(frame, path),
        oncoming=any(map(_is_oncoming, frame.objects)),
        near_junction=near_junction,
        crossing=_crossing(frame) if near_junction else "",
        junction_taken=near_junction and _is_taken(frame, junction_m),
        obstacle=_obstacle(frame, path, lane_line if lane is not None else None),
        passed=_passed(frame),
        sides=() if lane is None else view.sides(lane),
        speed_limit_mps=limit,
        turn_ahead=COMMANDS[frame.command] in ("left", "right"),
        turn_m=turn_m,
        bend_ahead=lane is not None and _bends(lane_line),
        other_lane="" if lane is None else view.other_lane(lane),
    )


def reason(speed_word: str, path_word: str, speed_mps: float, here: Surroundings) -> str:
    """Why this meta-action is right here; a clause without full stop."""
    changes = path_word.startswith("change lane") and not movement(path_word, here).startswith("follow")
    if changes and speed_word != "stop":
        return _why_change_lane(path_word.rsplit(" ", 1)[1], speed_mps, here)
    if speed_word in _HALTING:
        return _why_slow(path_word, speed_mps, here)
    return _why_go(speed_word, path_word, speed_mps, here)


def movement(path_word: str, here: Surroundings) -> str:
    """How a path beside the own lane is put where it is no change of lanes, but makes way or bends; else empty."""
    if not path_word.startswith("change lane"):
        return ""
    side = path_word.rsplit(" ", 1)[1]
    if _in_lane(here):
        return f"move over to the {side}"
    if here.passed[side == "right"]:
        return f"move back to the {side}"
    return "" if side in here.sides else f"follow the road as it leads to the {side}"


def _why_change_lane(side: str, speed_mps: float, here: Surroundings) -> str:
    slow = here.lane_leader
    if here.obstacle is not None and here.obstacle.is_in_lane:
        return f"{here.obstacle.name} {here.obstacle.verb} the lane"
    if here.passed[side == "right"]:
        return f"the way is free again past {here.passed[side == 'right']}"
    if here.other_lane == side:
        return f"the route goes on from the {side} lane"
    if slow is not None and slow.at_stop:
        return f"the {slow.name} ahead is at its stop"
    if slow is not None and slow.speed_mps < max(speed_mps - 1.0, _STANDING_MPS):
        return f"the {slow.name} ahead {'is standing' if slow.speed_mps < _STANDING_MPS else 'is slower'}"
    if here.obstacle is not None:
        return f"there is room to pass {_the(here.obstacle.name)}"
    return f"there is room in the {side} lane"


def _in_lane(here: Surroundings) -> bool:
    return here.obstacle is not None and here.obstacle.is_in_lane


def _the(name: str) -> str:
    return f"the {name.removeprefix('a ')}"


def _why_slow(path_word: str, speed_mps: float, here: Surroundings) -> str:
    if np.isfinite(here.pedestrian_m):
        return "a pedestrian is in the way"
    is_held = here.light in ("red", "yellow") and _must_brake(speed_mps, 0.0, here.light_m)
    leader = here.leader
    follows = leader is not None and leader.gap_m < _FOLLOWING_S * speed_mps + _COMFORT_GAP_M
    if leader is not None and (
        _must_brake(speed_mps, leader.speed_mps, leader.gap_m)
        or (follows and leader.is_braking and leader.speed_mps < speed_mps)
    ):
        if is_held and here.light_m < leader.gap_m:
            return f"the light ahead is {here.light}"
        return _about(leader, here.light if is_held else "", here.light_m)
    if is_held:
        return f"the light ahead is {here.light}"
    if here.near_junction:
        if path_word == "turn left" and here.oncoming:
            return "oncoming traffic goes first"
        if here.crossing:
            return f"a vehicle comes from the {here.crossing}"
    if here.obstacle is not None and here.obstacle.is_in_lane:
        return f"{here.obstacle.name} {here.obstacle.verb} the lane"
    if path_word.startswith("turn"):
        return "the turn is tight"
    if here.turn_ahead:
        return "a turn is coming up"
    if path_word.startswith("bear"):
        return "the road bends"
    if here.obstacle is not None:
        return f"{here.obstacle.name} {here.obstacle.verb.replace('block', 'narrow')} the way"
    if speed_mps > 1.03 * here.speed_limit_mps:
        return f"the speed limit is {3.6 * here.speed_limit_mps:.0f} km/h"
    if here.near_junction:
        clear = "other traffic may have the right of way at the junction"
        return "the junction is not clear" if here.junction_taken else clear
    if leader is not None and follows:
        return f"the {leader.name} ahead is {leader.gap_m:.0f} m away"
    if here.bend_ahead:
        return "the road bends ahead"
    if here.turn_m < ROUTE_REACH_M:
        return "a turn is coming up"
    if here.junction_m < ROUTE_REACH_M:
        return "a junction is coming up"
    return "there is no hurry"


def _about(leader: Leader, light: str, light_m: float) -> str:
    where = f"the {leader.name} {leader.gap_m:.0f} m ahead"
    if leader.at_stop:
        return f"{where} is at its stop"
    if leader.speed_mps < _STANDING_MPS:
        waits = light == "red" and light_m >= leader.gap_m
        return f"{where} is waiting at the red light" if waits else f"{where} is standing"
    if leader.is_braking:
        return f"{where} is braking"
    return f"{where} is slower"


def _why_go(speed_word: str, path_word: str, speed_mps: float, here: Surroundings) -> str:
    if path_word == "turn left" and here.oncoming:
        return "there is a gap in the oncoming traffic"
    leader = here.leader
    follows = leader is not None and leader.gap_m < _FOLLOWING_S * max(speed_mps, 3.0) + _COMFORT_GAP_M
    if speed_word == "start" and leader is not None and follows and leader.speed_mps >= _STANDING_MPS:
        return f"the {leader.name} ahead has driven off"
    if here.obstacle is not None and here.obstacle.is_in_lane and not (leader is not None and follows):
        return f"there is room to pass {_the(here.obstacle.name)}"
    if here.turns_green and not follows:
        return "the light ahead is turning green"
    if here.light == "green" and here.light_m < 25.0 and not follows:
        return "the light ahead is green"
    if leader is not None and follows:
        return f"follow the {leader.name} ahead at {leader.gap_m:.0f} m"
    if speed_word == "speed up" and path_word.startswith("turn"):
        return "the turn is nearly done" if here.junction_m == 0.0 else "the way through the turn is free"
    return "the road ahead is free"


def _must_brake(speed_mps: float, ahead_mps: float, gap_m: float) -> bool:
    """Whether something ahead asks for more than letting the car roll."""
    if gap_m < max(_COMFORT_GAP_M + speed_mps, _STANDING_GAP_M) and ahead_mps < speed_mps + 0.5:
        return True
    room_m = max(gap_m - _COMFORT_GAP_M, 0.5)
    return ahead_mps < speed_mps and (speed_mps - ahead_mps) ** 2 / (2 * room_m) > _WORTH_BRAKING_MPS2 / 2


def _light_of(connector: Connector, frame: KeyFrame) -> str:
    for other, _, letter in frame.lights:
        if other.fid == connector.fid:
            return {"r": "red", "R": "red", "u": "red", "y": "yellow", "Y": "yellow"}.get(letter, "green")
    return ""


def path_ahead(poses: Array) -> Array:
    """[N, 2] the driven way by increasing x, straight on where it ends."""
    points = np.concatenate([np.zeros((1, 2)), poses[:, :2]])
    rising = np.r_[True, np.diff(np.maximum.accumulate(points[:, 0])) > 0.05]
    points = points[rising]
    heading = float(np.clip(poses[-1, 2], -1.2, 1.2))
    end = points[-1] + 60.0 * np.array([np.cos(heading), np.sin(heading)])
    return np.concatenate([points, end[None]])


def _line_in_ego(line: Array, pose: Array) -> Array:
    ego = world_to_ego(np.concatenate([line, np.zeros((len(line), 1))], axis=1), pose)[:, :2]
    ego = ego[ego[:, 0] > -2.0]
    rising = np.r_[True, np.diff(np.maximum.accumulate(ego[:, 0])) > 0.05] if len(ego) else np.zeros(0, dtype=bool)
    ego = ego[rising]
    return ego if len(ego) >= 2 else np.array([[0.0, 0.0], [60.0, 0.0]])


def _bends(line: Array) -> bool:
    """Whether a line [N, 2] in the ego frame turns by more than 15 degrees within its next 60 m."""
    near = line[np.hypot(*line.T) < 60.0]
    if len(near) < 3:
        return False
    heading = np.unwrap(np.arctan2(*np.diff(near, axis=0).T[::-1]))
    return bool(np.ptp(heading) > np.radians(15.0))


def _beside(item: SceneObject, path: Array) -> float:
    """Signed distance (m) of an object's centre to the left of a way, read off at its place along x."""
    return float(item.box[1] - np.interp(item.box[0], path[:, 0], path[:, 1]))


def _leader(frame: KeyFrame, path: Array, view: RouteView) -> Leader | None:
    best: Leader | None = None
    for item in frame.objects:
        if item.type not in ("vehicle", "bicycle") or not 1.0 < item.box[0] < LEADER_REACH_M + 10.0:
            continue
        gap_m = float(item.box[0] - item.box[3] / 2 - EGO_FRONT_M)
        along = abs(float(wrap_angle(np.asarray(item.box[6])))) < 1.2
        narrow = CORRIDOR_M if item.type == "vehicle" else 1.5
        if (
            along
            and -1.0 < gap_m < min(LEADER_REACH_M, best.gap_m if best else np.inf)
            and (abs(_beside(item, path)) < narrow)
        ):
            speed = float(item.velocity_mps[0])
            at_stop = object_name(item) == "bus" and speed < _STANDING_MPS and _is_at_stop(item, frame, view)
            best = Leader(object_name(item), max(0.0, gap_m), max(0.0, speed), item.braking, at_stop)
    return best


def _pedestrian_m(frame: KeyFrame, path: Array) -> float:
    nearest = np.inf
    for item in frame.objects:
        if item.type != "pedestrian" or not 1.0 < item.box[0] < PEDESTRIAN_REACH_M:
            continue
        aside = _beside(item, path)
        steps_on = aside * item.velocity_mps[1] < 0.0 and abs(item.velocity_mps[1]) > 0.4
        if abs(aside) < 1.8 or (steps_on and abs(aside) < 4.0):
            nearest = min(nearest, float(item.box[0]))
    return nearest


def _is_oncoming(item: SceneObject) -> bool:
    if item.type not in ("vehicle", "bicycle"):
        return False
    x, y = item.box[:2]
    against = abs(float(wrap_angle(np.asarray(item.box[6])))) > 2.4
    return bool(against and 1.0 < x < ONCOMING_REACH_M and -1.0 < y < 14.0 and np.hypot(*item.velocity_mps) > 1.0)


def _crossing(frame: KeyFrame) -> str:
    for item in frame.objects:
        x, y = item.box[:2]
        if item.type not in ("vehicle", "bicycle") or not (2.0 < x < CROSSING_REACH_M and 2.0 < abs(y) < 25.0):
            continue
        turned = abs(float(wrap_angle(np.asarray(item.box[6]))))
        if 0.8 < turned < 2.3 and y * item.velocity_mps[1] < 0.0 and abs(item.velocity_mps[1]) > 1.0:
            return "left" if y > 0 else "right"
    return ""


def _is_taken(frame: KeyFrame, junction_m: float) -> bool:
    near, far = EGO_FRONT_M + junction_m, EGO_FRONT_M + junction_m + 20.0
    return any(
        item.type in ("vehicle", "bicycle", "pedestrian")
        and near < item.box[0] < far
        and abs(item.box[1]) < 10.0
        and np.hypot(*item.velocity_mps) > 0.3
        for item in frame.objects
    )


def _is_at_stop(item: SceneObject, frame: KeyFrame, view: RouteView) -> bool:
    x, y, heading = item.box[0], item.box[1], item.box[6]
    half_m = item.box[3] / 2
    front = ego_to_world(
        np.array([x + half_m * np.cos(heading), y + half_m * np.sin(heading), heading]), frame.ego_pose
    )
    return bool(len(view.bus_stops) and np.hypot(*(view.bus_stops[:, :2] - front[:2]).T).min() < BUS_STOP_LENGTH_M / 2)


def _stands_for_good(item: SceneObject) -> tuple[str, str] | None:
    """How an obstacle is called, and what it does; None where an object is none."""
    if item.type in ("traffic_cone", "barrier"):
        return "road works", "block"
    if item.track.startswith(STANDING_PREFIX):
        return f"a standing {object_name(item)}", "blocks"
    return None


def _obstacle(frame: KeyFrame, path: Array, lane_line: Array | None) -> Obstacle | None:
    best: Obstacle | None = None
    for item in frame.objects:
        words = _stands_for_good(item)
        gap_m = float(item.box[0] - item.box[3] / 2 - EGO_FRONT_M)
        if words is None or not -EGO_FRONT_M < gap_m < min(OBSTACLE_REACH_M, best.gap_m if best else np.inf):
            continue
        touches_m = EGO_WIDTH_M / 2 + _half_width_m(item)
        in_lane = lane_line is not None and abs(_beside(item, lane_line)) < touches_m
        if in_lane or (abs(_beside(item, path)) < touches_m + _CAREFUL_M and gap_m < _CAREFUL_AHEAD_M):
            best = Obstacle(*words, gap_m, in_lane)
    return best


def _passed(frame: KeyFrame) -> tuple[str, str]:
    names = ["", ""]
    for item in frame.objects:
        words = _stands_for_good(item)
        x, y = item.box[:2]
        if words is not None and -PASSED_REACH_M < x < EGO_FRONT_M and 1.0 < abs(y) < 5.0:
            names[int(y < 0)] = _the(words[0])
    return names[0], names[1]


def _half_width_m(item: SceneObject) -> float:
    length, width, heading = item.box[3], item.box[4], item.box[6]
    return float(abs(np.sin(heading)) * length + abs(np.cos(heading)) * width) / 2


def object_name(item: SceneObject) -> str:
    """What a person would call a road user."""
    if item.type == "bicycle":
        return "cyclist"
    for word in ("truck", "bus", "van"):
        if item.kind.startswith(word):
            return word
    return "car"
