"""What goes into the driving VLA, and what it is taught: batched tensors made from observations and scenes.

Both are plain numpy work and may run in loader processes. Shape letters: B scenes, V cameras, H and W image size,
L LiDAR cells along a side, Q boxes, M map pieces, P points, S semantic layers, N BEV cells along a side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from torch import Tensor

from irlvla.data.language import PATH_WORDS, SPEED_WORDS, DrivingAnswer, meta_action
from irlvla.data.maps import CityMap
from irlvla.data.scenes import human_plan
from irlvla.data.sensors import load_image, load_point_cloud
from irlvla.errors import SceneDataError
from irlvla.geometry import GROUND_Z_M, box_corners, ego_to_world, world_to_ego
from irlvla.model.config import ModelConfig
from irlvla.model.records import Record
from irlvla.types import OBJECT_TYPES, PLAN_STEP_S, Array, Boxes, Camera, Frame, Observation, Scene

AGENT_TYPES = 3
"""The first types of OBJECT_TYPES move by themselves."""

BEV_LAYERS = (
    "drivable",
    "lane_center",
    "intersection",
    "crosswalk",
    "red_light",
    "agents_0s",
    "agents_1s",
    "agents_2s",
    "agents_3s",
    "agents_4s",
    "static_objects",
    "route",
)
"""Layers of the top-down picture that teaches the BEV; agents are drawn where they will be, so that the map shows the
reward world model where not to be when."""

FUTURE_S = (0, 1, 2, 3, 4)

MAP_TYPES = ("lane", "lane_connector", "crosswalk", "stop_line")
"""Kinds of map pieces the map head finds."""

MAP_PIECE_M = 32.0
"""Longest map piece; longer center lines are cut."""

_SUBPIXEL_BITS = 4
_LIDAR_GAIN = 50.0


@dataclass(frozen=True)
class SceneInputs(Record):
    """All that the driving VLA sees of B scenes."""

    images: Tensor
    """[B, V, 3, H, W] uint8 RGB."""
    intrinsic: Tensor
    """[B, V, 3, 3] pinhole matrix in pixels of `images`."""
    distortion: Tensor
    """[B, V, 5] OpenCV k1, k2, p1, p2, k3."""
    ego_to_camera: Tensor
    """[B, V, 3, 4] takes homogeneous ego points (m) to camera axes (x right, y down, z forward)."""
    lidar: Tensor
    """[B, 2 * bands, L, L] uint8 log point counts per height band: the current sweep, then the one 0.5 s earlier, both
    in the current ego frame; rows along x, columns along y."""
    has_lidar: Tensor
    """[B] bool."""
    ego_status: Tensor
    """[B, 13] velocity (2, m/s), acceleration (2, m/s²), three past poses (x, y m, heading rad), oldest first."""
    command: Tensor
    """[B, 4] one-hot over COMMANDS."""
    instructions: tuple[str, ...]
    tokens: tuple[str, ...]

    @classmethod
    def from_observations(cls, observations: Sequence[Observation], config: ModelConfig) -> "SceneInputs":
        """Load images and point clouds of observations.

        A frame without LiDAR is legal (camera-only data); a missing camera is not.

        Raises:
            SceneDataError: a camera that the model looks through is missing, or its image cannot be read.
        """
        rows = [_load_observation(observation, config) for observation in observations]
        stacked = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
        return cls(
            **stacked,
            instructions=tuple(observation.instruction for observation in observations),
            tokens=tuple(observation.token for observation in observations),
        )


@dataclass(frozen=True)
class SceneTargets(Record):
    """What imitation teaches about B scenes; privileged, never an input."""

    plan: Tensor
    """[B, 8, 3] human plan (ego frame, m, rad)."""
    boxes: Tensor
    """[B, Q, 7] center x, y, length, width (m), heading (rad), velocity x, y (m/s), ego frame."""
    box_types: Tensor
    """[B, Q] index into OBJECT_TYPES, -1 for padding."""
    map_polylines: Tensor
    """[B, M, P, 2] x, y (m, ego frame), evenly spaced."""
    map_types: Tensor
    """[B, M] index into MAP_TYPES, -1 for padding."""
    bev_semantics: Tensor
    """[B, S, 2N, 2N] uint8 0 or 1 for each of BEV_LAYERS; rows along x, columns along y."""
    speed_word: Tensor
    """[B] index into SPEED_WORDS."""
    path_word: Tensor
    """[B] index into PATH_WORDS."""
    answers: tuple[str, ...]
    """Answer to the scene's instruction."""
    tokens: tuple[str, ...]

    @classmethod
    def from_scenes(
        cls,
        scenes: Sequence[Scene],
        maps: Mapping[str, CityMap],
        config: ModelConfig,
        answers: Mapping[str, DrivingAnswer] | None = None,
    ) -> "SceneTargets":
        """Draw up what to teach.

        Args:
            scenes: with at least 8 future frames.
            maps: map location -> city.
            config: sizes.
            answers: token -> answer; where absent, answer and words are derived from the human future.
        Raises:
            SceneDataError: a scene has no human future.
        """
        rows = [_draw_up(scene, maps[scene.map_location], config) for scene in scenes]
        stacked = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
        given = [(answers or {}).get(scene.token) or derive_answer(scene) for scene in scenes]
        return cls(
            **stacked,
            speed_word=torch.tensor([SPEED_WORDS.index(answer.speed_word) for answer in given]),
            path_word=torch.tensor([PATH_WORDS.index(answer.path_word) for answer in given]),
            answers=tuple(answer.answer for answer in given),
            tokens=tuple(scene.token for scene in scenes),
        )


