"""PDM-Closed, the rule-based planner whose progress normalises everybody's.

It follows three parallel paths with five target speeds each under an intelligent-driver model, against traffic that
keeps its velocity. Which of the 15 proposals it drives is decided by score, in `irlvla.scoring.context`.
"""

import math
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.ops import substring

from irlvla.geometry import EGO_LENGTH_M, EGO_WIDTH_M, REAR_AXLE_TO_CENTER_M, box_corners, ego_boxes, wrap_angle
from irlvla.simulation.kernels import kernel
from irlvla.simulation.observation import Tracks, touching_ego
from irlvla.simulation.paths import path_progress, pose_at, project
from irlvla.simulation.polygons import PolygonSet, box_distance, box_polygon_distance
from irlvla.simulation.reference import resample_poses, rollout_times_us
from irlvla.simulation.search_tree import order_in_tree
from irlvla.simulation.traffic import FIRST_STATIC_TYPE, RedLights, Traffic, traffic_from_corners
from irlvla.types import OBJECT_TYPES, ROLLOUT_STATES, ROLLOUT_STEP_S, Array

LATERAL_OFFSETS_M = (0.0, -1.0, 1.0)
SPEED_FRACTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
PROPOSALS = len(LATERAL_OFFSETS_M) * len(SPEED_FRACTIONS)
DEFAULT_SPEED_LIMIT_MPS = 15.0

_REACH_M = 100.0
_NEAREST_STATIC = 50
_NEAREST_AGENTS = {"vehicle": 50, "pedestrian": 25, "bicycle": 10}
_FORECAST_EVERY_STEPS = 2
_CORRIDOR_S = 5.0

_MIN_GAP_M = 1.0
_HEADWAY_S = 1.5
_MAX_ACCELERATION_MPS2 = 1.5
_MAX_DECELERATION_MPS2 = 3.0
_FREE_FLOW_EXPONENT = 10.0


@dataclass(frozen=True)
class Forecast:
    """Traffic as PDM-Closed expects it: constant velocities, today's red lights for ever."""

    traffic: Traffic
    """Objects that do not touch the ego vehicle at t=0."""
    speed_mps: Array
    """[N]"""
    heading: Array
    """[N] rad, world."""
    lights: RedLights
    blocking_lights: NDArray[np.bool_]
    """[R] red lights to stop for; those whose connector holds the whole ego vehicle already are not."""
    listed_corners: Array
    """[M, 41, 4, 2] every object in reach, those that touch the ego vehicle among them, in official order."""
    listed_rows: NDArray[np.int64]
    """[N] which of them the traffic is."""


def _nearest(tracks: Tracks, ego_center: Array) -> NDArray[np.int64]:
    """Rows of the tracks that the forecast keeps: the nearest static objects, then agents by type."""
    offset = tracks.boxes[:, 0, :2] - ego_center
    distance_m = np.sqrt(offset[:, 0] ** 2 + offset[:, 1] ** 2)
    within = np.hypot(offset[:, 0], offset[:, 1]) <= _REACH_M
    groups = [(tracks.types >= FIRST_STATIC_TYPE, _NEAREST_STATIC)]
    groups += [(tracks.types == OBJECT_TYPES.index(name), count) for name, count in _NEAREST_AGENTS.items()]
    kept = []
    for belongs, count in groups:
        rows = np.flatnonzero(belongs & within)
        kept.append(rows[np.argsort(distance_m[rows])][:count])
    return np.concatenate(kept)


