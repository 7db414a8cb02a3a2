from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attar.errors import AttarError
from attar.prompts.writing.local import LocalWriter

REQUESTS = ["Say it", "Write one instruction for a judge of reviews", "x", "Say it"]


@pytest.fixture
def loaded(llama_folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(llama_folder)


def _writer(loaded: tuple[Any, Any], **settings: Any) -> LocalWriter:
    return LocalWriter(*loaded, LocalWriter.Settings(**{"max_new_tokens": 8, **settings}))


def test_the_same_seed_writes_the_same_and_another_something_else(loaded: tuple[Any, Any]) -> None:
    writer = _writer(loaded)
    once = writer.write(REQUESTS, 3)
    assert len(once) == 4
    assert once == writer.write(REQUESTS, 3)
    assert once != writer.write(REQUESTS, 4)
    assert once[0] != once[3]  # equal requests are answered by chance of their own
    assert all(text == text.strip() for text in once)


def test_random_state_and_habits_are_left_as_they_were(loaded: tuple[Any, Any]) -> None:
    model, _ = loaded
    before, own = torch.get_rng_state(), model.generation_config
    _writer(loaded).write(REQUESTS, 0)
    assert torch.equal(before, torch.get_rng_state())
    assert model.generation_config is own


@pytest.mark.parametrize("chat", [True, False])
def test_likeliest_tokens_equal_a_plain_greedy_loop(loaded: tuple[Any, Any], chat: bool) -> None:
    model, tokenizer = loaded
    model.generation_config.repetition_penalty = 5.0  # a habit that must not count
    if not chat:
        tokenizer.chat_template = None
    written = _writer(loaded, temperature=0, batch=3).write(REQUESTS, 0)
    for request, text in zip(REQUESTS, written, strict=True):
        read = f"<|user|>\n{request}<eos>\n<|assistant|>\n" if chat else request
        ids = tokenizer(read, add_special_tokens=False, return_tensors="pt").input_ids
        first = ids.shape[1]
        with torch.no_grad():
            while ids.shape[1] < first + 8 and ids[0, -1] != tokenizer.eos_token_id:
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(dim=-1)], dim=1)
        assert text == tokenizer.decode(ids[0, first:], skip_special_tokens=True).strip()


def test_all_ends_of_the_model_end_an_answer(loaded: tuple[Any, Any]) -> None:
    model, _ = loaded
    model.generation_config.eos_token_id = list(range(2, model.config.vocab_size))
    writer = _writer(loaded)
    writer.write(["Say it"], 0)
    short = writer.tokens
    model.generation_config.eos_token_id = None
    writer.write(["Say it"], 0)
    assert writer.tokens - short > short - 8  # the first ended after one token


def test_nothing_asked_is_nothing_written(loaded: tuple[Any, Any]) -> None:
    writer = _writer(loaded)
    assert writer.write([], 0) == []
    assert writer.tokens == 0
    writer.write(["Say it"], 0)
    assert writer.tokens > 8


def test_a_request_longer_than_the_context_is_an_error(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(AttarError, match=r"has \d+ tokens, and 8 may be written, but its context holds 512"):
        _writer(loaded).write(["word " * 600], 0)
