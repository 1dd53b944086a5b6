"""Traffic from SUMO: demand, the simulation run, and smooth tracks of everything that moved."""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pyarrow.compute
import pyarrow.csv
import sumolib
from numpy.typing import NDArray

from irlvla.errors import DataError, RunError
from irlvla.files import write_text
from irlvla.world.human_driver import human_track, human_vehicle_types, is_sidestep, write_driven_network
from irlvla.world.motion import Track, pedestrian_track, standing_track, vehicle_track
from irlvla.world.networks import run_tool
from irlvla.world.obstacles import BUS_STOP_LENGTH_M, STANDING_PREFIX, Obstacles
from irlvla.world.presets import WorldPreset

Array = NDArray[np.float64]

STEP_S = 0.1
EGO_TYPE_PREFIX = "ego"
"""Vehicle types with the ego vehicle's outline; any of them may become the ego of a log."""
WORKS_TYPE_PREFIX = "works"
"""Types that hold a closed part of a lane free of traffic; the scenery shows cones there, not a vehicle."""

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
class VehicleType:
    """One of SUMO's vehicle types."""

    name: str
    share: float
    """Of all traffic, relative to the others."""
    attributes: dict[str, str]

    def line(self) -> str:
        """Its XML element."""
        return (
            f'<vType id="{self.name}" ' + " ".join(f'{key}="{value}"' for key, value in self.attributes.items()) + "/>"
        )


def vehicle_types(rng: np.random.Generator) -> list[VehicleType]:
    """Drivers and bodies: each type is one temperament, so that no two cars behave alike."""
    return [VehicleType(*kind) for kind in human_vehicle_types(rng, EGO_TYPE_PREFIX)]


def write_demand(
    net: sumolib.net.Net, preset: WorldPreset, seed: int, folder: Path, obstacles: Obstacles | None = None
) -> None:
    """Write trips of vehicles, bicycles and pedestrians over a network into `folder`/demand.rou.xml.

    Args:
        obstacles: What they have to pass or serve.
    """
    rng = np.random.default_rng([seed, 11])
    types = vehicle_types(rng)
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

    reachable = _reachable(drivable)
    origins = weight * (reachable & ~np.eye(len(drivable), dtype=bool)).any(axis=1)
    if not origins.any():
        raise DataError(
            f"no drive is possible in the network of {folder}: no street leads into another one that is long enough; "
            "take a larger area, or one with junctions"
        )
    origins /= origins.sum()

    def trip() -> tuple[str, str]:
        origin = rng.choice(len(drivable), p=origins)
        far = np.hypot(*(centers - centers[origin]).T) * reachable[origin]
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
    in_the_way = _obstacle_rows(obstacles, types, rng, end_s, trip) if obstacles is not None else []
    rows += [row for row in in_the_way if not row[1].startswith("<vType")]
    lines = ["<routes>"]
    lines += [row for _, row in in_the_way if row.startswith("<vType")]
    lines += [kind.line() for kind in types]
    lines += [row for _, row in sorted(rows)]
    (folder / "demand.rou.xml").write_text("\n".join([*lines, "</routes>"]))


def _reachable(edges: list[sumolib.net.edge.Edge]) -> NDArray[np.bool_]:
    """[N, N] whether a car can drive from one edge to another."""
    number = {edge.getID(): k for k, edge in enumerate(edges)}
    reach = np.zeros((len(edges), len(edges)), dtype=bool)
    for k, edge in enumerate(edges):
        seen, waiting = {edge.getID()}, [edge]
        while waiting:
            for following in waiting.pop().getAllowedOutgoing("passenger"):
                if following.getID() not in seen:
                    seen.add(following.getID())
                    waiting.append(following)
        reach[k, [number[name] for name in seen if name in number]] = True
    return reach


