"""The official devkit's inputs and figures, read once."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from official import Official

from irlvla.data.scenes import SceneSet, open_scenes
from irlvla.scoring.context import ScoringContext, build_contexts


@pytest.fixture(scope="session")
def alpha_scenes(golden: Path) -> SceneSet:
    return open_scenes(golden / "alpha", "test", num_future_frames=8)


@pytest.fixture(scope="session")
def official(golden: Path) -> Official:
    alpha = golden / "alpha"
    plans = {}
    for name in ("plans.npz", "plans_10hz.npz"):
        content = np.load(alpha / name)
        keys = zip(content["token"].tolist(), content["name"].tolist(), strict=True)
        plans.update(zip(keys, content["poses"], strict=True))
    table = pq.read_table(alpha / "official_non_reactive.parquet").to_pydict()
    return Official(table, plans, dict(np.load(alpha / "rollouts_non_reactive.npz")))


@pytest.fixture(scope="session")
def alpha_contexts(alpha_scenes: SceneSet, official: Official) -> dict[str, ScoringContext]:
    contexts, failures = build_contexts(alpha_scenes.subset(official.table["token"]))
    assert not failures
    return contexts
