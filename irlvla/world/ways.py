"""Where one may drive: the ways that a map offers a car at a place, and a drive along one of them.

Read from the map file alone, so that NAVSIM's cities serve as well as the embedded world's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely
from scipy.interpolate import CubicHermiteSpline
from scipy.ndimage import gaussian_filter1d

from irlvla.data.maps import CityMap
from irlvla.geometry import EGO_FRONT_M, EGO_WHEEL_BASE_M, EGO_WIDTH_M, wrap_angle
from irlvla.simulation.observation import Tracks
from irlvla.types import ROLLOUT_STATES, ROLLOUT_STEP_S, Array

Direction = Literal["left", "straight", "right"]

STRAIGHT_RAD = np.radians(30.0)
"""A way through a junction that turns by less goes straight on."""
WAY_M = 150.0
"""Longer than what anybody drives in four seconds."""
MAX_CURVATURE = float(np.tan(0.6) / EGO_WHEEL_BASE_M)

_STEP_M = 0.5
_BEYOND_M = 4.0
_NEIGHBOUR_M = (2.2, 5.5)
_BEND_MPS2, _BEND_RADPS = 2.0, 0.4
_APPROACH_MPS2 = 1.8
_GAP_M, _HEADWAY_S = 2.5, 1.2
_ACCELERATION_MPS2, _BRAKING_MPS2, _HARD_BRAKING_MPS2 = 1.8, 2.2, 3.3
_JERK_MPS3 = 3.5


@dataclass(frozen=True)
class Place:
    """Where a car stands on the map."""

    lane: int
    """Lane or connector under the rear axle, best aligned."""
    at_m: float
    """Along its centerline."""
    to_end_m: float
    """From the front bumper to the lane's end; negative where the bumper is beyond it."""


@dataclass(frozen=True)
class Way:
    """A line to follow with the rear axle."""

    line: Array
    """[M, 2] world, every half metre, from the car's rear axle on."""
    blocks: tuple[int, ...]
    """Roadblocks and connectors along it."""
    stops: tuple[tuple[int, float], ...] = ()
    """(lane connector, metres along the line where it begins) of the connectors ahead of the front bumper."""

    @property
    def length_m(self) -> float:
        return _STEP_M * (len(self.line) - 1)


def place_of(city_map: CityMap, pose: Array, route: Sequence[int]) -> Place | None:
    """The lane a car is on; one of the route before others, None off the lanes."""
    point = shapely.Point(pose[:2])
    found: list[tuple[bool, float, int]] = []
    candidates = [*city_map.lanes.intersecting(point)]
    candidates += [
        lane
        for block in city_map.roadblock_connectors.intersecting(point)
        for lane in city_map.lanes_of(block)
        if city_map.lane_polygon(lane).intersects(point)
    ]
    on_route = set(route)
    for lane in candidates:
        path = city_map.discrete_path(lane)
        nearest = int(np.argmin(np.hypot(*(path[:, :2] - pose[:2]).T)))
        off = abs(float(wrap_angle(path[nearest, 2] - pose[2])))
        if off < np.pi / 3:
            found.append((city_map.roadblock_of(lane) not in on_route, off, lane))
    if not found:
        return None
    lane = min(found)[2]
    baseline = city_map.baseline(lane)
    at_m = float(baseline.project(point))
    return Place(lane, at_m, float(baseline.length) - at_m - EGO_FRONT_M)


def direction_of(city_map: CityMap, lane: int, connector: int) -> Direction:
    """Whether the way from a lane over a connector turns, from the lane's end to some metres behind the junction."""
    path = city_map.discrete_path(connector)
    following = city_map.next_lanes(connector)
    out = city_map.discrete_path(following[0]) if following else path[-1:]
    beyond = int(np.searchsorted(np.cumsum(np.hypot(*np.diff(out[:, :2], axis=0).T)), _BEYOND_M))
    turned = float(wrap_angle(out[min(beyond, len(out) - 1), 2] - city_map.discrete_path(lane)[-1, 2]))
    return "straight" if abs(turned) < STRAIGHT_RAD else "left" if turned > 0 else "right"


