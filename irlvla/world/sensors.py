"""What the ego vehicle's cameras and LiDARs see, written as sensor blobs."""

import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from irlvla.data.sensors import write_point_cloud
from irlvla.geometry import EGO_LENGTH_M, GROUND_Z_M, REAR_AXLE_TO_CENTER_M
from irlvla.types import CAMERA_NAMES
from irlvla.world import bodies
from irlvla.world import lidar as lidars
from irlvla.world.appearance import Appearance, random_appearance
from irlvla.world.camera import Film, lens_of
from irlvla.world.city import City
from irlvla.world.ground_light import GroundLight
from irlvla.world.logs import KeyFrame, SceneObject, vehicle_number
from irlvla.world.presets import WorldPreset
from irlvla.world.raster import Mesh, MeshBuilder, blank, draw, join_meshes, near_shapes, nearest_first
from irlvla.world.rig import MountedCamera, cameras_of
from irlvla.world.scenery import Scenery
from irlvla.world.shading import Air, GroundMaps, air_of, noise_texture, reflect_lamps, shade
from irlvla.world.street import SignalHead, StreetLook, add_signals, build_street, look_of_street

Array = NDArray[np.float64]
T = TypeVar("T")

EGO_SIZE_M = (EGO_LENGTH_M, 2.0, 1.58)
"""Body without mirrors and, since the cameras stand on brackets ahead of it, without the roof's crown."""
WALKING_MPS = 0.2
STRIDE_M = 1.45
SHELTER_LENGTH_M = 2.5
"""A longer generic object is a bus stop's shelter."""
LOW_FURNITURE = ("vehicle", "bicycle", "barrier", "generic_object")


@dataclass(frozen=True)
class Look:
    """How one log looks, and the cameras that see it."""

    appearance: Appearance
    cameras: dict[str, MountedCamera]
    air: Air
    street: StreetLook
    ground: GroundLight
    film: Film


