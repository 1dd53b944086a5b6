"""Scenes of a split: windows over logs, and synthetic follow-up scenes, read when asked for."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np

from irlvla.data.log_index import LogSummary, file_version, summarise_logs
from irlvla.data.logs import MAP_LOCATIONS, MAX_FRAME_GAP_S, FrameFault, LogScan, frame_from_synthetic, scan_log
from irlvla.data.pickles import DevkitObject, load_pickle
from irlvla.data.splits import SceneFilter, Split, data_root, load_split, with_future_frames
from irlvla.errors import DataError, SceneDataError
from irlvla.geometry import world_to_ego
from irlvla.types import HISTORY_FRAMES, PLAN_POSES, PLAN_STEP_S, Array, Boxes, Frame, Scene, SceneFailure

EARLIER_FRAME_MAX_S = 0.55
"""Scenes at most this far apart are two successive frames for extended comfort."""

_FRAME_STEP_US = 500_000


@dataclass(frozen=True)
class SceneEntry:
    """Where a scene lies, without its content."""

    token: str
    path: Path
    """Log, or synthetic-scene file."""
    start: int
    """First frame of the window in the log; -1 for a synthetic scene."""
    time_us: int
    """Time of the current frame."""


class SceneSet(Sequence[Scene]):
    """The scenes of a split, in the order of logs and frames, then follow-up scenes.

    Only the places of the scenes are held; a scene is read from its log on access, and the last few logs are kept.

    Attributes:
        root: Data root.
        split: What was opened.
        failures: Scenes of the split that cannot be read, and why. They are in no other figure of the set.
    """

    def __init__(self, root: Path, split: Split, entries: Iterable[SceneEntry], failures: Sequence[SceneFailure]):
        self.root = root
        self.split = split
        self.failures = list(failures)
        self._entries = tuple(entries)
        self._position = {entry.token: position for position, entry in enumerate(self._entries)}
        self._sensor_root = root / "sensor_blobs" / split.data_split

    @property
    def tokens(self) -> list[str]:
        return list(self._position)

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice) -> "SceneSet": ...
    def __getitem__(self, index: int | slice) -> "Scene | SceneSet":
        if isinstance(index, slice):
            return SceneSet(self.root, self.split, self._entries[index], self.failures)
        entry = self._entries[index]
        if entry.start < 0:
            return load_synthetic_scene(entry.path)
        window = _scan(entry.path, self._sensor_root)
        stop = entry.start + self.split.scene_filter.num_frames
        frames = []
        for frame in window.frames[entry.start : stop]:
            if isinstance(frame, FrameFault):
                raise SceneDataError(entry.token, f"{entry.path} changed since the set was opened: {frame.reason}")
            frames.append(frame)
        if len(frames) < self.split.scene_filter.num_frames or frames[HISTORY_FRAMES - 1].token != entry.token:
            raise SceneDataError(entry.token, f"{entry.path} changed since the set was opened")
        location = window.map_locations[entry.start + HISTORY_FRAMES - 1]
        return Scene(entry.token, window.name, location, tuple(frames))

    def __iter__(self) -> Iterator[Scene]:
        for index in range(len(self)):
            yield self[index]

    def __contains__(self, item: object) -> bool:
        return item in self._position if isinstance(item, str) else super().__contains__(item)

    def by_token(self, token: str) -> Scene:
        """The scene whose current frame has this token.

        Raises:
            SceneDataError: The set has no such scene.
        """
        position = self._position.get(token)
        if position is None:
            failed = next((failure.reason for failure in self.failures if failure.token == token), None)
            raise SceneDataError(token, failed or f"is not in split {self.split.name!r} of {self.root}")
        return self[position]

    def earlier_token(self, token: str) -> str | None:
        """The scene one frame (at most 0.55 s) earlier in the same log, if it is in the set."""
        position = self._position[token]
        if position == 0 or self._entries[position].start < 0:
            return None
        entry, before = self._entries[position], self._entries[position - 1]
        is_near = 0 < entry.time_us - before.time_us <= EARLIER_FRAME_MAX_S * 1e6
        return before.token if before.path == entry.path and is_near else None

    def log_name(self, token: str) -> str:
        """Log of a scene; for a follow-up scene the name of its file."""
        return self._entries[self._position[token]].path.stem

    def detached(self) -> "SceneSet":
        """The same scenes, fit to be sent to another process in parts: without the lists that chose them, without
        failures, and with paths that do not depend on the working folder."""
        split = self.split
        unlisted = replace(split.scene_filter, log_names=None, tokens=None, synthetic_scene_tokens=None)
        unlisted = replace(unlisted, reactive_synthetic_initial_tokens=None, non_reactive_synthetic_initial_tokens=None)
        entries = [replace(entry, path=entry.path.absolute()) for entry in self._entries]
        return SceneSet(self.root.absolute(), replace(split, scene_filter=unlisted, mapping=()), entries, ())

    def versions(self) -> Iterator[tuple[str, str, int, int, int]]:
        """What each scene is read from: token, file, first frame, and the file's modification time (ns) and size.

        Raises:
            DataError: A file is not there.
        """
        known: dict[Path, tuple[int, int]] = {}
        for entry in self._entries:
            if entry.path not in known:
                known[entry.path] = file_version(entry.path)
            yield entry.token, str(entry.path), entry.start, *known[entry.path]

    def subset(self, tokens: Iterable[str]) -> "SceneSet":
        """The scenes of these tokens, in the order of the set.

        Raises:
            SceneDataError: A token is not in the set.
        """
        wanted = set(tokens)
        for token in wanted:
            if token not in self._position:
                raise SceneDataError(token, f"is not in split {self.split.name!r} of {self.root}")
        return SceneSet(self.root, self.split, (e for e in self._entries if e.token in wanted), self.failures)


def open_scenes(
    root: Path | None,
    split: str | Path | Split,
    *,
    num_future_frames: int | None = None,
    workers: int = 1,
    cache: Path | None = None,
) -> SceneSet:
    """Find the scenes of a split.

    Args:
        root: Data root; None takes OPENSCENE_DATA_ROOT.
        split: Name or YAML file of a split, or the split itself.
        num_future_frames: Frames after the current one, instead of the split's own number; 0 for planning alone.
        workers: Processes to read logs with.
        cache: Folder that remembers which scenes each log holds, so that the next start need not read the logs.
    Returns:
        The scenes. Those that cannot be read are in `failures`.
    Raises:
        DataError: The root or split is not there, or no scene of it can be read.
    """
    root = data_root(root)
    if not isinstance(split, Split):
        split = load_split(root, split)
    # Follow-up scenes belong to the last frame of the split's own windows, also where less of them is read.
    follow_up_after = split.scene_filter.num_frames - 1
    split = with_future_frames(split, num_future_frames)
    folder = root / "navsim_logs" / split.data_split
    if not folder.is_dir():
        raise DataError(f"{folder}: the folder of logs is missing; check the data root")
    names = split.scene_filter.log_names
    paths = sorted(path for path in folder.glob("*.pkl") if names is None or path.stem in names)
    if not paths:
        wanted = "" if names is None else f" of the {len(names)} logs that split {split.name!r} names"
        raise DataError(f"{folder}: holds none{wanted}" if wanted else f"{folder}: holds no logs (*.pkl)")
    entries: list[SceneEntry] = []
    failures: list[SceneFailure] = []
    last_tokens: set[str] = set()
    limit = split.scene_filter.max_scenes
    logs = summarise_logs(paths, root / "sensor_blobs" / split.data_split, workers=workers, cache=cache)
    for path, log in zip(paths, logs, strict=False):
        if log.damage:
            failures.append(SceneFailure(path.stem, log.damage, "load"))
            continue
        _add_windows(log, path, split.scene_filter, follow_up_after, entries, failures, last_tokens)
        if limit is not None and len(entries) >= limit:
            del entries[limit:]
            break
    if split.scene_filter.include_synthetic_scenes:
        _add_synthetic(synthetic_folder(root, split.name), split.scene_filter, last_tokens, entries, failures)
    counts = Counter(entry.token for entry in entries)
    failures += [
        SceneFailure(token, f"{count} scenes bear this token, none of them can be told apart", "load")
        for token, count in counts.items()
        if count > 1
    ]
    entries = [entry for entry in entries if counts[entry.token] == 1]
    if not entries:
        if failures:
            raise DataError(f"{folder}: no scene of split {split.name!r} can be read; first: {failures[0].reason}")
        raise DataError(
            f"{folder}: split {split.name!r} leaves no scene; it wants {split.scene_filter.num_frames} frames in a row"
            + (" with a route" if split.scene_filter.has_route else "")
        )
    return SceneSet(root, split, entries, failures)


def human_plan(scene: Scene) -> Array:
    """What the human drove.

    Returns:
        [8, 3] rear-axle poses every 0.5 s in the ego frame at t=0 (m, rad).
    Raises:
        SceneDataError: The scene is synthetic or its window ends too early: nobody drove this.
    """
    if scene.is_synthetic:
        raise SceneDataError(scene.token, "a synthetic follow-up scene has no human future")
    if len(scene.future) < PLAN_POSES:
        raise SceneDataError(
            scene.token, f"its window ends after {len(scene.future)} future frames, {PLAN_POSES} are needed"
        )
    poses_world = np.stack([frame.ego_pose_world for frame in scene.future[:PLAN_POSES]])
    return world_to_ego(poses_world, scene.now.ego_pose_world)


def constant_velocity_plan(scene: Scene) -> Array:
    """Plan [8, 3] straight along the present heading at the present speed, in the ego frame.

    Source: navsim 0a380a9 `ConstantVelocityAgent`.
    """
    plan = np.zeros((PLAN_POSES, 3))
    speed_mps = float(np.hypot(*scene.now.ego_velocity_mps))
    plan[:, 0] = speed_mps * PLAN_STEP_S * np.arange(1, PLAN_POSES + 1)
    return plan


def synthetic_folder(root: Path, split_name: str) -> Path:
    """Folder of a two-stage split's follow-up scenes: the split's own, else NAVSIM's navhard, else the only one.

    Raises:
        DataError: There is none, or several and no way to choose.
    """
    found = sorted(root.glob("*/synthetic_scene_pickles"))
    for name in (split_name, f"{split_name}_two_stage", "navhard_two_stage"):
        if root / name / "synthetic_scene_pickles" in found:
            return root / name
    if len(found) != 1:
        raise DataError(
            f"{root}: split {split_name!r} needs follow-up scenes in "
            f"{split_name}_two_stage/synthetic_scene_pickles; "
            f"found {', '.join(str(folder.parent.name) for folder in found) or 'none'}"
        )
    return found[0].parent


def load_synthetic_scene(path: Path) -> Scene:
    """A follow-up scene of a two-stage split.

    Its file holds four history frames and the surroundings at 2 Hz after them. No human drove on, so the future frames
    have no ego: their `ego_pose_world` is the origin and their boxes are in the world frame.

    Args:
        path: `<folder>/synthetic_scene_pickles/<token>.pkl`; images are looked up in `<folder>/sensor_blobs`.
    Raises:
        DataError: The file is damaged or incomplete.
    """
    return _read_synthetic(path)[0]


def _read_synthetic(path: Path) -> tuple[Scene, str]:
    """A follow-up scene, and the last frame's token of the original scene it belongs to."""
    content = load_pickle(path)
    try:
        metadata = content["scene_metadata"]
        token, location = str(metadata["initial_token"]), str(metadata["map_name"])
        log_name, original = str(metadata["log_name"]), str(metadata["corresponding_original_scene"])
        records = content["frames"]
        history = [frame_from_synthetic(record, path.parent.parent / "sensor_blobs") for record in records]
        tracks, lights = content["extended_detections_tracks"], content["extended_traffic_light_data"]
        future = [
            _surroundings(
                f"{token}+{index}", history[-1].time_us + index * _FRAME_STEP_US, detections, statuses, history[-1]
            )
            for index, (detections, statuses) in enumerate(zip(tracks or (), lights or (), strict=True), start=1)
        ]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a synthetic scene of NAVSIM's layout ({error!r})") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if len(history) != HISTORY_FRAMES or history[-1].token != token:
        raise DataError(f"{path}: holds {len(history)} frames, expected {HISTORY_FRAMES} of which the last is {token}")
    if location not in MAP_LOCATIONS:
        raise DataError(f"{path}: unknown map location {location!r}, known are {', '.join(MAP_LOCATIONS)}")
    return Scene(token, log_name, location, (*history, *future)), original