def chain(city_map: CityMap, lane: int, choose: Callable[[int, Sequence[int]], int | None]) -> list[int]:
    """Lanes and connectors from a lane on, as far as a plan can reach; `choose` picks among a lane's connectors."""
    lanes, length_m = [lane], float(city_map.baseline(lane).length)
    while length_m < WAY_M + 40.0:
        following = city_map.next_lanes(lanes[-1])
        chosen = choose(lanes[-1], following) if following else None
        if chosen is None or chosen in lanes:
            break
        lanes.append(chosen)
        length_m += float(city_map.baseline(chosen).length)
    return lanes


def along_route(city_map: CityMap, route: Sequence[int]) -> Callable[[int, Sequence[int]], int | None]:
    """Choice of the connectors that stay on a route, the straightest of them; off it, the straightest of all."""
    wanted = set(route)

    def choose(_: int, following: Sequence[int]) -> int | None:
        kept = [lane for lane in following if city_map.roadblock_of(lane) in wanted] or list(following)
        return min(kept, key=lambda lane: abs(_turned(city_map, lane)), default=None)

    return choose


def _turned(city_map: CityMap, lane: int) -> float:
    path = city_map.discrete_path(lane)
    return float(wrap_angle(path[-1, 2] - path[0, 2]))


def neighbour(city_map: CityMap, lane: int, at_m: float, side: Literal["left", "right"]) -> int | None:
    """The lane of the same roadblock beside a lane, told by geometry alone; None for connectors."""
    if not city_map.is_lane(lane):
        return None
    baseline = city_map.baseline(lane)
    foot = np.array(baseline.interpolate(at_m).coords[0])
    ahead = np.array(baseline.interpolate(min(at_m + 1.0, baseline.length)).coords[0])
    behind = np.array(baseline.interpolate(max(at_m - 1.0, 0.0)).coords[0])
    along = (ahead - behind) / max(float(np.hypot(*(ahead - behind))), 1e-9)
    best: tuple[float, int] | None = None
    for other in city_map.lanes_of(city_map.roadblock_of(lane)):
        if other == lane:
            continue
        line = city_map.baseline(other)
        aside = np.array(line.interpolate(line.project(shapely.Point(foot))).coords[0]) - foot
        left_m = float(along[0] * aside[1] - along[1] * aside[0])
        beside_m = left_m if side == "left" else -left_m
        if _NEIGHBOUR_M[0] < beside_m < _NEIGHBOUR_M[1] and (best is None or beside_m < best[0]):
            best = beside_m, other
    return None if best is None else best[1]


def lane_way(city_map: CityMap, lanes: Sequence[int], pose: Array) -> Way:
    """The middle of consecutive lanes, from the place nearest to a pose on."""
    line, starts = _joined(city_map, lanes)
    start_m = float(shapely.LineString(line).project(shapely.Point(pose[:2])))
    stops = tuple(
        (lane, starts[k] - start_m)
        for k, lane in enumerate(lanes)
        if not city_map.is_lane(lane) and starts[k] - start_m > EGO_FRONT_M - 1.0
    )
    blocks = tuple(dict.fromkeys(city_map.roadblock_of(lane) for lane in lanes))
    return Way(_from(line, start_m), blocks, stops)


def from_car(way: Way, pose: Array, speed_mps: float) -> Way:
    """The way, begun where the car stands and how it heads, and led back to itself within two or three seconds."""
    return Way(_begun_at(way.line, pose, float(np.clip(2.5 * speed_mps, 10.0, 60.0))), way.blocks, way.stops)


