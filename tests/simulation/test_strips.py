"""Strips in pieces against the outlines that GEOS draws."""

import numpy as np
import pytest
import shapely
from streets import FAR, winding_line

from irlvla.simulation.strips import (
    Areas,
    Lines,
    Pieces,
    area_bounds,
    area_distance,
    enclose,
    lay_box,
    lay_lines,
    lay_reach,
    lay_strip,
    most_pieces,
    past_end,
    pieces_for,
    pose_at,
    reach_touches,
    segment_near,
    strip_between,
)
from irlvla.types import Array


def lines_of(vertices: list[Array], widths_m: list[float]) -> Lines:
    progress_m, poses = [], []
    for points in vertices:
        steps = np.diff(points, axis=0)
        heading = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        progress_m.append(np.concatenate([[0.0], np.cumsum(np.hypot(*steps.T))]))
        poses.append(np.column_stack([points, np.append(heading, heading[-1])]))
    return lay_lines(progress_m, poses, widths_m)


def outline(lines: Lines, line: int, begin_m: float, end_m: float) -> shapely.Geometry:
    """The strip between two progresses as GEOS buffers it."""
    own = lines.vertices[lines.first[line] : lines.first[line + 1]]
    between = own[(own[:, 2] > begin_m) & (own[:, 2] < end_m), :2]
    ends = [pose_at(lines, line, at_m)[:2] for at_m in (begin_m, end_m)]
    return shapely.LineString([ends[0], *between, ends[1]]).buffer(lines.half_m[line], cap_style="flat")


def laid(lines: Lines, spans_m: list[tuple[float, float]]) -> tuple[Pieces, Areas]:
    """One strip along each line."""
    room = most_pieces(lines, 4) + 1
    pieces = pieces_for(lines, (len(spans_m) + 1) * room)
    areas = Areas(np.zeros((len(spans_m), 4), dtype=np.int64), np.zeros((len(spans_m), 3)))
    for area, (begin_m, end_m) in enumerate(spans_m):
        at = lines.slot[-1] + area * room
        areas.spans[area] = at, at, 0, 0
        strip = strip_between(lines, area, begin_m, end_m)
        lay_strip(lines, area, strip, pieces, areas, area)
        longest_m = max(end_m - begin_m, lines.longest_m[area])
        enclose(strip.ax, strip.ay, 0.0, strip, longest_m, areas.hull[area])
    return pieces, areas


def polygons_of(pieces: Pieces, areas: Areas, area: int) -> list[shapely.Polygon]:
    spans = areas.spans[area]
    return [shapely.Polygon(pieces.quads[i]) for i in (*range(*spans[:2]), *range(*spans[2:]))]


def random_pair(seed: int) -> tuple[Lines, list[tuple[float, float]]]:
    rng = np.random.default_rng(seed)
    lines = lines_of([winding_line(rng), winding_line(rng)], rng.uniform(1.5, 2.6, 2).tolist())
    spans = []
    for line in range(2):
        end_m = lines.vertices[lines.first[line + 1] - 1, 2]
        begin_m = rng.uniform(0.0, end_m - 3.0)
        spans.append((begin_m, min(begin_m + rng.uniform(2.0, 25.0), end_m)))
    return lines, spans


@pytest.mark.parametrize("seed", range(60))
def test_pieces_cover_what_geos_outlines_and_nothing_else(seed: int) -> None:
    lines, spans = random_pair(seed)
    pieces, areas = laid(lines, spans)
    for area, span in enumerate(spans):
        drawn = outline(lines, area, *span)
        parts = polygons_of(pieces, areas, area)
        assert max(part.difference(drawn.buffer(1e-6)).area for part in parts) < 1e-9
        covered = shapely.union_all([part.buffer(1e-6, join_style="mitre") for part in parts])
        assert drawn.difference(covered).area < 1e-9
        bounds = np.empty(4)
        area_bounds(pieces, areas, area, bounds)
        np.testing.assert_allclose(bounds, drawn.bounds, atol=1e-8)
        assert drawn.within(shapely.Point(areas.hull[area, :2]).buffer(areas.hull[area, 2] * 1.01))


