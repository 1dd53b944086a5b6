"""The command line: right answers are short, wrong input gets its cause and cure, and never a traceback."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from irlvla.cli.main import COMMANDS, main
from irlvla.data.plans import load_plans, write_plans


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "irlvla.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def assert_clear_error(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.fixture
def alpha(golden: Path, tmp_path: Path) -> Path:
    """A root with one golden log that a test may damage."""
    root = tmp_path / "root"
    shutil.copytree(golden / "alpha" / "maps", root / "maps")
    (root / "navsim_logs" / "test").mkdir(parents=True)
    log = sorted((golden / "alpha" / "navsim_logs" / "test").glob("*.pkl"))[0]
    shutil.copy(log, root / "navsim_logs" / "test")
    return root


@pytest.fixture
def plans(golden: Path, alpha: Path, tmp_path: Path) -> Path:
    """The official plans for that log."""
    from irlvla.data.scenes import open_scenes

    table = load_plans(golden / "alpha" / "plans.npz")
    tokens = set(open_scenes(alpha, "test", num_future_frames=8).tokens)
    rows = [row for row, token in enumerate(table.tokens) if token in tokens]
    path = tmp_path / "plans.npz"
    write_plans(path, [table.tokens[r] for r in rows], np.asarray(table.poses)[rows], [table.names[r] for r in rows])
    return path


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


def test_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scroe"]) == 2
    assert "irlvla score" in capsys.readouterr().err


def test_unknown_recipe_is_named_with_a_suggestion(tmp_path: Path) -> None:
    done = run("train", "imitation", "tinny", "--data", tmp_path, "--out", tmp_path / "run")
    assert_clear_error(done, "tinny", "perhaps you meant 'tiny'")
    assert not (tmp_path / "run").exists()


def test_unknown_preset_is_named_with_a_suggestion(tmp_path: Path) -> None:
    assert_clear_error(run("world", "build", "quikc", "--out", tmp_path / "w"), "quikc", "perhaps you meant 'quick'")


def test_train_without_data_names_the_missing_folder(tmp_path: Path) -> None:
    done = run("train", "imitation", "quick", "--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert_clear_error(done, "nowhere")


def test_train_ppo_without_imitation_says_what_to_train_first(tmp_path: Path) -> None:
    done = run(
        "train",
        "ppo",
        "quick",
        "--data",
        tmp_path,
        "--imitation",
        tmp_path,
        "--reward",
        tmp_path,
        "--out",
        tmp_path / "r",
    )
    assert_clear_error(done, "irlvla train")


def test_score_writes_one_row_a_plan_in_input_order(alpha: Path, plans: Path, tmp_path: Path) -> None:
    done = run("score", "--data", alpha, "--split", "test", "--plans", plans, "--out", tmp_path / "s.parquet")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.column("token").to_pylist() == list(load_plans(plans).tokens)
    assert b"epdms-2.2" in b"".join(table.schema.metadata.values())


def test_score_for_navsim_v1_writes_its_own_columns(alpha: Path, plans: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.parquet"
    done = run(
        "score", "--data", alpha, "--plans", plans, "--metric", "pdms-1.1", "--human-filter", "off", "--out", out
    )
    assert done.returncode == 0, done.stderr
    assert "mean score" in done.stdout
    table = pq.read_table(out)
    assert table.column("token").to_pylist() == list(load_plans(plans).tokens)
    assert {"comfort", "driving_direction_compliance", "score"} <= set(table.column_names)
    assert not {"lane_keeping", "history_comfort", "comfort_raw"} & set(table.column_names)
    assert all(table.column("valid").to_pylist())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("pdms-1.1", "--human-filter", "on"), "--human-filter on"),
        (("pdms-1.1", "--traffic", "reactive"), "--traffic reactive"),
        (("pdms-1.1", "--mapping", "split.yaml"), "--mapping"),
        (("pdms-1",), "pdms-1.1"),
    ],
)
def test_metric_and_options_are_checked_before_anything_is_read(
    options: tuple[str, ...], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = [str(tmp_path / name) for name in ("data", "plans.npz", "out.parquet")]
    asked = ["score", "--data", nothing[0], "--plans", nothing[1], "--out", nothing[2], "--metric", *options]
    assert main(asked) == 2
    error = capsys.readouterr().err
    assert named in error
    assert "Traceback" not in error


def test_missing_map_is_named(alpha: Path, plans: Path, tmp_path: Path) -> None:
    for file in (alpha / "maps").rglob("map.gpkg"):
        file.unlink()
    done = run("score", "--data", alpha, "--split", "test", "--plans", plans, "--out", tmp_path / "s.parquet")
    assert_clear_error(done, "map.gpkg")
    assert not (tmp_path / "s.parquet").exists()


def test_truncated_log_loses_its_scenes_and_says_so(alpha: Path, plans: Path, tmp_path: Path) -> None:
    log = next((alpha / "navsim_logs" / "test").glob("*.pkl"))
    log.write_bytes(log.read_bytes()[:5000])
    done = run("score", "--data", alpha, "--split", "test", "--plans", plans, "--out", tmp_path / "s.parquet")
    assert "Traceback" not in done.stderr
    assert log.name in done.stderr or "have no score" in done.stdout


def test_hostile_log_runs_nothing(alpha: Path, plans: Path, tmp_path: Path) -> None:
    import pickle

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'owned'}",)

    log = next((alpha / "navsim_logs" / "test").glob("*.pkl"))
    log.write_bytes(pickle.dumps([Hostile()]))
    done = run("score", "--data", alpha, "--split", "test", "--plans", plans, "--out", tmp_path / "s.parquet")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "owned").exists()


def test_nan_pose_costs_its_own_row_only(alpha: Path, plans: Path, tmp_path: Path) -> None:
    table = load_plans(plans)
    poses = np.array(table.poses)
    poses[3, 2, 0] = np.nan
    write_plans(plans, table.tokens, poses, table.names)
    done = run("score", "--data", alpha, "--split", "test", "--plans", plans, "--out", tmp_path / "s.parquet")
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert [row["valid"] for row in rows].count(False) == 1
    assert rows[3]["score"] is None
    assert rows[3]["reason"]


def test_no_room_for_the_result_is_named_and_leaves_no_half_file(alpha: Path, plans: Path, tmp_path: Path) -> None:
    import resource

    out = tmp_path / "s.parquet"
    arguments = ["score", "--data", alpha, "--split", "test", "--plans", plans, "--out", out]
    done = subprocess.run(
        [sys.executable, "-m", "irlvla.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        # A file may not grow beyond this: the nearest to a full disk that needs no rights.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert_clear_error(done, "disk", "free some space")
    assert not out.exists()


STAMPS = {"metric", "split", "stage", "traffic", "human_filter", "scorer", "scorer_commit", "scorer_code", "numpy"}


def test_score_for_machines_is_one_json_object(alpha: Path, plans: Path, tmp_path: Path) -> None:
    table = load_plans(plans)
    poses, tokens = np.array(table.poses), list(table.tokens)
    poses[3, 2, 0] = np.nan
    tokens[5] = tokens[6] = "0123456789abcdef"
    write_plans(plans, tokens, poses, table.names)
    out = tmp_path / "s.csv"
    done = run("score", "--data", alpha, "--split", "test", "--plans", plans, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["plans"], said["scored"], said["out"]) == (len(tokens), len(tokens) - 3, str(out))
    assert {(entry["plans"], entry["first"]) for entry in said["unscored"]} == {(1, tokens[3]), (2, tokens[5])}
    assert all(entry["reason"] for entry in said["unscored"])
    assert set(said["drivers"]) == set(table.names)
    assert 0.0 < said["drivers"]["human"]["score"] <= 1.0
    assert set(said["stamps"]) == STAMPS | {"command"}
    assert said["stamps"]["command"].startswith("irlvla score --data")
    assert json.loads((tmp_path / "s.csv.stamps.json").read_text(encoding="utf-8")) == said["stamps"]


V1_COLUMNS = ["token", "valid", "no_at_fault_collisions", "drivable_area_compliance", "ego_progress"]
V1_COLUMNS += ["time_to_collision_within_bound", "comfort", "driving_direction_compliance", "score"]


@pytest.mark.parametrize(("metric", "total"), [("epdms-2.2", "average_all_frames"), ("pdms-1.1", "average")])
def test_csv_ends_with_the_average_of_each_driver(
    metric: str, total: str, alpha: Path, plans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s.csv"
    done = run("score", "--data", alpha, "--split", "test", "--plans", plans, "--out", out, "--metric", metric)
    assert done.returncode == 0, done.stderr
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if metric == "pdms-1.1":
        assert list(rows[0]) == ["", *V1_COLUMNS, "name", "reason"]
    names = list(dict.fromkeys(load_plans(plans).names))
    averages = rows[-len(names) :]
    assert [row["token"] for row in averages] == [total] * len(names)
    for row in averages:
        mine = [other for other in rows[: -len(names)] if other["name"] == row["name"]]
        scores = [float(other["score"]) for other in mine if other["score"]]
        assert float(row["score"]) == pytest.approx(np.mean(scores), abs=1e-12)


def test_nothing_scored_is_told_by_the_exit_code(alpha: Path, plans: Path, tmp_path: Path) -> None:
    table, out = load_plans(plans), tmp_path / "s.parquet"
    write_plans(plans, ["0123456789abcdef"] * len(table), table.poses, table.names)
    done = run("score", "--data", alpha, "--split", "test", "--plans", plans, "--out", out)
    assert done.returncode == 3, done.stderr
    assert "no such scene" in done.stdout
    assert pq.read_table(out)["score"].null_count == len(table)


@pytest.mark.parametrize("workers", ["two", "0", "ray:127.0.0.1:1"])
def test_workers_that_cannot_work_are_named(workers: str, alpha: Path, plans: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.parquet"
    done = run("score", "--data", alpha, "--split", "test", "--plans", plans, "--out", out, "--workers", workers)
    assert_clear_error(done, workers.removeprefix("ray:"))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "s."))] == []


def test_evaluate_reads_a_submission_and_stamps_every_file(golden: Path, tmp_path: Path) -> None:
    submission, out = golden / "submissions" / "version_1.pkl", tmp_path / "evaluation"
    tokens = [*load_plans(submission).tokens, load_plans(golden / "alpha" / "plans.npz").tokens[-1]]
    split, scene_filter = tmp_path / "six.yaml", {"num_future_frames": 8, "frame_interval": 1, "tokens": tokens}
    split.write_text(yaml.safe_dump({"data_split": "test", "defaults": [{"scene_filter": "scene_filter"}]}))
    (tmp_path / "scene_filter.yaml").write_text(yaml.safe_dump(scene_filter))
    arguments = ["--data", golden / "alpha", "--split", split, "--out", out, "--pictures", "0"]
    done = run("evaluate", submission, *arguments, "--no-baselines", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [row["policy"] for row in said["rows"]] == ["submission"]
    assert said["stamps"]["scenes"] == 5
    assert [failure["token"] for failure in said["failures"]] == tokens[-1:]
    assert {"metric", "stage", "traffic", "human_filter", "split", "commit", "scorer_code", "command"} <= set(
        said["stamps"]
    )
    files = sorted(path.name for path in out.iterdir())
    assert files == ["report.html", "results.json", "results.md", "submission.parquet"]
    for name in files[:3]:
        assert said["stamps"]["scorer_code"] in (out / name).read_text(encoding="utf-8"), name
    stamps = json.loads(pq.read_schema(out / "submission.parquet").metadata[b"irlvla"])
    assert stamps == said["stamps"]
