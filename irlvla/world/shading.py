"""From shape numbers to light: what every pixel of an image receives.

A pixel that sees one shape is coloured once; one that sees several is the mean over its samples, which smooths edges
at little cost.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from irlvla.world.appearance import Appearance
from irlvla.world.raster import (
    ASPHALT,
    BARK,
    CONCRETE,
    FACADE,
    FOLIAGE,
    GLASS,
    GLOSS,
    GLOW,
    LAND,
    LAWN,
    PAINT,
    PAVING,
    ROOF,
    SKY,
    STRIPES,
    Mesh,
    View,
)

Array = NDArray[np.float64]
Floats = NDArray[np.float32]

NOISE_SIZE = 256
SKYLINE_COLUMNS = 512
HOUSE, SHOP, OFFICE, BLIND = range(4)
"""What a facade belongs to: the last number of its detail."""


_KERNEL: dict[str, Any] = {"cache": True, "error_model": "numpy", "nogil": True, "_nrt": False}
"""How numba compiles what runs for every pixel.

Without numba's memory management (`_nrt`) it can allocate nothing, but need not count references to the arrays of mesh,
air and maps wherever one is read: that took more than half of the time, and threads shared the counts.
"""


class Air(NamedTuple):
    """Light, weather and street surface of one log, as the pixel loop reads them."""

    sun: Array
    sun_light: Array
    sky_light: Array
    ground_light: Array
    horizon: Array
    zenith: Array
    cloud_light: Array
    clouds: float
    cloud_u: float
    cloud_v: float
    haze_m: float
    wet: float
    lamps: float
    gain: float
    """Radiance to a scale on which 1 is nearly white."""
    wear: float
    seed: int
    lawn: Array
    asphalt: Array
    skyline: Floats
    """[SKYLINE_COLUMNS] tangent of the elevation up to which the far city stands, by azimuth."""


class GroundMaps(NamedTuple):
    """Shadows and lamp light around the ego, on the street's level."""

    x: float
    """West edge, in the frame of the mesh."""
    y: float
    """South edge."""
    cell_m: float
    caster: Floats
    """[N, N] rows north: greatest height of what stands in the way of the sun to each place, m; -1 is nothing."""
    contact: Floats
    """[N, N] share of the sky's light that reaches the ground beside and under vehicles."""
    lit_x: float
    lit_y: float
    lit_cell_m: float
    lit: Floats
    """[M, M, 3] irradiance from lamps and headlights; M = 0 by day."""


def noise_texture() -> Floats:
    """[2, 256, 256] noise that tiles, every value in [0, 1] equally frequent: of all wave lengths, and fine alone."""
    rng = np.random.default_rng(1848)
    octaves = []
    for cells in (8, 16, 32, 64, 128):
        grid = np.pad(rng.normal(size=(cells, cells)), 2, mode="wrap")
        scale = NOISE_SIZE // cells
        wide = zoom(grid, scale, order=3, mode="grid-wrap", grid_mode=True)
        octaves.append(wide[2 * scale : 2 * scale + NOISE_SIZE, 2 * scale : 2 * scale + NOISE_SIZE])
    textures = []
    for weights in ((1.0, 0.8, 0.62, 0.48, 0.4), (0.0, 0.1, 0.3, 0.8, 1.0)):
        total = np.tensordot(weights, octaves, axes=1)
        rank = np.empty(total.size)
        rank[np.argsort(total, axis=None, kind="stable")] = np.linspace(0, 1, total.size)
        textures.append(rank.reshape(total.shape))
    return np.array(textures, dtype=np.float32)


def air_of(look: Appearance) -> Air:
    """A log's appearance as the pixel loop reads it."""
    weather = look.weather
    rng = np.random.default_rng([look.seed, 7])
    grey = 0.18 * (weather.sky_light + weather.sun_light * weather.sun[2]).mean() + 0.016 * weather.lamps
    # The camera evens out most of the difference between noon and night, not all of it.
    gain = look.response.exposure * 0.55 * (0.38 / grey) ** 0.7
    # Woods and roofs far off, with a tower here and there.
    turn = np.linspace(0, 2 * np.pi, SKYLINE_COLUMNS, endpoint=False)
    waves = [np.cos(k * turn + rng.uniform(0, 2 * np.pi)) / k for k in (2, 3, 5, 9, 14, 31, 57)]
    hills = np.sum(waves, axis=0) + rng.normal(0, 0.12, SKYLINE_COLUMNS)
    skyline = 0.016 + 0.007 * (hills - hills.min()) / np.ptp(hills)
    for _ in range(rng.integers(2, 16)):
        at, wide = rng.integers(SKYLINE_COLUMNS), rng.integers(2, 6)
        skyline[at : at + wide] += rng.gamma(2.0, 0.010)
    return Air(
        weather.sun, weather.sun_light, weather.sky_light, weather.ground_light, weather.horizon, weather.zenith,
        weather.cloud_light, weather.clouds, float(weather.cloud_shift[0]), float(weather.cloud_shift[1]),
        weather.haze_m, weather.wet, weather.lamps, float(gain), look.paint_wear, look.seed & 0xFFFF,
        look.lawn, look.asphalt, skyline.astype(np.float32),
    )  # fmt: skip


