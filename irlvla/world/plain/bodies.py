"""Shapes of road users and street furniture, as flat polygons scaled to their boxes."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from irlvla.world.plain.raster import GLOW, PLAIN, STRIPES

Array = NDArray[np.float64]

# Colour numbers of a body part that depend on the individual or its state.
PAINT, SECOND_PAINT, BRAKE_LIGHT = -1, -2, -3

_GLASS = (45.0, 55.0, 68.0)
_TYRE = (28.0, 28.0, 30.0)
_HEADLIGHT = (245.0, 245.0, 225.0)
_SKIN = (205.0, 160.0, 130.0)
_DARK = (50.0, 52.0, 58.0)

CAR_PAINTS = np.array(
    [[225, 225, 228], [40, 42, 46], [150, 155, 160], [150, 30, 32], [35, 62, 120], [95, 100, 105], [180, 165, 130],
     [38, 90, 62], [205, 120, 40]], dtype=np.float64
)  # fmt: skip
CLOTHES = np.array(
    [[190, 40, 45], [40, 80, 160], [60, 130, 70], [225, 200, 70], [120, 70, 130], [230, 230, 230], [60, 60, 66]],
    dtype=np.float64,
)


@dataclass(frozen=True)
class Body:
    """A shape in a unit box: x forward and y left in [-0.5, 0.5], z up in [0, 1]."""

    quads: Array
    """[Q, 4, 3]"""
    colours: Array
    """[Q, 3]; a first entry below zero is a colour number."""
    materials: NDArray[np.int64]
    """[Q]"""


class _Sketch:
    def __init__(self) -> None:
        self.quads: list[Array] = []
        self.colours: list[tuple[float, float, float]] = []
        self.materials: list[int] = []

    def quad(self, corners: list[tuple[float, float, float]], colour: object, material: int = PLAIN) -> None:
        self.quads.append(np.array(corners, dtype=np.float64))
        self.colours.append(colour if isinstance(colour, tuple) else (float(colour), 0.0, 0.0))  # type: ignore[arg-type]
        self.materials.append(material)

    def box(
        self, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], colour: object,
        top: object = None, inset: tuple[float, float, float] = (0.0, 0.0, 0.0), material: int = PLAIN,
    ) -> None:  # fmt: skip
        """Box whose top is smaller by `inset` (rear, front, each side)."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        u0, u1, v0, v1 = x0 + inset[0], x1 - inset[1], y0 + inset[2], y1 - inset[2]
        low = [(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)]
        high = [(u0, v0, z1), (u1, v0, z1), (u1, v1, z1), (u0, v1, z1)]
        for k in range(4):
            j = (k + 1) % 4
            self.quad([low[k], low[j], high[j], high[k]], colour, material)
        self.quad(high, colour if top is None else top, material)

    def lamps(self, half_gap: float, half_outer: float, z: tuple[float, float], *, front: bool, colour: object) -> None:
        x = 0.503 if front else -0.503
        for side in (-1.0, 1.0):
            y0, y1 = side * half_gap, side * half_outer
            material = PLAIN if front else GLOW
            self.quad([(x, y0, z[0]), (x, y1, z[0]), (x, y1, z[1]), (x, y0, z[1])], colour, material)

    def wheels(self, positions: tuple[float, ...], half_length: float, height: float) -> None:
        for at in positions:
            for y in (-0.502, 0.502):
                corners = [(at - half_length, y, 0.0), (at + half_length, y, 0.0)]
                self.quad([*corners, (corners[1][0], y, height), (corners[0][0], y, height)], _TYRE)

    def body(self) -> Body:
        return Body(np.array(self.quads), np.array(self.colours), np.array(self.materials, dtype=np.int64))


