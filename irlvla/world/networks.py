"""Road networks for SUMO: cut out of the real cities in its wheel, or generated with curved streets and signals."""

import importlib.util
import os
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from irlvla.errors import RunError
from irlvla.world.presets import NetworkSource

# Centre (in network metres) of the part of each city that has most signals.
CITY_FILES = {
    "berlin": ("tools/game/DRT/osm.net.xml", (1560.0, 860.0)),
    "braunschweig": ("tools/game/bs3d/bs.net.xml", (760.0, 610.0)),
}


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


def run_tool(tool: str, arguments: list[str], folder: Path) -> None:
    """Run one of SUMO's programs in a folder.

    Raises:
        RunError: The program failed; its last message is quoted.
    """
    home = sumo_home()
    result = subprocess.run(
        [str(home / "bin" / tool), *arguments],
        cwd=folder,
        env={**os.environ, "SUMO_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error")] or ["no message"]
        raise RunError(f"SUMO's {tool} failed in {folder}: {errors[0]}")


COMMON_OPTIONS = [
    "--no-turnarounds",
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


def write_network(source: NetworkSource, span_m: float, seed: int, folder: Path) -> Path:
    """Write the network `source` into `folder`/network.net.xml.

    Args:
        span_m: Side of the square covered.
        seed: Decides the shape of a generated network.
    """
    if source in CITY_FILES:
        file, (x, y) = CITY_FILES[source]
        half = span_m / 2
        run_tool(
            "netconvert",
            [
                "-s", str(sumo_home() / file),
                "--keep-edges.in-boundary", f"{x - half},{y - half},{x + half},{y + half}",
                "--keep-edges.by-vclass", "passenger",
                "--plain-output-prefix", "plain", "-o", "narrow.net.xml", "--no-warnings",
            ],
            folder,
        )  # fmt: skip
        # A network file keeps its junctions as they are; from plain nodes and edges they are laid out anew.
        types = ["-t", "plain.typ.xml"] if (folder / "plain.typ.xml").is_file() else []
        sidewalks = [] if source == "berlin" else ["--sidewalks.guess", "--sidewalks.guess.from-permissions", "false"]
        run_tool(
            "netconvert",
            [
                "-n", "plain.nod.xml", "-e", "plain.edg.xml", *types,
                "--geometry.remove", "--junctions.join", "--tls.discard-loaded",
                "--tls.guess", "--tls.guess.threshold", "55",
                "--crossings.guess", *sidewalks,
                "--keep-edges.components", "1", *COMMON_OPTIONS, "-o", "network.net.xml",
            ],
            folder,
        )  # fmt: skip
    else:
        _write_generated_network(source, span_m, seed, folder)
    _drop_unknown_signals(folder / "network.net.xml")
    return folder / "network.net.xml"


def _drop_unknown_signals(network: Path) -> None:
    """Take signals without a program out of a network.

    Where netconvert discards the light of a junction, a pedestrian crossing may still name it; SUMO then refuses the
    whole network.
    """
    tree = ElementTree.parse(network)
    known = {logic.get("id") for logic in tree.getroot().iter("tlLogic")}
    for connection in tree.getroot().iter("connection"):
        if connection.get("tl") is not None and connection.get("tl") not in known:
            del connection.attrib["tl"], connection.attrib["linkIndex"]
    tree.write(network, encoding="utf-8")


def _write_generated_network(source: NetworkSource, span_m: float, seed: int, folder: Path) -> None:
    if source == "grid":
        count = max(3, round(span_m / 150.0) + 1)
        shape = [
            "--grid",
            "--grid.number",
            str(count),
            "--grid.length",
            "150",
            "--perturb-x",
            "14",
            "--perturb-y",
            "14",
        ]
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
    _curve_streets(folder, np.random.default_rng([seed, 77]))
    run_tool(
        "netconvert",
        [
            "-n", "plain.nod.xml", "-e", "curved.edg.xml",
            "--tls.guess", "--tls.guess.threshold", "50",
            "--sidewalks.guess", "--sidewalks.guess.max-speed", "25", "--crossings.guess",
            "--keep-edges.components", "1",
            *COMMON_OPTIONS, "-o", "network.net.xml",
        ],
        folder,
    )  # fmt: skip


def _curve_streets(folder: Path, rng: np.random.Generator) -> None:
    """Bend the straight streets of a generated network and vary their lanes and limits; both directions alike."""
    nodes = {
        node.get("id"): np.array([float(node.get("x", "0")), float(node.get("y", "0"))])
        for node in ElementTree.parse(folder / "plain.nod.xml").getroot().iter("node")
    }
    tree = ElementTree.parse(folder / "plain.edg.xml")
    streets: dict[tuple[str, str], tuple[np.ndarray, str, str]] = {}
    edges = sorted(tree.getroot().iter("edge"), key=lambda edge: edge.get("id", ""))
    for edge in edges:
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
