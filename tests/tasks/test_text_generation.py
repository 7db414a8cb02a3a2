from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from attar.core.examples import UNKNOWN, Examples
from attar.core.nouns import Model
from attar.tasks.text_generation import TextGeneration, completion_tokens, head_of, prompt_tokens

TASK = TextGeneration()


def test_rows_are_what_the_model_says_of_each_token_of_the_completion(
    writer: Callable[..., Model], pairs: Examples
) -> None:
    model = writer()
    batch = TASK.collate(model, pairs)
    rows = TASK.rows(model, batch)
    place = 0
    for text, target, key in zip(pairs.inputs, pairs.targets or (), pairs.keys, strict=True):
        prompt, answer = prompt_tokens(model, str(text)), completion_tokens(model, target)
        logits = model.module(input_ids=torch.tensor([prompt + answer])).logits[0]
        for i, token in enumerate(answer):
            assert rows.key[place].tolist() == [int(key), i]
            assert int(batch.targets[place]) == token
            assert torch.allclose(rows.dense()[place], logits[len(prompt) - 1 + i], atol=1e-4)
            place += 1
    assert place == len(rows) == len(batch.targets)
    assert (rows.weight == 1).all()


def test_a_completion_ends_with_the_end_and_is_cut_before_it(writer: Callable[..., Model]) -> None:
    model = writer()
    ids = completion_tokens(model, "a fine warm jacket that fits well and lasts for very many years")
    assert len(ids) == model.facts["max_new_tokens"]
    assert ids[-1] == model.processor.eos_token_id
    assert model.processor.decode(ids[:3]).startswith(" ")


def test_the_end_of_a_cut_target_is_not_to_be_learned(writer: Callable[..., Model], pairs: Examples) -> None:
    model = writer()
    long = "a fine warm jacket that fits well and lasts for very many years"
    batch = TASK.collate(model, pairs.take(np.arange(3)).with_targets(["good", long, ""]))
    first = len(completion_tokens(model, "good"))
    assert int(batch.targets[first - 1]) == model.processor.eos_token_id
    assert int(batch.targets[-1]) == UNKNOWN
    assert (batch.targets[:-1] != UNKNOWN).all()


def test_a_chat_answers_without_a_space(writer: Callable[..., Model]) -> None:
    model = writer(chat=True)
    assert model.processor.decode(completion_tokens(model, "good")[:-1]) == "good"
    assert model.processor.decode(prompt_tokens(model, "good")).endswith("<|assistant|>\n")


def test_a_long_text_loses_its_end_and_never_the_prompt(writer: Callable[..., Model]) -> None:
    model = writer(max_length=4)
    read = model.processor.decode(prompt_tokens(model, "too small, too thin; I sent it back the same day"))
    assert read.startswith("Review: too")
    assert read.endswith("\nTitle:")
    assert "same day" not in read


def test_examples_without_targets_have_no_rows(writer: Callable[..., Model], pairs: Examples) -> None:
    model = writer()
    some = pairs.take(np.arange(3)).with_targets(["", "a fine jacket", ""])
    rows = TASK.rows(model, TASK.collate(model, some))
    assert set(rows.key[:, 0].tolist()) == {int(some.keys[1])}
    assert len(TASK.rows(model, TASK.collate(model, pairs.without_labels()))) == 0
    assert len(TASK.rows(model, TASK.collate(model, pairs.take(np.arange(0))))) == 0


def test_length_counts_prompt_and_completion(writer: Callable[..., Model], pairs: Examples) -> None:
    model = writer()
    batch = TASK.collate(model, pairs)
    assert TASK.length(model, pairs).max() == batch.inputs["input_ids"].shape[1]


def test_the_head_knows_scale_and_cap(writer: Callable[..., Model]) -> None:
    network = writer().module
    network.config.final_logit_softcapping = 30.0  # type: ignore[union-attr]
    network.config.logit_scale = 0.5  # type: ignore[union-attr]
    network.config.logits_scaling = 2.0  # type: ignore[union-attr]
    head = head_of(network)
    assert head.softcap == 30.0
    assert head.scale == pytest.approx(0.25)
    assert head.weight is network.get_output_embeddings().weight  # type: ignore[operator, union-attr]
