"""Several objects under the ego vehicle at once: which of them PDM-Closed follows is decided by the order of a tree."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from irlvla.data.maps import load_map
from irlvla.data.scenes import open_scenes
from irlvla.data.splits import SceneFilter, Split
from irlvla.scoring.context import build_context
from irlvla.scoring.score import score

OFFICIAL_EGO_PROGRESS = 0.5647339528636387
"""Of a plan that goes straight on at 1.4 m/s: navsim v2.2 (0a380a9) with nuplan-devkit v1.2, on this very log."""


def test_pdm_closed_follows_the_first_of_equally_near_objects_in_official_order(golden: Path, tmp_path: Path) -> None:
    shutil.copytree(golden / "ties" / "navsim_logs", tmp_path / "navsim_logs")
    (tmp_path / "maps").symlink_to(golden / "alpha" / "maps")
    scenes = open_scenes(tmp_path, Split("test", "test", SceneFilter(frame_interval=1, num_future_frames=8)))
    (scene,) = scenes
    context = build_context(scene, load_map(tmp_path, scene.map_location))
    steps = np.arange(1, 9)
    straight_on = np.stack([0.7 * steps, 0.0 * steps, 0.0 * steps], axis=1)
    scores = score([context], straight_on[None, None])
    assert scores.ego_progress[0, 0] == pytest.approx(OFFICIAL_EGO_PROGRESS, abs=1e-9)
