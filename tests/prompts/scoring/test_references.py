from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from tests.prompts.scoring.tiny import CHAT, SIBLINGS, TEXTS, TOLD, plain_log_p, tiny

from attar.errors import AttarError
from attar.prompts.scoring import runner
from attar.prompts.scoring.references import ReferenceScorer

REFERENCES = ["good", "it broke after a week", "", "I love it", "too thin", "bad"]


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Mamba"])
def test_likelihoods_equal_the_plain_forward(
    kind: str, loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = (tiny(kind, **({"sliding_window": 8} if kind == "Mistral" else {})), loaded[1])
    monkeypatch.setattr(runner, "TOKENS_PER_BATCH", 60)
    prompts = [TOLD, CHAT, SIBLINGS[0]]
    found = ReferenceScorer(*both).score_all(prompts, TEXTS, REFERENCES)
    for prompt, scores in zip(prompts, found, strict=True):
        for text, reference, (value, count) in zip(TEXTS, REFERENCES, scores, strict=True):
            said = reference if prompt.chat else f" {reference}"
            ids = both[1](said, add_special_tokens=False).input_ids
            assert count == len(ids)
            log_p = plain_log_p(both, prompt, text, ids)[-len(ids) - 1 : -1] if ids else np.zeros((0, 1))
            assert value == pytest.approx(sum(log_p[i, token] for i, token in enumerate(ids)), abs=1e-4)


def test_rows_laid_out_in_parts_give_the_same(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = ReferenceScorer(*loaded)
    whole = scorer.score_all([TOLD], TEXTS, REFERENCES)[0]
    monkeypatch.setattr("attar.prompts.scoring.references.ROWS", 2)
    assert np.abs(scorer.score_all([TOLD], TEXTS, REFERENCES)[0] - whole).max() < 1e-5


def test_nothing_to_score(loaded: tuple[Any, Any]) -> None:
    assert ReferenceScorer(*loaded).score_all([TOLD, CHAT], [], [])[1].shape == (0, 2)
    assert ReferenceScorer(*loaded).score_all([], TEXTS, REFERENCES) == []


def test_each_text_needs_a_reference(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(AttarError, match="6 texts and 1 references"):
        ReferenceScorer(*loaded).score_all([TOLD], TEXTS, ["x"])


def test_a_reference_that_does_not_fit_behind_the_prompt_is_refused(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(AttarError, match="reads at most 512"):
        ReferenceScorer(*loaded).score_all([TOLD], ["x"], ["word " * 600])


def test_likelihoods_that_are_not_numbers_name_the_prompt(loaded: tuple[Any, Any]) -> None:
    model = copy.deepcopy(loaded[0])
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(AttarError, match="under the prompt 'prompt'"):
        ReferenceScorer(model, loaded[1]).score_all([TOLD], ["x"], ["y"])
