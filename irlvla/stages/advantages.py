"""Advantages: how much better a plan did than expected, and which denoising step gets how much of the credit.

Legend: S scenes, G plans of one scene, K denoising steps in the order they are taken (the last gives the final plan).
"""

import torch
from torch import Tensor


def group_advantages(rewards_SG: Tensor, std_floor: float) -> Tensor:
    """Reward of each plan relative to the other plans of its scene.

    Args:
        rewards_SG: [S, G] terminal rewards.
        std_floor: Smallest standard deviation divided by: a group whose plans all do alike has next to no advantage,
            rather than noise blown up to unit size.
    Returns:
        [S, G], zero mean in each group.
    Source: DeepSeekMath (arXiv 2402.03300) Eq. 3 without its division by an unbounded small deviation.
    Example:
        >>> group_advantages(torch.tensor([[0.0, 1.0], [0.5, 0.5]]), std_floor=0.1)
        tensor([[-1.,  1.],
                [ 0.,  0.]])
    """
    centered = rewards_SG - rewards_SG.mean(dim=1, keepdim=True)
    return centered / rewards_SG.std(dim=1, keepdim=True, correction=0).clamp(min=std_floor)


def denoising_discounts(steps: int, discount: float) -> Tensor:
    """Credit of each denoising step for the final plan: the last step gets 1, each earlier one `discount` times less.

    Returns:
        [K].
    Source: DPPO (arXiv 2409.00588) §4, denoising discount.
    Example:
        >>> denoising_discounts(3, 0.5)
        tensor([0.2500, 0.5000, 1.0000])
    """
    return discount ** torch.arange(steps - 1, -1, -1, dtype=torch.float32)


def critic_advantages(rewards_SG: Tensor, values_S: Tensor, std_floor: float) -> Tensor:
    """Reward of each plan relative to what the critic expected of its scene, scaled over the whole batch.

    A plan is one decision, so the return is its terminal reward and generalised advantage estimation reduces to
    reward minus value.

    Args:
        rewards_SG: [S, G] terminal rewards.
        values_S: [S] critic's value of each scene, without gradient.
        std_floor: Smallest standard deviation divided by.
    Returns:
        [S, G].
    Example:
        >>> critic_advantages(torch.tensor([[0.0, 1.0]]), torch.tensor([0.5]), std_floor=0.1)
        tensor([[-1.,  1.]])
    """
    surprise = rewards_SG - values_S[:, None]
    return surprise / surprise.std(correction=0).clamp(min=std_floor)
