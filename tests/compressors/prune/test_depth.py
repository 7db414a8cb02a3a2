"""A shallower model is the whole one without the layers that matter least, and plain transformers loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.compressors.prune.families import MODELS, calibration, model_of, said, tiny

from attar.compressors.prune.depth import Depth
from attar.core.compressing import Calibration
from attar.core.damage import choose_by_damage
from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.students import folder
from attar.tasks.text_classification import TextClassification
from attar.tasks.text_generation import TextGeneration

STACKS = [name for name in MODELS if name not in ("t5", "t5_gated", "bart", "marian")]


def _step(**settings: Any) -> Depth:
    return Depth(Depth.Settings(**settings))


@pytest.mark.parametrize("name", STACKS)
def test_what_is_left_loads_in_plain_transformers(name: str, tmp_path: Path) -> None:
    import transformers

    model = model_of(name)
    wanted = _step(ratio=0.5).legal(model.module.config.to_dict(), "hf")
    small, plan = _step(ratio=0.5).apply(model, calibration(name))
    small.module.save_pretrained(tmp_path)
    plain, loaded = getattr(transformers, MODELS[name][1]).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(said(name, plain), said(name, small.module))
    field = "n_layers" if name == "distilbert" else "num_hidden_layers"
    assert (getattr(plain.config, field), wanted[field]) == (1, 1)
    assert (plan.before["layers"], plan.after["layers"]) == (2, 1)
    assert plan.after["parameters"] < plan.before["parameters"]
    other = tiny(name)
    assert not torch.allclose(said(name, other), said(name, plain))


@pytest.mark.parametrize("measure", ["influence", "kl"])
def test_layers_are_those_of_measured_damage(measure: Any, text_student: Model, texts: Examples) -> None:
    task = TextClassification()
    found = choose_by_damage(text_student, task, texts, 1, measure, 4)
    small, plan = _step(layers=1, measure=measure, texts=4).apply(text_student, Calibration(task, texts, []))
    assert small.facts["layers"] == found.to_json()
    gone = next(i for i in range(2) if i not in found.kept)
    assert plan.notes == (f"layers left out: {gone} (of 2, 0 the first), by {measure}",)


def test_a_language_model_still_generates_and_learns(writer: Callable[..., Model], pairs: Examples) -> None:
    small, _ = _step(ratio=0.5).apply(writer(), Calibration(TextGeneration(), pairs, []))
    network: Any = small.module
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(network.generate(ids, **options), network.generate(ids, **options, use_cache=False))
    network(input_ids=ids).logits.square().mean().backward()
    assert all(part.grad is not None for part in network.parameters())


def test_a_reader_of_label_words_is_cut_inside(
    label_reader: Callable[..., Model], texts: Examples, tmp_path: Path
) -> None:
    task = TextClassification()
    small, _ = _step(ratio=0.5).apply(label_reader(), Calibration(task, texts, []))
    folder.save(small, tmp_path)
    again = folder.load(tmp_path)
    with torch.no_grad():
        batch = task.collate(small, texts)
        assert torch.equal(task.rows(again, batch).dense(), task.rows(small, batch).dense())
    assert again.module.config.num_hidden_layers == 1


@pytest.mark.parametrize(
    ("count", "settings", "left"),
    [(30, {"ratio": 0.25}, 23), (30, {"ratio": 0.5}, 15), (6, {"ratio": 0.5}, 3), (6, {"layers": 5}, 5)],
)
def test_how_many_layers_stay(count: int, settings: dict[str, Any], left: int) -> None:
    config = {"num_hidden_layers": count, "hidden_size": 8}
    assert _step(**settings).legal(config, "onnx") == {**config, "num_hidden_layers": left}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "depth removes nothing"),
        ({"layers": 6}, "6 layers, and depth with layers: 6 would keep 6. Keep 1 to 5"),
        ({"layers": 9}, "would keep 9"),
        ({"ratio": 0.01}, r"ratio: 0\.01 would keep 6"),
        ({"ratio": 0.99}, "would keep 0"),
    ],
)
def test_all_or_no_layers_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(AttarError, match=said):
        _step(**settings).legal({"num_hidden_layers": 6}, "onnx")


@pytest.mark.parametrize("settings", [{"ratio": 0}, {"ratio": 1}, {"layers": 0}, {"ratio": 0.5, "layers": 2}])
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"greater than|less than 1|not both"):
        Depth.Settings(**settings)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_two_stacks_are_refused(name: str) -> None:
    with pytest.raises(AttarError, match=f"type '{name}' cannot be removed: it has no single stack"):
        _step(ratio=0.5).apply(model_of(name), calibration(name))


def test_weights_that_are_no_numbers_and_quantized_ones_are_refused() -> None:
    model = model_of("llama")
    model.facts["quantized"] = {"model.norm.weight": {"bits": 8}}
    with pytest.raises(AttarError, match="Put quantization last"):
        _step(ratio=0.5).apply(model, calibration("llama"))
    model.facts.clear()
    model.module.model.norm.weight.data[0] = float("inf")
    with pytest.raises(AttarError, match="NaN or infinity"):
        _step(ratio=0.5).apply(model, calibration("llama"))
    assert len(model.module.model.layers) == 2