@numba.njit(**_KERNEL)
def _hash(a: int, b: int, c: int) -> float:
    """A number in [0, 1) that depends on three whole numbers."""
    n = (a * 374761393 + b * 668265263 + c * 974634613 + 12345) & 0x7FFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0x7FFFFFFF
    n = ((n ^ (n >> 16)) * 1103515245) & 0x7FFFFFFF
    return float((n >> 7) & 0xFFFF) / 65536.0


@numba.njit(**_KERNEL)
def _texture(noise: Floats, layer: int, x: float, y: float) -> float:
    """Noise at a place, between its texels."""
    i, j = np.floor(x), np.floor(y)
    s, t = x - i, y - j
    u, v = int(i) & 255, int(j) & 255
    u1, v1 = (u + 1) & 255, (v + 1) & 255
    low = noise[layer, v, u] + s * (noise[layer, v, u1] - noise[layer, v, u])
    high = noise[layer, v1, u] + s * (noise[layer, v1, u1] - noise[layer, v1, u])
    return low + t * (high - low)


@numba.njit(**_KERNEL)
def _inside(half: float, offset: float, footprint: float) -> float:
    """Share of a pixel of width `footprint` that lies within `half` of a middle."""
    return min(1.0, max(0.0, (half - abs(offset)) / footprint + 0.5))


@numba.njit(**_KERNEL, inline="always")
def _sky(air: Air, noise: Floats, x: float, y: float, z: float, detailed: bool) -> tuple[float, float, float]:
    """Radiance of the sky in a unit direction; without clouds and skyline unless `detailed`."""
    up = max(0.0, z)
    mix = np.sqrt(up)
    mix = mix * (1.35 - 0.35 * mix)
    r = air.horizon[0] + (air.zenith[0] - air.horizon[0]) * mix
    g = air.horizon[1] + (air.zenith[1] - air.horizon[1]) * mix
    b = air.horizon[2] + (air.zenith[2] - air.horizon[2]) * mix
    toward = x * air.sun[0] + y * air.sun[1] + z * air.sun[2]
    if toward > 0.0:
        square = toward * toward
        glow = square * square
        glow = 0.06 * glow + 0.16 * glow * glow * glow * glow
        r, g, b = r + glow * air.sun_light[0], g + glow * air.sun_light[1], b + glow * air.sun_light[2]
        if toward > 0.9994:
            r, g, b = r + 12.0 * air.sun_light[0], g + 12.0 * air.sun_light[1], b + 12.0 * air.sun_light[2]
    if not detailed:
        return r, g, b
    if air.clouds > 0.0 and z > 0.005:
        reach = 22.0 / (z + 0.16)
        u, v = air.cloud_u + x * reach, air.cloud_v + y * reach
        n = 0.68 * _texture(noise, 0, u, v) + 0.32 * _texture(noise, 0, 3.1 * u + 17.0, 3.1 * v)
        if air.clouds >= 1.0:
            tone = 0.7 + 0.6 * n * min(1.0, 0.3 + 3.0 * z) + 0.3 * max(0.0, 0.35 - z)
            r, g, b = r * tone, g * tone, b * tone
        else:
            dense = (n - (1.0 - air.clouds) * 0.8 - 0.1) * 4.5
            dense = min(1.0, max(0.0, dense)) * min(1.0, z * 9.0)
            thick = 1.05 - 0.4 * dense * n
            r += dense * 0.92 * (air.cloud_light[0] * thick - r)
            g += dense * 0.92 * (air.cloud_light[1] * thick - g)
            b += dense * 0.92 * (air.cloud_light[2] * thick - b)
    if z < 0.2:
        turn = np.arctan2(y, x) * (SKYLINE_COLUMNS / (2 * np.pi))
        column = int(np.floor(turn)) & (SKYLINE_COLUMNS - 1)
        if z < air.skyline[column]:
            # The far city is mostly haze already.
            clear = 0.55 * min(1.0, air.haze_m / 900.0)
            tone = 0.10 + 0.015 * (column * 7 % 5)
            r = r * (1 - clear) + clear * tone * (air.sky_light[0] + 0.3 * air.sun_light[0])
            g = g * (1 - clear) + clear * tone * (air.sky_light[1] + 0.3 * air.sun_light[1])
            b = b * (1 - clear) + clear * tone * (air.sky_light[2] + 0.3 * air.sun_light[2])
            if air.lamps > 0.5:
                row = int(z * 260.0)
                if _hash(int(turn * 4.0), row, air.seed) < 0.07:
                    r, g, b = r + 0.5 / air.gain, g + 0.38 / air.gain, b + 0.2 / air.gain
    return r, g, b


