"""What truly happens while somebody drives: collisions and whose fault they are, red lights, lost roads, progress.

The rules are the scorer's own (`irlvla.scoring`), applied to what was driven instead of to what was planned.
"""

from collections import deque
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from irlvla.data.maps import CityMap
from irlvla.geometry import box_corners, ego_boxes
from irlvla.scoring.collision import collision
from irlvla.scoring.drivable_area import ego_areas
from irlvla.scoring.footprint import footprints
from irlvla.simulation.drivable import Road, nearby_polygons
from irlvla.simulation.paths import path_progress, project
from irlvla.simulation.polygons import box_touches_polygon, boxes_touch, polygon_set
from irlvla.simulation.route import centerline, correct_route, lanes_of_route, start_lane
from irlvla.simulation.traffic import traffic_from_boxes
from irlvla.types import OBJECT_TYPES, ROLLOUT_STATES, Array

GOAL_MARGIN_M = 50.0
"""The route counts as driven this far before its end, where SUMO takes vehicles off the road: what comes after the last
plan belongs to the drive's record too."""

_TOUCH_REACH_M = 16.0
_LAY_OUT_AGAIN_M = 40.0
# Progress is looked for near where it was, since routes may pass a place twice.
_PROGRESS_BACK_M, _PROGRESS_AHEAD_M = 20.0, 60.0


@dataclass(frozen=True)
class Objects:
    """Everything near the ego vehicle at one step, in the world frame."""

    names: tuple[str, ...]
    types: NDArray[np.int64]
    """[N] index into OBJECT_TYPES."""
    boxes: Array
    """[N, 5] center x, y, heading, length, width."""
    speed_mps: Array
    """[N]"""


@dataclass(frozen=True)
class Collision:
    """The ego vehicle touches something it did not touch before."""

    step: int
    """Step of the judged stretch, from 1."""
    other: str
    other_type: str
    at_fault: bool
    ego_speed_mps: float


@dataclass(frozen=True)
class Judgement:
    """What happened over a stretch of T steps; the state it starts from belongs to the stretch before."""

    collisions: tuple[Collision, ...]
    red_lights_run: tuple[int, ...]
    """Steps (from 1) at which the body entered a connector of the route whose light was red."""
    off_road: NDArray[np.bool_]
    """[T] some corner lies on no road, intersection or car park."""
    wrong_way: NDArray[np.bool_]
    """[T] the center lies in no lane of the route and in no intersection."""
    moved_m: Array
    """[T] distance driven in each step."""

    @property
    def is_clean(self) -> bool:
        """Nothing happened that would void a plan of the scorer's."""
        at_fault = any(touched.at_fault for touched in self.collisions)
        return not (at_fault or self.red_lights_run or self.off_road.any() or self.wrong_way.any())


