"""The table of `irlvla score` against the official one-stage result over all frames of four logs."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from irlvla.data.plans import load_plans, write_plans
from irlvla.errors import ConfigError
from irlvla.scoring.table import score_plans_file
from irlvla.types import SubScores


@pytest.fixture(scope="module")
def beta(golden: Path) -> Path:
    return golden / "beta"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contexts")


@pytest.fixture(scope="module")
def written(beta: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("table") / "scores.parquet"
    score_plans_file(beta, "test", beta / "plans_adjacent_frames.npz", out, cache=cache)
    return out


@pytest.fixture(scope="module")
def official(beta: Path) -> dict[str, list[float]]:
    return dict(pq.read_table(beta / "official_adjacent_frames.parquet").to_pydict())


def figures(column: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in column], dtype=float)


@pytest.mark.parametrize("name", [*SubScores.names(), "score"])
def test_column_equals_the_official_one(name: str, written: Path, official: dict[str, list[float]]) -> None:
    table = pq.read_table(written).to_pydict()
    assert table["token"] == official["token"]
    assert table["name"] == official["name"]
    np.testing.assert_allclose(figures(table[name]), figures(official[name]), rtol=0, atol=1e-6)
    if f"{name}_raw" in official:
        np.testing.assert_allclose(figures(table[f"{name}_raw"]), figures(official[f"{name}_raw"]), rtol=0, atol=1e-6)


def test_table_says_how_it_was_made(written: Path) -> None:
    stamps = {key.decode(): value.decode() for key, value in pq.read_schema(written).metadata.items()}
    assert stamps["metric"] == "epdms-2.2"
    assert stamps["split"] == "test"
    assert stamps["traffic"] == "non_reactive"
    assert stamps["human_filter"] == "on"
    assert stamps["scorer"].startswith("irlvla ")
    assert stamps["numpy"] == np.__version__
    assert "scorer_commit" in stamps


def test_cached_contexts_and_two_workers_give_the_same_table(beta: Path, cache: Path, written: Path) -> None:
    again = written.with_name("again.parquet")
    table = score_plans_file(beta, "test", beta / "plans_adjacent_frames.npz", again, cache=cache, workers=2)
    assert pa.table(table).equals(pq.read_table(written))


def test_bad_rows_are_named_and_never_zero(beta: Path, cache: Path, tmp_path: Path) -> None:
    plans = load_plans(beta / "plans_adjacent_frames.npz")
    poses = plans.poses[:3].copy()
    poses[1, 2, 0] = np.nan
    write_plans(tmp_path / "plans.npz", ["no-such-scene", *plans.tokens[1:3]], poses, plans.names[:3])
    table = pa.table(score_plans_file(beta, "test", tmp_path / "plans.npz", tmp_path / "out.parquet", cache=cache))
    assert table["valid"].to_pylist() == [False, False, True]
    assert "no such scene" in table["reason"][0].as_py()
    assert "NaN" in table["reason"][1].as_py()
    assert table["score"].to_pylist()[:2] == [None, None]
    assert table["ego_progress"].to_pylist()[:2] == [None, None]
    assert table["score"][2].as_py() is not None


def test_score_before_the_filter_was_repaired_is_that_of_the_raw_sub_scores(
    beta: Path, cache: Path, written: Path, tmp_path: Path
) -> None:
    plans = beta / "plans_adjacent_frames.npz"
    for name, options in (("before", {"metric": "epdms-2.2-prefix"}), ("unfiltered", {"human_filter": False})):
        score_plans_file(beta, "test", plans, tmp_path / name, cache=cache, **options)
    before, unfiltered = pq.read_table(tmp_path / "before"), pq.read_table(tmp_path / "unfiltered")
    repaired = pq.read_table(written)
    assert before["drivable_area_compliance"].equals(repaired["drivable_area_compliance"])
    assert before["score"].equals(unfiltered["score"])
    assert not before["score"].equals(repaired["score"])


@pytest.mark.parametrize("options", [{"metric": "pdms-1.0"}, {"metric": "epdms"}, {"traffic": "parked"}])
def test_unknown_metric_and_traffic_are_refused(options: dict[str, str], beta: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=next(iter(options.values()))):
        score_plans_file(beta, "test", beta / "plans_adjacent_frames.npz", tmp_path / "x.parquet", **options)
    assert not (tmp_path / "x.parquet").exists()
