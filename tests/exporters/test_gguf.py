"""GGUF files hold exactly the model: weights, shapes, tokenizer; what cannot be told is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config

from attar.core.nouns import Model
from attar.errors import AttarError
from attar.exporters.gguf import GgufExporter
from attar.exporters.gguf_blocks import pack
from attar.exporters.gguf_tokenizer import words_of
from attar.sources import gguf_file
from attar.students.transformers import keep_layers

CHAT = "{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}"


@pytest.fixture
def words(tokenizer: Callable[[str], Any]) -> Any:
    made = tokenizer("bpe")
    made.chat_template = CHAT
    return made


@pytest.fixture
def make(words: Any) -> Callable[..., Model]:
    """Return a maker of tiny language models with the byte-level tokenizer."""

    def model(network: Any = LlamaForCausalLM, config: Any = LlamaConfig, **other: Any) -> Model:
        torch.manual_seed(0)
        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "max_position_embeddings": 128}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
        every = {"vocab_size": len(words), "initializer_range": 0.2, **sizes, **heads}
        return Model(network(config(**{**every, **other})).eval(), "causal", words, {})

    return model


def read(folder: Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(folder / "model.gguf")


def field(reader: gguf.GGUFReader, name: str) -> Any:
    return reader.fields[name].contents()


def back(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights as attar's own reader finds them."""
    gguf_file.as_folder(folder / "model.gguf", folder / "read", "float32")
    return dict(AutoModelForCausalLM.from_pretrained(folder / "read", dtype=torch.float32).state_dict())


def snapped(model: Model, form: str) -> dict[str, torch.Tensor]:
    """Put a model's matrices on a grid as a step that quantizes leaves them; return them."""
    model.facts["quantized"] = {}
    for name, parameter in model.module.named_parameters():
        if parameter.ndim < 2:
            continue
        blocks = parameter.detach().reshape(len(parameter), -1, 32)
        low, high = blocks.amin(-1), blocks.amax(-1)
        if form == "q4_1":
            scale, least = ((high - low) / 15).half().float(), low.half().float()
            codes = ((blocks - least[..., None]) / scale[..., None]).round().clamp(0, 15)
            model.tensors[f"{name}.minimum"] = least
        else:
            bottom, top = (-8, 7) if form == "q4_0" else (-127, 127)
            scale = (torch.maximum(high.abs(), low.abs()) / -bottom).half().float()
            scale[0] = -scale[0]  # a scale may be below 0
            codes = (blocks / scale[..., None]).round().clamp(bottom, top)
            least = torch.zeros_like(scale)
        parameter.data = (scale[..., None] * codes + least[..., None]).reshape(parameter.shape)
        model.tensors[f"{name}.scale"] = scale
        facts = {"bits": 8 if form == "q8_0" else 4, "group": 32, "symmetric": form != "q4_1", "format": form}
        model.facts["quantized"][name] = facts
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def test_float32_comes_back_to_the_last_bit(make: Callable[..., Model], tmp_path: Path) -> None:
    model = make()
    assert GgufExporter().export(model, tmp_path) == "model.gguf"
    found, own = back(tmp_path), model.module.state_dict()
    assert set(found) == set(own)
    assert all(torch.equal(found[name], own[name]) for name in own)


@pytest.mark.parametrize("form", ["q8_0", "q4_0", "q4_1"])
def test_a_quantized_model_comes_back_as_its_own_codes(form: str, make: Callable[..., Model], tmp_path: Path) -> None:
    model = make()
    own = snapped(model, form)
    GgufExporter().export(model, tmp_path)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in read(tmp_path).tensors}
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == form.upper()
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    found = back(tmp_path)
    assert all(torch.equal(found[name], own[name]) for name in own)


