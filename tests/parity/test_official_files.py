"""The formula against the last column of real official result files."""

import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from irlvla.scoring.epdms import epdms
from irlvla.scoring.human_filter import FILTERED
from irlvla.types import Array, SubScores

ONE_STAGE = ("human_replay_filter_off_reactive", "human_replay_stock_reactive", "pdm_closed_stock_reactive")
TWO_STAGE = ("diffvla_navhard_two_stage", "ltf_sim_navhard")
SUMMARY = ("aggregate_summary_row", "extended_pdm_score")


def read(folder: Path, name: str, suffix: str = "") -> tuple[SubScores, Array]:
    """Sub-scores [N] and final scores [N] of a file's scenes; summary rows and rows of the other stage left out."""
    with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if not row["token"].startswith(SUMMARY)]
    rows = [row for row in rows if row[f"ego_progress{suffix}"]]
    columns = {
        part: np.array([float(row[part + suffix]) if row.get(part + suffix) else 0.0 for row in rows])
        for part in SubScores.names()
    }
    has_earlier = np.array([bool(row.get(f"two_frame_extended_comfort{suffix}")) for row in rows])
    return SubScores(**columns, has_earlier_frame=has_earlier), np.array([float(row["score"]) for row in rows])


@pytest.fixture(scope="module")
def results(shared_real: Path) -> Path:
    return shared_real / "official_scores"


def test_every_official_file_is_looked_at(results: Path) -> None:
    assert {path.stem for path in results.glob("*.csv")} == {*ONE_STAGE, *TWO_STAGE}


@pytest.mark.parametrize("name", ONE_STAGE)
def test_every_row_of_a_one_stage_file_gives_its_score(name: str, results: Path) -> None:
    scores, final = read(results, name)
    assert len(final) == 12146
    np.testing.assert_allclose(epdms(scores), final, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "suffix"), [(TWO_STAGE[0], "_stage_one"), (TWO_STAGE[0], "_stage_two"), (TWO_STAGE[1], "_stage_two")]
)
def test_every_row_of_a_two_stage_file_gives_its_score(name: str, suffix: str, results: Path) -> None:
    scores, final = read(results, name, suffix)
    assert len(final) == (450 if suffix == "_stage_one" else 5462)
    np.testing.assert_allclose(epdms(scores), final, rtol=0, atol=1e-12)


def test_rows_from_before_the_filters_repair_are_explained_by_unfiltered_sub_scores(results: Path) -> None:
    scores, final = read(results, TWO_STAGE[1], "_stage_one")
    wrong = np.flatnonzero(np.abs(epdms(scores) - final) > 1e-9)
    assert len(wrong) == 67
    for row in wrong:
        one = {part: np.array(getattr(scores, part)[row]) for part in SubScores.names()}
        unfiltered = (
            SubScores(**one | dict.fromkeys(failed, np.zeros(())), has_earlier_frame=scores.has_earlier_frame[row])
            for count in range(1, len(FILTERED) + 1)
            for failed in combinations(FILTERED, count)
        )
        assert any(abs(epdms(candidate) - final[row]) < 1e-9 for candidate in unfiltered)
