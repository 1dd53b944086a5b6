"""The main job, whole: `irlvla demo --quick` from nothing to table and page, killed on the way and given again."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = [sys.executable, "-m", "irlvla.cli.main", "demo", "--quick", "--out"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished demo, killed once during its training, and what the last command printed."""
    out = tmp_path_factory.mktemp("demo") / "run"
    killed = subprocess.Popen([*DEMO, str(out)], start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not (out / "imitation-seed0" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        assert killed.poll() is None, "the demo ended before it trained"
        time.sleep(0.2)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    done = subprocess.run([*DEMO, str(out)], capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out, done.stdout


def test_demo_says_first_how_long_each_step_takes(demo: tuple[Path, str]) -> None:
    announced = demo[1].splitlines()[:7]
    assert all(any(step in line and "min" in line for line in announced) for step in ("world", "imitation", "ppo"))


def test_demo_table_has_every_driver_and_sub_score(demo: tuple[Path, str]) -> None:
    table = (demo[0] / "results.md").read_text(encoding="utf-8")
    for driver in ("constant velocity", "human", "imitation", "ppo", "best of"):
        assert driver in table
    for short in ("EPDMS", "NC", "DAC", "DDC", "TLC", "EP", "TTC", "LK", "HC", "EC"):
        assert short in table


def test_demo_page_needs_no_network(demo: tuple[Path, str]) -> None:
    page = (demo[0] / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in page
    assert "<svg" in page
    loaded = re.findall(r"""(?:src|href)=["'](?!data:|#)([^"']+)""", page)
    assert not loaded, f"the page loads {loaded[:3]}"


def test_finished_demo_is_not_trained_again(demo: tuple[Path, str]) -> None:
    out = demo[0]
    before = (out / "ppo-seed0" / "model" / "model.safetensors").stat().st_mtime_ns
    done = subprocess.run([*DEMO, str(out)], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (out / "ppo-seed0" / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_trained_driver_plans_and_answers(demo: tuple[Path, str]) -> None:
    out = demo[0]
    command = [sys.executable, "-m", "irlvla.cli.main"]
    data = ["--data", str(out / "world"), "--split", "world-test"]
    planned = subprocess.run(
        [*command, "plan", str(out / "ppo-seed0"), *data, "--out", str(out / "plans"), "--pictures", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert planned.returncode == 0, planned.stderr[-2000:]
    assert len(list((out / "plans").glob("*.jpg"))) == 2
    token = sorted((out / "plans").glob("*.jpg"))[0].stem
    asked = subprocess.run(
        [*command, "ask", str(out / "ppo-seed0"), token, *data], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr[-2000:]
    assert "4.0 s" in asked.stdout


def test_trained_driver_plans_for_real_nuplan_keyframes(
    demo: tuple[Path, str], shared_real: Path, tmp_path: Path
) -> None:
    from real_keyframes import SPLIT, write_keyframe_root

    token = write_keyframe_root(shared_real, tmp_path / "root")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "irlvla.cli.main",
            "plan",
            str(demo[0] / "ppo-seed0"),
            "--data",
            str(tmp_path / "root"),
            "--split",
            SPLIT,
            "--out",
            str(tmp_path / "plans"),
            "--pictures",
            "99",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "plans" / f"{token}.jpg").stat().st_size > 50_000