def _obstacle_rows(
    obstacles: Obstacles,
    types: list[VehicleType],
    rng: np.random.Generator,
    end_s: float,
    trip: Callable[[], tuple[str, str]],
) -> list[tuple[float, str]]:
    """(departure, XML) of stand-ins for road works, standing vehicles and buses that serve stops."""
    rows: list[tuple[float, str]] = []

    def stand(name: str, kind: str, lane: str, end_m: float, side: str) -> None:
        edge = quoteattr(lane.rsplit("_", 1)[0])
        rows.append(
            (
                0.0,
                f'<vehicle id={quoteattr(name)} type="{kind}" depart="0.0" departLane="{lane.rsplit("_", 1)[1]}" '
                f'departPos="{end_m:.2f}" departSpeed="0" departPosLat="{side}"><route edges={edge}/>'
                f'<stop lane={quoteattr(lane)} endPos="{end_m:.2f}" duration="{end_s + 1000:.0f}"/></vehicle>',
            )
        )

    for number, works in enumerate(obstacles.road_works):
        kind = f"{WORKS_TYPE_PREFIX}{number}"
        rows.append(
            (
                0.0,
                f'<vType id="{kind}" vClass="passenger" length="{works.length_m:.2f}" width="{works.width_m:.2f}" '
                'height="1.0" latAlignment="right" minGap="0.5"/>',
            )
        )
        stand(f"{kind}.stand-in", kind, works.sumo_lane, works.end_m, "right")
    for number, item in enumerate(obstacles.standing):
        bodies = [kind.name for kind in types if kind.name.startswith(item.body)]
        stand(f"{STANDING_PREFIX}{number:02d}", str(rng.choice(bodies)), item.sumo_lane, item.end_m, "center")
    stops = obstacles.bus_stops
    for number in range(round(len(stops) * end_s / 60.0)):
        depart = float(rng.uniform(0, end_s))
        _, goal = trip()
        served = [stops[k] for k in rng.permutation(len(stops))[: int(rng.integers(1, 4))]]
        first_edge = served[0].sumo_lane.rsplit("_", 1)[0]
        halts = "".join(f'<stop busStop="{stop.name}" duration="{rng.uniform(6, 16):.0f}"/>' for stop in served)
        rows.append(
            (
                depart,
                f'<trip id="line{number:03d}.bus0" type="bus0" depart="{depart:.1f}" from={quoteattr(first_edge)} '
                f'to={quoteattr(goal)} departLane="best" departSpeed="max">{halts}</trip>',
            )
        )
    return rows


RECORDING = "recording.json"


def simulate_traffic(
    network: Path, preset: WorldPreset, seed: int, folder: Path, obstacles: Obstacles | None = None
) -> None:
    """Drive the preset's demand over a network with SUMO; `read_recording` reads what it wrote.

    Args:
        network: SUMO network file.
        folder: Where the demand and SUMO's own output go.
        obstacles: What the drivers have to pass or serve.
    Raises:
        RunError: SUMO failed, was killed, or what it wrote is not complete.
    """
    net = sumolib.net.readNet(str(network), withInternal=False)
    write_demand(net, preset, seed, folder, obstacles)
    run_demand(network, preset, seed, folder, additional=_bus_stops(obstacles or Obstacles()))


def write_bus_stops(obstacles: Obstacles, folder: Path) -> Path:
    """Write SUMO's file of the bus stops that a demand serves."""
    file = folder / "bus_stops.add.xml"
    file.write_text(f"<additional>{_bus_stops(obstacles)}</additional>")
    return file


def _bus_stops(obstacles: Obstacles) -> str:
    return "".join(
        f'<busStop id="{stop.name}" lane={quoteattr(stop.sumo_lane)} startPos="{stop.end_m - BUS_STOP_LENGTH_M:.2f}" '
        f'endPos="{stop.end_m:.2f}"/>'
        for stop in obstacles.bus_stops
    )


def run_demand(
    network: Path,
    preset: WorldPreset,
    seed: int,
    folder: Path,
    *,
    begin_s: float = 0.0,
    warm_up_s: float | None = None,
    additional: str = "",
    options: Sequence[str] = (),
) -> None:
    """Drive `folder`/demand.rou.xml over a network with SUMO and record it.

    Args:
        begin_s: Time of the demand at which the simulation begins.
        warm_up_s: How long nothing is recorded, instead of the preset's.
        additional: SUMO's XML elements that the demand needs.
        options: More of SUMO's options.
    Raises:
        RunError: SUMO failed, was killed, or what it wrote is not complete.
    """
    net = sumolib.net.readNet(str(network), withInternal=False)
    record_from_s = begin_s + (preset.warm_up_s if warm_up_s is None else warm_up_s)
    end_s = record_from_s + preset.simulated_s
    write_text(
        folder / "signals.add.xml",
        "<additional>"
        + additional
        + "".join(
            f'<timedEvent type="SaveTLSStates" source={quoteattr(light.getID())} dest="signals.xml"/>'
            for light in net.getTrafficLights()
        )
        + "</additional>",
    )
    driven = folder / "driven.net.xml"
    write_driven_network(network, driven)
    run_tool(
        "sumo",
        [
            "-n", str(driven), "-r", "demand.rou.xml", "-a", "signals.add.xml", "--seed", str(seed % 2**31),
            "--begin", f"{begin_s:.1f}", "--end", f"{end_s:.1f}", *DRIVING_OPTIONS,
            "--fcd-output", "vehicles.csv", "--person-fcd-output", "persons.csv",
            "--fcd-output.attributes", "id,x,y,angle,speed,type,lane",
            "--output.column-separator", ";", "--precision", "4", "--device.fcd.begin", f"{record_from_s:.1f}",
            "--vehroute-output", "routes.xml", "--vehroute-output.last-route", "--vehroute-output.write-unfinished",
            *options,
        ],
        folder,
    )  # fmt: skip
    _check_complete(folder, bool(net.getTrafficLights()))
    write_text(folder / RECORDING, json.dumps({"record_from_s": record_from_s}))


