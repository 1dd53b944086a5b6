"""Strips along a lane's center line, as GEOS buffers a line with flat ends, taken apart into convex pieces.

A strip is a quadrangle along every segment of the line and, on the outer side of every turn, a fan of triangles.
Whether two strips touch, and how far apart they are, follows from their pieces; no outline is ever joined, noded or
simplified. What lies between the ends of a strip is the same for every strip along a line, and is laid once.

Source: GEOS `OffsetSegmentGenerator`; the same in 3.11, on which the official devkit runs, and in 3.14.
Differs: GEOS drops some of the vertices that are closer together than 1 % of half the width, and merges corners closer
than 0.01 % of it. Lines that turn more sharply than they are wide within a segment's length are not drawn as precisely.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from irlvla.simulation.kernels import kernel
from irlvla.simulation.polygons import boxes_touch
from irlvla.types import Array

_ARC_STEP_RAD = math.pi / 2 / 16
"""Largest piece of a round corner: 16 to a quarter circle, shapely's default."""
_SHARED_CORNER = 1e-3
"""Sides that end closer to each other than this share of the half width meet in one point, without a round corner."""
_EDGE = 80 / 81
"""Where a segment is cut off, GEOS leaves an edge of its side: from this share of the half width on."""
_ROUNDING_M = 1e-6
"""Slack of bounding circles, far above the rounding of coordinates."""

# Columns of `Lines.vertices`.
X, Y, PROGRESS, HEADING, NORMAL_X, NORMAL_Y, LENGTH, OUTER, FAN = range(9)


class Lines(NamedTuple):
    """Center lines and the width of what drives along them; line i owns the vertices first[i] ... first[i + 1] - 1."""

    first: NDArray[np.int64]
    """[L + 1]"""
    vertices: Array
    """[M, 9] position (m, world), distance along the line (m, strictly increasing), unwrapped heading (rad), unit
    vector to the left and length (m) of the segment that begins here, which side is the outer one of the turn here (1
    left, -1 right, 0 neither), and how many triangles round it off (0 where both segments share a corner)."""
    slot: NDArray[np.int64]
    """[M + 1] the segment that begins at vertex v has the pieces slot[v] ... slot[v + 1] - 1."""
    half_m: Array
    """[L] half the width."""
    longest_m: Array
    """[L] longest segment."""


class Strip(NamedTuple):
    """All within half a width of a line from a to b by way of the vertices start ... stop - 1 of some `Lines`."""

    ax: float
    ay: float
    start: int
    stop: int
    bx: float
    by: float
    half_m: float


class Normal(NamedTuple):
    """Unit vector to the left of a segment, and the segment's length."""

    x: float
    y: float
    length_m: float


class Turn(NamedTuple):
    """How two segments of a strip meet on the inner side of a turn; offsets from their common vertex (m)."""

    from_x: float
    """Where the side of the earlier segment ends."""
    from_y: float
    to_x: float
    """Where the side of the later segment begins."""
    to_y: float
    apex_x: float
    """From where the outer side is rounded off."""
    apex_y: float
    has_edge: bool
    """Where a segment is too short for the sides to meet, GEOS cuts the longer one off where the shorter one begins. It
    may leave an edge of what lies beyond."""
    cut_x: float
    """Corner of the longer segment, where it is cut off."""
    cut_y: float


class Pieces(NamedTuple):
    """Convex pieces of many areas."""

    quads: Array
    """[T, 4, 2] counter-clockwise corners (m, world); a triangle repeats one."""
    circles: Array
    """[T, 3] center and radius of a circle around each (m)."""
    is_laid: NDArray[np.bool_]
    """[M] whether the pieces of the segment that begins at a vertex are there."""


class Areas(NamedTuple):
    """Areas made of pieces, N of them."""

    spans: NDArray[np.int64]
    """[N, 4] pieces from the first up to the second and from the third up to the fourth."""
    hull: Array
    """[N, 3] center and radius of a circle around each (m)."""


