import sqlite3
from pathlib import Path

import numpy as np
import pytest
import shapely

from irlvla.data.logs import MAP_LOCATIONS
from irlvla.data.maps import load_map
from irlvla.world.map_file import MAP_VERSIONS


def _database(root: Path, location: str) -> sqlite3.Connection:
    return sqlite3.connect(root / "maps" / location / MAP_VERSIONS[location] / "map.gpkg")


def _shapes(rows: list[tuple[int, bytes]]) -> dict[int, shapely.Geometry]:
    # The GeoPackage header of a line or polygon is 8 bytes and an envelope of 4 doubles.
    return {fid: shapely.from_wkb(blob[40:]) for fid, blob in rows}


@pytest.mark.parametrize("location", MAP_LOCATIONS)
def test_every_layer_has_the_columns_of_a_nuplan_map(world: Path, golden: Path, location: str) -> None:
    ours, theirs = _database(world, location), _database(golden / "alpha", location)
    layers = [row[0] for row in theirs.execute("SELECT table_name FROM gpkg_contents")]
    for layer in layers:
        columns = [row[1:3] for row in theirs.execute(f"PRAGMA table_info({layer})")]
        assert [row[1:3] for row in ours.execute(f"PRAGMA table_info({layer})")] == columns
    for query in (
        "SELECT * FROM gpkg_geometry_columns ORDER BY table_name",
        "SELECT srs_id, organization, definition FROM gpkg_spatial_ref_sys ORDER BY srs_id",
        "SELECT table_name, data_type, identifier, srs_id FROM gpkg_contents ORDER BY table_name",
        "SELECT value FROM meta WHERE key = 'projectedCoordSystem'",
        "PRAGMA application_id",
    ):
        assert ours.execute(query).fetchall() == theirs.execute(query).fetchall()


@pytest.mark.parametrize("location", MAP_LOCATIONS)
def test_feature_ids_are_unique_over_the_whole_map(world: Path, location: str) -> None:
    database = _database(world, location)
    layers = [row[0] for row in database.execute("SELECT table_name FROM gpkg_geometry_columns")]
    ids = [row[0] for layer in layers for row in database.execute(f"SELECT fid FROM {layer}")]
    assert len(ids) == len(set(ids)) > 100


@pytest.mark.parametrize("location", MAP_LOCATIONS)
def test_connectors_join_their_lanes_without_a_gap(world: Path, location: str) -> None:
    database = _database(world, location)
    lines = "SELECT {key}, geom FROM baseline_paths WHERE {key} IS NOT NULL"
    lane = _shapes(database.execute(lines.format(key="lane_fid")).fetchall())
    connector = _shapes(database.execute(lines.format(key="lane_connector_fid")).fetchall())
    rows = database.execute("SELECT fid, exit_lane_fid, entry_lane_fid FROM lane_connectors").fetchall()
    assert len(rows) > 20
    degree_m = 111_000.0
    for fid, before, after in rows:
        line = np.array(connector[fid].coords)
        assert np.abs(line[0] - lane[before].coords[-1]).max() * degree_m < 1e-6
        assert np.abs(line[-1] - lane[after].coords[0]).max() * degree_m < 1e-6


@pytest.mark.parametrize("location", MAP_LOCATIONS)
def test_connector_columns_hold_no_null_and_point_at_existing_features(world: Path, location: str) -> None:
    database = _database(world, location)
    ids = {
        layer: {row[0] for row in database.execute(f"SELECT fid FROM {layer}")}
        for layer in ("lanes_polygons", "lane_groups_polygons", "lane_group_connectors", "intersections")
    }
    rows = database.execute(
        "SELECT exit_lane_fid, entry_lane_fid, exit_lane_group_fid, entry_lane_group_fid, lane_group_connector_fid, "
        "intersection_fid FROM lane_connectors"
    )
    for exit_lane, entry_lane, exit_block, entry_block, joint, intersection in rows:
        assert {exit_lane, entry_lane} <= ids["lanes_polygons"]
        assert {exit_block, entry_block} <= ids["lane_groups_polygons"]
        assert joint in ids["lane_group_connectors"]
        assert intersection in ids["intersections"]


@pytest.mark.parametrize("location", MAP_LOCATIONS)
def test_polygons_are_valid_and_our_reader_accepts_the_map(world: Path, location: str) -> None:
    database = _database(world, location)
    kinds = database.execute("SELECT table_name, geometry_type_name FROM gpkg_geometry_columns").fetchall()
    for layer, kind in kinds:
        if kind == "POLYGON":
            shapes = list(_shapes(database.execute(f"SELECT fid, geom FROM {layer}").fetchall()).values())
            assert shapely.is_valid(shapes).all(), layer
            assert (shapely.get_type_id(shapes) == 3).all(), layer
    load_map(world, location)
