"""Two-stage evaluation on golden scenes, against the official devkit's own summary."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from irlvla.data.plans import load_plans, write_plans
from irlvla.data.scenes import SceneSet, open_scenes
from irlvla.errors import DataError, SceneDataError
from irlvla.evaluation.evaluate import evaluate, first_scenes
from irlvla.evaluation.policies import ConstantVelocity, Human, PdmClosed, PlansFile
from irlvla.evaluation.report import write_report
from irlvla.evaluation.results import Results, load_results, write_results
from irlvla.evaluation.table import make_rows, render_markdown, render_terminal
from irlvla.scoring.context import ScoringContext, build_contexts
from irlvla.types import Array, Scene, SubScores

Contexts = dict[str, ScoringContext]


@pytest.fixture(scope="module")
def scenes(golden: Path) -> SceneSet:
    return open_scenes(golden / "beta", golden / "beta" / "two_stage" / "train_test_split.yaml")


@pytest.fixture(scope="module")
def contexts(scenes: SceneSet) -> Contexts:
    built, failures = build_contexts(scenes)
    assert not failures
    return built


@pytest.fixture(scope="module")
def results(golden: Path, scenes: SceneSet, contexts: Contexts) -> Results:
    driver = PlansFile(golden / "beta" / "two_stage" / "plans.npz")
    return evaluate([driver, ConstantVelocity(), PdmClosed(contexts)], scenes, contexts)


@pytest.fixture(scope="module")
def official(golden: Path) -> dict[str, dict[str, str]]:
    with (golden / "beta" / "two_stage" / "official_0.csv").open(newline="", encoding="utf-8") as file:
        return {row["token"]: row for row in csv.DictReader(file)}


def test_stages_and_their_product_equal_the_official_summary(
    results: Results, official: dict[str, dict[str, str]]
) -> None:
    row = make_rows(results)[0]
    assert row.stages is not None
    assert row.sub_scores_stage_two is not None
    one, two = (official[f"extended_pdm_score_stage_{stage}"] for stage in ("one", "two"))
    assert row.stages[0].estimate == pytest.approx(float(one["score"]), abs=1e-6)
    assert row.stages[1].estimate == pytest.approx(float(two["score"]), abs=1e-6)
    combined = float(official["extended_pdm_score_combined"]["score"])
    assert row.epdms.estimate == pytest.approx(combined, abs=1e-6)
    for name in SubScores.names():
        assert row.sub_scores[name] == pytest.approx(float(one[f"{name}_stage_one"]), abs=1e-6)
        assert row.sub_scores_stage_two[name] == pytest.approx(float(two[f"{name}_stage_two"]), abs=1e-6)


def test_every_scene_has_the_official_score(results: Results, official: dict[str, dict[str, str]]) -> None:
    driver = results.scores[0]
    assert len(driver.tokens) == 16
    for token, score in zip(driver.tokens, driver.epdms, strict=True):
        assert score == pytest.approx(float(official[token]["score"]), abs=1e-6)


def test_figures_say_that_they_are_of_two_stages(results: Results) -> None:
    assert {key: results.stamps[key] for key in ("stage", "traffic", "groups", "scenes")} == {
        "stage": "two",
        "traffic": "reactive",
        "groups": 2,
        "scenes": 16,
    }


def test_follow_ups_stand_under_the_log_they_follow(scenes: SceneSet, results: Results) -> None:
    for now, earlier, pairs in results.groups:
        rows = [results.tokens.index(token) for token in (now, earlier, *(t for pair in pairs for t in pair))]
        assert {results.log_names[row] for row in rows} == {scenes.log_name(now)}


def test_table_shows_both_stages_with_intervals(results: Results) -> None:
    rows = make_rows(results, "constant velocity")
    header, _, *lines = render_markdown(rows, "constant velocity").splitlines()
    assert header.startswith(
        "| policy | EPDMS [95 %] | stage one [95 %] | stage two [95 %] | Δ constant velocity [95 %]"
    )
    assert len(lines) == 3
    assert all(line.count("|") == header.count("|") for line in lines)
    assert " / " in lines[0]
    clusters = len({results.log_names[group.now] for group in results.group_rows()})
    for row in rows:
        assert row.stages is not None
        assert row.epdms.logs == clusters
        assert row.stages[0].estimate >= row.epdms.estimate
    text = [str(column.header) for column in render_terminal(rows).columns[1:]]
    assert text == [row.policy for row in rows]


def test_two_stage_results_come_back_from_disk_as_they_were(results: Results, tmp_path: Path) -> None:
    write_results(results, tmp_path)
    back = load_results(tmp_path)
    assert back.groups == results.groups
    for before, after in zip(results.scores, back.scores, strict=True):
        np.testing.assert_array_equal(before.weights, after.weights)  # type: ignore[arg-type]
    assert make_rows(back) == make_rows(results)
    document = json.loads((tmp_path / "results.json").read_text())
    document["groups"] = [["now"]]
    (tmp_path / "results.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="damaged"):
        load_results(tmp_path)


def test_a_scene_without_a_plan_costs_its_group_and_says_so(
    golden: Path, scenes: SceneSet, contexts: Contexts, tmp_path: Path
) -> None:
    table = load_plans(golden / "beta" / "two_stage" / "plans.npz")
    now, _, pairs = scenes.split.mapping[0]
    kept = [row for row, token in enumerate(table.tokens) if token != pairs[1][0]]
    write_plans(tmp_path / "plans.npz", [table.tokens[row] for row in kept], table.poses[kept])
    results = evaluate([PlansFile(tmp_path / "plans.npz"), ConstantVelocity()], scenes, contexts)
    assert [group[0] for group in results.groups] == [scenes.split.mapping[1][0]]
    reasons = {failure.token: failure.reason for failure in results.failures}
    assert "holds no plan" in reasons[pairs[1][0]]
    assert pairs[1][0] in reasons[now]
    assert len(results.failures) == 8
    assert not set(reasons) & set(results.tokens)


def test_traffic_that_cannot_be_simulated_costs_its_group(
    scenes: SceneSet, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    from irlvla.evaluation import two_stage

    _, earlier, _ = scenes.split.mapping[1]
    real = two_stage.traffic_start

    def start(scenes: SceneSet, context: ScoringContext) -> object:
        if context.token == earlier:
            raise SceneDataError(context.token, "a vehicle cannot follow its lane")
        return real(scenes, context)

    monkeypatch.setattr(two_stage, "traffic_start", start)
    results = evaluate([ConstantVelocity()], scenes, contexts)
    assert [group[0] for group in results.groups] == [scenes.split.mapping[0][0]]
    assert {f.token: f.reason for f in results.failures}[earlier] == "a vehicle cannot follow its lane"


def test_nobody_drove_in_a_follow_up_scene(scenes: SceneSet, contexts: Contexts) -> None:
    with pytest.raises(DataError, match=r"no two-stage group.*can be evaluated"):
        evaluate([Human()], scenes, contexts)


def test_max_scenes_takes_whole_groups(scenes: SceneSet, contexts: Contexts) -> None:
    assert len(first_scenes(scenes, 3)) == 8
    assert len(first_scenes(scenes, 15)) == 8
    assert len(first_scenes(scenes, 16)) == 16
    results = evaluate([ConstantVelocity()], first_scenes(scenes, 8), contexts)
    assert len(results.groups) == 1
    (row,) = make_rows(results)
    assert row.epdms.low is None, "one log has no spread"


def test_weights_depend_on_where_each_policys_plan_ends(scenes: SceneSet, contexts: Contexts) -> None:
    now, _, pairs = scenes.split.mapping[0]

    class Ending:
        """Ends its first-stage plan where one of the follow-up scenes starts."""

        def __init__(self, choice: int) -> None:
            self.name, self.choice = f"ending {choice}", choice

        def plan(self, listed: Sequence[Scene]) -> Array:
            from irlvla.geometry import world_to_ego

            poses = ConstantVelocity().plan(listed)
            for row, scene in enumerate(listed):
                if scene.token == now:
                    start = scenes.by_token(pairs[self.choice][0]).now.ego_pose_world
                    poses[row, -1] = world_to_ego(start, scene.now.ego_pose_world)
            return poses

    results = evaluate([Ending(0), Ending(2)], scenes, contexts)
    rows = [results.tokens.index(later) for later, _ in pairs]
    for scores, choice in zip(results.scores, (0, 2), strict=True):
        assert scores.weights is not None
        assert scores.weights[rows].sum() == pytest.approx(1.0)
        assert np.argmax(scores.weights[rows]) == choice


def test_page_shows_both_stages(results: Results, scenes: SceneSet, tmp_path: Path) -> None:
    few = replace(results, scores=results.scores[1:])
    page = write_report(
        few, tmp_path / "report.html", scenes=scenes, subject="PDM-Closed", reference="constant velocity"
    ).read_text(encoding="utf-8")
    assert "<th>stage one</th><th>stage two</th>" in page
    assert "scenes that follow" in page
    assert page.count("<article") >= 2
