"""Pictures of a scene: what the cameras saw, and the street from above, with plans drawn in."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from irlvla.data.sensors import load_image
from irlvla.errors import DataError
from irlvla.evaluation.projection import Lens, lens, project_polygon, project_segments
from irlvla.geometry import GROUND_Z_M, box_corners
from irlvla.types import OBJECT_TYPES, Boxes, Camera, Scene

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

OBJECT_COLOURS = dict(
    zip(OBJECT_TYPES, ("#f2c14e", "#ff5d8f", "#b388ff", "#ff8a4c", "#c0c7d1", "#e6a23c", "#8fd0a8"), strict=True)
)
PLAN_COLOURS = ("#ff7a1a", "#3b82f6", "#e0399a", "#8b5cf6", "#14b8c4", "#a3a51d")
HUMAN_COLOUR = "#22b573"
RIBBON_WIDTH_M = 0.45
"""Of the plan on top; each one below is wider by as much, so that plans on top of each other can all be seen."""
RIBBON_OPACITY = 0.75
FARTHEST_BOX_M = 70.0
SHEET_ORDER = ("CAM_L0", "CAM_F0", "CAM_R0", "CAM_L1", "CAM_B0", "CAM_R1", "CAM_L2", "CAM_R2")
"""Cameras of a sheet, row by row: ahead, to the sides and back, back to the sides."""


@dataclass(frozen=True)
class DrawnPlan:
    """A plan and how it appears in pictures and legend."""

    label: str
    poses: Array
    """[P, 3] in the ego frame at t=0."""
    colour: str
    """CSS hexadecimal colour."""


def plan_colours(names: Sequence[str]) -> dict[str, str]:
    """One colour for each policy, the same in every picture, chart and legend of a page; the human is always green."""
    others = [name for name in names if name != "human"]
    colours = {name: PLAN_COLOURS[index % len(PLAN_COLOURS)] for index, name in enumerate(others)}
    return colours | {"human": HUMAN_COLOUR}


def ground_height_m(boxes: Boxes) -> float:
    """Height of the street in the ego frame, m: the middle height at which nearby vehicles stand.

    Real logs put the ego origin somewhat above the road; without a vehicle in 30 m nuPlan's height is taken.
    """
    near = (boxes.types == OBJECT_TYPES.index("vehicle")) & (np.hypot(*boxes.boxes[:, :2].T) < 30)
    bottoms_m = boxes.boxes[near, 2] - boxes.boxes[near, 5] / 2
    return float(np.median(bottoms_m)) if len(bottoms_m) else GROUND_Z_M


def draw_camera(
    camera: Camera,
    image: Image,
    *,
    plans: Sequence[DrawnPlan] = (),
    boxes: Boxes | None = None,
    street_z_m: float | None = None,
    width_px: int = 960,
) -> Image:
    """A camera image with annotated objects as wire frames and plans as ribbons on the street.

    Args:
        camera: Mounting, intrinsics and distortion, for the image as stored.
        image: [H, W, 3] RGB, uint8.
        plans: Drawn in this order, so the last lies on top.
        boxes: Annotated objects; a cross marks the front of each.
        street_z_m: Height of the street in the ego frame; judged by the boxes if left out.
        width_px: Width of the result; the height keeps the image's proportions.
    Returns:
        [h, width_px, 3] RGB, uint8.
    """
    stored_height, stored_width = image.shape[:2]
    height_px = round(stored_height * width_px / stored_width)
    smoothing = cv2.INTER_AREA if width_px < stored_width else cv2.INTER_CUBIC
    picture: Image = cv2.resize(image, (width_px, height_px), interpolation=smoothing).astype(np.uint8, copy=False)
    view = lens(camera, (stored_width, stored_height), (width_px, height_px))
    if boxes is not None:
        _draw_boxes(picture, boxes, view)
    if street_z_m is None:
        street_z_m = GROUND_Z_M if boxes is None else ground_height_m(boxes)
    for index, plan in enumerate(plans):
        _draw_ribbon(picture, plan, view, street_z_m, RIBBON_WIDTH_M * min(len(plans) - index, 3))
    return picture


def draw_all_cameras(scene: Scene, plans: Sequence[DrawnPlan] = (), *, width_px: int = 560) -> Image:
    """All cameras of a scene that have an image, in one sheet of three columns, left to right as they look.

    Args:
        scene: Its present frame gives cameras and boxes.
        plans: See `draw_camera`.
        width_px: Width of one camera's picture.
    Returns:
        [h, w, 3] RGB, uint8; missing pictures in the last row are black.
    Raises:
        DataError: the scene has no camera image, or one cannot be read.
    """
    cameras = [scene.now.cameras[name] for name in SHEET_ORDER if name in scene.now.cameras]
    cameras = [camera for camera in cameras if camera.image_path is not None]
    if not cameras:
        raise DataError(
            f"scene {scene.token} names no camera image: are the sensor blobs where the data root has them?"
        )
    pictures = [
        draw_camera(
            camera,
            load_image(camera, scene_token=scene.token),
            plans=plans,
            boxes=scene.now.boxes,
            width_px=width_px,
        )
        for camera in cameras
    ]
    height_px = max(len(picture) for picture in pictures)
    sheet = np.zeros((height_px * -(-len(pictures) // 3), width_px * min(len(pictures), 3), 3), dtype=np.uint8)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, 3)
        sheet[row * height_px :, column * width_px :][: len(picture), :width_px] = picture
    return sheet


def box_wires(boxes: Array) -> Array:
    """Edges [N, 14, 2, 3] of boxes [N, 7] in their own frame: twelve edges and a cross on the front face."""
    ground = box_corners(boxes[:, [0, 1, 6, 3, 4]])
    low = np.concatenate(
        [ground, np.broadcast_to((boxes[:, 2] - boxes[:, 5] / 2)[:, None, None], (*ground.shape[:2], 1))], -1
    )
    high = low + boxes[:, None, None, 5] * np.array([0, 0, 1.0])
    corners = np.concatenate([low, high], axis=1)
    # Corners run front-left, rear-left, rear-right, front-right, first below, then above.
    edges = [(i, (i + 1) % 4) for i in range(4)] + [(4 + i, 4 + (i + 1) % 4) for i in range(4)]
    edges += [(i, i + 4) for i in range(4)] + [(0, 7), (3, 4)]
    return corners[:, np.array(edges)]


def ribbon(poses: Array, width_m: float, step_m: float = 0.5) -> Array:
    """Quadrilaterals [N, 4, 2] on the ground along a plan [P, 3], straight between poses as the scorer reads it."""
    path = np.concatenate([np.zeros((1, 2)), poses[:, :2]])
    lengths = np.hypot(*np.diff(path, axis=0).T)
    path = path[np.concatenate([[True], lengths > 0.02])]
    if len(path) < 2:
        return np.zeros((0, 4, 2))
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    samples = np.linspace(0, along[-1], max(2, int(np.ceil(along[-1] / step_m)) + 1))
    x, y = (np.interp(samples, along, path[:, axis]) for axis in (0, 1))
    heading = np.arctan2(np.gradient(y, samples), np.gradient(x, samples))
    side = width_m / 2 * np.stack([-np.sin(heading), np.cos(heading)], axis=-1)
    middle = np.stack([x, y], axis=-1)
    left, right = middle + side, middle - side
    return np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1)


def jpeg_data_uri(image: Image, quality: int = 82) -> str:
    """An RGB image as a `data:` address for a page that must stand alone."""
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode an image of shape {image.shape} as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _fixed_point(pixels: Array) -> NDArray[np.int32]:
    """Pixels in sixteenths, as OpenCV draws them with `shift=4`."""
    return np.round(pixels * 16).astype(np.int32)


def _draw_boxes(picture: Image, boxes: Boxes, view: Lens) -> None:
    distance_m = np.hypot(*boxes.boxes[:, :2].T)
    thickness = max(1, round(view.width_px / 700))
    wires = box_wires(boxes.boxes)
    for index in np.argsort(-distance_m):
        if distance_m[index] > FARTHEST_BOX_M:
            continue
        colour = _rgb(OBJECT_COLOURS[OBJECT_TYPES[boxes.types[index]]])
        curves = [_fixed_point(curve) for curve in project_segments(wires[index], view)]
        cv2.polylines(picture, curves, False, colour, thickness, cv2.LINE_AA, shift=4)


def _draw_ribbon(picture: Image, plan: DrawnPlan, view: Lens, ground_z_m: float, width_m: float) -> None:
    overlay = picture.copy()
    for corners in ribbon(plan.poses, width_m):
        outline = project_polygon(np.column_stack([corners, np.full(4, ground_z_m)]), view)
        if len(outline):
            cv2.fillConvexPoly(overlay, _fixed_point(outline), _rgb(plan.colour), cv2.LINE_AA, shift=4)
    cv2.addWeighted(overlay, RIBBON_OPACITY, picture, 1 - RIBBON_OPACITY, 0, dst=picture)
