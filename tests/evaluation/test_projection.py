"""What is drawn must lie where the camera saw it, and nothing from behind the camera may show."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irlvla.evaluation.projection import lens, project_points, project_polygon, project_segments
from irlvla.types import Camera

SIZE = (1920, 1080)


def test_point_straight_ahead_lands_on_the_principal_point(pinhole: Camera) -> None:
    pixels, seen = project_points(np.array([[20.0, 0.0, 1.5]]), lens(pinhole, SIZE))
    assert seen.all()
    np.testing.assert_allclose(pixels[0], [960, 560])


def test_left_is_left_and_ground_is_below_the_horizon(pinhole: Camera) -> None:
    (left, ground), _ = project_points(np.array([[20.0, 3.0, 1.5], [20.0, 0.0, 0.0]]), lens(pinhole, SIZE))
    assert left[0] < 960
    assert ground[1] > 560


def test_smaller_picture_shows_the_same_scene(pinhole: Camera) -> None:
    points = np.array([[20.0, 3.0, 0.5], [9.0, -2.0, 0.0]])
    full, _ = project_points(points, lens(pinhole, SIZE))
    half, _ = project_points(points, lens(pinhole, SIZE, (960, 540)))
    np.testing.assert_allclose((full + 0.5) / 2, half + 0.5)


@given(st.floats(2, 60), st.floats(-30, 30), st.floats(-1, 4))
@settings(max_examples=60, deadline=None)
def test_lens_bends_points_as_opencv_does(bent: Camera, x: float, y: float, z: float) -> None:
    pixels, seen = project_points(np.array([[x, y, z]]), lens(bent, SIZE))
    if not seen[0]:
        return
    to_camera = bent.rotation_ego.T
    expected, _ = cv2.projectPoints(
        np.array([[x, y, z]]),
        cv2.Rodrigues(to_camera)[0],
        -to_camera @ bent.translation_ego,
        bent.intrinsic,
        bent.distortion,
    )
    np.testing.assert_allclose(pixels[0], expected.reshape(2), atol=1e-6)


@given(
    st.lists(st.tuples(st.floats(-40, 40), st.floats(-40, 40), st.floats(-2, 6)), min_size=2, max_size=2),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_lines_never_run_wild_outside_the_picture(
    pinhole: Camera, bent: Camera, ends: list[tuple[float, float, float]], through_real_lens: bool
) -> None:
    view = lens(bent if through_real_lens else pinhole, SIZE)
    for curve in project_segments(np.array([ends]), view):
        # Straight borders of the bounding pyramid bulge outwards a little under the lens.
        assert (np.abs(curve - [960, 540]) < 0.75 * np.array(SIZE)).all()


def test_line_from_behind_the_camera_enters_from_the_side_it_is_on(pinhole: Camera) -> None:
    view = lens(pinhole, SIZE)
    (curve,) = project_segments(np.array([[[-10.0, 2.0, 0.0], [30.0, 2.0, 0.0]]]), view)
    assert (curve[:, 0] < 960).all(), "a line on our left must stay left of the middle"


def test_what_is_behind_the_camera_is_not_drawn(pinhole: Camera) -> None:
    view = lens(pinhole, SIZE)
    behind = np.array([[-5.0, -1.0, 0.0], [-5.0, 1.0, 0.0], [-9.0, 1.0, 0.0], [-9.0, -1.0, 0.0]])
    assert len(project_polygon(behind, view)) == 0
    assert project_segments(behind[:2][None], view) == []
    assert not project_points(behind, view)[1].any()


def test_ground_polygon_under_the_camera_is_cut_at_the_near_side(pinhole: Camera) -> None:
    view = lens(pinhole, SIZE)
    lane = np.array([[-20.0, -2.0, 0.0], [40.0, -2.0, 0.0], [40.0, 2.0, 0.0], [-20.0, 2.0, 0.0]])
    outline = project_polygon(lane, view)
    assert len(outline) >= 4
    assert outline[:, 1].max() > 1080, "the lane goes on below the picture"
    assert outline[:, 1].min() == pytest.approx(560 + 1545 * 1.5 / 38.3, abs=0.5)
