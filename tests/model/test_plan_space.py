import numpy as np
import pytest
import torch

from irlvla.model.plan_space import SCALE_FLOOR_M, PlanSpace
from irlvla.types import Array


@pytest.fixture(scope="module")
def space(golden_plans: Array) -> PlanSpace:
    return PlanSpace.fit(golden_plans)


def test_human_plans_survive_the_round_trip_within_a_centimetre(space: PlanSpace, golden_plans: Array) -> None:
    back = space.decode_array(space.encode_array(golden_plans))
    assert np.abs(back[..., :2] - golden_plans[..., :2]).max() < 0.01
    turned = back[..., 2] - golden_plans[..., 2]
    assert np.abs(np.arctan2(np.sin(turned), np.cos(turned))).max() < 0.01


def test_sixteen_coefficients_keep_human_plans_within_ten_centimetres(golden_plans: Array) -> None:
    space = PlanSpace.fit(golden_plans, 16)
    back = space.decode_array(space.encode_array(golden_plans))
    assert space.encode_array(golden_plans).shape == (len(golden_plans), 16)
    assert np.abs(back[..., :2] - golden_plans[..., :2]).max() < 0.1


def test_human_coefficients_are_centred_uncorrelated_and_at_most_unit_wide(
    space: PlanSpace, golden_plans: Array
) -> None:
    coefficients = space.encode_array(golden_plans)
    spread = np.cov(coefficients.T)
    assert np.abs(coefficients.mean(0)).max() < 1e-3
    assert np.abs(spread - np.diag(np.diag(spread))).max() < 1e-2
    assert np.diag(spread).max() < 1.01


def test_unit_noise_moves_stiff_directions_by_no_more_than_the_floor(space: PlanSpace, golden_plans: Array) -> None:
    stiff = np.flatnonzero(np.isclose(space.scale.numpy(), SCALE_FLOOR_M))
    assert len(stiff) > 0
    unit = np.zeros((len(stiff), space.coefficients))
    unit[np.arange(len(stiff)), stiff] = 1.0
    moved = space.decode_array(unit) - space.decode_array(np.zeros((1, space.coefficients)))
    assert np.abs(moved[..., :2]).max() <= SCALE_FLOOR_M + 1e-6


def test_noise_in_plan_space_is_smoother_than_equal_noise_per_waypoint(space: PlanSpace) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(500, space.coefficients, generator=generator)
    plans = space.decode(noise) - space.decode(torch.zeros(space.coefficients))
    white = torch.randn(plans.shape, generator=generator) * plans.std((0, 1))
    jolt = plans[..., :2].diff(n=2, dim=1).norm(dim=-1).mean()
    assert jolt < 0.2 * white[..., :2].diff(n=2, dim=1).norm(dim=-1).mean()


def test_heading_that_wraps_during_a_turn_is_unwrapped(space: PlanSpace) -> None:
    turn = np.zeros((8, 3))
    turn[:, 2] = np.linspace(0.5, 4.0, 8)
    wrapped = turn.copy()
    wrapped[:, 2] = np.arctan2(np.sin(turn[:, 2]), np.cos(turn[:, 2]))
    np.testing.assert_allclose(space.encode_array(wrapped), space.encode_array(turn), atol=1e-4)


def test_equal_plans_give_an_equal_space(golden_plans: Array, space: PlanSpace) -> None:
    again = PlanSpace.fit(golden_plans.copy())
    for name, value in space.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_fit_works_on_fewer_plans_than_coefficients(golden_plans: Array) -> None:
    few = golden_plans[:3]
    space = PlanSpace.fit(few)
    np.testing.assert_allclose(space.decode_array(space.encode_array(few))[..., :2], few[..., :2], atol=0.01)
