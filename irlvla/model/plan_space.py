"""Plan space: human plans as a few normalised, uncorrelated coefficients, in which the planner diffuses.

Gaussian noise per waypoint shakes a plan: neighbouring poses move against each other and no comfort bound survives.
Principal components of human plans are smooth in time (drive farther, brake later, bend left, change lane), and each is
scaled by how far humans spread along it. Unit noise in this space is therefore time-correlated, longitudinal and
lateral driving variety, in proportions that humans show.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from irlvla.types import PLAN_POSES

HEADING_ARM_M = 3.0
"""Lever arm that turns headings (rad) into metres beside x and y; about the wheel base."""

SCALE_FLOOR_M = 0.02
"""Least scale of a component. Components along which humans hardly differ would otherwise turn rounding errors into
large coefficients; with the floor, unit noise moves a plan by no more than 2 cm along them."""

Array = NDArray[np.float64]


class PlanSpace(nn.Module):
    """Linear map between plans [..., 8, 3] and coefficients [..., C], stored as buffers of the checkpoint."""

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, coefficients: int = 3 * PLAN_POSES) -> None:
        super().__init__()
        size = 3 * PLAN_POSES
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.eye(size)[:, :coefficients].clone())
        self.register_buffer("scale", torch.ones(coefficients))

    @property
    def coefficients(self) -> int:
        return len(self.scale)

    @classmethod
    def fit(cls, poses: Array, coefficients: int = 3 * PLAN_POSES) -> "PlanSpace":
        """Principal components of human plans [N, 8, 3] (ego frame, m, rad)."""
        space = cls(coefficients)
        flat = _flatten(torch.as_tensor(np.asarray(poses), dtype=torch.float64)).numpy()
        mean = flat.mean(0)
        _, singular, rows = np.linalg.svd(flat - mean, full_matrices=True)
        spread = np.zeros(flat.shape[1])
        spread[: len(singular)] = singular / np.sqrt(max(len(flat) - 1, 1))
        # The sign of a singular vector is arbitrary; fix it, so that equal data give equal checkpoints.
        rows = rows * np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(1)])[:, None]
        space.mean.copy_(torch.from_numpy(mean))
        space.basis.copy_(torch.from_numpy(rows[:coefficients].T.copy()))
        space.scale.copy_(torch.from_numpy(np.maximum(spread[:coefficients], SCALE_FLOOR_M)))
        return space

    def encode(self, poses: Tensor) -> Tensor:
        """Coefficients [..., C] of plans [..., 8, 3]."""
        return (_flatten(poses) - self.mean) @ self.basis / self.scale

    def decode(self, coefficients: Tensor) -> Tensor:
        """Plans [..., 8, 3] (ego frame, m, rad; headings not wrapped) of coefficients [..., C]."""
        flat = self.mean + (coefficients * self.scale) @ self.basis.T
        poses = flat.unflatten(-1, (PLAN_POSES, 3))
        return poses / poses.new_tensor([1.0, 1.0, HEADING_ARM_M])

    def encode_array(self, poses: Array) -> Array:
        """`encode` for numpy arrays."""
        with torch.no_grad():
            return self.encode(torch.as_tensor(poses).to(self.mean)).double().cpu().numpy()

    def decode_array(self, coefficients: Array) -> Array:
        """`decode` for numpy arrays."""
        with torch.no_grad():
            return self.decode(torch.as_tensor(coefficients).to(self.mean)).double().cpu().numpy()


def _flatten(poses: Tensor) -> Tensor:
    turns = torch.diff(poses[..., 2], dim=-1, prepend=torch.zeros_like(poses[..., :1, 2]))
    heading = torch.atan2(torch.sin(turns), torch.cos(turns)).cumsum(-1)
    return torch.cat([poses[..., :2], HEADING_ARM_M * heading[..., None]], dim=-1).flatten(-2)