def derive_answer(scene: Scene) -> DrivingAnswer:
    """Answer to the driving question from what the human went on to do, for data that come without answers."""
    speed_word, path_word = meta_action(human_plan(scene), float(scene.now.ego_velocity_mps[0]))
    return DrivingAnswer(
        scene.token, scene.instruction, f"{speed_word.capitalize()}, {path_word}.", speed_word, path_word
    )


def _load_observation(observation: Observation, config: ModelConfig) -> dict[str, NDArray[Any]]:
    now = observation.now
    images, intrinsics = [], []
    cameras = [_camera(observation, name) for name in config.cameras]
    for camera in cameras:
        image, intrinsic = _fit_image(
            load_image(camera, scene_token=observation.token), np.asarray(camera.intrinsic, dtype=np.float64), config
        )
        images.append(image.transpose(2, 0, 1))
        intrinsics.append(intrinsic)
    lidar, has_lidar = lidar_histogram(observation, config)
    past = np.stack([frame.ego_pose_world for frame in observation.frames[:-1]])
    past_ego = world_to_ego(past, now.ego_pose_world)
    status = np.concatenate([now.ego_velocity_mps, now.ego_acceleration_mps2, past_ego.ravel()])
    ego_to_camera = [
        np.concatenate([camera.rotation_ego.T, -camera.rotation_ego.T @ camera.translation_ego[:, None]], axis=1)
        for camera in cameras
    ]
    return {
        "images": np.stack(images),
        "intrinsic": np.stack(intrinsics).astype(np.float32),
        "distortion": np.stack([camera.distortion for camera in cameras]).astype(np.float32),
        "ego_to_camera": np.stack(ego_to_camera).astype(np.float32),
        "lidar": lidar,
        "has_lidar": np.array(has_lidar),
        "ego_status": status.astype(np.float32),
        "command": np.asarray(now.command, dtype=np.float32),
    }


def _camera(observation: Observation, name: str) -> Camera:
    camera = observation.now.cameras.get(name)
    if camera is None:
        raise SceneDataError(
            observation.token,
            f"camera {name}, which the model looks through, is missing; it has "
            f"{', '.join(observation.now.cameras) or 'no camera at all'}",
        )
    return camera


