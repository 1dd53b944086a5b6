"""Submissions written by the official devkit are read and scored as it scores them, and our CSV looks like its own."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from irlvla.data.plans import load_plans, write_plans
from irlvla.data.scenes import constant_velocity_plan, open_scenes
from irlvla.scoring.table import score_plans_file

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def submissions(golden: Path) -> Path:
    return golden / "submissions"


def read(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def differences(ours: Rows, theirs: Rows) -> Iterator[tuple[str, str, str, str]]:
    """(token, column, our cell, their cell) where the cells do not agree within a millionth."""
    for mine, official in zip(ours, theirs, strict=True):
        for column, cell in official.items():
            same = mine[column] == cell
            if not same and column not in ("", "token", "valid") and mine[column] and cell:
                same = abs(float(mine[column]) - float(cell)) < 1e-6
            if not same:
                yield official["token"], column, mine[column], cell


@pytest.mark.parametrize(
    ("name", "plans", "poses"), [("two_stage", 16, 8), ("two_stage_5hz_3s", 16, 40), ("version_1", 5, 8)]
)
def test_a_submission_is_read(name: str, plans: int, poses: int, submissions: Path) -> None:
    table = load_plans(submissions / f"{name}.pkl")
    assert table.poses.shape == (plans, poses, 3)
    assert set(table.names) == {"submission"}
    assert table.valid.all()
    speed_mps = table.poses[:, 0, 0] / (4.0 / poses)
    assert (speed_mps >= 0).all()
    assert speed_mps.max() > 5.0
    # A plan of three seconds stands still where it ends.
    expected_m = speed_mps[:, None] * np.minimum(np.arange(1, poses + 1) * 4.0 / poses, 3.0 if "3s" in name else 4.0)
    np.testing.assert_allclose(table.poses[:, :, 0], expected_m, rtol=1e-6)


@pytest.mark.parametrize("name", ["two_stage", "two_stage_5hz_3s"])
def test_a_two_stage_result_file_agrees_cell_by_cell(
    name: str, golden: Path, submissions: Path, tmp_path: Path
) -> None:
    mapping, out = golden / "beta" / "two_stage" / "train_test_split.yaml", tmp_path / "scores.csv"
    score_plans_file(golden / "beta", "test", submissions / f"{name}.pkl", out, mapping=mapping)
    ours, theirs = read(out), read(submissions / f"{name}_official.csv")
    assert list(ours[0])[: len(theirs[0])] == list(theirs[0])
    assert list(differences(ours, theirs)) == []


def test_a_one_stage_result_file_agrees_cell_by_cell(golden: Path, submissions: Path, tmp_path: Path) -> None:
    theirs, out = read(submissions / "one_stage_official.csv"), tmp_path / "scores.csv"
    scenes = open_scenes(golden / "beta", "test", num_future_frames=8)
    tokens = [row["token"] for row in theirs[:-1]]
    write_plans(
        tmp_path / "plans.npz", tokens, np.stack([constant_velocity_plan(scenes.by_token(token)) for token in tokens])
    )
    score_plans_file(golden / "beta", "test", tmp_path / "plans.npz", out)
    ours = read(out)
    assert list(ours[0])[: len(theirs[0])] == list(theirs[0])
    assert list(differences(ours, theirs)) == []
    assert any(not row["two_frame_extended_comfort"] for row in ours)
