"""A killed run of `irlvla score` goes on where it was, and trusts nothing that is not whole or no longer fits."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from irlvla.data.plans import load_plans, write_plans
from irlvla.data.scenes import open_scenes
from irlvla.errors import DataError
from irlvla.scoring import table as table_module
from irlvla.scoring.score_table import ScoreTable
from irlvla.scoring.table import score_plans, score_plans_file

PATIENCE_S = 120.0

Score = Callable[..., tuple[ScoreTable, int]]


@pytest.fixture
def root(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with four golden logs that a test may change."""
    root = tmp_path_factory.mktemp("root")
    (root / "maps").symlink_to(golden / "alpha" / "maps")
    logs = root / "navsim_logs" / "test"
    logs.mkdir(parents=True)
    for log in sorted((golden / "alpha" / "navsim_logs" / "test").iterdir())[:4]:
        shutil.copy(log, logs)
    return root


@pytest.fixture
def plans(golden: Path, root: Path) -> Path:
    """The humans' plans for these logs."""
    table, known = load_plans(golden / "alpha" / "plans.npz"), set(open_scenes(root, "test").tokens)
    rows = [row for row, token in enumerate(table.tokens) if token in known and table.names[row] == "human"]
    tokens, names = [table.tokens[row] for row in rows], [table.names[row] for row in rows]
    write_plans(root / "plans.npz", tokens, table.poses[rows], names)
    return root / "plans.npz"


@pytest.fixture
def score(root: Path, plans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Score:
    """Scores plans into a file, log by log; returns the table and how many logs had to be worked on."""
    logs: list[Any] = []
    work = table_module._score_task
    monkeypatch.setattr(table_module, "_SCENES_PER_TASK", 1)
    monkeypatch.setattr(table_module, "_score_task", lambda task, method: logs.append(task) or work(task, method))

    def call(path: Path = plans, **options: Any) -> tuple[ScoreTable, int]:
        logs.clear()
        options = {"cache": root / "contexts"} | options
        table = score_plans_file(root, "test", path, tmp_path / "s.parquet", **options)
        return table, len(logs)

    return call


def interrupt_after(parts: int) -> Callable[[int, int], None]:
    seen: list[int] = []

    def on_progress(done: int, _: int) -> None:
        seen.append(done)
        if len(seen) == parts:
            raise KeyboardInterrupt

    return on_progress


def parts_of(folder: Path) -> list[Path]:
    return sorted((folder / ".s.parquet.parts").rglob("*.record"))


def start_and_kill(arguments: list[str], parts: int, folder: Path) -> None:
    """Run `irlvla score` until some parts are finished, then kill it outright."""
    command = [sys.executable, "-m", "irlvla.cli.main", "score", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until_s = time.monotonic() + PATIENCE_S
        while len(parts_of(folder)) < parts and time.monotonic() < until_s:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_been(workers: str, golden: Path, tmp_path: Path) -> None:
    alpha, out = golden / "alpha", tmp_path / "s.parquet"
    arguments = ["--data", alpha, "--split", "test", "--plans", alpha / "plans.npz", "--out", out]
    start_and_kill([*map(str, arguments), "--workers", workers], 2, tmp_path)
    kept = {path.name: path.stat().st_mtime_ns for path in parts_of(tmp_path)}
    assert len(kept) >= 2
    assert not out.exists()
    steps: list[int] = []

    def on_progress(done: int, _: int) -> None:
        steps.append(done)
        still = {path.name: path.stat().st_mtime_ns for path in parts_of(tmp_path)}
        assert still.items() >= kept.items()

    resumed = score_plans_file(alpha, "test", alpha / "plans.npz", out, on_progress=on_progress)
    assert steps == sorted(set(steps))
    assert steps[-1] == len(resumed)
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]
    assert pq.read_table(out).equals(pa.table(resumed))
    assert resumed.equals(score_plans(open_scenes(alpha, "test"), load_plans(alpha / "plans.npz")))


def test_an_interrupted_run_goes_on_with_a_cache_or_without(score: Score, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(on_progress=interrupt_after(3))
    assert len(parts_of(tmp_path)) == 3
    resumed, logs = score(cache=None)
    assert logs == 1
    anew, logs = score()
    assert logs == 4
    assert resumed.equals(anew)


def test_damaged_parts_are_made_again(score: Score, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(on_progress=interrupt_after(4))
    empty, short, flipped, _ = parts_of(tmp_path)
    empty.write_bytes(b"")
    short.write_bytes(short.read_bytes()[:-20])
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    flipped.write_bytes(content)
    resumed, logs = score()
    assert logs == 3
    assert resumed.equals(score()[0])


def test_parts_of_other_plans_options_or_logs_are_not_taken(root: Path, plans: Path, score: Score) -> None:
    table, moved = load_plans(plans), root / "moved.npz"
    write_plans(moved, table.tokens, table.poses + np.array([1e-12, 0.0, 0.0]), table.names)
    for path, options in ((moved, {}), (plans, {"human_filter": False}), (plans, {"metric": "epdms-2.2-prefix"})):
        with pytest.raises(KeyboardInterrupt):
            score(on_progress=interrupt_after(3))
        assert score(path, **options)[1] == 4
    with pytest.raises(KeyboardInterrupt):
        score(on_progress=interrupt_after(4))
    log = min((root / "navsim_logs" / "test").iterdir())
    os.utime(log, ns=(log.stat().st_atime_ns, log.stat().st_mtime_ns + 1_000_000))
    assert score()[1] == 1


def test_a_run_that_cannot_begin_leaves_nothing(score: Score, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        score(tmp_path / "nowhere.npz")
    assert not list(tmp_path.iterdir())
