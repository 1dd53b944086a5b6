"""Many scenes on one page: what the cameras see, the street from above, and the driving question's answer in words."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from irlvla.data.language import load_answers
from irlvla.data.maps import load_map
from irlvla.data.scenes import SceneSet, human_plan
from irlvla.data.sensors import load_image
from irlvla.errors import DataError
from irlvla.evaluation.birds_eye import AHEAD_M, ASIDE_M, BEHIND_M, paint_birds_eye
from irlvla.evaluation.draw import HUMAN_COLOUR, SHEET_ORDER, DrawnPlan, draw_camera, ground_height_m
from irlvla.types import Scene

Image = NDArray[np.uint8]

FRONT_PX = (400, 225)
"""Width and height of the front camera's picture."""
OTHERS_PX = 112
"""Height of the strip of the other cameras below it."""
TEXT_PX = 40
GAP_PX = 8
_PAPER, _INK = 250, 30
_LETTERS = 92


def draw_contact_sheet(scenes: SceneSet, *, columns: int = 4) -> Image:
    """A page of scenes: [h, w, 3] RGB.

    Each has its front camera with the human's way of the next four seconds in green, the other cameras, the street
    from above (route blue, red lights red, who moves with a stroke to where he is in a second), and the answer.

    Args:
        scenes: All of them are drawn.
        columns: Scenes side by side.
    Raises:
        DataError: There is no scene, or one has no camera image.
    """
    if len(scenes) == 0:
        raise DataError("a contact sheet needs at least one scene")
    cells = [_cell(scene, scenes.root, scenes.split.data_split) for scene in scenes]
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // columns)
    sheet = np.full(
        (rows * (height + GAP_PX) + GAP_PX, min(columns, len(cells)) * (width + GAP_PX) + GAP_PX, 3),
        205,
        dtype=np.uint8,
    )
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        top, left = GAP_PX + row * (height + GAP_PX), GAP_PX + column * (width + GAP_PX)
        sheet[top : top + height, left : left + width] = cell
    return sheet


def write_contact_sheet(scenes: SceneSet, path: Path, *, columns: int = 4, quality: int = 80) -> None:
    """Draw scenes on one page and write it as JPEG."""
    sheet = draw_contact_sheet(scenes, columns=columns)
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode a sheet of shape {sheet.shape} as JPEG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.tobytes())


def _cell(scene: Scene, root: Path, data_split: str) -> Image:
    plan = DrawnPlan("human", human_plan(scene), HUMAN_COLOUR)
    cameras = [scene.now.cameras[name] for name in SHEET_ORDER if name in scene.now.cameras]
    cameras = [camera for camera in cameras if camera.image_path is not None]
    if not cameras:
        raise DataError(
            f"scene {scene.token} names no camera image: are the sensor blobs where the data root has them?"
        )
    front = next((camera for camera in cameras if camera.name == "CAM_F0"), cameras[0])
    others = [camera for camera in cameras if camera is not front]
    width, height = FRONT_PX
    views_px = height + OTHERS_PX
    above_px = round(views_px * 2 * ASIDE_M / (AHEAD_M + BEHIND_M))
    cell = np.full((views_px + TEXT_PX, width + above_px, 3), _PAPER, dtype=np.uint8)
    image = load_image(front, scene_token=scene.token)
    cell[:height, :width] = cv2.resize(
        draw_camera(front, image, plans=[plan], street_z_m=ground_height_m(scene.now.boxes), width_px=2 * width),
        (width, height), interpolation=cv2.INTER_AREA,
    )  # fmt: skip
    if others:
        lines = 1 if len(others) <= 3 else 2
        a_line = -(-len(others) // lines)
        small = (width // a_line, OTHERS_PX // lines)
        for place, camera in enumerate(others):
            line, column = divmod(place, a_line)
            picture = cv2.resize(load_image(camera, scene_token=scene.token), small, interpolation=cv2.INTER_AREA)
            top, left = height + line * small[1], column * small[0]
            cell[top : top + small[1], left : left + small[0]] = picture
    above = paint_birds_eye(scene, load_map(root, scene.map_location), [plan], width_px=above_px)
    cell[:views_px, width:] = cv2.resize(above, (above_px, views_px), interpolation=cv2.INTER_AREA)
    answer = load_answers(root, data_split, scene.log_name).get(scene.token)
    speed_kmh = 3.6 * float(scene.now.ego_velocity_mps[0])
    words = f"{speed_kmh:.0f} km/h. {answer.answer}" if answer else f"{speed_kmh:.0f} km/h."
    _write(cell, textwrap.wrap(words, _LETTERS)[:2], views_px)
    return cell


def _write(cell: Image, lines: Sequence[str], top: int) -> None:
    for row, line in enumerate(lines):
        at = (6, top + 15 + 17 * row)
        cv2.putText(cell, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (_INK,) * 3, 1, cv2.LINE_AA)
