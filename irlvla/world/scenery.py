"""What stands beside the road: buildings, trees, parked cars, work zones, litter bins; all outside the carriageway."""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon

from irlvla.geometry import box_corners
from irlvla.world.city import Area, City

Array = NDArray[np.float64]

PARKING_WIDTH_M = 2.5


@dataclass(frozen=True)
class StaticObject:
    """An annotated object that never moves, in world coordinates."""

    name: str
    type: str
    """One of irlvla.types.OBJECT_TYPES."""
    pose: tuple[float, float, float]
    """Center x, y, heading."""
    size_m: tuple[float, float, float]
    """Length, width, height."""


@dataclass(frozen=True)
class Scenery:
    """Things of one city that traffic does not move, in world coordinates."""

    buildings: Array
    """[N, 7] center x, y, heading, length, width, height (m), colour number."""
    trees: Array
    """[N, 4] x, y, height, crown radius (m)."""
    objects: tuple[StaticObject, ...]


def lay_out_scenery(city: City, seed: int) -> Scenery:
    """Place scenery along every street; car parks are added to `city`."""
    rng = np.random.default_rng([seed, 23])
    road = shapely.union_all([area.polygon for area in (*city.roadblocks, *city.intersections)])
    pavement = shapely.union_all([area.polygon for area in (*city.walkways, *city.crosswalks)])
    objects: list[StaticObject] = []
    kerbs = [(lane, _kerb_stations(lane.baseline)) for lane in _outer_lanes(city)]
    shapely.prepare(road)
    pavement_width = 3.2 if city.walkways else 0.6

    def place(kind: str, along: Array, lateral_m: float, size: tuple[float, float, float], turn: float = 0.0) -> bool:
        x, y, heading = along
        px, py = x + np.sin(heading) * lateral_m, y - np.cos(heading) * lateral_m
        outline = Polygon(box_corners(np.array([px, py, heading + turn, size[0], size[1]])))
        if outline.intersects(road):
            return False
        objects.append(StaticObject(f"s{len(objects):05d}", kind, (float(px), float(py), float(heading + turn)), size))
        return True

    blocked = [road, pavement]
    for lane, stations in kerbs:
        if len(stations) < 30:
            continue
        kerb = lane.width_m / 2 + 0.35
        inner = stations[12:-12]
        if rng.uniform() < 0.45:
            _park_cars(city, rng, inner, kerb + pavement_width + 0.3, road, place, blocked)
        if rng.uniform() < 0.22:
            start = rng.integers(0, max(1, len(inner) - 14))
            zone = inner[start : start + 12]
            place("czone_sign", zone[0], kerb + 0.7, (0.4, 0.9, 1.9))
            place("barrier", zone[1], kerb + 0.6, (0.5, 1.8, 1.0))
            for k in range(2, len(zone), 2):
                place("traffic_cone", zone[k], kerb + 0.35, (0.4, 0.4, 0.75))
            if rng.uniform() < 0.5:
                place("barrier", zone[-1], kerb + 0.9, (2.2, 0.5, 1.0))
        for _ in range(rng.integers(0, 3)):
            station = inner[rng.integers(len(inner))]
            size = ((0.6, 0.6, 1.1), (0.35, 0.35, 1.0), (1.2, 0.8, 1.3))[rng.integers(3)]
            place("generic_object", station, kerb + rng.uniform(0.6, 2.4), size)
    buildings, trees = _build(rng, kerbs, pavement_width, shapely.union_all(blocked))
    return Scenery(buildings, trees, tuple(objects))


def _outer_lanes(city: City) -> list:  # type: ignore[type-arg]
    last = {}
    for lane in city.lanes:
        last[lane.roadblock] = lane
    return list(last.values())


def _kerb_stations(baseline: Array) -> Array:
    step = np.gradient(baseline, axis=0)
    return np.concatenate([baseline, np.arctan2(step[:, 1], step[:, 0])[:, None]], axis=1)


def _park_cars(city, rng, stations, lateral_m, road, place, blocked) -> None:  # type: ignore[no-untyped-def]
    count = int(rng.integers(2, 6))
    start = int(rng.integers(0, max(1, len(stations) - 7 * count)))
    bay = stations[start : start + 7 * count]
    if len(bay) < 14:
        return
    right = np.stack([np.sin(bay[:, 2]), -np.cos(bay[:, 2])], axis=1)
    ring = np.concatenate([bay[:, :2] + lateral_m * right, (bay[:, :2] + (lateral_m + PARKING_WIDTH_M) * right)[::-1]])
    area = Polygon(ring)
    if not area.is_valid or area.intersects(road):
        return
    city.car_parks.append(Area(city.new_fid(), area))
    blocked.append(area)
    for k in range(3, len(bay) - 3, 7):
        if rng.uniform() < 0.75:
            size = (float(rng.uniform(3.9, 4.8)), float(rng.uniform(1.7, 1.9)), float(rng.uniform(1.4, 1.7)))
            place("vehicle", bay[k], lateral_m + PARKING_WIDTH_M / 2, size, np.pi if rng.uniform() < 0.2 else 0.0)


def _build(rng, kerbs, pavement_width, blocked) -> tuple[Array, Array]:  # type: ignore[no-untyped-def]
    shapely.prepare(blocked)
    buildings: list[list[float]] = []
    trees: list[list[float]] = []
    outlines: list[Polygon] = []
    for lane, stations in kerbs:
        at = float(rng.uniform(0, 8))
        setback = lane.width_m / 2 + pavement_width + rng.choice([1.5, 3.5, 6.0])
        while at < len(stations) - 6:
            length, depth = float(rng.uniform(9, 24)), float(rng.uniform(8, 14))
            middle = min(int(at + length / 2), len(stations) - 1)
            x, y, heading = stations[middle]
            lateral = setback + depth / 2
            box = np.array([x + np.sin(heading) * lateral, y - np.cos(heading) * lateral, heading, length, depth])
            outline = Polygon(box_corners(box))
            room = outline.buffer(0.9)
            if rng.uniform() < 0.85 and not room.intersects(blocked):
                buildings.append([*box, float(rng.choice([4.5, 7.0, 10.0, 13.0, 17.0])), float(rng.integers(6))])
                outlines.append(outline)
                at += length + float(rng.choice([0.5, 2.0, 7.0]))
            else:
                at += 7.0
        at = float(rng.uniform(4, 14))
        spacing = float(rng.choice([9.0, 14.0, 22.0]))
        while at < len(stations) - 2:
            x, y, heading = stations[int(at)]
            lateral = lane.width_m / 2 + pavement_width + 0.8
            px, py = x + np.sin(heading) * lateral, y - np.cos(heading) * lateral
            if not shapely.Point(px, py).buffer(0.5).intersects(blocked):
                trees.append([px, py, float(rng.uniform(4.5, 8.5)), float(rng.uniform(1.2, 2.2))])
            at += spacing * float(rng.uniform(0.8, 1.3))
    kept = _without_overlaps(outlines)
    return np.array(buildings).reshape(-1, 7)[kept], np.array(trees).reshape(-1, 4)


def _without_overlaps(outlines: list[Polygon]) -> list[int]:
    tree = shapely.STRtree(outlines)
    kept: list[int] = []
    dropped = np.zeros(len(outlines), dtype=bool)
    for index, outline in enumerate(outlines):
        if dropped[index]:
            continue
        kept.append(index)
        for other in tree.query(outline, predicate="intersects"):
            if other > index:
                dropped[other] = True
    return kept
