"""Worker processes that end with the one that started them, however that one ends."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Literal


def process_pool(
    workers: int, *, start: Literal["spawn", "fork"] = "spawn", prepare: Callable[[], object] | None = None
) -> ProcessPoolExecutor:
    """Processes that say nothing when interrupted and do not outlive a parent that was killed.

    Args:
        workers: How many.
        start: "fork" starts at once, but carries over whatever threads of the caller hold; only for plain reading.
        prepare: Called once in each of them.
    """
    context = multiprocessing.get_context(start)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(prepare,))


def _begin(prepare: Callable[[], object] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
