"""A loss in blocks is the dense loss, in value and gradients, and never lays all scores out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attar.core.rows import Head, Rows
from attar.objectives import blocks
from attar.objectives.blocks import Sizes, choose_sizes, evaluate
from attar.objectives.cross_entropy import CrossEntropy
from attar.objectives.dist import Dist
from attar.objectives.forward_kl import ForwardKL
from attar.objectives.weighted import WeightedSum

Parts = dict[str, torch.Tensor]
COUNT, WIDTH, CHOICES = 13, 4, 11
SMALL = Sizes(block=5, part=2, tile=3)
KL = ForwardKL(ForwardKL.Settings(temperature=2))
CE = CrossEntropy(CrossEntropy.Settings())


@pytest.fixture
def parts() -> Parts:
    draw = torch.Generator().manual_seed(2)
    return {
        "hidden": torch.randn(COUNT, WIDTH, generator=draw),
        "head": torch.randn(CHOICES, WIDTH, generator=draw),
        "bias": torch.randn(CHOICES, generator=draw),
        "weight": torch.rand(COUNT, generator=draw),
        "teacher": torch.randn(COUNT, CHOICES, generator=draw),
        "targets": torch.randint(0, CHOICES, (COUNT,), generator=draw),
    }


def _key(count: int = COUNT) -> torch.Tensor:
    return torch.stack([torch.arange(count), torch.zeros(count, dtype=torch.long)], dim=1)


def _lazy(parts: Parts, free: tuple[str, ...] = ("hidden", "head", "bias"), **head: Any) -> Rows:
    """Return rows over leaves of their own; those named in ``free`` take gradients."""
    made = {name: parts[name].clone().requires_grad_(name in free) for name in ("hidden", "head", "bias")}
    return Rows(
        _key(len(parts["hidden"])),
        parts["weight"],
        hidden=made["hidden"],
        head=Head(made["head"], made["bias"], **head),
    )


def _teacher(parts: Parts) -> Rows:
    return Rows(_key(len(parts["teacher"])), torch.ones(len(parts["teacher"])), parts["teacher"])


def _leaves(rows: Rows) -> list[torch.Tensor]:
    assert rows.hidden is not None
    assert rows.head is not None
    assert rows.head.bias is not None
    return [rows.hidden, rows.head.weight, rows.head.bias]


def _dense(objective: Any, rows: Rows, parts: Parts) -> torch.Tensor:
    """Return the loss over scores laid out whole."""
    laid: torch.Tensor = objective(Rows(rows.key, rows.weight, rows.dense()), _teacher(parts), parts["targets"]).total
    return laid


def _same(found: Rows, exact: Rows, close: float = 1e-5) -> None:
    for ours, theirs in zip(_leaves(found), _leaves(exact), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).norm() <= close * theirs.grad.norm()


@pytest.mark.parametrize("sizes", [Sizes(1, 1, 1), Sizes(5, 5, 11), Sizes(13, 3, 4), Sizes(100, 7, 100), None])
@pytest.mark.parametrize("head", [{}, {"scale": 0.3}, {"softcap": 2.0}, {"scale": 2.0, "softcap": 3.0}])
def test_any_sizes_give_the_dense_loss(sizes: Sizes | None, head: dict[str, float], parts: Parts) -> None:
    objective = WeightedSum([(0.3, CE), (0.7, KL)])
    tiled, whole = _lazy(parts, **head), _lazy(parts, **head)
    loss = evaluate(objective, tiled, _teacher(parts), parts["targets"], sizes)
    exact = _dense(objective, whole, parts)
    loss.total.backward()
    exact.backward()
    assert loss.total.item() == pytest.approx(exact.item(), rel=1e-5)
    assert set(loss.parts) == {"cross_entropy", "forward_kl"}
    _same(tiled, whole)


def test_the_gradient_from_above_is_multiplied_in(parts: Parts) -> None:
    tiled, whole = _lazy(parts), _lazy(parts)
    (evaluate(KL, tiled, _teacher(parts), parts["targets"], SMALL).total ** 2).backward()
    (_dense(KL, whole, parts) ** 2).backward()
    _same(tiled, whole)


def test_a_term_that_compares_rows_sees_all_of_them(parts: Parts) -> None:
    objective = WeightedSum([(0.5, KL), (2.0, Dist(Dist.Settings()))])
    tiled, whole = _lazy(parts), _lazy(parts)
    loss = evaluate(objective, tiled, _teacher(parts), parts["targets"], SMALL)
    exact = _dense(objective, whole, parts)
    loss.total.backward()
    exact.backward()
    assert loss.total.item() == pytest.approx(exact.item(), rel=1e-5)
    assert set(loss.parts) == {"forward_kl", "dist"}
    _same(tiled, whole)


def test_rows_with_logits_are_judged_as_they_are(parts: Parts) -> None:
    logits = parts["teacher"].clone().requires_grad_()
    rows = Rows(_key(), parts["weight"], logits)
    loss = evaluate(CE, rows, None, parts["targets"], SMALL)
    assert loss.total.item() == CE(rows, None, parts["targets"]).total.item()


def test_a_record_feeds_blocks(parts: Parts, recorded: Callable[..., Rows]) -> None:
    tiled, whole = _lazy(parts), _lazy(parts)
    teacher = replace(recorded(parts["teacher"], 3), key=_key())
    loss = evaluate(KL, tiled, teacher, parts["targets"], SMALL)
    exact = KL(Rows(whole.key, whole.weight, whole.dense()), teacher, parts["targets"]).total
    loss.total.backward()
    exact.backward()
    assert loss.total.item() == pytest.approx(exact.item(), rel=1e-5)
    _same(tiled, whole)


@pytest.mark.parametrize("width", [WIDTH, 6])
def test_a_lazy_teacher_equals_the_one_laid_out(width: int, parts: Parts) -> None:
    draw = torch.Generator().manual_seed(9)
    hidden, weight = torch.randn(COUNT, width, generator=draw), torch.randn(CHOICES, width, generator=draw)
    teacher = Rows(_key(), torch.ones(COUNT), hidden=hidden, head=Head(weight, parts["bias"], 0.5, 4.0))
    tiled, whole = _lazy(parts), _lazy(parts)
    loss = evaluate(KL, tiled, teacher, parts["targets"], SMALL)
    exact = _dense(KL, whole, {**parts, "teacher": teacher.dense()})
    loss.total.backward()
    exact.backward()
    assert loss.total.item() == pytest.approx(exact.item(), rel=1e-5)
    _same(tiled, whole)


def test_a_teachers_weights_get_no_gradient(parts: Parts) -> None:
    teacher = _lazy(parts)
    evaluate(KL, _lazy({**parts, "hidden": parts["hidden"] + 1}), teacher, parts["targets"], SMALL).total.backward()
    assert [leaf.grad for leaf in _leaves(teacher)] == [None, None, None]


@pytest.mark.parametrize("free", [("hidden",), ("head",), ("bias",), ("hidden", "bias"), ("head", "bias")])
def test_what_is_frozen_gets_no_gradient(free: tuple[str, ...], parts: Parts) -> None:
    tiled, whole = _lazy(parts, free), _lazy(parts, free)
    evaluate(KL, tiled, _teacher(parts), parts["targets"], SMALL).total.backward()
    _dense(KL, whole, parts).backward()
    for name, ours, theirs in zip(("hidden", "head", "bias"), _leaves(tiled), _leaves(whole), strict=True):
        assert (ours.grad is None) == (name not in free)
        if name in free:
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)  # type: ignore[arg-type]


def test_a_second_backward_pass_is_a_fault(parts: Parts) -> None:
    loss = evaluate(KL, _lazy(parts), _teacher(parts), parts["targets"], SMALL).total
    loss.backward(retain_graph=True)
    with pytest.raises(ValueError, match="one backward pass"):
        loss.backward()


@pytest.mark.parametrize("quiet", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_value_is_the_same_and_none_is_computed(
    quiet: Callable[[], Any], parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(KL, _lazy(parts), _teacher(parts), parts["targets"], SMALL).total.item()

    def computed(*_: object) -> None:
        raise AssertionError("a gradient was computed")

    monkeypatch.setattr(torch.autograd, "grad", computed)
    rows = _lazy(parts)
    with quiet():
        loss = evaluate(KL, rows, _teacher(parts), parts["targets"], SMALL).total
    assert loss.item() == expected
    assert not loss.requires_grad


def test_no_rows_give_zero_and_a_gradient_of_nothing(parts: Parts) -> None:
    none = {**parts, **{name: parts[name][:0] for name in ("hidden", "weight", "teacher", "targets")}}
    rows = _lazy(none)
    loss = evaluate(WeightedSum([(1.0, KL), (1.0, CE)]), rows, _teacher(none), none["targets"], SMALL)
    loss.total.backward()
    assert loss.total.item() == 0.0
    assert {name: float(value) for name, value in loss.parts.items()} == {"forward_kl": 0.0, "cross_entropy": 0.0}
    for leaf in _leaves(rows):
        assert leaf.grad is not None
        assert (leaf.grad == 0).all()


def test_blocks_of_weight_zero_add_nothing(parts: Parts) -> None:
    parts["weight"][:6] = 0.0
    tiled, whole = _lazy(parts), _lazy(parts)
    loss = evaluate(KL, tiled, _teacher(parts), parts["targets"], SMALL)
    exact = _dense(KL, whole, parts)
    loss.total.backward()
    exact.backward()
    assert loss.total.item() == pytest.approx(exact.item(), rel=1e-5)
    assert (_leaves(tiled)[0].grad[:6] == 0).all()  # type: ignore[index]
    _same(tiled, whole)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_types_of_gradients_are_those_of_what_they_are_of(dtype: torch.dtype, parts: Parts) -> None:
    low = {name: part.to(dtype) if part.is_floating_point() else part for name, part in parts.items()}
    rows = _lazy(low)
    loss = evaluate(KL, rows, _teacher(low), low["targets"], SMALL).total
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert [leaf.grad.dtype for leaf in _leaves(rows)] == [dtype] * 3  # type: ignore[union-attr]


def test_autocast_in_bfloat16_is_close_to_float32(parts: Parts) -> None:
    low, full = _lazy(parts), _lazy(parts)
    with torch.autocast("cpu", torch.bfloat16):
        loss = evaluate(KL, low, _teacher(parts), parts["targets"], SMALL).total
    exact = _dense(KL, full, parts)
    loss.backward()
    exact.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    assert loss.item() != exact.item()
    _same(low, full, close=0.03)


class _Largest(TorchDispatchMode):
    """Note the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, list | tuple) else [made]:
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return made


