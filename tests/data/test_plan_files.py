"""Plan files: ours and official submissions."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from irlvla.data.plans import PlanTable, load_plans, load_submission, write_plans, write_submission
from irlvla.errors import DataError

IDENTITY = {
    "team_name": "team",
    "authors": ["someone"],
    "email": "someone@example.org",
    "institution": "somewhere",
    "country": "nowhere",
}


@pytest.mark.parametrize("count", [8, 40])
def test_plans_survive_writing_and_reading(tmp_path: Path, count: int) -> None:
    poses = np.random.default_rng(0).normal(size=(3, count, 3))
    write_plans(tmp_path / "plans.npz", ["a", "b", "a"], poses, ["x", "x", "y"])
    plans = load_plans(tmp_path / "plans.npz")
    assert plans.tokens == ("a", "b", "a")
    assert plans.names == ("x", "x", "y")
    np.testing.assert_array_equal(plans.poses, poses)


def test_golden_plans_read(golden: Path) -> None:
    for name in ("plans.npz", "plans_10hz.npz", "plans_reactive.npz"):
        plans = load_plans(golden / "alpha" / name)
        assert plans.valid.all()
        assert len(plans) == len(plans.names) == len(plans.poses)


def test_plan_with_nan_is_kept_and_marked(tmp_path: Path) -> None:
    poses = np.zeros((2, 8, 3))
    poses[1, 7, 2] = np.nan
    write_plans(tmp_path / "plans.npz", ["a", "b"], poses)
    assert load_plans(tmp_path / "plans.npz").valid.tolist() == [True, False]


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"token": np.array(["a"])}, "'poses' is missing"),
        ({"token": np.array(["a"]), "poses": np.zeros((1, 9, 3))}, r"shape \(1, 9, 3\)"),
        ({"token": np.array(["a", "b"]), "poses": np.zeros((1, 8, 3))}, "for 2 tokens"),
        ({"token": np.array([1]), "poses": np.zeros((1, 8, 3))}, "must be text"),
        ({"token": np.array(["a"], dtype=object), "poses": np.zeros((1, 8, 3))}, "Object arrays"),
        ({"token": np.array(["a"]), "poses": np.full((1, 8, 3), "x")}, "expected numbers"),
        ({"token": np.array(["a"]), "poses": np.zeros((1, 8, 3)), "name": np.array(["x", "y"])}, "must be text"),
    ],
)
def test_malformed_plans_are_an_error_that_says_why(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str) -> None:
    np.savez(tmp_path / "plans.npz", **arrays)
    with pytest.raises(DataError, match=reason):
        load_plans(tmp_path / "plans.npz")


def test_truncated_and_missing_plans_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "plans.npz"
    write_plans(path, ["a"] * 50, np.random.default_rng(0).normal(size=(50, 8, 3)))
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"plans\.npz"):
            load_plans(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_plans(tmp_path / "nowhere.npz")


def test_two_stage_submission_survives_writing_and_reading(tmp_path: Path) -> None:
    poses = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32).astype(np.float64)
    first = PlanTable(("a" * 16, "b" * 16), ("ours", "ours"), poses)
    second = PlanTable(("c" * 17, "d" * 17), ("ours", "ours"), -poses)
    write_submission(tmp_path / "submission.pkl", first, second, **IDENTITY)
    plans = load_plans(tmp_path / "submission.pkl")
    assert plans.tokens == first.tokens + second.tokens
    np.testing.assert_array_equal(plans.poses, np.concatenate([poses, -poses]))
    assert b"navsim.common.dataclasses" in (tmp_path / "submission.pkl").read_bytes()


def test_something_else_than_a_submission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "submission.pkl"
    for content, reason in (
        ([1, 2], "not a submission"),
        ({"predictions": []}, "no trajectory"),
        ({"predictions": [{"a": np.zeros((8, 3))}]}, "not a Trajectory"),
        ({"predictions": {"a": 1}}, "not a list"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=reason):
            load_submission(path)
