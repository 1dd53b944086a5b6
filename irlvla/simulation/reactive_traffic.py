"""Reactive traffic: vehicles that follow their lane by the intelligent driver model and brake for the ego vehicle.

The official policy is odd in places, and every oddity is kept: routes are never extended, red lights are ignored, and
the ego vehicle is seen 0.1 s late with its box centered on the rear axle. `irlvla.scoring.reference.reactive_traffic`
does the same, slow and plain: read it first.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from irlvla.data.maps import CityMap
from irlvla.errors import SceneDataError
from irlvla.geometry import EGO_LENGTH_M, EGO_WIDTH_M, box_corners, ego_boxes
from irlvla.simulation.bicycle import HEADING as EGO_HEADING
from irlvla.simulation.bicycle import VX as EGO_VX
from irlvla.simulation.bicycle import VY as EGO_VY
from irlvla.simulation.bicycle import X as EGO_X
from irlvla.simulation.bicycle import Y as EGO_Y
from irlvla.simulation.kernels import kernel
from irlvla.simulation.observation import Tracks, boxes_in_world
from irlvla.simulation.polygons import boxes_touch
from irlvla.simulation.search_tree import nearest_in_tree
from irlvla.simulation.strips import (
    PROGRESS,
    Areas,
    Lines,
    Pieces,
    Strip,
    area_bounds,
    area_distance,
    enclose_strip,
    lay_box,
    lay_lines,
    lay_reach,
    lay_strip,
    most_pieces,
    pieces_for,
    pose_at,
    reach_touches,
    segment_near,
    strip_between,
    write_box,
)
from irlvla.simulation.traffic import Traffic, box_centroid, traffic_from_boxes
from irlvla.types import OBJECT_TYPES, ROLLOUT_STATES, ROLLOUT_STEP_S, Array, Frame

_VEHICLE = OBJECT_TYPES.index("vehicle")
_MAX_LATERAL_M = 3.0
"""A vehicle further off its lane's center line does not follow it."""
_STANDING_MPS = 0.1
REACH_M = 100.0
"""Vehicles that get further away from the ego vehicle are gone for good."""
_DEFAULT_SPEED_MPS = 10.0
HEADWAY_S = 1.5
_MIN_GAP_M = 1.0
_ACCELERATION_MPS2 = 1.0
_BRAKING_MPS2 = 2.0

EGO_KEY = "ego"
"""Token of the ego vehicle among those of the vehicles."""
LOST_LANE = "a vehicle of the reactive traffic lost its lane; score it non-reactive"
NOBODY_TO_SEE = (
    "the token of whatever is in a vehicle's way is part of that vehicle's own token, for which the official policy "
    "fails; score it non-reactive"
)


@dataclass(frozen=True)
class Rail:
    """Center line of a lane or connector, as a vehicle follows it."""

    progress_m: Array
    """[K] distance along the line, from 0, strictly increasing."""
    poses: Array
    """[K, 3] x, y (m, world), unwrapped heading (rad)."""


@dataclass(frozen=True)
class Follower:
    """A vehicle that follows its lane, as it starts."""

    row: int
    """Which of the current frame's vehicles it is."""
    rail: Rail
    progress_m: float
    speed_mps: float
    wanted_speed_mps: float
    snapped_box: Array
    """[5] its box, moved onto the center line: center x, y, heading, length, width (m, rad, world)."""

    @property
    def length_m(self) -> float:
        return float(self.snapped_box[3])

    @property
    def width_m(self) -> float:
        return float(self.snapped_box[4])


class Drivers(NamedTuple):
    """Followers in the layout that the kernel reads, D of them."""

    lines: Lines
    progress_m: Array
    """[D] at the start, like everything here."""
    speed_mps: Array
    wanted_speed_mps: Array
    snapped_boxes: Array
    """[D, 5]"""
    is_hidden: NDArray[np.bool_]
    """[D, D + 1] whom a driver overlooks though it is in its way; the ego vehicle last."""
    is_taken_for_ego: NDArray[np.bool_]
    """[D] whose speed and heading officially are confused with the ego vehicle's."""
    bystanders: Array
    """[B, 4, 2] corners of vehicles that stay where they are."""


