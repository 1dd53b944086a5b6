import numpy as np
import pytest

from irlvla.geometry import box_corners
from irlvla.types import CAMERA_NAMES
from irlvla.world.plain.bodies import body, placed
from irlvla.world.plain.lidar import RANGE_M, _cast
from irlvla.world.plain.raster import GLOW, Light, Mesh, MeshBuilder
from irlvla.world.plain.sensors import draw
from irlvla.world.rig import mounted_cameras

ORIGIN = np.zeros(2)
NOON = Light(np.array([0.0, 0.0, 1.0]), 1.0, 1e9, np.full(3, 200.0), np.full(3, 100.0))
RED, BLUE = (250.0, 0.0, 0.0), (0.0, 0.0, 250.0)


def _crate(x: float, y: float, size: tuple[float, float, float], heading: float, colour: tuple[float, ...]) -> Mesh:
    build = MeshBuilder()
    ring = box_corners(np.array([x, y, heading, size[0], size[1]]))
    for k in range(4):
        a, b = ring[k], ring[(k + 1) % 4]
        build.add(np.array([[*a, 0.0], [*b, 0.0], [*b, size[2]], [*a, size[2]]]), colour, GLOW)  # type: ignore[arg-type]
    build.add(np.concatenate([ring, np.full((4, 1), size[2])], axis=1), colour, GLOW)  # type: ignore[arg-type]
    return build.mesh()


@pytest.mark.parametrize("name", CAMERA_NAMES)
def test_a_box_appears_where_the_logged_camera_projects_it(name: str) -> None:
    camera = mounted_cameras(512, 288)[name]
    ahead = camera.rotation_ego[:, 2]
    side = camera.rotation_ego[:, 0]
    x, y = (camera.translation_ego + 14.0 * ahead + 1.5 * side)[:2]
    size, turn = (4.4, 1.8, 1.6), 0.4
    image = draw(camera, np.zeros(3), ORIGIN, NOON, ((_crate(x, y, size, turn, RED), None),))
    rows, columns = np.nonzero((image[..., 0] > 200) & (image[..., 1] < 60))
    ring = box_corners(np.array([x, y, turn, *size[:2]]))
    corners = np.array([[*corner, z] for corner in ring for z in (0.0, size[2])])
    seen = (corners - camera.translation_ego) @ camera.rotation_ego
    pixels = seen @ camera.intrinsic.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    assert columns.min() == pytest.approx(pixels[:, 0].min(), abs=1.5)
    assert columns.max() + 1 == pytest.approx(pixels[:, 0].max(), abs=1.5)
    assert rows.min() == pytest.approx(pixels[:, 1].min(), abs=1.5)
    assert rows.max() + 1 == pytest.approx(pixels[:, 1].max(), abs=1.5)


def test_the_nearer_box_hides_the_farther_one_in_either_order() -> None:
    camera = mounted_cameras(256, 144)["CAM_F0"]
    near, far = _crate(12, 0, (2, 4, 3), 0.0, RED), _crate(25, 0, (2, 3, 2), 0.0, BLUE)
    for meshes in (((near, None), (far, None)), ((far, None), (near, None))):
        image = draw(camera, np.zeros(3), ORIGIN, NOON, meshes)
        assert tuple(image[80, 128]) == (250, 0, 0)
        assert not ((image[..., 2] > 200) & (image[..., 0] < 50)).any()


def test_what_is_behind_the_camera_is_not_drawn() -> None:
    camera = mounted_cameras(256, 144)["CAM_F0"]
    behind = draw(camera, np.zeros(3), ORIGIN, NOON, ((_crate(-10, 0, (4, 8, 3), 0.0, RED), None),))
    nothing = draw(camera, np.zeros(3), ORIGIN, NOON, ())
    np.testing.assert_array_equal(behind, nothing)


@pytest.mark.parametrize(
    "shape",
    ["car", "van", "truck", "bus", "pedestrian", "bicycle", "traffic_cone", "barrier", "czone_sign", "generic_object"],
)
def test_bodies_fill_their_boxes_and_do_not_stick_out(shape: str) -> None:
    quads = body(shape).quads
    assert np.abs(quads[..., :2]).max() < 0.52
    assert quads[..., 2].min() >= 0.0
    assert quads[..., 2].max() == pytest.approx(1.0)


def test_braking_lights_up_the_rear() -> None:
    box = np.array([0.0, 0.0, 0.8, 4.5, 1.8, 1.6, 0.0])
    paint = np.array([10.0, 20.0, 30.0])
    _, calm, _ = placed("car", box, paint, paint, braking=False)
    _, braking, _ = placed("car", box, paint, paint, braking=True)
    assert braking[:, 0].max() == 255.0 > calm[calm[:, 2] < 20.5][:, 0].max()


def _distances(boxes: np.ndarray, slope: float) -> tuple[float, int]:
    distance, hit = _cast(boxes, np.array([0.0, 0.0, 2.0]), np.zeros(1), np.array([slope]), RANGE_M)
    return float(distance[0, 0]), int(hit[0, 0])


def test_a_ray_down_hits_the_ground_where_geometry_says() -> None:
    assert _distances(np.zeros((0, 7)), -0.1) == (pytest.approx(20.0), -1)
    assert _distances(np.zeros((0, 7)), 0.05)[0] == np.inf


def test_a_ray_stops_at_the_nearest_box_and_passes_over_a_low_one() -> None:
    wall = np.array([20.0, 0.0, 5.0, 1.0, 10.0, 10.0, 0.0])
    car = np.array([10.0, 0.0, 0.75, 4.0, 2.0, 1.5, 0.0])
    assert _distances(np.stack([wall, car]), 0.0) == (pytest.approx(19.5), 0)
    assert _distances(np.stack([wall, car]), -0.08) == (pytest.approx(8.0), 1)
    turned = np.array([10.0, 0.0, 5.0, 4.0, 2.0, 10.0, np.pi / 2])
    assert _distances(turned[None], 0.0) == (pytest.approx(9.0), 0)


def test_a_ray_that_clears_the_front_of_a_car_lands_on_its_roof() -> None:
    car = np.array([10.0, 0.0, 0.5, 8.0, 2.0, 1.0, 0.0])
    distance, hit = _distances(car[None], -0.1)
    assert (distance, hit) == (pytest.approx(10.0), 0)
