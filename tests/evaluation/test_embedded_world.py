"""Trained drivers and pictures on the embedded world: everything real but the training."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from irlvla.data.scenes import SceneSet, human_plan, open_scenes
from irlvla.data.sensors import load_image
from irlvla.errors import SceneDataError
from irlvla.evaluation.draw import HUMAN_COLOUR, DrawnPlan, draw_camera
from irlvla.evaluation.evaluate import evaluate
from irlvla.evaluation.policies import BestOfN, ConstantVelocity, Human, LearnedPolicy, LearnedReward, PdmClosed
from irlvla.evaluation.report import write_report
from irlvla.evaluation.results import load_results
from irlvla.evaluation.table import make_rows
from irlvla.model.config import ModelConfig
from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.language import train_tokenizer
from irlvla.model.plan_space import PlanSpace
from irlvla.model.reward import RewardWorldModel
from irlvla.scoring.context import build_contexts
from irlvla.types import INSTRUCTION, Array, Policy, Scene

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scenes(small_world: Path) -> SceneSet:
    return open_scenes(small_world, "test")


@pytest.fixture(scope="module")
def driver(scenes: SceneSet, tmp_path_factory: pytest.TempPathFactory) -> LearnedPolicy:
    """An untrained driver of the tiny size, from disk."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ModelConfig()
    plans = np.stack([human_plan(scene) for scene in scenes])
    tokenizer = train_tokenizer([INSTRUCTION, "I keep my speed and my lane."], config.vocabulary)
    folder = tmp_path_factory.mktemp("driver") / "model"
    DrivingVLA(config, tokenizer, PlanSpace.fit(plans, config.plan_coefficients)).save_pretrained(folder)
    return LearnedPolicy(folder, name="ppo", device="cpu")


@pytest.fixture(scope="module")
def judge(driver: LearnedPolicy, tmp_path_factory: pytest.TempPathFactory) -> LearnedReward:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("judge") / "model"
    RewardWorldModel(driver.vla.config).save_pretrained(folder)
    return LearnedReward(folder, driver)


def test_pictures_have_boxes_and_plan_inside_and_differ_from_the_plain_image(scenes: SceneSet) -> None:
    marked = 0
    for scene in list(scenes)[:4]:
        camera = scene.now.cameras["CAM_F0"]
        image = load_image(camera)
        plan = DrawnPlan("human", human_plan(scene), HUMAN_COLOUR)
        plain = draw_camera(camera, image, width_px=960)
        drawn = draw_camera(camera, image, plans=[plan], boxes=scene.now.boxes, width_px=960)
        assert drawn.shape == (540, 960, 3)
        changed = np.abs(drawn.astype(int) - plain).sum(axis=-1) > 30
        marked += int(changed.sum())
        assert changed.mean() < 0.5, "the street must stay visible"
    assert marked > 2000


def test_drawn_plan_covers_the_road_it_follows(scenes: SceneSet) -> None:
    scene = max(scenes, key=lambda s: float(human_plan(s)[-1, 0]))
    camera = scene.now.cameras["CAM_F0"]
    image = load_image(camera)
    plan = DrawnPlan("human", human_plan(scene), "#ff0000")
    before = draw_camera(camera, image, width_px=960)
    changed = np.abs(draw_camera(camera, image, plans=[plan], width_px=960).astype(int) - before).sum(axis=-1) > 30
    covered = cv2.cvtColor(before, cv2.COLOR_RGB2HSV)[changed]
    assert np.median(covered[:, 1]) < 80, "asphalt is grey, grass and sky are not"


def test_learned_policy_sees_no_future(scenes: SceneSet, driver: LearnedPolicy) -> None:
    few = list(scenes)[:3]
    stripped = [Scene(s.token, s.log_name, s.map_location, s.history, s.instruction) for s in few]
    np.testing.assert_array_equal(driver.plan(few), driver.plan(stripped))


def test_plan_does_not_depend_on_the_batch(scenes: SceneSet, driver: LearnedPolicy) -> None:
    few = list(scenes)[:3]
    together, alone = driver.plan(few), driver.plan(few[1:2])
    np.testing.assert_allclose(together[1], alone[0], atol=1e-4)