def moved_over(way: Way, target: Way, from_m: float, over_m: float) -> Way:
    """A way that leaves one for another, smoothly between two distances along the first; then stays on the other."""
    count = min(len(way.line), round((from_m + over_m) / _STEP_M) + 1)
    near = shapely.LineString(target.line)
    own = way.line[:count]
    at = shapely.line_locate_point(near, shapely.points(own))
    beside = shapely.get_coordinates(shapely.line_interpolate_point(near, at))
    share = np.clip((_STEP_M * np.arange(count) - from_m) / max(over_m, 1e-6), 0.0, 1.0)
    share = share**3 * (10 - 15 * share + 6 * share**2)
    blended = own + share[:, None] * (beside - own)
    rest = target.line[_STEP_M * np.arange(len(target.line)) > at[-1] + 0.2]
    line = _evenly(np.concatenate([blended, rest]))
    return Way(line, tuple(dict.fromkeys((*way.blocks[:1], *target.blocks))), target.stops)


def joined(driven: Array, line: Array) -> Array:
    """[M, 2] a line through poses [N, 3], in their directions, that goes on along another one [K, 2]."""
    step_m = np.hypot(*np.diff(driven[:, :2], axis=0).T)
    # Poses of a car that stands say nothing about its way.
    poses = driven[np.r_[True, step_m > 0.3]]
    at = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(poses[:, :2], axis=0).T))])
    along = np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], axis=1)
    between = CubicHermiteSpline(at, poses[:, :2], along)(np.arange(0.0, at[-1], _STEP_M))
    return _evenly(np.concatenate([between, line]))


def shifted(way: Way, right_m: float, over_m: float) -> Way:
    """A way moved to the right, smoothly over its first metres."""
    share = np.clip(_STEP_M * np.arange(len(way.line)) / max(over_m, 1e-6), 0.0, 1.0)
    share = share**3 * (10 - 15 * share + 6 * share**2)
    heading = _headings(way.line)
    aside = np.stack([np.sin(heading), -np.cos(heading)], axis=1)
    return Way(_evenly(way.line + right_m * share[:, None] * aside), way.blocks, way.stops)


def _joined(city_map: CityMap, lanes: Sequence[int]) -> tuple[Array, list[float]]:
    """Centerlines of consecutive lanes as one line, and the arc length where each begins."""
    points: list[Array] = []
    starts: list[float] = []
    length_m = 0.0
    for lane in lanes:
        vertices = city_map.discrete_path(lane)[:, :2]
        if points:
            gap = float(np.hypot(*(vertices[0] - points[-1][-1])))
            length_m += gap
            vertices = vertices if gap > 0.05 else vertices[1:]
        starts.append(length_m)
        if len(vertices):
            points.append(vertices)
        length_m += float(city_map.baseline(lane).length)
    return np.concatenate(points), starts


def _from(line: Array, start_m: float) -> Array:
    """[M, 2] what lies ahead of a place on a line, every half metre, corners rounded as a car rounds them."""
    whole = shapely.LineString(line)
    count = int(min(WAY_M, max(whole.length - start_m, 2 * _STEP_M)) / _STEP_M)
    at = start_m + _STEP_M * np.arange(-16, count + 1)
    points = shapely.get_coordinates(shapely.line_interpolate_point(whole, np.clip(at, 0.0, whole.length)))
    # Behind its begin a line goes on straight, so that smoothing does not pull the first points ahead.
    first = points[at <= 0.0]
    if len(first):
        along = points[len(first)] - points[len(first) - 1]
        along /= max(float(np.hypot(*along)), 1e-9)
        points[: len(first)] = line[0] + at[: len(first), None] * along
    return np.asarray(gaussian_filter1d(points, 1.2 / _STEP_M, axis=0, mode="nearest")[16:])


