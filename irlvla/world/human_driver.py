"""The human driver: SUMO decides where a vehicle goes, a person with a style of their own takes it there.

SUMO's motion is too regular to call human: everyone keeps to the middle of the lane, holds the speed to the centimetre
and steps on the throttle as soon as the front bumper leaves a bend. Here the vehicle stays near what SUMO drove, but
off the middle by habit and wander, never quite at constant speed, slow until its rear axle is round the bend, and now
and then with a lapse. What it drives a kinematic bicycle can drive.
"""

import hashlib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve_banded, cholesky_banded, solveh_banded
from scipy.ndimage import gaussian_filter1d

from irlvla.geometry import EGO_LENGTH_M, EGO_WIDTH_M
from irlvla.world.motion import PATH_STEP_M, STEP_S, Outline, Track, assembled_track, resampled, trailed_path

Array = NDArray[np.float64]
Lanes = NDArray[np.object_]

# Bounds a driver keeps to, inside NAVSIM's comfort bounds (`irlvla.scoring.comfort`).
MAX_ACCELERATION_MPS2 = 2.0
MAX_DECELERATION_MPS2 = 3.8
MAX_YAW_ACCELERATION_RADPS2 = 0.4

MAX_LAG_M = 5.0
"""The others move as if the vehicle were where SUMO has it. A driver who falls back further takes bends faster."""
_SUMO_SPEED_SHARES = (0.0, 0.75, 0.85, 0.95, 1.05)

# How far a driver looks: slower wishes than these are followed, faster ones are smoothed away.
_SPEED_SMOOTHING_S = 0.55
_PATH_SMOOTHING_S = 0.4
_PATH_SMOOTHING_M = (2.5, 5.0)
# How a driver slows down for a bend and speeds up behind it.
_INTO_BEND_MPS2, _OUT_OF_BEND_MPS2 = 2.0, 1.4

_ITERATIONS = 100
_STEP_SIZES = (4.0, 2.0)
_BOUND_WEIGHT = 400.0

_BEND_LENGTH_M = 5.0
_TYPICAL_YAW_RATE_RADPS, _TYPICAL_LATERAL_MPS2 = 0.32, 2.0
_CRAWL_MPS = 2.0
_WAITING_GAP_M = 2.0

_STANDING_MPS = 0.05
_SWING_S = 2.5
_WANDER_LENGTH_M = 18.0
_TURN_RAD = np.radians(50.0)


@dataclass(frozen=True)
class DrivingStyle:
    """What one driver does that another does not."""

    habit_m: float
    """Where in the lane they keep, left of its middle."""
    wander_m: float
    """Standard deviation of their wandering about it."""
    swing_share: float
    """Standard deviation of their position's slow swings, as a share of the way of one second."""
    lateral_acceleration_mps2: float
    """What they bear in a bend ..."""
    yaw_rate_radps: float
    """... and how fast they turn the car at most."""
    apex_m: float
    """How much further inside than SUMO they take a turn."""
    corner_cut_chance: float
    """Chance that a left turn is cut."""
    drifts_per_km: float
    """How often they drift out of their lane."""


def draw_style(rng: np.random.Generator, *, has_lapses: bool) -> DrivingStyle:
    """Draw a driver.

    Args:
        has_lapses: Whether lapses may happen to them.
    """
    return DrivingStyle(
        habit_m=float(np.clip(rng.normal(0.0, 0.1), -0.2, 0.2)),
        wander_m=float(rng.uniform(0.04, 0.12)),
        swing_share=float(rng.uniform(0.02, 0.08)),
        lateral_acceleration_mps2=float(rng.uniform(1.6, 2.4)),
        yaw_rate_radps=float(rng.uniform(0.29, 0.36)),
        apex_m=float(rng.uniform(0.3, 0.6)),
        corner_cut_chance=0.05 if has_lapses else 0.0,
        drifts_per_km=0.25 if has_lapses else 0.0,
    )


