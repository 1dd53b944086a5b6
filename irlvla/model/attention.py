"""The chain of attentions that the paper's framework figure gives to planner and reward world model alike.

FN → attention to meta tokens → FN → BEV tokens → FN → map tokens → FN → object tokens → FFN. A query is one plan; plans
never attend to each other, so a plan's outcome does not depend on which others are asked about beside it.

Shape letters: B scenes, Q queries per scene, T tokens, D width, P points, C channels, N BEV cells along a side.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from irlvla.model.config import ModelConfig
from irlvla.model.tokens import SceneTokens

KeysAndValues = tuple[Tensor, Tensor]


class ConditionedFeedForward(nn.Module):
    """The figure's FN: normalisation shifted and scaled by a condition (time, command), then a feed-forward block.

    Source: adaptive layer norm as in Peebles & Xie 2023, "Scalable Diffusion Models with Transformers", section 3.2.
    Differs: no zero-initialised gate; the output layer starts small instead, so that all weights learn from step one.
    """

    def __init__(self, width: int, dropout: float, expansion: int = 1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.expand = nn.Linear(width, expansion * width)
        self.contract = nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.modulation.weight, std=0.02)
        nn.init.zeros_(self.modulation.bias)
        nn.init.normal_(self.contract.weight, std=0.02)

    def forward(self, queries_BQD: Tensor, condition_BQD: Tensor) -> Tensor:
        scale, shift = self.modulation(functional.silu(condition_BQD)).chunk(2, dim=-1)
        hidden = self.expand(self.norm(queries_BQD) * (1 + scale) + shift)
        return queries_BQD + self.dropout(self.contract(functional.gelu(hidden)))


class FeedForward(nn.Module):
    """The figure's closing FFN: pre-norm feed-forward block with a residual."""

    def __init__(self, width: int, dropout: float, expansion: int = 2) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, expansion * width)
        self.contract = nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries_BQD: Tensor) -> Tensor:
        hidden = functional.gelu(self.expand(self.norm(queries_BQD)))
        return queries_BQD + self.dropout(self.contract(hidden))


class CrossAttention(nn.Module):
    """Multi-head attention of queries to one kind of scene token, with residual.

    Keys and values depend on the scene only; `read` computes them once for any number of queries.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def read(self, tokens_BTD: Tensor) -> KeysAndValues:
        key, value = self.key_value(tokens_BTD).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def forward(self, queries_BQD: Tensor, memory: KeysAndValues) -> Tensor:
        query = self._split(self.query(self.norm(queries_BQD)))
        attended = functional.scaled_dot_product_attention(query, *memory)
        return queries_BQD + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))

    def _split(self, tensor_BTD: Tensor) -> Tensor:
        return tensor_BTD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


@dataclass(frozen=True)
class LayerMemory:
    """Keys and values of the four kinds of scene token, for one layer."""

    meta: KeysAndValues
    bev: KeysAndValues
    map: KeysAndValues
    objects: KeysAndValues


class SceneAttentionLayer(nn.Module):
    """One pass of the figure's chain."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.before_meta = ConditionedFeedForward(width, dropout)
        self.attend_meta = CrossAttention(width, heads, dropout)
        self.before_bev = ConditionedFeedForward(width, dropout)
        self.attend_bev = CrossAttention(width, heads, dropout)
        self.before_map = ConditionedFeedForward(width, dropout)
        self.attend_map = CrossAttention(width, heads, dropout)
        self.before_objects = ConditionedFeedForward(width, dropout)
        self.attend_objects = CrossAttention(width, heads, dropout)
        self.feed_forward = FeedForward(width, dropout)

    def read(self, tokens: SceneTokens) -> LayerMemory:
        return LayerMemory(
            self.attend_meta.read(tokens.meta),
            self.attend_bev.read(tokens.bev),
            self.attend_map.read(tokens.map),
            self.attend_objects.read(tokens.objects),
        )

    def forward(self, queries_BQD: Tensor, memory: LayerMemory, condition_BQD: Tensor) -> Tensor:
        queries_BQD = self.attend_meta(self.before_meta(queries_BQD, condition_BQD), memory.meta)
        queries_BQD = self.attend_bev(self.before_bev(queries_BQD, condition_BQD), memory.bev)
        queries_BQD = self.attend_map(self.before_map(queries_BQD, condition_BQD), memory.map)
        queries_BQD = self.attend_objects(self.before_objects(queries_BQD, condition_BQD), memory.objects)
        return self.feed_forward(queries_BQD)


class SceneAttention(nn.Module):
    """The chain, as many times as there are layers."""

    def __init__(self, width: int, heads: int, dropout: float, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SceneAttentionLayer(width, heads, dropout) for _ in range(layers))

    def read(self, tokens: SceneTokens) -> tuple[LayerMemory, ...]:
        """Keys and values of the scenes in every layer, for any number of queries."""
        return tuple(layer.read(tokens) for layer in self.layers if isinstance(layer, SceneAttentionLayer))

    def forward(self, queries_BQD: Tensor, memory: tuple[LayerMemory, ...], condition_BQD: Tensor) -> Tensor:
        """Queries [B, Q, D] after all layers; `condition_BQD` may have one query that stands for all."""
        for layer, layer_memory in zip(self.layers, memory, strict=True):
            queries_BQD = layer(queries_BQD, layer_memory, condition_BQD)
        return queries_BQD


def sample_bev(bev_map_BCNN: Tensor, points_BP2: Tensor, config: ModelConfig) -> Tensor:
    """Features [B, P, C] of the BEV map at points (x, y in the ego frame, m), bilinear; zero outside its reach."""
    (x_min, x_max), (y_min, y_max) = config.bev_x_m, config.bev_y_m
    row = (points_BP2[..., 0] - x_min) / (x_max - x_min) * 2 - 1
    column = (points_BP2[..., 1] - y_min) / (y_max - y_min) * 2 - 1
    grid = torch.stack([column, row], dim=-1)[:, None]
    sampled = functional.grid_sample(bev_map_BCNN, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2)
