"""Attention and relations of tokens: values and gradients against loops in float64, and numbers by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from attar.errors import AttarError
from attar.objectives.attention_relation import AttentionRelation
from attar.objectives.attention_transfer import AttentionTransfer

WEIGHT = torch.tensor([1.0, 0.25, 2.0])
SIZES = [3, 1, 2]
MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()


def _transfer(**settings: Any) -> AttentionTransfer:
    return AttentionTransfer(AttentionTransfer.Settings(**settings))


def _attention(heads: int, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    scores = torch.randn(3, heads, 4, 4).masked_fill(~MASK[:, None, None, :], -math.inf)
    return {"attention:-1": torch.softmax(scores, dim=-1), "mask": MASK}


def _slow_attention(compare: str) -> Any:
    def loss(student: Any, teacher: Any, weight: torch.Tensor, _: Any) -> Any:
        total: Any = 0.0
        for example, own in enumerate(weight):
            size, apart = SIZES[example], 0.0 * own
            for i in range(size):
                for j in range(size):
                    q = sum(head[i, j] for head in student["attention:-1"][example]) / 2
                    p = sum(head[i, j] for head in teacher["attention:-1"][example]) / 3
                    apart = apart + ((q - p) ** 2 / size**2 if compare == "mse" else p * torch.log(p / q) / size)
            total = total + own * apart
        return total / weight.sum()

    return loss


@pytest.mark.parametrize("compare", ["mse", "kl"])
def test_attention_equals_the_slow_version(compare: str, features: Any) -> None:
    slow = _slow_attention(compare)
    features.compare(_transfer(compare=compare), slow, _attention(2, 0), _attention(3, 1), WEIGHT)


def test_attention_by_hand(features: Any) -> None:
    # the student looks at both tokens alike, the teacher at the first alone, from both tokens
    student = {"attention:-1": torch.full((1, 1, 2, 2), 0.5)}
    teacher = {"attention:-1": torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])}
    assert features.measure(_transfer(), student, teacher)[0] == pytest.approx(0.25)
    assert features.measure(_transfer(compare="kl"), student, teacher)[0] == pytest.approx(math.log(2))


def test_attention_that_the_student_rules_out_costs_much_and_stays_finite(features: Any) -> None:
    student = {"attention:-1": torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])}
    teacher = {"attention:-1": torch.full((1, 1, 2, 2), 0.5)}
    loss, gradient = features.measure(_transfer(compare="kl"), student, teacher)
    assert 10 < loss < 20
    assert torch.isfinite(gradient["attention:-1"]).all()


def test_equal_attention_gives_zero_and_through_a_softmax_no_gradient(features: Any) -> None:
    scores = torch.randn(3, 2, 4, 4).masked_fill(~MASK[:, None, None, :], -1e4).requires_grad_()
    said = {"attention:-1": torch.softmax(scores, dim=-1), "mask": MASK}
    loss = _transfer(compare="kl")(features.rows(said), features.rows(said), torch.zeros(3)).total
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad is not None
    assert scores.grad.abs().max() < 1e-7


def test_maps_equal_the_slow_version(features: Any) -> None:
    torch.manual_seed(0)
    student, teacher = {"a": torch.randn(3, 2, 4, 4)}, {"b": torch.randn(3, 5, 2, 2)}

    def slow(ours: Any, theirs: Any, weight: torch.Tensor, _: Any) -> Any:
        total: Any = 0.0
        for example, own in enumerate(weight):
            maps = []
            for channels in (_averaged(ours["a"][example]), theirs["b"][example]):
                flat = torch.stack([sum(c[i, j] ** 2 for c in channels) for i in range(2) for j in range(2)])
                maps.append(flat / (flat**2).sum().sqrt())
            total = total + own * ((maps[0] - maps[1]) ** 2).sum()
        return total / weight.sum()

    features.compare(_transfer(pairs=[["a", "b"]]), slow, student, teacher, WEIGHT)


def _averaged(channels: Any) -> Any:
    """Return 4 x 4 pixels averaged to 2 x 2."""
    rows = [[channels[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(dim=(1, 2)) for j in range(2)] for i in range(2)]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def test_a_map_by_hand(features: Any) -> None:
    # the student's map has all its attention on pixel 0, the teacher's on pixel 1: (1, 0) and (0, 1), distance² 2
    student, teacher = {"m": torch.tensor([[[[2.0, 0.0]]]])}, {"m": torch.tensor([[[[0.0, -5.0]], [[0.0, 1.0]]]])}
    assert features.measure(_transfer(pairs=[["m", "m"]]), student, teacher)[0] == pytest.approx(2.0)


def test_what_shows_no_place_is_refused(features: Any) -> None:
    with pytest.raises(AttarError, match="is neither"):
        features.measure(_transfer(pairs=[["m", "m"]]), {"m": torch.zeros(1, 2)}, {"m": torch.zeros(1, 2)})


def _relation(**settings: Any) -> AttentionRelation:
    return AttentionRelation(AttentionRelation.Settings(**settings))


def _vectors(width: int, seed: int, layer: int = -1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    kinds = {f"{kind}:{layer}": torch.randn(3, 4, width) for kind in ("query", "key", "value")}
    return {**kinds, "mask": MASK}


def test_relations_equal_the_slow_version(features: Any) -> None:
    def relation(vectors: Any, head: int, size: int) -> Any:
        width = vectors.shape[-1] // 2
        part = vectors[:size, head * width : (head + 1) * width]
        scores = [[(part[i] * part[j]).sum() / width**0.5 for j in range(size)] for i in range(size)]
        rows = [torch.stack(row).exp() for row in scores]
        return [row / row.sum() for row in rows]

    def slow(student: Any, teacher: Any, weight: torch.Tensor, _: Any) -> Any:
        total: Any = 0.0
        for example, own in enumerate(weight):
            size = SIZES[example]
            for kind in ("query", "key", "value"):
                for head in range(2):
                    q = relation(student[f"{kind}:-1"][example], head, size)
                    p = relation(teacher[f"{kind}:-1"][example], head, size)
                    kl = sum((a * torch.log(a / b)).sum() for a, b in zip(p, q, strict=True))
                    total = total + own * kl / size / 2
        return total / weight.sum()

    features.compare(_relation(heads=2), slow, _vectors(4, 0), _vectors(6, 1), WEIGHT)


def test_a_relation_by_hand(features: Any) -> None:
    # width 1, one head: the student's values (0, 0) relate alike, (1/2, 1/2) twice. The teacher's (1, -1): scores
    # (1, -1) and (-1, 1): p = 1/(1 + e^-2) = 0.880797. KL = p ln 2p + (1 - p) ln 2(1 - p) = 0.327813.
    student, teacher = {"value:0": torch.zeros(1, 2, 1)}, {"value:3": torch.tensor([[[1.0], [-1.0]]])}
    objective = _relation(heads=1, relations=["value"], pairs=[[0, 3]])
    assert objective.student_features == {"value:0"}
    assert objective.teacher_features == {"value:3"}
    assert not objective.divergence
    assert features.measure(objective, student, teacher)[0] == pytest.approx(0.327813, abs=1e-6)


def test_kinds_are_added_and_layers_averaged(features: Any) -> None:
    student = {**_vectors(4, 0, 0), **_vectors(4, 1, 1)}
    teacher = {**_vectors(4, 2, 0), **_vectors(4, 3, 1)}
    single = {
        (kind, layer): features.measure(
            _relation(heads=2, relations=[kind], pairs=[[layer, layer]]), student, teacher, WEIGHT
        )[0]
        for kind in ("query", "value")
        for layer in (0, 1)
    }
    both = _relation(heads=2, relations=["query", "value"], pairs=[[0, 0], [1, 1]])
    assert features.measure(both, student, teacher, WEIGHT)[0] == pytest.approx(sum(single.values()) / 2, rel=1e-5)


def test_an_example_without_tokens_adds_nothing_and_spoils_nothing(features: Any) -> None:
    student, teacher = _vectors(4, 0), _vectors(4, 1)
    student["mask"] = teacher["mask"] = torch.cat([torch.zeros(1, 4, dtype=torch.bool), MASK[1:]])
    loss, gradient = features.measure(_relation(heads=2), student, teacher)
    assert math.isfinite(loss)
    assert all(torch.isfinite(own).all() and not own[0].any() for own in gradient.values())


def test_heads_must_divide_the_width(features: Any) -> None:
    with pytest.raises(AttarError, match="heads of attention_relation must divide the width of 'query:-1', 4, got 3"):
        features.measure(_relation(heads=3), _vectors(4, 0), _vectors(6, 1))