@numba.njit(**_KERNEL, inline="always")
def _sunlit(maps: GroundMaps, air: Air, x: float, y: float, z: float) -> float:
    """Share of the sun that reaches a place."""
    slope_x, slope_y = air.sun[0] / air.sun[2], air.sun[1] / air.sun[2]
    u = (x - z * slope_x - maps.x) / maps.cell_m - 0.5
    v = (y - z * slope_y - maps.y) / maps.cell_m - 0.5
    rows, columns = maps.caster.shape
    i, j = int(np.floor(u)), int(np.floor(v))
    if i < 0 or j < 0 or i >= columns - 1 or j >= rows - 1:
        return 1.0
    s, t = u - i, v - j
    # On a wall that faces the sun the height changes within a cell of the map.
    steep = np.sqrt(slope_x * slope_x + slope_y * slope_y)
    bias = z + 0.05 + (0.8 * maps.cell_m / max(steep, 0.12) if z > 0.0 else 0.0)
    # Soft in height as well, or low sun would draw the map's cells on the walls.
    sharp = 12.0 if z == 0.0 else 2.5
    a = min(1.0, max(0.0, 1.0 - sharp * (maps.caster[j, i] - bias)))
    b = min(1.0, max(0.0, 1.0 - sharp * (maps.caster[j, i + 1] - bias)))
    c = min(1.0, max(0.0, 1.0 - sharp * (maps.caster[j + 1, i] - bias)))
    d = min(1.0, max(0.0, 1.0 - sharp * (maps.caster[j + 1, i + 1] - bias)))
    low, high = a + s * (b - a), c + s * (d - c)
    return low + t * (high - low)


@numba.njit(**_KERNEL, inline="always")
def _lamplight(maps: GroundMaps, x: float, y: float, channel: int) -> float:
    u, v = (x - maps.lit_x) / maps.lit_cell_m - 0.5, (y - maps.lit_y) / maps.lit_cell_m - 0.5
    rows, columns = maps.lit.shape[0], maps.lit.shape[1]
    i, j = int(np.floor(u)), int(np.floor(v))
    if i < 0 or j < 0 or i >= columns - 1 or j >= rows - 1:
        return 0.0
    s, t = u - i, v - j
    low = maps.lit[j, i, channel] + s * (maps.lit[j, i + 1, channel] - maps.lit[j, i, channel])
    high = maps.lit[j + 1, i, channel] + s * (maps.lit[j + 1, i + 1, channel] - maps.lit[j + 1, i, channel])
    return low + t * (high - low)


