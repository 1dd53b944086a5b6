"""Drawing flat polygons of a 3D scene through a pinhole camera, with a depth buffer.

Everything in the embedded world is made of flat polygons. Ground polygons (road, markings) are painted in their given
order without a depth test; whatever stands upright is tested against the depth buffer.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NEAR_M = 0.25
MAX_VERTICES = 512

# Materials: how a polygon's colour varies over its surface.
PLAIN, ASPHALT, GRASS, WINDOWS, STRIPES, PAVING, GLOW = range(7)


@dataclass(frozen=True)
class Mesh:
    """Flat polygons."""

    vertices: Array
    """[V, 3] m."""
    start: NDArray[np.int64]
    """[P + 1] first vertex of each polygon."""
    colour: NDArray[np.float64]
    """[P, 3] RGB, 0 to 255, before light and haze."""
    material: NDArray[np.int64]
    """[P]"""
    tested: NDArray[np.bool_]
    """[P] whether the depth buffer decides; ground paint is not tested."""
    center: Array
    """[P, 2] middle of each polygon, for choosing what is near."""
    radius: Array
    """[P]"""


class MeshBuilder:
    """Collects polygons into a Mesh."""

    def __init__(self) -> None:
        self._vertices: list[Array] = []
        self._colour: list[tuple[float, float, float]] = []
        self._material: list[int] = []
        self._tested: list[bool] = []

    def add(
        self, vertices: Array, colour: tuple[float, float, float], material: int = PLAIN, *, tested: bool = True
    ) -> None:
        """Add one polygon of [N, 3] vertices."""
        self._vertices.append(vertices)
        self._colour.append(colour)
        self._material.append(material)
        self._tested.append(tested)

    def add_all(
        self, quads: Array, colours: NDArray[np.float64], materials: NDArray[np.int64], *, tested: bool = True
    ) -> None:
        """Add [Q, 4, 3] quads with [Q, 3] colours and [Q] materials."""
        self._vertices.extend(quads)
        self._colour.extend(map(tuple, colours))
        self._material.extend(int(m) for m in materials)
        self._tested.extend([tested] * len(quads))

    def mesh(self) -> Mesh:
        """What was collected so far."""
        counts = np.array([len(v) for v in self._vertices], dtype=np.int64)
        start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        vertices = np.concatenate(self._vertices) if self._vertices else np.zeros((0, 3))
        if len(counts):
            low = np.minimum.reduceat(vertices[:, :2], start[:-1])
            high = np.maximum.reduceat(vertices[:, :2], start[:-1])
        else:
            low = high = np.zeros((0, 2))
        return Mesh(
            np.ascontiguousarray(vertices, dtype=np.float64),
            start,
            np.array(self._colour, dtype=np.float64).reshape(-1, 3),
            np.array(self._material, dtype=np.int64),
            np.array(self._tested, dtype=bool),
            (low + high) / 2,
            np.hypot(*(high - low).T) / 2,
        )


@dataclass(frozen=True)
class Light:
    """Weather and time of day."""

    sun: Array
    """[3] unit vector towards the sun, in the frame of the mesh."""
    ambient: float
    """Share of light that falls on a face turned away from the sun."""
    haze_m: float
    """Distance over which contrast falls to 1/e."""
    horizon: Array
    """[3] RGB of the haze."""
    zenith: Array
    """[3] RGB of the sky overhead."""


@numba.njit(cache=True)
def paint_sky(image: NDArray[np.uint8], inverse_depth: Array, light_horizon: Array, zenith: Array, ground: Array,
              horizon_row: float) -> None:  # fmt: skip
    """Fill an image with sky above `horizon_row` and open ground below, and clear the depth buffer."""
    height, width = image.shape[0], image.shape[1]
    for v in range(height):
        above = (horizon_row - v) / max(1.0, horizon_row)
        for u in range(width):
            inverse_depth[v, u] = 0.0
            for k in range(3):
                if above > 0:
                    mix = above**0.7
                    image[v, u, k] = np.uint8(light_horizon[k] * (1 - mix) + zenith[k] * mix)
                else:
                    near = min(1.0, -above * 6.0)
                    image[v, u, k] = np.uint8(light_horizon[k] * (1 - near) + ground[k] * near)


@numba.njit(cache=True)
def _noise(i: int, j: int) -> float:
    n = (i * 374761393 + j * 668265263) & 0x7FFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0x7FFFFFFF
    return float(n & 1023) / 1023.0


@numba.njit(cache=True, fastmath=False)
def paint(
    image: NDArray[np.uint8],
    inverse_depth: Array,
    vertices: Array,
    start: NDArray[np.int64],
    colours: Array,
    materials: NDArray[np.int64],
    tested: NDArray[np.bool_],
    chosen: NDArray[np.int64],
    rotation: Array,
    origin: Array,
    intrinsic: Array,
    sun: Array,
    ambient: float,
    haze_m: float,
    horizon: Array,
) -> None:
    """Draw chosen polygons.

    Args:
        image: [H, W, 3] drawn into.
        inverse_depth: [H, W] 1/depth (1/m) of what is drawn so far; 0 is sky.
        chosen: [C] polygons in drawing order.
        rotation: [3, 3] camera to mesh axes.
        origin: [3] camera in the frame of the mesh.
    """
    height, width = image.shape[0], image.shape[1]
    fx, fy, cx, cy = intrinsic[0, 0], intrinsic[1, 1], intrinsic[0, 2], intrinsic[1, 2]
    camera = np.empty((MAX_VERTICES, 3))
    pixel = np.empty((2 * MAX_VERTICES, 2))
    crossing = np.empty(2 * MAX_VERTICES)
    for c in range(len(chosen)):
        p = chosen[c]
        first, count = start[p], start[p + 1] - start[p]
        if count < 3 or count > MAX_VERTICES:
            continue
        behind = 0
        for k in range(count):
            x = vertices[first + k, 0] - origin[0]
            y = vertices[first + k, 1] - origin[1]
            z = vertices[first + k, 2] - origin[2]
            for axis in range(3):
                camera[k, axis] = rotation[0, axis] * x + rotation[1, axis] * y + rotation[2, axis] * z
            if camera[k, 2] < NEAR_M:
                behind += 1
        if behind == count:
            continue
        # Newell's normal: right for any flat polygon.
        n0, n1, n2 = 0.0, 0.0, 0.0
        for k in range(count):
            j = k + 1 if k + 1 < count else 0
            n0 += (camera[k, 1] - camera[j, 1]) * (camera[k, 2] + camera[j, 2])
            n1 += (camera[k, 2] - camera[j, 2]) * (camera[k, 0] + camera[j, 0])
            n2 += (camera[k, 0] - camera[j, 0]) * (camera[k, 1] + camera[j, 1])
        size = np.sqrt(n0 * n0 + n1 * n1 + n2 * n2)
        if size < 1e-9:
            continue
        n0, n1, n2 = n0 / size, n1 / size, n2 / size
        plane = n0 * camera[0, 0] + n1 * camera[0, 1] + n2 * camera[0, 2]
        if abs(plane) < 1e-6:
            continue
        corners = 0
        low_u, high_u, low_v, high_v = 1e9, -1e9, 1e9, -1e9
        for k in range(count):
            j = k + 1 if k + 1 < count else 0
            za, zb = camera[k, 2], camera[j, 2]
            if za >= NEAR_M:
                pixel[corners, 0] = fx * camera[k, 0] / za + cx
                pixel[corners, 1] = fy * camera[k, 1] / za + cy
                corners += 1
            if (za >= NEAR_M) != (zb >= NEAR_M):
                t = (NEAR_M - za) / (zb - za)
                pixel[corners, 0] = fx * (camera[k, 0] + t * (camera[j, 0] - camera[k, 0])) / NEAR_M + cx
                pixel[corners, 1] = fy * (camera[k, 1] + t * (camera[j, 1] - camera[k, 1])) / NEAR_M + cy
                corners += 1
        for k in range(corners):
            low_u, high_u = min(low_u, pixel[k, 0]), max(high_u, pixel[k, 0])
            low_v, high_v = min(low_v, pixel[k, 1]), max(high_v, pixel[k, 1])
        if high_u < 0 or low_u > width or high_v < 0 or low_v > height:
            continue
        # World normal, turned towards the camera, for the light.
        facing = -1.0 if plane > 0 else 1.0
        w0 = (rotation[0, 0] * n0 + rotation[0, 1] * n1 + rotation[0, 2] * n2) * facing
        w1 = (rotation[1, 0] * n0 + rotation[1, 1] * n1 + rotation[1, 2] * n2) * facing
        w2 = (rotation[2, 0] * n0 + rotation[2, 1] * n1 + rotation[2, 2] * n2) * facing
        material = materials[p]
        shade = ambient + (1.0 - ambient) * max(0.0, w0 * sun[0] + w1 * sun[1] + w2 * sun[2])
        if material == GLOW:
            shade = 1.0
        red, green, blue = colours[p, 0] * shade, colours[p, 1] * shade, colours[p, 2] * shade
        # Direction along a wall for its windows: horizontal, in the plane.
        along0, along1 = -w1, w0
        length = np.sqrt(along0 * along0 + along1 * along1)
        if length > 1e-6:
            along0, along1 = along0 / length, along1 / length
        haze_scale = 0.0 if material == GLOW else 1.0 / haze_m
        for v in range(max(0, int(np.floor(low_v))), min(height, int(np.ceil(high_v)) + 1)):
            row = v + 0.5
            crossings = 0
            for k in range(corners):
                j = k + 1 if k + 1 < corners else 0
                va, vb = pixel[k, 1], pixel[j, 1]
                if (va <= row) != (vb <= row):
                    crossing[crossings] = pixel[k, 0] + (row - va) / (vb - va) * (pixel[j, 0] - pixel[k, 0])
                    crossings += 1
            for a in range(1, crossings):
                value = crossing[a]
                b = a - 1
                while b >= 0 and crossing[b] > value:
                    crossing[b + 1] = crossing[b]
                    b -= 1
                crossing[b + 1] = value
            ray_y = (row - cy) / fy
            for a in range(0, crossings - 1, 2):
                left = max(0, int(np.ceil(crossing[a] - 0.5)))
                right = min(width, int(np.ceil(crossing[a + 1] - 0.5)))
                for u in range(left, right):
                    ray_x = (u + 0.5 - cx) / fx
                    nearness = (n0 * ray_x + n1 * ray_y + n2) / plane
                    if nearness <= 0 or (tested[p] and nearness < inverse_depth[v, u]):
                        continue
                    inverse_depth[v, u] = nearness
                    depth = 1.0 / nearness
                    tone = 1.0
                    if material != PLAIN and material != GLOW and depth < 70.0:
                        x = origin[0] + depth * (rotation[0, 0] * ray_x + rotation[0, 1] * ray_y + rotation[0, 2])
                        y = origin[1] + depth * (rotation[1, 0] * ray_x + rotation[1, 1] * ray_y + rotation[1, 2])
                        if material == ASPHALT:
                            tone = 0.94 + 0.12 * _noise(int(np.floor(x * 6)), int(np.floor(y * 6)))
                        elif material == GRASS:
                            tone = 0.85 + 0.3 * _noise(int(np.floor(x * 3)), int(np.floor(y * 3)))
                        elif material == PAVING:
                            seam = (x - np.floor(x)) < 0.07 or (y - np.floor(y)) < 0.07
                            tone = 0.88 if seam and depth < 18.0 else 1.0
                        else:
                            z = origin[2] + depth * (rotation[2, 0] * ray_x + rotation[2, 1] * ray_y + rotation[2, 2])
                            if material == WINDOWS:
                                s = (along0 * x + along1 * y) / 3.2
                                t = z / 3.2
                                s, t = s - np.floor(s), t - np.floor(t)
                                if 0.25 < s < 0.75 and 0.3 < t < 0.8:
                                    tone = 0.5
                            else:
                                s = (along0 * x + along1 * y + z) / 0.5
                                tone = 1.0 if s - np.floor(s) < 0.5 else 0.35
                    # The first terms of exp(x) in place of exp: a third of the whole cost otherwise.
                    thickness = depth * haze_scale
                    clear = 1.0 / (1.0 + thickness + 0.5 * thickness * thickness)
                    image[v, u, 0] = np.uint8(min(255.0, red * tone * clear + horizon[0] * (1 - clear)))
                    image[v, u, 1] = np.uint8(min(255.0, green * tone * clear + horizon[1] * (1 - clear)))
                    image[v, u, 2] = np.uint8(min(255.0, blue * tone * clear + horizon[2] * (1 - clear)))
