"""What the ego vehicle drives on: the map polygons around it, the route and its centerline."""

from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from irlvla.data.maps import CityMap
from irlvla.geometry import ego_boxes
from irlvla.simulation.polygons import PolygonSet
from irlvla.types import Array

Kinds = NDArray[np.int64]
Ids = NDArray[np.int64]

# Kinds of road polygons, in the order the official drivable map lists them.
ROADBLOCK, LANE, LANE_CONNECTOR, INTERSECTION, CAR_PARK = range(5)

_REACH_M = 100.0


class Road(NamedTuple):
    """Road polygons near the ego vehicle and the line it should follow."""

    polygons: PolygonSet
    kind: NDArray[np.int64]
    """[P] ROADBLOCK, LANE, LANE_CONNECTOR, INTERSECTION or CAR_PARK."""
    on_route: NDArray[np.bool_]
    """[P] lanes and connectors of the corrected route."""
    centerline: Array
    """[L, 3] x, y (m), unwrapped heading (rad), along the route from the start lane on."""


def nearby_polygons(city_map: CityMap, ego_pose_world: Array) -> tuple[NDArray[np.object_], Kinds, Ids]:
    """Road polygons within the box of +-100 m around the ego vehicle's center, in the official order.

    Returns:
        [P] shapely polygons, [P] kinds and [P] map ids.
    Source: navsim `PDMDrivableMap.from_simulation`.
    """
    x, y = ego_boxes(ego_pose_world)[:2]
    patch = shapely.box(x - _REACH_M, y - _REACH_M, x + _REACH_M, y + _REACH_M)
    blocks = city_map.roadblocks.intersecting(patch)
    connectors = city_map.roadblock_connectors.intersecting(patch)
    listed = [(ROADBLOCK, block, city_map.roadblock_polygon(block)) for block in blocks]
    listed += [(LANE, lane, city_map.lane_polygon(lane)) for block in blocks for lane in city_map.lanes_of(block)]
    listed += [
        (LANE_CONNECTOR, lane, city_map.lane_polygon(lane)) for block in connectors for lane in city_map.lanes_of(block)
    ]
    for kind, layer in ((INTERSECTION, city_map.intersections), (CAR_PARK, city_map.car_parks)):
        listed += [(kind, area, layer.geometry(area)) for area in layer.intersecting(patch)]
    geometries = np.empty(len(listed), dtype=object)
    geometries[:] = [geometry for _, _, geometry in listed]
    kinds, ids = np.array([row[:2] for row in listed], dtype=np.int64).reshape(-1, 2).T
    return geometries, np.ascontiguousarray(kinds), np.ascontiguousarray(ids)
