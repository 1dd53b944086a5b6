"""The formula and the human filter."""

from dataclasses import replace

import numpy as np
import pytest
from scenes import EVERYTHING_FINE, failed_by_human, stopped_car_ahead

from irlvla.scoring.epdms import epdms
from irlvla.scoring.human_filter import FILTERED, apply_human_filter
from irlvla.scoring.score import score
from irlvla.types import SubScores

GATES = (
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "driving_direction_compliance",
    "traffic_light_compliance",
)


@pytest.mark.parametrize("name", GATES)
def test_a_failed_gate_voids_the_plan(name: str) -> None:
    assert epdms(replace(EVERYTHING_FINE, **{name: np.zeros(())})) == 0.0
    assert epdms(replace(EVERYTHING_FINE, **{name: np.array(0.5)})) == 0.5


@pytest.mark.parametrize(
    ("name", "alone", "paired"),
    [
        ("ego_progress", 9 / 14, 11 / 16),
        ("time_to_collision_within_bound", 9 / 14, 11 / 16),
        ("lane_keeping", 12 / 14, 14 / 16),
        ("history_comfort", 12 / 14, 14 / 16),
        ("two_frame_extended_comfort", 1.0, 14 / 16),
    ],
)
def test_weights_with_and_without_an_earlier_frame(name: str, alone: float, paired: float) -> None:
    failed = replace(EVERYTHING_FINE, **{name: np.zeros(())})
    assert epdms(failed) == pytest.approx(alone)
    assert epdms(replace(failed, has_earlier_frame=np.ones((), dtype=np.bool_))) == pytest.approx(paired)


@pytest.mark.parametrize("name", FILTERED)
def test_what_the_human_failed_is_lifted_whatever_the_plan_got(name: str) -> None:
    human = replace(EVERYTHING_FINE, **{name: np.zeros(())})
    for value in (0.0, 0.5):
        lifted = apply_human_filter(replace(EVERYTHING_FINE, **{name: np.array(value)}), human)
        assert getattr(lifted, name) == 1.0


def test_the_humans_half_lifts_nothing() -> None:
    human = replace(EVERYTHING_FINE, no_at_fault_collisions=np.array(0.5))
    failed = replace(EVERYTHING_FINE, no_at_fault_collisions=np.zeros(()))
    assert apply_human_filter(failed, human).no_at_fault_collisions == 0.0


@pytest.mark.parametrize("name", ["ego_progress", "history_comfort", "two_frame_extended_comfort"])
def test_progress_and_comfort_are_never_lifted(name: str) -> None:
    failed = replace(EVERYTHING_FINE, **{name: np.zeros(())})
    assert getattr(apply_human_filter(failed, failed), name) == 0.0


def test_filter_can_be_switched_off() -> None:
    context = failed_by_human(stopped_car_ahead(), "no_at_fault_collisions")
    straight_on = context.human_plan[None, None]
    assert score([context], straight_on).no_at_fault_collisions[0, 0] == 1.0
    assert score([context], straight_on, human_filter=False).no_at_fault_collisions[0, 0] == 0.0


def test_formula_keeps_the_shape_of_the_sub_scores() -> None:
    perfect = np.ones((3, 5))
    many = SubScores(**dict.fromkeys(SubScores.names(), perfect), has_earlier_frame=perfect > 0)
    np.testing.assert_allclose(epdms(many), np.ones((3, 5)))