def test_best_of_n_takes_what_the_reward_model_likes_best(
    scenes: SceneSet, driver: LearnedPolicy, judge: LearnedReward
) -> None:
    few = list(scenes)[:3]
    plans = driver.plans(few, 6)
    np.testing.assert_allclose(plans[:, 0], driver.plan(few), atol=1e-4)
    np.testing.assert_array_equal(plans, driver.plans(few, 6))
    best = BestOfN(driver, judge, candidates=6)
    chosen = best.plan(few)
    reward = judge.predict(few, plans)
    np.testing.assert_allclose(judge.predict(few, chosen[:, None])[:, 0], reward.max(axis=1), atol=1e-5)
    assert best.name == "ppo, best of 6"


def test_extended_comfort_counts_only_where_there_is_an_earlier_frame(
    scenes: SceneSet, driver: LearnedPolicy, judge: LearnedReward
) -> None:
    few = list(scenes)[:2]
    plans = driver.plan(few)[:, None]
    comfort = np.ones((2, 1))
    without = judge.predict(few, plans, comfort)
    mixed = judge.predict(few, plans, comfort, 0 * comfort, np.array([False, True]))
    assert mixed[0] == pytest.approx(without[0])
    assert mixed[1] == pytest.approx(without[1] * 14 / 16, abs=1e-6)


def test_missing_image_leaves_the_scene_out_and_names_the_file(
    scenes: SceneSet, driver: LearnedPolicy, small_world: Path
) -> None:
    contexts, failures = build_contexts(scenes)
    drivers: list[Policy] = [driver, Human()]
    image = scenes[1].now.cameras["CAM_F0"].image_path
    assert image is not None
    hidden = image.with_suffix(".hidden")
    image.rename(hidden)
    try:
        with pytest.raises(SceneDataError, match="CAM_F0"):
            driver.plan([scenes[1]])
        results = evaluate(drivers, scenes[:4], contexts, failures=failures)
    finally:
        hidden.rename(image)
    assert scenes[1].token not in results.tokens
    assert any(image.name in failure.reason for failure in results.failures)


def test_evaluation_ends_in_table_and_page_with_pictures_and_words(
    scenes: SceneSet, driver: LearnedPolicy, judge: LearnedReward, tmp_path: Path
) -> None:
    contexts, failures = build_contexts(scenes)
    policies: list[Policy] = [ConstantVelocity(), Human(), driver, BestOfN(driver, judge, 4)]
    results = evaluate(policies, scenes, contexts, reward=judge, failures=failures, out=tmp_path)
    assert load_results(tmp_path).policies == ("constant velocity", "human", "ppo", "ppo, best of 4")
    assert all(scores.predicted_reward is not None for scores in results.scores)

    def answer(asked: Sequence[Scene]) -> list[str]:
        return [said or "…" for said in driver.answer(asked)]

    page = write_report(
        results, tmp_path / "report.html", scenes=scenes, answer=answer, reference="human", scenes_a_group=1
    ).read_text(encoding="utf-8")
    assert page.count("<article") >= 2
    assert page.count("data:image/jpeg;base64,") == 3 * page.count("<article")
    assert page.count("<q>") == page.count("<article")


def test_trained_drivers_are_evaluated_in_two_stages_without_point_clouds_in_the_second(
    small_world: Path, driver: LearnedPolicy, judge: LearnedReward, tmp_path: Path
) -> None:
    hard = open_scenes(small_world, "world-hard")
    contexts, failures = build_contexts(hard)
    policies: list[Policy] = [ConstantVelocity(), PdmClosed(contexts), driver, BestOfN(driver, judge, 4)]
    results = evaluate(policies, hard, contexts, reward=judge, failures=failures, out=tmp_path)
    assert results.failures == ()
    assert len(results.groups) == len(hard.split.mapping)
    assert [scene.now.lidar_path is None for scene in hard] == [scene.is_synthetic for scene in hard]
    assert all(row.stages is not None and row.predicted_reward is not None for row in make_rows(results))
    page = write_report(
        results, tmp_path / "report.html", scenes=hard, subject="ppo", reference="PDM-Closed", scenes_a_group=1
    ).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 3 * page.count("<article")


def test_rewards_follow_plans_not_scene_order(scenes: SceneSet, driver: LearnedPolicy, judge: LearnedReward) -> None:
    few: list[Scene] = list(scenes)[:4]
    plans: Array = driver.plans(few, 3)
    forth = judge.predict(few, plans)
    back = judge.predict(few[::-1], plans[::-1])[::-1]
    np.testing.assert_allclose(forth, back, atol=1e-5)
