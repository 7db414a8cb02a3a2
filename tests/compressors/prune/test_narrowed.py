"""The sizes after a step are those that the library accepts, and a step that cannot be is refused before any work."""

from __future__ import annotations

from typing import Any

import pytest

from attar.compressors.prune.narrowed import Shares, narrowed, rounded
from attar.compressors.prune.width import Width
from attar.errors import AttarError

SMOL = {
    **{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9},
    **{"num_key_value_heads": 3, "head_dim": 64, "rms_norm_eps": 1e-5},
}
MINILM = {"model_type": "bert", "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12}
QWEN = {**SMOL, "model_type": "qwen2"}
MHA = {**QWEN, "num_key_value_heads": 9}
BART = {
    **{"model_type": "bart", "d_model": 64, "encoder_ffn_dim": 96, "decoder_ffn_dim": 112},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 2},
}


@pytest.mark.parametrize(
    ("config", "shares", "wanted"),
    [
        (SMOL, {"mlp": 0.25}, {"intermediate_size": 1152}),
        (SMOL, {"mlp": 0.3}, {"intermediate_size": 1072}),
        (SMOL, {"mlp": 0.3, "round_to": 256}, {"intermediate_size": 1024}),
        (SMOL, {"mlp": 0.999}, {"intermediate_size": 16}),
        (SMOL, {"kv_heads": 0.33}, {"num_attention_heads": 6, "num_key_value_heads": 2}),
        (SMOL, {"heads": 0.34}, {"num_attention_heads": 6}),
        (SMOL, {"heads": 0.5, "kv_heads": 0.33}, None),
        (SMOL, {"heads": 0.66, "kv_heads": 0.33}, {"num_attention_heads": 2, "num_key_value_heads": 2}),
        (SMOL, {"hidden": 0.25}, {"hidden_size": 432}),  # a multiple of 16 and of 9 heads: Llama's config asks for it
        (QWEN, {"hidden": 0.3}, {"hidden_size": 400}),
        (MHA, {"heads": 0.5}, {"num_attention_heads": 5, "num_key_value_heads": 5}),
        (MINILM, {"hidden": 0.25}, {"hidden_size": 288, "num_attention_heads": 9}),
        (MINILM, {"hidden": 0.25, "heads": 0.25}, {"hidden_size": 288, "num_attention_heads": 9}),
        (BART, {"hidden": 0.5}, {"d_model": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 1}),
        (BART, {"mlp": 0.5}, {"encoder_ffn_dim": 48, "decoder_ffn_dim": 64}),
    ],
)
def test_new_sizes(config: dict[str, Any], shares: dict[str, Any], wanted: dict[str, int] | None) -> None:
    if wanted is None:
        with pytest.raises(AttarError, match="3 of 6 query heads would be left, and 2 KV heads cannot share"):
            narrowed(config, Shares(**shares))
    else:
        assert narrowed(config, Shares(**shares)) == wanted


@pytest.mark.parametrize(
    ("config", "shares", "said"),
    [
        (SMOL, {}, "width removes nothing"),
        (SMOL, {"mlp": 0.001}, r"intermediate_size is 1536.*it is 1536, so nothing is removed"),
        (SMOL, {"mlp": 0.5, "round_to": 2048}, "nothing is removed"),
        (SMOL, {"heads": 0.25}, r"7 of 9 query heads.*3 KV heads.*0\.333 \(leaves 6\), 0\.667 \(leaves 3\)"),
        (SMOL, {"kv_heads": 0.1}, r"num_key_value_heads is 3.*would leave all"),
        (SMOL, {"kv_heads": 0.9}, r"would leave none.*0\.333 \(leaves 2\)"),
        (QWEN, {"heads": 0.01}, "would leave all"),
        ({**MHA, "model_type": "llama"}, {"heads": 0.5}, r"5 heads would be left.*llama.*576.*Shares that fit"),
        (MINILM, {"heads": 0.25}, "heads go only together with hidden"),
        (MINILM, {"kv_heads": 0.25}, "heads go only together with hidden"),
        (MINILM, {"hidden": 0.25, "heads": 0.5}, "have 9 heads of 32"),
        ({**MINILM, "patch_size": 8}, {"kv_heads": 0.25}, "like vit has no KV heads"),
        ({**MINILM, "num_attention_heads": 7}, {"mlp": 0.25}, "384 does not divide by num_attention_heads 7"),
        ({"model_type": "gpt2", "n_embd": 8}, {"mlp": 0.25}, r"'gpt2'.*Known are models built like Llama"),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], shares: dict[str, Any], said: str) -> None:
    with pytest.raises(AttarError, match=said):
        narrowed(config, Shares(**shares))
    with pytest.raises(AttarError, match=said):
        Width(Width.Settings(**shares)).legal(config, "onnx")


def test_the_width_of_a_head_is_named_where_the_config_can() -> None:
    without = {name: value for name, value in QWEN.items() if name != "head_dim"}
    assert Width(Width.Settings(kv_heads=0.33)).legal(without, "onnx")["head_dim"] == 64
    assert "head_dim" not in Width(Width.Settings(mlp=0.5)).legal(MINILM, "onnx")


def test_rounding_is_to_the_nearest() -> None:
    assert [rounded("size", 100, share, 10) for share in (0.14, 0.16, 0.54, 0.56, 0.99)] == [90, 80, 50, 40, 10]
