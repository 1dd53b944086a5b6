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
    for plan in range(plans):
        for step in range(steps):
            corners = ego.corners[plan, step]
            center_x, center_y = ego.center[plan, step]
            left, right = corners[:, 0].min(), corners[:, 0].max()
            low, high = corners[:, 1].min(), corners[:, 1].max()
            drivable = 0
            lanes_touched, lane_holds_all = 0, False
            oncoming, center_inside, rear_inside = True, False, False
            for polygon in near[:count]:
                box = boxes[polygon]
                if right < box[0] or high < box[1] or left > box[2] or low > box[3]:
                    continue
                kind = road.kind[polygon]
                is_lane = kind in (LANE, LANE_CONNECTOR)
                if is_lane or drivable != 15:
                    corners_inside, inside_count = 0, 0
                    for corner in range(4):
                        if locate(road.polygons, polygon, corners[corner, 0], corners[corner, 1]) > 0:
                            corners_inside |= 1 << corner
                            inside_count += 1
                    if is_lane:
                        lanes_touched += inside_count > 0
                        lane_holds_all |= inside_count == 4
                    if kind in (ROADBLOCK, INTERSECTION, CAR_PARK):
                        drivable |= corners_inside
                if is_lane and oncoming and road.on_route[polygon]:
                    oncoming = locate(road.polygons, polygon, center_x, center_y) <= 0
                if kind == INTERSECTION:
                    rear = ego.rear_axle[plan, step]
                    center_inside |= locate(road.polygons, polygon, center_x, center_y) > 0
                    rear_inside |= locate(road.polygons, polygon, rear[0], rear[1]) > 0
            areas[0, plan, step] = lanes_touched > 1 and not lane_holds_all
            areas[1, plan, step] = drivable != 15
            areas[2, plan, step] = oncoming
            areas[3, plan, step] = center_inside
            areas[4, plan, step] = rear_inside


def ego_areas(road: Road, ego: Footprints) -> EgoAreas:
    """What the ego vehicle stands on, at every step of C rollouts."""
    areas = np.empty((5, *ego.speed_mps.shape), dtype=np.bool_)
    _ego_areas(road, ego, areas)
    return EgoAreas(*areas)


def drivable_area(areas: EgoAreas) -> Array:
    """Drivable area compliance [C]: 0 where a corner ever leaves the road, else 1."""
    return np.where(areas.non_drivable.any(axis=1), 0.0, 1.0)
