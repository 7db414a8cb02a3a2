from __future__ import annotations

import pytest
import torch

from attar.core.rows import Head, Rows, Sampled, Top, example_rows, weighted_mean


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


def _key(count: int) -> torch.Tensor:
    return torch.stack([torch.arange(count), torch.zeros(count, dtype=torch.long)], dim=1)


def test_a_head_applies_bias_scale_and_cap_in_this_order() -> None:
    head = Head(torch.eye(2), torch.tensor([1.0, 0.0]), scale=2.0, softcap=3.0)
    rows = Rows(_key(1), torch.ones(1), hidden=torch.tensor([[1.0, -4.0]]), head=head)
    wanted = 3 * torch.tanh(torch.tensor([[4.0, -8.0]]) / 3)
    assert torch.allclose(rows.dense(), wanted)
    assert rows.choices == 2


def test_the_kept_and_the_rest_sum_to_one_at_each_temperature() -> None:
    logits = torch.randn(5, 9, dtype=torch.float64) * 3
    log_p = torch.log_softmax(logits, -1)
    values, ids = log_p.topk(3)
    rest = {}
    for temperature in (1.0, 2.0, 4.0):
        p = torch.softmax(logits / temperature, -1)
        rest[temperature] = (1 - p.gather(1, ids).sum(-1)).log()
    top = Top(ids, values, rest, 9)
    for temperature in rest:
        kept, left = top.softened(temperature)
        assert torch.allclose(kept.exp(), torch.softmax(logits / temperature, -1).gather(1, ids), atol=1e-6)
        assert torch.allclose(kept.exp().sum(-1) + left.exp(), torch.ones(5, dtype=torch.float64), atol=1e-6)
    with pytest.raises(ValueError, match="holds the temperatures 1, 2, 4, and 3 is asked"):
        top.softened(3.0)


def test_rows_of_every_form_are_taken_and_moved() -> None:
    ids = torch.arange(8).reshape(4, 2)
    top = Rows(_key(4), torch.arange(4.0), top=Top(ids, ids.float(), {1.0: torch.arange(4.0)}, 20))
    sampled = Rows(_key(4), torch.ones(4), sampled={2.0: Sampled(ids, ids.float(), torch.arange(4.0), 20)})
    hidden = Rows(_key(4), torch.ones(4), hidden=torch.randn(4, 3), head=Head(torch.randn(6, 3)))
    for rows in (top, sampled, hidden):
        part = rows.take(torch.tensor([3, 1])).to(torch.device("cpu")).detach()
        assert part.key[:, 0].tolist() == [3, 1]
        assert len(part) == 2
        assert part.choices == rows.choices
    assert top.take(slice(1, 3)).top.rest[1.0].tolist() == [1.0, 2.0]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="all of it is asked"):
        top.dense()
    assert [(s.start, s.stop) for s in top.slices(3)] == [(0, 3), (3, 4)]
