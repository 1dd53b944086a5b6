"""The diffusion planner and its chain."""

import pytest
import torch

from irlvla.model.attention import ConditionedFeedForward, CrossAttention, FeedForward, sample_bev
from irlvla.model.config import ModelConfig
from irlvla.model.diffusion import chain_alpha_bars, ddim_move, denoising_levels
from irlvla.model.plan_space import PlanSpace
from irlvla.model.planner import DiffusionPlanner
from irlvla.model.tokens import SceneTokens
from irlvla.types import Array


def make_tokens(config: ModelConfig, scenes: int, seed: int = 0) -> SceneTokens:
    """Random scene tokens of the right shapes."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(scenes, *shape, generator=generator)

    width = config.d_model
    return SceneTokens(
        meta=noise(config.n_meta_tokens, width),
        bev=noise(config.bev_tokens**2, width),
        map=noise(config.n_map_queries, width),
        objects=noise(config.n_object_queries, width),
        command=noise(width),
        bev_map=noise(config.bev_channels, config.bev_cells, config.bev_cells),
        ego_status=noise(13),
    )


@pytest.fixture
def planner(golden_plans: Array, config: ModelConfig) -> DiffusionPlanner:
    torch.manual_seed(0)
    return DiffusionPlanner(config, PlanSpace.fit(golden_plans))


@pytest.fixture
def tokens(config: ModelConfig) -> SceneTokens:
    return make_tokens(config, scenes=3)


def test_blocks_run_in_the_order_of_the_papers_figure(planner: DiffusionPlanner, tokens: SceneTokens) -> None:
    """FN, meta, FN, BEV, FN, map, FN, objects, FFN; N times."""
    seen: list[str] = []
    for name, module in planner.named_modules():
        kind = {ConditionedFeedForward: "FN", CrossAttention: "attention", FeedForward: "FFN"}.get(type(module))
        if kind is not None:
            label = kind if kind != "attention" else name.rsplit("attend_", 1)[-1]
            module.register_forward_hook(lambda *_, label=label: seen.append(label))
    planner(torch.zeros(3, 1, 24), torch.full((3, 1), 50), planner.read(tokens))
    once = ["FN", "meta", "FN", "bev", "FN", "map", "FN", "objects", "FFN"]
    assert seen == once * planner.config.planner_layers


@pytest.mark.parametrize("kind", ["meta", "bev", "map", "objects", "command", "bev_map"])
def test_every_kind_of_token_moves_the_plan(planner: DiffusionPlanner, tokens: SceneTokens, kind: str) -> None:
    other = make_tokens(planner.config, scenes=3, seed=1)
    changed = SceneTokens(**{**vars(tokens), kind: getattr(other, kind)})
    with torch.no_grad():
        assert (planner.plan(tokens) - planner.plan(changed)).abs().max() > 1e-5


def test_candidates_do_not_influence_each_other(planner: DiffusionPlanner, tokens: SceneTokens) -> None:
    noisy = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(1))
    level = torch.tensor([[100, 80, 60, 40, 20]]).expand(3, -1)
    memory = planner.read(tokens)
    together = planner(noisy, level, memory)
    alone = planner(noisy[:, 3:4], level[:, 3:4], memory)
    torch.testing.assert_close(together[:, 3:4], alone, atol=1e-5, rtol=1e-5)


def test_scenes_do_not_influence_each_other(planner: DiffusionPlanner, tokens: SceneTokens) -> None:
    together = planner.plan(tokens)
    torch.testing.assert_close(planner.plan(tokens.index_select([1])), together[1:2], atol=1e-4, rtol=1e-4)


def test_recomputed_log_probs_equal_the_stored_ones(planner: DiffusionPlanner, tokens: SceneTokens) -> None:
    noise = {"eta": 1.0, "min_std": 0.05, "min_likelihood_std": 0.1}
    chain = planner.sample_chain(tokens, 4, generator=torch.Generator().manual_seed(0), **noise)
    steps = range(len(chain.means))
    again = planner.log_prob(tokens, chain.latents, steps, **noise)
    torch.testing.assert_close(again, chain.log_probs, atol=1e-4, rtol=1e-4)
    some = planner.log_prob(tokens, chain.latents, [6, 2], **noise)
    torch.testing.assert_close(some, chain.log_probs[[6, 2]], atol=1e-4, rtol=1e-4)


def test_log_prob_follows_the_closed_form_of_one_move(planner: DiffusionPlanner, tokens: SceneTokens) -> None:
    chain = planner.sample_chain(tokens, 2, generator=torch.Generator().manual_seed(0), eta=1.0, min_std=0.2)
    levels = denoising_levels(100, 8)
    now, after = chain_alpha_bars(planner.alpha_bar, levels)
    with torch.no_grad():
        clean = planner(chain.latents[3], torch.tensor([[levels[3]]]), planner.read(tokens))
    mean, std = ddim_move(chain.latents[3], clean, now[3], after[3], 1.0)
    normal = torch.distributions.Normal(mean, std.clamp(min=0.2))
    torch.testing.assert_close(chain.log_probs[3], normal.log_prob(chain.latents[4]).mean(-1), atol=1e-4, rtol=1e-4)


def test_one_step_against_a_move_makes_it_less_likely(planner: DiffusionPlanner, tokens: SceneTokens) -> None:
    """Ratios leave 1 as soon as weights move; without that PPO would be idle."""
    noise = {"eta": 1.0, "min_std": 0.1, "min_likelihood_std": 0.1}
    chain = planner.sample_chain(tokens, 2, generator=torch.Generator().manual_seed(0), **noise)
    optimizer = torch.optim.SGD(planner.parameters(), lr=1e-2)
    planner.log_prob(tokens, chain.latents, range(8), **noise).mean().backward()
    optimizer.step()
    after = planner.log_prob(tokens, chain.latents, range(8), **noise).mean()
    assert after < chain.log_probs.mean() - 1e-4


def test_floors_act_on_sampling_and_likelihood_apart(planner: DiffusionPlanner, tokens: SceneTokens) -> None:
    chain = planner.sample_chain(tokens, 200, generator=torch.Generator().manual_seed(0), eta=1.0, min_std=0.3)
    assert chain.stds.min() == pytest.approx(0.3)
    scatter = (chain.latents[-1] - chain.means[-1]).std()
    assert scatter == pytest.approx(0.3, rel=0.05)
    assert ((chain.latents[-1] - chain.means[-1]).abs() <= 0.9 + 1e-6).all()


def test_last_latent_decodes_to_the_poses(planner: DiffusionPlanner, tokens: SceneTokens) -> None:
    chain = planner.sample_chain(tokens, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(planner.plan_space.decode(chain.latents[-1]), chain.poses)
    assert chain.latents.shape == (9, 3, 2, 24)
    assert chain.poses.shape == (3, 2, 8, 3)


def test_deterministic_plan_needs_no_luck_and_sampled_plans_follow_their_seed(
    planner: DiffusionPlanner, tokens: SceneTokens
) -> None:
    torch.manual_seed(1)
    first = planner.plan(tokens)
    torch.manual_seed(2)
    assert torch.equal(first, planner.plan(tokens))
    draws = [planner.sample_chain(tokens, 3, generator=torch.Generator().manual_seed(s)).poses for s in (7, 7, 8)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_log_prob_without_any_noise_is_refused(planner: DiffusionPlanner, tokens: SceneTokens) -> None:
    chain = planner.sample_chain(tokens, 1, eta=0.0)
    with pytest.raises(ValueError, match="noise"):
        planner.log_prob(tokens, chain.latents, [0], eta=0.0)


def test_bev_is_sampled_at_the_right_cell(config: ModelConfig) -> None:
    """One lit cell is seen at its own center, and not one cell farther; outside the map there is nothing."""
    bev_map = torch.zeros(1, 1, 32, 32)
    bev_map[0, 0, 20, 5] = 1.0  # x = -16 + 20.5 * 2 m, y = -32 + 5.5 * 2 m
    points = torch.tensor([[[25.0, -21.0], [27.0, -21.0], [25.0, -19.0], [200.0, 0.0]]])
    seen = sample_bev(bev_map, points, config)[0, :, 0]
    torch.testing.assert_close(seen, torch.tensor([1.0, 0.0, 0.0, 0.0]), atol=1e-5, rtol=0)
