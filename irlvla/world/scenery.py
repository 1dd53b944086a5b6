"""What traffic does not move: buildings, trees, parked cars, litter bins beside the road, and road works on it."""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from irlvla.geometry import box_corners
from irlvla.world.city import OVERLAP_M, Area, City, Lane
from irlvla.world.obstacles import BUS_STOP_LENGTH_M, Obstacles, RoadWorks, along_lane

Array = NDArray[np.float64]

PARKING_WIDTH_M = 2.5
PAVEMENT_WIDTH_M = 3.2


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


def lay_out_scenery(city: City, seed: int, obstacles: Obstacles | None = None) -> Scenery:
    """Place scenery along every street; car parks are added to `city`.

    Args:
        obstacles: Road works to mark, and bus stops that get a shelter.
    """
    rng = np.random.default_rng([seed, 23])
    road = shapely.union_all([area.polygon for area in (*city.roadblocks, *city.intersections)])
    shapely.prepare(road)
    roadside = _Roadside(road, PAVEMENT_WIDTH_M if city.walkways else 0.6)
    outermost = {lane.roadblock: lane for lane in city.lanes}
    kerbs = [(lane.width_m / 2 + OVERLAP_M, _stations(lane.baseline)) for lane in outermost.values()]
    for kerb_m, stations in kerbs:
        if len(stations) < 30:
            continue
        inner = stations[12:-12]
        if rng.uniform() < 0.45:
            _park_cars(city, rng, inner, kerb_m, roadside)
        if rng.uniform() < 0.22:
            _dig_up(rng, inner, kerb_m, roadside)
        for _ in range(rng.integers(0, 3)):
            size = ((0.6, 0.6, 1.1), (0.35, 0.35, 1.0), (1.2, 0.8, 1.3))[rng.integers(3)]
            roadside.place("generic_object", inner[rng.integers(len(inner))], kerb_m + rng.uniform(0.6, 2.4), size)
    if obstacles is not None:
        lane_of = {lane.sumo_id: lane for lane in city.lanes}
        for works in obstacles.road_works:
            _close_off(works, lane_of[works.sumo_lane], roadside)
        for stop in obstacles.bus_stops:
            lane = lane_of[stop.sumo_lane]
            middle = along_lane(lane, np.array([stop.end_m - BUS_STOP_LENGTH_M / 2]))[0]
            roadside.place("generic_object", middle, lane.width_m / 2 + OVERLAP_M + 1.7, (4.0, 1.4, 2.5))
    parks = [area.polygon for area in city.car_parks]
    walks = [area.polygon for area in (*city.walkways, *city.crosswalks)]
    blocked = shapely.union_all([road, *walks, *parks])
    shapely.prepare(blocked)
    behind_pavement = [(kerb_m + roadside.pavement_m, stations) for kerb_m, stations in kerbs]
    return Scenery(
        _build_houses(rng, behind_pavement, blocked),
        _plant_trees(rng, behind_pavement, blocked),
        tuple(roadside.objects),
    )


class _Roadside:
    """Where furniture may stand: anywhere but on the carriageway, unless it closes a part of it."""

    def __init__(self, road: BaseGeometry, pavement_m: float) -> None:
        self.road = road
        self.pavement_m = pavement_m
        self.objects: list[StaticObject] = []

    def place(
        self, kind: str, station: Array, lateral_m: float, size: tuple[float, float, float], turn: float = 0.0
    ) -> None:
        """Put an object `lateral_m` to the right of a station (x, y, heading), unless the road is there."""
        x, y = _beside(station, lateral_m)
        heading = float(station[2]) + turn
        if not Polygon(box_corners(np.array([x, y, heading, size[0], size[1]]))).intersects(self.road):
            self.put(kind, station, lateral_m, size, turn)

    def put(
        self, kind: str, station: Array, lateral_m: float, size: tuple[float, float, float], turn: float = 0.0
    ) -> None:
        """Put an object there, road or not."""
        x, y = _beside(station, lateral_m)
        self.objects.append(StaticObject(f"s{len(self.objects):05d}", kind, (x, y, float(station[2]) + turn), size))


def _beside(station: Array, lateral_m: float) -> tuple[float, float]:
    x, y, heading = station
    return float(x + np.sin(heading) * lateral_m), float(y - np.cos(heading) * lateral_m)


def _stations(baseline: Array) -> Array:
    """[N, 3] points of a baseline with their headings."""
    step = np.gradient(baseline, axis=0)
    return np.concatenate([baseline, np.arctan2(step[:, 1], step[:, 0])[:, None]], axis=1)


