"""Scene tokens of all scenes, computed once and kept on disk and in memory as half-precision numbers.

Encoding a scene (cameras, LiDAR, language model) costs a hundred times what planning in it does, and encoders are
frozen after imitation; so reward learning and PPO run on these.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from irlvla.data.scenes import SceneSet
from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.inputs import SceneInputs
from irlvla.model.tokens import SceneTokens
from irlvla.stages.run import write_atomically

SCENES_PER_SHARD = 64


@dataclass(frozen=True)
class EncodedScenes:
    """Tokens of all scenes of a run, by row; about 0.13 MB a scene at the `tiny` size."""

    halves: SceneTokens
    """Half precision, on the CPU."""

    def __len__(self) -> int:
        return len(self.halves)

    def rows(self, rows: Sequence[int] | Tensor | NDArray[np.int64], device: torch.device | str = "cpu") -> SceneTokens:
        """Tokens of some scenes in single precision."""
        return self.halves.index_select(rows).to(device, torch.float32)


@torch.no_grad()
def encode_scenes(
    vla: DrivingVLA,
    scenes: SceneSet,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    on_shard: Callable[[int, int], object] = lambda done, total: None,
) -> EncodedScenes:
    """Encode scenes, shard by shard; shards that are on disk already are read.

    Args:
        vla: The imitation policy, in evaluation mode on `device`.
        scenes: Scenes to encode, in this order.
        folder: Of this policy's and these scenes' shards alone (see `run.cache_key`).
        device: Where to encode.
        on_shard: Told scenes done and in all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[SceneTokens] = []
    for first in range(0, len(scenes), SCENES_PER_SHARD):
        path = folder / f"{first:07d}.safetensors"
        wanted = scenes[first : first + SCENES_PER_SHARD]
        tokens = _load_shard(path, len(wanted))
        if tokens is None:
            batches = [
                vla.encode(SceneInputs.from_observations([s.observation() for s in batch], vla.config).to(device))
                for batch in (list(wanted[i : i + 16]) for i in range(0, len(wanted), 16))
            ]
            arrays = SceneTokens.cat(batches).to_arrays(half=True)
            write_atomically(path, partial(save_file, arrays))
            tokens = _load_shard(path, len(wanted))
            assert tokens is not None
        parts.append(tokens)
        on_shard(first + len(wanted), len(scenes))
    return EncodedScenes(SceneTokens.cat(parts))


def _load_shard(path: Path, scenes: int) -> SceneTokens | None:
    if not path.is_file():
        return None
    try:
        arrays = load_file(path)
    except SafetensorError:  # Damaged by the disk: shards are written whole. Encode it again.
        return None
    tokens = SceneTokens(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    return tokens if len(tokens) == scenes else None
