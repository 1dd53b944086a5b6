"""Light on the street: shadows of the sun, the dark under vehicles, street lamps and headlights.

Shadows are heights on a grid: everything on one ray of the sun meets the street at one place, so the greatest height
of what stands in that ray's way says which points along it are in the shade.
"""

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from irlvla.geometry import box_corners
from irlvla.world.raster import CUT_OUT, FENCE, FOLIAGE, Mesh
from irlvla.world.shading import Air, GroundMaps

Array = NDArray[np.float64]
Floats = NDArray[np.float32]

CELL_M = 0.25
TILE_M = 32.0
TILES = 5
LAMP_CELL_M = 0.5
LAMP_REACH_M = 26.0
NOTHING = -1.0


class GroundLight:
    """Shadows and lamp light of one city under one log's sky; what stands still is drawn once per place."""

    def __init__(self, street: Mesh, lamps: Array, air: Air, noise: Floats) -> None:
        """
        Args:
            lamps: [N, 3] x, y, height of street lamps.
        """
        self._street = street
        self._lamps = lamps
        self._air = air
        self._noise = noise
        # Where the sun throws the middle of each shape's shadow, and how far around there it may reach.
        slope = air.sun[:2] / air.sun[2]
        self._shadow_middle = street.center[:, :2] - street.center[:, 2:] * slope
        self._shadow_reach = street.radius * (1 + np.hypot(*slope))
        self._tiles: dict[tuple[int, int], Floats] = {}

    @property
    def has_sun(self) -> bool:
        return float(self._air.sun_light[1]) > 0.0

    def maps(self, x: float, y: float, moving: Mesh, vehicles: Array, beams: Array) -> GroundMaps:
        """Everything around a place.

        Args:
            moving: What moves, at its present place.
            vehicles: [N, 5] center x, y, heading, length, width of what stands low over the street.
            beams: [N, 5] x, y, heading, strength of headlights, and 1 where it is the red light of a rear.
        """
        west = int(np.floor(x / TILE_M)) - TILES // 2
        south = int(np.floor(y / TILE_M)) - TILES // 2
        left, low = west * TILE_M, south * TILE_M
        cells = round(TILE_M / CELL_M)
        caster = np.full((TILES * cells, TILES * cells), NOTHING, dtype=np.float32)
        if self.has_sun:
            for j in range(TILES):
                for i in range(TILES):
                    caster[j * cells : (j + 1) * cells, i * cells : (i + 1) * cells] = self._tile(west + i, south + j)
            _cast(caster, left, low, moving, np.arange(len(moving.radius)), self._air.sun, self._noise)
        contact = np.full(caster.shape, 1.0, dtype=np.float32)
        corners = (box_corners(vehicles) - [left, low]) / CELL_M - 0.5
        for ring in np.round(corners * 16).astype(np.int32):
            cv2.fillConvexPoly(contact, ring, 0.18, cv2.LINE_8, shift=4)
        contact = np.asarray(cv2.blur(contact, (5, 5)), dtype=np.float32)
        lit = np.zeros((0, 0, 3), dtype=np.float32)
        if self._air.lamps > 0:
            size = round(TILES * TILE_M / LAMP_CELL_M)
            lit = np.zeros((size, size, 3), dtype=np.float32)
            _shine(lit, left, low, self._lamps, beams, float(self._air.lamps))
        return GroundMaps(left, low, CELL_M, caster, contact, left, low, LAMP_CELL_M, lit)

    def _tile(self, i: int, j: int) -> Floats:
        if (i, j) not in self._tiles:
            cells = round(TILE_M / CELL_M)
            tile = np.full((cells, cells), NOTHING, dtype=np.float32)
            off_x, off_y = np.abs(self._shadow_middle - [(i + 0.5) * TILE_M, (j + 0.5) * TILE_M]).T
            reach = self._shadow_reach + TILE_M * 0.75
            chosen = np.flatnonzero((off_x < reach) & (off_y < reach))
            chosen = chosen[chosen >= self._street.flat]
            _cast(tile, i * TILE_M, j * TILE_M, self._street, chosen, self._air.sun, self._noise)
            self._tiles[i, j] = tile
        return self._tiles[i, j]


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _cast(
    caster: Floats, left: float, low: float, mesh: Mesh, chosen: NDArray[np.int64], sun: Array, noise: Floats
) -> None:
    """Raise a grid to the heights of shapes, moved to the street along the sun's rays."""
    slope_x, slope_y = sun[0] / sun[2], sun[1] / sun[2]
    rows, columns = caster.shape
    polygons = len(mesh.start) - 1
    corner = np.empty((512, 3))
    crossing = np.empty(64)
    for place in range(len(chosen)):
        p = chosen[place]
        if p >= polygons:
            blob = mesh.blobs[p - polygons]
            cx = (blob[0] - blob[2] * slope_x - left) / CELL_M - 0.5
            cy = (blob[1] - blob[2] * slope_y - low) / CELL_M - 0.5
            steep = np.sqrt(slope_x * slope_x + slope_y * slope_y)
            across = blob[3] / CELL_M
            along = np.sqrt(blob[3] * blob[3] + blob[4] * blob[4] * steep * steep) / CELL_M
            ux, uy = (slope_x / steep, slope_y / steep) if steep > 1e-6 else (1.0, 0.0)
            leafy = mesh.material[p] == FOLIAGE
            for v in range(max(0, int(cy - along)), min(rows, int(cy + along) + 2)):
                for u in range(max(0, int(cx - along)), min(columns, int(cx + along) + 2)):
                    s = ((u - cx) * ux + (v - cy) * uy) / along
                    t = (-(u - cx) * uy + (v - cy) * ux) / across
                    rim = 1.0 - s * s - t * t
                    if rim <= 0.0 or blob[2] <= caster[v, u]:
                        continue
                    if leafy and noise[1, (v * 5 + p * 31) & 255, (u * 5 + p * 17) & 255] < CUT_OUT * (1.0 - rim) + 0.1:
                        continue
                    caster[v, u] = blob[2]
            continue
        if mesh.material[p] == FENCE:
            continue
        first, count = mesh.start[p], mesh.start[p + 1] - mesh.start[p]
        if count < 3 or count > 512:
            continue
        low_v, high_v = 1e9, -1e9
        for k in range(count):
            z = mesh.vertices[first + k, 2]
            corner[k, 0] = (mesh.vertices[first + k, 0] - z * slope_x - left) / CELL_M - 0.5
            corner[k, 1] = (mesh.vertices[first + k, 1] - z * slope_y - low) / CELL_M - 0.5
            corner[k, 2] = z
            low_v, high_v = min(low_v, corner[k, 1]), max(high_v, corner[k, 1])
        if high_v < 0 or low_v > rows - 1:
            continue
        # Height over the grid, an inclined plane by Newell's normal.
        n0, n1, n2 = 0.0, 0.0, 0.0
        for k in range(count):
            j = k + 1 if k + 1 < count else 0
            n0 += (corner[k, 1] - corner[j, 1]) * (corner[k, 2] + corner[j, 2])
            n1 += (corner[k, 2] - corner[j, 2]) * (corner[k, 0] + corner[j, 0])
            n2 += (corner[k, 0] - corner[j, 0]) * (corner[k, 1] + corner[j, 1])
        if abs(n2) < 1e-6:
            continue
        for v in range(max(0, int(np.ceil(low_v))), min(rows, int(np.ceil(high_v)))):
            found = 0
            for k in range(count):
                j = k + 1 if k + 1 < count else 0
                va, vb = corner[k, 1], corner[j, 1]
                if (va <= v) != (vb <= v) and found < 64:
                    crossing[found] = corner[k, 0] + (v - va) / (vb - va) * (corner[j, 0] - corner[k, 0])
                    found += 1
            for a in range(1, found):
                value = crossing[a]
                b = a - 1
                while b >= 0 and crossing[b] > value:
                    crossing[b + 1] = crossing[b]
                    b -= 1
                crossing[b + 1] = value
            for a in range(0, found - 1, 2):
                begin, end = max(0, int(np.ceil(crossing[a]))), min(columns, int(np.ceil(crossing[a + 1])))
                for u in range(begin, end):
                    height = corner[0, 2] - (n0 * (u - corner[0, 0]) + n1 * (v - corner[0, 1])) / n2
                    if height > caster[v, u]:
                        caster[v, u] = height


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _shine(lit: Floats, left: float, low: float, lamps: Array, beams: Array, share: float) -> None:
    rows, columns = lit.shape[0], lit.shape[1]
    reach = int(LAMP_REACH_M / LAMP_CELL_M)
    for k in range(len(lamps)):
        cx, cy, height = (lamps[k, 0] - left) / LAMP_CELL_M, (lamps[k, 1] - low) / LAMP_CELL_M, lamps[k, 2]
        for v in range(max(0, int(cy) - reach), min(rows, int(cy) + reach)):
            for u in range(max(0, int(cx) - reach), min(columns, int(cx) + reach)):
                dx, dy = (u + 0.5 - cx) * LAMP_CELL_M, (v + 0.5 - cy) * LAMP_CELL_M
                square = dx * dx + dy * dy + height * height
                light = 0.6 * share * height * height * height / (square * np.sqrt(square))
                lit[v, u, 0] += light
                lit[v, u, 1] += 0.82 * light
                lit[v, u, 2] += 0.62 * light
    for k in range(len(beams)):
        cos, sin = np.cos(beams[k, 2]), np.sin(beams[k, 2])
        red = beams[k, 4] > 0.5
        far = 6.0 if red else 48.0
        cx, cy = beams[k, 0] + 0.5 * far * cos, beams[k, 1] + 0.5 * far * sin
        half = 0.5 * far + 4.0
        begin_u, end_u = int((cx - half - left) / LAMP_CELL_M), int((cx + half - left) / LAMP_CELL_M)
        begin_v, end_v = int((cy - half - low) / LAMP_CELL_M), int((cy + half - low) / LAMP_CELL_M)
        for v in range(max(0, begin_v), min(rows, end_v)):
            for u in range(max(0, begin_u), min(columns, end_u)):
                dx = left + (u + 0.5) * LAMP_CELL_M - beams[k, 0]
                dy = low + (v + 0.5) * LAMP_CELL_M - beams[k, 1]
                s, t = cos * dx + sin * dy, -sin * dx + cos * dy
                if s < 0.2 or s > far:
                    continue
                if red:
                    light = 0.16 * share * beams[k, 3] * np.exp(-s / 2.0 - (t / 1.4) ** 2)
                    lit[v, u, 0] += light
                    lit[v, u, 1] += 0.1 * light
                    lit[v, u, 2] += 0.08 * light
                else:
                    wide = 1.0 + 0.16 * s
                    light = 0.4 * share * beams[k, 3] * min(1.0, s / 5.0) * np.exp(-s / 16.0 - (t / wide) ** 2)
                    lit[v, u, 0] += 0.95 * light
                    lit[v, u, 1] += 0.95 * light
                    lit[v, u, 2] += light