class SensorSuite:
    """Cameras and LiDARs in one city."""

    def __init__(self, city: City, scenery: Scenery, preset: WorldPreset, *, threads: int = 1) -> None:
        """
        Args:
            threads: Sensors at work at the same time; more than one where nothing else works beside this suite.
        """
        self._threads = ThreadPoolExecutor(threads) if threads > 1 else None
        self._city = city
        self._scenery = scenery
        self._preset = preset
        # The same in every process that builds this city.
        seed = zlib.crc32(f"{city.location}/{len(city.lanes)}/{len(scenery.trees)}".encode())
        self._street = build_street(city, scenery, seed)
        self._noise = noise_texture()
        self._prepared: tuple[KeyFrame, Look, Mesh, NDArray[np.int64], GroundMaps] | None = None

    def random_look(self, rng: np.random.Generator, log_name: str) -> Look:
        """Draw the look of one log: weather, light, palettes, the camera's response.

        Args:
            log_name: Its vehicle carries the cameras.
        """
        return self.look_of(random_appearance(rng), log_name)

    def look_of(self, appearance: Appearance, log_name: str) -> Look:
        """A given appearance in this city."""
        air = air_of(appearance)
        cameras = cameras_of(self._preset, vehicle_number(log_name))
        return Look(
            appearance,
            cameras,
            air,
            look_of_street(self._street.mesh, appearance),
            GroundLight(self._street.mesh, self._street.lamps, air, self._noise),
            Film(appearance.response, bloom=0.12 + 0.75 * air.lamps, rain=appearance.weather.rain),
        )

    def signal_heads(self, lane: int) -> tuple[SignalHead, ...]:
        """Traffic lights of a lane (fid), in the frame of the street."""
        return self._street.signals.get(lane, ())

    def write(
        self, frames: list[KeyFrame], blobs: Path, rng: np.random.Generator, log_name: str, *, lidar: bool = True
    ) -> None:
        """Render a log's images and point clouds into its sensor folder.

        Args:
            rng: Decides the log's weather, light and paints.
            log_name: Its vehicle carries the cameras.
            lidar: False leaves out point clouds even where the preset has them.
        """
        look = self.random_look(rng, log_name)
        for frame in frames:
            self.write_frame(frame, look, blobs, rng, lidar=lidar)

    def write_frame(
        self, frame: KeyFrame, look: Look, blobs: Path, rng: np.random.Generator, *, lidar: bool = True
    ) -> None:
        """Render one keyframe's images and point cloud into a log's sensor folder.

        Args:
            rng: Decides the noise of the point cloud.
            lidar: False leaves out the point cloud even where the preset has one.
        """
        # Once, before the sensors go to work at the same time.
        self._surroundings(frame, look)

        def write_image(name: str) -> None:
            path = blobs / name / f"{frame.token}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(self._image(name, frame, look), look))

        def write_sweep() -> None:
            path = blobs / "MergedPointCloud" / f"{frame.token}.pcd"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_point_cloud(path, self.sweep(frame, look, rng))

        tasks: list[Callable[[], None]] = [partial(write_image, name) for name in self._preset.cameras]
        if lidar and self._preset.lidar:
            # First, because it takes longest.
            tasks.insert(0, write_sweep)
        self._do(tasks)

    def render(self, frame: KeyFrame, look: Look) -> list[NDArray[np.uint8]]:
        """Images [H, W, 3] RGB of the preset's cameras at a keyframe."""
        self._surroundings(frame, look)
        return self._do([partial(self._image, name, frame, look) for name in self._preset.cameras])

    def _image(self, name: str, frame: KeyFrame, look: Look) -> NDArray[np.uint8]:
        """What a camera stores of a keyframe, [H, W, 3] RGB."""
        mesh, order, maps = self._surroundings(frame, look)
        place = frame.ego_pose[:2] - self._city.offset
        cos, sin = np.cos(frame.ego_pose[2]), np.sin(frame.ego_pose[2])
        to_mesh = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        foot = np.array([*place, -GROUND_Z_M])
        planes = np.zeros((len(mesh.start) - 1, 3))
        camera = look.cameras[name]
        lens = lens_of(camera)
        view = lens.view(to_mesh @ camera.rotation_ego, to_mesh @ camera.translation_ego + foot)
        ids, nearness = blank(view)
        draw(ids, nearness, planes, mesh, order, view, self._noise)
        light = np.empty((camera.height_px, camera.width_px, 3), dtype=np.float32)
        shade(
            light, ids, lens.lookup, lens.rays, planes, mesh, view, lens.pixel_rad, look.air, maps, self._noise,
        )  # fmt: skip
        if look.air.wet > 0:
            reflect_lamps(light, ids, lens.lookup, mesh, view, camera.intrinsic, camera.distortion, look.air.wet)
        # Named by token and camera, so that an image does not depend on which others are rendered.
        rng = np.random.default_rng([zlib.crc32(frame.token.encode()), CAMERA_NAMES.index(name), 31])
        return look.film.develop(light, rng)

    def _do(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Results of tasks, done at the same time where the suite has threads."""
        do_all = map if self._threads is None else self._threads.map
        return list(do_all(lambda task: task(), tasks))

    def sweep(self, frame: KeyFrame, look: Look, rng: np.random.Generator) -> NDArray[np.float32]:
        """The merged point cloud at a keyframe: [N, 6] x, y, z (m, ego frame), intensity, ring, LiDAR id."""
        mesh, order, _ = self._surroundings(frame, look)
        place = frame.ego_pose[:2] - self._city.offset
        return lidars.sweep(
            mesh, order, place, float(frame.ego_pose[2]), look.appearance.weather, self._noise, rng,
        )  # fmt: skip

    def _surroundings(self, frame: KeyFrame, look: Look) -> tuple[Mesh, NDArray[np.int64], GroundMaps]:
        """All shapes near the ego, their drawing order and shadows; kept for all sensors of the same keyframe."""
        if self._prepared is not None and self._prepared[0] is frame and self._prepared[1] is look:
            return self._prepared[2:]
        place = frame.ego_pose[:2] - self._city.offset
        moving, vehicles, beams = self._moving(frame, look)
        street = self._street.mesh
        # What haze hides need not be drawn.
        share = min(1.0, 3.2 * look.air.haze_m / 140.0)
        near = near_shapes(street.center, street.radius, street.reach, place[0], place[1], share)
        here = street._replace(material=look.street.material)
        mesh = join_meshes(here, near, look.street.colour, look.street.detail, moving)
        maps = look.ground.maps(place[0], place[1], moving, vehicles, beams)
        order = nearest_first(mesh, place[0], place[1])
        self._prepared = (frame, look, mesh, order, maps)
        return mesh, order, maps

    def _moving(self, frame: KeyFrame, look: Look) -> tuple[Mesh, Array, Array]:
        """What may be elsewhere in the next frame; outlines of vehicles; headlights and tail lights."""
        x, y, heading = frame.ego_pose
        cos, sin = np.cos(heading), np.sin(heading)
        lamps = look.air.lamps
        if look.appearance.weather.rain > 0 or look.air.haze_m < 260:
            lamps = max(lamps, 0.3)
        placed, outlines, beams = [], [], []
        for item in frame.objects:
            box = item.box.copy()
            box[0] = x + cos * item.box[0] - sin * item.box[1] - self._city.offset[0]
            box[1] = y + sin * item.box[0] + cos * item.box[1] - self._city.offset[1]
            box[6] = item.box[6] + heading
            placed.append(_placed(item, box, frame.step, look.appearance.seed, lamps))
            if item.type in LOW_FURNITURE:
                outlines.append(box[[0, 1, 6, 3, 4]])
            if look.air.lamps > 0 and item.type == "vehicle" and item.kind != "vehicle":
                beams += _beams(box, braking=item.braking)
        ego = np.array(
            [x + cos * REAR_AXLE_TO_CENTER_M - self._city.offset[0],
             y + sin * REAR_AXLE_TO_CENTER_M - self._city.offset[1], EGO_SIZE_M[2] / 2, *EGO_SIZE_M, heading]
        )  # fmt: skip
        outlines.append(ego[[0, 1, 6, 3, 4]])
        placed.append(bodies.place(bodies.body("car", variant=2), ego, _EGO_LIVERY))
        if look.air.lamps > 0:
            beams += _beams(ego, braking=frame.acceleration_mps2 < -0.5)
        build = MeshBuilder()
        add_signals(build, self._street.signals, frame.lights)
        return bodies.gather(placed, build.mesh()), np.array(outlines), np.array(beams).reshape(-1, 5)


def jpeg(image: NDArray[np.uint8], look: Look) -> bytes:
    """An image [H, W, 3] RGB as the log's camera stores it."""
    quality = look.appearance.response.jpeg_quality
    return bytes(simplejpeg.encode_jpeg(image, quality=quality, colorspace="RGB", colorsubsampling="420"))


def _white_livery() -> bodies.Livery:
    dress = bodies.livery(0)
    colour = dress.colour.copy()
    colour[bodies.PAINT] = 0.62
    return bodies.Livery(colour, dress.glow)


_EGO_LIVERY = _white_livery()


def _placed(item: SceneObject, box: Array, step: int, seed: int, lamps: float) -> bodies.Placed:
    shape = bodies.shape_of(item.kind)
    number = zlib.crc32(f"{seed}/{item.track}".encode())
    speed = float(np.hypot(*item.velocity_mps))
    parked = item.kind == "vehicle"
    # One and a half blinks a second; two keyframes in a row may show it on and off.
    blink = (step * 3 + number) % 20 < 12
    dress = bodies.livery(
        number,
        braking=item.braking and not parked,
        lamps=0.0 if parked else lamps,
        blink_left=item.indicator > 0 and blink,
        blink_right=item.indicator < 0 and blink,
    )
    far = float(np.hypot(*item.box[:2])) > bodies.FAR_M
    if shape == "pedestrian":
        walked = speed * step * 0.1 / STRIDE_M * bodies.GAIT_PHASES + number
        phase = bodies.GAIT_PHASES if speed < WALKING_MPS else int(walked) % bodies.GAIT_PHASES
        form = bodies.body(shape, phase, variant=number % 5 == 0)
    elif shape == "bicycle":
        form = bodies.body(shape, int(speed * step * 0.1 / 4.0 * bodies.GAIT_PHASES + number) % bodies.GAIT_PHASES)
    elif shape == "car":
        # A low box is no off-roader, a high one no saloon.
        forms = (2, 2, 3, 1) if box[5] > 1.62 else (0, 0, 1, 0)
        form = bodies.body(shape, variant=forms[number % 4] if box[3] < 5.1 else 2, simple=far)
    elif shape == "generic_object" and box[3] > SHELTER_LENGTH_M:
        form = bodies.body("shelter")
    else:
        form = bodies.body(shape, simple=far)
    return bodies.place(form, box, dress)


def _beams(box: Array, *, braking: bool) -> list[list[float]]:
    """Light that a vehicle throws on the street ahead and, in red, behind."""
    x, y, heading, half = float(box[0]), float(box[1]), float(box[6]), float(box[3]) / 2
    ahead = np.array([np.cos(heading), np.sin(heading)])
    front, rear = np.array([x, y]) + half * ahead, np.array([x, y]) - half * ahead
    return [
        [front[0], front[1], heading, 1.0, 0.0],
        [rear[0], rear[1], heading + np.pi, 1.0 if braking else 0.4, 1.0],
    ]
