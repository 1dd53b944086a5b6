"""NAVSIM v1's score of 1,806 plans, and of plans among objects that touch the ego vehicle, against devkit v1.1.

Beside the plans of the other parity tests there are wild ones: standing, braking hard, reversing, sharp turns, off the
road, into the other direction, far too fast, weaving.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from touching import put_touching_objects

from irlvla.data.pickles import load_pickle
from irlvla.data.plans import load_plans, write_plans
from irlvla.data.scenes import open_scenes
from irlvla.errors import ConfigError
from irlvla.geometry import wrap_angle
from irlvla.scoring.context import ScoringContext, build_contexts
from irlvla.scoring.editions import NAVSIM_V1, NAVSIM_V2
from irlvla.scoring.table import score_plans_file
from irlvla.types import Array, PDMSubScores

PLAN_FILES = ("plans.npz", "plans_10hz.npz", "plans_wild.npz", "plans_wild_10hz.npz")
FIGURES = (*PDMSubScores.names(), "score")
TOUCHED_LOGS = ("2021.01.02.12.00.00_veh-00_00001_cross_left", "2021.01.04.12.00.00_veh-00_00003_hw_follow")

Rows = dict[tuple[str, str], dict[str, Any]]


def rows_of(table: pa.Table) -> Rows:
    return {(row["token"], row["name"]): row for row in table.to_pylist()}


def assert_figures_equal(ours: Rows, official: Rows) -> None:
    assert ours.keys() == official.keys()
    for name in FIGURES:
        pairs = np.array([(ours[key][name], official[key][name]) for key in official], dtype=float)
        np.testing.assert_allclose(pairs[:, 0], pairs[:, 1], rtol=0, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def alpha(golden: Path) -> Path:
    return golden / "alpha"


@pytest.fixture(scope="module")
def official(alpha: Path) -> Rows:
    return rows_of(pq.read_table(alpha / "official_pdms_1_1.parquet"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contexts")


@pytest.fixture(scope="module")
def tables(alpha: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("tables")
    for name in PLAN_FILES:
        out = (folder / name).with_suffix(".parquet")
        score_plans_file(alpha, "test", alpha / name, out, metric="pdms-1.1", cache=cache)
    return [(folder / name).with_suffix(".parquet") for name in PLAN_FILES]


def test_every_figure_equals_the_official_one(tables: list[Path], official: Rows) -> None:
    ours: Rows = {}
    for path in tables:
        ours |= rows_of(pq.read_table(path))
    assert len(ours) == 1806
    assert_figures_equal(ours, official)


def test_the_golden_plans_exercise_every_figure(official: Rows) -> None:
    for name in FIGURES:
        values = np.array([row[name] for row in official.values()])
        assert 0.05 < (values < 1.0).mean() < 0.95, f"{name} hardly varies; its agreement would prove little"


def test_table_holds_what_v1_has_and_nothing_else(tables: list[Path]) -> None:
    schema = pq.read_schema(tables[0])
    assert schema.names == ["token", "name", *FIGURES, "valid", "reason"]
    stamps = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert (stamps["metric"], stamps["traffic"], stamps["human_filter"]) == ("pdms-1.1", "non_reactive", "off")


def pdm_ends(contexts: dict[str, ScoringContext]) -> dict[str, Array]:
    return {token: context.pdm_reference[-1] for token, context in contexts.items()}


def test_pdm_closed_drives_where_it_did_and_that_depends_on_the_edition(
    alpha: Path, cache: Path, official: Rows
) -> None:
    theirs = {
        row["token"]: np.array([row[f"pdm_end_{axis}"] for axis in ("x", "y", "heading")]) for row in official.values()
    }
    scenes = open_scenes(alpha, "test").subset(theirs)
    ours = pdm_ends(build_contexts(scenes, edition=NAVSIM_V1, cache=cache)[0])
    v2 = pdm_ends(build_contexts(scenes, edition=NAVSIM_V2, cache=cache)[0])
    for token, end in theirs.items():
        np.testing.assert_allclose(ours[token][:2], end[:2], rtol=0, atol=1e-6)
        assert abs(wrap_angle(ours[token][2] - end[2])) < 1e-6
    assert sum(np.hypot(*(ours[token] - v2[token])[:2]) > 0.1 for token in theirs) >= 3


def test_objects_that_touch_the_ego_vehicle_at_the_start_stay_on_the_road(alpha: Path, tmp_path: Path) -> None:
    (tmp_path / "navsim_logs" / "test").mkdir(parents=True)
    (tmp_path / "maps").symlink_to(alpha / "maps")
    for log in TOUCHED_LOGS:
        frames = load_pickle(alpha / "navsim_logs" / "test" / f"{log}.pkl")
        put_touching_objects(frames)
        (tmp_path / "navsim_logs" / "test" / f"{log}.pkl").write_bytes(pickle.dumps(frames))
    official = rows_of(pq.read_table(alpha / "official_pdms_1_1_touching.parquet"))
    ours: Rows = {}
    for name in ("plans.npz", "plans_wild.npz"):
        plans = load_plans(alpha / name)
        rows = [row for row, token in enumerate(plans.tokens) if (token, plans.names[row]) in official]
        write_plans(tmp_path / name, [plans.tokens[r] for r in rows], plans.poses[rows], [plans.names[r] for r in rows])
        ours |= rows_of(
            score_plans_file(tmp_path, "test", tmp_path / name, tmp_path / "out.parquet", metric="pdms-1.1")
        )
    assert_figures_equal(ours, official)
    untouched = rows_of(pq.read_table(alpha / "official_pdms_1_1.parquet"))
    changed = [key for key, row in official.items() if row["score"] != untouched[key]["score"]]
    assert len(changed) > len(official) / 3


def test_the_last_scenes_of_a_log_are_named_as_too_short(alpha: Path, cache: Path, tmp_path: Path) -> None:
    long = set(open_scenes(alpha, "test").tokens)
    short = next(token for token in open_scenes(alpha, "test", num_future_frames=8).tokens if token not in long)
    write_plans(tmp_path / "plans.npz", [short], np.zeros((1, 8, 3)))
    for metric, valid in (("pdms-1.1", False), ("epdms-2.2", True)):
        out = tmp_path / "out.parquet"
        table = score_plans_file(alpha, "test", tmp_path / "plans.npz", out, metric=metric, cache=cache)
        assert table["valid"].tolist() == [valid]
        assert ("with 10 frames after it" in table["reason"][0]) != valid


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"traffic": "reactive"}, "--traffic reactive"),
        ({"human_filter": True}, "--human-filter on"),
        ({"mapping": Path("two_stage.yaml")}, "--mapping"),
    ],
)
def test_options_that_v1_does_not_have_are_refused(
    options: dict[str, Any], named: str, alpha: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(ConfigError, match=named):
        score_plans_file(alpha, "test", alpha / "plans.npz", out, metric="pdms-1.1", **options)
    assert not out.exists()
