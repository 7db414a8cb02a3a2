"""What a sum of objectives reads and learns is gathered whole, and trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attar import catalog
from attar.core.capture import rows_with_features
from attar.objectives.blocks import evaluate
from attar.objectives.contrastive import Contrastive
from attar.objectives.forward_kl import ForwardKL
from attar.objectives.hidden import HiddenStates
from attar.objectives.learned import build_modules, features_of, modules_of, needs_whole_batch
from attar.objectives.mgd import MaskedGeneration
from attar.objectives.ramp import Ramp, Scheduled, Term
from attar.objectives.weighted import WeightedSum
from attar.tasks.image_classification import ImageClassification
from attar.tasks.text_classification import TextClassification
from attar.teachers.classifier import ClassifierTeacher


def _sum() -> WeightedSum:
    hints = HiddenStates(HiddenStates.Settings(pairs=[["pooled", "pooled"], ["hidden:1", "hidden:5"]]))
    return WeightedSum([(1.0, ForwardKL(ForwardKL.Settings())), (0.5, hints)])


def test_names_of_a_sum_are_those_of_its_terms() -> None:
    assert features_of(_sum()) == ({"pooled", "hidden:1"}, {"pooled", "hidden:5"})
    assert features_of(WeightedSum([(1.0, _sum())])) == features_of(_sum())
    assert features_of(ForwardKL(ForwardKL.Settings())) == (frozenset(), frozenset())
    assert _sum().needs == {"logits", "features"}


def test_a_sum_needs_the_whole_batch_if_a_term_does() -> None:
    assert not needs_whole_batch(_sum())
    maps = MaskedGeneration(MaskedGeneration.Settings())
    assert needs_whole_batch(WeightedSum([(1.0, _sum()), (1.0, maps)]))


def test_parts_are_gathered_in_order_and_shared_with_ramped_terms(features: Any) -> None:
    student = {"pooled": torch.randn(2, 3), "hidden:-1": torch.randn(2, 1, 3)}
    teacher = {"pooled": torch.randn(2, 4), "hidden:-1": torch.randn(2, 1, 4)}
    hints, apart = HiddenStates(HiddenStates.Settings()), Contrastive(Contrastive.Settings(width=2))
    objective = Scheduled([Term(1.0, hints), Term(1.0, apart, Ramp(start=1, end=0.1))])
    assert len(modules_of(objective)) == 0
    made = build_modules(objective, features.rows(student), features.rows(teacher))
    assert list(made) == [hints.module, apart.module]
    assert list(modules_of(objective.at(0.5))) == list(made)
    assert list(modules_of(WeightedSum([(1.0, ForwardKL(ForwardKL.Settings()))]))) == []


def test_student_and_projector_learn_together_to_give_the_teachers_features(net: Any, images: Any) -> None:
    task, examples = ImageClassification(), images(16)
    model, other = net(net="cnn", widths=(4, 6)), net(seed=1, net="cnn", widths=(6, 10))
    objective = WeightedSum(
        [
            (1.0, ForwardKL(ForwardKL.Settings())),
            (1.0, HiddenStates(HiddenStates.Settings(pairs=[["pooled", "pooled"]]))),
            (1.0, MaskedGeneration(MaskedGeneration.Settings(pairs=[["map", "map"]]))),
        ]
    )
    ours, theirs = features_of(objective)
    said = ClassifierTeacher(other, task, "print", features=theirs).answer(examples)
    batch = task.collate(model, examples)
    torch.manual_seed(0)
    made = build_modules(objective, rows_with_features(task, model, batch, ours), said)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    optimizer = torch.optim.Adam([*model.module.parameters(), *made.parameters()], lr=0.02)
    losses = []
    for step in range(25):
        torch.manual_seed(step)
        rows = rows_with_features(task, model, batch, ours)
        loss = evaluate(objective, rows, said, batch.targets)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.parts)
    for name in ("hidden", "mgd"):
        assert float(losses[-1][name]) < 0.7 * float(losses[0][name])
    assert all(not torch.equal(made.state_dict()[name], tensor) for name, tensor in before.items())
    assert not any("hidden" in name or "generat" in name for name in model.module.state_dict())


def _text_loss(model: Any, objective: Any, said: Any, batch: Any) -> tuple[float, float]:
    """Return the loss of a model, and the size of its gradient."""
    ours, _ = features_of(objective)
    rows = rows_with_features(TextClassification(), model, batch, ours)
    torch.manual_seed(0)
    build_modules(objective, rows, said)
    loss = objective(rows, said, batch.targets).total
    model.module.zero_grad()
    loss.backward()
    norms = [p.grad.norm() for p in model.module.parameters() if p.grad is not None]
    return loss.item(), float(torch.stack(norms).norm())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hidden", {}),
        ("hidden", {"layers": "uniform", "compare": "cosine"}),
        ("attention_transfer", {"layers": "uniform"}),
        ("attention_transfer", {"compare": "kl"}),
        ("attention_relation", {"heads": 4}),
        ("rkd", {}),
        ("similarity", {}),
        ("contrastive", {"width": 8}),
    ],
)
def test_texts_end_to_end(name: str, settings: dict[str, Any], text_student: Any, bert_folder: Any, texts: Any) -> None:
    from attar.students import folder
    from attar.students.settings import ModelSettings

    kind, task = catalog.entry("objective", name), TextClassification()
    torch.manual_seed(7)
    settings_of_student = ModelSettings(model=str(bert_folder), max_length=32, layers=1)
    student = folder.make(settings_of_student, bert_folder, ["fine", "bad"], ())
    student.module.eval()
    with torch.no_grad():
        for parameter in (*student.module.parameters(), *text_student.module.parameters()):
            parameter.mul_(4)  # new models attend to all tokens alike
    batch = task.collate(student, texts)
    _, theirs = features_of(kind(kind.Settings(**settings)))
    said = ClassifierTeacher(text_student, task, "print", features=theirs).answer(texts)
    loss, gradient = _text_loss(student, kind(kind.Settings(**settings)), said, batch)
    assert loss > 1e-5
    assert gradient > 1e-6
    same = kind(kind.Settings(**settings))
    if same.divergence:
        loss, gradient = _text_loss(text_student, same, said, batch)
        assert abs(loss) < 1e-6
        assert gradient < 1e-4
