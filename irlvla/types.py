"""The nouns: what a scene, a plan, a rollout and a set of sub-scores are.

All are frozen dataclasses of plain arrays. Frames and units follow `irlvla.geometry`; a `valid` mask travels with an
array that may have holes, never NaN.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PLAN_POSES = 8
PLAN_STEP_S = 0.5
ROLLOUT_STATES = 41
ROLLOUT_STEP_S = 0.1
HISTORY_FRAMES = 4
"""Frames up to and including the current one, 0.5 s apart."""

COMMANDS = ("left", "straight", "right", "unknown")
"""Driving commands, in the order of NAVSIM's one-hot `driving_command`."""

OBJECT_TYPES = ("vehicle", "pedestrian", "bicycle", "traffic_cone", "barrier", "czone_sign", "generic_object")
"""NAVSIM's `gt_names`, in the order of nuPlan's TrackedObjectType; the first three are agents, the others static."""

CAMERA_NAMES = ("CAM_F0", "CAM_L0", "CAM_L1", "CAM_L2", "CAM_R0", "CAM_R1", "CAM_R2", "CAM_B0")

INSTRUCTION = "What is your driving decision for the next four seconds?"
"""The question put to the policy unless the user asks another (the paper's framework figure, in plain English)."""


@dataclass(frozen=True)
class Camera:
    """One camera of one frame: where its image lies and how it is mounted.

    The pinhole convention is OpenCV's (x right, y down, z forward). NAVSIM mounts cameras relative to the LiDAR frame,
    which coincides with the ego frame (origin at the rear axle, 0.35 m above the street, z up).
    """

    name: str
    """One of CAMERA_NAMES."""
    image_path: Path | None
    """JPEG file; None where the log names none."""
    rotation_ego: Array
    """[3, 3] rotates camera coordinates into ego axes."""
    translation_ego: Array
    """[3] camera origin in the ego frame, m."""
    intrinsic: Array
    """[3, 3] pinhole matrix in pixels of the image as stored."""
    distortion: Array
    """[5] OpenCV k1, k2, p1, p2, k3."""


@dataclass(frozen=True)
class Boxes:
    """Annotated objects of one frame, in that frame's ego frame."""

    boxes: Array
    """[N, 7] center x, y, z, length, width, height (m), heading (rad)."""
    types: NDArray[np.int64]
    """[N] index into OBJECT_TYPES."""
    velocity_mps: Array
    """[N, 3] over ground, expressed in ego axes."""
    track_tokens: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.types)


@dataclass(frozen=True)
class Frame:
    """One 2 Hz keyframe of a log."""

    token: str
    time_us: int
    ego_pose_world: Array
    """[3] rear axle x, y (m), heading (rad)."""
    ego_velocity_mps: Array
    """[2] at the rear axle, ego axes."""
    ego_acceleration_mps2: Array
    """[2] at the rear axle, ego axes."""
    command: NDArray[np.int64]
    """[4] one-hot over COMMANDS."""
    roadblock_ids: tuple[str, ...]
    """Route as the log gives it, in order; empty where there is none."""
    traffic_lights: tuple[tuple[str, bool], ...]
    """(lane connector id, is red)."""
    boxes: Boxes
    cameras: Mapping[str, Camera]
    lidar_path: Path | None


@dataclass(frozen=True)
class Observation:
    """All that a policy may see of a scene: no future, no annotation, no map."""

    token: str
    frames: tuple[Frame, ...]
    """HISTORY_FRAMES frames, oldest first, the last is now. Their boxes, lights and roadblocks are emptied."""
    instruction: str = INSTRUCTION

    @property
    def now(self) -> Frame:
        return self.frames[-1]


