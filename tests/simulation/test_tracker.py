"""The tracker: well conditioned, steady, and fair to a plan's speed and bends."""

import json
from pathlib import Path

import numpy as np
import pytest

from irlvla.scoring.reference.tracker import profiles
from irlvla.simulation.reference import reference_poses
from irlvla.simulation.tracker import _SPEED_SMOOTHER, _speed_and_curvature, simulate, speed_fit_matrices

NOW_US = 1_627_000_021_500_004


def ego(speed_mps: float) -> np.ndarray:
    state = np.zeros(11)
    state[:3], state[3] = (664_400.0, 3_996_800.0, 0.4), speed_mps
    return state


def straight(speed_mps: float) -> np.ndarray:
    plan = np.zeros((8, 3))
    plan[:, 0] = speed_mps * 0.5 * np.arange(1, 9)
    return plan


def drive(plan: np.ndarray, state: np.ndarray) -> np.ndarray:
    return simulate(reference_poses(plan[None], state[:3], NOW_US), state)[0]


def test_speed_fit_is_solved_right_where_the_pseudo_inverse_failed(shared_real: Path) -> None:
    folder = shared_real / "lqr_exact_input"
    system = np.load(folder / "canonical_input.npz")
    exact = json.loads((folder / "high_precision_reference.json").read_text(encoding="utf-8"))
    normal, to_rhs = speed_fit_matrices()
    np.testing.assert_allclose(normal, system["normal"], rtol=1e-12, atol=1e-16)
    cos, sin = np.cos(system["heading_prof"][0]), np.sin(system["heading_prof"][0])
    along = cos * system["xy_disp"][0, :, 0] + sin * system["xy_disp"][0, :, 1]
    np.testing.assert_allclose(to_rhs @ along, system["rhs"], rtol=1e-12)
    solution = np.array([float(digits) for digits in exact["vector_200dps_decimal"]])
    speeds = solution[0] + np.concatenate([[0.0], np.cumsum(solution[1:] * 0.1)])
    np.testing.assert_allclose(_SPEED_SMOOTHER @ along, speeds, rtol=1e-12)


@pytest.mark.parametrize("speed_mps", [0.0, 0.001, 0.05, 3.0, 20.0])
def test_chain_elimination_finds_the_dense_solution(speed_mps: float) -> None:
    rng = np.random.default_rng(4)
    heading = np.cumsum(rng.normal(0.0, 0.02, size=41))
    step = speed_mps * 0.1 * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    reference = np.concatenate([np.cumsum(step, axis=0), heading[:, None]], axis=1)
    speed, curvature = _speed_and_curvature(reference, _SPEED_SMOOTHER)
    dense_speed, dense_curvature = profiles(reference)
    np.testing.assert_allclose(speed, dense_speed, rtol=0, atol=1e-11)
    np.testing.assert_allclose(curvature, dense_curvature, rtol=1e-6, atol=1e-9)


def test_a_steady_plan_is_driven_steadily() -> None:
    rollout = drive(straight(10.0), ego(10.0))
    np.testing.assert_allclose(rollout[:, 3], 10.0, atol=1e-3)
    np.testing.assert_allclose(rollout[-1, :2], [664_400 + 40 * np.cos(0.4), 3_996_800 + 40 * np.sin(0.4)], atol=0.02)


def test_a_plan_to_stay_brings_the_car_to_a_halt_short_of_reversing() -> None:
    rollout = drive(np.zeros((8, 3)), ego(3.0))
    assert abs(rollout[-1, 3]) < 0.2
    assert rollout[:, 3].min() > -0.5


def test_a_left_bend_turns_left() -> None:
    angle = 0.1 * np.arange(1, 9)
    bend = np.stack([50 * np.sin(angle), 50 * (1 - np.cos(angle)), angle], axis=-1)
    rollout = drive(bend, ego(10.0))
    assert rollout[-1, 2] == pytest.approx(0.4 + 0.8, abs=0.05)
    assert (rollout[5:, 9] > 0).all()


def test_the_first_state_is_the_ego_state_itself() -> None:
    np.testing.assert_array_equal(drive(straight(5.0), ego(7.0))[0], ego(7.0))


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="41"):
        simulate(np.zeros((2, 40, 3)), ego(1.0))
