"""The driving question answered from privileged state: what the driver decides, and why."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from irlvla.data.language import DrivingAnswer, meta_action, write_answers
from irlvla.geometry import world_to_ego, wrap_angle
from irlvla.types import COMMANDS, INSTRUCTION, PLAN_POSES
from irlvla.world.logs import KeyFrame
from irlvla.world.reasons import EGO_FRONT_M, RouteView, look_around, movement, object_name, path_ahead, reason

Array = NDArray[np.float64]

CORRIDOR_M = 1.9
LIGHT_REACH_M = 50.0
LEADER_REACH_M = 45.0
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


@dataclass(frozen=True)
class _Surroundings:
    """What matters for the decision at one keyframe."""

    light: str
    """"red", "yellow", "green", or empty where no light is ahead."""
    leader: str
    """What drives ahead in the ego's way; empty where nothing does."""
    leader_gap_m: float
    pedestrian_in_the_way: bool
    oncoming: bool
    at_junction: bool
    turn_ahead: bool


def describe_drive(
    root: Path, data_split: str, name: str, frames: list[KeyFrame], view: RouteView | None = None
) -> None:
    """Write the answers for every keyframe of a log whose next four seconds are known.

    Args:
        view: The drive's route, so that reasons come from the ego's own way (`irlvla.world.reasons`). Without it they
            are guessed from what is in front, as in the worlds whose results are published.
    """
    answers = []
    for number in range(len(frames) - PLAN_POSES):
        frame = frames[number]
        later = frames[number + 1 : number + 1 + PLAN_POSES]
        poses = world_to_ego(np.stack([item.ego_pose for item in later]), frame.ego_pose)
        speed_word, path_word = meta_action(poses, frame.speed_mps)
        if view is None:
            way, why = _WAY[path_word], _reason(speed_word, path_word, _look_around(frame, poses))
        else:
            here = look_around(frame, later, view)
            way = movement(path_word, here) or _WAY[path_word]
            why = reason(speed_word, path_word, frame.speed_mps, here)
        text = f"{_EVENT[speed_word]}, {way}: {why}."
        answers.append(DrivingAnswer(frame.token, INSTRUCTION, text, speed_word, path_word))
    write_answers(root, data_split, name, answers)


def _reason(speed_word: str, path_word: str, here: _Surroundings) -> str:
    follows = f"follow the {here.leader} ahead at {here.leader_gap_m:.0f} m" if here.leader else ""
    if speed_word in ("wait", "stop", "slow down"):
        if here.pedestrian_in_the_way:
            return "a pedestrian is in the way"
        if here.light in ("red", "yellow") and here.leader_gap_m > 12.0:
            return f"the light ahead is {here.light}"
        if here.leader:
            held = f", the light ahead is {here.light}" if here.light in ("red", "yellow") else ""
            return f"the {here.leader} ahead is only {here.leader_gap_m:.0f} m away{held}"
        if here.light in ("red", "yellow"):
            return f"the light ahead is {here.light}"
        if path_word == "turn left" and here.oncoming:
            return "yield to oncoming traffic"
        if path_word.startswith("turn"):
            return "the turn is tight"
        if here.turn_ahead:
            return "a turn is coming up"
        if here.at_junction:
            return "other traffic may have the right of way at the junction"
        return "the road ahead bends" if path_word.startswith("bear") else "the road ahead needs care"
    if path_word == "turn left" and here.oncoming:
        return "there is a gap in the oncoming traffic"
    if follows:
        return follows
    if here.light == "green":
        return "the light ahead is green"
    return "the road ahead is free"


def _look_around(frame: KeyFrame, poses: Array) -> _Surroundings:
    path = path_ahead(poses)
    leader, gap = "", np.inf
    pedestrian = oncoming = False
    for item in frame.objects:
        x, y = float(item.box[0]), float(item.box[1])
        if x < 1.0 or x > 60.0:
            continue
        beside = abs(y - float(np.interp(x, path[:, 0], path[:, 1])))
        turned = abs(float(wrap_angle(item.box[6])))
        if item.type == "pedestrian":
            pedestrian |= beside < 2.5 and x < 22.0
        elif item.type in ("vehicle", "bicycle"):
            oncoming |= turned > 2.4 and -1.0 < y < 14.0 and x < 45.0 and float(np.hypot(*item.velocity_mps)) > 1.0
            at = x - item.box[3] / 2 - EGO_FRONT_M
            if beside < CORRIDOR_M and turned < 1.2 and at < min(gap, LEADER_REACH_M) and at > -1.0:
                leader, gap = object_name(item), max(0.0, at)
    light, at_junction = _light_ahead(frame)
    turn_ahead = COMMANDS[frame.command] in ("left", "right")
    return _Surroundings(light, leader, float(gap), pedestrian, oncoming, at_junction, turn_ahead)


def _light_ahead(frame: KeyFrame) -> tuple[str, bool]:
    """Colour of the light at the next stop line of the ego's lane, and whether a junction is near."""
    wanted = COMMANDS[frame.command]
    best, colour = LIGHT_REACH_M, ""
    for connector, _, letter in frame.lights:
        ends = connector.from_lane.baseline[-2:]
        heading = np.arctan2(*(ends[1] - ends[0])[::-1])
        x, y, turned = world_to_ego(np.array([*ends[1], heading]), frame.ego_pose)
        if not (EGO_FRONT_M - 1.5 < x < best + 0.5 and abs(turned) < 0.6 and abs(y) < 1.6 + 0.04 * x):
            continue
        suits = {"left": "lL", "right": "rR"}.get(wanted, "s")
        if x < best - 0.5 or connector.turn in suits:
            best = float(x)
            colour = {"r": "red", "R": "red", "u": "red", "y": "yellow", "Y": "yellow"}.get(letter, "green")
    return colour, best < 20.0
