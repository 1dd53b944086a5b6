"""A scoring context as shapely sees it."""

from dataclasses import dataclass

import numpy as np
import shapely

from irlvla.geometry import box_corners, ego_boxes
from irlvla.scoring.context import ScoringContext
from irlvla.simulation.polygons import PolygonSet
from irlvla.simulation.traffic import RedLights, Traffic
from irlvla.types import ROLLOUT_STATES, Array


@dataclass(frozen=True)
class RoadPolygon:
    """A piece of road."""

    kind: int
    """One of the kinds in `irlvla.simulation.drivable`."""
    on_route: bool
    polygon: shapely.Geometry


@dataclass(frozen=True)
class RoadUser:
    """An object at one step, road user or not."""

    number: int
    """The same at every step."""
    is_static: bool
    first_speed_mps: float
    box: shapely.Polygon


@dataclass(frozen=True)
class Surroundings:
    """Road, route, objects and red lights of one scene."""

    road: tuple[RoadPolygon, ...]
    centerline: shapely.LineString
    objects: tuple[tuple[RoadUser, ...], ...]
    """By step, as many as the context's traffic has."""
    red: tuple[tuple[shapely.Geometry, ...], ...]
    """Connector polygons under a red light, by step."""


def surroundings(context: ScoringContext) -> Surroundings:
    """Road, route, log-replay traffic and lights of a scene."""
    road = context.road
    pieces = zip(road.kind, road.on_route, _polygons(road.polygons), strict=True)
    return Surroundings(
        road=tuple(RoadPolygon(int(kind), bool(on_route), polygon) for kind, on_route, polygon in pieces),
        centerline=shapely.LineString(road.centerline[:, :2]),
        objects=tuple(_objects(context.traffic, step) for step in range(context.traffic.present.shape[1])),
        red=tuple(_red(context.lights, step) for step in range(ROLLOUT_STATES)),
    )


def _polygons(polygons: PolygonSet) -> list[shapely.Geometry]:
    """Back from the kernels' layout: rings end where they return to their first vertex; even-odd makes the holes."""
    outlines = []
    for row in range(polygons.number):
        chains = range(polygons.polygon_chain[row], polygons.polygon_chain[row + 1])
        outline: shapely.Geometry = shapely.Polygon()
        ring: list[Array] = []
        for chain in chains:
            start, end = polygons.chain_start[chain], polygons.chain_end[chain]
            ring.append(polygons.vertices[start + bool(ring) : end + 1])
            if chain + 1 == chains.stop or polygons.chain_start[chain + 1] != end:
                outline = (
                    outline.symmetric_difference(shapely.Polygon(np.concatenate(ring)))
                    if outline
                    else (shapely.Polygon(np.concatenate(ring)))
                )
                ring = []
        outlines.append(outline)
    return outlines


def _objects(traffic: Traffic, step: int) -> tuple[RoadUser, ...]:
    return tuple(
        RoadUser(
            track,
            bool(traffic.is_static[track]),
            float(traffic.first_speed_mps[track]),
            shapely.Polygon(traffic.corners[track, step]),
        )
        for track in np.flatnonzero(traffic.present[:, step]).tolist()
    )


def _red(lights: RedLights, step: int) -> tuple[shapely.Geometry, ...]:
    polygons = _polygons(lights.polygons)
    return tuple(polygons[row] for row in np.flatnonzero(lights.red[:, step]))


def body(state: Array) -> shapely.Polygon:
    """Outline of the ego vehicle; its first edge runs from front-left to rear-left."""
    return shapely.Polygon(box_corners(ego_boxes(state[:3])))


def center(state: Array) -> shapely.Point:
    """Center of the ego vehicle."""
    return shapely.Point(ego_boxes(state[:3])[:2])


def bearing(state: Array, point: shapely.Point) -> float:
    """Unsigned angle (rad) from the rear axle's heading to a point; NaN where rounding lifts the cosine above 1."""
    towards = np.array([point.x - state[0], point.y - state[1]])
    with np.errstate(invalid="ignore"):
        towards /= np.hypot(*towards)
        return float(np.arccos(np.cos(state[2]) * towards[0] + np.sin(state[2]) * towards[1]))
