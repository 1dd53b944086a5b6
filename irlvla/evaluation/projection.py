"""Where points of the ego frame appear in a camera image, with everything behind or beside the camera cut off.

Lines and polygons are clipped in space, before projection: a vertex behind the camera would otherwise land on the
wrong side of the picture, and one far outside it would be folded back by the lens polynomial.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from irlvla.types import Camera

Array = NDArray[np.float64]

NEAR_M = 0.2
"""Nothing closer to the camera than this is drawn."""
MARGIN = 0.05
"""How far beyond the picture's border lines are still followed, as a share of its half size."""
CURVE_PIECES = 12
"""Into how many pieces a line is cut where the lens bends it."""


@dataclass(frozen=True)
class Lens:
    """A camera ready to project: pose, intrinsics at the drawn size, and the pyramid of space it sees."""

    camera: Camera
    intrinsic: Array
    """[3, 3] pinhole matrix in pixels of the drawn picture."""
    width_px: int
    height_px: int
    planes: Array
    """[5, 4] half-spaces a·x + b >= 0, in camera coordinates, of what is drawn: near, left, right, top, bottom."""

    @property
    def is_distorted(self) -> bool:
        return bool(np.any(self.camera.distortion))


def lens(camera: Camera, stored_size_px: tuple[int, int], drawn_size_px: tuple[int, int] | None = None) -> Lens:
    """Prepare a camera for drawing.

    Args:
        camera: Mounting and intrinsics; the latter in pixels of the image as stored.
        stored_size_px: Width and height of the image as stored.
        drawn_size_px: Width and height of the picture drawn on; as stored if left out.
    """
    width, height = drawn_size_px or stored_size_px
    scale = np.array([width / stored_size_px[0], height / stored_size_px[1]])
    intrinsic = np.array(camera.intrinsic, dtype=np.float64)
    # Pixel centres lie at whole numbers, so shrinking the picture moves the optical axis by half a pixel less.
    intrinsic[:2, 2] = (intrinsic[:2, 2] + 0.5) * scale - 0.5
    intrinsic[:2, :2] *= scale[:, None]
    return Lens(camera, intrinsic, width, height, _bounding_planes(intrinsic, camera.distortion, width, height))


def project_points(points_ego: Array, view: Lens) -> tuple[Array, NDArray[np.bool_]]:
    """Pixels [N, 2] of points [N, 3] in the ego frame, and which of them lie inside the bounding pyramid [N]."""
    points_camera = _to_camera(np.asarray(points_ego, dtype=np.float64).reshape(-1, 3), view.camera)
    seen: NDArray[np.bool_] = np.all(points_camera @ view.planes[:, :3].T + view.planes[:, 3] >= 0, axis=-1)
    pixels = np.zeros((len(points_camera), 2))
    pixels[seen] = _to_pixels(points_camera[seen], view)
    return pixels, seen


def project_segments(segments_ego: Array, view: Lens) -> list[Array]:
    """Picture curves of straight lines in space.

    Args:
        segments_ego: [N, 2, 3] start and end in the ego frame, m.
    Returns:
        One [M, 2] polyline in pixels for each line that is at least partly seen.
    """
    curves = []
    for start, end in _to_camera(np.asarray(segments_ego, dtype=np.float64), view.camera):
        low, high = 0.0, 1.0
        for plane in view.planes:
            at_start, at_end = plane[:3] @ start + plane[3], plane[:3] @ end + plane[3]
            if at_start < 0 and at_end < 0:
                low, high = 1.0, 0.0
                break
            if at_start < 0:
                low = max(low, at_start / (at_start - at_end))
            elif at_end < 0:
                high = min(high, at_start / (at_start - at_end))
        if low < high:
            share = np.linspace(low, high, CURVE_PIECES if view.is_distorted else 2)[:, None]
            curves.append(_to_pixels(start + share * (end - start), view))
    return curves


def project_polygon(corners_ego: Array, view: Lens) -> Array:
    """Picture outline [M, 2] in pixels of a convex polygon [N, 3] in the ego frame; M = 0 where it is not seen.

    Source: Sutherland and Hodgman, "Reentrant Polygon Clipping", 1974.
    """
    corners = _to_camera(np.asarray(corners_ego, dtype=np.float64), view.camera)
    for plane in view.planes:
        if len(corners) == 0:
            break
        distance = corners @ plane[:3] + plane[3]
        kept: list[Array] = []
        for index in range(len(corners)):
            here, after = distance[index], distance[(index + 1) % len(corners)]
            if here >= 0:
                kept.append(corners[index])
            if (here >= 0) != (after >= 0):
                share = here / (here - after)
                kept.append(corners[index] + share * (corners[(index + 1) % len(corners)] - corners[index]))
        corners = np.array(kept).reshape(-1, 3)
    return _to_pixels(corners, view) if len(corners) >= 3 else np.zeros((0, 2))


def _to_camera(points_ego: Array, camera: Camera) -> Array:
    return (points_ego - camera.translation_ego) @ camera.rotation_ego


def _to_pixels(points_camera: Array, view: Lens) -> Array:
    if len(points_camera) == 0:
        return np.zeros((0, 2))
    still = np.zeros(3)
    pixels, _ = cv2.projectPoints(points_camera, still, still, view.intrinsic, view.camera.distortion)
    return np.asarray(pixels, dtype=np.float64).reshape(-1, 2)


def _bounding_planes(intrinsic: Array, distortion: Array, width_px: int, height_px: int) -> Array:
    """Near plane and four sides of the pyramid around the picture, in camera coordinates."""
    steps = np.linspace(0, 1, 17)
    edge = np.concatenate([np.stack(pair, axis=-1) for pair in _border(steps)])
    border = (edge * [width_px, height_px] - 0.5 - intrinsic[:2, 2]) / np.diag(intrinsic)[:2]
    radius = np.linalg.norm(border, axis=-1)
    straight_radius, bent_radius = _lens_curve(distortion)
    straight = border * (np.interp(radius, bent_radius, straight_radius) / radius)[:, None]
    (left, top), (right, bottom) = straight.min(axis=0) * (1 + MARGIN), straight.max(axis=0) * (1 + MARGIN)
    farthest = np.hypot(max(-left, right), max(-top, bottom))
    if farthest > straight_radius[-1]:
        left, right, top, bottom = np.array([left, right, top, bottom]) * straight_radius[-1] / farthest
    return np.array([[0, 0, 1, -NEAR_M], [1, 0, -left, 0], [-1, 0, right, 0], [0, 1, -top, 0], [0, -1, bottom, 0]])


def _border(steps: Array) -> list[tuple[Array, Array]]:
    low, high = np.zeros_like(steps), np.ones_like(steps)
    return [(steps, low), (steps, high), (low, steps), (high, steps)]


def _lens_curve(distortion: Array) -> tuple[Array, Array]:
    """Straight radii and the radii the lens bends them to, as far out as the polynomial is one-to-one."""
    k1, k2, _, _, k3 = distortion
    straight = np.linspace(0, 4, 4001)
    bent = straight * (1 + k1 * straight**2 + k2 * straight**4 + k3 * straight**6)
    folding = np.flatnonzero(np.diff(bent) <= 0)
    end = int(folding[0]) + 1 if len(folding) else len(straight)
    return straight[:end], bent[:end]
