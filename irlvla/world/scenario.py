"""A user's own SUMO scenario: its network, its calibrated demand, and the time in which it has traffic.

The scenario's vehicles drive as their owner described them; a share of its cars is given the ego vehicle's outline, so
that logs can be taken from the very traffic that was calibrated. Files that the configuration names and that are not
there are left out where the rest makes sense without them, and `Scenario.notes` says so.
"""

import gzip
import hashlib
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from irlvla.errors import DataError
from irlvla.files import write_text
from irlvla.world.presets import WorldPreset
from irlvla.world.traffic import EGO_TYPE_PREFIX, run_demand, vehicle_types

Array = NDArray[np.float64]

DEFAULT_TYPE = "DEFAULT_VEHTYPE"
EGO_SHARE = 0.3
"""Share of the scenario's cars that may become the ego vehicle."""
WARM_UP_S = 200.0
"""Vehicles enter a scenario at its edges, so its streets take longer to fill than the generated demand's."""

_DEMAND = ("vehicle", "trip", "flow", "person", "personFlow")
_PLACES = ("busStop", "trainStop", "containerStop", "chargingStation", "parkingArea")
_KEPT = ("route", "routeDistribution", "taz", "tlLogic", "WAUT", "wautJunction", "rerouter", *_PLACES)
_SET_HERE = {
    "step-length", "step-method.ballistic", "lateral-resolution", "collision.action", "ignore-route-errors",
    "begin", "end", "seed", "random", "extrapolate-departpos", "time-to-teleport",
}  # fmt: skip
# SUMO's vehicle class to the word by which the rest of the world knows a body, with its usual size.
_BODIES: dict[str, tuple[str, tuple[float, float, float]]] = {
    "bus": ("bus", (11.8, 2.5, 3.1)),
    "coach": ("bus", (12.5, 2.5, 3.4)),
    "tram": ("bus", (22.0, 2.4, 3.4)),
    "truck": ("truck", (8.5, 2.45, 3.3)),
    "trailer": ("truck", (15.5, 2.5, 3.6)),
    "delivery": ("van", (6.0, 2.05, 2.5)),
    "emergency": ("van", (6.0, 2.05, 2.5)),
    "bicycle": ("bicycle", (1.8, 0.65, 1.75)),
    "moped": ("bicycle", (2.1, 0.8, 1.75)),
    "motorcycle": ("bicycle", (2.2, 0.9, 1.75)),
}
_OFF_ROAD = {"rail", "rail_urban", "rail_electric", "rail_fast", "subway", "cable_car", "ship", "aircraft", "drone"}
_CAR = ("car", (4.5, 1.8, 1.55))
_WORDS = {"bus": "bus", "truck": "truck", "lkw": "truck", "bike": "bicycle", "bicycle": "bicycle", "cycl": "bicycle"}


@dataclass(frozen=True)
class Scenario:
    """What a SUMO configuration names."""

    file: Path
    network: Path
    routes: tuple[Path, ...]
    additional: tuple[Path, ...]
    options: tuple[str, ...]
    """Its own settings of processing and routing, as command-line options."""
    notes: tuple[str, ...]
    """What is named there and missing."""

    def digest(self) -> str:
        """Hash of the content of all its files."""
        total = hashlib.sha256()
        for path in (self.network, *self.routes, *self.additional):
            total.update(path.read_bytes())
        return total.hexdigest()


def read_scenario(file: Path) -> Scenario:
    """Read a SUMO configuration.

    Raises:
        DataError: It is damaged, or the network or a route file that it names is missing.
    """
    file = file.resolve()
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise DataError(f"{file}: is no SUMO configuration ({error})") from error
    settings = {item.tag: item.get("value", item.get("v", "")) for item in root.iter()}

    def named(*keys: str) -> list[Path]:
        value = next((settings[key] for key in keys if settings.get(key)), "")
        return [file.parent / name.strip() for name in value.split(",") if name.strip()]

    networks = named("net-file", "net", "n")
    if len(networks) != 1:
        raise DataError(f"{file}: names no net-file; give a SUMO configuration with a network and routes")
    routes = named("route-files", "r")
    for path in (*networks, *routes):
        if not path.is_file():
            raise DataError(f"{file}: names {path}, which is not there; put it there, or take it out of the file")
    additional = named("additional-files", "a")
    missing = [path.name for path in additional if not path.is_file()]
    options = []
    for section in ("processing", "routing"):
        for item in root.findall(f".//{section}/*"):
            if item.tag not in _SET_HERE:
                options += [f"--{item.tag}", item.get("value", item.get("v", "true"))]
    notes = [f"{name} is named in {file.name} but missing, and was left out" for name in missing]
    return Scenario(
        file, networks[0], tuple(routes), tuple(p for p in additional if p.is_file()), tuple(options), tuple(notes)
    )


