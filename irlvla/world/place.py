"""Where closed-loop driving happens: one network of a preset with its map, scenery and sensors."""

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sumolib

from irlvla.data.maps import CityMap, load_map
from irlvla.files import write_atomically
from irlvla.world.build import lay_out_city, lay_out_network, network_seed
from irlvla.world.city import City
from irlvla.world.human_driver import write_driven_network
from irlvla.world.map_file import MAP_VERSIONS, write_map, write_map_index
from irlvla.world.networks import NETWORK
from irlvla.world.obstacles import Obstacles
from irlvla.world.presets import NetworkSpec, WorldPreset
from irlvla.world.scenery import Scenery
from irlvla.world.sensors import SensorSuite
from irlvla.world.traffic import write_bus_stops, write_demand

_DRIVEN = "driven.net.xml"


@dataclass(frozen=True)
class Place:
    """One network, laid out for driving."""

    preset: WorldPreset
    spec: NetworkSpec
    network: Path
    """SUMO network file that the traffic drives on."""
    net: Any
    """The network as sumolib reads it."""
    city: City
    city_map: CityMap
    """The map as the scorer reads it, from the map file."""
    scenery: Scenery
    sensors: SensorSuite
    obstacles: Obstacles = field(default_factory=Obstacles)

    def write_demand(self, seed: int, seconds: float, folder: Path) -> tuple[Path, Path]:
        """Write trips that last for the warm-up and `seconds` more; returns the route file and that of bus stops."""
        write_demand(self.net, replace(self.preset, simulated_s=seconds), seed, folder, self.obstacles)
        return folder / "demand.rou.xml", write_bus_stops(self.obstacles, folder)


def held_out_networks(preset: WorldPreset) -> list[int]:
    """Numbers of the preset's networks that no training split comes from."""
    return [index for index, spec in enumerate(preset.networks) if spec.split in ("test", "hard")]


def open_place(preset: WorldPreset, index: int, seed: int, folder: Path) -> Place:
    """Lay out one network of a preset, the same that `build_world` lays out for this seed.

    Args:
        index: Number of the network in the preset.
        seed: Seed of the world.
        folder: Keeps network and map, in a folder of `folder`; what an earlier call left there is used.
    Raises:
        RunError: SUMO is not installed, or one of its tools fails.
    """
    spec = preset.networks[index]
    place_seed = network_seed(seed, index)
    root = folder.resolve() / f"{preset.name}-{seed}" / f"{index:02d}-{spec.location}"
    network = root / NETWORK
    if not network.is_file():
        write_atomically(root, lambda beside: _lay_out(spec, preset, place_seed, beside))
    city, scenery, obstacles = lay_out_city(network, preset, spec, place_seed)
    return Place(
        preset,
        spec,
        root / _DRIVEN,
        sumolib.net.readNet(str(network), withInternal=False),
        city,
        load_map(root, spec.location),
        scenery,
        SensorSuite(city, scenery, preset, threads=os.cpu_count() or 1),
        obstacles,
    )


def _lay_out(spec: NetworkSpec, preset: WorldPreset, seed: int, root: Path) -> None:
    workshop = root / "workshop"
    workshop.mkdir(parents=True)
    network = lay_out_network(preset, spec, seed, workshop)
    city, _, _ = lay_out_city(network, preset, spec, seed)
    write_map_index(root)
    write_map([city], root / "maps" / spec.location / MAP_VERSIONS[spec.location] / "map.gpkg")
    write_driven_network(network, root / _DRIVEN)
    network.rename(root / NETWORK)
    shutil.rmtree(workshop)
