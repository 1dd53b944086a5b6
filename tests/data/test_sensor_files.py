"""Images and point clouds: read right, or refused with the file and the cure."""

from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from irlvla.data.sensors import load_image, load_point_cloud, write_point_cloud
from irlvla.errors import DataError, SceneDataError
from irlvla.types import Camera


def camera(image_path: Path | None) -> Camera:
    return Camera("CAM_F0", image_path, np.eye(3), np.zeros(3), np.eye(3), np.zeros(5))


def jpeg() -> bytes:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    return simplejpeg.encode_jpeg(np.stack([ramp, ramp * 0, 255 - ramp], axis=-1), quality=95, colorspace="RGB")


def points(count: int = 1000) -> np.ndarray:
    rng = np.random.default_rng(0)
    coordinates = rng.normal(0, 30, (count, 3))
    return np.column_stack(
        [coordinates, rng.integers(0, 256, count), rng.integers(0, 40, count), rng.integers(0, 5, count)]
    ).astype(np.float32)


def test_image_is_rgb(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    image = load_image(camera(tmp_path / "a.jpg"))
    assert image.shape == (64, 256, 3)
    assert image.dtype == np.uint8
    assert image[32, 250, 0] > 230
    assert image[32, 250, 2] < 30


def test_missing_image_names_scene_file_and_cure(tmp_path: Path) -> None:
    with pytest.raises(SceneDataError, match=r"scene 0123: .*a\.jpg.*CAM_F0.*download the sensor blobs"):
        load_image(camera(tmp_path / "a.jpg"), scene_token="0123")
    with pytest.raises(DataError, match="names no image of CAM_F0"):
        load_image(camera(None))


@pytest.mark.parametrize("length", [0, 3, 100, 900])
def test_truncated_image_is_an_error(tmp_path: Path, length: int) -> None:
    assert length < len(jpeg())
    (tmp_path / "a.jpg").write_bytes(jpeg()[:length])
    with pytest.raises(DataError, match=r"a\.jpg: damaged JPEG"):
        load_image(camera(tmp_path / "a.jpg"))


@pytest.mark.parametrize("whole_numbers", [True, False])
def test_point_cloud_survives_writing_and_reading(tmp_path: Path, whole_numbers: bool) -> None:
    cloud = points()
    if not whole_numbers:
        cloud[:, 3] += 0.25
        cloud[:, 4] = -1
    write_point_cloud(tmp_path / "a.pcd", cloud)
    np.testing.assert_array_equal(load_point_cloud(tmp_path / "a.pcd"), cloud)


def test_empty_point_cloud_is_no_error(tmp_path: Path) -> None:
    write_point_cloud(tmp_path / "a.pcd", points(0))
    assert load_point_cloud(tmp_path / "a.pcd").shape == (0, 6)


def test_point_cloud_of_another_field_order_and_width(tmp_path: Path) -> None:
    stored = np.zeros(3, dtype=[("ring", "<u2"), ("x", "<f8"), ("y", "<f4"), ("z", "<f4")])
    stored["x"], stored["ring"] = [1, 2, np.nan], [7, 8, 9]
    header = (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS ring x y z\nSIZE 2 8 4 4\nTYPE U F F F\nCOUNT 1 1 1 1\nWIDTH 3\nHEIGHT 1\n"
        "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 3\nDATA binary\n"
    )
    # Real files end in padding.
    (tmp_path / "a.pcd").write_bytes(header.encode() + stored.tobytes() + b"\0" * 40)
    np.testing.assert_array_equal(load_point_cloud(tmp_path / "a.pcd"), [[1, 0, 0, 0, 7, -1], [2, 0, 0, 0, 8, -1]])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"DATA binary", b"DATA ascii"),
        (b"POINTS 1000", b"POINTS 1001"),
        (b"POINTS 1000", b"POINTS -4"),
        (b"FIELDS x y z", b"FIELDS u v w"),
        (b"SIZE 4 4 4", b"SIZE 4 4"),
        (b"TYPE F", b"TYPE Q"),
        (b"SIZE 4", b"SIZE 5"),
        (b"DATA", b"DATE"),
    ],
)
def test_damaged_point_cloud_is_an_error(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "a.pcd"
    write_point_cloud(path, points())
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(DataError, match=r"a\.pcd"):
        load_point_cloud(path)


def test_missing_point_cloud_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="download the sensor blobs"):
        load_point_cloud(tmp_path / "a.pcd")