def lay_lines(progress_m: Sequence[Array], poses: Sequence[Array], widths_m: Sequence[float]) -> Lines:
    """Lay out center lines for the kernels.

    Args:
        progress_m: Distance [K] along each line, strictly increasing, at least two vertices each.
        poses: [K, 3] x, y (m, world), unwrapped heading (rad) of each line's vertices.
        widths_m: Of what drives along each line.
    """
    counts = [len(line) for line in progress_m]
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    half_m, longest_m = np.array(widths_m, dtype=np.float64) / 2, np.zeros(len(counts))
    vertices = np.zeros((first[-1], 9))
    for line, (begin, end) in enumerate(itertools.pairwise(first)):
        of_line = vertices[begin:end]
        of_line[:, [X, Y, HEADING]], of_line[:, PROGRESS] = poses[line], progress_m[line]
        step = np.diff(of_line[:, [X, Y]], axis=0)
        length_m = np.sqrt(step[:, 0] ** 2 + step[:, 1] ** 2)
        longest_m[line] = length_m.max()
        normal = np.stack([-step[:, 1], step[:, 0]], axis=1) / length_m[:, None]
        of_line[:-1, NORMAL_X : NORMAL_Y + 1], of_line[:-1, LENGTH] = normal, length_m
        before, after = normal[:-1], normal[1:]
        cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
        along = (before * after).sum(axis=1)
        # A turn to the right opens the left side.
        of_line[1:-1, OUTER] = -np.sign(cross)
        arcs = np.maximum(np.floor(np.arctan2(np.abs(cross), along) / _ARC_STEP_RAD + 0.5), 1.0)
        is_shared = (np.hypot(*(after - before).T) < _SHARED_CORNER) | (cross == 0.0)
        of_line[1:-1, FAN] = np.where(is_shared, 0.0, arcs)
    lines = Lines(first, vertices, np.zeros(len(vertices) + 1, dtype=np.int64), half_m, longest_m)
    _fill_slots(lines)
    return lines


@kernel
def pieces_for(lines: Lines, more: int) -> Pieces:
    """Room for the pieces of all lines, and after them for `more`."""
    room = lines.slot[-1] + more
    return Pieces(np.empty((room, 4, 2)), np.empty((room, 3)), np.zeros(len(lines.vertices), dtype=np.bool_))


@kernel
def most_pieces(lines: Lines, segments: int) -> int:
    """How many pieces that many segments can have."""
    most = 0
    for vertex in range(len(lines.vertices)):
        most = max(most, int(lines.vertices[vertex, FAN]))
    return segments * (most + 2)


@kernel
def _first_beyond(lines: Lines, line: int, progress_m: float) -> int:
    """First vertex of a line further along than a progress; one past its last where there is none."""
    low, high = lines.first[line], lines.first[line + 1]
    while low < high:
        middle = (low + high) // 2
        if lines.vertices[middle, PROGRESS] > progress_m:
            high = middle
        else:
            low = middle + 1
    return low


@kernel
def pose_at(lines: Lines, line: int, progress_m: float) -> tuple[float, float, float]:
    """x, y (m, world), heading (rad, in [-pi, pi)) at a progress along a line; held at both ends."""
    first, last = lines.first[line], lines.first[line + 1] - 1
    progress_m = max(lines.vertices[first, PROGRESS], min(progress_m, lines.vertices[last, PROGRESS]))
    after = _first_beyond(lines, line, progress_m)
    if lines.vertices[after - 1, PROGRESS] == progress_m:
        after -= 1
    after = min(max(after, first + 1), last)
    run = progress_m - lines.vertices[after - 1, PROGRESS]
    span = lines.vertices[after, PROGRESS] - lines.vertices[after - 1, PROGRESS]
    x, y, heading = lines.vertices[after - 1, X], lines.vertices[after - 1, Y], lines.vertices[after - 1, HEADING]
    x = (lines.vertices[after, X] - x) / span * run + x
    y = (lines.vertices[after, Y] - y) / span * run + y
    heading = (lines.vertices[after, HEADING] - heading) / span * run + heading
    return x, y, (heading + math.pi) % (2 * math.pi) - math.pi


@kernel
def _along_segment(lines: Lines, vertex: int, half_m: float) -> Strip:
    a, b = lines.vertices[vertex], lines.vertices[vertex + 1]
    return Strip(a[X], a[Y], vertex + 1, vertex + 1, b[X], b[Y], half_m)


