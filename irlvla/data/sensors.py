"""Camera images and LiDAR point clouds, as nuPlan stores them."""

from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from irlvla.errors import DataError, SceneDataError
from irlvla.types import Camera

POINT_FIELDS = ("x", "y", "z", "intensity", "ring", "lidar_info")
"""Columns of a point cloud, under nuPlan's names; `lidar_info` is the id of the LiDAR that saw the point."""

_MAX_HEADER_BYTES = 4096
_HEADER_KEYS = ("FIELDS", "SIZE", "TYPE", "COUNT", "POINTS")
_ELEMENT_KINDS = {"F": "f", "I": "i", "U": "u"}


def load_image(camera: Camera, *, scene_token: str | None = None) -> NDArray[np.uint8]:
    """Decode one camera image.

    Args:
        camera: Whose image to read.
        scene_token: Named in the error, so that the scene can be left out.
    Returns:
        [H, W, 3] RGB.
    Raises:
        SceneDataError: The image is missing or damaged, and `scene_token` is given.
        DataError: The same without a token.
    """
    if camera.image_path is None:
        raise _image_error(scene_token, f"the log names no image of {camera.name}, or was opened without its sensors")
    try:
        content = camera.image_path.read_bytes()
    except OSError as error:
        raise _image_error(
            scene_token,
            f"{camera.image_path}: the image of {camera.name} cannot be read ({error.strerror}); "
            "download the sensor blobs of this log, or leave the scene out",
        ) from error
    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True)
    except ValueError as error:
        raise _image_error(
            scene_token, f"{camera.image_path}: damaged JPEG ({error}); download it again, or leave the scene out"
        ) from error
    return image


def load_point_cloud(path: Path) -> NDArray[np.float32]:
    """Read a merged LiDAR sweep.

    Returns:
        [N, 6] x, y, z (m, LiDAR frame, which is the ego frame), intensity, ring, LiDAR id (-1 where not stored).
        Points without a finite position are left out.
    Raises:
        DataError: The file is missing, cut off, or no binary point cloud.
    Source: nuplan-devkit v1.2 `PointCloud.parse`, `to_pcd_bin2`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: the point cloud cannot be read ({error.strerror}); download the sensor blobs of this log"
        ) from error
    element, count, start = _read_header(content, path)
    if count * element.itemsize > len(content) - start:
        raise DataError(
            f"{path}: cut off, {count} points need {count * element.itemsize} bytes but {len(content) - start} are "
            "there; download it again"
        )
    stored = np.frombuffer(content, dtype=element, count=count, offset=start)
    points = np.zeros((count, len(POINT_FIELDS)), dtype=np.float32)
    points[:, POINT_FIELDS.index("lidar_info")] = -1
    with np.errstate(over="ignore", invalid="ignore"):
        for column, name in enumerate(POINT_FIELDS):
            if name in (element.names or ()):
                points[:, column] = stored[name]
    x, y, z = points[:, :3].T
    return points[np.isfinite(x) & np.isfinite(y) & np.isfinite(z)]


def write_point_cloud(path: Path, points: NDArray[np.float32]) -> None:
    """Write a sweep so that the official devkit and `load_point_cloud` read it back exactly.

    Args:
        path: File to write; its folder must exist.
        points: [N, 6] as `load_point_cloud` returns them. Intensity, ring and LiDAR id take one byte each where they
            are whole numbers below 256, else four.
    """
    if points.ndim != 2 or points.shape[1] != len(POINT_FIELDS):
        raise ValueError(f"a point cloud has [N, 6] points, got shape {points.shape}")
    points = points.astype(np.float32)
    kinds = ["f4"] * 3
    for column in range(3, len(POINT_FIELDS)):
        values = points[:, column]
        fits = bool(((values >= 0) & (values <= 255) & (values == np.floor(values))).all())
        kinds.append("u1" if fits else "f4")
    packed = np.empty(len(points), dtype=[(name, "<" + kind) for name, kind in zip(POINT_FIELDS, kinds, strict=True)])
    for column, name in enumerate(POINT_FIELDS):
        packed[name] = points[:, column]
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\n"
        "VERSION 0.7\n"
        f"FIELDS {' '.join(POINT_FIELDS)}\n"
        f"SIZE {' '.join(kind[1] for kind in kinds)}\n"
        f"TYPE {' '.join(kind[0].upper() for kind in kinds)}\n"
        "COUNT 1 1 1 1 1 1\n"
        f"WIDTH {len(points)}\n"
        "HEIGHT 1\n"
        "VIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {len(points)}\n"
        "DATA binary\n"
    )
    path.write_bytes(header.encode("ascii") + packed.tobytes())


def _image_error(scene_token: str | None, reason: str) -> DataError:
    return DataError(reason) if scene_token is None else SceneDataError(scene_token, reason)


def _read_header(content: bytes, path: Path) -> tuple[np.dtype[np.void], int, int]:
    """Element type of a point, number of points, and where they start."""
    header: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in header:
        end = content.find(b"\n", start, _MAX_HEADER_BYTES)
        if end < 0:
            raise DataError(f"{path}: not a point cloud, its header does not end; download it again")
        words = content[start:end].decode("ascii", errors="replace").split()
        start = end + 1
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
    try:
        fields, sizes, kinds, counts, (points,) = (header[key] for key in _HEADER_KEYS)
        if header["DATA"] != ["binary"] or any(count != "1" for count in counts):
            raise ValueError("only binary points with one value a field are known")
        element = np.dtype(
            [
                (name, f"<{_ELEMENT_KINDS[kind]}{int(size)}")
                for name, kind, size in zip(fields, kinds, sizes, strict=True)
            ]
        )
        count = int(points)
        if count < 0 or not {"x", "y", "z"} <= set(fields):
            raise ValueError("points without x, y and z")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a point cloud of nuPlan's kind ({error}); download it again") from error
    return element, count, start
