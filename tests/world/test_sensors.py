"""Pictures of the rich look: things appear where NAVSIM projects them, and show the state they are in."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from town import NOTHING, day, moment, street, thing

from irlvla.data.sensors import load_image, load_point_cloud
from irlvla.evaluation.projection import lens, project_points
from irlvla.geometry import GROUND_Z_M, box_corners
from irlvla.types import CAMERA_NAMES, Camera
from irlvla.world.appearance import Appearance
from irlvla.world.camera import lens_of
from irlvla.world.logs import KeyFrame, SceneObject, frame_records
from irlvla.world.presets import PRESETS, WorldPreset
from irlvla.world.raster import MATT, MeshBuilder, blank, draw, nearest_first
from irlvla.world.rig import MountedCamera, cameras_of
from irlvla.world.sensors import Look, SensorSuite
from irlvla.world.shading import noise_texture
from irlvla.world.street import SIGNAL_BEYOND_STOP_M

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

RICH = PRESETS["looks"]
STRAIGHT = replace(RICH, lens_distortion=False)
SMALL = replace(RICH, image_width_px=256, image_height_px=144, cameras=("CAM_F0",))
FRONT = replace(RICH, cameras=("CAM_F0",))


def navsim_pixels(record: dict, points_ego: Array) -> Array:
    """Pixels as NAVSIM draws boxes: its `_transform_annotations_to_camera` and `_transform_points_to_image`."""
    to_camera = np.eye(4)
    to_camera[:3, :3] = np.linalg.inv(record["sensor2lidar_rotation"])
    to_camera[:3, 3] = -to_camera[:3, :3] @ record["sensor2lidar_translation"]
    seen = (to_camera @ np.concatenate([points_ego, np.ones((len(points_ego), 1))], axis=1).T).T[:, :3]
    pixels = (record["cam_intrinsic"] @ seen.T).T
    return pixels[:, :2] / pixels[:, 2:]


def bent_pixels(record: dict, points_ego: Array) -> Array:
    """Pixels of points in an image that keeps the lens distortion, by OpenCV."""
    camera = Camera(
        "", None, record["sensor2lidar_rotation"], record["sensor2lidar_translation"], record["cam_intrinsic"],
        record["distortion"],
    )  # fmt: skip
    seen = (points_ego - camera.translation_ego) @ camera.rotation_ego
    return cv2.projectPoints(seen, np.zeros(3), np.zeros(3), camera.intrinsic, camera.distortion)[0].reshape(-1, 2)


def edges_of(box: Array) -> Array:
    """Points [N, 3] along all edges of a box [7]."""
    ring = box_corners(box[[0, 1, 6, 3, 4]])
    low, high = box[2] - box[5] / 2, box[2] + box[5] / 2
    share = np.linspace(0, 1, 21)[:, None]
    sides = [ring[k] + share * (ring[(k + 1) % 4] - ring[k]) for k in range(4)]
    rims = [np.concatenate([side, np.full((21, 1), z)], axis=1) for side in sides for z in (low, high)]
    posts = [
        np.concatenate([np.repeat(corner[None], 21, axis=0), low + share * (high - low)], axis=1) for corner in ring
    ]
    return np.concatenate([*rims, *posts])


def drawn_extent(preset: WorldPreset, camera: MountedCamera, box: Array) -> Array:
    """[4] least and greatest column and row of the pixels that a solid box covers at least by half."""
    build = MeshBuilder()
    ring = box_corners(box[[0, 1, 6, 3, 4]])
    low = box[2] - box[5] / 2 - GROUND_Z_M
    for k in range(4):
        a, b = ring[k], ring[(k + 1) % 4]
        build.face(np.array([[*a, low], [*b, low], [*b, low + box[5]], [*a, low + box[5]]]), (0.5, 0.5, 0.5), MATT)
    for z in (low, low + box[5]):
        build.face(np.concatenate([ring, np.full((4, 1), z)], axis=1), (0.5, 0.5, 0.5), MATT)
    mesh = build.mesh()
    traced = lens_of(camera)
    view = traced.view(camera.rotation_ego, camera.translation_ego - [0, 0, GROUND_Z_M])
    ids, nearness = blank(view)
    draw(ids, nearness, np.zeros((len(mesh.start) - 1, 3)), mesh, nearest_first(mesh, 0.0, 0.0), view, noise_texture())
    covered = (ids.reshape(-1)[traced.lookup] >= 0).mean(axis=-1) >= 0.5
    rows, columns = np.nonzero(covered)
    return np.array([columns.min(), columns.max(), rows.min(), rows.max()], dtype=float)


def box_before(record: dict) -> Array:
    """A box 14 m ahead of a camera and a little to its right, on the street, in the ego frame."""
    rotation, position = record["sensor2lidar_rotation"], record["sensor2lidar_translation"]
    x, y = (position + 14.0 * rotation[:, 2] + 1.5 * rotation[:, 0])[:2]
    return np.array([x, y, GROUND_Z_M + 0.8, 4.4, 1.8, 1.6, 0.4])


def logged_camera(preset: WorldPreset, name: str) -> tuple[MountedCamera, dict]:
    """A camera that renders a log, and what the log says of it."""
    city = street(60.0)
    record = frame_records([moment(city)], city, [], "some-log", preset, 0)[0]
    vehicle = int(record["vehicle_name"].removeprefix("veh-"))
    return cameras_of(preset, vehicle)[name], record["cams"][name]


@pytest.mark.parametrize("name", CAMERA_NAMES)
def test_a_box_is_drawn_where_navsim_projects_it(name: str) -> None:
    camera, record = logged_camera(STRAIGHT, name)
    assert not record["distortion"].any()
    box = box_before(record)
    pixels = navsim_pixels(record, edges_of(box))
    extent = [pixels[:, 0].min(), pixels[:, 0].max(), pixels[:, 1].min(), pixels[:, 1].max()]
    np.testing.assert_allclose(drawn_extent(STRAIGHT, camera, box), extent, atol=1.0)


@pytest.mark.parametrize("name", CAMERA_NAMES)
def test_a_box_is_drawn_where_the_logged_lens_bends_it_to(name: str) -> None:
    camera, record = logged_camera(RICH, name)
    assert record["distortion"][0] < -0.3
    box = box_before(record)
    # To the side, where the lens bends most.
    box[:2] += 5.5 * record["sensor2lidar_rotation"][:2, 0]
    pixels = bent_pixels(record, edges_of(box))
    extent = [pixels[:, 0].min(), pixels[:, 0].max(), pixels[:, 1].min(), pixels[:, 1].max()]
    drawn = drawn_extent(RICH, camera, box)
    assert np.abs(navsim_pixels(record, edges_of(box))[:, 0].max() - extent[1]) > 4.0
    inside = np.array([0.0, RICH.image_width_px - 1.0, 0.0, RICH.image_height_px - 1.0])
    expected = np.array([max(extent[0], 0), min(extent[1], inside[1]), max(extent[2], 0), min(extent[3], inside[3])])
    np.testing.assert_allclose(drawn, expected, atol=1.2)


def test_our_own_projection_agrees_with_the_logged_lens() -> None:
    _, record = logged_camera(RICH, "CAM_L0")
    camera = Camera(
        "CAM_L0", None, record["sensor2lidar_rotation"], record["sensor2lidar_translation"], record["cam_intrinsic"],
        record["distortion"],
    )  # fmt: skip
    points = edges_of(box_before(record))
    ours, seen = project_points(points, lens(camera, (RICH.image_width_px, RICH.image_height_px)))
    assert seen.all()
    np.testing.assert_allclose(ours, bent_pixels(record, points), atol=1e-6)


def suite_and_look(preset: WorldPreset, appearance: Appearance, length_m: float = 60.0) -> tuple[SensorSuite, Look]:
    suite = SensorSuite(street(length_m), NOTHING, preset)
    return suite, suite.look_of(appearance, "some-log")


def render(suite: SensorSuite, look: Look, *objects: SceneObject, letter: str = "r", length_m: float = 60.0) -> Image:
    return suite.render(moment(street(length_m), *objects, letter=letter), look)[0]


def test_an_annotated_cone_is_drawn_standing_in_its_logged_box() -> None:
    suite, look = suite_and_look(replace(FRONT, lens_distortion=False), day())
    cone = thing("traffic_cone", 12.0, -1.0, (1.2, 1.2, 2.4))
    with_cone, without = render(suite, look, cone), render(suite, look)
    rows, columns = np.nonzero(np.abs(with_cone.astype(int) - without).max(axis=-1) > 24)
    city = street(60.0)
    record = frame_records([moment(city, cone)], city, [], "some-log", FRONT, 0)[0]
    box = record["anns"]["gt_boxes"][0]
    assert box[2] - box[5] / 2 == pytest.approx(GROUND_Z_M)
    pixels = navsim_pixels({**record["cams"]["CAM_F0"]}, edges_of(box))
    assert columns.min() == pytest.approx(pixels[:, 0].min(), abs=2.0)
    assert columns.max() == pytest.approx(pixels[:, 0].max(), abs=2.0)
    assert rows.max() == pytest.approx(pixels[:, 1].max(), abs=2.0)
    assert rows.min() == pytest.approx(pixels[:, 1].min(), abs=4.0)


SKIES = {
    "clear day": day("day", "clear"),
    "low sun": day("low sun", "fair"),
    "rain": day(rain=0.8),
    "fog": day(fog=0.2),
    "dusk": day("dusk", "fair"),
    "night": day("night", "clear"),
}


@pytest.mark.parametrize("sky", SKIES)
@pytest.mark.parametrize("preset", [FRONT, SMALL], ids=["480x270", "256x144"])
def test_a_traffic_light_can_be_read_at_40_m(preset: WorldPreset, sky: str) -> None:
    length = 40.0 + 1.7 - SIGNAL_BEYOND_STOP_M
    suite, look = suite_and_look(preset, SKIES[sky], length)
    head = suite.signal_heads(10)[0]
    colours = {}
    for letter, lamp in (("r", 0), ("y", 1), ("G", 2)):
        image = render(suite, look, letter=letter, length_m=length)
        lens_at = head.at - [0, 0, -GROUND_Z_M]
        lens_at[2] += (1 - lamp) * 1.06 * head.scale / 3
        camera = look.cameras["CAM_F0"]
        seen = (lens_at - camera.translation_ego) @ camera.rotation_ego
        u, v = cv2.projectPoints(seen.reshape(1, 3), np.zeros(3), np.zeros(3), camera.intrinsic, camera.distortion)[0][
            0, 0
        ]
        assert seen[2] == pytest.approx(40.0, abs=1.0)
        window = image[round(v) - 1 : round(v) + 2, round(u) - 1 : round(u) + 2].reshape(-1, 3).astype(float)
        colours[letter] = window[np.argmax(window.max(axis=1))]
    red, yellow, green = colours["r"], colours["y"], colours["G"]
    assert red[0] > max(1.35 * red[1], 140), red
    assert yellow.min() == yellow[2] < yellow[1] / 1.2, yellow
    assert 0.55 * yellow[0] < yellow[1] < 1.1 * yellow[0], yellow
    assert green[1] > max(1.2 * green[0], 130), green


def reddest(image: Image) -> float:
    pixels = image.astype(float)
    return float((pixels[..., 0] - pixels[..., 1:].max(axis=-1)).max())


def test_brakes_and_turns_light_up() -> None:
    suite, look = suite_and_look(FRONT, day())
    size = (4.5, 1.8, 1.45)
    calm = render(suite, look, thing("car1", 14.0, 0.0, size), letter="O")
    braking = render(suite, look, thing("car1", 14.0, 0.0, size, braking=True), letter="O")
    assert reddest(braking) > reddest(calm) + 40
    left = render(suite, look, thing("car1", 14.0, 0.0, size, indicator=1), letter="O")
    right = render(suite, look, thing("car1", 14.0, 0.0, size, indicator=-1), letter="O")
    where = {}
    for name, image in (("left", left), ("right", right)):
        changed = np.abs(image.astype(int) - calm).max(axis=-1) > 40
        where[name] = np.nonzero(changed)[1].mean()
    assert where["left"] < where["right"] - 5


def test_the_sun_throws_a_shadow_away_from_itself_and_a_cloudy_sky_none() -> None:
    car = thing("van1", 14.0, 0.0, (6.0, 2.05, 2.5), 1.57)
    darker = {}
    for sky in ("clear", "overcast"):
        look_of_sky = day("day", sky)
        sun = np.array([0.0, 0.8, 0.6])
        sunny = replace(look_of_sky, weather=replace(look_of_sky.weather, sun=sun))
        suite, look = suite_and_look(FRONT, sunny)
        change = render(suite, look, car).astype(int).mean(axis=-1) - render(suite, look).mean(axis=-1)
        # Street 5 m to the right and left of the car: the sun stands on the left.
        for side in (-1, 1):
            spot = np.array([[14.0, side * 4.2, GROUND_Z_M]])
            camera = look.cameras["CAM_F0"]
            seen = (spot - camera.translation_ego) @ camera.rotation_ego
            u, v = cv2.projectPoints(seen, np.zeros(3), np.zeros(3), camera.intrinsic, camera.distortion)[0][0, 0]
            darker[sky, side] = -change[round(v) - 1 : round(v) + 2, round(u) - 1 : round(u) + 2].mean()
    assert darker["clear", -1] > 25
    assert abs(darker["clear", 1]) < 8
    assert abs(darker["overcast", -1]) < 8


def test_headlights_light_the_street_ahead_by_night() -> None:
    contrast = {}
    for time in ("night", "day"):
        suite, look = suite_and_look(FRONT, day(time, "clear"))
        image = render(suite, look).astype(float).mean(axis=-1)
        contrast[time] = image[200:215, 220:260].mean() / image[200:215, :40].mean()
    assert contrast["night"] > 1.6 * contrast["day"]


def test_each_log_looks_different_and_the_same_log_always_alike(tmp_path: Path) -> None:
    preset = replace(SMALL, cameras=("CAM_F0", "CAM_B0"))
    city = street(60.0)
    frames: list[KeyFrame] = [moment(city, thing("car1", 14.0, 0.0, (4.5, 1.8, 1.45)))]
    written = []
    for folder, log, seed in (("a", "log-1", 1), ("b", "log-1", 1), ("c", "log-2", 1), ("d", "log-1", 2)):
        blobs = tmp_path / folder / log
        SensorSuite(city, NOTHING, preset).write(frames, blobs, np.random.default_rng(seed), blobs.name)
        written.append({file.relative_to(blobs).as_posix(): file.read_bytes() for file in blobs.rglob("*.*")})
    assert written[0] == written[1]
    assert set(written[0]) == {f"{name}/{'0' * 16}.{end}" for name, end in
                               (("CAM_F0", "jpg"), ("CAM_B0", "jpg"), ("MergedPointCloud", "pcd"))}  # fmt: skip
    # Another log of the same weather is driven by another vehicle, whose cameras hang a little differently.
    for other in written[2:]:
        assert other[f"CAM_F0/{'0' * 16}.jpg"] != written[0][f"CAM_F0/{'0' * 16}.jpg"]
    picture = load_image(Camera("CAM_F0", tmp_path / f"a/log-1/CAM_F0/{'0' * 16}.jpg", *(np.zeros(1),) * 4))
    assert picture.shape == (144, 256, 3)
    assert picture.std() > 15
    assert len(load_point_cloud(tmp_path / f"a/log-1/MergedPointCloud/{'0' * 16}.pcd")) > 3000


def test_an_image_does_not_depend_on_which_others_are_rendered() -> None:
    alone, alone_look = suite_and_look(replace(SMALL, cameras=("CAM_B0",)), day())
    both, both_look = suite_and_look(replace(SMALL, cameras=("CAM_F0", "CAM_B0")), day())
    frame = moment(street(60.0))
    np.testing.assert_array_equal(alone.render(frame, alone_look)[0], both.render(frame, both_look)[1])


def test_cameras_drawn_at_the_same_time_see_the_same() -> None:
    preset = replace(SMALL, cameras=("CAM_F0", "CAM_L0", "CAM_B0"))
    one, look = suite_and_look(preset, day(rain=0.6))
    several = SensorSuite(street(60.0), NOTHING, preset, threads=3)
    frame = moment(street(60.0))
    for alone, together in zip(one.render(frame, look), several.render(frame, look), strict=True):
        np.testing.assert_array_equal(alone, together)
