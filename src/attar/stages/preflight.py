"""Check an objective before time is spent on it: seconds that catch a silently wrong loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.nouns import Model, Objective
from attar.core.rows import Rows
from attar.errors import AttarError
from attar.log import say
from attar.objectives.blocks import Sizes, evaluate
from attar.objectives.cross_entropy import CrossEntropy
from attar.objectives.divergence import Divergence
from attar.objectives.learned import needs_whole_batch
from attar.objectives.weighted import WeightedSum
from attar.optional import lazy
from attar.stages.checks import Check
from attar.stages.lesson import Lesson, accumulate, build_learned, loss_of
from attar.stages.preflight_text import completion_checks

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

EXAMPLES = 12
TOLERANCE = 1e-4  # relative, of float32 gradients summed in another order
ROWS = 24
"""Rows that checks of single objectives look at."""


def preflight(model: Model, lesson: Lesson) -> list[dict[str, Any]]:
    """Run every check that exists for the lesson, in float32, without dropout, and leave the model as it was.

    Raises:
        AttarError: a check failed; the message names it.
    """
    examples = lesson.train.take(np.arange(min(EXAMPLES, len(lesson.train))))
    # at the start the moving average is the model itself: it pulls nowhere; a term may enter after it
    probe = replace(lesson.fullest(), train=examples, moving=None)
    was_training = model.module.training
    model.module.eval()
    with torch.random.fork_rng():
        build_learned(probe, model, 0)
        checks = list(_all(model, probe))
    model.module.zero_grad(set_to_none=True)
    model.module.train(was_training)
    failed = [check for check in checks if not check.passed]
    if failed:
        names = "; ".join(f"{check.name} ({check.value})" for check in failed)
        raise AttarError(
            f"Preflight stopped the run before training: {names}. The objective or its settings are wrong."
        )
    return [check.to_json() for check in checks]


def _all(model: Model, probe: Lesson) -> Iterator[Check]:
    rows = probe.task.rows(model, probe.task.collate(model, probe.train))
    if rows.head is not None:
        yield from completion_checks(model, probe)
        if _row_terms(probe.objective):
            yield _blocks(model, probe)
    yield _micro_batches(model, probe)
    yield _weight_zero(model, probe)
    targets = probe.task.collate(model, probe.train).targets.to(rows.key.device)
    few = slice(0, ROWS)
    dense = Rows(rows.key[few], rows.weight[few], rows.take(few).dense().detach().float())
    for term in _row_terms(probe.objective):
        yield _mean(term, dense, targets[few])
    if probe.asks:
        for term in _row_terms(probe.objective):
            if term.divergence:
                yield _self_teaching(term, dense, targets[few])
            if isinstance(term, Divergence) and term.settings.temperature != 1 and term.second_order:
                yield _temperature(term, dense)
        yield _order(probe)
        yield _gradient_ratio(model, probe)


def _terms(objective: Objective) -> list[tuple[float, Objective]]:
    return list(objective.terms) if isinstance(objective, WeightedSum) else [(1.0, objective)]


def _row_terms(objective: Objective) -> list[Any]:
    return [term for _, term in _terms(objective) if term.by_row]


def _gradient(model: Model, lesson: Lesson, micro: int) -> torch.Tensor:
    torch.manual_seed(0)  # an objective may draw a mask
    model.module.zero_grad(set_to_none=True)
    _, weight = accumulate(lesson, model, lesson.train, micro, lambda loss: loss.backward())
    parts = [p.grad.flatten() / weight for p in model.module.parameters() if p.grad is not None]
    return torch.cat(parts)


def _relative(first: torch.Tensor, second: torch.Tensor) -> float:
    # a student that begins as its teacher has a gradient of rounding errors alone, which no two orders of adding share
    return float((first - second).norm() / first.norm().clamp_min(1e-2))


def _micro_batches(model: Model, lesson: Lesson) -> Check:
    name = "gradient does not change with micro-batch size"
    if needs_whole_batch(lesson.objective):  # relations between examples: the recipe's check keeps such batches whole
        return Check(name, True, "the objective sees whole batches")
    error = _relative(_gradient(model, lesson, len(lesson.train)), _gradient(model, lesson, 3))
    return Check(name, error < TOLERANCE, f"relative difference {error:.1e}")


def _weight_zero(model: Model, lesson: Lesson) -> Check:
    silent: Objective = CrossEntropy(CrossEntropy.Settings())
    with_zero = replace(lesson, objective=WeightedSum([*_terms(lesson.objective), (0.0, silent)]))
    size = len(lesson.train)
    error = _relative(_gradient(model, lesson, size), _gradient(model, with_zero, size))
    return Check("a term of weight 0 equals the term left out", error == 0.0, f"relative difference {error:.1e}")


def _blocks(model: Model, lesson: Lesson) -> Check:
    """Compare the loss over blocks of rows with the loss over all scores laid out."""
    batch = lesson.task.collate(model, lesson.train)
    with torch.no_grad():
        rows = lesson.task.rows(model, batch).take(slice(0, ROWS))
        said = None if not lesson.asks or lesson.teacher is None else lesson.teacher.answer(lesson.train)
    if rows.hidden is None or rows.head is None:
        raise ValueError("the blocks check is for rows with a head")
    hidden = rows.hidden.detach().float().requires_grad_()
    teacher = None if said is None else _cast(said.to(rows.key.device).take(slice(0, ROWS)), hidden.dtype)
    lazy_rows = replace(rows, hidden=hidden)
    objective = WeightedSum([(weight, term) for weight, term in _terms(lesson.objective) if term.by_row])
    targets = batch.targets[:ROWS].to(hidden.device)
    values, gradients = [], []
    for student in (Rows(rows.key, rows.weight, lazy_rows.dense()), lazy_rows):
        loss = evaluate(objective, student, teacher, targets, Sizes(8, 3, 4096)).total
        values.append(float(loss.detach()))
        gradients.append(torch.autograd.grad(loss, hidden)[0])
    error = max(abs(values[1] - values[0]) / max(1.0, abs(values[0])), _relative(gradients[0], gradients[1]))
    return Check("blocks of rows equal all at once", error < TOLERANCE, f"relative difference {error:.1e}")


def _cast(rows: Rows, dtype: torch.dtype) -> Rows:
    """Return lazy rows in a type, as blocks turn them into the student's; other rows as they are."""
    if rows.hidden is None or rows.head is None:
        return rows
    bias = None if rows.head.bias is None else rows.head.bias.to(dtype)
    head = replace(rows.head, weight=rows.head.weight.to(dtype), bias=bias)
    return replace(rows, hidden=rows.hidden.to(dtype), head=head)


