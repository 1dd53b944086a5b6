"""Is a data root complete and consistent? Maps, logs, sensors and splits, looked at before hours are spent on them.

Works on NAVSIM's own data, on the embedded world and on mixtures. What the official devkit or this package would
stumble over is an error; what costs scenes or pictures is a warning; what is merely worth knowing is a note.
"""

import itertools
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import shapely

from irlvla.data.logs import MAP_LOCATIONS, MAX_FRAME_GAP_S, FrameFault, LogScan, scan_log
from irlvla.data.maps import CityMap, load_map, maps_folder
from irlvla.data.scenes import SceneSet, load_synthetic_scene, open_scenes
from irlvla.data.splits import load_split
from irlvla.errors import DataError
from irlvla.processes import process_pool
from irlvla.types import HISTORY_FRAMES, PLAN_POSES, Array, Frame

Severity = Literal["error", "warning", "note"]

EGO_OFF_ROAD_M = 25.0
"""An ego vehicle farther than this from every road stands on another map than its log names."""
_JOINT_GAP_M = 0.5
_PROBE_REACH_M = 8.0
_PROBE_STEP_M = 0.5
_PROBE_LATERAL_M = 1.0


@dataclass(frozen=True)
class Finding:
    """One kind of thing that is wrong, however often."""

    severity: Severity
    where: str
    """Part of the root."""
    problem: str
    """What is wrong, how often, and the first example."""
    cure: str


@dataclass
class _Tally:
    """Counts each kind of problem of one part and keeps its first example."""

    where: str
    kinds: dict[tuple[Severity, str, str], tuple[int, str]] = field(default_factory=dict)

    def add(self, severity: Severity, problem: str, example: str, cure: str, count: int = 1) -> None:
        """Count `problem`, worded so that a number of cases can precede it."""
        seen, first = self.kinds.get((severity, problem, cure), (0, example))
        self.kinds[severity, problem, cure] = seen + count, first

    def merge(self, other: "_Tally") -> None:
        for (severity, problem, cure), (count, example) in other.kinds.items():
            self.add(severity, problem, example, cure, count)

    def findings(self) -> list[Finding]:
        return [
            Finding(severity, self.where, f"{count} {problem}" + (f" (first: {example})" if example else ""), cure)
            for (severity, problem, cure), (count, example) in self.kinds.items()
        ]


def examine(
    root: Path, *, workers: int = 1, on_progress: Callable[[int, int, str], None] | None = None
) -> list[Finding]:
    """Look at a whole data root.

    Args:
        root: Data root in NAVSIM's layout.
        workers: Processes to read logs with.
        on_progress: Called with (logs read, logs in all, folder).
    Returns:
        What was found, errors first; empty for a root without fault.
    Raises:
        DataError: `root` is no folder with `navsim_logs` in it.
    """
    root = root.resolve()
    if not (root / "navsim_logs").is_dir():
        raise DataError(f"{root}: holds no folder navsim_logs; give the root of NAVSIM's data or of an embedded world")
    findings = list(_examine_maps(root))
    report = on_progress or (lambda done, total, what: None)
    for folder in sorted(path for path in (root / "navsim_logs").iterdir() if path.is_dir()):
        findings += _examine_logs(root, folder, workers, partial(report))
    findings += _examine_splits(root)
    for folder in sorted(root.glob("*/synthetic_scene_pickles")):
        findings += _examine_follow_ups(root, folder)
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))


# --- maps --------------------------------------------------------------------------------------------------------


def _examine_maps(root: Path) -> Iterator[Finding]:
    try:
        maps_folder(root)
    except DataError as error:
        yield Finding("error", "maps", str(error), "without maps nothing can be scored")
        return
    for location in MAP_LOCATIONS:
        try:
            city = load_map(root, location)
        except DataError as error:
            yield Finding("error", f"maps/{location}", str(error), "the official map API opens all four cities")
            continue
        yield from examine_map(city)


