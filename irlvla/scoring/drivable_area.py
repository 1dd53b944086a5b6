"""Drivable area compliance, and which kinds of road the ego vehicle stands on."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from irlvla.scoring.footprint import Footprints
from irlvla.simulation.coverage import Coverage, cell_of, coverage, settle
from irlvla.simulation.drivable import INTERSECTION, LANE, LANE_CONNECTOR, Road
from irlvla.simulation.kernels import kernel
from irlvla.types import Array


class EgoAreas(NamedTuple):
    """What the ego vehicle stands on, at every step of C rollouts; all [C, 41].

    Source: navsim `PDMScorer._calculate_ego_area`; a point on a polygon's edge counts as outside.
    """

    multiple_lanes: NDArray[np.bool_]
    """Corners lie in more than one lane or connector, and none holds all four."""
    non_drivable: NDArray[np.bool_]
    """Some corner lies on no roadblock, intersection or car park."""
    oncoming: NDArray[np.bool_]
    """The center lies in no lane or connector of the route."""
    center_in_intersection: NDArray[np.bool_]
    rear_axle_in_intersection: NDArray[np.bool_]


@kernel
def _kind_bits(road: Road, grid: Coverage) -> NDArray[np.uint64]:
    """Words [4, W] of the grid's polygons: drivable, lane, lane of the route, intersection."""
    words = np.zeros((4, grid.inside.shape[1]), dtype=np.uint64)
    for k in range(len(grid.chosen)):
        polygon = grid.chosen[k]
        kind, word, bit = road.kind[polygon], k // 64, np.uint64(1) << np.uint64(k % 64)
        if kind in (LANE, LANE_CONNECTOR):
            words[1, word] |= bit
            if road.on_route[polygon]:
                words[2, word] |= bit
        else:
            words[0, word] |= bit
        if kind == INTERSECTION:
            words[3, word] |= bit
    return words


@kernel
def _ego_areas(road: Road, ego: Footprints, areas: NDArray[np.bool_]) -> None:
    plans, steps = ego.speed_mps.shape
    nothing = np.uint64(0)
    # The rear axle lies within the body; its rounding may not, hence the margin.
    grid = coverage(
        road.polygons,
        ego.corners[..., 0].min() - 1.0,
        ego.corners[..., 1].min() - 1.0,
        ego.corners[..., 0].max() + 1.0,
        ego.corners[..., 1].max() + 1.0,
    )
    kinds = _kind_bits(road, grid)
    drivables, lanes, route_lanes, crossings = kinds[0], kinds[1], kinds[2], kinds[3]
    polygons, chosen, inside, unsure = road.polygons, grid.chosen, grid.inside, grid.unsure
    words = len(lanes)
    point = np.empty((1, 2))
    cells = np.empty(4, dtype=np.int64)
    for plan in range(plans):
        for step in range(steps):
            is_drivable = True
            for corner in range(4):
                x, y = ego.corners[plan, step, corner, 0], ego.corners[plan, step, corner, 1]
                cell = cells[corner] = cell_of(grid, x, y)
                found = nothing
                for word in range(words):
                    found |= inside[cell, word] & drivables[word]
                for word in range(words):
                    if found == nothing and unsure[cell, word] & drivables[word]:
                        point[0, 0], point[0, 1] = x, y
                        open_ = unsure[cell, word] & drivables[word]
                        found |= settle(polygons, chosen, word, nothing, open_, drivables[word], point)
                is_drivable &= found != nothing
            lanes_touched, lane_holds_all = 0, False
            for word in range(words):
                all_of = lanes[word]
                for corner in range(4):
                    all_of &= inside[cells[corner], word]
                lane_holds_all |= all_of != nothing
            if not lane_holds_all:
                for word in range(words):
                    all_of, any_of = lanes[word], nothing
                    for corner in range(4):
                        held = inside[cells[corner], word] & lanes[word]
                        open_ = unsure[cells[corner], word] & lanes[word]
                        if open_:
                            point[0, 0] = ego.corners[plan, step, corner, 0]
                            point[0, 1] = ego.corners[plan, step, corner, 1]
                            held = settle(polygons, chosen, word, held, open_, nothing, point)
                        all_of &= held
                        any_of |= held
                    lane_holds_all |= all_of != nothing
                    while any_of:
                        any_of &= any_of - np.uint64(1)
                        lanes_touched += 1
            areas[0, plan, step] = lanes_touched > 1 and not lane_holds_all
            areas[1, plan, step] = not is_drivable
            on_route, center_crossing, axle_crossing = nothing, nothing, nothing
            x, y = ego.center[plan, step, 0], ego.center[plan, step, 1]
            cell = cell_of(grid, x, y)
            for word in range(words):
                on_route |= inside[cell, word] & route_lanes[word]
                center_crossing |= inside[cell, word] & crossings[word]
            for word in range(words):
                open_ = unsure[cell, word] & (route_lanes[word] | crossings[word])
                if on_route:
                    open_ &= ~route_lanes[word]
                if center_crossing:
                    open_ &= ~crossings[word]
                if open_:
                    point[0, 0], point[0, 1] = x, y
                    held = settle(polygons, chosen, word, nothing, open_, nothing, point)
                    on_route |= held & route_lanes[word]
                    center_crossing |= held & crossings[word]
            x, y = ego.rear_axle[plan, step, 0], ego.rear_axle[plan, step, 1]
            cell = cell_of(grid, x, y)
            for word in range(words):
                axle_crossing |= inside[cell, word] & crossings[word]
            for word in range(words):
                open_ = unsure[cell, word] & crossings[word]
                if axle_crossing == nothing and open_:
                    point[0, 0], point[0, 1] = x, y
                    axle_crossing |= settle(polygons, chosen, word, nothing, open_, crossings[word], point)
            areas[2, plan, step] = on_route == nothing
            areas[3, plan, step] = center_crossing != nothing
            areas[4, plan, step] = axle_crossing != nothing


def ego_areas(road: Road, ego: Footprints) -> EgoAreas:
    """What the ego vehicle stands on, at every step of C rollouts."""
    areas = np.empty((5, *ego.speed_mps.shape), dtype=np.bool_)
    _ego_areas(road, ego, areas)
    return EgoAreas(*areas)


def drivable_area(areas: EgoAreas) -> Array:
    """Drivable area compliance [C]: 0 where a corner ever leaves the road, else 1."""
    return np.where(areas.non_drivable.any(axis=1), 0.0, 1.0)
