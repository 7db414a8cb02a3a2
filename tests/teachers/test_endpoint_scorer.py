from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.teachers.fake_endpoint import MODEL, WORDS, FakeEndpoint, serving, share

from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.teachers.endpoint import EndpointTeacher
from attar.teachers.endpoint_scorer import EndpointScorer

PROMPT = TextPrompt("Review: {text}\nSentiment:", WORDS)
CHAT = TextPrompt("Is it {options}? {text}", WORDS, chat=True, demonstrations=(("Tore.", 0),))
TEXTS = [f"text number {i}" for i in range(5)]


def _scorer(server: FakeEndpoint, folder: Path, **changes: Any) -> EndpointScorer:
    plain = {"backoff": 0.001, "timeout": 5.0, "concurrency": 8}
    settings = EndpointTeacher.Settings(**{"base_url": server.url, "model": MODEL, **plain, **changes})
    return EndpointScorer(EndpointTeacher(settings, PROMPT, folder / "ledger.jsonl"))


def test_prompts_are_asked_together_and_every_answer_is_paid_once(tmp_path: Path) -> None:
    prompts = [PROMPT, CHAT, replace(PROMPT, instruction="Judge."), replace(PROMPT, name="again")]
    with serving(latency=0.05) as server:
        scorer = _scorer(server, tmp_path)
        found = scorer.score_all(prompts, TEXTS, WORDS)
        assert server.billed.total() == 15  # the last prompt reads what the first reads
        assert server.most_at_once > 5  # more than one prompt's texts at once
        assert scorer.token_forwards == 15 * 21
    for prompt, scores in zip(prompts, found, strict=True):
        read = [prompt.messages(text)[-1]["content"] if prompt.chat else prompt.render(text) for text in TEXTS]
        assert np.exp(scores[:, 1]) == pytest.approx([share(text) for text in read], abs=1e-6)
        assert np.exp(scores).sum(axis=1) == pytest.approx(np.ones(5), abs=1e-6)


def test_calibration_other_words_and_another_process_cost_no_call(tmp_path: Path) -> None:
    with serving() as server:
        scorer = _scorer(server, tmp_path)
        plain = scorer.score_all([PROMPT], TEXTS, WORDS)[0]
        paid = server.billed.total()
        bent = scorer.answer(PROMPT.calibrated((0.0, 1.0)), TEXTS)
        turned = scorer.score_all([PROMPT], TEXTS, WORDS[::-1])[0]
        again = _scorer(server, tmp_path)
        assert (again.answer(PROMPT, TEXTS) == plain).all()
        assert server.billed.total() == paid == 5
        assert again.token_forwards == 0
    odds = plain[:, 1] - plain[:, 0] - (bent[:, 1] - bent[:, 0])
    assert odds == pytest.approx(np.ones(5), abs=1e-5)
    assert turned == pytest.approx(plain[:, ::-1], abs=1e-6)


def test_a_prompt_that_gets_no_label_is_even_and_stops_nothing(tmp_path: Path) -> None:
    with serving() as server:
        found = _scorer(server, tmp_path).score_all([PROMPT], [str(i) for i in range(9)], ("yes", "no"))[0]
    assert np.exp(found) == pytest.approx(np.full((9, 2), 0.5))


def test_nothing_asked_nothing_paid(tmp_path: Path) -> None:
    with serving() as server:
        scorer = _scorer(server, tmp_path)
        assert scorer.score_all([PROMPT], [], WORDS)[0].shape == (0, 2)
        assert scorer.score_all([], TEXTS, WORDS) == []
        assert scorer.tokens(replace(PROMPT, instruction="Judge the review.")) > scorer.tokens(PROMPT)
        assert server.billed.total() == 0


def test_a_cap_holds_and_what_was_paid_counts(tmp_path: Path) -> None:
    with serving() as server:
        scorer = _scorer(server, tmp_path, max_calls=3, concurrency=1)
        with pytest.raises(AttarError, match="cap max_calls: 3 is reached"):
            scorer.score_all([PROMPT, CHAT], TEXTS, WORDS)
        assert scorer.token_forwards == 3 * 21


def test_wrong_input_is_refused(tmp_path: Path) -> None:
    with serving() as server:
        with pytest.raises(AttarError, match="mode: labels"):
            _scorer(server, tmp_path, mode="text")
        with pytest.raises(AttarError, match="no label word"):
            _scorer(server, tmp_path).score_all([PROMPT], TEXTS, ())
        with pytest.raises(AttarError, match="begins the label word"):
            _scorer(server, tmp_path).score_all([PROMPT], TEXTS[:1], ("good", "goodness"))
        assert server.billed.total() == 1
