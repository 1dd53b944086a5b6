"""Cities as nuPlan map files: one GeoPackage per location, written with sqlite3 alone.

The files follow the OGC GeoPackage layout that GDAL reads (spatial index left out, which readers accept) and carry
every layer that the nuPlan map API opens.
"""

import errno
import json
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from shapely.geometry import LineString, Point
from shapely.geometry.base import BaseGeometry

from irlvla.files import write_atomically, write_text
from irlvla.world.city import City

Array = NDArray[np.float64]

MAP_VERSIONS = {
    "sg-one-north": "9.17.1964",
    "us-ma-boston": "9.12.1817",
    "us-nv-las-vegas-strip": "9.15.1915",
    "us-pa-pittsburgh-hazelwood": "9.17.1937",
}
UTM_EPSG = {
    "sg-one-north": 32648,
    "us-ma-boston": 32619,
    "us-nv-las-vegas-strip": 32611,
    "us-pa-pittsburgh-hazelwood": 32617,
}
# A point within each nuPlan city, in its UTM zone (m): where the embedded network is laid.
ORIGINS = {
    "sg-one-north": (364500.0, 143500.0),
    "us-ma-boston": (331000.0, 4690500.0),
    "us-nv-las-vegas-strip": (664500.0, 3998500.0),
    "us-pa-pittsburgh-hazelwood": (587500.0, 4474500.0),
}

SLOT_SPACING_M = 6000.0
"""Networks that share a location lie this far apart, well beyond anything that looks around itself."""


def slot_origin(location: str, slot: int) -> Array:
    """[2] world coordinates (UTM, m) of the middle of a network's place."""
    east, north = ORIGINS[location]
    return np.array([east + slot * SLOT_SPACING_M, north])


CREATOR = "irlvla"

_LAYERS: dict[str, tuple[str, str]] = {
    "baseline_paths": (
        "LINESTRING",
        "path_type_fid INTEGER, creator_id TEXT, lane_fid INTEGER, lane_connector_fid INTEGER, dubins_node_fids TEXT",
    ),
    "boundaries": (
        "LINESTRING",
        "boundary_segment_fids TEXT, has_reflectors BOOLEAN, boundary_type_fid INTEGER, creator_id TEXT",
    ),
    "lanes_polygons": (
        "POLYGON",
        "lane_group_fid INTEGER, lane_fid INTEGER, lane_index INTEGER, creator_id TEXT, name TEXT, "
        "road_type_fid INTEGER, lane_type_fid INTEGER, width REAL, left_offset REAL, right_offset REAL, "
        "min_speed REAL, max_speed REAL, stops REAL, left_boundary_fid INTEGER, right_boundary_fid INTEGER, "
        "speed_limit_mps REAL, left_has_reflectors BOOLEAN, right_has_reflectors BOOLEAN, from_edge_fid INTEGER, "
        "to_edge_fid INTEGER",
    ),
    "lane_groups_polygons": (
        "POLYGON",
        "creator_id TEXT, left_boundary_fid INTEGER, right_boundary_fid INTEGER, from_edge_fid INTEGER, "
        "to_edge_fid INTEGER",
    ),
    "lane_connectors": (
        "LINESTRING",
        "exit_lane_group_fid INTEGER, exit_lane_fid INTEGER, entry_lane_group_fid INTEGER, "
        "lane_group_connector_fid INTEGER, entry_lane_fid INTEGER, intersection_fid INTEGER, turn_type_fid INTEGER, "
        "bulb_fids TEXT, traffic_light_stop_line_fids TEXT, overlap INTEGER, creator_id TEXT, "
        "reflector_side_fid INTEGER, left_has_reflectors BOOLEAN, right_has_reflectors BOOLEAN, speed_limit_mps REAL",
    ),
    "gen_lane_connectors_scaled_width_polygons": (
        "POLYGON",
        "baseline_path_fid INTEGER, lane_connector_fid INTEGER, from_edge_fid INTEGER, to_edge_fid INTEGER, "
        "left_boundary_fid INTEGER, right_boundary_fid INTEGER",
    ),
    "lane_group_connectors": (
        "POLYGON",
        "intersection_fid INTEGER, from_lane_group_fid INTEGER, to_lane_group_fid INTEGER, creator_id TEXT, "
        "from_edge_fid INTEGER, to_edge_fid INTEGER, left_boundary_fid INTEGER, right_boundary_fid INTEGER",
    ),
    "intersections": ("POLYGON", "creator_id TEXT, intersection_type_fid INTEGER, is_mini BOOLEAN"),
    "stop_polygons": (
        "POLYGON",
        "stop_polygon_type_fid INTEGER, lane_group_fid INTEGER, lane_fids TEXT, lane_connector_fids TEXT, "
        "traffic_light_fids TEXT, crosswalk_fids TEXT, precedence_area_fids TEXT, creator_id TEXT",
    ),
    "crosswalks": ("POLYGON", "intersection_fids TEXT, lane_fids TEXT, creator_id TEXT, is_marked BOOLEAN"),
    "walkways": ("POLYGON", "creator_id TEXT"),
    "carpark_areas": ("POLYGON", "heading REAL, creator_id TEXT"),
    "generic_drivable_areas": ("POLYGON", "creator_id TEXT"),
    "road_segments": ("POLYGON", "lane_group_fids TEXT"),
    "traffic_lights": ("POINT", "creator_id TEXT"),
    "dubins_nodes": ("POINT", "radius REAL, heading REAL, creator_id TEXT"),
}

