from pathlib import Path

import numpy as np
import pytest

from irlvla.data.reposed import StartOffset
from irlvla.data.scenes import SceneSet, human_plan, open_scenes
from irlvla.scoring.epdms import epdms
from irlvla.scoring.score import score_frames
from irlvla.stages.true_scores import EgoStart, JudgePool, ReposedPlans, TrueScorer, judge, plans_comfort
from irlvla.types import SubScores


@pytest.fixture(scope="module")
def scenes(golden: Path) -> SceneSet:
    return open_scenes(golden / "alpha", "test")[:6]


def plans_of(scenes: SceneSet) -> np.ndarray:
    human = np.stack([human_plan(scene) for scene in scenes])
    return np.stack([human, human * [1.4, 1.0, 1.0], human + np.array([0.0, 2.5, 0.0])], axis=1)


def test_scores_with_an_earlier_frame_equal_the_scorer_of_successive_frames(scenes: SceneSet) -> None:
    plans = plans_of(scenes)
    scorer = TrueScorer(scenes.root, list(scenes))
    rows = list(range(len(scenes)))
    earlier = [-1, *rows[:-1]]
    before = np.stack([plans[row, 0] if row >= 0 else np.zeros((8, 3)) for row in earlier])
    ours = scorer.score(rows, plans, earlier, before)
    official = score_frames([scorer.context(row) for row in rows], plans[:, 0], np.array(earlier))
    for name in (*SubScores.names(), "has_earlier_frame"):
        np.testing.assert_array_equal(getattr(ours, name)[:, 0], getattr(official, name), err_msg=name)


def test_exact_comfort_needs_no_map_and_equals_the_scorer(scenes: SceneSet) -> None:
    plans = plans_of(scenes)
    scorer = TrueScorer(scenes.root, list(scenes))
    starts = [EgoStart.of(scorer.context(row)) for row in range(len(scenes))]
    restored = [EgoStart.from_arrays(*start.to_arrays()) for start in starts]
    comfort, _ = plans_comfort(restored, plans)
    scores = scorer.score(list(range(6)), plans, [-1] * 6, np.zeros((6, 8, 3)))
    np.testing.assert_array_equal(comfort, scores.history_comfort)
    assert 0 < comfort.mean() < 1


def test_judges_in_other_processes_give_the_same_verdicts_in_the_callers_order(scenes: SceneSet) -> None:
    plans = plans_of(scenes)
    here = judge(scenes.root, [10, 11, 12], list(scenes[:3]), plans[:3])
    with JudgePool(scenes.root, workers=1) as pool:
        there = pool.submit([10, 11, 12], list(scenes[:3]), plans[:3]).result()
    assert here.rows == there.rows == [10, 11, 12]
    for name in SubScores.names():
        np.testing.assert_array_equal(getattr(here.sub_scores, name), getattr(there.sub_scores, name))


def test_a_start_moved_nowhere_is_judged_as_the_logged_one(scenes: SceneSet) -> None:
    plans = plans_of(scenes)
    nowhere = [[ReposedPlans(StartOffset(0.0, 0.0, 0.0, 1.0), "a", of_scene)] for of_scene in plans]
    verdicts = judge(scenes.root, list(range(6)), list(scenes), plans, nowhere)
    for row, (again,) in enumerate(verdicts.reposed):
        assert again is not None
        for name in SubScores.names():
            logged = getattr(verdicts.sub_scores, name)[row]
            np.testing.assert_allclose(getattr(again, name), logged, atol=1e-3, err_msg=name)


def test_the_same_way_is_worth_less_from_a_crooked_start(scenes: SceneSet) -> None:
    plans = plans_of(scenes)[:, :1]
    crooked = [[ReposedPlans(StartOffset(0.0, 1.5, 0.5, 1.3), "a", of_scene)] for of_scene in plans]
    verdicts = judge(scenes.root, list(range(6)), list(scenes), plans, crooked)
    elsewhere = np.stack([epdms(again) for (again,) in verdicts.reposed if again is not None])
    assert elsewhere.mean() < epdms(verdicts.sub_scores).mean()