def test_distances_are_those_between_the_outlines() -> None:
    touching = 0
    for seed in range(200):
        lines, spans = random_pair(seed)
        pieces, areas = laid(lines, spans)
        theirs = outline(lines, 0, *spans[0]).distance(outline(lines, 1, *spans[1]))
        assert area_distance(pieces, areas, 0, 1, np.inf) == pytest.approx(theirs, abs=1e-8), f"seed {seed}"
        if theirs > 0.0:
            assert area_distance(pieces, areas, 0, 1, 0.99 * theirs) == np.inf
        touching += theirs == 0.0
    assert 5 < touching < 100


def test_the_rest_of_a_line_touches_what_its_outline_touches() -> None:
    touching = 0
    for seed in range(200):
        lines, spans = random_pair(seed)
        pieces, areas = laid(lines, spans)
        end_m = lines.vertices[lines.first[1] - 1, 2]
        reach = lay_reach(lines, 0, spans[0][0], pieces, lines.slot[-1] + 2 * (most_pieces(lines, 4) + 1))
        nearest = segment_near(lines, reach, reach.next_vertex - 1, areas.hull[1])
        ours = nearest < past_end(lines, reach) and reach_touches(lines, reach, nearest, pieces, areas, 1)
        theirs = outline(lines, 0, spans[0][0], end_m).intersects(outline(lines, 1, *spans[1]))
        assert ours == theirs, f"seed {seed}"
        touching += theirs
    assert 5 < touching < 195


@pytest.mark.parametrize(
    ("turn", "length_m"),
    [
        (6e-4, 4e-4),
        (0.05, 0.004),
        (0.05, 0.02),
        (0.05, 0.3),
        (0.3, 0.02),
        (0.3, 0.1),
        (0.3, 0.3),
        (0.9, 0.3),
        (0.9, 0.6),
    ],
)
def test_the_end_of_a_strip_right_after_a_bend_is_cut_as_geos_cuts_it(turn: float, length_m: float) -> None:
    last = np.array([6.0 + length_m * np.cos(turn), length_m * np.sin(turn)])
    for side in (1.0, -1.0):
        points = np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0], [6.0, 0.0], last]) * [1.0, side] + FAR
        for vertices in (points, points[::-1]):
            lines = lines_of([vertices], [2.0])
            span = (0.0, float(lines.vertices[-1, 2]))
            pieces, areas = laid(lines, [span])
            parts, drawn = polygons_of(pieces, areas, 0), outline(lines, 0, *span)
            assert max(part.difference(drawn.buffer(1e-6)).area for part in parts) < 1e-9
            covered = shapely.union_all([part.buffer(1e-6, join_style="mitre") for part in parts])
            assert drawn.difference(covered).area < 1e-9


def test_both_ends_off_one_end_of_the_line_leave_its_outermost_segment() -> None:
    lines = lines_of([np.array([[0.0, 0.0], [3.0, 0.0], [6.0, 0.0]])], [2.0])
    for begin_m, end_m, expected in ((7.0, 9.0, (3.0, 6.0)), (-5.0, -1.0, (0.0, 3.0)), (6.0, 6.0, (3.0, 6.0))):
        strip = strip_between(lines, 0, begin_m, end_m)
        assert (strip.ax, strip.bx) == expected


def test_a_box_far_away_is_never_near_the_line() -> None:
    lines = lines_of([np.stack([np.arange(100.0), np.zeros(100)], axis=1)], [2.0])
    pieces = pieces_for(lines, most_pieces(lines, 4) + 1)
    areas = Areas(np.zeros((1, 4), dtype=np.int64), np.zeros((1, 3)))
    lay_box(pieces, lines.slot[-1], 50.0, 30.0, 0.3, 4.0, 2.0)
    areas.hull[0] = pieces.circles[lines.slot[-1]]
    reach = lay_reach(lines, 0, 2.5, pieces, lines.slot[-1] + 1)
    assert segment_near(lines, reach, reach.next_vertex - 1, areas.hull[0]) >= past_end(lines, reach)