class Referee:
    """Watches one drive along one route.

    Args:
        city_map: The city.
        roadblock_ids: The route, as logs give it; not empty.
        ego_pose_world: [3] rear axle at the start.
    """

    def __init__(self, city_map: CityMap, roadblock_ids: Sequence[str], ego_pose_world: Array) -> None:
        self._map = city_map
        route = correct_route(city_map, ego_pose_world, list(dict.fromkeys(int(block) for block in roadblock_ids)))
        lanes = lanes_of_route(city_map, route)
        self._lanes = np.array(lanes, dtype=np.int64)
        self._road = self._lay_out_road(ego_pose_world)
        geometries, _, ids = nearby_polygons(city_map, ego_pose_world)
        start = start_lane(city_map, ego_pose_world, lanes, shapely.STRtree(geometries), ids)
        self.centerline = centerline(city_map, start, lanes, route)
        """[L, 3] the line along the route."""
        self._along_m = path_progress(self.centerline)
        self._connectors = [lane for lane in lanes if not city_map.is_lane(lane)]
        self._connector_polygons = polygon_set([city_map.connector_polygons[c] for c in self._connectors])
        self._progress_m = project(self.centerline, *ego_boxes(ego_pose_world)[:2])[0]
        self._start_m = self._progress_m
        # Speeds by name, as far back as a rollout reaches: the scorer judges by the speed when it first saw something.
        self._speeds: deque[dict[str, float]] = deque(maxlen=ROLLOUT_STATES)
        self._touched: set[str] = set()
        self._on_connectors: set[int] = set()

    @property
    def route_m(self) -> float:
        """Length of the route from the start to where it counts as driven."""
        return max(float(self._along_m[-1]) - GOAL_MARGIN_M - self._start_m, 1e-3)

    @property
    def progress_m(self) -> float:
        """Way along the route since the start."""
        return self._progress_m - self._start_m

    @property
    def arrived(self) -> bool:
        return self.progress_m >= self.route_m

    def begin(self, state: Array, objects: Objects) -> None:
        """Take note of what the ego vehicle touches and stands on already; it is not held against the driver."""
        corners = footprints(state[None, None]).corners[0, 0]
        self._speeds.append(_speeds(objects))
        self._touched = {name for name, _ in _touching(corners, objects)}
        self._on_connectors = set(self._standing_on(corners))

    def is_sound(self, state: Array, objects: Objects) -> bool:
        """Whether a drive may begin here: on the road, in the lanes of the route, touching nothing."""
        ego = footprints(state[None, None])
        areas = ego_areas(self._road, ego)
        off = areas.non_drivable | (areas.oncoming & ~areas.center_in_intersection)
        return not off.any() and not _touching(ego.corners[0, 0], objects)

    def judge(self, states: Array, objects: Sequence[Objects], red: Sequence[Set[int]]) -> Judgement:
        """Judge a stretch of driving.

        Args:
            states: [T + 1, 11] at 0.1 s, the first one judged before.
            objects: T + 1 times what is near.
            red: T + 1 times the lane connectors that are red.
        """
        if np.hypot(*(states[-1, :2] - self._laid_out_at)) > _LAY_OUT_AGAIN_M:
            self._road = self._lay_out_road(states[-1, :3])
        ego = footprints(states[None])
        areas = ego_areas(self._road, ego)
        collisions: list[Collision] = []
        run: list[int] = []
        for step in range(1, len(states)):
            corners = ego.corners[0, step]
            self._speeds.append(_speeds(objects[step]))
            touching = _touching(corners, objects[step])
            for name, row in touching:
                if name not in self._touched:
                    kind = int(objects[step].types[row])
                    at_fault = self._is_at_fault(states, objects, name, kind)
                    collisions.append(Collision(step, name, OBJECT_TYPES[kind], at_fault, float(states[step, 3])))
            self._touched = {name for name, _ in touching}
            standing_on = set(self._standing_on(corners))
            entered = standing_on - self._on_connectors
            # Connectors of one approach begin as one: entering them is one offence.
            if entered & red[step] and not self._on_connectors & red[step]:
                run.append(step)
            self._on_connectors = standing_on
            self._advance(ego.center[0, step])
        wrong_way = areas.oncoming[0, 1:] & ~areas.center_in_intersection[0, 1:]
        moved = np.hypot(*np.diff(ego.center[0], axis=0).T)
        return Judgement(
            tuple(collisions),
            tuple(run),
            areas.non_drivable[0, 1:],
            wrong_way,
            moved,
        )

    def _is_at_fault(self, states: Array, objects: Sequence[Objects], name: str, kind: int) -> bool:
        boxes = np.zeros((1, len(states), 5))
        present = np.zeros((1, len(states)), dtype=np.bool_)
        for step, around in enumerate(objects):
            if name in around.names:
                boxes[0, step], present[0, step] = around.boxes[around.names.index(name)], True
        first_speed = next(speeds[name] for speeds in self._speeds if name in speeds)
        ego = footprints(states[None])
        traffic = traffic_from_boxes(boxes, present, np.array([kind]), np.array([first_speed]))
        return bool(collision(traffic, ego, ego_areas(self._road, ego))[0] < 1.0)

    def _standing_on(self, corners: Array) -> list[int]:
        polygons = self._connector_polygons
        return [c for row, c in enumerate(self._connectors) if box_touches_polygon(corners, polygons, row)]

    def _advance(self, center: Array) -> None:
        low = int(np.searchsorted(self._along_m, self._progress_m - _PROGRESS_BACK_M))
        high = int(np.searchsorted(self._along_m, self._progress_m + _PROGRESS_AHEAD_M)) + 1
        low = max(0, min(low, len(self._along_m) - 2))
        piece = self.centerline[low : max(high, low + 2)]
        self._progress_m = float(self._along_m[low]) + project(piece, float(center[0]), float(center[1]))[0]

    def _lay_out_road(self, ego_pose_world: Array) -> Road:
        self._laid_out_at = ego_pose_world[:2].copy()
        geometries, kinds, ids = nearby_polygons(self._map, ego_pose_world)
        is_lane = np.array([self._map.has_lane(int(lane)) for lane in ids], dtype=np.bool_)
        return Road(polygon_set(geometries), kinds, np.isin(ids, self._lanes) & is_lane, np.zeros((0, 3)))


def _speeds(objects: Objects) -> dict[str, float]:
    return dict(zip(objects.names, objects.speed_mps.tolist(), strict=True))


def _touching(ego_corners: Array, objects: Objects) -> list[tuple[str, int]]:
    middle = ego_corners.mean(axis=0)
    offset = objects.boxes[:, :2] - middle
    near = np.flatnonzero(offset[:, 0] ** 2 + offset[:, 1] ** 2 < _TOUCH_REACH_M**2)
    corners = box_corners(objects.boxes[near])
    return [
        (objects.names[row], int(row))
        for row, box in zip(near, corners, strict=True)
        if boxes_touch(np.ascontiguousarray(box), np.ascontiguousarray(ego_corners))
    ]
