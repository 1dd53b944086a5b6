"""Many scenes on one page: what the cameras see, the street from above, and the driving question's answer in words."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from irlvla.data.language import InstructedPlan, load_answers, load_instructions
from irlvla.data.maps import load_map
from irlvla.data.scenes import SceneSet, human_plan
from irlvla.data.sensors import load_image
from irlvla.errors import DataError
from irlvla.evaluation.birds_eye import AHEAD_M, ASIDE_M, BEHIND_M, STYLE, paint_birds_eye
from irlvla.evaluation.draw import HUMAN_COLOUR, SHEET_ORDER, DrawnPlan, draw_camera, ground_height_m
from irlvla.types import Scene

Image = NDArray[np.uint8]

FRONT_PX = (400, 225)
"""Width and height of the front camera's picture."""
OTHERS_PX = 112
"""Height of the strip of the other cameras below it."""
TEXT_PX = 40
LINE_PX = 17
GAP_PX = 8
_PAPER, _INK = 250, 30
_LETTERS = 92
_NARROW_LETTERS = 76


def draw_contact_sheet(scenes: SceneSet, *, columns: int = 4, instructions: bool = False) -> Image:
    """A page of scenes: [h, w, 3] RGB.

    Each has its front camera with the human's way of the next four seconds in green, the other cameras, the street
    from above (route blue, red lights red, who moves with a stroke to where he is in a second), and the answer.

    Args:
        scenes: All of them are drawn.
        columns: Scenes side by side.
        instructions: Show every instruction of a scene with what is done about it in place of the cameras, and its plan
            by number on the street: green where it is safe, red where it is not.
    Raises:
        DataError: There is no scene, or one has no camera image, or no instructions.
    """
    if len(scenes) == 0:
        raise DataError("a contact sheet needs at least one scene")
    cell = _instructed_cell if instructions else _cell
    cells = [cell(scene, scenes.root, scenes.split.data_split) for scene in scenes]
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // columns)
    sheet = np.full(
        (rows * (height + GAP_PX) + GAP_PX, min(columns, len(cells)) * (width + GAP_PX) + GAP_PX, 3),
        205,
        dtype=np.uint8,
    )
    for place, picture in enumerate(cells):
        row, column = divmod(place, columns)
        top, left = GAP_PX + row * (height + GAP_PX), GAP_PX + column * (width + GAP_PX)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def write_contact_sheet(
    scenes: SceneSet, path: Path, *, columns: int = 4, quality: int = 80, instructions: bool = False
) -> None:
    """Draw scenes on one page and write it as JPEG."""
    sheet = draw_contact_sheet(scenes, columns=columns, instructions=instructions)
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
    cell, above_px = _blank()
    views_px = height + OTHERS_PX
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
    _write_answer(cell, scene, root, data_split)
    return cell


def _instructed_cell(scene: Scene, root: Path, data_split: str) -> Image:
    given = load_instructions(root, data_split, scene.log_name).get(scene.token)
    if given is None:
        raise DataError(
            f"scene {scene.token} has no instructions: write them with `irlvla world instruct ROOT --split SPLIT`"
        )
    cell, above_px = _blank()
    width, views_px = FRONT_PX[0], FRONT_PX[1] + OTHERS_PX
    drawn = [DrawnPlan(plan.kind, plan.plan, _colour(plan)) for plan in given if plan.is_possible]
    above = paint_birds_eye(scene, load_map(root, scene.map_location), drawn, width_px=above_px)
    cell[:views_px, width:] = cv2.resize(above, (above_px, views_px), interpolation=cv2.INTER_AREA)
    top = 0
    for number, plan in enumerate(given, start=1):
        colour = tuple(int(_colour(plan)[k : k + 2], 16) for k in (1, 3, 5))
        lines = textwrap.wrap(f"{number} {plan.instruction} {plan.answer}", _NARROW_LETTERS)[:2]
        _write(cell, lines, top, colour)
        top += LINE_PX * len(lines)
        if plan.is_possible:
            x, y = plan.plan[-1, :2]
            at = (ASIDE_M - y) * above_px / (2 * ASIDE_M), (AHEAD_M - x) * views_px / (AHEAD_M + BEHIND_M)
            where = (width + int(np.clip(at[0], 0, above_px - 10)), int(np.clip(at[1], 10, views_px - 2)))
            for ink, thickness in (((255,) * 3, 3), ((_INK,) * 3, 1)):
                cv2.putText(cell, str(number), where, cv2.FONT_HERSHEY_SIMPLEX, 0.4, ink, thickness, cv2.LINE_AA)
    _write_answer(cell, scene, root, data_split)
    return cell


def _colour(plan: InstructedPlan) -> str:
    return HUMAN_COLOUR if plan.is_safe else STYLE["red"] if plan.is_possible else "#808080"


def _blank() -> tuple[Image, int]:
    """An empty cell, and the width of its view from above."""
    views_px = FRONT_PX[1] + OTHERS_PX
    above_px = round(views_px * 2 * ASIDE_M / (AHEAD_M + BEHIND_M))
    return np.full((views_px + TEXT_PX, FRONT_PX[0] + above_px, 3), _PAPER, dtype=np.uint8), above_px


def _write_answer(cell: Image, scene: Scene, root: Path, data_split: str) -> None:
    answer = load_answers(root, data_split, scene.log_name).get(scene.token)
    speed_kmh = 3.6 * float(scene.now.ego_velocity_mps[0])
    words = f"{speed_kmh:.0f} km/h. {answer.answer}" if answer else f"{speed_kmh:.0f} km/h."
    _write(cell, textwrap.wrap(words, _LETTERS)[:2], FRONT_PX[1] + OTHERS_PX)


def _write(cell: Image, lines: Sequence[str], top: int, colour: tuple[int, ...] = (_INK,) * 3) -> None:
    for row, line in enumerate(lines):
        at = (6, top + LINE_PX - 2 + LINE_PX * row)
        cv2.putText(cell, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
