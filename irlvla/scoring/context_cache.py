"""Scoring contexts of many scenes: built in parallel, kept on disk, read back in milliseconds.

The store is an LMDB of npz records, no pickle. Its keys are digests of the scene's and the map's content and of the
code that builds contexts, so a record can be missing but never stale, and an interrupted build goes on where it stopped.
"""

import hashlib
import io
import multiprocessing
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_type_hints

import lmdb
import numpy as np

from irlvla import geometry
from irlvla.data.maps import load_map
from irlvla.data.scenes import SceneSet
from irlvla.errors import DataError
from irlvla.scoring.context import ScoringContext, build_context
from irlvla.types import Array, Scene, SceneFailure

Progress = Callable[[int, int], None]
"""Called with (scenes done, scenes in all)."""

_MAP_SIZE_BYTES = 1 << 40
_SCENES_PER_TASK = 16


def context_to_arrays(context: ScoringContext) -> dict[str, Array]:
    """A context as a flat dictionary of arrays, named by path such as `road/centerline`."""
    return dict(_leaves("", context))


def _parts(value: Any) -> list[str] | None:
    """Field names of a dataclass or named tuple; None for anything else."""
    if is_dataclass(value):
        return [f.name for f in fields(value)]
    return list(getattr(value, "_fields", ())) or None


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Array]]:
    names = _parts(value)
    if names is None:
        yield path, np.array(value, dtype=np.str_) if isinstance(value, tuple) else np.asarray(value)
        return
    for name in names:
        yield from _leaves(f"{path}/{name}" if path else name, getattr(value, name))


def context_from_arrays(arrays: dict[str, Array]) -> ScoringContext:
    """Inverse of `context_to_arrays`.

    Raises:
        KeyError: An array is missing.
    """
    context: ScoringContext = _assembled(ScoringContext, "", arrays)
    return context


def _assembled(kind: Any, path: str, arrays: dict[str, Array]) -> Any:
    names = _parts(kind)
    if names is None:
        leaf = arrays[path]
        if kind in (str, int, float):
            return kind(leaf.item())
        return tuple(leaf.tolist()) if kind == tuple[str, ...] else leaf
    hints = get_type_hints(kind)
    return kind(**{name: _assembled(hints[name], f"{path}/{name}" if path else name, arrays) for name in names})


def _digest(*parts: bytes) -> bytes:
    hasher = hashlib.blake2b(digest_size=20)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.digest()


@lru_cache(maxsize=1)
def _code_digest() -> bytes:
    """Of every source file that has a say in a context."""
    package = Path(geometry.__file__).parent
    sources = [package / "geometry.py", package / "types.py", package / "data" / "maps.py"]
    sources += sorted((package / "simulation").glob("*.py")) + sorted((package / "scoring").glob("*.py"))
    return _digest(*(source.read_bytes() for source in sources))


@lru_cache(maxsize=16)
def _file_digest(path: Path, _modified_ns: int) -> bytes:
    return _digest(path.read_bytes())


def _key(scene: Scene, root: Path) -> bytes:
    map_path = load_map(root, scene.map_location).path
    parts = [_code_digest(), _file_digest(map_path, map_path.stat().st_mtime_ns), scene.token.encode()]
    for frame in scene.frames:
        parts += [repr((frame.time_us, frame.roadblock_ids, frame.traffic_lights, frame.boxes.track_tokens)).encode()]
        for array in (frame.ego_pose_world, frame.ego_velocity_mps, frame.ego_acceleration_mps2):
            parts.append(array.tobytes())
        for array in (frame.boxes.boxes, frame.boxes.velocity_mps, frame.boxes.types):
            parts.append(np.ascontiguousarray(array).tobytes())
    return _digest(*parts)


class ContextStore:
    """Scoring contexts on disk.

    Args:
        folder: Folder of the store; made when missing. Several processes may use it at once.
    Raises:
        DataError: The folder cannot be used.
    """

    def __init__(self, folder: Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._environment = lmdb.open(str(folder), map_size=_MAP_SIZE_BYTES, max_readers=512)
        except (OSError, lmdb.Error) as error:
            raise DataError(f"{folder}: cannot keep scoring contexts here ({error}); name another folder") from error

    def load(self, scene: Scene, root: Path) -> ScoringContext | None:
        """The context of a scene of a data root; None where the store has none for this very content."""
        with self._environment.begin() as transaction:
            record = transaction.get(_key(scene, root))
        if record is None:
            return None
        try:
            with np.load(io.BytesIO(record), allow_pickle=False) as content:
                return context_from_arrays({name: content[name] for name in content.files})
        except (KeyError, ValueError, OSError, zipfile.BadZipFile):
            # A damaged record is as good as none; it is built and written anew.
            return None

    def write(self, scene: Scene, root: Path, context: ScoringContext) -> None:
        """Keep a context; it is there whole or not at all."""
        record = io.BytesIO()
        np.savez(record, **context_to_arrays(context))  # type: ignore[arg-type]
        with self._environment.begin(write=True) as transaction:
            transaction.put(_key(scene, root), record.getvalue())

    def close(self) -> None:
        self._environment.close()


Built = tuple[list[ScoringContext], list[SceneFailure]]


def _build(scenes: SceneSet, cache: Path | None) -> Built:
    """Contexts of a few scenes in this process."""
    contexts, failures = [], []
    store = None if cache is None else ContextStore(cache)
    try:
        for position, token in enumerate(scenes.tokens):
            try:
                scene = scenes[position]
                context = None if store is None else store.load(scene, scenes.root)
                if context is None:
                    context = build_context(scene, load_map(scenes.root, scene.map_location))
                    if store is not None:
                        store.write(scene, scenes.root, context)
                contexts.append(context)
            except DataError as error:
                failures.append(SceneFailure(token, getattr(error, "reason", str(error)), "context"))
    finally:
        if store is not None:
            store.close()
    return contexts, failures


def build_contexts(
    scenes: SceneSet, *, workers: int = 1, cache: Path | None = None, on_progress: Progress | None = None
) -> tuple[dict[str, ScoringContext], list[SceneFailure]]:
    """Scoring contexts of a set of scenes.

    Args:
        scenes: The scenes.
        workers: Processes; 1 builds in this one.
        cache: Folder of a `ContextStore`; None keeps nothing.
        on_progress: Called with (done, all) now and then.
    Returns:
        Contexts by token, in the order of the set, and the scenes that have none, with the reason.
    Raises:
        ValueError: `workers` is below 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    tasks = [scenes[start : start + _SCENES_PER_TASK] for start in range(0, len(scenes), _SCENES_PER_TASK)]
    results: list[Built | None] = [None] * len(tasks)
    done = 0
    for index, result in _results(tasks, min(workers, max(len(tasks), 1)), cache):
        results[index] = result
        done += len(tasks[index])
        if on_progress is not None:
            on_progress(done, len(scenes))
    contexts: dict[str, ScoringContext] = {}
    failures: list[SceneFailure] = []
    for built in results:
        if built is not None:
            contexts.update((context.token, context) for context in built[0])
            failures += built[1]
    return contexts, failures


def _results(tasks: Sequence[SceneSet], workers: int, cache: Path | None) -> Iterator[tuple[int, Built]]:
    if workers == 1:
        for index, task in enumerate(tasks):
            yield index, _build(task, cache)
        return
    # Spawned, not forked: the parent may hold threads or an open store.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        pending = {pool.submit(_build, task, cache): index for index, task in enumerate(tasks)}
        for future in as_completed(pending):
            yield pending[future], future.result()
