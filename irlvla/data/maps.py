"""nuPlan's city maps: GeoPackage files, read with sqlite and shapely alone.

Every layer is stored in degrees and brought into the city's UTM frame on load. Rows stand in ascending `fid`, which
is the order the official devkit iterates in and therefore decides ties.
"""

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from irlvla.errors import DataError
from irlvla.types import Array

Ids = NDArray[np.int64]
Geometries = NDArray[np.object_]

MAPS_CATALOGUE = "nuplan-maps-v1.0.json"

_LAYERS: Mapping[str, tuple[str, ...]] = {
    "lanes_polygons": ("lane_group_fid", "speed_limit_mps", "lane_index"),
    "lane_groups_polygons": (),
    "lane_connectors": ("exit_lane_fid", "entry_lane_fid", "lane_group_connector_fid", "speed_limit_mps"),
    "gen_lane_connectors_scaled_width_polygons": ("lane_connector_fid",),
    "lane_group_connectors": ("from_lane_group_fid", "to_lane_group_fid"),
    "baseline_paths": ("lane_fid", "lane_connector_fid"),
    "intersections": (),
    "carpark_areas": (),
}
"""Layers the scorer reads, and their columns."""

_OPTIONAL_LAYERS: Mapping[str, tuple[str, ...]] = {
    "crosswalks": (),
    "stop_polygons": ("stop_polygon_type_fid",),
    "walkways": (),
    "boundaries": ("boundary_type_fid",),
    "generic_drivable_areas": (),
}
"""Layers that only drawing, learning targets and the language annotator read."""

_OPTIONAL_COLUMNS = frozenset({"lane_index", "stop_polygon_type_fid", "boundary_type_fid"})

