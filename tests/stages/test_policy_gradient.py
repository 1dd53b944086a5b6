import math

import pytest
import torch

from irlvla.stages.policy_gradient import clip_ranges, clipped_surrogate, kl_to_reference, reinforce


def test_clip_ranges_open_towards_the_last_step() -> None:
    ranges = clip_ranges(5, noisy=0.001, final=0.01)
    assert torch.all(ranges.diff() > 0)
    # Half way: 0.001 + 0.009 * (e^1.5 - 1) / (e^3 - 1).
    assert float(ranges[2]) == pytest.approx(0.001 + 0.009 * math.expm1(1.5) / math.expm1(3.0))
    assert clip_ranges(1, 0.001, 0.01).tolist() == pytest.approx([0.01])


def test_surrogate_against_hand_numbers() -> None:
    old = torch.zeros(2, 1, 2)
    new = torch.tensor([[[math.log(1.5), math.log(0.5)]], [[math.log(1.05), 0.0]]])
    advantages = torch.tensor([[[1.0, 1.0]], [[-1.0, 2.0]]])
    result = clipped_surrogate(new, old, advantages, torch.tensor([0.1, 0.2]))
    # min(1.5, 1.1), min(0.5, 0.9), min(-1.05, -1.05), 2 -> mean of 1.1, 0.5, -1.05, 2.
    assert float(result.loss) == pytest.approx(-(1.1 + 0.5 - 1.05 + 2.0) / 4)
    assert result.clip_fraction == pytest.approx(0.5)
    assert result.ratio_mean == pytest.approx((1.5 + 0.5 + 1.05 + 1.0) / 4)


def test_a_move_already_beyond_the_clip_range_gets_no_gradient() -> None:
    new = torch.tensor([[[0.5, 0.0]]], requires_grad=True)
    clipped_surrogate(new, torch.zeros(1, 1, 2), torch.ones(1, 1, 2), torch.tensor([0.1])).loss.backward()
    assert new.grad is not None
    assert new.grad[0, 0, 0] == 0
    assert new.grad[0, 0, 1] < 0


def test_an_outlier_ratio_stays_finite() -> None:
    result = clipped_surrogate(
        torch.full((1, 1, 1), 1e4), torch.zeros(1, 1, 1), -torch.ones(1, 1, 1), torch.tensor([0.1])
    )
    assert torch.isfinite(result.loss)


def test_kl_estimates_vanish_for_equal_policies_and_are_positive_otherwise() -> None:
    log_probs = torch.randn(3, 2, 4)
    assert float(kl_to_reference(log_probs, log_probs)) == 0
    assert float(kl_to_reference(log_probs, log_probs + 0.1)) > 0
    assert clipped_surrogate(log_probs, log_probs - 0.1, log_probs, torch.full((3,), 0.1)).kl > 0


def test_reinforce_raises_the_likelihood_of_better_plans() -> None:
    log_probs = torch.zeros(1, 1, 2, requires_grad=True)
    reinforce(log_probs, torch.tensor([[[1.0, -1.0]]])).backward()
    assert log_probs.grad is not None
    assert log_probs.grad[0, 0, 0] < 0 < log_probs.grad[0, 0, 1]