def _loss_and_gradient(
    term: Objective, logits: torch.Tensor, rows: Rows, teacher: Rows | None, targets: torch.Tensor
) -> tuple[float, torch.Tensor]:
    leaf = logits.detach().requires_grad_()
    loss = term(Rows(rows.key, rows.weight, leaf), teacher, targets).total
    (gradient,) = torch.autograd.grad(loss, leaf)
    return float(loss.detach()), gradient


def _other(rows: Rows) -> Rows:
    """Return a teacher that disagrees: each row says what the next row's student says."""
    return Rows(rows.key, rows.weight, rows.dense().roll(1, dims=0))


def _mean(term: Objective, rows: Rows, targets: torch.Tensor) -> Check:
    """See that a row of weight 0 adds nothing, not to the divisor either, and that only ratios of weights count."""
    name = f"the loss is a mean over row weights ({_name(term)})"
    teacher = _other(rows)
    weight = torch.arange(1, len(rows) + 1, device=rows.weight.device) % 3
    weight = weight.to(rows.weight.dtype)
    first = term(Rows(rows.key, weight, rows.dense()), teacher, targets).total
    kept = weight > 0
    fewer = Rows(rows.key[kept], weight[kept] * 2, rows.dense()[kept])
    second = term(fewer, teacher.take(kept), targets[kept]).total
    error = float((first - second).abs() / first.abs().clamp_min(1e-6))
    return Check(name, error < TOLERANCE, f"relative difference {error:.1e}")