def human_track(name: str, kind: str, first_step: int, front: Array, lanes: Lanes, size_m: tuple[float, ...]) -> Track:
    """Track of a car, van, truck or bus with a person at the wheel; arguments as `motion.vehicle_track`, T at least 3.

    Who the person is depends on nothing but the vehicle's name and where it starts.
    """
    outline = Outline.of(kind, size_m)
    rng = _person(name, front)
    style = draw_style(rng, has_lapses=outline.is_ego)
    points, progress, lead_in_m = outline.guide_points(front)
    sumo_mps = np.gradient(progress, STEP_S)
    standing = sumo_mps < _STANDING_MPS
    front_at = lead_in_m + progress

    at, line = resampled(points)
    offset_m = _lateral_offset(rng, style, at, line, front_at, lanes)
    line = _smooth_line(line + offset_m[:, None] * _left_of(line), np.interp(at, front_at, sumo_mps))
    # Smoothing and shifting changed lengths; the trailing body needs even steps.
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    even = np.linspace(0.0, length[-1], len(line))
    line = np.stack([np.interp(even, length, column) for column in line.T], axis=1)
    axle = trailed_path(line, even[1] - even[0], outline.guide_to_axle_m)

    sumo_at = np.interp(front_at - (outline.front_to_axle_m - outline.guide_to_axle_m), at, length)
    wanted_m = sumo_at + _swings(rng, style, sumo_mps, standing)
    limit = _bend_speed(axle[:, 2], even[1] - even[0], style)
    for share in _SUMO_SPEED_SHARES:
        borne = np.maximum(limit, share * np.interp(even, sumo_at, sumo_mps))
        driven_m = _retimed(wanted_m, standing, even, borne)
        if np.abs(driven_m - wanted_m).max() < MAX_LAG_M:
            break
    poses = np.stack([np.interp(driven_m, even, column) for column in axle.T], axis=1)
    return assembled_track(name, kind, first_step, outline, poses, lanes)


def write_driven_network(network: Path, out: Path) -> None:
    """Write a SUMO network as people drive it: slower through the bends of junctions, waiting some way before them.

    SUMO's drivers slow down for speed limits only, and the limits of its junctions allow more than feels right in a
    bend; and they wait so close to a junction that whoever turns into their street finds them in the way.
    """
    tree = ElementTree.parse(network)
    for edge in tree.getroot().iter("edge"):
        if edge.get("function") == "internal":
            for lane in edge.iter("lane"):
                shape = np.array([point.split(",")[:2] for point in lane.get("shape", "").split()], dtype=np.float64)
                bend = _sharpest_bend(shape)
                limit = min(_TYPICAL_YAW_RATE_RADPS / bend, np.sqrt(_TYPICAL_LATERAL_MPS2 / bend))
                lane.set("speed", f"{min(float(lane.get('speed', '13.89')), max(limit, _CRAWL_MPS)):.2f}")
        elif edge.get("function") is None:
            lengths = [float(lane.get("length", "0")) for lane in edge.iter("lane")]
            if min(lengths, default=0.0) > 4 * _WAITING_GAP_M:
                attributes = {"value": f"{_WAITING_GAP_M:.2f}", "vClasses": "passenger delivery truck bus"}
                edge.insert(0, ElementTree.Element("stopOffset", attributes))
    tree.write(out, encoding="utf-8")


def _sharpest_bend(shape: Array) -> float:
    """Largest curvature (1/m) of a polyline, averaged over _BEND_LENGTH_M."""
    pieces = np.diff(shape, axis=0)
    lengths = np.hypot(*pieces.T)
    pieces, lengths = pieces[lengths > 1e-3], lengths[lengths > 1e-3]
    if len(lengths) < 2:
        return 1e-6
    heading = np.unwrap(np.arctan2(pieces[:, 1], pieces[:, 0]))
    middle = np.cumsum(lengths) - lengths / 2
    at = np.arange(middle[0], middle[-1] + 0.25, 0.25)
    ahead = np.interp(at + _BEND_LENGTH_M, middle, heading) - np.interp(at, middle, heading)
    return max(float(np.abs(ahead).max()) / _BEND_LENGTH_M, 1e-6)