def _fit_image(image: NDArray[np.uint8], intrinsic: Array, config: ModelConfig) -> tuple[NDArray[np.uint8], Array]:
    """Scale an image to the network's width, then crop (or pad with black) its rows; the pinhole matrix follows."""
    stored_rows = image.shape[0]
    scale = config.image_width / image.shape[1]
    rows = round(stored_rows * scale)
    if scale != 1.0:
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = cv2.resize(image, (config.image_width, rows), interpolation=interpolation)  # type: ignore[assignment]
    surplus = rows - config.image_height
    top = round(surplus * config.crop_from_top)
    if surplus >= 0:
        image = image[top : top + config.image_height]
    else:
        image = np.pad(image, ((-top, top - surplus), (0, 0), (0, 0)))
    # Pixel centers lie at whole numbers, so that scaling is about (-0.5, -0.5).
    vertical = rows / stored_rows
    fitted = intrinsic.copy()
    fitted[0] *= scale
    fitted[1] *= vertical
    fitted[0, 2] += 0.5 * (scale - 1)
    fitted[1, 2] += 0.5 * (vertical - 1) - top
    return image, fitted


def lidar_histogram(observation: Observation, config: ModelConfig) -> tuple[NDArray[np.uint8], bool]:
    """Log point counts per height band of the last two sweeps, in the current ego frame.

    Two aligned sweeps show what moves. Returns zeros and False where the current frame has no LiDAR; an absent earlier
    sweep leaves its bands zero.
    """
    bands = len(config.lidar_bands_m) - 1
    counts = np.zeros((2, bands, config.lidar_cells, config.lidar_cells), dtype=np.float32)
    now = observation.now
    if now.lidar_path is None:
        return counts.reshape(2 * bands, *counts.shape[2:]).astype(np.uint8), False
    for sweep, frame in enumerate(reversed(observation.frames[-2:])):
        if frame.lidar_path is not None:
            counts[sweep] = _count_points(_points_in(frame, now), config)
    histogram = np.minimum(_LIDAR_GAIN * np.log1p(counts), 255).astype(np.uint8)
    return histogram.reshape(2 * bands, *counts.shape[2:]), True


def _points_in(frame: Frame, now: Frame) -> NDArray[np.float32]:
    assert frame.lidar_path is not None
    points = load_point_cloud(frame.lidar_path)[:, :3]
    if frame is now:
        return points
    x, y, heading = world_to_ego(frame.ego_pose_world, now.ego_pose_world)
    cos, sin = np.cos(heading), np.sin(heading)
    rotation = np.array([[cos, -sin], [sin, cos]], dtype=np.float32)
    moved = points[:, :2] @ rotation.T + np.array([x, y], dtype=np.float32)
    return np.concatenate([moved, points[:, 2:]], axis=1)


def _count_points(points: NDArray[np.float32], config: ModelConfig) -> NDArray[np.float32]:
    cells = config.lidar_cells
    bands = len(config.lidar_bands_m) - 1
    row = np.floor((points[:, 0] - config.bev_x_m[0]) * (cells / (config.bev_x_m[1] - config.bev_x_m[0])))
    column = np.floor((points[:, 1] - config.bev_y_m[0]) * (cells / (config.bev_y_m[1] - config.bev_y_m[0])))
    band = np.searchsorted(config.lidar_bands_m, points[:, 2] - GROUND_Z_M, side="right") - 1
    kept = (row >= 0) & (row < cells) & (column >= 0) & (column < cells) & (band >= 0) & (band < bands)
    flat = (band[kept] * cells + row[kept].astype(np.int64)) * cells + column[kept].astype(np.int64)
    counts = np.bincount(flat, minlength=bands * cells * cells)
    return counts.reshape(bands, cells, cells).astype(np.float32)


def _draw_up(scene: Scene, city: CityMap, config: ModelConfig) -> dict[str, NDArray[Any]]:
    boxes, box_types = _nearest_boxes(scene.now.boxes, config)
    polylines, map_types = _map_pieces(scene.now, city, config)
    return {
        "plan": human_plan(scene).astype(np.float32),
        "boxes": boxes,
        "box_types": box_types,
        "map_polylines": polylines,
        "map_types": map_types,
        "bev_semantics": bev_picture(scene, city, config),
    }


