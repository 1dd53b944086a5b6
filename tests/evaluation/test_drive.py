"""Drivers in closed loop: resumable, paired, and honest about what happened."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from irlvla.cli.main import main
from irlvla.errors import ConfigError, DataError, RunError
from irlvla.evaluation.drive import Driver, DriveRecord, Drives, Happening, drive_policies, find_driver
from irlvla.evaluation.drive_table import FIGURES, make_columns, render_markdown, write_drives
from irlvla.model.config import ModelConfig
from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.language import make_tokenizer
from irlvla.model.plan_space import PlanSpace
from irlvla.types import INSTRUCTION, SubScores
from irlvla.world.overview import CAMERAS_PX, SIDE_PX
from irlvla.world.presets import FRONT_CAMERAS, PRESETS

SMALL = replace(PRESETS["mini"], name="small", cameras=FRONT_CAMERAS)
SETTINGS: dict[str, Any] = {"drives": 2, "seed": 0, "time_limit_s": 5.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a driver that never learned anything, which knows straight plans alone."""
    folder = tmp_path_factory.mktemp("run") / "untrained"
    torch.manual_seed(0)
    config = ModelConfig()
    plans = np.zeros((40, 8, 3))
    plans[:, :, 0] = np.linspace(1, 14, 40)[:, None] * 0.5 * np.arange(1, 9)
    plans[:, :, 1] = np.linspace(-2, 2, 40)[:, None] * (np.arange(1, 9) / 8) ** 2
    tokenizer = make_tokenizer(config, [INSTRUCTION, "Keep speed, stay in the lane: the road ahead is free."])
    DrivingVLA(config, tokenizer, PlanSpace.fit(plans, config.plan_coefficients)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drives")


def _drivers(run: Path) -> list[Driver]:
    return [*map(find_driver, ("human", "constant-velocity", "pdm-closed")), find_driver(f"learned={run}")]


@pytest.fixture(scope="module")
def drives(run: Path, folder: Path) -> Drives:
    """Every kind of driver on the same two routes; the call was killed once, after the second drive."""
    done: list[str] = []

    def kill(work: str, number: int, total: int, what: str) -> None:
        done.append(what)
        if work == "drives" and number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive_policies(_drivers(run), SMALL, folder, **SETTINGS, on_progress=kill)
    return drive_policies(_drivers(run), SMALL, folder, **SETTINGS)


def test_every_driver_drives_the_same_routes(drives: Drives) -> None:
    assert drives.drivers == ("human", "constant velocity", "PDM-Closed", "learned")
    routes = {driver: [record.route for record in drives.of(driver)] for driver in drives.drivers}
    assert all(names == routes["human"] for names in routes.values())
    assert {record.network for record in drives.of("human")} == {"us-nv-las-vegas-strip", "sg-one-north"}
    for route in range(2):
        lengths = [drives.of(driver)[route].route_m for driver in drives.drivers]
        assert np.ptp(lengths) < 1.0
    assert drives.stamps["stage"] == "closed loop"
    assert drives.stamps["commit"]


def test_drives_that_were_finished_are_not_driven_again(drives: Drives, run: Path, folder: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in folder.glob("drives/*/*.json")}
    again = drive_policies(_drivers(run), SMALL, folder, **SETTINGS)
    assert again.records == drives.records
    assert {path: path.stat().st_mtime_ns for path in folder.glob("drives/*/*.json")} == files


def test_a_drive_does_not_depend_on_being_resumed(drives: Drives, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "networks").symlink_to(folder / "networks")
    alone = drive_policies([find_driver("constant-velocity")], SMALL, tmp_path, **SETTINGS)
    timeless = [replace(record, wall_s=0.0) for record in alone.records]
    assert timeless == [replace(record, wall_s=0.0) for record in drives.of("constant velocity")]


def test_plans_are_scored_beside_what_was_driven(drives: Drives) -> None:
    for record in drives.records:
        half_seconds = round(record.duration_s / 0.5)
        for scores in (record.planned, record.driven):
            assert set(scores) == {*SubScores.names(), "score"}
            assert all(len(values) == len(scores["score"]) for values in scores.values())
            assert all(0 <= value <= 1 for value in scores["score"] if value is not None)
        # Plans are known to their end; SUMO's own driver may be taken off the road before.
        if record.driver != "human":
            assert len(record.planned["score"]) == half_seconds
        comfort = record.planned["two_frame_extended_comfort"]
        assert comfort[0] is None
        assert all(value is not None for value in comfort[1:])
        assert all(value is None for value in record.driven["two_frame_extended_comfort"])
    human = drives.of("human")
    assert np.mean([value for record in human for value in record.driven["score"] if value is not None]) > 0.8
    # Routes are chosen so.
    assert all(record.happenings == () for record in human)


def test_a_film_shows_every_step(drives: Drives, folder: Path, tmp_path: Path) -> None:
    for name in ("networks", "routes.json", "drives.json"):
        (tmp_path / name).symlink_to(folder / name)
    filmed = drive_policies([find_driver("constant-velocity")], SMALL, tmp_path, **SETTINGS, film=True)
    for record in filmed.records:
        film = cv2.VideoCapture(str(tmp_path / "drives" / "constant-velocity" / f"{record.route}.mp4"))
        shape = film.get(cv2.CAP_PROP_FRAME_WIDTH), film.get(cv2.CAP_PROP_FRAME_HEIGHT)
        assert shape == (CAMERAS_PX + SIDE_PX, SIDE_PX)
        assert film.get(cv2.CAP_PROP_FRAME_COUNT) == round(record.duration_s / 0.1)
        readable, picture = film.read()
        assert readable
        assert picture.std() > 10
    assert list(tmp_path.glob("drives/*/*.part.mp4")) == []


def test_a_folder_of_other_drives_is_refused(drives: Drives, folder: Path, run: Path) -> None:
    human = [find_driver("human")]
    with pytest.raises(RunError, match="another world, seed or length"):
        drive_policies(human, SMALL, folder, **{**SETTINGS, "seed": 1})
    stranger = replace(find_driver(f"learned={run}"), identity="other weights")
    with pytest.raises(RunError, match="drives of other weights"):
        drive_policies([stranger], SMALL, folder, **SETTINGS)


def test_a_damaged_drive_is_named(drives: Drives, folder: Path, tmp_path: Path) -> None:
    for name in ("networks", "routes.json", "drives.json"):
        (tmp_path / name).symlink_to(folder / name)
    route = drives.records[0].route
    (tmp_path / "drives" / "human").mkdir(parents=True)
    (tmp_path / "drives" / "human" / f"{route}.json").write_text('{"driver": "hum')
    with pytest.raises(DataError, match=rf"{route}\.json: damaged drive"):
        drive_policies([find_driver("human")], SMALL, tmp_path, **SETTINGS)


def test_drivers_and_counts_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    human = find_driver("human")
    with pytest.raises(ConfigError, match="both called 'human'"):
        drive_policies([human, human], SMALL, tmp_path, **SETTINGS)
    with pytest.raises(ConfigError, match="nothing to drive: 0 drives"):
        drive_policies([human], SMALL, tmp_path, drives=0)
    with pytest.raises(RunError, match=r"no run folder.*human, constant-velocity, pdm-closed"):
        find_driver(str(tmp_path / "nobody"))


# --- the table -----------------------------------------------------------------------------------------------------

FINE = {name: [1.0, 1.0] for name in (*SubScores.names(), "score")}


@pytest.fixture
def made_up() -> Callable[..., DriveRecord]:
    def make(route: str, *happenings: Happening, driver: str = "somebody", **changes: Any) -> DriveRecord:
        record = DriveRecord(
            driver=driver,
            seed=None,
            route=route,
            network="sg-one-north",
            end="time limit",
            duration_s=50.0,
            moved_m=500.0,
            progress_m=400.0,
            route_m=800.0,
            happenings=happenings,
            off_road_s=0.0,
            wrong_way_s=0.0,
            wrong_way_m=0.0,
            planned=FINE,
            driven=FINE,
            wall_s=1.0,
        )
        return replace(record, **changes)

    return make


def test_rates_are_per_drive_and_per_kilometre(made_up: Callable[..., DriveRecord]) -> None:
    struck = Happening("collision", 3.0, False, "vehicle")
    records = (
        made_up("2-000", Happening("collision", 3.0, True, "vehicle"), Happening("red light", 1.0), end="collision"),
        made_up("2-001", struck, end="collision", moved_m=1500.0),
        made_up("3-000"),
        made_up("3-001", progress_m=900.0, end="route driven"),
    )
    (column,) = make_columns(Drives({}, records, {}))
    figures = {name: interval.estimate for name, interval in column.figures.items() if interval is not None}
    assert figures["at-fault collisions / drive"] == 0.25
    assert figures["at-fault collisions / km"] == pytest.approx(1 / 3)
    assert figures["other collisions / km"] == pytest.approx(1 / 3)
    assert figures["red lights run / drive"] == 0.25
    assert figures["progress, % of the route"] == pytest.approx((3 * 0.5 + 1) / 4)
    assert figures["speed, m/s"] == pytest.approx(15.0)
    assert column.ends == {"collision": 2, "route driven": 1, "time limit": 1}
    assert set(column.figures) == set(FIGURES)


def test_what_never_happened_is_not_said_to_never_happen(made_up: Callable[..., DriveRecord]) -> None:
    (column,) = make_columns(Drives({}, tuple(made_up(f"2-{k}") for k in range(6)), {}))
    rate = column.figures["at-fault collisions / km"]
    assert rate is not None
    assert (rate.estimate, rate.low, rate.high) == (0.0, 0.0, pytest.approx(3 / 3.0))


def test_pseudo_simulation_is_compared_with_the_drive(made_up: Callable[..., DriveRecord]) -> None:
    shares = [0.1, 0.5, 0.9, 1.0]
    planned = {name: [1.0] * 4 for name in FINE} | {"ego_progress": shares}
    for driven_shares, correlation in ((shares, 1.0), (shares[::-1], -1.0)):
        driven = {name: [1.0] * 4 for name in FINE} | {"ego_progress": driven_shares}
        (column,) = make_columns(Drives({}, (made_up("2-000", planned=planned, driven=driven),), {}))
        assert column.plan_to_drive_correlation == pytest.approx(correlation)
    (column,) = make_columns(Drives({}, (made_up("2-000"),), {}))
    assert column.plan_to_drive_correlation is None


def test_drives_too_short_to_score_leave_a_dash(made_up: Callable[..., DriveRecord]) -> None:
    nothing: dict[str, list[float | None]] = {name: [] for name in FINE}
    columns = make_columns(Drives({}, (made_up("2-000", planned=nothing, driven=nothing),), {}))
    assert columns[0].figures["EPDMS of the plans"] is None
    assert "| EPDMS of the plans | – |" in render_markdown(columns)


def test_results_carry_stamps_and_every_drive(drives: Drives, tmp_path: Path) -> None:
    write_drives(drives, tmp_path)
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["stamps"]["commit"] == drives.stamps["commit"]
    assert [entry["route"] for entry in document["drives"]] == [record.route for record in drives.records]
    text = (tmp_path / "results.md").read_text()
    assert "| | human | constant velocity | PDM-Closed | learned |" in text.replace("|  |", "| |")
    assert f"commit {drives.stamps['commit']}" in text
    assert "Routes left out" in text


def test_the_command_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drive", "--out", str(tmp_path)]) == 2
    assert "name who drives: a run folder, or one of human, constant-velocity, pdm-closed" in capsys.readouterr().err
    assert main(["drive", "human", "--world", "tinny", "--out", str(tmp_path)]) == 2
    assert "perhaps you meant 'tiny'" in capsys.readouterr().err
    assert main(["drive", "humann", "--out", str(tmp_path)]) == 2
    assert "humann is no run folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_drives_and_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["drive", "human", "--policy", "constant-velocity", "--world", "mini", "--out", str(tmp_path)]
    assert main([*arguments, "--drives", "1", "--seconds", "4"]) == 0
    said = capsys.readouterr().out
    assert "EPDMS of what was driven" in said
    assert (tmp_path / "results.md").is_file()
    assert (tmp_path / "results.json").is_file()