@kernel
def strip_between(lines: Lines, line: int, begin_m: float, end_m: float) -> Strip:
    """The strip between two progresses along a line; of its outermost segment where both lie off one end."""
    first, last, half_m = lines.first[line], lines.first[line + 1] - 1, lines.half_m[line]
    nearest_m, furthest_m = lines.vertices[first, PROGRESS], lines.vertices[last, PROGRESS]
    begin_m = max(nearest_m, min(begin_m, furthest_m))
    end_m = max(nearest_m, min(end_m, furthest_m))
    if begin_m == furthest_m:
        return _along_segment(lines, last - 1, half_m)
    if end_m == nearest_m:
        return _along_segment(lines, first, half_m)
    start, stop = _first_beyond(lines, line, begin_m), _first_beyond(lines, line, end_m)
    if lines.vertices[stop - 1, PROGRESS] == end_m:
        stop -= 1
    ax, ay, _ = pose_at(lines, line, begin_m)
    bx, by, _ = pose_at(lines, line, end_m)
    # Progress may differ where positions, far from the origin, round to one.
    if start < stop and ax == lines.vertices[start, X] and ay == lines.vertices[start, Y]:
        start += 1
    if start < stop and bx == lines.vertices[stop - 1, X] and by == lines.vertices[stop - 1, Y]:
        stop -= 1
    return Strip(ax, ay, start, stop, bx, by, half_m)


@kernel
def _segment_count(strip: Strip) -> int:
    return strip.stop - strip.start + 1


@kernel
def _vertex(lines: Lines, strip: Strip, index: int) -> tuple[float, float]:
    if index == 0:
        return strip.ax, strip.ay
    if index == _segment_count(strip):
        return strip.bx, strip.by
    return lines.vertices[strip.start + index - 1, X], lines.vertices[strip.start + index - 1, Y]


@kernel
def _kept_normal(lines: Lines, vertex: int) -> Normal:
    """Of the segment that begins at a vertex."""
    return Normal(lines.vertices[vertex, NORMAL_X], lines.vertices[vertex, NORMAL_Y], lines.vertices[vertex, LENGTH])


@kernel
def _normal(lines: Lines, strip: Strip, segment: int) -> Normal:
    if 0 < segment < _segment_count(strip) - 1:
        return _kept_normal(lines, strip.start + segment - 1)
    # A cut-off segment may be so short that rounding turns it: GEOS sees the turned one.
    ax, ay = _vertex(lines, strip, segment)
    bx, by = _vertex(lines, strip, segment + 1)
    length_m = math.sqrt((bx - ax) * (bx - ax) + (by - ay) * (by - ay))
    return Normal(-(by - ay) / length_m, (bx - ax) / length_m, length_m)


@kernel
def _enclose(pieces: Pieces, at: int) -> None:
    quad = pieces.quads[at]
    x = 0.25 * (quad[0, 0] + quad[1, 0] + quad[2, 0] + quad[3, 0])
    y = 0.25 * (quad[0, 1] + quad[1, 1] + quad[2, 1] + quad[3, 1])
    reach2 = 0.0
    for corner in range(4):
        dx, dy = quad[corner, 0] - x, quad[corner, 1] - y
        reach2 = max(reach2, dx * dx + dy * dy)
    pieces.circles[at, 0], pieces.circles[at, 1] = x, y
    pieces.circles[at, 2] = math.sqrt(reach2) + _ROUNDING_M


@kernel
def write_box(corners: Array, x: float, y: float, heading: float, length_m: float, width_m: float) -> None:
    """Corners [4, 2] of a box given its center, as `irlvla.geometry.box_corners` orders and rounds them."""
    cos, sin = math.cos(heading), math.sin(heading)
    for corner in range(4):
        ahead = length_m / 2 if corner in (0, 3) else -length_m / 2
        aside = width_m / 2 if corner in (0, 1) else -width_m / 2
        corners[corner, 0] = x + ahead * cos - aside * sin
        corners[corner, 1] = y + ahead * sin + aside * cos


@kernel
def lay_box(pieces: Pieces, at: int, x: float, y: float, heading: float, length_m: float, width_m: float) -> None:
    """Lay a piece that is a box, given its center."""
    write_box(pieces.quads[at], x, y, heading, length_m, width_m)
    _enclose(pieces, at)


