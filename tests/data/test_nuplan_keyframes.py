"""The reader on a real nuPlan drive: pictures, lenses and boxes belong together."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from real_keyframes import FUTURE_FRAMES, SPLIT, write_keyframe_root

from irlvla.data.scenes import human_plan, open_scenes
from irlvla.data.sensors import load_image
from irlvla.errors import SceneDataError
from irlvla.types import CAMERA_NAMES, OBJECT_TYPES, Array, Camera, Scene


@pytest.fixture(scope="module")
def keyframe_root(shared_real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("keyframes")
    write_keyframe_root(shared_real, root)
    return root


@pytest.fixture(scope="module")
def scene(keyframe_root: Path) -> Scene:
    return open_scenes(keyframe_root, SPLIT, num_future_frames=FUTURE_FRAMES)[0]


def pixels(camera: Camera, point_ego: Array, distortion: Array) -> Array:
    in_camera = (point_ego - camera.translation_ego) @ camera.rotation_ego
    return cv2.projectPoints(in_camera.reshape(1, 1, 3), np.zeros(3), np.zeros(3), camera.intrinsic, distortion)[0][
        0, 0
    ]


def test_planning_needs_no_future_frames(keyframe_root: Path) -> None:
    scenes = open_scenes(keyframe_root, SPLIT, num_future_frames=0)
    assert len(scenes) == 7
    with pytest.raises(SceneDataError, match="future frames"):
        human_plan(scenes[0])


def test_all_eight_pictures_decode(scene: Scene) -> None:
    assert set(scene.now.cameras) == set(CAMERA_NAMES)
    for camera in scene.now.cameras.values():
        assert load_image(camera).shape == (1080, 1920, 3)


def test_box_of_the_car_ahead_ends_at_its_number_plate(scene: Scene) -> None:
    boxes = scene.now.boxes.boxes[scene.now.boxes.types == OBJECT_TYPES.index("vehicle")]
    x, y, z, length, *_ = boxes[np.argmin(np.hypot(boxes[:, 0] - 9.8, boxes[:, 1]))]
    camera = scene.now.cameras["CAM_F0"]
    # Read off the picture by hand.
    plate = (894, 841)
    assert np.hypot(*(pixels(camera, np.array([x - length / 2, y, z]), camera.distortion) - plate)) < 60


def test_pictures_are_stored_with_the_lens_distortion(scene: Scene) -> None:
    boxes = scene.now.boxes.boxes
    post = boxes[np.argmin(np.hypot(boxes[:, 0] - 6.34, boxes[:, 1] + 2.47))]
    top = post[:3] + np.array([0, 0, post[5] / 2])
    camera = scene.now.cameras["CAM_F0"]
    # Tip of a fence post near the right edge, read off the picture by hand.
    tip = np.array([1686, 611])
    assert np.hypot(*(pixels(camera, top, camera.distortion) - tip)) < 35
    assert np.hypot(*(pixels(camera, top, np.zeros(5)) - tip)) > 70


def test_ground_lies_below_the_ego_origin(scene: Scene) -> None:
    boxes = scene.now.boxes.boxes[scene.now.boxes.types == OBJECT_TYPES.index("vehicle")]
    near = boxes[np.hypot(boxes[:, 0], boxes[:, 1]) < 12]
    bottoms_m = near[:, 2] - near[:, 5] / 2
    # nuPlan's ego origin is the rear axle itself, a wheel's radius above the road.
    assert -0.5 < np.median(bottoms_m) < -0.25