def simulate_scenario(scenario: Scenario, network: Path, preset: WorldPreset, seed: int, folder: Path) -> list[str]:
    """Drive a scenario's own demand over its network; `irlvla.world.traffic.read_recording` reads what it wrote.

    Args:
        network: The scenario's network, laid out anew.
        seed: Decides which cars get the ego vehicle's outline, and SUMO's own dice.
        folder: Where the demand and SUMO's own output go.
    Returns:
        What had to be left out of the scenario, in words.
    Raises:
        DataError: It has no traffic, or SUMO cannot use it.
    """
    begin_s = _busiest_time_s(scenario, preset.simulated_s) - WARM_UP_S
    notes = _write_demand(scenario, begin_s, begin_s + WARM_UP_S + preset.simulated_s, seed, folder)
    places = (folder / "places.xml").read_text(encoding="utf-8")
    run_demand(
        network,
        preset,
        seed,
        folder,
        begin_s=max(0.0, begin_s),
        warm_up_s=WARM_UP_S + min(0.0, begin_s),
        additional=places,
        options=scenario.options,
    )
    return [*scenario.notes, *notes]


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _elements(path: Path) -> Iterator[ElementTree.Element]:
    """The top-level elements of one of SUMO's files, one at a time."""
    try:
        with _open(path) as stream:
            depth = 0
            root: ElementTree.Element | None = None
            for event, element in ElementTree.iterparse(stream, events=("start", "end")):
                if event == "start":
                    root = element if root is None else root
                    depth += 1
                    continue
                depth -= 1
                if depth == 1:
                    yield element
                    assert root is not None
                    root.clear()
    except (ElementTree.ParseError, OSError, EOFError) as error:
        raise DataError(f"{path}: is damaged or cut short ({error}); restore the scenario's file") from error


def _seconds(text: str | None, default: float) -> float:
    """SUMO's times: seconds, or h:m:s, or d:h:m:s; words such as `triggered` give the default."""
    if text is None:
        return default
    try:
        total = 0.0
        for part, factor in zip(reversed(text.split(":")), (1, 60, 3600, 86400), strict=False):
            total += float(part) * factor
    except ValueError:
        return default
    return total


def _busiest_time_s(scenario: Scenario, span_s: float) -> float:
    """Begin of the stretch of `span_s` before and in which most vehicles depart."""
    departures: Counter[int] = Counter()
    for path in (*scenario.routes, *scenario.additional):
        for element in _elements(path):
            if element.tag in ("vehicle", "trip"):
                departures[int(_seconds(element.get("depart"), 0.0))] += 1
            elif element.tag == "flow":
                for second in _flow_departures(element):
                    departures[second] += 1
    if not departures:
        raise DataError(
            f"{scenario.file}: its route files hold no vehicle, trip or flow; name route files with traffic in it"
        )
    last = max(departures)
    count = np.zeros(last + 2)
    for second, number in departures.items():
        count[max(0, second)] += number
    total = np.concatenate([[0.0], np.cumsum(count)])
    starts = np.arange(min(WARM_UP_S, last), max(last - span_s, 1.0) + 1.0, 5.0)
    if not len(starts):
        return WARM_UP_S
    until = np.clip(starts + span_s, 0, last + 1).astype(int)
    since = np.clip(starts - WARM_UP_S, 0, last + 1).astype(int)
    return float(starts[int(np.argmax(total[until] - total[since]))])


def _flow_departures(flow: ElementTree.Element) -> list[int]:
    begin = _seconds(flow.get("begin"), 0.0)
    end = _seconds(flow.get("end"), begin + 3600.0)
    number = flow.get("number")
    if number is not None:
        count = int(number)
    elif flow.get("vehsPerHour"):
        count = int(float(flow.get("vehsPerHour", "0")) * (end - begin) / 3600)
    elif flow.get("probability"):
        count = int(float(flow.get("probability", "0")) * (end - begin))
    else:
        try:
            count = int((end - begin) / max(0.1, float(flow.get("period", "60"))))
        except ValueError:
            count = int((end - begin) / 60)
    return [int(second) for second in np.linspace(begin, end, max(count, 1), endpoint=False)]