@numba.njit(**_KERNEL, inline="always")
def _facade(
    detail: Array, air: Air, noise: Floats, x: float, y: float, z: float, footprint: float, base: Array
) -> tuple[float, float, float, float, float]:
    """Albedo of a wall with windows and doors, how much it mirrors, and how much a window shines."""
    length, height, use = detail[4], detail[5], int(detail[7])
    number = int(detail[6])
    s = (x - detail[0]) * detail[2] + (y - detail[1]) * detail[3]
    h0, h1 = _hash(number, 1, air.seed), _hash(number, 2, air.seed)
    r, g, b = base[0], base[1], base[2]
    tone = 0.95 + 0.1 * _texture(noise, 0, s * 7.0 + number * 13.0, z * 7.0)
    ground_floor = 3.5 if use != HOUSE else 2.9
    floor = 3.0 + 0.5 * h0
    brick = use == HOUSE and h1 < 0.35
    if brick and footprint < 0.03:
        course = z / 0.09 - np.floor(z / 0.09)
        tone *= 0.9 if course < 0.16 else 1.02
    if z < 0.5:
        tone *= 0.72
    if abs(z - ground_floor) < 0.07 and use != BLIND:
        tone *= 0.82
    if z > height - 0.4:
        tone *= 1.16 if h0 < 0.5 else 0.8
    r, g, b = r * tone, g * tone, b * tone
    mirror, shine = 0.0, 0.0
    bay = (2.1 + 1.7 * h1) if use != OFFICE else (1.5 + 1.2 * h1)
    bays = max(1.0, np.round(length / bay))
    cell = length / bays
    column = int(np.floor(s / cell))
    beside = s - (column + 0.5) * cell
    window, frame = 0.0, 0.0
    row = 0
    if z < ground_floor:
        door_at = int(_hash(number, 3, air.seed) * bays)
        if use == SHOP:
            window = _inside(0.46 * cell, beside, footprint) * _inside(1.15, z - 1.6, footprint)
            frame = _inside(0.5 * cell, beside, footprint) * _inside(1.25, z - 1.6, footprint) - window
            if 2.85 < z < 3.4:
                a, c = _hash(number, 4, air.seed), _hash(number, 5, air.seed)
                r, g, b = 0.05 + 0.35 * a, 0.05 + 0.2 * c, 0.05 + 0.22 * (1 - a)
                # Letters, as dark and light marks.
                mark = int(np.floor(s / 0.22))
                if 2.98 < z < 3.27 and _hash(mark, number, 9) < 0.6 and footprint < 0.2:
                    r, g, b = 0.8, 0.78, 0.72
                shine = 0.35 * air.lamps
        elif column == door_at and use != BLIND:
            door = _inside(0.5, beside, footprint) * _inside(1.1, z - 1.1, footprint)
            a, c = _hash(number, 6, air.seed), 0.04 + 0.12 * _hash(number, 7, air.seed)
            # Wood, green, blue or white.
            r += door * ((1.6 * c if a < 0.45 else (0.5 * c if a < 0.85 else 0.6)) - r)
            g += door * ((0.9 * c if a < 0.65 else (0.6 * c if a < 0.85 else 0.6)) - g)
            b += door * ((0.5 * c if a < 0.65 else (1.2 * c if a < 0.85 else 0.58)) - b)
        elif use in (HOUSE, OFFICE):
            window = _inside(0.27 * cell, beside, footprint) * _inside(0.7, z - 1.75, footprint)
            frame = _inside(0.27 * cell + 0.09, beside, footprint) * _inside(0.79, z - 1.75, footprint) - window
    elif use != BLIND or h0 < 0.5:
        row = 1 + int((z - ground_floor) / floor)
        up = z - ground_floor - (row - 1) * floor
        if ground_floor + row * floor < height + 0.3:
            if use == OFFICE and h0 < 0.45:
                window = _inside(0.47 * cell, beside, footprint) * _inside(0.86, up - 1.7, footprint)
            elif use == OFFICE and height > 12.0:
                window = _inside(0.48 * cell, beside, footprint) * _inside(0.48 * floor, up - 0.5 * floor, footprint)
            elif use == BLIND:
                window = _inside(0.4, beside, footprint) * _inside(0.5, up - 1.6, footprint) if column & 1 else 0.0
            else:
                wide = 0.2 + 0.14 * h0
                window = _inside(wide * cell, beside, footprint) * _inside(0.72, up - 1.55, footprint)
                frame = _inside(wide * cell + 0.1, beside, footprint) * _inside(0.84, up - 1.52, footprint) - window
                if 0.62 < up < 0.72 and abs(beside) < wide * cell + 0.18:
                    r, g, b = min(0.8, r * 1.25), min(0.8, g * 1.25), min(0.8, b * 1.25)
    if frame > 0.0:
        light = 0.62 if h1 > 0.3 else 0.12
        r, g, b = r + frame * (light - r), g + frame * (light - g), b + frame * (light - b)
    if window > 0.0:
        mine = _hash(number * 31 + column, row, air.seed)
        curtain = 0.3 * mine if mine > 0.62 and use == HOUSE else 0.02
        split = use == HOUSE and abs(beside) < 0.04 and footprint < 0.05
        glass = 0.5 if split else curtain
        r, g, b = r + window * (glass - r), g + window * (glass - g), b + window * (1.05 * glass - b)
        mirror = window * (0.28 if not split else 0.0)
        lit = 0.28 if use != SHOP or row > 0 else 0.75
        if air.lamps > 0.0 and _hash(number * 17 + column, row + 50, air.seed) < lit * air.lamps:
            shine = max(shine, window * (0.35 + 0.5 * mine))
            mirror = 0.0
    return r, g, b, mirror, shine


