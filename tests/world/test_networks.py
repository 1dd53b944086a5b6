"""Networks of every kind become cities that cars can drive in; what cannot is refused with its cause and cure."""

import gzip
import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from irlvla.errors import DataError
from irlvla.world.city import City, read_city
from irlvla.world.networks import busiest_square, check_user_file, run_tool, write_network
from irlvla.world.presets import FileSource, NetworkSource

ORIGIN = np.array([331000.0, 4690500.0])


def _city(source: NetworkSource, folder: Path, span_m: float = 500.0, file: Path | None = None) -> City:
    network = write_network(source, span_m, 3, folder, file=file, opposites=True)
    return read_city(network, "us-ma-boston", ORIGIN)


def _phases(network: Path) -> list[str]:
    return [phase.get("state", "") for phase in ElementTree.parse(network).getroot().iter("phase")]


@pytest.mark.parametrize(
    ("source", "span_m", "signals"),
    [
        ("berlin", 500.0, 4),
        ("ingolstadt", 900.0, 2),
        ("koenigs_wusterhausen", 2600.0, 1),
        ("bremen", 3000.0, 0),
        ("braunschweig_crossing", 900.0, 1),
        ("spider", 500.0, 3),
        ("arterial", 700.0, 2),
    ],
)
def test_network_has_streets_that_lead_on(source: NetworkSource, span_m: float, signals: int, tmp_path: Path) -> None:
    city = _city(source, tmp_path, span_m)
    assert len(city.connectors) > 20
    assert len({c.signal[0] for c in city.connectors if c.signal is not None}) >= signals
    assert all(3.0 < lane.speed_limit_mps < 36.2 for lane in city.lanes if lane.speed_limit_mps > 3.0)
    leave = {connector.from_lane.roadblock for connector in city.connectors}
    assert len(leave) > 0.5 * len(city.roadblocks)


def test_motorways_without_a_limit_get_the_advisory_speed(tmp_path: Path) -> None:
    limits = [lane.speed_limit_mps for lane in _city("bremen", tmp_path, 3000.0).lanes]
    assert max(limits) == pytest.approx(130 / 3.6, abs=0.01)


def test_left_turns_of_the_main_road_wait_for_their_arrow(tmp_path: Path) -> None:
    city = _city("arterial", tmp_path, 700.0)
    phases = {
        logic.get("id"): [phase.get("state", "") for phase in logic.iter("phase")]
        for logic in ElementTree.parse(tmp_path / "network.net.xml").getroot().iter("tlLogic")
    }
    protected = 0
    for connector in city.connectors:
        if connector.signal is None or connector.turn != "l":
            continue
        light, link = connector.signal
        states = [state[link] for state in phases[light]]
        if "G" in states:
            assert "g" not in states
            protected += 1
            # Green is followed by yellow, and yellow only ever follows green.
            for before, after in zip(states, [*states[1:], states[0]], strict=True):
                assert (before, after) not in {("G", "r"), ("r", "y")}
    assert protected >= 2


def test_roundabouts_are_one_way_rings_that_others_yield_to(tmp_path: Path) -> None:
    city = _city("roundabouts", tmp_path)
    ring = {area.fid for area in city.roadblocks if area.name.startswith("ring.")}
    assert len(ring) >= 4
    into_ring = [c for c in city.connectors if c.to_lane.roadblock in ring and c.from_lane.roadblock not in ring]
    assert into_ring
    states = {
        (item.get("from"), item.get("to")): item.get("state")
        for item in ElementTree.parse(tmp_path / "network.net.xml").getroot().iter("connection")
    }
    name = {area.fid: area.name for area in city.roadblocks}
    entering = [states[name[c.from_lane.roadblock], name[c.to_lane.roadblock]] for c in into_ring]
    assert set(entering) <= {"m", "="}
    onward = {c.from_lane.fid: c for c in city.connectors if {c.from_lane.roadblock, c.to_lane.roadblock} <= ring}
    lane = next(lane for lane in city.lanes if lane.roadblock in ring)
    path = []
    for _ in range(4):
        path += [lane.baseline, onward[lane.fid].baseline]
        lane = onward[lane.fid].to_lane
    step = np.diff(np.concatenate(path), axis=0)
    step = step[np.hypot(*step.T) > 0.01]
    turned = np.diff(np.unwrap(np.arctan2(step[:, 1], step[:, 0]))).sum()
    assert 1.4 * np.pi < turned < 2.2 * np.pi, "four arms on, a car has gone around"


