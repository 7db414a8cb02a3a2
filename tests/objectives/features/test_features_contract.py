"""Run every objective on features through what such an objective promises."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from attar import catalog
from attar.core.nouns import Objective
from attar.core.rows import Rows
from attar.errors import AttarError
from attar.objectives.features import FeatureObjective

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]]).bool()
WIDTHS = {"student": 4, "teacher": 6}
SETTINGS: dict[str, dict[str, Any]] = {
    "attention_relation": {"heads": 2},
    "contrastive": {"width": 3},
    "mgd": {"masked": 0.0},
}
NAMES = ["attention_relation", "attention_transfer", "contrastive", "hidden", "mgd", "rkd", "similarity"]


def _features(width: int, seed: int, count: int = 5) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    mask = MASK[:count]
    real = mask[:, None, None, :]
    scores = torch.randn(count, width // 2, 4, 4).masked_fill(~real, -torch.inf)
    tokens = {f"{kind}:-1": torch.randn(count, 4, width) for kind in ("hidden", "query", "key", "value")}
    images = {"map": torch.randn(count, width, 3, 3), "pooled": torch.randn(count, width)}
    return {"mask": mask, "attention:-1": torch.softmax(scores, dim=-1), **tokens, **images}


def _read(name: str, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return only what an objective reads."""
    wanted = _objective(name).student_features | {"mask"}
    return {key: tensor for key, tensor in features.items() if key in wanted}


def _objective(name: str, **settings: Any) -> Any:
    kind = catalog.entry("objective", name)
    return kind(kind.Settings(**{**SETTINGS.get(name, {}), **settings}))


def _case(name: str, tools: Any, widths: dict[str, int] = WIDTHS) -> tuple[Any, Any, Any]:
    student, teacher = (_read(name, _features(width, place)) for place, width in enumerate(widths.values()))
    return tools.built(_objective(name), student, teacher), student, teacher


def test_every_objective_on_features_is_here() -> None:
    kinds = {name: catalog.entry("objective", name) for name in catalog.TABLES["objective"]}
    assert sorted(name for name, kind in kinds.items() if "features" in kind.needs) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_protocol_and_says_what_it_reads(name: str) -> None:
    objective = _objective(name)
    assert isinstance(objective, Objective)
    assert isinstance(objective, FeatureObjective)
    assert objective.name == name
    assert objective.needs == {"features"}
    assert objective.settles_for == frozenset()
    assert not objective.by_row
    assert objective.whole_batch == (name in {"contrastive", "mgd", "rkd", "similarity"})
    assert objective.student_features
    assert objective.student_features == objective.teacher_features
    assert objective.divergence == (name not in {"contrastive", "mgd"})


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_examples_does_not_matter(name: str, features: Any) -> None:
    objective, student, teacher = _case(name, features)
    weight, order = torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0]), [3, 0, 4, 2, 1]
    loss, gradient = features.measure(objective, student, teacher, weight)
    other, moved = features.measure(
        objective, features.taken(student, order), features.taken(teacher, order), weight[order]
    )
    assert other == pytest.approx(loss, rel=1e-5)
    for key, own in gradient.items():
        there = own[order] if key in student else own
        assert torch.allclose(moved[key], there, rtol=1e-4, atol=1e-6), key


@pytest.mark.parametrize("name", NAMES)
def test_an_example_of_weight_zero_adds_nothing(name: str, features: Any) -> None:
    objective, student, teacher = _case(name, features)
    weight, kept = torch.tensor([1.0, 0.0, 0.5, 0.0, 2.0]), [0, 2, 4]
    loss, gradient = features.measure(objective, student, teacher, weight)
    fewer, alone = features.measure(
        objective, features.taken(student, kept), features.taken(teacher, kept), weight[kept]
    )
    assert loss == pytest.approx(fewer, rel=1e-5)
    for key, own in gradient.items():
        assert torch.allclose(own[kept] if key in student else own, alone[key], rtol=1e-4, atol=1e-6), key
        assert key not in student or not own[[1, 3]].any()


@pytest.mark.parametrize("name", NAMES)
def test_no_weight_at_all_gives_zero(name: str, features: Any) -> None:
    loss, gradient = features.measure(*_case(name, features), torch.zeros(5))
    assert loss == 0.0
    assert not any(own.any() for own in gradient.values())


@pytest.mark.parametrize("name", NAMES)
def test_what_a_mask_hides_adds_nothing(name: str, features: Any) -> None:
    objective, student, teacher = _case(name, features)
    loss, gradient = features.measure(objective, student, teacher)
    torch.manual_seed(9)
    for side in (student, teacher):
        for key, tensor in side.items():
            if tensor.ndim == 3:
                side[key] = torch.where(MASK[:, :, None], tensor, 100 * torch.randn_like(tensor))
            if key == "attention:-1":
                side[key] = torch.where(MASK[:, None, :, None], tensor, torch.randn_like(tensor))
    assert features.measure(objective, student, teacher)[0] == pytest.approx(loss, rel=1e-6)
    for key, own in gradient.items():
        if key in student and own.ndim == 3:
            assert not own[~MASK].any()
        if key == "attention:-1":
            assert not own.transpose(1, 2)[~MASK].any()