# Length of the envelope in a GeoPackage geometry header, by its indicator (OGC 12-128r18, 2.1.3).
_ENVELOPE_BYTES = (0, 32, 48, 48, 64)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a city: geometries in the world frame with their ids, in ascending id."""

    ids: Ids
    """[N] fid, unique."""
    geometries: Geometries
    """[N] shapely geometries, world frame, m."""
    columns: Mapping[str, NDArray[Any]]
    """Further columns [N], float64 with NaN where the file holds NULL."""

    @cached_property
    def row(self) -> dict[int, int]:
        """Row of an id."""
        return {int(fid): row for row, fid in enumerate(self.ids)}

    @cached_property
    def tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.geometries)

    def __contains__(self, fid: int) -> bool:
        return fid in self.row

    def __len__(self) -> int:
        return len(self.ids)

    def geometry(self, fid: int) -> Any:
        return self.geometries[self.row[fid]]

    def intersecting(self, geometry: Any) -> list[int]:
        """Ids of the rows whose geometry intersects the given one, ascending."""
        return [int(self.ids[row]) for row in np.sort(self.tree.query(geometry, predicate="intersects"))]


@dataclass(frozen=True, eq=False)
class CityMap:
    """The road network of one city.

    Ids are integers. A *lane id* is that of a lane or of a lane connector; a *roadblock id* that of a lane group
    (roadblock) or of a lane group connector (roadblock connector). nuPlan keeps ids unique within each of the two
    pairs, and so the look-ups need not be told which of the pair is meant.
    """

    location: str
    path: Path
    crs: str
    """The world frame: a UTM zone, as the map's `meta` layer names it."""
    lanes: Layer
    roadblocks: Layer
    lane_connectors: Layer
    """Geometries are the connectors' center lines; their areas are in `connector_polygons`."""
    roadblock_connectors: Layer
    intersections: Layer
    car_parks: Layer
    crosswalks: Layer
    stop_polygons: Layer
    walkways: Layer
    boundaries: Layer
    generic_drivable_areas: Layer
    connector_polygons: Mapping[int, Any]
    """Polygon of each lane connector."""
    baselines: Mapping[int, Any]
    """Center line (LineString) of each lane and lane connector."""

    def is_lane(self, lane: int) -> bool:
        """True for a lane, False for a lane connector."""
        return lane in self.lanes

    def is_roadblock(self, roadblock: int) -> bool:
        """True for a roadblock, False for a roadblock connector."""
        return roadblock in self.roadblocks

    def has_roadblock(self, roadblock: int) -> bool:
        """Whether the map knows the roadblock or roadblock connector."""
        return roadblock in self.roadblocks or roadblock in self.roadblock_connectors

    def has_lane(self, lane: int) -> bool:
        """Whether the map knows the lane or lane connector."""
        return lane in self.lanes or lane in self.lane_connectors

    def lane_polygon(self, lane: int) -> Any:
        return self.lanes.geometry(lane) if self.is_lane(lane) else self.connector_polygons[lane]

    def roadblock_polygon(self, roadblock: int) -> Any:
        layer = self.roadblocks if self.is_roadblock(roadblock) else self.roadblock_connectors
        return layer.geometry(roadblock)

    def baseline(self, lane: int) -> Any:
        return self.baselines[lane]

    def discrete_path(self, lane: int) -> Array:
        """Vertices of a lane's center line with their headings.

        Returns:
            [V, 3] x, y (m, world frame), heading towards the next vertex (rad); the last heading is repeated. Do not
            write into it.
        Source: nuplan-devkit v1.2 `NuPlanPolylineMapObject.discrete_path`.
        """
        path = self._discrete_paths.get(lane)
        if path is None:
            vertices = shapely.get_coordinates(self.baselines[lane])
            steps = np.diff(vertices, axis=0)
            headings = np.arctan2(steps[:, 1], steps[:, 0])
            path = np.concatenate([vertices, np.append(headings, headings[-1])[:, None]], axis=1)
            path.flags.writeable = False
            self._discrete_paths[lane] = path
        return path

    @cached_property
    def _discrete_paths(self) -> dict[int, Array]:
        return {}

    def speed_limit_mps(self, lane: int) -> float | None:
        """Speed limit of a lane or connector; None where the map gives none."""
        layer = self.lanes if self.is_lane(lane) else self.lane_connectors
        limit = float(layer.columns["speed_limit_mps"][layer.row[lane]])
        return None if np.isnan(limit) else limit

    def roadblock_of(self, lane: int) -> int:
        """Roadblock of a lane, roadblock connector of a lane connector."""
        if self.is_lane(lane):
            return int(self.lanes.columns["lane_group_fid"][self.lanes.row[lane]])
        return int(self.lane_connectors.columns["lane_group_connector_fid"][self.lane_connectors.row[lane]])

    def lanes_of(self, roadblock: int) -> Sequence[int]:
        """Lanes of a roadblock, or connectors of a roadblock connector, ascending."""
        return self._interior.get(roadblock, ())

    def next_lanes(self, lane: int) -> Sequence[int]:
        """Connectors that leave a lane (ascending), or the one lane a connector leads to."""
        if self.is_lane(lane):
            return self._connectors_from.get(lane, ())
        return (int(self.lane_connectors.columns["entry_lane_fid"][self.lane_connectors.row[lane]]),)

    def previous_lanes(self, lane: int) -> Sequence[int]:
        """Connectors that lead into a lane (ascending), or the one lane a connector comes from."""
        if self.is_lane(lane):
            return self._connectors_to.get(lane, ())
        return (int(self.lane_connectors.columns["exit_lane_fid"][self.lane_connectors.row[lane]]),)

    def next_roadblocks(self, roadblock: int) -> Sequence[int]:
        """Roadblock connectors that leave a roadblock (ascending), or the one roadblock a connector leads to."""
        if self.is_roadblock(roadblock):
            return self._block_connectors_from.get(roadblock, ())
        layer = self.roadblock_connectors
        return (int(layer.columns["to_lane_group_fid"][layer.row[roadblock]]),)

    def previous_roadblocks(self, roadblock: int) -> Sequence[int]:
        """Roadblock connectors that lead into a roadblock (ascending), or the roadblock a connector comes from."""
        if self.is_roadblock(roadblock):
            return self._block_connectors_to.get(roadblock, ())
        layer = self.roadblock_connectors
        return (int(layer.columns["from_lane_group_fid"][layer.row[roadblock]]),)

    @cached_property
    def _interior(self) -> dict[int, tuple[int, ...]]:
        return _group(self.lanes.columns["lane_group_fid"], self.lanes.ids) | _group(
            self.lane_connectors.columns["lane_group_connector_fid"], self.lane_connectors.ids
        )

    @cached_property
    def _connectors_from(self) -> dict[int, tuple[int, ...]]:
        return _group(self.lane_connectors.columns["exit_lane_fid"], self.lane_connectors.ids)

    @cached_property
    def _connectors_to(self) -> dict[int, tuple[int, ...]]:
        return _group(self.lane_connectors.columns["entry_lane_fid"], self.lane_connectors.ids)

    @cached_property
    def _block_connectors_from(self) -> dict[int, tuple[int, ...]]:
        return _group(self.roadblock_connectors.columns["from_lane_group_fid"], self.roadblock_connectors.ids)

    @cached_property
    def _block_connectors_to(self) -> dict[int, tuple[int, ...]]:
        return _group(self.roadblock_connectors.columns["to_lane_group_fid"], self.roadblock_connectors.ids)


