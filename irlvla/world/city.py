"""A SUMO network as a nuPlan city: lanes, roadblocks, connectors, intersections, crossings, in world metres.

nuPlan's words, and what they are in SUMO: a *lane* is a lane that cars may use; a *roadblock* (lane group) is an edge;
a *lane connector* is a chain of internal lanes through a junction; a *roadblock connector* is all connectors from one
edge to another; an *intersection* is a junction.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
import shapely.ops
import sumolib
from numpy.typing import NDArray
from shapely.geometry import LineString, MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from irlvla.errors import DataError
from irlvla.world.motion import smooth_path

Array = NDArray[np.float64]

BASELINE_STEP_M = 1.0
# SUMO lets lanes of neighbouring edges touch; a connector needs some length to have a direction, so each lane gives
# this much of both its ends to the connectors.
CEDED_M = 0.4
# A car's corner must never fall into a crack between two polygons that touch, so they overlap by this much.
OVERLAP_M = 0.5


@dataclass(frozen=True)
class Lane:
    """One lane that cars may use; on a street for buses alone, one that they may use."""

    fid: int
    baseline_fid: int
    left_boundary_fid: int
    right_boundary_fid: int
    sumo_id: str
    roadblock: int
    index_from_left: int
    baseline: Array
    """[N, 2] world, about BASELINE_STEP_M apart, in driving direction."""
    polygon: Polygon
    width_m: float
    speed_limit_mps: float
    begin: Array
    """[2] where SUMO's lane begins, CEDED_M before the baseline."""
    end: Array


@dataclass(frozen=True)
class Connector:
    """The way through a junction from one lane into another."""

    fid: int
    baseline_fid: int
    polygon_fid: int
    left_boundary_fid: int
    right_boundary_fid: int
    from_lane: Lane
    to_lane: Lane
    roadblock_connector: int
    intersection: int
    baseline: Array
    polygon: Polygon
    speed_limit_mps: float
    turn: str
    """SUMO's direction: s straight, l / L left, r / R right, t turn."""
    signal: tuple[str, int] | None
    """Traffic light id and link index in its state string; None where there is no light."""
    stop_line_fid: int
    """0 where there is no light."""
    sumo_lanes: tuple[str, ...]


@dataclass(frozen=True)
class Area:
    """A polygon with an id: roadblock, roadblock connector, intersection, crossing, walkway, car park."""

    fid: int
    polygon: Polygon
    name: str = ""


@dataclass(frozen=True)
class RoadblockConnector:
    """All connectors from one roadblock to another."""

    fid: int
    polygon: Polygon
    from_roadblock: int
    to_roadblock: int
    intersection: int


@dataclass
class City:
    """Everything the map file, the logs and the renderer need to know of one place."""

    location: str
    offset: Array
    """[2] world = network + offset."""
    lanes: list[Lane] = field(default_factory=list)
    connectors: list[Connector] = field(default_factory=list)
    roadblocks: list[Area] = field(default_factory=list)
    roadblock_connectors: list[RoadblockConnector] = field(default_factory=list)
    intersections: list[Area] = field(default_factory=list)
    crosswalks: list[Area] = field(default_factory=list)
    walkways: list[Area] = field(default_factory=list)
    car_parks: list[Area] = field(default_factory=list)
    stop_lines: list[Area] = field(default_factory=list)
    roadblock_of_edge: dict[str, int] = field(default_factory=dict)
    connector_of_edges: dict[tuple[str, str], int] = field(default_factory=dict)
    """(from edge, to edge) to roadblock connector."""
    lane_of_sumo: dict[str, int] = field(default_factory=dict)
    last_fid: int = 0

    def new_fid(self) -> int:
        """A feature id that no other feature of this city has."""
        self.last_fid += 1
        return self.last_fid

    def route_roadblocks(self, edges: tuple[str, ...]) -> list[str]:
        """Roadblock ids along SUMO edges, connectors between them; stops where the map has no connection."""
        ids: list[str] = []
        for here, following in zip(edges, (*edges[1:], None), strict=True):
            if here not in self.roadblock_of_edge:
                break
            ids.append(str(self.roadblock_of_edge[here]))
            if following is None:
                break
            connector = self.connector_of_edges.get((here, following))
            if connector is None:
                break
            ids.append(str(connector))
        return ids

    def drivable_area(self) -> BaseGeometry:
        """Union of what the official scorer calls drivable: roadblocks, intersections, car parks."""
        return shapely.union_all([area.polygon for area in (*self.roadblocks, *self.intersections, *self.car_parks)])


def _largest(shape: BaseGeometry) -> Polygon:
    shape = shapely.make_valid(shape)
    if isinstance(shape, Polygon):
        return shape
    polygons = [part for part in shapely.get_parts(shape) if isinstance(part, Polygon | MultiPolygon)]
    flat = [piece for part in polygons for piece in shapely.get_parts(part)]
    return max(flat, key=lambda piece: piece.area)


def _band(line: Array, width_m: float) -> Polygon:
    """Polygon of constant width around a line, with flat ends."""
    band = LineString(line).buffer(width_m / 2, cap_style="flat", join_style="round", quad_segs=3)
    return Polygon(_largest(band).exterior).simplify(0.01)


