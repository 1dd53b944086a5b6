"""Road networks for SUMO: real ones from its wheel, generated ones, and whatever file the user brings.

Networks from outside are laid out anew wherever their format allows: with nuPlan's lane width, kerb radii that a car of
five metres can drive, and speeds in turns that its passengers can bear.
"""

import gzip
import importlib.util
import itertools
import os
import signal
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast
from xml.parsers import expat
from xml.sax import SAXException

import numpy as np
from numpy.typing import NDArray

from irlvla.errors import DataError, RunError
from irlvla.world.presets import FileSource, GeneratedSource, NetworkSource

Array = NDArray[np.float64]

CREDIT_OSM = (
    "Map data (c) OpenStreetMap contributors, available under the Open Database License (ODbL) 1.0: "
    "https://www.openstreetmap.org/copyright"
)


@dataclass(frozen=True)
class WheelNetwork:
    """A real network that comes with SUMO."""

    file: str
    """Below SUMO's home."""
    center: tuple[float, float]
    """Network metres; the middle of the part with most signals."""
    title: str
    has_sidewalks: bool = False
    from_osm: bool = True


WHEEL_NETWORKS: dict[NetworkSource, WheelNetwork] = {
    "berlin": WheelNetwork("tools/game/DRT/osm.net.xml", (1560.0, 860.0), "a part of Berlin", has_sidewalks=True),
    "braunschweig": WheelNetwork("tools/game/bs3d/bs.net.xml", (760.0, 610.0), "a part of Braunschweig"),
    "koenigs_wusterhausen": WheelNetwork(
        "tools/game/A10KW/osm.net.xml", (1500.0, 1900.0), "Königs Wusterhausen with its motorway"
    ),
    "ingolstadt": WheelNetwork(
        "tools/game/fkk_in/ingolstadt.net.xml.gz", (5730.0, 5670.0), "a part of Ingolstadt", has_sidewalks=True
    ),
    "bremen": WheelNetwork("tools/game/highway/highway.net.xml", (1600.0, 800.0), "a motorway junction near Bremen"),
    "braunschweig_crossing": WheelNetwork(
        "tools/game/fokr_bs_demo/fokr_bs.net.xml.gz",
        (222.0, 198.0),
        "the research crossing in Braunschweig",
        has_sidewalks=True,
        from_osm=False,
    ),
}

NETWORK = "network.net.xml"
"""Name of SUMO's network file in a place's folder."""

MAX_SPEED_MPS = 130 / 3.6
"""Roads without a limit get Germany's advisory speed."""
MAX_SCENARIO_LANE_KM = 250.0
"""A user's scenario is simulated whole, so a very large one is refused before it eats a day."""


def sumo_home() -> Path:
    """Folder of the SUMO that pip installed (the `eclipse-sumo` wheel).

    Raises:
        RunError: SUMO or sumolib is not installed.
    """
    for package in ("sumo", "sumolib", "libsumo", "cv2", "simplejpeg"):
        if importlib.util.find_spec(package) is None:
            raise RunError(
                f"the embedded world needs the package {package}, which is not installed; "
                "install the extra: pip install 'irlvla[world]'"
            )
    spec = importlib.util.find_spec("sumo")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


class ToolError(RunError):
    """One of SUMO's programs failed; `reason` is what it said.

    Args:
        tool: Name of the program.
        reason: Its message.
        killed: Whether it did not end by itself.
    """

    def __init__(self, tool: str, reason: str, killed: bool = False) -> None:
        cure = (
            "; the machine may be short of memory: give fewer --workers, and the same command again goes on from here"
            if killed
            else ""
        )
        super().__init__(f"SUMO's {tool} {'was' if killed else 'failed:'} {reason}{cure}")
        self.tool = tool
        self.reason = reason
        self.killed = killed

    def __reduce__(self) -> tuple[type["ToolError"], tuple[str, str, bool]]:
        # Errors cross process boundaries; by default only the message would.
        return ToolError, (self.tool, self.reason, self.killed)


