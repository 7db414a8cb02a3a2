from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.prompt import TextPrompt, encode
from attar.core.prompting import Ground, Standing
from attar.errors import AttarError
from attar.prompts.moves import local_gradient
from attar.prompts.moves.local_gradient import LocalGradient, locate
from attar.prompts.moves.token_gradient import TokenGradient, swaps

WORDS = ("bad", "good quality")  # the second has several tokens
PLAIN = TextPrompt("Review: {text}\nMood:", WORDS, name="plain", instruction="Judge this jacket, then say if it fits.")
CHAT = replace(PLAIN, chat=True, name="chat", demonstrations=(("too small", 0),))
OPTIONS = replace(PLAIN, name="options", instruction="Say {options} of the dress")
PROMPTS = [PLAIN, CHAT, OPTIONS]
TEXTS = ["a fine warm jacket", "the zip broke", "great color, soft and light! " * 3, "thin"]
LABELS = [1, 0, 1, 0]
POOL = tuple(zip(TEXTS, LABELS, strict=True))


@pytest.fixture(scope="module")
def loaded(llama_folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(llama_folder)


@pytest.fixture
def gradient(loaded: tuple[Any, Any]) -> LocalGradient:
    return LocalGradient(*loaded)


def _plain_loss(loaded: tuple[Any, Any], prompt: TextPrompt, embeddings: torch.Tensor | None = None) -> float:
    """Return the mean loss, one example at a time, written out; the instruction's embeddings may be others."""
    model, tokenizer = loaded
    total = 0.0
    for text, label in POOL:
        ids = encode(tokenizer, prompt, text)
        said = tokenizer(prompt.answer(label), add_special_tokens=False).input_ids
        rows = model.get_input_embeddings()(torch.tensor([ids + said])).detach().clone()
        if embeddings is not None:
            found = locate(tokenizer, prompt, text)
            assert found is not None
            rows[0, found.first : found.last] = embeddings
        with torch.no_grad():
            log_p = model(inputs_embeds=rows).logits[0].double().log_softmax(-1)
        total -= sum(float(log_p[len(ids) + i - 1, token]) for i, token in enumerate(said))
    return total / len(POOL)


def _ground(gradient: Any, tokenizer: Any, *prompts: TextPrompt, seed: int = 0, **others: Any) -> Ground:
    standings = tuple(Standing(prompt, 0.5, 4, 9) for prompt in prompts)
    rest = {"pool": POOL, "labels": WORDS} | others
    return Ground(standings, np.random.default_rng(seed), gradient=gradient, tokenizer=tokenizer, **rest)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
def test_the_instruction_is_found_among_the_tokens(loaded: tuple[Any, Any], prompt: TextPrompt) -> None:
    _, tokenizer = loaded
    for text in ("", *TEXTS, prompt.instruction):  # an example that says the same is not the instruction
        found = locate(tokenizer, prompt, text)
        assert found is not None
        assert found.ids == encode(tokenizer, prompt, text)
        assert tokenizer.decode(found.own) == found.told == prompt.instruction.replace("{options}", "bad, good quality")


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
@pytest.mark.parametrize("tokens", [1024, 40])
def test_the_loss_is_that_of_plain_forwards(
    loaded: tuple[Any, Any], gradient: LocalGradient, prompt: TextPrompt, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_gradient, "TOKENS_PER_BATCH", tokens)
    assert gradient.loss(prompt, TEXTS, LABELS) == pytest.approx(_plain_loss(loaded, prompt), rel=1e-5)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
@pytest.mark.parametrize("tokens", [1024, 40])
def test_the_change_is_that_of_small_steps(
    loaded: tuple[Any, Any], gradient: LocalGradient, prompt: TextPrompt, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_gradient, "TOKENS_PER_BATCH", tokens)
    own, change = gradient(prompt, TEXTS, LABELS)
    table = loaded[0].get_input_embeddings().weight.detach()
    assert change.shape == (len(own), len(table))
    assert change[torch.arange(len(own)), own].abs().max() < 1e-5  # no swap, no change
    step, rows = 1e-2, table[own]
    for place, token in [(0, 300), (2, 17), (len(own) - 1, 99)]:
        towards = torch.zeros_like(rows)
        towards[place] = step * (table[token] - rows[place])
        more, less = (_plain_loss(loaded, prompt, rows + sign * towards) for sign in (1, -1))
        assert (more - less) / (2 * step) == pytest.approx(float(change[place, token]), rel=0.02, abs=2e-4)


def test_nothing_of_the_model_changes(loaded: tuple[Any, Any], gradient: LocalGradient) -> None:
    model, _ = loaded
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():  # as a caller that scores
        _, change = gradient(PLAIN, TEXTS, LABELS)
    assert change.isfinite().all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_texts_are_cut_never_the_prompt(loaded: tuple[Any, Any]) -> None:
    short = LocalGradient(*loaded, max_tokens=3)
    assert short.loss(PLAIN, ["a fine warm jacket that fits " * 40], [1]) == pytest.approx(
        short.loss(PLAIN, ["a fine warm"], [1]), rel=1e-5
    )


def test_without_an_instruction_or_texts_there_is_an_error(gradient: LocalGradient) -> None:
    with pytest.raises(AttarError, match="'plain' has no instruction"):
        gradient(replace(PLAIN, instruction=""), TEXTS, LABELS)
    with pytest.raises(AttarError, match="at least one text"):
        gradient(PLAIN, [], [])


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
def test_a_swap_reads_back_to_the_tokens_that_the_gradient_saw(
    loaded: tuple[Any, Any], gradient: LocalGradient, prompt: TextPrompt
) -> None:
    _, tokenizer = loaded
    own, change = gradient(prompt, TEXTS, LABELS)
    found = list(swaps(tokenizer, prompt, own, change, 4000))
    assert found
    assert [swap.change for swap in found] == sorted(swap.change for swap in found)
    for swap in found:
        assert swap.change < 0
        assert swap.new.isalpha()
        made = locate(tokenizer, swap.prompt, "")
        assert made is not None
        (place,) = (i for i, (old, new) in enumerate(zip(own, made.own, strict=True)) if old != new)
        assert float(change[place, made.own[place]]) == pytest.approx(swap.change)
        assert encode(tokenizer, swap.prompt, "x")[made.last :] == encode(tokenizer, prompt, "x")[made.last :]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_swaps_of_other_tokenizers_read_back(tokenizer: Callable[[str], Any], kind: str) -> None:
    words = tokenizer(kind)
    prompt = TextPrompt("{text}\nMood:", ("bad", "good"), name="p", instruction="a fine warm jacket that fits well")
    located = locate(words, prompt, "")
    assert located is not None
    change = torch.randn(len(located.own), len(words), generator=torch.Generator().manual_seed(0))
    found = list(swaps(words, prompt, located.own, change, 4000))
    assert len(found) > 20
    for swap in found:
        made = locate(words, swap.prompt, "")
        assert made is not None
        assert sum(old != new for old, new in zip(located.own, made.own, strict=True)) == 1


def test_a_change_that_is_no_number_is_no_swap(loaded: tuple[Any, Any], gradient: LocalGradient) -> None:
    own, change = gradient(PLAIN, TEXTS, LABELS)
    assert list(swaps(loaded[1], PLAIN, own, torch.full_like(change, torch.nan), 4000)) == []
    with pytest.raises(AttarError, match="not of the tokens of 'plain'"):
        next(swaps(loaded[1], PLAIN, own[1:], change[1:], 10))


@pytest.mark.parametrize("seed", range(3))
def test_swaps_lower_the_loss_more_often_than_chance(tokenizer: Callable[[str], Any], seed: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer("bpe")
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), initializer_range=0.1, **sizes)).eval()
    gradient = LocalGradient(model, words)
    children = TokenGradient(TokenGradient.Settings(best=24))(_ground(gradient, words, PLAIN), 24)
    own, change = gradient(PLAIN, TEXTS, LABELS)
    random = -torch.rand(change.shape, generator=torch.Generator().manual_seed(seed))
    chance = list(islice(swaps(words, PLAIN, own, random, 4000), 24))
    assert len(children) == len(chance) == 24
    base = gradient.loss(PLAIN, TEXTS, LABELS)
    lower = sum(gradient.loss(child.prompt, TEXTS, LABELS) < base for child in children)
    assert lower >= 18
    assert lower > 4 + sum(gradient.loss(swap.prompt, TEXTS, LABELS) < base for swap in chance)


