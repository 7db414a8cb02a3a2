from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tests.exporters.tiny import VOCAB, language_model

from attar.core.nouns import Model
from attar.errors import AttarError
from attar.exporters.decoding import Reader, greedy, log_likelihood
from attar.exporters.onnx_generation import OnnxGenerationExporter

KINDS = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gpt2"]
OTHER: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 5},
    "qwen3": {"tie_word_embeddings": True, "head_dim": 32},
    "gemma2": {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 16},
}


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Any]:
    """Return a tiny model and a session of its graph."""
    model = language_model(request.param, **OTHER.get(request.param, {}))
    path = tmp_path_factory.mktemp(request.param) / "m.onnx"
    OnnxGenerationExporter().export(model, path)
    return model, session_of(path)


def session_of(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def scores(model: Model, ids: list[int]) -> np.ndarray:
    """Return what the model itself says after each token ``(time, vocab)``, read plainly."""
    model.module.set_attn_implementation("eager")  # type: ignore[operator]
    with torch.no_grad():
        return np.asarray(model.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0])


def tokens(count: int, seed: int = 3) -> list[int]:
    return [int(i) for i in np.random.Generator(np.random.PCG64(seed)).integers(2, VOCAB, count)]


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.abs(found - wanted).max() < 1e-4 * max(1.0, np.abs(wanted).max()))


def test_prompts_of_every_length(exported: tuple[Model, Any]) -> None:
    model, session = exported
    reader = Reader(session)
    for count in range(1, 13):
        ids = tokens(count)
        assert close(reader.read(reader.cache(count + 3), ids, count), scores(model, ids))


def test_tokens_one_by_one_and_several_after_a_past(exported: tuple[Model, Any]) -> None:
    model, session = exported
    reader, ids = Reader(session), tokens(14)
    wanted = scores(model, ids)
    cache = reader.cache(14)
    assert close(reader.read(cache, ids[:4]), wanted[3:4])
    for place in range(4, 8):
        assert close(reader.read(cache, ids[place : place + 1]), wanted[place : place + 1])
    assert close(reader.read(cache, ids[8:14], 5), wanted[9:14])


def test_greedy_tokens_are_those_of_generate(exported: tuple[Model, Any]) -> None:
    model, session = exported
    model.module.set_attn_implementation("eager")  # type: ignore[operator]
    for count in (1, 3, 9):
        ids = tokens(count, seed=count)
        ends = {"max_new_tokens": 20, "eos_token_id": 0, "pad_token_id": 0, "do_sample": False}
        out = model.module.generate(input_ids=torch.tensor([ids]), **ends)  # type: ignore[operator]
        assert greedy(Reader(session), ids, 0, 20).ids == out[0, count:].tolist()


def test_rows_of_unlike_length_are_padded_on_the_right(exported: tuple[Model, Any]) -> None:
    """Read a batch without buffers shared between past and present, as any runtime can."""
    model, session = exported
    rows = [tokens(6, seed=1), tokens(2, seed=2), tokens(4, seed=3)]
    ids = np.zeros((3, 6), np.int64)
    for row, held in enumerate(rows):
        ids[row, : len(held)] = held
    lengths = np.array([len(row) for row in rows], np.int64)
    shapes = {value.name: value.shape for value in session.get_inputs() if value.name.startswith("past.")}
    past = {name: np.zeros((3, shape[1], 0, shape[3]), np.float32) for name, shape in shapes.items()}
    names = [value.name for value in session.get_outputs()]
    for _ in range(4):
        feed = {"input_ids": ids, "lengths": lengths, "places": lengths[:, None] - 1 if ids.shape[1] > 1 else ids * 0}
        said = dict(zip(names, session.run(None, {**feed, **past}), strict=True))
        for row, held in enumerate(rows):
            assert close(said["logits"][row], scores(model, held)[-1:])
        past = {name: said[name.replace("past", "present")] for name in past}
        ids = said["logits"].argmax(axis=-1)
        rows = [[*held, int(next_id)] for held, next_id in zip(rows, ids[:, 0], strict=True)]
        lengths = lengths + 1


def test_log_likelihood_of_a_target(exported: tuple[Model, Any]) -> None:
    model, session = exported
    ids = tokens(9)
    wanted = torch.log_softmax(torch.tensor(scores(model, ids)).double(), dim=1)
    wanted = wanted[3:8].gather(1, torch.tensor(ids[4:])[:, None])[:, 0]
    assert np.abs(log_likelihood(Reader(session), ids[:4], ids[4:]) - wanted.numpy()).max() < 1e-4


def test_the_operators_of_a_llama_are_joined() -> None:
    graph = OnnxGenerationExporter().graph(language_model("llama"))
    kinds = [node.op_type for node in graph.graph]
    assert {
        kind: kinds.count(kind) for kind in ("GroupQueryAttention", "RotaryEmbedding", "Pow", "Transpose", "Neg")
    } == {
        "GroupQueryAttention": 2,
        "RotaryEmbedding": 4,
        "Pow": 0,
        "Transpose": 0,
        "Neg": 0,
    }
    assert sum("LayerNormalization" in kind for kind in kinds) == 5


def test_a_tied_table_is_stored_once(tmp_path: Path) -> None:
    model = language_model("llama", tie_word_embeddings=True)
    OnnxGenerationExporter().export(model, tmp_path / "m.onnx")
    weights = 4 * sum(parameter.numel() for parameter in model.module.parameters())
    assert weights < (tmp_path / "m.onnx").stat().st_size < weights + 40_000


def test_the_model_attends_as_before_and_the_graph_names_no_file(tmp_path: Path) -> None:
    model = language_model("llama")
    before = model.module.config._attn_implementation  # type: ignore[union-attr]
    OnnxGenerationExporter().export(model, tmp_path / "m.onnx")
    assert model.module.config._attn_implementation == before  # type: ignore[union-attr]
    content = (tmp_path / "m.onnx").read_bytes()
    assert b".py" not in content
    assert b"torch/nn" not in content
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_full_cache_says_so(exported: tuple[Model, Any]) -> None:
    reader = Reader(exported[1])
    cache = reader.cache(3)
    with pytest.raises(ValueError, match="holds 3 tokens, not 4"):
        reader.read(cache, [5, 6, 7, 8])


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    narrow = language_model("llama", head_dim=4)
    mixed = language_model("llama")
    mixed.module.config.layer_types = ["full_attention", "linear_attention"]  # type: ignore[union-attr]
    classifier = Model(torch.nn.Linear(2, 2), "net", None, {})
    for model, words in ((narrow, "multiple of 8"), (mixed, "linear_attention"), (classifier, "causal language model")):
        with pytest.raises(AttarError, match=words):
            OnnxGenerationExporter().export(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_attention_with_a_mask_of_its_own_is_refused(tmp_path: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    network = BloomForCausalLM(BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=1, n_head=4))
    with pytest.raises(AttarError, match="Set export: hf"):
        OnnxGenerationExporter().export(Model(network, "causal", None, {}), tmp_path / "m.onnx")