@dataclass(frozen=True)
class TrafficStart:
    """What reactive traffic starts from; the same for every plan of a scene."""

    token: str
    """The scene's."""
    vehicle_tokens: tuple[str, ...]
    vehicle_boxes: Array
    """[V, 5] vehicles of the current frame: center x, y, heading, length, width (m, rad, world)."""
    vehicle_velocity_mps: Array
    """[V, 2] over ground (world)."""
    followers: tuple[Follower, ...]
    bystanders: tuple[int, ...]
    """Vehicles that stay where they are, unless a follower is in their place: parked off the lanes, or far beside one.
    All other vehicles vanish after the current frame."""
    others: Tracks
    """Everything that is no vehicle, as logged."""

    @cached_property
    def drivers(self) -> Drivers:
        """The followers, for the kernel."""
        followers = self.followers
        tokens = [self.vehicle_tokens[follower.row] for follower in followers]
        # Officially a token is overlooked where it is part of the driver's own, not only where it is the same.
        is_hidden = [[other in token for other in (*tokens, EGO_KEY)] for token in tokens]
        return Drivers(
            lay_lines(
                [follower.rail.progress_m for follower in followers],
                [follower.rail.poses for follower in followers],
                [follower.width_m for follower in followers],
            ),
            np.array([follower.progress_m for follower in followers]),
            np.array([follower.speed_mps for follower in followers]),
            np.array([follower.wanted_speed_mps for follower in followers]),
            np.array([follower.snapped_box for follower in followers]).reshape(-1, 5),
            np.array(is_hidden, dtype=np.bool_).reshape(len(followers), len(followers) + 1),
            np.array([EGO_KEY in token for token in tokens], dtype=np.bool_),
            np.ascontiguousarray(box_corners(self.vehicle_boxes[list(self.bystanders)].reshape(-1, 5))),
        )

    @cached_property
    def others_traffic(self) -> Traffic:
        """`others`, laid out for the scoring kernels."""
        others = self.others
        return traffic_from_boxes(others.boxes, others.present, others.types, others.first_speed_mps)


def _outline(box: Array) -> Any:
    return shapely.Polygon(box_corners(box))


@lru_cache(maxsize=8)
def _connector_tree(city_map: CityMap) -> tuple[shapely.STRtree, NDArray[np.int64]]:
    connectors = np.array(list(city_map.connector_polygons), dtype=np.int64)
    return shapely.STRtree(list(city_map.connector_polygons.values())), connectors


def _lanes_at(city_map: CityMap, point: shapely.Point) -> tuple[list[int], bool]:
    """Lanes that hold a point, else its connectors within an intersection; and whether it is in any of the two."""

    def holding(tree: shapely.STRtree, ids: NDArray[np.int64]) -> list[int]:
        return [int(fid) for fid in ids[np.sort(tree.query(point, predicate="within"))]]

    lanes = holding(city_map.lanes.tree, city_map.lanes.ids)
    if lanes:
        return lanes, True
    if not holding(city_map.intersections.tree, city_map.intersections.ids):
        return [], False
    return holding(*_connector_tree(city_map)), True


def _nearest_pose(line: Any, point: shapely.Point) -> tuple[float, tuple[float, float, float]]:
    """Progress (m) of the point of a center line nearest to a position, and its x, y, heading."""
    progress_m = float(line.project(point))
    here, ahead = line.interpolate(progress_m), line.interpolate(progress_m + 0.5)
    if here == ahead:
        behind = line.interpolate(progress_m - 0.5)
        return progress_m, (here.x, here.y, math.atan2(here.y - behind.y, here.x - behind.x))
    return progress_m, (here.x, here.y, math.atan2(ahead.y - here.y, ahead.x - here.x))


