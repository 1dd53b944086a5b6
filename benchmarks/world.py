"""What the embedded world costs: milliseconds an image and a sweep, and seconds a world.

Run: python benchmarks/world.py [PRESET]
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from irlvla.world.build import build_world
from irlvla.world.city import read_city
from irlvla.world.drives import TrafficIndex, choose_drives
from irlvla.world.lidar import sweep
from irlvla.world.logs import key_frames
from irlvla.world.map_file import ORIGINS
from irlvla.world.networks import write_network
from irlvla.world.presets import PRESETS
from irlvla.world.scenery import lay_out_scenery
from irlvla.world.sensors import SensorSuite, random_light
from irlvla.world.traffic import read_recording, simulate_traffic


def time_sensors() -> None:
    """Median cost of one image and one sweep in one process."""
    preset = PRESETS["quick"]
    spec = preset.networks[0]
    with tempfile.TemporaryDirectory() as folder:
        network = write_network(spec.source, preset.network_span_m, 3, Path(folder))
        simulate_traffic(network, preset, 3, Path(folder))
        city = read_city(network, spec.location, np.array(ORIGINS[spec.location]))
        scenery = lay_out_scenery(city, 3)
        traffic = read_recording(Path(folder), preset)
    suite = SensorSuite(city, scenery, preset)
    drive = choose_drives(city, scenery, traffic, 1, preset.frames_per_log, 3)[0]
    frames = key_frames(city, scenery, TrafficIndex(traffic, city.offset), drive, "benchmark", 0)
    rng = np.random.default_rng(0)
    light = random_light(rng)
    suite.render(frames[0], light)
    sweep(frames[0], scenery, rng)
    images, sweeps = [], []
    for frame in frames:
        start = time.process_time()
        suite.render(frame, light)
        middle = time.process_time()
        sweep(frame, scenery, rng)
        images.append((middle - start) / len(preset.cameras))
        sweeps.append(time.process_time() - middle)
    print(f"image {preset.image_width_px}x{preset.image_height_px}: {np.median(images) * 1e3:.1f} ms")
    print(f"sweep: {np.median(sweeps) * 1e3:.2f} ms")


def time_build(name: str) -> None:
    """Wall and CPU time of a whole world on two processes."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        build_world(PRESETS[name], Path(folder) / "world", seed=0, workers=2)
        wall_s = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"build {name}: {wall_s:.0f} s wall, {usage.ru_utime + usage.ru_stime:.0f} CPU-s in its processes")


if __name__ == "__main__":
    time_sensors()
    time_build(sys.argv[1] if len(sys.argv) > 1 else "quick")
