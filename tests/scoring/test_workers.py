"""Work handed out to processes and to a real Ray cluster: workers die, and nothing is lost or done twice."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from chores import complain, twice, twice_and_tell

from irlvla.data.plans import PlanTable, load_plans
from irlvla.data.scenes import SceneSet, open_scenes
from irlvla.errors import ConfigError, RunError, SceneDataError
from irlvla.scoring import workers as workers_module
from irlvla.scoring.table import score_plans
from irlvla.scoring.workers import MAX_ATTEMPTS, Workers, check_workers, run_tasks

ray = pytest.importorskip("ray", reason="needs the extra `scale`")

PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that works on nothing, and two nodes with one worker each."""
    from ray.cluster_utils import Cluster

    tests, memory = Path(__file__).parent.parent, 100 << 20
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Workers import this package and what the tests have them do.
        environment.setenv("PYTHONPATH", os.pathsep.join(map(str, (tests, tests.parent))))
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": memory}
        started = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            started.add_node(num_cpus=1, object_store_memory=memory)
        yield started
        started.shutdown()


# --- scoring over the cluster ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(golden: Path) -> SceneSet:
    return open_scenes(golden / "alpha", "test", num_future_frames=8)


@pytest.fixture(scope="module")
def plans(golden: Path) -> PlanTable:
    return load_plans(golden / "alpha" / "plans.npz")


def busy_workers(cluster: Any) -> list[psutil.Process]:
    """Processes of the cluster that work on a task now; Ray writes the task's name into their command lines."""
    found = []
    for node in cluster.list_all_nodes():
        for started in node.all_processes.get("raylet", ()):
            for process in psutil.Process(started.process.pid).children(recursive=True):
                try:
                    if "_run_remotely" in " ".join(process.cmdline()):
                        found.append(process)
                except psutil.Error:
                    continue
    return found


def test_scores_survive_a_killed_worker_and_a_node_that_goes_away(
    cluster: Any, scenes: SceneSet, plans: PlanTable, caplog: pytest.LogCaptureFixture
) -> None:
    steps: list[int] = []

    def disturb(done: int, _: int) -> None:
        steps.append(done)
        if len(steps) == 1:
            waited_until_s = time.monotonic() + PATIENCE_S
            while not (busy := busy_workers(cluster)) and time.monotonic() < waited_until_s:
                time.sleep(0.01)
            busy[0].send_signal(signal.SIGKILL)
        if len(steps) == 2:
            cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)

    alone = score_plans(scenes, plans)
    with caplog.at_level(logging.WARNING, "irlvla"):
        disturbed = score_plans(scenes, plans, workers=f"ray:{cluster.address}", on_progress=disturb)
    assert disturbed.equals(alone)
    assert not np.isnan(alone["score"]).any()
    assert steps == sorted(set(steps))
    assert steps[-1] == len(plans)
    assert caplog.records, "no task was hit, so nothing was tested"
    assert len(cluster.list_all_nodes()) == 2


def test_nodes_with_other_code_are_refused(
    cluster: Any, scenes: SceneSet, plans: PlanTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "scorer_digest", lambda: b"other code")
    with pytest.raises(RunError, match=f"node {socket.gethostname()} .* another version"):
        list(run_tasks(twice, [1, 2], f"ray:{cluster.address}", str))


# --- who cannot work ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "ray:", "rays", "dask:host:1"])
def test_unknown_workers_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a number of processes"):
        check_workers(text)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'irlvla\[scale\]'"):
        list(run_tasks(twice, [1], "ray", str))


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:99999", "127.0.0.1:1", "no-such-host.invalid:6379"])
def test_a_cluster_that_is_not_there_is_named_at_once(address: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(ConfigError, match=address.split(":")[0]):
        list(run_tasks(twice, [1], f"ray:{address}", str))
    assert time.monotonic() - began_s < PATIENCE_S


def test_what_listens_but_is_no_cluster_is_named_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "CONNECT_TIMEOUT_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"what answers at {address} is no Ray cluster"):
            list(run_tasks(twice, [1], f"ray:{address}", str))


ORPHANS = r"""
import os, time
from irlvla.scoring.workers import run_tasks
def tell(number):
    os.write(1, f"{os.getpid()}\n".encode())
    return number
if __name__ == "__main__":
    # Held open: both processes idle when the parent dies.
    work = run_tasks(tell, range(2), 2, str)
    next(work), next(work)
    time.sleep(60)
"""


def test_processes_do_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert not alive


# --- tasks of any kind -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def connected(cluster: Any) -> Iterator[str]:
    """The cluster, with a connection that is the test's own: it serves every call and stays open after it."""
    ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    yield f"ray:{cluster.address}"
    assert ray.is_initialized()
    ray.shutdown()


@pytest.fixture(params=["processes", "ray"])
def crew(request: pytest.FixtureRequest) -> Workers:
    """Two processes of this machine, or the cluster."""
    return 2 if request.param == "processes" else request.getfixturevalue("connected")


def test_every_task_is_done_once(crew: Workers, tmp_path: Path) -> None:
    work = partial(twice_and_tell, folder=tmp_path, fatal=-1, deaths=0)
    assert sorted(run_tasks(work, range(20), crew, str)) == [(n, 2 * n) for n in range(20)]
    assert len(list(tmp_path.iterdir())) == 20


def test_the_task_of_a_killed_worker_starts_again_and_no_other(
    crew: Workers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = partial(twice_and_tell, folder=tmp_path, fatal=5, deaths=MAX_ATTEMPTS - 1)
    with caplog.at_level(logging.WARNING, "irlvla"):
        assert sorted(run_tasks(work, range(12), crew, lambda number: f"task {number}")) == [
            (n, 2 * n) for n in range(12)
        ]
    done, died = sorted(tmp_path.glob("*.done")), sorted(tmp_path.glob("*.died"))
    assert len(done) == 12
    assert len({path.name.split("-")[0] for path in done}) == 12
    assert len(died) == MAX_ATTEMPTS - 1
    assert [record.message.split(":")[0] for record in caplog.records] == ["task 5"] * (MAX_ATTEMPTS - 1)


def test_a_task_that_keeps_killing_its_worker_is_named(crew: Workers, tmp_path: Path) -> None:
    work = partial(twice_and_tell, folder=tmp_path, fatal=5, deaths=99)
    with pytest.raises(RunError, match=f"scene 5: the worker died {MAX_ATTEMPTS} times"):
        list(run_tasks(work, range(8), crew, lambda number: f"scene {number}"))
    assert len(list(tmp_path.glob("5-*.died"))) == MAX_ATTEMPTS
    assert not list(tmp_path.glob("5-*.done"))


@pytest.mark.parametrize(("number", "error"), [(3, SceneDataError), (4, KeyError)])
def test_what_a_task_raises_ends_the_run_at_once(
    number: int, error: type[Exception], crew: Workers, tmp_path: Path
) -> None:
    with pytest.raises(error) as raised:
        list(run_tasks(partial(complain, folder=tmp_path), [number, 0], crew, str))
    assert len(list(tmp_path.glob(f"{number}-*"))) == 1
    if isinstance(raised.value, SceneDataError):
        assert (raised.value.token, raised.value.reason) == ("0123456789abcdef", "has no route")
