"""Instructed plans obey: they stop, turn, change lanes and slow down where told to, and say why where they cannot."""

from pathlib import Path

import numpy as np
import pytest
import shapely

from irlvla.cli.main import main
from irlvla.data.language import (
    INSTRUCTIONS,
    PATH_WORDS,
    SPEED_WORDS,
    InstructedPlan,
    instructions_path,
    load_instructions,
    write_instructions,
)
from irlvla.data.maps import CityMap, load_map
from irlvla.data.scenes import open_scenes
from irlvla.errors import DataError
from irlvla.evaluation.birds_eye import STYLE
from irlvla.evaluation.contact_sheet import draw_contact_sheet
from irlvla.evaluation.draw import HUMAN_COLOUR
from irlvla.geometry import EGO_WHEEL_BASE_M, ego_boxes, ego_to_world, wrap_angle
from irlvla.scoring.context import ScoringContext, build_contexts
from irlvla.scoring.epdms import epdms
from irlvla.scoring.score import score
from irlvla.types import PLAN_POSES, Scene
from irlvla.world.ways import EGO_FRONT_M, neighbour, place_of

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


def _turned_rad(city_map: CityMap, lane: int, connector: int) -> float:
    """How far a connector's end is turned against the lane that it comes from."""
    return float(wrap_angle(city_map.discrete_path(connector)[-1, 2] - city_map.discrete_path(lane)[-1, 2]))


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
        assert plan.speed_word in ("wait", "stop", "slow down")


def test_slower_is_slower_and_faster_is_faster(instructed: Instructed) -> None:
    slower, faster = _of_kind(instructed, "slower"), _of_kind(instructed, "faster")
    assert len(slower) > 20
    assert len(faster) > 20
    for scene, _, plan in slower:
        assert plan.speed_word in ("slow down", "stop")
        assert _speeds(scene, plan)[-1] < max(0.3, scene.now.ego_velocity_mps[0] - 0.9)
    for scene, _, plan in faster:
        assert plan.speed_word in ("speed up", "start")
        assert _speeds(scene, plan)[-2:].mean() > scene.now.ego_velocity_mps[0] + 0.9


def test_a_lane_change_ends_in_the_lane_beside_and_is_refused_where_there_is_none(instructed: Instructed) -> None:
    ended, named = 0, []
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
            # A bend, or lanes that end ahead, may name the path.
            if np.ptp(np.unwrap(city_map.discrete_path(place.lane)[:, 2])) < np.radians(3.0):
                named.append(plan.path_word == f"change lane {side}")
    assert ended >= 3
    assert np.mean(named) > 0.9


def test_a_turn_leads_into_a_road_on_its_side_and_straight_on_does_not(instructed: Instructed) -> None:
    seen = {"turn left": 0, "turn right": 0, "go straight": 0}
    for scene, city_map, plan in _of_kind(instructed, *seen):
        route = {int(block) for block in scene.now.roadblock_ids}
        place = place_of(city_map, scene.now.ego_pose_world, sorted(route))
        assert place is not None
        # On to the lane where ways part.
        lane = place.lane
        while not city_map.is_lane(lane) or len(city_map.next_roadblocks(city_map.roadblock_of(lane))) == 1:
            lane = min(city_map.next_lanes(lane), key=lambda item: city_map.roadblock_of(item) not in route)
        end = place_of(city_map, ego_to_world(plan.plan[-1], scene.now.ego_pose_world), [])
        assert end is not None
        beside = city_map.lanes_of(city_map.roadblock_of(lane))
        taken = [
            (lane, connector)
            for lane in beside
            for connector in city_map.next_lanes(lane)
            if end.lane == connector or end.lane in city_map.next_lanes(connector)
        ]
        if not taken:
            # Still before the junction.
            assert end.lane in beside or len(city_map.next_roadblocks(city_map.roadblock_of(end.lane))) == 1
            continue
        asked = {"turn left": (0.1, np.pi), "turn right": (-np.pi, -0.1), "go straight": (-0.65, 0.65)}[plan.kind]
        assert any(asked[0] < _turned_rad(city_map, *through) < asked[1] for through in taken), (plan, taken)
        seen[plan.kind] += 1
    assert seen["turn left"] + seen["turn right"] >= 5
    assert seen["go straight"] >= 3


def test_who_waits_for_a_red_light_has_one_on_the_way(instructed: Instructed) -> None:
    for scene, city_map, plan in (row for row in instructed if "wait for it first" in row[2].answer):
        x, y, heading = scene.now.ego_pose_world
        ahead = [
            (city_map.discrete_path(int(light))[0, :2] - (x, y)) @ (np.cos(heading), np.sin(heading))
            for light, is_red in scene.now.traffic_lights
            if is_red
        ]
        assert any(0.0 < distance_m < 50.0 for distance_m in ahead)
        assert plan.plan[-1, 0] + EGO_FRONT_M < max(ahead) + 1.5


def test_pulling_over_ends_at_rest_to_the_right_of_the_lane(instructed: Instructed) -> None:
    rows = _of_kind(instructed, "pull over")
    assert len(rows) > 5
    for scene, city_map, plan in rows:
        pose = scene.now.ego_pose_world
        place = place_of(city_map, pose, [int(block) for block in scene.now.roadblock_ids])
        assert place is not None
        assert neighbour(city_map, place.lane, place.at_m, "right") is None
        assert _speeds(scene, plan)[-1] < max(0.8, scene.now.ego_velocity_mps[0] - 3.0)
        end = shapely.Point(ego_to_world(plan.plan[-1], pose)[:2])
        line = city_map.baseline(place.lane)
        foot, before = line.interpolate(line.project(end)), line.interpolate(line.project(end) - 1.0)
        left = (foot.x - before.x) * (end.y - foot.y) - (foot.y - before.y) * (end.x - foot.x)
        assert left < 0.3