def _rail(path: Array, scene_token: str, lane: int) -> Rail:
    """Rail of a lane's center line [V, 3]. Its last vertex is lost, as it is officially."""
    steps_m = np.hypot(*np.diff(path[:, :2], axis=0).T)
    progress_m = np.concatenate([[0.0], np.cumsum(steps_m)])
    keep = np.flatnonzero(~np.isclose(np.diff(progress_m), 0.0))
    if len(keep) < 2:
        raise SceneDataError(
            scene_token,
            f"reactive traffic cannot follow lane {lane}: its center line has {len(path)} vertices, it takes three",
        )
    headings = np.unwrap(path[keep, 2])
    poses = np.column_stack([path[keep, :2], headings])
    return Rail(progress_m[keep], poses)


def start_traffic(token: str, now: Frame, tracks: Tracks, ego_pose_world: Array, city_map: CityMap) -> TrafficStart:
    """Decide which vehicles of the current frame will follow which lane.

    Args:
        token: The scene's.
        now: Current frame.
        tracks: Everything as logged over the next four seconds; vehicles among it are not replayed.
        ego_pose_world: [3] rear axle now.
        city_map: The city the scene lies in.
    Raises:
        SceneDataError: A vehicle stands on a lane whose center line is too short to follow.
    Source: navsim `build_idm_agents_on_map_rails`, `NavsimIDMAgents.get_observation`; nuplan-devkit v1.2
        `get_starting_segment`, `IDMAgent`.
    """
    is_vehicle = now.boxes.types == _VEHICLE
    boxes, velocity = (values[is_vehicle] for values in boxes_in_world(now))
    names = [name for name, wanted in zip(now.boxes.track_tokens, is_vehicle, strict=True) if wanted]
    taken = [_outline(ego_boxes(ego_pose_world))]
    wanted_speed_mps = _DEFAULT_SPEED_MPS
    followers, bystanders = [], []
    for row, (box, speed_mps) in enumerate(zip(boxes, np.hypot(velocity[:, 0], velocity[:, 1]).tolist(), strict=True)):
        point = shapely.Point(box[:2])
        lanes, is_on_road = _lanes_at(city_map, point)
        if not lanes:
            if speed_mps < _STANDING_MPS and not is_on_road:
                bystanders.append(row)
            continue
        nearest = [_nearest_pose(city_map.baseline(lane), point) for lane in lanes]
        # Headings are compared unwrapped, as officially: across +-pi the wrong lane can win.
        choice = int(np.argmin([abs(pose[2] - box[2]) for _, pose in nearest]))
        lane, (progress_m, pose) = lanes[choice], nearest[choice]
        if math.hypot(pose[0] - box[0], pose[1] - box[1]) > _MAX_LATERAL_M:
            bystanders.append(row)
            continue
        snapped_box = np.array([*pose, *box[3:]])
        outline = _outline(snapped_box)
        if shapely.intersects(outline, taken).any():
            continue
        taken.append(outline)
        # A lane without a speed limit hands on the limit that the vehicle before used.
        wanted_speed_mps = city_map.speed_limit_mps(lane) or wanted_speed_mps
        rail = _rail(city_map.discrete_path(lane), token, lane)
        followers.append(Follower(row, rail, progress_m, speed_mps, wanted_speed_mps, snapped_box))
    others = tracks.select(tracks.types != _VEHICLE)
    present = others.present.copy()
    # A track with a single sighting is replayed throughout, but the current step shows what was there.
    present[:, 0] = [other in now.boxes.track_tokens for other in others.tokens]
    return TrafficStart(
        token, tuple(names), boxes, velocity, tuple(followers), tuple(bystanders), replace(others, present=present)
    )


def tracks_from_vehicles(start: TrafficStart, boxes: Array, velocity_mps: Array, present: NDArray[np.bool_]) -> Tracks:
    """Vehicles of the current frame in its order, then everything else.

    Args:
        start: Where traffic started from.
        boxes: [V, 41, 5] center x, y, heading, length, width (m, rad, world).
        velocity_mps: [V, 41, 2] (world).
        present: [V, 41].
    """
    others = start.others
    return Tracks(
        start.vehicle_tokens + others.tokens,
        np.concatenate([np.full(len(boxes), _VEHICLE), others.types]),
        np.concatenate([boxes, others.boxes]),
        np.concatenate([velocity_mps, others.velocity_mps]),
        np.concatenate([present, others.present]),
    )