def _write_demand(scenario: Scenario, begin_s: float, end_s: float, seed: int, folder: Path) -> list[str]:
    """Write the scenario's traffic of a time window; a share of its cars drives as the ego vehicle would."""
    files = (*scenario.additional, *scenario.routes)
    defined, distributions, places, used = _survey(files)
    ours = vehicle_types(np.random.default_rng([seed, 53]))
    kind_of: dict[str, str] = {}
    lines = ["<routes>", *(kind.line() for kind in ours)]
    notes = []
    for name in sorted({*defined, *used} - set(distributions)):
        body = _body(name, defined.get(name))
        if body is None:
            continue
        if name in defined:
            lines.append(_type_line(name, body, defined[name]))
            own = [f"{body}.{name}"]
        else:
            own = [kind.name for kind in ours if kind.name.startswith(body)]
            if not name.startswith("DEFAULT_"):
                notes.append(f"vehicle type {name!r} is defined nowhere; it drives as a usual {body}")
        if body == "car":
            egos = [kind.name for kind in ours if kind.name.startswith(EGO_TYPE_PREFIX)]
            shares = [EGO_SHARE / len(egos)] * len(egos) + [(1 - EGO_SHARE) / len(own)] * len(own)
            kinds, own = [*egos, *own], [f"mix.{name}"]
            lines.append(_distribution_line(own[0], kinds, shares))
        kind_of[name] = own[0]
    for name, members in distributions.items():
        known = {member: share for member, share in members.items() if member in kind_of}
        if known:
            kind_of[name] = f"mix.{name}"
            lines += [_distribution_line(f"mix.{name}", [kind_of[member] for member in known], list(known.values()))]

    dropped: Counter[str] = Counter()
    elsewhere: list[str] = []
    rows: list[tuple[float, str]] = []
    for path in files:
        for element in _elements(path):
            if element.tag in _KEPT:
                _drop_unknown_stops(element, places, dropped)
                elsewhere.append(ElementTree.tostring(element, encoding="unicode"))
            if element.tag not in _DEMAND:
                continue
            depart = _seconds(element.get("depart", element.get("begin")), begin_s)
            if _seconds(element.get("end"), depart) < begin_s or depart > end_s:
                continue
            if element.tag in ("vehicle", "trip", "flow"):
                kind = kind_of.get(element.get("type", DEFAULT_TYPE))
                if kind is None:
                    continue
                element.set("type", kind)
            elif "type" in element.attrib:
                del element.attrib["type"]
            if _drop_unknown_stops(element, places, dropped):
                rows.append((depart, ElementTree.tostring(element, encoding="unicode")))
    lines += [row for _, row in sorted(rows, key=lambda row: row[0])]
    write_text(folder / "demand.rou.xml", "\n".join([*lines, "</routes>"]))
    write_text(folder / "places.xml", "\n".join(elsewhere))
    if dropped:
        some = ", ".join(sorted(dropped)[:3])
        notes.append(
            f"{dropped.total()} halts at {len(dropped)} places that are defined nowhere ({some}) were left out"
        )
    return notes


def _survey(
    files: Sequence[Path],
) -> tuple[dict[str, ElementTree.Element], dict[str, dict[str, float]], set[str], set[str]]:
    """Vehicle types by name, distributions with their members' shares, names of places, and types that are used."""
    defined: dict[str, ElementTree.Element] = {}
    distributions: dict[str, dict[str, float]] = {}
    places: set[str] = set()
    used: set[str] = set()
    for path in files:
        for element in _elements(path):
            name = element.get("id", "")
            if element.tag == "vType":
                defined[name] = element
            elif element.tag == "vTypeDistribution":
                inside = {kind.get("id", ""): kind for kind in element.iter("vType")}
                defined |= inside
                members = {kind: float(inside[kind].get("probability", "1")) for kind in inside}
                listed = element.get("vTypes", "").split()
                shares = [float(share) for share in element.get("probabilities", "").split()] or [1.0] * len(listed)
                distributions[name] = members | dict(zip(listed, shares, strict=False))
            elif element.tag in _PLACES:
                places.add(name)
            elif element.tag in ("vehicle", "trip", "flow"):
                used.add(element.get("type", DEFAULT_TYPE))
    return defined, distributions, places, used | {member for group in distributions.values() for member in group}


def _body(name: str, kind: ElementTree.Element | None) -> str | None:
    """`car`, `bus`, …: how a vehicle type looks; None for what does not drive on roads."""
    if kind is None:
        return next((body for word, body in _WORDS.items() if word in name.lower()), "car")
    vehicle_class = kind.get("vClass", "passenger")
    if vehicle_class in _OFF_ROAD:
        return None
    return _BODIES.get(vehicle_class, _CAR)[0]


def _type_line(name: str, body: str, kind: ElementTree.Element) -> str:
    attributes = {key: value for key, value in kind.attrib.items() if key not in ("id", "probability")}
    _, (length, width, height) = _BODIES.get(kind.get("vClass", "passenger"), _CAR)
    size = {"length": str(length), "width": str(width), "height": str(height)}
    settings = " ".join(f"{key}={quoteattr(value)}" for key, value in {**size, **attributes}.items())
    return f"<vType id={quoteattr(f'{body}.{name}')} {settings}/>"


def _distribution_line(name: str, kinds: list[str], shares: list[float]) -> str:
    return (
        f"<vTypeDistribution id={quoteattr(name)} vTypes={quoteattr(' '.join(kinds))} "
        f'probabilities="{" ".join(f"{share:.5f}" for share in shares)}"/>'
    )


def _drop_unknown_stops(element: ElementTree.Element, places: set[str], dropped: Counter[str]) -> bool:
    """Take out halts at places that are defined nowhere; False for a person who depends on one."""
    for stop in [child for child in element.iter() if child is not element]:
        unknown = [stop.get(kind, "") for kind in _PLACES if stop.get(kind) and stop.get(kind) not in places]
        dropped.update(unknown)
        if not unknown:
            continue
        if element.tag in ("person", "personFlow"):
            return False
        for parent in element.iter():
            if stop in list(parent):
                parent.remove(stop)
    return True