def test_what_a_quantized_model_left_is_written_in_the_precision(make: Callable[..., Model], tmp_path: Path) -> None:
    model = make(tie_word_embeddings=False)
    snapped(model, "q4_1")
    del model.facts["quantized"]["lm_head.weight"]
    GgufExporter().export(model, tmp_path, "q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in read(tmp_path).tensors}
    assert (kinds["output.weight"], kinds["blk.1.ffn_up.weight"]) == ("Q8_0", "Q4_1")
    with pytest.raises(AttarError, match="is quantized already"):
        GgufExporter().export(model, tmp_path, "q4_0")


@pytest.mark.parametrize("change", ["weight", "scale", "format", "group", "missing"])
def test_codes_that_are_not_the_weights_are_refused(change: str, make: Callable[..., Model], tmp_path: Path) -> None:
    model, name = make(), "model.layers.0.mlp.up_proj.weight"
    snapped(model, "q4_1")
    if change == "weight":
        model.module.get_parameter(name).data[0, 0] += 0.01
    elif change == "scale":
        model.tensors[f"{name}.scale"] *= 1.0001  # no longer a float16
    elif change == "missing":
        del model.tensors[f"{name}.scale"]
    else:
        model.facts["quantized"][name][change] = {"format": "nbits", "group": 64}[change]
    with pytest.raises(AttarError, match=name.replace(".", r"\.")):
        GgufExporter().export(model, tmp_path)


@pytest.mark.parametrize(
    ("precision", "kind", "table", "far"),
    [
        ("float16", "F16", "F16", 1e-3),
        ("bfloat16", "BF16", "BF16", 8e-3),
        ("q8_0", "Q8_0", "Q8_0", 0.01),
        ("q4_0", "Q4_0", "Q8_0", 0.15),
        ("q4_1", "Q4_1", "Q8_0", 0.1),
    ],
)
def test_plain_rounding(
    precision: str, kind: str, table: str, far: float, make: Callable[..., Model], tmp_path: Path
) -> None:
    model = make()
    GgufExporter().export(model, tmp_path, precision)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in read(tmp_path).tensors}
    assert (kinds["blk.1.ffn_down.weight"], kinds["token_embd.weight"]) == (kind, table)
    assert all(kinds[name] == "F32" for name in kinds if "norm" in name)
    found, own = back(tmp_path), model.module.state_dict()
    assert all((found[name] - own[name]).abs().max() <= far * own[name].abs().max() for name in own)


def test_rows_that_do_not_part_into_blocks_are_float16(make: Callable[..., Model], tmp_path: Path) -> None:
    GgufExporter().export(make(intermediate_size=80), tmp_path, "q4_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in read(tmp_path).tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q4_0")


