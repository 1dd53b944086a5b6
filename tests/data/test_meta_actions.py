"""Meta-actions: the words fit the motion; and the answers' sidecar file."""

import math
from pathlib import Path

import numpy as np
import pytest

from irlvla.data.language import (
    PATH_WORDS,
    SPEED_WORDS,
    DrivingAnswer,
    answers_path,
    load_answers,
    meta_action,
    write_answers,
)
from irlvla.data.scenes import human_plan, open_scenes
from irlvla.errors import DataError

TIMES_S = np.arange(1, 9) * 0.5


def straight(speed_mps: float, acceleration_mps2: float = 0.0) -> np.ndarray:
    moving_s = TIMES_S if acceleration_mps2 >= 0 else np.minimum(TIMES_S, speed_mps / -acceleration_mps2)
    x = speed_mps * moving_s + acceleration_mps2 * moving_s**2 / 2
    return np.column_stack([x, 0 * x, 0 * x])


def arc(speed_mps: float, turned_rad: float) -> np.ndarray:
    heading = turned_rad * TIMES_S / 4.0
    radius = speed_mps * 4.0 / turned_rad
    return np.column_stack([radius * np.sin(heading), radius * (1 - np.cos(heading)), heading])


def lane_change(speed_mps: float, aside_m: float) -> np.ndarray:
    share = TIMES_S / 4.0
    y = aside_m * (share - np.sin(2 * math.pi * share) / (2 * math.pi))
    slope = aside_m * (1 - np.cos(2 * math.pi * share)) / 4.0
    return np.column_stack([speed_mps * TIMES_S, y, np.arctan2(slope, speed_mps)])


@pytest.mark.parametrize(
    ("poses", "speed_mps", "words"),
    [
        (straight(0.0), 0.0, ("wait", "straight")),
        (straight(0.0, 1.5), 0.0, ("start", "straight")),
        (straight(8.0, -4.0), 8.0, ("stop", "straight")),
        (straight(10.0, -1.0), 10.0, ("slow down", "straight")),
        (straight(10.0), 10.0, ("keep speed", "straight")),
        (straight(10.0, 1.0), 10.0, ("speed up", "straight")),
        (arc(6.0, math.radians(80)), 6.0, ("keep speed", "turn left")),
        (arc(6.0, math.radians(-80)), 6.0, ("keep speed", "turn right")),
        (arc(10.0, math.radians(20)), 10.0, ("keep speed", "bear left")),
        (arc(10.0, math.radians(-20)), 10.0, ("keep speed", "bear right")),
        (lane_change(12.0, 3.5), 12.0, ("keep speed", "change lane left")),
        (lane_change(12.0, -3.5), 12.0, ("keep speed", "change lane right")),
        (lane_change(12.0, 0.4), 12.0, ("keep speed", "straight")),
    ],
)
def test_words_fit_the_motion(poses: np.ndarray, speed_mps: float, words: tuple[str, str]) -> None:
    assert meta_action(poses, speed_mps) == words


def test_every_golden_human_has_words(golden: Path) -> None:
    paths = set()
    for scene in open_scenes(golden / "alpha", "test", num_future_frames=8)[::3]:
        speed, path = meta_action(human_plan(scene), float(np.hypot(*scene.now.ego_velocity_mps)))
        assert speed in SPEED_WORDS
        assert path in PATH_WORDS
        if "cross_left" in scene.log_name:
            paths.add(path)
    assert "turn left" in paths


def test_answers_survive_writing_and_reading(tmp_path: Path) -> None:
    answer = DrivingAnswer("0123", "What now?", "Slow down: a child – right ahead.", "slow down", "straight", "4567")
    write_answers(tmp_path, "test", "drive", [answer])
    assert load_answers(tmp_path, "test", "drive") == {"0123": answer}
    assert load_answers(tmp_path, "test", "elsewhere") == {}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"token": "a"}',
        '{"token": "a", "answer": "b", "speed_word": "fly", "path_word": "straight"}',
    ],
)
def test_damaged_answers_name_file_and_line(tmp_path: Path, line: str) -> None:
    path = answers_path(tmp_path, "test", "drive")
    path.parent.mkdir(parents=True)
    good = '{"token": "a", "answer": "b", "speed_word": "wait", "path_word": "straight", "extra": 1}'
    path.write_text(good + "\n" + line + "\n")
    with pytest.raises(DataError, match=r"drive\.jsonl: line 2"):
        load_answers(tmp_path, "test", "drive")
