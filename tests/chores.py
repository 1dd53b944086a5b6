"""Work for workers to do: small tasks that leave marks, die, or complain. Imports little: processes start fast."""

import os
import signal
import time
from pathlib import Path

from irlvla.errors import SceneDataError


def twice(number: int) -> int:
    return 2 * number


def twice_and_tell(number: int, folder: Path, fatal: int, deaths: int) -> int:
    """Twice a number, with a mark in the folder; `fatal` kills its process the first `deaths` times."""
    mark = folder / f"{number}-{time.monotonic_ns()}"
    if number == fatal and sum(1 for _ in folder.glob(f"{number}-*.died")) < deaths:
        mark.with_suffix(".died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    mark.with_suffix(".done").touch()
    return 2 * number


def complain(number: int, folder: Path) -> int:
    """Raises what bad data raises for 3, and what a mistake of ours could raise for 4."""
    (folder / f"{number}-{time.monotonic_ns()}").touch()
    if number == 3:
        raise SceneDataError("0123456789abcdef", "has no route")
    if number == 4:
        raise KeyError("our own bug")
    return number
