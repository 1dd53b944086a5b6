"""Who does the work: this process, processes of this machine, or a Ray cluster.

`workers` is a number of processes (1 works in the caller's own), `ray:HOST:PORT`, or `ray` for the cluster that Ray
finds by itself: the one RAY_ADDRESS names, else one that runs on this machine, else a new one on this machine. The
nodes of a cluster must see data root and cache under the same paths, and have the same code installed. A process that
is connected to a cluster already keeps that one.

A worker may die while it works: it is out of memory, or its machine goes away. Its task then starts again elsewhere, a
few times; one that keeps killing its worker ends the run by name. Whatever a task itself raises ends the run at once.
"""

import logging
import os
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from irlvla.checkout import scorer_digest
from irlvla.errors import ConfigError, IrlvlaError, RunError
from irlvla.processes import process_pool

Workers = int | str
"""A number of processes, `ray`, or `ray:ADDRESS`."""

MAX_ATTEMPTS = 3
"""How often a task may lose its worker."""

CONNECT_TIMEOUT_S = 30.0
"""How long a cluster may take to answer."""

EMPTY_CLUSTER_TIMEOUT_S = 600.0
"""How long a cluster may be without a CPU; one that grows on demand starts with none."""

_LOOK_EVERY_S = 10.0

_log = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")


class _WorkerLost(Exception):
    """A worker died while it worked; the message says what is known of it."""


class _Crew(Protocol):
    """Runs tasks elsewhere."""

    def slots(self) -> int:
        """How many tasks to hand out at once."""
        ...

    def submit(self, task: Any) -> Future[Any]: ...

    def result(self, future: Future[Any]) -> Any:
        """Outcome of a task that is done.

        Raises:
            _WorkerLost: Its worker died.
        """
        ...

    def close(self) -> None: ...


def check_workers(workers: Workers) -> Workers:
    """`workers` as a number where it is one in words, as a command line gives it.

    Raises:
        ConfigError: It is none of the forms above.

    Example:
        >>> check_workers("2"), check_workers("ray:head.example:6379")
        (2, 'ray:head.example:6379')
        >>> check_workers("two")
        Traceback (most recent call last):
        irlvla.errors.ConfigError: workers are a number of processes, `ray` or `ray:HOST:PORT`, not 'two'
    """
    text = str(workers)
    if text.isdecimal() and int(text) > 0:
        return int(text)
    if text == "ray" or (text.startswith("ray:") and text != "ray:"):
        return text
    raise ConfigError(f"workers are a number of processes, `ray` or `ray:HOST:PORT`, not {text!r}")


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: Workers,
    describe: Callable[[Task], str],
) -> Iterator[tuple[int, Result]]:
    """Do every task once, in any order.

    Args:
        function: Defined at the top of a module, or a `partial` of such a one; other processes must be able to find it.
        tasks: What it is called with.
        workers: See the module.
        describe: Names a task in messages.
    Yields:
        (position in `tasks`, result), as they come.
    Raises:
        ConfigError: `workers` has none of the known forms, Ray is not installed, or its cluster does not answer.
        RunError: A task keeps killing its worker; nodes of the cluster run other code, or there is none left.
    """
    workers = check_workers(workers)
    if isinstance(workers, int) and (workers == 1 or len(tasks) <= 1):
        for index, task in enumerate(tasks):
            yield index, function(task)
    elif tasks:
        with _crew(function, workers, len(tasks)) as crew:
            yield from _run_with(crew, tasks, describe)


@contextmanager
def _crew(function: Callable[[Any], Any], workers: Workers, tasks: int) -> Iterator[_Crew]:
    crew: _Crew
    if isinstance(workers, int):
        crew = _Processes(function, min(workers, tasks))
    else:
        crew = _RayCluster(function, workers.removeprefix("ray").removeprefix(":"))
    try:
        yield crew
    finally:
        crew.close()


def _run_with(crew: _Crew, tasks: Sequence[Any], describe: Callable[[Any], str]) -> Iterator[tuple[int, Any]]:
    waiting, running = deque(range(len(tasks))), dict[Future[Any], int]()
    lost: Counter[int] = Counter()
    while waiting or running:
        slots = crew.slots()
        while waiting and len(running) < slots:
            index = waiting.popleft()
            running[crew.submit(tasks[index])] = index
        done, _ = wait(running, timeout=_LOOK_EVERY_S, return_when=FIRST_COMPLETED)
        for future in done:
            index = running.pop(future)
            try:
                result = crew.result(future)
            except _WorkerLost as error:
                lost[index] += 1
                what = describe(tasks[index])
                if lost[index] == MAX_ATTEMPTS:
                    raise RunError(
                        f"{what}: the worker died {MAX_ATTEMPTS} times while it was busy with them ({error}). Give "
                        "each worker more memory, by fewer of them or fewer plans at once, or leave these scenes out; "
                        "what is finished is kept"
                    ) from error
                _log.warning("%s: the worker died (%s); they start again, elsewhere", what, error)
                waiting.append(index)
            else:
                yield index, result