@pytest.mark.parametrize("lazy_teacher", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_scores_of_all_rows_and_choices_never_exist(lazy_teacher: bool, autocast: bool) -> None:
    rows, width, choices = 600, 8, 2000
    draw = torch.Generator().manual_seed(4)
    hidden, weight = torch.randn(rows, width, generator=draw), torch.randn(choices, width, generator=draw)
    student = Rows(_key(rows), torch.ones(rows), hidden=hidden.requires_grad_(), head=Head(weight.requires_grad_()))
    teacher = Rows(_key(rows), torch.ones(rows), hidden=hidden.detach(), head=Head(weight.detach().flip(0)))
    objective, targets = (KL if lazy_teacher else CE), torch.zeros(rows, dtype=torch.long)
    with _Largest() as seen, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = evaluate(objective, student, teacher if lazy_teacher else None, targets, Sizes(40, 10, 512))
        loss.total.backward()
    assert seen.elements <= 40 * choices
    with _Largest() as dense:
        objective(Rows(student.key, student.weight, student.dense()), teacher, targets)
    assert dense.elements >= rows * choices


class _Casts(TorchDispatchMode):
    """Note the size of whatever is copied into another type."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default:
            self.elements.append(made.numel())
        return made


@pytest.mark.parametrize("theirs", [torch.bfloat16, torch.float32])
def test_a_teachers_head_of_another_type_is_cast_tile_by_tile(theirs: torch.dtype) -> None:
    rows, width, choices = 24, 32, 500
    draw = torch.Generator().manual_seed(6)
    made = [torch.randn(shape, generator=draw) for shape in ((rows, width), (choices, width)) * 2]
    ours, head, said, other = (*made[:2], *(part.to(theirs) for part in made[2:]))
    student = Rows(_key(rows), torch.ones(rows), hidden=ours.requires_grad_(), head=Head(head))
    teacher = Rows(_key(rows), torch.ones(rows), hidden=said, head=Head(other, scale=0.3))
    plain = Rows(teacher.key, teacher.weight, hidden=said.float(), head=Head(other.float(), scale=0.3))
    targets = torch.zeros(rows, dtype=torch.long)
    with _Casts() as seen:
        found = evaluate(KL, student, teacher, targets, Sizes(8, 2, 50)).total
    assert max(seen.elements, default=0) <= 50 * width
    exact = KL(Rows(student.key, student.weight, student.dense()), plain, targets).total
    assert found.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("free", [2**26, 2**30, 2**40])
@pytest.mark.parametrize(("choices", "width"), [(2, 8), (32_000, 576), (151_936, 896), (262_144, 2048)])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_sizes_fit_what_is_free(
    free: int, choices: int, width: int, itemsize: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "free_bytes", lambda device: free)
    sizes = choose_sizes(choices, width, itemsize, torch.device("cpu"))
    most = min(blocks.PRODUCT_BYTES + blocks.WORK_BYTES, free / 16)
    product = sizes.block * choices * itemsize
    work = sizes.part * choices * 4 * blocks.COPIES
    assert product <= most or sizes.block == 16
    assert work <= most or sizes.part == 4
    assert 1 <= sizes.part <= sizes.block
    assert sizes.tile * width * itemsize <= blocks.TILE_BYTES or sizes.tile == 256


def test_free_memory_is_a_number_of_bytes() -> None:
    assert blocks.free_bytes(torch.device("cpu")) > 2**20
