"""Dataclasses of arrays on disk: an LMDB of npz records, no pickle."""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import lmdb
import numpy as np
from numpy.typing import NDArray

from irlvla.errors import DataError

Record = TypeVar("Record")
Arrays = dict[str, NDArray[Any]]

_MAP_SIZE_BYTES = 1 << 40


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


def _assembled(kind: Any, path: str, arrays: Arrays) -> Any:
    names = _parts(kind)
    if names:
        hints = get_type_hints(kind)
        return kind(**{name: _assembled(hints[name], f"{path}/{name}" if path else name, arrays) for name in names})
    leaf = arrays[path]
    if kind in (str, int, float):
        return kind(leaf.item())
    return tuple(leaf.tolist()) if kind == tuple[str, ...] else leaf


class RecordStore:
    """Records by key in one folder. Several processes may read and write it at once.

    Args:
        folder: Made when missing.
    Raises:
        DataError: The folder cannot be used.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._environment = lmdb.open(str(folder), map_size=_MAP_SIZE_BYTES, max_readers=512)
        except (OSError, lmdb.Error) as error:
            raise DataError(f"{folder}: cannot keep records here ({error}); name another cache folder") from error

    def load(self, key: bytes, kind: type[Record]) -> Record | None:
        """The record under a key; None where there is none, or a damaged one, which may be written anew."""
        with self._environment.begin() as transaction:
            stored = transaction.get(key)
        if stored is None:
            return None
        try:
            with np.load(io.BytesIO(stored), allow_pickle=False) as content:
                return record_from_arrays(kind, {name: content[name] for name in content.files})
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile):
            return None

    def write(self, key: bytes, record: Any) -> None:
        """Keep a record; it is there whole or not at all.

        Raises:
            DataError: The disk is full, or the store cannot be written.
        """
        buffer = io.BytesIO()
        np.savez(buffer, **record_to_arrays(record))  # type: ignore[arg-type]
        try:
            with self._environment.begin(write=True) as transaction:
                transaction.put(key, buffer.getvalue())
        except (OSError, lmdb.Error) as error:
            raise DataError(f"{self.folder}: cannot be written ({error}); free space or name another folder") from error

    def close(self) -> None:
        self._environment.close()
