"""Building the embedded world: networks, traffic, maps, logs, sensors, language, splits.

The work is cut into jobs that know each other only through files, so that it runs in as many processes as wanted and
goes on where it was killed: one job a network (map, traffic, choice of drives), then one job a log.
"""

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from irlvla.data.pickles import write_pickle
from irlvla.errors import RunError
from irlvla.files import disk_space, write_bytes
from irlvla.world.city import City, read_city
from irlvla.world.drives import Drive, TrafficIndex, choose_drives, route_edges
from irlvla.world.language import describe_drive
from irlvla.world.logs import frame_records, key_frames, log_name, start_time_us
from irlvla.world.map_file import MAP_VERSIONS, ORIGINS, write_map, write_map_index
from irlvla.world.networks import sumo_home, write_network
from irlvla.world.presets import NetworkSpec, WorldPreset
from irlvla.world.scenery import Scenery, lay_out_scenery
from irlvla.world.sensors import SensorSuite
from irlvla.world.splits import write_splits
from irlvla.world.traffic import RecordedTraffic, read_recording, simulate_traffic

MANIFEST = "world.json"
WORKSHOP = ".unfinished"
"""Folder inside the root for what later jobs still need; removed at the end."""
FORMAT = 1

Progress = Callable[[int, int, str], None]

ATTRIBUTION = """# Attribution

The traffic in this data is simulated with Eclipse SUMO (https://eclipse.dev/sumo/, EPL-2.0).

The road networks at us-ma-boston (a part of Berlin) and us-nv-las-vegas-strip (a part of Braunschweig) were cut from
networks in SUMO's distribution, which derive from OpenStreetMap. Map data (c) OpenStreetMap contributors, available
under the Open Database License (ODbL) 1.0: https://www.openstreetmap.org/copyright. The maps in `maps/` at these two
locations are derived databases and stand under the same licence.

The networks at us-pa-pittsburgh-hazelwood and sg-one-north are generated; no place on earth looks like them. None of
the four shows the city whose name its location bears: the names are nuPlan's, which its readers expect.
"""


@dataclass(frozen=True)
class _LogJob:
    root: Path
    preset: WorldPreset
    seed: int
    spec_index: int
    number: int
    """Number of the log in the whole world; decides its name and time."""
    drive: Drive


def build_world(
    preset: WorldPreset, out: Path, *, seed: int = 0, workers: int = 2, on_progress: Progress | None = None
) -> None:
    """Build a data root in NAVSIM's layout; go on with one that was interrupted.

    Equal preset and seed give byte-identical files, whatever `workers` is.

    Args:
        out: Folder of the data root; new, empty, or left behind by an interrupted build of the same world.
        seed: Decides networks, traffic, appearance and which drives become logs.
        workers: Processes.
        on_progress: Called with (jobs done, jobs in all, what was done).
    Raises:
        RunError: SUMO is not installed, `out` holds something else, or the disk is full.
    """
    sumo_home()
    # SUMO's tools run in folders of their own, so the paths they are given must not depend on the present one.
    out = Path(out).resolve()
    report = on_progress or (lambda done, total, what: None)
    with disk_space(out):
        manifest = {"format": FORMAT, "seed": seed, "preset": _as_plain(asdict(preset))}
        if _claim(out, manifest):
            report(1, 1, "the world was finished before")
            return
        write_map_index(out)
        (out / "ATTRIBUTION.md").write_text(ATTRIBUTION, encoding="utf-8")
        with _processes(workers) as pools:
            total = len(preset.networks) + preset.train_logs + preset.test_logs
            done = 0
            networks = {
                pools[_worker_of(preset, index, 0, workers)].submit(_prepare_network, out, preset, seed, index): spec
                for index, spec in enumerate(preset.networks)
            }
            for finished in _completed(networks):
                done += 1
                report(done, total, f"network and traffic at {networks[finished].location}")
            jobs = _log_jobs(out, preset, seed)
            total = len(preset.networks) + len(jobs)
            logs = {
                pools[_worker_of(preset, job.spec_index, job.number, workers)].submit(_write_log_job, job): job
                for job in jobs
            }
            for finished in _completed(logs):
                done += 1
                report(done, total, f"log {finished.result()}")
        write_splits(
            out, preset, seed, workers, on_progress=lambda done, total, split: report(done, total, f"scenes of {split}")
        )
        write_bytes(out / MANIFEST, _manifest_text({**manifest, "finished": True}))
        shutil.rmtree(out / WORKSHOP, ignore_errors=True)


