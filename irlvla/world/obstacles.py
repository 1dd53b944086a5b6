"""What stands in the way on purpose: road works, standing vehicles, buses at their stops.

Decided from the city alone, before any traffic: the demand makes SUMO's drivers pass what the scenery shows.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from irlvla.world.city import CEDED_M, City, Lane
from irlvla.world.presets import WorldPreset

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RoadWorks:
    """A part of a lane that is closed, measured from its right edge."""

    sumo_lane: str
    end_m: float
    """Along SUMO's lane, where the lane is open again."""
    length_m: float
    width_m: float


@dataclass(frozen=True)
class StandingVehicle:
    """A vehicle that has broken down, or delivers something, on the carriageway."""

    sumo_lane: str
    end_m: float
    """Along SUMO's lane, its front bumper."""
    body: str
    """`car`, `van` or `truck`."""


@dataclass(frozen=True)
class BusStop:
    """Where buses stop, on the rightmost lane."""

    name: str
    sumo_lane: str
    end_m: float


@dataclass(frozen=True)
class Obstacles:
    """Everything that drivers of one network have to pass or wait for."""

    road_works: tuple[RoadWorks, ...] = ()
    standing: tuple[StandingVehicle, ...] = ()
    bus_stops: tuple[BusStop, ...] = ()


BUS_STOP_LENGTH_M = 14.0
STANDING_PREFIX = "standing"
"""Names of standing vehicles begin with it."""
# How much of a lane is closed where passing needs another lane, and where there is none but the oncoming one; the
# widest of the latter leaves a car's middle in its own lane.
_WIDTHS_BESIDE_A_LANE_M = (3.0, 3.0, 1.6)
_WIDTHS_BESIDE_ONCOMING_M = (0.8, 1.2, 1.4)
_BEHIND_M, _AHEAD_M = 55.0, 40.0


def plan_obstacles(city: City, preset: WorldPreset, seed: int) -> Obstacles:
    """Choose places where traffic can pass: away from junctions, one obstacle a street."""
    rng = np.random.default_rng([seed, 29])
    lanes: dict[int, list[Lane]] = defaultdict(list)
    for lane in city.lanes:
        lanes[lane.roadblock].append(lane)
    streets = [rows for rows in lanes.values() if _length(rows[-1]) > _BEHIND_M + _AHEAD_M + 25.0]
    km = sum(_length(rows[-1]) for rows in streets) / 1000
    ends = np.array([[*lane.baseline[0], *lane.baseline[-1]] for lane in city.lanes]).reshape(-1, 4)
    free = [streets[k] for k in rng.permutation(len(streets))]

    works: list[RoadWorks] = []
    wanted = min(rng.poisson(km * preset.road_works_per_km), len(free) // 3) if preset.road_works_per_km else 0
    for rows in free:
        if len(works) == wanted:
            break
        lane, length = rows[-1], float(rng.uniform(9.0, 24.0))
        if len(rows) > 1:
            width = float(rng.choice(_WIDTHS_BESIDE_A_LANE_M))
        elif _has_oncoming_lane(lane, ends):
            width = float(rng.choice(_WIDTHS_BESIDE_ONCOMING_M))
        else:
            continue
        works.append(RoadWorks(lane.sumo_id, _place(rng, lane, length), length, width))
    taken = {item.sumo_lane for item in works}
    several = [rows for rows in free if len(rows) > 1 and rows[-1].sumo_id not in taken]
    km_several = sum(_length(rows[-1]) for rows in streets if len(rows) > 1) / 1000
    count = 0
    if preset.standing_vehicles_per_km:
        count = min(rng.poisson(km_several * preset.standing_vehicles_per_km), (len(several) + 1) // 2)
    standing: list[StandingVehicle] = []
    for rows in several[:count]:
        # Most stand on the right; now and then one has broken down in the middle of the road.
        lane = rows[-1] if rng.uniform() < 0.85 else rows[rng.integers(len(rows))]
        body = str(rng.choice(["car", "van", "van", "truck"]))
        standing.append(StandingVehicle(lane.sumo_id, _place(rng, lane, 8.0), body))
    taken |= {rows[-1].sumo_id for rows in several[:count]}
    stops: list[BusStop] = []
    wanted = rng.poisson(km * preset.bus_stops_per_km) if preset.bus_stops_per_km else 0
    for rows in [rows for rows in free if rows[-1].sumo_id not in taken and rows[-1].speed_limit_mps < 18.0][:wanted]:
        stops.append(BusStop(f"stop{len(stops)}", rows[-1].sumo_id, _place(rng, rows[-1], BUS_STOP_LENGTH_M)))
    return Obstacles(tuple(works), tuple(standing), tuple(stops))


def _length(lane: Lane) -> float:
    return float(np.hypot(*np.diff(lane.baseline, axis=0).T).sum()) + 2 * CEDED_M


def _place(rng: np.random.Generator, lane: Lane, length_m: float) -> float:
    """Where an obstacle of some length ends along a lane: later on fast roads, where drivers need time to see it."""
    behind = min(max(_BEHIND_M, 7.0 * lane.speed_limit_mps), _length(lane) - _AHEAD_M - length_m)
    first, last = behind + length_m, _length(lane) - _AHEAD_M
    return round(float(rng.uniform(first, max(first + 0.1, last))), 2)


def _has_oncoming_lane(lane: Lane, ends: Array) -> bool:
    reversed_ends = np.array([*lane.baseline[-1], *lane.baseline[0]])
    gap = ends - reversed_ends
    return bool(((np.hypot(gap[:, 0], gap[:, 1]) < 7.0) & (np.hypot(gap[:, 2], gap[:, 3]) < 7.0)).any())


def obstacle_places(city: City, obstacles: Obstacles) -> Array:
    """[N, 2] middle of everything that has to be passed, in world coordinates."""
    lanes = {lane.sumo_id: lane for lane in city.lanes}
    places: list[Array] = []
    for works in obstacles.road_works:
        lane = lanes[works.sumo_lane]
        x, y, heading = along_lane(lane, np.array([works.end_m - works.length_m / 2]))[0]
        right = (lane.width_m - works.width_m) / 2
        places.append(np.array([x + right * np.sin(heading), y - right * np.cos(heading)]))
    places += [along_lane(lanes[item.sumo_lane], np.array([item.end_m - 2.5]))[0, :2] for item in obstacles.standing]
    return np.array(places).reshape(-1, 2)


def along_lane(lane: Lane, at_m: Array) -> Array:
    """[N, 3] position and heading on a lane's baseline at distances along SUMO's lane."""
    step = np.hypot(*np.diff(lane.baseline, axis=0).T)
    length = np.concatenate([[0.0], np.cumsum(step)]) + CEDED_M
    x, y = np.interp(at_m, length, lane.baseline[:, 0]), np.interp(at_m, length, lane.baseline[:, 1])
    tangent = np.gradient(lane.baseline, axis=0)
    heading = np.interp(at_m, length, np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0])))
    return np.stack([x, y, heading], axis=-1)