def _nearest_boxes(boxes: Boxes, config: ModelConfig) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    (x_min, x_max), (y_min, y_max) = config.bev_x_m, config.bev_y_m
    x, y = boxes.boxes[:, 0], boxes.boxes[:, 1]
    inside = np.flatnonzero((x > x_min) & (x < x_max) & (y > y_min) & (y < y_max))
    kept = inside[np.argsort(np.hypot(x[inside], y[inside]), kind="stable")][: config.n_object_queries]
    padded = np.zeros((config.n_object_queries, 7), dtype=np.float32)
    types = np.full(config.n_object_queries, -1, dtype=np.int64)
    padded[:, 2:4] = 1.0
    padded[: len(kept), :5] = boxes.boxes[kept][:, [0, 1, 3, 4, 6]]
    padded[: len(kept), 5:] = boxes.velocity_mps[kept, :2]
    types[: len(kept)] = boxes.types[kept]
    return padded, types


def _map_pieces(now: Frame, city: CityMap, config: ModelConfig) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The map pieces nearest to the ego vehicle, clipped to the BEV, as evenly spaced points."""
    (x_min, x_max), (y_min, y_max) = config.bev_x_m, config.bev_y_m
    reach = shapely.box(x_min, y_min, x_max, y_max)
    around = _reach_world(now, config)
    lines: list[Any] = []
    kinds: list[int] = []
    for kind, layer in ((0, city.lanes), (1, city.lane_connectors)):
        for lane in layer.intersecting(around):
            lines.append(city.baselines[lane])
            kinds.append(kind)
    for kind, layer in ((2, city.crosswalks), (3, city.stop_polygons)):
        if len(layer):
            for fid in layer.intersecting(around):
                lines.append(_long_axis(layer.geometry(fid)))
                kinds.append(kind)
    polylines = np.zeros((config.n_map_queries, config.map_points, 2), dtype=np.float32)
    types = np.full(config.n_map_queries, -1, dtype=np.int64)
    if not lines:
        return polylines, types
    clipped = shapely.intersection(_to_ego(np.array(lines, dtype=object), now), reach)
    parts, owner = shapely.get_parts(clipped, return_index=True)
    pieces: list[tuple[float, int, int, Array]] = []
    for part, kind in zip(parts, np.array(kinds)[owner], strict=True):
        if part.geom_type == "LineString" and part.length > 1.0:
            count = int(np.ceil(part.length / MAP_PIECE_M))
            for piece in range(count):
                along = np.linspace(piece / count, (piece + 1) / count, config.map_points) * part.length
                points = shapely.get_coordinates(shapely.line_interpolate_point(part, along))
                pieces.append((float(np.hypot(*points.T).min()), len(pieces), int(kind), points))
    for row, (_, _, kind, points) in enumerate(sorted(pieces, key=lambda p: p[:2])[: config.n_map_queries]):
        polylines[row], types[row] = points, kind
    return polylines, types


def bev_picture(scene: Scene, city: CityMap, config: ModelConfig) -> NDArray[np.uint8]:
    """Top-down picture [S, 2N, 2N] of BEV_LAYERS around the ego vehicle; rows along x, columns along y."""
    cells = 2 * config.bev_cells
    picture = np.zeros((len(BEV_LAYERS), cells, cells), dtype=np.uint8)
    layer = {name: picture[index] for index, name in enumerate(BEV_LAYERS)}
    now = scene.now
    around = _reach_world(now, config)
    route = {int(block) for block in now.roadblock_ids}
    lanes = city.lanes.intersecting(around)
    connectors = city.lane_connectors.intersecting(around)
    blocks = [city.roadblocks.geometry(block) for block in city.roadblocks.intersecting(around)]
    crossings = [city.intersections.geometry(fid) for fid in city.intersections.intersecting(around)]
    parks = [city.car_parks.geometry(fid) for fid in city.car_parks.intersecting(around)] if len(city.car_parks) else []
    areas = [city.connector_polygons[connector] for connector in connectors]
    _fill(layer["drivable"], [*blocks, *crossings, *parks, *areas], now, config)
    _fill(layer["intersection"], crossings, now, config)
    if len(city.crosswalks):
        walks = [city.crosswalks.geometry(fid) for fid in city.crosswalks.intersecting(around)]
        _fill(layer["crosswalk"], walks, now, config)
    red = [int(connector) for connector, is_red in now.traffic_lights if is_red]
    _fill(layer["red_light"], [city.connector_polygons[c] for c in red if c in city.connector_polygons], now, config)
    on_route = [lane for lane in (*lanes, *connectors) if city.roadblock_of(lane) in route]
    _fill(layer["route"], [city.lane_polygon(lane) for lane in on_route], now, config)
    for lane in (*lanes, *connectors):
        vertices = world_to_ego(_with_heading(shapely.get_coordinates(city.baselines[lane])), now.ego_pose_world)
        cv2.polylines(layer["lane_center"], [_subpixels(vertices[:, :2], config)], False, (1,), shift=_SUBPIXEL_BITS)
    for second in FUTURE_S:
        frames = (now, *scene.future)
        frame = frames[min(round(second / PLAN_STEP_S), len(frames) - 1)]
        agents = frame.boxes.types < AGENT_TYPES
        _fill_boxes(layer[f"agents_{second}s"], frame.boxes.boxes[agents], frame, now, config)
    static = (now.boxes.types >= AGENT_TYPES) & (now.boxes.types < len(OBJECT_TYPES))
    _fill_boxes(layer["static_objects"], now.boxes.boxes[static], now, now, config)
    return picture


def _reach_world(now: Frame, config: ModelConfig) -> Any:
    (x_min, x_max), (y_min, y_max) = config.bev_x_m, config.bev_y_m
    corners = np.array([[x_min, y_min, 0], [x_max, y_min, 0], [x_max, y_max, 0], [x_min, y_max, 0]])
    return shapely.polygons(ego_to_world(corners, now.ego_pose_world)[:, :2])


def _to_ego(geometries: NDArray[np.object_], now: Frame) -> NDArray[np.object_]:
    def move(points: Array) -> Array:
        return world_to_ego(_with_heading(points), now.ego_pose_world)[:, :2]

    return shapely.transform(geometries, move)


def _with_heading(points: Array) -> Array:
    return np.concatenate([points, np.zeros((len(points), 1))], axis=1)


def _long_axis(polygon: Any) -> Any:
    """Center line of an oblong area, along its longer side."""
    corners = shapely.get_coordinates(shapely.minimum_rotated_rectangle(polygon))
    if len(corners) < 4:
        return shapely.linestrings(corners[:2])
    middles = (corners[:4] + np.roll(corners[:4], -1, axis=0)) / 2
    first, second = middles[[0, 2]], middles[[1, 3]]
    longer = first if np.hypot(*(first[0] - first[1])) >= np.hypot(*(second[0] - second[1])) else second
    return shapely.linestrings(longer)


def _subpixels(points_ego: Array, config: ModelConfig) -> NDArray[np.int32]:
    cells = 2 * config.bev_cells
    row = (points_ego[..., 0] - config.bev_x_m[0]) * (cells / (config.bev_x_m[1] - config.bev_x_m[0])) - 0.5
    column = (points_ego[..., 1] - config.bev_y_m[0]) * (cells / (config.bev_y_m[1] - config.bev_y_m[0])) - 0.5
    # Far vertices of long roads would overflow OpenCV's fixed-point coordinates.
    pixels = np.clip(np.stack([column, row], axis=-1), -4000, 4000)
    return np.round(pixels * 2**_SUBPIXEL_BITS).astype(np.int32)


def _fill(layer: NDArray[np.uint8], polygons: Sequence[Any], now: Frame, config: ModelConfig) -> None:
    for polygon in shapely.get_parts(np.array(polygons, dtype=object)):
        rings = [polygon.exterior, *polygon.interiors]
        corners = [world_to_ego(_with_heading(shapely.get_coordinates(ring)), now.ego_pose_world) for ring in rings]
        cv2.fillPoly(layer, [_subpixels(ring[:, :2], config) for ring in corners], (1,), shift=_SUBPIXEL_BITS)


def _fill_boxes(layer: NDArray[np.uint8], boxes: Array, frame: Frame, now: Frame, config: ModelConfig) -> None:
    if not len(boxes):
        return
    centers = ego_to_world(boxes[:, [0, 1, 6]], frame.ego_pose_world)
    poses = world_to_ego(centers, now.ego_pose_world)
    for corners in box_corners(np.concatenate([poses, boxes[:, 3:5]], axis=1)):
        cv2.fillConvexPoly(layer, _subpixels(corners, config), (1,), shift=_SUBPIXEL_BITS)
