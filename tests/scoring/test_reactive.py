"""Scoring in reactive traffic on tiny scenes; figures are compared in tests/parity."""

from dataclasses import fields, replace

import numpy as np
import pytest
from scenes import EVERYTHING_FINE, Thing, scene, stopped_car_ahead

from irlvla.scoring.context import ScoringContext
from irlvla.scoring.reactive import human_scores_reactive, score_reactive
from irlvla.scoring.score import score
from irlvla.simulation.reactive_traffic import TrafficStart
from irlvla.types import Array, SubScores


def without_followers(context: ScoringContext) -> TrafficStart:
    """Traffic in which every vehicle of the current frame stays where it is."""
    is_vehicle = context.tracks.types == 0
    vehicles = context.tracks.select(is_vehicle)
    return TrafficStart(
        context.token,
        vehicles.tokens,
        vehicles.boxes[:, 0],
        vehicles.velocity_mps[:, 0],
        (),
        tuple(range(len(vehicles.tokens))),
        context.tracks.select(~is_vehicle),
    )


def plans(*speeds_mps: float) -> Array:
    """Straight plans [1, C, 8, 3] at constant speeds."""
    along_m = np.array(speeds_mps)[:, None] * np.arange(1, 9) * 0.5
    return np.stack([along_m, np.zeros_like(along_m), np.zeros_like(along_m)], axis=-1)[None]


def values(scores: SubScores) -> Array:
    return np.stack([getattr(scores, f.name).astype(float) for f in fields(SubScores)])


@pytest.mark.parametrize("things", [[], [Thing("pedestrian", x=30.0, y=8.0, speed_mps=1.2)]])
def test_where_nobody_can_react_both_kinds_of_traffic_score_alike(things: list[Thing]) -> None:
    context = scene(*things)
    candidates = plans(4.0, 10.0, 14.0)
    reactive = score_reactive([context], [without_followers(context)], candidates, human_filter=False)
    np.testing.assert_allclose(values(reactive), values(score([context], candidates, human_filter=False)), atol=1e-12)


def test_a_parked_car_is_hit_in_reactive_traffic_as_well() -> None:
    context = scene(Thing("vehicle", x=35.0))
    scores = score_reactive([context], [without_followers(context)], plans(1.0, 10.0), human_filter=False)
    assert scores.no_at_fault_collisions.tolist() == [[1.0, 0.0]]


def test_progress_is_measured_against_pdm_closed_in_the_same_traffic() -> None:
    context = replace(stopped_car_ahead(), pdm_gate=1.0, pdm_progress_m=40.0)
    # PDM-Closed drives into the parked car here, so its 40 m set no standard, whatever log replay said of it.
    scores = score_reactive([context], [without_followers(context)], plans(2.0))
    assert scores.ego_progress.item() == 1.0


def test_the_human_of_a_reactive_scene_may_fail_where_the_logged_one_did_not() -> None:
    context = stopped_car_ahead()
    assert context.human_scores.no_at_fault_collisions == EVERYTHING_FINE.no_at_fault_collisions == 1.0
    assert human_scores_reactive(context, without_followers(context)).no_at_fault_collisions == 0.0
    lifted = score_reactive([context], [without_followers(context)], plans(10.0))
    raw = score_reactive([context], [without_followers(context)], plans(10.0), human_filter=False)
    assert (lifted.no_at_fault_collisions.item(), raw.no_at_fault_collisions.item()) == (1.0, 0.0)


def test_a_synthetic_scene_has_no_human_to_fail() -> None:
    context = replace(stopped_car_ahead(), token="0" * 17)
    scores = score_reactive([context], [without_followers(context)], plans(10.0))
    assert scores.no_at_fault_collisions.item() == 0.0


def test_a_plan_with_nan_is_refused_by_name() -> None:
    broken = plans(4.0, 5.0)
    broken[0, 1, 3, 0] = np.nan
    with pytest.raises(ValueError, match="plan 1 of scene 0"):
        score_reactive([scene()], [without_followers(scene())], broken)