@pytest.mark.parametrize("name", NAMES)
def test_the_student_as_its_own_teacher(name: str, features: Any) -> None:
    objective, student, _ = _case(name, features, {"student": 4, "teacher": 4})
    if not objective.divergence:
        pytest.skip("no divergence")
    loss, gradient = features.measure(objective, student, student)
    assert objective.module is None
    assert abs(loss) < 1e-6
    assert max(float(own.abs().max()) for own in gradient.values()) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_learned_parts_get_gradients_and_come_from_the_seed(name: str, features: Any) -> None:
    objective, student, teacher = _case(name, features)
    assert (objective.module is not None) == (name in {"hidden", "contrastive", "mgd"})
    if objective.module is None:
        return
    _, gradient = features.measure(objective, student, teacher)
    parameters = dict(objective.module.named_parameters())
    assert all(gradient[key].any() for key in parameters)
    again = features.built(_objective(name), student, teacher).module.state_dict()
    other = features.built(_objective(name), student, teacher, seed=1).module.state_dict()
    assert all(torch.equal(again[key], own) for key, own in parameters.items())
    assert not all(torch.equal(other[key], own) for key, own in parameters.items())
    assert not objective.divergence
    assert copy.copy(objective).module is objective.module


@pytest.mark.parametrize("name", ["hidden", "contrastive", "mgd"])
def test_a_loss_without_what_it_learns_is_a_fault(name: str, features: Any) -> None:
    _, student, teacher = _case(name, features)
    with pytest.raises(ValueError, match="build"):
        features.measure(_objective(name), student, teacher)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_features_are_compared_in_float32_under_autocast(name: str, features: Any) -> None:
    objective, student, teacher = _case(name, features)
    low = {key: tensor.bfloat16() if tensor.is_floating_point() else tensor for key, tensor in student.items()}
    exact = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in low.items()}
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(features.rows(low), features.rows(teacher), torch.zeros(5)).total
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(features.measure(objective, exact, teacher)[0], rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_teacher_gets_no_gradient_and_parts_none(name: str, features: Any) -> None:
    objective, student, teacher = _case(name, features)
    live = {key: tensor.clone().requires_grad_(tensor.is_floating_point()) for key, tensor in teacher.items()}
    own = {key: tensor.clone().requires_grad_(tensor.is_floating_point()) for key, tensor in student.items()}
    loss = objective(features.rows(own), features.rows(live), torch.zeros(5))
    loss.total.backward()
    assert all(tensor.grad is None for tensor in live.values())
    assert list(loss.parts) == [name]
    assert not loss.parts[name].requires_grad
    assert float(loss.parts[name]) == loss.total.item()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_teacher_or_feature_is_a_fault(name: str, features: Any) -> None:
    objective, student, teacher = _case(name, features)
    with pytest.raises(ValueError, match="needs the teacher's rows"):
        objective(features.rows(student), None, torch.zeros(5))
    bare = {"mask": student["mask"]}
    with pytest.raises(ValueError, match="these rows hold no"):
        objective(features.rows(bare), features.rows(teacher), torch.zeros(5))


@pytest.mark.parametrize("name", ["hidden", "attention_transfer", "attention_relation"])
def test_other_tokens_are_refused_and_longer_padding_is_not(name: str, features: Any) -> None:
    objective, student, teacher = _case(name, features)
    loss, _ = features.measure(objective, student, teacher)
    longer = dict(teacher)
    for key, tensor in teacher.items():
        ends = (0, 2, 0, 2) if key == "attention:-1" else (0, 2) if key == "mask" else (0, 0, 0, 2)
        longer[key] = torch.nn.functional.pad(tensor, ends)
    assert features.measure(objective, student, longer)[0] == pytest.approx(loss, rel=1e-6)
    wrong = {**longer, "mask": longer["mask"].roll(1, dims=1)}
    with pytest.raises(AttarError, match="need one tokenizer"):
        features.measure(objective, student, wrong)


def test_examples_of_many_rows_count_by_the_sum_of_their_rows(features: Any) -> None:
    objective = _objective("hidden")
    student, teacher = ({"hidden:-1": torch.tensor([[[value]], [[0.0]]])} for value in (2.0, 0.0))
    key = torch.tensor([[7, 0], [7, 1], [7, 2], [5, 0]])
    one, other = (
        Rows(key, torch.tensor([1.0, 0.5, 0.0, 0.5]), torch.zeros(4, 2), features=some) for some in (student, teacher)
    )
    assert objective(one, other, torch.zeros(4)).total.item() == pytest.approx(4.0 * 1.5 / 2.0)
    with pytest.raises(ValueError, match="rows are those of 1 examples"):
        objective(Rows(key[:3], torch.ones(3), torch.zeros(3, 2), features=student), other, torch.zeros(3))
