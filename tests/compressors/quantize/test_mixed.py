from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from attar.compressors.quantize.grid import Scheme, grids_of
from attar.compressors.quantize.mixed import Judge, MixedBits, allot, sensitivities
from attar.compressors.quantize.round import round_to_nearest
from attar.compressors.quantize.weights import Weights
from attar.core.compressing import Calibration
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.tasks.text_classification import TextClassification
from attar.tasks.text_generation import TextGeneration


def test_the_budget_goes_where_a_bit_takes_most_damage_away() -> None:
    damage = {"a": [5.0, 1.0, 0.0], "b": [2.0, 0.5, 0.0], "c": [0.1, 0.05, 0.0]}
    costs = {"a": [3.0, 4.0, 8.0], "b": [3.0, 4.0, 8.0], "c": [6.0, 8.0, 16.0]}
    assert allot(damage, costs, 12.0) == {"a": 0, "b": 0, "c": 0}
    assert allot(damage, costs, 13.0) == {"a": 1, "b": 0, "c": 0}
    assert allot(damage, costs, 14.5) == {"a": 1, "b": 1, "c": 0}
    assert allot(damage, costs, 32.0) == {"a": 2, "b": 2, "c": 2}


def test_it_is_near_the_best_of_all_choices() -> None:
    made = np.random.default_rng(0)
    names = "abcdef"
    damage = {name: [*np.sort(made.random(2))[::-1].tolist(), 0.0] for name in names}
    costs = {
        name: [size * bits for bits in (3.0, 4.0, 8.0)] for name, size in zip(names, (1, 1, 2, 2, 3, 1), strict=True)
    }
    for budget in (35.0, 45.0, 60.0):
        chosen = allot(damage, costs, budget)
        got = sum(damage[name][place] for name, place in chosen.items())
        assert sum(costs[name][place] for name, place in chosen.items()) <= budget
        every = (dict(zip(names, one, strict=True)) for one in itertools.product(range(3), repeat=6))
        legal = [one for one in every if sum(costs[n][p] for n, p in one.items()) <= budget]
        best = min(sum(damage[n][p] for n, p in one.items()) for one in legal)
        assert got <= 1.25 * best + 0.05


def test_a_budget_below_the_fewest_bits_is_refused() -> None:
    with pytest.raises(AttarError, match="the fewest that the choices store"):
        allot({"a": [1.0, 0.0]}, {"a": [4.5, 8.5]}, 4.4)
    assert allot({"a": [1.0, 0.0]}, {"a": [4.5, 8.5]}, 4.5) == {"a": 0}


def test_damage_is_the_divergence_of_the_rows(text_student: Model, texts: Any) -> None:
    judge = Judge(text_student, TextClassification(), texts)
    assert judge.damage() == pytest.approx(0, abs=1e-7)
    batch = TextClassification().collate(text_student, texts)
    with torch.no_grad():
        before = text_student.module(**batch.inputs).logits.log_softmax(-1)
        text_student.module.get_parameter("classifier.weight")[0].add_(1.0)
        after = text_student.module(**batch.inputs).logits.log_softmax(-1)
    wanted = float((before.exp() * (before - after)).sum(1).mean())
    assert judge.damage() == pytest.approx(wanted, rel=1e-4)


def test_the_judge_remembers_a_head_that_is_rounded(writer: Callable[..., Model], pairs: Any) -> None:
    model = writer()
    judge = Judge(model, TextGeneration(), pairs)
    model.module.get_parameter("model.embed_tokens.weight").data.mul_(0.5)
    assert judge.damage() > 0.01
    model.module.get_parameter("model.embed_tokens.weight").data.mul_(float("nan"))
    assert judge.damage() == float("inf")


def test_nothing_to_judge_by_is_refused(writer: Callable[..., Model], texts: Any) -> None:
    with pytest.raises(AttarError, match="target text"):
        Judge(writer(), TextGeneration(), texts)


