"""Semantic reasoning: camera tokens and the instruction go through a language model, which answers in words and, for
the planner, in meta tokens.

Shape letters: B scenes, V cameras, T language positions, W language width, D = d_model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from irlvla.data.language import PATH_WORDS, SPEED_WORDS
from irlvla.model.config import ModelConfig
from irlvla.model.language import build_language_model, encode_words, end_id

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class SemanticPrediction:
    """What semantic reasoning says of B scenes."""

    meta: Tensor
    """[B, n_meta_tokens, D]."""
    speed_logits: Tensor
    """[B, len(SPEED_WORDS)]."""
    path_logits: Tensor
    """[B, len(PATH_WORDS)]."""
    answer_loss: Tensor
    """Scalar next-token loss; 0 where no answers were given."""


class DrivingVisionAdaptor(nn.Module):
    """Pools each camera's features into a few tokens of the language model's width."""

    def __init__(self, config: ModelConfig, channels: int, language_width: int) -> None:
        super().__init__()
        self.grid = config.image_tokens_per_camera
        self.project = nn.Sequential(
            nn.Linear(channels, language_width), nn.GELU(), nn.Linear(language_width, language_width)
        )
        places = self.grid[0] * self.grid[1]
        self.place = nn.Parameter(torch.randn(len(config.cameras), places, language_width) * 0.02)

    def forward(self, coarse_BVCHW: Tensor) -> Tensor:
        """[B, V * places, W]"""
        pooled = functional.adaptive_avg_pool2d(coarse_BVCHW.flatten(0, 1), self.grid)
        tokens = self.project(pooled.flatten(2).transpose(1, 2)).unflatten(0, coarse_BVCHW.shape[:2])
        return (tokens + self.place).flatten(1, 2)


class SemanticReasoner(nn.Module):
    """Order of the sequence: camera tokens, instruction, meta queries, answer. Attention is causal, so that meta tokens
    see cameras and instruction, and the answer sees all of it; planning needs no answer to be spoken."""

    def __init__(
        self,
        config: ModelConfig,
        image_channels: int,
        tokenizer: "Tokenizer",
        stored: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.language = build_language_model(config, tokenizer.get_vocab_size(), stored)
        width = int(self.language.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.vision = DrivingVisionAdaptor(config, image_channels, width)
        self.meta_queries = nn.Parameter(torch.randn(config.n_meta_tokens, width) * 0.02)
        self.project = nn.Linear(width, config.d_model)
        self.norm = nn.LayerNorm(config.d_model)
        self.speed_word = nn.Linear(config.d_model, len(SPEED_WORDS))
        self.path_word = nn.Linear(config.d_model, len(PATH_WORDS))

    @property
    def stored(self) -> dict[str, Any]:
        """Configuration of the language model, enough to rebuild it."""
        return self.language.config.to_dict()  # type: ignore[union-attr, operator]

    def forward(
        self, coarse_BVCHW: Tensor, instructions: Sequence[str], answers: Sequence[str] | None = None
    ) -> SemanticPrediction:
        prompt, mask = self._prompt(coarse_BVCHW, instructions)
        before_answer = prompt.shape[1]
        if answers is not None:
            words = encode_words(self.tokenizer, answers, self.config.max_words, end=True)
            target, known = words.ids.to(prompt.device), words.mask.to(prompt.device)
            prompt = torch.cat([prompt, self._embed(target[:, :-1])], dim=1)
            mask = torch.cat([mask, known[:, :-1]], dim=1)
        hidden = self._read(prompt, mask)
        meta = self.norm(self.project(hidden[:, before_answer - self.config.n_meta_tokens : before_answer]))
        answer_loss = hidden.new_zeros(())
        if answers is not None:
            logits = self._speak(hidden[:, before_answer - 1 :])
            answer_loss = functional.cross_entropy(logits[known], target[known])
        pooled = meta.mean(1)
        return SemanticPrediction(meta, self.speed_word(pooled), self.path_word(pooled), answer_loss)

    @torch.no_grad()
    def answer(self, coarse_BVCHW: Tensor, instructions: Sequence[str]) -> list[str]:
        """The most likely answer in words, token by token."""
        from transformers import DynamicCache

        prompt, mask = self._prompt(coarse_BVCHW, instructions)
        cache = DynamicCache()
        end = end_id(self.tokenizer)
        ended = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
        spoken: list[Tensor] = []
        for _ in range(self.config.max_words):
            hidden = self._read(prompt, mask, cache)
            word = self._speak(hidden[:, -1]).argmax(-1)
            ended = ended | (word == end)
            if ended.all():
                break
            spoken.append(torch.where(ended, end, word))
            prompt = self._embed(word[:, None])
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        rows = torch.stack(spoken, dim=1).tolist() if spoken else [[] for _ in range(len(mask))]
        return [self.tokenizer.decode([word for word in row if word != end]).strip() for row in rows]

    def _prompt(self, coarse_BVCHW: Tensor, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        seen = self.vision(coarse_BVCHW)
        words = encode_words(self.tokenizer, instructions, self.config.max_words, end=False)
        asked = self._embed(words.ids.to(seen.device))
        queries = self.meta_queries.expand(len(seen), -1, -1)
        mask = torch.cat(
            [
                torch.ones(seen.shape[:2], dtype=torch.bool, device=seen.device),
                words.mask.to(seen.device),
                torch.ones(queries.shape[:2], dtype=torch.bool, device=seen.device),
            ],
            dim=1,
        )
        return torch.cat([seen, asked, queries], dim=1), mask

    def _embed(self, ids: Tensor) -> Tensor:
        return self.language.get_input_embeddings()(ids)  # type: ignore[operator]

    def _speak(self, hidden: Tensor) -> Tensor:
        return self.language.get_output_embeddings()(hidden)  # type: ignore[operator]

    def _read(self, embedded: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
        # Padding lies in the middle of the sequence; counting real tokens keeps positions free of it.
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -embedded.shape[1] :]
        output = self.language.base_model(  # type: ignore[operator]
            inputs_embeds=embedded,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state
