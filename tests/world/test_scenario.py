"""A user's own SUMO scenario keeps its demand; some of its cars become ego vehicles."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from irlvla.errors import DataError
from irlvla.world.build import build_world, with_user_networks
from irlvla.world.networks import write_network
from irlvla.world.presets import PRESETS
from irlvla.world.scenario import _busiest_time_s, read_scenario, simulate_scenario
from irlvla.world.traffic import read_recording

MINI = PRESETS["mini"]

CONFIGURATION = """<configuration><input><net-file value="town.net.xml"/><route-files value="{routes}"/>
<additional-files value="{additional}"/></input><processing><time-to-teleport value="30"/>
<ignore-junction-blocker value="5"/></processing></configuration>"""


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Path:
    """A SUMO network, as a user may have it."""
    folder = tmp_path_factory.mktemp("town")
    write_network("osm", 900.0, 1, folder, file=files / "town.osm")
    return folder / "network.net.xml"


def _scenario(folder: Path, town: Path, demand: str, additional: str = "") -> Path:
    (folder / "town.net.xml").write_bytes(town.read_bytes())
    (folder / "demand.rou.xml").write_text(f"<routes>{demand}</routes>")
    if additional:
        (folder / "more.add.xml").write_text(f"<additional>{additional}</additional>")
    file = folder / "run.sumocfg"
    named = "more.add.xml" if additional else ""
    file.write_text(CONFIGURATION.format(routes="demand.rou.xml", additional=named))
    return file


def _edges(town: Path) -> list[str]:
    return sorted(
        edge.get("id", "")
        for edge in ElementTree.parse(town).getroot().iter("edge")
        if edge.get("function") is None and float(edge.find("lane").get("length", "0")) > 60  # type: ignore[union-attr]
    )


def _flows(town: Path, kind: str = "") -> str:
    edges = _edges(town)
    shown = f'type="{kind}"' if kind else ""
    return "".join(
        f'<flow id="f{k}" {shown} begin="900" end="1800" period="9" from="{edges[k]}" to="{edges[-1 - k]}"/>'
        for k in range(0, len(edges) // 2, 2)
    )


def test_the_window_is_where_the_demand_is(tmp_path: Path, town: Path) -> None:
    scenario = read_scenario(_scenario(tmp_path, town, _flows(town)))
    assert 900.0 < _busiest_time_s(scenario, 40.0) < 1800.0
    assert scenario.options == ("--ignore-junction-blocker", "5")


def test_own_types_stops_and_distributions_are_kept(tmp_path: Path, town: Path) -> None:
    edges = _edges(town)
    lanes = {lane.get("id") for lane in ElementTree.parse(town).getroot().iter("lane") if lane.get("allow") is None}
    lane = next(f"{edge}_{k}" for edge in edges for k in (1, 0) if f"{edge}_{k}" in lanes)
    additional = (
        '<vType id="slow" vClass="passenger" maxSpeed="4.0" length="4.2"/><vType id="lorry" vClass="truck"/>'
        '<vTypeDistribution id="fleet" vTypes="slow lorry" probabilities="0.5 0.5"/>'
        f'<busStop id="market" lane="{lane}" startPos="10" endPos="30"/>'
        '<inductionLoop id="d" lane="nowhere_0" pos="1" freq="60" file="d.xml"/>'
    )
    demand = _flows(town, "fleet") + (
        f'<vehicle id="b" type="bus" depart="1000"><route edges="{lane.rsplit("_", 1)[0]}"/>'
        '<stop busStop="market" duration="5"/><stop busStop="elsewhere" duration="5"/></vehicle>'
    )
    scenario = read_scenario(_scenario(tmp_path, town, demand, additional))
    folder = tmp_path / "w"
    folder.mkdir()
    network = write_network("sumo", 500.0, 1, folder, file=scenario.file)
    notes = simulate_scenario(scenario, network, MINI, 1, folder)
    assert any("'bus' is defined nowhere" in note for note in notes)
    assert any("elsewhere" in note for note in notes)
    kinds = {track.kind for track in read_recording(folder, MINI).tracks}
    assert "car.slow" in kinds
    assert "truck.lorry" in kinds
    assert any(kind.startswith("ego") for kind in kinds)
    slow = [t for t in read_recording(folder, MINI).tracks if t.kind == "car.slow"]
    assert max(float(track.speed_mps.max()) for track in slow) < 5.0
    assert {track.size_m[0] for track in slow} == {4.2}


@pytest.mark.parametrize(
    ("demand", "message"),
    [
        ("", "no vehicle, trip or flow"),
        ('<vType id="x"/>', "no vehicle, trip or flow"),
    ],
)
def test_a_scenario_without_traffic_is_refused(tmp_path: Path, town: Path, demand: str, message: str) -> None:
    scenario = read_scenario(_scenario(tmp_path, town, demand))
    with pytest.raises(DataError, match=message):
        simulate_scenario(scenario, town, MINI, 1, tmp_path)


def test_missing_files_of_a_scenario_are_named(tmp_path: Path, town: Path) -> None:
    file = _scenario(tmp_path, town, _flows(town), "<!-- nothing -->")
    (tmp_path / "more.add.xml").unlink()
    assert "more.add.xml" in read_scenario(file).notes[0]
    (tmp_path / "demand.rou.xml").unlink()
    with pytest.raises(DataError, match=r"demand\.rou\.xml, which is not there; put it there"):
        read_scenario(file)
    (tmp_path / "demand.rou.xml").write_text("<routes>")
    with pytest.raises(DataError, match=r"demand\.rou\.xml: is damaged or cut short"):
        simulate_scenario(read_scenario(file), town, MINI, 1, tmp_path)
    file.write_text("<configuration><input/></configuration>")
    with pytest.raises(DataError, match="names no net-file"):
        read_scenario(file)
    file.write_text("<configuration>")
    with pytest.raises(DataError, match="is no SUMO configuration"):
        read_scenario(file)


def test_buses_alone_give_no_ego_vehicle(tmp_path: Path, town: Path) -> None:
    file = _scenario(tmp_path, town, _flows(town, "bus"))
    preset = with_user_networks(MINI, [("sumo", file)], "test")
    with pytest.raises(DataError, match="no car that could become the ego vehicle"):
        build_world(preset, tmp_path / "world", seed=1, workers=1)


@pytest.mark.slow
def test_bologna_drives_with_its_own_demand(shared_real: Path, tmp_path: Path) -> None:
    file = shared_real / "sumo" / "bologna" / "acosta" / "run.sumocfg"
    scenario = read_scenario(file)
    network = write_network("sumo", 500.0, 1, tmp_path, file=file)
    notes = simulate_scenario(scenario, network, MINI, 1, tmp_path)
    assert any("'private' is defined nowhere" in note for note in notes)
    traffic = read_recording(tmp_path, MINI)
    egos = [track for track in traffic.tracks if track.kind.startswith("ego")]
    cars = [track for track in traffic.tracks if track.kind.startswith("car")]
    assert 0.15 < len(egos) / (len(egos) + len(cars)) < 0.45
    # Its own vehicles, by the names that its files give them.
    assert any(track.name.startswith("Costa") for track in traffic.tracks)
    assert any(track.name.startswith("bus") for track in traffic.tracks)
    assert np.mean([track.speed_mps.mean() for track in egos]) > 2.0
    assert traffic.signals
