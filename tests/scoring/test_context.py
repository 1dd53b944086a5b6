"""Building scoring contexts: refusals, synthetic scenes, storage."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scenes import empty_road, red_light_ahead

from irlvla.data.maps import load_map
from irlvla.data.scenes import SceneSet, load_synthetic_scene, open_scenes
from irlvla.errors import DataError, SceneDataError
from irlvla.scoring.context import ScoringContext, _cache_key, build_context, build_contexts
from irlvla.scoring.editions import NAVSIM_V1, NAVSIM_V2
from irlvla.scoring.epdms import epdms
from irlvla.scoring.record_store import RecordStore, record_from_arrays, record_to_arrays
from irlvla.scoring.score import score
from irlvla.types import Scene


@pytest.fixture(scope="module")
def scenes(golden: Path) -> SceneSet:
    return open_scenes(golden / "alpha", "test", num_future_frames=8)


def build(scenes: SceneSet, scene: Scene) -> ScoringContext:
    return build_context(scene, load_map(scenes.root, scene.map_location))


def test_a_scene_without_a_route_is_refused(scenes: SceneSet) -> None:
    scene = scenes[0]
    lost = replace(scene, frames=tuple(replace(frame, roadblock_ids=()) for frame in scene.frames))
    with pytest.raises(SceneDataError, match="no route"):
        build(scenes, lost)


def test_a_route_the_map_does_not_know_is_refused(scenes: SceneSet) -> None:
    scene = scenes[0]
    foreign = replace(scene, frames=tuple(replace(frame, roadblock_ids=("1", "2")) for frame in scene.frames))
    with pytest.raises(SceneDataError, match="knows no roadblock 1"):
        build(scenes, foreign)


def test_seven_future_frames_are_too_few(scenes: SceneSet) -> None:
    with pytest.raises(SceneDataError, match="7 future frames"):
        build(scenes, replace(scenes[0], frames=scenes[0].frames[:11]))


def test_a_scene_without_objects_is_fine(scenes: SceneSet) -> None:
    scene = scenes[0]
    nothing = scene.observation().now.boxes
    context = build(scenes, replace(scene, frames=tuple(replace(frame, boxes=nothing) for frame in scene.frames)))
    assert score([context], context.human_plan[None, None]).no_at_fault_collisions[0, 0] == 1.0


def test_synthetic_follow_up_scenes_are_scored_without_a_human(golden: Path) -> None:
    folder = golden / "beta" / "navhard_two_stage" / "synthetic_scene_pickles"
    contexts = []
    for path in sorted(folder.glob("*.pkl")):
        scene = load_synthetic_scene(path)
        contexts.append(build_context(scene, load_map(golden / "beta", scene.map_location)))
    assert len(contexts) == 12
    assert all(context.is_synthetic and len(context.human_plan) == 0 for context in contexts)
    standing = np.zeros((len(contexts), 1, 8, 3))
    on, off = (epdms(score(contexts, standing, human_filter=wanted)) for wanted in (True, False))
    np.testing.assert_array_equal(on, off)
    assert on.max() > 0.0


@pytest.mark.parametrize("context", [empty_road(), red_light_ahead()])
def test_a_context_survives_its_way_through_arrays(context: ScoringContext) -> None:
    arrays = record_to_arrays(context)
    again = record_from_arrays(ScoringContext, arrays)
    assert again.tracks.tokens == context.tracks.tokens
    assert type(again.now_us) is int
    for name, array in record_to_arrays(again).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_a_cache_spares_the_work_and_changes_nothing(scenes: SceneSet, tmp_path: Path) -> None:
    few = scenes[:3]
    steps: list[tuple[int, int]] = []
    built, failures = build_contexts(few, cache=tmp_path / "cache", on_progress=lambda *step: steps.append(step))
    cached, _ = build_contexts(few, cache=tmp_path / "cache")
    assert not failures
    assert steps[-1] == (3, 3)
    assert list(cached) == few.tokens
    for token in few.tokens:
        ours, stored = record_to_arrays(built[token]), record_to_arrays(cached[token])
        for name in ours:
            np.testing.assert_array_equal(ours[name], stored[name])


def test_a_record_comes_back_as_kernels_want_arrays(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "cache")
    store.write(b"key", red_light_ahead())
    stored = store.load(b"key", ScoringContext)
    assert stored is not None
    for array in record_to_arrays(stored).values():
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert array.flags.writeable


def test_a_damaged_record_counts_as_missing_and_is_written_anew(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "cache")
    store.write(b"key", empty_road())
    (file,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    whole = file.read_bytes()
    flipped = bytes([*whole[:1000], whole[1000] ^ 1, *whole[1001:]])
    for damaged in (b"", whole[:10], whole[: len(whole) // 2], whole[:-1], whole + b"x", flipped, b"\0" * len(whole)):
        file.write_bytes(damaged)
        assert store.load(b"key", ScoringContext) is None
    store.write(b"key", empty_road())
    assert file.read_bytes() == whole
    assert store.load(b"other", ScoringContext) is None


def test_a_record_under_the_name_of_another_is_not_trusted(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "cache")
    store.write(b"one", empty_road())
    store.write(b"other", red_light_ahead())
    one, other = (next((tmp_path / "cache").rglob(f"{key.hex()[2:]}.record")) for key in (b"one", b"other"))
    one.write_bytes(other.read_bytes())
    assert store.load(b"one", ScoringContext) is None
    assert store.load(b"other", ScoringContext) is not None


def test_a_cache_of_ruins_changes_nothing(scenes: SceneSet, tmp_path: Path) -> None:
    few = scenes[:3]
    built, _ = build_contexts(few, cache=tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    for number, file in enumerate(files):
        file.write_bytes(file.read_bytes()[: 100 * number])
    again, failures = build_contexts(few, cache=tmp_path)
    assert not failures
    for token in few.tokens:
        ours, rebuilt = record_to_arrays(built[token]), record_to_arrays(again[token])
        for name in ours:
            np.testing.assert_array_equal(ours[name], rebuilt[name])


def test_a_changed_log_or_map_is_another_context(scenes: SceneSet, tmp_path: Path) -> None:
    scene, city_map = scenes[0], load_map(scenes.root, scenes[0].map_location)
    later = replace(scene.now, time_us=scene.now.time_us + 1)
    changed = replace(scene, frames=(*scene.frames[:3], later, *scene.frames[4:]))
    other_map = tmp_path / "map.gpkg"
    other_map.write_bytes(city_map.path.read_bytes() + b"x")
    keys = {
        _cache_key(scene, city_map, NAVSIM_V2),
        _cache_key(scene, city_map, NAVSIM_V1),
        _cache_key(changed, city_map, NAVSIM_V2),
        _cache_key(scene, replace(city_map, path=other_map), NAVSIM_V2),
    }
    assert len(keys) == 4
    assert _cache_key(scenes[0], city_map, NAVSIM_V2) in keys


def test_a_cache_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with pytest.raises(DataError, match="another cache folder"):
        RecordStore(tmp_path / "file" / "cache")