@kernel
def _write(
    pieces: Pieces, at: int, ax: float, ay: float, bx: float, by: float, cx: float, cy: float, dx: float, dy: float
) -> None:
    """Lay a convex piece, given its corners in either direction."""
    quad = pieces.quads[at]
    quad[0, 0], quad[0, 1], quad[2, 0], quad[2, 1] = ax, ay, cx, cy
    turns_left = (cx - ax) * (dy - by) - (cy - ay) * (dx - bx) > 0.0
    second, fourth = (1, 3) if turns_left else (3, 1)
    quad[second, 0], quad[second, 1], quad[fourth, 0], quad[fourth, 1] = bx, by, dx, dy
    _enclose(pieces, at)


@kernel
def _turn(lines: Lines, vertex: int, before: Normal, here: Normal, half_m: float) -> Turn:
    """How the segments before and after a vertex meet there."""
    side_m = -lines.vertices[vertex, OUTER] * half_m
    along = before.x * here.x + before.y * here.y
    across = half_m * abs(before.x * here.y - before.y * here.x)
    from_x, from_y, to_x, to_y = side_m * before.x, side_m * before.y, side_m * here.x, side_m * here.y
    if across <= min(before.length_m, here.length_m) * (1.0 + along):
        x, y = (from_x + to_x) / (1.0 + along), (from_y + to_y) / (1.0 + along)
        return Turn(x, y, x, y, x, y, False, 0.0, 0.0)
    if across > along * max(before.length_m, here.length_m):
        return Turn(from_x, from_y, to_x, to_y, 0.0, 0.0, False, 0.0, 0.0)
    has_edge = lines.vertices[vertex, FAN] > 0.0
    if here.length_m > before.length_m:
        x, y = from_x / along, from_y / along
        return Turn(from_x, from_y, x, y, x, y, has_edge, to_x, to_y)
    x, y = to_x / along, to_y / along
    return Turn(x, y, to_x, to_y, x, y, has_edge, from_x, from_y)


@kernel
def _fill_slots(lines: Lines) -> None:
    for line in range(len(lines.half_m)):
        first, last = lines.first[line], lines.first[line + 1] - 1
        for vertex in range(first, last + 1):
            room = 1
            if first < vertex < last and lines.vertices[vertex, OUTER] != 0.0:
                before, here = _kept_normal(lines, vertex - 1), _kept_normal(lines, vertex)
                room += int(lines.vertices[vertex, FAN])
                room += _turn(lines, vertex, before, here, lines.half_m[line]).has_edge
            lines.slot[vertex + 1] = lines.slot[vertex] + room


@kernel
def _lay_turn(
    x: float, y: float, lines: Lines, vertex: int, before: Normal, here: Normal, turn: Turn, half_m: float,
    pieces: Pieces, at: int,
) -> int:  # fmt: skip
    """Lay what the segments before and after a vertex leave open between them."""
    triangles, side_m = int(lines.vertices[vertex, FAN]), lines.vertices[vertex, OUTER] * half_m
    begin, sweep = 0.0, 0.0
    if triangles > 1:
        begin = math.atan2(before.y, before.x)
        sweep = math.atan2(before.x * here.y - before.y * here.x, before.x * here.x + before.y * here.y)
    old_x, old_y = x + side_m * before.x, y + side_m * before.y
    for step in range(1, triangles + 1):
        new_x, new_y = x + side_m * here.x, y + side_m * here.y
        if step < triangles:
            angle = begin + sweep * step / triangles
            new_x, new_y = x + side_m * math.cos(angle), y + side_m * math.sin(angle)
        _write(pieces, at, x + turn.apex_x, y + turn.apex_y, old_x, old_y, new_x, new_y, new_x, new_y)
        old_x, old_y = new_x, new_y
        at += 1
    if turn.has_edge:
        kept_x, kept_y = turn.from_x + turn.to_x - turn.apex_x, turn.from_y + turn.to_y - turn.apex_y
        _write(
            pieces, at,
            x + turn.apex_x, y + turn.apex_y,
            x + turn.cut_x, y + turn.cut_y,
            x + _EDGE * turn.cut_x, y + _EDGE * turn.cut_y,
            x + _EDGE * kept_x, y + _EDGE * kept_y,
        )  # fmt: skip
        at += 1
    return at


