"""Plan files: ours and official submissions."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from irlvla.data.pickles import DevkitObject, devkit_object, write_pickle
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


def trajectory(poses: np.ndarray, interval_s: float) -> DevkitObject:
    sampling = devkit_object(
        "nuplan.planning.simulation.trajectory.trajectory_sampling.TrajectorySampling",
        num_poses=len(poses),
        time_horizon=len(poses) * interval_s,
        interval_length=interval_s,
    )
    return devkit_object("navsim.common.dataclasses.Trajectory", poses=poses, trajectory_sampling=sampling)


def submitted(folder: Path, poses: np.ndarray, interval_s: float) -> Path:
    write_pickle(folder / "submission.pkl", {"predictions": [{"a" * 16: trajectory(poses, interval_s)}]})
    return folder / "submission.pkl"


def curve(times_s: np.ndarray) -> np.ndarray:
    """Poses of a turn to the left at 8 m/s, at times after now."""
    heading = 0.6 * times_s
    return np.stack([8 / 0.6 * np.sin(heading), 8 / 0.6 * (1 - np.cos(heading)), heading], axis=-1)


@pytest.mark.parametrize(("poses", "interval_s", "kept"), [(8, 0.5, 8), (10, 0.5, 8), (40, 0.1, 40), (50, 0.1, 40)])
def test_poses_at_our_steps_are_taken_as_they_are(tmp_path: Path, poses: int, interval_s: float, kept: int) -> None:
    given = curve(interval_s * np.arange(1, poses + 1))
    np.testing.assert_array_equal(load_plans(submitted(tmp_path, given, interval_s)).poses[0], given[:kept])


@pytest.mark.parametrize(("poses", "interval_s"), [(20, 0.2), (4, 1.0), (16, 0.25), (80, 0.05), (30, 0.2)])
def test_poses_at_other_steps_are_joined_by_straight_lines(tmp_path: Path, poses: int, interval_s: float) -> None:
    given = curve(interval_s * np.arange(1, poses + 1))
    read = load_plans(submitted(tmp_path, given, interval_s)).poses[0]
    times_s, knots_s = 0.1 * np.arange(1, 41), interval_s * np.arange(poses + 1)
    knots = np.concatenate([np.zeros((1, 3)), given])
    for column in range(3):
        np.testing.assert_allclose(read[:, column], np.interp(times_s, knots_s, knots[:, column]), atol=1e-12)


@pytest.mark.parametrize(("poses", "interval_s"), [(6, 0.5), (25, 0.1), (15, 0.2)])
def test_a_plan_that_ends_early_stands_still(tmp_path: Path, poses: int, interval_s: float) -> None:
    given = curve(interval_s * np.arange(1, poses + 1))
    read = load_plans(submitted(tmp_path, given, interval_s)).poses[0]
    step_s = 4.0 / len(read)
    standing = np.arange(1, len(read) + 1) * step_s >= poses * interval_s - 1e-9
    np.testing.assert_allclose(read[standing], np.tile(given[-1], (standing.sum(), 1)), atol=1e-12)
    assert not np.allclose(read[~standing][-1], given[-1])


def test_headings_turn_the_short_way_between_poses(tmp_path: Path) -> None:
    given = np.zeros((20, 3))
    given[:, 2] = np.where(np.arange(20) < 10, 3.1, -3.1)
    headings = load_plans(submitted(tmp_path, given, 0.2)).poses[0, 20:, 2]
    assert np.abs(np.cos(headings) + 1).max() < 1e-2


@pytest.mark.parametrize(
    ("poses", "interval_s"),
    [(np.zeros((0, 3)), 0.5), (np.zeros((8, 2)), 0.5), (np.zeros(8), 0.5), (np.zeros((8, 3)), 0.0)],
)
def test_an_impossible_trajectory_is_refused(tmp_path: Path, poses: np.ndarray, interval_s: float) -> None:
    with pytest.raises(DataError, match="aaaaaaaaaaaaaaaa"):
        load_plans(submitted(tmp_path, poses, interval_s))


def test_kinds_of_sampling_may_be_mixed(tmp_path: Path) -> None:
    coarse, fine = curve(0.5 * np.arange(1, 9)), curve(0.1 * np.arange(1, 41))
    trajectories = {"a" * 16: trajectory(coarse, 0.5), "b" * 16: trajectory(fine, 0.1)}
    write_pickle(tmp_path / "submission.pkl", {"predictions": [trajectories]})
    poses = load_plans(tmp_path / "submission.pkl").poses
    assert poses.shape == (2, 40, 3)
    np.testing.assert_array_equal(poses[1], fine)
    np.testing.assert_allclose(poses[0, 4::5], coarse, atol=1e-12)
