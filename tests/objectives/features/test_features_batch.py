"""Objectives on how a batch lies: values and gradients against loops in float64, and numbers by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from attar.objectives.contrastive import Contrastive
from attar.objectives.rkd import RelationalKD
from attar.objectives.similarity import Similarity

WEIGHT = torch.tensor([1.0, 0.5, 2.0, 0.25])


def _pooled(width: int, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {"pooled": torch.randn(4, width)}


def _rkd(**settings: Any) -> RelationalKD:
    return RelationalKD(RelationalKD.Settings(**settings))


def _huber(apart: Any) -> Any:
    return 0.5 * apart**2 if apart.abs() <= 1 else apart.abs() - 0.5


def _distances(points: Any, weight: Any) -> Any:
    count = len(points)
    pairs = {(i, j): weight[i] * weight[j] for i in range(count) for j in range(count) if i != j}
    apart = {(i, j): ((points[i] - points[j]) ** 2).sum().sqrt() for i, j in pairs}
    mean = sum(pairs[pair] * apart[pair] for pair in pairs) / sum(pairs.values())
    return pairs, {pair: apart[pair] / mean for pair in pairs}


def _cosine(points: Any, i: int, j: int, k: int) -> Any:
    one, other = points[i] - points[j], points[k] - points[j]
    return (one * other).sum() / ((one**2).sum().sqrt() * (other**2).sum().sqrt())


def _slow_rkd(distance: float, angle: float) -> Any:
    def loss(student: Any, teacher: Any, weight: Any, _: Any) -> Any:
        ours, theirs = student["pooled"], teacher["pooled"]
        pairs, first = _distances(ours, weight)
        _, second = _distances(theirs, weight)
        total = distance * sum(own * _huber(first[pair] - second[pair]) for pair, own in pairs.items())
        total = total / sum(pairs.values())
        count = len(ours)
        places = [(i, j, k) for i in range(count) for j in range(count) for k in range(count) if len({i, j, k}) == 3]
        triplets = {(i, j, k): weight[i] * weight[j] * weight[k] for i, j, k in places}
        apart = {place: _huber(_cosine(ours, *place) - _cosine(theirs, *place)) for place in triplets}
        summed = sum(own * apart[place] for place, own in triplets.items())
        return total + angle * summed / sum(triplets.values())

    return loss


@pytest.mark.parametrize(("distance", "angle"), [(1.0, 2.0), (3.0, 0.0), (0.0, 1.0)])
def test_rkd_equals_the_slow_version(distance: float, angle: float, features: Any) -> None:
    objective = _rkd(distance=distance, angle=angle)
    features.compare(objective, _slow_rkd(distance, angle), _pooled(3, 0), _pooled(5, 1), WEIGHT)


def test_rkd_keeps_its_digits_far_from_the_origin(features: Any) -> None:
    student = {"pooled": _pooled(3, 0)["pooled"] + 1000}
    features.compare(_rkd(), _slow_rkd(1.0, 2.0), student, _pooled(5, 1), WEIGHT)


def test_rkd_distances_by_hand(features: Any) -> None:
    # on a line: the student's points 0, 1, 3 have distances 1, 2, 3, mean 2: ratios 1/2, 1, 3/2.
    # The teacher's 0, 1, 2 have 1, 1, 2, mean 4/3: 3/4, 3/4, 3/2. Half squares (1/16 + 1/16 + 0)/2, over 3: 1/48.
    student, teacher = ({"pooled": torch.tensor(points)[:, None]} for points in ([0.0, 1.0, 3.0], [0.0, 1.0, 2.0]))
    assert features.measure(_rkd(angle=0), student, teacher)[0] == pytest.approx(1 / 48)
    # on a line all angles are alike, however long: at the middle -1, at both ends 1
    assert features.measure(_rkd(distance=0), student, teacher)[0] == pytest.approx(0.0, abs=1e-12)


def test_rkd_angles_by_hand(features: Any) -> None:
    # a right angle at the second point, cosine 0; the others' 1/√2. The teacher's points lie on a line: -1, 1, 1.
    # each ordered triplet stands twice: mean of 1/2 · (0 + 1)² and twice 1/2 · (1/√2 - 1)²
    student = {"pooled": torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])}
    teacher = {"pooled": torch.tensor([[1.0], [2.0], [3.0]])}
    wanted = (0.5 + 2 * 0.5 * (1 / math.sqrt(2) - 1) ** 2) / 3
    assert features.measure(_rkd(distance=0, angle=1), student, teacher)[0] == pytest.approx(wanted, rel=1e-6)


def test_rkd_knows_no_scale_and_no_turn(features: Any) -> None:
    teacher = _pooled(3, 0)["pooled"]
    turn, _ = torch.linalg.qr(torch.randn(3, 3))
    loss, _ = features.measure(_rkd(), {"pooled": 7 * teacher @ turn + 3}, {"pooled": teacher})
    assert loss == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("count", [1, 2])
def test_rkd_of_too_few_examples_is_zero(count: int, features: Any) -> None:
    student, teacher = ({"pooled": _pooled(3, seed)["pooled"][:count]} for seed in (0, 1))
    loss, gradient = features.measure(_rkd(), student, teacher)
    assert loss == pytest.approx(0.0, abs=1e-12)
    assert torch.allclose(gradient["pooled"], torch.zeros(count, 3), atol=1e-7)


def test_rkd_of_equal_points_stays_finite(features: Any) -> None:
    loss, gradient = features.measure(_rkd(), {"pooled": torch.ones(4, 3)}, _pooled(3, 1))
    assert loss > 0
    assert torch.isfinite(gradient["pooled"]).all()


def test_rkd_without_either_part_is_refused() -> None:
    with pytest.raises(ValidationError, match="distance or angle must be > 0"):
        _rkd(distance=0, angle=0)


def _similarity(**settings: Any) -> Similarity:
    return Similarity(Similarity.Settings(**settings))


def _slow_similarity(student: Any, teacher: Any, weight: Any, _: Any) -> Any:
    def rows(points: Any) -> Any:
        gram = [torch.stack([(one.flatten() * other.flatten()).sum() for other in points]) for one in points]
        return [row / (row**2).sum().sqrt() for row in gram]

    first, second = (rows(next(iter(side.values()))) for side in (student, teacher))
    total = sum(
        weight[i] * weight[j] * (first[i][j] - second[i][j]) ** 2
        for i in range(len(weight))
        for j in range(len(weight))
    )
    return total / weight.sum() ** 2


def test_similarity_equals_the_slow_version(features: Any) -> None:
    features.compare(_similarity(), _slow_similarity, _pooled(3, 0), _pooled(5, 1), WEIGHT)


def test_similarity_of_maps_looks_at_every_pixel(features: Any) -> None:
    torch.manual_seed(0)
    student, teacher = {"a": torch.randn(4, 2, 3, 3)}, {"b": torch.randn(4, 3, 2, 2)}
    features.compare(_similarity(pairs=[["a", "b"]]), _slow_similarity, student, teacher, WEIGHT)


def test_similarity_by_hand(features: Any) -> None:
    # the student's examples are at right angles: G is the unit matrix; the teacher's are equal: rows (1, 1)/√2.
    # squares: 2 · (1 - 1/√2)² + 2 · 1/2, over 4
    student, teacher = {"pooled": torch.eye(2)}, {"pooled": torch.ones(2, 3)}
    wanted = (2 * (1 - 1 / math.sqrt(2)) ** 2 + 1) / 4
    assert features.measure(_similarity(), student, teacher)[0] == pytest.approx(wanted, rel=1e-6)


def _contrastive(**settings: Any) -> Contrastive:
    return Contrastive(Contrastive.Settings(**settings))


def test_contrastive_equals_the_slow_version(features: Any) -> None:
    student, teacher = _pooled(3, 0), _pooled(5, 1)
    objective = features.built(_contrastive(width=4, temperature=0.5), student, teacher)

    def slow(ours: Any, theirs: Any, weight: Any, learned: Any) -> Any:
        first = [_unit(learned["0.0.weight"] @ x + learned["0.0.bias"]) for x in ours["pooled"]]
        second = [_unit(learned["0.1.weight"] @ x + learned["0.1.bias"]) for x in theirs["pooled"]]
        total: Any = 0.0
        for i, own in enumerate(weight):
            right = torch.exp((first[i] * second[i]).sum() / 0.5)
            row = sum(torch.exp((first[i] * other).sum() / 0.5) for other in second)
            column = sum(torch.exp((other * second[i]).sum() / 0.5) for other in first)
            total = total - own * (torch.log(right / row) + torch.log(right / column)) / 2
        return total / weight.sum()

    features.compare(objective, slow, student, teacher, WEIGHT)


def _unit(vector: Any) -> Any:
    return vector / (vector**2).sum().sqrt()


def test_contrastive_by_hand(features: Any) -> None:
    # projections set to the identity, embeddings at right angles, temperature 1: each row's scores are (1, 0),
    # the loss ln(1 + e^-1) = 0.313262
    student = {"pooled": 2 * torch.eye(2)}
    objective = features.built(_contrastive(width=2, temperature=1), student, student)
    for projection in objective.module[0]:
        torch.nn.init.eye_(projection.weight)
        torch.nn.init.zeros_(projection.bias)
    assert features.measure(objective, student, student)[0] == pytest.approx(0.313262, abs=1e-6)


def test_contrastive_of_one_example_has_nothing_to_tell_apart(features: Any) -> None:
    student = {"pooled": torch.randn(1, 3)}
    objective = features.built(_contrastive(width=2), student, student)
    loss, gradient = features.measure(objective, student, student)
    assert loss == 0.0
    assert not any(own.any() for own in gradient.values())


def test_texts_are_embedded_by_the_mean_of_their_tokens(features: Any) -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]]).bool()
    states = torch.randn(4, 3, 5)
    means = torch.stack([states[i, : int(mask[i].sum())].mean(dim=0) for i in range(4)])
    for objective in (_rkd, _similarity):
        texts = features.measure(objective(pairs=[["h", "pooled"]]), {"h": states, "mask": mask}, _pooled(5, 1), WEIGHT)
        plain = features.measure(objective(), {"pooled": means}, _pooled(5, 1), WEIGHT)
        assert texts[0] == pytest.approx(plain[0], rel=1e-5)
