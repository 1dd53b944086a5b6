"""The official devkit, unchanged, on a world that was just built: it loads every scene and gives our figures.

Set IRLVLA_NAVSIM_PYTHON to an interpreter that has navsim (2.2) and nuplan-devkit (1.2) with their requirements, and
IRLVLA_NAVSIM_PATH to the folders of the two where they are not installed in it.
"""

import csv
import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from irlvla.data.plans import PlanTable
from irlvla.data.scenes import SceneSet, constant_velocity_plan, open_scenes
from irlvla.scoring.table import SUMMARY_TOKENS, score_plans, score_two_stage
from irlvla.types import SubScores

pytestmark = pytest.mark.slow

Devkit = Callable[..., str]
SCRIPTS = "navsim.planning.script"


@pytest.fixture(scope="module")
def devkit(hard_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    """Runs the devkit's interpreter on the built world and returns what it printed."""
    python = os.environ.get("IRLVLA_NAVSIM_PYTHON")
    if python is None:
        pytest.skip("the official devkit is not here; set IRLVLA_NAVSIM_PYTHON to an interpreter that has it")
    environment = {
        **os.environ,
        "PYTHONPATH": os.environ.get("IRLVLA_NAVSIM_PATH", ""),
        "OPENSCENE_DATA_ROOT": str(hard_world),
        "NUPLAN_MAPS_ROOT": str(hard_world / "maps"),
        "NUPLAN_MAP_VERSION": "nuplan-maps-v1.0",
        "NAVSIM_EXP_ROOT": str(tmp_path_factory.mktemp("experiments")),
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [python, "-W", "ignore", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    try:
        run("-c", "import navsim.planning.script, nuplan.common")
    except (AssertionError, OSError) as error:
        pytest.skip(f"{python} cannot import navsim and nuplan: {error}")
    return run


def hydra(root: Path, split: str, *more: str) -> list[str]:
    """Options that make the devkit's scripts take split and folders from a world."""
    two_stage = root / "world-hard_two_stage"
    return [
        f"hydra.searchpath=[pkg://navsim.planning.script.config.common,file://{root}]",
        f"train_test_split={split}",
        "worker=sequential",
        f"synthetic_scenes_path={two_stage / 'synthetic_scene_pickles'}",
        *more,
    ]


def official_rows(
    devkit: Devkit, script: str, root: Path, split: str, folder: Path, *more: str
) -> dict[str, dict[str, str]]:
    """Metric caching, then a scoring script with the devkit's constant-velocity agent: its table by token."""
    cache = f"metric_cache_path={folder / 'cache'}"
    devkit("-m", f"{SCRIPTS}.run_metric_caching", *hydra(root, split, cache))
    options = hydra(root, split, cache, "agent=constant_velocity_agent", f"output_dir={folder / 'out'}", *more)
    printed = devkit("-m", f"{SCRIPTS}.{script}", *options, "experiment_name=world")
    assert "Traceback" not in printed, printed[-3000:]
    (table,) = (folder / "out").glob("*.csv")
    with table.open(newline="", encoding="utf-8") as file:
        return {row["token"]: row for row in csv.DictReader(file)}


def constant_velocity(scenes: SceneSet) -> PlanTable:
    # The devkit's agents plan in single precision.
    poses = np.stack([constant_velocity_plan(scene).astype(np.float32) for scene in scenes]).astype(np.float64)
    return PlanTable(tuple(scenes.tokens), ("cv",) * len(scenes), poses)


def test_two_stage_script_gives_our_figures(devkit: Devkit, hard_world: Path, tmp_path: Path) -> None:
    sensors = f"synthetic_sensor_path={hard_world / 'world-hard_two_stage' / 'sensor_blobs'}"
    official = official_rows(devkit, "run_pdm_score", hard_world, "world-hard", tmp_path, sensors)
    scenes = open_scenes(hard_world, "world-hard")
    ours = {row["token"]: row for row in score_two_stage(scenes, constant_velocity(scenes)).to_pylist()}
    assert set(official) == set(ours)
    for token, row in official.items():
        assert row["valid"] == "True", token
        assert ours[token]["score"] == pytest.approx(float(row["score"]), abs=1e-6), token
        for name in SubScores.names():
            figures = [row[f"{name}_stage_{stage}"] for stage in ("one", "two")]
            # The combined row repeats what the rows of the stages say.
            if token != SUMMARY_TOKENS[-1] and any(figures):
                assert ours[token][name] == pytest.approx(float("".join(figures)), abs=1e-6), (token, name)


def test_one_stage_script_gives_our_figures(devkit: Devkit, hard_world: Path, tmp_path: Path) -> None:
    replay = "traffic_agents=non_reactive"
    official = official_rows(devkit, "run_pdm_score_one_stage", hard_world, "world-test", tmp_path, replay)
    scenes = open_scenes(hard_world, "world-test")
    ours = {row["token"]: row for row in score_plans(scenes, constant_velocity(scenes)).to_pylist()}
    official.pop("average_all_frames")
    assert set(official) == set(ours)
    for token, row in official.items():
        assert ours[token]["score"] == pytest.approx(float(row["score"]), abs=1e-6), token
        for name in SubScores.names():
            figure = float(row[name] or "nan")
            if math.isnan(figure):
                assert ours[token][name] is None
            else:
                assert ours[token][name] == pytest.approx(figure, abs=1e-6), (token, name)


LOAD_ALL = """
import sys
from pathlib import Path
from hydra.utils import instantiate
from omegaconf import OmegaConf
from navsim.common.dataclasses import SensorConfig
from navsim.common.dataloader import SceneLoader

root, split = Path(sys.argv[1]), sys.argv[2]
scene_filter = OmegaConf.load(root / "train_test_split" / "scene_filter" / f"{split}.yaml")
names = ("cam_f0", "cam_l0", "cam_l1", "cam_l2", "cam_r0", "cam_r1", "cam_r2", "cam_b0")
sensors = SensorConfig(**{name: name == "cam_f0" for name in names}, lidar_pc=split == "world-test")
folder = root / "world-hard_two_stage"
loader = SceneLoader(
    root / "navsim_logs" / "test", root / "sensor_blobs" / "test", instantiate(scene_filter),
    folder / "sensor_blobs", folder / "synthetic_scene_pickles", sensors,
)
for token in loader.tokens:
    scene, agent_input = loader.get_scene_from_token(token), loader.get_agent_input_from_token(token)
    image = agent_input.cameras[-1].cam_f0.image
    points = agent_input.lidars[-1].lidar_pc
    print("LOADED", token, *image.shape, -1 if points is None else points.shape[0], len(scene.frames))
"""


@pytest.mark.parametrize("split", ["world-test", "world-hard"])
def test_devkit_loads_every_scene_with_its_sensors(devkit: Devkit, hard_world: Path, split: str) -> None:
    printed = devkit("-c", LOAD_ALL, str(hard_world), split)
    loaded = {words[1]: words[2:] for line in printed.splitlines() if (words := line.split()) and words[0] == "LOADED"}
    scenes = open_scenes(hard_world, split)
    assert set(loaded) == set(scenes.tokens)
    for scene in scenes:
        points = "-1" if split == "world-hard" else "6"
        frames = "4" if scene.is_synthetic else str(len(scene.frames))
        assert loaded[scene.token] == ["144", "256", "3", points, frames]
