"""The five LiDARs: what a ray strikes, from where it is hidden, and what weather leaves of it."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from town import NOTHING, day, moment, street, thing

from irlvla.geometry import GROUND_Z_M
from irlvla.world.appearance import Appearance
from irlvla.world.logs import SceneObject
from irlvla.world.presets import PRESETS
from irlvla.world.rig import LIDARS
from irlvla.world.scenery import Scenery
from irlvla.world.sensors import SensorSuite

PRESET = replace(PRESETS["looks"], cameras=())
TREE = Scenery(np.zeros((0, 7)), np.array([[16.0, 6.0, 7.0, 2.0]]), ())


def sweep(
    *objects: SceneObject, appearance: Appearance | None = None, scenery: Scenery = NOTHING, seed: int = 0
) -> NDArray[np.float32]:
    city = street(60.0)
    suite = SensorSuite(city, scenery, PRESET)
    look = suite.look_of(appearance or day("day", "clear"), "some-log")
    return suite.sweep(moment(city, *objects), look, np.random.default_rng(seed))


def inside(points: NDArray[np.float32], item: SceneObject, margin_m: float = 0.1) -> NDArray[np.bool_]:
    x, y, z, length, width, height, heading = item.box
    d = points[:, :3] - [x, y, z + GROUND_Z_M]
    cos, sin = np.cos(heading), np.sin(heading)
    along, across = cos * d[:, 0] + sin * d[:, 1], cos * d[:, 1] - sin * d[:, 0]
    halves = np.array([length, width, height]) / 2 + margin_m
    return (np.abs(along) < halves[0]) & (np.abs(across) < halves[1]) & (np.abs(d[:, 2]) < halves[2])


def test_an_empty_street_lies_at_the_ground_height_of_the_ego_frame() -> None:
    points = sweep()
    level = points[(np.hypot(points[:, 0], points[:, 1]) < 25) & (np.abs(points[:, 1]) < 1.4)]
    assert len(level) > 300
    assert np.median(level[:, 2]) == pytest.approx(GROUND_Z_M, abs=0.01)
    assert np.abs(level[:, 2] - GROUND_Z_M).max() < 0.1


def test_all_five_lidars_are_in_the_cloud_under_their_numbers_and_rings() -> None:
    points = sweep()
    assert set(points[:, 5]) == {lidar.number for lidar in LIDARS}
    for lidar in LIDARS:
        own = points[points[:, 5] == lidar.number]
        assert own[:, 4].max() < len(lidar.elevations_deg)
        away = np.hypot(own[:, 0] - lidar.position_ego[0], own[:, 1] - lidar.position_ego[1])
        assert away.max() < lidar.range_m + 0.1
    assert points.dtype == np.float32
    assert (points[:, 3] == np.floor(points[:, 3])).all()
    assert points[:, 3].max() <= 255


def test_points_of_a_car_lie_in_its_box_and_on_its_shape() -> None:
    heading = np.pi + 0.4
    car = thing("car1", 12.0, 4.0, (4.5, 1.8, 1.45), heading)
    with_car, without = sweep(car), sweep()
    on_car = inside(with_car, car) & (with_car[:, 2] > GROUND_Z_M + 0.12)
    assert on_car.sum() > 60
    assert not (inside(without, car) & (without[:, 2] > GROUND_Z_M + 0.12)).any()
    # The bonnet is lower than the roof: no box.
    cos, sin = np.cos(heading), np.sin(heading)
    along = cos * (with_car[on_car, 0] - 12.0) + sin * (with_car[on_car, 1] - 4.0)
    height = with_car[on_car, 2] - GROUND_Z_M
    assert height[along > 1.5].max() < 1.05
    assert height[np.abs(along) < 1.0].max() > 1.2


def test_a_van_hides_what_stands_behind_it() -> None:
    van, walker = thing("van1", 12.0, 0.0, (6.0, 2.05, 2.5), 1.57), thing("pedestrian", 18.0, 0.0, (0.7, 0.7, 1.75))
    assert inside(sweep(walker), walker).sum() > 8
    assert inside(sweep(van, walker), walker).sum() == 0


def test_rays_pass_a_crown_in_part() -> None:
    points = sweep(scenery=TREE)
    crown = np.hypot(points[:, 0] - 16.0, points[:, 1] - 6.0) < 2.3
    assert 20 < (crown & (points[:, 2] > 3.0)).sum() < 700
    trunk = np.hypot(points[:, 0] - 16.0, points[:, 1] - 6.0) < 0.35
    assert (trunk & (points[:, 2] < 2.5) & (points[:, 2] > 0.2)).sum() >= 2


def test_rain_and_fog_take_far_points_and_add_near_ones() -> None:
    dry, wet, fog = sweep(), sweep(appearance=day(rain=1.0)), sweep(appearance=day(fog=1.0))

    def beyond(points: NDArray[np.float32], far: float) -> int:
        return int((np.hypot(points[:, 0], points[:, 1]) > far).sum())

    assert beyond(wet, 25) < 0.7 * beyond(dry, 25)
    assert beyond(fog, 25) < 0.7 * beyond(dry, 25)

    def afloat(points: NDArray[np.float32]) -> int:
        near = np.hypot(points[:, 0], points[:, 1]) < 10
        return int((near & (points[:, 2] > GROUND_Z_M + 0.5)).sum())

    # A lamp post or two stands near in any weather.
    assert min(afloat(wet), afloat(fog)) > afloat(dry) + 20


def test_paint_answers_more_brightly_than_asphalt() -> None:
    points = sweep()
    road = (points[:, 0] > 5) & (points[:, 0] < 20) & (np.abs(points[:, 1]) < 1.0)
    # The white line at the lane's right edge.
    line = (points[:, 0] > 5) & (points[:, 0] < 20) & (np.abs(points[:, 1] + 1.15) < 0.06)
    assert line.sum() >= 5
    assert np.median(points[line, 3]) > 2 * np.median(points[road, 3])


def test_a_sweep_depends_on_its_seed_alone() -> None:
    np.testing.assert_array_equal(sweep(seed=4), sweep(seed=4))
    assert sweep(seed=4).shape != sweep(seed=5).shape
