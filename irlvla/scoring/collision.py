"""No at-fault collisions: whom the ego vehicle hits, and whose fault it is."""

import math

import numpy as np

from irlvla.geometry import EGO_LENGTH_M, EGO_WIDTH_M
from irlvla.scoring.drivable_area import EgoAreas
from irlvla.scoring.footprint import Footprints
from irlvla.simulation.kernels import kernel
from irlvla.simulation.polygons import boxes_touch, segment_touches_box
from irlvla.simulation.traffic import Traffic
from irlvla.types import Array

STOPPED_MPS = 0.05
BEHIND_RAD = math.radians(150.0)
AHEAD_RAD = math.radians(30.0)
# A cone or barrier costs half of what hitting a road user costs.
STATIC_OBJECT_SCORE = 0.5
EGO_RADIUS_M = math.hypot(EGO_LENGTH_M, EGO_WIDTH_M) / 2


@kernel
def bearing(pose: Array, x: float, y: float) -> float:
    """Unsigned angle (rad) between the ego heading and the direction to a point.

    NaN where the point is the rear axle itself, or where rounding lifts the cosine above 1: the official scorer does
    not clip it, and NaN then counts as neither ahead nor behind.
    """
    dx, dy = x - pose[0], y - pose[1]
    distance = math.sqrt(dx * dx + dy * dy)
    if distance == 0.0:
        return math.nan
    cosine = math.cos(pose[2]) * (dx / distance) + math.sin(pose[2]) * (dy / distance)
    if abs(cosine) > 1.0:
        return math.nan
    return math.acos(cosine)


@kernel
def object_radii(traffic: Traffic) -> Array:
    """Radius (m) [N] of each object's box about its centroid, a little enlarged against rounding."""
    radii = np.zeros(len(traffic.is_static))
    for track in range(len(radii)):
        for step in range(traffic.present.shape[1]):
            if traffic.present[track, step]:
                dx = traffic.corners[track, step, 0, 0] - traffic.centroid[track, step, 0]
                dy = traffic.corners[track, step, 0, 1] - traffic.centroid[track, step, 1]
                radii[track] = math.hypot(dx, dy) + 1e-3
                break
    return radii


@kernel
def object_bounds(traffic: Traffic, radii: Array) -> Array:
    """Rectangle [N, 4] (x min, y min, x max, y max) that each object stays within."""
    bounds = np.empty((len(radii), 4))
    for track in range(len(radii)):
        bounds[track, :2], bounds[track, 2:] = np.inf, -np.inf
        for step in range(traffic.present.shape[1]):
            if traffic.present[track, step]:
                x, y = traffic.centroid[track, step, 0], traffic.centroid[track, step, 1]
                bounds[track, 0] = min(bounds[track, 0], x - radii[track])
                bounds[track, 1] = min(bounds[track, 1], y - radii[track])
                bounds[track, 2] = max(bounds[track, 2], x + radii[track])
                bounds[track, 3] = max(bounds[track, 3], y + radii[track])
    return bounds


@kernel
def ego_bounds(ego: Footprints, plan: int, look_ahead_s: float) -> tuple[float, float, float, float]:
    """Rectangle that the body stays within on one rollout, also where it went straight on for some time at any step."""
    x_min, y_min, x_max, y_max = np.inf, np.inf, -np.inf, -np.inf
    for step in range(ego.speed_mps.shape[1]):
        x, y = ego.center[plan, step, 0], ego.center[plan, step, 1]
        ahead_m, heading = ego.speed_mps[plan, step] * look_ahead_s, ego.rear_axle[plan, step, 2]
        dx, dy = ahead_m * math.cos(heading), ahead_m * math.sin(heading)
        x_min, x_max = min(x_min, x + min(dx, 0.0)), max(x_max, x + max(dx, 0.0))
        y_min, y_max = min(y_min, y + min(dy, 0.0)), max(y_max, y + max(dy, 0.0))
    # The enlarged radii of the objects take up the rounding.
    return x_min - EGO_RADIUS_M, y_min - EGO_RADIUS_M, x_max + EGO_RADIUS_M, y_max + EGO_RADIUS_M


@kernel
def stays_away(bounds: Array, track: int, rectangle: tuple[float, float, float, float]) -> bool:
    """Whether an object's rectangle, of `object_bounds`, and one of `ego_bounds` have no point in common."""
    x_min, y_min, x_max, y_max = rectangle
    return x_max < bounds[track, 0] or y_max < bounds[track, 1] or x_min > bounds[track, 2] or y_min > bounds[track, 3]


@kernel
def collision_with(traffic: Traffic, ego: Footprints, areas: EgoAreas, plan: int, track: int, radius_m: float) -> float:
    """What hitting one object leaves of a plan: 1 where it is not hit or not at fault, 0.5 or 0 otherwise."""
    reach = radius_m + EGO_RADIUS_M
    for step in range(ego.speed_mps.shape[1]):
        if not traffic.present[track, step]:
            continue
        dx = traffic.centroid[track, step, 0] - ego.center[plan, step, 0]
        dy = traffic.centroid[track, step, 1] - ego.center[plan, step, 1]
        if dx * dx + dy * dy > reach * reach:
            continue
        corners, box = ego.corners[plan, step], traffic.corners[track, step]
        if not boxes_touch(corners, box):
            continue
        centroid = traffic.centroid[track, step]
        at_fault = False
        if ego.speed_mps[plan, step] > STOPPED_MPS:
            if traffic.is_static[track] or traffic.first_speed_mps[track] <= STOPPED_MPS:
                at_fault = True
            elif not bearing(ego.rear_axle[plan, step], centroid[0], centroid[1]) > BEHIND_RAD:
                hit_by_front = segment_touches_box(corners[0, 0], corners[0, 1], corners[3, 0], corners[3, 1], box)
                between_lanes = areas.multiple_lanes[plan, step] or areas.non_drivable[plan, step]
                at_fault = hit_by_front or between_lanes
        if not at_fault:
            # Judged once: this object is not held against the ego vehicle any more.
            break
        return STATIC_OBJECT_SCORE if traffic.is_static[track] else 0.0
    return 1.0


@kernel
def _collision(traffic: Traffic, ego: Footprints, areas: EgoAreas, scores: Array) -> None:
    radii = object_radii(traffic)
    bounds = object_bounds(traffic, radii)
    for plan in range(len(scores)):
        driven = ego_bounds(ego, plan, 0.0)
        for track in range(len(radii)):
            if not stays_away(bounds, track, driven):
                scores[plan] = min(scores[plan], collision_with(traffic, ego, areas, plan, track, radii[track]))


def collision(traffic: Traffic, ego: Footprints, areas: EgoAreas) -> Array:
    """No at-fault collisions [C]: 1, 0.5 after hitting something static, 0 after hitting a road user.

    At fault is who drives into something stopped, hits with the front, or is hit from the side between lanes or off the
    road; never who stands or is hit from behind.

    Source: navsim `PDMScorer._calculate_no_at_fault_collision`.
    """
    scores = np.ones(len(ego.speed_mps))
    _collision(traffic, ego, areas, scores)
    return scores
