"""A crossroad of two streets, 200 m an arm, small enough to know where everybody is."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sumolib

from irlvla.data.maps import load_map
from irlvla.world.city import read_city
from irlvla.world.map_file import MAP_VERSIONS, ORIGINS, write_map, write_map_index
from irlvla.world.networks import COMMON_OPTIONS, run_tool
from irlvla.world.place import Place
from irlvla.world.presets import PRESETS, NetworkSpec
from irlvla.world.scenery import Scenery
from irlvla.world.sensors import SensorSuite

LOCATION = "sg-one-north"
ARMS = {"west": (-200, 0), "east": (200, 0), "south": (0, -200), "north": (0, 200)}
_DRIVER = (
    'vClass="passenger" carFollowModel="EIDM" laneChangeModel="SL2015" tau="1.4" accel="1.8" decel="2.2" '
    'emergencyDecel="6" minGap="2" sigma="0"'
)


@dataclass(frozen=True)
class Car:
    """Somebody who drives from one arm to another."""

    name: str
    depart_s: float
    start: str
    goal: str
    kind: str = "car0"
    depart_m: float = 5.0


def build_crossroad(root: Path, *, signal: bool = True) -> Place:
    """Lay out the crossroad; west and east have right of way where there is no signal."""
    root.mkdir(parents=True)
    junction = "traffic_light" if signal else "priority"
    nodes = "".join(f'<node id="{name}" x="{x}" y="{y}"/>' for name, (x, y) in ARMS.items())
    (root / "n.xml").write_text(f'<nodes>{nodes}<node id="middle" x="0" y="0" type="{junction}"/></nodes>')
    edges = "".join(
        f'<edge id="{arm}_in" from="{arm}" to="middle" numLanes="1" speed="13.89" priority="{p}"/>'
        f'<edge id="{arm}_out" from="middle" to="{arm}" numLanes="1" speed="13.89" priority="{p}"/>'
        for arm, p in (("west", 9), ("east", 9), ("south", 3), ("north", 3))
    )
    (root / "e.xml").write_text(f"<edges>{edges}</edges>")
    run_tool("netconvert", ["-n", "n.xml", "-e", "e.xml", *COMMON_OPTIONS, "-o", "network.net.xml"], root)
    network = root / "network.net.xml"
    city = read_city(network, LOCATION, np.array(ORIGINS[LOCATION]))
    write_map_index(root)
    write_map([city], root / "maps" / LOCATION / MAP_VERSIONS[LOCATION] / "map.gpkg")
    scenery = Scenery(np.zeros((0, 7)), np.zeros((0, 4)), ())
    preset = PRESETS["mini"]
    return Place(
        preset,
        NetworkSpec(LOCATION, "grid", "test"),
        network,
        sumolib.net.readNet(str(network), withInternal=False),
        city,
        load_map(root, LOCATION),
        scenery,
        SensorSuite(city, scenery, preset),
    )


def write_trips(file: Path, *cars: Car) -> Path:
    """A route file with these cars."""
    kinds = (
        f'<vType id="ego0" length="5.18" width="2.3" height="1.78" {_DRIVER}/>'
        f'<vType id="car0" length="4.5" width="1.8" height="1.5" {_DRIVER}/>'
    )
    trips = "".join(
        f'<trip id="{car.name}" type="{car.kind}" depart="{car.depart_s}" from="{car.start}_in" to="{car.goal}_out" '
        f'departPos="{car.depart_m}" departSpeed="8"/>'
        for car in sorted(cars, key=lambda car: car.depart_s)
    )
    file.write_text(f"<routes>{kinds}{trips}</routes>")
    return file
