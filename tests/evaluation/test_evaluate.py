"""Evaluation on golden scenes with the real scorer, against the official devkit's own final scores."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from irlvla.data.maps import load_map
from irlvla.data.plans import load_plans, write_plans
from irlvla.data.scenes import SceneSet, open_scenes
from irlvla.errors import ConfigError, DataError, RunError, SceneDataError
from irlvla.evaluation.evaluate import evaluate
from irlvla.evaluation.policies import ConstantVelocity, Human, LearnedPolicy, PdmClosed, PlansFile, plans_files
from irlvla.evaluation.results import Results, load_results, write_results
from irlvla.evaluation.table import make_rows, render_markdown, render_terminal
from irlvla.scoring.context import ScoringContext, build_context
from irlvla.types import Array, Scene, SubScores

Contexts = dict[str, ScoringContext]


@pytest.fixture(scope="module")
def adjacent(golden: Path) -> SceneSet:
    """All frames of four logs, the scenes of the official one-stage run with extended comfort."""
    tokens = load_plans(golden / "beta" / "plans_adjacent_frames.npz").tokens
    return open_scenes(golden / "beta", "test").subset(tokens)


@pytest.fixture(scope="module")
def contexts(adjacent: SceneSet) -> Contexts:
    return {scene.token: build_context(scene, load_map(adjacent.root, scene.map_location)) for scene in adjacent}


@pytest.fixture(scope="module")
def official(golden: Path, adjacent: SceneSet, contexts: Contexts, tmp_path_factory: pytest.TempPathFactory) -> Results:
    policies = plans_files(golden / "beta" / "plans_adjacent_frames.npz")
    return evaluate(policies, adjacent, contexts, out=tmp_path_factory.mktemp("evaluation"), stamps={"seed": 3})


class Half:
    """A driver that sees nothing coming: half the present speed; stands in for a trained one with a seed."""

    name = "half"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def plan(self, scenes: Sequence[Scene]) -> Array:
        return ConstantVelocity().plan(scenes) * [0.5 + 0.01 * self.seed, 1, 1]


def test_final_scores_equal_the_official_one_stage_script(golden: Path, official: Results) -> None:
    table = pq.read_table(golden / "beta" / "official_adjacent_frames.parquet").to_pylist()
    rows = {(row["token"], row["name"]): row for row in table}
    compared = 0
    for scores in official.scores:
        for index, token in enumerate(scores.tokens):
            row = rows[token, scores.policy]
            assert scores.epdms[index] == pytest.approx(row["score"], abs=1e-6), (scores.policy, token)
            paired = row["two_frame_extended_comfort"] is not None and not np.isnan(row["two_frame_extended_comfort"])
            assert scores.filtered.has_earlier_frame[index] == paired
            compared += 1
    assert compared == len(table) == 432


def test_raw_sub_scores_are_those_before_the_human_filter(golden: Path, official: Results) -> None:
    table = pq.read_table(golden / "beta" / "official_adjacent_frames.parquet").to_pylist()
    rows = {(row["token"], row["name"]): row for row in table}
    differ = 0
    for scores in official.scores:
        for name in ("no_at_fault_collisions", "drivable_area_compliance", "lane_keeping"):
            for index, token in enumerate(scores.tokens):
                assert getattr(scores.raw, name)[index] == rows[token, scores.policy][f"{name}_raw"]
            differ += int((getattr(scores.raw, name) != getattr(scores.filtered, name)).sum())
    assert differ > 0, "the filter must have something to lift in these scenes"


def test_results_come_back_from_disk_as_they_were(official: Results, tmp_path: Path) -> None:
    predicted = replace(official.scores[0], seed=5, predicted_reward=np.linspace(0, 1, len(official.tokens)))
    write_results(replace(official, scores=(*official.scores, predicted)), tmp_path)
    back = load_results(tmp_path)
    assert back.policies == official.policies
    assert back.stamps["seed"] == 3
    assert {p.name for p in tmp_path.iterdir()} >= {"results.json", "human.parquet", "human.seed-5.parquet"}
    for before, after in zip((*official.scores, predicted), back.scores, strict=True):
        assert (before.tokens, before.log_names, before.seed) == (after.tokens, after.log_names, after.seed)
        np.testing.assert_array_equal(before.poses, after.poses)
        np.testing.assert_array_equal(before.epdms, after.epdms)
        for name in (*SubScores.names(), "has_earlier_frame"):
            np.testing.assert_array_equal(getattr(before.filtered, name), getattr(after.filtered, name))
            np.testing.assert_array_equal(getattr(before.raw, name), getattr(after.raw, name))
    np.testing.assert_array_equal(back.scores[-1].predicted_reward, predicted.predicted_reward)
    assert back.scores[0].predicted_reward is None


def test_every_file_is_stamped(official: Results, tmp_path: Path) -> None:
    write_results(official, tmp_path)
    stamps = json.loads(pq.read_schema(tmp_path / "human.parquet").metadata[b"irlvla"])
    assert {"metric", "split", "stage", "traffic", "human_filter", "commit", "versions", "hardware"} <= set(stamps)
    assert json.loads((tmp_path / "results.json").read_text())["stamps"] == stamps


def test_baselines_are_ordered_as_one_expects(adjacent: SceneSet, contexts: Contexts) -> None:
    results = evaluate([ConstantVelocity(), Human(), PdmClosed(contexts)], adjacent, contexts)
    rows = {row.policy: row for row in make_rows(results, "constant velocity")}
    assert rows["human"].epdms.estimate > rows["PDM-Closed"].epdms.estimate > rows["constant velocity"].epdms.estimate
    assert rows["constant velocity"].difference is None
    assert rows["human"].difference is not None
    assert rows["human"].difference.logs == len(set(results.log_names))
    assert results.scores[2].poses.shape[1] == 40
    assert rows["human"].sub_scores["ego_progress"] < 1, "progress is measured against the rule-based planner"


def test_runs_of_one_policy_make_one_row_over_seeds(adjacent: SceneSet, contexts: Contexts) -> None:
    results = evaluate([ConstantVelocity(), Half(1), Half(0)], adjacent, contexts)
    assert [run.seed for run in results.runs_of("half")] == [0, 1]
    rows = make_rows(results, "constant velocity")
    assert [(row.policy, row.runs) for row in rows] == [("constant velocity", 1), ("half", 2)]
    text = render_markdown(rows, "constant velocity")
    assert text.count("\n") == 4
    assert "Δ constant velocity [95 %]" in text.splitlines()[0]
    assert "runs" in text.splitlines()[0]
    assert [str(column.header) for column in render_terminal(rows).columns[1:]] == [row.policy for row in rows]


def test_scene_without_a_plan_is_left_out_for_all_and_reported(
    golden: Path, adjacent: SceneSet, contexts: Contexts, tmp_path: Path
) -> None:
    table = load_plans(golden / "beta" / "plans_adjacent_frames.npz")
    kept = [i for i, name in enumerate(table.names) if name == "cv" and table.tokens[i] != adjacent.tokens[5]]
    write_plans(tmp_path / "plans.npz", [table.tokens[i] for i in kept], table.poses[kept])
    results = evaluate([PlansFile(tmp_path / "plans.npz"), Human()], adjacent, contexts)
    assert [failure.token for failure in results.failures] == [adjacent.tokens[5]]
    assert "holds no plan" in results.failures[0].reason
    assert all(adjacent.tokens[5] not in scores.tokens for scores in results.scores)
    later = results.tokens.index(adjacent.tokens[6])
    assert not results.scores[1].filtered.has_earlier_frame[later], "its predecessor is not there to compare with"


def test_scene_without_context_is_reported(adjacent: SceneSet, contexts: Contexts) -> None:
    few = adjacent[:4]
    without = {token: contexts[token] for token in few.tokens[1:]}
    results = evaluate([Human()], few, without)
    assert [failure.token for failure in results.failures] == few.tokens[:1]
    with pytest.raises(DataError, match="can be evaluated"):
        evaluate([Human()], few, {})


def test_plan_with_nan_fails_its_scene_only(adjacent: SceneSet, contexts: Contexts) -> None:
    class Broken(Half):
        def plan(self, scenes: Sequence[Scene]) -> Array:
            poses = super().plan(scenes)
            for index, scene in enumerate(scenes):
                if scene.token == adjacent.tokens[2]:
                    poses[index, 3, 1] = np.nan
            return poses

    results = evaluate([Broken(0)], adjacent[:5], contexts)
    assert [(f.token, f.stage) for f in results.failures] == [(adjacent.tokens[2], "plan")]
    assert len(results.tokens) == 4


def test_predicted_reward_stands_beside_the_true_score(adjacent: SceneSet, contexts: Contexts) -> None:
    class ComfortAlone:
        """Expects nothing but comfort, which it is told exactly."""

        def predict(
            self,
            scenes: Sequence[Scene],
            plans: Array,
            history_comfort: Array | None = None,
            extended_comfort: Array | None = None,
            has_earlier_frame: np.ndarray | None = None,
        ) -> Array:
            assert plans.shape == (len(scenes), 2, 8, 3)
            assert history_comfort is not None
            assert extended_comfort is not None
            assert has_earlier_frame is not None
            return (history_comfort + extended_comfort * has_earlier_frame[:, None]) / 2

    few = adjacent[:40]
    results = evaluate([Human(), PdmClosed(contexts)], few, contexts, reward=ComfortAlone())
    for scores in results.scores:
        exact = (scores.raw.history_comfort + scores.raw.two_frame_extended_comfort) / 2
        np.testing.assert_allclose(scores.predicted_reward, exact)  # type: ignore[arg-type]
    assert "predicted" in render_markdown(make_rows(results))


def test_policies_that_cannot_be_told_apart_are_refused(adjacent: SceneSet, contexts: Contexts) -> None:
    with pytest.raises(ConfigError, match="another name"):
        evaluate([Human(), Human()], adjacent, contexts)
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        evaluate([], adjacent, contexts)


def test_constant_velocity_goes_straight_at_the_present_speed(adjacent: SceneSet) -> None:
    scene = adjacent[0]
    speed_mps = np.hypot(*scene.now.ego_velocity_mps)
    (plan,) = ConstantVelocity().plan([scene])
    np.testing.assert_allclose(plan[-1], [4 * speed_mps, 0, 0])
    np.testing.assert_allclose(np.diff(plan[:, 0]), 0.5 * speed_mps)


def test_plans_file_with_several_names_wants_one_chosen(golden: Path) -> None:
    path = golden / "beta" / "plans_adjacent_frames.npz"
    with pytest.raises(DataError, match="choose one"):
        PlansFile(path)
    with pytest.raises(DataError, match="no plan named 'ppo'"):
        PlansFile(path, "ppo")
    assert {policy.name for policy in plans_files(path)} == {"human", "cv", "pert0", "pert1"}


def test_two_plans_for_one_scene_are_refused(tmp_path: Path) -> None:
    write_plans(tmp_path / "plans.npz", ["a", "a"], np.zeros((2, 8, 3)))
    with pytest.raises(DataError, match="two plans"):
        PlansFile(tmp_path / "plans.npz")


def test_plan_of_unknown_scene_names_the_file(tmp_path: Path, adjacent: SceneSet) -> None:
    write_plans(tmp_path / "plans.npz", ["a"], np.zeros((1, 8, 3)))
    with pytest.raises(SceneDataError, match="holds no plan"):
        PlansFile(tmp_path / "plans.npz").plan([adjacent[0]])


def test_folder_without_finished_run_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        LearnedPolicy(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match="not finished"):
        LearnedPolicy(tmp_path)


def test_folder_without_results_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="irlvla evaluate"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text('{"stamps": {}, "policies": [{"policy": "a"}], "failures": []}')
    with pytest.raises(DataError, match="damaged"):
        load_results(tmp_path)