class _Processes:
    """Processes of this machine, each a pool of its own, so that a death tells which task it hit."""

    def __init__(self, function: Callable[[Any], Any], count: int):
        self._function = function
        self._count = count
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: dict[Future[Any], ProcessPoolExecutor] = {}

    def slots(self) -> int:
        return self._count

    def submit(self, task: Any) -> Future[Any]:
        pool = self._idle.pop() if self._idle else process_pool(1)
        try:
            future = pool.submit(self._function, task)
        except BrokenProcessPool:
            # It died while it was idle: no task's fault.
            pool.shutdown()
            pool = process_pool(1)
            future = pool.submit(self._function, task)
        self._busy[future] = pool
        return future

    def result(self, future: Future[Any]) -> Any:
        pool = self._busy.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool as error:
            pool.shutdown()
            raise _WorkerLost("killed from outside, most often because memory ran out") from error
        except BaseException:
            self._idle.append(pool)
            raise
        self._idle.append(pool)
        return result

    def close(self) -> None:
        for pool in (*self._idle, *self._busy.values()):
            pool.shutdown(cancel_futures=True)


class _RayCluster:
    """A Ray cluster: one CPU a task, and the next tasks already at hand.

    Ray's own retries are off, so that a task is counted once wherever its worker died, out of memory or with its node.
    """

    def __init__(self, function: Callable[[Any], Any], address: str):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise ConfigError(
                "scoring over a cluster needs Ray; install it with: pip install 'irlvla[scale]'"
            ) from error
        self._ray = ray
        self._function = function
        self._owns_connection = not ray.is_initialized()
        if self._owns_connection:
            _connect(address or os.environ.get("RAY_ADDRESS", ""))
        self._running: dict[Future[Any], Any] = {}
        self._remote = ray.remote(_run_remotely).options(num_cpus=1, max_retries=0)
        self._code = scorer_digest()
        self._empty_since_s: float | None = None

    def slots(self) -> int:
        cpus = int(self._ray.cluster_resources().get("CPU", 0))
        if cpus > 0:
            self._empty_since_s = None
            return 2 * cpus
        now_s = time.monotonic()
        self._empty_since_s = self._empty_since_s or now_s
        if now_s - self._empty_since_s > EMPTY_CLUSTER_TIMEOUT_S:
            raise RunError(
                f"the Ray cluster has had no CPU for {EMPTY_CLUSTER_TIMEOUT_S:.0f} s: add nodes (`ray start --address "
                "…`) and give the same command again; what is finished is kept"
            )
        return 1

    def submit(self, task: Any) -> Future[Any]:
        reference = self._remote.remote(self._function, task, self._code)
        future: Future[Any] = reference.future()
        self._running[future] = reference
        return future

    def result(self, future: Future[Any]) -> Any:
        del self._running[future]
        errors = self._ray.exceptions
        try:
            return future.result()
        except errors.RayTaskError as error:
            if isinstance(error.cause, IrlvlaError):
                raise error.cause from error
            raise
        except (errors.RuntimeEnvSetupError, errors.TaskCancelledError):
            raise
        except errors.RayError as error:
            raise _WorkerLost(str(error).strip().splitlines()[0]) from error

    def close(self) -> None:
        for reference in self._running.values():
            self._ray.cancel(reference, force=True)
        if self._owns_connection:
            self._ray.shutdown()


def _run_remotely(function: Callable[[Any], Any], task: Any, code: bytes) -> Any:
    if scorer_digest() != code:
        raise RunError(
            f"node {socket.gethostname()} of the Ray cluster runs another version of irlvla than this one, its scores "
            "could differ: install the same everywhere"
        )
    return function(task)


_PROBE = "import ray, sys; ray.init(sys.argv[1], logging_level='ERROR', log_to_driver=False)"


def _connect(address: str) -> None:
    """Connect to a cluster that answers in time; without an address to the one that Ray finds, or starts, here.

    Raises:
        ConfigError: It does not answer, or Ray refuses.
    """
    import ray

    # `ray:` and the address of a Ray client server share their first letters.
    address = f"ray:{address}" if address.startswith("//") else address
    if address and address != "auto":
        _check_port(address)
        # Ray waits for minutes for what is no cluster, and some of its failures end the process: one goes first that
        # can be spared.
        probe = [sys.executable, "-c", _PROBE, address]
        try:
            done = subprocess.run(probe, capture_output=True, text=True, timeout=CONNECT_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise ConfigError(
                f"what answers at {address} is no Ray cluster, or it hangs (waited {CONNECT_TIMEOUT_S:.0f} s); give "
                "the address that `ray start --head` printed"
            ) from error
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
            hint = "" if "RAY_AUTH_MODE" in os.environ else "; where it asks for a token, set RAY_AUTH_MODE=token"
            raise ConfigError(f"cannot use the Ray cluster at {address}: {said[-1]}{hint}")
    try:
        ray.init(address or None, logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"cannot use the Ray cluster{f' at {address}' if address else ''}: {error}") from error


def _check_port(address: str) -> None:
    """Fail at once where nothing listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"a Ray cluster's address is HOST:PORT, as `ray start --head` prints it, not {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address} ({error}); start one with `ray start --head` and give the address it "
            "prints"
        ) from error
