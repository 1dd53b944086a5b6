"""Shapes of road users and street furniture, scaled to their boxes: cars with lamps and wheels, people who walk."""

import itertools
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from irlvla.world.appearance import linear
from irlvla.world.raster import GLASS, GLOSS, GLOW, MATT, SIGN, STRIPES, Mesh

Array = NDArray[np.float64]

# Parts whose colour depends on the individual or on what it does now: indices into a livery.
(
    FIXED, PAINT, SECOND_PAINT, TAIL, BRAKE, HEADLIGHT, LEFT_TURN, RIGHT_TURN, SKIN, TOP, TROUSERS, HAIR, SHOES,
    METALWORK,
) = range(-1, 13)  # fmt: skip
LIVERY_SLOTS = 13
GAIT_PHASES = 8
FAR_M = 55.0
"""From here on vehicles are drawn with fewer faces."""

CarForm = Literal["sedan", "hatchback", "suv", "pickup"]
CAR_FORMS: tuple[CarForm, ...] = ("sedan", "hatchback", "suv", "pickup")


def _lin(r: float, g: float, b: float) -> tuple[float, float, float]:
    value = linear(np.array([r, g, b]))
    return float(value[0]), float(value[1]), float(value[2])


_GLASS = _lin(30, 36, 42)
_TYRE = _lin(30, 30, 32)
_ARCH = _lin(16, 16, 18)
_RIM = _lin(140, 142, 146)
_TRIM = _lin(36, 38, 40)
_CHROME = _lin(150, 152, 156)
_PLATE = _lin(222, 222, 214)
_LAMP_OFF = _lin(206, 210, 212)
_TAIL_OFF = _lin(110, 14, 14)

CAR_PAINTS = np.array(
    [_lin(*rgb) for rgb in ((228, 229, 230), (34, 36, 38), (150, 154, 158), (196, 198, 200), (96, 100, 104),
                            (128, 22, 26), (26, 48, 98), (176, 34, 34), (52, 74, 62), (172, 158, 128), (62, 84, 110),
                            (206, 120, 40), (90, 70, 58))]
)  # fmt: skip
# White, black and greys are what most people drive.
CAR_PAINT_SHARES = np.array([0.22, 0.19, 0.12, 0.1, 0.1, 0.05, 0.06, 0.05, 0.03, 0.03, 0.03, 0.01, 0.01])
CLOTHES = np.array(
    [_lin(*rgb) for rgb in ((178, 44, 46), (42, 74, 140), (58, 110, 74), (212, 186, 84), (110, 72, 118),
                            (224, 222, 216), (48, 50, 56), (120, 120, 122), (70, 110, 140), (196, 120, 90),
                            (30, 32, 38), (150, 96, 60))]
)  # fmt: skip
TROUSERS_COLOURS = np.array(
    [_lin(*rgb) for rgb in ((40, 44, 56), (58, 72, 100), (30, 30, 32), (110, 96, 78), (84, 84, 88), (150, 140, 120))]
)
METALWORK_COLOURS = np.array(
    [_lin(*rgb) for rgb in ((52, 78, 60), (84, 88, 92), (44, 62, 92), (92, 66, 46), (150, 150, 146), (38, 40, 42))]
)
SKINS = np.array([_lin(*rgb) for rgb in ((224, 184, 158), (196, 148, 118), (150, 104, 78), (104, 70, 52))])
HAIRS = np.array([_lin(*rgb) for rgb in ((30, 24, 22), (72, 50, 36), (140, 108, 70), (150, 148, 146), (60, 30, 24))])


@dataclass(frozen=True)
class Body:
    """A shape in a unit box: x forward and y left in [-0.5, 0.5], z up in [0, 1]."""

    vertices: Array
    """[V, 3]"""
    start: NDArray[np.int64]
    """[P + 1]"""
    colour: Array
    """[P + B, 3]"""
    slot: NDArray[np.int64]
    """[P + B] part of the livery that replaces the colour; FIXED keeps it."""
    material: NDArray[np.int64]
    """[P + B]"""
    one_sided: NDArray[np.bool_]
    """[P]"""
    blobs: Array
    """[B, 5] center and horizontal and vertical radius."""


@dataclass(frozen=True)
class Livery:
    """Colours of one individual at one moment."""

    colour: Array
    """[LIVERY_SLOTS, 3]"""
    glow: Array
    """[LIVERY_SLOTS] strength of what shines, else 0."""


