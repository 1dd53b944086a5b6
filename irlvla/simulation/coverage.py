"""Which of many polygons hold a point: a grid of cells that mostly know, and exact tests where an edge runs through.

Thousands of points fall on a few hundred square metres of road. A cell that no edge of a polygon touches lies wholly
inside or wholly outside of it, so one exact test answers for all points in the cell, and answers remain exact.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from irlvla.simulation.kernels import kernel
from irlvla.simulation.polygons import PolygonSet, locate
from irlvla.types import Array

CELL_M = 0.25
MAX_CELLS = 1 << 16
"""Cells are larger where plans spread so far that there would be more."""
# Rounding at UTM coordinates is about 1e-9 m; an edge this near to a cell counts as touching it.
_SLACK_M = 1e-6
_BITS = 64
_DEBRUIJN = np.uint64(0x03F79D71B4CB0A89)


def _bit_table() -> NDArray[np.int64]:
    table = np.zeros(_BITS, dtype=np.int64)
    for bit in range(_BITS):
        table[((1 << bit) * int(_DEBRUIJN) & 0xFFFF_FFFF_FFFF_FFFF) >> 58] = bit
    return table


_BIT_OF = _bit_table()


class Coverage(NamedTuple):
    """Cells over a rectangle and what is known of them; polygon `chosen[64 * w + b]` is bit b of word w."""

    chosen: NDArray[np.int64]
    """[M] polygons that the rectangle may meet."""
    left_m: float
    low_m: float
    cells_per_m: float
    columns: int
    rows: int
    inside: NDArray[np.uint64]
    """[cells, words] polygons that hold the whole cell."""
    unsure: NDArray[np.uint64]
    """[cells, words] polygons with an edge in the cell."""


@kernel
def lowest_bit(word: np.uint64) -> int:
    """Position of the lowest set bit of a word that has one."""
    lowest = word & (~word + np.uint64(1))
    return int(_BIT_OF[(lowest * _DEBRUIJN) >> np.uint64(58)])


@kernel
def _mark_edges(polygons: PolygonSet, polygon: int, at: Coverage, word: int, bit: np.uint64) -> None:
    """Mark the cells that an edge of the polygon touches."""
    cell_m = 1.0 / at.cells_per_m
    right_m, high_m = at.left_m + at.columns * cell_m, at.low_m + at.rows * cell_m
    for chain in range(polygons.polygon_chain[polygon], polygons.polygon_chain[polygon + 1]):
        box = polygons.chain_box[chain]
        if box[2] < at.left_m or box[0] > right_m or box[3] < at.low_m or box[1] > high_m:
            continue
        for edge in range(polygons.chain_start[chain], polygons.chain_end[chain]):
            ax, ay = polygons.vertices[edge, 0], polygons.vertices[edge, 1]
            bx, by = polygons.vertices[edge + 1, 0], polygons.vertices[edge + 1, 1]
            if ay > by:
                ax, ay, bx, by = bx, by, ax, ay
            first = max(math.floor((ay - _SLACK_M - at.low_m) * at.cells_per_m), 0)
            last = min(math.floor((by + _SLACK_M - at.low_m) * at.cells_per_m), at.rows - 1)
            slope = (bx - ax) / (by - ay) if by - ay > _SLACK_M else 0.0
            for row in range(first, last + 1):
                x_from, x_to = min(ax, bx), max(ax, bx)
                if slope != 0.0:
                    bottom = max(at.low_m + row * cell_m - _SLACK_M, ay)
                    top = min(at.low_m + (row + 1) * cell_m + _SLACK_M, by)
                    x_bottom, x_top = ax + slope * (bottom - ay), ax + slope * (top - ay)
                    x_from, x_to = max(x_from, min(x_bottom, x_top)), min(x_to, max(x_bottom, x_top))
                begin = max(math.floor((x_from - _SLACK_M - at.left_m) * at.cells_per_m), 0)
                end = min(math.floor((x_to + _SLACK_M - at.left_m) * at.cells_per_m), at.columns - 1)
                for column in range(begin, end + 1):
                    at.unsure[row * at.columns + column, word] |= bit


@kernel
def _fill(polygons: PolygonSet, polygon: int, at: Coverage, word: int, bit: np.uint64) -> None:
    """Find out about the other cells: neighbours that no edge touches lie on the same side."""
    cell_m = 1.0 / at.cells_per_m
    box = polygons.polygon_box[polygon]
    first_row = max(math.floor((box[1] - at.low_m) * at.cells_per_m), 0)
    last_row = min(math.floor((box[3] - at.low_m) * at.cells_per_m), at.rows - 1)
    first = max(math.floor((box[0] - at.left_m) * at.cells_per_m), 0)
    last = min(math.floor((box[2] - at.left_m) * at.cells_per_m), at.columns - 1)
    middle = np.empty((1, 2))
    for row in range(first_row, last_row + 1):
        known, is_inside = False, False
        for column in range(first, last + 1):
            cell = row * at.columns + column
            if at.unsure[cell, word] & bit:
                known = False
                continue
            if not known and row > first_row and not at.unsure[cell - at.columns, word] & bit:
                is_inside = at.inside[cell - at.columns, word] & bit != np.uint64(0)
                known = True
            if not known:
                middle[0, 0] = at.left_m + (column + 0.5) * cell_m
                middle[0, 1] = at.low_m + (row + 0.5) * cell_m
                is_inside = locate(polygons, polygon, middle)[0] != 0
                known = True
            if is_inside:
                at.inside[cell, word] |= bit


@kernel
def coverage(polygons: PolygonSet, x_min: float, y_min: float, x_max: float, y_max: float) -> Coverage:
    """Lay a grid over a rectangle that holds every point to be asked for (m)."""
    chosen = np.empty(len(polygons.polygon_box), dtype=np.int64)
    count = 0
    for polygon in range(len(chosen)):
        box = polygons.polygon_box[polygon]
        if x_max >= box[0] and y_max >= box[1] and x_min <= box[2] and y_min <= box[3]:
            chosen[count] = polygon
            count += 1
    cell_m = CELL_M
    while (x_max - x_min + 2 * cell_m) * (y_max - y_min + 2 * cell_m) > MAX_CELLS * cell_m * cell_m:
        cell_m *= 2
    cells_per_m = 1.0 / cell_m
    columns = int((x_max - x_min) * cells_per_m) + 2
    rows = int((y_max - y_min) * cells_per_m) + 2
    words = (count + _BITS - 1) // _BITS
    cells = columns * rows
    at = Coverage(
        chosen[:count],
        x_min,
        y_min,
        cells_per_m,
        columns,
        rows,
        np.zeros((cells, words), dtype=np.uint64),
        np.zeros((cells, words), dtype=np.uint64),
    )
    for k in range(count):
        bit = np.uint64(1) << np.uint64(k % _BITS)
        _mark_edges(polygons, chosen[k], at, k // _BITS, bit)
        _fill(polygons, chosen[k], at, k // _BITS, bit)
    return at


@kernel
def cell_of(at: Coverage, x: float, y: float) -> int:
    """Cell that holds a point of the rectangle."""
    column = min(int((x - at.left_m) * at.cells_per_m), at.columns - 1)
    row = min(int((y - at.low_m) * at.cells_per_m), at.rows - 1)
    return row * at.columns + column


@kernel
def settle(
    polygons: PolygonSet,
    chosen: NDArray[np.int64],
    word: int,
    found: np.uint64,
    unsure: np.uint64,
    enough: np.uint64,
    point: Array,
) -> np.uint64:
    """Complete what a cell knows of one of its points by exact tests.

    Args:
        polygons: The polygons of the coverage.
        chosen: The coverage's.
        word: Which word the bits belong to.
        found: Polygons that surely hold the point.
        unsure: Polygons to test.
        enough: Polygons of which one is enough: once one is found, the others may be missing in the answer.
        point: [1, 2] (m).
    Returns:
        Polygons that hold the point strictly.
    """
    if found & enough:
        unsure &= ~enough
    while unsure:
        bit = unsure & (~unsure + np.uint64(1))
        unsure ^= bit
        if locate(polygons, chosen[_BITS * word + lowest_bit(bit)], point)[0]:
            found |= bit
            if bit & enough:
                unsure &= ~enough
    return found
