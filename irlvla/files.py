"""Writing files so that a reader finds the old one or the new one, never half of one, and a full disk is named."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from irlvla.errors import DataError, RunError

_NO_ROOM = {errno.ENOSPC: "is full", errno.EDQUOT: "has reached its quota", errno.EFBIG: "takes no file of this size"}


@contextmanager
def disk_space(folder: Path) -> Iterator[None]:
    """Turn a full disk into an error that says what to free and that nothing is lost.

    Args:
        folder: Where the writing inside the block goes.
    Raises:
        RunError: the disk below `folder` has no room, or the user's quota is used up.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise RunError(
            f"the disk below {folder} {_NO_ROOM[error.errno]}: free some space, or move the folder to a larger disk, "
            "and give the same command again; what is finished is kept"
        ) from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file or folder beside its place, flush it to the disk, then move it there in one step.

    Args:
        path: Final place; an older file or folder there is replaced.
        write: Called with the temporary path; creates a file, or a folder of files, at it.
    Raises:
        RunError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    _remove(beside)
    try:
        with disk_space(path.parent):
            write(beside)
            for written in [*(p for p in beside.rglob("*") if p.is_file()), beside] if beside.is_dir() else [beside]:
                flush_to_disk(written)
            if path.is_dir():
                # A folder cannot be moved onto a full one.
                shutil.rmtree(path)
            os.replace(beside, path)
            flush_to_disk(path.parent)
    except RunError:
        # The half-written file takes the very room that is missing.
        _remove(beside)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """`write_atomically` for content that is at hand."""
    write_atomically(path, lambda beside: beside.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for text, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value a line, without needless spaces."""
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    write_text(path, "".join(line + "\n" for line in lines))


def read_lines(path: Path) -> list[str]:
    """Lines of a text file; none where there is no such file.

    Raises:
        DataError: The file is there but cannot be read.
    """
    if not path.is_file():
        return []
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