class _Sketch:
    def __init__(self) -> None:
        self._polygons: list[tuple[Array, tuple[float, float, float], int, int, bool]] = []
        self._blobs: list[tuple[tuple[float, ...], tuple[float, float, float], int]] = []

    def face(
        self, points: list[tuple[float, float, float]] | Array, colour: tuple[float, float, float] | int,
        material: int = MATT, *, out_of: tuple[float, float, float] | None = None,
    ) -> None:  # fmt: skip
        """Add a polygon; seen from outside only, where a point inside the body is given."""
        corners = np.asarray(points, dtype=np.float64)
        if out_of is not None:
            normal = np.sum(np.cross(corners, np.roll(corners, -1, axis=0)), axis=0)
            if normal @ (corners.mean(axis=0) - out_of) < 0:
                corners = corners[::-1]
        slot = FIXED if isinstance(colour, tuple) else colour
        shown = colour if isinstance(colour, tuple) else (0.0, 0.0, 0.0)
        self._polygons.append((corners, shown, slot, material, out_of is not None))

    def box(
        self, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float],
        colour: tuple[float, float, float] | int, *, top: tuple[float, float, float] | int | None = None,
        inset: tuple[float, float, float] = (0.0, 0.0, 0.0), material: int = MATT, bottom: bool = False,
    ) -> None:  # fmt: skip
        """Box whose top is smaller by `inset` (rear, front, each side)."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        u0, u1, v0, v1 = x0 + inset[0], x1 - inset[1], y0 + inset[2], y1 - inset[2]
        low = [(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)]
        high = [(u0, v0, z1), (u1, v0, z1), (u1, v1, z1), (u0, v1, z1)]
        middle = ((x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2)
        for k in range(4):
            j = (k + 1) % 4
            self.face([low[k], low[j], high[j], high[k]], colour, material, out_of=middle)
        self.face(high, colour if top is None else top, material, out_of=middle)
        if bottom:
            self.face(low, colour, material, out_of=middle)

    def limb(
        self, a: tuple[float, float, float], b: tuple[float, float, float], half_x: float, half_y: float,
        colour: tuple[float, float, float] | int, taper: float = 0.8,
    ) -> None:  # fmt: skip
        """Four-sided bar from a to b, thinner at b."""
        ring = [(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)]
        low = [(a[0] + x, a[1] + y, a[2]) for x, y in ring]
        high = [(b[0] + taper * x, b[1] + taper * y, b[2]) for x, y in ring]
        middle = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2)
        for k in range(4):
            j = (k + 1) % 4
            self.face([low[k], low[j], high[j], high[k]], colour, out_of=middle)

    def blob(
        self, x: float, y: float, z: float, flat: float, tall: float, colour: tuple[float, float, float] | int
    ) -> None:
        shown = colour if isinstance(colour, tuple) else (0.0, 0.0, 0.0)
        self._blobs.append(((x, y, z, flat, tall), shown, FIXED if isinstance(colour, tuple) else colour))

    def body(self) -> Body:
        counts = [len(row[0]) for row in self._polygons]
        return Body(
            np.concatenate([row[0] for row in self._polygons]),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.array([row[1] for row in self._polygons] + [row[1] for row in self._blobs]),
            np.array([row[2] for row in self._polygons] + [row[2] for row in self._blobs], dtype=np.int64),
            np.array([row[3] for row in self._polygons] + [MATT] * len(self._blobs), dtype=np.int64),
            np.array([row[4] for row in self._polygons], dtype=bool),
            np.array([row[0] for row in self._blobs], dtype=np.float64).reshape(-1, 5),
        )

    # Parts that many vehicles share; x is a share of the length, y of the width, z of the height.

    def wheels(self, places: tuple[float, ...], half_length: float, height: float, *, rims: bool = True) -> None:
        turn = np.linspace(0, 2 * np.pi, 11)[:-1]
        for x in places:
            for side in (-1.0, 1.0):
                inner = (x, 0.0, height / 2)
                arch = [(x + 1.22 * half_length * np.cos(t), side * 0.5005, 0.55 * height * (1 + 1.1 * np.sin(t)))
                        for t in np.linspace(-0.2, np.pi + 0.2, 9)]  # fmt: skip
                self.face(arch, _ARCH, out_of=inner)
                for share, y, colour in ((1.0, 0.502, _TYRE), (0.66, 0.5035, _RIM), (0.2, 0.505, _TRIM)):
                    if not rims and share < 1:
                        continue
                    ring = [(x + share * half_length * np.cos(t), side * y, height / 2 * (1 + share * np.sin(t)))
                            for t in turn]  # fmt: skip
                    self.face(ring, colour, out_of=inner)
                if not rims:
                    continue
                # The tread, seen from ahead and behind below the body.
                turns = np.linspace(np.pi + 0.1, 2 * np.pi - 0.1, 5)
                for t0, t1 in itertools.pairwise(turns):
                    ends = ((t0, side * 0.38), (t1, side * 0.38), (t1, side * 0.5), (t0, side * 0.5))
                    points = [(x + half_length * np.cos(t), y, height / 2 * (1 + np.sin(t))) for t, y in ends]
                    self.face(points, _TYRE, out_of=(x, side * 0.44, height / 2))

    def lamps(
        self, x: float, y: tuple[float, float], z: tuple[float, float], left: tuple[float, float, float] | int,
        right: tuple[float, float, float] | int | None = None,
    ) -> None:  # fmt: skip
        """A lamp on either side of the front (x > 0) or rear."""
        for side, colour in ((1.0, left), (-1.0, left if right is None else right)):
            points = [(x, side * y[0], z[0]), (x, side * y[1], z[0]), (x, side * y[1], z[1]), (x, side * y[0], z[1])]
            self.face(points, colour, SIGN, out_of=(0.0, 0.0, 0.5))

    def side_panes(self, outline: list[tuple[float, float]], y: float, lean: float, z: tuple[float, float]) -> None:
        """A pane on either side; `lean` is how far it leans in from z[0] to z[1]."""
        for side in (-1.0, 1.0):
            points = [(px, side * (y - lean * (pz - z[0]) / (z[1] - z[0]) + 0.004), pz) for px, pz in outline]
            self.face(points, _GLASS, GLASS, out_of=(0.0, 0.0, 0.5))


# Side views of car forms: x of rear glass foot and top, roof front, windscreen foot; heights of deck, belt, bonnet,
# nose; and how steep the tail is.
_CARS: dict[CarForm, dict[str, float]] = {
    "sedan": {"tail": -0.34, "back": -0.17, "roof": 0.06, "screen": 0.235, "deck": 0.66, "belt": 0.63, "bonnet": 0.6,
              "nose": 0.5, "sill": 0.17},
    "hatchback": {"tail": -0.45, "back": -0.33, "roof": 0.08, "screen": 0.26, "deck": 0.62, "belt": 0.62,
                  "bonnet": 0.6, "nose": 0.5, "sill": 0.16},
    "suv": {"tail": -0.452, "back": -0.4, "roof": 0.09, "screen": 0.235, "deck": 0.6, "belt": 0.6, "bonnet": 0.6,
            "nose": 0.54, "sill": 0.2},
    "pickup": {"tail": -0.09, "back": -0.05, "roof": 0.14, "screen": 0.265, "deck": 0.6, "belt": 0.6, "bonnet": 0.6,
               "nose": 0.55, "sill": 0.22},
}  # fmt: skip


def _car(form: CarForm, *, simple: bool) -> Body:
    s = _Sketch()
    p = _CARS[form]
    tail, back, roof, screen = p["tail"], p["back"], p["roof"], p["screen"]
    deck, belt, bonnet, nose, sill = p["deck"], p["belt"], p["bonnet"], p["nose"], p["sill"]
    inside = (0.0, 0.0, 0.45)
    wide, narrow, slim = 0.5, 0.42, 0.385
    # Flanks with rounded corners ahead and behind.
    flank = [(-0.46, sill), (0.45, sill), (0.46, nose), (screen, bonnet + 0.02), (tail, belt + 0.02), (-0.46, deck)]
    for side in (-1.0, 1.0):
        s.face([(x, side * wide, z) for x, z in flank], PAINT, GLOSS, out_of=inside)
        s.face([(0.45, side * wide, sill), (0.5, side * narrow, sill + 0.03), (0.5, side * narrow, nose - 0.04),
                (0.46, side * wide, nose)], PAINT, GLOSS, out_of=inside)  # fmt: skip
        s.face([(-0.46, side * wide, sill), (-0.5, side * narrow, sill + 0.03), (-0.5, side * narrow, deck - 0.05),
                (-0.46, side * wide, deck)], PAINT, GLOSS, out_of=inside)  # fmt: skip
        if not simple:
            s.face([(-0.3, side * 0.5015, sill), (0.3, side * 0.5015, sill), (0.3, side * 0.5015, sill + 0.05),
                    (-0.3, side * 0.5015, sill + 0.05)], _TRIM, out_of=inside)  # fmt: skip
            for x in (0.03, -0.15) if form != "pickup" else (0.06,):
                s.face([(x, side * 0.5015, sill + 0.06), (x + 0.006, side * 0.5015, sill + 0.06),
                        (x + 0.006, side * 0.5015, belt), (x, side * 0.5015, belt)], _TRIM, out_of=inside)  # fmt: skip
                s.face([(x - 0.035, side * 0.503, belt - 0.08), (x - 0.01, side * 0.503, belt - 0.08),
                        (x - 0.01, side * 0.503, belt - 0.055), (x - 0.035, side * 0.503, belt - 0.055)], _CHROME,
                       out_of=inside)  # fmt: skip
            s.box((screen - 0.06, screen - 0.03), (side * 0.5 - 0.02, side * 0.5 + 0.02), (belt + 0.02, belt + 0.12),
                  PAINT, material=GLOSS)  # fmt: skip
    s.face([(0.5, -narrow, sill + 0.03), (0.5, narrow, sill + 0.03), (0.5, narrow, nose - 0.04),
            (0.5, -narrow, nose - 0.04)], PAINT, GLOSS, out_of=inside)  # fmt: skip
    s.face([(-0.5, -narrow, sill + 0.03), (-0.5, narrow, sill + 0.03), (-0.5, narrow, deck - 0.05),
            (-0.5, -narrow, deck - 0.05)], PAINT, GLOSS, out_of=inside)  # fmt: skip
    # Bonnet, deck, and the dark under the car.
    s.face([(0.46, -wide, nose), (0.5, -narrow, nose - 0.04), (0.5, narrow, nose - 0.04), (0.46, wide, nose)], PAINT,
           GLOSS, out_of=inside)  # fmt: skip
    s.face([(0.46, -wide, nose), (0.46, wide, nose), (screen, wide, bonnet + 0.02), (screen, -wide, bonnet + 0.02)],
           PAINT, GLOSS, out_of=inside)  # fmt: skip
    s.face([(-0.46, -wide, deck), (-0.5, -narrow, deck - 0.05), (-0.5, narrow, deck - 0.05), (-0.46, wide, deck)],
           PAINT, GLOSS, out_of=inside)  # fmt: skip
    if form == "pickup":
        s.face([(-0.45, -0.44, deck - 0.03), (-0.45, 0.44, deck - 0.03), (tail, 0.44, deck - 0.03),
                (tail, -0.44, deck - 0.03)], _TRIM)  # fmt: skip
        for side in (-1.0, 1.0):
            s.face([(-0.46, side * 0.5, deck), (tail, side * 0.5, deck + 0.01), (tail, side * 0.44, deck + 0.01),
                    (-0.46, side * 0.44, deck)], PAINT, GLOSS)  # fmt: skip
    else:
        s.face([(-0.46, -wide, deck), (-0.46, wide, deck), (tail, wide, belt + 0.02), (tail, -wide, belt + 0.02)],
               PAINT, GLOSS, out_of=inside)  # fmt: skip
    # Cabin: pillars in paint, panes a little outside of them.
    cabin = [(tail, belt), (screen, belt), (roof, 0.985), (back, 0.985)]
    for side in (-1.0, 1.0):
        points = [(x, side * (0.48 if z < 0.8 else slim), z) for x, z in cabin]
        s.face(points, PAINT, GLOSS, out_of=inside)
        # Shoulder between flank and pane.
        s.face([(tail, side * 0.48, belt), (screen, side * 0.48, belt), (screen, side * wide, belt + 0.0),
                (tail, side * wide, belt)], PAINT, GLOSS, out_of=inside)  # fmt: skip
    s.face([(back, -slim, 0.985), (roof, -slim, 0.985), (roof, slim, 0.985), (back, slim, 0.985)], PAINT, GLOSS,
           out_of=inside)  # fmt: skip
    s.face([(back + 0.03, -slim + 0.06, 1.0), (roof - 0.04, -slim + 0.06, 1.0), (roof - 0.04, slim - 0.06, 1.0),
            (back + 0.03, slim - 0.06, 1.0)], PAINT, GLOSS, out_of=inside)  # fmt: skip
    s.face([(screen + 0.003, -0.46, belt), (screen + 0.003, 0.46, belt), (roof + 0.003, 0.37, 0.975),
            (roof + 0.003, -0.37, 0.975)], _GLASS, GLASS, out_of=inside)  # fmt: skip
    s.face([(tail - 0.003, -0.44, belt + 0.05), (tail - 0.003, 0.44, belt + 0.05), (back - 0.003, 0.355, 0.95),
            (back - 0.003, -0.355, 0.95)], _GLASS, GLASS, out_of=inside)  # fmt: skip
    lean, top = 0.095, 0.985
    foot, high = belt + 0.025, 0.945
    rear_x, front_x = tail + 0.06, screen - 0.05
    rear_top, front_top = back + 0.03, roof - 0.005
    post = (rear_top + front_top) / 2 - 0.02 if form != "pickup" else rear_top + 0.03
    if simple or form == "pickup":
        s.side_panes([(rear_x, foot), (front_x, foot), (front_top, high), (rear_top, high)], 0.48, lean, (belt, top))
    else:
        s.side_panes([(post + 0.012, foot), (front_x, foot), (front_top, high), (post + 0.012, high)], 0.48, lean,
                     (belt, top))  # fmt: skip
        s.side_panes([(rear_x, foot), (post - 0.012, foot), (post - 0.012, high), (rear_top, high)], 0.48, lean,
                     (belt, top))  # fmt: skip
    s.face([(-0.46, -0.49, sill), (0.46, -0.49, sill), (0.46, 0.49, sill), (-0.46, 0.49, sill)], _ARCH)
    s.wheels((-0.305, 0.31), 0.073, 0.43 if form in ("sedan", "hatchback") else 0.42, rims=not simple)
    # Lamps, grille, bumpers, number plates.
    f, r = 0.5035, -0.5035
    if form in ("suv", "hatchback"):
        s.lamps(r, (0.3, 0.415), (deck - 0.2, deck - 0.06), BRAKE)
    else:
        s.lamps(r, (0.2, 0.415), (deck - 0.16, deck - 0.06), BRAKE)
    for side in (-1.0, 1.0):
        s.face([(-0.5005, side * 0.422, deck - 0.17), (-0.4605, side * 0.502, deck - 0.14),
                (-0.4605, side * 0.502, deck - 0.05), (-0.5005, side * 0.422, deck - 0.07)], TAIL, SIGN,
               out_of=inside)  # fmt: skip
        s.face([(0.5005, side * 0.422, nose - 0.14), (0.4605, side * 0.502, nose - 0.09),
                (0.4605, side * 0.502, nose - 0.02), (0.5005, side * 0.422, nose - 0.06)], _LAMP_OFF, SIGN,
               out_of=inside)  # fmt: skip
    s.lamps(f, (0.25, 0.418), (nose - 0.15, nose - 0.06), HEADLIGHT)
    s.lamps(r - 0.001, (0.3, 0.415), (deck - 0.205, deck - 0.165), LEFT_TURN, RIGHT_TURN)
    s.lamps(f + 0.001, (0.33, 0.418), (nose - 0.2, nose - 0.155), LEFT_TURN, RIGHT_TURN)
    if not simple:
        s.face([(f, -0.2, sill + 0.08), (f, 0.2, sill + 0.08), (f, 0.23, nose - 0.07), (f, -0.23, nose - 0.07)], _TRIM,
               out_of=inside)  # fmt: skip
        for x, z in ((f + 0.002, sill + 0.06), (r - 0.002, (sill + deck) / 2 - 0.05)):
            s.face([(x, -0.14, z), (x, 0.14, z), (x, 0.14, z + 0.08), (x, -0.14, z + 0.08)], _PLATE, out_of=inside)
        for x in (f, r):
            s.face([(x, -0.4, sill), (x, 0.4, sill), (x, 0.4, sill + 0.06), (x, -0.4, sill + 0.06)], _TRIM,
                   out_of=inside)  # fmt: skip
        # The third brake light.
        y = 0.09
        s.face([(back - 0.012, -y, 0.955), (back - 0.012, y, 0.955), (back - 0.008, y, 0.975),
                (back - 0.008, -y, 0.975)], BRAKE, SIGN)  # fmt: skip
    return s.body()


def _box_vehicle(kind: Literal["van", "bus"], *, simple: bool) -> Body:
    s = _Sketch()
    inside = (0.0, 0.0, 0.5)
    sill = 0.12
    if kind == "van":
        side = [(-0.5, sill), (0.47, sill), (0.5, 0.42), (0.36, 0.55), (0.27, 0.97), (-0.5, 1.0)]
    else:
        side = [(-0.5, sill), (0.5, sill), (0.5, 0.55), (0.488, 1.0), (-0.5, 1.0)]
    for y in (-0.5, 0.5):
        s.face([(x, y, z) for x, z in side], PAINT, GLOSS, out_of=inside)
    for a, b in zip(side, side[1:] + side[:1], strict=True):
        colour: tuple[float, float, float] | int = _ARCH if a[1] == sill and b[1] == sill else PAINT
        s.face([(a[0], -0.5, a[1]), (a[0], 0.5, a[1]), (b[0], 0.5, b[1]), (b[0], -0.5, b[1])], colour, GLOSS,
               out_of=inside)  # fmt: skip
    if kind == "van":
        s.face([(0.362, -0.44, 0.56), (0.362, 0.44, 0.56), (0.279, 0.42, 0.93), (0.279, -0.42, 0.93)], _GLASS, GLASS,
               out_of=inside)  # fmt: skip
        for y in (-0.503, 0.503):
            s.face([(0.16, y, 0.55), (0.33, y, 0.55), (0.262, y, 0.88), (0.16, y, 0.88)], _GLASS, GLASS, out_of=inside)
            if not simple:
                for x in (0.145, -0.12):
                    s.face([(x, y, 0.2), (x + 0.004, y, 0.2), (x + 0.004, y, 0.92), (x, y, 0.92)], _TRIM,
                           out_of=inside)  # fmt: skip
                s.face([(-0.42, y, 0.42), (0.06, y, 0.42), (0.06, y, 0.56), (-0.42, y, 0.56)], SECOND_PAINT,
                       out_of=inside)  # fmt: skip
        s.face([(-0.503, -0.4, 0.58), (-0.503, 0.4, 0.58), (-0.503, 0.4, 0.86), (-0.503, -0.4, 0.86)], _GLASS, GLASS,
               out_of=inside)  # fmt: skip
        s.lamps(0.492, (0.28, 0.47), (0.34, 0.44), HEADLIGHT)
        s.lamps(-0.505, (0.4, 0.49), (0.36, 0.56), BRAKE)
        s.lamps(-0.506, (0.4, 0.49), (0.3, 0.355), LEFT_TURN, RIGHT_TURN)
        s.lamps(0.5, (0.3, 0.47), (0.29, 0.33), LEFT_TURN, RIGHT_TURN)
        s.wheels((-0.29, 0.31), 0.06, 0.29, rims=not simple)
        plate = 0.24
    else:
        s.face([(0.506, -0.46, 0.4), (0.506, 0.46, 0.4), (0.496, 0.46, 0.82), (0.496, -0.46, 0.82)], _GLASS, GLASS,
               out_of=inside)  # fmt: skip
        s.face([(0.496, -0.38, 0.85), (0.496, 0.38, 0.85), (0.492, 0.38, 0.95), (0.492, -0.38, 0.95)],
               _lin(18, 18, 16), out_of=inside)  # fmt: skip
        if not simple:
            for k in range(7):
                y0 = -0.28 + 0.085 * k
                s.face([(0.499, y0, 0.875), (0.499, y0 + 0.05, 0.875), (0.496, y0 + 0.05, 0.93), (0.496, y0, 0.93)],
                       _lin(250, 180, 60), SIGN, out_of=inside)  # fmt: skip
        for y in (-0.503, 0.503):
            panes = 6
            for k in range(panes):
                x0 = -0.46 + 0.92 * k / panes
                x1 = x0 + 0.92 / panes - 0.012
                low = 0.16 if y < 0 and k in (2, 5) else 0.44
                s.face([(x0, y, low), (x1, y, low), (x1, y, 0.82), (x0, y, 0.82)], _GLASS, GLASS, out_of=inside)
            s.face([(-0.5, y, 0.3), (0.5, y, 0.3), (0.5, y, 0.38), (-0.5, y, 0.38)], SECOND_PAINT, out_of=inside)
        s.face([(-0.503, -0.4, 0.52), (-0.503, 0.4, 0.52), (-0.503, 0.4, 0.84), (-0.503, -0.4, 0.84)], _GLASS, GLASS,
               out_of=inside)  # fmt: skip
        s.lamps(0.504, (0.3, 0.47), (0.2, 0.28), HEADLIGHT)
        s.lamps(-0.505, (0.36, 0.48), (0.24, 0.42), BRAKE)
        s.lamps(-0.506, (0.36, 0.48), (0.18, 0.23), LEFT_TURN, RIGHT_TURN)
        s.lamps(0.506, (0.36, 0.48), (0.3, 0.34), LEFT_TURN, RIGHT_TURN)
        s.wheels((-0.27, 0.28), 0.043, 0.31, rims=not simple)
        plate = 0.2
    s.face([(-0.506, -0.12, plate), (-0.506, 0.12, plate), (-0.506, 0.12, plate + 0.05), (-0.506, -0.12, plate + 0.05)],
           _PLATE, out_of=inside)  # fmt: skip
    return s.body()


def _truck(*, simple: bool) -> Body:
    s = _Sketch()
    s.box((-0.5, 0.25), (-0.5, 0.5), (0.26, 1.0), SECOND_PAINT)
    s.box((-0.48, 0.44), (-0.36, 0.36), (0.14, 0.26), _TRIM)
    s.box((0.28, 0.5), (-0.48, 0.48), (0.14, 0.5), PAINT, material=GLOSS)
    s.box((0.28, 0.5), (-0.48, 0.48), (0.5, 0.82), PAINT, inset=(0.0, 0.03, 0.02), material=GLOSS)
    inside = (0.39, 0.0, 0.5)
    s.face([(0.503, -0.42, 0.51), (0.503, 0.42, 0.51), (0.482, 0.41, 0.76), (0.482, -0.41, 0.76)], _GLASS, GLASS,
           out_of=inside)  # fmt: skip
    for y in (-1.0, 1.0):
        s.face([(0.36, y * 0.4815, 0.5), (0.48, y * 0.4815, 0.5), (0.465, y * 0.468, 0.74), (0.36, y * 0.468, 0.74)],
               _GLASS, GLASS, out_of=inside)  # fmt: skip
        if not simple:
            s.box((0.47, 0.5), (y * 0.49 - 0.02, y * 0.49 + 0.01), (0.52, 0.66), _TRIM)
            s.face([(-0.44, y * 0.5015, 0.5), (0.18, y * 0.5015, 0.5), (0.18, y * 0.5015, 0.74),
                    (-0.44, y * 0.5015, 0.74)], PAINT, out_of=(0.0, 0.0, 0.5))  # fmt: skip
    s.face([(0.503, -0.34, 0.24), (0.503, 0.34, 0.24), (0.503, 0.34, 0.44), (0.503, -0.34, 0.44)], _TRIM, out_of=inside)
    s.face([(-0.502, -0.005, 0.28), (-0.502, 0.005, 0.28), (-0.502, 0.005, 0.97), (-0.502, -0.005, 0.97)], _TRIM)
    s.lamps(0.505, (0.35, 0.47), (0.2, 0.28), HEADLIGHT)
    s.lamps(-0.503, (0.36, 0.49), (0.19, 0.25), BRAKE)
    s.lamps(-0.503, (0.28, 0.355), (0.19, 0.25), LEFT_TURN, RIGHT_TURN)
    s.lamps(0.505, (0.4, 0.47), (0.3, 0.34), LEFT_TURN, RIGHT_TURN)
    s.wheels((-0.37, -0.24, 0.37), 0.055, 0.27, rims=not simple)
    s.face([(-0.504, -0.1, 0.2), (-0.504, 0.1, 0.2), (-0.504, 0.1, 0.245), (-0.504, -0.1, 0.245)], _PLATE)
    return s.body()


def _pedestrian(phase: int, *, coat: bool) -> Body:
    """Somebody in mid-stride; phase GAIT_PHASES stands still."""
    s = _Sketch()
    swing = 0.0 if phase == GAIT_PHASES else float(np.sin(2 * np.pi * phase / GAIT_PHASES))
    lift = 0.0 if phase == GAIT_PHASES else float(np.cos(2 * np.pi * phase / GAIT_PHASES))
    for side in (-1.0, 1.0):
        forward = 0.33 * swing * side
        raised = 0.05 * max(0.0, lift * side)
        hip, knee = (0.0, side * 0.13, 0.5), (0.55 * forward + 0.06, side * 0.13, 0.28 + raised)
        foot = (forward - 0.16 * (raised / 0.05 if raised > 0 else 0.0), side * 0.13, 0.045 + raised)
        s.limb(knee, hip, 0.1, 0.1, TROUSERS, taper=1.25)
        s.limb(foot, knee, 0.085, 0.08, TROUSERS, taper=1.2)
        s.box((foot[0] - 0.09, foot[0] + 0.17), (side * 0.13 - 0.07, side * 0.13 + 0.07),
              (max(0.0, foot[2] - 0.045), foot[2] + 0.005), SHOES)  # fmt: skip
        shoulder = (0.0, side * 0.3, 0.8)
        elbow = (-0.5 * forward - 0.03, side * 0.33, 0.64)
        hand = (-0.95 * forward + 0.08, side * 0.31, 0.5)
        s.limb(elbow, shoulder, 0.08, 0.075, TOP, taper=1.1)
        s.limb(hand, elbow, 0.06, 0.06, TOP, taper=1.15)
        s.blob(hand[0], hand[1], hand[2] - 0.01, 0.07, 0.03, SKIN)
    low = 0.34 if coat else 0.47
    s.box((-0.15, 0.15), (-0.21, 0.21), (low, 0.6), TOP if coat else TROUSERS, inset=(0.0, 0.0, -0.02))
    s.box((-0.15, 0.16), (-0.23, 0.23), (0.58, 0.83), TOP, inset=(0.02, 0.03, -0.05))
    s.box((-0.07, 0.07), (-0.08, 0.08), (0.82, 0.87), SKIN)
    s.blob(0.01, 0.0, 0.925, 0.155, 0.075, SKIN)
    s.blob(-0.025, 0.0, 0.94, 0.16, 0.06, HAIR)
    return s.body()


def _bicycle(phase: int) -> Body:
    s = _Sketch()
    turn = np.linspace(0, 2 * np.pi, 13)
    for x in (-0.31, 0.31):
        for a, b in itertools.pairwise(turn):
            ring = [(x + r * np.cos(t), 0.0, 0.195 + r * 1.03 * np.sin(t))
                    for r, t in ((0.15, a), (0.188, a), (0.188, b), (0.15, b))]  # fmt: skip
            s.face(ring, _TYRE)
        for t in turn[:-1:3]:
            c, d = np.cos(t), np.sin(t)
            rim, hub = (x - 0.15 * c, 0.195 - 0.155 * d), (x + 0.15 * c, 0.195 + 0.155 * d)
            s.face([(rim[0] - 0.004 * d, 0.0, rim[1]), (rim[0] + 0.004 * d, 0.0, rim[1]), (hub[0], 0.0, hub[1])],
                   _CHROME)  # fmt: skip
    frame = [((-0.31, 0.195), (-0.06, 0.2)), ((-0.06, 0.2), (-0.13, 0.46)), ((-0.13, 0.42), (0.21, 0.45)),
             ((-0.06, 0.2), (0.21, 0.43)), ((0.31, 0.195), (0.2, 0.52)), ((-0.31, 0.195), (-0.13, 0.42))]  # fmt: skip
    for (x0, z0), (x1, z1) in frame:
        s.limb((x0, 0.0, z0), (x1, 0.0, z1), 0.012, 0.03, SECOND_PAINT, taper=1.0)
    s.limb((0.18, -0.36, 0.54), (0.18, 0.36, 0.54), 0.015, 0.03, _TRIM, taper=1.0)
    s.face([(0.165, -0.36, 0.53), (0.165, 0.36, 0.53), (0.195, 0.36, 0.55), (0.195, -0.36, 0.55)], _TRIM)
    s.box((-0.2, -0.07), (-0.1, 0.1), (0.46, 0.49), _TRIM)
    s.blob(0.245, 0.0, 0.5, 0.06, 0.022, HEADLIGHT)
    s.blob(-0.235, 0.0, 0.42, 0.05, 0.02, TAIL)
    # The rider: pedalling legs, back bent towards the bars.
    for side in (-1.0, 1.0):
        angle = 2 * np.pi * phase / GAIT_PHASES + (0.0 if side > 0 else np.pi)
        pedal = (-0.06 + 0.09 * np.cos(angle), side * 0.2, 0.2 + 0.09 * np.sin(angle))
        hip = (-0.13, side * 0.17, 0.52)
        knee = ((hip[0] + pedal[0]) / 2 + 0.12, side * 0.2, (hip[2] + pedal[2]) / 2 + 0.03)
        s.limb(pedal, knee, 0.035, 0.1, TROUSERS, taper=1.3)
        s.limb(knee, hip, 0.045, 0.13, TROUSERS, taper=1.2)
        s.box((pedal[0] - 0.04, pedal[0] + 0.07), (side * 0.2 - 0.08, side * 0.2 + 0.08),
              (max(0.0, pedal[2] - 0.03), pedal[2] + 0.01), SHOES)  # fmt: skip
        shoulder, hand = (0.04, side * 0.3, 0.8), (0.18, side * 0.33, 0.56)
        s.limb(hand, shoulder, 0.03, 0.09, TOP, taper=1.3)
    s.limb((-0.13, 0.0, 0.49), (0.02, 0.0, 0.84), 0.07, 0.3, TOP, taper=1.1)
    s.limb((0.03, 0.0, 0.82), (0.05, 0.0, 0.88), 0.03, 0.1, SKIN, taper=1.0)
    s.blob(0.07, 0.0, 0.92, 0.165, 0.065, SKIN)
    s.blob(0.055, 0.0, 0.945, 0.18, 0.052, HAIR)
    return s.body()


def _furniture(shape: str) -> Body:
    s = _Sketch()
    full = (-0.5, 0.5)
    orange = _lin(232, 96, 26)
    if shape == "traffic_cone":
        s.box(full, full, (0.0, 0.06), _lin(60, 60, 62))
        s.box((-0.36, 0.36), (-0.36, 0.36), (0.06, 0.4), orange, inset=(0.11, 0.11, 0.11))
        s.box((-0.25, 0.25), (-0.25, 0.25), (0.4, 0.58), _lin(236, 236, 232), inset=(0.06, 0.06, 0.06))
        s.box((-0.19, 0.19), (-0.19, 0.19), (0.58, 0.74), orange, inset=(0.05, 0.05, 0.05))
        s.box((-0.14, 0.14), (-0.14, 0.14), (0.74, 0.86), _lin(236, 236, 232), inset=(0.03, 0.03, 0.03))
        s.box((-0.11, 0.11), (-0.11, 0.11), (0.86, 1.0), orange, inset=(0.06, 0.06, 0.06))
    elif shape == "barrier":
        s.box((-0.16, 0.16), full, (0.68, 1.0), orange, material=STRIPES)
        s.box((-0.16, 0.16), full, (0.3, 0.52), orange, material=STRIPES)
        for y in (-0.42, 0.38):
            s.box((-0.12, 0.12), (y, y + 0.05), (0.0, 1.0), _CHROME)
            s.box((-0.5, 0.5), (y, y + 0.05), (0.0, 0.08), _TRIM)
    elif shape == "czone_sign":
        for y in (-0.25, 0.2):
            s.box((-0.1, 0.1), (y, y + 0.05), (0.0, 0.5), _CHROME)
        for x in (-0.12, 0.12):
            inside = (0.0, 0.0, 0.7)
            s.face([(x, 0.0, 0.4), (x, 0.5, 0.7), (x, 0.0, 1.0), (x, -0.5, 0.7)], _TRIM, SIGN, out_of=inside)
            s.face([(1.1 * x, 0.0, 0.43), (1.1 * x, 0.45, 0.7), (1.1 * x, 0.0, 0.97), (1.1 * x, -0.45, 0.7)],
                   _lin(250, 140, 20), SIGN, out_of=inside)  # fmt: skip
            # A figure with a shovel.
            y = 1.2 * x
            s.face([(y, -0.12, 0.58), (y, 0.02, 0.58), (y, 0.1, 0.78), (y, -0.02, 0.8)], _TRIM, out_of=inside)
            s.face([(y, 0.1, 0.6), (y, 0.2, 0.6), (y, 0.04, 0.76), (y, 0.0, 0.74)], _TRIM, out_of=inside)
            s.face([(y, -0.02, 0.81), (y, 0.08, 0.81), (y, 0.08, 0.87), (y, -0.02, 0.87)], _TRIM, out_of=inside)
    elif shape == "shelter":
        # Of a bus stop: open to the left, where the road is.
        s.box(full, full, (0.95, 1.0), _TRIM, bottom=True)
        for x in (-0.47, 0.47):
            s.box((x - 0.015, x + 0.015), (-0.45, -0.4), (0.0, 0.95), _CHROME)
            s.face([(x, -0.4, 0.12), (x, 0.2, 0.12), (x, 0.2, 0.86), (x, -0.4, 0.86)], _GLASS, GLASS)
        s.face([(-0.46, -0.42, 0.12), (0.46, -0.42, 0.12), (0.46, -0.42, 0.9), (-0.46, -0.42, 0.9)], _GLASS, GLASS)
        s.box((-0.3, 0.3), (-0.36, -0.1), (0.16, 0.19), _lin(150, 112, 70))
    else:
        s.box((-0.46, 0.46), (-0.46, 0.46), (0.0, 0.82), METALWORK, inset=(-0.03, -0.03, -0.03))
        s.box(full, full, (0.82, 0.9), _TRIM)
        s.box((-0.4, 0.4), (-0.4, 0.4), (0.9, 1.0), METALWORK, inset=(0.12, 0.12, 0.12))
        s.face([(0.497, -0.28, 0.62), (0.497, 0.28, 0.62), (0.502, 0.28, 0.74), (0.502, -0.28, 0.74)], _ARCH)
    return s.body()


@cache
def body(shape: str, phase: int = GAIT_PHASES, *, variant: int = 0, simple: bool = False) -> Body:
    """A body.

    Args:
        shape: car, van, truck, bus, pedestrian, bicycle, traffic_cone, barrier, czone_sign, shelter, generic_object.
        phase: Of the stride or the pedals, 0 to GAIT_PHASES; GAIT_PHASES stands still.
        variant: Of a car: index into CAR_FORMS; of a pedestrian: 1 wears a coat.
        simple: Fewer faces, for what is far away.
    """
    if shape == "car":
        return _car(CAR_FORMS[variant], simple=simple)
    if shape == "van":
        return _box_vehicle("van", simple=simple)
    if shape == "bus":
        return _box_vehicle("bus", simple=simple)
    if shape == "truck":
        return _truck(simple=simple)
    if shape == "pedestrian":
        return _pedestrian(phase, coat=variant == 1)
    if shape == "bicycle":
        return _bicycle(phase % GAIT_PHASES)
    return _furniture(shape)


def shape_of(kind: str) -> str:
    """Body for a SUMO vehicle type or an annotated object type."""
    if kind.startswith(("ego", "car")) or kind == "vehicle":
        return "car"
    for shape in ("van", "truck", "bus", "bicycle"):
        if kind.startswith(shape):
            return shape
    return kind


@lru_cache(maxsize=4096)
def livery(
    number: int, *, braking: bool = False, lamps: float = 0.0, blink_left: bool = False, blink_right: bool = False
) -> Livery:
    """Colours of one individual.

    Args:
        number: Decides paint, clothes, skin; the same individual keeps its number.
        lamps: 0 by day to 1 by night: whether headlights and tail lights are on.
    """
    rng = np.random.default_rng(number)
    colour, glow = np.zeros((LIVERY_SLOTS, 3)), np.zeros(LIVERY_SLOTS)
    colour[PAINT] = CAR_PAINTS[rng.choice(len(CAR_PAINTS), p=CAR_PAINT_SHARES)] * rng.uniform(0.85, 1.1)
    colour[SECOND_PAINT] = (_lin(214, 214, 210), CLOTHES[rng.integers(len(CLOTHES))])[int(rng.uniform() < 0.45)]
    on = lamps > 0
    colour[TAIL], glow[TAIL] = ((1.0, 0.03, 0.02), 0.8) if braking or on else (_TAIL_OFF, 0.0)
    if braking:
        colour[BRAKE], glow[BRAKE] = (1.0, 0.05, 0.03), 2.2
    elif on:
        colour[BRAKE], glow[BRAKE] = (0.8, 0.02, 0.02), 0.7
    else:
        colour[BRAKE] = _TAIL_OFF
    if on:
        colour[HEADLIGHT], glow[HEADLIGHT] = (1.0, 0.97, 0.9), 1.5 + 1.5 * lamps
    else:
        colour[HEADLIGHT] = _LAMP_OFF
    for slot, blinking in ((LEFT_TURN, blink_left), (RIGHT_TURN, blink_right)):
        colour[slot], glow[slot] = ((1.0, 0.42, 0.02), 2.0) if blinking else (_lin(150, 92, 40), 0.0)
    colour[SKIN] = SKINS[rng.choice(len(SKINS), p=[0.34, 0.28, 0.2, 0.18])]
    colour[TOP] = CLOTHES[rng.integers(len(CLOTHES))] * rng.uniform(0.8, 1.1)
    colour[TROUSERS] = TROUSERS_COLOURS[rng.integers(len(TROUSERS_COLOURS))]
    colour[HAIR] = HAIRS[rng.integers(len(HAIRS))]
    colour[SHOES] = (_lin(36, 34, 34), _lin(200, 200, 198))[int(rng.uniform() < 0.35)]
    colour[METALWORK] = METALWORK_COLOURS[rng.integers(len(METALWORK_COLOURS))]
    return Livery(colour, glow)


@dataclass(frozen=True)
class Placed:
    """A body in its place, ready to be joined with others by `gather`."""

    form: Body
    vertices: Array
    blobs: Array
    colour: Array
    material: NDArray[np.int64]
    glow: Array
    """[P + B]"""


def place(form: Body, box: Array, dress: Livery) -> Placed:
    """Scale and move a body into a box.

    Args:
        box: [7] center x, y, z, length, width, height, heading, in the frame of the mesh.
    """
    cos, sin = np.cos(box[6]), np.sin(box[6])
    length, width, height = box[3:6]
    turn = np.array([[cos * length, sin * length, 0.0], [-sin * width, cos * width, 0.0], [0.0, 0.0, height]])
    foot = np.array([box[0], box[1], box[2] - height / 2])
    blobs = form.blobs.copy()
    if len(blobs):
        blobs[:, :3] = form.blobs[:, :3] @ turn + foot
        blobs[:, 3] *= min(length, width)
        blobs[:, 4] *= height
    own = form.slot >= 0
    colour = form.colour.copy()
    colour[own] = dress.colour[form.slot[own]]
    glow = np.zeros(len(colour))
    glow[own] = dress.glow[form.slot[own]]
    return Placed(form, form.vertices @ turn + foot, blobs, colour, np.where(glow > 0, GLOW, form.material), glow)


def gather(placed: list[Placed], lights: Mesh) -> Mesh:
    """All that moves, and the lenses of traffic lights, as one mesh."""
    polygons = [len(item.form.start) - 1 for item in placed]
    counts = [item.form.start[1:] - item.form.start[:-1] for item in placed] + [lights.start[1:] - lights.start[:-1]]
    start = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    vertices = np.concatenate([item.vertices for item in placed] + [lights.vertices])
    blobs = np.concatenate([item.blobs for item in placed] + [np.zeros((0, 5))])
    if len(start) > 1:
        low, high = np.minimum.reduceat(vertices, start[:-1]), np.maximum.reduceat(vertices, start[:-1])
    else:
        low = high = np.zeros((0, 3))

    def sorted_out(of: str, of_lights: NDArray[Any]) -> NDArray[Any]:
        """Polygons of all bodies first, then the lights', then the blobs."""
        rows = [getattr(item, of) for item in placed]
        firsts = [row[:p] for row, p in zip(rows, polygons, strict=True)]
        rest = [row[p:] for row, p in zip(rows, polygons, strict=True)]
        return np.concatenate([*firsts, of_lights, *rest])

    detail = np.zeros((len(start) - 1 + len(blobs), lights.detail.shape[1]))
    detail[:, 0] = sorted_out("glow", lights.detail[:, 0])
    center = np.concatenate([(low + high) / 2, blobs[:, :3]])
    reach = np.full(len(center), 1e3)
    return Mesh(
        vertices,
        start,
        0,
        blobs,
        sorted_out("colour", lights.colour),
        sorted_out("material", lights.material),
        detail,
        np.concatenate([item.form.one_sided for item in placed] + [lights.one_sided]),
        center,
        np.concatenate([np.linalg.norm(high - low, axis=1) / 2, blobs[:, 3:].max(axis=1, initial=0.0)]),
        reach,
    )