def human_vehicle_types(rng: np.random.Generator, ego_prefix: str) -> list[tuple[str, float, dict[str, str]]]:
    """SUMO's vehicle types with people at the wheel: errors of judgement, hesitation, and a few bad habits.

    Args:
        ego_prefix: Names of the types that may become the ego of a log begin with it.
    Returns:
        (name, share of the traffic, SUMO's attributes) of each; a type is one temperament.
    """
    types = []

    def add(name: str, share: float, vclass: str, size: tuple[float, float, float], **changes: float | str) -> None:
        length, width, height = size
        attributes: dict[str, float | str] = {
            "vClass": vclass,
            "length": length,
            "width": width,
            "height": height,
            "carFollowModel": "EIDM",
            "speedFactor": f"normc({rng.uniform(0.98, 1.1):.2f},0.07,0.75,1.3)",
            "tau": rng.uniform(1.2, 2.0),
            "minGap": rng.uniform(1.8, 3.2),
            "accel": rng.uniform(1.6, 2.3),
            "decel": rng.uniform(2.2, 3.2),
            "emergencyDecel": 6.0,
            # Misjudged gaps and speeds, and how long a thought takes.
            "sigmaleader": rng.uniform(0.02, 0.04),
            "sigmagap": rng.uniform(0.1, 0.2),
            "sigmaerror": rng.uniform(0.04, 0.1),
            "tpreview": rng.uniform(2.5, 4.0),
            "treaction": rng.uniform(0.3, 0.9),
            "startupDelay": rng.uniform(0.1, 1.2),
            "laneChangeModel": "SL2015",
            "lcSpeedGain": rng.uniform(0.2, 1.0),
            "lcKeepRight": rng.uniform(0.0, 0.2),
            "lcAssertive": rng.uniform(0.8, 1.3),
            "latAlignment": "center",
            # With SUMO's own values drivers who have made way for something drive on astride two lanes.
            "minGapLat": 0.3,
            "lcSublane": 3.0,
            "maxSpeedLat": rng.uniform(0.9, 1.4),
            # A wheeled vehicle moves aside only as far as it moves ahead.
            "lcMaxSpeedLatStanding": 0.0,
            "lcMaxSpeedLatFactor": 0.15,
            "jmStoplineGap": rng.uniform(0.5, 1.5),
            "jmTimegapMinor": rng.uniform(0.8, 1.6),
        }
        attributes.update(changes)
        written = {key: value if isinstance(value, str) else f"{value:.3f}" for key, value in attributes.items()}
        types.append((name, share, written))

    ego_size = (EGO_LENGTH_M, EGO_WIDTH_M, 1.78)
    for k in range(12):
        add(f"{ego_prefix}{k}", 0.035, "passenger", ego_size)
    add(f"{ego_prefix}-close", 0.016, "passenger", ego_size, tau=0.55, minGap=1.2, lcAssertive=1.6)
    add(f"{ego_prefix}-late-brakes", 0.014, "passenger", ego_size, decel=3.8, tpreview=1.5, treaction=1.2)
    add(f"{ego_prefix}-late-yellow", 0.016, "passenger", ego_size, jmDriveAfterYellowTime=3.5)
    for k in range(10):
        add(
            f"car{k}", 0.035, "passenger",
            (rng.uniform(3.8, 4.9), rng.uniform(1.7, 1.95), rng.uniform(1.4, 1.75)),
        )  # fmt: skip
    for k in range(3):
        add(f"van{k}", 0.02, "delivery", (rng.uniform(5.4, 6.6), 2.05, rng.uniform(2.3, 2.7)), accel=1.4)
    slow: dict[str, float | str] = {"speedFactor": "normc(0.88,0.05,0.7,1.0)", "accel": 1.0, "decel": 2.0}
    for k in range(2):
        add(f"truck{k}", 0.012, "truck", (rng.uniform(7.5, 9.5), 2.45, rng.uniform(3.0, 3.6)), **slow)
    add("bus0", 0.015, "bus", (11.8, 2.5, 3.1), **slow)
    for k in range(3):
        add(
            f"bicycle{k}", 0.035, "bicycle", (1.8, 0.65, 1.75), carFollowModel="IDM", maxSpeed=rng.uniform(3.6, 5.6),
            latAlignment="right", minGap=1.0, accel=rng.uniform(0.8, 1.2), decel=2.0,
        )  # fmt: skip
    return types


