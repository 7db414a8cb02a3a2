from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.prompts.scoring.tiny import SIBLINGS, TEXTS, plain_log_p, plain_word_scores, tiny

from attar.prompts.scoring import shared_attention
from attar.prompts.scoring.label_words import LabelWordScorer
from attar.prompts.scoring.runner import PrefixRunner, own_layers, possible_ways
from attar.prompts.scoring.writing import WritingScorer

KINDS = [
    ("Llama", {}, "shared"),
    ("Qwen2", {}, "shared"),
    ("GPTNeoX", {"num_key_value_heads": 4}, "shared"),
    ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}, "shared"),
    ("Mistral", {"sliding_window": 8}, "expanded"),
    ("Gemma2", {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}, "expanded"),
    ("Bloom", {"n_head": 4}, "expanded"),
    ("Mamba", {"state_size": 4}, "plain"),
]


@pytest.mark.parametrize(("kind", "changes", "way"), KINDS, ids=[kind for kind, _, _ in KINDS])
def test_every_architecture_gives_its_own_forward(
    kind: str, changes: dict[str, Any], way: str, loaded: tuple[Any, Any]
) -> None:
    model, tokenizer = tiny(kind, **changes), loaded[1]
    scorer = LabelWordScorer(model, tokenizer)
    words = ("bad", "good", "zq1", "zq2")
    for prompt, found in zip(SIBLINGS, scorer.score_all(SIBLINGS, TEXTS, words), strict=True):
        slow = np.stack([plain_word_scores((model, tokenizer), prompt, text, words) for text in TEXTS])
        assert np.abs(found - slow).max() < 5e-5
    assert scorer.runner.way == way


@pytest.mark.parametrize(("kind", "changes", "way"), KINDS[3:], ids=[kind for kind, _, _ in KINDS[3:]])
def test_every_architecture_writes_as_it_would_alone(
    kind: str, changes: dict[str, Any], way: str, loaded: tuple[Any, Any]
) -> None:
    model, tokenizer = tiny(kind, **changes), loaded[1]
    pen = WritingScorer(model, tokenizer)
    for prompt, written in zip(SIBLINGS[:2], pen.token_ids(SIBLINGS[:2], TEXTS, 6), strict=True):
        for text, ids in zip(TEXTS, written, strict=True):
            assert ids
            log_p = plain_log_p((model, tokenizer), prompt, text, ids)[-len(ids) - 1 : -1]
            assert log_p.argmax(axis=-1).tolist() == ids
    assert pen.runner.way == way


def test_a_window_that_is_turned_off_costs_nothing() -> None:
    assert possible_ways(tiny("Qwen2", sliding_window=8))[0] == "shared"
    assert possible_ways(tiny("Qwen2", sliding_window=8, use_sliding_window=True, max_window_layers=1))[0] == "expanded"


def test_keys_that_depend_on_the_length_are_never_reused() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert possible_ways(tiny("Llama", rope_parameters=rope)) == ("plain",)


def test_an_attention_that_gives_something_else_is_not_used(
    loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shared_attention.attend

    def wrong(*args: Any, **kwargs: Any) -> Any:
        out, _ = real(*args, **kwargs)
        return out * 1.01, None

    monkeypatch.setattr(shared_attention, "attend", wrong)
    assert PrefixRunner(loaded[0]).way == "expanded"
    assert loaded[0].config._attn_implementation == "sdpa"


@pytest.mark.parametrize("more", [{"sliding_window": 8}, {"softcap": 5.0}, {"is_causal": False}, {}])
def test_what_the_attention_does_not_know_is_refused(more: dict[str, Any], loaded: tuple[Any, Any]) -> None:
    layer = loaded[0].model.layers[0].self_attn
    one = torch.randn(1, 4, 3, 8)
    cache = shared_attention.prefix_cache(None, 2, split=True)
    given = {"shared_prefix": (cache, None), **more} if more else {}  # without the cache too
    with pytest.raises(shared_attention.UnsupportedAttentionError):
        shared_attention.attend(layer, one, one, one, None, **given)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("value_width", [8, 6])
def test_partial_attention_is_softmax_written_out(causal: bool, value_width: int) -> None:
    torch.manual_seed(1)
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8)
    value = torch.randn(2, 2, 5, value_width)  # unlike widths take the written-out way
    mask = torch.zeros(2, 1, 5, 5)
    mask[0, :, :, 1] = -torch.inf
    out, mass = shared_attention.partial_attention(query, key, value, 0.3, None if causal else mask, causal)
    products = 0.3 * torch.einsum("bhqd,bhkd->bhqk", query, key.repeat_interleave(2, dim=1))
    products = products.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf) if causal else products + mask
    slow = torch.softmax(products, dim=-1) @ value.repeat_interleave(2, dim=1)
    assert torch.allclose(out, slow, atol=1e-6)
    assert torch.allclose(mass, torch.logsumexp(products, dim=-1), atol=1e-6)


def test_the_prefix_is_held_once_and_never_laid_out(loaded: tuple[Any, Any]) -> None:
    runner = PrefixRunner(loaded[0])
    with runner.session():
        layers = own_layers(runner.begin(None, [[5, 6, 7, 8]]))
        rows = runner.begin(layers, [[9, 10], [11], [12]])
    assert all(layer.prefix[0] is keys for layer, (keys, _) in zip(rows.cache.layers, layers, strict=True))
    assert [tuple(layer.keys.shape) for layer in rows.cache.layers] == [(3, 2, 2, 8)] * 2


def test_rows_go_on_and_back_and_leave(loaded: tuple[Any, Any]) -> None:
    model = loaded[0]
    runner = PrefixRunner(model)
    rests, more = [[9, 10, 11], [12], [13, 14]], [[3, 4], [5, 6], [7, 8]]

    def slow(tokens: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return model.model(torch.tensor([tokens])).last_hidden_state[0]  # type: ignore[no-any-return]

    with runner.session():
        rows = runner.begin(own_layers(runner.begin(None, [[5, 6, 7, 8]])), rests)
        runner.extend(rows, [[1]] * 3)
        rows.forget(1)
        first = runner.extend(rows, more)
        rows.keep([2, 0])
        second = runner.extend(rows, [[2], [3]])
    for row in range(3):
        assert torch.allclose(first[row], slow([5, 6, 7, 8, *rests[row], *more[row]])[-2:], atol=1e-5)
    assert rows.read == [[13, 14, 7, 8, 2], [9, 10, 11, 3, 4, 3]]
    for row in range(2):
        assert torch.allclose(second[row], slow([5, 6, 7, 8, *rows.read[row]])[-1:], atol=1e-5)