def _dig_up(rng: np.random.Generator, stations: Array, kerb_m: float, roadside: _Roadside) -> None:
    """A work zone on the pavement: sign, barrier, cones."""
    start = rng.integers(0, max(1, len(stations) - 14))
    zone = stations[start : start + 12]
    roadside.place("czone_sign", zone[0], kerb_m + 0.7, (0.4, 0.9, 1.9))
    roadside.place("barrier", zone[1], kerb_m + 1.0, (0.5, 1.8, 1.0))
    for k in range(2, len(zone), 2):
        roadside.place("traffic_cone", zone[k], kerb_m + 0.35, (0.4, 0.4, 0.75))
    if rng.uniform() < 0.5:
        roadside.place("barrier", zone[-1], kerb_m + 0.9, (2.2, 0.5, 1.0))


def _close_off(works: RoadWorks, lane: Lane, roadside: _Roadside) -> None:
    """Mark a closed part of a lane: sign before it, barriers across both ends, cones along its open side."""
    begin = works.end_m - works.length_m
    right = lane.width_m / 2
    inner = right - works.width_m
    ends = along_lane(lane, np.array([begin - 12.0, begin + 0.4, works.end_m - 0.4]))
    roadside.put("czone_sign", ends[0], right + OVERLAP_M + 0.7, (0.4, 0.9, 1.9))
    for station in ends[1:]:
        roadside.put("barrier", station, right - works.width_m / 2, (0.5, max(0.6, works.width_m - 0.3), 1.0))
    cones = along_lane(lane, np.arange(begin + 2.2, works.end_m - 1.6, 2.4))
    for station in cones:
        roadside.put("traffic_cone", station, inner + 0.3, (0.4, 0.4, 0.75))


def _park_cars(city: City, rng: np.random.Generator, stations: Array, kerb_m: float, roadside: _Roadside) -> None:
    """A lay-by behind the pavement with some of its bays taken."""
    lateral = kerb_m + roadside.pavement_m + 0.3
    bays = int(rng.integers(2, 6))
    start = int(rng.integers(0, max(1, len(stations) - 7 * bays)))
    strip = stations[start : start + 7 * bays]
    if len(strip) < 14:
        return
    right = np.stack([np.sin(strip[:, 2]), -np.cos(strip[:, 2])], axis=1)
    near, far = strip[:, :2] + lateral * right, strip[:, :2] + (lateral + PARKING_WIDTH_M) * right
    area = Polygon(np.concatenate([near, far[::-1]]))
    if not area.is_valid or area.intersects(roadside.road):
        return
    city.car_parks.append(Area(city.new_fid(), area))
    for k in range(3, len(strip) - 3, 7):
        if rng.uniform() < 0.75:
            size = (float(rng.uniform(3.9, 4.8)), float(rng.uniform(1.7, 1.9)), float(rng.uniform(1.4, 1.7)))
            turn = np.pi if rng.uniform() < 0.2 else 0.0
            roadside.place("vehicle", strip[k], lateral + PARKING_WIDTH_M / 2, size, turn)


def _build_houses(rng: np.random.Generator, streets: list[tuple[float, Array]], blocked: BaseGeometry) -> Array:
    houses: list[list[float]] = []
    outlines: list[Polygon] = []
    for pavement_edge_m, stations in streets:
        at = float(rng.uniform(0, 8))
        setback = pavement_edge_m + rng.choice([1.5, 3.5, 6.0])
        while at < len(stations) - 6:
            length, depth = float(rng.uniform(9, 24)), float(rng.uniform(8, 14))
            station = stations[min(int(at + length / 2), len(stations) - 1)]
            box = [*_beside(station, setback + depth / 2), float(station[2]), length, depth]
            outline = Polygon(box_corners(np.array(box)))
            if rng.uniform() < 0.85 and not outline.buffer(0.9).intersects(blocked):
                houses.append([*box, float(rng.choice([4.5, 7.0, 10.0, 13.0, 17.0])), float(rng.integers(6))])
                outlines.append(outline)
                at += length + float(rng.choice([0.5, 2.0, 7.0]))
            else:
                at += 7.0
    return np.array(houses).reshape(-1, 7)[_without_overlaps(outlines)]


def _plant_trees(rng: np.random.Generator, streets: list[tuple[float, Array]], blocked: BaseGeometry) -> Array:
    trees: list[tuple[float, float, float, float]] = []
    for pavement_edge_m, stations in streets:
        at = float(rng.uniform(4, 14))
        spacing = float(rng.choice([9.0, 14.0, 22.0]))
        while at < len(stations) - 2:
            x, y = _beside(stations[int(at)], pavement_edge_m + 0.8)
            if not shapely.Point(x, y).buffer(0.5).intersects(blocked):
                trees.append((x, y, float(rng.uniform(4.5, 8.5)), float(rng.uniform(1.2, 2.2))))
            at += spacing * float(rng.uniform(0.8, 1.3))
    return np.array(trees).reshape(-1, 4)


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
