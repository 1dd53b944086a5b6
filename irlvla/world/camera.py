"""Lens and film: which samples make a pixel, and what the camera stores of the light it receives."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from irlvla.world.appearance import Response
from irlvla.world.raster import View
from irlvla.world.rig import MountedCamera

Array = NDArray[np.float64]
Floats = NDArray[np.float32]

SAMPLES_A_SIDE = 2
_GRAIN_SIZE = 512
_TONES = 2048
_BRIGHTEST = 4.0


@dataclass(frozen=True)
class Lens:
    """A camera's samples: a straight pinhole view that covers all the lens sees, and where each pixel looks in it."""

    focal: float
    """Of the pinhole view, in samples."""
    center_column: float
    center_row: float
    rows: int
    columns: int
    lookup: NDArray[np.int32]
    """[H, W, 4] positions of a pixel's samples in the flattened view."""
    rays: Floats
    """[H, W, 2] x and y of the ray (x, y, 1) through each pixel's middle, camera axes."""
    pixel_rad: float

    def view(self, rotation: Array, origin: Array) -> View:
        """The pinhole view at a pose: camera to mesh axes, and place in the mesh."""
        return View(rotation, origin, self.focal, self.center_column, self.center_row, self.rows, self.columns)


def lens_of(camera: MountedCamera) -> Lens:
    """Trace a camera's pixels back through its lens; cameras that differ in their mounting only share the result."""
    return _traced(
        tuple(camera.intrinsic.ravel().tolist()), tuple(camera.distortion.tolist()), camera.width_px, camera.height_px
    )


@lru_cache(maxsize=4)
def _traced(intrinsic: tuple[float, ...], distortion: tuple[float, ...], width: int, height: int) -> Lens:
    side = SAMPLES_A_SIDE
    pinhole, bend = np.array(intrinsic).reshape(3, 3), np.array(distortion)
    focal = float(pinhole[0, 0]) * side
    steps = (np.arange(side) + 0.5) / side - 0.5
    u = (np.arange(width)[:, None] + steps).reshape(-1)
    v = (np.arange(height)[:, None] + steps).reshape(-1)
    samples = _straightened(pinhole, bend, *np.meshgrid(u, v))
    middles = _straightened(pinhole, bend, *np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float)))
    low, high = samples.reshape(-1, 2).min(axis=0), samples.reshape(-1, 2).max(axis=0)
    # Without distortion the samples then fall on the view's own, which are half a sample apart from whole pixels.
    shift = -0.5 / side * side if not bend.any() else 0.0
    center_column = float(np.round(-low[0] * focal + shift) + 1.0 - shift)
    center_row = float(np.round(-low[1] * focal + shift) + 1.0 - shift)
    columns, rows = int(center_column + high[0] * focal) + 2, int(center_row + high[1] * focal) + 2
    place = np.rint(samples * focal + [center_column, center_row]).astype(np.int64)
    flat = place[..., 1] * columns + place[..., 0]
    lookup = flat.reshape(height, side, width, side).transpose(0, 2, 1, 3).reshape(height, width, side * side)
    return Lens(
        focal, center_column, center_row, rows, columns, np.ascontiguousarray(lookup, dtype=np.int32),
        middles.astype(np.float32), 1.0 / float(pinhole[0, 0]),
    )  # fmt: skip


def _straightened(pinhole: Array, distortion: Array, u: Array, v: Array) -> Array:
    """[..., 2] x and y of rays (x, y, 1) through pixels, distortion undone."""
    bent = np.stack([(u - pinhole[0, 2]) / pinhole[0, 0], (v - pinhole[1, 2]) / pinhole[1, 1]], axis=-1)
    if not np.any(distortion):
        return bent
    k1, k2, p1, p2, k3 = distortion
    straight = bent.copy()
    # Fixed point, as OpenCV's undistortPoints finds it: undo the bend that the present guess would get.
    for _ in range(100):
        x, y = straight[..., 0], straight[..., 1]
        square = x * x + y * y
        radial = 1.0 + square * (k1 + square * (k2 + square * k3))
        aside = np.stack(
            [2 * p1 * x * y + p2 * (square + 2 * x * x), p1 * (square + 2 * y * y) + 2 * p2 * x * y], axis=-1
        )
        better = (bent - aside) / radial[..., None]
        moved = float(np.abs(better - straight).max())
        straight = better
        if moved < 1e-8:
            break
    return straight


