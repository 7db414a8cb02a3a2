from __future__ import annotations

from typing import Any

import pytest
import torch

from attar.core.nouns import Model
from attar.meters import bit_operations as bits
from attar.meters.flops import count_flops


def test_a_convolution_and_a_layer_by_hand() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1, groups=1, bias=False), torch.nn.Flatten(), torch.nn.Linear(144, 5)
    )
    plan = {"2.weight": {"bits": 4, "group": 32, "symmetric": True, "format": "nbits"}}
    found = bits.of_model(Model(net, "net", facts={"quantized": plan}), lambda: net(torch.zeros(2, 3, 6, 6)))
    assert found == [
        bits.Product("Conv2d", 2 * 4 * 36 * 27, 32, 32),
        bits.Product("Linear", 2 * 144 * 5, 4, 32),
    ]
    assert bits.bit_operations(found) == 2 * 4 * 36 * 27 * 1024 + 2 * 144 * 5 * 128
    assert bits.shares(found) == {"float32": 0.8438, "int4 x float32": 0.1562}


def test_attention_is_what_the_layers_leave_and_nothing_is_counted_twice(text_student: Any) -> None:
    ids = torch.ones(1, 7, dtype=torch.long)

    def forward() -> Any:
        return text_student.module(input_ids=ids)

    found = bits.of_model(text_student, forward)
    assert 2 * sum(one.macs for one in found) == count_flops(forward)
    (attention,) = (one for one in found if one.operator == "attention")
    assert attention.macs == 2 * 2 * 7 * 7 * 32  # layers, products, queries, keys, width
    assert not text_student.module.bert.encoder.layer[0].output.dense._forward_hooks


def test_a_tied_head_has_the_bits_of_the_table(llama_folder: Any) -> None:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(llama_folder)
    plan = {"model.embed_tokens.weight": {"bits": 8, "group": 32, "symmetric": True, "format": "q8_0"}}
    model = Model(network, "causal", facts={"quantized": plan})
    found = bits.of_model(model, lambda: network(input_ids=torch.ones(1, 3, dtype=torch.long)))
    table = network.get_input_embeddings().weight
    assert [one.macs for one in found if one.weight_bits == 8] == [3 * table.numel()]


def test_hooks_go_where_the_call_fails() -> None:
    net = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError):
        bits.of_model(Model(net, "net"), lambda: net(torch.zeros(1, 3)))
    assert not net._forward_hooks
