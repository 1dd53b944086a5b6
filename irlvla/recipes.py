"""Named full runs: which world, which model, how each stage trains. Recipes are functions built on each other.

`irlvla train STAGE RECIPE` takes one of RECIPES by name; every field can be overridden on the command line.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

from irlvla.errors import ConfigError
from irlvla.model.config import ModelConfig
from irlvla.stages.imitation import ImitationConfig
from irlvla.stages.ppo import PPOConfig
from irlvla.stages.reward import RewardConfig
from irlvla.stages.scored_plans import CollectConfig
from irlvla.stages.watch import WatchConfig


@dataclass(frozen=True)
class Recipe:
    """One full run of the three stages."""

    world: str
    """Preset of the embedded world that the demo builds; other data are given by --data."""
    model: ModelConfig
    imitation: ImitationConfig
    reward: RewardConfig
    ppo: PPOConfig
    best_of: int = 16
    """Candidates of the "best of N by the reward model" driver in the demo's table."""


def tiny() -> Recipe:
    """From scratch on two CPU cores in minutes."""
    return Recipe(
        world="tiny",
        model=ModelConfig(),
        imitation=ImitationConfig(steps=700),
        reward=RewardConfig(steps=1000),
        ppo=PPOConfig(updates=120, watch=WatchConfig(scenes=96)),
    )


def quick() -> Recipe:
    """Every part of `tiny`, far too short to learn: for tests and for a first look."""
    base = tiny()
    return replace(
        base,
        world="quick",
        imitation=replace(base.imitation, steps=40, warm_up_steps=5, check_every=20, check_scenes=16),
        reward=replace(base.reward, collect=CollectConfig(anchors=32, anchors_per_scene=6, policy_plans=2), steps=40),
        ppo=replace(base.ppo, updates=4, watch=WatchConfig(every=2, scenes=12)),
        best_of=4,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"tiny": tiny, "quick": quick}


def load_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.4)
        hint = f"; perhaps you meant {near[0]!r}" if near else ""
        raise ConfigError(f"unknown recipe {name!r}{hint}: recipes are {', '.join(RECIPES)}")
    return RECIPES[name]()
