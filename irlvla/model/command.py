"""The command encoder: where the navigation wants to go, and how the car moves now."""

import torch
from torch import Tensor, nn

from irlvla.model.config import ModelConfig
from irlvla.types import COMMANDS

EGO_STATUS_SIZE = 13
"""Velocity (2, m/s), acceleration (2, m/s²), then three past poses (x, y m, heading rad), oldest first."""


class CommandEncoder(nn.Module):
    """Embeds driving command and ego status; can hide the status, so that training does not lean on it alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.d_model
        self.command = nn.Linear(len(COMMANDS), width)
        self.status = nn.Sequential(nn.Linear(EGO_STATUS_SIZE, width), nn.GELU(), nn.Linear(width, width))
        self.hidden_status = nn.Parameter(torch.randn(width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.status_scale: Tensor
        scale = [10.0, 1.0, 2.0, 2.0] + [10.0, 2.0, 0.3] * 3
        self.register_buffer("status_scale", torch.tensor(scale), persistent=False)

    def forward(self, command: Tensor, ego_status: Tensor, hide_status: Tensor | None = None) -> Tensor:
        """Command embedding [B, D].

        Args:
            command: [B, 4] one-hot over COMMANDS.
            ego_status: [B, 13], see EGO_STATUS_SIZE.
            hide_status: [B] True where the status is to be hidden.
        """
        status = self.status(ego_status / self.status_scale)
        if hide_status is not None:
            status = torch.where(hide_status[:, None], self.hidden_status, status)
        return self.norm(self.command(command) + status)