class Drives(NamedTuple):
    """What the followers of a scene do beside each of C rollouts."""

    poses: Array
    """[C, D, 41, 3] box center x, y (m, world), heading (rad)."""
    speed_mps: Array
    """[C, D, 41]"""
    present: NDArray[np.bool_]
    """[C, D, 41]"""
    bystanders_present: NDArray[np.bool_]
    """[C, B, 41]"""


_FINE, _LOST_LANE, _NOBODY_TO_SEE = 0, 1, 2
_FAILURES = {_LOST_LANE: LOST_LANE, _NOBODY_TO_SEE: NOBODY_TO_SEE}


class _State(NamedTuple):
    """Followers on their way, and the areas that they and the ego vehicle, the last, keep others out of."""

    progress_m: Array
    """[D]"""
    speed_mps: Array
    """[D]"""
    poses: Array
    """[D + 1, 3]"""
    is_here: NDArray[np.bool_]
    """[D + 1]"""
    has_moved: NDArray[np.bool_]
    """[D] whether it claims its headway; nobody does at first."""
    pieces: Pieces
    areas: Areas
    """[D + 1] at first only a box each; the headway is laid when somebody comes near."""


@kernel
def _claimed(drivers: Drivers, state: _State, driver: int) -> Strip:
    """The lane that a driver covers from its tail to the end of its headway."""
    half_m = drivers.snapped_boxes[driver, 3] / 2
    progress_m, speed_mps = state.progress_m[driver], state.speed_mps[driver]
    end_m = progress_m + half_m + speed_mps * HEADWAY_S
    return strip_between(drivers.lines, driver, progress_m - half_m, end_m)


@kernel
def _lay_area_box(
    state: _State, area: int, x: float, y: float, heading: float, length_m: float, width_m: float
) -> None:
    begin = state.areas.spans[area, 0]
    lay_box(state.pieces, begin, x, y, heading, length_m, width_m)
    state.areas.spans[area, 1] = begin + 1
    state.areas.spans[area, 2], state.areas.spans[area, 3] = 0, 0
    state.areas.hull[area] = state.pieces.circles[begin]


@kernel
def _lay_claim(drivers: Drivers, state: _State, area: int) -> None:
    """Add to a driver's box what it covers within its headway, unless that was done."""
    is_box = state.areas.spans[area, 1] == state.areas.spans[area, 0] + 1
    if is_box and area < len(state.has_moved) and state.has_moved[area]:
        lay_strip(drivers.lines, area, _claimed(drivers, state, area), state.pieces, state.areas, area)


@kernel
def _first_of_nearest(state: _State, driver: int, near: NDArray[np.int64], gaps_m: Array) -> int:
    """Which of several areas counts as the nearest to a driver's: position in `near`."""
    nearest, is_tie = 0, False
    for candidate in range(1, len(near)):
        if gaps_m[candidate] < gaps_m[nearest]:
            nearest, is_tie = candidate, False
        elif gaps_m[candidate] == gaps_m[nearest]:
            is_tie = True
    if not is_tie:
        return nearest
    bounds, own_bounds = np.empty((len(near), 4)), np.empty(4)
    for candidate in range(len(near)):
        area_bounds(state.pieces, state.areas, near[candidate], bounds[candidate])
    area_bounds(state.pieces, state.areas, driver, own_bounds)
    return nearest_in_tree(bounds, gaps_m, own_bounds)


