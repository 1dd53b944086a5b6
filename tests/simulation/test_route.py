"""Searching the road network as the official planner does, ties included."""

from collections import deque
from pathlib import Path

import numpy as np
import pytest

from irlvla.data.maps import CityMap, load_map
from irlvla.simulation.route import centerline, correct_route, lanes_of_route, search_blocks

CITIES = ("us-ma-boston", "sg-one-north")


def queue_search(
    city_map: CityMap, start: int, targets: set[int], depth_limit: int, *, forward: bool
) -> list[int] | None:
    """The official search as it stands: a queue with repeats, parents overwritten by whoever comes last."""
    neighbours = city_map.next_roadblocks if forward else city_map.previous_roadblocks
    queue, parent = deque([(start, 1)]), {}
    while queue:
        block, depth = queue.popleft()
        if depth > depth_limit:
            return None
        if block in targets:
            chain = [block]
            while depth > 1:
                chain.append(parent[chain[-1], depth])
                depth -= 1
            return chain[::-1] if forward else chain
        for neighbour in neighbours(block):
            queue.append((neighbour, depth + 1))
            parent[neighbour, depth + 1] = block
    return None


@pytest.mark.parametrize("city", CITIES)
@pytest.mark.parametrize("forward", [True, False])
def test_search_without_repeats_finds_the_chain_of_the_search_with_them(city: str, forward: bool, golden: Path) -> None:
    city_map = load_map(golden / "alpha", city)
    blocks = city_map.roadblocks.ids.tolist()
    rng = np.random.default_rng(8)
    found = 0
    for _ in range(150):
        start, *targets = rng.choice(blocks, size=3).tolist()
        theirs = queue_search(city_map, start, set(targets), 9, forward=forward)
        assert search_blocks(city_map, start, targets, 9, forward=forward) == theirs
        found += theirs is not None and len(theirs) > 2
    assert found > 10


def lane_pose(city_map: CityMap, lane: int) -> np.ndarray:
    path = city_map.discrete_path(lane)
    return path[len(path) // 2].copy()


@pytest.fixture
def drive(golden: Path) -> tuple[CityMap, list[int]]:
    """A city and a route of five blocks in it."""
    city_map = load_map(golden / "alpha", "us-ma-boston")
    for start in city_map.roadblocks.ids.tolist():
        route = [start]
        while len(route) < 5 and city_map.next_roadblocks(route[-1]):
            route.append(city_map.next_roadblocks(route[-1])[0])
        if len(set(route)) == 5:
            return city_map, route
    raise AssertionError("the golden city has no route of five blocks")


def test_a_sound_route_is_left_alone(drive: tuple[CityMap, list[int]]) -> None:
    city_map, route = drive
    pose = lane_pose(city_map, city_map.lanes_of(route[0])[0])
    assert correct_route(city_map, pose, route) == route


def test_a_gap_in_the_route_is_filled(drive: tuple[CityMap, list[int]]) -> None:
    city_map, route = drive
    pose = lane_pose(city_map, city_map.lanes_of(route[0])[0])
    assert correct_route(city_map, pose, [route[0], route[2], route[4]]) == route


def test_a_route_that_starts_ahead_is_joined_to_the_car(drive: tuple[CityMap, list[int]]) -> None:
    city_map, route = drive
    pose = lane_pose(city_map, city_map.lanes_of(route[0])[0])
    assert correct_route(city_map, pose, route[2:]) == route


def test_centerline_starts_on_the_start_lane_and_stays_in_one_piece(drive: tuple[CityMap, list[int]]) -> None:
    city_map, route = drive
    start = city_map.lanes_of(route[0])[0]
    line = centerline(city_map, start, lanes_of_route(city_map, route), route)
    np.testing.assert_array_equal(line[0, :2], city_map.discrete_path(start)[0, :2])
    assert np.hypot(*np.diff(line[:, :2], axis=0).T).max() < 3.0
    assert np.abs(np.diff(line[:, 2])).max() < np.pi
