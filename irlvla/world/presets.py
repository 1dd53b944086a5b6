"""Sizes of the embedded world: which networks, how many logs, which cameras, what stands in the way."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from irlvla.types import CAMERA_NAMES

CitySource = Literal["berlin", "braunschweig", "koenigs_wusterhausen", "ingolstadt", "bremen", "braunschweig_crossing"]
GeneratedSource = Literal["random", "grid", "spider", "roundabouts", "arterial"]
FileSource = Literal["osm", "opendrive", "sumo"]
NetworkSource = CitySource | GeneratedSource | FileSource
WorldSplit = Literal["train", "test", "hard"]

DATA_SPLITS: dict[WorldSplit, str] = {"train": "trainval", "test": "test", "hard": "test"}
"""Folder of the logs of each split; as in NAVSIM, the two-stage split takes its logs from `test`."""

SLOT_FIDS = 1_000_000
"""Feature ids of one map are unique because each of its networks counts from a multiple of this."""


@dataclass(frozen=True)
class NetworkSpec:
    """One road network and where it stands in for a nuPlan city."""

    location: str
    """One of the four nuPlan locations; decides the UTM zone and the map version."""
    source: NetworkSource
    """Real city from SUMO's wheel (OpenStreetMap), a generated network type, or the format of `file`."""
    split: WorldSplit | None
    """Which split its logs go to; None for a network that is only a map, since all four locations need one."""
    slot: int = 0
    """Several networks at one location lie in slots far apart, numbered from 0."""
    span_m: float | None = None
    """Side of the square, where it differs from the preset's."""
    file: Path | None = None
    """OpenStreetMap extract, OpenDRIVE file or SUMO scenario of the user."""
    mirrored: bool = False
    """Whether `file` is mirrored, so that a place with left-hand traffic is driven on the right."""
    digest: str = ""
    """Content of `file`, so that an unfinished world is not continued with other content."""

    @property
    def data_split(self) -> str:
        """`trainval` or `test`; a network without logs counts as `trainval`."""
        return DATA_SPLITS[self.split or "train"]

    @property
    def place(self) -> str:
        """A name that no other network of a world has."""
        return f"{self.location}.{self.slot}" if self.slot else self.location


@dataclass(frozen=True)
class FollowUpPreset:
    """How many follow-up scenes a two-stage split gets."""

    split: WorldSplit
    """Split whose logs are followed."""
    scenes_per_log: int
    """First-stage scenes of a log, at most."""
    starts_per_scene: int
    """Starts that follow a first-stage scene, at most."""


@dataclass(frozen=True)
class WorldPreset:
    """What `build_world` builds."""

    name: str
    networks: tuple[NetworkSpec, ...]
    """At least one per nuPlan location, since the official map API opens all four."""
    train_logs: int
    """Logs in `world-train`, shared evenly by its networks."""
    test_logs: int
    """Logs in `world-test`, shared evenly by its networks."""
    frames_per_log: int
    """Keyframes a log, 0.5 s apart; a scene takes 14 of them."""
    cameras: tuple[str, ...]
    """Cameras that are rendered; the others have no image."""
    image_width_px: int
    image_height_px: int
    lidar: bool
    """Whether point clouds are written."""
    simulated_s: float
    """Length of each network's traffic simulation after `warm_up_s`."""
    warm_up_s: float
    """Traffic before this time is not recorded, so that streets fill and queues form."""
    traffic_density: float
    """Vehicles per lane kilometre that the demand aims at."""
    network_span_m: float
    """Side of the square that is cut out of a city, or covered by a generated network."""
    lens_distortion: bool = True
    """Whether images keep nuPlan's lens distortion."""
    follow_ups: FollowUpPreset | None = None
    """Follow-up scenes of split `world-hard`; None writes no such split."""
    instructions: bool = False
    """Whether every scene of a split gets instructions with plans that obey them."""
    filter_scenes: bool = True
    """Whether the split lists only scenes that the human solves and constant velocity does not (NAVSIM's filter)."""
    hard_logs: int = 0
    """Logs in `world-hard`, shared evenly by its networks."""
    road_works_per_km: float = 0.0
    """Closed parts of lanes, marked with cones and barriers, per kilometre of street."""
    standing_vehicles_per_km: float = 0.0
    """Broken-down and delivering vehicles on the carriageway, per kilometre of street with several lanes."""
    bus_stops_per_km: float = 0.0
    """Stops that buses serve, per kilometre of street."""

    def logs(self, split: WorldSplit) -> int:
        """Logs wanted for a split."""
        return {"train": self.train_logs, "test": self.test_logs, "hard": self.hard_logs}[split]

    @property
    def has_obstacles(self) -> bool:
        """Whether anything stands in the way, so that drivers may have to use the oncoming lane to pass."""
        return self.road_works_per_km > 0 or self.standing_vehicles_per_km > 0


NETWORKS = (
    NetworkSpec("us-ma-boston", "berlin", "train"),
    NetworkSpec("us-pa-pittsburgh-hazelwood", "random", "train"),
    NetworkSpec("us-nv-las-vegas-strip", "braunschweig", "test"),
    NetworkSpec("sg-one-north", "grid", "test"),
)