@kernel
def _move(drivers: Drivers, state: _State, driver: int, gap_m: float, lead_speed_mps: float) -> None:
    """One Euler step of the intelligent driver model behind a leader.

    Source: nuplan-devkit v1.2 `IDMPolicy.solve_forward_euler_idm_policy`.
    """
    speed_mps = state.speed_mps[driver]
    approach = speed_mps * (speed_mps - lead_speed_mps)
    wanted_gap_m = _MIN_GAP_M + speed_mps * HEADWAY_S + approach / (2 * math.sqrt(_ACCELERATION_MPS2 * _BRAKING_MPS2))
    freedom = 1 - (speed_mps / drivers.wanted_speed_mps[driver]) ** 4
    acceleration = _ACCELERATION_MPS2 * (freedom - (wanted_gap_m / max(gap_m, _MIN_GAP_M)) ** 2)
    acceleration = min(max(-_BRAKING_MPS2, acceleration), _ACCELERATION_MPS2)
    state.progress_m[driver] += ROLLOUT_STEP_S * speed_mps
    state.speed_mps[driver] = max(speed_mps + ROLLOUT_STEP_S * acceleration, 0.0)
    x, y, heading = pose_at(drivers.lines, driver, state.progress_m[driver])
    state.poses[driver, 0], state.poses[driver, 1], state.poses[driver, 2] = x, y, heading
    length_m, width_m = drivers.snapped_boxes[driver, 3], drivers.snapped_boxes[driver, 4]
    _lay_area_box(state, driver, x, y, heading, length_m, width_m)
    state.has_moved[driver] = True
    longest_m = max(length_m + state.speed_mps[driver] * HEADWAY_S, drivers.lines.longest_m[driver])
    enclose_strip(_claimed(drivers, state, driver), longest_m, state.areas, driver)


@kernel
def _follow(drivers: Drivers, state: _State, driver: int, at: int, ego_speed_mps: float) -> int:
    """Move one driver one step on, behind whatever is nearest in its way; `at` is where there is room for pieces."""
    count, lines = len(state.progress_m), drivers.lines
    pieces, areas = state.pieces, state.areas
    corridor = lay_reach(lines, driver, state.progress_m[driver], pieces, at)
    begin = corridor.next_vertex - 1
    # Once it has moved, its box lies around where its corridor begins.
    if not state.has_moved[driver] and not reach_touches(lines, corridor, begin, pieces, areas, driver):
        return _LOST_LANE
    near, gaps_m, found, overlooked = np.empty(count + 1, dtype=np.int64), np.empty(count + 1), 0, 0
    last = lines.first[driver + 1] - 1
    for other in range(count + 1):
        if other == driver or not state.is_here[other]:
            continue
        vertex = segment_near(lines, corridor, begin, areas, other)
        if vertex >= last and vertex >= corridor.next_vertex:
            continue
        _lay_claim(drivers, state, other)
        if not reach_touches(lines, corridor, vertex, pieces, areas, other):
            continue
        if drivers.is_hidden[driver, other]:
            overlooked += 1
            continue
        _lay_claim(drivers, state, driver)
        near[found], gaps_m[found] = other, area_distance(pieces, areas, driver, other)
        found += 1
    if found > 0:
        nearest = _first_of_nearest(state, driver, near[:found], gaps_m[:found])
        leader, gap_m = near[nearest], gaps_m[nearest]
        lead_speed_mps, lead_heading = ego_speed_mps, state.poses[count, 2]
        if leader < count and not drivers.is_taken_for_ego[leader]:
            lead_speed_mps, lead_heading = state.speed_mps[leader], state.poses[leader, 2]
        turned = (lead_heading - state.poses[driver, 2] + math.pi) % (2 * math.pi) - math.pi
        _move(drivers, state, driver, gap_m, lead_speed_mps * math.cos(turned))
    elif overlooked > 0:
        return _NOBODY_TO_SEE
    else:
        # It brakes for the end of its lane, where officially nothing stands.
        rest_m = lines.vertices[last, PROGRESS] - state.progress_m[driver]
        _move(drivers, state, driver, rest_m - drivers.snapped_boxes[driver, 3] / 2, 0.0)
    return _FINE


