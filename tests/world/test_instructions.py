"""Instructed plans obey: they stop, turn, change lanes and slow down where told to, and say why where they cannot."""

from pathlib import Path

import numpy as np
import pytest
import shapely

from irlvla.data.language import INSTRUCTIONS, PATH_WORDS, SPEED_WORDS, InstructedPlan, load_instructions
from irlvla.data.maps import CityMap, load_map
from irlvla.data.scenes import open_scenes
from irlvla.errors import DataError
from irlvla.geometry import EGO_WHEEL_BASE_M, ego_boxes, ego_to_world, wrap_angle
from irlvla.scoring.context import ScoringContext, build_contexts
from irlvla.scoring.epdms import epdms
from irlvla.scoring.score import score
from irlvla.types import PLAN_POSES, Scene
from irlvla.world.ways import neighbour, place_of

pytestmark = pytest.mark.slow

Instructed = list[tuple[Scene, CityMap, InstructedPlan]]


@pytest.fixture(scope="module")
def instructed(human_world: Path) -> Instructed:
    found: Instructed = []
    for split in ("world-train", "world-test"):
        scenes = open_scenes(human_world, split)
        for scene in scenes:
            plans = load_instructions(human_world, scenes.split.data_split, scene.log_name)[scene.token]
            assert [plan.kind for plan in plans] == list(INSTRUCTIONS)
            found += [(scene, load_map(human_world, scene.map_location), plan) for plan in plans]
    return found


def _of_kind(instructed: Instructed, *kinds: str) -> Instructed:
    return [row for row in instructed if row[2].kind in kinds and row[2].is_possible]


def _speeds(scene: Scene, plan: InstructedPlan) -> np.ndarray:
    points = np.concatenate([np.zeros((1, 2)), plan.plan[:, :2]])
    return np.concatenate([[scene.now.ego_velocity_mps[0]], np.hypot(*np.diff(points, axis=0).T) / 0.5])


def test_every_instruction_is_said_in_words_and_answered(instructed: Instructed) -> None:
    for _, _, plan in instructed:
        assert plan.instruction in INSTRUCTIONS[plan.kind]
        assert plan.answer.endswith(".")
        assert plan.speed_word in SPEED_WORDS
        assert plan.path_word in PATH_WORDS
        assert len(plan.poses) == (PLAN_POSES if plan.is_possible else 0)
        assert not (plan.is_safe and not plan.is_possible)
        assert ("not safe" in plan.answer) == (plan.is_possible and not plan.is_safe)
    possible = {plan.kind for _, _, plan in instructed if plan.is_possible}
    assert {"slower", "faster", "stop"} <= possible
    assert any(not plan.is_possible for _, _, plan in instructed)


def test_told_to_stop_the_car_stops_or_brakes_as_hard_as_agreed(instructed: Instructed) -> None:
    rows = _of_kind(instructed, "stop")
    assert len(rows) > 5
    for scene, _, plan in rows:
        speeds = _speeds(scene, plan)
        assert speeds[-1] < max(0.6, speeds[0] - 7.5)
        assert np.all(np.diff(speeds[1:]) < 0.3)


def test_slower_is_slower_and_faster_is_faster(instructed: Instructed) -> None:
    for scene, _, plan in _of_kind(instructed, "slower"):
        assert _speeds(scene, plan)[-1] < 0.9 * scene.now.ego_velocity_mps[0] + 0.1
    faster = _of_kind(instructed, "faster")
    gained = [_speeds(scene, plan)[-1] - scene.now.ego_velocity_mps[0] for scene, _, plan in faster]
    # A bend ahead still slows who is told to speed up.
    assert np.mean(np.array(gained) > 1.0) > 0.6


def test_a_lane_change_ends_in_the_lane_beside_and_is_refused_where_there_is_none(instructed: Instructed) -> None:
    ended = 0
    for side in ("left", "right"):
        for scene, city_map, plan in (row for row in instructed if row[2].kind == f"lane {side}"):
            pose = scene.now.ego_pose_world
            place = place_of(city_map, pose, [int(block) for block in scene.now.roadblock_ids])
            if place is None:
                assert not plan.is_possible
                continue
            beside = neighbour(city_map, place.lane, place.at_m, side)  # type: ignore[arg-type]
            if beside is None:
                assert not plan.is_possible
            if not plan.is_possible:
                continue
            assert beside is not None
            end = ego_boxes(ego_to_world(plan.plan[-1], pose))[:2]
            block = city_map.roadblock_of(place.lane)
            if city_map.roadblock_polygon(block).contains(shapely.Point(end)):
                assert city_map.lane_polygon(beside).buffer(0.1).contains(shapely.Point(end))
                ended += 1
    assert ended >= 3


