"""Words in and out: the tokenizer trained in process, and the causal language model behind the meta tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from irlvla.errors import ConfigError
from irlvla.model.config import ModelConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
PAD, END = "<pad>", "<end>"


@dataclass(frozen=True)
class Words:
    """Token ids of B texts, padded on the right."""

    ids: Tensor
    """[B, T] int64."""
    mask: Tensor
    """[B, T] False at padding."""


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> "Tokenizer":
    """Byte-pair tokenizer of instructions, questions and answers; any text can be encoded, byte by byte.

    Args:
        texts: corpus; the same corpus gives the same tokenizer.
        vocabulary: largest number of tokens; at least 260.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    return tokenizer


def make_tokenizer(config: ModelConfig, texts: Sequence[str]) -> "Tokenizer":
    """Tokenizer that fits the configured language model: trained on `texts` for `llama_tiny`, else the model's own.

    Raises:
        ConfigError: the named model has no tokenizer.json.
    """
    if config.language_model == "llama_tiny":
        return train_tokenizer(texts, config.vocabulary)
    from huggingface_hub import hf_hub_download
    from tokenizers import Tokenizer

    path = Path(config.language_model) / TOKENIZER_FILE
    if not path.is_file():
        try:
            path = Path(hf_hub_download(config.language_model, TOKENIZER_FILE))
        except (OSError, ValueError) as error:
            raise ConfigError(f"language_model {config.language_model!r} has no {TOKENIZER_FILE} ({error})") from error
    return Tokenizer.from_file(str(path))


def tokenizer_from_text(text: str) -> "Tokenizer":
    """Tokenizer from the content of tokenizer.json; checkpoints verify the content before."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(text)


def encode_words(tokenizer: "Tokenizer", texts: Sequence[str], longest: int, *, end: bool) -> Words:
    """Token ids of texts, cut at `longest`, with an end token last where `end` is set."""
    rows = [encoding.ids[:longest] for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    if end:
        rows = [[*row, end_id(tokenizer)] for row in rows]
    width = max(1, max(len(row) for row in rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask[index, : len(row)] = True
    return Words(ids, mask)


def end_id(tokenizer: "Tokenizer") -> int:
    """Id of the token that ends an answer."""
    for token in (END, "<|im_end|>", "<|endoftext|>", "</s>"):
        found = tokenizer.token_to_id(token)
        if found is not None:
            return int(found)
    raise ConfigError("the tokenizer has no end token; its language model cannot be used here")


def build_language_model(config: ModelConfig, vocabulary: int, stored: Mapping[str, Any] | None = None) -> nn.Module:
    """Causal language model of transformers.

    Args:
        config: `language_model` names it; `llama_tiny` is made from scratch.
        vocabulary: tokens of the tokenizer, for `llama_tiny`.
        stored: configuration of an earlier model, to rebuild it without its pretrained weights.
    Raises:
        ConfigError: the named model cannot be loaded.
    """
    # transformers takes seconds to import; only who builds a model pays.
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    if stored is not None:
        settings = dict(stored)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    if config.language_model == "llama_tiny":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=config.language_width,
                intermediate_size=2 * config.language_width,
                num_hidden_layers=config.language_layers,
                num_attention_heads=config.language_heads,
                max_position_embeddings=1024,
                pad_token_id=0,
                bos_token_id=None,
                eos_token_id=1,
            )
        )
    try:
        return AutoModelForCausalLM.from_pretrained(config.language_model)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"language_model {config.language_model!r} is neither llama_tiny nor a model that transformers can load "
            f"({error})"
        ) from error
