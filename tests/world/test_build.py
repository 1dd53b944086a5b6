import errno
import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from irlvla.data.doctor import examine
from irlvla.data.language import load_answers, meta_action
from irlvla.data.logs import MAP_LOCATIONS
from irlvla.data.pickles import load_pickle
from irlvla.data.scenes import human_plan, open_scenes
from irlvla.data.sensors import load_image, load_point_cloud
from irlvla.data.splits import load_split
from irlvla.errors import ConfigError, RunError
from irlvla.world.build import build_world, with_user_networks
from irlvla.world.networks import write_network
from irlvla.world.presets import PRESETS, FileSource
from irlvla.world.traffic import simulate_traffic

MINI = PRESETS["mini"]


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _assert_equal(ours: Path, theirs: Path) -> None:
    first, second = _files(ours), _files(theirs)
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.slow
def test_a_build_that_is_killed_goes_on_and_ends_byte_identical(city_world: Path, tmp_path: Path) -> None:
    root = tmp_path / "again"
    command = [sys.executable, "-m", "irlvla.cli.main", "world", "build", "city-mini", "--out", str(root)]
    build = subprocess.Popen(
        [*command, "--seed", "1", "--workers", "2"], start_new_session=True, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not (finished := sorted(root.glob("navsim_logs/*/*.pkl"))):
        assert build.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(build.pid, signal.SIGKILL)
    build.wait()
    assert not json.loads((root / "world.json").read_text())["finished"]
    before = {path: path.stat().st_mtime_ns for path in finished}
    # What a killed process leaves half done must not stay.
    left = root / "sensor_blobs" / "test" / ".log.1.part"
    left.mkdir(parents=True)
    build_world(PRESETS["city-mini"], root, seed=1, workers=1)
    assert {path: path.stat().st_mtime_ns for path in finished} == before
    _assert_equal(root, city_world)


@pytest.mark.slow
def test_a_sumo_that_dies_is_named_and_the_build_goes_on(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "again"
    killed = []

    def hunt() -> None:
        while not killed:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if process.name() == "sumo":
                        process.kill()
                        killed.append(process.pid)
                        return
            time.sleep(0.002)

    hunter = threading.Thread(target=hunt, daemon=True)
    hunter.start()
    with pytest.raises(RunError, match=r"SUMO's sumo was killed by signal SIGKILL.*same command"):
        build_world(MINI, root, seed=1, workers=2)
    hunter.join()
    build_world(MINI, root, seed=1, workers=2)
    _assert_equal(root, world)


def test_a_killed_worker_is_named_with_the_cure(tmp_path: Path) -> None:
    def kill(work: str, done: int, total: int, what: str) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(RunError, match=r"process of the build was killed.*--workers.*is kept"):
        build_world(MINI, tmp_path / "w", seed=1, workers=2, on_progress=kill)


def test_two_builds_do_not_share_a_folder(tmp_path: Path) -> None:
    def second(work: str, done: int, total: int, what: str) -> None:
        build_world(MINI, tmp_path / "w", seed=1, workers=1)

    with pytest.raises(RunError, match="another build is at work"):
        build_world(MINI, tmp_path / "w", seed=1, workers=1, on_progress=second)


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


def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(RunError, match="give --out a folder that you may write to"):
        build_world(MINI, Path("/proc/world"), seed=1, workers=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="give --out a folder that you may write to"):
        build_world(MINI, tmp_path / "w", seed=1, workers=1)


def test_sumo_output_cut_short_by_a_full_disk_is_noticed(tmp_path: Path) -> None:
    network = write_network("grid", 300.0, 1, tmp_path)
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    # SUMO ends without complaint when its output finds no room.
    (tmp_path / "routes.xml").symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"routes\.xml is cut short; most likely the disk is full"):
        simulate_traffic(network, replace(MINI, simulated_s=10.0, warm_up_s=15.0), 1, tmp_path)


def test_a_map_that_finds_no_room_says_so(tmp_path: Path) -> None:
    write_network("grid", 300.0, 1, tmp_path)
    code = """
import resource, signal
from pathlib import Path
import numpy as np
from irlvla.errors import RunError
from irlvla.world.city import read_city
from irlvla.world.map_file import write_map
city = read_city(Path("network.net.xml"), "us-ma-boston", np.zeros(2) + 331000.0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_map([city], Path("map.gpkg"))
except RunError as error:
    print("RunError:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "RunError: the disk below" in done.stdout, done.stderr
    assert "is full" in done.stdout
    assert not list(tmp_path.glob("*.gpkg*"))


def test_a_user_network_takes_the_places_of_a_split(files: Path, tmp_path: Path) -> None:
    preset = with_user_networks(MINI, [("osm", files / "town.osm")], "test")
    assert [(spec.location, spec.split, spec.source) for spec in preset.networks] == [
        ("us-ma-boston", "train", "berlin"),
        ("us-pa-pittsburgh-hazelwood", "train", "random"),
        ("us-nv-las-vegas-strip", "test", "osm"),
        ("sg-one-north", None, "grid"),
    ]
    many = with_user_networks(MINI, [("osm", files / "town.osm"), ("opendrive", files / "crossing.xodr")] * 2, "train")
    assert [(spec.place, spec.source) for spec in many.networks if spec.split == "train"] == [
        ("us-ma-boston", "osm"),
        ("us-pa-pittsburgh-hazelwood", "opendrive"),
        ("us-ma-boston.1", "osm"),
        ("us-pa-pittsburgh-hazelwood.1", "opendrive"),
    ]
    with pytest.raises(ConfigError, match="no split 'hard'"):
        with_user_networks(MINI, [("osm", files / "town.osm")], "hard")


@pytest.mark.slow
@pytest.mark.parametrize(("source", "name"), [("osm", "town.osm"), ("opendrive", "crossing.xodr")])
def test_a_user_network_becomes_a_world(source: FileSource, name: str, files: Path, tmp_path: Path) -> None:
    root = tmp_path / "world"
    build_world(with_user_networks(MINI, [(source, files / name)], "test"), root, seed=1, workers=2)
    scenes = open_scenes(root, "world-test")
    assert len(scenes) >= 3
    assert {scene.map_location for scene in scenes} == {"us-nv-las-vegas-strip"}
    assert name in (root / "ATTRIBUTION.md").read_text()
    assert examine(root) == []
    other = tmp_path / name
    other.write_bytes((files / name).read_bytes() + b"\n")
    with pytest.raises(RunError, match=rf"another world .*{name}"):
        build_world(with_user_networks(MINI, [(source, other)], "test"), root, seed=1, workers=1)


def test_several_networks_share_one_location(city_world: Path) -> None:
    places = json.loads((city_world / "world.json").read_text())["places"]
    assert [place["slot"] for place in places if place["location"] == "us-ma-boston"] == [0, 1]
    logs = {path.stem for path in city_world.glob("navsim_logs/trainval/*us-ma-boston.pkl")}
    assert len(logs) == 2
    ego = [load_pickle(path)[0]["ego2global_translation"][0] for path in city_world.glob("navsim_logs/trainval/*.pkl")]
    assert abs(ego[0] - ego[1]) > 4000


def test_splits_lie_on_networks_of_their_own(city_world: Path) -> None:
    logs = {
        name: load_split(city_world, name).scene_filter.log_names
        for name in ("world-train", "world-test", "world-hard")
    }
    assert all(logs.values())
    assert not (logs["world-test"] or frozenset()) & (logs["world-hard"] or frozenset())
    assert load_split(city_world, "world-hard").data_split == "test"
    places = json.loads((city_world / "world.json").read_text())["places"]
    assert {place["split"] for place in places} == {"train", "test", "hard", None}
    assert all((place["logs"] > 0) == (place["split"] is not None) for place in places)


@pytest.mark.parametrize("name", ["world", "city_world"])
def test_the_doctor_finds_no_fault(name: str, request: pytest.FixtureRequest) -> None:
    assert examine(request.getfixturevalue(name)) == []


def test_missing_sumo_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sumo" else found(name))
    with pytest.raises(RunError, match=r"irlvla\[world\]"):
        build_world(MINI, tmp_path / "w", seed=1, workers=1)


def test_a_full_disk_is_named_with_the_cure(tmp_path: Path) -> None:
    def fill(work: str, done: int, total: int, what: str) -> None:
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
