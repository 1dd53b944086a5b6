"""Scene tokens: what the encoders hand to the diffusion planner and to the reward world model.

Shape letters: B scenes, T tokens, D = d_model, C = bev_channels, N = bev_cells.
"""

from dataclasses import dataclass

from torch import Tensor

from irlvla.model.records import Record


@dataclass(frozen=True)
class SceneTokens(Record):
    """The scene as attention sees it; detachable, indexable by scene, and cacheable as float16 arrays."""

    meta: Tensor
    """[B, n_meta_tokens, D] from the language model."""
    bev: Tensor
    """[B, bev_tokens², D] pooled bird's-eye view."""
    map: Tensor
    """[B, n_map_queries, D] from the map head."""
    objects: Tensor
    """[B, n_object_queries, D] from the detection head."""
    command: Tensor
    """[B, D] driving command and ego status."""
    bev_map: Tensor
    """[B, C, N, N] BEV features for sampling at waypoints; rows run along x (rear to front), columns along y (right to
    left)."""
    ego_status: Tensor
    """[B, 13] raw ego status, as `SceneInputs.ego_status`."""
