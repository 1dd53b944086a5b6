"""What is seen where: flat polygons and round blobs, drawn as numbers into a buffer of samples.

Drawing only decides which shape every sample belongs to; colours come later, once a pixel (`irlvla/world/shading.py`),
and the LiDAR reads the same buffers. Shapes on the street's level are painted in their given order; whatever stands
upright is tested against the nearness drawn so far.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NEAR_M = 0.25
MAX_VERTICES = 512
DETAILS = 8
"""Numbers that a shape carries for its material."""
SKY, LAND = -2, -1
"""Samples that no shape covers: above the horizon, and open land below it."""

# Materials: how a shape answers light, and what varies over its surface.
(
    MATT, ASPHALT, PAINT, PAVING, LAWN, CONCRETE, FACADE, ROOF, GLASS, GLOSS, GLOW, FOLIAGE, BARK, STRIPES, FENCE, SIGN,
) = range(16)  # fmt: skip
CUT_OUT = 0.56
"""Share of a crown that is gaps, at its rim."""


class Mesh(NamedTuple):
    """Shapes in metres: first what lies on the street's level, in painting order, then what stands, then blobs."""

    vertices: Array
    """[V, 3] of the polygons."""
    start: NDArray[np.int64]
    """[P + 1] first vertex of each polygon."""
    flat: int
    """How many of the polygons lie at height 0."""
    blobs: Array
    """[B, 5] ellipsoids: center x, y, z, horizontal and vertical radius."""
    colour: Array
    """[P + B, 3] linear albedo, 0 to 1; of a GLOW, what the eye sees of it."""
    material: NDArray[np.int64]
    """[P + B]"""
    detail: Array
    """[P + B, DETAILS] what the material reads; see MeshBuilder."""
    one_sided: NDArray[np.bool_]
    """[P] seen only from where its vertices run counter-clockwise."""
    center: Array
    """[P + B, 3]"""
    radius: Array
    """[P + B] of the sphere around the center that holds the shape."""
    reach: Array
    """[P + B] how far from the ego it is still drawn, m."""


class MeshBuilder:
    """Collects shapes into a Mesh; flat ones and upright ones may come in any order."""

    def __init__(self) -> None:
        self._polygons: dict[bool, list[tuple[Array, tuple[float, ...], int, tuple[float, ...], bool, float]]]
        self._polygons = {True: [], False: []}
        self._blobs: list[tuple[tuple[float, ...], tuple[float, ...], int, tuple[float, ...], float]] = []

    def flat(self, ring: Array, colour: tuple[float, ...], material: int = MATT, *, detail: tuple[float, ...] = (),
             reach_m: float = 110.0) -> None:  # fmt: skip
        """Add a polygon [N, 2] on the street's level; later ones cover earlier ones."""
        points = np.concatenate([ring, np.zeros((len(ring), 1))], axis=1)
        self._polygons[True].append((points, colour, material, detail, False, reach_m))

    def face(self, vertices: Array, colour: tuple[float, ...], material: int = MATT, *, detail: tuple[float, ...] = (),
             one_sided: bool = False, reach_m: float = 140.0) -> None:  # fmt: skip
        """Add a standing flat polygon [N, 3].

        Args:
            detail: FACADE: corner x, y, direction x, y along the wall, its length and height, seed, style.
                FENCE: corner x, y, direction x, y, bottom, top, bar spacing. GLOW: strength.
        """
        points = np.asarray(vertices, dtype=np.float64)
        self._polygons[False].append((points, colour, material, detail, one_sided, reach_m))

    def blob(self, x: float, y: float, z: float, radius_m: float, radius_z_m: float, colour: tuple[float, ...],
             material: int = FOLIAGE, *, detail: tuple[float, ...] = (), reach_m: float = 140.0) -> None:  # fmt: skip
        """Add an ellipsoid."""
        self._blobs.append(((x, y, z, radius_m, radius_z_m), colour, material, detail, reach_m))

    def mesh(self) -> Mesh:
        """What was collected so far."""
        polygons = self._polygons[True] + self._polygons[False]
        counts = np.array([len(row[0]) for row in polygons], dtype=np.int64)
        start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        vertices = np.concatenate([row[0] for row in polygons]) if polygons else np.zeros((0, 3))
        blobs = np.array([row[0] for row in self._blobs], dtype=np.float64).reshape(-1, 5)
        if len(polygons):
            low = np.minimum.reduceat(vertices, start[:-1])
            high = np.maximum.reduceat(vertices, start[:-1])
        else:
            low = high = np.zeros((0, 3))
        shapes = [row[1:] for row in polygons] + [(row[1], row[2], row[3], False, row[4]) for row in self._blobs]
        detail = np.zeros((len(shapes), DETAILS))
        for row, shape in zip(detail, shapes, strict=True):
            row[: len(shape[2])] = shape[2]
        return Mesh(
            np.ascontiguousarray(vertices),
            start,
            len(self._polygons[True]),
            blobs,
            np.array([shape[0] for shape in shapes], dtype=np.float64).reshape(-1, 3),
            np.array([shape[1] for shape in shapes], dtype=np.int64),
            detail,
            np.array([row[4] for row in polygons], dtype=bool),
            np.concatenate([(low + high) / 2, blobs[:, :3]]),
            np.concatenate([np.linalg.norm(high - low, axis=1) / 2, blobs[:, 3:].max(axis=1, initial=0.0)]),
            np.array([shape[4] for shape in shapes], dtype=np.float64),
        )


