"""Reactive traffic: vehicles that follow their lane by the intelligent driver model and brake for the ego vehicle.

The official policy is odd in places, and every oddity is kept: routes are never extended, red lights are ignored, and
the ego vehicle is seen 0.1 s late with its box centered on the rear axle.
"""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from irlvla.data.maps import CityMap
from irlvla.errors import SceneDataError
from irlvla.geometry import EGO_LENGTH_M, EGO_WIDTH_M, box_corners, ego_boxes
from irlvla.simulation.bicycle import HEADING, VX, VY, X, Y
from irlvla.simulation.observation import Tracks, boxes_in_world
from irlvla.simulation.traffic import Traffic, traffic_from_boxes
from irlvla.types import OBJECT_TYPES, ROLLOUT_STATES, ROLLOUT_STEP_S, Array, Frame

_VEHICLE = OBJECT_TYPES.index("vehicle")
_MAX_LATERAL_M = 3.0
"""A vehicle further off its lane's center line does not follow it."""
_STANDING_MPS = 0.1
_REACH_M = 100.0
"""Vehicles that get further away from the ego vehicle are gone for good."""
_DEFAULT_SPEED_MPS = 10.0
_HEADWAY_S = 1.5
_MIN_GAP_M = 1.0
_ACCELERATION_MPS2 = 1.0
_BRAKING_MPS2 = 2.0
_SIMPLIFY_M = 1e-5

_EGO = -1
"""Key of the ego vehicle among the areas that vehicles keep clear of."""


@dataclass(frozen=True)
class Rail:
    """Center line of a lane or connector, as a vehicle follows it."""

    progress_m: tuple[float, ...]
    """[K] distance along the line, from 0, strictly increasing."""
    poses: tuple[tuple[float, float, float], ...]
    """[K] x, y (m, world), unwrapped heading (rad)."""
    points: Array
    """[K, 2] their positions."""

    @property
    def end_m(self) -> float:
        return self.progress_m[-1]

    def clamped(self, progress_m: float) -> float:
        return max(self.progress_m[0], min(progress_m, self.progress_m[-1]))

    def pose(self, progress_m: float) -> tuple[float, float, float]:
        """x, y (m, world), heading (rad, wrapped) at a progress; held at both ends."""
        progress_m = self.clamped(progress_m)
        after = min(max(bisect_left(self.progress_m, progress_m), 1), len(self.progress_m) - 1)
        begin_m, span_m = self.progress_m[after - 1], self.progress_m[after] - self.progress_m[after - 1]
        x, y, heading = (
            (end - begin) / span_m * (progress_m - begin_m) + begin
            for begin, end in zip(self.poses[after - 1], self.poses[after], strict=True)
        )
        return x, y, _wrap(heading)

    def ahead(self, progress_m: float) -> Any:
        """The rest of the line from a progress on; its last piece where nothing is left."""
        progress_m = self.clamped(progress_m)
        following = bisect_right(self.progress_m, progress_m)
        if following == len(self.points):
            return shapely.linestrings(self.points[-2:])
        return shapely.linestrings(np.vstack([self.pose(progress_m)[:2], self.points[following:]]))

    def between(self, begin_m: float, end_m: float) -> Any:
        """The line between two progresses; its outermost piece where they lie off one end."""
        begin_m, end_m = self.clamped(begin_m), self.clamped(end_m)
        first, stop = bisect_right(self.progress_m, begin_m), bisect_left(self.progress_m, end_m)
        if first == len(self.points):
            return shapely.linestrings(self.points[-2:])
        if stop == 0:
            return shapely.linestrings(self.points[:2])
        ends = self.pose(begin_m)[:2], self.pose(end_m)[:2]
        return shapely.linestrings(np.vstack([ends[0], self.points[first:stop], ends[1]]))


@dataclass(frozen=True)
class Follower:
    """A vehicle that follows its lane, as it starts."""

    row: int
    """Which of the current frame's vehicles it is."""
    rail: Rail
    progress_m: float
    speed_mps: float
    wanted_speed_mps: float
    length_m: float
    width_m: float
    outline: Any
    """Its box, moved onto the center line (shapely polygon)."""


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