@pytest.mark.parametrize("suffix", [".osm", ".osm.gz", ".osm.pbf"])
def test_openstreetmap_extract_becomes_a_city(files: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"town{suffix}"
    content = (files / "town.osm").read_bytes()
    if suffix == ".osm.pbf":
        osmium = pytest.importorskip("osmium")
        with osmium.SimpleWriter(str(file)) as writer:
            for item in osmium.FileProcessor(str(files / "town.osm")):
                writer.add(item)
    else:
        file.write_bytes(gzip.compress(content) if suffix == ".osm.gz" else content)
    (tmp_path / "w").mkdir()
    city = _city("osm", tmp_path / "w", 800.0, file)
    limits = {round(lane.speed_limit_mps, 2) for lane in city.lanes}
    assert {8.33, 13.89} <= limits
    assert {c.signal is not None for c in city.connectors} == {True, False}
    lanes_of = {fid: [lane for lane in city.lanes if lane.roadblock == fid] for fid in city.roadblock_of_edge.values()}
    assert {1, 2} <= {len(lanes) for lanes in lanes_of.values()}
    assert city.walkways
    assert len(city.crosswalks) > 2
    # The way from (0, 0) to (0, 150) is one-way, and a footway is no street.
    assert len(city.roadblocks) < 60


def test_a_mirrored_extract_turns_the_other_way(files: Path, tmp_path: Path) -> None:
    ring_turns = []
    for name, mirrored in (("right", False), ("left", True)):
        (tmp_path / name).mkdir()
        write_network("osm", 900.0, 1, tmp_path / name, file=files / "town.osm", mirrored=mirrored)
        root = ElementTree.parse(tmp_path / name / "network.net.xml").getroot()
        ring = next(item for item in root.iter("roundabout")).get("edges", "").split()
        city = read_city(tmp_path / name / "network.net.xml", "us-ma-boston", ORIGIN)
        lanes = [lane for lane in city.lanes if lane.sumo_id.rsplit("_", 1)[0] in ring]
        steps = [np.diff(lane.baseline, axis=0) for lane in lanes]
        ring_turns.append(sum(np.diff(np.unwrap(np.arctan2(s[:, 1], s[:, 0]))).sum() for s in steps))
    assert ring_turns[0] > 1.0
    assert ring_turns[1] < -1.0


def test_pbf_without_osmium_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "osmium" else found(name))
    file = tmp_path / "town.osm.pbf"
    file.write_bytes(b"x")
    with pytest.raises(DataError, match="pip install osmium; or turn it into XML"):
        write_network("osm", 500.0, 1, tmp_path, file=file)


def test_opendrive_file_becomes_a_city(files: Path, tmp_path: Path) -> None:
    city = _city("opendrive", tmp_path, 800.0, files / "crossing.xodr")
    assert len(city.roadblocks) == 8
    assert sorted(len(area.name) > 0 for area in city.roadblocks) == [True] * 8
    assert len(city.lanes) == 12
    assert {c.turn for c in city.connectors} >= {"s", "l", "r"}
    assert {round(lane.width_m, 1) for lane in city.lanes} == {3.5}


def test_a_network_that_sumo_exports_as_opendrive_comes_back(tmp_path: Path) -> None:
    write_network("grid", 300.0, 2, tmp_path)
    run_tool("netconvert", ["-s", "network.net.xml", "--opendrive-output", "grid.xodr", "--no-warnings"], tmp_path)
    (tmp_path / "w").mkdir()
    city = _city("opendrive", tmp_path / "w", 900.0, tmp_path / "grid.xodr")
    ours = read_city(tmp_path / "network.net.xml", "us-ma-boston", ORIGIN)
    assert len(city.connectors) == pytest.approx(len(ours.connectors), rel=0.25)


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


NO_STREETS = """<osm version="0.6"><node id="1" lat="47.5" lon="9.5"/><node id="2" lat="47.501" lon="9.5"/>
<way id="5"><nd ref="1"/><nd ref="2"/><tag k="highway" v="footway"/></way></osm>"""
ONE_STREET = NO_STREETS.replace("footway", "residential")


@pytest.mark.parametrize(
    ("source", "name", "content", "message"),
    [
        ("osm", "nowhere.osm", None, "no such file.*OpenStreetMap"),
        ("osm", "empty.osm", "", "is empty"),
        ("osm", "text.osm", "hello", "damaged or cut short.*download or export it again"),
        ("osm", "page.osm", "<html><body/></html>", "begins with <html>.*OpenStreetMap"),
        ("osm", "bad.osm.gz", "not gzip", "cannot be read"),
        ("opendrive", "wrong.xodr", ONE_STREET, "begins with <osm>.*OpenDRIVE"),
        ("opendrive", "empty.xodr", "", "is empty"),
        ("sumo", "wrong.sumocfg", ONE_STREET, "begins with <osm>.*SUMO scenario"),
    ],
)
def test_a_file_that_is_none_is_named_before_anything_is_done(
    source: FileSource, name: str, content: str | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / name if content is None else _write(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        check_user_file(source, file)


@pytest.mark.parametrize("name", ["town.osm", "crossing.xodr"])
def test_a_file_cut_short_is_named(files: Path, tmp_path: Path, name: str) -> None:
    content = (files / name).read_text()
    file = _write(tmp_path / name, content[: len(content) // 2])
    with pytest.raises(DataError, match="cut short"):
        check_user_file("osm" if name.endswith("osm") else "opendrive", file)


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("osm", NO_STREETS, "no street that a car may drive|cannot be made into a road network"),
        ("osm", ONE_STREET, "no street that a car may drive.*take an extract with streets"),
        ("osm", '<osm version="0.6"></osm>', "cannot be made into a road network"),
        (
            "opendrive",
            '<OpenDRIVE><header revMajor="1" revMinor="4"/></OpenDRIVE>',
            "cannot be made into a road network",
        ),
    ],
)
def test_a_network_without_a_way_for_cars_is_refused(
    source: FileSource, content: str, message: str, tmp_path: Path
) -> None:
    file = _write(tmp_path / "f.xml", content)
    with pytest.raises(DataError, match=message):
        read_city(write_network(source, 500.0, 1, tmp_path, file=file), "us-ma-boston", ORIGIN)


def test_the_busiest_square_is_where_the_signals_are(files: Path, tmp_path: Path) -> None:
    write_network("osm", 900.0, 1, tmp_path, file=files / "town.osm")
    network = tmp_path / "network.net.xml"
    signals = [
        (float(node.get("x", "0")), float(node.get("y", "0")))
        for node in ElementTree.parse(network).getroot().iter("junction")
        if node.get("type") == "traffic_light"
    ]
    center = busiest_square(network, 260.0)
    assert center is not None
    assert any(np.hypot(center[0] - x, center[1] - y) < 200 for x, y in signals)
    whole = busiest_square(network, 5000.0)
    assert whole is not None
