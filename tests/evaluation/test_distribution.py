"""The distribution report: its figures are those of the evaluation, and bad roots end in a sentence."""

import json
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import yaml

from irlvla.cli.main import main
from irlvla.data.faults import HumanFault, write_faults
from irlvla.data.scenes import SceneSet, open_scenes
from irlvla.errors import ConfigError, DataError
from irlvla.evaluation import distribution
from irlvla.evaluation.distribution import ALL_WINDOWS, DRIVERS, Distribution, measure_split, summarise_group
from irlvla.evaluation.distribution_report import collect_figures, render_markdown
from irlvla.evaluation.evaluate import evaluate
from irlvla.evaluation.policies import ConstantVelocity, Human, PdmClosed
from irlvla.scoring.context import build_contexts
from irlvla.scoring.epdms import epdms
from irlvla.types import PDMSubScores, SubScores

COMMAND = "irlvla world report ROOT --split some --out DIR"


@pytest.fixture(scope="module")
def root(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two golden logs, and a split `some` with every other scene of them, two neighbours now and then."""
    folder = tmp_path_factory.mktemp("distribution") / "root"
    shutil.copytree(golden / "alpha" / "maps", folder / "maps")
    (folder / "navsim_logs" / "test").mkdir(parents=True)
    for log in sorted((golden / "alpha" / "navsim_logs" / "test").glob("*.pkl"))[1:3]:
        shutil.copy(log, folder / "navsim_logs" / "test")
    tokens = open_scenes(folder, "test").tokens
    write_split(folder, "some", [token for number, token in enumerate(tokens) if number % 3])
    return folder


def write_split(root: Path, name: str, tokens: list[str]) -> None:
    folder = root / "train_test_split"
    (folder / "scene_filter").mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(
        yaml.safe_dump({"data_split": "test", "defaults": [{"scene_filter": name}]}), encoding="utf-8"
    )
    scene_filter = {"num_future_frames": 10, "frame_interval": 1, "tokens": tokens}
    (folder / "scene_filter" / f"{name}.yaml").write_text(yaml.safe_dump(scene_filter), encoding="utf-8")


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    """The same root, which a test may damage."""
    return shutil.copytree(root, tmp_path / "root", copy_function=os.link)


@pytest.fixture(scope="module")
def measured(root: Path) -> Distribution:
    return measure_split(root, "some", with_all_windows=True)


@pytest.mark.parametrize("group", [0, 1])
def test_scores_are_those_of_the_evaluation(root: Path, measured: Distribution, group: int) -> None:
    scenes: SceneSet = open_scenes(root, ("some", "test")[group], num_future_frames=10)
    contexts, failures = build_contexts(scenes)
    results = evaluate([ConstantVelocity(), Human(), PdmClosed(contexts)], scenes, contexts, failures=failures)
    found = measured.groups[group]
    assert [scene.token for scene in found.measures] == list(results.tokens)
    assert found.log_names == list(results.log_names)
    for number, expected in enumerate(results.scores):
        assert expected.policy == DRIVERS[number]
        for human_filter, theirs in ((True, expected.filtered), (False, expected.raw)):
            ours = found.scores(number, human_filter=human_filter)
            for name in (*SubScores.names(), "has_earlier_frame"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
        summary = summarise_group(found, {})["drivers"][DRIVERS[number]]
        assert summary["human_filter_on"]["score"]["estimate"] == pytest.approx(expected.epdms.mean())
        assert summary["human_filter_off"]["score"]["estimate"] == pytest.approx(epdms(expected.raw).mean())


def test_scores_by_navsim_v1_are_the_devkits_own(golden: Path, root: Path, measured: Distribution) -> None:
    """Against the official figures of the human's plans."""
    pq = pytest.importorskip("pyarrow.parquet")
    official = pq.read_table(golden / "alpha" / "official_pdms_1_1.parquet").to_pylist()
    rows = {row["token"]: row for row in official if row.get("name", row.get("plan")) == "human"}
    found = measured.groups[1]
    ours = found.navsim_v1[DRIVERS.index("human")]
    compared = 0
    for number, scene in enumerate(found.measures):
        if scene.token in rows:
            compared += 1
            for name in PDMSubScores.names():
                assert getattr(ours, name)[number] == pytest.approx(rows[scene.token][name], abs=1e-6)
    assert compared > 20


def test_pieces_fit_together(root: Path, measured: Distribution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "_SCENES_PER_TASK", 7)
    again = measure_split(root, "some", with_all_windows=True)
    assert [group.measures for group in again.groups] == [group.measures for group in measured.groups]
    assert collect_figures(again, command=COMMAND) == collect_figures(measured, command=COMMAND)


def test_figures_do_not_depend_on_the_number_of_workers(root: Path, measured: Distribution) -> None:
    again = measure_split(root, "some", with_all_windows=True, workers=2)
    assert collect_figures(again, command=COMMAND) == collect_figures(measured, command=COMMAND)


def test_split_is_a_part_of_all_windows_and_stands_first(measured: Distribution) -> None:
    own, everything = measured.groups
    assert (own.name, everything.name) == ("some", ALL_WINDOWS)
    assert {scene.token for scene in own.measures} < {scene.token for scene in everything.measures}
    assert own.raw[0].has_earlier_frame.mean() < everything.raw[0].has_earlier_frame.mean()


def test_shares_add_up(measured: Distribution) -> None:
    for group in measured.groups:
        figures = summarise_group(group, {})
        for key in ("sharpest_curve_radius_m", "light", "command", "speed_word", "path_word", "location"):
            assert sum(figures[key].values()) == pytest.approx(1.0), key
        assert sum(sum(row.values()) for row in figures["manoeuvre"].values()) == pytest.approx(1.0)
        assert max(figures["interaction"].values()) <= 1.0
        assert figures["faults"] is None
        assert figures["place"] is None


def test_labelled_faults_and_places_are_counted(copied: Path, measured: Distribution) -> None:
    own = measured.groups[0]
    log_name = own.log_names[0]
    tokens = [scene.token for scene in own.measures if scene.log_name == log_name]
    braking = HumanFault("hard braking", 0.5, 1.0, 4.2)
    write_faults(
        copied, "test", log_name, [(token, (braking, braking) if k < 3 else ()) for k, token in enumerate(tokens)]
    )
    places = [
        {"location": scene.location, "slot": scene.roadblock // 1_000_000, "shows": f"part of {scene.location}"}
        for scene in own.measures
    ]
    manifest = {"preset": {"name": "hand-made"}, "seed": 3, "places": places}
    (copied / "world.json").write_text(json.dumps(manifest), encoding="utf-8")
    figures = collect_figures(measure_split(copied, "some"), command=COMMAND)
    group = figures["groups"]["some"]
    assert list(figures["groups"]) == ["some"]
    assert group["faults"]["labelled"] == len(tokens) < group["scenes"]
    assert group["faults"]["any"] == group["faults"]["share"]["hard braking"] == pytest.approx(3 / len(tokens))
    assert group["faults"]["share"]["tailgating"] == 0.0
    assert all("part of" in place for place in group["place"])
    assert figures["stamps"]["world"] == {"preset": "hand-made", "seed": 3}
    assert "hard braking" in render_markdown(figures)


def test_markdown_says_everything_and_has_whole_tables(measured: Distribution) -> None:
    text = render_markdown(collect_figures(measured, command=COMMAND))
    for words in ("not published", "arXiv:2406.15349v2", "PDM-Closed", COMMAND, "all windows", "turn left"):
        assert words in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_command_writes_report_plots_and_figures(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    arguments = ["world", "report", str(root), "--split", "some", "--out", str(out), "--workers", "1"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "some:" in printed
    assert "human: EPDMS" in printed
    names = {path.name for path in out.iterdir()}
    assert names == {"some.md", "some.json", "some-motion.svg", "some-scenes.svg", "some-epdms.svg"}
    text = (out / "some.md").read_text(encoding="utf-8")
    for image in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        svg = ElementTree.fromstring((out / image).read_text(encoding="utf-8"))
        assert sum(1 for part in svg.iter() if part.tag.endswith("text")) > 20
    assert str(tmp_path) not in text + (out / "some.json").read_text(encoding="utf-8")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"]["some"]["scenes"] > 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.slow
def test_embedded_world_of_two_stages_is_measured_in_its_first(small_world: Path, tmp_path: Path) -> None:
    assert (
        main(["world", "report", str(small_world), "--split", "world-hard", "--out", str(tmp_path), "--all-windows"])
        == 0
    )
    figures = json.loads((tmp_path / "world-hard.json").read_text(encoding="utf-8"))
    group = figures["groups"]["world-hard"]
    assert group["scenes"] == len({token for now, earlier, _ in open_scenes(small_world, "world-hard").split.mapping
                                   for token in (now, earlier)})  # fmt: skip
    assert group["place"]
    assert not any("unknown" in place for place in group["place"])
    assert group["drivers"]["human"]["navsim_v1"] is None
    assert group["drivers"]["human"]["human_filter_on"]["score"]["estimate"] > 0.5
    assert figures["stamps"]["world"] == {"preset": "small", "seed": 0}


def refuse(arguments: list[str], capsys: pytest.CaptureFixture[str], *words: str) -> None:
    assert main(["world", "report", *arguments]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    for word in words:
        assert word in said, said


def test_missing_and_empty_roots_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out"), "--split", "test"]
    refuse([str(tmp_path / "nowhere"), *out], capsys, "nowhere", "irlvla world build")
    (tmp_path / "empty").mkdir()
    refuse([str(tmp_path / "empty"), *out], capsys, "no split 'test'", "none")
    (tmp_path / "hollow" / "navsim_logs" / "test").mkdir(parents=True)
    refuse([str(tmp_path / "hollow"), *out], capsys, "holds no logs")
    assert list((tmp_path / "out").iterdir()) == []


def test_hostile_log_is_not_executed_and_not_counted(copied: Path, tmp_path: Path, measured: Distribution) -> None:
    log = sorted((copied / "navsim_logs" / "test").glob("*.pkl"))[0]
    log.unlink()
    mark = tmp_path / "executed"
    log.write_bytes(b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.")
    found = measure_split(copied, "some")
    assert not mark.exists()
    assert set(found.groups[0].log_names) == set(measured.groups[0].log_names) - {log.stem}
    assert any(failure.token == log.stem for failure in found.failures)


def test_damage_is_named_before_the_long_work(
    copied: Path, measured: Distribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribution, "_run", lambda *_: pytest.fail("the long work has begun"))
    faults = copied / "human_faults" / "test" / f"{measured.groups[0].log_names[0]}.jsonl"
    faults.parent.mkdir(parents=True)
    faults.write_text('{"token": "a", "faults": [{"kind": "speeding", "from_s": 0, "to_s": 1, "amount": 2}]}\n')
    with pytest.raises(DataError, match="unknown kind of fault 'speeding'"):
        measure_split(copied, "some")
    faults.unlink()
    for content in ("{", "[]", '{"places": 3}', '{"preset": {}, "seed": 1, "places": []}'):
        (copied / "world.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=r"world\.json"):
            measure_split(copied, "some")
    (copied / "world.json").unlink()
    with pytest.raises(ConfigError, match="workers"):
        measure_split(copied, "some", workers="many")


def test_root_without_maps_says_so(copied: Path) -> None:
    shutil.rmtree(copied / "maps")
    with pytest.raises(DataError, match="maps"):
        measure_split(copied, "some")


def test_out_that_is_a_file_is_named(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    refuse([str(root), "--split", "some", "--out", str(tmp_path / "file")], capsys, "--out")