def _group(keys: NDArray[Any], ids: Ids) -> dict[int, tuple[int, ...]]:
    groups: dict[int, list[int]] = {}
    for key, fid in zip(keys.tolist(), ids.tolist(), strict=True):
        if key == key:
            groups.setdefault(int(key), []).append(int(fid))
    return {key: tuple(members) for key, members in groups.items()}


def maps_folder(root: Path | None) -> Path:
    """Folder of the maps of a data root; NUPLAN_MAPS_ROOT where the root has none, as NAVSIM uses it.

    Raises:
        DataError: Neither is there.
    """
    if root is not None and (root / "maps" / MAPS_CATALOGUE).is_file():
        return root / "maps"
    from_environment = os.environ.get("NUPLAN_MAPS_ROOT")
    if from_environment and (Path(from_environment) / MAPS_CATALOGUE).is_file():
        return Path(from_environment)
    raise DataError(
        f"no {MAPS_CATALOGUE} in {root / 'maps' if root is not None else 'the data root'} nor in NUPLAN_MAPS_ROOT "
        f"({from_environment or 'not set'}): download nuPlan's maps, or build a world"
    )


def map_versions(root: Path | None) -> list[tuple[str, int, int]]:
    """Catalogue and map files with their modification times (ns) and sizes: other maps, other versions.

    Raises:
        DataError: There are no maps.
    """
    folder = maps_folder(root)
    found = [folder / MAPS_CATALOGUE, *sorted(folder.glob("*/*/map.gpkg"))]
    return [(str(path), status.st_mtime_ns, status.st_size) for path in found for status in [path.stat()]]


