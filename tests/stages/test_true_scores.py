from pathlib import Path

import numpy as np
import pytest

from irlvla.data.scenes import SceneSet, human_plan, open_scenes
from irlvla.scoring.score import score_frames
from irlvla.stages.true_scores import EgoStart, JudgePool, TrueScorer, judge, plans_comfort
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
