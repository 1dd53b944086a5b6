"""Drivable area compliance, and what the ego vehicle stands on."""

from dataclasses import dataclass

import shapely

from irlvla.scoring.reference.surroundings import Surroundings, body, center
from irlvla.simulation.drivable import CAR_PARK, INTERSECTION, LANE, LANE_CONNECTOR, ROADBLOCK
from irlvla.types import Array


@dataclass(frozen=True)
class EgoAreas:
    """What the ego vehicle stands on at one step; edges count as outside."""

    multiple_lanes: bool
    non_drivable: bool
    oncoming: bool
    center_in_intersection: bool
    rear_axle_in_intersection: bool


def ego_areas(scene: Surroundings, state: Array) -> EgoAreas:
    """What the ego vehicle stands on in a state [11]."""
    corners = [shapely.Point(corner) for corner in body(state).exterior.coords[:4]]
    middle, rear_axle = center(state), shapely.Point(state[:2])
    lanes = [piece for piece in scene.road if piece.kind in (LANE, LANE_CONNECTOR)]
    drivable = [piece.polygon for piece in scene.road if piece.kind in (ROADBLOCK, INTERSECTION, CAR_PARK)]
    intersections = [piece.polygon for piece in scene.road if piece.kind == INTERSECTION]
    corners_in_lane = [sum(lane.polygon.contains(corner) for corner in corners) for lane in lanes]
    return EgoAreas(
        multiple_lanes=sum(count > 0 for count in corners_in_lane) > 1 and 4 not in corners_in_lane,
        non_drivable=not all(any(area.contains(corner) for area in drivable) for corner in corners),
        oncoming=not any(lane.on_route and lane.polygon.contains(middle) for lane in lanes),
        center_in_intersection=any(area.contains(middle) for area in intersections),
        rear_axle_in_intersection=any(area.contains(rear_axle) for area in intersections),
    )


def drivable_area(areas: list[EgoAreas]) -> float:
    """0 where a corner ever leaves the road."""
    return 0.0 if any(area.non_drivable for area in areas) else 1.0
