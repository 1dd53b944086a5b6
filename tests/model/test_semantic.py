"""Words in, meta tokens and words out."""

import pytest
import torch

from irlvla.model.config import ModelConfig
from irlvla.model.language import encode_words, train_tokenizer
from irlvla.model.semantic import SemanticReasoner

QUESTION = "What is your driving decision for the next four seconds?"
CORPUS = [QUESTION, "Keep speed, straight.", "Stop, straight.", "Slow down, turn left.", "Turn right at the crossing."]


@pytest.fixture(scope="module")
def reasoner(config: ModelConfig) -> SemanticReasoner:
    torch.manual_seed(0)
    return SemanticReasoner(config, 16, train_tokenizer(CORPUS, config.vocabulary)).eval()


@pytest.fixture
def seen() -> torch.Tensor:
    return torch.randn(2, 3, 16, 3, 8, generator=torch.Generator().manual_seed(0))


def test_any_text_survives_the_tokenizer(config: ModelConfig) -> None:
    tokenizer = train_tokenizer(CORPUS, config.vocabulary)
    for text in (QUESTION, "Überhole den LKW – 追い越し 🚚"):
        words = encode_words(tokenizer, [text], 200, end=False)
        assert tokenizer.decode(words.ids[0].tolist()).strip() == text


def test_equal_corpora_give_equal_tokenizers(config: ModelConfig) -> None:
    first = train_tokenizer(CORPUS, config.vocabulary)
    again = train_tokenizer(CORPUS[::-1] + CORPUS, config.vocabulary)
    assert first.to_str() == again.to_str()


def test_changed_instruction_changes_the_meta_tokens(reasoner: SemanticReasoner, seen: torch.Tensor) -> None:
    asked = reasoner(seen, [QUESTION, QUESTION]).meta
    told = reasoner(seen, [QUESTION, "Turn right at the crossing."]).meta
    torch.testing.assert_close(asked[0], told[0], atol=1e-4, rtol=1e-4)
    assert (asked[1] - told[1]).abs().max() > 1e-3


def test_changed_pictures_change_the_meta_tokens(reasoner: SemanticReasoner, seen: torch.Tensor) -> None:
    assert (reasoner(seen, [QUESTION] * 2).meta - reasoner(2 * seen, [QUESTION] * 2).meta).abs().max() > 1e-3


def test_answer_being_taught_does_not_leak_into_meta_tokens(reasoner: SemanticReasoner, seen: torch.Tensor) -> None:
    silent = reasoner(seen, [QUESTION] * 2).meta
    taught = reasoner(seen, [QUESTION] * 2, ["Stop, straight.", "Keep speed, straight."]).meta
    torch.testing.assert_close(silent, taught, atol=1e-4, rtol=1e-4)


def test_longer_neighbour_in_the_batch_changes_nothing(reasoner: SemanticReasoner, seen: torch.Tensor) -> None:
    alone = reasoner(seen[:1], ["Stop."]).meta
    beside = reasoner(seen, ["Stop.", QUESTION + " " + QUESTION]).meta[:1]
    torch.testing.assert_close(alone, beside, atol=1e-4, rtol=1e-4)


def test_taught_answers_are_spoken_again(config: ModelConfig, seen: torch.Tensor) -> None:
    """Two scenes, one question, two answers: after a few steps the driver says each where it belongs."""
    torch.manual_seed(0)
    reasoner = SemanticReasoner(config, 16, train_tokenizer(CORPUS, config.vocabulary))
    optimizer = torch.optim.AdamW(reasoner.parameters(), lr=3e-3)
    answers = ["Stop, straight.", "Slow down, turn left."]
    for _ in range(40):
        loss = reasoner(seen, [QUESTION] * 2, answers).answer_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert reasoner.eval().answer(seen, [QUESTION] * 2) == answers
