"""The street from above as an SVG picture: map, lights, objects, the ego vehicle and plans, with legend and scale."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from irlvla.data.maps import CityMap
from irlvla.evaluation.draw import OBJECT_COLOURS, DrawnPlan
from irlvla.geometry import box_corners, ego_boxes
from irlvla.types import OBJECT_TYPES, PLAN_POSES, Boxes, Scene

Array = NDArray[np.float64]

AHEAD_M = 56.0
BEHIND_M = 16.0
ASIDE_M = 30.0
UNITS_PER_M = 20
"""Coordinates are whole twentieths of a metre, which keeps the file small and edges crisp."""
SCALE_BAR_M = 10

STYLE = {
    "ground": "#eef0f2",
    "road": "#d3d7dd",
    "walkway": "#e3e0d8",
    "line": "#ffffff",
    "route": "#bcd3ee",
    "crosswalk": "#ffffff",
    "red": "#e5484d",
    "ink": "#20242b",
}
"""Colours by the name of a CSS variable `--bev-NAME`, with which a page may replace them (in the dark, say)."""


_RED_TINT = "#dba2a8"


def draw_birds_eye(
    scene: Scene,
    city: CityMap,
    plans: Sequence[DrawnPlan] = (),
    *,
    zoom: float | None = None,
) -> str:
    """A scene at t=0 from above, driving direction upwards.

    Args:
        scene: Its current frame gives objects, red lights and the ego pose.
        city: Map of the scene's city.
        plans: Drawn in this order, so the last lies on top; a dot every 0.5 s.
        zoom: 1 shows AHEAD_M in front of the rear axle, BEHIND_M behind it and ASIDE_M to either side, 2 twice as
            much of each; chosen so that all plans are in the picture if left out.
    Returns:
        One `<svg>` element that needs nothing from outside.
    """
    if zoom is None:
        zoom = max([1.0, *(_needed_zoom(plan.poses) for plan in plans)])
    ahead_m, behind_m, aside_m = zoom * AHEAD_M, zoom * BEHIND_M, zoom * ASIDE_M
    view = shapely.box(-behind_m, -aside_m, ahead_m, aside_m)
    street = _Street(city, scene.now.ego_pose_world, view)
    reds = [int(connector) for connector, is_red in scene.now.traffic_lights if is_red]
    route = [lane for block in scene.now.roadblock_ids if block.isdigit() for lane in city.lanes_of(int(block))]
    parts = [
        _paths("walkway", street.geometries(city.walkways.geometries)),
        _paths("road", street.geometries(city.car_parks.geometries)),
        _paths("road", street.geometries(city.generic_drivable_areas.geometries)),
        _paths("road", street.geometries(city.roadblocks.geometries)),
        _paths("road", street.geometries(city.intersections.geometries)),
        _paths("road", street.geometries(list(city.connector_polygons.values()))),
        _paths("route", street.geometries([city.lane_polygon(lane) for lane in route if city.has_lane(lane)])),
        _lines("line", street.geometries(shapely.boundary(city.lanes.geometries)), width_m=0.18),
        _crosswalks(street.geometries(city.crosswalks.geometries)),
        _lines("line", street.geometries(list(city.baselines.values())), width_m=0.12, dashes_m=(0.8, 1.6)),
        _paths(
            "red", street.geometries([city.connector_polygons[c] for c in reds if c in city.connector_polygons]), 0.35
        ),
        *_objects(scene.now.boxes, view),
        _ego(),
        *(_plan(plan, rank=len(plans) - 1 - index) for index, plan in enumerate(plans)),
        f'<g transform="scale({zoom:.3f})">{_legend(plans)}{_scale_bar(zoom)}</g>',
    ]
    left, top = round(-aside_m * UNITS_PER_M), round(-ahead_m * UNITS_PER_M)
    width, height = round(2 * aside_m * UNITS_PER_M), round((ahead_m + behind_m) * UNITS_PER_M)
    frame = f'<rect x="{left}" y="{top}" width="{width}" height="{height}" style="fill:{_colour("ground")}"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="bev" viewBox="{left} {top} {width} {height}" role="img" '
        f'aria-label="Scene {escape(scene.token)} from above" font-family="system-ui, sans-serif">'
        f"{frame}{''.join(parts)}</svg>"
    )


def paint_birds_eye(
    scene: Scene, city: CityMap, plans: Sequence[DrawnPlan] = (), *, width_px: int = 300
) -> NDArray[np.uint8]:
    """The same view at zoom 1 as an RGB picture [6/5 width_px, width_px, 3], without legend and scale."""
    import cv2

    view = shapely.box(-BEHIND_M, -ASIDE_M, AHEAD_M, ASIDE_M)
    street = _Street(city, scene.now.ego_pose_world, view)
    scale = width_px / (2 * ASIDE_M)
    picture = np.empty((round((AHEAD_M + BEHIND_M) * scale), width_px, 3), dtype=np.uint8)
    picture[:] = _rgb(STYLE["ground"])

    def pixels(xy_ego: Array) -> NDArray[np.int32]:
        return np.round(16 * scale * ([ASIDE_M, AHEAD_M] - np.asarray(xy_ego)[:, 1::-1])).astype(np.int32)

    def fill(geometries: Iterable[Any], colour: str) -> None:
        for polygon in _polygons(geometries):
            rings = [pixels(shapely.get_coordinates(ring)) for ring in (polygon.exterior, *polygon.interiors)]
            cv2.fillPoly(picture, rings, _rgb(colour), cv2.LINE_AA, shift=4)

    def stroke(xy_ego: Array, colour: str, width_m: float) -> None:
        thickness = max(1, round(width_m * scale))
        cv2.polylines(picture, [pixels(xy_ego)], False, _rgb(colour), thickness, cv2.LINE_AA, shift=4)

    reds = [int(connector) for connector, is_red in scene.now.traffic_lights if is_red]
    route = [lane for block in scene.now.roadblock_ids if block.isdigit() for lane in city.lanes_of(int(block))]
    fill(street.geometries(city.walkways.geometries), STYLE["walkway"])
    for layer in (city.car_parks, city.generic_drivable_areas, city.roadblocks, city.intersections):
        fill(street.geometries(layer.geometries), STYLE["road"])
    fill(street.geometries(list(city.connector_polygons.values())), STYLE["road"])
    fill(street.geometries([city.lane_polygon(lane) for lane in route if city.has_lane(lane)]), STYLE["route"])
    for line in street.geometries(shapely.boundary(city.lanes.geometries)):
        for part in shapely.get_parts(line):
            stroke(shapely.get_coordinates(part), STYLE["line"], 0.18)
    fill(_stripes(street.geometries(city.crosswalks.geometries)), STYLE["crosswalk"])
    fill(street.geometries([city.connector_polygons[c] for c in reds if c in city.connector_polygons]), _RED_TINT)
    boxes = scene.now.boxes
    for index, corners in enumerate(box_corners(boxes.boxes[:, [0, 1, 6, 3, 4]])):
        colour = OBJECT_COLOURS[OBJECT_TYPES[boxes.types[index]]]
        cv2.fillPoly(picture, [pixels(corners)], _rgb(colour), cv2.LINE_AA, shift=4)
        cv2.polylines(picture, [pixels(corners)], True, _rgb(STYLE["ink"]), 1, cv2.LINE_AA, shift=4)
        if np.hypot(*boxes.velocity_mps[index, :2]) > 0.3:
            middle = boxes.boxes[index, :2]
            stroke(np.stack([middle, middle + boxes.velocity_mps[index, :2]]), STYLE["ink"], 0.2)
    outline = box_corners(ego_boxes(np.zeros(3)))
    cv2.fillPoly(picture, [pixels(outline)], _rgb(STYLE["ink"]), cv2.LINE_AA, shift=4)
    for plan in plans:
        path = np.concatenate([np.zeros((1, 2)), plan.poses[:, :2]])
        stroke(path, plan.colour, 0.6)
        for point in pixels(path[1:]):
            cv2.circle(picture, point.tolist(), round(0.55 * scale * 16), _rgb(plan.colour), -1, cv2.LINE_AA, shift=4)
    return picture


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


class _Street:
    """Map geometries brought into the ego frame and cut to the picture."""

    def __init__(self, city: CityMap, ego_pose_world: Array, view: Any) -> None:
        self._city = city
        self._x, self._y, self._heading = ego_pose_world
        self._view = view
        reach_m = float(np.abs(view.bounds).max()) * np.sqrt(2)
        self._near_world = shapely.Point(self._x, self._y).buffer(reach_m)

    def geometries(self, geometries_world: Iterable[Any]) -> list[Any]:
        world = np.asarray(list(geometries_world), dtype=object)
        if len(world) == 0:
            return []
        near = world[shapely.intersects(world, self._near_world)]
        cos, sin = np.cos(self._heading), np.sin(self._heading)
        rotation = np.array([[cos, -sin], [sin, cos]])
        ego = shapely.transform(near, lambda xy: (xy - [self._x, self._y]) @ rotation)
        cut = shapely.clip_by_rect(shapely.make_valid(ego), *self._view.bounds)
        return [g for g in shapely.simplify(cut, 0.03) if not g.is_empty]


def _colour(name: str) -> str:
    return f"var(--bev-{name},{STYLE[name]})"


def _points(xy_ego: Array) -> str:
    """Ego coordinates as picture coordinates: forward is up, left is left."""
    units = np.round(-UNITS_PER_M * np.asarray(xy_ego)[:, ::-1]).astype(int)
    return " ".join(f"{u} {v}" for u, v in units.tolist())


def _ring(ring: Any) -> str:
    return f"M{_points(shapely.get_coordinates(ring)[:-1])}Z"


def _polygons(geometries: Iterable[Any]) -> list[Any]:
    return [part for g in geometries for part in shapely.get_parts(g) if part.geom_type == "Polygon"]


def _paths(name: str, geometries: Iterable[Any], opacity: float = 1.0) -> str:
    outlines = "".join(_ring(ring) for p in _polygons(geometries) for ring in (p.exterior, *p.interiors))
    if not outlines:
        return ""
    return f'<path class="{name}" fill-rule="nonzero" style="fill:{_colour(name)};opacity:{opacity}" d="{outlines}"/>'


def _lines(name: str, geometries: Iterable[Any], *, width_m: float, dashes_m: tuple[float, ...] = ()) -> str:
    lines = [part for g in geometries for part in shapely.get_parts(g) if part.geom_type == "LineString"]
    if not lines:
        return ""
    dashes = f";stroke-dasharray:{' '.join(f'{UNITS_PER_M * d:.0f}' for d in dashes_m)}" if dashes_m else ""
    track = "".join(f"M{_points(shapely.get_coordinates(line))}" for line in lines)
    return (
        f'<path style="fill:none;stroke:{_colour(name)};stroke-width:{UNITS_PER_M * width_m:.1f}{dashes}" d="{track}"/>'
    )


def _crosswalks(geometries: Iterable[Any]) -> str:
    return _paths("crosswalk", _stripes(geometries), 0.85)


def _stripes(geometries: Iterable[Any]) -> list[Any]:
    """Zebra stripes: bands across the longer side of each crossing."""
    stripes = []
    for polygon in _polygons(geometries):
        corners = shapely.get_coordinates(polygon.minimum_rotated_rectangle)
        if len(corners) < 5:
            continue
        sides = np.hypot(*np.diff(corners[:3], axis=0).T)
        start, along, across = corners[0], corners[1] - corners[0], corners[2] - corners[1]
        if sides[0] < sides[1]:
            start, along, across = corners[1], corners[2] - corners[1], corners[0] - corners[1]
        count = max(1, int(np.hypot(*along) // 1.2))
        for k in range(count):
            low, high = (k + 0.25) / count, (k + 0.75) / count
            band = [
                start + low * along,
                start + high * along,
                start + high * along + across,
                start + low * along + across,
            ]
            stripes.append(shapely.intersection(shapely.Polygon(band), polygon))
    return stripes


def _objects(boxes: Boxes, view: Any) -> Iterable[str]:
    corners = box_corners(boxes.boxes[:, [0, 1, 6, 3, 4]])
    width = f"{0.12 * UNITS_PER_M:.1f}"
    for kind, name in enumerate(OBJECT_TYPES):
        shown = [i for i in np.flatnonzero(boxes.types == kind) if view.contains(shapely.Point(boxes.boxes[i, :2]))]
        if not shown:
            continue
        outlines = "".join(f"M{_points(corners[i])}Z" for i in shown)
        # A stroke from the middle to one second ahead tells where, and how fast, an object is going.
        ahead = "".join(
            f"M{_points(np.stack([boxes.boxes[i, :2], boxes.boxes[i, :2] + boxes.velocity_mps[i, :2]]))}"
            for i in shown
            if np.hypot(*boxes.velocity_mps[i, :2]) > 0.3
        )
        yield (
            f'<g style="fill:{OBJECT_COLOURS[name]};stroke:{_colour("ink")};stroke-width:{width}">'
            f'<path class="object" d="{outlines}"><title>{name}</title></path>'
            + (f'<path style="fill:none;stroke-opacity:.6" d="{ahead}"/>' if ahead else "")
            + "</g>"
        )


def _ego() -> str:
    outline = box_corners(ego_boxes(np.zeros(3)))
    nose = np.stack([outline[0], [outline[0, 0] - 1.2, 0], outline[3]])
    return (
        f'<path class="ego" style="fill:{_colour("ink")};fill-opacity:.85" d="M{_points(outline)}Z"/>'
        f'<path style="fill:none;stroke:{_colour("ground")};stroke-width:4" d="M{_points(nose)}"/>'
    )


def _needed_zoom(poses: Array) -> float:
    x, y = poses[:, 0], poses[:, 1]
    room_m = 3.0
    return float(max((x.max() + room_m) / AHEAD_M, (room_m - x.min()) / BEHIND_M, (np.abs(y).max() + room_m) / ASIDE_M))


def _plan(plan: DrawnPlan, rank: int) -> str:
    # What lies below is drawn wider, so that plans on top of each other can all be seen.
    width = 8 + 5 * min(rank, 4)
    path = np.concatenate([np.zeros((1, 2)), plan.poses[:, :2]])
    every = len(plan.poses) // PLAN_POSES
    dots = np.round(-UNITS_PER_M * plan.poses[every - 1 :: every, 1::-1]).astype(int)
    circles = "".join(f'<circle cx="{u}" cy="{v}" r="{width / 2 + 4:.0f}"/>' for u, v in dots.tolist())
    return (
        f'<g class="plan" style="fill:{plan.colour};stroke:none"><title>{escape(plan.label)}</title>'
        f'<path style="fill:none;stroke:{plan.colour};stroke-width:{width};stroke-linejoin:round" '
        f'd="M{_points(path)}"/>{circles}</g>'
    )


def _legend(plans: Sequence[DrawnPlan]) -> str:
    if not plans:
        return ""
    left, top = (1.2 - ASIDE_M) * UNITS_PER_M, (1.2 - AHEAD_M) * UNITS_PER_M
    width = 90 + 23 * max(len(plan.label) for plan in plans)
    entries = [
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{width}" height="{20 + 54 * len(plans)}" rx="12" '
        f'style="fill:{_colour("ground")};fill-opacity:.85"/>'
    ]
    for index, plan in enumerate(reversed(plans)):
        v = top + 40 + 54 * index
        entries.append(
            f'<rect x="{left + 18:.0f}" y="{v - 6:.0f}" width="44" height="12" rx="6" style="fill:{plan.colour}"/>'
            f'<text x="{left + 76:.0f}" y="{v + 13:.0f}" font-size="40" style="fill:{_colour("ink")}">'
            f"{escape(plan.label)}</text>"
        )
    return f'<g class="legend">{"".join(entries)}</g>'


def _scale_bar(zoom: float) -> str:
    right, bottom = (ASIDE_M - 1.5) * UNITS_PER_M, (BEHIND_M - 1.5) * UNITS_PER_M
    left = right - SCALE_BAR_M * UNITS_PER_M / zoom
    return (
        f'<g class="scale" style="stroke:{_colour("ink")};fill:none;stroke-width:4">'
        f'<path d="M{left:.0f} {bottom - 12:.0f}v12H{right:.0f}v-12"/></g>'
        f'<text x="{right:.0f}" y="{bottom - 20:.0f}" font-size="36" text-anchor="end" '
        f'style="fill:{_colour("ink")}">{SCALE_BAR_M} m</text>'
    )