def _begun_at(line: Array, pose: Array, over_m: float) -> Array:
    """The line with its begin bent so that it starts at a pose, in the pose's direction."""
    heading = _headings(line)
    along = np.array([np.cos(heading[0]), np.sin(heading[0])])
    off = pose[:2] - line[0]
    aside_m = float(along[0] * off[1] - along[1] * off[0])
    slope = float(np.tan(np.clip(wrap_angle(pose[2] - heading[0]), -0.8, 0.8)))
    at = _STEP_M * np.arange(len(line))
    u = np.clip(at / over_m, 0.0, 1.0)
    # Quintic from (offset, slope, 0) to (0, 0, 0).
    offset = aside_m * (1 - u**3 * (10 - 15 * u + 6 * u**2)) + slope * over_m * u * (1 - u) ** 3 * (1 + 3 * u)
    normal = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    bent = _evenly(line + offset[:, None] * normal)
    bent[0] = pose[:2]
    return bent


def _evenly(line: Array) -> Array:
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    at = np.arange(0.0, length[-1], _STEP_M)
    return np.stack([np.interp(at, length, column) for column in line.T], axis=1)


def _headings(line: Array) -> Array:
    step = np.gradient(line, axis=0)
    return np.unwrap(np.arctan2(step[:, 1], step[:, 0]))


def curvature(way: Way) -> Array:
    """[M] along a way (1/m)."""
    return np.asarray(gaussian_filter1d(np.gradient(_headings(way.line), _STEP_M), 1.0 / _STEP_M, mode="nearest"))


@dataclass(frozen=True)
class Pace:
    """How fast somebody wants to drive along a way."""

    target_mps: float
    heeds_others: bool = True
    """Whether they keep behind what is ahead and stop for red lights."""
    stop_at_m: float = np.inf
    """Where the front bumper shall come to rest."""
    braking_mps2: float = _BRAKING_MPS2