def run_tool(tool: str, arguments: Sequence[str], folder: Path) -> None:
    """Run one of SUMO's programs in a folder.

    Raises:
        ToolError: The program failed or was killed; its last message is quoted.
    """
    home = sumo_home()
    result = subprocess.run(
        [str(home / "bin" / tool), *arguments],
        cwd=folder,
        env={**os.environ, "SUMO_HOME": str(home)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode < 0:
        number = -result.returncode
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        raise ToolError(tool, f"killed by signal {name} in {folder}", killed=True)
    if result.returncode > 0:
        # Some of its errors go on in the next line, indented; PROJ mixes in complaints about its own files.
        lines = [line.strip() for line in result.stderr.splitlines() if not line.startswith("pj_")]
        errors = [" ".join(lines[k : k + 2]) for k, line in enumerate(lines) if line.startswith("Error")]
        reason = errors[0].removeprefix("Error: ").replace(" Quitting (on error).", "") if errors else "no message"
        raise ToolError(tool, f"{reason} (in {folder})")


_LAYOUT_OPTIONS = [
    "--junctions.limit-turn-speed", "2.0",
    "--junctions.internal-link-detail", "12",
    "--junctions.corner-detail", "6",
    # Kerb radius: tighter corners than this cannot be driven at a city speed by a 5 m car.
    "--default.junctions.radius", "9",
    # nuPlan's lanes are this wide; SUMO's default leaves a 2.3 m car too little room.
    "--default.lanewidth", "3.6",
    "--tls.yellow.time", "4",
    "--tls.default-type", "static",
    "--no-warnings",
]  # fmt: skip
COMMON_OPTIONS = ["--no-turnarounds", *_LAYOUT_OPTIONS]


def _parse_output(file: Path) -> "ElementTree.ElementTree[ElementTree.Element]":
    """What one of SUMO's programs wrote.

    Raises:
        RunError: It is not complete: they say nothing when the disk is full.
    """
    try:
        return ElementTree.parse(file)
    except (ElementTree.ParseError, FileNotFoundError) as error:
        raise RunError(
            f"SUMO's output {file} is cut short ({error}); most likely the disk is full: free some space and give the "
            "same command again; what is finished is kept"
        ) from error


def write_network(
    source: NetworkSource,
    span_m: float,
    seed: int,
    folder: Path,
    *,
    file: Path | None = None,
    mirrored: bool = False,
    opposites: bool = False,
) -> Path:
    """Write the network `source` into `folder`/NETWORK.

    Args:
        span_m: Side of the square covered; a user's SUMO scenario stays whole.
        seed: Decides the shape of a generated network.
        file: The user's file, where `source` is its format.
        mirrored: Whether the OpenStreetMap extract is mirrored, since its traffic keeps to the left.
        opposites: Whether drivers may use the oncoming lane to pass what stands in their way.
    Raises:
        DataError: `file` cannot be made into a network that a car can drive in.
        ToolError: SUMO's netconvert was killed.
    """
    extra = ["--opposites.guess"] if opposites else []
    if source in WHEEL_NETWORKS:
        city = WHEEL_NETWORKS[source]
        _cut_out(sumo_home() / city.file, city.center, span_m, folder)
        sidewalks = [] if city.has_sidewalks else ["--sidewalks.guess", "--sidewalks.guess.from-permissions", "false"]
        _lay_out(
            folder,
            "plain.edg.xml",
            ["--geometry.remove", "--junctions.join", "--tls.discard-loaded", "--tls.guess", "--tls.guess.threshold",
             "55", "--crossings.guess", *sidewalks, *extra],
        )  # fmt: skip
    elif source in ("osm", "opendrive", "sumo"):
        assert file is not None, "a network from a file needs the file"
        try:
            _write_user_network(source, file, span_m, folder, extra, mirrored)
        except ToolError as error:
            if error.killed:
                raise
            raise DataError(f"{file}: cannot be made into a road network: {error.reason}") from error
    else:
        _write_generated_network(cast(GeneratedSource, source), span_m, seed, folder, extra)
    network = folder / NETWORK
    _patch_network(network, protect_left_turns=source == "arterial")
    return network


def _cut_out(network: Path, center: tuple[float, float], span_m: float, folder: Path) -> None:
    """Take the streets for cars within a square out of a network, as plain nodes and edges."""
    (x, y), half = center, span_m / 2
    run_tool(
        "netconvert",
        [
            "-s", str(network),
            "--keep-edges.in-boundary", f"{x - half},{y - half},{x + half},{y + half}",
            "--keep-edges.by-vclass", "passenger",
            "--plain-output-prefix", "plain", "-o", "narrow.net.xml", "--no-warnings",
        ],
        folder,
    )  # fmt: skip


def _lay_out(folder: Path, edges: str, options: list[str]) -> None:
    """Build the network anew from plain nodes and edges; a network file would keep its junctions as they are."""
    _cap_speeds(folder / edges)
    types = ["-t", "plain.typ.xml"] if (folder / "plain.typ.xml").is_file() else []
    run_tool(
        "netconvert",
        [
            "-n", "plain.nod.xml", "-e", edges, *types, *options,
            "--keep-edges.components", "1", *COMMON_OPTIONS, "-o", "network.net.xml",
        ],
        folder,
    )  # fmt: skip


def _cap_speeds(edges: Path) -> None:
    tree = _parse_output(edges)
    fast = [
        item
        for item in tree.getroot().iter()
        if item.tag in ("edge", "lane") and float(item.get("speed", "0")) > MAX_SPEED_MPS
    ]
    for item in fast:
        item.set("speed", f"{MAX_SPEED_MPS:.2f}")
    if fast:
        tree.write(edges, encoding="utf-8")


def _patch_network(network: Path, *, protect_left_turns: bool) -> None:
    """Take signals without a program out of a network, and let left turns wait for an arrow of their own.

    Where netconvert discards the light of a junction, a pedestrian crossing may still name it; SUMO then refuses the
    whole network.
    """
    tree = _parse_output(network)
    root = tree.getroot()
    known = {logic.get("id") for logic in root.iter("tlLogic")}
    arrows: dict[str | None, set[int]] = {}
    for connection in root.iter("connection"):
        if connection.get("tl") is None:
            continue
        if connection.get("tl") not in known:
            del connection.attrib["tl"], connection.attrib["linkIndex"]
        elif connection.get("dir") == "l":
            arrows.setdefault(connection.get("tl"), set()).add(int(connection.get("linkIndex", "0")))
    if protect_left_turns:
        for logic in root.iter("tlLogic"):
            _protect(logic, arrows.get(logic.get("id"), set()))
    tree.write(network, encoding="utf-8")


def _protect(logic: ElementTree.Element, links: set[int]) -> None:
    """Show red instead of a green that must yield to links that have a green without yielding in another phase."""
    phases = list(logic.iter("phase"))
    states = [list(phase.get("state", "")) for phase in phases]
    for link in links:
        if not any(state[link] == "G" for state in states):
            continue
        for k, state in enumerate(states):
            # A yellow belongs to the green before it.
            leads_to = next((s[link] for s in reversed(states[:k]) if s[link] not in "yY"), "r")
            if state[link] == "g" or (state[link] in "yY" and leads_to in "gr"):
                state[link] = "r"
    for phase, state in zip(phases, states, strict=True):
        phase.set("state", "".join(state))


def _write_generated_network(source: GeneratedSource, span_m: float, seed: int, folder: Path, extra: list[str]) -> None:
    rng = np.random.default_rng([seed, 77])
    if source == "arterial":
        _write_arterial(span_m, rng, folder)
        edges = "plain.edg.xml"
    else:
        _write_straight_streets(source, span_m, seed, folder)
        if source == "roundabouts":
            _turn_into_roundabouts(folder)
        _curve_streets(folder, rng)
        edges = "curved.edg.xml"
    signals = ["--tls.guess", "--tls.guess.threshold", "50"] if source not in ("arterial", "roundabouts") else []
    _lay_out(
        folder,
        edges,
        [*signals, "--sidewalks.guess", "--sidewalks.guess.max-speed", "25", "--crossings.guess", *extra],
    )


def _write_straight_streets(source: GeneratedSource, span_m: float, seed: int, folder: Path) -> None:
    if source in ("grid", "roundabouts"):
        length_m = 150 if source == "grid" else 190
        count = max(3, round(span_m / length_m) + 1)
        jitter = "14" if source == "grid" else "20"
        shape = ["--grid", "--grid.number", str(count), "--grid.length", str(length_m)]
        shape += ["--perturb-x", jitter, "--perturb-y", jitter]
    elif source == "spider":
        circles = max(2, round(span_m / 2 / 130))
        shape = ["--spider", "--spider.arm-number", "6", "--spider.circle-number", str(circles)]
        shape += ["--spider.space-radius", "130", "--perturb-x", "10", "--perturb-y", "10"]
    else:
        iterations = str(max(10, round((span_m / 130.0) ** 2 * 0.8)))
        shape = [
            "--rand", "--rand.iterations", iterations, "--rand.min-distance", "90", "--rand.max-distance", "190",
            "--rand.min-angle", "55", "--rand.neighbor-dist1", "0", "--rand.neighbor-dist2", "1",
            "--rand.neighbor-dist3", "4", "--rand.neighbor-dist4", "4", "--rand.neighbor-dist5", "0",
        ]  # fmt: skip
    run_tool(
        "netgenerate",
        [*shape, "--seed", str(seed), "--plain-output-prefix", "plain", "-o", "straight.net.xml"],
        folder,
    )


def _curve_streets(folder: Path, rng: np.random.Generator) -> None:
    """Bend the straight streets of a generated network and vary their lanes and limits; both directions alike."""
    nodes = _node_places(folder)
    tree = _parse_output(folder / "plain.edg.xml")
    streets: dict[tuple[str, str], tuple[Array, str, str]] = {}
    edges = sorted(tree.getroot().iter("edge"), key=lambda edge: edge.get("id", ""))
    for edge in edges:
        if edge.get("shape"):
            # Part of a roundabout: its curve and its lanes are given.
            continue
        start, end = edge.get("from", ""), edge.get("to", "")
        key = (min(start, end), max(start, end))
        if key not in streets:
            begin, finish = nodes[key[0]], nodes[key[1]]
            along = np.linspace(0.0, 1.0, 17)[:, None]
            chord = finish - begin
            normal = np.array([-chord[1], chord[0]])
            # A bump that starts and ends straight, so that junction arms keep their directions.
            bend = rng.uniform(-0.09, 0.09) * np.sin(np.pi * along) ** 2 + rng.uniform(-0.03, 0.03) * np.sin(
                2 * np.pi * along
            ) * np.sin(np.pi * along)
            points = begin + along * chord + bend * normal
            lanes = str(rng.choice([1, 2, 2, 3]))
            streets[key] = (points, lanes, str(rng.choice(["8.33", "11.11", "13.89", "13.89", "16.67"])))
        points, lanes, speed = streets[key]
        ordered = points if start == key[0] else points[::-1]
        edge.set("shape", " ".join(f"{x:.2f},{y:.2f}" for x, y in ordered))
        edge.set("numLanes", lanes)
        edge.set("speed", speed)
        edge.set("spreadType", "right")
    tree.write(folder / "curved.edg.xml")


def _node_places(folder: Path) -> dict[str, Array]:
    return {
        node.get("id", ""): np.array([float(node.get("x", "0")), float(node.get("y", "0"))])
        for node in _parse_output(folder / "plain.nod.xml").getroot().iter("node")
    }


ROUNDABOUT_RADIUS_M = 34.0


def _turn_into_roundabouts(folder: Path) -> None:
    """Replace every junction of four or more arms by a one-way ring with a node per arm."""
    places = _node_places(folder)
    tree = _parse_output(folder / "plain.edg.xml")
    root = tree.getroot()
    arms: dict[str, set[str]] = {}
    for edge in root.iter("edge"):
        arms.setdefault(edge.get("from", ""), set()).add(edge.get("to", ""))
    nodes = {name: place for name, place in places.items() if len(arms.get(name, ())) < 4}
    gate: dict[tuple[str, str], str] = {}
    for name in sorted(set(places) - set(nodes)):
        angle = {other: float(np.arctan2(*(places[other] - places[name])[::-1])) for other in arms[name]}
        ring = sorted(angle, key=lambda other: angle[other])
        for number, other in enumerate(ring):
            turned = np.array([np.cos(angle[other]), np.sin(angle[other])])
            gate[name, other] = f"{name}.{number}"
            nodes[f"{name}.{number}"] = places[name] + ROUNDABOUT_RADIUS_M * turned
        for number, other in enumerate(ring):
            first = angle[other]
            last = angle[ring[(number + 1) % len(ring)]]
            sweep = np.linspace(first, last if last > first else last + 2 * np.pi, 13)
            points = places[name] + ROUNDABOUT_RADIUS_M * np.stack([np.cos(sweep), np.sin(sweep)], axis=1)
            ElementTree.SubElement(
                root,
                "edge",
                {
                    "id": f"ring.{name}.{number}",
                    "from": f"{name}.{number}",
                    "to": f"{name}.{(number + 1) % len(ring)}",
                    "numLanes": "1",
                    "priority": "10",
                    "speed": "8.33",
                    "width": "4.2",
                    "spreadType": "center",
                    "shape": " ".join(f"{x:.2f},{y:.2f}" for x, y in points),
                },
            )
    for edge in root.iter("edge"):
        if not edge.get("id", "").startswith("ring."):
            start, end = edge.get("from", ""), edge.get("to", "")
            edge.set("from", gate.get((start, end), start))
            edge.set("to", gate.get((end, start), end))
            edge.set("priority", "1")
    tree.write(folder / "plain.edg.xml")
    _write_nodes(folder, {name: (place, {"radius": "9"} if "." in name else {}) for name, place in nodes.items()})


def _write_nodes(folder: Path, nodes: dict[str, tuple[Array, dict[str, str]]]) -> None:
    root = ElementTree.Element("nodes")
    for name, (place, attributes) in sorted(nodes.items()):
        ElementTree.SubElement(root, "node", {"id": name, "x": f"{place[0]:.2f}", "y": f"{place[1]:.2f}", **attributes})
    ElementTree.ElementTree(root).write(folder / "plain.nod.xml")


def _write_arterial(span_m: float, rng: np.random.Generator, folder: Path) -> None:
    """A main road of three lanes a direction with left-turn lanes and arrows; side streets, some without a signal.

    Two side roads run along it on either side, so that trips can leave and return.
    """
    crossings = max(3, round(span_m / 210))
    along = np.arange(crossings) * span_m / (crossings - 1) + rng.uniform(-18, 18, crossings)
    depth_m = min(190.0, max(120.0, span_m / 4))
    signalled = rng.permutation(crossings) < max(2, round(0.7 * crossings))
    nodes: dict[str, tuple[Array, dict[str, str]]] = {}
    edges = ElementTree.Element("edges")

    def street(start: str, end: str, lanes: int, speed: float, priority: int, *, turn_lane_m: float = 0.0) -> None:
        for first, second in ((start, end), (end, start)):
            edge = ElementTree.SubElement(
                edges,
                "edge",
                {
                    "id": f"{first}-{second}", "from": first, "to": second, "numLanes": str(lanes),
                    "speed": f"{speed:.2f}", "priority": str(priority), "spreadType": "right",
                },
            )  # fmt: skip
            gap = float(np.hypot(*(nodes[second][0] - nodes[first][0])))
            if turn_lane_m and nodes[second][1].get("type") == "traffic_light" and gap > turn_lane_m + 70:
                split = {"pos": f"{-turn_lane_m:.0f}", "lanes": " ".join(map(str, range(lanes + 1)))}
                ElementTree.SubElement(edge, "split", split)

    # The main road's own swing, so that it is no ruler-straight line.
    phase, height = rng.uniform(0, 2 * np.pi), rng.uniform(8, 22)
    main_y = height * np.sin(phase + along / span_m * 2 * np.pi)
    for k in range(crossings):
        kind = {"type": "traffic_light"} if signalled[k] else {"type": "priority"}
        nodes[f"m{k}"] = (np.array([along[k], main_y[k]]), kind)
        for name, side in (("n", 1), ("s", -1)):
            shift = rng.uniform(-12, 12, 2)
            nodes[f"{name}{k}"] = (np.array([along[k], main_y[k] + side * depth_m]) + shift, {})
    ends = {"west": (along[0] - 170, main_y[0]), "east": (along[-1] + 170, main_y[-1])}
    nodes.update({name: (np.array(place), {}) for name, place in ends.items()})
    chain = ["west", *(f"m{k}" for k in range(crossings)), "east"]
    for start, end in itertools.pairwise(chain):
        street(start, end, 3, 16.67, 10, turn_lane_m=65)
    for k in range(crossings):
        lanes = int(rng.choice([1, 1, 2]))
        for name in ("n", "s"):
            street(f"{name}{k}", f"m{k}", lanes, 13.89, 5, turn_lane_m=40)
            if k + 1 < crossings:
                street(f"{name}{k}", f"{name}{k + 1}", 1, float(rng.choice([8.33, 11.11, 13.89])), 2)
    ElementTree.ElementTree(edges).write(folder / "plain.edg.xml")
    _write_nodes(folder, nodes)


# --- files of the user -------------------------------------------------------------------------------------------


def _write_user_network(
    source: FileSource, file: Path, span_m: float, folder: Path, extra: list[str], mirrored: bool
) -> None:
    if source == "sumo":
        from irlvla.world.scenario import read_scenario

        network = read_scenario(file).network
        _check_size(network, file)
        run_tool(
            "netconvert",
            ["-s", str(network), "--plain-output-prefix", "plain", "-o", "narrow.net.xml", "--no-warnings"],
            folder,
        )
        _cap_speeds(folder / "plain.edg.xml")
        types = ["-t", "plain.typ.xml"] if (folder / "plain.typ.xml").is_file() else []
        # Edges, connections and signals keep their names, since routes and programs refer to them.
        run_tool(
            "netconvert",
            ["-n", "plain.nod.xml", "-e", "plain.edg.xml", "-x", "plain.con.xml", "-i", "plain.tll.xml", *types,
             *extra, *_LAYOUT_OPTIONS, "-o", "network.net.xml"],
            folder,
        )  # fmt: skip
        return
    home = sumo_home()
    if source == "osm":
        typemaps = [home / "data" / "typemap" / f"osmNetconvert{kind}.typ.xml" for kind in ("", "UrbanDe")]
        options = [
            "--osm-files", str(readable_osm(file, folder)), "-t", ",".join(map(str, typemaps)),
            "--osm.speedlimit-none", f"{MAX_SPEED_MPS:.2f}", "--osm.sidewalks",
            "--ramps.guess", "--tls.guess-signals", "--tls.discard-simple", "--tls.join",
        ]  # fmt: skip
        # Turn lanes are listed from left to right, which a mirror would turn around.
        options.append("--flip-y-axis" if mirrored else "--osm.turn-lanes")
    else:
        options = ["--opendrive-files", str(file.resolve()), "--opendrive.curve-resolution", "1.0"]
    run_tool(
        "netconvert",
        [
            *options, "--keep-edges.by-vclass", "passenger", "--remove-edges.isolated", "--roundabouts.guess",
            "--no-turnarounds", "--no-warnings", "-o", "imported.net.xml",
        ],
        folder,
    )  # fmt: skip
    center = busiest_square(folder / "imported.net.xml", span_m)
    if center is None:
        raise DataError(f"{file}: holds no street that a car may drive; take an extract with streets in it")
    _cut_out(folder / "imported.net.xml", center, span_m, folder)
    # Loaded signals stay where they are, but their programs are made for the junctions as they are laid out now.
    sidewalks = ["--sidewalks.guess", "--sidewalks.guess.from-permissions", "--sidewalks.guess.max-speed", "20"]
    joined = ["--geometry.remove", "--junctions.join"] if source == "osm" else []
    _lay_out(folder, "plain.edg.xml", [*joined, "--crossings.guess", *sidewalks, *extra])


def readable_osm(file: Path, folder: Path) -> Path:
    """An OpenStreetMap file as SUMO reads it: XML, plain or gzipped; a PBF file is turned into XML in `folder`.

    Raises:
        DataError: It is a PBF file that cannot be read here.
    """
    file = file.resolve()
    if file.suffix == ".pbf":
        if importlib.util.find_spec("osmium") is None:
            raise DataError(
                f"{file}: reading .pbf needs the package osmium: pip install osmium; or turn it into XML first: "
                f"osmium cat {file.name} -o {file.with_suffix('').name}"
            )
        import osmium

        written = folder / "extract.osm"
        written.unlink(missing_ok=True)
        try:
            with osmium.SimpleWriter(str(written)) as writer:
                for item in osmium.FileProcessor(str(file)):
                    writer.add(item)
        except RuntimeError as error:
            raise DataError(f"{file}: not a readable .pbf file ({error}); download it again") from error
        return written
    return file


def check_user_file(source: FileSource, file: Path) -> None:
    """Look at a user's file before anything else is done.

    Raises:
        DataError: It is missing, empty, not XML, of another kind than it should be, or cut short.
    """
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; give the path of {_KINDS[source][1]}")
    if file.stat().st_size == 0:
        raise DataError(f"{file}: is empty; give {_KINDS[source][1]}")
    if file.suffix != ".pbf":
        _check_xml(file, source)


_KINDS: dict[FileSource, tuple[str, str]] = {
    "osm": ("osm", "an OpenStreetMap extract (.osm, .osm.xml, .osm.gz, .osm.pbf)"),
    "opendrive": ("OpenDRIVE", "an OpenDRIVE file (.xodr)"),
    "sumo": ("configuration", "a SUMO scenario (.sumocfg)"),
}


def _check_xml(file: Path, source: FileSource) -> None:
    root, kind = _KINDS[source]
    first: list[str] = []

    def start(tag: str, _: dict[str, str]) -> None:
        if not first:
            first.append(tag)

    # Nothing of the file is kept, so that a whole country fits.
    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            parser.ParseFile(cast(IO[bytes], stream))
    except expat.ExpatError as error:
        raise DataError(f"{file}: is damaged or cut short ({error}); download or export it again") from error
    except (OSError, EOFError) as error:
        raise DataError(f"{file}: cannot be read ({error}); check the file and its permissions") from error
    if not first[0].lower().endswith(root.lower()):
        raise DataError(f"{file}: begins with <{first[0]}>; give {kind}")


def busiest_square(network: Path, span_m: float) -> tuple[float, float] | None:
    """Centre of the square of `span_m` with most street for cars, signals counting as 300 m each.

    Returns:
        Network metres; None where no car may drive at all.
    """
    import sumolib

    _parse_output(network)
    net = sumolib.net.readNet(str(network))
    rows = [
        (*np.mean([point[:2] for point in edge.getShape()], axis=0), edge.getLength() * edge.getLaneNumber())
        for edge in net.getEdges(False)
        if edge.allows("passenger")
    ]
    if not rows:
        return None
    rows += [(*node.getCoord()[:2], 300.0) for node in net.getNodes() if node.getType() == "traffic_light"]
    place, weight = np.array(rows)[:, :2], np.array(rows)[:, 2]
    low, high = place.min(axis=0), place.max(axis=0)
    if (high - low <= span_m).all():
        x, y = (low + high) / 2
        return float(x), float(y)
    step = span_m / 4
    best, center = -1.0, (0.0, 0.0)
    for x in np.arange(low[0], high[0] + step, step):
        for y in np.arange(low[1], high[1] + step, step):
            inside = (np.abs(place - [x, y]) <= span_m / 2).all(axis=1)
            if weight[inside].sum() > best:
                best, center = float(weight[inside].sum()), (float(x), float(y))
    return center


def _check_size(network: Path, file: Path) -> None:
    import sumolib

    try:
        net = sumolib.net.readNet(str(network))
    except (SAXException, KeyError, ValueError, OSError) as error:
        raise DataError(f"{network}: is no SUMO network that can be read ({error!r}); check {file.name}") from error
    lane_km = sum(edge.getLength() * edge.getLaneNumber() for edge in net.getEdges(False)) / 1000
    if lane_km > MAX_SCENARIO_LANE_KM:
        raise DataError(
            f"{file}: its network has {lane_km:.0f} km of lanes, more than {MAX_SCENARIO_LANE_KM:.0f}; cut a part out "
            "with SUMO's netconvert --keep-edges.in-boundary and its tools/route/cutRoutes.py, and give that"
        )
