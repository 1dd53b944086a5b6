import numpy as np
import pytest

from irlvla.data.reposed import StartOffset
from irlvla.geometry import ego_to_world
from irlvla.stages.proposals import (
    anchors_for_scene,
    brake_to_stop,
    draw_start_offset,
    drift_heading,
    follow_path,
    human_anchors,
    offset_laterally,
    perturb_human_plan,
    plans_from_start,
    rejoin_path,
    scale_speed,
)


def straight(speed_mps: float) -> np.ndarray:
    plan = np.zeros((8, 3))
    plan[:, 0] = speed_mps * 0.5 * np.arange(1, 9)
    return plan


def bend(radius_m: float = 20.0, speed_mps: float = 5.0) -> np.ndarray:
    angle = speed_mps * 0.5 * np.arange(1, 9) / radius_m
    return np.stack([radius_m * np.sin(angle), radius_m * (1 - np.cos(angle)), angle], axis=-1)


def test_a_slower_plan_stays_on_the_path() -> None:
    slow = scale_speed(bend(), 0.5)
    # Every second pose of the slow plan is a pose of the fast one.
    np.testing.assert_allclose(slow[1::2], bend()[:4], atol=1e-9)


def test_a_faster_plan_goes_straight_on_beyond_the_path() -> None:
    fast = scale_speed(straight(5.0), 2.0)
    np.testing.assert_allclose(fast, straight(10.0), atol=1e-9)


def test_speed_zero_stays_at_the_origin_and_a_standing_plan_stays_standing() -> None:
    np.testing.assert_allclose(scale_speed(bend(), 0.0), 0.0, atol=1e-12)
    np.testing.assert_allclose(scale_speed(np.zeros((8, 3)), 2.0), 0.0, atol=1e-12)


def test_headings_across_pi_are_followed_the_short_way() -> None:
    plan = straight(4.0)
    plan[:, 2] = np.where(np.arange(8) % 2, -np.pi + 0.01, np.pi - 0.01)
    half = follow_path(plan, np.array([3.0] * 8))
    assert abs(np.cos(half[0, 2]) + 1) < 1e-3


def test_braking_takes_half_the_way_and_then_stands() -> None:
    stopped = brake_to_stop(straight(8.0), stop_s=2.0)
    np.testing.assert_allclose(stopped[3:, 0], 8.0, atol=1e-9)  # 8 m/s · 2 s / 2
    assert np.all(np.diff(stopped[:4, 0]) > 0)


def test_lateral_offset_ends_where_asked_and_starts_gently() -> None:
    left = offset_laterally(straight(10.0), 2.0)
    assert left[-1, 1] == pytest.approx(2.0)
    assert left[0, 1] < 0.1
    assert left[-1, 2] == pytest.approx(0.0)
    np.testing.assert_allclose(offset_laterally(straight(10.0), -2.0)[:, 1], -left[:, 1])


def test_drift_turns_a_straight_plan_into_an_arc_of_the_given_curvature() -> None:
    arc = drift_heading(straight(10.0), 0.02)
    length_m = 10.0 * 4.0
    assert arc[-1, 2] == pytest.approx(0.02 * length_m)
    assert arc[-1, 1] == pytest.approx((1 - np.cos(0.8)) / 0.02, rel=0.02)


def test_anchors_are_reproducible_and_lie_among_the_plans() -> None:
    plans = np.stack([straight(v) for v in np.linspace(0, 20, 60)])
    anchors = human_anchors(plans, 8, seed=1)
    np.testing.assert_array_equal(anchors, human_anchors(plans, 8, seed=1))
    assert anchors.shape == (8, 8, 3)
    assert 0 <= anchors[:, -1, 0].min() < 20
    assert 60 < anchors[:, -1, 0].max() <= 80


def test_few_plans_give_few_anchors() -> None:
    assert len(human_anchors(np.stack([straight(v) for v in (1.0, 2.0, 9.0)]), 32, seed=0)) == 1


def test_a_scene_gets_anchors_that_start_at_its_speed() -> None:
    anchors = np.stack([straight(v) for v in np.arange(20.0)])
    chosen = anchors_for_scene(anchors, 7.0, 6, np.random.default_rng(0))
    assert len(chosen) == len(np.unique(chosen[:, 0, 0])) == 6
    assert {6.0, 7.0, 8.0} <= set(np.round(2 * chosen[:, 0, 0], 6))


def test_perturbations_are_named_and_finite_even_for_a_standing_human() -> None:
    plans, kinds = perturb_human_plan(np.zeros((8, 3)), np.random.default_rng(0), per_kind=2)
    assert plans.shape == (9, 8, 3)
    assert kinds[0] == "human"
    assert {kind: kinds.count(kind) for kind in kinds[1:]} == {"speed": 2, "brake": 2, "offset": 2, "drift": 2}
    assert np.isfinite(plans).all()


ASIDE = StartOffset(longitudinal_m=0.5, lateral_m=-1.0, heading_rad=0.1, speed_factor=1.3)


def test_a_start_moved_nowhere_has_the_human_plan_as_its_way_back() -> None:
    back = rejoin_path(bend(), StartOffset(0.0, 0.0, 0.0, 1.0), speed_mps=5.0, rejoined_s=2.0)
    np.testing.assert_allclose(back, bend(), atol=1e-9)


def test_the_way_back_leaves_gently_and_ends_on_the_path() -> None:
    back = ego_to_world(rejoin_path(straight(10.0), ASIDE, speed_mps=10.0, rejoined_s=2.0), ASIDE.pose)
    assert back[0, 1] < -0.4
    np.testing.assert_allclose(back[3:, 1:], 0.0, atol=1e-9)
    # 30 % faster, fading over 2 s: 3 m gained, and the half metre it started ahead.
    np.testing.assert_allclose(back[3:, 0] - straight(10.0)[3:, 0], 3.5)


def test_a_standing_car_stays_where_it_was_put() -> None:
    back = rejoin_path(np.zeros((8, 3)), StartOffset(-2.0, 1.0, 0.2, 0.8), speed_mps=0.0, rejoined_s=2.0)
    np.testing.assert_allclose(back, 0.0, atol=1e-9)


def test_starts_stay_within_a_lanes_slack_and_plans_from_them_are_as_many_as_asked() -> None:
    rng = np.random.default_rng(0)
    offsets = [draw_start_offset(rng) for _ in range(300)]
    assert 1.4 < max(abs(offset.lateral_m) for offset in offsets) <= 1.5
    assert all(0.7 <= offset.speed_factor <= 1.3 for offset in offsets)
    anchors = np.stack([straight(v) for v in np.arange(20.0)])
    plans = plans_from_start(straight(10.0), ASIDE, 10.0, anchors, 16, rng)
    assert plans.shape == (16, 8, 3)
    assert np.isfinite(plans).all()
    assert {12.0, 13.0, 14.0} <= set(np.round(2 * plans[:4, 0, 0], 6))