def _self_teaching(term: Objective, rows: Rows, targets: torch.Tensor) -> Check:
    value, gradient = _loss_and_gradient(term, rows.dense(), rows, rows, targets)
    worst = float(gradient.abs().max())
    name = f"student := teacher gives loss and gradient 0 ({_name(term)})"
    return Check(name, abs(value) < 1e-5 and worst < 1e-5, f"loss {abs(value):.1e}, gradient {worst:.1e}")


def _temperature(term: Any, rows: Rows) -> Check:
    """See that the temperature softens, and that T² undoes what it does to the size of the gradient.

    Where all scores are near 0 a divergence is quadratic: its gradient falls with T², and the factor brings it back.
    """
    plain = type(term)(term.settings.model_copy(update={"temperature": 1.0}))
    targets = torch.zeros(len(rows), dtype=torch.long, device=rows.weight.device)
    sharp = rows.dense().double()
    moved = [_loss_and_gradient(one, sharp, rows, _other(rows), targets)[0] for one in (term, plain)]
    flat = sharp * (1e-3 / sharp.std().clamp_min(1e-12))
    soft = Rows(rows.key, rows.weight, flat)
    norms = [_loss_and_gradient(one, flat, soft, _other(soft), targets)[1].norm() for one in (term, plain)]
    ratio = float(norms[0] / norms[1].clamp_min(1e-30))
    changed = abs(moved[0] - moved[1]) > 1e-6 * abs(moved[1])
    seen = f"gradient of flat scores {ratio:.3f} times that at T = 1, {'' if changed else 'no '}effect on sharp ones"
    return Check(f"the temperature softens, with its T² ({_name(term)})", changed and 0.9 < ratio < 1.1, seen)


def _name(term: Any) -> str:
    return str(getattr(term, "name", type(term).__name__))


def _order(lesson: Lesson) -> Check:
    if lesson.teacher is None:
        raise ValueError("the order check needs a teacher")
    back = np.arange(len(lesson.train))[::-1].copy()
    forward, reverse = lesson.teacher.answer(lesson.train), lesson.teacher.answer(lesson.train.take(back))
    first, second = (rows.take(_by_key(rows)) for rows in (forward, reverse))
    same = torch.equal(first.key, second.key) and all(
        torch.allclose(one, other, atol=1e-2) for one, other in zip(_scores(first), _scores(second), strict=True)
    )
    return Check("the record answers alike in any order", same, "keys and scores equal" if same else "they differ")


def _by_key(rows: Rows) -> torch.Tensor:
    by_place = torch.argsort(rows.key[:, 1], stable=True)
    return by_place[torch.argsort(rows.key[by_place, 0], stable=True)]


def _scores(rows: Rows) -> list[torch.Tensor]:
    """Return the tensors that a teacher's rows consist of."""
    if rows.top is not None:
        return [rows.top.ids, rows.top.log_p, *rows.top.rest.values()]
    if rows.sampled is not None:
        return [part for sample in rows.sampled.values() for part in (sample.ids, sample.shares, sample.entropy)]
    return [rows.hidden if rows.hidden is not None else rows.dense()]


def _gradient_ratio(model: Model, lesson: Lesson) -> Check:
    """Compare the size of the teacher's pull with that of plain hard targets; told, never fatal."""
    hard = replace(lesson, objective=CrossEntropy(CrossEntropy.Settings()))
    model.module.zero_grad(set_to_none=True)
    plain = _norm(model, hard)
    pull = _norm(model, lesson)
    ratio = plain / max(pull, 1e-12)
    if not 0.1 <= ratio <= 10:
        say(
            f"  warning: the gradient of cross-entropy is {ratio:.2g} times the objective's; outside 0.1 to 10 one "
            "drowns the other"
        )
    return Check("gradient of cross-entropy against the objective's", True, f"{ratio:.2f} : 1")


def _norm(model: Model, lesson: Lesson) -> float:
    model.module.zero_grad(set_to_none=True)
    loss, _ = loss_of(lesson, model, lesson.train)
    loss.total.backward()
    return float(torch.cat([p.grad.flatten() for p in model.module.parameters() if p.grad is not None]).norm())
