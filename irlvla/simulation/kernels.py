"""How this package's hot loops are compiled."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(function: _Function) -> _Function:
    """Compile a function to machine code on first use, and keep it on disk beside the source.

    Kernels run without the interpreter lock, so threads score scenes side by side. They take plain arrays and named
    tuples of them, and divide as NumPy does.
    """
    return cast(_Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
