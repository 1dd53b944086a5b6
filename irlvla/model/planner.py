"""The unified diffusion policy: noised plans go through the chain of attentions and come out denoised.

Shape letters: B scenes, G candidate plans of a scene, K denoising moves, S some of them, C plan coefficients, D width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from irlvla.model.attention import LayerMemory, SceneAttention, sample_bev
from irlvla.model.config import ModelConfig
from irlvla.model.diffusion import (
    add_noise,
    alpha_bar_cosine,
    chain_alpha_bars,
    ddim_move,
    denoising_levels,
    gaussian_log_prob,
)
from irlvla.model.plan_space import HEADING_ARM_M, PlanSpace
from irlvla.model.tokens import SceneTokens
from irlvla.types import PLAN_POSES

CLEAN_LIMIT = 8.0
"""Clean estimates are held within this many standard deviations of human plans."""


@dataclass(frozen=True)
class Chain:
    """One run of the denoising chain, with all that PPO must remember of it."""

    latents: Tensor
    """[K+1, B, G, C] plan coefficients, from the noisiest to the finished plan."""
    means: Tensor
    """[K, B, G, C] mean of each move."""
    stds: Tensor
    """[K] standard deviation with which each move was sampled (after the floor)."""
    log_probs: Tensor
    """[K, B, G] of each move, averaged over coefficients, under the likelihood floor; 0 for moves without noise."""
    poses: Tensor
    """[B, G, 8, 3] the finished plans (ego frame, m, rad)."""


@dataclass(frozen=True)
class PlannerMemory:
    """One look at the scenes, reused by every candidate and every denoising move."""

    layers: tuple[LayerMemory, ...]
    bev_map: Tensor
    command: Tensor


class DiffusionPlanner(nn.Module):
    """Denoises plans in plan space, conditioned on scene tokens; predicts the clean plan."""

    def __init__(self, config: ModelConfig, plan_space: PlanSpace) -> None:
        super().__init__()
        self.config = config
        self.plan_space = plan_space
        width = config.d_model
        self.embed_latent = nn.Linear(config.plan_coefficients, width)
        self.embed_bev = nn.Linear(PLAN_POSES * config.bev_channels, width)
        self.embed_level = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = SceneAttention(width, config.n_heads, config.dropout, config.planner_layers)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.plan_coefficients)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.alpha_bar: Tensor
        self.register_buffer("alpha_bar", alpha_bar_cosine(config.diffusion_levels), persistent=False)

    def read(self, tokens: SceneTokens) -> PlannerMemory:
        """Keys and values of the scenes, for any number of candidates and moves."""
        return PlannerMemory(self.layers.read(tokens), tokens.bev_map, tokens.command)

    def forward(self, noisy_BGC: Tensor, level_BG: Tensor, memory: PlannerMemory) -> Tensor:
        """Clean coefficients [B, G, C] estimated from noisy ones.

        Args:
            noisy_BGC: coefficients at their noise level.
            level_BG: [B, G] or [1, 1] noise levels, integers in 1..diffusion_levels.
            memory: from `read`.
        """
        # The BEV is sampled where the plan would lie if its noise were only a scaling.
        alpha_bar = self.alpha_bar[level_BG][..., None]
        waypoints = self.plan_space.decode((alpha_bar.sqrt() * noisy_BGC).clamp(-CLEAN_LIMIT, CLEAN_LIMIT))[..., :2]
        seen = sample_bev(memory.bev_map, waypoints.flatten(1, 2), self.config)
        seen = seen.unflatten(1, (-1, PLAN_POSES)).flatten(2)
        # Speed and command go into the query too: as modulation alone they left the first waypoint 3 times as far off.
        queries = self.embed_latent(noisy_BGC) + self.embed_bev(seen) + memory.command[:, None]
        condition = self.embed_level(self._level_waves(level_BG)) + memory.command[:, None]
        queries = self.layers(queries, memory.layers, condition)
        # Velocity parameterisation (Salimans & Ho 2022, appendix D): well scaled at every noise level.
        velocity = self.head(self.norm(queries))
        clean = alpha_bar.sqrt() * noisy_BGC - (1 - alpha_bar).sqrt() * velocity
        return clean.clamp(-CLEAN_LIMIT, CLEAN_LIMIT)

    def sample_chain(
        self,
        tokens: SceneTokens,
        candidates: int,
        *,
        eta: float = 1.0,
        generator: torch.Generator | None = None,
        min_std: float = 0.0,
        min_likelihood_std: float = 0.0,
        initial_std: float = 1.0,
        noise_limit: float = 3.0,
        steps: int | None = None,
    ) -> Chain:
        """Denoise `candidates` plans per scene, remembering each move; without gradient.

        Args:
            tokens: of B scenes.
            candidates: G, plans per scene.
            eta: 0 for deterministic moves, 1 for the variance of the DDPM posterior.
            generator: source of all randomness, on the tokens' device.
            min_std: floor of the sampling noise per move, in plan-space units; keeps the last moves exploring.
            min_likelihood_std: floor of the standard deviation in the log-probabilities; keeps PPO's ratios tame.
            initial_std: of the starting noise; 0 starts at the mean human plan.
            noise_limit: noise beyond this many standard deviations is cut off.
            steps: denoising moves, if other than the configuration's.
        Source: Ren et al. 2024, "Diffusion Policy Policy Optimization", for the two floors and the cut-off.
        """
        levels = denoising_levels(self.config.diffusion_levels, steps or self.config.denoising_steps)
        now, after = chain_alpha_bars(self.alpha_bar, levels)
        shape = (len(tokens), candidates, self.config.plan_coefficients)

        def noise() -> Tensor:
            # Drawn on the generator's device, so that a CPU seed gives the same plans on every device.
            device = generator.device if generator is not None else now.device
            return torch.randn(shape, generator=generator, device=device).to(now.device)

        with torch.no_grad():
            memory = self.read(tokens)
            latent = initial_std * noise() if initial_std else now.new_zeros(shape)
            latents, means, stds, log_probs = [latent], [], [], []
            for step, level in enumerate(levels[:-1]):
                clean = self(latent, torch.tensor([[level]], device=now.device), memory)
                mean, std = ddim_move(latent, clean, now[step], after[step], eta)
                std = std.clamp(min=min_std)
                latent = mean
                if std > 0:
                    latent = mean + std * noise().clamp(-noise_limit, noise_limit)
                likelihood_std = std.clamp(min=min_likelihood_std)
                log_probs.append(
                    gaussian_log_prob(latent, mean, likelihood_std) if std > 0 else now.new_zeros(shape[:2])
                )
                latents.append(latent)
                means.append(mean)
                stds.append(std)
            poses = self.plan_space.decode(latent)
        return Chain(torch.stack(latents), torch.stack(means), torch.stack(stds), torch.stack(log_probs), poses)

    def log_prob(
        self,
        tokens: SceneTokens,
        latents: Tensor,
        chain_steps: Sequence[int],
        *,
        eta: float = 1.0,
        min_std: float = 0.0,
        min_likelihood_std: float = 0.0,
    ) -> Tensor:
        """Log-probabilities, with gradient, of moves made earlier by `sample_chain`, under the present weights.

        Args:
            tokens: of the same B scenes.
            latents: [K+1, B, G, C] as `Chain.latents`.
            chain_steps: S moves in 0..K-1; 0 is the noisiest.
            eta, min_std, min_likelihood_std: as they were when sampling.
        Returns:
            [S, B, G] averaged over coefficients.
        Raises:
            ValueError: a move has no noise and no floor gives it any.
        """
        floor = max(min_std, min_likelihood_std)
        if floor == 0 and (eta == 0 or len(latents) - 2 in chain_steps):
            raise ValueError("moves without noise have no probability; raise eta, min_std or min_likelihood_std")
        levels = denoising_levels(self.config.diffusion_levels, len(latents) - 1)
        now, after = chain_alpha_bars(self.alpha_bar, levels)
        moves = torch.tensor(list(chain_steps), device=latents.device)
        scenes, candidates = latents.shape[1:3]
        noisy_SBGC, reached_SBGC = latents[moves], latents[moves + 1]
        level_BQ = torch.tensor(levels, device=latents.device)[moves].repeat_interleave(candidates)[None]
        noisy_BQC = noisy_SBGC.permute(1, 0, 2, 3).flatten(1, 2)
        clean_BQC = self(noisy_BQC, level_BQ.expand(scenes, -1), self.read(tokens))
        clean_SBGC = clean_BQC.unflatten(1, (len(moves), candidates)).permute(1, 0, 2, 3)
        mean, std = ddim_move(
            noisy_SBGC, clean_SBGC, now[moves][:, None, None, None], after[moves][:, None, None, None], eta
        )
        return gaussian_log_prob(reached_SBGC, mean, std.clamp(min=floor))

    def denoising_loss(
        self, tokens: SceneTokens, plans: Tensor, *, draws: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """How badly plans to imitate are recovered from noise; imitation's loss and PPO's behaviour-cloning term.

        The first draw starts where deterministic planning starts (all noise levels up, zero noise); the others take
        random levels.

        Args:
            tokens: of B scenes.
            plans: [B, 8, 3] ego frame.
            draws: noise levels per scene.
            generator: on the tokens' device.
        Returns:
            mean squared error of coefficients; Huber loss of waypoints in metres. Both scalars.
        """
        clean_B1C = self.plan_space.encode(plans)[:, None]
        shape = (len(plans), draws, self.config.plan_coefficients)
        device = plans.device
        source = generator.device if generator is not None else device
        noise = torch.randn(shape, generator=generator, device=source).to(device)
        level = torch.rand(shape[:2], generator=generator, device=source).to(device)
        level = (level * self.config.diffusion_levels).long() + 1
        noisy = add_noise(clean_B1C, noise, self.alpha_bar[level][..., None])
        first = torch.arange(draws, device=device) == 0
        level = torch.where(first[None], self.config.diffusion_levels, level)
        noisy = torch.where(first[None, :, None], 0.0, noisy)
        estimate = self(noisy, level, self.read(tokens))
        coefficient_loss = functional.mse_loss(estimate, clean_B1C.expand_as(estimate))
        arm = plans.new_tensor([1.0, 1.0, HEADING_ARM_M])
        waypoints = self.plan_space.decode(estimate) * arm
        return coefficient_loss, functional.huber_loss(waypoints, (plans[:, None] * arm).expand_as(waypoints))

    def plan(self, tokens: SceneTokens) -> Tensor:
        """The one plan [B, 8, 3] the driver stands for: zero starting noise, deterministic moves."""
        return self.sample_chain(tokens, 1, eta=0.0, initial_std=0.0).poses[:, 0]

    def _level_waves(self, level: Tensor) -> Tensor:
        half = self.config.d_model // 2
        rates = torch.exp(-math.log(1000.0) * torch.arange(half, device=level.device) / half)
        angles = level[..., None] / self.config.diffusion_levels * 1000.0 * rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