def _as_plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _manifest_text(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


def _claim(out: Path, manifest: dict[str, Any]) -> bool:
    """Make `out` ours. True where the very same world is finished there.

    Raises:
        RunError: The folder holds something else.
    """
    file = out / MANIFEST
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; give a folder for the world")
    if file.is_file():
        try:
            found = json.loads(file.read_text())
        except ValueError as error:
            raise RunError(f"{file} is damaged ({error}); delete the folder and build again") from error
        if {key: found.get(key) for key in manifest} != manifest:
            name, seed = found.get("preset", {}).get("name"), found.get("seed")
            raise RunError(
                f"{out} holds another world (preset {name!r}, seed {seed}); give another folder, or delete this one"
            )
        return bool(found.get("finished"))
    strangers = [item.name for item in out.iterdir()] if out.exists() else []
    if strangers:
        raise RunError(f"{out} is not empty and no world of ours (it holds {sorted(strangers)[0]}); give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(file, _manifest_text({**manifest, "finished": False}))
    return False


@contextmanager
def _processes(workers: int) -> Iterator[list[ProcessPoolExecutor]]:
    """One pool per process, so that a job can be sent to the process that knows its city."""
    # Spawned, not forked: numba and OpenCV threads of the caller must not be inherited half-alive.
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=context, initializer=_one_thread) for _ in range(max(1, workers))]
    try:
        yield pools
    finally:
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)


def _worker_of(preset: WorldPreset, index: int, number: int, workers: int) -> int:
    """Which process does the jobs of a network; several share one where there are more than networks."""
    share = max(1, workers // len(preset.networks))
    return (index * share + number % share) % max(1, workers)


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def _completed(jobs: dict[Future[Any], Any]) -> Iterator[Future[Any]]:
    for future in as_completed(jobs):
        future.result()
        yield future


def _network_seed(seed: int, index: int) -> int:
    return int(np.random.default_rng([seed, index, 3]).integers(2**31))


def _workshop(out: Path, spec: NetworkSpec) -> Path:
    return out / WORKSHOP / spec.location


def _prepare_network(out: Path, preset: WorldPreset, seed: int, index: int) -> None:
    """Network, traffic, map and choice of drives of one location."""
    spec = preset.networks[index]
    folder = _workshop(out, spec)
    if (folder / "drives.json").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    place_seed = _network_seed(seed, index)
    network = write_network(spec.source, preset.network_span_m, place_seed, folder)
    simulate_traffic(network, preset, place_seed, folder)
    city, scenery, traffic, _ = _place(out, preset, seed, index)
    write_map(city, out / "maps" / spec.location / MAP_VERSIONS[spec.location] / "map.gpkg")
    drives = choose_drives(city, scenery, traffic, _log_share(preset, index), preset.frames_per_log, place_seed)
    rows = [asdict(drive) for drive in drives]
    write_bytes(folder / "drives.json", json.dumps(rows).encode())


def _log_share(preset: WorldPreset, index: int) -> int:
    """Logs that one network contributes to its data split."""
    spec = preset.networks[index]
    peers = [i for i, other in enumerate(preset.networks) if other.data_split == spec.data_split]
    wanted = preset.train_logs if spec.data_split == "trainval" else preset.test_logs
    return wanted // len(peers) + (1 if peers.index(index) < wanted % len(peers) else 0)


@lru_cache(maxsize=4)
def _place(out: Path, preset: WorldPreset, seed: int, index: int) -> tuple[City, Scenery, RecordedTraffic, SensorSuite]:
    """What a network's workshop holds, read once per process."""
    spec = preset.networks[index]
    folder = _workshop(out, spec)
    city = read_city(folder / "network.net.xml", spec.location, np.array(ORIGINS[spec.location]))
    scenery = lay_out_scenery(city, _network_seed(seed, index))
    return city, scenery, read_recording(folder, preset), SensorSuite(city, scenery, preset)


def _log_jobs(out: Path, preset: WorldPreset, seed: int) -> list[_LogJob]:
    jobs = []
    for index, spec in enumerate(preset.networks):
        rows = json.loads((_workshop(out, spec) / "drives.json").read_text())
        jobs += [_LogJob(out, preset, seed, index, 1000 * index + k, Drive(**row)) for k, row in enumerate(rows)]
    return jobs


def _write_log_job(job: _LogJob) -> str:
    """Render and write one log; its pickle comes last and marks it as finished."""
    spec = job.preset.networks[job.spec_index]
    name = log_name(spec.location, job.number, job.seed)
    file = job.root / "navsim_logs" / spec.data_split / f"{name}.pkl"
    if file.is_file():
        return name
    city, scenery, traffic, sensors = _place(job.root, job.preset, job.seed, job.spec_index)
    index = TrafficIndex(traffic, city.offset)
    frames = key_frames(city, scenery, index, job.drive, name, start_time_us(job.number))
    blobs = job.root / "sensor_blobs" / spec.data_split / name
    shutil.rmtree(blobs, ignore_errors=True)
    sensors.write(frames, blobs, np.random.default_rng([job.seed, job.number, 5]), name)
    describe_drive(job.root, spec.data_split, name, frames)
    route = city.route_roadblocks(route_edges(city, traffic, job.drive))
    write_pickle(file, frame_records(frames, city, route, name, job.preset, job.seed))
    return name
