"""Which of several equally near things GEOS's search tree finds first.

The official PDM-Closed follows the first of equally near objects that a sort-tile-recursive tree lists, and the
official reactive traffic asks such a tree for the vehicle nearest to another, where all that overlap it are 0 m away.
The answers then hang on how the tree is packed and on how its queue breaks ties: both as in GEOS 3.11, built with
libstdc++ as shapely's wheels are, down to things that stand in the very same place.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from irlvla.simulation.kernels import kernel
from irlvla.types import Array

NODE_CHILDREN = 10
"""How many children a node has at most; shapely's default."""
_FEW = 16
"""Up to so many elements libstdc++ sorts by insertion, which keeps equal ones in their order."""


class _Tree(NamedTuple):
    bounds: Array
    """[N, 4] x min, y min, x max, y max of the nodes; the items come first."""
    order: NDArray[np.int64]
    """[N] node at each position; the children of a node stand side by side."""
    begin: NDArray[np.int64]
    """[N] position of a node's first child; 0 for an item, like the next."""
    end: NDArray[np.int64]
    """[N] past its last."""
    root: int
    """Node."""


@kernel
def _insert(nodes: NDArray[np.int64], keys: Array, begin: int, end: int) -> None:
    for i in range(begin + 1, end):
        node, j = nodes[i], i
        while j > begin and keys[nodes[j - 1]] > keys[node]:
            nodes[j] = nodes[j - 1]
            j -= 1
        nodes[j] = node


@kernel
def _swap(nodes: NDArray[np.int64], i: int, j: int) -> None:
    nodes[i], nodes[j] = nodes[j], nodes[i]


@kernel
def _partition(nodes: NDArray[np.int64], keys: Array, begin: int, end: int) -> int:
    """Split around the median of three, which is moved to the front."""
    a, b, c = begin + 1, begin + (end - begin) // 2, end - 1
    ka, kb, kc = keys[nodes[a]], keys[nodes[b]], keys[nodes[c]]
    if ka < kb:
        median = c if ka < kc else a
        if kb < kc:
            median = b
    else:
        median = c if kb < kc else b
        if ka < kc:
            median = a
    _swap(nodes, begin, median)
    pivot, low, high = keys[nodes[begin]], begin + 1, end
    while True:
        while keys[nodes[low]] < pivot:
            low += 1
        high -= 1
        while pivot < keys[nodes[high]]:
            high -= 1
        if low >= high:
            return low
        _swap(nodes, low, high)
        low += 1


@kernel
def _sort(nodes: NDArray[np.int64], keys: Array) -> None:
    """Sort nodes by their keys, and equal ones as libstdc++'s `std::sort` happens to leave them.

    Its fall-back for input that splits badly again and again is left out.
    """
    stack = [(0, len(nodes))]
    while len(stack) > 0:
        begin, end = stack.pop()
        while end - begin > _FEW:
            cut = _partition(nodes, keys, begin, end)
            stack.append((cut, end))
            end = cut
    _insert(nodes, keys, 0, len(nodes))


@kernel
def _pack(bounds: Array) -> _Tree:
    """Pack items with bounds [K, 4], at least one, into a tree."""
    count = len(bounds)
    # Levels shrink at least by half.
    room = 2 * count + 2
    node_bounds, order = np.empty((room, 4)), np.arange(room)
    child_begin, child_end = np.zeros(room, dtype=np.int64), np.zeros(room, dtype=np.int64)
    node_bounds[:count] = bounds
    begin, end = 0, count
    while end - begin > 1:
        level = end - begin
        slices = math.ceil(math.sqrt(math.ceil(level / NODE_CHILDREN)))
        height = math.ceil(level / slices)
        _sort(order[begin:end], node_bounds[:, 0] + node_bounds[:, 2])
        parent = end
        for left in range(begin, end, height):
            right = min(left + height, end)
            _sort(order[left:right], node_bounds[:, 1] + node_bounds[:, 3])
            for low in range(left, right, NODE_CHILDREN):
                high = min(low + NODE_CHILDREN, right)
                child_begin[parent], child_end[parent] = low, high
                for axis in range(2):
                    node_bounds[parent, axis] = node_bounds[order[low:high], axis].min()
                    node_bounds[parent, axis + 2] = node_bounds[order[low:high], axis + 2].max()
                parent += 1
        begin, end = end, parent
    return _Tree(node_bounds, order, child_begin, child_end, order[begin])


@kernel
def order_in_tree(bounds: Array) -> NDArray[np.int64]:
    """Items in the order in which a tree lists them.

    Args:
        bounds: [K, 4] x min, y min, x max, y max of the items, in the order in which they are put in; at least one.
    Source: GEOS 3.11 `TemplateSTRtreeImpl::createParentNodes`, `TemplateSTRtreeImpl::query`.
    """
    count, tree = len(bounds), _pack(bounds)
    listed, found, open_nodes = np.empty(count, dtype=np.int64), 0, [tree.root]
    while len(open_nodes) > 0:
        node = open_nodes.pop()
        if node < count:
            listed[found] = node
            found += 1
        for position in range(tree.end[node] - 1, tree.begin[node] - 1, -1):
            open_nodes.append(tree.order[position])
    return listed


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
        bounds: [K, 4] x min, y min, x max, y max of the items, in the order in which they are put in; at least one.
        distances: [K] of the items from what is asked for (m).
        query: [4] bounds of what is asked for.
    Source: GEOS 3.11 `TemplateSTRtreeDistance::nearestNeighbour`.
    """
    count, tree = len(bounds), _pack(bounds)
    near_m = np.empty(len(tree.order))
    near_m[:count] = distances
    for node in range(count, len(near_m)):
        dx = max(0.0, tree.bounds[node, 0] - query[2], query[0] - tree.bounds[node, 2])
        dy = max(0.0, tree.bounds[node, 1] - query[3], query[1] - tree.bounds[node, 3])
        near_m[node] = math.sqrt(dx * dx + dy * dy)
    heap = np.empty(len(near_m), dtype=np.int64)
    heap[0], size = tree.root, 1
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
        for position in range(tree.begin[node], tree.end[node]):
            child = tree.order[position]
            if found < 0 or near_m[child] < found_m:
                _push(heap, size, child, near_m)
                size += 1
    return found