@numba.njit(**_KERNEL, inline="always")
def _light_of(
    p: int, ray_x: float, ray_y: float, mesh: Mesh, planes: Array, rotation: Array, origin: Array, pixel_rad: float,
    air: Air, maps: GroundMaps, noise: Floats,
) -> tuple[float, float, float]:  # fmt: skip
    """Radiance that comes along a ray (x, y, 1) of the camera from shape `p`."""
    wx = rotation[0, 0] * ray_x + rotation[0, 1] * ray_y + rotation[0, 2]
    wy = rotation[1, 0] * ray_x + rotation[1, 1] * ray_y + rotation[1, 2]
    wz = rotation[2, 0] * ray_x + rotation[2, 1] * ray_y + rotation[2, 2]
    size = np.sqrt(wx * wx + wy * wy + wz * wz)
    polygons = len(mesh.start) - 1
    level = p == LAND or (0 <= p < mesh.flat)
    if p == SKY or (level and wz > -1e-4 * size):
        return _sky(air, noise, wx / size, wy / size, max(wz / size, 0.0), True)
    nx, ny, nz = 0.0, 0.0, 1.0
    shade_x, shade_y, shade_z = 0.0, 0.0, 0.0
    if level:
        t = -origin[2] / wz
    elif p < polygons:
        near = planes[p, 0] * ray_x + planes[p, 1] * ray_y + planes[p, 2]
        # At its edge a pixel's middle may miss the polygon.
        t = 1.0 / max(near, 1e-4)
        c0, c1, c2 = planes[p, 0], planes[p, 1], planes[p, 2]
        norm = -1.0 / np.sqrt(c0 * c0 + c1 * c1 + c2 * c2)
        nx = norm * (rotation[0, 0] * c0 + rotation[0, 1] * c1 + rotation[0, 2] * c2)
        ny = norm * (rotation[1, 0] * c0 + rotation[1, 1] * c1 + rotation[1, 2] * c2)
        nz = norm * (rotation[2, 0] * c0 + rotation[2, 1] * c1 + rotation[2, 2] * c2)
    else:
        blob = mesh.blobs[p - polygons]
        ox, oy, oz = (origin[0] - blob[0]) / blob[3], (origin[1] - blob[1]) / blob[3], (origin[2] - blob[2]) / blob[4]
        dx, dy, dz = wx / blob[3], wy / blob[3], wz / blob[4]
        a, b = dx * dx + dy * dy + dz * dz, ox * dx + oy * dy + oz * dz
        t = (-b - np.sqrt(max(0.0, b * b - a * (ox * ox + oy * oy + oz * oz - 1.0)))) / a
        shade_x, shade_y, shade_z = ox + t * dx, oy + t * dy, oz + t * dz
        nx, ny, nz = shade_x / blob[3], shade_y / blob[3], shade_z / blob[4]
        norm = 1.0 / np.sqrt(max(1e-9, nx * nx + ny * ny + nz * nz))
        nx, ny, nz = nx * norm, ny * norm, nz * norm
    x, y, z = origin[0] + t * wx, origin[1] + t * wy, max(0.0, origin[2] + t * wz)
    distance = t * size
    footprint = distance * pixel_rad
    thickness = distance / air.haze_m
    clear = 1.0 / (1.0 + thickness + 0.5 * thickness * thickness + 0.17 * thickness * thickness * thickness)
    material = ASPHALT if p == LAND else mesh.material[p]
    if material == GLOW:
        strength = mesh.detail[p, 0] / air.gain
        through = np.sqrt(clear)
        return (
            mesh.colour[p, 0] * strength * through + air.horizon[0] * (1.0 - clear),
            mesh.colour[p, 1] * strength * through + air.horizon[1] * (1.0 - clear),
            mesh.colour[p, 2] * strength * through + air.horizon[2] * (1.0 - clear),
        )

    # What the surface is.
    r, g, b = 0.3, 0.3, 0.3
    if p != LAND:
        r, g, b = mesh.colour[p, 0], mesh.colour[p, 1], mesh.colour[p, 2]
    mirror, shine, wrap, smooth = 0.0, 0.0, 0.0, 0.0
    if level:
        along = footprint * min(30.0, size / max(1e-3, -wz))
        fine = max(0.0, 1.0 - along * 1.2)
        grain = _texture(noise, 1, x * 23.0, y * 23.0) - 0.5 if fine > 0.0 else 0.0
        patch = _texture(noise, 0, x * 0.83 + 31.0, y * 0.83 + 7.0)
        if p == LAND or material == LAWN:
            dry = min(1.0, max(0.0, (patch - 0.42) * 3.0)) if p == LAND else 0.25 * patch
            tuft = 1.0 + 0.42 * fine * grain + 0.2 * (_texture(noise, 0, x * 4.1, y * 4.1) - 0.5)
            r, g, b = air.lawn[0] * tuft, air.lawn[1] * tuft, air.lawn[2] * tuft
            r, g, b = r + dry * (0.24 - r) * 0.5, g + dry * (0.2 - g) * 0.5, b + dry * (0.13 - b) * 0.5
        elif material in (ASPHALT, PAINT):
            tone = 1.0 + 0.16 * fine * grain + 0.2 * (patch - 0.5)
            if distance < 30.0:
                crack = abs(_texture(noise, 0, x * 2.3 + 11.0, y * 2.3 + 5.0) - 0.5)
                if crack < 0.012:
                    tone *= 0.8 + 0.2 * min(1.0, distance / 30.0)
            if material == ASPHALT:
                tone *= mesh.detail[p, 0] if mesh.detail[p, 0] > 0.0 else 1.0
                r, g, b = r * tone, g * tone, b * tone
            else:
                worn = _texture(noise, 1, x * 9.0 + 3.0, y * 9.0) * (1.15 - 0.3 * patch)
                worn = min(1.0, max(0.0, (air.wear - worn) * 5.0)) * fine + (1.0 - fine) * 0.6 * air.wear
                keep = (1.0 - worn) * (0.94 + 0.12 * grain * fine)
                road = 1.05 * tone
                r = r * keep + air.asphalt[0] * road * (1.0 - keep)
                g = g * keep + air.asphalt[1] * road * (1.0 - keep)
                b = b * keep + air.asphalt[2] * road * (1.0 - keep)
            if air.wet > 0.0:
                pool = min(1.0, max(0.0, (patch - 0.86 + 0.14 * air.wet) * 12.0)) * air.wet
                dark = 1.0 - 0.45 * air.wet
                r, g, b = r * dark, g * dark, b * dark
                smooth = air.wet * (0.2 + 0.1 * grain * fine + 0.6 * pool)
        elif material == PAVING:
            joint = min(abs(x - np.round(x)), abs(y - np.round(y)))
            line = max(0.0, 1.0 - joint / max(0.02, 0.6 * along)) * min(1.0, 0.04 / max(0.02, along))
            slab = _hash(int(np.floor(x + 0.5)), int(np.floor(y + 0.5)), 5) - 0.5
            tone = (1.0 - 0.45 * line) * (1.0 + 0.1 * slab * fine + 0.2 * fine * grain + 0.14 * (patch - 0.5))
            r, g, b = r * tone, g * tone, b * tone
            if air.wet > 0.0:
                dark = 1.0 - 0.35 * air.wet
                r, g, b = r * dark, g * dark, b * dark
                smooth = 0.25 * air.wet
        else:
            tone = 1.0 + 0.2 * fine * grain + 0.16 * (patch - 0.5)
            r, g, b = r * tone, g * tone, b * tone
            smooth = 0.2 * air.wet
        if smooth > 0.0:
            graze = 1.0 + wz / size
            mirror = smooth * (0.03 + 0.8 * graze * graze * graze * graze * graze)
    elif material == FACADE:
        r, g, b, mirror, shine = _facade(mesh.detail[p], air, noise, x, y, z, footprint, mesh.colour[p])
    elif material == FOLIAGE:
        # Tufts, in the plane of the image: light and dark leaves, turned this way and that.
        cx, cy, cz = mesh.center[p, 0] - origin[0], mesh.center[p, 1] - origin[1], mesh.center[p, 2] - origin[2]
        across = t * ray_x - (rotation[0, 0] * cx + rotation[1, 0] * cy + rotation[2, 0] * cz)
        down = t * ray_y - (rotation[0, 1] * cx + rotation[1, 1] * cy + rotation[2, 1] * cz)
        scale = 1.0 / max(0.045, 0.8 * footprint)
        u, v = across * scale + mesh.detail[p, 0] * 977.0, down * scale + mesh.detail[p, 0] * 571.0
        leaf = 0.35 * _texture(noise, 0, u, v) + 0.65 * _texture(noise, 1, u, v)
        turned = _texture(noise, 1, u + 91.0, v + 37.0) - 0.5
        tone = (0.45 + 1.0 * leaf) * (0.84 + 0.2 * shade_z)
        r, g, b = r * tone * (1.0 + 0.2 * turned), g * tone, b * tone * 0.92
        nx, ny, nz = nx + 0.9 * turned, ny - 0.9 * (leaf - 0.5), nz + 0.5 * (leaf - 0.5)
        wrap = 0.3
    elif material == BARK:
        tone = 0.7 + 0.6 * _texture(noise, 0, x * 31.0 + y * 23.0, z * 5.0)
        r, g, b = r * tone, g * tone, b * tone
    elif material == ROOF:
        course = z * 4.0 - np.floor(z * 4.0)
        tone = 0.86 if course < 0.2 and footprint < 0.12 else 1.0
        tone *= 0.88 + 0.24 * _texture(noise, 0, x * 5.0, y * 5.0)
        r, g, b = r * tone, g * tone, b * tone
    elif material == STRIPES:
        s = (x * -ny + y * nx + z) / 0.42
        if s - np.floor(s) < 0.5:
            r, g, b = 0.72, 0.72, 0.7
    elif material == CONCRETE:
        tone = 0.9 + 0.2 * _texture(noise, 0, (x + y) * 6.0, (z + x - y) * 6.0)
        r, g, b = r * tone, g * tone, b * tone
    elif material in (GLASS, GLOSS):
        away = abs((wx * nx + wy * ny + wz * nz) / size)
        graze = 1.0 - min(1.0, away)
        fresnel = graze * graze * graze * graze * graze
        mirror = (0.10 + 0.6 * fresnel) if material == GLASS else (0.04 + 0.42 * fresnel)

    # What light falls on it.
    facing = nx * air.sun[0] + ny * air.sun[1] + nz * air.sun[2]
    facing = (facing + wrap) / (1.0 + wrap)
    sun = 0.0
    if facing > 0.0 and air.sun_light[1] > 0.0:
        sun = facing * _sunlit(maps, air, x + 0.03 * nx, y + 0.03 * ny, z)
    up = 0.5 + 0.5 * nz
    open_sky = 1.0
    if z < 0.6:
        i, j = int((x - maps.x) / maps.cell_m), int((y - maps.y) / maps.cell_m)
        if 0 <= i < maps.contact.shape[1] and 0 <= j < maps.contact.shape[0]:
            open_sky = maps.contact[j, i] + (1.0 - maps.contact[j, i]) * z / 0.6
    if not level and z < 2.0 and material != GLOSS:
        open_sky *= 0.78 + 0.11 * z
    night = air.lamps > 0.0 and maps.lit.shape[0] > 0
    fall = 1.0 / (1.0 + 0.09 * z * z)
    boost = 1.25 if material == PAINT else 1.0
    lamp_x, lamp_y = x + 0.2 * nx, y + 0.2 * ny
    light_r = (air.ground_light[0] + up * (air.sky_light[0] - air.ground_light[0])) * open_sky + sun * air.sun_light[0]
    light_g = (air.ground_light[1] + up * (air.sky_light[1] - air.ground_light[1])) * open_sky + sun * air.sun_light[1]
    light_b = (air.ground_light[2] + up * (air.sky_light[2] - air.ground_light[2])) * open_sky + sun * air.sun_light[2]
    if night:
        light_r += _lamplight(maps, lamp_x, lamp_y, 0) * fall * boost
        light_g += _lamplight(maps, lamp_x, lamp_y, 1) * fall * boost
        light_b += _lamplight(maps, lamp_x, lamp_y, 2) * fall * boost
    r, g, b = r * light_r, g * light_g, b * light_b
    if shine > 0.0:
        r, g, b = r + 1.0 * shine / air.gain, g + 0.78 * shine / air.gain, b + 0.42 * shine / air.gain
    if mirror > 0.0:
        dot = 2.0 * (wx * nx + wy * ny + wz * nz) / size
        mx, my, mz = wx / size - dot * nx, wy / size - dot * ny, wz / size - dot * nz
        if mz > 0.0:
            e0, e1, e2 = _sky(air, noise, mx, my, mz, False)
            # Near the horizon the street's other side stands in the way.
            free = min(1.0, 0.25 + 2.0 * mz)
            e0, e1, e2 = e0 * free, e1 * free, e2 * free
        else:
            e0, e1, e2 = 0.16 * air.sky_light[0], 0.16 * air.sky_light[1], 0.16 * air.sky_light[2]
        mirror = min(0.95, mirror)
        covered = 0.6 if level else 0.3
        r, g, b = r + mirror * (e0 - r * covered), g + mirror * (e1 - g * covered), b + mirror * (e2 - b * covered)
        toward = mx * air.sun[0] + my * air.sun[1] + mz * air.sun[2]
        if toward > 0.97 and sun > 0.0 and (material in (GLASS, GLOSS)):
            spark = (toward - 0.97) / 0.03
            spark *= spark * (1.6 if material == GLOSS else 2.6)
            r, g, b = r + spark * air.sun_light[0], g + spark * air.sun_light[1], b + spark * air.sun_light[2]
    haze = 1.0 - clear
    return r * clear + air.horizon[0] * haze, g * clear + air.horizon[1] * haze, b * clear + air.horizon[2] * haze


