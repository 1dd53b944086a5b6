"""What cameras and LiDAR see in the plain look, written as sensor blobs."""

from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from irlvla.data.sensors import write_point_cloud
from irlvla.geometry import GROUND_Z_M
from irlvla.world.city import City
from irlvla.world.logs import KeyFrame, SceneObject
from irlvla.world.plain import bodies
from irlvla.world.plain.lidar import sweep
from irlvla.world.plain.raster import Light, Mesh, MeshBuilder, paint, paint_sky
from irlvla.world.plain.street import add_signals, street_mesh
from irlvla.world.presets import WorldPreset
from irlvla.world.rig import MountedCamera, mounted_cameras
from irlvla.world.scenery import Scenery

Array = NDArray[np.float64]

GROUND_REACH_M = 95.0
UPRIGHT_REACH_M = 140.0
# Images are drawn this much larger and averaged down, which smooths edges.
SUPERSAMPLING = 2
_LAWN = np.array([104.0, 128.0, 74.0])


class PlainSensors:
    """Cameras and LiDAR in one city."""

    def __init__(self, city: City, scenery: Scenery, preset: WorldPreset) -> None:
        self._city = city
        self._scenery = scenery
        self._preset = preset
        self._street = street_mesh(city, scenery)
        rig = mounted_cameras(preset.image_width_px, preset.image_height_px)
        self._cameras = [rig[name] for name in preset.cameras]

    def write(self, frames: list[KeyFrame], blobs: Path, rng: np.random.Generator, *, lidar: bool) -> None:
        """Render a log's images and point clouds into its sensor folder.

        Args:
            rng: Decides the log's weather, light and paints.
        """
        light = random_light(rng)
        for camera in self._cameras:
            (blobs / camera.name).mkdir(parents=True, exist_ok=True)
        if lidar:
            (blobs / "MergedPointCloud").mkdir(parents=True, exist_ok=True)
        for frame in frames:
            images = self.render(frame, light)
            for camera, image in zip(self._cameras, images, strict=True):
                jpeg = simplejpeg.encode_jpeg(image, quality=self._preset.jpeg_quality, colorspace="RGB")
                (blobs / camera.name / f"{frame.token}.jpg").write_bytes(jpeg)
            if lidar:
                points = sweep(frame, self._scenery, rng)
                write_point_cloud(blobs / "MergedPointCloud" / f"{frame.token}.pcd", points)

    def render(self, frame: KeyFrame, light: Light) -> list[NDArray[np.uint8]]:
        """Images [H, W, 3] RGB of the preset's cameras at a keyframe."""
        moving = _moving_mesh(frame, self._city)
        here = frame.ego_pose[:2] - self._city.offset
        street = self._street
        reach = np.where(street.tested, UPRIGHT_REACH_M, GROUND_REACH_M)
        far = np.hypot(*(street.center - here).T) - street.radius
        chosen = np.flatnonzero(far < reach)
        # Ground in painting order; then what stands, nearest first, so that hidden pixels are skipped.
        ground, upright = chosen[~street.tested[chosen]], chosen[street.tested[chosen]]
        near_street = np.concatenate([ground, upright[np.argsort(far[upright], kind="stable")]])
        return [
            draw(camera, frame.ego_pose, self._city.offset, light, ((street, near_street), (moving, None)))
            for camera in self._cameras
        ]


def random_light(rng: np.random.Generator) -> Light:
    """Weather and time of day of one log."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.2)
    sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    overcast = rng.uniform() < 0.35
    brightness = rng.uniform(0.75, 1.05)
    warm = rng.uniform(-12.0, 14.0)
    if overcast:
        horizon, zenith, ambient = np.array([196.0, 200.0, 204.0]), np.array([160.0, 166.0, 174.0]), 0.8
    else:
        horizon, zenith, ambient = np.array([206.0, 216.0, 226.0]), np.array([92.0, 140.0, 204.0]), 0.55
    tint = np.array([warm, 0.0, -warm])
    return Light(
        sun,
        ambient,
        float(rng.uniform(140.0, 420.0)),
        np.clip((horizon + tint) * brightness, 0, 255),
        np.clip((zenith + tint) * brightness, 0, 255),
    )


def draw(
    camera: MountedCamera,
    ego_pose: Array,
    offset: Array,
    light: Light,
    meshes: tuple[tuple[Mesh, NDArray[np.int64] | None], ...],
) -> NDArray[np.uint8]:
    """Draw meshes through one camera.

    Args:
        ego_pose: [3] rear axle, world.
        offset: [2] world position of the meshes' origin.
        meshes: Each with the polygons to draw; None draws all.
    Returns:
        [H, W, 3] RGB.
    """
    cos, sin = np.cos(ego_pose[2]), np.sin(ego_pose[2])
    to_mesh = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    rotation = to_mesh @ camera.rotation_ego
    origin = to_mesh @ camera.translation_ego + np.array([*(ego_pose[:2] - offset), -GROUND_Z_M])
    intrinsic = camera.intrinsic.copy()
    intrinsic[:2] *= SUPERSAMPLING
    height, width = camera.height_px * SUPERSAMPLING, camera.width_px * SUPERSAMPLING
    image = np.empty((height, width, 3), dtype=np.uint8)
    inverse_depth = np.empty((height, width))
    paint_sky(image, inverse_depth, light.horizon, light.zenith, _LAWN, float(intrinsic[1, 2]))
    for mesh, chosen in meshes:
        rows = np.arange(len(mesh.material)) if chosen is None else chosen
        paint(
            image, inverse_depth, mesh.vertices, mesh.start, mesh.colour, mesh.material, mesh.tested, rows,
            rotation, origin, intrinsic, light.sun, light.ambient, light.haze_m, light.horizon,
        )  # fmt: skip
    reduced = cv2.resize(image, (camera.width_px, camera.height_px), interpolation=cv2.INTER_AREA)
    return np.asarray(reduced, dtype=np.uint8)


def _moving_mesh(frame: KeyFrame, city: City) -> Mesh:
    build = MeshBuilder()
    x, y, heading = frame.ego_pose
    cos, sin = np.cos(heading), np.sin(heading)
    for item in frame.objects:
        box = item.box.copy()
        box[0] = x + cos * item.box[0] - sin * item.box[1] - city.offset[0]
        box[1] = y + sin * item.box[0] + cos * item.box[1] - city.offset[1]
        box[6] = item.box[6] + heading
        shape = bodies.shape_of(item.kind)
        quads, colours, materials = bodies.placed(shape, box, *_paints(item, shape), braking=item.braking)
        build.add_all(quads, colours, materials)
    add_signals(build, frame.lights, city.offset)
    return build.mesh()


def _paints(item: SceneObject, shape: str) -> tuple[Array, Array]:
    # A stable number from the track's name: Python's own hash differs between runs.
    number = sum((k + 1) * ord(letter) for k, letter in enumerate(item.track))
    if shape in ("pedestrian", "bicycle"):
        return bodies.CLOTHES[number % len(bodies.CLOTHES)], bodies.CLOTHES[0]
    if shape == "generic_object":
        return np.array([70.0, 96.0, 78.0]), np.zeros(3)
    paint_colour = bodies.CAR_PAINTS[number % len(bodies.CAR_PAINTS)]
    return paint_colour, bodies.CAR_PAINTS[(number // 3) % 3]
