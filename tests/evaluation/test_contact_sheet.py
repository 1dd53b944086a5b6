"""The contact sheet shows every scene with pictures, street, and words."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from irlvla.cli.main import main
from irlvla.data.scenes import SceneSet, open_scenes
from irlvla.errors import DataError
from irlvla.evaluation.contact_sheet import FRONT_PX, GAP_PX, OTHERS_PX, TEXT_PX, draw_contact_sheet

pytestmark = pytest.mark.slow
GREEN = np.array([34, 181, 115])
"""The human's way."""


@pytest.fixture(scope="module")
def scenes(small_world: Path) -> SceneSet:
    return open_scenes(small_world, "world-train")


def _rows(scenes: int, columns: int) -> int:
    return GAP_PX + -(-scenes // columns) * (FRONT_PX[1] + OTHERS_PX + TEXT_PX + GAP_PX)


def test_a_sheet_has_a_cell_for_every_scene(scenes: SceneSet) -> None:
    three = scenes.subset(scenes.tokens[:3])
    sheet = draw_contact_sheet(three, columns=2)
    assert len(sheet) == _rows(3, 2)
    height = (len(sheet) - GAP_PX) // 2
    cells = [sheet[:height, : sheet.shape[1] // 2], sheet[:height, sheet.shape[1] // 2 :], sheet[height:]]
    for cell in cells:
        # The human's way is drawn on the street from above, and the answer in dark letters on paper.
        assert (np.abs(cell.astype(int) - GREEN).max(axis=-1) < 12).sum() > 20
        assert (cell[-TEXT_PX:, :, 0] < 90).sum() > 100
    assert not np.array_equal(cells[0], cells[1])


def test_a_sheet_of_nothing_is_refused(scenes: SceneSet) -> None:
    with pytest.raises(DataError, match="at least one scene"):
        draw_contact_sheet(scenes.subset([]))


def test_the_command_writes_a_page(small_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "sheet.jpg"
    assert main(["world", "sheet", str(small_world), "--out", str(out), "--scenes", "2", "--columns", "1"]) == 0
    assert len(cv2.imread(str(out))) == _rows(2, 1)