def _merged(polygons: list[Polygon], grow_m: float) -> Polygon:
    """One polygon without holes around several, `grow_m` larger."""
    bridge = 0.3
    while True:
        merged = shapely.union_all([polygon.buffer(bridge, join_style="mitre") for polygon in polygons])
        if isinstance(merged, Polygon) or bridge > 6:
            break
        bridge *= 2
    shape = _largest(merged.buffer(grow_m - bridge, join_style="mitre", mitre_limit=2.0))
    return Polygon(shape.exterior).simplify(0.02)


def _resample(points: Array, step_m: float) -> Array:
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    # The devkit's reactive traffic drops a path's last vertex and then needs two to drive along.
    at = np.linspace(0.0, length[-1], max(3, round(length[-1] / step_m) + 1))
    out = np.stack([np.interp(at, length, points[:, 0]), np.interp(at, length, points[:, 1])], axis=1)
    out[0], out[-1] = points[0], points[-1]
    return out


def _shortened(points: Array) -> Array:
    line = LineString(points)
    ceded = min(CEDED_M, line.length / 4)
    return np.array(shapely.ops.substring(line, ceded, line.length - ceded).coords)


def _direction(start: Array, end: Array) -> Array:
    return (end - start) / max(float(np.hypot(*(end - start))), 1e-9)


def _distinct(points: Array) -> Array:
    keep = np.r_[True, np.hypot(*np.diff(points, axis=0).T) > 1e-3]
    return points[keep]


def read_city(network: Path, location: str, origin: Array, first_fid: int = 0) -> City:
    """Read a SUMO network and lay it out as a nuPlan city around `origin`.

    Args:
        network: SUMO network file.
        location: nuPlan location name.
        origin: [2] world coordinates (UTM, m) of the network's centre.
        first_fid: Feature ids begin above it, so that several networks can share one map.
    Raises:
        DataError: No car can drive from one street into another.
    """
    net = sumolib.net.readNet(str(network), withInternal=True)
    west, south, east, north = net.getBoundary()
    # Whole metres keep coordinates exact to the network's centimetres.
    middle = np.array([(west + east) / 2, (south + north) / 2])
    city = City(location, np.round(origin - middle), last_fid=first_fid)
    edges = sorted(net.getEdges(False), key=lambda edge: edge.getID())
    lane_of: dict[str, Lane] = {}
    for edge in edges:
        _add_roadblock(city, edge, lane_of)
    junction_polygons: dict[str, list[Polygon]] = defaultdict(list)
    raw_connectors = _find_connectors(net, edges, lane_of, city.offset)
    for junction, baseline, width, _ in raw_connectors:
        junction_polygons[junction].append(_band(baseline, width))
    if not raw_connectors:
        raise DataError(
            f"{network}: no car can drive from one street into another; take an area with junctions that cars may use"
        )
    intersection_of: dict[str, int] = {}
    for junction in sorted(junction_polygons):
        shape = [p[:2] for p in net.getNode(junction).getShape()]
        parts = list(junction_polygons[junction])
        if len(shape) >= 3:
            parts.append(_largest(Polygon(np.array(shape) + city.offset).buffer(0.0)))
        fid = city.new_fid()
        intersection_of[junction] = fid
        city.intersections.append(Area(fid, _merged(parts, OVERLAP_M), junction))
    _add_connectors(city, raw_connectors, intersection_of)
    for edge in net.getEdges(True):
        if edge.getFunction() == "crossing":
            lane = edge.getLanes()[0]
            line = _distinct(np.array([p[:2] for p in lane.getShape()]) + city.offset)
            if len(line) >= 2:
                city.crosswalks.append(Area(city.new_fid(), _band(line, lane.getWidth()), edge.getID()))
        elif edge.getFunction() == "walkingarea":
            shape = [p[:2] for p in edge.getLanes()[0].getShape()]
            if len(shape) >= 3:
                area = shapely.make_valid(Polygon(np.array(shape) + city.offset))
                if area.area > 0.5:
                    city.walkways.append(Area(city.new_fid(), Polygon(_largest(area).exterior), edge.getID()))
    for edge in edges:
        for lane in edge.getLanes():
            if not _is_paved(lane) and (lane.allows("pedestrian") or lane.allows("bicycle")):
                line = _distinct(np.array([p[:2] for p in lane.getShape()]) + city.offset)
                if len(line) >= 2:
                    city.walkways.append(Area(city.new_fid(), _band(line, lane.getWidth()), lane.getID()))
    return city


