"""The ego vehicle's route: corrected against where the car really is, and the centerline along it."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import shapely
from numpy.typing import NDArray

from irlvla.data.maps import CityMap
from irlvla.geometry import box_corners, ego_boxes, wrap_angle
from irlvla.types import Array

_SEARCH_HALF_WIDTH_M = 1.0
_MAX_HEADING_ERROR_RAD = np.pi / 4
_MAX_DISPLACEMENT_M = 3.0
_BACKWARD_DEPTH = 15
_FORWARD_DEPTH = 30
_LOOP_OVERLAP_M2 = 1.0
_CENTERLINE_BLOCKS = 30


def _blocks_at(city_map: CityMap, ego_pose_world: Array) -> list[int]:
    """Roadblocks, then connectors, around the rear axle; the nearest of each layer where there is none."""
    x, y = ego_pose_world[:2]
    reach = _SEARCH_HALF_WIDTH_M
    patch = shapely.box(x - reach, y - reach, x + reach, y + reach)
    layers = (city_map.roadblocks, city_map.roadblock_connectors)
    around = [block for layer in layers for block in layer.intersecting(patch)]
    if around:
        return around
    point = shapely.Point(x, y)
    return [int(layer.ids[np.argmin(shapely.distance(layer.geometries, point))]) for layer in layers if len(layer)]


def _start_block(city_map: CityMap, ego_pose_world: Array, route: Sequence[int]) -> tuple[int, list[int]]:
    """The block the ego vehicle is on, and every block it might as well be on."""
    on_route: list[tuple[float, int]] = []
    off_route: list[tuple[float, int]] = []
    nearest: list[tuple[float, int]] = []
    blocks = _blocks_at(city_map, ego_pose_world)
    for block in blocks:
        closest_m = np.inf
        for lane in city_map.lanes_of(block):
            path = city_map.discrete_path(lane)
            distances_m = np.sqrt(((path[:, :2] - ego_pose_world[:2]) ** 2).sum(axis=1))
            vertex = int(np.argmin(distances_m))
            heading_error = abs(float(wrap_angle(path[vertex, 2] - ego_pose_world[2])))
            closest_m = min(closest_m, distances_m[vertex])
            if heading_error < _MAX_HEADING_ERROR_RAD and distances_m[vertex] < _MAX_DISPLACEMENT_M:
                (on_route if block in route else off_route).append((distances_m[vertex], block))
        nearest.append((closest_m, block))
    for candidates in (on_route, off_route):
        if candidates:
            return min(candidates, key=lambda c: c[0])[1], [block for _, block in candidates]
    return min(nearest, key=lambda c: c[0])[1], blocks


def search_blocks(
    city_map: CityMap, start: int, targets: Sequence[int], max_depth: int, *, forward: bool
) -> list[int] | None:
    """Shortest chain of blocks from `start` to any target, in driving order; None where there is none.

    Ties fall as in the official breadth-first search, which never marks blocks as visited: the first target in queue
    order wins, and a block's parent is the last queued one that leads to it.

    Source: nuplan-devkit `BreadthFirstSearchRoadBlock` as tuPlan Garage and navsim carry it.
    """
    neighbours = city_map.next_roadblocks if forward else city_map.previous_roadblocks
    wanted = set(targets)
    # The queue's blocks of one depth, without repeats: by first and by last occurrence.
    by_first, by_last = [start], [start]
    parents: list[dict[int, int]] = []
    for _ in range(max_depth):
        found = next((block for block in by_first if block in wanted), None)
        if found is not None:
            chain = [found]
            for parent in reversed(parents):
                chain.append(parent[chain[-1]])
            return chain[::-1] if forward else chain
        parents.append({})
        next_first: dict[int, None] = {}
        next_last: dict[int, None] = {}
        for block in by_first:
            next_first.update(dict.fromkeys(neighbours(block)))
        for block in by_last:
            for neighbour in neighbours(block):
                parents[-1][neighbour] = block
                next_last.pop(neighbour, None)
                next_last[neighbour] = None
        by_first, by_last = list(next_first), list(next_last)
        if not by_first:
            return None
    return None


def _joined_at_start(city_map: CityMap, ego_pose_world: Array, route: list[int]) -> list[int]:
    """The route with blocks put before it, so that it begins where the ego vehicle is."""
    start, candidates = _start_block(city_map, ego_pose_world, route)
    if start in route:
        return route
    lead_in = search_blocks(city_map, route[0], candidates, _BACKWARD_DEPTH, forward=False)
    if lead_in is not None:
        return lead_in[:-1] + route
    detour = search_blocks(city_map, start, route[:3], _FORWARD_DEPTH, forward=True)
    if detour is not None:
        return detour + route[route.index(detour[-1]) + 1 :]
    return route


def _gaps_filled(city_map: CityMap, route: list[int]) -> list[int]:
    filled = route[:1]
    for before, after in pairwise(route):
        if before not in city_map.previous_roadblocks(after):
            between = search_blocks(city_map, before, [after], _FORWARD_DEPTH, forward=True)
            filled += [] if between is None else between[1:-1]
        filled.append(after)
    return filled


def _cut_at_loop(city_map: CityMap, route: list[int]) -> list[int]:
    """The route up to the first connector that crosses ground of an earlier connector."""
    earlier: list[shapely.Polygon] = []
    for position, block in enumerate(route):
        if city_map.is_roadblock(block):
            continue
        polygon = city_map.roadblock_polygon(block)
        bounds = polygon.bounds
        for other in earlier:
            seen = other.bounds
            apart = bounds[0] > seen[2] or bounds[2] < seen[0] or bounds[1] > seen[3] or bounds[3] < seen[1]
            if not apart and other.intersection(polygon).area > _LOOP_OVERLAP_M2:
                return route[:position]
        earlier.append(polygon)
    return route


def correct_route(city_map: CityMap, ego_pose_world: Array, route: Sequence[int]) -> list[int]:
    """Roadblocks and connectors of the route, joined to the ego vehicle, without gaps or loops.

    Args:
        city_map: The city.
        ego_pose_world: [3] rear axle.
        route: Distinct block ids in driving order, at least one, all known to the map.
    Source: navsim `route_roadblock_correction_v2`.
    """
    return _cut_at_loop(city_map, _gaps_filled(city_map, _joined_at_start(city_map, ego_pose_world, list(route))))


def lanes_of_route(city_map: CityMap, route: Sequence[int]) -> list[int]:
    """Distinct lanes and connectors of the route's blocks, in order."""
    return list(dict.fromkeys(lane for block in route for lane in city_map.lanes_of(block)))


