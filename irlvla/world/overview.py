"""The street from above while somebody drives: roads, lights, everybody's boxes, the route, the plan; one picture."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon

from irlvla.geometry import box_corners, ego_boxes
from irlvla.types import Array
from irlvla.world.closed_loop import ClosedLoop, Moment
from irlvla.world.place import Place

Image = NDArray[np.uint8]
Outline = NDArray[np.float64]

SIDE_PX = 810
"""Width and height of the view from above, and height of the whole picture."""
CAMERAS_PX = 480
"""Width of the column of cameras."""
VIEW_M = 66.0
"""What the view from above covers, along and across; the ego vehicle drives upwards."""
_BEHIND_M = 18.0

_GROUND, _WALK, _ROAD, _JUNCTION, _ROUTE = (52, 58, 50), (92, 92, 88), (38, 40, 44), (44, 46, 50), (52, 66, 84)
_PARK, _CROSSING, _LINE, _HOUSE = (46, 48, 56), (150, 150, 150), (110, 112, 116), (86, 78, 70)
_LIGHTS = {"r": (235, 64, 52), "y": (245, 190, 40), "g": (60, 200, 110)}
_COLOURS = {"pedestrian": (255, 93, 143), "bicycle": (179, 136, 255), "vehicle": (242, 193, 78)}
_FURNITURE, _EGO, _PLAN, _INK = (150, 170, 155), (240, 240, 240), (255, 122, 26), (235, 235, 235)


class Overview:
    """Draws moments of drives through one place."""

    def __init__(self, place: Place) -> None:
        city = place.city
        self._place = place
        houses = place.scenery.buildings
        layers: list[tuple[Sequence[Outline], tuple[int, int, int]]] = [
            (_outlines(area.polygon for area in city.walkways), _WALK),
            (_outlines(area.polygon for area in city.car_parks), _PARK),
            (_outlines(area.polygon for area in city.roadblocks), _ROAD),
            (_outlines(area.polygon for area in city.intersections), _JUNCTION),
            (list(box_corners(houses[:, :5])), _HOUSE),
        ]
        self._grounds = [(outlines, _reaches(outlines), colour) for outlines, colour in layers]
        self._crossings = _outlines(area.polygon for area in city.crosswalks)
        self._crossing_reach = _reaches(self._crossings)
        self._dividers = [lane.baseline + _left(lane.baseline, lane.width_m / 2) for lane in city.lanes]
        self._divider_reach = _reaches(self._dividers)

    def draw(self, loop: ClosedLoop, moment: Moment, plan: Array | None = None) -> Image:
        """The view from above [SIDE_PX, SIDE_PX, 3] RGB.

        Args:
            loop: The drive.
            moment: One of its moments.
            plan: [8 or 40, 3] poses in the world frame.
        """
        canvas = np.empty((SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        canvas[:] = _GROUND
        view = _View(moment.ego_state[:3])
        for outlines, reach, colour in self._grounds:
            view.fill(canvas, outlines, reach, colour)
        view.line(canvas, loop.referee.centerline[:, :2], _ROUTE, 3.0)
        for line in view.near(self._dividers, self._divider_reach):
            view.line(canvas, line, _LINE, 0.15)
        view.fill(canvas, self._crossings, self._crossing_reach, _CROSSING)
        frame = loop.key_frame(moment, "overview", 0)
        for connector, _, letter in frame.lights:
            lane = connector.from_lane
            end = lane.baseline[-1]
            across = _left(lane.baseline[-2:], lane.width_m / 2 - 0.3)[-1]
            bar = np.stack([end - across, end + across])
            view.line(canvas, bar, _LIGHTS.get({"u": "r"}.get(letter.lower(), letter.lower()), _LINE), 0.6)
        boxes = np.array([item.box[[0, 1, 6, 3, 4]] for item in frame.objects]).reshape(-1, 5)
        for item, corners in zip(frame.objects, box_corners(boxes), strict=True):
            cv2.fillConvexPoly(canvas, view.of_ego(corners), _COLOURS.get(item.type, _FURNITURE), cv2.LINE_AA, shift=4)
        ego = box_corners(ego_boxes(np.zeros(3)))
        cv2.fillConvexPoly(canvas, view.of_ego(ego), _EGO, cv2.LINE_AA, shift=4)
        driven = np.array(loop.states)[-200:, :2]
        view.line(canvas, driven, _EGO, 0.2)
        if plan is not None:
            view.line(canvas, np.concatenate([driven[-1:], plan[:, :2]]), _PLAN, 0.5)
        return canvas

    def picture(self, loop: ClosedLoop, moment: Moment, plan: Array | None, words: Sequence[str]) -> Image:
        """Cameras on the left, the view from above on the right with a few words: [SIDE_PX, CAMERAS_PX + SIDE_PX, 3].

        Args:
            words: Lines of text.
        """
        picture = np.zeros((SIDE_PX, CAMERAS_PX + SIDE_PX, 3), dtype=np.uint8)
        images = loop.render(moment)
        columns = 1 if len(images) <= 3 else 2
        width = CAMERAS_PX // columns
        for place, image in enumerate(images):
            height = round(width * image.shape[0] / image.shape[1])
            row, column = divmod(place, columns)
            top = row * height
            shown = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)[: max(0, SIDE_PX - top)]
            picture[top : top + len(shown), column * width : (column + 1) * width] = shown
        picture[:, CAMERAS_PX:] = self.draw(loop, moment, plan)
        for row, text in enumerate(words):
            x, y = CAMERAS_PX + 12, 26 + 24 * row
            # A shadow, so that the words can be read on any ground.
            for at, colour in (((x + 1, y + 1), (0, 0, 0)), ((x, y), _INK)):
                cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.55, colour, 1, cv2.LINE_AA)
        return picture


class _View:
    """From world to pixels: the ego vehicle drives upwards."""

    def __init__(self, ego_pose: Array) -> None:
        self._at = ego_pose[:2]
        cos, sin = np.cos(ego_pose[2]), np.sin(ego_pose[2])
        self._to_ego = np.array([[cos, sin], [-sin, cos]])
        self._scale = SIDE_PX / VIEW_M

    def of_ego(self, points_ego: Array) -> NDArray[np.int32]:
        """Pixels, in sixteenths, of ego-frame points [..., 2]."""
        u = SIDE_PX / 2 - points_ego[..., 1] * self._scale
        v = SIDE_PX - (points_ego[..., 0] + _BEHIND_M) * self._scale
        # Far vertices would overflow OpenCV's fixed-point coordinates.
        return np.round(np.clip(np.stack([u, v], axis=-1), -9000, 9000) * 16).astype(np.int32)

    def of_world(self, points: Array) -> NDArray[np.int32]:
        return self.of_ego((points - self._at) @ self._to_ego.T)

    def near(self, lines: Sequence[Outline], reach: Array) -> list[Outline]:
        if not lines:
            return []
        far = np.hypot(*(reach[:, :2] - self._at).T) - reach[:, 2]
        return [lines[int(index)] for index in np.flatnonzero(far < VIEW_M)]

    def fill(self, canvas: Image, outlines: Sequence[Outline], reach: Array, colour: tuple[int, int, int]) -> None:
        for outline in self.near(outlines, reach):
            cv2.fillPoly(canvas, [self.of_world(outline)], colour, cv2.LINE_AA, shift=4)

    def line(self, canvas: Image, points: Array, colour: tuple[int, int, int], width_m: float) -> None:
        thickness = max(1, round(width_m * self._scale))
        cv2.polylines(canvas, [self.of_world(points)], False, colour, thickness, cv2.LINE_AA, shift=4)


def _outlines(polygons: Iterable[Polygon]) -> list[Outline]:
    return [shapely.get_coordinates(polygon.exterior) for polygon in polygons]


def _reaches(lines: Sequence[Outline]) -> Array:
    """[N, 3] middle and radius of each line."""
    rows = [(*line.mean(axis=0), np.hypot(*(line - line.mean(axis=0)).T).max()) for line in lines]
    return np.array(rows).reshape(-1, 3)


def _left(line: Array, offset_m: float) -> Array:
    """[N, 2] what moves a line's points to its left."""
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.hypot(*along.T), 1e-9)[:, None]
    return offset_m * np.stack([-along[:, 1], along[:, 0]], axis=1)
