"""The official devkit's figures as the parity tests read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from irlvla.types import Array


@dataclass(frozen=True)
class Official:
    """Rows of the official table with their plans and rollouts."""

    table: Mapping[str, list[Any]]
    plans: Mapping[tuple[str, str], Array]
    """Poses [8 or 40, 3] by (token, name)."""
    rollouts: Mapping[str, Array]

    @property
    def rows(self) -> list[tuple[str, str]]:
        return list(zip(self.table["token"], self.table["name"], strict=True))