def _surroundings(token: str, time_us: int, detections: DevkitObject, statuses: Any, now: Frame) -> Frame:
    objects = detections["tracked_objects"]["tracked_objects"]
    boxes, velocity = np.zeros((len(objects), 7)), np.zeros((len(objects), 3))
    types = np.zeros(len(objects), dtype=np.int64)
    for row, tracked in enumerate(objects):
        box = tracked["_box"]
        center, height = box["_center"], float(box["_height"])
        boxes[row] = (center["x"], center["y"], height / 2, box["_length"], box["_width"], height, center["heading"])
        types[row] = tracked["_tracked_object_type"].arguments[0]
        moving = tracked.fields.get("_velocity")
        if moving is not None:
            velocity[row, :2] = moving["_x"], moving["_y"]
    red = 2
    lights = statuses["traffic_lights"] if isinstance(statuses, DevkitObject) else statuses
    return Frame(
        token=token,
        time_us=time_us,
        ego_pose_world=np.zeros(3),
        ego_velocity_mps=np.zeros(2),
        ego_acceleration_mps2=np.zeros(2),
        command=now.command,
        roadblock_ids=now.roadblock_ids,
        traffic_lights=tuple(
            (str(light["lane_connector_id"]), int(light["status"].arguments[0]) == red) for light in lights
        ),
        boxes=Boxes(boxes, types, velocity, tuple(str(tracked["_metadata"]["track_token"]) for tracked in objects)),
        cameras={},
        lidar_path=None,
    )


