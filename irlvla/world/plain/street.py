"""The street as a mesh: ground, markings, buildings, trees; and traffic lights in their present state."""

import itertools

import numpy as np
import shapely
import shapely.ops
from numpy.typing import NDArray
from shapely.geometry import LineString, Polygon
from shapely.geometry.base import BaseGeometry

from irlvla.geometry import box_corners
from irlvla.world.city import City, Connector, Lane
from irlvla.world.plain.raster import ASPHALT, GLOW, GRASS, MAX_VERTICES, PAVING, PLAIN, WINDOWS, Mesh, MeshBuilder
from irlvla.world.scenery import Scenery

Array = NDArray[np.float64]

TILE_M = 30.0
_FACADES = ((176, 150, 128), (150, 120, 104), (190, 184, 172), (140, 146, 152), (168, 128, 96), (205, 196, 180))
_WHITE = (225.0, 225.0, 220.0)
_ROAD = (92.0, 92.0, 96.0)
_PAVEMENT = (162.0, 157.0, 150.0)
_KERB = (190.0, 188.0, 182.0)
_LAWN = (104.0, 128.0, 74.0)
_PARKING = (112.0, 110.0, 110.0)


def street_mesh(city: City, scenery: Scenery) -> Mesh:
    """All that never moves, in metres from `city.offset`; ground paint first, in painting order."""
    build = MeshBuilder()
    road = shapely.union_all([area.polygon for area in (*city.roadblocks, *city.intersections)])
    walks = shapely.union_all([area.polygon for area in city.walkways])
    parks = shapely.union_all([area.polygon for area in city.car_parks])
    kerbed = road.buffer(0.22, join_style="mitre")
    everything = shapely.union_all([kerbed, walks, parks])
    _add_ground(build, everything.buffer(60.0, quad_segs=2).difference(everything), _LAWN, GRASS, city.offset)
    _add_ground(build, walks.buffer(0.15).difference(road), _PAVEMENT, PAVING, city.offset)
    _add_ground(build, kerbed.difference(road), _KERB, PLAIN, city.offset)
    _add_ground(build, parks, _PARKING, ASPHALT, city.offset)
    _add_ground(build, road, _ROAD, ASPHALT, city.offset)
    junctions = shapely.union_all([area.polygon for area in city.intersections])
    shapely.prepare(junctions)
    outermost = {lane.roadblock: lane.fid for lane in city.lanes}
    for lane in city.lanes:
        rightmost = outermost[lane.roadblock] == lane.fid
        _add_markings(build, lane, rightmost=rightmost, junctions=junctions, offset=city.offset)
    for line in city.stop_lines:
        _add_flat(build, line.polygon, _WHITE, city.offset)
    for crossing in city.crosswalks:
        _add_zebra(build, crossing.polygon, city.offset)
    _add_buildings(build, scenery, city.offset)
    _add_trees(build, scenery, city.offset)
    return build.mesh()


def _flat(ring: Array, offset: Array) -> Array:
    points = ring[:-1] - offset
    return np.concatenate([points, np.zeros((len(points), 1))], axis=1)


def _add_ground(
    build: MeshBuilder, shape: BaseGeometry, colour: tuple[float, float, float], material: int, offset: Array
) -> None:
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
                        build.add(_flat(np.array(simple.exterior.coords), offset), colour, material, tested=False)


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


def _add_flat(build: MeshBuilder, polygon: Polygon, colour: tuple[float, float, float], offset: Array) -> None:
    build.add(_flat(np.array(polygon.exterior.coords), offset), colour, PLAIN, tested=False)


def _offset_line(line: Array, lateral_m: float) -> Array:
    step = np.gradient(line, axis=0)
    step /= np.maximum(np.hypot(*step.T), 1e-9)[:, None]
    return line + lateral_m * np.stack([-step[:, 1], step[:, 0]], axis=1)


def _add_markings(build: MeshBuilder, lane: Lane, *, rightmost: bool, junctions: BaseGeometry, offset: Array) -> None:
    """Left and right line of a lane: solid at the road's edge, dashed between lanes of one direction."""
    half = lane.width_m / 2
    edges = [(-half, rightmost)]
    if lane.index_from_left == 0:
        edges.append((half, True))
    for lateral, solid in edges:
        inward = -0.1 if lateral > 0 else (0.1 if solid else 0.0)
        line = LineString(_offset_line(lane.baseline, lateral + inward))
        step, dash = (8.0, 8.2) if solid else (7.0, 3.0)
        for at in np.arange(0.0, line.length, step):
            piece = shapely.ops.substring(line, at, min(at + dash, line.length))
            if piece.length < 0.3 or piece.centroid.intersects(junctions):
                continue
            band = piece.simplify(0.03).buffer(0.075, cap_style="flat")
            if isinstance(band, Polygon) and not band.is_empty:
                _add_flat(build, band, _WHITE, offset)


def _add_zebra(build: MeshBuilder, polygon: Polygon, offset: Array) -> None:
    ring = np.array(polygon.minimum_rotated_rectangle.exterior.coords)[:4]
    sides = np.hypot(*(np.roll(ring, -1, axis=0) - ring).T)
    if sides[0] < sides[1]:
        ring = np.roll(ring, -1, axis=0)
    a, b, c, d = ring
    length = max(sides[0], sides[1])
    for at in np.arange(0.25, length - 0.5, 1.0):
        s, e = at / length, (at + 0.5) / length
        stripe = np.array([a + s * (b - a), a + e * (b - a), d + e * (c - d), d + s * (c - d), a + s * (b - a)])
        build.add(_flat(stripe, offset), _WHITE, PLAIN, tested=False)


