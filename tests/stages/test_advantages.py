import torch

from irlvla.stages.advantages import critic_advantages, denoising_discounts, group_advantages


def test_group_advantages_against_hand_numbers() -> None:
    rewards = torch.tensor([[0.2, 0.4, 0.9], [0.0, 0.0, 0.0]])
    # Mean 0.5, deviation sqrt((0.09 + 0.01 + 0.16) / 3) = 0.29439.
    expected = torch.tensor([[-1.01905, -0.33968, 1.35873], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(group_advantages(rewards, std_floor=0.05), expected, atol=1e-4, rtol=0)


def test_a_group_that_hardly_differs_has_small_advantages() -> None:
    rewards = torch.tensor([[0.800, 0.801]])
    assert group_advantages(rewards, std_floor=0.05).abs().max() < 0.011


def test_critic_advantages_against_hand_numbers() -> None:
    rewards, values = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([0.5, 0.0])
    # Surprises 0.5, -0.5, 0.5, 0.5: deviation sqrt(0.25 - 0.0625) = 0.43301.
    expected = torch.tensor([[1.1547, -1.1547], [1.1547, 1.1547]])
    torch.testing.assert_close(critic_advantages(rewards, values, std_floor=0.05), expected, atol=1e-4, rtol=0)


def test_earlier_denoising_steps_get_less_credit() -> None:
    torch.testing.assert_close(denoising_discounts(4, 0.8), torch.tensor([0.512, 0.64, 0.8, 1.0]))