def _scan(path: Path, sensor_root: Path) -> LogScan:
    return _scan_version(path, sensor_root, *file_version(path))


@lru_cache(maxsize=8)
def _scan_version(path: Path, sensor_root: Path, _modified_ns: int, _size: int) -> LogScan:
    return scan_log(path, sensor_root)


def _add_windows(
    log: LogSummary,
    path: Path,
    scene_filter: SceneFilter,
    follow_up_after: int,
    entries: list[SceneEntry],
    failures: list[SceneFailure],
    last_tokens: set[str],
) -> None:
    """Every window of a log that the filter wants goes into `entries`, or with its reason into `failures`.

    The token of the frame `follow_up_after` frames after a window's first goes into `last_tokens`.
    """
    for start in range(0, len(log.tokens) - scene_filter.num_frames + 1, scene_filter.stride):
        stop, now = start + scene_filter.num_frames, start + scene_filter.num_history_frames - 1
        token = log.tokens[now]
        if scene_filter.tokens is not None and token not in scene_filter.tokens:
            continue
        if scene_filter.has_route and not log.has_route[now]:
            continue
        reason = _window_fault(log, start, stop)
        if reason is None:
            if start + follow_up_after < len(log.tokens):
                last_tokens.add(log.tokens[start + follow_up_after])
            entries.append(SceneEntry(token, path, start, log.times_us[now]))
        else:
            failures.append(SceneFailure(token, f"{path}: {reason}", "load"))


