"""What goes together is found in every known family, and an unknown one is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.compressors.prune.families import MODELS, PLAIN, TEXT, tiny

from attar.compressors.prune.anatomy import attention_groups, hidden_group, mlp_groups, shapes
from attar.compressors.prune.sizes import family_of, sizes_of
from attar.errors import AttarError

FAMILY = {
    **dict.fromkeys(("llama", "llama_bias", "mistral", "qwen2", "qwen3"), "llama"),
    **{"bert": "bert", "roberta": "bert", "distilbert": "distilbert", "vit": "vit"},
    **{"t5": "t5", "t5_gated": "t5", "bart": "bart", "marian": "bart"},
}


@pytest.mark.parametrize("name", MODELS)
def test_the_family_is_known_by_the_configuration(name: str) -> None:
    network = tiny(name)
    found = family_of(network.config.to_dict())
    assert found.name == FAMILY[name]
    assert family_of(network.config.to_diff_dict()) == found


@pytest.mark.parametrize("name", MODELS)
def test_every_linear_layer_of_the_stacks_is_in_a_group(name: str) -> None:
    network = tiny(name)
    cut = {(one.name, one.dim) for group in (*mlp_groups(network), *attention_groups(network)) for one in group.cuts}
    inside = [
        f"{where}.weight"
        for where, part in network.named_modules()
        if isinstance(part, torch.nn.Linear) and any(piece.isdecimal() for piece in where.split("."))
    ]
    assert {where for where, _ in cut if where in inside} == set(inside)
    for where in inside:  # one of its two sides is cut by channels of an MLP or heads, the other is hidden
        assert len([dim for other, dim in cut if other == where]) == 1


def test_the_groups_of_a_llama_are_these() -> None:
    network = tiny("llama")
    mlp, attention, hidden = mlp_groups(network)[1], attention_groups(network)[1], hidden_group(network)
    layer = "model.layers.1"
    assert {(cut.name, cut.dim, cut.units) for cut in mlp.cuts} == {
        (f"{layer}.mlp.gate_proj.weight", 0, 96),
        (f"{layer}.mlp.up_proj.weight", 0, 96),
        (f"{layer}.mlp.down_proj.weight", 1, 96),
    }
    assert {(cut.name, cut.dim, cut.units) for cut in attention.cuts} == {
        (f"{layer}.self_attn.q_proj.weight", 0, 4),
        (f"{layer}.self_attn.k_proj.weight", 0, 2),
        (f"{layer}.self_attn.v_proj.weight", 0, 2),
        (f"{layer}.self_attn.o_proj.weight", 1, 4),
    }
    assert (mlp.reads, attention.reads) == ((f"{layer}.mlp.down_proj",), (f"{layer}.self_attn.o_proj",))
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= {cut.name for cut in hidden.cuts}
    assert len(hidden.cuts) == 2 + 1 + 2 * 9  # of a layer: two norms and seven projections


def test_attentions_that_share_a_table_of_positions_are_one_group() -> None:
    groups = attention_groups(tiny("t5"))
    tables = {cut.name: len(group.reads) for group in groups for cut in group.cuts if "relative" in cut.name}
    first = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert tables == {f"encoder.{first}": 2, f"decoder.{first}": 2}
    assert [len(group.reads) for group in groups] == [2, 2, 1, 1]  # the last read the encoder, without positions


def test_shapes_are_those_of_the_changed_configuration() -> None:
    network = tiny("llama")
    found = shapes(network, {"intermediate_size": 40})
    assert found["model.layers.0.mlp.up_proj.weight"] == (40, 64)
    assert network.config.intermediate_size == 96


@pytest.mark.parametrize(
    ("kind", "extra", "find", "said"),
    [
        ("GPT2", {}, mlp_groups, "names no sizes"),
        ("Phi3", {"num_key_value_heads": 2, "pad_token_id": 0}, mlp_groups, "not all its intermediate_size"),
        (
            "Phi3",
            {"num_key_value_heads": 2, "pad_token_id": 0},
            attention_groups,
            "o_proj.weight depends on the number of heads",
        ),
        ("Olmo2", {"num_key_value_heads": 4}, attention_groups, "q_norm.weight depends on the number of heads"),
    ],
)
def test_an_unknown_architecture_is_refused(kind: str, extra: dict[str, Any], find: Any, said: str) -> None:
    import transformers

    sizes = {"n_embd": 32, "n_head": 2, "n_layer": 2} if kind == "GPT2" else PLAIN
    config = getattr(transformers, f"{kind}Config")(**sizes, **TEXT, **extra)
    prefix = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    with pytest.raises(AttarError, match=f"{said}.*Known are models built like Llama"):
        find(getattr(transformers, prefix)(config))


@pytest.mark.parametrize("name", ["t5_gated", "marian"])
def test_a_factor_made_of_the_hidden_size_is_refused(name: str) -> None:
    with pytest.raises(AttarError, match=r"its config says scale_\w+, a factor"):
        hidden_group(tiny(name))


def test_positions_computed_from_the_hidden_size_are_refused() -> None:
    network = tiny("marian")
    network.config.scale_embedding = False
    with pytest.raises(AttarError, match="positions are computed"):
        hidden_group(network)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_attention_heads": 5}, "hidden_size 64 does not divide by num_attention_heads 5"),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3"),
        ({"model_type": "odd", "intermediate_size": [8, 9]}, "type 'odd'"),
        ({"hidden_size": None}, "names no sizes"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    config = {**PLAIN, "num_key_value_heads": 2, **changes}
    with pytest.raises(AttarError, match=said):
        sizes_of(config)
