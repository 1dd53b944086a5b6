"""Traffic from SUMO: demand, the simulation run, and smooth tracks of everything that moved."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pyarrow.compute
import pyarrow.csv
import sumolib
from numpy.typing import NDArray

from irlvla.geometry import EGO_LENGTH_M, EGO_WIDTH_M
from irlvla.world.motion import Track, pedestrian_track, vehicle_track
from irlvla.world.networks import run_tool
from irlvla.world.presets import WorldPreset

Array = NDArray[np.float64]

STEP_S = 0.1
EGO_TYPE_PREFIX = "ego"
"""Vehicle types with the ego vehicle's outline; any of them may become the ego of a log."""

DRIVING_OPTIONS = (
    "--step-length", str(STEP_S), "--step-method.ballistic", "--lateral-resolution", "0.8", "--ignore-route-errors",
    "--collision.action", "none", "--time-to-teleport", "90", "--extrapolate-departpos",
    "--no-step-log", "--no-warnings", "--xml-validation", "never",
)  # fmt: skip
"""How SUMO drives, whether a run is recorded or somebody takes part in it."""


@dataclass(frozen=True)
class RecordedTraffic:
    """Everything one simulation run recorded, in network coordinates."""

    tracks: tuple[Track, ...]
    """Sorted by id."""
    routes: dict[str, tuple[str, ...]]
    """Vehicle id to the SUMO edges of its whole route."""
    signals: dict[str, tuple[str, ...]]
    """Traffic light id to its state string at every recorded step."""
    steps: int
    """Recorded steps, STEP_S apart; step 0 follows the warm-up."""


@dataclass(frozen=True)
class _VehicleType:
    name: str
    share: float
    attributes: dict[str, str]


def _vehicle_types(rng: np.random.Generator) -> list[_VehicleType]:
    """Drivers and bodies: each type is one temperament, so that no two cars behave alike."""
    types = []

    def add(name: str, share: float, vclass: str, size: tuple[float, float, float], **driver: float) -> None:
        length, width, height = size
        attributes = {
            "vClass": vclass,
            "length": f"{length:.2f}",
            "width": f"{width:.2f}",
            "height": f"{height:.2f}",
            "carFollowModel": "EIDM",
            "minGap": f"{rng.uniform(1.6, 2.8):.2f}",
            "laneChangeModel": "SL2015",
            "lcSpeedGain": "0.3",
            "lcKeepRight": "0.1",
            "jmStoplineGap": "2.0",
            "latAlignment": "center",
            "maxSpeedLat": "0.8",
            "jmTimegapMinor": f"{rng.uniform(1.0, 2.0):.2f}",
            "speedFactor": f"normc({driver['speed']:.2f},0.06,0.6,1.15)",
            "tau": f"{driver['tau']:.2f}",
            "accel": f"{driver['accel']:.2f}",
            "decel": f"{driver['decel']:.2f}",
            "emergencyDecel": "6.0",
            "sigma": "0.3",
        }
        types.append(_VehicleType(name, share, attributes))

    for k in range(10):
        add(
            f"{EGO_TYPE_PREFIX}{k}", 0.045, "passenger", (EGO_LENGTH_M, EGO_WIDTH_M, 1.78),
            speed=rng.uniform(0.88, 1.08), tau=rng.uniform(1.1, 1.8),
            accel=rng.uniform(1.4, 2.0), decel=rng.uniform(1.7, 2.5),
        )  # fmt: skip
    for k in range(10):
        add(
            f"car{k}", 0.035, "passenger",
            (rng.uniform(3.8, 4.9), rng.uniform(1.7, 1.95), rng.uniform(1.4, 1.75)),
            speed=rng.uniform(0.8, 1.05), tau=rng.uniform(1.0, 1.8),
            accel=rng.uniform(1.2, 2.4), decel=rng.uniform(1.8, 3.0),
        )  # fmt: skip
    for k in range(3):
        add(
            f"van{k}", 0.02, "delivery", (rng.uniform(5.4, 6.6), 2.05, rng.uniform(2.3, 2.7)),
            speed=rng.uniform(0.8, 0.95), tau=1.5, accel=1.3, decel=2.2,
        )  # fmt: skip
    for k in range(2):
        add(
            f"truck{k}", 0.012, "truck", (rng.uniform(7.5, 9.5), 2.45, rng.uniform(3.0, 3.6)),
            speed=0.85, tau=1.7, accel=0.9, decel=2.0,
        )  # fmt: skip
    add("bus0", 0.015, "bus", (11.8, 2.5, 3.1), speed=0.85, tau=1.7, accel=0.9, decel=2.0)
    for k in range(3):
        add(
            f"bicycle{k}", 0.035, "bicycle", (1.8, 0.65, 1.75),
            speed=1.0, tau=1.2, accel=rng.uniform(0.8, 1.2), decel=2.0,
        )  # fmt: skip
        types[-1].attributes.update(
            maxSpeed=f"{rng.uniform(3.6, 5.6):.2f}", latAlignment="right", carFollowModel="IDM", minGap="1.0"
        )
    return types