def test_what_llama_cpp_must_know(make: Callable[..., Model], words: Any, tmp_path: Path) -> None:
    GgufExporter().export(make(), tmp_path)
    reader = read(tmp_path)
    sizes = {
        **{"general.architecture": "llama", "llama.block_count": 2, "llama.embedding_length": 64},
        **{"llama.feed_forward_length": 96, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2},
        **{"llama.attention.key_length": 16, "llama.rope.dimension_count": 16, "llama.rope.freq_base": 10000.0},
        **{"llama.context_length": 128, "llama.vocab_size": len(words), "general.file_type": 0},
        **{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.chat_template": CHAT},
        **{"tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.add_bos_token": False},
    }
    assert {name: field(reader, name) for name in sizes} == sizes
    assert field(reader, "llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    tokens, types = field(reader, "tokenizer.ggml.tokens"), field(reader, "tokenizer.ggml.token_type")
    assert tokens == words.convert_ids_to_tokens(list(range(len(words))))
    assert types[:3] == [3, 3, 1]
    assert not [tensor for tensor in reader.tensors if tensor.name == "output.weight"]  # the table, once


@pytest.mark.parametrize("shape", ["layers", "width", "heads", "vocabulary"])
def test_pruned_shapes_come_back(shape: str, make: Callable[..., Model], tmp_path: Path) -> None:
    model = make(
        **{"width": {"intermediate_size": 64}, "heads": {"num_attention_heads": 2, "head_dim": 16}}.get(shape, {})
    )
    if shape == "layers":
        keep_layers(model.module, (1,))
    if shape == "vocabulary":
        from attar.compressors.vocabulary import _renumber_config, _trim_embeddings, trim_tokenizer

        model.processor, kept = trim_tokenizer(model.processor, set(range(280)))
        _trim_embeddings(model.module, kept)
        _renumber_config(model.module, model.processor, kept)
    GgufExporter().export(model, tmp_path)
    found, own = back(tmp_path), model.module.state_dict()
    assert set(found) == set(own)
    assert all(torch.equal(found[name], own[name]) for name in own)
    text = "a fine jacket, 12 times"
    assert AutoTokenizer.from_pretrained(tmp_path / "read")(text).input_ids == model.processor(text).input_ids


def test_qwen2_keeps_its_rows_and_biases(make: Callable[..., Model], tmp_path: Path) -> None:
    from transformers import Qwen2ForCausalLM

    model = make(Qwen2ForCausalLM, Qwen2Config)
    torch.nn.init.normal_(model.module.get_parameter("model.layers.0.self_attn.k_proj.bias"))
    GgufExporter().export(model, tmp_path)
    own = model.module.state_dict()
    assert field(read(tmp_path), "general.architecture") == "qwen2"
    found = {tensor.name: tensor.data for tensor in read(tmp_path).tensors}
    for name, to in (
        ("k_proj.weight", "attn_k.weight"),
        ("k_proj.bias", "attn_k.bias"),
        ("q_proj.weight", "attn_q.weight"),
    ):
        assert np.array_equal(found[f"blk.0.{to}"], own[f"model.layers.0.self_attn.{name}"].numpy())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hidden_act": "gelu"}, "activation is gelu"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "plain rotary positions"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    changes: dict[str, Any], why: str, make: Callable[..., Model], tmp_path: Path
) -> None:
    with pytest.raises(AttarError, match=why):
        GgufExporter().export(make(**changes), tmp_path)


def test_another_architecture_is_refused(words: Any, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    network = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=len(words)))
    with pytest.raises(AttarError, match="architectures llama, qwen2, and this model is gpt2"):
        GgufExporter().export(Model(network, "causal", words, {}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_and_foreign_parameters_are_refused(
    make: Callable[..., Model], tmp_path: Path
) -> None:
    model = make()
    model.module.get_parameter("model.norm.weight").data[0] = float("nan")
    with pytest.raises(AttarError, match=r"model\.norm\.weight holds weights that are no numbers"):
        GgufExporter().export(model, tmp_path)
    model = make()
    model.module.model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(AttarError, match=r"no place for the parameter 'model\.extra\.weight'"):
        GgufExporter().export(model, tmp_path)


def test_other_tokenizers_are_refused(tokenizer: Callable[[str], Any]) -> None:
    with pytest.raises(AttarError, match="this one is Unigram"):
        words_of(tokenizer("unigram"), 300)
    with pytest.raises(AttarError, match="this one is WordPiece"):
        words_of(tokenizer("wordpiece"), 300)


def test_how_texts_are_parted_is_told_or_refused(words: Any) -> None:
    from tokenizers import Regex, normalizers, pre_tokenizers, processors

    inner, whole = words.backend_tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])
    assert words_of(words, len(words)).pre == "smollm"
    begin = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    end = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    qwen = begin + r"\p{N}" + end
    raw = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(qwen), "isolated"), raw])
    assert words_of(words, len(words)).pre == "qwen2"
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\s+"), "isolated"), raw])
    with pytest.raises(AttarError, match="does it otherwise"):
        words_of(words, len(words))
    inner.pre_tokenizer = whole
    inner.normalizer = normalizers.Lowercase()
    with pytest.raises(AttarError, match="Lowercase"):
        words_of(words, len(words))
    inner.normalizer = normalizers.NFC()
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    assert words_of(words, len(words)).begins
    inner.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 0)])
    with pytest.raises(AttarError, match="around a text"):
        words_of(words, len(words))


def test_a_table_longer_than_the_tokenizer(words: Any) -> None:
    found = words_of(words, len(words) + 2)
    assert found.tokens[-2:] == [f"[PAD{len(words)}]", f"[PAD{len(words) + 1}]"]
    assert found.types[-2:] == [int(gguf.TokenType.UNUSED)] * 2
    with pytest.raises(AttarError, match="and the model's table"):
        words_of(words, len(words) - 1)


@pytest.mark.parametrize("form", ["q8_0", "q4_0", "q4_1"])
def test_blocks_are_what_the_library_reads(form: str) -> None:
    random = np.random.Generator(np.random.PCG64(0))
    low, high = {"q8_0": (-128, 128), "q4_0": (-8, 8), "q4_1": (0, 16)}[form]
    codes = random.integers(low, high, (3, 2, 32)).astype(np.float32)
    scale = random.normal(size=(3, 2)).astype(np.float16).astype(np.float32)
    least = scale[::-1].copy() if form == "q4_1" else None
    wanted = scale[..., None] * codes + (0 if least is None else least[..., None])
    kind = getattr(gguf.GGMLQuantizationType, form.upper())
    assert np.array_equal(gguf.quants.dequantize(pack(form, codes, scale, least), kind), wanted.reshape(3, -1))


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from attar.exporters.gguf_runtime import GgufReader

    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(AttarError, match=r"needs the library 'llama_cpp'.* pip install 'attar\[llama\]'"):
        GgufReader(tmp_path / "model.gguf", 16)
