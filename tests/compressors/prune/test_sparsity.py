from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from attar.compressors.activations import collect
from attar.compressors.prune.allocation import allocate
from attar.compressors.prune.masks import every, hold_zeros, smallest
from attar.compressors.prune.sparsegpt import DAMPING, sparsegpt
from attar.compressors.prune.sparsity import Sparsity
from attar.core.compressing import Calibration
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.students import folder
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification
from attar.tasks.text_generation import TextGeneration

QUERY = "bert.encoder.layer.1.attention.self.query"


def _apply(model: Model, examples: Any, task: Any = None, **settings: Any) -> Any:
    step = Sparsity(Sparsity.Settings(**settings))
    return step.apply(model, Calibration(task or TextClassification(), examples, list(examples.inputs)))


def _correlated(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight, and inputs ``(tokens, columns)`` that depend on each other."""
    torch.manual_seed(0)
    mixed = torch.randn(300, columns // 2) @ torch.randn(columns // 2, columns) + 0.3 * torch.randn(300, columns)
    return torch.randn(rows, columns), mixed * torch.rand(columns).mul(3)


def _slow_sparsegpt(weight: torch.Tensor, hessian: torch.Tensor, drop: torch.Tensor) -> torch.Tensor:
    """Remove the weights of a mask, column by column, each time with the inverse of what is left of the Hessian."""
    new = weight.double().clone()
    damped = hessian.double() + DAMPING * hessian.double().diagonal().mean() * torch.eye(len(hessian))
    for place in range(len(hessian)):
        inverse = torch.linalg.inv(damped[place:, place:])
        error = new[:, place] * drop[:, place] / inverse[0, 0]
        new[:, place:] -= error[:, None] * inverse[0]
        new[:, place] *= ~drop[:, place]
    return new.float()


def test_sparsegpt_is_the_optimal_brain_surgeon_column_by_column() -> None:
    weight, inputs = _correlated(6, 16)
    hessian = inputs.T @ inputs / len(inputs)
    found = sparsegpt(weight, hessian, 0.5)
    assert int((found == 0).sum()) == 48
    torch.testing.assert_close(found, _slow_sparsegpt(weight, hessian, found == 0), rtol=1e-3, atol=1e-3)


def test_blocks_pass_their_errors_on(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, inputs = _correlated(6, 24)
    hessian = inputs.T @ inputs / len(inputs)
    monkeypatch.setattr("attar.compressors.prune.sparsegpt.BLOCK", 8)
    found = sparsegpt(weight, hessian, 0.5)
    torch.testing.assert_close(found, _slow_sparsegpt(weight, hessian, found == 0), rtol=1e-3, atol=1e-3)
    assert [int((found[:, first : first + 8] == 0).sum()) for first in (0, 8, 16)] == [24, 24, 24]


def test_each_method_loses_less_of_the_outputs_than_the_simpler_one() -> None:
    weight, inputs = _correlated(16, 32)
    hessian = inputs.T @ inputs / len(inputs)
    size = weight.abs()
    by_size = weight.masked_fill(smallest(size.flatten(), 0.5).view_as(size), 0)
    by_wanda = weight.masked_fill(smallest(size * inputs.square().mean(0).sqrt(), 0.5), 0)
    pruned = (by_size, by_wanda, sparsegpt(weight, hessian, 0.5))
    lost = [float((inputs @ (weight - new).T).square().mean()) for new in pruned]
    assert lost[0] > lost[1] > 1.5 * lost[2]


def test_columns_that_are_never_read_cost_nothing() -> None:
    weight, inputs = _correlated(8, 16)
    inputs[:, :8] = 0
    found = sparsegpt(weight, inputs.T @ inputs / len(inputs), 0.5)
    assert int(found[:, :8].count_nonzero()) == 0
    torch.testing.assert_close(found[:, 8:], weight[:, 8:])


def test_one_token_is_enough_and_nan_is_told() -> None:
    weight, inputs = _correlated(8, 16)
    found = sparsegpt(weight, torch.outer(inputs[0], inputs[0]), 0.5)
    assert bool(found.isfinite().all())
    assert int((found == 0).sum()) == 64
    with pytest.raises(AttarError, match="cannot be inverted"):
        sparsegpt(weight, torch.full((16, 16), float("nan")), 0.5)


@pytest.mark.parametrize("among", [4, 8])
def test_a_pattern_is_exact(among: int) -> None:
    weight, inputs = _correlated(5, 16)
    dropped = every(weight.abs(), among)
    zeros = sparsegpt(weight, inputs.T @ inputs / len(inputs), 0.5, among) == 0
    for mask in (dropped, zeros):
        assert mask.unflatten(1, (-1, among)).sum(-1).unique().tolist() == [among // 2]
    chosen = weight.abs().unflatten(1, (-1, among))
    free = dropped.unflatten(1, (-1, among))
    assert bool((chosen.masked_fill(free, 9).amin(-1) >= chosen.masked_fill(~free, 0).amax(-1)).all())


def test_magnitude_is_by_layer(text_student: Model, texts: Any) -> None:
    weight = text_student.module.get_submodule(QUERY).weight.detach().clone()  # type: ignore[operator]
    model, plan = _apply(text_student, texts, method="magnitude", ratio=0.3)
    zero = model.module.get_submodule(QUERY).weight == 0
    expected = weight.abs() <= weight.abs().flatten().sort().values[round(0.3 * 1024) - 1]
    assert torch.equal(zero, expected)
    assert plan.after["parameters"] == plan.before["parameters"]
    assert plan.after["nonzero"] < plan.before["nonzero"]
    assert any("nothing faster" in note for note in plan.notes)


def test_wanda_is_by_output_and_input(text_student: Model, texts: Any) -> None:
    name = "bert.encoder.layer.0.attention.self.query"  # nothing is pruned before it
    square = collect(text_student, TextClassification(), texts, names=[name])[name].square
    weight = text_student.module.get_submodule(name).weight.detach().clone()  # type: ignore[operator]
    model, _ = _apply(text_student, texts, method="wanda", ratio=0.25)
    pruned = model.module.get_submodule(name).weight
    for old, new in zip(weight, pruned, strict=True):
        scores = old.abs() * square.sqrt()
        assert torch.equal(new == 0, scores <= scores.sort().values[7])
    assert torch.equal(pruned[pruned != 0], weight[pruned != 0])


def test_embeddings_heads_and_what_is_kept_are_left(text_student: Model, texts: Any) -> None:
    model, plan = _apply(text_student, texts, method="magnitude", keep=("bert.encoder.layer.0",))
    dense = {name for name, part in model.module.named_modules() if isinstance(part, torch.nn.Linear)}
    sparse = {name for name in dense if bool((model.module.get_submodule(name).weight == 0).any())}
    assert {name for name in dense - sparse if "layer.0." not in name} == {"classifier"}
    assert not any("layer.0." in name for name in sparse)
    assert "of 7 layers" in plan.notes[0]  # six of the last layer, and the pooler


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("allocation", ["uniform", "global", "owl"])
def test_models_that_write_are_sparse_and_load(
    writer: Callable[..., Model], pairs: Any, method: str, allocation: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model, _ = _apply(writer(), pairs, TextGeneration(), method=method, allocation=allocation)
    layers = [part.weight for part in model.module.model.layers.modules() if isinstance(part, torch.nn.Linear)]
    zeros = sum(int((weight == 0).sum()) for weight in layers) / sum(weight.numel() for weight in layers)
    assert zeros == pytest.approx(0.5, abs=0.02)
    assert model.module.lm_head.weight.count_nonzero() == model.module.lm_head.weight.numel()
    folder.save(model, tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(plain(input_ids=ids).logits, model.module(input_ids=ids).logits)


def test_images_are_pruned_too_and_groups_of_channels(images: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    blocks = [torch.nn.Conv2d(1, 8, 3), torch.nn.Conv2d(8, 8, 3, groups=4), torch.nn.Conv2d(8, 4, 1)]
    module = torch.nn.Sequential(*blocks, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    model = Model(module, "net", None, {"mean": 0.5, "std": 0.5, "labels": ["a", "b"], "shape": [1, 8, 8]})
    pruned, plan = _apply(model, images(6), ImageClassification(), method="sparsegpt")
    assert [int((part.weight == 0).sum()) for part in pruned.module if hasattr(part, "weight")] == [0, 72, 16, 0]
    assert "2 layers" in plan.notes[0]


def test_allocations_mean_what_was_asked() -> None:
    torch.manual_seed(0)
    weights = {f"layers.{place}.w": torch.randn(20, 10 * (place + 1)).abs() * (place + 1) for place in range(3)}
    weights["layers.2.w"][0, :9] = 1000  # outliers
    sizes = {name: weight.numel() for name, weight in weights.items()}
    for how in ("uniform", "global", "owl"):
        shares = allocate(how, 0.6, sizes, weights.__getitem__)
        mean = sum(shares[name] * size for name, size in sizes.items()) / sum(sizes.values())
        assert mean == pytest.approx(0.6, abs=1e-4)
    shares = allocate("owl", 0.6, sizes, weights.__getitem__)
    assert shares["layers.2.w"] == min(shares.values())
    assert max(shares.values()) - min(shares.values()) == pytest.approx(0.16, abs=1e-6)
    shares = allocate("global", 0.6, sizes, weights.__getitem__)
    flat = torch.cat([weight.flatten() for weight in weights.values()]).sort().values
    threshold = flat[round(0.6 * len(flat)) - 1]
    expected = {name: float((weight <= threshold).float().mean()) for name, weight in weights.items()}
    assert shares == pytest.approx(expected, abs=1e-4)


def test_no_layer_is_emptied() -> None:
    weights = {"a": torch.full((10, 10), 0.1), "b": torch.rand(10, 10) + 1}
    shares = allocate("global", 0.5, {"a": 100, "b": 100}, weights.__getitem__)
    assert shares["a"] == pytest.approx(0.95)
    assert shares["b"] == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_zeros_stay_through_training(text_student: Model, texts: Any, optimizer: Any) -> None:
    model, _ = _apply(text_student, texts, method="magnitude")
    zeros = {name: p == 0 for name, p in model.module.named_parameters() if "layer" in name and p.ndim == 2}
    before = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    extra = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    stepper = optimizer(model.module.parameters(), lr=0.01, weight_decay=0.1, **extra)
    batch = TextClassification().collate(model, texts)
    with hold_zeros(model):
        for _ in range(4):
            stepper.zero_grad()
            torch.nn.functional.cross_entropy(model.module(**batch.inputs).logits, batch.targets).backward()
            torch.nn.utils.clip_grad_norm_(model.module.parameters(), 1.0)
            stepper.step()
            now = dict(model.module.named_parameters())
            assert all(int(now[name][zero].count_nonzero()) == 0 for name, zero in zeros.items())
    assert all(int((now[name] != before[name]).sum()) > 0 for name in zeros)
    free = now[f"{QUERY}.weight"]
    free.sum().backward()
    assert int((free.grad[zeros[f"{QUERY}.weight"]] != 0).sum()) > 0


def test_the_zeros_of_a_dense_model_are_free(text_student: Model) -> None:
    weight = text_student.module.get_submodule(QUERY).weight
    weight.data[0] = 0  # type: ignore[operator]
    with hold_zeros(text_student):
        weight.sum().backward()  # type: ignore[operator]
    assert bool((weight.grad == 1).all())  # type: ignore[union-attr]


def test_sparse_models_know_that_they_are(text_student: Model, texts: Any, tmp_path: Path) -> None:
    model, _ = _apply(text_student, texts, method="magnitude", pattern="2:4")
    folder.save(model, tmp_path)
    assert folder.load(tmp_path).facts["sparse"] == {"ratio": 0.5, "pattern": "2:4"}


@pytest.mark.parametrize("ratio", [0, 1, -0.1, float("nan")])
def test_a_ratio_is_a_share(ratio: float) -> None:
    with pytest.raises(ValidationError):
        Sparsity.Settings(ratio=ratio)


def test_a_pattern_is_half(text_student: Model, texts: Any) -> None:
    with pytest.raises(ValidationError, match="half of every row"):
        Sparsity.Settings(pattern="2:4", ratio=0.6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_numbers_are_refused(text_student: Model, texts: Any, value: float) -> None:
    text_student.module.get_submodule(QUERY).weight.data[3, 3] = value  # type: ignore[operator]
    with pytest.raises(AttarError, match=f"'{QUERY}.weight' holds NaN"):
        _apply(text_student, texts)


def test_quantized_and_prompted_models_are_refused(text_student: Model, texts: Any) -> None:
    text_student.facts["quantized"] = {QUERY: {"bits": 4}}
    with pytest.raises(AttarError, match="Put quantization last"):
        _apply(text_student, texts)
    prompted = Model(text_student.module, "prompted", text_student.processor, {})
    with pytest.raises(AttarError, match="before a prompt is trained"):
        _apply(prompted, texts)


def test_what_it_cannot_do_is_named(images: Callable[..., Any], net: Callable[..., Model]) -> None:
    small = net(net="cnn", widths=(4,))
    with pytest.raises(AttarError, match=r"Linear and torch.nn.Conv2d.*Sequential has none"):
        _apply(small, images(4), ImageClassification())
    with pytest.raises(AttarError, match=r"keep '0.weigh'"):
        _apply(small, images(4), ImageClassification(), keep=("0.weigh",))
    odd = net(widths=(7, 7))
    odd.module[1] = torch.nn.Linear(64, 7)  # type: ignore[operator]
    with pytest.raises(AttarError, match="No calibration example is read"):
        _apply(odd, images(4).take(np.array([], int)), ImageClassification(), method="wanda")


def test_a_killed_training_goes_on_with_the_same_zeros(text_student: Model, texts: Any, tmp_path: Path) -> None:
    from attar.stages.checkpoint import Progress, load_checkpoint, save_checkpoint

    start, _ = _apply(text_student, texts, method="magnitude")
    folder.save(start, tmp_path / "start")

    def train(steps: int, stop: int | None, work: Path) -> Model:
        """Train from the start or from a checkpoint, and leave one where it is stopped."""
        model = folder.load(tmp_path / "start")
        stepper = torch.optim.AdamW(model.module.parameters(), lr=0.01, weight_decay=0.1)
        batch = TextClassification().collate(model, texts)
        with hold_zeros(model):
            state = load_checkpoint(work, model.module, stepper)
            for step in range(state.step, steps if stop is None else stop):
                stepper.zero_grad()
                torch.nn.functional.cross_entropy(model.module(**batch.inputs).logits, batch.targets).backward()
                stepper.step()
                save_checkpoint(work, model.module, stepper, Progress(step + 1))
        return model

    whole = train(4, None, tmp_path / "whole")
    train(4, 2, tmp_path / "killed")
    again = train(4, None, tmp_path / "killed")
    for (name, one), other in zip(whole.module.named_parameters(), again.module.parameters(), strict=True):
        assert torch.equal(one, other), name
    weights = [model.module.get_parameter(f"{QUERY}.weight") for model in (start, again)]
    assert torch.equal(weights[0] == 0, weights[1] == 0)
