"""A log in which somebody always touches the ego vehicle. Plain NumPy: the official devkit's Python reads it too."""

from typing import Any

import numpy as np

TOUCHING = (
    ("vehicle", (4.9, 1.2, 0.8, 4.5, 1.9, 1.6, 0.15), 0.5),
    ("traffic_cone", (2.0, -1.1, 0.8, 0.4, 0.4, 1.0, 0.0), 0.0),
    ("pedestrian", (-1.0, 1.3, 0.8, 0.7, 0.7, 1.7, -1.0), 0.2),
)
"""Kind, box in the ego frame, and share of the ego vehicle's speed: one after the other, for four keyframes each."""


def put_touching_objects(frames: list[dict[str, Any]]) -> None:
    """Put an object of TOUCHING into the ego vehicle at every keyframe of a log."""
    for index, frame in enumerate(frames):
        kind, box, speed_share = TOUCHING[index // 4 % len(TOUCHING)]
        annotations = frame["anns"]
        velocity = np.array([[speed_share * frame["ego_dynamic_state"][0], 0.0, 0.0]])
        token = f"touching{index // 4:08d}"
        annotations["gt_boxes"] = np.concatenate([annotations["gt_boxes"], [box]])
        annotations["gt_names"] = np.concatenate([annotations["gt_names"], [kind]])
        annotations["gt_velocity_3d"] = np.concatenate([annotations["gt_velocity_3d"], velocity])
        annotations["instance_tokens"] = [*annotations["instance_tokens"], token]
        annotations["track_tokens"] = [*annotations["track_tokens"], token]