@kernel
def _lay_segment(lines: Lines, strip: Strip, segment: int, pieces: Pieces, at: int) -> int:
    """Lay one segment of a strip, and the turn where it begins; says where its pieces end."""
    ax, ay = _vertex(lines, strip, segment)
    bx, by = _vertex(lines, strip, segment + 1)
    half, here = strip.half_m, _normal(lines, strip, segment)
    side_x, side_y = half * here.x, half * here.y
    left_ax, left_ay, left_bx, left_by = ax + side_x, ay + side_y, bx + side_x, by + side_y
    right_ax, right_ay, right_bx, right_by = ax - side_x, ay - side_y, bx - side_x, by - side_y
    vertex = strip.start + segment - 1
    if segment > 0 and lines.vertices[vertex, OUTER] != 0.0:
        before = _normal(lines, strip, segment - 1)
        turn = _turn(lines, vertex, before, here, half)
        at = _lay_turn(ax, ay, lines, vertex, before, here, turn, half, pieces, at)
        if lines.vertices[vertex, OUTER] > 0.0:
            right_ax, right_ay = ax + turn.to_x, ay + turn.to_y
            # GEOS walks the left side forwards and the right side backwards, and keeps whichever corner comes first.
            if lines.vertices[vertex, FAN] == 0.0:
                left_ax, left_ay = ax + half * before.x, ay + half * before.y
        else:
            left_ax, left_ay = ax + turn.to_x, ay + turn.to_y
    vertex += 1
    if segment + 1 < _segment_count(strip) and lines.vertices[vertex, OUTER] != 0.0:
        after = _normal(lines, strip, segment + 1)
        turn = _turn(lines, vertex, here, after, half)
        if lines.vertices[vertex, OUTER] > 0.0:
            right_bx, right_by = bx + turn.from_x, by + turn.from_y
        else:
            left_bx, left_by = bx + turn.from_x, by + turn.from_y
            if lines.vertices[vertex, FAN] == 0.0:
                right_bx, right_by = bx - half * after.x, by - half * after.y
    _write(pieces, at, right_ax, right_ay, right_bx, right_by, left_bx, left_by, left_ax, left_ay)
    return at + 1


@kernel
def _lay_kept(lines: Lines, line: int, vertex: int, pieces: Pieces) -> None:
    """Lay the segment that begins at a vertex, as every strip has it that neither begins nor ends near."""
    first, last = lines.first[line], lines.first[line + 1] - 1
    a, b = lines.vertices[first], lines.vertices[last]
    whole = Strip(a[X], a[Y], first + 1, last, b[X], b[Y], lines.half_m[line])
    _lay_segment(lines, whole, vertex - first, pieces, lines.slot[vertex])
    pieces.is_laid[vertex] = True


@kernel
def lay_strip(lines: Lines, line: int, strip: Strip, pieces: Pieces, areas: Areas, area: int) -> None:
    """Add a strip along a line to an area that has its first span only."""
    count, at = _segment_count(strip), areas.spans[area, 1]
    for segment in range(count):
        # The lengths of the outermost segments bear on how the next ones end.
        if segment < 2 or segment >= count - 2:
            at = _lay_segment(lines, strip, segment, pieces, at)
    areas.spans[area, 1] = at
    if count > 4:
        first, past = strip.start + 1, strip.start + count - 3
        for vertex in range(first, past):
            if not pieces.is_laid[vertex]:
                _lay_kept(lines, line, vertex, pieces)
        areas.spans[area, 2], areas.spans[area, 3] = lines.slot[first], lines.slot[past]


@kernel
def enclose(x: float, y: float, radius_m: float, strip: Strip, length_m: float, hull: Array) -> None:
    """Circle [3] around a circle and a strip that is at most `length_m` long."""
    hull[0], hull[1] = (strip.ax + strip.bx) / 2, (strip.ay + strip.by) / 2
    dx, dy = x - hull[0], y - hull[1]
    # No point of a line is further than half its length from the middle between its ends.
    hull[2] = max(length_m / 2 + strip.half_m, math.sqrt(dx * dx + dy * dy) + radius_m) + _ROUNDING_M


