"""Workers die with their parent, even with one that had no time to say goodbye."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

_PARENT = """
import os, sys, time
from irlvla.processes import process_pool

if __name__ == "__main__":
    pool = process_pool(2, start=sys.argv[1])
    tasks = [pool.submit(time.sleep, 0.5) for _ in range(2)]
    for task in tasks:
        task.result()
    print(*pool._processes, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_no_worker_outlives_a_killed_parent(start: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, start], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(number) for number in parent.stdout.readline().split()]
    assert len(workers) == 2
    assert all(_is_running(worker) for worker in workers)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20.0
    while any(_is_running(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_is_running(worker) for worker in workers)


def _is_running(process: int) -> bool:
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
