"""Diffusion mathematics against closed forms."""

from itertools import pairwise

import pytest
import torch

from irlvla.model.diffusion import (
    add_noise,
    alpha_bar_cosine,
    chain_alpha_bars,
    ddim_move,
    denoising_levels,
    gaussian_log_prob,
)


def test_signal_share_falls_from_all_to_almost_nothing() -> None:
    alpha_bar = alpha_bar_cosine(100)
    assert alpha_bar[0] == 1
    assert (alpha_bar.diff() <= 0).all()
    assert 0 < alpha_bar[-1] < 1e-3


@pytest.mark.parametrize("steps", [1, 3, 8, 100])
def test_chain_visits_levels_from_noise_to_clean(steps: int) -> None:
    levels = denoising_levels(100, steps)
    assert levels[0] == 100
    assert levels[-1] == 0
    assert len(levels) == steps + 1
    assert all(now > after for now, after in pairwise(levels))


def test_full_eta_has_the_mean_and_variance_of_the_ddpm_posterior() -> None:
    alpha_bar = alpha_bar_cosine(100).double()
    noisy, clean = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for now, after in [(100, 87), (50, 49), (13, 12)]:
        a_now, a_after = alpha_bar[now], alpha_bar[after]
        mean, std = ddim_move(noisy, clean, a_now, a_after, eta=1.0)
        # Ho et al. 2020, "Denoising Diffusion Probabilistic Models", eq. 7, for one move over several levels.
        alpha = a_now / a_after
        beta = 1 - alpha
        expected = (a_after.sqrt() * beta * clean + alpha.sqrt() * (1 - a_after) * noisy) / (1 - a_now)
        torch.testing.assert_close(mean, expected)
        torch.testing.assert_close(std**2, (1 - a_after) / (1 - a_now) * beta)


def test_deterministic_move_with_the_true_clean_plan_stays_on_the_noising_line() -> None:
    alpha_bar = alpha_bar_cosine(100).double()
    noise, clean = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    moved, std = ddim_move(add_noise(clean, noise, alpha_bar[80]), clean, alpha_bar[80], alpha_bar[30], eta=0.0)
    assert std == 0
    torch.testing.assert_close(moved, add_noise(clean, noise, alpha_bar[30]))


def test_last_move_lands_on_the_clean_estimate() -> None:
    alpha_bar = alpha_bar_cosine(100)
    noisy, clean = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2))
    mean, std = ddim_move(noisy, clean, alpha_bar[12], alpha_bar[0], eta=1.0)
    torch.testing.assert_close(mean, clean)
    assert std == 0


def test_log_prob_is_the_mean_of_normal_log_densities() -> None:
    value, mean = torch.randn(2, 6, 24, generator=torch.Generator().manual_seed(3))
    std = torch.tensor(0.3)
    expected = torch.distributions.Normal(mean, std).log_prob(value).mean(-1)
    torch.testing.assert_close(gaussian_log_prob(value, mean, std), expected)


def test_chain_pairs_alpha_bars_before_and_after_each_move() -> None:
    alpha_bar = alpha_bar_cosine(10)
    now, after = chain_alpha_bars(alpha_bar, [10, 5, 0])
    torch.testing.assert_close(now, alpha_bar[[10, 5]])
    torch.testing.assert_close(after, alpha_bar[[5, 0]])
