"""Policy-gradient losses on the moves of the denoising chain: PPO's clipped surrogate, its KL estimates, REINFORCE.

Legend: K denoising steps trained on, S scenes, G plans of one scene. Log-probabilities are averaged over a plan's
coefficients, so a ratio says how much likelier one coefficient of the move has become.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_LOG_RATIO = 20.0


@dataclass(frozen=True)
class SurrogateLoss:
    """A clipped surrogate and what it tells about the step."""

    loss: Tensor
    """Scalar to minimise."""
    ratio_mean: float
    clip_fraction: float
    """Share of moves whose ratio lay outside the clip range, in [0, 1]."""
    kl: float
    """Estimate of KL(old policy, new policy), never negative."""


def clip_ranges(steps: int, noisy: float, final: float, rate: float = 3.0) -> Tensor:
    """Clip range of each denoising step: tight where one move decides the plan's outline, wider at its last touches.

    Args:
        steps: K, in the order the steps are taken.
        noisy: Range at the first, noisiest step.
        final: Range at the last step.
        rate: How late the range opens.
    Returns:
        [K].
    Source: DPPO (arXiv 2409.00588) appendix, `clip_ploss_coef_base` to `clip_ploss_coef`.
    Example:
        >>> clip_ranges(3, 0.001, 0.01)[[0, 2]]
        tensor([0.0010, 0.0100])
    """
    if steps == 1:
        return torch.tensor([final])
    share = torch.linspace(0, 1, steps)
    return noisy + (final - noisy) * torch.expm1(rate * share) / torch.expm1(torch.tensor(rate))


def clipped_surrogate(
    log_probs_KSG: Tensor, old_log_probs_KSG: Tensor, advantages_KSG: Tensor, clip_range_K: Tensor
) -> SurrogateLoss:
    """PPO's loss on stored moves.

    Args:
        log_probs_KSG: [K, S, G] of the stored moves under the present weights, with gradient.
        old_log_probs_KSG: [K, S, G] of the same moves as recorded when they were made.
        advantages_KSG: [K, S, G].
        clip_range_K: [K] how far each step's ratio may move from 1.
    Source: Schulman et al. 2017 (arXiv 1707.06347) Eq. 7; KL estimate k3 of Schulman 2020.
    """
    # Clip before exp: one outlier ratio would become inf.
    log_ratio = (log_probs_KSG - old_log_probs_KSG).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    ratio = log_ratio.exp()
    reach = clip_range_K[:, None, None]
    clipped = ratio.clamp(1 - reach, 1 + reach)
    loss = -torch.minimum(ratio * advantages_KSG, clipped * advantages_KSG).mean()
    with torch.no_grad():
        return SurrogateLoss(
            loss,
            ratio_mean=float(ratio.mean()),
            clip_fraction=float(((ratio - 1).abs() > reach).float().mean()),
            kl=float((ratio - 1 - log_ratio).mean()),
        )


def reinforce(log_probs_KSG: Tensor, advantages_KSG: Tensor) -> Tensor:
    """Plain policy gradient: no ratio, no clipping, good for one pass over the plans.

    Source: Williams 1992.
    """
    return -(log_probs_KSG * advantages_KSG).mean()


def kl_to_reference(log_probs_KSG: Tensor, reference_log_probs_KSG: Tensor) -> Tensor:
    """Penalty on leaving a reference policy, from moves sampled by the present one; never negative.

    Source: DeepSeekMath (arXiv 2402.03300) Eq. 4.
    """
    log_ratio = (reference_log_probs_KSG - log_probs_KSG).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    return (log_ratio.exp() - 1 - log_ratio).mean()