@dataclass(frozen=True)
class Scene:
    """One NAVSIM sample: a window of keyframes around the current one, in a city.

    A scene is light: images, point clouds and maps are loaded by whoever needs them.
    """

    token: str
    """Token of the current frame; 17 characters long for a synthetic follow-up scene."""
    log_name: str
    map_location: str
    frames: tuple[Frame, ...]
    """HISTORY_FRAMES frames up to now, then the future ones (at least PLAN_POSES where scoring is wanted)."""
    instruction: str = INSTRUCTION

    @property
    def now(self) -> Frame:
        return self.frames[HISTORY_FRAMES - 1]

    @property
    def history(self) -> tuple[Frame, ...]:
        return self.frames[:HISTORY_FRAMES]

    @property
    def future(self) -> tuple[Frame, ...]:
        return self.frames[HISTORY_FRAMES:]

    @property
    def is_synthetic(self) -> bool:
        return len(self.token) == 17

    def observation(self) -> Observation:
        """What the policy is given: history frames stripped of everything privileged."""
        nothing = Boxes(np.zeros((0, 7)), np.zeros(0, dtype=np.int64), np.zeros((0, 3)), ())
        frames = tuple(
            Frame(
                frame.token,
                frame.time_us,
                frame.ego_pose_world,
                frame.ego_velocity_mps,
                frame.ego_acceleration_mps2,
                frame.command,
                (),
                (),
                nothing,
                frame.cameras,
                frame.lidar_path,
            )
            for frame in self.history
        )
        return Observation(self.token, frames, self.instruction)


@dataclass(frozen=True)
class Rollout:
    """What the simulated ego vehicle does when it tracks a plan."""

    states_world: Array
    """[..., 41, 11] every 0.1 s: rear-axle x, y, heading, vx, vy, ax, ay, steering angle, steering rate, yaw rate,
    yaw acceleration (m, rad, s)."""


SubScoreName = Literal[
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "driving_direction_compliance",
    "traffic_light_compliance",
    "ego_progress",
    "time_to_collision_within_bound",
    "lane_keeping",
    "history_comfort",
    "two_frame_extended_comfort",
]


@dataclass(frozen=True)
class SubScores:
    """The nine parts of EPDMS, one array each, all of one shape [...], values in [0, 1]."""

    no_at_fault_collisions: Array
    drivable_area_compliance: Array
    driving_direction_compliance: Array
    traffic_light_compliance: Array
    ego_progress: Array
    time_to_collision_within_bound: Array
    lane_keeping: Array
    history_comfort: Array
    two_frame_extended_comfort: Array
    """0 where `has_earlier_frame` is False."""
    has_earlier_frame: NDArray[np.bool_]
    """Extended comfort compares with the plan made 0.5 s earlier; False where there is none."""

    @staticmethod
    def names() -> tuple[str, ...]:
        """Names of the nine sub-scores, in the order of the official result file."""
        return tuple(f.name for f in fields(SubScores) if f.name != "has_earlier_frame")


@dataclass(frozen=True)
class PDMSubScores:
    """The six parts of PDMS, NAVSIM v1's score, one array each, all of one shape [...], values in [0, 1]."""

    no_at_fault_collisions: Array
    drivable_area_compliance: Array
    ego_progress: Array
    time_to_collision_within_bound: Array
    comfort: Array
    driving_direction_compliance: Array
    """Reported beside the others; it has no weight in the score."""

    @staticmethod
    def names() -> tuple[str, ...]:
        """Names of the six sub-scores, in the order of the official result file."""
        return tuple(f.name for f in fields(PDMSubScores))


class Policy(Protocol):
    """Anything that plans: the trained driver, a baseline, a submission file.

    Privileged baselines (human, PDM-Closed) read the scene's future; a learned policy reads `scene.observation()` only.
    """

    name: str

    def plan(self, scenes: Sequence[Scene]) -> Array:
        """Plans [scene, 8, 3] in each scene's ego frame."""
        ...


@dataclass(frozen=True)
class SceneFailure:
    """A scene that could not be processed, and why; reported beside the results, never as a number."""

    token: str
    reason: str
    stage: str = field(default="score")