def forecast(current: Tracks, ego_pose_world: Array, lights: RedLights, steps: int = ROLLOUT_STATES) -> Forecast:
    """Extrapolate the objects of the current frame.

    Args:
        current: Objects of the current frame; only step 0 of their boxes and velocities is read.
        ego_pose_world: [3] rear axle.
        lights: Lane connectors of the corrected route that are red now.
        steps: How far to look ahead, at 0.1 s a step, now included.
    Source: navsim `PDMObservation.update`; its memory of objects touched in earlier scenes is left out.
    """
    ego_box = ego_boxes(ego_pose_world)
    rows = _nearest(current, ego_box[:2])
    apart = ~touching_ego(current.boxes[rows, 0], ego_pose_world)
    boxes, velocity = current.boxes[rows, 0], current.velocity_mps[rows, 0]
    speed = np.hypot(velocity[:, 0], velocity[:, 1])
    heading = boxes[:, 2]
    # Reversing vehicles move along their reversed heading, never sideways.
    is_reversing = np.abs(wrap_angle(heading - np.arctan2(velocity[:, 1], velocity[:, 0]))) >= np.pi / 2
    course = np.where(is_reversing, wrap_angle(heading + np.pi), heading)
    moving = np.stack([np.cos(course) * speed, np.sin(course) * speed], axis=-1)
    sampled_s = np.arange(0, steps, _FORECAST_EVERY_STEPS) * ROLLOUT_STEP_S
    corners = box_corners(boxes)[:, None] + (sampled_s[:, None] * moving[:, None])[:, :, None]
    held = np.arange(steps) // _FORECAST_EVERY_STEPS
    sampled = traffic_from_corners(
        corners[apart],
        np.ones((int(apart.sum()), len(sampled_s)), dtype=np.bool_),
        current.types[rows[apart]],
        first_speed_mps=speed[apart],
    )
    traffic = sampled._replace(
        corners=np.ascontiguousarray(sampled.corners[:, held]),
        centroid=np.ascontiguousarray(sampled.centroid[:, held]),
        present=np.ascontiguousarray(sampled.present[:, held]),
    )
    body = shapely.Polygon(box_corners(ego_box))
    holds_ego = [shapely.within(body, polygon) for polygon in light_polygons(lights)]
    return Forecast(
        traffic,
        speed[apart],
        heading[apart],
        lights,
        ~np.array(holds_ego, dtype=np.bool_),
        corners[:, held],
        np.flatnonzero(apart),
    )


def light_polygons(lights: RedLights) -> list[shapely.Polygon]:
    """Shapely polygons of red-light connectors (each a single ring)."""
    polygons = lights.polygons
    outlines = []
    for row in range(polygons.number):
        first, last = polygons.polygon_chain[row], polygons.polygon_chain[row + 1] - 1
        outlines.append(shapely.Polygon(polygons.vertices[polygons.chain_start[first] : polygons.chain_end[last] + 1]))
    return outlines


def _parallel_paths(centerline: Array) -> list[Array]:
    """The centerline and its copies 1 m to the right and to the left; headings are copied."""
    paths = []
    for offset_m in LATERAL_OFFSETS_M:
        path = centerline.copy()
        side = centerline[:, 2] + np.pi / 2
        path[:, 0] += np.cos(side) * offset_m
        path[:, 1] += np.sin(side) * offset_m
        path[:, 2] = np.unwrap(path[:, 2])
        paths.append(path)
    return paths


def _corridor(path: Array, progress_m: Array, start_m: float, end_m: float) -> shapely.Polygon:
    """Ground the ego vehicle sweeps along a path between two arc lengths, made of the vertices in between."""
    start_m, end_m = np.clip([start_m, end_m], 0.0, progress_m[-1])
    inside = path[(start_m <= progress_m) & (progress_m <= end_m), :2]
    line = shapely.LineString(inside) if len(inside) > 1 else substring(shapely.LineString(path[:, :2]), start_m, end_m)
    return line.buffer(EGO_WIDTH_M / 2, cap_style="square")


def _in_corridor(corridor: shapely.Polygon, corners: Array) -> NDArray[np.bool_]:
    """Which boxes [..., 4, 2] touch the corridor."""
    x_min, y_min, x_max, y_max = corridor.bounds
    low, high = corners.min(axis=-2), corners.max(axis=-2)
    inside = (high[..., 0] >= x_min) & (high[..., 1] >= y_min) & (low[..., 0] <= x_max) & (low[..., 1] <= y_max)
    shapely.prepare(corridor)
    near = corners[inside]
    closed = np.concatenate([near, near[:, :1]], axis=1)
    inside[inside] = shapely.intersects(corridor, shapely.polygons(closed))
    return inside


