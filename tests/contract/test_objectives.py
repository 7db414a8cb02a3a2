"""Run every objective of the catalogue through what an objective promises."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from attar import catalog
from attar.core.nouns import Objective
from attar.core.rows import Head, Rows
from attar.objectives.blocks import Sizes, evaluate

Tensor = torch.Tensor
Batch = tuple[Tensor, Tensor, Tensor, Tensor]

# objectives of features compare what this page has none of: their own tests do that
NAMES = [
    name for name in sorted(catalog.TABLES["objective"]) if "features" not in catalog.entry("objective", name).needs
]
ROWS, CHOICES = 7, 5


def _objective(name: str, **settings: Any) -> Any:
    kind = catalog.entry("objective", name)
    return kind(kind.Settings(**settings))


def _inputs(dtype: torch.dtype = torch.float32) -> Batch:
    """Return student, teacher, weights and targets, all unlike."""
    draw = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(ROWS, CHOICES, generator=draw, dtype=torch.float64) * 2 for _ in range(2))
    weight = torch.rand(ROWS, generator=draw, dtype=torch.float64) + 0.1
    return student.to(dtype), teacher.to(dtype), weight.to(dtype), torch.tensor([0, 2, 1, 4, 0, 3, 1])


def _rows(logits: Tensor, weight: Tensor | None = None) -> Rows:
    key = torch.stack([torch.arange(len(logits)), torch.zeros(len(logits), dtype=torch.long)], dim=1)
    return Rows(key, torch.ones(len(logits)) if weight is None else weight, logits)


def _gradient(objective: Any, student: Tensor, teacher: Tensor, weight: Tensor, targets: Tensor) -> tuple[Any, Tensor]:
    logits = student.clone().requires_grad_()
    loss = objective(_rows(logits, weight), _rows(teacher), targets)
    loss.total.backward()
    assert logits.grad is not None
    return loss, logits.grad


def _apart(found: Tensor, exact: Tensor) -> float:
    """Return the distance of two tensors, relative to the second."""
    return float((found.double() - exact.double()).norm() / exact.double().norm().clamp_min(1e-12))


def _soft(scores: Tensor, temperature: float) -> list[Tensor]:
    powers = [torch.exp(score / temperature) for score in scores]
    return [power / sum(powers) for power in powers]


def _kl(p: list[Tensor], q: list[Tensor]) -> Any:
    return sum(a * torch.log(a / b) for a, b in zip(p, q, strict=True))


def _mixed(p: list[Tensor], q: list[Tensor], share: float) -> list[Tensor]:
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def _pearson(a: list[Tensor], b: list[Tensor], weight: list[float]) -> Any:
    means = [sum(w * x for w, x in zip(weight, line, strict=True)) / sum(weight) for line in (a, b)]
    a, b = ([x - mean for x in line] for line, mean in zip((a, b), means, strict=True))
    products = [[w * x * y for w, x, y in zip(weight, *both, strict=True)] for both in ((a, b), (a, a), (b, b))]
    return sum(products[0]) / (sum(products[1]) * sum(products[2])) ** 0.5


def _cross_entropy(s: Any, student: Tensor, teacher: Tensor, target: int) -> Any:
    return -torch.log(_soft(student, 1.0)[target])


def _divergence(between: Callable[[Any, list[Tensor], list[Tensor]], Any]) -> Callable[..., Any]:
    def of_row(s: Any, student: Tensor, teacher: Tensor, target: int) -> Any:
        return s.temperature**2 * between(s, _soft(teacher, s.temperature), _soft(student, s.temperature))

    return of_row


def _jensen_shannon(s: Any, p: list[Tensor], q: list[Tensor]) -> Any:
    m = _mixed(p, q, s.beta)
    return s.beta * _kl(p, m) + (1 - s.beta) * _kl(q, m)


def _logit_mse(s: Any, student: Tensor, teacher: Tensor, target: int) -> Any:
    a, b = ([x - sum(line) / len(line) for x in line] for line in (student, teacher))
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)


def _dkd(s: Any, student: Tensor, teacher: Tensor, target: int) -> Any:
    q, p = (_soft(part, s.temperature) for part in (student, teacher))
    own = _kl([p[target], 1 - p[target]], [q[target], 1 - q[target]])
    others = [[x / (1 - line[target]) for i, x in enumerate(line) if i != target] for line in (p, q)]
    return s.temperature**2 * (s.alpha * own + s.beta * _kl(*others))


def _standardized_kl(s: Any, student: Tensor, teacher: Tensor, target: int) -> Any:
    q, p = (_soft((part - part.mean()) / part.std(correction=0), s.temperature) for part in (student, teacher))
    return s.temperature**2 * _kl(p, q)


def _ranking(s: Any, student: Tensor, teacher: Tensor, target: int) -> Any:
    order = sorted(range(len(teacher)), key=lambda place: -float(teacher[place]))[: s.top]
    left = list(range(len(teacher)))
    total: Any = 0.0
    for place in order:
        total = total - torch.log(torch.exp(student[place]) / sum(torch.exp(student[other]) for other in left))
        left.remove(place)
    return total / len(order)


def _uld(s: Any, student: Tensor, teacher: Tensor, target: int) -> Any:
    q, p = (sorted(_soft(part, s.temperature), key=Tensor.item) for part in (student, teacher))
    return s.temperature * sum(abs(a - b) for a, b in zip(p, q, strict=True))


def _dist(s: Any, student: Tensor, teacher: Tensor, weight: list[float]) -> Any:
    q, p = ([_soft(row, s.temperature) for row in part] for part in (student, teacher))
    even = [1.0] * len(p[0])
    inter = sum(w * (1 - _pearson(a, b, even)) for w, a, b in zip(weight, q, p, strict=True)) / sum(weight)
    columns = [([row[place] for row in q], [row[place] for row in p]) for place in range(len(p[0]))]
    intra = sum(1 - _pearson(a, b, weight) for a, b in columns) / len(columns)
    return s.temperature**2 * (s.beta * inter + s.gamma * intra)


SLOW: dict[str, Callable[..., Any]] = {
    "cross_entropy": _cross_entropy,
    "forward_kl": _divergence(lambda s, p, q: _kl(p, q)),
    "reverse_kl": _divergence(lambda s, p, q: _kl(q, p)),
    "jensen_shannon": _divergence(_jensen_shannon),
    "skewed_forward_kl": _divergence(lambda s, p, q: _kl(p, _mixed(p, q, s.alpha))),
    "skewed_reverse_kl": _divergence(lambda s, p, q: _kl(q, _mixed(q, p, s.alpha))),
    "total_variation": _divergence(lambda s, p, q: sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2),
    "logit_mse": _logit_mse,
    "dkd": _dkd,
    "standardized_kl": _standardized_kl,
    "ranking": _ranking,
    "uld": _uld,
}
"""name -> the loss of one row in float64, written as in the paper, at the default settings."""


def _slow(name: str, student: Tensor, teacher: Tensor, weight: Tensor, targets: Tensor) -> Any:
    settings, own = catalog.entry("objective", name).Settings(), weight.tolist()
    if name == "dist":
        return _dist(settings, student, teacher, own)
    parts = [SLOW[name](settings, *row) for row in zip(student, teacher, targets.tolist(), strict=True)]
    return sum(w * part for w, part in zip(own, parts, strict=True)) / sum(own)


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_protocol(name: str) -> None:
    objective = _objective(name)
    assert isinstance(objective, Objective)
    assert objective.needs <= {"logits", "hard"}
    assert objective.needs
    assert objective.settles_for <= {"top", "sampled"}
    assert objective.name == name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_value_and_gradient_equal_the_slow_version(name: str, dtype: torch.dtype, close: float) -> None:
    student, teacher, weight, targets = _inputs(dtype)
    loss, gradient = _gradient(_objective(name), student, teacher, weight, targets)
    exact = student.double().requires_grad_()
    slow = _slow(name, exact, teacher.double(), weight.double(), targets)
    slow.backward()
    assert exact.grad is not None
    assert loss.total.dtype == dtype
    assert loss.total.item() == pytest.approx(slow.item(), rel=close)
    assert _apart(gradient, exact.grad) <= close


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_rows_does_not_matter(name: str) -> None:
    student, teacher, weight, targets = _inputs()
    order = torch.tensor([3, 0, 4, 6, 2, 1, 5])
    loss, gradient = _gradient(_objective(name), student, teacher, weight, targets)
    other, moved = _gradient(_objective(name), student[order], teacher[order], weight[order], targets[order])
    assert other.total.item() == pytest.approx(loss.total.item(), rel=1e-5)
    assert _apart(moved, gradient[order]) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_weight_zero_do_not_matter(name: str) -> None:
    student, teacher, weight, targets = _inputs()
    weight[1] = weight[4] = 0.0
    stays = torch.tensor([0, 2, 3, 5, 6])
    loss, gradient = _gradient(_objective(name), student, teacher, weight, targets)
    fewer, kept = _gradient(_objective(name), student[stays], teacher[stays], weight[stays], targets[stays])
    assert loss.total.item() == pytest.approx(fewer.total.item(), rel=1e-5)
    assert _apart(gradient[stays], kept) <= 1e-5
    assert (gradient[[1, 4]] == 0).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cross_entropy"])
@pytest.mark.parametrize("lazy", [False, True])
def test_rows_at_which_the_teacher_says_nothing_add_nothing(name: str, lazy: bool) -> None:
    objective = _objective(name)
    student, teacher, weight, targets = _inputs()
    spoken = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    others = spoken > 0
    teacher[1] = teacher[4] = 77.0  # what is said without weight may be anything
    found = []
    for told in (spoken, torch.ones(ROWS)):
        logits = student.clone().requires_grad_()
        rows = _rows(logits, weight)
        if lazy:
            rows = Rows(rows.key, weight, hidden=logits, head=Head(torch.eye(CHOICES)))
        loss = evaluate(objective, rows, Rows(rows.key, told, teacher), targets, Sizes(3, 2, 2)).total
        loss.backward()
        assert logits.grad is not None
        found.append((loss.item(), logits.grad))
    (value, gradient), (_, whole) = found
    assert (gradient[~others] == 0).all()
    if objective.by_row:
        alone = _gradient(objective, student[others], teacher[others], weight[others], targets[others])[0].total
        assert value == pytest.approx(alone.item() * float(weight[others].sum() / weight.sum()), rel=1e-5)
        assert _apart(gradient[others], whole[others]) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [0, 1, ROWS])
def test_no_weight_at_all_gives_zero(name: str, count: int) -> None:
    student, teacher, weight, targets = (part[:count] for part in _inputs())
    loss, gradient = _gradient(_objective(name), student, teacher, torch.zeros_like(weight), targets)
    assert loss.total.item() == 0.0
    assert gradient.shape == (count, CHOICES)
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_student_as_its_own_teacher(name: str) -> None:
    objective = _objective(name)
    if not objective.divergence:
        pytest.skip("no divergence")
    student, _, weight, targets = _inputs()
    student[2, 1] = -torch.inf
    loss, gradient = _gradient(objective, student, student, weight, targets)
    assert abs(loss.total.item()) < 2e-6
    assert gradient.abs().max() < 2e-6


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_rows_are_computed_in_float32(name: str) -> None:
    student, teacher, weight, targets = _inputs()
    low = _gradient(_objective(name), student.bfloat16(), teacher.bfloat16(), weight, targets)[0]
    full = _gradient(_objective(name), student.bfloat16().float(), teacher.bfloat16().float(), weight, targets)[0]
    assert low.total.dtype == torch.float32
    assert low.total.item() == full.total.item()


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_cut_from_the_gradient(name: str) -> None:
    loss, _ = _gradient(_objective(name), *_inputs())
    assert loss.parts
    assert not any(part.requires_grad for part in loss.parts.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_that_rules_choices_out_leaves_numbers(name: str) -> None:
    student, teacher, weight, targets = _inputs()
    teacher[0, 3] = teacher[2, 0] = teacher[2, 1] = -torch.inf
    teacher[5] = torch.tensor([-torch.inf, -torch.inf, -torch.inf, 0.0, -torch.inf])
    loss, gradient = _gradient(_objective(name), student, teacher, weight, targets)
    assert torch.isfinite(loss.total)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("logit_mse", "reverse_kl", "standardized_kl")])
def test_a_ruled_out_choice_is_the_limit_of_an_unlikely_one(name: str) -> None:
    student, teacher, weight, targets = _inputs()
    objective = _objective(name, **({"top": 3} if name == "ranking" else {}))
    found = []
    for least in (-300.0, -torch.inf):
        teacher[0, 3] = teacher[2, 0] = teacher[2, 1] = least
        found.append(_gradient(objective, student, teacher, weight, targets))
    (limit, near), (loss, gradient) = found
    assert loss.total.item() == pytest.approx(limit.total.item(), rel=1e-6)
    assert _apart(gradient, near) <= 1e-6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cuts", [[0, 2, ROWS], [0, 1, 2, 6, ROWS]])
def test_gradients_do_not_change_with_micro_batches(name: str, cuts: list[int]) -> None:
    objective = _objective(name)
    if not objective.by_row:
        pytest.skip("compares rows with each other")
    student, teacher, weight, targets = _inputs()
    whole = _gradient(objective, student, teacher, weight, targets)[1]
    summed = torch.zeros_like(whole)
    for cut in (slice(*ends) for ends in pairwise(cuts)):
        part = _gradient(objective, student[cut], teacher[cut], weight[cut], targets[cut])[1]
        summed[cut] = part * weight[cut].sum() / weight.sum()
    assert _apart(summed, whole) <= 1e-5


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("uld", "cross_entropy")])
def test_padding_of_a_vocabulary_is_left_out(name: str) -> None:
    student, teacher, weight, targets = _inputs()
    more = torch.full((ROWS, 3), 4.0)
    loss, gradient = _gradient(_objective(name), student, teacher, weight, targets)
    for ours, theirs in ((torch.cat([student, more], 1), teacher), (student, torch.cat([teacher, more], 1))):
        padded, wide = _gradient(_objective(name), ours, theirs, weight, targets)
        assert padded.total.item() == pytest.approx(loss.total.item(), rel=1e-6)
        assert _apart(wide[:, :CHOICES], gradient) <= 1e-6
        assert (wide[:, CHOICES:] == 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lazy_teacher", [False, True])
def test_blocks_of_rows_give_the_dense_loss_and_gradients(name: str, lazy_teacher: bool) -> None:
    draw = torch.Generator().manual_seed(5)
    made = [torch.randn(shape, generator=draw) for shape in ((13, 4), (11, 4), (11,), (13, 6), (11, 6))]
    weight, targets = torch.rand(13, generator=draw), torch.randint(0, 11, (13,), generator=draw)
    key = _rows(made[0]).key
    teacher = Rows(key, torch.ones(13), hidden=made[3], head=Head(made[4], scale=0.5))
    teacher = teacher if lazy_teacher else _rows(teacher.dense())
    found = []
    for sizes in (None, Sizes(block=5, part=2, tile=3)):
        ours = [part.clone().requires_grad_() for part in made[:3]]
        rows = Rows(key, weight, hidden=ours[0], head=Head(ours[1], ours[2], scale=0.7, softcap=3.0))
        loss = evaluate(_objective(name), rows if sizes else _dense(rows), teacher, targets, sizes)
        (2 * loss.total).backward()
        found.append((loss, [part.grad for part in ours]))
    (dense, gradients), (tiled, others) = found
    assert tiled.total.item() == pytest.approx(dense.total.item(), rel=1e-5)
    assert {part: float(value) for part, value in tiled.parts.items()} == pytest.approx(
        {part: float(value) for part, value in dense.parts.items()}, rel=1e-5
    )
    assert max(_apart(other, own) for other, own in zip(others, gradients, strict=True)) <= 1e-5  # type: ignore[arg-type]


def _dense(rows: Rows) -> Rows:
    return Rows(rows.key, rows.weight, rows.dense())
