"""NAVSIM v1's score on hand-made scenes: where it differs from v2's, and that the two are never mixed up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scenes import Thing, cone_ahead, driving, empty_road, scene, straight_road

from irlvla.data.maps import load_map
from irlvla.data.scenes import SceneSet, open_scenes
from irlvla.errors import SceneDataError
from irlvla.scoring.comfort import comfort, history_comfort
from irlvla.scoring.context import ScoringContext, build_context, build_contexts
from irlvla.scoring.editions import NAVSIM_V1
from irlvla.scoring.pdms import PDMRolloutScores, pdms
from irlvla.scoring.reference import comfort as reference
from irlvla.scoring.reference import score as plain
from irlvla.scoring.reference.surroundings import surroundings
from irlvla.scoring.score import score, score_pdms, score_rollout, score_rollout_pdms, simulate_plans
from irlvla.types import Array, PDMSubScores


def scene_v1(*listed: Thing, **options: object) -> ScoringContext:
    return scene(*listed, edition=NAVSIM_V1, **options)  # type: ignore[arg-type]


def scored(context: ScoringContext, rollout: Array) -> PDMSubScores:
    return score_rollout_pdms(context, rollout[None])


def judged(*, collisions: float = 1.0, on_road: float = 1.0, progress_m: float = 20.0) -> PDMRolloutScores:
    one = np.ones(1)
    return PDMRolloutScores(one * collisions, one * on_road, one, one, one, one * progress_m)


def test_a_perfect_drive_scores_one() -> None:
    scores = scored(scene_v1(), driving(10.0))
    assert all(getattr(scores, name)[0] == 1.0 for name in PDMSubScores.names())
    assert pdms(scores)[0] == 1.0


@pytest.mark.parametrize(
    ("name", "lost"), [("ego_progress", 5 / 12), ("time_to_collision_within_bound", 5 / 12), ("comfort", 2 / 12)]
)
def test_what_each_weighted_sub_score_is_worth(name: str, lost: float) -> None:
    perfect = PDMSubScores(*np.ones((6, 1)))
    assert pdms(replace(perfect, **{name: np.zeros(1)}))[0] == pytest.approx(1.0 - lost)


def test_driving_direction_is_reported_but_has_no_weight() -> None:
    scores = scored(scene_v1(), driving(10.0, y=7.0))
    assert scores.driving_direction_compliance[0] == 0.0
    assert pdms(scores)[0] == 1.0


def test_driving_direction_is_not_forgiven_in_intersections() -> None:
    road = straight_road(intersection=True)
    assert scored(scene_v1(road=road), driving(10.0, y=7.0)).driving_direction_compliance[0] == 0.0
    assert score_rollout(scene(road=road), driving(10.0, y=7.0)[None]).driving_direction_compliance[0] == 1.0


def test_time_to_collision_is_watched_to_the_end_of_the_rollout() -> None:
    late = Thing("vehicle", x=50.0, from_step=44)
    assert scored(scene_v1(late), driving(10.0)).time_to_collision_within_bound[0] == 0.0
    assert score_rollout(scene(late), driving(10.0)[None]).time_to_collision_within_bound[0] == 1.0


def test_a_collision_after_the_rollout_is_none() -> None:
    late = Thing("vehicle", x=44.0, from_step=41)
    assert scored(scene_v1(late), driving(10.0)).no_at_fault_collisions[0] == 1.0


def test_hitting_a_cone_halves_progress_too() -> None:
    context = replace(scene_v1(Thing("traffic_cone", x=20.0, length=0.4, width=0.4)), pdm_progress_m=40.0)
    scores = scored(context, driving(10.0))
    assert scores.no_at_fault_collisions[0] == 0.5
    assert scores.ego_progress[0] == pytest.approx(0.5)
    assert score_rollout(cone_ahead(), driving(10.0)[None]).ego_progress[0] == 1.0


@pytest.mark.parametrize(
    ("scores", "reference_m", "expected"),
    [
        (judged(progress_m=10.0), 40.0, 0.25),
        (judged(progress_m=60.0), 40.0, 1.0),
        (judged(progress_m=10.0, on_road=0.0), 40.0, 0.0),
        (judged(progress_m=1.0), 5.0, 1.0),
        (judged(progress_m=4.0, on_road=0.0), 4.0, 0.0),
        (judged(progress_m=4.0, collisions=0.5), 4.0, 1.0),
        (judged(progress_m=60.0, on_road=0.0), 0.0, 0.0),
    ],
)
def test_progress_is_the_admissible_share(scores: PDMRolloutScores, reference_m: float, expected: float) -> None:
    assert scores.compared(reference_m, 1.0).ego_progress[0] == pytest.approx(expected)


def test_comfort_does_not_look_at_the_past() -> None:
    jolted = replace(scene_v1(), history_states=driving(10.0)[:14] + np.where(np.arange(11) == 5, 20.0, 0.0))
    assert scored(jolted, driving(10.0)).comfort[0] == 1.0
    assert history_comfort(jolted.history_states, driving(10.0)[None])[0] == 0.0


def test_a_short_jolt_hardly_shows_in_v1s_comfort() -> None:
    rollout = driving(10.0)
    rollout[18:22, 5] = 3.5
    assert comfort(rollout[None])[0] == 1.0
    assert history_comfort(driving(10.0)[:14], rollout[None])[0] == 0.0


def test_comfort_of_wobbling_drives_equals_the_plain_twin() -> None:
    rng = np.random.default_rng(4)
    scale = np.array([0, 0, 0.003, 0, 0, 0.5, 0.6, 0, 0, 0, 0])
    rollouts = driving(8.0) + np.cumsum(rng.normal(size=(300, 41, 11)), axis=1) * scale
    ours = comfort(rollouts)
    assert 0.05 < ours.mean() < 0.95
    np.testing.assert_array_equal(ours, [reference.comfort(rollout) for rollout in rollouts])


def test_contexts_of_the_two_editions_cannot_be_mixed_up() -> None:
    plans = np.zeros((1, 1, 8, 3))
    with pytest.raises(ValueError, match=r"navsim-2.2, build one for navsim-1.1"):
        score_pdms([empty_road()], plans)
    with pytest.raises(ValueError, match=r"navsim-1.1, build one for navsim-2.2"):
        score([scene_v1()], plans)


def test_nan_is_refused_by_name() -> None:
    plans = np.zeros((1, 2, 8, 3))
    plans[0, 1, 3, 2] = np.nan
    with pytest.raises(ValueError, match="plan 1 of scene 0"):
        score_pdms([scene_v1()], plans)


@pytest.fixture(scope="module")
def few(golden: Path) -> SceneSet:
    scenes = open_scenes(golden / "alpha", "test")
    return scenes.subset([scenes.tokens[i] for i in np.linspace(0, len(scenes) - 1, 8).astype(int)])


def test_fast_and_plain_sub_scores_are_equal_and_a_plan_scores_the_same_in_company(few: SceneSet) -> None:
    contexts, failures = build_contexts(few, edition=NAVSIM_V1)
    assert not failures
    below_one = dict.fromkeys(PDMSubScores.names(), 0)
    for token, context in contexts.items():
        rng = np.random.default_rng(int(token[:8], 16))
        drift = np.cumsum(rng.normal(size=(6, 8, 3)), axis=1) * [0.8, 0.4, 0.06] * np.linspace(0, 1, 6)[:, None, None]
        plans = context.human_plan + drift
        together = score_pdms([context], plans[None])
        around = surroundings(context)
        for i, rollout in enumerate(simulate_plans([context], plans[None]).states_world[0]):
            alone, slow = (
                score_pdms([context], plans[i][None, None]),
                plain.score_rollout_pdms(context, around, rollout),
            )
            for name in PDMSubScores.names():
                fast = getattr(together, name)[0, i]
                assert fast == getattr(alone, name)[0, 0]
                assert fast == pytest.approx(float(getattr(slow, name)), abs=1e-9), f"{name} of plan {i} in {token}"
                below_one[name] += fast < 1.0
    assert min(below_one.values()) > 0, below_one


def test_one_cache_keeps_the_editions_apart(few: SceneSet, tmp_path: Path) -> None:
    one = few[:1]
    (v2,) = build_contexts(one, cache=tmp_path)[0].values()
    (v1,) = build_contexts(one, edition=NAVSIM_V1, cache=tmp_path)[0].values()
    (again,) = build_contexts(one, edition=NAVSIM_V1, cache=tmp_path)[0].values()
    assert [v2.edition, v1.edition, again.edition] == ["navsim-2.2", "navsim-1.1", "navsim-1.1"]
    assert v2.traffic.present.shape[1] == 41
    np.testing.assert_array_equal(v1.traffic.corners, again.traffic.corners)
    assert v1.traffic.present.shape[1] == 51


def test_v1_needs_five_seconds_after_now(golden: Path) -> None:
    scenes = open_scenes(golden / "alpha", "test", num_future_frames=8)
    with pytest.raises(SceneDataError, match="8 future frames, scoring needs 4 and 10"):
        build_context(scenes[0], load_map(scenes.root, scenes[0].map_location), NAVSIM_V1)


def test_v1_knows_no_follow_up_scenes(golden: Path) -> None:
    from irlvla.data.scenes import load_synthetic_scene

    path = next((golden / "beta" / "navhard_two_stage" / "synthetic_scene_pickles").glob("*.pkl"))
    follow_up = load_synthetic_scene(path)
    with pytest.raises(SceneDataError, match="follow-up"):
        build_context(follow_up, load_map(golden / "beta", follow_up.map_location), NAVSIM_V1)