@dataclass
class _Driver:
    """A follower on its way."""

    follower: Follower
    progress_m: float
    speed_mps: float

    @property
    def pose(self) -> tuple[float, float, float]:
        return self.follower.rail.pose(self.progress_m)

    @property
    def corridor(self) -> Any:
        """The rest of its lane, as wide as it is."""
        return self.follower.rail.ahead(self.progress_m).buffer(self.follower.width_m / 2, cap_style="flat")

    @property
    def claim(self) -> Any:
        """What it keeps others out of: its box, and what it covers within its headway."""
        half_m = self.follower.length_m / 2
        line = self.follower.rail.between(
            self.progress_m - half_m, self.progress_m + half_m + self.speed_mps * _HEADWAY_S
        )
        outline = _outline(np.array([*self.pose, self.follower.length_m, self.follower.width_m]))
        return shapely.union_all([line.buffer(self.follower.width_m / 2, cap_style="flat"), outline])

    def advance(self, gap_m: float, lead_speed_mps: float) -> None:
        """One Euler step of the intelligent driver model behind a leader."""
        approach = self.speed_mps * (self.speed_mps - lead_speed_mps)
        wanted_gap_m = (
            _MIN_GAP_M + self.speed_mps * _HEADWAY_S + approach / (2 * math.sqrt(_ACCELERATION_MPS2 * _BRAKING_MPS2))
        )
        freedom = 1 - (self.speed_mps / self.follower.wanted_speed_mps) ** 4
        acceleration = _ACCELERATION_MPS2 * (freedom - (wanted_gap_m / max(gap_m, _MIN_GAP_M)) ** 2)
        acceleration = min(max(-_BRAKING_MPS2, acceleration), _ACCELERATION_MPS2)
        self.progress_m += ROLLOUT_STEP_S * self.speed_mps
        self.speed_mps = max(self.speed_mps + ROLLOUT_STEP_S * acceleration, 0.0)


def _wrap(angle_rad: float) -> float:
    return (angle_rad + math.pi) % (2 * math.pi) - math.pi


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
    return Rail(tuple(progress_m[keep].tolist()), tuple(tuple(pose) for pose in poses.tolist()), path[keep, :2])


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
        outline = _outline(np.array([*pose, *box[3:]]))
        if shapely.intersects(outline, taken).any():
            continue
        taken.append(outline)
        # A lane without a speed limit hands on the limit that the vehicle before used.
        wanted_speed_mps = city_map.speed_limit_mps(lane) or wanted_speed_mps
        rail = _rail(city_map.discrete_path(lane), token, lane)
        followers.append(
            Follower(row, rail, progress_m, speed_mps, wanted_speed_mps, float(box[3]), float(box[4]), outline)
        )
    others = tracks.select(tracks.types != _VEHICLE)
    present = others.present.copy()
    # A track with a single sighting is replayed throughout, but the current step shows what was there.
    present[:, 0] = [other in now.boxes.track_tokens for other in others.tokens]
    return TrafficStart(
        token, tuple(names), boxes, velocity, tuple(followers), tuple(bystanders), replace(others, present=present)
    )


def react(start: TrafficStart, ego_states: Array) -> Tracks:
    """What everything around the ego vehicle does while it drives through given states.

    Args:
        start: Where traffic starts from.
        ego_states: [41, 11] simulated states.
    Returns:
        Vehicles of the current frame in its order, then everything else.
    Raises:
        SceneDataError: A vehicle lost its lane, for which the official policy fails as well.
    Source: navsim `NavsimIDMTrafficAgents`, `NavsimIDMAgentManager.propagate_agents`.
    """
    count = len(start.vehicle_tokens)
    boxes = np.repeat(start.vehicle_boxes[:, None], ROLLOUT_STATES, axis=1)
    velocity = np.repeat(start.vehicle_velocity_mps[:, None], ROLLOUT_STATES, axis=1)
    present = np.zeros((count, ROLLOUT_STATES), dtype=np.bool_)
    present[:, 0] = True
    drivers = {follower.row: _Driver(follower, follower.progress_m, follower.speed_mps) for follower in start.followers}
    areas = {follower.row: follower.outline for follower in start.followers}
    rough = set(areas)
    bystanders = [(row, _outline(start.vehicle_boxes[row])) for row in start.bystanders]
    for step in range(1, ROLLOUT_STATES):
        _propagate(start.token, drivers, areas, rough, ego_states[step - 1])
        for row, driver in drivers.items():
            x, y, heading = driver.pose
            boxes[row, step:, :3] = x, y, heading
            velocity[row, step:] = driver.speed_mps * math.cos(heading), driver.speed_mps * math.sin(heading)
            present[row, step] = True
        outlines = [_outline(boxes[row, step]) for row in drivers] if bystanders else []
        for row, outline in bystanders:
            if not shapely.intersects(outline, outlines).any():
                outlines.append(outline)
                present[row, step] = True
    others = start.others
    return Tracks(
        start.vehicle_tokens + others.tokens,
        np.concatenate([np.full(count, _VEHICLE), others.types]),
        np.concatenate([boxes, others.boxes]),
        np.concatenate([velocity, others.velocity_mps]),
        np.concatenate([present, others.present]),
    )