_WGS84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,AUTHORITY["EPSG","7030"]],'
    'AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],UNIT["degree",0.0174532925199433,'
    'AUTHORITY["EPSG","9122"]],AXIS["Latitude",NORTH],AXIS["Longitude",EAST],AUTHORITY["EPSG","4326"]]'
)

_GEOPACKAGE_TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER NOT NULL PRIMARY KEY,
    organization TEXT NOT NULL, organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
    description TEXT DEFAULT '', last_change DATETIME NOT NULL, min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE,
    srs_id INTEGER, CONSTRAINT fk_gc_r_srs_id FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL,
    geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL,
    CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name), CONSTRAINT uk_gc_table_name UNIQUE (table_name),
    CONSTRAINT fk_gc_tn FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name),
    CONSTRAINT fk_gc_srs FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys (srs_id));
"""

# GeoPackage 1.4 asks for a change time; a constant keeps equal worlds byte-identical.
_LAST_CHANGE = "2024-01-01T00:00:00.000Z"
_APPLICATION_ID = 0x47504B47
_USER_VERSION = 10400

_TURN_TYPES = {"s": 0, "l": 1, "L": 1, "r": 2, "R": 2, "t": 3}


def _blob(shape: BaseGeometry) -> bytes:
    """GeoPackage binary: header with envelope (no envelope for points), then little-endian WKB."""
    wkb = shapely.to_wkb(shape, byte_order=1)
    if isinstance(shape, Point):
        return struct.pack("<2sBBi", b"GP", 0, 0x01, 4326) + wkb
    west, south, east, north = shape.bounds
    return struct.pack("<2sBBi4d", b"GP", 0, 0x03, 4326, west, east, south, north) + wkb


def _edge_line(baseline: Array, offset_m: float) -> LineString:
    """Line parallel to a baseline, left positive."""
    direction = np.gradient(baseline, axis=0)
    direction /= np.hypot(*direction.T)[:, None]
    return LineString(baseline + offset_m * np.stack([-direction[:, 1], direction[:, 0]], axis=1))


def _rows(city: City) -> Iterable[tuple[str, int, BaseGeometry, tuple[Any, ...]]]:
    """(layer, fid, shape in world metres, other columns) of every feature."""
    for lane in city.lanes:
        yield (
            "lanes_polygons", lane.fid, lane.polygon,
            (lane.roadblock, lane.fid, lane.index_from_left, CREATOR, "", 0, 0, lane.width_m, None, None, None, None,
             None, lane.left_boundary_fid, lane.right_boundary_fid, lane.speed_limit_mps, 0, 0, 0, 0),
        )  # fmt: skip
        yield "baseline_paths", lane.baseline_fid, LineString(lane.baseline), (0, CREATOR, lane.fid, None, "")
        half = lane.width_m / 2
        if lane.index_from_left == 0:
            yield "boundaries", lane.left_boundary_fid, _edge_line(lane.baseline, half), ("", 0, 2, CREATOR)
        yield "boundaries", lane.right_boundary_fid, _edge_line(lane.baseline, -half), ("", 0, 0, CREATOR)
    left = {lane.roadblock: lane.left_boundary_fid for lane in city.lanes if lane.index_from_left == 0}
    right = {lane.roadblock: lane.right_boundary_fid for lane in city.lanes}
    for block in city.roadblocks:
        yield "lane_groups_polygons", block.fid, block.polygon, (CREATOR, left[block.fid], right[block.fid], 0, 0)
    for c in city.connectors:
        stop = str(c.stop_line_fid) if c.stop_line_fid else ""
        yield (
            "lane_connectors", c.fid, LineString(c.baseline),
            (c.from_lane.roadblock, c.from_lane.fid, c.to_lane.roadblock, c.roadblock_connector, c.to_lane.fid,
             c.intersection, _TURN_TYPES.get(c.turn, 0), "", stop, 0, CREATOR, 0, 0, 0, c.speed_limit_mps),
        )  # fmt: skip
        yield "baseline_paths", c.baseline_fid, LineString(c.baseline), (0, CREATOR, None, c.fid, "")
        half = min(c.from_lane.width_m, c.to_lane.width_m) / 2
        yield "boundaries", c.left_boundary_fid, _edge_line(c.baseline, half), ("", 0, 3, CREATOR)
        yield "boundaries", c.right_boundary_fid, _edge_line(c.baseline, -half), ("", 0, 3, CREATOR)
        yield (
            "gen_lane_connectors_scaled_width_polygons", c.polygon_fid, c.polygon,
            (c.baseline_fid, c.fid, 0, 0, c.left_boundary_fid, c.right_boundary_fid),
        )  # fmt: skip
    for joint in city.roadblock_connectors:
        yield (
            "lane_group_connectors", joint.fid, joint.polygon,
            (joint.intersection, joint.from_roadblock, joint.to_roadblock, CREATOR, 0, 0,
             right[joint.from_roadblock], right[joint.to_roadblock]),
        )  # fmt: skip
    signalled = {c.intersection for c in city.connectors if c.signal is not None}
    for area in city.intersections:
        yield "intersections", area.fid, area.polygon, (CREATOR, 1 if area.fid in signalled else 5, 0)
    lane_of = {lane.sumo_id: lane for lane in city.lanes}
    for line in city.stop_lines:
        lane = lane_of[line.name]
        ways = ",".join(str(c.fid) for c in city.connectors if c.stop_line_fid == line.fid)
        yield "stop_polygons", line.fid, line.polygon, (2, lane.roadblock, str(lane.fid), ways, "", "", "", CREATOR)
    for area in city.crosswalks:
        yield "crosswalks", area.fid, area.polygon, ("", "", CREATOR, 1)
    for area in city.walkways:
        yield "walkways", area.fid, area.polygon, (CREATOR,)
    for area in city.car_parks:
        yield "carpark_areas", area.fid, area.polygon, (0.0, CREATOR)


def write_map(cities: Sequence[City], file: Path) -> None:
    """Write the networks of one location as `map.gpkg`; rows of each layer in ascending fid.

    Raises:
        RunError: The disk is full.
    """

    def write(beside: Path) -> None:
        try:
            _write_database(cities, beside)
        except sqlite3.OperationalError as error:
            # SQLite hides the system's error number; both of these mean that a write found no room.
            if error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
                raise OSError(errno.ENOSPC, f"no room for the map: {error}", str(file)) from error
            raise

    write_atomically(file, write)


def _write_database(cities: Sequence[City], path: Path) -> None:
    epsg = UTM_EPSG[cities[0].location]
    to_degrees = pyproj.Transformer.from_crs(epsg, 4326, always_xy=True)
    rows = sorted((row for city in cities for row in _rows(city)), key=lambda row: (row[0], row[1]))
    database = sqlite3.connect(path)
    try:
        database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {_USER_VERSION}")
        database.executescript(_GEOPACKAGE_TABLES)
        database.executemany(
            "INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, ?)",
            [
                ("Undefined Cartesian SRS", -1, "NONE", -1, "undefined", "undefined Cartesian coordinates"),
                ("Undefined geographic SRS", 0, "NONE", 0, "undefined", "undefined geographic coordinates"),
                ("WGS 84 geodetic", 4326, "EPSG", 4326, _WGS84, "longitude and latitude in degrees on WGS 84"),
            ],
        )
        for layer, (geometry_type, columns) in _LAYERS.items():
            database.execute(
                f'CREATE TABLE "{layer}" (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom {geometry_type}, '
                f"{columns})"
            )
            mine = [row for row in rows if row[0] == layer]
            bounds: tuple[Any, ...] = (None, None, None, None)
            if mine:
                shapes = shapely.transform(
                    [row[2] for row in mine], lambda xy: np.stack(to_degrees.transform(*xy.T), 1)
                )
                bounds = tuple(float(v) for v in shapely.total_bounds(shapes))
                values = [(row[1], _blob(shape), *row[3]) for row, shape in zip(mine, shapes, strict=True)]
                database.executemany(f'INSERT INTO "{layer}" VALUES ({", ".join("?" * len(values[0]))})', values)
            database.execute(
                "INSERT INTO gpkg_contents VALUES (?, 'features', ?, '', ?, ?, ?, ?, ?, 4326)",
                (layer, layer, _LAST_CHANGE, *bounds),
            )
            database.execute(
                "INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', ?, 4326, 0, 0)", (layer, geometry_type)
            )
        database.execute("CREATE TABLE meta (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, key TEXT, value TEXT)")
        database.executemany(
            "INSERT INTO meta (key, value) VALUES (?, ?)",
            [
                ("geographicCoordSystem", "epsg:4326"),
                ("projectedCoordSystem", f"epsg:{epsg}"),
            ],
        )
        database.execute(
            "INSERT INTO gpkg_contents VALUES ('meta', 'attributes', 'meta', '', ?, NULL, NULL, NULL, NULL, 0)",
            (_LAST_CHANGE,),
        )
        database.commit()
    finally:
        database.close()


def write_map_index(root: Path) -> None:
    """Write `nuplan-maps-v1.0.json`, which names the version of each location's map."""
    layer = {"shape": [10, 10], "transform_matrix": np.eye(4).tolist()}
    index = {name: {"version": version, "layers": {"Intensity": layer}} for name, version in MAP_VERSIONS.items()}
    write_text(root / "maps" / "nuplan-maps-v1.0.json", json.dumps(index, indent=1))