def _add_buildings(build: MeshBuilder, scenery: Scenery, offset: Array) -> None:
    if not len(scenery.buildings):
        return
    corners = box_corners(scenery.buildings[:, :5]) - offset
    for outline, height, colour in zip(corners, scenery.buildings[:, 5], scenery.buildings[:, 6], strict=True):
        base = np.array(_FACADES[int(colour)], dtype=np.float64)
        for k in range(4):
            a, b = outline[k], outline[(k + 1) % 4]
            wall = np.array([[*a, 0.0], [*b, 0.0], [*b, height], [*a, height]])
            build.add(wall, (base[0], base[1], base[2]), WINDOWS)
        roof = np.concatenate([outline, np.full((4, 1), height)], axis=1)
        build.add(roof, (110.0, 84.0, 74.0))


def _add_trees(build: MeshBuilder, scenery: Scenery, offset: Array) -> None:
    for x, y, height, crown in scenery.trees:
        px, py = x - offset[0], y - offset[1]
        for dx, dy in ((0.13, 0.0), (0.0, 0.13)):
            trunk = [[px - dx, py - dy, 0], [px + dx, py + dy, 0], [px + dx, py + dy, height / 2]]
            build.add(np.array([*trunk, [px - dx, py - dy, height / 2]]), (92.0, 70.0, 50.0))
        tint = 0.85 + 0.3 * ((px * 7.3 + py * 3.1) % 1.0)
        middle = height - crown
        rings = [(middle - crown * 0.8, crown * 0.7), (middle, crown), (middle + crown, crown * 0.45)]
        for (z0, r0), (z1, r1) in itertools.pairwise(rings):
            for k in range(5):
                a, b = 2 * np.pi * k / 5, 2 * np.pi * (k + 1) / 5
                face = [(r0, a, z0), (r0, b, z0), (r1, b, z1), (r1, a, z1)]
                build.add(
                    np.array([[px + r * np.cos(t), py + r * np.sin(t), z] for r, t, z in face]),
                    (62.0 * tint, 98.0 * tint, 48.0 * tint),
                )


_LAMPS = {"r": (0,), "R": (0,), "u": (0, 1), "y": (1,), "Y": (1,), "g": (2,), "G": (2,), "s": (2,)}
_LIT = ((255.0, 30.0, 25.0), (255.0, 200.0, 30.0), (40.0, 255.0, 90.0))
_DIM = ((62.0, 20.0, 20.0), (60.0, 50.0, 18.0), (18.0, 52.0, 28.0))
SIGNAL_BEYOND_STOP_M = 15.0


def add_signals(build: MeshBuilder, lights: tuple[tuple[Connector, bool, str], ...], offset: Array) -> None:
    """Traffic lights: one head beside each stop line and one hung beyond it over each signalled lane.

    Args:
        lights: (connector, is red, SUMO's state letter); lanes whose connectors differ get a head for each.
    """
    by_lane: dict[int, list[tuple[Connector, str]]] = {}
    for connector, _, letter in lights:
        by_lane.setdefault(connector.from_lane.fid, []).append((connector, letter))
    for ways in by_lane.values():
        lane = ways[0][0].from_lane
        end = lane.baseline[-1] - offset
        along = lane.baseline[-1] - lane.baseline[-2]
        along = along / np.hypot(*along)
        left = np.array([-along[1], along[0]])
        ordered = sorted(ways, key=lambda way: -_side(way[0], left))
        lamps = {_LAMPS.get(letter, ()) for _, letter in ordered}
        heads = [ordered[0][1]] if len(lamps) == 1 else [letter for _, letter in ordered]
        for k, letter in enumerate(heads):
            lateral = (len(heads) - 1) / 2 - k
            _add_head(build, end + SIGNAL_BEYOND_STOP_M * along + 1.3 * lateral * left, 4.3, along, left, letter, 1.15)
        beam = end + (SIGNAL_BEYOND_STOP_M + 0.15) * along
        reach = lane.width_m * 0.5
        build.add(
            np.array([[*(beam - reach * left), 7.2], [*(beam + reach * left), 7.2],
                      [*(beam + reach * left), 7.4], [*(beam - reach * left), 7.4]]), (70.0, 72.0, 76.0)
        )  # fmt: skip
        kerb = end + 0.6 * along - (lane.width_m / 2 + 0.75) * left
        pole = np.array([[*(kerb - 0.07 * left), 0.0], [*(kerb + 0.07 * left), 0.0],
                         [*(kerb + 0.07 * left), 2.6], [*(kerb - 0.07 * left), 2.6]])  # fmt: skip
        build.add(pole, (70.0, 72.0, 76.0))
        _add_head(build, kerb, 2.4, along, left, heads[-1], 0.62)


def _side(connector: Connector, left: Array) -> float:
    return float(np.dot(connector.baseline[-1] - connector.baseline[0], left))


def _add_head(
    build: MeshBuilder, at: Array, bottom_m: float, along: Array, left: Array, letter: str, scale: float
) -> None:
    half, height = 0.5 * scale, 2.5 * scale

    def face(x: float, y0: float, y1: float, z0: float, z1: float) -> Array:
        p, q = at + x * along + y0 * left, at + x * along + y1 * left
        return np.array([[*p, z0], [*q, z0], [*q, z1], [*p, z1]])

    build.add(face(0.0, -half, half, bottom_m, bottom_m + height), (22.0, 24.0, 26.0))
    lit = _LAMPS.get(letter, ())
    for lamp in range(3):
        colour = _LIT[lamp] if lamp in lit else _DIM[lamp]
        middle = bottom_m + height * (5 - 2 * lamp) / 6
        r = 0.36 * scale
        ring = [(r * np.cos(a), middle + r * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 9)[:-1]]
        points = np.array([[*(at - 0.03 * along + y * left), z] for y, z in ring])
        build.add(points, colour, GLOW if lamp in lit else PLAIN)
