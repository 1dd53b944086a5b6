"""The street as shapes: road, markings, kerbs, buildings, trees, lamps, fences, signs; and the lights at junctions."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
import shapely.ops
from numpy.typing import NDArray
from shapely.geometry import LineString, Point, Polygon
from shapely.geometry.base import BaseGeometry

from irlvla.geometry import box_corners
from irlvla.world.appearance import Appearance, linear
from irlvla.world.city import City, Connector, Lane
from irlvla.world.raster import (
    ASPHALT,
    BARK,
    CONCRETE,
    FACADE,
    FENCE,
    GLOW,
    MATT,
    MAX_VERTICES,
    PAINT,
    PAVING,
    ROOF,
    SIGN,
    Mesh,
    MeshBuilder,
)
from irlvla.world.scenery import Scenery
from irlvla.world.shading import BLIND, HOUSE, OFFICE, SHOP

Array = NDArray[np.float64]
Colour = tuple[float, ...]

TILE_M = 30.0
KERB_HEIGHT_M = 0.13
LINE_WIDTH_M = 0.13
LAMP_SPACING_M = 32.0
SIGNAL_BEYOND_STOP_M = 15.0
SIGNAL_SCALE = 1.5
"""Traffic lights are larger than life by this much, so that their state can be read at 40 m in a small image."""


def _lin(r: float, g: float, b: float) -> Colour:
    return tuple(float(value) for value in linear(np.array([r, g, b])))


# Colours of a class that each log chooses anew: (-class, variant, brightness).
_OF_FOLIAGE, _OF_LAWN, _OF_ASPHALT, _OF_PAVING, _OF_FACADES, _OF_LAMPS = -1.0, -2.0, -3.0, -4.0, -5.0, -6.0

_WHITE = _lin(226, 226, 222)
_YELLOW = _lin(226, 172, 40)
_GUTTER = _lin(150, 147, 142)
_KERB = _lin(176, 173, 166)
_STEEL = _lin(88, 92, 96)
_DARK_STEEL = _lin(46, 50, 52)
_HOUSING = _lin(26, 28, 28)
_BARK = _lin(104, 84, 66)
_ROOFS = (_lin(120, 82, 68), _lin(96, 88, 84), _lin(84, 84, 90), _lin(140, 100, 78))
_SOIL = _lin(120, 104, 84)


@dataclass(frozen=True)
class Street:
    """What never moves, and where its lights are."""

    mesh: Mesh
    lamps: Array
    """[N, 3] x, y, height of street lamps."""
    signals: dict[int, tuple["SignalHead", ...]]
    """Lane fid to the heads over and beside it."""


@dataclass(frozen=True)
class SignalHead:
    """One traffic light: where its lenses are, and whom it speaks to."""

    at: Array
    """[3] middle of the housing's front."""
    along: Array
    """[2] driving direction of those who see it."""
    links: tuple[int, ...]
    """Connectors (fid) it speaks for; they share one state."""
    arrow: str
    """"l" or "r" where its lenses are arrows, else empty."""
    scale: float

    @cached_property
    def lenses(self) -> tuple[Array, ...]:
        """Outlines [N, 3] of its three lamps, the top one first."""
        left = np.array([-self.along[1], self.along[0]])
        radius = _LENS_M * self.scale
        outline = _DISC if not self.arrow else _ARROW * [1.0 if self.arrow == "l" else -1.0, 1.0]
        size = radius if not self.arrow else 1.15 * radius
        lenses = []
        for lamp in range(3):
            points = np.empty((len(outline), 3))
            points[:, :2] = self.at[:2] - 0.03 * self.along + size * outline[:, :1] * left
            points[:, 2] = self.at[2] + (1 - lamp) * _HOUSING_M[1] * self.scale / 3 + size * outline[:, 1]
            lenses.append(points)
        return tuple(lenses)


@dataclass(frozen=True)
class StreetLook:
    """The street's colours in one log."""

    colour: Array
    material: NDArray[np.int64]
    detail: Array


def build_street(city: City, scenery: Scenery, seed: int) -> Street:
    """All that never moves, in metres from `city.offset`.

    Args:
        seed: Decides what the plan leaves open: lamps, fences, kinds of trees and houses.
    """
    rng = np.random.default_rng([seed, 77])
    build = MeshBuilder()
    road = shapely.union_all([area.polygon for area in (*city.roadblocks, *city.intersections)])
    walks = shapely.union_all([area.polygon for area in (*city.walkways, *city.crosswalks)])
    parks = shapely.union_all([area.polygon for area in city.car_parks])
    paved = shapely.union_all([road, walks, parks])
    shapely.prepare(road)
    shapely.prepare(paved)
    _add_ground(build, city, scenery, road, parks, rng)
    _add_markings(build, city, rng)
    _add_kerbs(build, city, road, parks)
    _add_buildings(build, scenery, city.offset, rng)
    _add_trees(build, scenery, city, rng)
    lamps = _add_roadside(build, city, scenery, paved, rng)
    signals = _add_signal_posts(build, city, road)
    return Street(build.mesh(), lamps, signals)