def examine_map(city: CityMap) -> list[Finding]:
    """Look at the map of one city."""
    tally = _Tally(f"maps/{city.location}")
    download = "the map is damaged: download it, or build the world, again"
    for first, second in ((city.lanes, city.lane_connectors), (city.roadblocks, city.roadblock_connectors)):
        for fid in sorted(set(first.row) & set(second.row)):
            tally.add("error", "ids belong to two features that share one table of the devkit", str(fid), download)
    _examine_columns(city, tally, download)
    for name, layer in (
        ("lane", city.lanes), ("roadblock", city.roadblocks), ("roadblock connector", city.roadblock_connectors),
        ("intersection", city.intersections), ("car park", city.car_parks),
    ):  # fmt: skip
        broken = (
            layer.ids[~shapely.is_valid(layer.geometries) | shapely.is_empty(layer.geometries)] if len(layer) else []
        )
        if len(broken):
            problem = f"polygons of layer {name!r} are empty or cross themselves"
            tally.add("warning", problem, str(broken[0]), download, len(broken))
    for lanes in (city.lanes, city.lane_connectors):
        limits = lanes.columns["speed_limit_mps"]
        for fid in lanes.ids[np.nan_to_num(limits, nan=1.0) <= 0]:
            tally.add("error", "speed limits are zero or negative", f"lane {fid}", download)
    if len(city.lanes) and not len(city.lane_connectors):
        tally.add("error", "map has lanes but no connector between any of them", "", download)
    _examine_connectors(city, tally, download)
    return tally.findings()


def _examine_columns(city: CityMap, tally: _Tally, cure: str) -> None:
    """The devkit reads whole columns as numbers: one NULL makes '123.0' of every id in it."""
    whole = {
        "lane_connectors": ("exit_lane_fid", "entry_lane_fid", "lane_group_connector_fid"),
        "lanes_polygons": ("lane_group_fid", "lane_fid"),
        "lane_group_connectors": ("from_lane_group_fid", "to_lane_group_fid"),
        "gen_lane_connectors_scaled_width_polygons": ("lane_connector_fid",),
    }
    connection = sqlite3.connect(f"{city.path.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        for layer, columns in whole.items():
            present = {row[1] for row in connection.execute(f'PRAGMA table_info("{layer}")')}
            for column in columns:
                if column not in present:
                    continue
                (empty,) = connection.execute(f'SELECT COUNT(*) FROM "{layer}" WHERE "{column}" IS NULL').fetchone()
                if empty:
                    tally.add("error", f"rows of {layer} have no {column}", "", cure, empty)
    finally:
        connection.close()


def _examine_connectors(city: CityMap, tally: _Tally, cure: str) -> None:
    columns = city.lane_connectors.columns
    probes: list[Array] = []
    owners: list[int] = []
    for row, fid in enumerate(map(int, city.lane_connectors.ids)):
        ids = [columns[key][row] for key in ("exit_lane_fid", "entry_lane_fid", "lane_group_connector_fid")]
        if np.isnan(ids).any():
            continue
        before, after, block = map(int, ids)
        if before not in city.lanes or after not in city.lanes or block not in city.roadblock_connectors:
            tally.add("error", "lane connectors lead from, to or along something that the map lacks", str(fid), cure)
            continue
        ends = [*city.previous_roadblocks(block), *city.next_roadblocks(block)]
        if ends != [city.roadblock_of(before), city.roadblock_of(after)]:
            tally.add("error", "lane connectors join other roadblocks than their roadblock connector", str(fid), cure)
        here = shapely.get_coordinates(city.baseline(fid))
        into, out = shapely.get_coordinates(city.baseline(before)), shapely.get_coordinates(city.baseline(after))
        if max(np.hypot(*(into[-1] - here[0])), np.hypot(*(here[-1] - out[0]))) > _JOINT_GAP_M:
            tally.add(
                "warning", f"lane connectors are over {_JOINT_GAP_M} m away from a lane they join", str(fid), cure
            )
        if min(len(here), len(into), len(out)) < 3:
            # The devkit's reactive traffic drops a path's last vertex and then needs two.
            tally.add("warning", "lane connectors or their lanes have center lines of two points", str(fid), cure)
        if not shapely.intersects(city.connector_polygons[fid], city.baseline(fid)):
            tally.add("error", "polygons of lane connectors lie beside their center line", str(fid), cure)
        probe = _probes(into, here, out)
        probes.append(probe)
        owners += [fid] * len(probe)
    if not probes:
        return
    points = shapely.points(np.concatenate(probes))
    inside = np.zeros(len(points), dtype=bool)
    for layer in (city.roadblocks, city.intersections, city.car_parks):
        if len(layer):
            inside[np.unique(layer.tree.query(points, predicate="intersects")[0])] = True
    cracked = list(dict.fromkeys(np.array(owners)[~inside].tolist()))
    if cracked:
        tally.add(
            "warning",
            f"lane connectors have a spot within {_PROBE_LATERAL_M} m of their center line that counts as off the road",
            str(cracked[0]),
            "a car driving there may lose its drivable-area score for no fault of its own",
            len(cracked),
        )


def _probes(into: Array, here: Array, out: Array) -> Array:
    """[N, 2] points on both sides of the way from one lane through a connector into the next."""
    way = np.concatenate(
        [into[_last_metres(into, _PROBE_REACH_M) :], here, out[: -_last_metres(out[::-1], 8.0) or None]]
    )
    way = way[np.r_[True, np.hypot(*np.diff(way, axis=0).T) > 1e-6]]
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(way, axis=0).T))])
    at = np.arange(_PROBE_STEP_M, length[-1], _PROBE_STEP_M)
    if len(at) < 2:
        return np.zeros((0, 2))
    path = np.stack([np.interp(at, length, way[:, k]) for k in (0, 1)], axis=1)
    along = np.gradient(path, axis=0)
    along /= np.maximum(np.hypot(*along.T), 1e-9)[:, None]
    aside = _PROBE_LATERAL_M * np.stack([-along[:, 1], along[:, 0]], axis=1)
    return np.concatenate([path - aside, path, path + aside])