def drive(
    way: Way, speed_mps: float, acceleration_mps2: float, pace: Pace, tracks: Tracks, red: dict[int, list[bool]]
) -> Array:
    """Drive along a way from its begin.

    Args:
        way: Where.
        speed_mps, acceleration_mps2: Now.
        pace: How fast.
        tracks: Objects of the next four seconds, as the log has them.
        red: Lane connector -> whether its light is red at each of the nine keyframes from now on.
    Returns:
        [41, 3] rear-axle poses every 0.1 s (world, heading in [-pi, pi]).
    Differs: From PDM-Closed's drive (`irlvla.simulation.pdm_closed.proposals`) in that bends slow it, jerk is bounded,
        it starts where the car is, can end at a place, and knows what the traffic does.
    """
    at = _STEP_M * np.arange(len(way.line))
    limit = _speed_limit(way, pace)
    ahead_m, their_mps = _in_the_way(way, tracks)
    travelled, v, a = 0.0, max(speed_mps, 0.0), float(np.clip(acceleration_mps2, -4.0, 2.0))
    places = [0.0]
    for step in range(1, ROLLOUT_STATES):
        wanted = float(np.interp(travelled + 0.5 * v, at, limit))
        gap_m, lead_mps = pace.stop_at_m - travelled - EGO_FRONT_M + _GAP_M, 0.0
        if way.length_m < WAY_M - 1.0:
            # The road ends, or would lead back onto the way.
            gap_m = min(gap_m, way.length_m - travelled + _GAP_M - 1.0)
        if pace.heeds_others:
            front_m = travelled + EGO_FRONT_M
            for connector, begins_m in way.stops:
                is_red = red.get(connector, [False])[min(step // 5, len(red.get(connector, [False])) - 1)]
                # Who can no longer stop drives on.
                if is_red and begins_m > front_m and v**2 / 8.0 < begins_m - front_m + 0.5:
                    gap_m = min(gap_m, begins_m - front_m + 0.5)
            others = np.flatnonzero(ahead_m[:, step] > front_m - 1.0)
            if len(others):
                nearest = others[np.argmin(ahead_m[others, step])]
                if ahead_m[nearest, step] - front_m < gap_m:
                    gap_m, lead_mps = float(ahead_m[nearest, step] - front_m), float(their_mps[nearest, step])
        asked = _follow(v, wanted, gap_m, lead_mps, pace.braking_mps2)
        a += float(np.clip(asked - a, -_JERK_MPS3 * ROLLOUT_STEP_S, _JERK_MPS3 * ROLLOUT_STEP_S))
        faster = max(v + a * ROLLOUT_STEP_S, 0.0)
        a = (faster - v) / ROLLOUT_STEP_S if faster == 0.0 else a
        travelled = min(travelled + 0.5 * (v + faster) * ROLLOUT_STEP_S, at[-1])
        v = faster
        places.append(travelled)
    heading = _headings(way.line)
    poses = np.stack([np.interp(places, at, column) for column in (*way.line.T, heading)], axis=1)
    poses[:, 2] = wrap_angle(poses[:, 2])
    return poses


def bend_mps(way: Way) -> Array:
    """[M] how fast a way's bends are driven in comfort."""
    bend = np.maximum(np.abs(curvature(way)), 1e-6)
    return np.asarray(np.minimum(np.sqrt(_BEND_MPS2 / bend), _BEND_RADPS / bend))


def _speed_limit(way: Way, pace: Pace) -> Array:
    limit = np.minimum(pace.target_mps, bend_mps(way))
    for k in range(len(limit) - 2, -1, -1):
        limit[k] = min(limit[k], np.sqrt(limit[k + 1] ** 2 + 2 * _APPROACH_MPS2 * _STEP_M))
    return np.asarray(limit)


def _in_the_way(way: Way, tracks: Tracks) -> tuple[Array, Array]:
    """Rear ends of objects along a way [N, 41] (m, infinite where they are not in it) and their speeds along it."""
    line = shapely.LineString(way.line)
    heading = _headings(way.line)
    ahead = np.full(tracks.present.shape, np.inf)
    speed = np.zeros(tracks.present.shape)
    near = np.hypot(*(tracks.boxes[:, 0, :2] - way.line[0]).T) < WAY_M + 40.0
    for track in np.flatnonzero(near):
        boxes = tracks.boxes[track]
        points = shapely.points(boxes[:, :2])
        at = shapely.line_locate_point(line, points)
        along = np.interp(at, _STEP_M * np.arange(len(heading)), heading)
        turned = boxes[:, 2] - along
        half = np.abs(np.cos(turned)) * boxes[:, 3] / 2 + np.abs(np.sin(turned)) * boxes[:, 4] / 2
        wide = np.abs(np.sin(turned)) * boxes[:, 3] / 2 + np.abs(np.cos(turned)) * boxes[:, 4] / 2
        blocks = shapely.distance(line, points) < wide + EGO_WIDTH_M / 2 + 0.15
        # What drives abreast or behind is no obstacle.
        blocks &= tracks.present[track] & (at - half > EGO_FRONT_M - 1.0) & (at < way.length_m - 0.1)
        ahead[track] = np.where(blocks, at - half, np.inf)
        velocity = tracks.velocity_mps[track]
        speed[track] = velocity[:, 0] * np.cos(along) + velocity[:, 1] * np.sin(along)
    return ahead, np.maximum(speed, 0.0)


def _follow(v: float, wanted: float, gap_m: float, lead_mps: float, braking: float) -> float:
    """Acceleration of the intelligent-driver model, braking harder than comfort only where it must."""
    rising = _ACCELERATION_MPS2 * (1 - (v / max(wanted, 0.1)) ** 4)
    free = -min(braking, 1.5 * (v - wanted)) if v > wanted else rising
    if not np.isfinite(gap_m):
        return free
    closing = v * (v - lead_mps) / (2 * np.sqrt(_ACCELERATION_MPS2 * braking))
    space = _GAP_M + max(0.0, _HEADWAY_S * v * (lead_mps > 0.5) + closing)
    held = _ACCELERATION_MPS2 * (1 - (space / max(gap_m, 0.3)) ** 2)
    return max(min(free, held), -max(_HARD_BRAKING_MPS2, braking))
