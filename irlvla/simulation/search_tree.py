"""Which of several equally near things GEOS's search tree finds first.

The official reactive traffic asks a sort-tile-recursive tree for the vehicle nearest to another, and several that
already overlap it are all 0 m away. The answer then hangs on how the tree is packed and on how its queue breaks ties.
"""

import math

import numpy as np
from numpy.typing import NDArray

from irlvla.simulation.kernels import kernel
from irlvla.types import Array

_CAPACITY = 10
"""Children of a node; shapely's default."""


@kernel
def _sort(nodes: NDArray[np.int64], bounds: Array, axis: int) -> None:
    """Sort nodes by the middle of their bounds along an axis; equal ones keep their order."""
    for i in range(1, len(nodes)):
        node, key = nodes[i], bounds[nodes[i], axis] + bounds[nodes[i], axis + 2]
        j = i
        while j > 0 and bounds[nodes[j - 1], axis] + bounds[nodes[j - 1], axis + 2] > key:
            nodes[j] = nodes[j - 1]
            j -= 1
        nodes[j] = node


@kernel
def _push(heap: NDArray[np.int64], hole: int, node: int, distances: Array) -> None:
    while hole > 0 and distances[heap[(hole - 1) // 2]] > distances[node]:
        heap[hole] = heap[(hole - 1) // 2]
        hole = (hole - 1) // 2
    heap[hole] = node


@kernel
def _pop(heap: NDArray[np.int64], size: int, distances: Array) -> None:
    """Take the top off a binary heap of `size` nodes as libstdc++ does: hole down to a leaf, last node up from it."""
    last, size = heap[size - 1], size - 1
    hole, child = 0, 0
    while child < (size - 1) // 2:
        child = 2 * (child + 1)
        if distances[heap[child]] > distances[heap[child - 1]]:
            child -= 1
        heap[hole] = heap[child]
        hole = child
    if size % 2 == 0 and size > 0 and child == (size - 2) // 2:
        child = 2 * child + 1
        heap[hole] = heap[child]
        hole = child
    if size > 0:
        _push(heap, hole, last, distances)


@kernel
def nearest_in_tree(bounds: Array, distances: Array, query: Array) -> int:
    """Which item a tree's search for the nearest ends with.

    Args:
        bounds: [K, 4] x min, y min, x max, y max of the items, in the order in which they were put in; at least one.
        distances: [K] of the items from what is asked for (m).
        query: [4] bounds of what is asked for.
    Source: GEOS 3.11 `TemplateSTRtreeImpl::createParentNodes`, `TemplateSTRtreeDistance::nearestNeighbour`.
    """
    count = len(bounds)
    room = 2 * count + 2
    node_bounds, near_m = np.empty((room, 4)), np.empty(room)
    child_begin, child_end = np.zeros(room, dtype=np.int64), np.zeros(room, dtype=np.int64)
    # Position in the tree -> node; children of a node stand side by side.
    order = np.arange(room)
    node_bounds[:count], near_m[:count] = bounds, distances
    begin, end = 0, count
    while end - begin > 1:
        level = end - begin
        slices = math.ceil(math.sqrt(math.ceil(level / _CAPACITY)))
        height = math.ceil(level / slices)
        _sort(order[begin:end], node_bounds, 0)
        parent = end
        for left in range(begin, end, height):
            right = min(left + height, end)
            _sort(order[left:right], node_bounds, 1)
            for low in range(left, right, _CAPACITY):
                high = min(low + _CAPACITY, right)
                child_begin[parent], child_end[parent] = low, high
                for axis in range(2):
                    node_bounds[parent, axis] = node_bounds[order[low:high], axis].min()
                    node_bounds[parent, axis + 2] = node_bounds[order[low:high], axis + 2].max()
                dx = max(0.0, node_bounds[parent, 0] - query[2], query[0] - node_bounds[parent, 2])
                dy = max(0.0, node_bounds[parent, 1] - query[3], query[1] - node_bounds[parent, 3])
                near_m[parent] = math.sqrt(dx * dx + dy * dy)
                parent += 1
        begin, end = end, parent
    heap = np.empty(room, dtype=np.int64)
    heap[0], size = order[begin], 1
    found, found_m = -1, np.inf
    while size > 0 and found_m > 0.0:
        node = heap[0]
        _pop(heap, size, near_m)
        size -= 1
        if found >= 0 and near_m[node] >= found_m:
            break
        if node < count:
            found, found_m = node, near_m[node]
            continue
        for position in range(child_begin[node], child_end[node]):
            child = order[position]
            if found < 0 or near_m[child] < found_m:
                _push(heap, size, child, near_m)
                size += 1
    return found
