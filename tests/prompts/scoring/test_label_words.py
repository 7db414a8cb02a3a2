from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.prompts.scoring.tiny import CHAT, INSTRUCTION, PLAIN, SIBLINGS, TEXTS, TOLD, plain_log_p, plain_word_scores

from attar.core.prompt import TextPrompt, cut, encode
from attar.errors import AttarError
from attar.prompts.calibration import batch_calibration
from attar.prompts.scoring import runner
from attar.prompts.scoring.label_words import LabelWordScorer
from attar.prompts.scoring.words import word_tokens


@pytest.fixture
def scorer(loaded: tuple[Any, Any]) -> LabelWordScorer:
    return LabelWordScorer(*loaded, max_tokens=64)


def _plain(loaded: tuple[Any, Any], prompt: TextPrompt, text: str) -> np.ndarray:
    """Return the words' first tokens' log-probabilities by one whole forward of one example."""
    ids = [loaded[1]((w if prompt.chat else " " + w), add_special_tokens=False).input_ids[0] for w in prompt.words]
    return np.asarray(plain_log_p(loaded, prompt, text)[-1, ids])


@pytest.mark.parametrize("prompt", [PLAIN, INSTRUCTION, TOLD, CHAT], ids=["plain", "shown", "told", "chat"])
def test_prefix_reuse_equals_the_plain_forward(
    prompt: TextPrompt, scorer: LabelWordScorer, loaded: tuple[Any, Any]
) -> None:
    assert scorer.runner.way == "shared"
    slow = np.stack([_plain(loaded, prompt, text) for text in TEXTS])
    assert np.abs(scorer.score(prompt, TEXTS) - slow).max() < 1e-5
    alone = np.concatenate([scorer.score(prompt, [text]) for text in TEXTS])
    assert np.abs(alone - slow).max() < 1e-5