def start_lane(
    city_map: CityMap, ego_pose_world: Array, lanes: Sequence[int], tree: shapely.STRtree, rows: NDArray[np.int64]
) -> int:
    """Lane of the route that the ego vehicle drives on.

    Among lanes under the rear axle the best aligned one (ties in the tree's order, as officially); else the first that
    holds the center; else the nearest to the body.

    Args:
        city_map: The city.
        ego_pose_world: [3] rear axle.
        lanes: Lanes of the route, in order.
        tree: Tree over the drivable polygons.
        rows: Map id of each polygon of the tree.
    """
    on_route = set(lanes)
    best, least_error = None, np.inf
    for row in tree.query(shapely.Point(ego_pose_world[:2]), predicate="intersects"):
        lane = int(rows[row])
        if lane in on_route and city_map.has_lane(lane):
            path = city_map.discrete_path(lane)
            vertex = np.argmin(np.sqrt(((ego_pose_world[:2] - path[:, :2]) ** 2).sum(axis=1)))
            error = abs(float(wrap_angle(path[vertex, 2] - ego_pose_world[2])))
            if error < least_error:
                best, least_error = lane, error
    if best is not None:
        return best
    ego = ego_boxes(ego_pose_world)
    center, body = shapely.Point(ego[:2]), shapely.Polygon(box_corners(ego))
    nearest_m = np.inf
    for lane in lanes:
        polygon = city_map.lane_polygon(lane)
        if polygon.contains(center):
            return lane
        distance_m = polygon.distance(body)
        if distance_m < nearest_m:
            best, nearest_m = lane, distance_m
    assert best is not None
    return best


def centerline(city_map: CityMap, start: int, lanes: Sequence[int], route: Sequence[int]) -> Array:
    """The line to follow: cheapest lanes of the route from the start lane on.

    Args:
        city_map: The city.
        start: Lane the ego vehicle is on.
        lanes: Lanes of the route.
        route: Corrected route.
    Returns:
        [L, 3] x, y (m), unwrapped heading (rad). Joints between lanes are doubled, as officially.
    Source: navsim `AbstractPDMPlanner._get_discrete_centerline` with `Dijkstra`.
    """
    at_start = list(route).index(city_map.roadblock_of(start))
    path = _cheapest_lanes(city_map, start, set(lanes), route[at_start : at_start + _CENTERLINE_BLOCKS][-1])
    line = np.concatenate([city_map.discrete_path(lane) for lane in path])
    line[:, 2] = np.unwrap(line[:, 2])
    return line


def _cheapest_lanes(city_map: CityMap, start: int, lanes: set[int], target_block: int) -> list[int]:
    """Dijkstra over the route's lanes; where the target is out of reach, the deepest lane, then the cheapest."""
    # Insertion order of `frontier` decides ties, as in the official list-based search.
    frontier: dict[int, tuple[float, int]] = {start: (1.0, 1)}
    settled: dict[int, tuple[float, int]] = {}
    parent: dict[int, int] = {}
    end = None
    while frontier:
        lane = min(frontier, key=lambda candidate: frontier[candidate][0])
        cost, depth = frontier.pop(lane)
        if city_map.roadblock_of(lane) == target_block:
            end = lane
            break
        settled[lane] = cost, depth
        for following in city_map.next_lanes(lane):
            if following not in lanes or following in settled:
                continue
            through = cost + city_map.baseline(following).length
            if following not in frontier or through < frontier[following][0]:
                parent[following] = lane
                frontier[following] = through, depth + 1
    if end is None:
        deepest = max(depth for _, depth in settled.values())
        end = min((lane for lane in settled if settled[lane][1] == deepest), key=lambda lane: settled[lane][0])
    path = [end]
    while path[-1] in parent:
        path.append(parent[path[-1]])
    return path[::-1]
