"""What the embedded world costs: CPU time an image, a sweep and a keyframe, keyframes a second, and seconds a world.

Run: python benchmarks/world.py [PRESET]
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from irlvla.data.sensors import write_point_cloud
from irlvla.types import CAMERA_NAMES
from irlvla.world.build import build_world
from irlvla.world.city import City, read_city
from irlvla.world.drives import TrafficIndex, choose_drives
from irlvla.world.logs import KeyFrame, key_frames
from irlvla.world.map_file import ORIGINS
from irlvla.world.networks import write_network
from irlvla.world.presets import FRONT_CAMERAS, PRESETS, WorldPreset
from irlvla.world.scenery import Scenery, lay_out_scenery
from irlvla.world.sensors import SensorSuite
from irlvla.world.traffic import read_recording, simulate_traffic

LOGS = 6
"""Each has another weather."""
PROCESSES = 2

LOOKS = PRESETS["looks"]
SETS = {
    "three cameras, 256x144": replace(LOOKS, cameras=FRONT_CAMERAS, image_width_px=256, image_height_px=144),
    "eight cameras, 480x270": replace(LOOKS, cameras=CAMERA_NAMES, image_width_px=480, image_height_px=270),
}


@cache
def town() -> tuple[City, Scenery, list[list[KeyFrame]]]:
    """A part of Berlin with busy streets, and drives through it."""
    with tempfile.TemporaryDirectory() as folder:
        network = write_network("berlin", LOOKS.network_span_m, 3, Path(folder))
        preset = replace(LOOKS, simulated_s=60.0)
        simulate_traffic(network, preset, 3, Path(folder))
        location = LOOKS.networks[0].location
        city = read_city(network, location, np.array(ORIGINS[location]))
        scenery = lay_out_scenery(city, 3)
        traffic = read_recording(Path(folder), preset)
    drives = choose_drives(city, scenery, traffic, LOGS, preset.frames_per_log, 3)
    index = TrafficIndex(traffic, city.offset)
    return city, scenery, [key_frames(city, scenery, index, drive, f"log-{k}", 0) for k, drive in enumerate(drives)]


def time_sensors(name: str) -> float:
    """Print the CPU time of the parts of a keyframe in one process; returns the whole, in seconds."""
    preset = SETS[name]
    city, scenery, logs = town()
    suite = SensorSuite(city, scenery, preset)
    warm = suite.random_look(np.random.default_rng(0), "log-0")
    suite.render(logs[0][0], warm)
    suite.sweep(logs[0][0], warm, np.random.default_rng(0))
    images, sweeps, points = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        for number, frames in enumerate(logs):
            rng = np.random.default_rng(number)
            start = time.process_time()
            look = suite.random_look(rng, f"log-{number}")
            for frame in frames:
                for image in suite.render(frame, look):
                    simplejpeg.encode_jpeg(image, quality=85, colorspace="RGB")
            middle = time.process_time()
            for frame in frames:
                cloud = suite.sweep(frame, look, rng)
                write_point_cloud(Path(folder) / "sweep.pcd", cloud)
                points += len(cloud)
            images.append((middle - start) / len(frames))
            sweeps.append((time.process_time() - middle) / len(frames))
    count = sum(map(len, logs))
    per_image = np.mean(images) * 1e3 / len(preset.cameras)
    print(
        f"{name}: {np.mean(images) * 1e3:.0f} ms CPU for the images of a keyframe ({per_image:.1f} ms each), "
        f"{np.mean(sweeps) * 1e3:.1f} ms for a sweep of {points / count:.0f} points"
    )
    return float(np.mean(images) + np.mean(sweeps))


def write_logs(name: str, process: int) -> tuple[int, float, float]:
    """Keyframes, wall and CPU time of all logs written with their sensors by one process, compiled before."""
    cv2.setNumThreads(1)
    city, scenery, logs = town()
    suite = SensorSuite(city, scenery, SETS[name])
    with tempfile.TemporaryDirectory() as folder:
        suite.write(logs[0][:2], Path(folder) / "warm", np.random.default_rng(0), "warm")
        start, cpu = time.perf_counter(), time.process_time()
        for number, frames in enumerate(logs):
            log = f"log-{number}"
            suite.write(frames, Path(folder) / log, np.random.default_rng([process, number]), log)
        return sum(map(len, logs)), time.perf_counter() - start, time.process_time() - cpu


def time_processes(name: str) -> None:
    """Print the keyframes a second of two processes at once."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        done = pool.starmap(write_logs, [(name, process) for process in range(PROCESSES)])
    rate = sum(count / wall_s for count, wall_s, _ in done)
    free = sum(count / cpu_s for count, _, cpu_s in done)
    print(
        f"{name}: {rate:.1f} keyframes a second with their sensors on {PROCESSES} processes; {free:.1f} had each had a "
        "core to itself"
    )


def time_build(preset: WorldPreset) -> None:
    """Wall and CPU time of a whole world on two processes."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        build_world(preset, Path(folder) / "world", seed=0, workers=PROCESSES)
        wall_s = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"build {preset.name}: {wall_s:.0f} s wall, {usage.ru_utime + usage.ru_stime:.0f} CPU-s in its processes so far"
    )


if __name__ == "__main__":
    cv2.setNumThreads(1)
    for kind in SETS:
        time_sensors(kind)
        time_processes(kind)
    time_build(PRESETS[sys.argv[1] if len(sys.argv) > 1 else "quick"])