def _last_metres(line: Array, reach_m: float) -> int:
    """Index of the first vertex of a line within `reach_m` of its end."""
    left = np.cumsum(np.hypot(*np.diff(line[::-1], axis=0).T))
    return max(0, len(line) - 1 - int(np.searchsorted(left, reach_m)))


# --- logs and sensors --------------------------------------------------------------------------------------------


def _examine_logs(root: Path, folder: Path, workers: int, report: Callable[[int, int, str], None]) -> list[Finding]:
    where = f"navsim_logs/{folder.name}"
    paths = sorted(folder.glob("*.pkl"))
    if not paths:
        return [Finding("warning", where, "holds no logs (*.pkl)", "download or build the logs of this split")]
    total = _Tally(where)
    sensors = _Tally(f"sensor_blobs/{folder.name}")
    tokens: Counter[str] = Counter()
    blobs = root / "sensor_blobs" / folder.name
    look = partial(_examine_log, root, blobs if blobs.is_dir() else None)
    with _mapper(workers) as run:
        for done, (log, pictures, found) in enumerate(run(look, paths), start=1):
            total.merge(log)
            sensors.merge(pictures)
            tokens.update(found)
            report(done, len(paths), where)
    for token, count in tokens.items():
        if count > 1:
            total.add(
                "error", "tokens are borne by several frames", token, "frames with one token cannot be told apart"
            )
    findings = [*total.findings(), *sensors.findings()]
    if not blobs.is_dir():
        cure = "plans can be scored, but no policy can look through cameras or LiDAR"
        findings.append(Finding("note", sensors.where, "the folder is missing", cure))
    return findings


class _mapper:
    """`map` in this process, or in several."""

    def __init__(self, workers: int) -> None:
        self._pool = process_pool(workers, start="fork") if workers > 1 else None

    def __enter__(self) -> Callable[..., Iterator[tuple[_Tally, _Tally, list[str]]]]:
        return self._pool.map if self._pool is not None else map

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()


@lru_cache(maxsize=4)
def _city(root: Path, location: str) -> CityMap | None:
    try:
        return load_map(root, location)
    except DataError:
        return None  # Said once, with the maps.


