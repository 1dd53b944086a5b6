"""Where closed-loop driving happens: one network of a preset with its map, scenery and sensors."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sumolib

from irlvla.data.maps import CityMap, load_map
from irlvla.files import write_atomically
from irlvla.world.build import network_seed
from irlvla.world.city import City, read_city
from irlvla.world.map_file import MAP_VERSIONS, SLOT_FIDS, slot_origin, write_map, write_map_index
from irlvla.world.networks import write_network
from irlvla.world.presets import NetworkSpec, WorldPreset
from irlvla.world.scenery import Scenery, lay_out_scenery
from irlvla.world.sensors import SensorSuite
from irlvla.world.traffic import write_demand

_NETWORK = "network.net.xml"


@dataclass(frozen=True)
class Place:
    """One network, laid out for driving."""

    preset: WorldPreset
    spec: NetworkSpec
    network: Path
    """SUMO network file."""
    net: Any
    """The same as sumolib reads it."""
    city: City
    city_map: CityMap
    """The map as the scorer reads it, from the map file."""
    scenery: Scenery
    sensors: SensorSuite

    def write_demand(self, seed: int, seconds: float, folder: Path) -> Path:
        """Write trips that last for the warm-up and `seconds` more; returns the route file."""
        write_demand(self.net, replace(self.preset, simulated_s=seconds), seed, folder)
        return folder / "demand.rou.xml"


def held_out_networks(preset: WorldPreset) -> list[int]:
    """Numbers of the preset's networks that no training split comes from."""
    return [index for index, spec in enumerate(preset.networks) if spec.split in ("test", "hard")]


def open_place(preset: WorldPreset, index: int, seed: int, folder: Path) -> Place:
    """Lay out one network of a preset, the same that `build_world` lays out for this seed.

    Road works and standing vehicles of a preset are left out: they are recorded traffic, and here traffic is live.

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
    if not (root / _NETWORK).is_file():
        write_atomically(root, lambda beside: _lay_out(spec, preset, place_seed, beside))
    city = _read(root / _NETWORK, spec)
    scenery = lay_out_scenery(city, place_seed)
    return Place(
        preset,
        spec,
        root / _NETWORK,
        sumolib.net.readNet(str(root / _NETWORK), withInternal=False),
        city,
        load_map(root, spec.location),
        scenery,
        SensorSuite(city, scenery, preset),
    )


def _read(network: Path, spec: NetworkSpec) -> City:
    return read_city(network, spec.location, slot_origin(spec.location, spec.slot), spec.slot * SLOT_FIDS)


def _lay_out(spec: NetworkSpec, preset: WorldPreset, seed: int, root: Path) -> None:
    workshop = root / "workshop"
    workshop.mkdir(parents=True)
    span_m = spec.span_m or preset.network_span_m
    network = write_network(spec.source, span_m, seed, workshop, file=spec.file, opposites=preset.has_obstacles)
    city = _read(network, spec)
    # Car parks come with the scenery, and belong on the map.
    lay_out_scenery(city, seed)
    write_map_index(root)
    write_map([city], root / "maps" / spec.location / MAP_VERSIONS[spec.location] / "map.gpkg")
    network.rename(root / _NETWORK)
    shutil.rmtree(workshop)