def is_sidestep(front: Array, speed: Array) -> NDArray[np.bool_]:
    """[T - 1] where SUMO moves a vehicle that hardly drives sideways, which no wheels can follow.

    Args:
        front: [T, 2] front bumper every 0.1 s.
        speed: [T] along the lane.
    """
    driven = np.maximum(speed[1:], speed[:-1])
    moved = np.hypot(*np.diff(front, axis=0).T)
    return np.asarray((driven < 1.0) & (moved > 1.15 * driven * STEP_S + 0.04))


def _person(name: str, front: Array) -> np.random.Generator:
    digest = hashlib.blake2b(name.encode() + np.round(front[0], 2).tobytes(), digest_size=8).digest()
    return np.random.default_rng(list(digest))


def _left_of(line: Array) -> Array:
    """[M, 2] unit vectors to the left of a line, its corners rounded."""
    smooth = gaussian_filter1d(line, 1.6 / PATH_STEP_M, axis=0, mode="nearest")
    along = np.gradient(smooth, axis=0)
    along /= np.maximum(np.hypot(*along.T), 1e-9)[:, None]
    return np.stack([-along[:, 1], along[:, 0]], axis=1)


def _noise(rng: np.random.Generator, count: int, sigma: float) -> Array:
    """[count] smooth noise of unit variance, correlated over about `sigma` samples."""
    reach = round(4 * sigma)
    smooth = gaussian_filter1d(rng.standard_normal(count + 2 * reach), sigma, mode="constant")[reach : reach + count]
    return np.asarray(smooth * np.sqrt(2 * np.sqrt(np.pi) * sigma))


def _lateral_offset(
    rng: np.random.Generator, style: DrivingStyle, at: Array, line: Array, front_at: Array, lanes: Lanes
) -> Array:
    """[M] how far left of SUMO's line the driver keeps."""
    calm = style.habit_m + style.wander_m * _noise(rng, len(at), _WANDER_LENGTH_M / PATH_STEP_M)
    runs = _lane_runs(front_at, lanes)
    in_junction = np.zeros(len(at))
    for start_m, end_m, lane in runs:
        if lane.startswith(":"):
            in_junction[(at >= start_m - 2.0) & (at <= end_m + 4.0)] = 1.0
    # Round a corner there is no room to wander.
    calm *= 1.0 - 0.7 * gaussian_filter1d(in_junction, 3.0 / PATH_STEP_M, mode="nearest")
    heading = np.unwrap(np.arctan2(*np.gradient(line, axis=0).T[::-1]))
    for start_m, end_m, lane in runs:
        here = np.searchsorted(at, [start_m, end_m]).clip(0, len(at) - 1)
        if lane.startswith(":"):
            turned = heading[min(here[1] + 4, len(at) - 1)] - heading[max(here[0] - 4, 0)]
            if abs(turned) > _TURN_RAD:
                # A right turn has the kerb on its inner side, so there is less to gain.
                aside_m = style.apex_m if turned > 0 else -0.4 * style.apex_m
                calm += _bump(at, (start_m + end_m) / 2, (end_m - start_m) / 2.5, aside_m)
            if turned > _TURN_RAD and rng.uniform() < style.corner_cut_chance:
                calm += _bump(at, (start_m + end_m) / 2, (end_m - start_m) / 3, float(rng.uniform(0.8, 1.3)))
        elif end_m - start_m > 60.0 and rng.uniform() < style.drifts_per_km * (end_m - start_m) / 1000:
            side = 1.0 if rng.uniform() < 0.5 else -1.0
            middle = float(rng.uniform(start_m + 25.0, end_m - 25.0))
            calm += _bump(at, middle, float(rng.uniform(6.0, 10.0)), side * float(rng.uniform(0.8, 1.0)))
    return calm


