"""Sizes of the embedded world: which networks, how many logs, which cameras."""

from dataclasses import dataclass
from typing import Literal

from irlvla.types import CAMERA_NAMES

NetworkSource = Literal["berlin", "braunschweig", "random", "grid"]


@dataclass(frozen=True)
class NetworkSpec:
    """One road network and where it stands in for a nuPlan city."""

    location: str
    """One of the four nuPlan locations; decides the UTM zone and the map version."""
    source: NetworkSource
    """Real city from SUMO's wheel (OpenStreetMap), or a generated network type."""
    data_split: str
    """`trainval` or `test`."""


@dataclass(frozen=True)
class WorldPreset:
    """What `build_world` builds."""

    name: str
    networks: tuple[NetworkSpec, ...]
    """One per nuPlan location; all four must be there, since the official map API opens all four."""
    train_logs: int
    """Logs in data split `trainval`, shared evenly by its networks."""
    test_logs: int
    """Logs in data split `test`, shared evenly by its networks."""
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
    jpeg_quality: int = 85
    """Of plain images; rich ones differ from log to log."""
    looks: Literal["plain", "rich"] = "plain"
    """`plain`: straight cameras and simple bodies, the look that the published demo was trained on; `rich`: nuPlan's
    cameras, weather, shadows, night, five LiDARs."""
    lens_distortion: bool = True
    """Whether rich images keep nuPlan's lens distortion."""
    ground_height_m: float = 0.0
    """Height of the street in the ego frame; nuPlan's ego origin is the rear axle, 0.35 m above it."""
    filter_scenes: bool = True
    """Whether the split lists only scenes that the human solves and constant velocity does not (NAVSIM's filter)."""


NETWORKS = (
    NetworkSpec("us-ma-boston", "berlin", "trainval"),
    NetworkSpec("us-pa-pittsburgh-hazelwood", "random", "trainval"),
    NetworkSpec("us-nv-las-vegas-strip", "braunschweig", "test"),
    NetworkSpec("sg-one-north", "grid", "test"),
)

FRONT_CAMERAS = ("CAM_L0", "CAM_F0", "CAM_R0")

PRESETS = {
    "mini": WorldPreset(
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
    ),
    "looks": WorldPreset(
        name="looks",
        networks=NETWORKS,
        train_logs=4,
        test_logs=4,
        frames_per_log=16,
        cameras=CAMERA_NAMES,
        image_width_px=480,
        image_height_px=270,
        lidar=True,
        simulated_s=40.0,
        warm_up_s=40.0,
        traffic_density=9.0,
        network_span_m=500.0,
        looks="rich",
        ground_height_m=-0.35,
        filter_scenes=False,
    ),
    "quick": WorldPreset(
        name="quick",
        networks=NETWORKS,
        train_logs=6,
        test_logs=4,
        frames_per_log=24,
        cameras=FRONT_CAMERAS,
        image_width_px=256,
        image_height_px=144,
        lidar=True,
        simulated_s=45.0,
        warm_up_s=30.0,
        traffic_density=6.5,
        network_span_m=550.0,
        filter_scenes=False,
    ),
    "tiny": WorldPreset(
        name="tiny",
        networks=NETWORKS,
        train_logs=64,
        test_logs=20,
        frames_per_log=40,
        cameras=FRONT_CAMERAS,
        image_width_px=256,
        image_height_px=144,
        lidar=True,
        simulated_s=130.0,
        warm_up_s=40.0,
        traffic_density=5.5,
        network_span_m=750.0,
    ),
}