def load_map(root: Path | None, location: str) -> CityMap:
    """The map of one city; kept for the life of the process.

    Args:
        root: Data root with a `maps` folder; without one NUPLAN_MAPS_ROOT is used.
        location: A city as logs name it, such as `us-ma-boston`.
    Raises:
        DataError: The city, its file, or a layer or column that the scorer reads is missing or damaged.
    """
    folder = maps_folder(root)
    catalogue_path = folder / MAPS_CATALOGUE
    try:
        catalogue = json.loads(catalogue_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{catalogue_path}: cannot be read ({error})") from error
    if location not in catalogue:
        raise DataError(f"{catalogue_path}: knows no city {location!r}, only {', '.join(sorted(catalogue))}")
    path = folder / location / str(catalogue[location].get("version")) / "map.gpkg"
    if not path.is_file():
        raise DataError(f"{path}: the map of {location} is missing; download nuPlan's maps again")
    return _load_gpkg(path.resolve(), location, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _load_gpkg(path: Path, location: str, _modified_ns: int) -> CityMap:
    try:
        # Read-only and immutable: a shared data root may lie on a file system without locks.
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    except sqlite3.Error as error:
        raise DataError(f"{path}: cannot be opened ({error})") from error
    try:
        return _read_city(connection, path, location)
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path}: damaged map ({error}); download it again") from error
    finally:
        connection.close()


def _read_city(connection: sqlite3.Connection, path: Path, location: str) -> CityMap:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    missing = [layer for layer in ("meta", *_LAYERS) if layer not in tables]
    if missing:
        raise DataError(f"{path}: layer {missing[0]!r} is missing; download the map of {location} again")
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    crs = meta.get("projectedCoordSystem")
    if crs is None:
        raise DataError(f"{path}: layer 'meta' names no projectedCoordSystem")
    try:
        target = CRS.from_user_input(crs)
    except CRSError as error:
        raise DataError(f"{path}: unknown coordinate system {crs!r}") from error

    transformers: dict[int, Transformer] = {}

    def layer(name: str, columns: tuple[str, ...]) -> Layer:
        (srs,) = connection.execute(
            "SELECT srs_id FROM gpkg_geometry_columns WHERE table_name = ?", (name,)
        ).fetchone() or (4326,)
        if srs not in transformers:
            transformers[srs] = Transformer.from_crs(CRS.from_epsg(srs), target, always_xy=True)
        return _read_layer(connection, path, name, columns, transformers[srs])

    required = {name: layer(name, columns) for name, columns in _LAYERS.items()}
    optional = {
        name: layer(name, columns) if name in tables else _empty_layer(columns)
        for name, columns in _OPTIONAL_LAYERS.items()
    }
    baselines = required["baseline_paths"]
    center_lines = {
        int(lane): line
        for column in ("lane_fid", "lane_connector_fid")
        for lane, line in zip(baselines.columns[column], baselines.geometries, strict=True)
        if lane == lane
    }
    polygons = required["gen_lane_connectors_scaled_width_polygons"]
    connector_polygons = {
        int(connector): polygon
        for connector, polygon in zip(polygons.columns["lane_connector_fid"], polygons.geometries, strict=True)
        if connector == connector
    }
    city = CityMap(
        location=location,
        path=path,
        crs=crs,
        lanes=required["lanes_polygons"],
        roadblocks=required["lane_groups_polygons"],
        lane_connectors=required["lane_connectors"],
        roadblock_connectors=required["lane_group_connectors"],
        intersections=required["intersections"],
        car_parks=required["carpark_areas"],
        crosswalks=optional["crosswalks"],
        stop_polygons=optional["stop_polygons"],
        walkways=optional["walkways"],
        boundaries=optional["boundaries"],
        generic_drivable_areas=optional["generic_drivable_areas"],
        connector_polygons=connector_polygons,
        baselines=center_lines,
    )
    for lanes, kind in ((city.lanes, "lane"), (city.lane_connectors, "lane connector")):
        lost = [int(lane) for lane in lanes.ids if int(lane) not in center_lines]
        if lost:
            raise DataError(f"{path}: {kind} {lost[0]} has no center line in layer 'baseline_paths'")
    lost = [int(connector) for connector in city.lane_connectors.ids if int(connector) not in connector_polygons]
    if lost:
        raise DataError(
            f"{path}: lane connector {lost[0]} has no polygon in layer 'gen_lane_connectors_scaled_width_polygons'"
        )
    return city


def _read_layer(
    connection: sqlite3.Connection, path: Path, name: str, columns: tuple[str, ...], transformer: Transformer
) -> Layer:
    present = {row[1] for row in connection.execute(f'PRAGMA table_info("{name}")')}
    for column in ("fid", "geom", *columns):
        if column not in present and column not in _OPTIONAL_COLUMNS:
            raise DataError(f"{path}: layer {name!r} has no column {column!r}")
    selected = [column for column in columns if column in present]
    rows = connection.execute(
        f'SELECT fid, geom{"".join(f", {column}" for column in selected)} FROM "{name}" ORDER BY fid'
    ).fetchall()
    if not rows:
        return _empty_layer(columns)
    try:
        geometries = shapely.from_wkb([_well_known_binary(row[1]) for row in rows])
    except (shapely.errors.ShapelyError, TypeError, IndexError) as error:
        raise DataError(f"{path}: layer {name!r} holds a damaged geometry ({error})") from error
    degrees = shapely.get_coordinates(geometries)
    east, north = transformer.transform(degrees[:, 0], degrees[:, 1])
    world = shapely.set_coordinates(geometries, np.stack([east, north], axis=1))
    values = {column: np.full(len(rows), np.nan) for column in columns}
    for position, column in enumerate(selected, start=2):
        values[column] = np.array(
            [np.nan if row[position] is None else row[position] for row in rows], dtype=np.float64
        )
    return Layer(np.array([row[0] for row in rows], dtype=np.int64), world, values)


def _empty_layer(columns: tuple[str, ...]) -> Layer:
    return Layer(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=object), {column: np.zeros(0) for column in columns})


def _well_known_binary(blob: bytes) -> bytes:
    if blob[:2] != b"GP":
        raise TypeError("not a GeoPackage geometry")
    return blob[8 + _ENVELOPE_BYTES[(blob[3] >> 1) & 7] :]
