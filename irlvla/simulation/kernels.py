"""How this package's hot loops are compiled."""

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])

_PACKAGES = ("simulation", "scoring")
_MARK = b"\n@kernel\n"


def kernel_digest(folders: Iterable[Path]) -> str:
    """Digest of all source files that define kernels."""
    hasher = hashlib.blake2b(digest_size=8)
    for source in sorted(path for folder in folders for path in folder.glob("*.py")):
        code = source.read_bytes()
        if _MARK in code:
            hasher.update(code)
    return hasher.hexdigest()


@lru_cache(maxsize=1)
def _cache_folder() -> Path:
    """Where machine code of the present sources lies.

    Kernels are inlined into one another across files, but Numba only notices when a function's own file changes; a
    folder per digest keeps old code from being taken for new.
    """
    package = Path(__file__).parent.parent
    return Path(__file__).parent / "__pycache__" / f"kernels-{kernel_digest(package / name for name in _PACKAGES)}"


def kernel(function: _Function) -> _Function:
    """Compile a function to machine code on first use, and keep it on disk beside the source.

    Kernels run without the interpreter lock, so threads score scenes side by side. They take plain arrays and named
    tuples of them, and divide as NumPy does.
    """
    settings: Any = numba.config
    chosen_by_user = settings.CACHE_DIR
    settings.CACHE_DIR = chosen_by_user or str(_cache_folder())
    try:
        return cast(_Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    finally:
        settings.CACHE_DIR = chosen_by_user