TINY_NETWORKS = (
    *NETWORKS,
    NetworkSpec("us-ma-boston", "arterial", "train", slot=1, span_m=900.0),
    NetworkSpec("us-pa-pittsburgh-hazelwood", "roundabouts", "train", slot=1),
)

# A real city with a motorway, a real town, and generated networks of every kind in each split; all of them differ.
CITY_NETWORKS = (
    NetworkSpec("us-ma-boston", "berlin", "train", span_m=1300.0),
    NetworkSpec("us-ma-boston", "arterial", "train", slot=1, span_m=1100.0),
    NetworkSpec("us-ma-boston", "roundabouts", "train", slot=2),
    NetworkSpec("us-pa-pittsburgh-hazelwood", "koenigs_wusterhausen", "train", span_m=2600.0),
    NetworkSpec("us-pa-pittsburgh-hazelwood", "random", "train", slot=1, span_m=900.0),
    NetworkSpec("us-pa-pittsburgh-hazelwood", "grid", "train", slot=2),
    NetworkSpec("us-nv-las-vegas-strip", "braunschweig", "test", span_m=1300.0),
    NetworkSpec("us-nv-las-vegas-strip", "bremen", "test", slot=1, span_m=3000.0),
    NetworkSpec("us-nv-las-vegas-strip", "arterial", "test", slot=2, span_m=1100.0),
    NetworkSpec("sg-one-north", "grid", "test"),
    NetworkSpec("sg-one-north", "roundabouts", "test", slot=1),
    NetworkSpec("us-nv-las-vegas-strip", "ingolstadt", "hard", slot=3, span_m=1000.0),
    NetworkSpec("sg-one-north", "spider", "hard", slot=2),
    NetworkSpec("sg-one-north", "arterial", "hard", slot=3, span_m=900.0),
)
CITY_MINI_NETWORKS = (
    NetworkSpec("us-ma-boston", "berlin", "train"),
    NetworkSpec("us-ma-boston", "roundabouts", "train", slot=1),
    NetworkSpec("us-pa-pittsburgh-hazelwood", "random", None),
    NetworkSpec("us-nv-las-vegas-strip", "arterial", "test"),
    NetworkSpec("sg-one-north", "spider", "hard"),
)

FRONT_CAMERAS = ("CAM_L0", "CAM_F0", "CAM_R0")

_MINI = WorldPreset(
    name="mini",
    networks=NETWORKS,
    train_logs=2,
    test_logs=2,
    frames_per_log=16,
    cameras=("CAM_F0",),
    image_width_px=256,
    image_height_px=144,
    lidar=True,
    simulated_s=22.0,
    warm_up_s=22.0,
    traffic_density=6.0,
    network_span_m=420.0,
    filter_scenes=False,
)
_QUICK = replace(
    _MINI,
    name="quick",
    train_logs=6,
    test_logs=4,
    frames_per_log=24,
    cameras=FRONT_CAMERAS,
    simulated_s=45.0,
    warm_up_s=30.0,
    traffic_density=6.5,
    network_span_m=550.0,
)
_TINY = replace(
    _QUICK,
    name="tiny",
    networks=TINY_NETWORKS,
    train_logs=128,
    test_logs=40,
    frames_per_log=26,
    simulated_s=130.0,
    warm_up_s=40.0,
    traffic_density=5.5,
    network_span_m=750.0,
    filter_scenes=True,
)
_CITY = replace(
    _TINY,
    name="city",
    networks=CITY_NETWORKS,
    train_logs=240,
    test_logs=80,
    hard_logs=30,
    frames_per_log=32,
    simulated_s=180.0,
    warm_up_s=60.0,
    traffic_density=6.0,
    network_span_m=800.0,
    follow_ups=FollowUpPreset("hard", scenes_per_log=2, starts_per_scene=6),
    instructions=True,
    road_works_per_km=0.9,
    standing_vehicles_per_km=0.8,
    bus_stops_per_km=0.6,
)
_CITY_MINI = replace(
    _MINI,
    name="city-mini",
    networks=CITY_MINI_NETWORKS,
    test_logs=1,
    hard_logs=1,
    warm_up_s=25.0,
    network_span_m=450.0,
    follow_ups=FollowUpPreset("hard", scenes_per_log=1, starts_per_scene=2),
    instructions=True,
    road_works_per_km=1.5,
    standing_vehicles_per_km=1.5,
    bus_stops_per_km=1.0,
)
_LOOKS = replace(
    _MINI,
    name="looks",
    train_logs=4,
    test_logs=4,
    cameras=CAMERA_NAMES,
    image_width_px=480,
    image_height_px=270,
    simulated_s=40.0,
    warm_up_s=40.0,
    traffic_density=9.0,
    network_span_m=500.0,
)

PRESETS = {preset.name: preset for preset in (_MINI, _LOOKS, _QUICK, _TINY, _CITY, _CITY_MINI)}
