"""Record teachers the plain way, for all tests of objectives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from attar.core.examples import UNKNOWN
from attar.core.nouns import Objective
from attar.core.rows import Rows, Top, example_rows


@pytest.fixture
def recorded() -> Callable[..., Rows]:
    """Return what makes ``top`` rows from ``logits (rows, choices)``: k choices and the exact rest."""

    def make(logits: torch.Tensor, k: int, temperatures: tuple[float, ...] = (1.0, 2.0)) -> Rows:
        log_p, ids = logits.log_softmax(-1).topk(k, dim=-1)
        others = logits.scatter(-1, ids, float("-inf"))
        rest = {
            value: (others / value).logsumexp(-1) - (logits / value).logsumexp(-1) for value in map(float, temperatures)
        }
        rows = example_rows(torch.arange(len(logits)), logits)
        return Rows(rows.key, rows.weight, top=Top(ids, log_p, rest, logits.shape[-1]))

    return make


@pytest.fixture
def judged() -> Callable[..., tuple[float, torch.Tensor]]:
    """Return what gives the loss and its gradient for plain ``logits (rows, choices)``."""

    def judge(
        objective: Objective,
        student: torch.Tensor,
        teacher: torch.Tensor,
        targets: torch.Tensor | None = None,
        weight: torch.Tensor | None = None,
    ) -> tuple[float, torch.Tensor]:
        logits = student.clone().requires_grad_()
        rows = example_rows(torch.arange(len(logits)), logits)
        rows = rows if weight is None else Rows(rows.key, weight, logits)
        targets = torch.full((len(logits),), UNKNOWN) if targets is None else targets
        loss = objective(rows, example_rows(rows.key[:, 0], teacher), targets).total
        loss.backward()
        assert logits.grad is not None
        return loss.item(), logits.grad

    return judge
