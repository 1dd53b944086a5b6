import json

import pytest

from irlvla.errors import ConfigError
from irlvla.model.config import LossWeights, ModelConfig


def test_config_survives_json() -> None:
    config = ModelConfig(cameras=("CAM_F0",), bev_x_m=(-8.0, 56.0), losses=LossWeights(answer=0.0))
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_setting_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="planner_depth"):
        ModelConfig.from_dict({"planner_depth": 3})
    with pytest.raises(ConfigError, match="answers"):
        ModelConfig.from_dict({"losses": {"answers": 1.0}})


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"cameras": ("CAM_X9",)}, "CAM_X9"),
        ({"cameras": ()}, "cameras"),
        ({"d_model": 130}, "d_model"),
        ({"bev_cells": 30}, "bev_cells"),
        ({"image_height": 100}, "image size"),
        ({"denoising_steps": 0}, "denoising_steps"),
        ({"plan_coefficients": 25}, "plan_coefficients"),
        ({"reward_heads": 2}, "reward_heads"),
        ({"lidar_cells_per_bev_cell": 3}, "lidar_cells_per_bev_cell"),
    ],
)
def test_settings_that_do_not_fit_are_named(setting: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        ModelConfig(**setting)  # type: ignore[arg-type]
