"""Building the embedded world: networks, traffic, maps, logs, sensors, language, splits.

The work is cut into jobs that know each other only through files, so that it runs in as many processes as wanted and
goes on where it was killed: one job a network (network, traffic, choice of drives), then one a map and one a log.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from irlvla.data.pickles import write_pickle
from irlvla.data.splits import TwoStageGroup
from irlvla.errors import ConfigError, DataError, RunError
from irlvla.files import disk_space, write_bytes, write_text
from irlvla.processes import process_pool
from irlvla.world.city import City, read_city
from irlvla.world.drives import FRAME_STEPS, Drive, TrafficIndex, choose_drives, route_edges
from irlvla.world.faults import find_faults, label_faults
from irlvla.world.follow_up import LogToFollow, onward_steps, write_follow_ups
from irlvla.world.instructions import instruct_split
from irlvla.world.language import describe_drive
from irlvla.world.logs import frame_records, key_frames, log_name, start_time_us
from irlvla.world.map_file import MAP_VERSIONS, slot_origin, write_map, write_map_index
from irlvla.world.motion import STEP_S
from irlvla.world.networks import CREDIT_OSM, NETWORK, WHEEL_NETWORKS, check_user_file, sumo_home, write_network
from irlvla.world.obstacles import Obstacles, obstacle_places, plan_obstacles
from irlvla.world.presets import DATA_SPLITS, SLOT_FIDS, FileSource, NetworkSpec, WorldPreset, WorldSplit
from irlvla.world.reasons import RouteView
from irlvla.world.scenario import read_scenario, simulate_scenario
from irlvla.world.scenery import Scenery, lay_out_scenery
from irlvla.world.sensors import SensorSuite
from irlvla.world.splits import scenes_worth_planning, write_splits, write_two_stage_split
from irlvla.world.traffic import EGO_TYPE_PREFIX, RecordedTraffic, read_recording, simulate_traffic

MANIFEST = "world.json"
WORKSHOP = ".unfinished"
"""Folder inside the root for what later jobs still need; removed at the end."""
DRIVES = "drives.json"
"""A network's job ends with it."""
FORMAT = 2

Progress = Callable[[str, int, int, str], None]

_CREDITS = """# Attribution

The traffic in this data is simulated with Eclipse SUMO (https://eclipse.dev/sumo/, EPL-2.0).

What lies where:

{places}

None of the locations shows the city whose name it bears: the names are nuPlan's, which its readers expect. The
generated networks look like no place on earth.
{licences}"""


@dataclass(frozen=True)
class _LogJob:
    root: Path
    preset: WorldPreset
    seed: int
    spec_index: int
    number: int
    """Number of the log in the whole world; decides its name and time."""
    drive: Drive

    @property
    def name(self) -> str:
        return log_name(self.preset.networks[self.spec_index].location, self.number, self.seed)

    def appearance(self) -> np.random.Generator:
        """Decides weather, light and paints."""
        return np.random.default_rng([self.seed, self.number, 5])


def build_world(
    preset: WorldPreset, out: Path, *, seed: int = 0, workers: int = 2, on_progress: Progress | None = None
) -> None:
    """Build a data root in NAVSIM's layout; go on with one that was interrupted.

    Equal preset and seed give byte-identical files, whatever `workers` is and however often it was interrupted.

    Args:
        out: Folder of the data root; new, empty, or left behind by an interrupted build of the same world.
        seed: Decides networks, traffic, appearance and which drives become logs.
        workers: Processes.
        on_progress: Called with (piece of work, jobs done, jobs in all, what was done).
    Raises:
        DataError: A file of the user cannot be made into a world.
        RunError: SUMO is not installed or was killed, `out` holds something else or cannot be written, another build is
            at work in it, or the disk is full.
    """
    sumo_home()
    # SUMO's tools run in folders of their own, so the paths they are given must not depend on the present one.
    out = Path(out).resolve()
    report = on_progress or (lambda work, done, total, what: None)
    manifest = {"format": FORMAT, "seed": seed, "preset": _as_plain(asdict(preset))}
    with disk_space(out), _writable(out), _claimed(out, manifest) as finished:
        if finished:
            report("world", 1, 1, "was finished before")
            return
        _sweep(out)
        write_map_index(out)
        notes, written = _build(preset, out, seed, workers, report)
        _write_credits(preset, out, notes)
        places = [
            {"location": spec.location, "slot": spec.slot, "shows": title(spec), "split": spec.split, "logs": count}
            for spec, count in zip(preset.networks, written, strict=True)
        ]
        write_bytes(out / MANIFEST, _manifest_text({**manifest, "finished": True, "places": places, "left_out": notes}))
        shutil.rmtree(out / WORKSHOP, ignore_errors=True)


