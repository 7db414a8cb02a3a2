from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.prompts.scoring import encoder
from attar.prompts.scoring.encoder import EncoderScorer

TEXTS = ["good shoes", "the zip broke after one week [MASK]", "", "I love it"]
MIDDLE = TextPrompt("It was {mask}: {text}", ("bad", "good"))
END = TextPrompt("{text} it is", ("bad", "good"), demonstrations=(("cheap [MASK]", 0),))


@pytest.fixture(scope="module")
def loaded(tokenizer: Callable[..., Any]) -> tuple[Any, Any]:
    from transformers import BertConfig, BertForMaskedLM

    words = tokenizer("wordpiece", 400)
    words.mask_token = "[MASK]"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, initializer_range=0.2, **sizes)
    return BertForMaskedLM(config).eval(), words


@pytest.mark.parametrize("prompt", [MIDDLE, END, replace(MIDDLE, demonstrations=(("soft", 1),), instruction="Say.")])
def test_scores_are_the_plain_models_at_the_mask(
    prompt: TextPrompt, loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, words = loaded
    monkeypatch.setattr(encoder, "TOKENS_PER_BATCH", 40)
    scorer = EncoderScorer(model, words)
    (found,) = scorer.score_all([prompt], TEXTS, prompt.words)
    ids = [words.convert_tokens_to_ids(word) for word in prompt.words]
    for text, scores in zip(TEXTS, found, strict=True):
        tokens = words(scorer.rendered(prompt, text), return_tensors="pt").input_ids
        place = (tokens[0] == words.mask_token_id).nonzero()
        assert len(place) == 1
        with torch.no_grad():
            slow = torch.log_softmax(model(tokens).logits[0, int(place)], dim=-1)[ids].numpy()
        assert np.abs(scores - slow).max() < 1e-5


def test_the_answers_of_demonstrations_stand_in_the_masks_place(loaded: tuple[Any, Any]) -> None:
    scorer = EncoderScorer(*loaded)
    shown = replace(MIDDLE, demonstrations=(("soft", 1),), instruction="Say.")
    assert scorer.rendered(shown, "thin") == "Say.\n\nIt was good: soft\n\nIt was [MASK]: thin"
    assert scorer.rendered(END, "thin") == "cheap  it is bad\n\nthin it is [MASK]"


def test_answers_are_calibrated_and_empty_input_is_empty(loaded: tuple[Any, Any]) -> None:
    scorer = EncoderScorer(*loaded)
    plain = scorer.answer(MIDDLE, TEXTS)
    bent = scorer.answer(MIDDLE.calibrated((0.0, 1.0)), TEXTS)
    assert np.exp(bent).sum(axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    odds = plain[:, 1] - plain[:, 0] - (bent[:, 1] - bent[:, 0])
    assert odds == pytest.approx(np.ones(4), abs=1e-5)
    assert scorer.score(MIDDLE, []).shape == (0, 2)
    assert scorer.token_forwards > 0
    assert scorer.tokens(MIDDLE) == len(loaded[1]("It was [MASK]:").input_ids)


@pytest.mark.parametrize(
    ("prompt", "texts", "match"),
    [
        (replace(MIDDLE, chat=True), ["x"], "is a chat"),
        (MIDDLE, ["soft " * 80], "at most 64"),
        (replace(MIDDLE, words=("good", "scratchily")), ["x"], "tokens, and a mask holds one"),
        (replace(MIDDLE, words=()), ["x"], "no label word"),
    ],
)
def test_what_an_encoder_cannot_score_is_refused(
    prompt: TextPrompt, texts: list[str], match: str, loaded: tuple[Any, Any]
) -> None:
    with pytest.raises(AttarError, match=match):
        EncoderScorer(*loaded).score(prompt, texts)


def test_a_tokenizer_without_mask_is_refused(loaded: tuple[Any, Any], tokenizer: Callable[..., Any]) -> None:
    with pytest.raises(AttarError, match="has none"):
        EncoderScorer(loaded[0], tokenizer("bpe"))