def _lane_runs(front_at: Array, lanes: Lanes) -> list[tuple[float, float, str]]:
    """(from, to, lane) of every stretch on one lane; a junction's inner lanes count as one stretch."""
    names = ["" if lane is None else str(lane) for lane in lanes]
    junctions = [name.rsplit("_", 2)[0] if name.startswith(":") else name for name in names]
    starts = [0, *(k for k in range(1, len(names)) if junctions[k] != junctions[k - 1]), len(names)]
    return [(float(front_at[a]), float(front_at[b - 1]), junctions[a]) for a, b in pairwise(starts)]


def _bump(at: Array, middle_m: float, half_width_m: float, height_m: float) -> Array:
    return height_m * np.exp(-0.5 * ((at - middle_m) / half_width_m) ** 2)


def _swings(rng: np.random.Generator, style: DrivingStyle, sumo_mps: Array, standing: NDArray[np.bool_]) -> Array:
    """[T] how far ahead of SUMO's position the driver is, because no foot holds a speed."""
    noise = _noise(rng, len(sumo_mps), _SWING_S / STEP_S)
    speed = gaussian_filter1d(sumo_mps, 1.5 / STEP_S, mode="nearest")
    near_stop = gaussian_filter1d(standing.astype(np.float64), 2.0 / STEP_S, mode="nearest")
    return style.swing_share * noise * speed * (1.0 - near_stop).clip(0.0)


def _bend_speed(heading: Array, step_m: float, style: DrivingStyle) -> Array:
    """[M] the speed the driver thinks right at every point of the path, by its curvature and how fast that changes."""
    curvature = gaussian_filter1d(np.gradient(heading, step_m), 0.5 / step_m, mode="nearest")
    change = np.abs(gaussian_filter1d(np.gradient(curvature, step_m), 0.5 / step_m, mode="nearest"))
    bend = np.maximum(np.abs(curvature), 1e-6)
    limit = np.minimum(np.sqrt(style.lateral_acceleration_mps2 / bend), style.yaw_rate_radps / bend)
    limit = np.minimum(limit, np.sqrt(MAX_YAW_ACCELERATION_RADPS2 / np.maximum(change, 1e-6)))
    return _approachable(np.minimum(limit, 60.0), step_m, _INTO_BEND_MPS2, _OUT_OF_BEND_MPS2)


@numba.njit(cache=True)
def _approachable(limit: Array, step_m: float, braking: float, speeding_up: float) -> Array:
    """The speed limit lowered to what can be braked down to and sped up from."""
    out = limit.copy()
    for k in range(len(out) - 2, -1, -1):
        out[k] = min(out[k], np.sqrt(out[k + 1] ** 2 + 2 * braking * step_m))
    for k in range(1, len(out)):
        out[k] = min(out[k], np.sqrt(out[k - 1] ** 2 + 2 * speeding_up * step_m))
    return out