@kernel
def _depth_m(quads: Array, a: int, b: int) -> float:
    """How deep (m) quadrangle b reaches over the side of quadrangle a that it reaches over least; below 0 if clear."""
    least = np.inf
    for i in range(4):
        j = (i + 1) & 3
        x, y = quads[a, i, 0], quads[a, i, 1]
        dx, dy = quads[a, j, 0] - x, quads[a, j, 1] - y
        length2 = dx * dx + dy * dy
        if length2 == 0.0:
            continue
        deepest = -np.inf
        for k in range(4):
            deepest = max(deepest, dx * (quads[b, k, 1] - y) - dy * (quads[b, k, 0] - x))
        least = min(least, deepest / math.sqrt(length2))
    return least


@kernel
def _quads_touch(quads: Array, a: int, b: int) -> bool:
    """Whether two quadrangles share a point."""
    depth_m = _depth_m(quads, a, b)
    if depth_m < -_ROUNDING_M:
        return False
    depth_m = min(depth_m, _depth_m(quads, b, a))
    if abs(depth_m) > _ROUNDING_M:
        return depth_m > 0.0
    return boxes_touch(quads[a], quads[b])


@kernel
def _nearest_corner2(quads: Array, a: int, b: int) -> float:
    """Square of the distance (m) from the sides of quadrangle a to the nearest corner of b."""
    nearest2 = np.inf
    for i in range(4):
        j = (i + 1) & 3
        ax, ay = quads[a, i, 0], quads[a, i, 1]
        dx, dy = quads[a, j, 0] - ax, quads[a, j, 1] - ay
        length2 = dx * dx + dy * dy
        for k in range(4):
            x, y = quads[b, k, 0] - ax, quads[b, k, 1] - ay
            along = x * dx + y * dy
            if along <= 0.0 or length2 == 0.0:
                nearest2 = min(nearest2, x * x + y * y)
            elif along >= length2:
                nearest2 = min(nearest2, (x - dx) * (x - dx) + (y - dy) * (y - dy))
            else:
                across = dx * y - dy * x
                nearest2 = min(nearest2, across * across / length2)
    return nearest2


@kernel
def _touch(quads: Array, circles: Array, begin: int, end: int, spans: Array, hull: Array) -> bool:
    """Whether some piece from `begin` up to `end` shares a point with an area of given spans [4] and hull [3]."""
    for piece in range(begin, end):
        x, y, reach = circles[piece, 0], circles[piece, 1], circles[piece, 2]
        dx, dy, limit = hull[0] - x, hull[1] - y, hull[2] + reach
        if dx * dx + dy * dy > limit * limit:
            continue
        for span in range(0, 4, 2):
            for other in range(spans[span], spans[span + 1]):
                dx, dy = circles[other, 0] - x, circles[other, 1] - y
                limit = circles[other, 2] + reach
                if dx * dx + dy * dy <= limit * limit and _quads_touch(quads, piece, other):
                    return True
    return False


@kernel
def area_distance(pieces: Pieces, areas: Areas, a: int, b: int, limit_m: float) -> float:
    """Distance (m) between two areas, 0 where they share a point; infinite where they are more than `limit_m` apart."""
    circles, quads, spans, hull = pieces.circles, pieces.quads, areas.spans, areas.hull
    nearest, is_within = limit_m, False
    for span in range(0, 4, 2):
        # The far end of a strip is laid last, and it is what comes nearest to a vehicle ahead.
        for piece in range(spans[a, span + 1] - 1, spans[a, span] - 1, -1):
            x, y, reach = circles[piece, 0], circles[piece, 1], circles[piece, 2]
            dx, dy, limit = hull[b, 0] - x, hull[b, 1] - y, hull[b, 2] + reach + nearest
            if dx * dx + dy * dy > limit * limit:
                continue
            for other_span in range(0, 4, 2):
                for other in range(spans[b, other_span], spans[b, other_span + 1]):
                    dx, dy = circles[other, 0] - x, circles[other, 1] - y
                    limit = circles[other, 2] + reach + nearest
                    if dx * dx + dy * dy > limit * limit:
                        continue
                    if _quads_touch(quads, piece, other):
                        return 0.0
                    square = min(_nearest_corner2(quads, piece, other), _nearest_corner2(quads, other, piece))
                    if math.sqrt(square) <= nearest:
                        nearest, is_within = math.sqrt(square), True
    return nearest if is_within else np.inf