@pytest.mark.parametrize("prompt", [PLAIN, CHAT], ids=["plain", "chat"])
def test_any_batches_give_the_same(
    prompt: TextPrompt, scorer: LabelWordScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scorer.score(prompt, TEXTS)
    monkeypatch.setattr(runner, "TOKENS_PER_BATCH", 20)
    assert np.abs(scorer.score(prompt, TEXTS) - whole).max() < 1e-5
    assert np.abs(scorer.score(prompt, TEXTS[::-1]) - whole[::-1]).max() < 1e-5
    assert np.abs(scorer.score(prompt, TEXTS[2:4]) - whole[2:4]).max() < 1e-5


def test_all_prompts_at_once_equal_each_alone(scorer: LabelWordScorer, loaded: tuple[Any, Any]) -> None:
    prompts = [PLAIN, CHAT, *SIBLINGS, TOLD, replace(PLAIN, name="again")]
    found = scorer.score_all(prompts, TEXTS, ("bad", "good"))
    assert [scores.shape for scores in found] == [(6, 2)] * 7
    for prompt, scores in zip(prompts, found, strict=True):
        slow = np.stack([_plain(loaded, prompt, text) for text in TEXTS])
        assert np.abs(scores - slow).max() < 1e-5, prompt.name
    assert (found[0] == found[-1]).all()


def test_siblings_compute_what_they_share_once(scorer: LabelWordScorer, loaded: tuple[Any, Any]) -> None:
    texts = ["fine", "good"]
    rests = []
    for prompt in SIBLINGS:
        scorer.runner.way  # noqa: B018 (the choice costs tokens of its own)
        before = scorer.token_forwards
        scorer.score(prompt, texts)
        rests.append(scorer.token_forwards - before)
    prefixes = [scorer.prefix(prompt) for prompt in SIBLINGS]
    own = rests[0] - len(prefixes[0])
    # a tree by hand: the second leaves the first at the second demonstration, the third goes on from the first's end
    split = next(i for i, (a, b) in enumerate(zip(prefixes[0], prefixes[1], strict=False)) if a != b)
    assert prefixes[2][: len(prefixes[0])] == prefixes[0]
    assert rests[1] == own + len(prefixes[1]) - split
    assert rests[2] == own + len(prefixes[2]) - len(prefixes[0])
    assert split > len(prefixes[1]) / 2

    together = LabelWordScorer(*loaded, max_tokens=64)
    together.runner.way  # noqa: B018
    together.score_all(SIBLINGS[::-1], texts, ("bad", "good"))
    assert together.token_forwards == sum(rests)


def test_a_resumed_block_computes_no_prefix_again(scorer: LabelWordScorer) -> None:
    scorer.score_all(SIBLINGS, TEXTS[:2], ("bad", "good"))
    before = scorer.token_forwards
    scorer.score_all(SIBLINGS, ["a fine thing"], ("bad", "good"))
    own = [len(encode(scorer.tokenizer, p, "a fine thing")) - len(scorer.prefix(p)) for p in SIBLINGS]
    assert scorer.token_forwards - before == sum(own)


def test_the_same_question_is_asked_once(scorer: LabelWordScorer) -> None:
    scorer.score_all([TOLD], ["fine"], ("bad", "good"))
    before = scorer.token_forwards
    one = scorer.score_all([TOLD], ["fine"], ("bad", "good"))
    spent = scorer.token_forwards - before
    many = scorer.score_all([TOLD, replace(TOLD, name="b", calibration=(0.1, 0.2))], ["fine"] * 3, ("bad", "good"))
    assert scorer.token_forwards - before == 2 * spent
    assert all((rows == one[0]).all() for rows in many)


def test_a_text_that_merges_with_the_prompts_last_token_is_exact(loaded: tuple[Any, Any]) -> None:
    # "Ġg" + "ood" is one token: the prefix's last token depends on the text
    prompt = TextPrompt("Judge this g{text} and say", ("bad", "good"))
    scorer = LabelWordScorer(*loaded)
    texts = ["ood", "reat", "7"]
    merged = encode(loaded[1], prompt, "ood")
    prefix = scorer.prefix(prompt)
    assert merged[: len(prefix)] != prefix
    slow = np.stack([_plain(loaded, prompt, text) for text in texts])
    assert np.abs(scorer.score(prompt, texts) - slow).max() < 1e-5


WORDS = ("good", "goodness", "good luck", "bad", "zq1", "zq2")


@pytest.mark.parametrize("prompt", [TOLD, CHAT], ids=["running", "chat"])
def test_words_of_several_tokens_are_told_apart(
    prompt: TextPrompt, scorer: LabelWordScorer, loaded: tuple[Any, Any]
) -> None:
    tokenizer = loaded[1]
    ids = [tokenizer(w if prompt.chat else f" {w}", add_special_tokens=False).input_ids for w in WORDS]
    assert ids[1][: len(ids[0])] == ids[0]  # one begins another
    assert ids[4][0] == ids[5][0]  # two begin alike
    found = scorer.score(prompt, TEXTS, WORDS)
    slow = np.stack([plain_word_scores(loaded, prompt, text, WORDS) for text in TEXTS])
    assert np.abs(found - slow).max() < 2e-5


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


def test_no_texts_or_no_prompts_no_scores(scorer: LabelWordScorer) -> None:
    assert scorer.score(PLAIN, []).shape == (0, 2)
    assert scorer.answer(PLAIN.calibrated((0.1, 0.2)), []).shape == (0, 2)
    assert scorer.score_all([], TEXTS, ("bad", "good")) == []


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
    with torch.no_grad():
        ids = torch.tensor([encode(tokenizer, TOLD, "fine")])
        plain = model(ids).logits[0, -1]
    setattr(model.config, setting, value)
    bent = {
        "logit_scale": plain * value,
        "logits_scaling": plain / value,
        "final_logit_softcapping": torch.tanh(plain / value) * value,
    }
    wanted = torch.log_softmax(bent[setting], dim=-1)[
        [ids[0] for ids in word_tokens(tokenizer, TOLD.words, False)]
    ].numpy()
    assert np.abs(LabelWordScorer(model, tokenizer).score(TOLD, ["fine", "x"])[0] - wanted).max() < 1e-5


def test_the_models_own_attention_is_back_after_a_call(scorer: LabelWordScorer, loaded: tuple[Any, Any]) -> None:
    own = loaded[0].config._attn_implementation
    scorer.score(TOLD, TEXTS)
    assert loaded[0].config._attn_implementation == own == "sdpa"
    with pytest.raises(AttarError, match="reads at most 512"):
        LabelWordScorer(*loaded, max_tokens=600).score(TOLD, ["x " * 600])
    assert loaded[0].config._attn_implementation == own


def test_a_word_stands_behind_a_space_in_running_text_alone(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    told = word_tokens(tokenizer, ("bad", "good"), False)
    assert [tokenizer.convert_ids_to_tokens(ids[0])[0] for ids in told] == ["Ġ", "Ġ"]
    assert tokenizer.convert_ids_to_tokens(word_tokens(tokenizer, ("bad",), True)[0][0])[0] != "Ġ"


def test_a_word_without_a_token_is_refused(scorer: LabelWordScorer) -> None:
    with pytest.raises(AttarError, match="has no token"):
        word_tokens(scorer.tokenizer, ("",), True)
    with pytest.raises(AttarError, match="has no token"):
        scorer.score(CHAT, TEXTS, ("good", ""))
    with pytest.raises(AttarError, match="no label word to score"):
        scorer.score(CHAT, TEXTS, ())


def test_chat_without_a_chat_template_is_refused(loaded: tuple[Any, Any]) -> None:
    tokenizer = copy.deepcopy(loaded[1])
    tokenizer.chat_template = None
    with pytest.raises(AttarError, match=r"has no chat template. Set chat: false"):
        encode(tokenizer, CHAT, "x")
    with pytest.raises(AttarError, match=r"has no chat template. Set chat: false"):
        LabelWordScorer(loaded[0], tokenizer).score(CHAT, ["x"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_name_the_prompt(value: float, loaded: tuple[Any, Any]) -> None:
    model = copy.deepcopy(loaded[0])
    model.model.norm.weight.data.fill_(value)
    with pytest.raises(AttarError, match=r"not finite to the prompt 'loud' in float32.*precision float32"):
        LabelWordScorer(model, loaded[1]).score(replace(TOLD, name="loud"), TEXTS)


@pytest.mark.parametrize("count", [0, 40])
def test_a_prompt_longer_than_the_models_context_is_refused(count: int, scorer: LabelWordScorer) -> None:
    shown = tuple((f"{TEXTS[1]} {i}", 0) for i in range(count))
    prompt = replace(TOLD, demonstrations=shown, name="long")
    texts = ["fine"] if count else ["word " * 700]
    reader = scorer if count else LabelWordScorer(scorer.model, scorer.tokenizer, max_tokens=600)
    with pytest.raises(AttarError, match=r"'long' with its longest text has \d+ tokens, .* at most 512. Show fewer"):
        reader.score(prompt, texts)


def test_a_prompts_tokens_are_counted(scorer: LabelWordScorer) -> None:
    assert scorer.tokens(TOLD) == len(encode(scorer.tokenizer, TOLD, ""))
    assert scorer.tokens(CHAT) == len(encode(scorer.tokenizer, CHAT, ""))


def test_bfloat16_is_close(loaded: tuple[Any, Any]) -> None:
    half = copy.deepcopy(loaded[0]).to(torch.bfloat16)
    scorer = LabelWordScorer(half, loaded[1])
    slow = np.stack([_plain((half, loaded[1]), TOLD, text) for text in TEXTS])
    assert scorer.runner.way == "shared"
    assert np.abs(scorer.score(TOLD, TEXTS) - slow).max() < 0.15
