"""The embedded world's humans drive well: comfortable, on the road, clear of others, stopping at red."""

from pathlib import Path

import numpy as np
import pytest

from irlvla.data.faults import load_faults
from irlvla.data.scenes import constant_velocity_plan, human_plan, open_scenes
from irlvla.scoring.context import build_contexts
from irlvla.scoring.epdms import epdms
from irlvla.scoring.score import score
from irlvla.types import SubScores


def _scores(world: Path) -> tuple[SubScores, int]:
    scenes = [*open_scenes(world, "world-train"), *open_scenes(world, "world-test")]
    contexts = {}
    for split in ("world-train", "world-test"):
        built, failures = build_contexts(open_scenes(world, split))
        assert failures == []
        contexts.update(built)
    plans = np.stack([np.stack([human_plan(scene), constant_velocity_plan(scene)]) for scene in scenes])
    return score([contexts[scene.token] for scene in scenes], plans, human_filter=False), len(scenes)


def test_humans_score_well_where_constant_velocity_does_not(world: Path) -> None:
    scores, count = _scores(world)
    points = epdms(scores)
    assert count >= 6
    assert points[:, 0].mean() > 0.85
    assert points[:, 0].mean() > points[:, 1].mean() + 0.05
    assert scores.no_at_fault_collisions[:, 0].mean() > 0.95
    assert scores.history_comfort[:, 0].mean() > 0.9
    assert scores.drivable_area_compliance[:, 0].mean() > 0.9


@pytest.mark.slow
def test_people_drive_as_navsim_wants_it_without_being_picked_for_it(human_world: Path) -> None:
    """Every window of every log without a labelled fault, human filter off; the bounds leave room for luck."""
    points, comfort, windows = [], [], 0
    for folder in ("trainval", "test"):
        scenes = open_scenes(human_world, folder)
        contexts, failures = build_contexts(scenes)
        assert failures == []
        windows += len(scenes)
        good = [scene for scene in scenes if not load_faults(human_world, folder, scene.log_name)[scene.token]]
        plans = np.stack([human_plan(scene)[None] for scene in good])
        scores = score([contexts[scene.token] for scene in good], plans, human_filter=False)
        points += epdms(scores)[:, 0].tolist()
        comfort += scores.history_comfort[:, 0].tolist()
    assert len(points) > 0.6 * windows
    assert np.mean(points) > 0.8
    assert np.mean(comfort) > 0.96


def test_command_agrees_with_the_turn_that_is_driven(world: Path) -> None:
    for split in ("world-train", "world-test"):
        for scene in open_scenes(world, split):
            now = scene.now
            turned = human_plan(scene)[-1, 2]
            assert now.command.sum() == 1
            if abs(turned) > 1.2 and now.ego_velocity_mps[0] > 2.0:
                assert now.command[0 if turned > 0 else 2] == 1 or now.command[1] == 1
                assert now.command[2 if turned > 0 else 0] == 0
