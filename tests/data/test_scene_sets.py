"""Scene sets: NAVSIM's windows and filters, and what is left out with its reason."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from irlvla.data.pickles import load_pickle, write_pickle
from irlvla.data.scenes import human_plan, load_synthetic_scene, open_scenes
from irlvla.data.splits import SceneFilter, Split
from irlvla.errors import DataError, SceneDataError
from irlvla.types import HISTORY_FRAMES

LOG = "2021.01.01.12.00.00_veh-00_00000_cross_straight"


@pytest.fixture
def records(golden: Path) -> list[dict[str, Any]]:
    return load_pickle(golden / "alpha" / "navsim_logs" / "test" / f"{LOG}.pkl")


def root_of(path: Path, records: list[dict[str, Any]], name: str = "drive") -> Path:
    (path / "navsim_logs" / "test").mkdir(parents=True, exist_ok=True)
    write_pickle(path / "navsim_logs" / "test" / f"{name}.pkl", records)
    return path


def split(**fields: Any) -> Split:
    return Split("drive", "test", SceneFilter(**{"num_future_frames": 8, "frame_interval": 1} | fields))


def test_ego_and_human_agree_with_the_devkit_on_every_golden_scene(golden: Path) -> None:
    scenes = open_scenes(golden / "alpha", "test", num_future_frames=8)
    compared = 0
    for path in sorted((golden / "alpha" / "contexts").glob("*.npz")):
        with np.load(path) as context:
            scene = scenes.by_token(str(context["token"]))
            assert scene.log_name == str(context["log_name"])
            assert scene.map_location == str(context["map_name"])
            assert scene.now.time_us == int(context["ego_time_us"])
            assert [frame.time_us for frame in scene.history] == context["past_time_us"].tolist()
            # The devkit keeps the ego's center and goes back to the rear axle: one unit in the last place of 4e6 m.
            poses = np.stack([frame.ego_pose_world for frame in scene.history])
            np.testing.assert_allclose(poses, context["past_states"][:, :3], rtol=0, atol=2e-9)
            velocities = np.concatenate([scene.now.ego_velocity_mps, scene.now.ego_acceleration_mps2])
            np.testing.assert_array_equal(velocities, context["ego_state"][3:7])
            np.testing.assert_allclose(human_plan(scene), context["human_poses"], rtol=0, atol=2e-9)
            compared += 1
    assert compared == 43


def test_folder_is_a_split_of_one_scene_per_frame(golden: Path, records: list[dict[str, Any]]) -> None:
    scenes = open_scenes(golden / "alpha", "test")
    tokens = [token for token in scenes.tokens if scenes.log_name(token) == LOG]
    assert tokens == [record["token"] for record in records[3:-10]]
    assert len(scenes.by_token(tokens[0]).frames) == 14


def test_windows_do_not_overlap_without_an_interval(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    scenes = open_scenes(root_of(tmp_path, records), split(frame_interval=None))
    assert scenes.tokens == [record["token"] for record in records[3 : len(records) - 8 : 12]]


def test_filter_by_token_log_count_and_route(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    records[5]["roadblock_ids"] = []
    root = root_of(tmp_path, records)
    root_of(tmp_path, load_pickle(root / "navsim_logs" / "test" / "drive.pkl")[:3], "short")
    token = records[4]["token"]
    assert open_scenes(root, split(tokens=frozenset({token, "0" * 16}))).tokens == [token]
    assert len(open_scenes(root, split(max_scenes=3))) == 3
    assert records[5]["token"] not in open_scenes(root, split(log_names=frozenset({"drive"})))
    assert records[5]["token"] in open_scenes(root, split(has_route=False))
    with pytest.raises(DataError, match="leaves no scene"):
        open_scenes(root, split(log_names=frozenset({"short"})))
    with pytest.raises(DataError, match="holds none of the 1 logs"):
        open_scenes(root, split(log_names=frozenset({"elsewhere"})))


def test_scenes_across_a_time_gap_are_left_out_with_the_reason(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    for record in records[20:]:
        record["timestamp"] += 2_000_000
    scenes = open_scenes(root_of(tmp_path, records), split())
    across = [record["token"] for record in records[12:23]]
    assert [failure.token for failure in scenes.failures] == across
    assert all("2.50 s are missing" in failure.reason for failure in scenes.failures)
    assert not set(across) & set(scenes.tokens)
    assert len(scenes) == len(records) - 11 - 11
    with pytest.raises(SceneDataError, match="are missing"):
        scenes.by_token(across[0])


def test_one_broken_frame_costs_the_scenes_that_need_it(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    records[0]["ego2global_translation"] = np.full(3, np.nan)
    scenes = open_scenes(root_of(tmp_path, records), split())
    assert [failure.token for failure in scenes.failures] == [records[3]["token"]]
    assert scenes.tokens[0] == records[4]["token"]


def test_damaged_log_costs_only_itself(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    root = root_of(tmp_path, records)
    content = (root / "navsim_logs" / "test" / "drive.pkl").read_bytes()
    (root / "navsim_logs" / "test" / "cut.pkl").write_bytes(content[:1000])
    scenes = open_scenes(root, "test")
    assert [failure.token for failure in scenes.failures] == ["cut"]
    (root / "navsim_logs" / "test" / "drive.pkl").unlink()
    with pytest.raises(DataError, match=r"cut\.pkl"):
        open_scenes(root, "test")


def test_scenes_with_one_token_are_both_left_out(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    records[7]["token"] = records[6]["token"]
    scenes = open_scenes(root_of(tmp_path, records), split())
    assert [failure.token for failure in scenes.failures] == [records[6]["token"]]
    assert "2 scenes bear this token" in scenes.failures[0].reason
    assert records[6]["token"] not in scenes


def test_earlier_scene_is_one_frame_back_in_the_same_log(golden: Path) -> None:
    scenes = open_scenes(golden / "alpha", "test", num_future_frames=8)
    assert scenes.earlier_token(scenes.tokens[0]) is None
    for earlier, token in zip(scenes.tokens, scenes.tokens[1:], strict=False):
        expected = earlier if scenes.log_name(earlier) == scenes.log_name(token) else None
        assert scenes.earlier_token(token) == expected
    sparse = scenes[::4]
    assert all(sparse.earlier_token(token) is None for token in sparse.tokens)


def test_subset_keeps_the_order_of_the_set(golden: Path) -> None:
    scenes = open_scenes(golden / "alpha", "test", num_future_frames=8)
    wanted = [scenes.tokens[70], scenes.tokens[5]]
    assert scenes.subset(wanted).tokens == [scenes.tokens[5], scenes.tokens[70]]
    with pytest.raises(SceneDataError, match="is not in split"):
        scenes.subset(["nowhere"])


def test_log_replaced_after_opening_is_noticed(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    root = root_of(tmp_path, records)
    scenes = open_scenes(root, split())
    write_pickle(root / "navsim_logs" / "test" / "drive.pkl", records[1:])
    with pytest.raises(SceneDataError, match="changed since"):
        _ = scenes[0]


def test_two_stage_split_brings_its_follow_up_scenes(golden: Path) -> None:
    scenes = open_scenes(golden / "beta", golden / "beta" / "two_stage" / "train_test_split.yaml")
    named = {token for now, earlier, _ in scenes.split.mapping for token in (now, earlier)}
    following = {token for *_, pairs in scenes.split.mapping for pair in pairs for token in pair}
    assert set(scenes.tokens) == named | following
    assert scenes.failures == []
    for token in following:
        scene = scenes.by_token(token)
        assert scene.is_synthetic
        assert len(scene.history) == HISTORY_FRAMES
        assert len(scene.future) == 8
        assert scenes.earlier_token(token) is None
        with pytest.raises(SceneDataError, match="no human future"):
            human_plan(scene)


def test_follow_up_scenes_come_along_where_no_future_is_read(golden: Path) -> None:
    mapping = golden / "beta" / "two_stage" / "train_test_split.yaml"
    whole, planning = (open_scenes(golden / "beta", mapping, num_future_frames=n) for n in (None, 0))
    assert planning.tokens == whole.tokens
    assert len(planning[0].frames) == HISTORY_FRAMES


def test_follow_up_surroundings_continue_the_current_frame(golden: Path) -> None:
    folder = golden / "beta" / "navhard_two_stage" / "synthetic_scene_pickles"
    for path in sorted(folder.glob("*.pkl")):
        scene = load_synthetic_scene(path)
        x, y, heading = scene.now.ego_pose_world
        boxes = scene.now.boxes
        cos, sin = np.cos(heading), np.sin(heading)
        now = {
            track: (x + cos * box[0] - sin * box[1], y + sin * box[0] + cos * box[1])
            for track, box in zip(boxes.track_tokens, boxes.boxes, strict=True)
        }
        following = scene.future[0].boxes
        shared = [row for row, track in enumerate(following.track_tokens) if track in now]
        assert len(shared) > 5
        for row in shared:
            moved_m = np.hypot(*(following.boxes[row, :2] - now[following.track_tokens[row]]))
            assert moved_m <= 0.5 * np.hypot(*following.velocity_mps[row, :2]) + 1.0
        assert len(scene.future[0].traffic_lights) == len(scene.now.traffic_lights)


def test_split_without_its_follow_up_folder_says_where_it_belongs(golden: Path, tmp_path: Path) -> None:
    shutil.copytree(golden / "beta" / "navsim_logs", tmp_path / "navsim_logs")
    with pytest.raises(DataError, match="synthetic_scene_pickles"):
        open_scenes(tmp_path, golden / "beta" / "two_stage" / "train_test_split.yaml")


def test_splits_are_read_as_navsim_ships_them(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    root = root_of(tmp_path, records)
    folder = root / "train_test_split" / "scene_filter"
    folder.mkdir(parents=True)
    wanted = [record["token"] for record in records[4:9:2]]
    scene_filter = {
        "_target_": "navsim.common.dataclasses.SceneFilter",
        "_convert_": "all",
        "num_history_frames": 4,
        "num_future_frames": 10,
        "frame_interval": 1,
        "has_route": True,
        "max_scenes": None,
        "log_names": ["drive"],
        "tokens": wanted,
    }
    (folder / "navtiny.yaml").write_text(yaml.safe_dump(scene_filter))
    (root / "train_test_split" / "navtiny.yaml").write_text("data_split: test\ndefaults:\n  - scene_filter: navtiny\n")
    scenes = open_scenes(root, "navtiny")
    assert scenes.tokens == wanted
    assert len(scenes[0].frames) == 14
    assert len(open_scenes(root, "navtiny", num_future_frames=0)[0].frames) == HISTORY_FRAMES


@pytest.mark.parametrize(
    ("split_text", "filter_text", "reason"),
    [
        ("defaults: []", "", "data_split"),
        ("data_split: test", "", "0 scene filters"),
        ("data_split: test\ndefaults: [{scene_filter: other}]", "", "not beside it"),
        ("data_split: test\ndefaults: [{scene_filter: bad}]", "tokns: [a]", "unknown scene filter field 'tokns'"),
        ("data_split: test\ndefaults: [{scene_filter: bad}]", "frame_interval: 0", "frame_interval"),
        ("data_split: test\ndefaults: [{scene_filter: bad}]", "tokens: abc", "'tokens' cannot be 'abc'"),
        ("data_split: [", "", "cannot be read"),
    ],
)
def test_malformed_split_is_an_error_that_says_why(
    tmp_path: Path, split_text: str, filter_text: str, reason: str
) -> None:
    folder = tmp_path / "train_test_split"
    (folder / "scene_filter").mkdir(parents=True)
    (folder / "wanted.yaml").write_text(split_text)
    (folder / "scene_filter" / "bad.yaml").write_text(filter_text)
    with pytest.raises(DataError, match=reason):
        open_scenes(tmp_path, "wanted")


def test_unknown_split_lists_the_known_ones(golden: Path) -> None:
    with pytest.raises(DataError, match="known splits: test"):
        open_scenes(golden / "alpha", "tset")


def test_root_is_found_through_navsims_variable(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENSCENE_DATA_ROOT", str(golden / "alpha"))
    assert open_scenes(None, "test").root == golden / "alpha"
    monkeypatch.delenv("OPENSCENE_DATA_ROOT")
    with pytest.raises(DataError, match="OPENSCENE_DATA_ROOT"):
        open_scenes(None, "test")
    with pytest.raises(DataError, match="is not there"):
        open_scenes(tmp_path / "nowhere", "test")
