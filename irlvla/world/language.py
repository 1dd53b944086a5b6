"""The driving question answered from privileged state: what the driver decides, and why."""

from pathlib import Path

import numpy as np

from irlvla.data.language import DrivingAnswer, meta_action, write_answers
from irlvla.geometry import world_to_ego
from irlvla.types import INSTRUCTION, PLAN_POSES
from irlvla.world.logs import KeyFrame
from irlvla.world.reasons import RouteView, look_around, movement, reason

_EVENT = {
    "wait": "Wait",
    "start": "Start moving",
    "stop": "Slow down and stop",
    "slow down": "Slow down",
    "keep speed": "Keep speed",
    "speed up": "Speed up",
}
_WAY = {
    "straight": "stay in the lane",
    "bear left": "follow the bend to the left",
    "bear right": "follow the bend to the right",
    "turn left": "turn left at the junction",
    "turn right": "turn right at the junction",
    "change lane left": "move to the left lane",
    "change lane right": "move to the right lane",
}


def describe_drive(root: Path, data_split: str, name: str, frames: list[KeyFrame], view: RouteView) -> None:
    """Write the answers for every keyframe of a log whose next four seconds are known.

    Args:
        view: The drive's route; reasons come from the ego's own way along it.
    """
    answers = []
    for number in range(len(frames) - PLAN_POSES):
        frame = frames[number]
        later = frames[number + 1 : number + 1 + PLAN_POSES]
        poses = world_to_ego(np.stack([item.ego_pose for item in later]), frame.ego_pose)
        speed_word, path_word = meta_action(poses, frame.speed_mps)
        here = look_around(frame, later, view)
        way = movement(path_word, here) or _WAY[path_word]
        text = f"{_EVENT[speed_word]}, {way}: {reason(speed_word, path_word, frame.speed_mps, here)}."
        answers.append(DrivingAnswer(frame.token, INSTRUCTION, text, speed_word, path_word))
    write_answers(root, data_split, name, answers)