def _tree_order(expected: Forecast, outlines: list[shapely.Polygon]) -> NDArray[np.int64]:
    """Place [N + R, 41] of objects and red lights in the order in which the official search tree finds them.

    Source: navsim `PDMOccupancyMap.intersects`.
    """
    order = np.zeros((len(expected.listed_rows) + len(outlines), ROLLOUT_STATES), dtype=np.int64)
    listed, of_lights = len(expected.listed_corners), shapely.bounds(outlines)
    for step in range(0, ROLLOUT_STATES, _FORECAST_EVERY_STEPS):
        boxes = expected.listed_corners[:, step]
        bounds = np.concatenate([np.concatenate([boxes.min(axis=1), boxes.max(axis=1)], axis=1), of_lights])
        place = np.empty(len(bounds), dtype=np.int64)
        place[order_in_tree(bounds)] = np.arange(len(bounds))
        kept = np.concatenate([place[expected.listed_rows], place[listed:]])
        order[:, step : step + _FORECAST_EVERY_STEPS] = kept[:, None]
    return order


@kernel
def _advance(progress_m: float, speed_mps: float, target_mps: float, lead: Array) -> tuple[float, float]:
    """One Euler step of the intelligent-driver model; the speed may turn negative, as officially."""
    lead_m, lead_speed, lead_rear_m = lead
    closing = speed_mps * (speed_mps - lead_speed) / (2 * math.sqrt(_MAX_ACCELERATION_MPS2 * _MAX_DECELERATION_MPS2))
    wanted_gap = _MIN_GAP_M + speed_mps * _HEADWAY_S + closing
    gap = max(lead_m - progress_m - lead_rear_m, _MIN_GAP_M)
    free = (speed_mps / target_mps) ** _FREE_FLOW_EXPONENT
    acceleration = _MAX_ACCELERATION_MPS2 * (1.0 - free - (wanted_gap / gap) ** 2)
    acceleration = min(max(acceleration, -_MAX_DECELERATION_MPS2), _MAX_ACCELERATION_MPS2)
    return progress_m + 0.1 * speed_mps, speed_mps + 0.1 * acceleration


@kernel
def _unroll(
    path: Array,
    progress_m: Array,
    length_m: float,
    start_m: float,
    start_speed_mps: float,
    targets_mps: Array,
    traffic: Traffic,
    speed_mps: Array,
    heading: Array,
    in_corridor: NDArray[np.bool_],
    object_progress_m: Array,
    lights: PolygonSet,
    light_in_corridor: NDArray[np.bool_],
    light_progress_m: Array,
    order: NDArray[np.int64],
    poses: Array,
) -> bool:
    """Drive the speed policies along one path; writes poses [policies, 41, 3].

    Returns:
        Whether several objects or lights were nearest at once somewhere, so that `order` [N + R, 41] decided.
    """
    policies, steps = poses.shape[:2]
    along = np.full(policies, start_m)
    speed = np.full(policies, start_speed_mps)
    # At the first step the official planner reads leads that nobody has written yet: zeros.
    leads = np.zeros((policies, 3))
    corners = np.empty((4, 2))
    tied = False
    for policy in range(policies):
        poses[policy, 0] = pose_at(path, progress_m, start_m)
    for step in range(1, steps):
        if step % 2 == 0:
            # One record serves all policies of a path and is never cleared: what an entry leaves out is inherited.
            lead = np.zeros(3)
            for policy in range(policies):
                _body(poses[policy, step - 1], corners)
                nearest_m, nearest, place, is_light = np.inf, -1, 0, False
                for track in range(len(speed_mps)):
                    if in_corridor[track, step] and object_progress_m[track, step] > along[policy]:
                        distance_m = box_distance(corners, traffic.corners[track, step])
                        is_tie = nearest >= 0 and distance_m == nearest_m
                        tied |= is_tie
                        if distance_m < nearest_m or (is_tie and order[track, step] < place):
                            nearest_m, nearest, place = distance_m, track, order[track, step]
                for light in range(len(light_in_corridor)):
                    if light_in_corridor[light] and light_progress_m[light] > along[policy]:
                        distance_m = box_polygon_distance(corners, lights, light)
                        row = len(speed_mps) + light
                        is_tie = nearest >= 0 and distance_m == nearest_m
                        tied |= is_tie
                        if distance_m < nearest_m or (is_tie and order[row, step] < place):
                            nearest_m, nearest, place, is_light = distance_m, light, order[row, step], True
                if nearest < 0:
                    lead[0], lead[2] = length_m, EGO_LENGTH_M / 2
                else:
                    lead[0] = along[policy] + nearest_m
                    if not is_light:
                        moving = 0.0 if traffic.is_static[nearest] else speed_mps[nearest]
                        lead[1] = moving * math.cos(heading[nearest] - poses[policy, step - 1, 2])
                leads[policy] = lead
        for policy in range(policies):
            along[policy], speed[policy] = _advance(along[policy], speed[policy], targets_mps[policy], leads[policy])
            poses[policy, step] = pose_at(path, progress_m, along[policy])
    return tied


