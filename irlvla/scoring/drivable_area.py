"""Drivable area compliance, and which kinds of road the ego vehicle stands on."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from irlvla.scoring.footprint import Footprints
from irlvla.simulation.drivable import CAR_PARK, INTERSECTION, LANE, LANE_CONNECTOR, ROADBLOCK, Road
from irlvla.simulation.kernels import kernel
from irlvla.simulation.polygons import locate
from irlvla.types import Array


class EgoAreas(NamedTuple):
    """What the ego vehicle stands on, at every step of C rollouts; all [C, 41].

    Source: navsim `PDMScorer._calculate_ego_area`; a point on a polygon's edge counts as outside.
    """

    multiple_lanes: NDArray[np.bool_]
    """Corners lie in more than one lane or connector, and none holds all four."""
    non_drivable: NDArray[np.bool_]
    """Some corner lies on no roadblock, intersection or car park."""
    oncoming: NDArray[np.bool_]
    """The center lies in no lane or connector of the route."""
    center_in_intersection: NDArray[np.bool_]
    rear_axle_in_intersection: NDArray[np.bool_]


@kernel
def _ego_areas(road: Road, ego: Footprints, areas: NDArray[np.bool_]) -> None:
    plans, steps = ego.speed_mps.shape
    boxes = road.polygons.polygon_box
    x_min, x_max = ego.corners[..., 0].min(), ego.corners[..., 0].max()
    y_min, y_max = ego.corners[..., 1].min(), ego.corners[..., 1].max()
    near = np.empty(len(boxes), dtype=np.int64)
    count = 0
    for polygon in range(len(boxes)):
        box = boxes[polygon]
        if x_max >= box[0] and y_max >= box[1] and x_min <= box[2] and y_min <= box[3]:
            near[count] = polygon
            count += 1
    # Corners, then the center, then the rear axle.
    points = np.empty((6, 2))
    corners, center, rear_axle = 0b001111, 0b010000, 0b100000
    for plan in range(plans):
        for step in range(steps):
            points[:4], points[4] = ego.corners[plan, step], ego.center[plan, step]
            points[5] = ego.rear_axle[plan, step, :2]
            left, right = points[:4, 0].min(), points[:4, 0].max()
            low, high = points[:4, 1].min(), points[:4, 1].max()
            drivable, in_intersection = 0, 0
            lanes_touched, lane_holds_all, oncoming = 0, False, True
            for polygon in near[:count]:
                box = boxes[polygon]
                if right < box[0] or high < box[1] or left > box[2] or low > box[3]:
                    continue
                kind = road.kind[polygon]
                if kind in (ROADBLOCK, CAR_PARK) and drivable == corners:
                    continue
                inside, _ = locate(road.polygons, polygon, points)
                if kind in (LANE, LANE_CONNECTOR):
                    lanes_touched += (inside & corners) != 0
                    lane_holds_all |= (inside & corners) == corners
                    oncoming &= not (road.on_route[polygon] and inside & center)
                else:
                    drivable |= inside & corners
                if kind == INTERSECTION:
                    in_intersection |= inside
            areas[0, plan, step] = lanes_touched > 1 and not lane_holds_all
            areas[1, plan, step] = drivable != corners
            areas[2, plan, step] = oncoming
            areas[3, plan, step] = (in_intersection & center) != 0
            areas[4, plan, step] = (in_intersection & rear_axle) != 0


def ego_areas(road: Road, ego: Footprints) -> EgoAreas:
    """What the ego vehicle stands on, at every step of C rollouts."""
    areas = np.empty((5, *ego.speed_mps.shape), dtype=np.bool_)
    _ego_areas(road, ego, areas)
    return EgoAreas(*areas)


def drivable_area(areas: EgoAreas) -> Array:
    """Drivable area compliance [C]: 0 where a corner ever leaves the road, else 1."""
    return np.where(areas.non_drivable.any(axis=1), 0.0, 1.0)