def _sweep(out: Path) -> None:
    """Remove what processes of a killed build left unfinished."""
    for left in [*out.glob(f"{WORKSHOP}/.*.part"), *out.glob("sensor_blobs/*/.*.part")]:
        shutil.rmtree(left, ignore_errors=True)


def _build(
    preset: WorldPreset, out: Path, seed: int, workers: int, report: Progress
) -> tuple[dict[str, list[str]], list[int]]:
    """Everything between the claim on the folder and the finished manifest.

    Returns:
        What was left out of user's files by place, and logs written for each network.
    """
    wanted = sum(preset.logs(split) for split in DATA_SPLITS if _networks_of(preset, split))
    total = len(preset.networks) + wanted
    done = 0
    try:
        with _processes(workers) as pools:
            networks = {
                pools[_worker_of(preset, index, 0, workers)].submit(_prepare_network, out, preset, seed, index): spec
                for index, spec in enumerate(preset.networks)
            }
            for finished in _completed(networks):
                done += 1
                report("networks and logs", done, total, f"network and traffic at {networks[finished].place}")
            jobs = _log_jobs(out, preset, seed)
            total = len(preset.networks) + len(jobs)
            maps = {
                pools[_worker_of(preset, index, 0, workers)].submit(_write_location_map, out, preset, seed, location): 0
                for location, index in _first_networks(preset).items()
            }
            logs = {
                pools[_worker_of(preset, job.spec_index, job.number, workers)].submit(_write_log_job, job): job
                for job in jobs
            }
            for finished in _completed(maps | logs):
                if finished in logs:
                    done += 1
                    report("networks and logs", done, total, f"log {finished.result()}")
            log_names = {
                split: [job.name for job in jobs if preset.networks[job.spec_index].split == split]
                for split in DATA_SPLITS
                if preset.logs(split)
            }
            write_splits(
                out,
                preset,
                seed,
                workers,
                log_names,
                on_progress=lambda done, total, split: report(f"choice of {split}", done, total, "windows"),
            )
            if preset.follow_ups is not None:
                _write_hard_split(out, preset, preset.follow_ups.split, jobs, pools, report)
        if preset.instructions:
            _write_instructions(out, workers, report)
    except BrokenProcessPool as error:
        raise RunError(
            "a process of the build was killed, most likely because memory ran out: close other programs or give fewer "
            "--workers, and give the same command again; what is finished is kept"
        ) from error
    notes = {}
    for spec in preset.networks:
        drives = json.loads((_workshop(out, spec) / DRIVES).read_text())
        if drives["left_out"]:
            notes[spec.place] = drives["left_out"]
    return notes, [sum(job.spec_index == index for job in jobs) for index in range(len(preset.networks))]


