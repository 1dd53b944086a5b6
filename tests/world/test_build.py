import errno
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from irlvla.data.language import load_answers, meta_action
from irlvla.data.logs import MAP_LOCATIONS
from irlvla.data.pickles import load_pickle
from irlvla.data.scenes import human_plan, open_scenes
from irlvla.data.sensors import load_image, load_point_cloud
from irlvla.errors import RunError
from irlvla.world.build import build_world
from irlvla.world.presets import PRESETS

MINI = PRESETS["mini"]


class _Killed(BaseException):
    pass


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_a_killed_build_goes_on_and_ends_byte_identical(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "again"

    def kill(done: int, total: int, what: str) -> None:
        if done == 6:
            raise _Killed

    with pytest.raises(_Killed):
        build_world(MINI, root, seed=1, workers=1, on_progress=kill)
    finished_before = {path: path.stat().st_mtime_ns for path in root.glob("navsim_logs/*/*.pkl")}
    assert finished_before
    build_world(MINI, root, seed=1, workers=2)
    assert all(path.stat().st_mtime_ns == at for path, at in finished_before.items())
    ours, theirs = _files(root), _files(world)
    assert list(ours) == list(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_a_finished_world_is_not_built_again(world: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*") if path.is_file()}
    build_world(MINI, world, seed=1, workers=1)
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*") if path.is_file()} == before


def test_another_seed_or_preset_in_the_same_folder_is_refused(world: Path) -> None:
    with pytest.raises(RunError, match="another world"):
        build_world(MINI, world, seed=2, workers=1)
    with pytest.raises(RunError, match="another world"):
        build_world(PRESETS["tiny"], world, seed=1, workers=1)


def test_a_folder_with_foreign_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not empty"):
        build_world(MINI, tmp_path, seed=1, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_missing_sumo_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sumo" else found(name))
    with pytest.raises(RunError, match=r"irlvla\[world\]"):
        build_world(MINI, tmp_path / "w", seed=1, workers=1)


def test_a_full_disk_is_named_with_the_cure(tmp_path: Path) -> None:
    def fill(done: int, total: int, what: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match=r"is full.*what is finished is kept"):
        build_world(MINI, tmp_path / "w", seed=1, workers=1, on_progress=fill)


def test_our_reader_opens_every_scene_with_its_sensors(world: Path) -> None:
    for split, locations in (("world-train", MAP_LOCATIONS[1::2]), ("world-test", MAP_LOCATIONS[::2])):
        scenes = open_scenes(world, split)
        assert len(scenes) >= 3
        assert scenes.failures == []
        assert {scene.map_location for scene in scenes} <= set(locations)
        scene = scenes[0]
        image = load_image(scene.now.cameras["CAM_F0"])
        assert image.shape == (MINI.image_height_px, MINI.image_width_px, 3)
        assert image.std() > 10
        assert scene.now.lidar_path is not None
        points = load_point_cloud(scene.now.lidar_path)
        assert len(points) > 1000
        assert len(scene.now.cameras) == 8


def test_log_frames_have_the_fields_of_a_navsim_log(world: Path, golden: Path) -> None:
    theirs = load_pickle(next(golden.glob("alpha/navsim_logs/test/*.pkl")))[0]
    for path in sorted(world.glob("navsim_logs/*/*.pkl")):
        # NumPy 2's module names would not load under the official devkit's NumPy 1.
        assert b"numpy._core" not in path.read_bytes()
        frames = load_pickle(path)
        assert len(frames) == MINI.frames_per_log
        for frame in frames:
            assert set(theirs) - {"ego2global", "lidar2ego", "lidar2global"} <= set(frame)
            assert set(theirs["anns"]) == set(frame["anns"])
            assert len(frame["token"]) == 16
            assert frame["anns"]["gt_boxes"].shape[1] == 7
            assert np.isfinite(frame["anns"]["gt_velocity_3d"]).all()
        assert set(np.diff([frame["timestamp"] for frame in frames])) == {500_000}


def test_tracks_keep_their_token_and_move_as_their_velocity_says(world: Path) -> None:
    moved = 0
    for scene in open_scenes(world, "world-train"):
        now, then = scene.frames[3], scene.frames[4]
        later = {token: k for k, token in enumerate(then.boxes.track_tokens)}
        cos, sin = np.cos(now.ego_pose_world[2]), np.sin(now.ego_pose_world[2])
        cos2, sin2 = np.cos(then.ego_pose_world[2]), np.sin(then.ego_pose_world[2])
        for k, token in enumerate(now.boxes.track_tokens):
            if token not in later or now.boxes.types[k] != 0:
                continue
            here = now.ego_pose_world[:2] + np.array([[cos, -sin], [sin, cos]]) @ now.boxes.boxes[k, :2]
            box = then.boxes.boxes[later[token]]
            there = then.ego_pose_world[:2] + np.array([[cos2, -sin2], [sin2, cos2]]) @ box[:2]
            velocity = np.array([[cos, -sin], [sin, cos]]) @ now.boxes.velocity_mps[k, :2]
            assert np.hypot(*(there - here - 0.5 * velocity)) < 1.2
            moved += float(np.hypot(*velocity)) > 2
    assert moved > 5


def test_answers_carry_the_words_of_the_human_future(world: Path) -> None:
    scenes = open_scenes(world, "world-train")
    for scene in scenes:
        answer = load_answers(world, "trainval", scene.log_name)[scene.token]
        words = meta_action(human_plan(scene), float(scene.now.ego_velocity_mps[0]))
        assert (answer.speed_word, answer.path_word) == words
        assert answer.answer.endswith(".")
        assert ":" in answer.answer


def test_openstreetmap_and_sumo_are_credited(world: Path) -> None:
    text = (world / "ATTRIBUTION.md").read_text()
    assert "OpenStreetMap contributors" in text
    assert "ODbL" in text
    assert "Eclipse SUMO" in text
