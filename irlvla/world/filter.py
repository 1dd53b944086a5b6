"""Which keyframes become scenes of a split: those worth planning in.

NAVSIM leaves out scenes that constant velocity solves, and scenes that the human fails; so do we, with the same scorer.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from irlvla.data.scenes import SceneSet, constant_velocity_plan, human_plan, open_scenes
from irlvla.data.splits import SceneFilter, Split
from irlvla.scoring.context import build_contexts
from irlvla.scoring.epdms import epdms
from irlvla.scoring.score import score
from irlvla.types import Scene
from irlvla.world.presets import WorldPreset

Array = NDArray[np.float64]

SOLVED = 0.8
"""EPDMS (no human filter) from which a scene counts as solved."""
EASY_SHARE = 0.1
"""Share of the scenes solved by constant velocity that stay, so that a policy also sees plain driving."""
STANDING_SHARE = 0.15
"""At most this share of a split stands still."""
_STANDING_TRAVEL_M = 1.0


def choose_scenes(
    root: Path,
    data_split: str,
    preset: WorldPreset,
    seed: int,
    workers: int,
    *,
    log_names: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Tokens of the scenes of a data split, or of some of its logs, in the order of logs and frames."""
    logs = None if log_names is None else frozenset(log_names)
    scenes = open_scenes(root, Split(data_split, data_split, SceneFilter(frame_interval=1, log_names=logs)))
    rng = np.random.default_rng([seed, 61])
    tokens = scenes.tokens
    if preset.filter_scenes and tokens:
        human, constant = _baseline_scores(scenes, workers, on_progress)
        solvable = human >= SOLVED
        keep = solvable & ((constant < SOLVED) | (rng.uniform(size=len(tokens)) < EASY_SHARE))
        # Extended comfort compares a scene with the one 0.5 s before, so that one stays as well.
        position = {token: k for k, token in enumerate(tokens)}
        for k in np.flatnonzero(keep):
            earlier = scenes.earlier_token(tokens[k])
            if earlier is not None and solvable[position[earlier]]:
                keep[position[earlier]] = True
    else:
        keep = np.ones(len(tokens), dtype=bool)
    standing = np.array([_stands(scene) for scene in scenes], dtype=bool)
    moving = int((keep & ~standing).sum())
    most = int(STANDING_SHARE / (1 - STANDING_SHARE) * moving)
    still = np.flatnonzero(keep & standing)
    if len(still) > most:
        keep[rng.permutation(still)[most:]] = False
    return [token for token, kept in zip(tokens, keep, strict=True) if kept]


def _stands(scene: Scene) -> bool:
    path = np.concatenate([np.zeros((1, 2)), human_plan(scene)[:, :2]])
    return float(np.hypot(*np.diff(path, axis=0).T).sum()) < _STANDING_TRAVEL_M


def _baseline_scores(
    scenes: SceneSet, workers: int, on_progress: Callable[[int, int], None] | None
) -> tuple[Array, Array]:
    """EPDMS of the human and of constant velocity in every scene; zero for both where a scene cannot be scored."""
    contexts, _ = build_contexts(scenes, workers=workers, on_progress=on_progress)
    human, constant = np.zeros(len(scenes)), np.zeros(len(scenes))
    for k, scene in enumerate(scenes):
        context = contexts.get(scene.token)
        if context is None:
            continue
        plans = np.stack([human_plan(scene), constant_velocity_plan(scene)])[None]
        human[k], constant[k] = epdms(score([context], plans, human_filter=False))[0]
    return human, constant