def test_the_same_ground_gives_the_same_children(loaded: tuple[Any, Any], gradient: LocalGradient) -> None:
    ground = {seed: _ground(gradient, loaded[1], *PROMPTS, seed=seed) for seed in (1, 2)}
    once, other = (TokenGradient()(ground[seed], 6) for seed in (1, 2))
    again = TokenGradient()(_ground(gradient, loaded[1], *PROMPTS, seed=1), 6)
    assert once == again
    assert once != other
    assert len({child.prompt.name for child in (*once,)} | {p.name for p in PROMPTS}) == 9
    assert all("by the gradient" in child.how and child.prompt.calibration is None for child in once)


def test_a_list_of_options_stays_a_list_where_it_can(loaded: tuple[Any, Any], gradient: LocalGradient) -> None:
    children = TokenGradient()(_ground(gradient, loaded[1], OPTIONS), 16)
    whole = [child for child in children if "bad, good quality" in child.prompt.render("x")]
    assert whole
    assert all("{options}" in child.prompt.instruction for child in whole)


def test_where_there_is_nothing_to_swap_there_are_no_children(loaded: tuple[Any, Any], gradient: LocalGradient) -> None:
    _, tokenizer = loaded
    bare = replace(PLAIN, instruction="", name="bare")
    assert TokenGradient()(_ground(gradient, tokenizer, bare), 3) == []
    assert TokenGradient()(_ground(gradient, tokenizer, PLAIN, pool=()), 3) == []
    assert TokenGradient()(_ground(gradient, tokenizer, PLAIN, pool=(("a", "b"),)), 3) == []
    assert TokenGradient()(_ground(gradient, tokenizer, PLAIN, most_tokens=2), 3) == []
    assert TokenGradient()(_ground(gradient, tokenizer), 3) == []
    assert len(TokenGradient()(_ground(gradient, tokenizer, bare, PLAIN), 3)) == 3


def test_without_a_local_model_there_is_an_error(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(AttarError, match="needs a model of this process"):
        TokenGradient()(_ground(None, loaded[1], PLAIN), 3)