def reactive_traffic(start: TrafficStart, ego_states: Array) -> Traffic:
    """`react`, laid out for the scoring kernels."""
    tracks = react(start, ego_states)
    return traffic_from_boxes(tracks.boxes, tracks.present, tracks.types, tracks.first_speed_mps)


def _propagate(
    scene_token: str, drivers: dict[int, _Driver], areas: dict[int, Any], rough: set[int], ego_state: Array
) -> None:
    """Move every driver one step on, one after the other, behind whatever is nearest in its way.

    Args:
        scene_token: For the error message.
        drivers: By row; those out of reach are taken out.
        areas: What drivers and the ego vehicle claim.
        rough: Keys of the areas that simplification may still change.
        ego_state: [11] of the step before.
    """
    ego_x, ego_y, ego_heading = (float(ego_state[column]) for column in (X, Y, HEADING))
    ego_speed_mps = math.hypot(ego_state[VX], ego_state[VY])
    # Officially the box is centered on the rear axle.
    areas[_EGO] = _outline(np.array([ego_x, ego_y, ego_heading, EGO_LENGTH_M, EGO_WIDTH_M]))
    rough.add(_EGO)
    for row, driver in list(drivers.items()):
        x, y, _ = driver.pose
        if math.hypot(x - ego_x, y - ego_y) > _REACH_M:
            del drivers[row], areas[row]
            rough.discard(row)
    for row, driver in drivers.items():
        _simplify(areas, rough)
        keys, claimed = list(areas), np.array(list(areas.values()), dtype=object)
        corridor = driver.corridor
        shapely.prepare(corridor)
        in_way = shapely.intersects(corridor, claimed)
        own = keys.index(row)
        if not in_way[own]:
            raise SceneDataError(scene_token, "a vehicle of the reactive traffic lost its lane; score it non-reactive")
        in_way[own] = False
        if in_way.any():
            near = np.flatnonzero(in_way)
            gaps_m = shapely.distance(claimed[near], areas[row])
            nearest = int(np.argmin(gaps_m))
            leader, gap_m = keys[near[nearest]], float(gaps_m[nearest])
            lead_heading = ego_heading if leader == _EGO else drivers[leader].pose[2]
            lead_speed_mps = ego_speed_mps if leader == _EGO else drivers[leader].speed_mps
            driver.advance(gap_m, lead_speed_mps * math.cos(_wrap(lead_heading - driver.pose[2])))
        else:
            # It brakes for the end of its lane, where officially nothing stands.
            driver.advance(driver.follower.rail.end_m - driver.progress_m - driver.follower.length_m / 2, 0.0)
        areas[row] = driver.claim
        rough.add(row)


def _simplify(areas: dict[int, Any], rough: set[int]) -> None:
    """Drop near-duplicate vertices. Done before every move, as officially; an area that keeps all of its is done."""
    if not rough:
        return
    keys = list(rough)
    before = np.array([areas[key] for key in keys], dtype=object)
    after = shapely.simplify(before, _SIMPLIFY_M, preserve_topology=True)
    settled = shapely.get_num_coordinates(before) == shapely.get_num_coordinates(after)
    for key, area, is_settled in zip(keys, after, settled.tolist(), strict=True):
        areas[key] = area
        if is_settled:
            rough.discard(key)
