"""Forward KL of a sample is right on average, and T² keeps the size of the gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from attar.core.rows import Rows, Sampled, example_rows
from attar.objectives.forward_kl import ForwardKL

Judge = Callable[..., tuple[float, torch.Tensor]]
NONE = torch.full((2,), -100)


def _kl(temperature: float) -> ForwardKL:
    return ForwardKL(ForwardKL.Settings(temperature=temperature))


def _sampled(logits: torch.Tensor, temperature: float, draws: int, generator: torch.Generator) -> Rows:
    """Return rows with ``draws`` choices drawn at random, each with an equal share."""
    p = (logits / temperature).softmax(-1)
    ids = torch.multinomial(p, draws, replacement=True, generator=generator)
    entropy = -(p * p.log()).sum(-1)
    sample = Sampled(ids, torch.full(ids.shape, 1 / draws, dtype=p.dtype), entropy, p.shape[-1])
    rows = example_rows(torch.arange(len(logits)), logits)
    return Rows(rows.key, rows.weight, sampled={temperature: sample})


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_sample_is_right_on_average_in_value_and_gradient(temperature: float, judged: Judge) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    value, gradient = judged(_kl(temperature), student, teacher)
    found = []
    for _ in range(400):
        logits = student.clone().requires_grad_()
        said = _sampled(teacher, temperature, 8, draw)
        loss = _kl(temperature)(example_rows(torch.arange(2), logits), said, NONE).total
        loss.backward()
        assert logits.grad is not None
        found.append(torch.cat([loss.detach()[None], logits.grad.flatten()]))
    table = torch.stack(found)
    exact = torch.cat([torch.tensor([value], dtype=torch.float64), gradient.flatten()])
    error = table.std(dim=0) / len(table) ** 0.5
    assert (error > 0).all()
    assert ((table.mean(dim=0) - exact).abs() <= 4 * error).all()


def test_a_sample_of_every_choice_by_its_probability_is_exact(judged: Judge) -> None:
    teacher, student = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[1.0, -1.0, 0.5]])
    p = (teacher / 2).softmax(-1)
    sample = Sampled(torch.arange(3)[None], p, -(p * p.log()).sum(-1), 3)
    rows = example_rows(torch.arange(1), student)
    loss = _kl(2.0)(rows, Rows(rows.key, rows.weight, sampled={2.0: sample}), NONE[:1]).total
    assert loss.item() == pytest.approx(judged(_kl(2.0), student, teacher)[0], rel=1e-5)


def test_a_sample_at_another_temperature_is_a_fault() -> None:
    logits = torch.zeros(2, 3)
    said = _sampled(logits, 1.0, 2, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="sampled at the temperatures 1, and 2 is asked for"):
        _kl(2.0)(example_rows(torch.arange(2), logits), said, NONE)


@pytest.mark.parametrize("temperature", [2.0, 4.0])
def test_small_logits_have_one_gradient_at_every_temperature(temperature: float, judged: Judge) -> None:
    # T² · d KL / dz = T (q - p), and q - p is (z - v) / (T N) for small logits z and v, whatever T
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 5, generator=draw, dtype=torch.float64) * 1e-3 for _ in range(2))
    cold, warm = judged(_kl(1.0), student, teacher)[1], judged(_kl(temperature), student, teacher)[1]
    assert (warm - cold).norm() <= 2e-3 * cold.norm()
    limit = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    assert torch.allclose(warm, limit / 5 / 3, rtol=5e-3, atol=1e-9)