def with_user_networks(
    preset: WorldPreset,
    files: Sequence[tuple[FileSource, Path]],
    split: WorldSplit,
    *,
    span_m: float | None = None,
    mirrored: bool = False,
) -> WorldPreset:
    """The preset with the user's networks as the only ones of a split.

    They take the locations of the networks that they replace; a location that is left over keeps one of those as a map
    without logs, since the official map API opens all four.

    Args:
        files: Format and path of each.
        span_m: Side of the square that is cut out of each, instead of the preset's.
        mirrored: Whether OpenStreetMap extracts are mirrored, since their traffic keeps to the left.
    Raises:
        DataError: A file is missing, empty or damaged.
        ConfigError: The preset has no such split.
    """
    replaced = [spec for spec in preset.networks if spec.split == split]
    if not replaced or not preset.logs(split):
        raise ConfigError(f"preset {preset.name!r} has no split {split!r}; take another --split")
    networks = [spec for spec in preset.networks if spec.split != split]
    locations = list(dict.fromkeys(spec.location for spec in replaced))
    for number, (source, file) in enumerate(files):
        check_user_file(source, file)
        scenario = read_scenario(file) if source == "sumo" else None
        digest = scenario.digest() if scenario is not None else hashlib.sha256(file.read_bytes()).hexdigest()
        location = locations[number % len(locations)]
        slot = 1 + max((spec.slot for spec in networks if spec.location == location), default=-1)
        flip = mirrored and source == "osm"
        networks.append(NetworkSpec(location, source, split, slot, span_m, file.resolve(), flip, digest))
    taken = {spec.location for spec in networks}
    networks += [replace(spec, split=None) for spec in replaced if spec.slot == 0 and spec.location not in taken]
    return replace(preset, networks=tuple(networks))


def title(spec: NetworkSpec) -> str:
    """What a network is, in words."""
    if spec.source in WHEEL_NETWORKS:
        return WHEEL_NETWORKS[spec.source].title
    kinds = {
        "osm": "OpenStreetMap extract", "opendrive": "OpenDRIVE file", "sumo": "SUMO scenario",
        "random": "generated: random streets", "grid": "generated: a grid", "spider": "generated: a spider's web",
        "roundabouts": "generated: roundabouts", "arterial": "generated: a main road with turn lanes and arrows",
    }  # fmt: skip
    if spec.file is None:
        return kinds[spec.source]
    # Scenarios are told apart by their folders more often than by their names.
    name = f"{spec.file.parent.name}/{spec.file.name}" if spec.source == "sumo" else spec.file.name
    return f"{kinds[spec.source]} {name}" + (", mirrored" if spec.mirrored else "")


def _write_credits(preset: WorldPreset, out: Path, notes: dict[str, list[str]]) -> None:
    lines = []
    for spec in preset.networks:
        lines.append(f"- {spec.place}: {title(spec)}")
        lines += [f"  - {note}" for note in notes.get(spec.place, ())]
    wheel = [spec.place for spec in preset.networks if spec.source in WHEEL_NETWORKS]
    from_osm = [
        spec.place
        for spec in preset.networks
        if spec.source == "osm" or (spec.source in WHEEL_NETWORKS and WHEEL_NETWORKS[spec.source].from_osm)
    ]
    licences = ""
    if wheel:
        licences += f"\nThe networks at {', '.join(wheel)} were cut out of networks in SUMO's distribution.\n"
    if from_osm:
        licences += (
            f"\n{CREDIT_OSM}. The networks at {', '.join(from_osm)} derive from it, and the maps in `maps/` at these "
            "locations are derived databases under the same licence.\n"
        )
    if any(spec.source in ("opendrive", "sumo") for spec in preset.networks):
        licences += "\nWhat was made from OpenDRIVE files and SUMO scenarios stands under their own licence.\n"
    write_text(out / "ATTRIBUTION.md", _CREDITS.format(places="\n".join(lines), licences=licences))


def _first_networks(preset: WorldPreset) -> dict[str, int]:
    """Location to the index of the first network there."""
    return {spec.location: index for index, spec in reversed(list(enumerate(preset.networks)))}


def _networks_of(preset: WorldPreset, split: WorldSplit) -> list[int]:
    return [index for index, spec in enumerate(preset.networks) if spec.split == split]


def _as_plain(value: Any) -> Any:
    # Of a user's file its name and content count, not the folder it lies in.
    return json.loads(json.dumps(value, default=lambda item: item.name if isinstance(item, Path) else str(item)))