@kernel
def area_bounds(pieces: Pieces, areas: Areas, area: int, bounds: Array) -> None:
    """x min, y min, x max, y max of an area, into [4]."""
    bounds[:2], bounds[2:] = np.inf, -np.inf
    for span in range(0, 4, 2):
        for piece in range(areas.spans[area, span], areas.spans[area, span + 1]):
            for corner in range(4):
                x, y = pieces.quads[piece, corner, 0], pieces.quads[piece, corner, 1]
                bounds[0], bounds[1] = min(bounds[0], x), min(bounds[1], y)
                bounds[2], bounds[3] = max(bounds[2], x), max(bounds[3], y)


class Reach(NamedTuple):
    """The strip along the rest of a line, as it is laid: its first two segments by themselves."""

    line: int
    x: float
    """Where the strip begins (m, world)."""
    y: float
    next_vertex: int
    """Where its third segment begins."""
    begin: int
    """First piece of the first two segments."""
    end: int
    """Past their last."""


@kernel
def lay_reach(lines: Lines, line: int, progress_m: float, pieces: Pieces, at: int) -> Reach:
    """Lay the beginning of the strip along the rest of a line."""
    last = lines.first[line + 1] - 1
    strip = strip_between(lines, line, progress_m, lines.vertices[last, PROGRESS])
    end = at
    for segment in range(min(2, _segment_count(strip))):
        end = _lay_segment(lines, strip, segment, pieces, end)
    return Reach(line, strip.ax, strip.ay, strip.start + 1, at, end)


@kernel
def past_end(lines: Lines, reach: Reach) -> int:
    """What `segment_near` says, or more, where nothing is near."""
    # The rest may be a single segment.
    return max(lines.first[reach.line + 1] - 1, reach.next_vertex)


@kernel
def segment_near(lines: Lines, reach: Reach, vertex: int, hull: Array) -> int:
    """First vertex of the rest of a line, from a given one on, near which something within a circle [3] may be.

    `reach.next_vertex - 1` stands for where the rest begins.
    """
    vertices, last, longest_m = lines.vertices, lines.first[reach.line + 1] - 1, lines.longest_m[reach.line]
    x, y, slack_m = hull[0], hull[1], hull[2] + lines.half_m[reach.line] + _ROUNDING_M
    if vertex < reach.next_vertex:
        dx, dy = reach.x - x, reach.y - y
        clear_m = math.sqrt(dx * dx + dy * dy) - slack_m
        if clear_m <= 2 * longest_m:
            return vertex
        # The first segment may be short.
        vertex += int(clear_m / longest_m) - 1
    while vertex < last:
        dx, dy = vertices[vertex, X] - x, vertices[vertex, Y] - y
        clear_m = math.sqrt(dx * dx + dy * dy) - slack_m
        if clear_m <= longest_m:
            return vertex
        # Whatever lies closer along the line than the circle is clear of it as well.
        vertex += int(clear_m / longest_m)
    return max(vertex, reach.next_vertex)


@kernel
def reach_touches(lines: Lines, reach: Reach, vertex: int, pieces: Pieces, areas: Areas, area: int) -> bool:
    """Whether the strip along the rest of a line, from a vertex of `segment_near` on, shares a point with an area."""
    past = past_end(lines, reach)
    while vertex < past:
        begin, end = reach.begin, reach.end
        if vertex >= reach.next_vertex:
            if not pieces.is_laid[vertex]:
                _lay_kept(lines, reach.line, vertex, pieces)
            begin, end = lines.slot[vertex], lines.slot[vertex + 1]
        if _touch(pieces.quads, pieces.circles, begin, end, areas.spans[area], areas.hull[area]):
            return True
        vertex = segment_near(lines, reach, vertex + 1, areas.hull[area])
    return False