def test_a_turn_turns_to_its_side_and_straight_on_does_not(instructed: Instructed) -> None:
    seen = {"turn left": 0, "turn right": 0, "go straight": 0}
    for scene, city_map, plan in _of_kind(instructed, *seen):
        place = place_of(city_map, scene.now.ego_pose_world, [int(block) for block in scene.now.roadblock_ids])
        if place is None:
            continue
        end = ego_to_world(plan.plan[-1], scene.now.ego_pose_world)
        into = city_map.discrete_path(place.lane)
        ahead = (end[:2] - into[-1, :2]) @ [np.cos(into[-1, 2]), np.sin(into[-1, 2])]
        ways = city_map.next_roadblocks(city_map.roadblock_of(place.lane))
        if not city_map.is_lane(place.lane) or len(ways) < 2 or ahead < 4.0:
            continue
        turned = float(wrap_angle(end[2] - into[-1, 2]))
        wrong = {"turn left": turned < 0.05, "turn right": turned > -0.05, "go straight": abs(turned) > np.radians(32)}
        assert not wrong[plan.kind], (plan.kind, turned)
        seen[plan.kind] += 1
    assert seen["turn left"] + seen["turn right"] >= 2


def test_pulling_over_ends_at_rest_to_the_right_of_the_lane(instructed: Instructed) -> None:
    for scene, city_map, plan in _of_kind(instructed, "pull over"):
        pose = scene.now.ego_pose_world
        place = place_of(city_map, pose, [int(block) for block in scene.now.roadblock_ids])
        assert place is not None
        assert neighbour(city_map, place.lane, place.at_m, "right") is None
        assert _speeds(scene, plan)[-1] < max(0.6, scene.now.ego_velocity_mps[0] - 3.0)


def test_instructed_plans_can_be_driven(instructed: Instructed) -> None:
    for scene, _, plan in (row for row in instructed if row[2].is_possible):
        points = np.concatenate([np.zeros((1, 3)), plan.plan])
        steps = np.hypot(*np.diff(points[:, :2], axis=0).T)
        turned = np.abs(wrap_angle(np.diff(points[:, 2])))
        moving = steps > 0.3
        assert np.all(turned[moving] / steps[moving] < 1.2 * np.tan(0.65) / EGO_WHEEL_BASE_M)
        assert np.all(np.abs(np.diff(_speeds(scene, plan))) < 0.5 * 4.2 + 0.1)


def test_scores_beside_a_plan_are_what_the_scorer_gives_it(human_world: Path, instructed: Instructed) -> None:
    contexts: dict[str, ScoringContext] = {}
    for split in ("world-train", "world-test"):
        contexts.update(build_contexts(open_scenes(human_world, split))[0])
    for scene, _, plan in _of_kind(instructed, "slower", "stop", "lane left"):
        again = score([contexts[scene.token]], plan.plan[None, None], human_filter=False)
        # Poses are written to the millimetre.
        assert np.isclose(plan.scores["epdms"], epdms(again)[0, 0], atol=0.02) or plan.scores["epdms"] < 1.0
        safe = (
            again.no_at_fault_collisions * again.drivable_area_compliance * again.driving_direction_compliance
            * again.traffic_light_compliance * again.time_to_collision_within_bound
        )  # fmt: skip
        assert plan.is_safe == bool(safe[0, 0] == 1.0)


def test_a_damaged_line_is_named(human_world: Path, tmp_path: Path) -> None:
    file = next(human_world.glob("driving_language/test/*.instructions.jsonl"))
    copy = tmp_path / "driving_language" / "test" / file.name
    copy.parent.mkdir(parents=True)
    copy.write_text(file.read_text().replace('"poses":[[', '"poses":[["x",', 1))
    with pytest.raises(DataError, match="is no instruction"):
        load_instructions(tmp_path, "test", file.name.removesuffix(".instructions.jsonl"))
    assert load_instructions(tmp_path, "test", "elsewhere") == {}