def _examine_log(root: Path, blobs: Path | None, path: Path) -> tuple[_Tally, _Tally, list[str]]:
    log, sensors = _Tally(""), _Tally("")
    try:
        scan = scan_log(path, blobs)
    except DataError as error:
        log.add("error", "logs cannot be read", str(error), "download or build them again")
        return log, sensors, []
    name = path.stem
    if len(scan.frames) < HISTORY_FRAMES + PLAN_POSES:
        problem = f"logs are shorter than a scene that can be scored ({HISTORY_FRAMES + PLAN_POSES} frames)"
        log.add("warning", problem, name, "no scene comes from them")
    tokens = []
    for index, frame in enumerate(scan.frames):
        if isinstance(frame, FrameFault):
            problem = "frames cannot be used, nor can scenes that need them"
            log.add("error", problem, f"{name} frame {index}: {frame.reason}", "mend or leave out the log")
            continue
        tokens.append(frame.token)
        if not re.fullmatch(r"[0-9a-f]{16}", frame.token):
            cure = "17 characters would mean a synthetic scene to the devkit"
            log.add("warning", "tokens are not 16 hexadecimal digits", f"{frame.token!r} in {name}", cure)
    sound = [frame for frame in scan.frames if isinstance(frame, Frame)]
    for before, after in itertools.pairwise(sound):
        gap_s = (after.time_us - before.time_us) * 1e-6
        if gap_s > MAX_FRAME_GAP_S or gap_s < 0.3:
            problem = "neighbouring frames are not half a second apart"
            log.add(
                "warning", problem, f"{gap_s:.2f} s before {after.token} in {name}", "scenes over a gap are left out"
            )
    _examine_against_map(root, scan, sound, log)
    if blobs is not None:
        _examine_sensors(name, sound, blobs, sensors)
    return log, sensors, tokens