def _manifest_text(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    """Turn a folder that cannot be written into an error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise RunError(
            f"{error.filename or out} cannot be written ({error.strerror}): give --out a folder that you may write to"
        ) from error


@contextmanager
def _claimed(out: Path, manifest: dict[str, Any]) -> Iterator[bool]:
    """Make `out` ours for the time of a build; yields whether the very same world is finished there.

    Raises:
        RunError: The folder holds something else, or another build is at work in it.
    """
    file = out / MANIFEST
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; give a folder for the world")
    if file.is_file():
        try:
            found = json.loads(file.read_text())
        except ValueError as error:
            raise RunError(f"{file} is damaged ({error}); delete the folder and build again") from error
        if not isinstance(found, dict) or {key: found.get(key) for key in manifest} != manifest:
            raise RunError(f"{out} holds {_other_world(found)}; give another folder, or delete this one")
        if found.get("finished"):
            yield True
            return
    else:
        strangers = sorted(item.name for item in out.iterdir()) if out.exists() else []
        # A build that was killed while it made its claim leaves the beginning of one behind.
        strangers = [name for name in strangers if name not in (WORKSHOP, f".{MANIFEST}.part")]
        if strangers:
            raise RunError(f"{out} is not empty and no world of ours (it holds {strangers[0]}); give a new folder")
    try:
        (out / WORKSHOP).mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(f"{out} cannot be made ({error.strerror}): give --out a folder that you may write to") from error
    with (out / WORKSHOP / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another build is at work in {out}; wait for it, or give another folder") from error
        if not file.is_file():
            write_bytes(file, _manifest_text({**manifest, "finished": False}))
        yield False


def _other_world(found: Any) -> str:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        return "a world of another version of this program"
    files = [spec.get("file") for spec in found.get("preset", {}).get("networks", ()) if spec.get("file")]
    made_from = f", made from {', '.join(files)}" if files else ""
    return f"another world (preset {found['preset'].get('name')!r}, seed {found.get('seed')}{made_from})"


@contextmanager
def _processes(workers: int) -> Iterator[list[ProcessPoolExecutor]]:
    """One pool per process, so that a job can be sent to the process that knows its city."""
    pools = [process_pool(1, prepare=_start_worker) for _ in range(max(1, workers))]
    try:
        yield pools
    finally:
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)


def _worker_of(preset: WorldPreset, index: int, number: int, workers: int) -> int:
    """Which process does the jobs of a network; several share one where there are more than networks."""
    share = max(1, workers // len(preset.networks))
    return (index * share + number % share) % max(1, workers)


def _start_worker() -> None:
    import cv2

    cv2.setNumThreads(1)


def _completed(jobs: dict[Future[Any], Any]) -> Iterator[Future[Any]]:
    for future in as_completed(jobs):
        future.result()
        yield future


def network_seed(seed: int, index: int) -> int:
    """Seed of a preset's network number `index` in the world of `seed`."""
    return int(np.random.default_rng([seed, index, 3]).integers(2**31))


def _workshop(out: Path, spec: NetworkSpec) -> Path:
    return out / WORKSHOP / spec.place


@contextmanager
def _private_folder(folder: Path) -> Iterator[Path]:
    """A folder of this process alone, moved to its place at the end.

    A process that outlives a killed build must not write into what the next one makes.
    """
    private = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(private, ignore_errors=True)
    private.mkdir(parents=True)
    try:
        yield private
        shutil.rmtree(folder, ignore_errors=True)
        private.replace(folder)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _prepare_network(out: Path, preset: WorldPreset, seed: int, index: int) -> None:
    """Network, traffic and choice of drives of one place."""
    spec = preset.networks[index]
    if (_workshop(out, spec) / DRIVES).is_file():
        return
    place_seed = network_seed(seed, index)
    with _private_folder(_workshop(out, spec)) as folder:
        network = lay_out_network(preset, spec, place_seed, folder)
        city, scenery, obstacles = lay_out_city(network, preset, spec, place_seed)
        wanted, drives, notes = _log_share(preset, index), [], []
        dropped: Counter[str] = Counter()
        if wanted:
            if spec.source == "sumo":
                assert spec.file is not None
                notes = simulate_scenario(read_scenario(spec.file), network, preset, place_seed, folder)
            else:
                simulate_traffic(network, preset, place_seed, folder, obstacles)
            traffic = read_recording(folder, preset)
            places = obstacle_places(city, obstacles)
            followed = preset.follow_ups is not None and spec.split == preset.follow_ups.split
            drives = choose_drives(
                city,
                scenery,
                traffic,
                wanted,
                preset.frames_per_log,
                place_seed,
                places,
                onward_steps=onward_steps(preset.frames_per_log) if followed else 0,
                dropped=dropped,
            )
            if not drives and spec.file is not None:
                raise DataError(f"{spec.file}: {_why_no_drive(traffic, preset)}")
        rows = [asdict(drive) for drive in drives]
        write_bytes(folder / DRIVES, json.dumps({"drives": rows, "left_out": notes, "dropped": dropped}).encode())


def _why_no_drive(traffic: RecordedTraffic, preset: WorldPreset) -> str:
    log_s = preset.frames_per_log * FRAME_STEPS * STEP_S
    egos = [track for track in traffic.tracks if track.kind.startswith(EGO_TYPE_PREFIX)]
    longest_s = max((len(track) * STEP_S for track in egos), default=0.0)
    if not egos:
        return (
            "no car that could become the ego vehicle drives in it; take an area where cars can drive from one end to "
            "the other, or a scenario with cars"
        )
    if longest_s < log_s:
        return (
            f"its longest drive takes {longest_s:.0f} s, and a log of preset {preset.name!r} takes {log_s:.0f} s; take "
            "a larger area, or a preset with shorter logs"
        )
    return (
        f"none of its {len(egos)} cars drives {log_s:.0f} s on end without touching something, leaving the road or "
        "driving harder than passengers can bear; take a larger area or another seed"
    )


def _log_share(preset: WorldPreset, index: int) -> int:
    """Logs that one network contributes to its split."""
    split = preset.networks[index].split
    if split is None:
        return 0
    peers = _networks_of(preset, split)
    wanted = preset.logs(split)
    return wanted // len(peers) + (1 if peers.index(index) < wanted % len(peers) else 0)


def lay_out_network(preset: WorldPreset, spec: NetworkSpec, place_seed: int, folder: Path) -> Path:
    """Write SUMO's network of a place into a folder; returns its file."""
    return write_network(
        spec.source,
        spec.span_m or preset.network_span_m,
        place_seed,
        folder,
        file=spec.file,
        mirrored=spec.mirrored,
        opposites=preset.has_obstacles,
    )


def lay_out_city(
    network: Path, preset: WorldPreset, spec: NetworkSpec, place_seed: int
) -> tuple[City, Scenery, Obstacles]:
    """Streets, what lines them, and what stands in the way at a place, from SUMO's network."""
    city = read_city(network, spec.location, slot_origin(spec.location, spec.slot), spec.slot * SLOT_FIDS)
    # A user's traffic has obstacles of its own, or none.
    obstacles = Obstacles() if spec.source == "sumo" else plan_obstacles(city, preset, place_seed)
    return city, lay_out_scenery(city, place_seed, obstacles), obstacles


@lru_cache(maxsize=4)
def _place(
    out: Path, preset: WorldPreset, seed: int, index: int
) -> tuple[City, Scenery, Obstacles, RecordedTraffic, SensorSuite]:
    """What a network's workshop holds, read once per process."""
    spec = preset.networks[index]
    folder = _workshop(out, spec)
    city, scenery, obstacles = lay_out_city(folder / NETWORK, preset, spec, network_seed(seed, index))
    return city, scenery, obstacles, read_recording(folder, preset), SensorSuite(city, scenery, preset)


def _write_location_map(out: Path, preset: WorldPreset, seed: int, location: str) -> None:
    """The map of one location, with all networks that lie there."""
    file = out / "maps" / location / MAP_VERSIONS[location] / "map.gpkg"
    if file.is_file():
        return
    here = [(index, spec) for index, spec in enumerate(preset.networks) if spec.location == location]
    write_map(
        [
            lay_out_city(_workshop(out, spec) / NETWORK, preset, spec, network_seed(seed, index))[0]
            for index, spec in here
        ],
        file,
    )


def _log_jobs(out: Path, preset: WorldPreset, seed: int) -> list[_LogJob]:
    jobs = []
    for index, spec in enumerate(preset.networks):
        rows = json.loads((_workshop(out, spec) / DRIVES).read_text())["drives"]
        jobs += [_LogJob(out, preset, seed, index, 1000 * index + k, Drive(**row)) for k, row in enumerate(rows)]
    for split in DATA_SPLITS:
        networks = _networks_of(preset, split)
        if networks and preset.logs(split) and not any(job.spec_index in networks for job in jobs):
            raise RunError(
                f"no drive of split {split!r} is good enough to become a log; give another --seed, in another folder"
            )
    return jobs


def _write_hard_split(
    out: Path,
    preset: WorldPreset,
    split: WorldSplit,
    jobs: list[_LogJob],
    pools: list[ProcessPoolExecutor],
    report: Progress,
) -> None:
    """Follow-up scenes of a split's logs, and the two-stage split made of them."""
    tokens = scenes_worth_planning(out, split)
    followed = [job for job in jobs if preset.networks[job.spec_index].split == split]
    submitted = {
        pools[_worker_of(preset, job.spec_index, job.number, len(pools))].submit(_follow_log_job, job, tokens): job
        for job in followed
    }
    for done, finished in enumerate(_completed(submitted), start=1):
        report("follow-up scenes", done, len(followed), f"log {submitted[finished].name}")
    groups = {job.name: future.result() for future, job in submitted.items()}
    named = sorted(name for name in groups if groups[name])
    if not named:
        raise RunError(
            f"none of the {len(followed)} logs of split {split!r} has a scene that can be followed: traffic ends too "
            "early, or there is no room for other starts; give another --seed, in another folder"
        )
    write_two_stage_split(out, DATA_SPLITS[split], [group for name in named for group in groups[name]], named)


def _write_instructions(out: Path, workers: int, report: Progress) -> None:
    for file in sorted((out / "train_test_split").glob("*.yaml")):

        def show(done: int, total: int, split: str = file.stem) -> None:
            report(f"instructions of {split}", done, total, "logs")

        instruct_split(out, file.stem, workers=workers, on_progress=show)


def _write_log_job(job: _LogJob) -> str:
    """Render and write one log; its pickle comes last and marks it as finished."""
    spec = job.preset.networks[job.spec_index]
    name = job.name
    file = job.root / "navsim_logs" / spec.data_split / f"{name}.pkl"
    if file.is_file():
        return name
    city, scenery, obstacles, traffic, sensors = _place(job.root, job.preset, job.seed, job.spec_index)
    index = TrafficIndex(traffic, city.offset)
    frames = key_frames(city, scenery, index, job.drive, name, start_time_us(job.number))
    with _private_folder(job.root / "sensor_blobs" / spec.data_split / name) as blobs:
        sensors.write(frames, blobs, job.appearance(), name)
    route = city.route_roadblocks(route_edges(city, traffic, job.drive))
    describe_drive(job.root, spec.data_split, name, frames, RouteView(city, route, obstacles))
    faults = find_faults(city, index, job.drive, obstacle_places(city, obstacles))
    label_faults(job.root, spec.data_split, name, frames, faults)
    write_pickle(file, frame_records(frames, city, route, name, job.preset, job.seed))
    return name


def _follow_log_job(job: _LogJob, tokens: frozenset[str]) -> list[TwoStageGroup]:
    """Write the follow-up scenes of one log; the list of its groups comes last and marks them as finished."""
    listed = _workshop(job.root, job.preset.networks[job.spec_index]) / "follow_up" / f"{job.name}.json"
    if not listed.is_file():
        city, scenery, _, traffic, sensors = _place(job.root, job.preset, job.seed, job.spec_index)
        route = city.route_roadblocks(route_edges(city, traffic, job.drive))
        log = LogToFollow(job.name, job.number, job.drive, start_time_us(job.number), tuple(route))
        place = (city, scenery, TrafficIndex(traffic, city.offset), sensors)
        groups = write_follow_ups(job.root, log, place, tokens, job.preset, job.seed, job.appearance())
        write_bytes(listed, json.dumps(groups).encode())
    # Read back even when fresh, so that a build that went on writes what an uninterrupted one does.
    return [(now, earlier, tuple((a, b) for a, b in pairs)) for now, earlier, pairs in json.loads(listed.read_text())]