def write_demand(net: sumolib.net.Net, preset: WorldPreset, seed: int, folder: Path) -> None:
    """Write trips of vehicles, bicycles and pedestrians over a network into `folder`/demand.rou.xml."""
    rng = np.random.default_rng([seed, 11])
    types = _vehicle_types(rng)
    end_s = preset.warm_up_s + preset.simulated_s
    edges = sorted(net.getEdges(False), key=lambda edge: edge.getID())
    drivable = [edge for edge in edges if edge.allows("passenger") and edge.getSpeed() > 4.0 and edge.getLength() > 15]
    walkable = [edge for edge in edges if edge.allows("pedestrian") and edge.getLength() > 15]
    lane_km = sum(
        edge.getLength() * sum(lane.allows("passenger") for lane in edge.getLanes()) for edge in drivable
    ) / 1000  # fmt: skip
    centers = np.array([np.mean(edge.getShape(), axis=0)[:2] for edge in drivable])
    weight = np.array([edge.getLength() * edge.getSpeed() * edge.getLaneNumber() for edge in drivable])
    weight /= weight.sum()

    def trip() -> tuple[str, str]:
        origin = rng.choice(len(drivable), p=weight)
        far = np.hypot(*(centers - centers[origin]).T)
        goals = weight * np.clip(far - 150.0, 0.0, 400.0)
        if goals.sum() <= 0:
            goals = weight * (far > 1.0)
        return drivable[origin].getID(), drivable[rng.choice(len(drivable), p=goals / goals.sum())].getID()

    aim = max(12, round(lane_km * preset.traffic_density))
    mean_trip_s = 110.0
    departures = np.sort(
        np.concatenate([rng.uniform(0, 20, aim), rng.uniform(20, end_s, round(aim * (end_s - 20) / mean_trip_s))])
    )
    shares = np.array([kind.share for kind in types])
    rows: list[tuple[float, str]] = []
    for number, depart in enumerate(departures):
        kind = types[rng.choice(len(types), p=shares / shares.sum())]
        start, goal = trip()
        rows.append(
            (
                depart,
                f'<trip id="v{number:04d}.{kind.name}" type="{kind.name}" depart="{depart:.1f}" '
                f'from={quoteattr(start)} to={quoteattr(goal)} departLane="best" '
                f'departPos="{"random_free" if depart < 20 else "base"}" '
                'departSpeed="max"/>',
            )
        )
    if walkable:
        walk_km = sum(edge.getLength() for edge in walkable) / 1000
        for number, depart in enumerate(np.sort(rng.uniform(0, end_s, round(walk_km * (3 + end_s / 25))))):
            origin = walkable[rng.integers(len(walkable))]
            goal = origin
            for _ in range(2 if rng.uniform() < 0.6 else 1):
                ends = goal.getToNode(), goal.getFromNode()
                near = [e for node in ends for e in node.getOutgoing() + node.getIncoming() if e in walkable]
                goal = near[rng.integers(len(near))] if near else goal
            rows.append(
                (
                    depart,
                    f'<person id="p{number:04d}" depart="{depart:.1f}" departPos="random"><walk '
                    f"from={quoteattr(origin.getID())} to={quoteattr(goal.getID())} "
                    f'arrivalPos="{rng.uniform(2, max(3.0, goal.getLength() - 2)):.1f}" '
                    f'speed="{rng.uniform(0.9, 1.7):.2f}"/></person>',
                )
            )
    lines = ["<routes>"]
    lines += [
        f'<vType id="{kind.name}" ' + " ".join(f'{key}="{value}"' for key, value in kind.attributes.items()) + "/>"
        for kind in types
    ]
    lines += [row for _, row in sorted(rows)]
    (folder / "demand.rou.xml").write_text("\n".join([*lines, "</routes>"]))


def simulate_traffic(network: Path, preset: WorldPreset, seed: int, folder: Path) -> None:
    """Drive the demand over a network with SUMO; `read_recording` reads what it wrote.

    Args:
        network: SUMO network file.
        folder: Where the demand and SUMO's own output go.
    """
    net = sumolib.net.readNet(str(network), withInternal=False)
    write_demand(net, preset, seed, folder)
    (folder / "signals.add.xml").write_text(
        "<additional>"
        + "".join(
            f'<timedEvent type="SaveTLSStates" source={quoteattr(light.getID())} dest="signals.xml"/>'
            for light in net.getTrafficLights()
        )
        + "</additional>"
    )
    run_tool(
        "sumo",
        [
            "-n", str(network), "-r", "demand.rou.xml", "-a", "signals.add.xml", "--seed", str(seed % 2**31),
            "--begin", "0", "--end", f"{preset.warm_up_s + preset.simulated_s:.1f}", *DRIVING_OPTIONS,
            "--fcd-output", "vehicles.csv", "--person-fcd-output", "persons.csv",
            "--fcd-output.attributes", "id,x,y,angle,speed,type,lane",
            "--output.column-separator", ";", "--precision", "4", "--device.fcd.begin", f"{preset.warm_up_s:.1f}",
            "--vehroute-output", "routes.xml", "--vehroute-output.last-route", "--vehroute-output.write-unfinished",
        ],
        folder,
    )  # fmt: skip


