"""Pictures: wire frames stand on what they mark, plans lie on the street."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from real_keyframes import FUTURE_FRAMES, SPLIT, write_keyframe_root

from irlvla.data.scenes import open_scenes
from irlvla.evaluation.draw import (
    HUMAN_COLOUR,
    DrawnPlan,
    box_wires,
    draw_camera,
    ground_height_m,
    jpeg_data_uri,
    plan_colours,
    ribbon,
)
from irlvla.evaluation.projection import lens, project_segments
from irlvla.geometry import GROUND_Z_M
from irlvla.types import Boxes, Camera


def car_ahead(x_m: float = 15.0, z_m: float = 0.8) -> Boxes:
    box = np.array([[x_m, 0.0, z_m, 4.6, 1.9, 1.6, 0.0]])
    return Boxes(box, np.zeros(1, dtype=np.int64), np.zeros((1, 3)), ("car",))


def straight_plan(speed_mps: float) -> DrawnPlan:
    poses = np.zeros((8, 3))
    poses[:, 0] = speed_mps * 0.5 * np.arange(1, 9)
    return DrawnPlan("plan", poses, "#ff0000")


def black() -> np.ndarray:
    return np.zeros((1080, 1920, 3), dtype=np.uint8)


def test_wire_frame_encloses_the_car_and_nothing_else(pinhole: Camera) -> None:
    drawn = draw_camera(pinhole, black(), boxes=car_ahead(), width_px=1920).any(axis=-1)
    rows, columns = np.nonzero(drawn)
    rear_m = 15.0 - 2.3 - 1.7
    assert columns.max() - columns.min() == pytest.approx(1545 * 1.9 / rear_m, abs=8)
    assert rows.max() == pytest.approx(560 + 1545 * 1.5 / rear_m, abs=5)


def test_car_behind_leaves_the_picture_empty(pinhole: Camera) -> None:
    assert not draw_camera(pinhole, black(), boxes=car_ahead(-15.0)).any()


def test_plan_lies_below_the_horizon_and_gets_narrower(pinhole: Camera) -> None:
    red = draw_camera(pinhole, black(), plans=[straight_plan(8.0)], width_px=1920)[..., 0] > 60
    rows = np.flatnonzero(red.any(axis=1))
    widths = red.sum(axis=1)[rows]
    assert rows.min() > 560
    assert widths[-1] > 4 * widths[0]


def test_plan_to_stand_still_draws_nothing_and_does_not_fail(pinhole: Camera) -> None:
    assert not draw_camera(pinhole, black(), plans=[straight_plan(0.0)]).any()


def test_picture_keeps_the_proportions_and_leaves_the_original_alone(pinhole: Camera) -> None:
    image = black()
    assert draw_camera(pinhole, image, boxes=car_ahead(), width_px=640).shape == (360, 640, 3)
    assert draw_camera(pinhole, image, boxes=car_ahead(), width_px=1920).any()
    assert not image.any()


def test_street_height_is_where_cars_stand() -> None:
    assert ground_height_m(car_ahead(z_m=0.4)) == pytest.approx(-0.4)
    far = car_ahead(80.0, z_m=0.4)
    assert ground_height_m(far) == GROUND_Z_M


def test_front_of_a_box_is_crossed() -> None:
    wires = box_wires(np.array([[10.0, 0.0, 1.0, 4.0, 2.0, 2.0, 0.0]]))
    assert wires.shape == (1, 14, 2, 3)
    assert (wires[0, 12:, :, 0] == 12.0).all(), "both strokes of the cross lie on the front face"
    assert set(wires[..., 2].ravel()) == {0.0, 2.0}


def test_ribbon_follows_the_plan_with_constant_width() -> None:
    angle = np.linspace(0.1, 1.2, 8)
    poses = np.stack([20 * np.sin(angle), 20 * (1 - np.cos(angle)), angle], axis=-1)
    quads = ribbon(poses, 1.0)
    np.testing.assert_allclose(np.linalg.norm(quads[:, 0] - quads[:, 3], axis=-1), 1.0)
    np.testing.assert_allclose((quads[-1, 1] + quads[-1, 2]) / 2, poses[-1, :2], atol=1e-9)


def test_human_is_green_everywhere() -> None:
    colours = plan_colours(["imitation", "human", "ppo"])
    assert colours["human"] == HUMAN_COLOUR
    assert len(set(colours.values())) == 3
    assert plan_colours(["ppo"])["human"] == HUMAN_COLOUR


def test_data_address_holds_the_image() -> None:
    image = np.full((20, 30, 3), (200, 30, 30), dtype=np.uint8)
    head, _, content = jpeg_data_uri(image).partition(",")
    assert head == "data:image/jpeg;base64"
    decoded = np.asarray(cv2.imdecode(np.frombuffer(base64.b64decode(content), dtype=np.uint8), cv2.IMREAD_COLOR))
    np.testing.assert_allclose(decoded[..., ::-1], image, atol=6)


def test_box_of_a_real_car_encloses_the_car_in_the_picture(shared_real: Path, tmp_path: Path) -> None:
    token = write_keyframe_root(shared_real, tmp_path)
    now = open_scenes(tmp_path, SPLIT, num_future_frames=FUTURE_FRAMES).by_token(token).now
    behind_left = np.hypot(now.boxes.boxes[:, 0] + 8.95, now.boxes.boxes[:, 1] - 3.64).argmin()
    wires = box_wires(now.boxes.boxes[behind_left][None])[0]
    curves = project_segments(wires, lens(now.cameras["CAM_B0"], (1920, 1080)))
    left_top, right_bottom = np.concatenate(curves).min(axis=0), np.concatenate(curves).max(axis=0)
    # The white convertible, measured by hand in the stored image; annotated boxes are a little generous.
    np.testing.assert_array_less(left_top, [1381 + 5, 635 + 5])
    np.testing.assert_array_less([1860 - 5, 930 - 5], right_bottom)
    np.testing.assert_allclose(left_top, [1381, 635], atol=45)
    np.testing.assert_allclose(right_bottom, [1860, 930], atol=45)


def test_real_cars_stand_where_the_model_takes_the_street_to_be(shared_real: Path, tmp_path: Path) -> None:
    token = write_keyframe_root(shared_real, tmp_path)
    now = open_scenes(tmp_path, SPLIT, num_future_frames=FUTURE_FRAMES).by_token(token).now
    assert ground_height_m(now.boxes) == pytest.approx(GROUND_Z_M, abs=0.1)
