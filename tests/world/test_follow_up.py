"""Follow-up scenes: their files are the devkit's, their starts are fit to drive on from, their traffic goes on."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from irlvla.data.pickles import DevkitObject, load_pickle
from irlvla.data.plans import PlanTable
from irlvla.data.reposed import stands_clear
from irlvla.data.scenes import SceneSet, human_plan, load_synthetic_scene, open_scenes
from irlvla.data.sensors import load_image
from irlvla.geometry import ego_to_world, world_to_ego
from irlvla.scoring.table import SUMMARY_TOKENS, score_two_stage
from irlvla.types import HISTORY_FRAMES, PLAN_POSES, Array, Frame
from irlvla.world.build import build_world
from irlvla.world.drives import Drive, TrafficIndex
from irlvla.world.follow_up import APART_M, HORIZON_STEPS, HumanWay, StartError, approach
from irlvla.world.logs import token_of
from irlvla.world.motion import vehicle_track
from irlvla.world.presets import WorldPreset
from irlvla.world.splits import write_two_stage_split
from irlvla.world.traffic import RecordedTraffic


@pytest.fixture(scope="module")
def scenes(hard_world: Path) -> SceneSet:
    return open_scenes(hard_world, "world-hard")


def layout(value: Any) -> Any:
    """What kind of thing a value is, down to its leaves: keys, element types, shapes, classes and their fields."""
    if isinstance(value, DevkitObject):
        arguments = tuple(type(argument).__name__ for argument in value.arguments)
        return type(value).__name__, arguments, tuple(sorted((k, layout(v)) for k, v in value.fields.items()))
    if isinstance(value, dict):
        return "dict", tuple(sorted((key, layout(item)) for key, item in value.items()))
    if isinstance(value, np.ndarray):
        return "array", value.dtype.str, value.ndim, value.shape[1:] or value.shape
    if isinstance(value, tuple):
        return "tuple", tuple(layout(item) for item in value)
    if isinstance(value, list):
        return "list", frozenset(layout(item) for item in value)
    # A number of numpy's and one of Python's are the same to every reader.
    return type(value.item() if isinstance(value, np.generic) else value).__name__


def parts_of(path: Path) -> dict[str, set[Any]]:
    """Layouts of the parts of a synthetic-scene file."""
    content = load_pickle(path)
    tracked = [t for step in content["extended_detections_tracks"] for t in step["tracked_objects"]["tracked_objects"]]
    lights = [light for step in content["extended_traffic_light_data"] for light in step["traffic_lights"]]
    frames = [{k: v for k, v in frame.items() if k != "camera_dict"} for frame in content["frames"]]
    return {
        "file": {tuple(content)},
        "metadata": {layout(content["scene_metadata"])},
        "frame keys": {tuple(frame) for frame in content["frames"]},
        "frames": {layout(frame) for frame in frames if frame["annotations"]["names"] and frame["traffic_lights"]},
        "cameras": {tuple(frame["camera_dict"]) for frame in content["frames"]},
        "tracks": {layout(item) for item in tracked},
        "lights": {layout(light) for light in lights},
    }


def test_files_are_laid_out_like_those_the_devkit_wrote(hard_world: Path, golden: Path) -> None:
    theirs: dict[str, set[Any]] = {}
    for path in (golden / "beta" / "navhard_two_stage" / "synthetic_scene_pickles").glob("*.pkl"):
        for part, found in parts_of(path).items():
            theirs.setdefault(part, set()).update(found)
    ours: dict[str, set[Any]] = {}
    for path in (hard_world / "world-hard_two_stage" / "synthetic_scene_pickles").glob("*.pkl"):
        # The devkit runs on NumPy 1, which does not know these names.
        assert b"numpy._core" not in path.read_bytes()
        for part, found in parts_of(path).items():
            ours.setdefault(part, set()).update(found)
    assert all(ours.values())
    for part, found in ours.items():
        assert found <= theirs[part], part


def test_cameras_have_the_fields_of_a_log_and_those_without_image_are_empty(hard_world: Path) -> None:
    log = load_pickle(next(hard_world.glob("navsim_logs/test/*.pkl")))
    fields = {key: np.asarray(value).shape for key, value in log[0]["cams"]["CAM_F0"].items()}
    folder = hard_world / "world-hard_two_stage"
    for path in sorted(folder.glob("synthetic_scene_pickles/*.pkl")):
        for frame in load_pickle(path)["frames"]:
            assert frame["lidar_path"] is None
            assert {name for name, camera in frame["camera_dict"].items() if camera} == {"cam_f0"}
            camera = frame["camera_dict"]["cam_f0"]
            assert {key: np.asarray(value).shape for key, value in camera.items()} == fields
            assert (folder / "sensor_blobs" / camera["data_path"]).is_file()


def test_every_pair_follows_its_scene_after_the_length_of_a_plan(scenes: SceneSet) -> None:
    assert scenes.failures == []
    assert len(scenes.split.mapping) >= 2
    for now, earlier, pairs in scenes.split.mapping:
        assert scenes.earlier_token(now) == earlier
        assert len(pairs) >= 2
        for first, following in ((now, [a for a, _ in pairs]), (earlier, [b for _, b in pairs])):
            stage_one = scenes.by_token(first)
            for token in following:
                scene = scenes.by_token(token)
                assert scene.is_synthetic
                assert scene.log_name == stage_one.log_name
                assert scene.now.time_us - stage_one.now.time_us == PLAN_POSES * 500_000
                assert len(scene.future) == PLAN_POSES
                assert scene.now.roadblock_ids == stage_one.now.roadblock_ids
        for later, before in pairs:
            assert [f.token for f in scenes.by_token(later).history[:-1]] == [
                f.token for f in scenes.by_token(before).history[1:]
            ]
    follow_ups = [token for *_, pairs in scenes.split.mapping for pair in pairs for token in pair]
    assert len(follow_ups) == len(set(follow_ups)) == sum(scene.is_synthetic for scene in scenes)


def test_starts_are_near_the_humans_way_apart_from_each_other_and_clear(scenes: SceneSet) -> None:
    off_m = []
    for now, _, pairs in scenes.split.mapping:
        human = scenes.by_token(now).future[PLAN_POSES - 1].ego_pose_world
        starts = np.stack([scenes.by_token(token).now.ego_pose_world for token, _ in pairs])
        errors = world_to_ego(starts, human)
        assert np.hypot(*errors[0, :2].T) < 2.0
        off_m += np.abs(errors[:, 1]).tolist()
        assert np.abs(errors[:, :2]).max() < 8.0
        apart_m = np.hypot(*np.moveaxis(starts[:, None, :2] - starts[None, :, :2], -1, 0))
        assert apart_m[~np.eye(len(starts), dtype=bool)].min() >= APART_M
        assert all(stands_clear(scenes.by_token(token)) for pair in pairs for token in pair)
    assert max(off_m) > 0.6, "some starts lie across the edge of the lane"


def test_the_past_of_a_start_is_a_drive_that_led_there(scenes: SceneSet) -> None:
    for scene in scenes:
        if not scene.is_synthetic:
            continue
        for before, after in zip(scene.history, scene.history[1:], strict=False):
            moved = world_to_ego(after.ego_pose_world, before.ego_pose_world)
            speed = (before.ego_velocity_mps[0] + after.ego_velocity_mps[0]) / 2
            assert np.hypot(*moved[:2]) == pytest.approx(0.5 * speed, abs=0.12)
            # A car moves along the mean of its headings.
            if speed > 2.0:
                assert np.arctan2(moved[1], moved[0]) == pytest.approx(moved[2] / 2, abs=0.05)
            turned = (before.ego_acceleration_mps2[1] + after.ego_acceleration_mps2[1]) / 2
            if speed > 2.0:
                assert moved[2] == pytest.approx(0.5 * turned / speed, abs=0.06)


def world_centers(frame: Frame, ego_pose: Array) -> dict[str, Array]:
    poses = ego_to_world(frame.boxes.boxes[:, [0, 1, 6]], ego_pose)
    return dict(zip(frame.boxes.track_tokens, poses, strict=True))


def test_objects_stand_where_the_log_has_them_at_that_time(scenes: SceneSet) -> None:
    compared = 0
    for now, _, pairs in scenes.split.mapping:
        logged = scenes.by_token(now).future[PLAN_POSES - 1]
        theirs = world_centers(logged, logged.ego_pose_world)
        for token, _ in pairs:
            frame = scenes.by_token(token).now
            assert frame.time_us == logged.time_us
            ours = world_centers(frame, frame.ego_pose_world)
            for track in set(ours) & set(theirs):
                np.testing.assert_allclose(ours[track][:2], theirs[track][:2], atol=1e-3)
                compared += 1
            red, theirs_red = dict(frame.traffic_lights), dict(logged.traffic_lights)
            assert all(red[light] == theirs_red[light] for light in set(red) & set(theirs_red))
    assert compared > 20


def test_traffic_after_a_start_moves_on_from_where_it_is(scenes: SceneSet) -> None:
    moved = 0
    for scene in scenes:
        if not scene.is_synthetic:
            continue
        here = world_centers(scene.now, scene.now.ego_pose_world)
        for step, frame in enumerate(scene.future):
            there = world_centers(frame, np.zeros(3))
            speed = dict(zip(frame.boxes.track_tokens, np.hypot(*frame.boxes.velocity_mps[:, :2].T), strict=True))
            for track in set(here) & set(there):
                gone_m = np.hypot(*(there[track] - here[track])[:2])
                assert abs(gone_m - 0.5 * speed[track]) < 1.3, (scene.token, step, track)
                moved += gone_m > 1.0
            assert (frame.boxes.types[1:] >= frame.boxes.types[:-1]).all(), "the devkit relies on the order of types"
            here = there
    assert moved > 20


def test_images_show_the_street_from_the_moved_start(scenes: SceneSet) -> None:
    now, _, pairs = scenes.split.mapping[0]
    logged = load_image(scenes.by_token(now).future[PLAN_POSES - 1].cameras["CAM_F0"]).astype(int)
    seen = [load_image(scenes.by_token(token).now.cameras["CAM_F0"]).astype(int) for token, _ in pairs]
    for image in seen:
        assert image.shape == logged.shape
        assert 1.0 < np.abs(image - logged).mean() < 90.0
    assert np.abs(seen[0] - seen[1]).mean() > 1.0


def test_two_stage_scoring_takes_every_scene_and_prefers_the_start_where_the_plan_ends(scenes: SceneSet) -> None:
    poses = [
        human_plan(scene) if not scene.is_synthetic else np.linspace([0.5, 0, 0], [4.0, 0, 0], PLAN_POSES)
        for scene in scenes
    ]
    table = score_two_stage(scenes, PlanTable(tuple(scenes.tokens), ("human",) * len(scenes), np.stack(poses)))
    rows = {row["token"]: row for row in table.to_pylist()}
    assert {row["reason"] for row in rows.values()} == {""}
    assert 0.0 < rows[SUMMARY_TOKENS[2]]["score"] < 1.0
    for now, _, pairs in scenes.split.mapping:
        end = scenes.by_token(now).future[PLAN_POSES - 1].ego_pose_world
        away_m = [np.hypot(*(scenes.by_token(token).now.ego_pose_world - end)[:2]) for token, _ in pairs]
        weights = [rows[token]["weight"] for token, _ in pairs]
        assert np.argmax(weights) == np.argmin(away_m)


@pytest.mark.slow
def test_a_build_killed_among_follow_ups_goes_on_and_ends_byte_identical(
    hard_world: Path, hard_preset: WorldPreset, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def kill(work: str, done: int, total: int, what: str) -> None:
        if work == "follow-up scenes" and done == 1:
            raise Killed

    root = tmp_path / "again"
    with pytest.raises(Killed):
        build_world(hard_preset, root, seed=1, workers=1, on_progress=kill)
    assert not (root / "train_test_split" / "world-hard.yaml").exists()
    build_world(hard_preset, root, seed=1, workers=1)
    ours, theirs = (
        {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        for folder in (root, hard_world)
    )
    assert list(ours) == list(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_tokens_that_look_like_numbers_stay_words(tmp_path: Path) -> None:
    token = "12345678e90123456"
    write_two_stage_split(tmp_path, "test", [("1" * 16, "2" * 16, ((token, "3" * 17), ("4" * 17, "5" * 17)))], ["log"])
    for path in sorted(tmp_path.rglob("*.yaml")):
        text = path.read_text()
        # OmegaConf, which the devkit reads these files with, takes the bare token for an infinite number.
        assert not re.search(rf"(?<!'){token}", text)
        assert f"'{token}'" in text
        assert token in str(yaml.safe_load(text))


def test_seventeen_characters_mark_what_no_log_recorded() -> None:
    assert len(token_of("a", 1)) == 16
    assert len(token_of("a", 1, length=17)) == 17
    assert token_of("a", 1, length=17) != token_of("a", 2, length=17)


Way = Callable[[Array], HumanWay]


@pytest.fixture
def way_along() -> Way:
    """Makes the way of a car whose front bumper was at [T, 2], 0.1 s apart."""

    def make(front: Array) -> HumanWay:
        lanes = np.array([f"e_{k // 50}" for k in range(len(front))], dtype=object)
        track = vehicle_track("v", "ego0", 0, front, lanes, (5.176, 2.297, 1.8))
        index = TrafficIndex(RecordedTraffic((track,), {}, {}, len(front)), np.array([100.0, -50.0]))
        return HumanWay(index, Drive(0, 0, 1), 10)

    return make


STRAIGHT = np.stack([8.0 * np.arange(120) * 0.1, np.full(120, 3.0)], axis=1)


def test_no_error_is_the_humans_own_drive(way_along: Way) -> None:
    angle = np.linspace(0, np.pi / 2, 120)
    way = way_along(25.0 * np.stack([np.sin(angle), 1 - np.cos(angle)], axis=1))
    found = approach(way, StartError(0.0, 0.0, 0.0, 0.0))
    assert found is not None
    np.testing.assert_array_equal(found.progress_m, way.progress_m[: HORIZON_STEPS + 1])
    moved = np.hypot(*np.diff(found.poses[:, :2], axis=0).T)
    np.testing.assert_allclose(moved, np.diff(found.progress_m), atol=1e-3)
    np.testing.assert_allclose(found.speed_mps[5:], 25.0 * (np.pi / 2) / 11.9, rtol=0.12)
    assert found.yaw_rate[-1] == pytest.approx((np.pi / 2) / 11.9, abs=0.02)


def test_an_approach_ends_with_the_error_asked_for(way_along: Way) -> None:
    way = way_along(STRAIGHT)
    human, error = approach(way, StartError(0, 0, 0, 0)), StartError(2.0, 0.8, -1.1, 0.05)
    found = approach(way, error)
    assert human is not None
    assert found is not None
    offset = world_to_ego(found.poses[-1], human.poses[-1])
    np.testing.assert_allclose(offset, [error.ahead_m, error.left_m, error.heading_rad], atol=1e-3)
    assert found.speed_mps[-1] - human.speed_mps[-1] == pytest.approx(error.faster_mps, abs=0.05)
    np.testing.assert_allclose(found.poses[0], human.poses[0], atol=1e-6)
    assert found.speed_mps[0] == pytest.approx(human.speed_mps[0], abs=0.05)


@pytest.mark.parametrize(
    "error",
    [StartError(-40.0, 0, 0, 0), StartError(0, -9.0, 0, 0), StartError(0, 0, 9.0, 1.2), StartError(80.0, 0, 0, 0)],
)
def test_what_no_car_drives_is_no_approach(way_along: Way, error: StartError) -> None:
    assert approach(way_along(STRAIGHT), error) is None


def test_a_waiting_human_is_only_followed_on_the_spot(way_along: Way) -> None:
    standing = np.tile([[4.0, 2.0]], (120, 1))
    way = way_along(standing)
    found = approach(way, StartError(0.5, 0.2, 0.0, 0.0))
    assert found is not None
    assert np.hypot(*(found.poses[-1] - found.poses[0])[:2]) == pytest.approx(0.5, abs=0.02)
    assert way.lane(0.0) == "e_0"


def test_a_preset_without_follow_ups_writes_no_hard_split(world: Path) -> None:
    assert not (world / "world-hard_two_stage").exists()
    assert not (world / "train_test_split" / "world-hard.yaml").exists()


def test_history_has_as_many_frames_as_a_scene_needs(hard_world: Path) -> None:
    for path in (hard_world / "world-hard_two_stage" / "synthetic_scene_pickles").glob("*.pkl"):
        assert len(load_synthetic_scene(path).history) == HISTORY_FRAMES
        assert path.stem == load_synthetic_scene(path).token
