"""Plans on disk: our `plans.npz`, and NAVSIM's submission pickles."""

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irlvla.data.pickles import DevkitObject, devkit_object, load_pickle, write_pickle
from irlvla.errors import DataError
from irlvla.files import write_bytes
from irlvla.types import Array

_TRAJECTORY = "navsim.common.dataclasses.Trajectory"
_SAMPLING = "nuplan.planning.simulation.trajectory.trajectory_sampling.TrajectorySampling"
_PREDICTION_KEYS = ("predictions", "first_stage_predictions", "second_stage_predictions")
_PLAN_SHAPES = ((8, 3), (40, 3))
_HORIZON_S = 4.0


@dataclass(frozen=True, eq=False)
class PlanTable:
    """Plans for scenes; a scene may have many."""

    tokens: tuple[str, ...]
    """[N] scene of each plan."""
    names: tuple[str, ...]
    """[N] who planned it; plans of one name at successive frames are compared for extended comfort."""
    poses: Array
    """[N, 8, 3] or [N, 40, 3] x, y (m), heading (rad) in the scene's ego frame; rows with NaN are not `valid`."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """[N] whether every pose of a plan is finite."""
        return np.asarray(np.isfinite(self.poses).all(axis=(1, 2)))

    def __len__(self) -> int:
        return len(self.tokens)


def load_plans(path: Path) -> PlanTable:
    """Read plans from a `plans.npz` or, by its suffix `.pkl`, from an official submission.

    Raises:
        DataError: The file is missing or damaged, or its arrays have wrong shapes or types.
    """
    if path.suffix == ".pkl":
        return load_submission(path)
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {key: content[key] for key in ("token", "poses", "name") if key in content.files}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError) as error:
        raise DataError(f"{path}: not a plans.npz ({error}); write it with numpy.savez, text as strings") from error
    for key in ("token", "poses"):
        if key not in arrays:
            raise DataError(f"{path}: array {key!r} is missing; a plan file holds 'token' [N] and 'poses' [N, 8, 3]")
    tokens, poses = arrays["token"], arrays["poses"]
    names = arrays.get("name", np.full(tokens.shape, "plan"))
    if tokens.ndim != 1 or tokens.dtype.kind not in "US" or names.shape != tokens.shape or names.dtype.kind not in "US":
        raise DataError(f"{path}: 'token' and 'name' must be text [N], found shapes {tokens.shape} and {names.shape}")
    if poses.ndim != 3 or poses.shape[1:] not in _PLAN_SHAPES or len(poses) != len(tokens):
        raise DataError(
            f"{path}: 'poses' has shape {poses.shape} for {len(tokens)} tokens; expected [N, 8, 3] (0.5 s apart) "
            "or [N, 40, 3] (0.1 s apart); `irlvla.geometry.headings_along` makes poses of positions"
        )
    if poses.dtype.kind not in "fiu":
        raise DataError(f"{path}: 'poses' is of type {poses.dtype}, expected numbers")
    return PlanTable(tuple(_text(tokens)), tuple(_text(names)), poses.astype(np.float64))


def write_plans(path: Path, tokens: Sequence[str], poses: Array, names: Sequence[str] | None = None) -> None:
    """Write a `plans.npz`; it appears under its name only when it is whole.

    Args:
        path: File to write.
        tokens: [N] scene of each plan.
        poses: [N, 8, 3] or [N, 40, 3] in each scene's ego frame (m, rad).
        names: [N] who planned it.
    """
    poses = np.asarray(poses, dtype=np.float64)
    if poses.ndim != 3 or poses.shape[1:] not in _PLAN_SHAPES or len(poses) != len(tokens):
        raise ValueError(f"poses have shape {poses.shape} for {len(tokens)} tokens")
    arrays: dict[str, NDArray[Any]] = {"token": np.array(tokens, dtype=np.str_), "poses": poses}
    if names is not None:
        arrays["name"] = np.array(names, dtype=np.str_)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def load_submission(path: Path) -> PlanTable:
    """Read an official submission, of either version and of one stage or two.

    Trajectories may be sampled in any way the devkit allows. One that reaches beyond four seconds is cut, a shorter one
    stands still at its end, as the devkit simulates them.

    Returns:
        All plans, 0.5 s apart, or 0.1 s apart where a trajectory is sampled otherwise; `name` is `submission`, or
        `submission 1` and so on for further seeds.
    Raises:
        DataError: The file is damaged, hostile, or not of the official layout.
    """
    content = load_pickle(path)
    if not isinstance(content, dict) or not any(key in content for key in _PREDICTION_KEYS):
        raise DataError(f"{path}: not a submission, it has none of {', '.join(_PREDICTION_KEYS)}")
    tokens, names, poses = [], [], []
    for key in _PREDICTION_KEYS:
        seeds = content.get(key) or []
        if not isinstance(seeds, list) or not all(isinstance(seed, dict) for seed in seeds):
            raise DataError(f"{path}: {key!r} is not a list of trajectories by token")
        for number, seed in enumerate(seeds):
            for token, trajectory in seed.items():
                tokens.append(str(token))
                names.append("submission" if number == 0 else f"submission {number}")
                poses.append(_submitted_poses(path, str(token), trajectory))
    if not poses:
        raise DataError(f"{path}: the submission holds no trajectory")
    if len({plan.shape for plan in poses}) > 1:
        poses = [plan if len(plan) == 40 else _resampled(plan, 0.5, 0.1) for plan in poses]
    return PlanTable(tuple(tokens), tuple(names), np.stack(poses))


def write_submission(
    path: Path,
    first_stage: PlanTable,
    second_stage: PlanTable | None = None,
    *,
    team_name: str,
    authors: Sequence[str],
    email: str,
    institution: str,
    country: str,
) -> None:
    """Write a submission that NAVSIM's leaderboard reads.

    Args:
        path: File to write, `submission.pkl` by custom.
        first_stage: One plan a scene.
        second_stage: One plan a follow-up scene; None writes a one-stage submission.
        team_name, authors, email, institution, country: Shown on the leaderboard.
    """
    content: dict[str, Any] = {
        "team_name": team_name,
        "authors": list(authors),
        "email": email,
        "institution": institution,
        "country / region": country,
    }
    if second_stage is None:
        content["predictions"] = [_trajectories(first_stage)]
    else:
        content["first_stage_predictions"] = [_trajectories(first_stage)]
        content["second_stage_predictions"] = [_trajectories(second_stage)]
    write_pickle(path, content)


def _trajectories(plans: PlanTable) -> dict[str, DevkitObject]:
    count = plans.poses.shape[1]
    # One object for all: the pickle then stores it once.
    sampling = devkit_object(_SAMPLING, num_poses=count, time_horizon=_HORIZON_S, interval_length=_HORIZON_S / count)
    return {
        token: devkit_object(_TRAJECTORY, poses=poses.astype(np.float32), trajectory_sampling=sampling)
        for token, poses in zip(plans.tokens, plans.poses, strict=True)
    }


def _submitted_poses(path: Path, token: str, trajectory: Any) -> Array:
    """Poses [8, 3] or [40, 3] of a Trajectory."""
    if not isinstance(trajectory, DevkitObject) or trajectory.global_name != _TRAJECTORY:
        raise DataError(f"{path}: the prediction for {token} is a {type(trajectory).__name__}, not a Trajectory")
    try:
        poses = np.asarray(trajectory["poses"], dtype=np.float64)
        interval_s = float(trajectory["trajectory_sampling"]["interval_length"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: the trajectory for {token} has no numeric poses, or no sampling") from error
    if poses.ndim != 2 or poses.shape[1] != 3 or len(poses) == 0 or not 0.0 < interval_s <= _HORIZON_S:
        raise DataError(
            f"{path}: the trajectory for {token} has shape {poses.shape} and steps of {interval_s:g} s; expected "
            "[poses, 3] at steps of up to four seconds"
        )
    for count, _ in _PLAN_SHAPES:
        if math.isclose(interval_s, _HORIZON_S / count):
            return poses[np.minimum(np.arange(count), len(poses) - 1)]
    return _resampled(poses, interval_s, 0.1)


def _resampled(poses: Array, interval_s: float, step_s: float) -> Array:
    """Poses at other steps over four seconds, linear between the given ones and the start.

    Differs: the devkit rounds times down to the microsecond, so that its poses may be 1 us of driving away.
    """
    knots = np.concatenate([np.zeros((1, 3)), poses])
    knots[:, 2] = np.unwrap(knots[:, 2])
    times_s = step_s * np.arange(1, round(_HORIZON_S / step_s) + 1)
    return np.stack([np.interp(times_s, interval_s * np.arange(len(knots)), column) for column in knots.T], axis=-1)


def _text(array: NDArray[Any]) -> list[str]:
    return [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in array.tolist()]
