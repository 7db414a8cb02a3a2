from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.prompt import TextPrompt, cut, encode
from attar.errors import AttarError
from attar.prompts import scoring
from attar.prompts.scoring import LabelWordScorer, batch_calibration, calibrate, common_prefix, length_buckets

PLAIN = TextPrompt("Review: {text}\nSentiment:", ("bad", "good"))
INSTRUCTION = TextPrompt(
    "Classify the sentiment of the review as {options}.\n\n{text}\nAnswer:",
    ("bad", "good"),
    False,
    (("soft and warm", 1),),
)
CHAT = TextPrompt("Is this {options}? {text}", ("bad", "good"), True, (("cheap", 0), ("soft", 1)))
TEXTS = ["fine", "the zip broke after one week, very bad quality", "", "I love it", "too small, too thin; " * 6, "fine"]


@pytest.fixture(scope="module")
def loaded(llama_folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(llama_folder)


@pytest.fixture
def scorer(loaded: tuple[Any, Any]) -> LabelWordScorer:
    return LabelWordScorer(*loaded, max_tokens=64)


def _plain(loaded: tuple[Any, Any], prompt: TextPrompt, text: str) -> np.ndarray:
    """Return the two words' logits by one whole forward of one example, written out."""
    model, tokenizer = loaded
    if prompt.chat:
        text = tokenizer.apply_chat_template(prompt.messages(text), tokenize=False, add_generation_prompt=True)
    else:
        text = prompt.render(text)
    ids = tokenizer(text, add_special_tokens=not prompt.chat, return_tensors="pt").input_ids
    words = [tokenizer((w if prompt.chat else " " + w), add_special_tokens=False).input_ids[0] for w in prompt.words]
    with torch.no_grad():
        return np.asarray(model(ids).logits[0, -1, words])


@pytest.mark.parametrize("prompt", [PLAIN, INSTRUCTION, CHAT], ids=["plain", "instruction", "chat"])
def test_prefix_reuse_equals_the_plain_forward(
    prompt: TextPrompt, scorer: LabelWordScorer, loaded: tuple[Any, Any]
) -> None:
    slow = np.stack([_plain(loaded, prompt, text) for text in TEXTS])
    assert np.abs(scorer.score(prompt, TEXTS) - slow).max() < 1e-5
    alone = np.concatenate([scorer.score(prompt, [text]) for text in TEXTS])
    assert np.abs(alone - slow).max() < 1e-5


@pytest.mark.parametrize("prompt", [PLAIN, CHAT], ids=["plain", "chat"])
def test_any_batches_give_the_same(
    prompt: TextPrompt, scorer: LabelWordScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scorer.score(prompt, TEXTS)
    monkeypatch.setattr(scoring, "TOKENS_PER_BATCH", 20)
    assert np.abs(scorer.score(prompt, TEXTS) - whole).max() < 1e-5
    assert np.abs(scorer.score(prompt, TEXTS[::-1]) - whole[::-1]).max() < 1e-5
    assert np.abs(scorer.score(prompt, TEXTS[2:4]) - whole[2:4]).max() < 1e-5


def test_going_back_and_forth_between_prompts_keeps_no_wrong_prefix(
    scorer: LabelWordScorer, loaded: tuple[Any, Any]
) -> None:
    for prompt in (PLAIN, CHAT, INSTRUCTION, PLAIN, CHAT):
        for texts in (TEXTS[:2], TEXTS[1:2], [TEXTS[0], TEXTS[0] + " x"]):
            slow = np.stack([_plain(loaded, prompt, text) for text in texts])
            assert np.abs(scorer.score(prompt, texts) - slow).max() < 1e-5


def test_the_prefix_costs_once(scorer: LabelWordScorer) -> None:
    scorer.score(INSTRUCTION, TEXTS)
    first = scorer.token_forwards
    scorer.score(INSTRUCTION, TEXTS)
    whole = sum(len(encode(scorer.tokenizer, INSTRUCTION, text)) for text in TEXTS)
    assert scorer.token_forwards - first < first < whole


def test_words_of_the_call_replace_the_prompts(scorer: LabelWordScorer) -> None:
    both = scorer.score(PLAIN, TEXTS, ("good", "bad", "fine"))
    assert both.shape == (6, 3)
    assert np.abs(both[:, [1, 0]] - scorer.score(PLAIN, TEXTS)).max() < 1e-5


def test_no_texts_no_scores(scorer: LabelWordScorer) -> None:
    assert scorer.score(PLAIN, []).shape == (0, 2)
    assert scorer.answer(PLAIN.calibrated((0.1, 0.2)), []).shape == (0, 2)


def test_a_long_text_loses_its_end_and_never_the_prompt(loaded: tuple[Any, Any]) -> None:
    scorer = LabelWordScorer(*loaded, max_tokens=8)
    long = "the zip broke after one week and the seams are already open"
    shorter = cut(scorer.tokenizer, long, scorer.max_tokens)
    assert long.startswith(shorter)
    assert 0 < len(scorer.tokenizer(shorter).input_ids) <= 8
    assert np.abs(scorer.score(PLAIN, [long, "x"])[0] - _plain(loaded, PLAIN, shorter)).max() < 1e-5


def test_answers_are_log_probabilities_after_calibration(scorer: LabelWordScorer) -> None:
    plain = scorer.answer(PLAIN, TEXTS)
    assert np.exp(plain).sum(axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    bias = batch_calibration(scorer.score(PLAIN, TEXTS))
    after = scorer.answer(PLAIN.calibrated(bias), TEXTS)
    assert np.exp(after).sum(axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    # the mean log-odds after calibration is 0: neither word is preferred on the whole
    assert float((after[:, 0] - after[:, 1]).mean()) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("setting", "value"), [("logit_scale", 0.25), ("logits_scaling", 8.0), ("final_logit_softcapping", 0.5)]
)
def test_heads_that_scale_or_bend(setting: str, value: float, loaded: tuple[Any, Any]) -> None:
    model, tokenizer = copy.deepcopy(loaded[0]), loaded[1]
    plain = LabelWordScorer(model, tokenizer).score(PLAIN, TEXTS)
    setattr(model.config, setting, value)
    bent = {
        "logit_scale": plain * value,
        "logits_scaling": plain / value,
        "final_logit_softcapping": np.tanh(plain / value) * value,
    }
    assert np.abs(LabelWordScorer(model, tokenizer).score(PLAIN, TEXTS) - bent[setting]).max() < 1e-5


def test_label_words_with_the_same_first_token_are_detected(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    assert scoring.distinct(tokenizer, ("bad", "good"), False)
    assert not scoring.distinct(tokenizer, ("good", "goodness"), True)
    assert not scoring.distinct(tokenizer, ("zq1", "zq2"), True)
    ids = scoring.word_ids(tokenizer, ("bad", "good"), False)
    assert [tokenizer.convert_ids_to_tokens(i)[0] for i in ids] == ["Ġ", "Ġ"]


def test_a_word_without_a_token_is_refused(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(AttarError, match="has no token"):
        scoring.word_ids(loaded[1], ("",), True)


def test_chat_without_a_chat_template_is_refused(loaded: tuple[Any, Any]) -> None:
    tokenizer = copy.deepcopy(loaded[1])
    tokenizer.chat_template = None
    with pytest.raises(AttarError, match=r"has no chat template. Set chat: false"):
        encode(tokenizer, CHAT, "x")


@pytest.mark.parametrize(
    ("sequences", "shared"),
    [([[1, 2, 3], [1, 2, 4], [1, 2]], 1), ([[1], [1]], 0), ([[5, 1], [6, 1]], 0), ([(1, 2, 3), [1, 2, 9, 9]], 2)],
)
def test_common_prefix_leaves_each_a_token(sequences: Sequence[Sequence[int]], shared: int) -> None:
    assert common_prefix(sequences) == shared


def test_buckets_hold_every_place_once_longest_first() -> None:
    lengths = np.array([3, 50, 7, 7, 120, 1, 30])
    buckets = list(length_buckets(lengths, 60))
    assert sorted(int(i) for bucket in buckets for i in bucket) == list(range(7))
    assert all(len(bucket) == 1 or lengths[bucket].max() * len(bucket) <= 60 for bucket in buckets)
    assert buckets[0].tolist() == [4]
    assert list(length_buckets(np.array([], int), 60)) == []


def test_calibration_by_hand() -> None:
    scores = np.log(np.array([[0.8, 0.2], [0.5, 0.5]], np.float32))
    bias = batch_calibration(scores)
    assert bias == pytest.approx([np.log(0.8 * 0.5) / 2, np.log(0.2 * 0.5) / 2], abs=1e-6)
    # subtracting leaves odds 4 / 2 and 1 / 2
    assert np.exp(calibrate(scores, bias)) == pytest.approx(np.array([[2 / 3, 1 / 3], [1 / 3, 2 / 3]]), abs=1e-6)
    assert np.exp(calibrate(scores + 7, None)) == pytest.approx(np.exp(scores), abs=1e-6)