@kernel
def _body(pose: Array, corners: Array) -> None:
    cos, sin = math.cos(pose[2]), math.sin(pose[2])
    ahead = EGO_LENGTH_M / 2
    aside = EGO_WIDTH_M / 2
    x, y = pose[0] + REAR_AXLE_TO_CENTER_M * cos, pose[1] + REAR_AXLE_TO_CENTER_M * sin
    for corner in range(4):
        lon = ahead if corner in (0, 3) else -ahead
        lat = aside if corner in (0, 1) else -aside
        corners[corner, 0] = x + lon * cos - lat * sin
        corners[corner, 1] = y + lon * sin + lat * cos


def proposals(centerline: Array, ego_state: Array, speed_limit_mps: float | None, expected: Forecast) -> Array:
    """The 15 proposals of PDM-Closed.

    Args:
        centerline: [L, 3] x, y (m), unwrapped heading (rad).
        ego_state: [11] now.
        speed_limit_mps: Of the start lane; None where the map has none.
        expected: Forecast traffic.
    Returns:
        [15, 41, 3] poses every 0.1 s (world), path by path, slow to fast. They start at the ego vehicle's projection
        onto each path, not at the ego vehicle.
    Source: navsim `PDMProposalManager`, `PDMGenerator`, `BatchIDMPolicy`.
    """
    limit = DEFAULT_SPEED_LIMIT_MPS if speed_limit_mps is None else speed_limit_mps
    targets = np.array(SPEED_FRACTIONS) * limit
    policies = len(SPEED_FRACTIONS)
    poses = np.empty((PROPOSALS, ROLLOUT_STATES, 3))
    outlines = light_polygons(expected.lights)
    traffic = expected.traffic
    for lateral, path in enumerate(_parallel_paths(centerline)):
        progress_m = path_progress(path)
        line = shapely.LineString(path[:, :2])
        start_m, _ = project(path, ego_state[0], ego_state[1])
        corridor = _corridor(path, progress_m, start_m, start_m + abs(targets.max()) * _CORRIDOR_S)
        in_corridor = _in_corridor(corridor, traffic.corners)
        object_progress_m = np.zeros(in_corridor.shape)
        object_progress_m[in_corridor] = shapely.line_locate_point(line, shapely.points(traffic.centroid[in_corridor]))
        light_in_corridor = np.array([polygon.intersects(corridor) for polygon in outlines], dtype=np.bool_)
        light_progress_m = np.array([line.project(polygon.centroid) for polygon in outlines], dtype=np.float64)
        order = np.zeros((len(expected.speed_mps) + len(outlines), ROLLOUT_STATES), dtype=np.int64)
        for _ in range(2):
            tied = _unroll(
                path,
                progress_m,
                line.length,
                start_m,
                ego_state[3],
                targets,
                traffic,
                expected.speed_mps,
                expected.heading,
                in_corridor,
                object_progress_m,
                expected.lights.polygons,
                light_in_corridor & expected.blocking_lights,
                light_progress_m,
                order,
                poses[policies * lateral : policies * (lateral + 1)],
            )
            if not tied:
                break
            # Ties are rare and the trees costly, so only now do they decide.
            order = _tree_order(expected, outlines)
    return poses


def reference_of_proposal(poses: Array, now_us: int) -> Array:
    """Reference poses [41, 3] for tracking a proposal [41, 3], through the official sampling times."""
    times_us = now_us + np.arange(ROLLOUT_STATES, dtype=np.int64) * round(ROLLOUT_STEP_S * 1e6)
    return resample_poses(poses, times_us, rollout_times_us(now_us))