def _examine_against_map(root: Path, scan: LogScan, sound: Sequence[Frame], log: _Tally) -> None:
    locations = {location for location in scan.map_locations if location}
    if len(locations) != 1:
        if locations:
            log.add("error", "logs change the city on the way", scan.name, "a log has one map; mend it")
        return
    city = _city(root, locations.pop())
    if city is None:
        return
    routes: dict[tuple[str, ...], str] = {}
    other_map = "log and map do not belong together: take maps and logs of one release"
    for frame in sound:
        routes.setdefault(frame.roadblock_ids, frame.token)
        for connector, _ in frame.traffic_lights:
            if not connector.isdigit() or int(connector) not in city.lane_connectors:
                problem = "traffic lights belong to lane connectors that the map lacks"
                log.add("error", problem, f"{connector} in frame {frame.token} of {scan.name}", other_map)
        sizes = frame.boxes.boxes[:, 3:6]
        if (sizes <= 0).any():
            log.add("error", "frames hold boxes without size", f"{frame.token} of {scan.name}", "mend the annotation")
    for route, token in routes.items():
        if not route:
            problem = "logs have frames without a route"
            log.add("warning", problem, f"{token} of {scan.name}", "NAVSIM leaves their scenes out")
            continue
        unknown = [block for block in route if not block.isdigit() or not city.has_roadblock(int(block))]
        if unknown:
            problem = "routes name roadblocks that the map lacks"
            log.add("error", problem, f"{unknown[0]} at frame {token} of {scan.name}", other_map)
            continue
        blocks = [int(block) for block in route]
        if any(after not in city.next_roadblocks(before) for before, after in itertools.pairwise(blocks)):
            problem = "routes have gaps between roadblocks"
            log.add(
                "warning", problem, f"at frame {token} of {scan.name}", "the scorer fills gaps by searching the map"
            )
    if sound and len(city.roadblocks):
        middle = sound[len(sound) // 2]
        nearest = city.roadblocks.tree.query_nearest(
            shapely.Point(middle.ego_pose_world[:2]), max_distance=EGO_OFF_ROAD_M, all_matches=False
        )
        if not len(nearest):
            problem = f"logs have the ego vehicle over {EGO_OFF_ROAD_M:.0f} m away from every road"
            log.add("error", problem, f"{middle.token} of {scan.name}", other_map)


def _examine_sensors(name: str, frames: Sequence[Frame], blobs: Path, sensors: _Tally) -> None:
    listing: dict[Path, set[str]] = {}

    def exists(path: Path) -> bool:
        # One listing a folder: a root holds millions of pictures.
        if path.parent not in listing:
            listing[path.parent] = {item.name for item in path.parent.iterdir()} if path.parent.is_dir() else set()
        return path.name in listing[path.parent]

    cure = "download or build them again; scenes without them can be scored, but no policy can look through them"
    for frame in frames:
        for camera in frame.cameras.values():
            if camera.image_path is not None and not exists(camera.image_path):
                example = str(camera.image_path.relative_to(blobs))
                sensors.add("warning", f"images of {camera.name} are missing", example, cure)
        if frame.lidar_path is not None and not exists(frame.lidar_path):
            sensors.add("warning", "point clouds are missing", str(frame.lidar_path.relative_to(blobs)), cure)


# --- splits ------------------------------------------------------------------------------------------------------


def _examine_splits(root: Path) -> Iterator[Finding]:
    for path in sorted((root / "train_test_split").glob("*.yaml")):
        where = f"train_test_split/{path.name}"
        try:
            split = load_split(root, path)
            scenes = open_scenes(root, split)
        except DataError as error:
            yield Finding("error", where, str(error), "mend the split, or get what it names")
            continue
        tally = _Tally(where)
        for failure in scenes.failures:
            cure = "they are left out of every table"
            tally.add("error", "scenes cannot be read", f"{failure.token}: {failure.reason}", cure)
        wanted = split.scene_filter
        _examine_filter(root, scenes, wanted.tokens, wanted.log_names, tally)
        known = set(scenes.tokens)
        for now, earlier, pairs in split.mapping:
            for token in (now, earlier, *itertools.chain.from_iterable(pairs)):
                if token not in known:
                    problem = "scenes of the two-stage mapping are not there"
                    tally.add("error", problem, token, "the official two-stage script stops at the first of them")
        yield from tally.findings()


def _examine_filter(
    root: Path, scenes: SceneSet, tokens: frozenset[str] | None, logs: frozenset[str] | None, tally: _Tally
) -> None:
    known: Mapping[str, object] = dict.fromkeys(scenes.tokens)
    failed = {failure.token for failure in scenes.failures}
    cure = "get the logs they come from; until then they are missing from every table"
    for token in sorted(tokens or ()):
        if token not in known and token not in failed:
            tally.add("warning", "scenes that the filter names are not there", token, cure)
    present = {path.stem for path in (root / "navsim_logs" / scenes.split.data_split).glob("*.pkl")}
    for log in sorted((logs or frozenset()) - present):
        tally.add("warning", "logs that the filter names are not there", log, cure)


def _examine_follow_ups(root: Path, folder: Path) -> list[Finding]:
    """Synthetic scenes of a two-stage split."""
    tally = _Tally(f"{folder.parent.name}/{folder.name}")
    cure = "download or build them again; the official two-stage script stops at the first of them"
    blobs = folder.parent / "sensor_blobs"
    for path in sorted(folder.glob("*.pkl")):
        try:
            scene = load_synthetic_scene(path)
        except DataError as error:
            tally.add("error", "follow-up scenes cannot be read", str(error), cure)
            continue
        if path.stem != scene.token:
            tally.add("error", "files of follow-up scenes are not named by their token", path.name, cure)
        if len(scene.token) != 17:
            problem = "tokens of follow-up scenes have not 17 characters"
            tally.add("error", problem, scene.token, "the devkit would take them for scenes that a human drove")
        if len(scene.future) < PLAN_POSES:
            tally.add("error", f"follow-up scenes end before {PLAN_POSES} future frames", path.name, cure)
        city = _city(root, scene.map_location)
        if city is not None and any(
            not block.isdigit() or not city.has_roadblock(int(block)) for block in scene.now.roadblock_ids
        ):
            problem = "routes name roadblocks that the map lacks"
            tally.add("error", problem, path.name, "take maps and scenes of one release")
        if blobs.is_dir():
            _examine_sensors(path.stem, scene.history, blobs, tally)
    return tally.findings()