@kernel
def _drive(drivers: Drivers, ego_states: Array, state: _State, at: int, plan: int, drives: Drives) -> int:
    """Drive everybody beside one rollout [41, 11]."""
    count = len(drivers.progress_m)
    state.progress_m[:], state.speed_mps[:] = drivers.progress_m, drivers.speed_mps
    state.has_moved[:], state.is_here[:] = False, True
    for driver in range(count):
        box = drivers.snapped_boxes[driver]
        _lay_area_box(state, driver, box[0], box[1], box[2], box[3], box[4])
        # The lane may end before the place where the vehicle was put.
        x, y, heading = pose_at(drivers.lines, driver, drivers.progress_m[driver])
        state.poses[driver, 0], state.poses[driver, 1], state.poses[driver, 2] = x, y, heading
    for step in range(1, len(ego_states)):
        ego = ego_states[step - 1]
        state.poses[count, 0], state.poses[count, 1], state.poses[count, 2] = ego[EGO_X], ego[EGO_Y], ego[EGO_HEADING]
        # Officially the box is centered on the rear axle.
        _lay_area_box(state, count, ego[EGO_X], ego[EGO_Y], ego[EGO_HEADING], EGO_LENGTH_M, EGO_WIDTH_M)
        for driver in range(count):
            apart_m = math.hypot(state.poses[driver, 0] - ego[EGO_X], state.poses[driver, 1] - ego[EGO_Y])
            state.is_here[driver] &= apart_m <= REACH_M
        for driver in range(count):
            if state.is_here[driver]:
                failure = _follow(drivers, state, driver, at, math.hypot(ego[EGO_VX], ego[EGO_VY]))
                if failure:
                    return failure
            drives.poses[plan, driver, step] = state.poses[driver]
            drives.speed_mps[plan, driver, step] = state.speed_mps[driver]
            drives.present[plan, driver, step] = state.is_here[driver]
        for bystander in range(len(drivers.bystanders)):
            outline, is_free = drivers.bystanders[bystander], True
            for driver in range(count):
                if is_free and state.is_here[driver]:
                    is_free = not boxes_touch(outline, state.pieces.quads[state.areas.spans[driver, 0]])
            for earlier in range(bystander):
                if is_free and drives.bystanders_present[plan, earlier, step]:
                    is_free = not boxes_touch(outline, drivers.bystanders[earlier])
            drives.bystanders_present[plan, bystander, step] = is_free
    return _FINE


@kernel
def _drive_all(drivers: Drivers, rollouts: Array, drives: Drives) -> int:
    """Drive everybody beside each of the rollouts [C, 41, 11]; says what failed."""
    count, lines = len(drivers.progress_m), drivers.lines
    # A box and the four outermost segments of its claim, for everybody; then the first two segments of a corridor.
    room = 1 + most_pieces(lines, 4)
    state = _State(
        np.empty(count),
        np.empty(count),
        np.empty((count + 1, 3)),
        np.empty(count + 1, dtype=np.bool_),
        np.empty(count, dtype=np.bool_),
        pieces_for(lines, (count + 2) * room),
        Areas(np.zeros((count + 1, 4), dtype=np.int64), np.empty((count + 1, 3))),
    )
    for area in range(count + 1):
        state.areas.spans[area, 0] = lines.slot[-1] + area * room
    for plan in range(len(rollouts)):
        failure = _drive(drivers, rollouts[plan], state, lines.slot[-1] + (count + 1) * room, plan, drives)
        if failure:
            return failure
    return _FINE


def drive(start: TrafficStart, rollouts: Array) -> Drives:
    """What followers and bystanders do beside rollouts [C, 41, 11] of the ego vehicle, each by itself.

    Raises:
        SceneDataError: A vehicle lost its lane, for which the official policy fails as well.
    Source: navsim `NavsimIDMTrafficAgents`, `NavsimIDMAgentManager.propagate_agents`.
    """
    plans, count = len(rollouts), len(start.followers)
    drives = Drives(
        np.zeros((plans, count, ROLLOUT_STATES, 3)),
        np.zeros((plans, count, ROLLOUT_STATES)),
        np.zeros((plans, count, ROLLOUT_STATES), dtype=np.bool_),
        np.zeros((plans, len(start.bystanders), ROLLOUT_STATES), dtype=np.bool_),
    )
    failure = _drive_all(start.drivers, np.ascontiguousarray(rollouts), drives)
    if failure:
        raise SceneDataError(start.token, _FAILURES[failure])
    return drives


