"""Real vocabularies of human plans, scored on golden scenes."""

from pathlib import Path

import numpy as np
import pytest

from irlvla.data.scenes import SceneSet
from irlvla.geometry import headings_along, wrap_angle
from irlvla.scoring.context import ScoringContext, build_contexts
from irlvla.scoring.epdms import epdms
from irlvla.scoring.reference import score as plain
from irlvla.scoring.reference.surroundings import surroundings
from irlvla.scoring.score import score, score_rollout, simulate_plans
from irlvla.types import Array, SubScores

DIFFVLA = [f"trajectory_anchors_{count}" for count in (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)]
VOCABULARIES = [*DIFFVLA, "gtrs_8192", "diffusiondrive_20"]


@pytest.fixture(scope="module")
def contexts(alpha_scenes: SceneSet) -> list[ScoringContext]:
    """Scenes of six logs."""
    built, failures = build_contexts(alpha_scenes.subset(alpha_scenes.tokens[7::90]))
    assert not failures
    assert len(built) == 6
    return list(built.values())


def vocabulary(shared_real: Path, name: str) -> Array:
    """[K, 8 or 40, 3]; DiffusionDrive's anchors are positions, and get the headings of their paths."""
    anchors = np.load(shared_real / "anchors" / f"{name}.npy").astype(np.float64)
    return headings_along(anchors) if anchors.shape[-1] == 2 else anchors


def values(scores: SubScores) -> Array:
    return np.stack([getattr(scores, name) for name in SubScores.names()])


@pytest.mark.parametrize("name", VOCABULARIES)
def test_every_anchor_is_scored(name: str, shared_real: Path, contexts: list[ScoringContext]) -> None:
    anchors = vocabulary(shared_real, name)
    assert anchors.shape[1:] in {(8, 3), (40, 3)}
    for context in contexts[:2] if len(anchors) > 1024 else contexts:
        scores = score([context], anchors[None])
        assert ((values(scores) >= 0.0) & (values(scores) <= 1.0)).all()
        final = epdms(scores)[0]
        assert len(final) == len(anchors)
        # Real plans: some of them suit the scene, as the human's does, and most do not.
        human = epdms(score([context], context.human_plan[None, None]))[0, 0]
        assert final.max() >= 0.8 * human
        assert final.min() == 0.0
        assert len(np.unique(final)) >= 3


@pytest.mark.parametrize("name", ["trajectory_anchors_8192", "gtrs_8192", "diffusiondrive_20"])
def test_an_anchor_scores_the_same_alone_and_among_thousands(
    name: str, shared_real: Path, contexts: list[ScoringContext]
) -> None:
    anchors, context = vocabulary(shared_real, name), contexts[3]
    together = values(score([context], anchors[None]))[:, 0]
    for row in np.random.default_rng(0).choice(len(anchors), size=20).tolist():
        np.testing.assert_array_equal(values(score([context], anchors[row][None, None]))[:, 0, 0], together[:, row])


@pytest.mark.parametrize("name", ["trajectory_anchors_8192", "gtrs_8192", "diffusiondrive_20"])
def test_anchors_are_scored_as_the_plain_twin_does(
    name: str, shared_real: Path, contexts: list[ScoringContext]
) -> None:
    anchors = vocabulary(shared_real, name)
    rows = np.random.default_rng(1).choice(len(anchors), size=8, replace=False)
    for context in contexts[::2]:
        scene, rollouts = surroundings(context), simulate_plans([context], anchors[rows][None]).states_world[0]
        fast = score_rollout(context, rollouts)
        for row, rollout in enumerate(rollouts):
            slow = plain.score_rollout(context, scene, rollout)
            for part in SubScores.names():
                assert getattr(fast, part)[row] == pytest.approx(float(getattr(slow, part)), abs=1e-9), part


def test_headings_follow_the_paths_of_real_plans(shared_real: Path) -> None:
    anchors = vocabulary(shared_real, "trajectory_anchors_8192")
    off_rad = np.abs(wrap_angle(headings_along(anchors[..., :2])[..., 2] - anchors[..., 2]))
    moving = np.hypot(*np.diff(anchors[..., :2], axis=1, prepend=0.0).transpose(2, 0, 1)) > 1.0
    assert np.median(off_rad[moving]) < 0.01
    assert np.quantile(off_rad[moving], 0.99) < 0.1