def look_of_street(mesh: Mesh, look: Appearance) -> StreetLook:
    """The street's colours, windows and lamps in one log."""
    colour, detail, material = mesh.colour.copy(), mesh.detail.copy(), mesh.material.copy()
    code, variant, brightness = mesh.colour.T
    rows = code == _OF_FOLIAGE
    colour[rows] = look.foliage[variant[rows].astype(int) % 3] * brightness[rows, None]
    for number, base in ((_OF_LAWN, look.lawn), (_OF_ASPHALT, look.asphalt), (_OF_PAVING, look.paving)):
        rows = code == number
        colour[rows] = base * brightness[rows, None]
    rows = code == _OF_FACADES
    # Each log paints a house another colour, and all walls of one house the same.
    mixed = (variant[rows].astype(np.int64) * 2654435761 + look.seed * 40503) & 0xFFFFFFFF
    shade = 0.86 + 0.28 * ((mixed >> 11) % 97) / 97
    colour[rows] = look.facades[(mixed >> 7) % len(look.facades)] * (shade * brightness[rows])[:, None]
    rows = code == _OF_LAMPS
    if look.weather.lamps > 0:
        colour[rows] = (1.0, 0.86, 0.6)
        material[rows] = GLOW
        detail[rows, 0] = 2.5
    else:
        colour[rows] = (0.5, 0.5, 0.48)
    return StreetLook(colour, material, detail)


# --- ground ------------------------------------------------------------------------------------------------------


def _add_ground(
    build: MeshBuilder, city: City, scenery: Scenery, road: BaseGeometry, parks: BaseGeometry, rng: np.random.Generator
) -> None:
    offset = city.offset
    walks = shapely.union_all([area.polygon for area in city.walkways])
    houses = [Polygon(ring) for ring in box_corners(scenery.buildings[:, :5])]
    for share, colour, material in ((0.4, (_OF_PAVING, 0, 0.9), PAVING), (0.2, (_OF_PAVING, 0, 0.8), CONCRETE),
                                    (0.15, _SOIL, CONCRETE)):  # fmt: skip
        some = [house.buffer(3.6, join_style="mitre") for house in houses if rng.uniform() < share]
        _tile(build, shapely.union_all(some).difference(road), colour, material, offset)
    kerbed = road.buffer(0.2, join_style="mitre")
    _tile(build, walks.buffer(0.15).difference(road), (_OF_PAVING, 0, 1.0), PAVING, offset)
    _tile(build, kerbed.difference(road), _KERB, CONCRETE, offset)
    _tile(build, parks, (_OF_ASPHALT, 0, 1.12), ASPHALT, offset)
    _tile(build, road, (_OF_ASPHALT, 0, 1.0), ASPHALT, offset)
    gutter = road.difference(road.buffer(-0.34, join_style="mitre")).difference(parks.buffer(0.6))
    _tile(build, gutter, _GUTTER, CONCRETE, offset)
    for lane in city.lanes:
        _add_wear(build, lane, offset, rng)
    for connector in city.connectors:
        if connector.turn in ("s", "l"):
            for lateral in (-0.85, 0.85):
                _ribbon(build, _beside(connector.baseline - offset, lateral), 0.42, (_OF_ASPHALT, 0, 0.94), ASPHALT)


def _tile(build: MeshBuilder, shape: BaseGeometry, colour: Colour, material: int, offset: Array) -> None:
    """Cut a large area into tiles without holes, so that only near ones are drawn."""
    if shape.is_empty:
        return
    shape = shape.simplify(0.05)
    west, south, east, north = shape.bounds
    parts = shapely.get_parts(shape)
    tree = shapely.STRtree(parts)
    for x in np.arange(west, east, TILE_M):
        for y in np.arange(south, north, TILE_M):
            # A sliver of overlap hides the seam between tiles.
            tile = shapely.box(x, y, x + TILE_M + 0.05, y + TILE_M + 0.05)
            near = tree.query(tile, predicate="intersects")
            if not len(near):
                continue
            for piece in shapely.get_parts(shapely.intersection(parts[near], tile)):
                for simple in _without_holes(piece):
                    if simple.area > 0.01 and len(simple.exterior.coords) <= MAX_VERTICES:
                        build.flat(np.array(simple.exterior.coords)[:-1] - offset, colour, material, reach_m=160.0)


def _without_holes(shape: BaseGeometry) -> list[Polygon]:
    if not isinstance(shape, Polygon):
        return [
            piece for part in shapely.get_parts(shape) if isinstance(part, Polygon) for piece in _without_holes(part)
        ]
    if not shape.interiors:
        return [shape]
    west, south, east, north = shape.bounds
    middle = np.array(shape.interiors[0].centroid.coords[0])
    halves = (shapely.box(west, south, middle[0], north), shapely.box(middle[0], south, east, north))
    return [piece for half in halves for piece in _without_holes(shape.intersection(half))]


