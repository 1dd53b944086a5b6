"""Hand-made cities of lanes only, for reactive traffic: given lane by lane, or crowded at random."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import shapely

from irlvla.data.maps import CityMap, Layer
from irlvla.simulation.observation import interpolate_tracks
from irlvla.simulation.reactive_traffic import TrafficStart, start_traffic
from irlvla.types import Array, Boxes, Frame

FAR = np.array([664_400.0, 3_996_800.0])
"""Where cities lie in their projection: far from its origin."""


def layer(ids: Sequence[int], geometries: Sequence[shapely.Geometry], **columns: Sequence[float]) -> Layer:
    listed = np.empty(len(ids), dtype=object)
    listed[:] = geometries
    return Layer(np.array(ids, dtype=np.int64), listed, {name: np.array(values) for name, values in columns.items()})


def city_of_lanes(
    lines: Mapping[int, shapely.LineString], polygons: Sequence[shapely.Geometry], limits_mps: Sequence[float]
) -> CityMap:
    """A city of lanes with these ids and center lines, their polygons and speed limits (NaN for none)."""
    lanes = layer(list(lines), polygons, speed_limit_mps=limits_mps, lane_group_fid=[9.0] * len(lines))
    others = (
        "roadblocks",
        "roadblock_connectors",
        "intersections",
        "car_parks",
        "crosswalks",
        "stop_polygons",
        "walkways",
        "boundaries",
        "generic_drivable_areas",
    )
    return CityMap(
        location="us-ma-boston",
        path=Path("map.gpkg"),
        crs="epsg:32619",
        lanes=lanes,
        lane_connectors=layer([], [], speed_limit_mps=[], exit_lane_fid=[], entry_lane_fid=[]),
        connector_polygons={},
        baselines=dict(lines),
        **dict.fromkeys(others, layer([], [])),
    )


def winding_line(rng: np.random.Generator) -> Array:
    """Vertices [V, 2] of a line of bends and straights, 20 m to 120 m long and nowhere smooth to the last digit."""
    step_m = rng.choice([0.5, 1.0, 2.0])
    curvature = np.zeros(int(rng.integers(20, 120) / step_m))
    at = 0
    while at < len(curvature):
        run = int(rng.integers(5, 40) / step_m)
        curvature[at : at + run] = rng.choice([-1, 1]) / rng.choice([1e9, rng.uniform(8, 40), rng.uniform(40, 3000)])
        at += run
    heading = rng.uniform(-np.pi, np.pi) + np.cumsum(curvature * step_m)
    steps_m = step_m * (1 + rng.normal(0.0, 1e-4, len(heading)))
    steps_m[-1] *= rng.uniform(0.05, 1.0)
    steps = steps_m[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    line = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    return line - line[len(line) // 2] + rng.uniform(-25.0, 25.0, 2) + FAR


def crowded_streets(rng: np.random.Generator) -> tuple[TrafficStart, Array]:
    """Lanes that cross and run side by side, full of cars and trucks.

    Returns:
        What traffic starts from, and six drives [6, 41, 11] of the ego vehicle: along a lane, backwards, cutting in,
        off the road, at the edge of reach, and standing; the first begins where the ego vehicle is.
    """
    lines: dict[int, shapely.LineString] = {}
    for _ in range(rng.integers(2, 6)):
        line = shapely.LineString(winding_line(rng))
        beside = line.offset_curve(3.5)
        lines[len(lines) + 1] = line
        if isinstance(beside, shapely.LineString) and len(beside.coords) > 3 and rng.random() < 0.5:
            lines[len(lines) + 1] = beside
    polygons = [line.buffer(1.75, cap_style="flat") for line in lines.values()]
    city_map = city_of_lanes(lines, polygons, rng.choice([np.nan, 8.0, 13.4], len(lines)).tolist())
    cars = []
    for line in lines.values():
        at_m = rng.uniform(0.0, 15.0)
        while at_m < line.length:
            x, y, heading = _pose(line, at_m)
            length_m, aside_m = rng.choice([4.5, 8.5, rng.uniform(2.0, 6.0)]), rng.normal(0.0, rng.choice([0.3, 2.0]))
            speed_mps = rng.choice([0.0, rng.uniform(0.0, 5.0), rng.uniform(3.0, 15.0)])
            center = x - aside_m * np.sin(heading), y + aside_m * np.cos(heading)
            turned = heading + rng.normal(0.0, 0.05)
            cars.append([*center, turned, length_m, rng.uniform(1.6, 2.6), speed_mps])
            at_m += length_m + rng.choice([rng.uniform(0.0, 3.0), rng.uniform(2.0, 12.0), rng.uniform(5.0, 40.0)])
    listed = rng.permutation(np.array(cars))[: rng.integers(5, 40)]
    drives = np.stack([_drive(rng, lines[int(rng.choice(list(lines)))], kind) for kind in range(6)])
    now = _frame(listed)
    return start_traffic("crowded", now, interpolate_tracks([now]), drives[0, 0, :3], city_map), drives


def _pose(line: shapely.LineString, at_m: float) -> tuple[float, float, float]:
    here, ahead = line.interpolate(at_m), line.interpolate(at_m + 0.5)
    return here.x, here.y, float(np.arctan2(ahead.y - here.y, ahead.x - here.x))


def _drive(rng: np.random.Generator, line: shapely.LineString, kind: int) -> Array:
    states, seconds = np.zeros((41, 11)), np.arange(41) * 0.1
    speed_mps = np.maximum(rng.uniform(0.0, 15.0) + rng.choice([0.0, -3.0, 1.0]) * seconds, 0.0)
    way_m = np.cumsum(-3.0 * np.ones(41) if kind == 1 else speed_mps) * 0.1
    at_m = np.clip(rng.uniform(0.0, 0.6) * line.length + way_m, 0.0, line.length - 0.5)
    states[:, :3] = [_pose(line, at) for at in at_m]
    aside_m = np.zeros(41)
    if kind == 2:
        aside_m = np.linspace(rng.choice([-3.5, 3.5]), 0.0, 41)
    elif kind == 3:
        aside_m = np.linspace(0.0, rng.normal(0.0, 12.0), 41)
    states[:, 0] -= aside_m * np.sin(states[:, 2])
    states[:, 1] += aside_m * np.cos(states[:, 2])
    states[:, 3] = speed_mps
    if kind == 4:
        states[:, :2] += rng.choice([-1.0, 1.0], 2) * rng.uniform(60.0, 110.0)
    elif kind == 5:
        states[:, :2], states[:, 3] = states[0, :2], 0.0
    return states


def _frame(cars: Array) -> Frame:
    x, y, heading, length, width, speed = cars.T
    boxes = np.stack([x, y, np.full(len(cars), 0.8), length, width, np.full(len(cars), 1.6), heading], axis=1)
    velocity = np.stack([speed * np.cos(heading), speed * np.sin(heading), 0.0 * speed], axis=1)
    tokens = tuple(f"{row:016x}" for row in range(len(cars)))
    annotations = Boxes(boxes, np.zeros(len(cars), dtype=np.int64), velocity, tokens)
    zero, command = np.zeros(2), np.eye(4, dtype=np.int64)[1]
    return Frame("now", 0, np.zeros(3), zero, zero, command, (), (), annotations, {}, None)
