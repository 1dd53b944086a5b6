"""`irlvla/Drive-v0` as Gymnasium sees it."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from irlvla.errors import ConfigError
from irlvla.world.overview import CAMERAS_PX, SIDE_PX
from irlvla.world.registration import ENVIRONMENT

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("places")


@pytest.fixture
def environment(places: Path) -> Iterator[gymnasium.Env]:
    # This form needs no import of ours.
    name = f"irlvla.world.registration:{ENVIRONMENT}"
    made = gymnasium.make(name, world="mini", folder=places, time_limit_s=3.0, render_mode="rgb_array")
    yield made
    made.close()


def _ahead(speed_mps: float) -> np.ndarray:
    plan = np.zeros((8, 3), dtype=np.float32)
    plan[:, 0] = 0.5 * speed_mps * np.arange(1, 9)
    return plan


@pytest.mark.slow
def test_gymnasiums_own_checker_has_no_complaint(environment: gymnasium.Env) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(environment.unwrapped)


def test_registering_loads_nothing_heavy() -> None:
    probe = (
        "import sys, warnings; warnings.simplefilter('error'); import gymnasium, irlvla.world.registration; "
        f"made = gymnasium.spec('{ENVIRONMENT}'); "
        "print(made.id, *sorted({'numba', 'cv2', 'shapely', 'traci'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [ENVIRONMENT]


def test_an_episode_runs_to_its_time_limit_and_is_cut_off_there(environment: gymnasium.Env) -> None:
    observation, info = environment.reset(seed=4)
    assert environment.observation_space.contains(observation)
    rewards = []
    while True:
        observation, reward, terminated, truncated, info = environment.step(_ahead(1.0))
        rewards.append(float(reward))
        assert environment.observation_space.contains(observation)
        if terminated or truncated:
            break
    assert (info["end"] == "time limit") == truncated
    assert terminated != truncated
    assert info["time_s"] <= 3.0
    # Everything was clean, so the reward is the way made.
    if not (info["collisions"] or info["off_road"]):
        assert sum(rewards) == pytest.approx(info["progress_m"], abs=1e-6)
    picture = environment.render()
    assert picture.shape == (SIDE_PX, CAMERAS_PX + SIDE_PX, 3)
    assert picture.std() > 10


def test_equal_seeds_and_actions_give_equal_episodes(environment: gymnasium.Env) -> None:
    def episode() -> list[float]:
        environment.reset(seed=7)
        steps = [environment.step(_ahead(4.0)) for _ in range(3)]
        return [*(float(step[1]) for step in steps), *steps[-1][4]["ego_state"].tolist(), steps[-1][0]["images"].mean()]

    assert episode() == episode()


def test_a_stretched_out_action_is_brought_into_the_box(environment: gymnasium.Env) -> None:
    environment.reset(seed=7)
    _, _, _, _, far = environment.step(_ahead(1000.0))
    environment.reset(seed=7)
    _, _, _, _, rim = environment.step(np.minimum(_ahead(1000.0), environment.action_space.high))  # type: ignore[attr-defined]
    assert far["ego_state"].tolist() == rim["ego_state"].tolist()


def test_actions_that_are_no_plans_are_refused(environment: gymnasium.Env) -> None:
    environment.reset(seed=7)
    for wrong in (np.zeros((7, 3), dtype=np.float32), np.full((8, 3), np.nan, dtype=np.float32)):
        with pytest.raises(ValueError, match="finite poses"):
            environment.unwrapped.step(wrong)


def test_networks_can_be_chosen_and_held_out_ones_are_the_default(places: Path) -> None:
    environment = gymnasium.make(ENVIRONMENT, world="mini", folder=places)
    environment.reset(seed=1, options={"network": 3})
    assert environment.unwrapped.scene.map_location == "sg-one-north"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="not among those driven here"):
        environment.reset(seed=1, options={"network": 0})
    environment.close()


def test_an_unknown_preset_is_named(places: Path) -> None:
    with pytest.raises(ConfigError, match="unknown preset 'gigantic'"):
        gymnasium.make(ENVIRONMENT, world="gigantic", folder=places)
