"""The two-stage table against the official one: every scene, every summary row."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from irlvla.data.plans import PlanTable, load_plans, write_plans
from irlvla.errors import DataError
from irlvla.scoring.score_table import SUMMARY_TOKENS, ScoreTable
from irlvla.scoring.table import score_plans_file
from irlvla.types import SubScores


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contexts")


@pytest.fixture(scope="module")
def plans(golden: Path) -> PlanTable:
    return load_plans(golden / "beta" / "two_stage" / "plans.npz")


@pytest.fixture(scope="module")
def written(golden: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, beta = tmp_path_factory.mktemp("table") / "scores.parquet", golden / "beta"
    mapping = beta / "two_stage" / "train_test_split.yaml"
    score_plans_file(beta, "test", beta / "two_stage" / "plans.npz", out, mapping=mapping, cache=cache)
    return out


@pytest.fixture(scope="module")
def rows(written: Path) -> dict[str, dict[str, object]]:
    return {row["token"]: row for row in pq.read_table(written).to_pylist()}


def scored(golden: Path, cache: Path, folder: Path, plans: PlanTable, keep: list[int]) -> ScoreTable:
    beta = golden / "beta"
    tokens, names = [plans.tokens[row] for row in keep], [plans.names[row] for row in keep]
    write_plans(folder / "plans.npz", tokens, plans.poses[keep], names)
    mapping = beta / "two_stage" / "train_test_split.yaml"
    return score_plans_file(beta, "test", folder / "plans.npz", folder / "out.parquet", mapping=mapping, cache=cache)


def test_every_figure_of_the_official_table_agrees_within_a_millionth(
    golden: Path, rows: dict[str, dict[str, object]]
) -> None:
    compared = 0
    with (golden / "beta" / "two_stage" / "official_0.csv").open(newline="", encoding="utf-8") as file:
        for official in csv.DictReader(file):
            ours = rows[official["token"]]
            assert ours["valid"], ours["reason"]
            assert ours["score"] == pytest.approx(float(official["score"]), rel=0, abs=1e-6)
            for name in SubScores.names():
                # The combined row repeats the sub-scores of both stages; ours stand in the rows of the stages.
                figures = [official[f"{name}_stage_{stage}"] for stage in ("one", "two")]
                if official["token"] == SUMMARY_TOKENS[-1] or not any(figures):
                    continue
                assert ours[name] == pytest.approx(float("".join(figures)), rel=0, abs=1e-6), official["token"]
                compared += 1
    assert compared == 18 * 9


def test_rows_follow_the_plan_file_and_then_sum_up(plans: PlanTable, written: Path) -> None:
    table = pq.read_table(written).to_pydict()
    assert table["token"] == [*plans.tokens, *SUMMARY_TOKENS]
    assert table["stage"] == ["one"] * 4 + ["two"] * 12 + ["one", "two", "combined"]
    # Every plan ends far from all that may follow, so siblings count alike.
    np.testing.assert_allclose(table["weight"][:16], [1.0] * 4 + [1 / 3] * 12)
    assert table["weight"][16:] == [None] * 3


def test_two_stage_table_says_that_traffic_reacted(written: Path) -> None:
    metadata = pq.read_schema(written).metadata
    assert (metadata[b"stage"], metadata[b"traffic"]) == (b"two", b"reactive")


def test_a_missing_plan_voids_the_summary_and_says_so(
    golden: Path, cache: Path, plans: PlanTable, rows: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    keep = [row for row in range(len(plans)) if plans.tokens[row] != "e506ddbb78b927ad0"]
    table = scored(golden, cache, tmp_path, plans, keep).to_pylist()
    for summary in table[-3:]:
        assert not summary["valid"]
        assert summary["score"] is None
        assert "e506ddbb78b927ad0: no plan" in summary["reason"]
    untouched = next(row for row in table if row["token"] == "94ce5ff2403fef87")
    assert untouched == rows["94ce5ff2403fef87"]
    bereft = next(row for row in table if row["token"] == "98764d1b9d69198b")
    assert bereft["score"] is None
    assert "lacks a scored plan" in bereft["reason"]


def test_two_drivers_in_one_file_are_summed_up_apart(
    golden: Path, cache: Path, plans: PlanTable, rows: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    tokens, standing = list(plans.tokens), np.zeros_like(plans.poses)
    both = PlanTable(tuple(tokens * 2), ("driver",) * 16 + ("standing",) * 16, np.concatenate([plans.poses, standing]))
    table = scored(golden, cache, tmp_path, both, list(range(32))).to_pylist()
    summaries = {(row["name"], row["token"]): row for row in table[-6:]}
    for token in SUMMARY_TOKENS:
        assert summaries["driver", token]["score"] == rows[token]["score"]
    assert summaries["standing", SUMMARY_TOKENS[0]]["score"] != rows[SUMMARY_TOKENS[0]]["score"]
    assert all(row["valid"] for row in table)


def test_a_second_plan_of_one_name_is_refused(golden: Path, cache: Path, plans: PlanTable, tmp_path: Path) -> None:
    table = scored(golden, cache, tmp_path, plans, [*range(16), 0]).to_pylist()
    assert not table[16]["valid"]
    assert "another plan of this name" in table[16]["reason"]
    assert table[-1]["valid"]


def mapped(golden: Path, folder: Path, **changes: object) -> Path:
    """The golden split file with other contents, its scene filter beside it."""
    original = golden / "beta" / "two_stage"
    content = yaml.safe_load((original / "train_test_split.yaml").read_text()) | changes
    (folder / "split.yaml").write_text(yaml.safe_dump(content))
    (folder / "scene_filter.yaml").write_text((original / "scene_filter.yaml").read_text())
    return folder / "split.yaml"


NOW, EARLIER, OTHER = "98764d1b9d69198b", "77b67c095563693f", "94ce5ff2403fef87"
FOLLOW_UPS = [["e506ddbb78b927ad0", "ef6a4fd16e20048f9"]]


@pytest.mark.parametrize(
    ("groups", "complaint"),
    [
        ([], "maps no two-stage group"),
        ([[NOW, EARLIER, []]], f"maps no follow-up scene to {NOW}"),
        ([[NOW, OTHER, FOLLOW_UPS]], f"pairs {NOW} with {OTHER} as its earlier frame"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(
    groups: list[object], complaint: str, golden: Path, cache: Path, tmp_path: Path
) -> None:
    mapping = mapped(golden, tmp_path, reactive_all_mapping=groups)
    plans, out = golden / "beta" / "two_stage" / "plans.npz", tmp_path / "out.parquet"
    with pytest.raises(DataError, match=complaint):
        score_plans_file(golden / "beta", "test", plans, out, mapping=mapping, cache=cache)
    assert not out.exists()