def test_each_weight_is_rounded_alone_and_put_back(writer: Callable[..., Model], pairs: Any) -> None:
    model = writer()
    before = copy.deepcopy(model.module.state_dict())
    names = ["model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.k_proj.weight"]
    judge = Judge(model, TextGeneration(), pairs)
    choices = [Scheme(2, 16), Scheme(4, 16), Scheme(8, 16)]
    weights = {name: model.module.get_parameter(name) for name in names}
    found = sensitivities(judge, weights, choices)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())
    for name, weight in weights.items():
        weight.data.copy_(round_to_nearest(before[name], choices[0])[0])
        assert found[name] == [pytest.approx(judge.damage()), found[name][1], 0.0]
        assert found[name][0] > found[name][1] > 0
        weight.data.copy_(before[name])


def _mixed(writer: Callable[..., Model], pairs: Any, **settings: Any) -> tuple[Model, Any]:
    step = Weights(Weights.Settings(**{"group": 16, "method": "gptq", **settings}))
    return step.apply(writer(), Calibration(TextGeneration(), pairs, []))


def test_bits_are_shared_out_under_a_mean(writer: Callable[..., Model], pairs: Any) -> None:
    model, plan = _mixed(writer, pairs, bits={"mean": 7.0, "choices": [3, 8]}, symmetric=True)
    inside = {n: f["bits"] for n, f in model.facts["quantized"].items() if "layers" in n}
    sizes = {name: model.module.get_parameter(name).numel() for name in inside}
    stored = sum((inside[n] + 1) * sizes[n] for n in inside) / sum(sizes.values())
    assert set(inside.values()) == {3, 8}
    assert 6.0 < stored <= 7.0
    assert "at 3 bits" in plan.notes[0]
    for name, grid in grids_of(model).items():
        weight = model.module.get_parameter(name).data
        assert torch.equal(grid.round(weight), weight)


def test_a_mean_that_cannot_be_is_refused(writer: Callable[..., Model], pairs: Any) -> None:
    with pytest.raises(ValidationError, match=r"a mean of 4\.5 bits cannot be reached: 4 bits .* store 5\.25 with"):
        Weights.Settings(group=16, bits={"mean": 4.5, "choices": [4, 8]})
    with pytest.raises(AttarError, match=r"A mean of 4\.5 bits cannot be reached"):
        _mixed(writer, pairs, group="row", bits={"mean": 4.5, "choices": [4, 8]})


def test_choices_come_in_any_order() -> None:
    assert MixedBits(mean=5, choices=(8, 3, 4)).choices == (3, 4, 8)


def test_layers_go_back_until_the_floor_holds(writer: Callable[..., Model], pairs: Any) -> None:
    damage = {}
    for floor in (None, 1e-2):
        model = writer()
        judge = Judge(model, TextGeneration(), pairs)
        step = Weights(Weights.Settings(group=16, method="awq", bits=2, floor=floor))
        model, plan = step.apply(model, Calibration(TextGeneration(), pairs, []))
        damage[floor] = judge.damage()
        for name, grid in grids_of(model).items():
            weight = model.module.get_parameter(name).data
            assert torch.equal(grid.round(weight), weight)
    assert damage[None] > 1e-2 >= damage[1e-2]
    assert len(plan.notes) > 1
    assert "went back to 8 bits" in plan.notes[1]
    assert any(facts["bits"] == 2 for facts in model.facts["quantized"].values())


def test_a_floor_that_holds_already_changes_nothing(writer: Callable[..., Model], pairs: Any) -> None:
    plain, _ = _mixed(writer, pairs)
    model, plan = _mixed(writer, pairs, floor=10.0)
    assert len(plan.notes) == 1
    for name, parameter in model.module.named_parameters():
        assert torch.equal(parameter, plain.module.get_parameter(name))


def test_a_tight_floor_takes_layers_back_to_float(writer: Callable[..., Model], pairs: Any) -> None:
    model, plan = _mixed(writer, pairs, bits=8, floor=1e-6)
    assert any(note.endswith("went back to float") for note in plan.notes)
    floats = {note.split()[0] for note in plan.notes if note.endswith("float")}
    assert not floats & model.facts.get("quantized", {}).keys()
    assert not any(name.startswith(tuple(floats)) for name in model.tensors)


def test_a_floor_below_the_noise_is_refused(writer: Callable[..., Model], pairs: Any) -> None:
    with pytest.raises(AttarError, match="cannot be held"):
        _mixed(writer, pairs, method="awq", floor=1e-30)