def react(start: TrafficStart, ego_states: Array) -> Tracks:
    """What everything around the ego vehicle does while it drives through given states.

    Args:
        start: Where traffic starts from.
        ego_states: [41, 11] simulated states.
    Returns:
        Vehicles of the current frame in its order, then everything else.
    Raises:
        SceneDataError: A vehicle lost its lane, for which the official policy fails as well.
    """
    drives = drive(start, ego_states[None])
    boxes = np.repeat(start.vehicle_boxes[:, None], ROLLOUT_STATES, axis=1)
    velocity = np.repeat(start.vehicle_velocity_mps[:, None], ROLLOUT_STATES, axis=1)
    present = np.zeros(boxes.shape[:2], dtype=np.bool_)
    rows = [follower.row for follower in start.followers]
    present[rows] = drives.present[0]
    present[list(start.bystanders)] = drives.bystanders_present[0]
    present[:, 0] = True
    heading, speed_mps = drives.poses[0, :, 1:, 2], drives.speed_mps[0, :, 1:]
    boxes[rows, 1:, :3] = drives.poses[0, :, 1:]
    velocity[rows, 1:] = np.stack([speed_mps * np.cos(heading), speed_mps * np.sin(heading)], axis=-1)
    return tracks_from_vehicles(start, boxes, velocity, present)


@kernel
def _lay_vehicles(
    drives: Drives,
    now: Array,
    sizes: Array,
    follower: NDArray[np.int64],
    bystander: NDArray[np.int64],
    traffic: Traffic,
) -> None:
    """Lay out what vehicles with corners `now` [V, 4, 2] do beside each rollout, plan by plan.

    `follower` and `bystander` [V] say which follower or bystander a vehicle is; -1 for none.
    """
    for plan in range(len(drives.poses)):
        for vehicle in range(len(now)):
            track = plan * len(now) + vehicle
            traffic.corners[track, :], traffic.present[track, 0] = now[vehicle], True
            box_centroid(now[vehicle], traffic.centroid[track, 0])
            traffic.centroid[track, 1:] = traffic.centroid[track, 0]
            if bystander[vehicle] >= 0:
                traffic.present[track, 1:] = drives.bystanders_present[plan, bystander[vehicle], 1:]
            if follower[vehicle] < 0:
                continue
            length_m, width_m = sizes[vehicle, 0], sizes[vehicle, 1]
            for step in range(1, drives.poses.shape[2]):
                if not drives.present[plan, follower[vehicle], step]:
                    break
                traffic.present[track, step] = True
                pose = drives.poses[plan, follower[vehicle], step]
                write_box(traffic.corners[track, step], pose[0], pose[1], pose[2], length_m, width_m)
                box_centroid(traffic.corners[track, step], traffic.centroid[track, step])


def reactive_vehicles(start: TrafficStart, rollouts: Array) -> Traffic:
    """Vehicles of the current frame beside each of the rollouts [C, 41, 11], for the scoring kernels.

    Returns:
        C times V tracks, plan by plan. What is no vehicle is the same for every plan: `TrafficStart.others_traffic`.
    Raises:
        SceneDataError: A vehicle lost its lane, for which the official policy fails as well.
    """
    drives = drive(start, rollouts)
    count = len(start.vehicle_tokens)
    follower, bystander = np.full(count, -1), np.full(count, -1)
    follower[[f.row for f in start.followers]] = np.arange(len(start.followers))
    bystander[list(start.bystanders)] = np.arange(len(start.bystanders))
    tracks = len(rollouts) * count
    traffic = Traffic(
        np.empty((tracks, ROLLOUT_STATES, 4, 2)),
        np.empty((tracks, ROLLOUT_STATES, 2)),
        np.zeros((tracks, ROLLOUT_STATES), dtype=np.bool_),
        np.zeros(tracks, dtype=np.bool_),
        np.tile(np.hypot(*start.vehicle_velocity_mps.T), len(rollouts)),
    )
    now = np.ascontiguousarray(box_corners(start.vehicle_boxes))
    _lay_vehicles(drives, now, np.ascontiguousarray(start.vehicle_boxes[:, 3:]), follower, bystander, traffic)
    return traffic