@numba.njit(cache=True, error_model="numpy", nogil=True)
def near_shapes(center: Array, radius: Array, reach: Array, x: float, y: float, share: float) -> NDArray[np.int64]:
    """Indices of the shapes within their reach (times `share`) of a place, in their order."""
    found = np.empty(len(radius), dtype=np.int64)
    count = 0
    for k in range(len(radius)):
        dx, dy = center[k, 0] - x, center[k, 1] - y
        far = reach[k] * share + radius[k]
        if dx * dx + dy * dy < far * far:
            found[count] = k
            count += 1
    return found[:count]


def join_meshes(street: Mesh, chosen: NDArray[np.int64], colour: Array, detail: Array, moving: Mesh) -> Mesh:
    """Chosen shapes of the street and all that moves, as one mesh.

    Args:
        chosen: Increasing indices into the street's shapes.
        colour: [P + B, 3] of the street's shapes, in place of their own.
        detail: [P + B, DETAILS] in place of their own.
    """
    polygons = len(street.start) - 1
    cut_flat, cut_blob = np.searchsorted(chosen, [street.flat, polygons])
    faces, blobs = chosen[:cut_blob], chosen[cut_blob:]
    counts = street.start[faces + 1] - street.start[faces]
    start = np.concatenate([[0], np.cumsum(counts)])
    rows = np.repeat(street.start[faces] - start[:-1], counts) + np.arange(start[-1])
    movers = len(moving.start) - 1
    flat, flat_movers = int(cut_flat), moving.flat
    assert flat_movers == 0, "moving things stand on the street, they are not painted on it"

    def together(of_street: NDArray[Any], of_moving: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([of_street[faces], of_moving[:movers], of_street[blobs], of_moving[movers:]])

    return Mesh(
        np.concatenate([street.vertices[rows], moving.vertices]),
        np.concatenate([start, moving.start[1:] + start[-1]]),
        flat,
        np.concatenate([street.blobs[blobs - polygons], moving.blobs]),
        together(colour, moving.colour),
        together(street.material, moving.material),
        together(detail, moving.detail),
        np.concatenate([street.one_sided[faces], moving.one_sided]),
        together(street.center, moving.center),
        together(street.radius, moving.radius),
        together(street.reach, moving.reach),
    )


def nearest_first(mesh: Mesh, x: float, y: float) -> NDArray[np.int64]:
    """Drawing order: paint in its own order, then what stands from near to far, so that hidden samples are skipped."""
    upright = np.arange(mesh.flat, len(mesh.radius))
    far = np.hypot(mesh.center[upright, 0] - x, mesh.center[upright, 1] - y) - mesh.radius[upright]
    return np.concatenate([np.arange(mesh.flat), upright[np.argsort(far, kind="stable")]])


class View(NamedTuple):
    """A pinhole over a grid of samples; OpenCV axes, sample centers at whole numbers."""

    rotation: Array
    """[3, 3] camera to mesh axes."""
    origin: Array
    """[3] in the frame of the mesh, whose height 0 is the street."""
    focal: float
    """Samples."""
    center_column: float
    center_row: float
    rows: int
    columns: int


def blank(view: View) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Shape numbers and nearness (1/depth, 1/m) of a view of the empty, level land."""
    ids = np.empty((view.rows, view.columns), dtype=np.int32)
    nearness = np.empty((view.rows, view.columns), dtype=np.float32)
    _clear(ids, nearness, view.rotation, view.origin[2], view.focal, view.center_column, view.center_row)
    return ids, nearness


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _clear(
    ids: NDArray[np.int32], nearness: NDArray[np.float32], rotation: Array, height_m: float, focal: float,
    center_column: float, center_row: float,
) -> None:  # fmt: skip
    rows, columns = ids.shape
    step = -rotation[2, 0] / focal / height_m
    for v in range(rows):
        at_row = -(rotation[2, 1] * (v - center_row) / focal + rotation[2, 2]) / height_m
        for u in range(columns):
            value = at_row + step * (u - center_column)
            below = value > 1e-5
            ids[v, u] = LAND if below else SKY
            nearness[v, u] = value if below else 0.0


@numba.njit(cache=True, error_model="numpy", nogil=True)
def draw(
    ids: NDArray[np.int32],
    nearness: NDArray[np.float32],
    planes: Array,
    mesh: Mesh,
    order: NDArray[np.int64],
    view: View,
    noise: NDArray[np.float32],
) -> None:
    """Draw a mesh's shapes into a view.

    Args:
        ids: [rows, columns] number of the shape at each sample; begun by `blank`.
        nearness: [rows, columns] 1/depth (1/m) at each sample; begun by `blank`.
        planes: [P, 3] out: nearness of each polygon's plane along a ray (x, y, 1) is planes · (x, y, 1).
        mesh: In the frame of the view's origin.
        order: Shapes in drawing order.
        noise: [2, 256, 256] between 0 and 1; cuts gaps into foliage.
    """
    rotation, origin, focal = view.rotation, view.origin, view.focal
    cu, cv = view.center_column, view.center_row
    rows, columns = ids.shape
    polygons = len(mesh.start) - 1
    left_tan, right_tan = -cu / focal, (columns - 1 - cu) / focal
    top_tan, bottom_tan = -cv / focal, (rows - 1 - cv) / focal
    left_norm, right_norm = np.sqrt(1 + left_tan**2), np.sqrt(1 + right_tan**2)
    top_norm, bottom_norm = np.sqrt(1 + top_tan**2), np.sqrt(1 + bottom_tan**2)
    camera = np.empty((MAX_VERTICES, 3))
    pixel = np.empty((2 * MAX_VERTICES, 2))
    crossing = np.empty((rows, 64))
    crossings = np.zeros(rows, dtype=np.int64)
    for place in range(len(order)):
        p = order[place]
        dx, dy, dz = mesh.center[p, 0] - origin[0], mesh.center[p, 1] - origin[1], mesh.center[p, 2] - origin[2]
        mx = rotation[0, 0] * dx + rotation[1, 0] * dy + rotation[2, 0] * dz
        my = rotation[0, 1] * dx + rotation[1, 1] * dy + rotation[2, 1] * dz
        mz = rotation[0, 2] * dx + rotation[1, 2] * dy + rotation[2, 2] * dz
        radius = mesh.radius[p]
        if (
            mz < NEAR_M - radius
            or mx - left_tan * mz < -radius * left_norm
            or right_tan * mz - mx < -radius * right_norm
            or my - top_tan * mz < -radius * top_norm
            or bottom_tan * mz - my < -radius * bottom_norm
        ):
            continue
        if p >= polygons:
            _draw_blob(ids, nearness, mesh.blobs[p - polygons], mesh.material[p], mesh.detail[p, 0], p, view, mx, my,
                       mz, noise)  # fmt: skip
            continue
        first, count = mesh.start[p], mesh.start[p + 1] - mesh.start[p]
        if count < 3 or count > MAX_VERTICES:
            continue
        behind = 0
        for k in range(count):
            x = mesh.vertices[first + k, 0] - origin[0]
            y = mesh.vertices[first + k, 1] - origin[1]
            z = mesh.vertices[first + k, 2] - origin[2]
            for axis in range(3):
                camera[k, axis] = rotation[0, axis] * x + rotation[1, axis] * y + rotation[2, axis] * z
            if camera[k, 2] < NEAR_M:
                behind += 1
        if behind == count:
            continue
        # Newell's normal: right for any flat polygon, convex or not.
        n0, n1, n2 = 0.0, 0.0, 0.0
        for k in range(count):
            j = k + 1 if k + 1 < count else 0
            n0 += (camera[k, 1] - camera[j, 1]) * (camera[k, 2] + camera[j, 2])
            n1 += (camera[k, 2] - camera[j, 2]) * (camera[k, 0] + camera[j, 0])
            n2 += (camera[k, 0] - camera[j, 0]) * (camera[k, 1] + camera[j, 1])
        size = np.sqrt(n0 * n0 + n1 * n1 + n2 * n2)
        if size < 1e-9:
            continue
        n0, n1, n2 = n0 / size, n1 / size, n2 / size
        plane = n0 * camera[0, 0] + n1 * camera[0, 1] + n2 * camera[0, 2]
        if abs(plane) < 1e-6 or (mesh.one_sided[p] and plane > 0):
            continue
        n0, n1, n2 = n0 / plane, n1 / plane, n2 / plane
        planes[p, 0], planes[p, 1], planes[p, 2] = n0, n1, n2
        corners = 0
        low_v, high_v, low_u, high_u = 1e9, -1e9, 1e9, -1e9
        for k in range(count):
            j = k + 1 if k + 1 < count else 0
            za, zb = camera[k, 2], camera[j, 2]
            if za >= NEAR_M:
                pixel[corners, 0] = focal * camera[k, 0] / za + cu
                pixel[corners, 1] = focal * camera[k, 1] / za + cv
                corners += 1
            if (za >= NEAR_M) != (zb >= NEAR_M):
                t = (NEAR_M - za) / (zb - za)
                pixel[corners, 0] = focal * (camera[k, 0] + t * (camera[j, 0] - camera[k, 0])) / NEAR_M + cu
                pixel[corners, 1] = focal * (camera[k, 1] + t * (camera[j, 1] - camera[k, 1])) / NEAR_M + cv
                corners += 1
        for k in range(corners):
            low_v, high_v = min(low_v, pixel[k, 1]), max(high_v, pixel[k, 1])
            low_u, high_u = min(low_u, pixel[k, 0]), max(high_u, pixel[k, 0])
        if high_u < 0 or low_u > columns - 1 or high_v < 0 or low_v > rows - 1:
            continue
        top, bottom = max(0, int(np.ceil(low_v))), min(rows, int(np.ceil(high_v)))
        for v in range(top, bottom):
            crossings[v] = 0
        for k in range(corners):
            j = k + 1 if k + 1 < corners else 0
            ua, va, ub, vb = pixel[k, 0], pixel[k, 1], pixel[j, 0], pixel[j, 1]
            if va > vb:
                ua, va, ub, vb = ub, vb, ua, va
            if va == vb or vb <= top or va > bottom:
                continue
            slope = (ub - ua) / (vb - va)
            begin, end = max(top, int(np.ceil(va))), min(bottom, int(np.ceil(vb)))
            for v in range(begin, end):
                if crossings[v] < 64:
                    crossing[v, crossings[v]] = ua + slope * (v - va)
                    crossings[v] += 1
        tested = p >= mesh.flat
        fence = mesh.material[p] == FENCE
        step = n0 / focal
        for v in range(top, bottom):
            found = crossings[v]
            for a in range(1, found):
                value = crossing[v, a]
                b = a - 1
                while b >= 0 and crossing[v, b] > value:
                    crossing[v, b + 1] = crossing[v, b]
                    b -= 1
                crossing[v, b + 1] = value
            base = n1 * (v - cv) / focal + n2 - step * cu
            for a in range(0, found - 1, 2):
                left = max(0, int(np.ceil(crossing[v, a])))
                right = min(columns, int(np.ceil(crossing[v, a + 1])))
                if not tested:
                    for u in range(left, right):
                        if ids[v, u] != SKY:
                            ids[v, u] = p
                elif fence:
                    for u in range(left, right):
                        near = base + step * u
                        if near > nearness[v, u] and _is_bar(
                            mesh.detail[p], (u - cu) / focal, (v - cv) / focal, near, rotation, origin, focal, u, v
                        ):
                            nearness[v, u] = near
                            ids[v, u] = p
                else:
                    for u in range(left, right):
                        near = np.float32(base + step * u)
                        if near > nearness[v, u]:
                            nearness[v, u] = near
                            ids[v, u] = p


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _is_bar(
    detail: Array, ray_x: float, ray_y: float, near: float, rotation: Array, origin: Array, focal: float, u: int, v: int
) -> bool:
    """Whether a fence is solid where a ray meets its plane."""
    depth = 1.0 / near
    z = origin[2] + depth * (rotation[2, 0] * ray_x + rotation[2, 1] * ray_y + rotation[2, 2])
    spacing, bottom, top = detail[6], detail[4], detail[5]
    if z > top - 0.06 or (bottom + 0.08 < z < bottom + 0.14):
        return True
    x = origin[0] + depth * (rotation[0, 0] * ray_x + rotation[0, 1] * ray_y + rotation[0, 2])
    y = origin[1] + depth * (rotation[1, 0] * ray_x + rotation[1, 1] * ray_y + rotation[1, 2])
    if depth > 0.6 * spacing * focal:
        # Bars thinner than a sample: keep their share of the samples instead of a moire.
        return ((u * 7 + v * 3) & 3) == 0
    s = ((x - detail[0]) * detail[2] + (y - detail[1]) * detail[3]) / spacing
    s -= np.floor(s)
    return s < 0.22


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _draw_blob(
    ids: NDArray[np.int32], nearness: NDArray[np.float32], blob: Array, material: int, seed: float, number: int,
    view: View, mx: float, my: float, mz: float, noise: NDArray[np.float32],
) -> None:  # fmt: skip
    rotation, origin, focal, cu, cv = view.rotation, view.origin, view.focal, view.center_column, view.center_row
    rows, columns = ids.shape
    flat, tall = blob[3], blob[4]
    largest = max(flat, tall)
    if mz - largest > NEAR_M:
        near, far = focal / (mz - largest), focal / (mz + largest)
        left = int(np.floor(cu + (mx - largest) * (near if mx < largest else far)))
        right = int(np.ceil(cu + (mx + largest) * (near if mx > -largest else far))) + 1
        top = int(np.floor(cv + (my - largest) * (near if my < largest else far)))
        bottom = int(np.ceil(cv + (my + largest) * (near if my > -largest else far))) + 1
    else:
        left, right, top, bottom = 0, columns, 0, rows
    # In the frame where the blob is a unit sphere.
    ox, oy, oz = (origin[0] - blob[0]) / flat, (origin[1] - blob[1]) / flat, (origin[2] - blob[2]) / tall
    outside = ox * ox + oy * oy + oz * oz - 1.0
    if outside <= 0.0:
        return
    leafy = material == FOLIAGE
    # Samples that show something nearer than any point of the blob; the margin is for rounding.
    nearest = 1.001 / (mz - largest) if mz - largest > NEAR_M else np.inf
    for v in range(max(0, top), min(rows, bottom)):
        ry = (v - cv) / focal
        for u in range(max(0, left), min(columns, right)):
            if nearness[v, u] > nearest:
                continue
            rx = (u - cu) / focal
            dx = (rotation[0, 0] * rx + rotation[0, 1] * ry + rotation[0, 2]) / flat
            dy = (rotation[1, 0] * rx + rotation[1, 1] * ry + rotation[1, 2]) / flat
            dz = (rotation[2, 0] * rx + rotation[2, 1] * ry + rotation[2, 2]) / tall
            a = dx * dx + dy * dy + dz * dz
            b = ox * dx + oy * dy + oz * dz
            inside = b * b - a * outside
            if inside <= 0.0 or b >= 0.0:
                continue
            t = (-b - np.sqrt(inside)) / a
            if t < NEAR_M or 1.0 / t <= nearness[v, u]:
                continue
            if leafy:
                # Gaps between leaves, in the plane of the image; more of them towards the crown's rim.
                fine = max(0.045, 0.8 * t / focal)
                i = int((t * rx - mx) / fine + seed * 977.0 + 4096.0) & 255
                j = int((t * ry - my) / fine + seed * 571.0 + 4096.0) & 255
                if 0.4 * noise[0, j, i] + 0.6 * noise[1, j, i] < CUT_OUT * (1.12 - inside / a):
                    continue
            nearness[v, u] = 1.0 / t
            ids[v, u] = number
