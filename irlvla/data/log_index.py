"""What choosing scenes needs to know of every log, gathered once and kept beside nothing it could spoil."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from irlvla.data.logs import FrameFault, scan_log
from irlvla.errors import DataError
from irlvla.processes import process_pool

_INDEX_FILE = "log_index.jsonl"


@dataclass(frozen=True)
class LogSummary:
    """One log without its content; the tuples run over its frames."""

    tokens: tuple[str, ...]
    times_us: tuple[int, ...]
    """0 for a frame at fault."""
    has_route: tuple[bool, ...]
    faults: tuple[str, ...]
    """Why a frame cannot be used; empty for sound ones."""
    damage: str = ""
    """Why the whole log cannot be read; then there are no frames."""


def file_version(path: Path) -> tuple[int, int]:
    """Modification time (ns) and size: a file rewritten in place is another file.

    Raises:
        DataError: The file is not there.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return status.st_mtime_ns, status.st_size


def summarise_log(path: Path, sensor_root: Path | None = None) -> LogSummary:
    """Read a log for its frames' tokens, times, routes and faults."""
    try:
        frames = scan_log(path, sensor_root).frames
    except DataError as error:
        return LogSummary((), (), (), (), damage=str(error))
    faults = [frame.reason if isinstance(frame, FrameFault) else "" for frame in frames]
    return LogSummary(
        tokens=tuple(frame.token for frame in frames),
        times_us=tuple(0 if isinstance(frame, FrameFault) else frame.time_us for frame in frames),
        has_route=tuple(isinstance(frame, FrameFault) or bool(frame.roadblock_ids) for frame in frames),
        faults=tuple(faults),
    )


def summarise_logs(
    paths: Sequence[Path], sensor_root: Path | None, *, workers: int = 1, cache: Path | None = None
) -> Iterator[LogSummary]:
    """Summaries of many logs, in order.

    Args:
        paths: Logs.
        sensor_root: What their sensor paths are relative to.
        workers: Processes to read with.
        cache: Folder to keep summaries in. A log is read again when its time or size differs; an interrupted run goes
            on where it stopped.
    """
    known = {} if cache is None else _load_index(cache)
    keys = {path: (str(path.resolve()), *file_version(path)) for path in paths}
    missing = [path for path in paths if keys[path] not in known]
    fresh = _read_logs(missing, sensor_root, workers)
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
    for path in paths:
        summary = known.get(keys[path])
        if summary is None:
            summary = next(fresh)
            if cache is not None:
                _append(cache, keys[path], summary)
        yield summary


def _read_logs(paths: Sequence[Path], sensor_root: Path | None, workers: int) -> Iterator[LogSummary]:
    summarise = partial(summarise_log, sensor_root=sensor_root)
    if workers <= 1 or len(paths) <= 1:
        yield from map(summarise, paths)
        return
    with process_pool(min(workers, len(paths)), start="fork") as pool:
        yield from pool.map(summarise, paths, chunksize=4)


def _append(cache: Path, key: tuple[str, int, int], summary: LogSummary) -> None:
    row = [key, summary.tokens, summary.times_us, summary.has_route, summary.faults, summary.damage]
    with (cache / _INDEX_FILE).open("a", encoding="utf-8") as file:
        # One write a line: a killed run leaves at most its last line torn.
        file.write("\n" + json.dumps(row, separators=(",", ":")))


def _load_index(cache: Path) -> Mapping[tuple[str, int, int], LogSummary]:
    try:
        lines = (cache / _INDEX_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    known = {}
    for line in lines:
        try:
            (path, modified_ns, size), tokens, times_us, has_route, faults, damage = json.loads(line)
            summary = LogSummary(tuple(tokens), tuple(times_us), tuple(has_route), tuple(faults), damage)
        except (ValueError, TypeError):
            continue
        if len(tokens) == len(times_us) == len(has_route) == len(faults):
            known[(path, modified_ns, size)] = summary
    return known