def _add_roadblock(city: City, edge: sumolib.net.edge.Edge, lane_of: dict[str, Lane]) -> None:
    paved = [lane for lane in edge.getLanes() if _is_paved(lane)]
    if not paved:
        return
    # A bus lane beside car lanes belongs to the road, but no centerline may lead along it.
    lanes = [lane for lane in paved if lane.allows("passenger")] or paved
    roadblock = city.new_fid()
    polygons = []
    for lane in paved:
        if lane not in lanes:
            line = _distinct(np.array([p[:2] for p in lane.getShape()]) + city.offset)
            polygons.append(_band(line, float(lane.getWidth())))
    boundaries = [city.new_fid() for _ in range(len(lanes) + 1)]
    for order, lane in enumerate(reversed(lanes)):
        shape = _distinct(np.array([p[:2] for p in lane.getShape()]) + city.offset)
        smooth, _ = smooth_path(shape, 1.5)
        baseline = _resample(_shortened(smooth), BASELINE_STEP_M)
        width = float(lane.getWidth())
        polygon = _band(baseline, width)
        polygons.append(polygon)
        record = Lane(
            city.new_fid(), city.new_fid(), boundaries[order], boundaries[order + 1], lane.getID(), roadblock, order,
            baseline, polygon, width, float(lane.getSpeed()), smooth[0], smooth[-1],
        )  # fmt: skip
        city.lanes.append(record)
        city.lane_of_sumo[lane.getID()] = record.fid
        lane_of[lane.getID()] = record
    city.roadblocks.append(Area(roadblock, _merged(polygons, OVERLAP_M), edge.getID()))
    city.roadblock_of_edge[edge.getID()] = roadblock


def _is_paved(lane: sumolib.net.lane.Lane) -> bool:
    return bool(lane.allows("passenger") or lane.allows("bus"))


_RawConnector = tuple[str, Array, float, tuple[Lane, Lane, str, tuple[str, int] | None, tuple[str, ...], float]]


def _find_connectors(
    net: sumolib.net.Net, edges: list[sumolib.net.edge.Edge], lane_of: dict[str, Lane], offset: Array
) -> list[_RawConnector]:
    """(junction, baseline, width, rest) of every way through a junction that cars may take."""
    found: list[_RawConnector] = []
    for edge in edges:
        for lane in edge.getLanes():
            if lane.getID() not in lane_of:
                continue
            for connection in lane.getOutgoing():
                target = connection.getToLane()
                if target.getID() not in lane_of:
                    continue
                start, end = lane_of[lane.getID()], lane_of[target.getID()]
                points = [start.baseline[-1], start.end]
                chain = []
                speed = float(target.getSpeed())
                via = connection.getViaLaneID()
                while via:
                    inner = net.getLane(via)
                    chain.append(via)
                    speed = min(speed, float(inner.getSpeed()))
                    points += [np.array(p[:2]) + offset for p in inner.getShape()[1:-1]]
                    onward = [c for c in inner.getOutgoing() if c.getToLane().getID() == target.getID()]
                    via = onward[0].getViaLaneID() if onward else ""
                points += [end.begin, end.baseline[0]]
                line = _distinct(np.array(points))
                if np.dot(end.begin - start.end, _direction(line[0], line[-1])) < 0:
                    # The next lane begins behind the end of this one.
                    line = line[[0, -1]]
                smooth = smooth_path(line, 0.6)[0]
                light = connection.getTLSID()
                signal = (light, int(connection.getTLLinkIndex())) if light else None
                rest = (start, end, connection.getDirection(), signal, tuple(chain), speed)
                baseline = _resample(smooth, BASELINE_STEP_M)
                found.append((edge.getToNode().getID(), baseline, min(start.width_m, end.width_m), rest))
    return found


def _add_connectors(city: City, raw: list[_RawConnector], intersection_of: dict[str, int]) -> None:
    edge_of = {area.fid: area.name for area in city.roadblocks}
    groups: dict[tuple[int, int], int] = {}
    polygons: dict[int, list[Polygon]] = defaultdict(list)
    stop_lines: dict[int, int] = {}
    for junction, baseline, width, (start, end, turn, signal, chain, speed) in raw:
        pair = (start.roadblock, end.roadblock)
        if pair not in groups:
            groups[pair] = city.new_fid()
            city.connector_of_edges[(edge_of[pair[0]], edge_of[pair[1]])] = groups[pair]
        stop_line = 0
        if signal is not None:
            if start.fid not in stop_lines:
                stop_lines[start.fid] = city.new_fid()
                city.stop_lines.append(Area(stop_lines[start.fid], _stop_line(start), start.sumo_id))
            stop_line = stop_lines[start.fid]
        polygon = _band(baseline, width)
        polygons[groups[pair]].append(polygon)
        city.connectors.append(
            Connector(
                city.new_fid(), city.new_fid(), city.new_fid(), city.new_fid(), city.new_fid(), start, end,
                groups[pair], intersection_of[junction], baseline, polygon, speed, turn, signal, stop_line, chain,
            )
        )  # fmt: skip
    at = {c.roadblock_connector: c.intersection for c in city.connectors}
    for (start_block, end_block), fid in groups.items():
        city.roadblock_connectors.append(
            RoadblockConnector(fid, _merged(polygons[fid], 0.05), start_block, end_block, at[fid])
        )


def _stop_line(lane: Lane) -> Polygon:
    end = lane.baseline[-1]
    along = end - lane.baseline[-2]
    along = along / np.hypot(*along)
    return _band(np.stack([end - 0.6 * along, end - 0.2 * along]), lane.width_m)
