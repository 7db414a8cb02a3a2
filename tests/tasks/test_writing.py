from __future__ import annotations

from collections.abc import Callable

import torch

from attar.core.nouns import Model
from attar.tasks.text_generation import prompt_tokens
from attar.tasks.writing import WritingSettings, write

TEXTS = ["a fine warm jacket", "the zip broke after one week, very bad quality", "good"]


def _greedy(model: Model, text: str) -> str:
    ids = prompt_tokens(model, text)
    start = len(ids)
    for _ in range(model.facts["max_new_tokens"]):
        token = int(model.module(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)
        if token == model.processor.eos_token_id:
            break
    return str(model.processor.decode(ids[start:], skip_special_tokens=True)).strip()


def test_greedy_writing_takes_the_likeliest_token_whatever_stands_beside_it(writer: Callable[..., Model]) -> None:
    model = writer()
    assert write(model, TEXTS) == [[_greedy(model, text)] for text in TEXTS]


def test_samples_follow_the_seed_and_leave_torchs_own_alone(writer: Callable[..., Model]) -> None:
    model = writer()
    settings = WritingSettings(how="sample", samples=3, temperature=1.5)
    state = torch.random.get_rng_state()
    first = write(model, TEXTS, settings, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert [len(written) for written in first] == [3, 3, 3]
    assert first == write(model, TEXTS, settings, seed=1)
    assert first != write(model, TEXTS, settings, seed=2)


def test_beams_find_a_text_at_least_as_likely(writer: Callable[..., Model]) -> None:
    model = writer()
    beam = write(model, TEXTS, WritingSettings(how="beam", beams=4))
    assert [len(written) for written in beam] == [1, 1, 1]


def test_nothing_to_write(writer: Callable[..., Model]) -> None:
    assert write(writer(), []) == []


def test_a_models_own_habits_do_not_change_what_greedy_means(writer: Callable[..., Model]) -> None:
    model = writer()
    before = write(model, TEXTS)
    habits = model.module.generation_config  # type: ignore[union-attr]
    habits.repetition_penalty, habits.min_p = 1.8, 0.9  # type: ignore[union-attr]
    assert write(model, TEXTS) == before
    assert model.module.generation_config is habits  # type: ignore[union-attr]
