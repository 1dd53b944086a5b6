"""The report stands alone, shows what was measured, and says so where something is missing."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from irlvla.data.scenes import SceneSet, open_scenes
from irlvla.errors import DataError, RunError
from irlvla.evaluation.policies import ConstantVelocity, Human
from irlvla.evaluation.report import choose_scenes, load_curves, rank_correlation, write_report
from irlvla.evaluation.results import PolicyScores, Results, write_results
from irlvla.scoring.epdms import epdms
from irlvla.types import SceneFailure, SubScores


@pytest.fixture(scope="module")
def scenes(golden: Path) -> SceneSet:
    return open_scenes(golden / "alpha", "test")[::12]


@pytest.fixture(scope="module")
def results(scenes: SceneSet) -> Results:
    """Made-up scores of two drivers with two training runs each, and the human."""
    tokens, rng = tuple(scenes.tokens), np.random.default_rng(1)
    log_names = tuple(scenes.log_name(token) for token in tokens)
    listed = list(scenes)
    scores = []
    for name, seed, share, policy in (
        ("human", None, 0.98, Human()),
        ("imitation", 0, 0.7, ConstantVelocity()),
        ("imitation", 1, 0.7, ConstantVelocity()),
        ("ppo", 0, 0.9, ConstantVelocity()),
        ("ppo", 1, 0.9, ConstantVelocity()),
    ):
        values = {part: (rng.uniform(size=len(tokens)) < share).astype(float) for part in SubScores.names()}
        parts = SubScores(**values, has_earlier_frame=rng.uniform(size=len(tokens)) < 0.5)
        reward = None if seed is None else epdms(parts) + rng.normal(0, 0.05, len(tokens))
        plans = policy.plan(listed)
        scores.append(PolicyScores(name, seed, tokens, log_names, plans, parts, parts, epdms(parts), reward))
    stamps = {"metric": "epdms-2.2", "split": "world-test", "commit": "0123456789abcdef", "hardware": "two cores"}
    return Results(stamps, tuple(scores), (SceneFailure("lost-scene", "image <is> damaged", "plan"),))


@pytest.fixture
def ppo_run(tmp_path: Path) -> Path:
    run = tmp_path / "ppo"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"stage": "ppo", "seed": 0}))
    lines = [json.dumps({"step": k, "reward": 0.5 + 0.01 * k, "kl": 0.01}) for k in range(1, 30)]
    for step, share in ((0, 0.9), (29, 0.7)):
        watch = {
            "predicted_reward": 0.6,
            "true_epdms": share,
            "true/lane_keeping": share,
            "predicted/lane_keeping": 0.9,
        }
        lines.insert(step, json.dumps({"step": step} | {f"watch/{name}": value for name, value in watch.items()}))
    (run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 30, "rew')
    return run


def test_page_stands_alone(results: Results, scenes: SceneSet, tmp_path: Path) -> None:
    page = write_report(results, tmp_path / "report.html", scenes=scenes).read_text(encoding="utf-8")
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert all(address.startswith("data:") for address in addresses)
    assert set(re.findall(r"https?://[^\"\s<]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "<script" not in page
    assert not list(tmp_path.glob(".*")), "no unfinished file is left behind"


def test_page_names_policies_stamps_scores_and_failures(results: Results, scenes: SceneSet, tmp_path: Path) -> None:
    page = write_report(results, tmp_path / "report.html", scenes=scenes, scenes_a_group=1).read_text(encoding="utf-8")
    for text in ("imitation", "ppo", "human", "epdms-2.2", "world-test", "0123456789ab", "two cores", "lost-scene"):
        assert text in page
    assert "image &lt;is&gt; damaged" in page
    mean = 100 * np.mean([run.epdms.mean() for run in results.runs_of("ppo")])
    assert f"{mean:.1f}" in page
    assert "runs" in page
    assert "Is the reward being hacked?" in page


def test_scenes_without_images_say_so_and_still_show_the_street(
    results: Results, scenes: SceneSet, tmp_path: Path
) -> None:
    page = write_report(results, tmp_path / "report.html", scenes=scenes, scenes_a_group=1).read_text(encoding="utf-8")
    assert "No camera images" in page or "names no camera images" in page
    assert page.count('class="bev"') == page.count("<article") == 3


def test_answers_in_words_stand_beside_their_scenes(results: Results, scenes: SceneSet, tmp_path: Path) -> None:
    page = write_report(
        results,
        tmp_path / "report.html",
        scenes=scenes,
        scenes_a_group=1,
        answer=lambda asked: [f"I keep my speed in {scene.token} & look." for scene in asked],
    ).read_text(encoding="utf-8")
    assert page.count("I keep my speed in") == 3
    assert "&amp; look." in page
    assert "What is your driving decision" in page


def test_report_reads_a_written_evaluation(results: Results, tmp_path: Path) -> None:
    write_results(results, tmp_path / "evaluation")
    page = write_report(tmp_path / "evaluation", tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<article" not in page
    assert "EPDMS of ppo" in page


def test_report_of_one_policy_needs_no_reference(results: Results, scenes: SceneSet, tmp_path: Path) -> None:
    alone = replace(results, scores=results.scores[:1], failures=())
    page = write_report(alone, tmp_path / "report.html", scenes=scenes, scenes_a_group=1).read_text(encoding="utf-8")
    assert "EPDMS of human" in page
    assert "Worst scenes" in page
    assert "against imitation" not in page


def test_training_curves_survive_a_half_written_line(ppo_run: Path, results: Results, tmp_path: Path) -> None:
    curves = load_curves(ppo_run)
    assert curves.stage == "ppo"
    assert curves.columns["reward"][0][-1] == 29
    page = write_report(results, tmp_path / "report.html", runs={"ppo": ppo_run}).read_text(encoding="utf-8")
    assert "PPO: reward of its trial plans" in page


def test_falling_sub_score_shows_although_the_reward_does_not_see_it(
    ppo_run: Path, results: Results, tmp_path: Path
) -> None:
    page = write_report(results, tmp_path / "report.html", runs={"ppo": ppo_run}).read_text(encoding="utf-8")
    assert '<td>lane keeping</td><td class="lost">90.0 → 70.0</td><td>90.0 → 90.0</td>' in page
    assert "During PPO: predicted reward and true EPDMS" in page


def test_what_the_reward_model_knows_comes_from_its_run(results: Results, tmp_path: Path) -> None:
    run = tmp_path / "reward"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"stage": "reward", "seed": 0}))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    figures = {"area_under_curve": 0.97}
    group = {
        "plans": 1234,
        "rank_correlation": 0.88,
        "best_of_n_regret": 0.02,
        "mean_absolute_error": 0.05,
        "sub_scores": {"no_at_fault_collisions": figures, "lane_keeping": {"area_under_curve": None}},
    }
    (run / "report.json").write_text(json.dumps({"held_out_logs": {"scenes": 9, "all_kinds": group}}))
    page = write_report(results, tmp_path / "report.html", runs={"reward": run}).read_text(encoding="utf-8")
    assert "What the reward world model knows" in page
    for text in ("1,234", "0.88", "0.97"):
        assert f"<td>{text}</td>" in page


def test_missing_run_says_what_to_do(results: Results, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        write_report(results, tmp_path / "report.html", runs={"ppo": tmp_path})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match="no metrics"):
        load_curves(tmp_path)
    with pytest.raises(DataError, match="irlvla evaluate"):
        write_report(tmp_path, tmp_path / "report.html")


def test_chosen_scenes_are_gains_losses_and_typical_from_many_logs() -> None:
    gains = np.array([0.9, 0.8, 0.7, 0.0, 0.0, -0.5, -0.4, 0.0])
    logs = ["a", "a", "b", "c", "d", "e", "e", "f"]
    chosen = choose_scenes(gains, logs, 2)
    assert chosen["gains"] == [0, 2], "the second scene of log a gives way to another log"
    assert chosen["losses"] == [5, 6], "one log is better than nothing"
    assert not set(chosen["typical"]) & {0, 2, 5, 6}
    assert len(chosen["typical"]) == 2


def test_nothing_gained_means_no_gains_to_show() -> None:
    chosen = choose_scenes(np.zeros(4), ["a", "b", "c", "d"], 3)
    assert (chosen["gains"], chosen["losses"], len(chosen["typical"])) == ([], [], 3)


def test_rank_correlation_of_a_constant_is_undefined() -> None:
    assert rank_correlation(np.array([1.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0])) is None
    assert rank_correlation(np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0])) == -1.0
