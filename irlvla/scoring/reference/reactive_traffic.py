"""Reactive traffic, area by area in shapely."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from irlvla.errors import SceneDataError
from irlvla.geometry import EGO_LENGTH_M, EGO_WIDTH_M, box_corners
from irlvla.simulation.bicycle import HEADING, VX, VY, X, Y
from irlvla.simulation.following import HEADWAY_S, LOST_LANE, NOBODY_TO_SEE, REACH_M
from irlvla.simulation.observation import Tracks
from irlvla.simulation.reactive_traffic import EGO_KEY, FAILURES, Follower, TrafficStart, tracks_from_vehicles
from irlvla.types import ROLLOUT_STATES, ROLLOUT_STEP_S, Array

_SIMPLIFY_M = 1e-5


@dataclass
class _Driver:
    """A follower on its way."""

    follower: Follower
    progress_m: float
    speed_mps: float

    def _clamped(self, progress_m: float) -> float:
        known_m = self.follower.rail.progress_m
        return max(known_m[0], min(progress_m, known_m[-1]))

    def pose_at(self, progress_m: float) -> tuple[float, float, float]:
        """x, y (m, world), heading (rad, wrapped) at a progress; held at both ends of the lane."""
        known_m, poses = self.follower.rail.progress_m, self.follower.rail.poses
        progress_m = self._clamped(progress_m)
        after = min(max(int(np.searchsorted(known_m, progress_m)), 1), len(known_m) - 1)
        share = poses[after] - poses[after - 1]
        x, y, heading = (
            share / (known_m[after] - known_m[after - 1]) * (progress_m - known_m[after - 1]) + poses[after - 1]
        ).tolist()
        return x, y, _wrap(heading)

    @property
    def pose(self) -> tuple[float, float, float]:
        return self.pose_at(self.progress_m)

    @property
    def outline(self) -> Any:
        return _outline(*self.pose, self.follower.length_m, self.follower.width_m)

    @property
    def corridor(self) -> Any:
        """The rest of its lane, as wide as it is; the lane's last piece where nothing is left."""
        known_m, points = self.follower.rail.progress_m, self.follower.rail.poses[:, :2]
        following = int(np.searchsorted(known_m, self._clamped(self.progress_m), side="right"))
        line = points[-2:] if following == len(points) else np.vstack([self.pose[:2], points[following:]])
        return shapely.LineString(line).buffer(self.follower.width_m / 2, cap_style="flat")

    @property
    def claim(self) -> Any:
        """What it keeps others out of: its box, and what it covers within its headway."""
        known_m, points = self.follower.rail.progress_m, self.follower.rail.poses[:, :2]
        half_m = self.follower.length_m / 2
        begin_m = self._clamped(self.progress_m - half_m)
        end_m = self._clamped(self.progress_m + half_m + self.speed_mps * HEADWAY_S)
        start, stop = int(np.searchsorted(known_m, begin_m, side="right")), int(np.searchsorted(known_m, end_m))
        if start == len(points):
            line = points[-2:]
        elif stop == 0:
            line = points[:2]
        else:
            line = np.vstack([self.pose_at(begin_m)[:2], points[start:stop], self.pose_at(end_m)[:2]])
        covered = shapely.LineString(line).buffer(self.follower.width_m / 2, cap_style="flat")
        return shapely.union_all([covered, self.outline])

    def advance(self, gap_m: float, lead_speed_mps: float) -> None:
        """One Euler step of the intelligent driver model: headway 1.5 s, gap 1 m, at most +1 and -2 m/s2."""
        speed_mps = self.speed_mps
        wanted_gap_m = 1.0 + 1.5 * speed_mps + speed_mps * (speed_mps - lead_speed_mps) / (2 * math.sqrt(2.0))
        freedom = 1 - (speed_mps / self.follower.wanted_speed_mps) ** 4
        acceleration = min(max(-2.0, freedom - (wanted_gap_m / max(gap_m, 1.0)) ** 2), 1.0)
        self.progress_m += ROLLOUT_STEP_S * speed_mps
        self.speed_mps = max(speed_mps + ROLLOUT_STEP_S * acceleration, 0.0)