def test_instructed_plans_can_be_driven_in_comfort(instructed: Instructed) -> None:
    possible = [row for row in instructed if row[2].is_possible]
    for scene, _, plan in possible:
        points = np.concatenate([np.zeros((1, 3)), plan.plan])
        steps = np.hypot(*np.diff(points[:, :2], axis=0).T)
        turned = np.abs(wrap_angle(np.diff(points[:, 2])))
        moving = steps > 0.3
        assert np.all(turned[moving] / steps[moving] < 1.2 * np.tan(0.65) / EGO_WHEEL_BASE_M)
        assert np.all(np.abs(np.diff(_speeds(scene, plan))) < 0.5 * 4.2 + 0.1)
    assert np.mean([plan.scores["history_comfort"] for _, _, plan in possible]) > 0.9


def test_what_is_called_safe_is_what_the_scorer_finds(human_world: Path, instructed: Instructed) -> None:
    contexts: dict[str, ScoringContext] = {}
    for split in ("world-train", "world-test"):
        contexts.update(build_contexts(open_scenes(human_world, split))[0])
    found = {True: 0, False: 0}
    for scene, _, plan in (row for row in instructed if row[2].is_possible):
        again = score([contexts[scene.token]], plan.plan[None, None], human_filter=False)
        if plan.is_safe:
            # These ask for no route.
            assert again.no_at_fault_collisions[0, 0] == again.drivable_area_compliance[0, 0] == 1.0
        if plan.kind in ("turn left", "turn right", "go straight"):
            continue
        # Poses are written to the millimetre.
        assert np.isclose(plan.scores["epdms"], epdms(again)[0, 0], atol=0.02) or plan.scores["epdms"] < 1.0
        safe = (
            again.no_at_fault_collisions * again.drivable_area_compliance * again.driving_direction_compliance
            * again.traffic_light_compliance * again.time_to_collision_within_bound
        )  # fmt: skip
        assert plan.is_safe == bool(safe[0, 0] == 1.0), (plan, vars(again))
        found[plan.is_safe] += 1
    assert min(found.values()) > 5


def test_the_command_goes_on_where_it_stopped_and_writes_the_same_bytes(human_world: Path, tmp_path: Path) -> None:
    for folder in ("maps", "navsim_logs", "train_test_split"):
        (tmp_path / folder).symlink_to(human_world / folder)
    written = human_world / "driving_language" / "test"
    names = sorted(file.name for file in written.glob("*.instructions.jsonl"))
    # A log that is finished for one split may have scenes of another.
    begun = tmp_path / "driving_language" / "test" / names[0]
    begun.parent.mkdir(parents=True)
    lines = (written / names[0]).read_text().splitlines(keepends=True)
    begun.write_text("".join(lines[2 * len(INSTRUCTIONS) : 3 * len(INSTRUCTIONS)]))
    assert main(["world", "instruct", str(tmp_path), "--split", "world-test", "--workers", "1"]) == 0
    for name in names:
        assert (begun.parent / name).read_bytes() == (written / name).read_bytes()


def test_every_scene_of_a_city_has_instructions(city_world: Path) -> None:
    for split in ("world-train", "world-test", "world-hard"):
        scenes = open_scenes(city_world, split)
        for token in (token for token in scenes.tokens if len(token) == 16):
            plans = load_instructions(city_world, scenes.split.data_split, scenes.log_name(token))[token]
            assert [plan.kind for plan in plans] == list(INSTRUCTIONS)


def test_a_sheet_shows_plans_in_the_colours_of_their_safety(human_world: Path, instructed: Instructed) -> None:
    token = next(row[0].token for row in instructed if row[2].is_possible and not row[2].is_safe)
    split = next(name for name in ("world-train", "world-test") if token in open_scenes(human_world, name).tokens)
    sheet = draw_contact_sheet(open_scenes(human_world, split).subset([token]), instructions=True)
    for colour in (HUMAN_COLOUR, STYLE["red"]):
        rgb = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        assert (np.abs(sheet.astype(int) - rgb).max(axis=-1) < 12).sum() > 20


def test_a_scene_without_instructions_is_told_how_to_get_some(world: Path) -> None:
    scenes = open_scenes(world, "world-test")
    with pytest.raises(DataError, match="irlvla world instruct"):
        draw_contact_sheet(scenes, instructions=True)


def test_instructions_are_read_as_they_were_written(instructed: Instructed, tmp_path: Path) -> None:
    plans = [plan for _, _, plan in instructed]
    write_instructions(tmp_path, "test", "log", plans)
    read = load_instructions(tmp_path, "test", "log")
    assert [plan for rows in read.values() for plan in rows] == plans


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ('"poses":[[', '"poses":[["x",', "line 1 is no instruction"),
        ('"kind":"turn left"', '"kind":"fly"', "has kind 'fly'"),
        ('"is_possible":true', '"is_possible":false', "has kind .* and 8 poses"),
        ('"answer"', '"reply"', "line 1 is no instruction"),
        ('{"token"', "{token", "line 1 is no instruction"),
    ],
)
def test_a_damaged_line_is_named(
    instructed: Instructed, tmp_path: Path, before: str, after: str, complaint: str
) -> None:
    first = next(plan for _, _, plan in instructed if plan.kind == "turn left" and plan.is_possible)
    write_instructions(tmp_path, "test", "log", [first])
    file = instructions_path(tmp_path, "test", "log")
    file.write_text(file.read_text().replace(before, after, 1))
    with pytest.raises(DataError, match=complaint):
        load_instructions(tmp_path, "test", "log")
    assert load_instructions(tmp_path, "test", "elsewhere") == {}
