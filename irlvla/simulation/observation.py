"""What moves and shines around the ego vehicle over the next four seconds, from 2 Hz keyframes to 10 Hz steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from irlvla.data.maps import CityMap
from irlvla.geometry import box_corners, ego_boxes, wrap_angle
from irlvla.simulation.kernels import kernel
from irlvla.simulation.polygons import boxes_touch, polygon_set
from irlvla.simulation.reference import through_center
from irlvla.simulation.traffic import FIRST_STATIC_TYPE, RedLights
from irlvla.types import PLAN_STEP_S, ROLLOUT_STATES, ROLLOUT_STEP_S, Array, Frame

STEPS_PER_FRAME = round(PLAN_STEP_S / ROLLOUT_STEP_S)


@dataclass(frozen=True)
class Tracks:
    """Objects over T steps of 0.1 s, in the order in which the log first shows them."""

    tokens: tuple[str, ...]
    types: NDArray[np.int64]
    """[N] index into OBJECT_TYPES."""
    boxes: Array
    """[N, T, 5] center x, y, heading, length, width (m, rad, world); held at the nearest state where absent."""
    velocity_mps: Array
    """[N, T, 2] over ground (world); zero for static objects."""
    present: NDArray[np.bool_]
    """[N, T]."""

    @property
    def first_speed_mps(self) -> Array:
        """Speed [N] where each object is first present."""
        first = self.velocity_mps[np.arange(len(self.types)), self.present.argmax(axis=1)]
        return np.hypot(first[:, 0], first[:, 1])

    def select(self, keep: NDArray[np.bool_]) -> "Tracks":
        """The tracks marked by `keep` [N]."""
        tokens = tuple(token for token, wanted in zip(self.tokens, keep, strict=True) if wanted)
        return Tracks(tokens, self.types[keep], self.boxes[keep], self.velocity_mps[keep], self.present[keep])


def boxes_in_world(frame: Frame) -> tuple[Array, Array]:
    """Objects of a frame in the world.

    Returns:
        [n, 5] center x, y, heading, length, width (m, rad) and [n, 2] velocity (m/s), in annotation order.
    """
    x, y, heading = frame.ego_pose_world
    origin_x, origin_y = through_center(x, y, heading)
    cos, sin = np.cos(heading), np.sin(heading)
    boxes, velocity = frame.boxes.boxes, frame.boxes.velocity_mps
    in_world = np.stack(
        [
            boxes[:, 0] * cos - boxes[:, 1] * sin + origin_x,
            boxes[:, 0] * sin + boxes[:, 1] * cos + origin_y,
            wrap_angle(wrap_angle(boxes[:, 6] + heading)),
            boxes[:, 3],
            boxes[:, 4],
        ],
        axis=1,
    )
    rotated = np.stack(
        [velocity[:, 0] * cos - velocity[:, 1] * sin, velocity[:, 0] * sin + velocity[:, 1] * cos], axis=1
    )
    return in_world, np.where((frame.boxes.types < FIRST_STATIC_TYPE)[:, None], rotated, 0.0)


@kernel
def _interpolate_track(frames: NDArray[np.int64], states: Array, out: Array, present: NDArray[np.bool_]) -> None:
    """Linear in time between the sightings [F] of one track, whatever their distance; states [F, 5] in, [T, 5] out."""
    last = len(frames) - 1
    for i in range(1, last + 1):
        turn = states[i, 2] - states[i - 1, 2]
        wrapped = (turn + np.pi) % (2 * np.pi) - np.pi
        if wrapped == -np.pi and turn > 0:
            wrapped = np.pi
        if abs(turn) >= np.pi:
            states[i:, 2] += wrapped - turn
    later = min(1, last)
    for step in range(len(out)):
        time = step * 0.1
        while later < last and frames[later] * 0.5 < time:
            later += 1
        present[step] = last == 0 or frames[0] * 0.5 <= time <= frames[last] * 0.5
        if last == 0:
            # An object seen once stands still for the whole rollout.
            out[step] = states[0]
            continue
        time = min(max(time, frames[0] * 0.5), frames[last] * 0.5)
        before = frames[later - 1] * 0.5
        span = frames[later] * 0.5 - before
        for k in range(states.shape[1]):
            out[step, k] = (states[later, k] - states[later - 1, k]) / span * (time - before) + states[later - 1, k]
        out[step, 2] = np.arctan2(np.sin(out[step, 2]), np.cos(out[step, 2]))


def interpolate_tracks(frames: Sequence[Frame], steps: int = ROLLOUT_STATES) -> Tracks:
    """Objects at 10 Hz from keyframes.

    Gaps between sightings are bridged; outside its first and last sighting a track is absent. A track with a single
    sighting is present throughout, wherever the sighting was.

    Args:
        frames: Now and the keyframes after. Those after the last step do not count, not even as second sightings.
        steps: T, the first of them now.
    Source: navsim `MetricCacheProcessor._interpolate_gt_observation`.
    """
    sightings: dict[str, list[tuple[int, Array]]] = {}
    first: dict[str, tuple[int, Array]] = {}
    for index, frame in enumerate(frames[: (steps - 1) // STEPS_PER_FRAME + 1]):
        in_world, velocity = boxes_in_world(frame)
        for row in np.argsort(frame.boxes.types, kind="stable"):
            token = frame.boxes.track_tokens[row]
            if token not in first:
                first[token] = int(frame.boxes.types[row]), in_world[row, 3:]
                sightings[token] = []
            sightings[token].append((index, np.concatenate([in_world[row, :3], velocity[row]])))
    count = len(first)
    types = np.array([kind for kind, _ in first.values()], dtype=np.int64)
    states = np.empty((count, steps, 5))
    present = np.empty((count, steps), dtype=np.bool_)
    for track, seen in enumerate(sightings.values()):
        frame_index = np.array([index for index, _ in seen], dtype=np.int64)
        _interpolate_track(frame_index, np.stack([state for _, state in seen]), states[track], present[track])
    boxes = np.empty((count, steps, 5))
    boxes[..., :3] = states[..., :3]
    for track, (_, size) in enumerate(first.values()):
        boxes[track, :, 3:] = size
    velocity = np.where((types < FIRST_STATIC_TYPE)[:, None, None], states[..., 3:], 0.0)
    return Tracks(tuple(first), types, boxes, velocity, present)


def touching_ego(boxes: Array, ego_pose_world: Array) -> NDArray[np.bool_]:
    """Which boxes [N, 5] share a point with the ego vehicle standing at a rear-axle pose [3]."""
    ego_corners = box_corners(ego_boxes(ego_pose_world))
    corners = box_corners(boxes.reshape(-1, 5))
    return np.array([boxes_touch(box, ego_corners) for box in corners], dtype=np.bool_)


def replayed(tracks: Tracks, ego_pose_world: Array) -> Tracks:
    """Log-replay traffic: every track but those that touch the ego vehicle at t=0, which official replay removes."""
    blocking = tracks.present[:, 0] & touching_ego(tracks.boxes[:, 0], ego_pose_world)
    return tracks.select(~blocking)


def red_lights(frames: Sequence[Frame], lanes: set[int], city_map: CityMap) -> RedLights:
    """Connectors of the given lanes behind a red light, at the 41 steps; a frame's lights hold until the next frame.

    Args:
        frames: Now and the keyframes after; a single frame holds for the whole rollout.
        lanes: Lane and connector ids of the route.
        city_map: The city.
    """
    red: dict[int, NDArray[np.bool_]] = {}
    for step in range(ROLLOUT_STATES):
        for connector, is_red in frames[min(step // STEPS_PER_FRAME, len(frames) - 1)].traffic_lights:
            if is_red and int(connector) in lanes:
                red.setdefault(int(connector), np.zeros(ROLLOUT_STATES, dtype=np.bool_))[step] = True
    polygons = polygon_set([city_map.connector_polygons[connector] for connector in red])
    return RedLights(polygons, np.array(list(red.values()), dtype=np.bool_).reshape(-1, ROLLOUT_STATES))
