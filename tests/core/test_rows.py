from __future__ import annotations

import pytest
import torch

from attar.core.rows import Head, Rows, example_rows, weighted_mean


def test_rows_refuse_neither_and_both_kinds_of_scores() -> None:
    key, weight = torch.zeros(2, 2, dtype=torch.long), torch.ones(2)
    with pytest.raises(ValueError, match="one form of scores"):
        Rows(key, weight)
    with pytest.raises(ValueError, match="one form of scores"):
        Rows(key, weight, torch.zeros(2, 3), torch.zeros(2, 4), Head(torch.zeros(3, 4)))


@pytest.mark.parametrize(("keys", "weights"), [((3, 2), 2), ((2,), 2), ((2, 2), 3)])
def test_rows_refuse_counts_that_differ(keys: tuple[int, ...], weights: int) -> None:
    with pytest.raises(ValueError, match="agree in count"):
        Rows(torch.zeros(keys, dtype=torch.long), torch.ones(weights), torch.zeros(2, 3))


def test_lazy_rows_lay_out_the_product() -> None:
    hidden, head = torch.randn(2, 4), torch.randn(3, 4)
    rows = Rows(torch.zeros(2, 2, dtype=torch.long), torch.ones(2), None, hidden, Head(head))
    assert torch.allclose(rows.dense(), hidden @ head.T)


def test_detach_cuts_the_gradient() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)
    rows = example_rows(torch.tensor([5]), logits)
    assert rows.dense().requires_grad
    assert not rows.detach().dense().requires_grad
    assert rows.key.tolist() == [[5, 0]]


def test_weighted_mean_by_hand_and_with_no_weight() -> None:
    values = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    mean = weighted_mean(values, torch.tensor([1.0, 0.0, 3.0]))
    mean.backward()
    assert mean.item() == pytest.approx(4.75)
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0.25, 0.0, 0.75])
    assert weighted_mean(values, torch.zeros(3)).item() == 0.0
