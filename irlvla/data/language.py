"""Driving in words: what a human future amounts to, answers to the driving question, and instructions with the plans
that obey them."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from irlvla.errors import DataError
from irlvla.files import read_lines, write_json_lines
from irlvla.types import INSTRUCTION, PLAN_POSES, PLAN_STEP_S, Array

SPEED_WORDS = ("wait", "start", "stop", "slow down", "keep speed", "speed up")
PATH_WORDS = (
    "straight",
    "bear left",
    "bear right",
    "turn left",
    "turn right",
    "change lane left",
    "change lane right",
)

STANDING_MPS = 0.5
"""Slower than this is standing."""
STANDING_TRAVEL_M = 1.0
"""A car that stands and moves less than this in four seconds waits."""
SPEED_CHANGE_MPS = 1.0
SPEED_CHANGE_SHARE = 0.15
"""Speeding up or slowing down is a change by more than the larger of SPEED_CHANGE_MPS and this share of the speed."""
TURN_RAD = math.radians(35)
"""A heading change of at least this much is a turn."""
BEND_RAD = math.radians(10)
"""A heading change of at least this much, but less than a turn, follows a bend."""
LANE_CHANGE_RAD = math.radians(15)
"""A lane change ends with less heading change than this ..."""
LANE_CHANGE_M = 1.5
"""... and at least this far beside the arc that start and end heading describe."""


@dataclass(frozen=True)
class DrivingAnswer:
    """The driving question of one keyframe with its answer."""

    token: str
    question: str
    answer: str
    speed_word: str
    """One of SPEED_WORDS."""
    path_word: str
    """One of PATH_WORDS."""
    instruction_of: str = ""
    """Where the question asks for another manoeuvre than the human drove: the scene whose manoeuvre it is."""


INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "turn left": ("Turn left at the next junction.", "Take the next turn to the left."),
    "turn right": ("Turn right at the next junction.", "Take the next turn to the right."),
    "go straight": ("Go straight on at the next junction.", "Drive straight across the next junction."),
    "lane left": ("Change to the left lane.", "Move over to the lane on your left."),
    "lane right": ("Change to the right lane.", "Move over to the lane on your right."),
    "slower": ("Drive slower.", "Slow down a little."),
    "faster": ("Speed up.", "Drive faster."),
    "stop": ("Stop now.", "Stop the car."),
    "pull over": ("Pull over.", "Stop at the right edge of the road."),
}
"""Kind of instruction -> ways to say it."""


@dataclass(frozen=True)
class InstructedPlan:
    """An instruction that the human was not given, and how a driver would obey it."""

    token: str
    """Scene."""
    kind: str
    """A key of INSTRUCTIONS."""
    instruction: str
    """What is said to the driver; may replace `Scene.instruction`."""
    answer: str
    """What the driver does about it and why; where the scene leaves no way to obey, that it does not and why."""
    is_possible: bool
    """Whether the scene leaves a way to obey, safe or not."""
    is_safe: bool
    """Whether the plan touches nobody, stays on the road and on its side, heeds the light, and keeps its distance."""
    speed_word: str
    """One of SPEED_WORDS; what the plan does, or the human where there is no plan."""
    path_word: str
    """One of PATH_WORDS."""
    poses: tuple[tuple[float, float, float], ...]
    """The plan: 8 poses (x, y, heading) every 0.5 s in the ego frame at t=0 (m, rad); none where `is_possible` is
    false."""
    scores: dict[str, float]
    """Its sub-scores and `epdms`, without human filter and without extended comfort, on the route that the instruction
    asks for; empty where there is no plan."""

    @property
    def plan(self) -> Array:
        """[8, 3] the plan, or [0, 3] where there is none."""
        return np.array(self.poses, dtype=np.float64).reshape(-1, 3)


def meta_action(poses_ego: Array, speed_mps: float) -> tuple[str, str]:
    """Name what a plan does with the speed and with the path.

    Args:
        poses_ego: [8, 3] poses every 0.5 s in the ego frame at t=0 (m, rad).
        speed_mps: Speed at t=0.
    Returns:
        One of SPEED_WORDS and one of PATH_WORDS.
    Differs: The paper names no vocabulary and no thresholds; both are ours.
    Example:
        >>> stay = np.zeros((8, 3))
        >>> meta_action(stay, 0.0)
        ('wait', 'straight')
    """
    poses = np.concatenate([np.zeros((1, 3)), np.asarray(poses_ego, dtype=np.float64)])
    steps_m = np.hypot(*np.diff(poses[:, :2], axis=0).T)
    travel_m = float(steps_m.sum())
    # Two steps: one alone shows the jitter of the log.
    end_speed_mps = float(steps_m[-2:].mean()) / PLAN_STEP_S
    return _speed_word(speed_mps, end_speed_mps, travel_m), _path_word(poses, travel_m)


def _speed_word(speed_mps: float, end_speed_mps: float, travel_m: float) -> str:
    if speed_mps < STANDING_MPS:
        return "wait" if travel_m < STANDING_TRAVEL_M else "start"
    if end_speed_mps < STANDING_MPS:
        return "stop"
    change_mps = end_speed_mps - speed_mps
    if abs(change_mps) <= max(SPEED_CHANGE_MPS, SPEED_CHANGE_SHARE * speed_mps):
        return "keep speed"
    return "speed up" if change_mps > 0 else "slow down"


def _path_word(poses: Array, travel_m: float) -> str:
    if travel_m < STANDING_TRAVEL_M:
        return "straight"
    turned_rad = float(np.unwrap(poses[:, 2])[-1])
    if abs(turned_rad) >= TURN_RAD:
        return "turn left" if turned_rad > 0 else "turn right"
    x_m, y_m = poses[-1, :2]
    # An arc that ends with this heading leads along half of it.
    beside_arc_m = float(y_m - x_m * math.tan(turned_rad / 2))
    if abs(turned_rad) < LANE_CHANGE_RAD and abs(beside_arc_m) >= LANE_CHANGE_M:
        return "change lane left" if beside_arc_m > 0 else "change lane right"
    if abs(turned_rad) >= BEND_RAD:
        return "bear left" if turned_rad > 0 else "bear right"
    return "straight"


def load_answers(root: Path, data_split: str, log_name: str) -> dict[str, DrivingAnswer]:
    """Answers of one log by token; empty where the data has none, as NAVSIM's own.

    Raises:
        DataError: The file is there but damaged.
    """
    path = answers_path(root, data_split, log_name)
    answers = {}
    known = {field.name for field in fields(DrivingAnswer)}
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row = json.loads(line)
            answer = DrivingAnswer(**{"question": INSTRUCTION} | {key: row[key] for key in row if key in known})
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is no answer ({error}); build the world again") from error
        if answer.speed_word not in SPEED_WORDS or answer.path_word not in PATH_WORDS:
            raise DataError(f"{path}: line {number} has unknown words {answer.speed_word!r}, {answer.path_word!r}")
        answers[answer.token] = answer
    return answers


def write_answers(root: Path, data_split: str, log_name: str, answers: Iterable[DrivingAnswer]) -> None:
    """Write the answers of one log beside its other data."""
    write_json_lines(answers_path(root, data_split, log_name), map(asdict, answers))


def answers_path(root: Path, data_split: str, log_name: str) -> Path:
    return root / "driving_language" / data_split / f"{log_name}.jsonl"


def write_instructions(root: Path, data_split: str, log_name: str, plans: Iterable[InstructedPlan]) -> None:
    """Write the instructions of one log beside its answers: one JSON object a line, with the fields of
    `InstructedPlan`."""
    write_json_lines(instructions_path(root, data_split, log_name), map(asdict, plans))


def load_instructions(root: Path, data_split: str, log_name: str) -> dict[str, list[InstructedPlan]]:
    """Instructions of one log by token; empty where the data has none, as NAVSIM's own.

    Raises:
        DataError: The file is there but damaged.
    """
    path = instructions_path(root, data_split, log_name)
    found: dict[str, list[InstructedPlan]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row = json.loads(line)
            row["poses"] = tuple((float(x), float(y), float(heading)) for x, y, heading in row["poses"])
            plan = InstructedPlan(**row)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is no instruction ({error}); build the world again") from error
        if plan.kind not in INSTRUCTIONS or len(plan.poses) != (PLAN_POSES if plan.is_possible else 0):
            raise DataError(f"{path}: line {number} has kind {plan.kind!r} and {len(plan.poses)} poses")
        found.setdefault(plan.token, []).append(plan)
    return found


def instructions_path(root: Path, data_split: str, log_name: str) -> Path:
    return root / "driving_language" / data_split / f"{log_name}.instructions.jsonl"