def _window_fault(log: LogSummary, start: int, stop: int) -> str | None:
    for frame in range(start, stop):
        if log.faults[frame]:
            return f"frame {log.tokens[frame]}: {log.faults[frame]}"
        gap_s = (log.times_us[frame] - log.times_us[frame - 1]) * 1e-6
        if frame > start and gap_s > MAX_FRAME_GAP_S:
            return f"{gap_s:.2f} s are missing between frames {log.tokens[frame - 1]} and {log.tokens[frame]}"
    return None


def _add_synthetic(
    folder: Path,
    scene_filter: SceneFilter,
    last_tokens: set[str],
    entries: list[SceneEntry],
    failures: list[SceneFailure],
) -> None:
    """Follow-up scenes that the filter names, or that belong to a scene of the set by its last frame."""
    wanted = scene_filter.synthetic_scene_tokens
    for path in sorted((folder / "synthetic_scene_pickles").glob("*.pkl")):
        if wanted is not None and path.stem not in wanted:
            continue
        try:
            scene, original = _read_synthetic(path)
        except DataError as error:
            failures.append(SceneFailure(path.stem, str(error), "load"))
            continue
        if scene_filter.log_names is not None and scene.log_name not in scene_filter.log_names:
            continue
        if wanted is None and original not in last_tokens:
            continue
        entries.append(SceneEntry(scene.token, path, -1, scene.now.time_us))