def read_recording(folder: Path, preset: WorldPreset) -> RecordedTraffic:
    """Smooth tracks, routes and signals from SUMO's output in `folder`."""
    steps = round(preset.simulated_s / STEP_S)
    sizes = {
        kind.get("id", ""): tuple(float(kind.get(key, "0")) for key in ("length", "width", "height"))
        for kind in ElementTree.parse(folder / "demand.rou.xml").getroot().iter("vType")
    }
    tracks = []
    rows = _read_tracks(folder / "vehicles.csv", "vehicle") + _read_tracks(folder / "persons.csv", "person")
    for name, kind, times, xy, speed, lanes in rows:
        first = np.rint((times - preset.warm_up_s) / STEP_S).astype(int)
        keep = first >= 0
        if keep.sum() < 5:
            continue
        first, xy, speed, lanes = first[keep], xy[keep], speed[keep], lanes[keep]
        # A teleport leaves no gap in time: cut where the displacement exceeds what the speed allows.
        jump = np.hypot(*np.diff(xy, axis=0).T) > np.maximum(speed[1:], speed[:-1]) * STEP_S + 1.5
        breaks = np.flatnonzero(jump | (np.diff(first) != 1)) + 1
        pieces = np.split(np.arange(len(first)), breaks)
        longest = max(pieces, key=len)
        if len(longest) < 15:
            continue
        if kind in sizes:
            track = vehicle_track(name, kind, int(first[longest[0]]), xy[longest], lanes[longest], sizes[kind])
        else:
            track = pedestrian_track(name, int(first[longest[0]]), xy[longest], lanes[longest])
        tracks.append(track)
    routes = {
        vehicle.get("id", ""): tuple(route.get("edges", "").split())
        for vehicle in ElementTree.parse(folder / "routes.xml").getroot().iter("vehicle")
        for route in vehicle.iter("route")
    }
    return RecordedTraffic(
        tuple(sorted(tracks, key=lambda track: track.name)),
        routes,
        _read_signals(folder / "signals.xml", preset, steps),
        steps,
    )


def _read_tracks(csv: Path, prefix: str) -> list[tuple[str, str, Array, Array, Array, NDArray[np.object_]]]:
    """(id, type, times, positions, speeds, lanes) of every road user in one of SUMO's position files."""
    if csv.stat().st_size == 0:
        return []
    table = pyarrow.csv.read_csv(csv, parse_options=pyarrow.csv.ParseOptions(delimiter=";"))
    name = f"{prefix}_id"
    if name not in table.column_names:
        return []
    table = table.filter(pyarrow.compute.is_valid(table[name]))
    time = table["timestep_time"].to_numpy()
    ids = table[name].to_numpy(zero_copy_only=False).astype(str)
    xy = np.stack([table[f"{prefix}_x"].to_numpy(), table[f"{prefix}_y"].to_numpy()], axis=1)
    speed = table[f"{prefix}_speed"].to_numpy()
    kinds = table[f"{prefix}_type"].to_numpy(zero_copy_only=False)
    place = f"{prefix}_lane" if f"{prefix}_lane" in table.column_names else f"{prefix}_edge"
    lanes = (
        table[place].to_numpy(zero_copy_only=False)
        if place in table.column_names
        else np.full(len(ids), "", dtype=object)
    )
    order = np.lexsort((time, ids))
    starts = np.flatnonzero(np.r_[True, ids[order][1:] != ids[order][:-1]])
    return [
        (str(ids[rows[0]]), str(kinds[rows[0]]), time[rows], xy[rows], speed[rows], lanes[rows])
        for rows in np.split(order, starts[1:])
        if len(rows)
    ]


def _read_signals(file: Path, preset: WorldPreset, steps: int) -> dict[str, tuple[str, ...]]:
    states: dict[str, list[str]] = {}
    if file.exists():
        for _, element in ElementTree.iterparse(file):
            if element.tag == "tlsState":
                step = round((float(element.get("time", "0")) - preset.warm_up_s) / STEP_S)
                if 0 <= step < steps:
                    states.setdefault(element.get("id", ""), []).append(element.get("state", ""))
            element.clear()
    return {name: tuple(column) for name, column in states.items()}
