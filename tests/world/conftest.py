"""Small worlds, built once for all tests of this folder."""

from dataclasses import replace
from pathlib import Path

import pytest

from irlvla.world.build import build_world
from irlvla.world.presets import PRESETS, FollowUpPreset, WorldPreset


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root of preset `mini`, seed 1."""
    root = tmp_path_factory.mktemp("world") / "mini"
    build_world(PRESETS["mini"], root, seed=1, workers=2)
    return root


@pytest.fixture(scope="session")
def human_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root of a world with people at the wheel, road works, and instructions, without cameras."""
    root = tmp_path_factory.mktemp("world") / "human"
    preset = replace(
        PRESETS["mini"], name="human-mini", instructions=True, cameras=(), lidar=False, train_logs=7,
        test_logs=7, frames_per_log=22, simulated_s=50.0, network_span_m=500.0, traffic_density=7.0,
        road_works_per_km=2.5, standing_vehicles_per_km=2.0, bus_stops_per_km=1.0,
    )  # fmt: skip
    build_world(preset, root, seed=5, workers=2)
    return root


@pytest.fixture(scope="session")
def city_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root of preset `city-mini`, seed 1: two networks at one location, road works, split `world-hard`."""
    root = tmp_path_factory.mktemp("world") / "city-mini"
    build_world(PRESETS["city-mini"], root, seed=1, workers=2)
    return root


@pytest.fixture(scope="session")
def files() -> Path:
    """Road networks written by hand: `town.osm` and `crossing.xodr`."""
    return Path(__file__).parent / "files"


@pytest.fixture(scope="session")
def hard_preset() -> WorldPreset:
    """Preset `mini` with follow-up scenes."""
    return replace(
        PRESETS["mini"], name="hard", follow_ups=FollowUpPreset("test", scenes_per_log=1, starts_per_scene=4)
    )


@pytest.fixture(scope="session")
def hard_world(hard_preset: WorldPreset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root with a two-stage split, seed 1."""
    root = tmp_path_factory.mktemp("world") / "hard"
    build_world(hard_preset, root, seed=1, workers=1)
    return root
