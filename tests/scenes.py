"""Tiny hand-made scenes: a straight road along x, the ego vehicle at the origin, and one thing that matters.

The road has two lanes of the route (centers y = 0 and y = 3.5 m) and, left of them, one of the other direction
(y = 7 m), all 3.5 m wide, from x = -100 m to 300 m.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely

from irlvla.scoring.context import ScoringContext
from irlvla.scoring.editions import NAVSIM_V2, Edition
from irlvla.simulation.drivable import INTERSECTION, LANE, ROADBLOCK, Road
from irlvla.simulation.observation import Tracks
from irlvla.simulation.polygons import polygon_set
from irlvla.simulation.traffic import RedLights, traffic_from_boxes
from irlvla.types import OBJECT_TYPES, Array, SubScores

LANE_WIDTH_M = 3.5
EVERYTHING_FINE = SubScores(
    **{name: np.ones(()) for name in SubScores.names()}, has_earlier_frame=np.zeros((), dtype=np.bool_)
)


@dataclass(frozen=True)
class Thing:
    """Something on the road, moving straight on."""

    kind: str
    x: float
    y: float = 0.0
    heading: float = 0.0
    speed_mps: float = 0.0
    length: float = 4.5
    width: float = 1.9
    from_step: int = 0
    to_step: int = 50


def straight_road(*, intersection: bool = False) -> Road:
    """The road; with `intersection`, all of it lies in one."""
    half = LANE_WIDTH_M / 2
    lanes = [shapely.box(-100, row * LANE_WIDTH_M - half, 300, row * LANE_WIDTH_M + half) for row in range(3)]
    along_route = shapely.box(-100, -half, 300, 3 * half)
    polygons = [along_route, lanes[2], *lanes]
    kinds = [ROADBLOCK, ROADBLOCK, LANE, LANE, LANE]
    if intersection:
        polygons.append(shapely.box(-100, -half, 300, 5 * half))
        kinds.append(INTERSECTION)
    on_route = np.zeros(len(kinds), dtype=np.bool_)
    on_route[2:4] = True
    x = np.arange(-100.0, 301.0)
    centerline = np.stack([x, np.zeros_like(x), np.zeros_like(x)], axis=-1)
    return Road(polygon_set(polygons), np.array(kinds), on_route, centerline)


def things(listed: Sequence[Thing], steps: int = 41) -> Tracks:
    """Tracks of things that move straight on."""
    seconds = np.arange(steps) * 0.1
    boxes, velocity, present = np.zeros((len(listed), steps, 5)), np.zeros((len(listed), steps, 2)), []
    for row, thing in enumerate(listed):
        direction = np.array([np.cos(thing.heading), np.sin(thing.heading)])
        boxes[row, :, :2] = [thing.x, thing.y] + seconds[:, None] * thing.speed_mps * direction
        boxes[row, :, 2:] = thing.heading, thing.length, thing.width
        velocity[row] = thing.speed_mps * direction
        present.append((np.arange(steps) >= thing.from_step) & (np.arange(steps) <= thing.to_step))
    types = np.array([OBJECT_TYPES.index(thing.kind) for thing in listed], dtype=np.int64)
    tokens = tuple(f"{thing.kind}-{row}" for row, thing in enumerate(listed))
    return Tracks(tokens, types, boxes, velocity, np.array(present, dtype=np.bool_).reshape(-1, steps))


def scene(
    *listed: Thing,
    road: Road | None = None,
    red: Sequence[tuple[shapely.Polygon, range]] = (),
    speed_mps: float = 10.0,
    edition: Edition = NAVSIM_V2,
) -> ScoringContext:
    """A scene with the given things and red lights (polygon, steps); PDM-Closed gets 40 m along it."""
    tracks = things(listed, edition.traffic_steps)
    is_red = np.array([[step in steps for step in range(41)] for _, steps in red], dtype=np.bool_).reshape(-1, 41)
    rollout = driving(speed_mps)
    return ScoringContext(
        token="0000000000000000",
        edition=edition.name,
        map_location="us-ma-boston",
        now_us=1_627_000_000_000_000,
        ego_state=rollout[0],
        history_states=driving(speed_mps)[:14],
        road=straight_road() if road is None else road,
        tracks=tracks,
        traffic=traffic_from_boxes(tracks.boxes, tracks.present, tracks.types, tracks.first_speed_mps),
        lights=RedLights(polygon_set([polygon for polygon, _ in red]), is_red),
        pdm_proposal=4,
        pdm_reference=rollout[:, :3],
        pdm_rollout=rollout,
        pdm_progress_m=40.0,
        pdm_gate=1.0,
        human_plan=np.stack([np.arange(1, 9) * 0.5 * speed_mps, np.zeros(8), np.zeros(8)], axis=-1),
        human_rollout=rollout,
        human_scores=EVERYTHING_FINE,
    )


def driving(speed_mps: float, *, x: float = 0.0, y: float = 0.0, heading: float = 0.0) -> Array:
    """States [41, 11] of an ego vehicle that drives straight on at constant speed."""
    states = np.zeros((41, 11))
    seconds = np.arange(41) * 0.1
    states[:, 0] = x + seconds * speed_mps * np.cos(heading)
    states[:, 1] = y + seconds * speed_mps * np.sin(heading)
    states[:, 2] = heading
    states[:, 3] = speed_mps
    return states


def empty_road() -> ScoringContext:
    """Nobody else."""
    return scene()


def stopped_car_ahead() -> ScoringContext:
    """A parked car 20 m ahead in the ego vehicle's lane."""
    return scene(Thing("vehicle", x=20.0))


def cone_ahead() -> ScoringContext:
    """A traffic cone 20 m ahead."""
    return scene(Thing("traffic_cone", x=20.0, length=0.4, width=0.4))


def tailgater() -> ScoringContext:
    """A car 8 m behind that comes on 8 m/s faster than an ego vehicle doing 2 m/s."""
    return scene(Thing("vehicle", x=-8.0, speed_mps=10.0), speed_mps=2.0)


def car_from_the_left() -> ScoringContext:
    """A car that drives into the ego vehicle's left flank after about 1.5 s."""
    return scene(Thing("vehicle", x=16.0, y=12.0, heading=-np.pi / 2, speed_mps=6.0))


def red_light_ahead() -> ScoringContext:
    """A connector from x = 20 m to 30 m that is red until 3 s."""
    return scene(red=[(shapely.box(20.0, -1.75, 30.0, 1.75), range(30))])


def failed_by_human(context: ScoringContext, *names: str) -> ScoringContext:
    """The same scene, in which the human scores 0 in the given sub-scores."""
    return replace(context, human_scores=replace(context.human_scores, **{name: np.zeros(()) for name in names}))
