"""Re-posed ego starts: the world of a scene as logged, the ego vehicle entering it elsewhere.

A log holds one start a scene, and a careful one. What a plan is worth from a start that is a little off, crooked or
too fast is seen only by moving the ego vehicle and letting the simulator judge.
"""

from dataclasses import dataclass, replace

import numpy as np
import shapely

from irlvla.errors import SceneDataError
from irlvla.geometry import box_corners, ego_boxes, ego_to_world, world_to_ego
from irlvla.types import HISTORY_FRAMES, Array, Boxes, Frame, Scene

_LOG_TOKEN_LENGTH = 16


@dataclass(frozen=True)
class StartOffset:
    """Where the ego vehicle starts instead of where it was, in its logged ego frame at t=0."""

    longitudinal_m: float
    """Forward."""
    lateral_m: float
    """To the left."""
    heading_rad: float
    """Counter-clockwise."""
    speed_factor: float
    """On velocities and accelerations, history included."""

    @property
    def pose(self) -> Array:
        """[3] start pose x, y, heading in the logged ego frame."""
        return np.array([self.longitudinal_m, self.lateral_m, self.heading_rad])


def repose(scene: Scene, offset: StartOffset, letter: str = "a") -> Scene:
    """The same world, the ego vehicle starting elsewhere.

    History and now are moved as one rigid body and their boxes re-expressed in the moved ego frames, so objects stay
    where they were. Future frames stay as logged: their ego poses only carry their boxes. Cameras and LiDAR are left
    out, since they saw the world from the logged pose.

    Args:
        scene: A logged scene.
        offset: The new start.
        letter: Appended to the scene's token, so that several starts of a scene differ; the 17 characters mark the
            result as synthetic, since no human drove on from there.
    Raises:
        SceneDataError: The scene is synthetic itself.
        ValueError: `letter` is not one character.
    """
    if len(scene.token) != _LOG_TOKEN_LENGTH:
        raise SceneDataError(
            scene.token, f"only logged scenes, with tokens of {_LOG_TOKEN_LENGTH} characters, can be re-posed"
        )
    if len(letter) != 1:
        raise ValueError(f"one character tells the starts of a scene apart, got {letter!r}")
    logged_now = scene.now.ego_pose_world
    moved_now = ego_to_world(offset.pose, logged_now)
    history = [
        _moved(frame, ego_to_world(world_to_ego(frame.ego_pose_world, logged_now), moved_now), offset.speed_factor)
        for frame in scene.history
    ]
    token = scene.token + letter
    history[-1] = replace(history[-1], token=token)
    return replace(scene, token=token, frames=(*history, *scene.frames[HISTORY_FRAMES:]))


def stands_clear(scene: Scene) -> bool:
    """Whether the ego vehicle touches no object now; log replay would remove whatever it touches."""
    ego = shapely.Polygon(box_corners(ego_boxes(np.zeros(3))))
    others = shapely.polygons(box_corners(scene.now.boxes.boxes[:, [0, 1, 6, 3, 4]]))
    return not bool(shapely.intersects(ego, others).any())


def _moved(frame: Frame, pose_world: Array, speed_factor: float) -> Frame:
    boxes = frame.boxes.boxes.copy()
    planar = [0, 1, 6]
    boxes[:, planar] = world_to_ego(ego_to_world(boxes[:, planar], frame.ego_pose_world), pose_world)
    turn = frame.ego_pose_world[2] - pose_world[2]
    velocity = frame.boxes.velocity_mps.copy()
    velocity[:, :2] = velocity[:, :2] @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return replace(
        frame,
        ego_pose_world=pose_world,
        ego_velocity_mps=speed_factor * frame.ego_velocity_mps,
        ego_acceleration_mps2=speed_factor * frame.ego_acceleration_mps2,
        boxes=Boxes(boxes, frame.boxes.types, velocity, frame.boxes.track_tokens),
        cameras={},
        lidar_path=None,
    )