class Film:
    """Turns received light into stored pixels: bloom, rain, vignette, noise, tone and colour."""

    def __init__(self, response: Response, *, bloom: float, rain: float) -> None:
        """
        Args:
            bloom: How far lamps outshine their outline, 0 by day to 1 by night.
            rain: 0 dry to 1 pouring.
        """
        self._response = response
        self._bloom = bloom
        self._rain = rain
        light = np.linspace(0.0, _BRIGHTEST, _TONES)
        # A soft shoulder: white walls and lamps approach white without a hard edge; then a camera's usual contrast.
        tone = ((1.0 - np.exp(-1.6 * light)) / (1.0 - np.exp(-1.6 * _BRIGHTEST))) ** (1 / 2.1)
        self._tone = (255.0 * (tone - 0.055 * np.sin(2 * np.pi * tone))).astype(np.float32)
        grain = np.random.default_rng(11).normal(0.0, 1.0, (_GRAIN_SIZE, _GRAIN_SIZE))
        self._grain = cv2.GaussianBlur(grain, (0, 0), 0.5).astype(np.float32)
        self._grain /= self._grain.std()

    def develop(self, light: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Stored image [H, W, 3] of exposed light [H, W, 3]."""
        height, width = light.shape[:2]
        if self._bloom > 0:
            over = light - 0.85
            np.maximum(over, 0.0, out=over)
            bright = cv2.resize(over, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
            wide = max(1.0, width / 160)
            halo = cv2.GaussianBlur(bright, (0, 0), 0.7) + 0.35 * cv2.GaussianBlur(bright, (0, 0), 2.2 * wide)
            glow: Floats = np.asarray(cv2.resize(halo, (width, height), interpolation=cv2.INTER_LINEAR))
            glow *= self._bloom
            light = np.add(light, glow, out=glow)
        if self._rain > 0:
            drops = rng.random((int(self._rain * width * 0.45), 4))
            _draw_rain(light, drops, rng.uniform(-0.12, 0.12), self._rain, float(np.median(light)) + 0.12)
        if self._response.blur_px > 0:
            light = np.asarray(cv2.GaussianBlur(light, (3, 3), self._response.blur_px * max(1.0, width / 480)))
        image = np.empty((height, width, 3), dtype=np.uint8)
        shift = rng.integers(0, _GRAIN_SIZE, 2)
        _expose(image, np.ascontiguousarray(light, dtype=np.float32), self._tone, self._grain, int(shift[0]),
                int(shift[1]), self._response.white_balance, self._response.saturation, self._response.vignette,
                self._response.noise)  # fmt: skip
        return image


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _expose(
    image: NDArray[np.uint8], light: Floats, tone: Floats, grain: Floats, shift_u: int, shift_v: int, balance: Array,
    saturation: float, vignette: float, noise: float,
) -> None:  # fmt: skip
    height, width = image.shape[0], image.shape[1]
    scale = (len(tone) - 1) / _BRIGHTEST
    half_u, half_v = 0.5 * width, 0.5 * height
    for v in range(height):
        dv = (v - half_v) / half_u
        for u in range(width):
            du = (u - half_u) / half_u
            dim = 1.0 - vignette * (du * du + dv * dv) * 0.76
            r, g, b = light[v, u, 0] * dim, light[v, u, 1] * dim, light[v, u, 2] * dim
            grey = 0.3 * r + 0.6 * g + 0.1 * b
            g0 = grain[(v + shift_v) & (_GRAIN_SIZE - 1), (u + shift_u) & (_GRAIN_SIZE - 1)]
            g1 = grain[(v + 97 + shift_v) & (_GRAIN_SIZE - 1), (u + 31 + shift_u) & (_GRAIN_SIZE - 1)]
            for k in range(3):
                value = r if k == 0 else (g if k == 1 else b)
                value = max(0.0, grey + saturation * (value - grey)) * balance[k]
                shown = tone[min(len(tone) - 1, int(value * scale + 0.5))]
                shown += noise * (0.75 * g0 + 0.5 * (g1 if k != 1 else -g1))
                image[v, u, k] = np.uint8(min(255.0, max(0.0, shown)))


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _draw_rain(light: Floats, drops: Array, slant: float, strength: float, brightness: float) -> None:
    """Streaks of drops near the camera, `drops` [N, 4] in [0, 1): column, row, length, opacity."""
    height, width = light.shape[0], light.shape[1]
    for n in range(len(drops)):
        u, v = drops[n, 0] * width, (1.1 * drops[n, 1] - 0.1) * height
        opacity = (0.06 + 0.24 * drops[n, 3]) * strength
        for k in range(int((0.02 + 0.07 * drops[n, 2]) * height)):
            row, column = int(v + k), int(u + slant * k)
            if 0 <= row < height and 0 <= column < width:
                for channel in range(3):
                    light[row, column, channel] += opacity * (brightness - light[row, column, channel])