@cache
def body(shape: str) -> Body:
    """Body of one of: car, van, truck, bus, pedestrian, bicycle, traffic_cone, barrier, czone_sign, generic_object."""
    s = _Sketch()
    full = (-0.5, 0.5)
    if shape == "car":
        s.box(full, full, (0.16, 0.58), PAINT)
        s.box((-0.40, 0.22), (-0.46, 0.46), (0.58, 1.0), _GLASS, top=PAINT, inset=(0.09, 0.16, 0.08))
        s.wheels((-0.3, 0.3), 0.075, 0.4)
        s.lamps(0.28, 0.47, (0.42, 0.54), front=False, colour=BRAKE_LIGHT)
        s.lamps(0.26, 0.47, (0.36, 0.48), front=True, colour=_HEADLIGHT)
        s.quad([(-0.503, -0.14, 0.34), (-0.503, 0.14, 0.34), (-0.503, 0.14, 0.42), (-0.503, -0.14, 0.42)],
               (230.0, 230.0, 215.0))  # fmt: skip
    elif shape in ("van", "bus"):
        s.box(full, full, (0.1, 1.0), PAINT)
        glass = (0.5, 0.86) if shape == "bus" else (0.55, 0.85)
        rear = -0.47 if shape == "bus" else 0.18
        for y in (-0.503, 0.503):
            s.quad([(rear, y, glass[0]), (0.46, y, glass[0]), (0.46, y, glass[1]), (rear, y, glass[1])], _GLASS)
        for x in (-0.502, 0.502):
            s.quad([(x, -0.42, 0.52), (x, 0.42, 0.52), (x, 0.42, 0.87), (x, -0.42, 0.87)], _GLASS)
        s.wheels((-0.32, 0.33), 0.06, 0.26)
        s.lamps(0.34, 0.48, (0.22, 0.36), front=False, colour=BRAKE_LIGHT)
        s.lamps(0.3, 0.47, (0.2, 0.3), front=True, colour=_HEADLIGHT)
    elif shape == "truck":
        s.box((-0.5, 0.24), full, (0.2, 1.0), SECOND_PAINT)
        s.box((0.27, 0.5), (-0.48, 0.48), (0.12, 0.8), PAINT)
        s.quad([(0.502, -0.42, 0.45), (0.502, 0.42, 0.45), (0.502, 0.42, 0.74), (0.502, -0.42, 0.74)], _GLASS)
        for y in (-0.483, 0.483):
            s.quad([(0.33, y, 0.45), (0.48, y, 0.45), (0.48, y, 0.72), (0.33, y, 0.72)], _GLASS)
        s.wheels((-0.38, -0.25, 0.38), 0.055, 0.26)
        s.lamps(0.34, 0.48, (0.22, 0.3), front=False, colour=BRAKE_LIGHT)
    elif shape == "pedestrian":
        s.box((-0.16, 0.16), (-0.26, 0.26), (0.0, 0.48), _DARK)
        s.box((-0.2, 0.2), (-0.36, 0.36), (0.46, 0.84), PAINT)
        s.box((-0.15, 0.15), (-0.15, 0.15), (0.85, 1.0), _SKIN)
    elif shape == "bicycle":
        for at in (-0.32, 0.32):
            ring = [(at + 0.18 * np.cos(a), 0.0, 0.19 + 0.19 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 9)[:-1]]
            for half in (ring[:4], ring[3:7], [ring[6], ring[7], ring[0], ring[3]]):
                s.quad(half, _TYRE)
        s.box((-0.3, 0.3), (-0.06, 0.06), (0.24, 0.42), (70.0, 80.0, 150.0))
        s.box((-0.1, 0.05), (-0.22, 0.22), (0.3, 0.55), _DARK)
        s.box((-0.14, 0.12), (-0.36, 0.36), (0.52, 0.84), PAINT)
        s.box((-0.06, 0.08), (-0.16, 0.16), (0.85, 1.0), _SKIN)
    elif shape == "traffic_cone":
        s.box(full, full, (0.0, 0.06), (200.0, 80.0, 20.0))
        s.box((-0.36, 0.36), (-0.36, 0.36), (0.06, 0.45), (240.0, 95.0, 20.0), inset=(0.12, 0.12, 0.12))
        s.box((-0.24, 0.24), (-0.24, 0.24), (0.45, 0.65), (240.0, 240.0, 235.0), inset=(0.07, 0.07, 0.07))
        s.box((-0.17, 0.17), (-0.17, 0.17), (0.65, 1.0), (240.0, 95.0, 20.0), inset=(0.1, 0.1, 0.1))
    elif shape == "barrier":
        s.box(full, full, (0.45, 1.0), (235.0, 60.0, 45.0), material=STRIPES)
        for y in (-0.4, 0.36):
            s.box((-0.1, 0.1), (y, y + 0.06), (0.0, 0.45), _DARK)
    elif shape == "czone_sign":
        s.box((-0.08, 0.08), (-0.05, 0.05), (0.0, 0.45), _DARK)
        for x in (-0.06, 0.06):
            s.quad([(x, 0.0, 0.4), (x, 0.5, 0.7), (x, 0.0, 1.0), (x, -0.5, 0.7)], (250.0, 150.0, 20.0))
            s.quad([(1.2 * x, -0.12, 0.62), (1.2 * x, 0.12, 0.62), (1.2 * x, 0.12, 0.8), (1.2 * x, -0.12, 0.8)],
                   (25.0, 25.0, 25.0))  # fmt: skip
    else:
        s.box(full, full, (0.0, 0.85), PAINT)
        s.box((-0.46, 0.46), (-0.46, 0.46), (0.85, 1.0), _DARK)
    return s.body()


def shape_of(kind: str) -> str:
    """Body for a SUMO vehicle type or an annotated object type."""
    if kind.startswith(("ego", "car")) or kind == "vehicle":
        return "car"
    for shape in ("van", "truck", "bus", "bicycle"):
        if kind.startswith(shape):
            return shape
    return kind


def placed(
    shape: str, box: Array, paint: Array, second_paint: Array, *, braking: bool
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Quads, colours and materials of a body scaled and moved to a box.

    Args:
        box: [7] center x, y, z, length, width, height, heading, in the frame drawn in.
    """
    form = body(shape)
    scale = np.array([box[3], box[4], box[5]])
    local = form.quads * scale
    cos, sin = np.cos(box[6]), np.sin(box[6])
    quads = np.empty_like(local)
    quads[..., 0] = box[0] + cos * local[..., 0] - sin * local[..., 1]
    quads[..., 1] = box[1] + sin * local[..., 0] + cos * local[..., 1]
    quads[..., 2] = box[2] - box[5] / 2 + local[..., 2]
    colours = form.colours.copy()
    code = form.colours[:, 0]
    colours[code == PAINT] = paint
    colours[code == SECOND_PAINT] = second_paint
    colours[code == BRAKE_LIGHT] = (255.0, 25.0, 20.0) if braking else (120.0, 18.0, 18.0)
    return quads, colours, form.materials
