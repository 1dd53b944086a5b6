"""Diffusion mathematics as pure functions: noise levels, the DDIM step, and log-probabilities of its moves.

Levels run from 0 (clean) to L (noise only); `alpha_bar` is the share of signal variance left at a level.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_COSINE_OFFSET = 0.008


def alpha_bar_cosine(levels: int) -> Tensor:
    """Share of signal variance [levels + 1] at each noise level, falling from 1 to nearly 0.

    Source: Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", eq. 17.
    Differs: the last level keeps 1e-4 of signal, so that no division by zero arises.
    """
    share = torch.arange(levels + 1, dtype=torch.float64) / levels
    curve = torch.cos((share + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2) ** 2
    return (curve / curve[0]).clamp(min=1e-4).float()


def denoising_levels(levels: int, steps: int) -> list[int]:
    """Noise levels visited by a chain of `steps` moves: steps + 1 levels, evenly spaced, from `levels` down to 0."""
    return [round(levels * (steps - step) / steps) for step in range(steps + 1)]


def add_noise(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Noised sample of the forward process, q(x_t | x_0); `alpha_bar` broadcasts against `clean`."""
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise


def ddim_move(
    noisy: Tensor, clean_estimate: Tensor, alpha_bar_now: Tensor, alpha_bar_next: Tensor, eta: float
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of one denoising move.

    Args:
        noisy: x_t, any shape.
        clean_estimate: the network's x_0, same shape.
        alpha_bar_now: at the level of `noisy`; broadcasts.
        alpha_bar_next: at the level moved to (less noisy); broadcasts.
        eta: 0 moves deterministically, 1 has the variance of the DDPM posterior.
    Returns:
        mean like `noisy`, std like the alpha bars.
    Source: Song et al. 2021, "Denoising Diffusion Implicit Models", eq. 12 and 16.
    """
    variance = (1 - alpha_bar_next) / (1 - alpha_bar_now) * (1 - alpha_bar_now / alpha_bar_next)
    std = eta * variance.clamp(min=0).sqrt()
    noise_estimate = (noisy - alpha_bar_now.sqrt() * clean_estimate) / (1 - alpha_bar_now).sqrt()
    direction = (1 - alpha_bar_next - std**2).clamp(min=0).sqrt()
    return alpha_bar_next.sqrt() * clean_estimate + direction * noise_estimate, std


def gaussian_log_prob(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-density of independent Gaussians, averaged over the last axis.

    Averaged, not summed, so that PPO's ratio does not explode with the number of plan coefficients (DPPO does so).

    Args:
        value, mean: [..., C].
        std: broadcastable to [..., C], positive.
    Returns:
        [...]
    """
    log_density = -0.5 * ((value - mean) / std) ** 2 - torch.log(std) - 0.5 * math.log(2 * math.pi)
    return log_density.mean(-1)


def chain_alpha_bars(alpha_bar: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Alpha bars before and after each move of a chain that visits `levels`: two tensors [steps]."""
    visited = alpha_bar[torch.tensor(levels, device=alpha_bar.device)]
    return visited[:-1], visited[1:]