def _smooth_line(line: Array, speed: Array) -> Array:
    """The smoothest line near a polyline: third differences weigh more where the vehicle is fast."""
    low, high = _PATH_SMOOTHING_M
    reach_m = np.clip(_PATH_SMOOTHING_S * gaussian_filter1d(speed, 8.0 / PATH_STEP_M, mode="nearest"), low, high)
    bands = np.zeros((4, len(line)))
    bands[0] = 1.0
    _add_difference_penalty(bands, 3, (reach_m[1:-2] / PATH_STEP_M) ** 6)
    # The ends stay where they are: what was driven before and after is not known.
    weight = np.ones(len(line))
    weight[[0, -1]] = 1e6
    bands[0] += weight - 1.0
    return np.asarray(solveh_banded(bands, weight[:, None] * line, lower=True))


def _retimed(wanted_m: Array, standing: NDArray[np.bool_], at: Array, limit: Array) -> Array:
    """[T] positions along the path near the wanted ones, within the driver's bounds of speed and acceleration.

    Least squares on position and jerk under soft bounds, solved by alternating directions (ADMM: Boyd et al. 2011,
    section 5.2): the matrix is banded and stays the same, so it is factored once.

    Args:
        wanted_m: [T] where SUMO's vehicle is, every 0.1 s.
        standing: [T] when it stands.
        at: [M] positions along the path ...
        limit: [M] ... and the speed the driver thinks right there.
    """
    count = len(wanted_m)
    bands = np.zeros((4, count))
    bands[0] = 1.0
    _add_difference_penalty(bands, 3, np.full(count - 3, (_SPEED_SMOOTHING_S / STEP_S) ** 6))
    scales = [1 / STEP_S, 1 / STEP_S**2]
    for order, scale, step in zip((1, 2), scales, _STEP_SIZES, strict=True):
        _add_difference_penalty(bands, order, np.full(count - order, step * scale**2))
    factor = cholesky_banded(bands, lower=True)
    # Both ends of a standstill belong to it, so that the vehicle neither creeps nor rolls back.
    still = standing[1:] & standing[:-1]
    driven = wanted_m
    split = [np.diff(driven) * scales[0], np.diff(driven, 2) * scales[1]]
    dual = [np.zeros(count - 1), np.zeros(count - 2)]
    for number in range(_ITERATIONS):
        if number % 20 == 0:
            # The limit hangs on where the vehicle is by then.
            most = np.where(still, 0.0, np.interp(driven[:-1], at, limit))
        right = wanted_m.copy()
        for order, scale, step, z, u in zip((1, 2), scales, _STEP_SIZES, split, dual, strict=True):
            right += _difference_transposed(step * scale * (z - u), order)
        driven = cho_solve_banded((factor, True), right)
        bounds: tuple[tuple[float, Any], ...] = ((0.0, most), (-MAX_DECELERATION_MPS2, MAX_ACCELERATION_MPS2))
        for k, (low, high) in enumerate(bounds):
            reached = np.diff(driven, k + 1) * scales[k]
            free = reached + dual[k]
            softness = _BOUND_WEIGHT / (_BOUND_WEIGHT + _STEP_SIZES[k])
            split[k] = free + softness * (np.clip(free, low, high) - free)
            dual[k] = free - split[k]
    return np.asarray(np.maximum.accumulate(driven))


_DIFFERENCE = {1: (-1.0, 1.0), 2: (1.0, -2.0, 1.0), 3: (-1.0, 3.0, -3.0, 1.0)}


def _add_difference_penalty(bands: Array, order: int, weights: Array) -> None:
    """Add D' W D to a symmetric matrix in lower band form, D being differences of an order, W [n - order] weights."""
    taps = _DIFFERENCE[order]
    for first, a in enumerate(taps):
        for second in range(first, order + 1):
            bands[second - first, first : first + len(weights)] += a * taps[second] * weights


def _difference_transposed(values: Array, order: int) -> Array:
    """D' values: [n] from [n - order]."""
    out = np.zeros(len(values) + order)
    for tap, a in enumerate(_DIFFERENCE[order]):
        out[tap : tap + len(values)] += a * values
    return out