def _check_complete(folder: Path, has_signals: bool) -> None:
    """SUMO says nothing when the disk is full: its files just end early.

    Raises:
        RunError: One of them does.
    """
    ends = {"routes.xml": b"</routes>"} | ({"signals.xml": b"</tlsStates>"} if has_signals else {})
    for name, end in ends.items():
        file = folder / name
        tail = b""
        if file.is_file():
            with file.open("rb") as stream:
                stream.seek(max(0, file.stat().st_size - 100))
                tail = stream.read()
        if not tail.rstrip().endswith(end):
            raise RunError(
                f"SUMO's output {file} is cut short; most likely the disk is full: free some space and give the same "
                "command again; what is finished is kept"
            )
    csv = folder / "vehicles.csv"
    with csv.open("rb") as stream:
        stream.seek(max(0, csv.stat().st_size - 1))
        if csv.stat().st_size and stream.read() != b"\n":
            raise RunError(f"SUMO's output {csv} is cut short; free some space and give the same command again")


def read_recording(folder: Path, preset: WorldPreset) -> RecordedTraffic:
    """Smooth tracks, routes and signals from SUMO's output in `folder`."""
    steps = round(preset.simulated_s / STEP_S)
    record_from_s = float(json.loads((folder / RECORDING).read_text())["record_from_s"])
    sizes = {
        kind.get("id", ""): tuple(float(kind.get(key, "0")) for key in ("length", "width", "height"))
        for kind in ElementTree.parse(folder / "demand.rou.xml").getroot().iter("vType")
    }
    tracks = []
    rows = _read_tracks(folder / "vehicles.csv", "vehicle") + _read_tracks(folder / "persons.csv", "person")
    for name, kind, times, xy, angle, speed, lanes in rows:
        if kind.startswith(WORKS_TYPE_PREFIX):
            continue
        first = np.rint((times - record_from_s) / STEP_S).astype(int)
        keep = first >= 0
        if keep.sum() < 5:
            continue
        first, xy, angle, speed, lanes = first[keep], xy[keep], angle[keep], speed[keep], lanes[keep]
        # A teleport leaves no gap in time: cut where the displacement exceeds what the speed allows.
        jump = np.hypot(*np.diff(xy, axis=0).T) > np.maximum(speed[1:], speed[:-1]) * STEP_S + 1.5
        if kind in sizes:
            jump |= is_sidestep(xy, speed)
        breaks = np.flatnonzero(jump | (np.diff(first) != 1)) + 1
        pieces = np.split(np.arange(len(first)), breaks)
        longest = max(pieces, key=len)
        if len(longest) < 15:
            continue
        if kind in sizes and np.ptp(xy[longest], axis=0).max() < 0.02:
            heading = np.pi / 2 - np.radians(angle[longest[0]])
            track = standing_track(
                name, kind, int(first[longest[0]]), xy[longest[0]], heading, lanes[longest], sizes[kind]
            )
        elif kind in sizes:
            drive = vehicle_track if kind.startswith("bicycle") else human_track
            track = drive(name, kind, int(first[longest[0]]), xy[longest], lanes[longest], sizes[kind])
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
        _read_signals(folder / "signals.xml", record_from_s, steps),
        steps,
    )


def _read_tracks(csv: Path, prefix: str) -> list[tuple[str, str, Array, Array, Array, Array, NDArray[np.object_]]]:
    """(id, type, times, positions, compass angles, speeds, lanes) of all road users in one of SUMO's position files."""
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
    angle = table[f"{prefix}_angle"].to_numpy()
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
        (str(ids[rows[0]]), str(kinds[rows[0]]), time[rows], xy[rows], angle[rows], speed[rows], lanes[rows])
        for rows in np.split(order, starts[1:])
        if len(rows)
    ]


def _read_signals(file: Path, record_from_s: float, steps: int) -> dict[str, tuple[str, ...]]:
    states: dict[str, list[str]] = {}
    if file.exists():
        for _, element in ElementTree.iterparse(file):
            if element.tag == "tlsState":
                step = round((float(element.get("time", "0")) - record_from_s) / STEP_S)
                if 0 <= step < steps:
                    states.setdefault(element.get("id", ""), []).append(element.get("state", ""))
            element.clear()
    return {name: tuple(column) for name, column in states.items()}