def _add_wear(build: MeshBuilder, lane: Lane, offset: Array, rng: np.random.Generator) -> None:
    """Tyre tracks, mended patches, seams and manholes: what makes a lane look driven on."""
    line = lane.baseline - offset
    dark = 0.90 + 0.06 * rng.uniform()
    for lateral in (-0.85, 0.85):
        _ribbon(build, _beside(line, lateral), 0.45, (_OF_ASPHALT, 0, dark), ASPHALT)
    if len(line) < 12:
        return
    for _ in range(rng.poisson(len(line) / 45)):
        at = int(rng.integers(2, len(line) - 8))
        length, lateral = int(rng.integers(2, 7)), rng.uniform(-0.9, 0.9)
        tone = float(rng.choice([0.72, 0.82, 1.16]))
        _ribbon(build, _beside(line[at : at + length], lateral), rng.uniform(0.7, 1.6), (_OF_ASPHALT, 0, tone), ASPHALT)
    if rng.uniform() < 0.5:
        begin, length = int(rng.integers(0, len(line) // 2)), int(rng.integers(8, 40))
        seam = _beside(line[begin : begin + length], rng.uniform(-1.2, 1.2))
        _ribbon(build, seam, 0.05, (_OF_ASPHALT, 0, 0.45), ASPHALT, reach_m=30.0)
    if rng.uniform() < 0.5:
        x, y = _beside(line, rng.uniform(-0.6, 0.6))[rng.integers(4, len(line) - 4)]
        angles = np.linspace(0, 2 * np.pi, 11)[:-1]
        for radius, tone in ((0.42, 0.55), (0.34, 0.75)):
            ring = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
            build.flat(ring, (_OF_ASPHALT, 0, tone), ASPHALT, reach_m=35.0)


def _beside(line: Array, lateral_m: float) -> Array:
    """[N, 2] a line moved to its left by `lateral_m`."""
    step = np.gradient(line, axis=0)
    step /= np.maximum(np.hypot(*step.T), 1e-9)[:, None]
    return line + lateral_m * np.stack([-step[:, 1], step[:, 0]], axis=1)


def _ribbon(
    build: MeshBuilder, line: Array, width_m: float, colour: Colour, material: int, *, reach_m: float = 70.0
) -> None:
    """Flat band along a line, in pieces short enough to be left out when far."""
    if len(line) < 2:
        return
    left, right = _beside(line, width_m / 2), _beside(line, -width_m / 2)
    for begin in range(0, len(line) - 1, 12):
        end = min(begin + 13, len(line))
        build.flat(np.concatenate([left[begin:end], right[begin:end][::-1]]), colour, material, reach_m=reach_m)


# --- markings ----------------------------------------------------------------------------------------------------


def _add_markings(build: MeshBuilder, city: City, rng: np.random.Generator) -> None:
    junctions = shapely.union_all([area.polygon for area in city.intersections])
    shapely.prepare(junctions)
    outermost = {lane.roadblock: lane.fid for lane in city.lanes}
    # As in the United States, yellow parts the directions.
    centre = _YELLOW if city.location.startswith("us") else _WHITE
    for lane in city.lanes:
        half = lane.width_m / 2
        rightmost = outermost[lane.roadblock] == lane.fid
        _add_line(build, lane.baseline, -half + (0.45 if rightmost else 0.0), rightmost, _WHITE, junctions, city.offset)
        if lane.index_from_left == 0:
            _add_line(build, lane.baseline, half - 0.12, True, centre, junctions, city.offset)
    for line in city.stop_lines:
        build.flat(np.array(line.polygon.exterior.coords)[:-1] - city.offset, _WHITE, PAINT, reach_m=90.0)
    for crossing in city.crosswalks:
        _add_zebra(build, crossing.polygon, city.offset)
    turns: dict[int, set[str]] = defaultdict(set)
    lanes = {lane.fid: lane for lane in city.lanes}
    for connector in city.connectors:
        turns[connector.from_lane.fid].add({"L": "l", "R": "r"}.get(connector.turn, connector.turn))
    lanes_of = defaultdict(list)
    for lane in city.lanes:
        lanes_of[lane.roadblock].append(lane.fid)
    for fid, ways in turns.items():
        ways &= {"l", "s", "r"}
        lane = lanes[fid]
        if len(lanes_of[lane.roadblock]) > 1 and ways and len(lane.baseline) > 22:
            for back in (8, 20):
                _add_arrow(build, lane.baseline[-back] - city.offset, lane.baseline[-back] - lane.baseline[-back - 1],
                           ways)  # fmt: skip


def _add_line(
    build: MeshBuilder, baseline: Array, lateral: float, solid: bool, colour: Colour, junctions: BaseGeometry,
    offset: Array,
) -> None:  # fmt: skip
    line = _beside(baseline, lateral)
    left, right = _beside(line, LINE_WIDTH_M / 2) - offset, _beside(line, -LINE_WIDTH_M / 2) - offset
    free = ~shapely.contains_xy(junctions, line)
    # Baselines have a point every metre.
    step, dash = (9, 9) if solid else (9, 3)
    for begin in range(0, len(line) - 1, step):
        end = min(begin + dash, len(line) - 1)
        if free[(begin + end) // 2]:
            ring = np.concatenate([left[begin : end + 1], right[begin : end + 1][::-1]])
            build.flat(ring, colour, PAINT, reach_m=100.0)


def _add_zebra(build: MeshBuilder, polygon: Polygon, offset: Array) -> None:
    outline = polygon.minimum_rotated_rectangle
    if not isinstance(outline, Polygon):
        return
    ring = np.array(outline.exterior.coords)[:4] - offset
    sides = np.hypot(*(np.roll(ring, -1, axis=0) - ring).T)
    if sides[0] < sides[1]:
        ring = np.roll(ring, -1, axis=0)
    a, b, c, d = ring
    length = max(sides[0], sides[1])
    for at in np.arange(0.25, length - 0.5, 1.0):
        s, e = at / length, (at + 0.5) / length
        stripe = np.array([a + s * (b - a), a + e * (b - a), d + e * (c - d), d + s * (c - d)])
        build.flat(stripe, _WHITE, PAINT, reach_m=80.0)


# Outlines in metres, forward and left; the shaft is drawn once for all ways of a lane.
_SHAFT = [(-2.0, -0.09), (0.6, -0.09), (0.6, 0.09), (-2.0, 0.09)]
_HEADS = {
    "s": [(0.6, -0.09), (0.6, -0.35), (1.8, 0.0), (0.6, 0.35), (0.6, 0.09)],
    "l": [(0.1, 0.0), (0.1, 0.55), (-0.2, 0.55), (0.3, 1.25), (0.8, 0.55), (0.45, 0.55), (0.45, 0.0)],
    "r": [(0.1, 0.0), (0.1, -0.55), (-0.2, -0.55), (0.3, -1.25), (0.8, -0.55), (0.45, -0.55), (0.45, 0.0)],
}


def _add_arrow(build: MeshBuilder, at: Array, along: Array, ways: set[str]) -> None:
    along = along / np.hypot(*along)
    left = np.array([-along[1], along[0]])
    for outline in (_SHAFT, *(_HEADS[way] for way in sorted(ways))):
        shape = np.array(outline)
        build.flat(at + shape[:, :1] * along + shape[:, 1:] * left, _WHITE, PAINT, reach_m=60.0)


def _add_kerbs(build: MeshBuilder, city: City, road: BaseGeometry, parks: BaseGeometry) -> None:
    """Kerb stones along the road, lowered where people cross and cars leave."""
    openings = [area.polygon.buffer(0.6) for area in city.crosswalks]
    edge = road.simplify(0.05).boundary.difference(shapely.union_all([*openings, parks.buffer(1.0)]))
    for part in shapely.get_parts(shapely.segmentize(edge, 6.0)):
        points = shapely.get_coordinates(part)
        along = np.diff(points, axis=0)
        size = np.hypot(*along.T)
        out = np.stack([along[:, 1], -along[:, 0]], axis=1) / np.maximum(size, 1e-9)[:, None]
        inward = shapely.contains_xy(road, (points[:-1] + points[1:]) / 2 + 0.1 * out)
        out[inward] *= -1
        a, b = points[:-1] - city.offset, points[1:] - city.offset
        for k in np.flatnonzero(size > 0.05):
            build.face(_wall(a[k], b[k], 0.0, KERB_HEIGHT_M), _KERB, CONCRETE, reach_m=75.0)
            c, d = b[k] + 0.16 * out[k], a[k] + 0.16 * out[k]
            top = np.array([[*corner, KERB_HEIGHT_M] for corner in (a[k], b[k], c, d)])
            build.face(top, _KERB, CONCRETE, reach_m=75.0)


def _wall(a: Array, b: Array, low: float, high: float) -> Array:
    """[4, 3] upright quad from a to b."""
    return np.array([[*a[:2], low], [*b[:2], low], [*b[:2], high], [*a[:2], high]])


# --- buildings and trees -----------------------------------------------------------------------------------------


def _add_buildings(build: MeshBuilder, scenery: Scenery, offset: Array, rng: np.random.Generator) -> None:
    if not len(scenery.buildings):
        return
    corners = box_corners(scenery.buildings[:, :5]) - offset
    for number, (outline, height) in enumerate(zip(corners, scenery.buildings[:, 5], strict=True), start=1):
        tall = height > 8
        use = (SHOP if rng.uniform() < 0.55 else OFFICE) if tall else (SHOP if rng.uniform() < 0.2 else HOUSE)
        if tall and rng.uniform() < 0.4:
            use = HOUSE
        # Storeys beyond the plan's five make a skyline.
        top = float(height * rng.choice([1.0, 1.0, 1.5, 2.2])) if tall else float(height)
        gable = not tall and rng.uniform() < 0.75
        reach = 190.0 + 4.0 * top
        lengths = np.hypot(*(np.roll(outline, -1, axis=0) - outline).T)
        ridge = 0 if lengths[0] > lengths[1] else 1
        for k in range(4):
            a, b = outline[k], outline[(k + 1) % 4]
            out = b - a
            mine = BLIND if gable and k % 2 != ridge and rng.uniform() < 0.5 else use
            detail = (a[0], a[1], out[0] / lengths[k], out[1] / lengths[k], lengths[k], top, number, mine)
            build.face(_wall(a, b, 0.0, top), (_OF_FACADES, number, 1.0), FACADE, detail=detail, reach_m=reach)
        if gable:
            _add_gable(build, outline, top, ridge, number, rng, reach)
        else:
            roof = np.concatenate([outline, np.full((4, 1), top)], axis=1)
            build.face(roof, _ROOFS[1], CONCRETE, reach_m=reach)
            middle, turn = outline.mean(axis=0), (outline[1] - outline[0]) / lengths[0]
            for _ in range(int(rng.integers(0, 3))):
                at = middle + rng.uniform(-0.25, 0.25) * (outline[1] - outline[0])
                size = rng.uniform(1.2, 3.0)
                _add_box(
                    build, at, turn, (size, size * 0.8), (top, top + rng.uniform(0.8, 2.6)), _GUTTER, reach_m=reach
                )
        if use == SHOP and rng.uniform() < 0.6:
            _add_awning(build, outline, rng)


def _add_gable(
    build: MeshBuilder, outline: Array, top: float, ridge: int, number: int, rng: np.random.Generator, reach_m: float
) -> None:
    ring = np.roll(outline, -ridge, axis=0)
    a, b, c, d = ring
    rise = float(rng.uniform(0.28, 0.5) * np.hypot(*(d - a)) / 2 + 0.8)
    along = (b - a) / np.hypot(*(b - a))
    across = (d - a) / np.hypot(*(d - a))
    over = 0.45
    p, q = (a + d) / 2, (b + c) / 2
    slope = rise / (np.hypot(*(d - a)) / 2)
    colour = _ROOFS[int(rng.integers(len(_ROOFS)))]
    for near, far in ((a, b), (c, d)):
        side = -across if near is a else across
        e, f = near - over * (along if near is a else -along), far + over * (along if near is a else -along)
        g, h = (q, p) if near is a else (p, q)
        g, h = g + over * (along if near is a else -along), h - over * (along if near is a else -along)
        low = top - over * slope
        build.face(
            np.array([[*(e + over * side), low], [*(f + over * side), low], [*g, top + rise], [*h, top + rise]]),
            colour, ROOF, reach_m=reach_m,
        )  # fmt: skip
    for left, right, peak in ((a, d, p), (b, c, q)):
        build.face(np.array([[*left, top], [*right, top], [*peak, top + rise]]), (_OF_FACADES, number, 0.94),
                   CONCRETE, reach_m=reach_m)  # fmt: skip
    if rng.uniform() < 0.5:
        at = p + rng.uniform(0.2, 0.8) * (q - p) + across * rng.uniform(-0.8, 0.8)
        _add_box(build, at, along, (0.6, 0.6), (top, top + rise + 0.9), _lin(140, 92, 74), reach_m=reach_m)


def _add_awning(build: MeshBuilder, outline: Array, rng: np.random.Generator) -> None:
    colour = (_lin(150, 44, 40), _lin(40, 86, 66), _lin(44, 60, 110), _lin(196, 180, 150), _lin(190, 120, 40))
    mine = colour[int(rng.integers(len(colour)))]
    middle = outline.mean(axis=0)
    for k in range(4):
        a, b = outline[k], outline[(k + 1) % 4]
        out = (a + b) / 2 - middle
        out = 1.0 * out / np.hypot(*out)
        s, e = a + 0.15 * (b - a), a + 0.85 * (b - a)
        build.face(np.array([[*s, 2.85], [*e, 2.85], [*(e + out), 2.45], [*(s + out), 2.45]]), mine, reach_m=90.0)
        build.face(_wall(s + out, e + out, 2.25, 2.45), mine, reach_m=90.0)


def _add_box(
    build: MeshBuilder, at: Array, along: Array, size: tuple[float, float], z: tuple[float, float], colour: Colour,
    material: int = MATT, *, reach_m: float = 90.0, top: Colour | None = None,
) -> None:  # fmt: skip
    """Upright box around a place, `along` its length."""
    left = np.array([-along[1], along[0]])
    ring = [at + s * size[0] / 2 * along + t * size[1] / 2 * left for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    for k in range(4):
        build.face(_wall(ring[k], ring[(k + 1) % 4], *z), colour, material, one_sided=True, reach_m=reach_m)
    build.face(np.array([[*corner, z[1]] for corner in ring]), top or colour, material, reach_m=reach_m)


def _add_trees(build: MeshBuilder, scenery: Scenery, city: City, rng: np.random.Generator) -> None:
    warm = city.location in ("us-nv-las-vegas-strip", "sg-one-north")
    for x, y, height, crown in scenery.trees:
        at = np.array([x, y]) - city.offset
        kind = rng.choice(3, p=[0.62, 0.08, 0.3] if warm else [0.82, 0.18, 0.0])
        tint = float(rng.uniform(0.8, 1.25))
        variant = float(rng.integers(3))
        if kind == 0:
            _add_broadleaf(build, at, height, crown, (_OF_FOLIAGE, variant, tint), rng)
        elif kind == 1:
            _add_conifer(build, at, height, crown, (_OF_FOLIAGE, variant, 0.7 * tint), rng)
        else:
            _add_palm(build, at, height * 1.25, (_OF_FOLIAGE, variant, 1.1 * tint), rng)


def _add_trunk(build: MeshBuilder, at: Array, height: float, radius: float, lean: Array) -> None:
    angles = np.linspace(0, 2 * np.pi, 6)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for k in range(5):
        low = at + radius * ring[k : k + 2]
        high = at + lean + 0.6 * radius * ring[k : k + 2]
        quad = [[*low[0], 0.0], [*low[1], 0.0], [*high[1], height], [*high[0], height]]
        build.face(np.array(quad), _BARK, BARK, one_sided=True, reach_m=110.0)


def _add_broadleaf(
    build: MeshBuilder, at: Array, height: float, crown: float, colour: Colour, rng: np.random.Generator
) -> None:
    middle = height - crown
    _add_trunk(build, at, middle, 0.1 + 0.02 * height, rng.uniform(-0.15, 0.15, 2))
    build.blob(at[0], at[1], middle + 0.1 * crown, 0.78 * crown, 0.8 * crown, colour, detail=(rng.uniform(),))
    turn = rng.uniform(0, 2 * np.pi)
    for k in range(5):
        angle = turn + 2 * np.pi * k / 5 + rng.uniform(-0.3, 0.3)
        out, up = rng.uniform(0.45, 0.7) * crown, rng.uniform(-0.4, 0.6) * crown
        size = rng.uniform(0.42, 0.6) * crown
        shade = (colour[0], colour[1], colour[2] * float(rng.uniform(0.86, 1.14)))
        build.blob(at[0] + out * np.cos(angle), at[1] + out * np.sin(angle), middle + up, size, 0.85 * size, shade,
                   detail=(rng.uniform(),), reach_m=110.0)  # fmt: skip


def _add_conifer(
    build: MeshBuilder, at: Array, height: float, crown: float, colour: Colour, rng: np.random.Generator
) -> None:
    _add_trunk(build, at, height * 0.5, 0.14, np.zeros(2))
    for share in (0.22, 0.42, 0.62, 0.82):
        size = crown * (1.05 - share) * 1.05
        build.blob(at[0], at[1], height * (share + 0.06), size, height * 0.16, colour, detail=(rng.uniform(),))


def _add_palm(build: MeshBuilder, at: Array, height: float, colour: Colour, rng: np.random.Generator) -> None:
    lean = rng.uniform(-0.4, 0.4, 2)
    _add_trunk(build, at, height, 0.2, lean)
    top = at + lean
    for k in range(11):
        angle = 2 * np.pi * (k + rng.uniform(0, 0.5)) / 11
        along, side = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        rise, length = rng.uniform(-0.1, 0.8), rng.uniform(1.6, 2.2)
        middle, end = top + 0.55 * length * along, top + length * along
        shade = (colour[0], colour[1], colour[2] * float(rng.uniform(0.7, 1.15)))
        for sign in (-1, 1):
            wide = 0.34 * sign * side
            build.face(
                np.array([[*top, height], [*(middle + wide), height + rise * 0.75 - 0.1],
                          [*end, height + rise - 0.95], [*middle, height + rise * 0.9]]), shade, reach_m=110.0
            )  # fmt: skip


# --- roadside ----------------------------------------------------------------------------------------------------


def _add_roadside(
    build: MeshBuilder, city: City, scenery: Scenery, paved: BaseGeometry, rng: np.random.Generator
) -> Array:
    """Street lamps, speed signs, fences, hedges and bushes; returns the lamps."""
    outermost = {lane.roadblock: lane for lane in city.lanes}
    road = shapely.union_all([area.polygon for area in (*city.roadblocks, *city.intersections)])
    shapely.prepare(road)
    houses = shapely.union_all([Polygon(ring) for ring in box_corners(scenery.buildings[:, :5])])
    blocked = shapely.union_all([paved, houses])
    shapely.prepare(blocked)
    crossings = shapely.union_all([area.polygon for area in city.crosswalks])
    pavement = 3.2 if city.walkways else 0.6
    metric = not city.location.startswith("us")
    lamps: list[tuple[float, float, float]] = []
    for lane in outermost.values():
        step = np.gradient(lane.baseline, axis=0)
        heading = np.arctan2(step[:, 1], step[:, 0])
        kerb_m = lane.width_m / 2 + 0.5
        for at in np.arange(rng.uniform(4, LAMP_SPACING_M), len(lane.baseline) - 4, LAMP_SPACING_M):
            k = int(at)
            along = np.array([np.cos(heading[k]), np.sin(heading[k])])
            right = np.array([along[1], -along[0]])
            foot = lane.baseline[k] + (kerb_m + 0.75) * right
            if road.intersects(Point(*foot).buffer(0.5)) or crossings.intersects(Point(*foot).buffer(0.8)):
                continue
            lamps.append(_add_lamp(build, foot - city.offset, along, -right))
        if len(lane.baseline) > 45 and rng.uniform() < 0.7:
            along = np.array([np.cos(heading[14]), np.sin(heading[14])])
            right = np.array([along[1], -along[0]])
            foot = lane.baseline[14] + (kerb_m + 0.7) * right
            if not road.intersects(Point(*foot).buffer(0.4)):
                _add_speed_sign(build, foot - city.offset, along, lane.speed_limit_mps, metric=metric)
        setback = kerb_m + pavement + 0.45
        style = rng.choice(5, p=[0.36, 0.2, 0.2, 0.1, 0.14])
        if style == 0:
            continue
        edge = _beside(lane.baseline, -setback)
        for begin in range(4, len(edge) - 9, 8):
            if rng.uniform() < 0.3:
                continue
            a, b = edge[begin], edge[begin + 7]
            if blocked.intersects(LineString([a, b]).buffer(0.3)):
                continue
            _add_boundary(build, a - city.offset, b - city.offset, int(style), rng)
    return np.array(lamps).reshape(-1, 3)


def _add_boundary(build: MeshBuilder, a: Array, b: Array, style: int, rng: np.random.Generator) -> None:
    """Fence, hedge, low wall or bushes along a plot."""
    out = b - a
    length = float(np.hypot(*out))
    along = out / length
    if style == 1:
        detail = (a[0], a[1], along[0], along[1], 0.0, 1.15, 0.14)
        build.face(_wall(a, b, 0.0, 1.15), _DARK_STEEL, FENCE, detail=detail, reach_m=70.0)
        for at in (a, (a + b) / 2):
            _add_box(build, at, along, (0.1, 0.1), (0.0, 1.25), _DARK_STEEL, reach_m=60.0)
    elif style == 2:
        for far in np.arange(0.5, length, 0.9).tolist():
            x, y = a + far * along
            size = rng.uniform(0.6, 0.7)
            build.blob(x, y, 0.62, size, 0.62, (_OF_FOLIAGE, 0, 0.8), detail=(rng.uniform(),), reach_m=80.0)
    elif style == 3:
        _add_box(build, (a + b) / 2, along, (length, 0.24), (0.0, 0.85), (_OF_PAVING, 0, 0.95), CONCRETE, reach_m=90.0)
    else:
        for at in rng.uniform(0, length, 3):
            x, y = a + at * along
            size = rng.uniform(0.35, 0.75)
            build.blob(x, y, 0.8 * size, size, 0.9 * size, (_OF_FOLIAGE, float(rng.integers(3)), 0.95),
                       detail=(rng.uniform(),), reach_m=70.0)  # fmt: skip


def _add_lamp(build: MeshBuilder, foot: Array, along: Array, inward: Array) -> tuple[float, float, float]:
    height, arm = 7.6, 1.7
    _add_box(build, foot, along, (0.17, 0.17), (0.0, height), _STEEL, reach_m=130.0)
    end = foot + arm * inward
    for lateral in (-0.04, 0.04):
        s = lateral * along
        build.face(_beam(foot + s, end + s, height - 0.12, height + 0.1), _STEEL, reach_m=90.0)
    head = [end + 0.55 * inward * t + 0.16 * along * s for s, t in ((-1, -0.2), (1, -0.2), (1, 1), (-1, 1))]
    build.face(np.array([[*corner, height + 0.08] for corner in head]), (_OF_LAMPS, 0, 1.0), reach_m=160.0)
    build.face(_beam(head[0], head[3], height + 0.08, height + 0.2), _STEEL, reach_m=90.0)
    build.face(_beam(head[1], head[2], height + 0.08, height + 0.2), _STEEL, reach_m=90.0)
    return float(end[0]), float(end[1]), height


def _beam(a: Array, b: Array, low: float, high: float) -> Array:
    return np.array([[*a, low], [*b, low], [*b, high], [*a, high]])


# Which of a digit's seven strokes are drawn: top, upper left, upper right, middle, lower left, lower right, bottom.
_STROKES = (
    "1110111",
    "0010010",
    "1011101",
    "1011011",
    "0111010",
    "1101011",
    "1101111",
    "1010010",
    "1111111",
    "1111011",
)


def _add_speed_sign(build: MeshBuilder, foot: Array, along: Array, limit_mps: float, *, metric: bool) -> None:
    left = np.array([-along[1], along[0]])
    _add_box(build, foot, along, (0.07, 0.07), (0.0, 2.7), _STEEL, reach_m=70.0)
    front = foot - 0.06 * along
    value = round(limit_mps * 3.6 / 10) * 10 if metric else round(limit_mps * 2.237 / 5) * 5

    def plate(y: tuple[float, float], z: tuple[float, float], forward: float, colour: Colour) -> None:
        # Counter-clockwise for whom it addresses: from his right to his left.
        a, b = front - forward * along + y[1] * left, front - forward * along + y[0] * left
        build.face(_wall(a, b, *z), colour, SIGN, one_sided=forward > 0, reach_m=75.0)

    if metric:
        for radius, forward, colour in ((0.42, 0.0, _STEEL), (0.42, 0.01, _lin(200, 30, 34)), (0.33, 0.02, _WHITE)):
            angles = np.linspace(0, 2 * np.pi, 13)[:-1]
            ring = [front - forward * along - radius * np.cos(t) * left for t in angles]
            points = np.array([[*p, 2.35 + radius * np.sin(t)] for p, t in zip(ring, angles, strict=True)])
            build.face(points, colour, SIGN if forward else MATT, one_sided=forward > 0, reach_m=75.0)
        middle, size = 2.35, 0.3
    else:
        plate((-0.36, 0.36), (1.95, 2.85), 0.0, _HOUSING)
        plate((-0.33, 0.33), (1.98, 2.82), 0.01, _WHITE)
        plate((-0.24, 0.24), (2.62, 2.7), 0.02, _HOUSING)
        plate((-0.18, 0.18), (2.48, 2.56), 0.02, _HOUSING)
        middle, size = 2.2, 0.34
    text = str(int(value))
    wide, stroke = 0.5 * size, 0.07
    for place, digit in enumerate(text):
        # Left is to the reader's left, who looks along the driving direction.
        y = (len(text) - 1 - 2 * place) * (wide + 0.06) / 2
        z0, z1, zm = middle - size / 2, middle + size / 2, middle
        strokes = (
            ((-wide / 2, wide / 2), (z1 - stroke, z1)),
            ((wide / 2 - stroke, wide / 2), (zm, z1)),
            ((-wide / 2, -wide / 2 + stroke), (zm, z1)),
            ((-wide / 2, wide / 2), (zm - stroke / 2, zm + stroke / 2)),
            ((wide / 2 - stroke, wide / 2), (z0, zm)),
            ((-wide / 2, -wide / 2 + stroke), (z0, zm)),
            ((-wide / 2, wide / 2), (z0, z0 + stroke)),
        )
        for drawn, (ys, zs) in zip(_STROKES[int(digit)], strokes, strict=True):
            if drawn == "1":
                plate((y + ys[0], y + ys[1]), zs, 0.03, _HOUSING)


# --- signals -----------------------------------------------------------------------------------------------------

_LIT_BY = {"r": (0,), "R": (0,), "u": (0, 1), "y": (1,), "Y": (1,), "g": (2,), "G": (2,), "s": (2,)}
_LIT = ((1.0, 0.04, 0.03), (1.0, 0.62, 0.04), (0.05, 1.0, 0.34))
_UNLIT = (_lin(64, 18, 18), _lin(62, 52, 18), _lin(16, 54, 30))
_LENS_M = 0.15
_HOUSING_M = (0.36, 1.06)
_ANGLES = np.linspace(0, 2 * np.pi, 9)[:-1]
_DISC = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
# Pointing left as the driver sees it: to the left, up.
_ARROW = np.array([[0.95, 0.0], [0.1, 0.75], [0.1, 0.3], [-0.9, 0.3], [-0.9, -0.3], [0.1, -0.3], [0.1, -0.75]])


def _add_signal_posts(build: MeshBuilder, city: City, road: BaseGeometry) -> dict[int, tuple[SignalHead, ...]]:
    """Housings and posts of all traffic lights: heads hung beyond the junction over each lane, one on the near kerb."""
    by_lane: dict[int, list[Connector]] = defaultdict(list)
    for connector in city.connectors:
        if connector.signal is not None:
            by_lane[connector.from_lane.fid].append(connector)
    outermost = {lane.roadblock: lane.fid for lane in city.lanes}
    signals: dict[int, tuple[SignalHead, ...]] = {}
    for fid, ways in sorted(by_lane.items()):
        lane = ways[0].from_lane
        end = lane.baseline[-1] - city.offset
        along = lane.baseline[-1] - lane.baseline[-2]
        along = along / np.hypot(*along)
        left = np.array([-along[1], along[0]])
        groups: dict[str, list[Connector]] = defaultdict(list)
        for connector in ways:
            turn = {"L": "l", "R": "r", "t": "l"}.get(connector.turn, connector.turn)
            # A shared lane's right turn goes with its straight on unless its light is its own.
            groups[turn].append(connector)
        ordered = [turn for turn in ("l", "s", "r") if turn in groups] + sorted(set(groups) - {"l", "s", "r"})
        heads = []
        far = end + SIGNAL_BEYOND_STOP_M * along
        for k, turn in enumerate(ordered):
            lateral = ((len(ordered) - 1) / 2 - k) * 0.95
            links = tuple(connector.fid for connector in groups[turn])
            arrow = turn if turn == "l" or (turn == "r" and len(ordered) > 1) else ""
            heads.append(SignalHead(np.array([*(far + lateral * left), 6.0]), along, links, arrow, SIGNAL_SCALE))
        reach = lane.width_m * 0.5
        build.face(_beam(far + 0.25 * along - reach * left, far + 0.25 * along + reach * left, 6.75, 6.93), _STEEL,
                   reach_m=150.0)  # fmt: skip
        if outermost[lane.roadblock] == fid:
            _add_mast(build, far + 0.25 * along, along, left, lane.width_m, road, city.offset)
            kerb = end + 0.6 * along - (lane.width_m / 2 + 0.95) * left
            _add_box(build, kerb + 0.14 * along, along, (0.12, 0.12), (0.0, 2.6), _STEEL, reach_m=90.0)
            # The near head speaks for the way that most drivers take.
            main = "s" if "s" in groups else ordered[-1]
            links = tuple(connector.fid for connector in groups[main])
            heads.append(SignalHead(np.array([*kerb, 3.2]), along, links, "" if main == "s" else main, 1.1))
        for head in heads:
            _add_housing(build, head)
        signals[fid] = tuple(heads)
    return signals


def _add_mast(
    build: MeshBuilder, at: Array, along: Array, left: Array, width_m: float, road: BaseGeometry, offset: Array
) -> None:
    """A mast right of the road with an arm to the outermost head; none where traffic passes on every side."""
    for lateral in (width_m / 2 + 1.2, width_m / 2 + 4.0, width_m / 2 + 7.0):
        foot = at - lateral * left
        if not road.intersects(Point(*(foot + offset)).buffer(0.4)):
            _add_box(build, foot, along, (0.22, 0.22), (0.0, 7.0), _STEEL, reach_m=150.0)
            build.face(_beam(foot, at - width_m / 2 * left, 6.78, 6.9), _STEEL, reach_m=150.0)
            return


def _add_housing(build: MeshBuilder, head: SignalHead) -> None:
    half, height = _HOUSING_M[0] / 2 * head.scale, _HOUSING_M[1] / 2 * head.scale
    left = np.array([-head.along[1], head.along[0]])
    at, z = head.at[:2], head.at[2]
    border = 0.11 * head.scale
    back = at + 0.06 * head.along
    build.face(_wall(back - (half + border) * left, back + (half + border) * left, z - height - border,
                     z + height + border), _HOUSING, reach_m=140.0)  # fmt: skip
    _add_box(build, at + 0.1 * head.along, head.along, (0.2, 2 * half), (z - height, z + height), _HOUSING, reach_m=110)


def add_signals(
    build: MeshBuilder, signals: dict[int, tuple[SignalHead, ...]], lights: tuple[tuple[Connector, bool, str], ...]
) -> None:
    """The lenses of traffic lights in their present state.

    Args:
        signals: As `build_street` placed them.
        lights: (connector, is red, SUMO's state letter).
    """
    letters = {connector.fid: letter for connector, _, letter in lights}
    for fid in sorted({connector.from_lane.fid for connector, _, _ in lights}):
        for head in signals.get(fid, ()):
            letter = next((letters[link] for link in head.links if link in letters), "O")
            lit = _LIT_BY.get(letter, ())
            for lamp, lens in enumerate(head.lenses):
                on = lamp in lit
                build.face(lens, _LIT[lamp] if on else _UNLIT[lamp], GLOW if on else MATT, detail=(1.5,),
                           reach_m=150.0 if on else 60.0)  # fmt: skip
