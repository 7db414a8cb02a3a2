from __future__ import annotations

from typing import Any

import pytest
import torch

from attar.meters.flops import attention_flops, count_flops, count_parameters

BATCH, TIME, WIDTH, HEADS, INNER, LAYERS, VOCABULARY = 2, 7, 32, 4, 48, 2, 50


def _bert(attention: str) -> Any:
    from transformers import BertConfig, BertModel

    sizes = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
    }
    config = BertConfig(vocab_size=VOCABULARY, attn_implementation=attention, **sizes)
    return BertModel(config, add_pooling_layer=False).eval()


def _by_hand() -> int:
    """Return 2 FLOPs a multiply-add: four projections, two products of attention, two of the feed-forward layer."""
    tokens = BATCH * TIME
    projections = 4 * 2 * tokens * WIDTH * WIDTH
    attention = 2 * 2 * BATCH * TIME * TIME * WIDTH
    feed = 2 * 2 * tokens * WIDTH * INNER
    return LAYERS * (projections + attention + feed)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_counted_on_the_cpu(attention: str, masked: bool) -> None:
    model, tokens = _bert(attention), torch.ones(BATCH, TIME, dtype=torch.long)
    mask = torch.ones_like(tokens)
    if masked:
        mask[0, -2:] = 0
    assert count_flops(lambda: model(input_ids=tokens, attention_mask=mask)) == _by_hand()


def test_grouped_queries_count_as_query_heads() -> None:
    query, key = (1, 4, 3, 8), (1, 2, 5, 8)
    assert attention_flops(query, key, key) == 2 * 1 * 4 * 3 * 5 * (8 + 8)


def test_attention_called_plainly() -> None:
    q, k, v = torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 7, 8), torch.zeros(2, 3, 7, 8)
    counted = count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))
    assert counted == 2 * 2 * 3 * 5 * 7 * (8 + 8)


def test_convolution_by_hand() -> None:
    net = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
    # each of 4 x 6 x 6 outputs sums 3 x 3 x 3 products
    assert count_flops(lambda: net(torch.zeros(1, 3, 6, 6))) == 2 * 4 * 6 * 6 * 27


def test_parameters_count_tied_ones_once() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(10, 4)
            self.head = torch.nn.Linear(4, 10, bias=False)
            self.head.weight = self.embed.weight

    assert count_parameters(Tied()) == 40