@numba.njit(**_KERNEL)
def shade(
    image: Floats, ids: NDArray[np.int32], lookup: NDArray[np.int32], rays: Floats, planes: Array,
    mesh: Mesh, view: View, pixel_rad: float, air: Air, maps: GroundMaps, noise: Floats,
) -> None:  # fmt: skip
    """Fill an image with exposed light.

    Args:
        image: [H, W, 3] out: light times the gain; 1 is nearly white.
        ids: [rows, columns] from `draw`.
        lookup: [H, W, 4] positions in the flattened `ids` of a pixel's samples.
        rays: [H, W, 2] x and y of the ray (x, y, 1) through the middle of each pixel.
        planes: [P, 3] from `draw`.
        pixel_rad: Angle between neighbouring pixels at the middle of the image.
    """
    flat = ids.reshape(-1)
    rows, columns = image.shape[0], image.shape[1]
    for v in range(rows):
        for u in range(columns):
            r, g, b = 0.0, 0.0, 0.0
            for k in range(4):
                p = flat[lookup[v, u, k]]
                weight, seen = 0.0, False
                for j in range(4):
                    if flat[lookup[v, u, j]] == p:
                        seen |= j < k
                        weight += 0.25
                if seen:
                    continue
                red, green, blue = _light_of(
                    p, rays[v, u, 0], rays[v, u, 1], mesh, planes, view.rotation, view.origin, pixel_rad, air, maps,
                    noise,
                )  # fmt: skip
                # Clipped before the mean: one glint would otherwise outshine the whole pixel.
                r += weight * min(3.0, red * air.gain)
                g += weight * min(3.0, green * air.gain)
                b += weight * min(3.0, blue * air.gain)
                if weight == 1.0:
                    break
            image[v, u, 0], image[v, u, 1], image[v, u, 2] = r, g, b


