"""The doctor names every fault that was put into a sound data root, and nothing else."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from irlvla.cli.main import main
from irlvla.data.doctor import Finding, examine
from irlvla.data.pickles import load_pickle, write_pickle
from irlvla.errors import DataError

LOG = "2021.01.01.12.00.00_veh-00_00000_cross_straight"
Frames = list[dict[str, Any]]


@pytest.fixture
def root(golden: Path, tmp_path: Path) -> Path:
    """A root of one golden log with all four maps, a picture for every camera, and a split."""
    shutil.copytree(golden / "alpha" / "maps", tmp_path / "maps")
    (tmp_path / "navsim_logs" / "test").mkdir(parents=True)
    shutil.copy(golden / "alpha" / "navsim_logs" / "test" / f"{LOG}.pkl", tmp_path / "navsim_logs" / "test")
    splits = tmp_path / "train_test_split"
    (splits / "scene_filter").mkdir(parents=True)
    (splits / "small.yaml").write_text("data_split: test\ndefaults:\n  - scene_filter: small\n")
    tokens = [frame["token"] for frame in _frames(tmp_path)]
    (splits / "scene_filter" / "small.yaml").write_text(
        json.dumps({"num_future_frames": 10, "frame_interval": 1, "log_names": [LOG], "tokens": tokens[3:5]})
    )
    return tmp_path


def _frames(root: Path) -> Frames:
    frames: Frames = load_pickle(root / "navsim_logs" / "test" / f"{LOG}.pkl")
    return frames


def _change(root: Path, change: Callable[[Frames], object]) -> None:
    frames = _frames(root)
    change(frames)
    write_pickle(root / "navsim_logs" / "test" / f"{LOG}.pkl", frames)


def _new(root: Path, before: list[Finding]) -> list[Finding]:
    return [finding for finding in examine(root) if finding not in before]


def test_golden_logs_have_no_error(root: Path) -> None:
    assert [finding for finding in examine(root) if finding.severity == "error"] == []


@pytest.mark.parametrize(
    ("fault", "where", "problem"),
    [
        (
            lambda f: f[6]["anns"]["gt_velocity_3d"].__setitem__(0, np.nan),
            "navsim_logs/test",
            "1 frames cannot be used",
        ),
        (lambda f: f[5].update(roadblock_ids=["77"]), "navsim_logs/test", "routes name roadblocks that the map lacks"),
        (lambda f: f[2].update(roadblock_ids=f[2]["roadblock_ids"][::2]), "navsim_logs/test", "routes have gaps"),
        (lambda f: f[2].update(roadblock_ids=[]), "navsim_logs/test", "frames without a route"),
        (lambda f: f[4]["traffic_lights"].append((4711, True)), "navsim_logs/test", "4711"),
        (lambda f: f[1].update(token=f[0]["token"]), "navsim_logs/test", "tokens are borne by several frames"),
        (lambda f: f[1].update(token="short"), "navsim_logs/test", "tokens are not 16 hexadecimal digits"),
        (lambda f: f.pop(8), "navsim_logs/test", "1.00 s before"),
        (lambda f: f[3]["anns"]["gt_boxes"].__setitem__((0, 3), 0.0), "navsim_logs/test", "boxes without size"),
        (lambda f: f[7].update(map_location="sg-one-north"), "navsim_logs/test", "change the city"),
        (lambda f: f.__setitem__(slice(None), f[:9]), "navsim_logs/test", "shorter than a scene"),
        (
            lambda f: [frame.update(ego2global_translation=np.array([0.0, 0.0, 0.0])) for frame in f],
            "navsim_logs/test",
            "25 m away from every road",
        ),
    ],
)
def test_a_fault_in_a_log_is_found(root: Path, fault: Callable[[Frames], object], where: str, problem: str) -> None:
    before = examine(root)
    _change(root, fault)
    found = _new(root, before)
    assert any(finding.where == where and problem in finding.problem for finding in found), found
    assert {finding.where for finding in found} <= {where, "train_test_split/small.yaml"}


def test_a_damaged_log_and_what_the_split_misses_are_found(root: Path) -> None:
    before = examine(root)
    (root / "navsim_logs" / "test" / f"{LOG}.pkl").write_bytes(b"\x80\x04")
    found = _new(root, before)
    assert ("error", "navsim_logs/test") in {(finding.severity, finding.where) for finding in found}
    assert ("error", "train_test_split/small.yaml") in {(finding.severity, finding.where) for finding in found}


def test_scenes_and_logs_that_a_split_names_in_vain_are_found(root: Path) -> None:
    before = examine(root)
    file = root / "train_test_split" / "scene_filter" / "small.yaml"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "tokens": [*content["tokens"], "0" * 16], "log_names": [LOG, "lost"]}))
    found = _new(root, before)
    assert [finding.problem for finding in found] == [
        f"1 scenes that the filter names are not there (first: {'0' * 16})",
        "1 logs that the filter names are not there (first: lost)",
    ]


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "UPDATE lane_connectors SET exit_lane_fid = NULL WHERE fid = (SELECT MIN(fid) FROM lane_connectors)",
            "1 rows",
        ),
        (
            "UPDATE lane_connectors SET entry_lane_fid = 987654 WHERE fid = (SELECT MIN(fid) FROM lane_connectors)",
            "lacks",
        ),
        ("UPDATE lanes_polygons SET speed_limit_mps = 0", "speed limits are zero"),
        ("DELETE FROM intersections", "counts as off the road"),
        ("UPDATE lane_group_connectors SET to_lane_group_fid = from_lane_group_fid", "join other roadblocks"),
        ("DROP TABLE lane_connectors", "layer 'lane_connectors' is missing"),
    ],
)
def test_a_fault_in_a_map_is_found(root: Path, statement: str, problem: str) -> None:
    before = examine(root)
    (file,) = root.glob("maps/sg-one-north/*/map.gpkg")
    database = sqlite3.connect(file)
    # GDAL's triggers keep a spatial index with functions that only GDAL has.
    for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        database.execute(f'DROP TRIGGER "{name}"')
    database.execute(statement)
    database.commit()
    database.close()
    found = [finding for finding in _new(root, before) if finding.where == "maps/sg-one-north"]
    assert any(problem in finding.problem for finding in found), found


def test_a_missing_map_is_found(root: Path) -> None:
    before = examine(root)
    shutil.rmtree(root / "maps" / "us-pa-pittsburgh-hazelwood")
    assert [(finding.severity, finding.where) for finding in _new(root, before)] == [
        ("error", "maps/us-pa-pittsburgh-hazelwood")
    ]


def test_missing_pictures_are_counted_by_camera(root: Path) -> None:
    frames = _frames(root)
    cameras = {name for frame in frames for name in frame["cams"]}
    written = [frame["cams"][name]["data_path"] for frame in frames for name in cameras]
    written = [path for path in written if path] or pytest.skip("the golden log names no pictures")
    for path in written:
        (root / "sensor_blobs" / "test" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "sensor_blobs" / "test" / path).touch()
    for frame in frames:
        (root / "sensor_blobs" / "test" / frame["lidar_path"]).parent.mkdir(parents=True, exist_ok=True)
        (root / "sensor_blobs" / "test" / frame["lidar_path"]).touch()
    before = examine(root)
    assert not [finding for finding in before if finding.where.startswith("sensor_blobs")]
    (root / "sensor_blobs" / "test" / frames[4]["cams"]["CAM_F0"]["data_path"]).unlink()
    (root / "sensor_blobs" / "test" / frames[5]["cams"]["CAM_F0"]["data_path"]).unlink()
    (root / "sensor_blobs" / "test" / frames[5]["lidar_path"]).unlink()
    assert [finding.problem.split(" (")[0] for finding in _new(root, before)] == [
        "2 images of CAM_F0 are missing",
        "1 point clouds are missing",
    ]


def test_follow_up_scenes_are_looked_at(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUPLAN_MAPS_ROOT", str(golden / "alpha" / "maps"))
    shutil.copytree(golden / "beta" / "navhard_two_stage", tmp_path / "navhard_two_stage")
    (tmp_path / "navsim_logs").mkdir()
    before = examine(tmp_path)
    assert not [finding for finding in before if finding.severity == "error"]
    folder = tmp_path / "navhard_two_stage" / "synthetic_scene_pickles"
    first, second = sorted(folder.glob("*.pkl"))[:2]
    first.rename(folder / "renamed.pkl")
    second.write_bytes(b"no pickle")
    problems = [finding.problem for finding in _new(tmp_path, before)]
    assert any("cannot be read" in problem for problem in problems)
    assert any("not named by their token (first: renamed.pkl)" in problem for problem in problems)


def test_a_folder_that_is_no_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no folder navsim_logs"):
        examine(tmp_path)


def test_the_command_prints_and_fails_where_there_are_errors(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(root)]) == 0
    assert "no errors" in capsys.readouterr().out
    _change(root, lambda frames: frames[5].update(roadblock_ids=["77"]))
    assert main(["doctor", str(root), "--json"]) == 2
    out, err = capsys.readouterr()
    assert "77" in json.loads(out)[0]["problem"]
    assert "1 kind of error" in err
    assert main(["doctor"]) == 2
    assert "name the data root" in capsys.readouterr().err