def _wrap(angle_rad: float) -> float:
    return (angle_rad + math.pi) % (2 * math.pi) - math.pi


def _outline(x: float, y: float, heading: float, length_m: float, width_m: float) -> Any:
    return shapely.Polygon(box_corners(np.array([x, y, heading, length_m, width_m])))


def react(start: TrafficStart, ego_states: Array) -> Tracks:
    """What everything around the ego vehicle does while it drives through given states [41, 11]."""
    count = len(start.vehicle_tokens)
    boxes = np.repeat(start.vehicle_boxes[:, None], ROLLOUT_STATES, axis=1)
    velocity = np.repeat(start.vehicle_velocity_mps[:, None], ROLLOUT_STATES, axis=1)
    present = np.zeros((count, ROLLOUT_STATES), dtype=np.bool_)
    present[:, 0] = True
    drivers = {
        start.vehicle_tokens[follower.row]: _Driver(follower, follower.progress_m, follower.speed_mps)
        for follower in start.followers
    }
    areas = {token: _outline(*driver.follower.snapped_box) for token, driver in drivers.items()}
    for step in range(1, ROLLOUT_STATES):
        _propagate(start.token, drivers, areas, ego_states[step - 1])
        for driver in drivers.values():
            row, (x, y, heading) = driver.follower.row, driver.pose
            boxes[row, step:, :3] = x, y, heading
            velocity[row, step:] = driver.speed_mps * math.cos(heading), driver.speed_mps * math.sin(heading)
            present[row, step] = True
        outlines = [driver.outline for driver in drivers.values()]
        for row in start.bystanders:
            outline = _outline(*start.vehicle_boxes[row])
            if not shapely.intersects(outline, outlines).any():
                outlines.append(outline)
                present[row, step] = True
    return tracks_from_vehicles(start, boxes, velocity, present)


def _propagate(scene_token: str, drivers: dict[str, _Driver], areas: dict[str, Any], ego_state: Array) -> None:
    """Move every driver one step on, one after the other, behind whatever is nearest in its way."""
    ego_x, ego_y, ego_heading = (float(ego_state[column]) for column in (X, Y, HEADING))
    ego_speed_mps = math.hypot(ego_state[VX], ego_state[VY])
    # Officially the box is centered on the rear axle.
    areas[EGO_KEY] = _outline(ego_x, ego_y, ego_heading, EGO_LENGTH_M, EGO_WIDTH_M)
    for token, driver in list(drivers.items()):
        x, y, _ = driver.pose
        if math.hypot(x - ego_x, y - ego_y) > REACH_M:
            del drivers[token], areas[token]
    for token, driver in drivers.items():
        for key, area in areas.items():
            areas[key] = area.simplify(_SIMPLIFY_M, preserve_topology=True)
        corridor = driver.corridor
        tree = shapely.STRtree(list(areas.values()))
        in_way = [key for key in np.array(list(areas))[tree.query(corridor)] if areas[key].intersects(corridor)]
        if token not in in_way:
            raise SceneDataError(scene_token, FAILURES[LOST_LANE])
        if len(in_way) > 1:
            # A token is officially left out where it is part of the driver's own, not only where it is the same.
            others = [key for key in in_way if key not in token]
            if not others:
                raise SceneDataError(scene_token, FAILURES[NOBODY_TO_SEE])
            nearest = shapely.STRtree([areas[key] for key in others]).nearest(areas[token])
            leader = others[nearest]
            gap_m = float(areas[leader].distance(areas[token]))
            if EGO_KEY in leader:
                lead_speed_mps, lead_heading = ego_speed_mps, ego_heading
            else:
                lead_speed_mps, lead_heading = drivers[leader].speed_mps, drivers[leader].pose[2]
            driver.advance(gap_m, lead_speed_mps * math.cos(_wrap(lead_heading - driver.pose[2])))
        else:
            # It brakes for the end of its lane, where officially nothing stands.
            rest_m = driver.follower.rail.progress_m[-1] - driver.progress_m
            driver.advance(rest_m - driver.follower.length_m / 2, 0.0)
        areas[token] = driver.claim