@numba.njit(**_KERNEL)
def _hidden(ids: NDArray[np.int32], p: int, dx: float, dy: float, dz: float, view: View) -> bool:
    """Whether a shape whose middle lies in the view is covered there by another."""
    rotation = view.rotation
    z = rotation[0, 2] * dx + rotation[1, 2] * dy + rotation[2, 2] * dz
    if z < 0.5:
        return False
    u = view.center_column + view.focal * (rotation[0, 0] * dx + rotation[1, 0] * dy + rotation[2, 0] * dz) / z
    v = view.center_row + view.focal * (rotation[0, 1] * dx + rotation[1, 1] * dy + rotation[2, 1] * dz) / z
    if u < 1 or v < 1 or u >= view.columns - 2 or v >= view.rows - 2:
        return False
    for row in range(int(v) - 1, int(v) + 2):
        for column in range(int(u) - 1, int(u) + 2):
            if ids[row, column] == p:
                return False
    return True


@numba.njit(**_KERNEL)
def reflect_lamps(
    image: Floats, ids: NDArray[np.int32], lookup: NDArray[np.int32], mesh: Mesh, view: View, intrinsic: Array,
    distortion: Array, wet: float,
) -> None:  # fmt: skip
    """Add the streaks that lamps draw on a wet street towards the camera.

    Args:
        image: [H, W, 3] exposed light, changed.
        intrinsic: [3, 3] of the image.
        distortion: [5] of the image.
        wet: 0 dry to 1 soaked.
    """
    flat = ids.reshape(-1)
    rows, columns = image.shape[0], image.shape[1]
    polygons = len(mesh.start) - 1
    rotation, origin = view.rotation, view.origin
    for p in range(mesh.flat, len(mesh.radius)):
        if mesh.material[p] != GLOW:
            continue
        dx, dy = mesh.center[p, 0] - origin[0], mesh.center[p, 1] - origin[1]
        if p < polygons and mesh.one_sided[p]:
            # A lamp that faces away draws no streak.
            first = mesh.start[p]
            a, b, c = mesh.vertices[first], mesh.vertices[first + 1], mesh.vertices[first + 2]
            nx = (b[1] - a[1]) * (c[2] - a[2]) - (b[2] - a[2]) * (c[1] - a[1])
            ny = (b[2] - a[2]) * (c[0] - a[0]) - (b[0] - a[0]) * (c[2] - a[2])
            if nx * dx + ny * dy > 0.0:
                continue
        if _hidden(ids, p, dx, dy, mesh.center[p, 2] - origin[2], view):
            continue
        dz = -mesh.center[p, 2] - origin[2]
        z = rotation[0, 2] * dx + rotation[1, 2] * dy + rotation[2, 2] * dz
        if z < 2.0 or z > 90.0:
            continue
        x = (rotation[0, 0] * dx + rotation[1, 0] * dy + rotation[2, 0] * dz) / z
        y = (rotation[0, 1] * dx + rotation[1, 1] * dy + rotation[2, 1] * dz) / z
        square = x * x + y * y
        if square > 0.9:
            continue
        bend = 1.0 + square * (distortion[0] + square * (distortion[1] + square * distortion[4]))
        u, v = intrinsic[0, 0] * x * bend + intrinsic[0, 2], intrinsic[1, 1] * y * bend + intrinsic[1, 2]
        wide = max(0.7, 0.16 * intrinsic[0, 0] / z)
        tall = max(1.5, (0.5 + 0.25 * mesh.center[p, 2]) * intrinsic[1, 1] / z)
        strength = 0.4 * wet * mesh.detail[p, 0] * min(1.0, mesh.radius[p] * intrinsic[0, 0] / z)
        for row in range(max(0, int(v - 2.5 * tall)), min(rows, int(v + 2.5 * tall) + 1)):
            for column in range(max(0, int(u - 2.5 * wide)), min(columns, int(u + 2.5 * wide) + 1)):
                shape = flat[lookup[row, column, 0]]
                if not 0 <= shape < mesh.flat or mesh.material[shape] not in (ASPHALT, PAINT, CONCRETE):
                    continue
                s, t = (column - u) / wide, (row - v) / tall
                share = strength * np.exp(-s * s - t * t)
                for k in range(3):
                    image[row, column, k] += share * mesh.colour[p, k]
