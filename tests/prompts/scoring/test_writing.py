from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.prompts.scoring.tiny import CHAT, SIBLINGS, TEXTS, TOLD

from attar.core.prompt import TextPrompt, encode
from attar.errors import AttarError
from attar.prompts.scoring import runner
from attar.prompts.scoring.writing import WritingScorer, end_tokens


def _generated(loaded: tuple[Any, Any], prompt: TextPrompt, text: str, count: int) -> list[int]:
    """Return what `generate` of transformers writes after the whole prompt."""
    model, tokenizer = loaded
    ids = torch.tensor([encode(tokenizer, prompt, text)])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    return [int(token) for token in out[0, ids.shape[1] :]]


@pytest.mark.parametrize("tokens", [40, 1536])
def test_writing_equals_generate_token_for_token(
    tokens: int, loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "TOKENS_PER_BATCH", tokens)
    prompts = [TOLD, CHAT, *SIBLINGS]
    for prompt, written in zip(prompts, WritingScorer(*loaded).token_ids(prompts, TEXTS, 12), strict=True):
        assert written == [_generated(loaded, prompt, text, 12) for text in TEXTS]


def test_rows_that_are_done_leave_and_the_others_write_on(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = copy.deepcopy(loaded[0]), loaded[1]
    plain = WritingScorer(model, tokenizer).token_ids([TOLD], TEXTS, 10)[0]
    # let a token that some write early end the answer
    end = next(t for t in plain[1] if sum(t in ids for ids in plain) < len(plain))
    model.generation_config.eos_token_id = [0, end]
    pen = WritingScorer(model, tokenizer)
    ended = pen.token_ids([TOLD], TEXTS, 10)[0]
    assert ended == [ids[: ids.index(end) + 1] if end in ids else ids for ids in plain]
    assert {len(ids) for ids in ended} != {10}
    assert ended == [_generated((model, tokenizer), TOLD, text, 10) for text in TEXTS]
    assert end_tokens(model, tokenizer) == {0, end}


def test_texts_come_without_special_tokens_and_white_space(loaded: tuple[Any, Any]) -> None:
    pen = WritingScorer(*loaded)
    ids, (texts,) = pen.token_ids([TOLD], TEXTS, 8)[0], pen.write_all([TOLD], TEXTS, 8)
    assert texts == [loaded[1].decode(one, skip_special_tokens=True).strip() for one in ids]


def test_the_prefix_is_reused(loaded: tuple[Any, Any]) -> None:
    pen = WritingScorer(*loaded)
    pen.write_all([SIBLINGS[0]], ["fine"], 1)
    before = pen.token_forwards
    pen.write_all([SIBLINGS[0]], ["good"], 3)
    own = len(encode(pen.tokenizer, SIBLINGS[0], "good")) - len(pen.prefix(SIBLINGS[0]))
    assert pen.token_forwards - before <= own + 2


def test_nothing_to_write(loaded: tuple[Any, Any]) -> None:
    pen = WritingScorer(*loaded)
    assert pen.write_all([TOLD, CHAT], [], 4) == [[], []]
    assert pen.write_all([], TEXTS, 4) == []
    assert pen.write_all([TOLD], ["fine"], 0) == [[""]]


def test_an_answer_must_fit_behind_the_prompt(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(AttarError, match="reads at most 512"):
        WritingScorer(*loaded).write_all([TOLD], ["x"], 600)


def test_a_model_without_numbers_does_not_write(loaded: tuple[Any, Any]) -> None:
    model = copy.deepcopy(loaded[0])
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(AttarError, match="scores are not numbers"):
        WritingScorer(model, loaded[1]).write_all([TOLD], ["x"], 3)
