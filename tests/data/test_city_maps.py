"""Maps: the very coordinates that geopandas gives the official devkit, and its look-ups."""

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import shapely

from irlvla.data.maps import CityMap, load_map
from irlvla.data.scenes import open_scenes
from irlvla.errors import DataError

CITY = "us-ma-boston"
ROADBLOCK, LANE, LANE_CONNECTOR, INTERSECTION, CAR_PARK = 17, 0, 11, 1, 15


@pytest.fixture
def copied_root(golden: Path, tmp_path: Path) -> Path:
    shutil.copytree(golden / "alpha" / "maps", tmp_path / "maps")
    return tmp_path


def gpkg(root: Path) -> Path:
    return next((root / "maps" / CITY).glob("*/map.gpkg"))


def shape(city: CityMap, kind: int, fid: int) -> shapely.Geometry:
    if kind == ROADBLOCK:
        return city.roadblocks.geometry(fid)
    if kind in (LANE, LANE_CONNECTOR):
        return city.lane_polygon(fid)
    return (city.intersections if kind == INTERSECTION else city.car_parks).geometry(fid)


def test_polygons_equal_the_devkits_to_the_last_bit(golden: Path) -> None:
    compared = 0
    for path in sorted((golden / "alpha" / "contexts").glob("*.npz")):
        with np.load(path) as context:
            city = load_map(golden / "alpha", str(context["map_name"]))
            for token, kind, wkb in zip(
                context["map_tokens"], context["map_types"], context["map_wkb_hex"], strict=True
            ):
                assert shapely.to_wkb(shape(city, int(kind), int(token)), hex=True) == wkb
                compared += 1
            for lane in context["route_lane_ids"][:3]:
                path_world = city.discrete_path(int(lane))
                assert path_world.shape == (len(path_world), 3)
    assert compared > 900


def test_centerline_of_the_devkit_is_made_of_discrete_paths(golden: Path) -> None:
    with np.load(sorted((golden / "alpha" / "contexts").glob("*.npz"))[0]) as context:
        city = load_map(golden / "alpha", str(context["map_name"]))
        start = city.discrete_path(int(context["prop_start_lane"]))
        np.testing.assert_array_equal(context["centerline"][: len(start), :2], start[:, :2])
        limit = city.speed_limit_mps(int(context["prop_start_lane"]))
        assert limit is not None
        np.testing.assert_allclose(context["prop_target_v"][-1], limit)


def test_neighbours_agree_in_both_directions(golden: Path) -> None:
    city = load_map(golden / "alpha", CITY)
    for connector in city.lane_connectors.ids.tolist():
        (entered,), (left,) = city.next_lanes(connector), city.previous_lanes(connector)
        assert connector in city.previous_lanes(entered)
        assert connector in city.next_lanes(left)
        assert connector in city.lanes_of(city.roadblock_of(connector))
    for connector in city.roadblock_connectors.ids.tolist():
        (entered,), (left,) = city.next_roadblocks(connector), city.previous_roadblocks(connector)
        assert connector in city.previous_roadblocks(entered)
        assert connector in city.next_roadblocks(left)


def test_rows_and_answers_stand_in_ascending_id(golden: Path) -> None:
    city = load_map(golden / "alpha", CITY)
    for layer in (city.lanes, city.roadblocks, city.lane_connectors, city.crosswalks):
        assert (np.diff(layer.ids) > 0).all()
    found = city.roadblocks.intersecting(shapely.union_all(city.roadblocks.geometries[:7]).envelope)
    assert found == sorted(found)
    assert len(found) >= 7


def test_nearby_objects_are_those_of_the_devkit(golden: Path) -> None:
    scenes = open_scenes(golden / "alpha", "test", num_future_frames=8)
    with np.load(sorted((golden / "alpha" / "contexts").glob("*.npz"))[0]) as context:
        x, y, _ = context["ego_center"]
        city = load_map(scenes.root, scenes.by_token(str(context["token"])).map_location)
        near = city.roadblocks.intersecting(shapely.box(x - 100, y - 100, x + 100, y + 100))
        assert [str(fid) for fid in near] == context["map_tokens"][context["map_types"] == ROADBLOCK].tolist()


def test_lane_without_speed_limit_has_none(copied_root: Path) -> None:
    with sqlite3.connect(gpkg(copied_root)) as connection:
        (lane,) = connection.execute("SELECT min(fid) FROM lanes_polygons").fetchone()
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type='trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{trigger}"')
        connection.execute("UPDATE lanes_polygons SET speed_limit_mps = NULL WHERE fid = ?", (lane,))
    connection.close()
    assert load_map(copied_root, CITY).speed_limit_mps(lane) is None


@pytest.mark.parametrize("layer", ["baseline_paths", "carpark_areas", "meta"])
def test_missing_layer_is_named(copied_root: Path, layer: str) -> None:
    with sqlite3.connect(gpkg(copied_root)) as connection:
        connection.execute(f"ALTER TABLE {layer} RENAME TO lost")
    connection.close()
    with pytest.raises(DataError, match=layer) as error:
        load_map(copied_root, CITY)
    assert "map.gpkg" in str(error.value)


def test_layer_the_scorer_does_not_read_may_be_missing(copied_root: Path) -> None:
    with sqlite3.connect(gpkg(copied_root)) as connection:
        connection.execute("ALTER TABLE crosswalks RENAME TO lost")
    connection.close()
    assert len(load_map(copied_root, CITY).crosswalks) == 0


def test_damaged_missing_and_unknown_maps_are_errors(copied_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUPLAN_MAPS_ROOT", raising=False)
    with pytest.raises(DataError, match="atlantis"):
        load_map(copied_root, "atlantis")
    path = gpkg(copied_root)
    content = path.read_bytes()
    path.write_bytes(content[:2000] + bytes(len(content) - 2000))
    with pytest.raises(DataError, match=r"map\.gpkg"):
        load_map(copied_root, CITY)
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        load_map(copied_root, CITY)
    shutil.rmtree(copied_root / "maps")
    with pytest.raises(DataError, match="NUPLAN_MAPS_ROOT"):
        load_map(copied_root, CITY)


def test_maps_are_found_through_navsims_variable(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUPLAN_MAPS_ROOT", str(golden / "alpha" / "maps"))
    assert load_map(tmp_path, CITY).location == CITY
    assert load_map(None, CITY).crs == "epsg:32619"
