"""Hidden states: values and gradients against loops in float64, numbers by hand, projectors, maps, layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attar.errors import AttarError
from attar.objectives.hidden import HiddenStates

WEIGHT = torch.tensor([1.0, 0.25, 2.0])
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()


def _objective(**settings: Any) -> HiddenStates:
    return HiddenStates(HiddenStates.Settings(**settings))


def _texts(width: int, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {"hidden:-1": torch.randn(3, 3, width), "mask": MASK}


def _slow(compare: str) -> Any:
    def loss(student: Any, teacher: Any, weight: torch.Tensor, learned: Any) -> Any:
        summed: Any = 0.0
        for example, own in enumerate(weight):
            apart: Any = 0.0
            for place in range(int(MASK[example].sum())):
                s, t = student["hidden:-1"][example, place], teacher["hidden:-1"][example, place]
                if learned:
                    s = torch.stack([(row * s).sum() for row in learned["0.weight"]]) + learned["0.bias"]
                if compare == "mse":
                    apart = apart + sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(t)
                else:
                    apart = apart + 1 - (s * t).sum() / ((s * s).sum().sqrt() * (t * t).sum().sqrt())
            summed = summed + own * apart / int(MASK[example].sum())
        return summed / weight.sum()

    return loss


@pytest.mark.parametrize("compare", ["mse", "cosine"])
@pytest.mark.parametrize("width", [4, 5])
def test_value_and_gradients_equal_the_slow_version(compare: str, width: int, features: Any) -> None:
    student, teacher = _texts(4, 0), _texts(width, 1)
    objective = features.built(_objective(compare=compare), student, teacher)
    assert (objective.module is None) == (width == 4)
    features.compare(objective, _slow(compare), student, teacher, WEIGHT)


def test_a_number_by_hand(features: Any) -> None:
    # example 0: tokens (1, 3) and (0, 0) against zeros: (1 + 9)/2 = 5 and 0, mean 2.5; the third token is padding.
    # example 1: one token (2, 0): 4/2 = 2. Weights 1 and 3: (2.5 + 3·2)/4 = 2.125.
    student = {"hidden:-1": torch.tensor([[[1.0, 3.0], [0.0, 0.0], [9.0, 9.0]], [[2.0, 0.0], [9.0, 9.0], [9.0, 9.0]]])}
    student["mask"] = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    teacher = {**student, "hidden:-1": torch.zeros(2, 3, 2)}
    loss, gradient = features.measure(_objective(), student, teacher, torch.tensor([1.0, 3.0]))
    assert loss == pytest.approx(2.125)
    # d/ds of s²/2 is s; over 2 tokens, times 1/4: (1, 3)/8
    assert gradient["hidden:-1"][0].tolist() == [[0.125, 0.375], [0.0, 0.0], [0.0, 0.0]]


def test_cosine_by_hand(features: Any) -> None:
    student, teacher = {"x": torch.tensor([[3.0, 4.0]])}, {"y": torch.tensor([[1.0, 0.0]])}
    loss, _ = features.measure(_objective(compare="cosine", pairs=[["x", "y"]]), student, teacher)
    assert loss == pytest.approx(0.4)


def test_cutting_the_batch_changes_nothing(features: Any) -> None:
    student, teacher = _texts(4, 0), _texts(4, 1)
    whole, gradient = features.measure(_objective(), student, teacher, WEIGHT)
    summed, parts = 0.0, []
    for places in ([0, 1], [2]):
        one = features.taken(student, places), features.taken(teacher, places), WEIGHT[places]
        loss, own = features.measure(_objective(), *one)
        share = WEIGHT[places].sum() / WEIGHT.sum()
        summed += loss * float(share)
        parts.append(own["hidden:-1"] * share)
    assert summed == pytest.approx(whole, rel=1e-6)
    assert torch.allclose(torch.cat(parts), gradient["hidden:-1"], atol=1e-7)


def test_maps_are_hints_through_a_convolution_and_the_larger_is_averaged(features: Any) -> None:
    torch.manual_seed(0)
    student, teacher = {"a": torch.randn(2, 3, 4, 4)}, {"b": torch.randn(2, 5, 2, 2)}
    objective = features.built(_objective(pairs=[["a", "b"]]), student, teacher)

    def slow(ours: Any, theirs: Any, weight: torch.Tensor, learned: Any) -> Any:
        pooled = torch.stack(
            [ours["a"][:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(dim=(2, 3)) for i in range(2) for j in range(2)]
        ).reshape(2, 2, 2, 3)
        total: Any = 0.0
        for example, own in enumerate(weight):
            for i in range(2):
                for j in range(2):
                    said = learned["0.weight"] @ pooled[i, j, example] + learned["0.bias"]
                    total = total + own * ((said - theirs["b"][example, :, i, j]) ** 2).mean() / 4
        return total / weight.sum()

    features.compare(objective, slow, student, teacher, torch.tensor([1.0, 3.0]))


def test_the_last_layers_meet_by_default() -> None:
    assert _objective().student_features == _objective().teacher_features == {"hidden:-1"}


@pytest.mark.parametrize(
    ("few", "many", "meets"),
    [(4, 12, [2, 5, 8, 11]), (5, 12, [2, 4, 7, 9, 11]), (3, 3, [0, 1, 2]), (4, 2, [0, 0, 1, 1]), (1, 6, [5])],
)
def test_uniform_layers_are_spread_and_the_last_meet(few: int, many: int, meets: list[int], features: Any) -> None:
    student, teacher = ({f"hidden:{i}": torch.zeros(1, 1, 2) for i in range(count)} for count in (few, many))
    objective = _objective(layers="uniform")
    assert objective.student_features == {"hidden:*"}
    pairs = objective.pairs(features.rows(student), features.rows(teacher))
    assert pairs == [(f"hidden:{i}", f"hidden:{j}") for i, j in enumerate(meets)]


def test_uniform_is_the_mean_over_its_pairs(features: Any) -> None:
    student = {"hidden:0": torch.ones(1, 1, 2), "hidden:1": 3 * torch.ones(1, 1, 2)}
    teacher = {f"hidden:{i}": torch.zeros(1, 1, 2) for i in range(4)}
    assert features.measure(_objective(layers="uniform"), student, teacher)[0] == pytest.approx((1 + 9) / 2)


def test_pairs_take_the_place_of_layers() -> None:
    objective = _objective(pairs=[["hidden:1", "hidden:5"], ["embed", "hidden:0"]])
    assert objective.student_features == {"hidden:1", "embed"}
    assert objective.teacher_features == {"hidden:5", "hidden:0"}
    assert not objective.divergence


def test_only_pairs_of_different_width_have_a_projector(features: Any) -> None:
    student = {"a": torch.randn(2, 3), "b": torch.randn(2, 4)}
    teacher = {"a": torch.randn(2, 3), "b": torch.randn(2, 6)}
    objective = features.built(_objective(pairs=[["a", "a"], ["b", "b"]]), student, teacher)
    assert {name: tuple(p.shape) for name, p in objective.module.named_parameters()} == {
        "1.weight": (6, 4),
        "1.bias": (6,),
    }


def test_features_of_different_forms_are_refused(features: Any) -> None:
    objective = _objective(pairs=[["a", "b"]])
    with pytest.raises(AttarError, match="features of one form are compared"):
        features.measure(objective, {"a": torch.zeros(1, 2, 3)}, {"b": torch.zeros(1, 3)})


def test_a_projector_is_made_in_the_type_of_the_features(features: Any) -> None:
    student, teacher = {"pooled": torch.randn(2, 3).double()}, {"pooled": torch.randn(2, 4)}
    objective = features.built(_objective(pairs=[["pooled", "pooled"]]), student, teacher)
    assert {p.dtype for p in objective.module.parameters()} == {torch.float64}
    features.measure(objective, student, teacher)


def test_attention_probabilities_are_no_hidden_states(features: Any) -> None:
    said = {"attention:0": torch.full((1, 2, 3, 3), 1 / 3)}
    with pytest.raises(AttarError, match="which attention_transfer compares"):
        features.measure(_objective(pairs=[["attention:0", "attention:0"]]), said, said)


def test_uniform_without_layers_is_a_fault(features: Any) -> None:
    last = {"hidden:-1": torch.zeros(1, 1, 2)}
    with pytest.raises(ValueError, match="these rows hold no 'hidden:"):
        features.measure(_objective(layers="uniform"), last, last)
