"""Dataclasses of arrays on disk: one compressed file a record, named by its key; no pickle."""

import hashlib
import json
import os
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray

from irlvla.errors import DataError
from irlvla.files import disk_space

Record = TypeVar("Record")
Arrays = dict[str, NDArray[Any]]

_ALIGNMENT = 16
_CHECKSUM_BYTES = 16
_COMPRESSION = 1
"""Level of zlib. The next ones take twice the time and save a few per cent."""


def record_to_arrays(record: Any) -> Arrays:
    """A dataclass or named tuple, nested at will, as a flat dictionary of arrays named by path, `road/centerline`."""
    return dict(_leaves("", record))


def _parts(value: Any) -> list[str]:
    """Field names of a dataclass or named tuple; none for anything else."""
    return [f.name for f in fields(value)] if is_dataclass(value) else list(getattr(value, "_fields", ()))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    names = _parts(value)
    if not names:
        yield path, np.array(value, dtype=np.str_) if isinstance(value, tuple) else np.asarray(value)
    for name in names:
        yield from _leaves(f"{path}/{name}" if path else name, getattr(value, name))


def record_from_arrays(kind: type[Record], arrays: Arrays) -> Record:
    """Inverse of `record_to_arrays`.

    Raises:
        KeyError: An array is missing.
    """
    record: Record = _assembled(kind, "", arrays)
    return record


_hints = lru_cache(get_type_hints)


def _assembled(kind: Any, path: str, arrays: Arrays) -> Any:
    names = _parts(kind)
    if names:
        hints = _hints(kind)
        return kind(**{name: _assembled(hints[name], f"{path}/{name}" if path else name, arrays) for name in names})
    leaf = arrays[path]
    if kind in (str, int, float):
        return kind(leaf.item())
    return tuple(leaf.tolist()) if kind == tuple[str, ...] else leaf


def _to_bytes(key: bytes, arrays: Arrays) -> bytes:
    """Checksum, then compressed: length of the list of (name, type, shape), the list as JSON, the arrays."""
    listed = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    index = json.dumps(listed).encode()
    content = bytearray(len(index).to_bytes(8, "little") + index)
    for array in arrays.values():
        content += bytes(-len(content) % _ALIGNMENT)
        content += np.ascontiguousarray(array).tobytes()
    packed = zlib.compress(content, _COMPRESSION)
    return _checksum(key, packed) + packed


def _from_bytes(key: bytes, stored: bytes) -> Arrays | None:
    """Inverse of `_to_bytes`; None where the checksum of key and content does not fit."""
    packed = stored[_CHECKSUM_BYTES:]
    if _checksum(key, packed) != stored[:_CHECKSUM_BYTES]:
        return None
    # Writable and aligned, like arrays that were just made: kernels would be compiled anew for any other kind.
    content = bytearray(zlib.decompress(packed))
    position = 8 + int.from_bytes(content[:8], "little")
    arrays = {}
    for name, element, shape in json.loads(content[8:position]):
        position += -position % _ALIGNMENT
        array = np.ndarray(tuple(shape), np.dtype(element), content, position)
        position += array.nbytes
        arrays[name] = array
    return arrays


def _checksum(key: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(content, key=key[:64], digest_size=_CHECKSUM_BYTES).digest()


class RecordStore:
    """Records by key in one folder. Any number of processes, also of other machines, may read and write it at once.

    Args:
        folder: Made when missing.
    Raises:
        DataError: The folder cannot be used.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder}: cannot keep records here ({error}); name another cache folder") from error

    def load(self, key: bytes, kind: type[Record]) -> Record | None:
        """The record under a key; None where there is none, or a damaged one, which may be written anew.

        Raises:
            DataError: The folder cannot be read.
        """
        try:
            stored = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be read ({error}); name another cache folder") from error
        arrays = _from_bytes(key, stored)
        return None if arrays is None else record_from_arrays(kind, arrays)

    def write(self, key: bytes, record: Any) -> None:
        """Keep a record; it is there whole or not at all.

        Raises:
            DataError: The folder cannot be written.
            RunError: The disk is full.
        """
        path = self._path(key)
        beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        content = _to_bytes(key, record_to_arrays(record))
        try:
            with disk_space(self.folder):
                path.parent.mkdir(parents=True, exist_ok=True)
                # Not flushed to the disk: what a power cut spoils fails its checksum, and is made again.
                beside.write_bytes(content)
                os.replace(beside, path)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written ({error}); name another folder") from error
        finally:
            beside.unlink(missing_ok=True)

    def _path(self, key: bytes) -> Path:
        # Folders of a few hundred files each: some file systems slow down on very large ones.
        name = key.hex()
        return self.folder / name[:2] / f"{name[2:]}.record"
