"""The page on objectives turns other libraries' settings into attar's: each example is computed both ways here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from attar import catalog
from attar.core.rows import example_rows
from attar.objectives.weighted import WeightedSum

PAGE = Path(__file__).resolve().parents[2] / "docs" / "why" / "objectives.md"
Term = tuple[float, str, dict[str, Any]]
# the row of the page: student (0, 0), teacher (2 ln 3, 0), label 0; p is (9/10, 1/10) at T = 1, (3/4, 1/4) at T = 2
STUDENT, TEACHER = [0.0, 0.0], [2 * math.log(3), 0.0]
HARD = math.log(2)


def _p(temperature: float) -> list[float]:
    powers = [math.exp(score / temperature) for score in TEACHER]
    return [power / sum(powers) for power in powers]


Q = [0.5, 0.5]


def _kl(a: list[float], b: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))


def _jsd(temperature: float, beta: float) -> float:
    p = _p(temperature)
    m = [beta * x + (1 - beta) * y for x, y in zip(p, Q, strict=True)]
    return beta * _kl(p, m) + (1 - beta) * _kl(Q, m)


def _skewed(alpha: float) -> float:
    return _kl(_p(1), [alpha * x + (1 - alpha) * y for x, y in zip(_p(1), Q, strict=True)])


def _attar(terms: list[Term]) -> float:
    made = []
    for weight, name, settings in terms:
        kind = catalog.entry("objective", name)
        made.append((weight, kind(kind.Settings(**settings))))
    student, teacher = (example_rows(torch.arange(1), torch.tensor([part])) for part in (STUDENT, TEACHER))
    return WeightedSum(made)(student, teacher, torch.tensor([0])).total.item()


CASES: dict[str, tuple[float, list[Term]]] = {
    "TRL GKD, beta 0.5, any temperature": (_jsd(1, 0.5), [(1.0, "jensen_shannon", {"temperature": 1, "beta": 0.5})]),
    "TRL GKD, beta 0, any temperature": (_kl(_p(1), Q), [(1.0, "forward_kl", {"temperature": 1})]),
    "TRL DistillationTrainer, beta 1, temperature 2": (_kl(Q, _p(2)), [(0.25, "reverse_kl", {"temperature": 2})]),
    "TRL DistillationTrainer, beta 0.5, temperature 2": (
        _jsd(2, 0.5),
        [(0.25, "jensen_shannon", {"temperature": 2, "beta": 0.5})],
    ),
    "DistillKit, kl weight 0.5 at temperature 2, cross_entropy weight 0.25": (
        (0.5 * 4 * _kl(_p(2), Q) + 0.25 * HARD) / (0.5 + 0.25),
        [(2 / 3, "forward_kl", {"temperature": 2}), (1 / 3, "cross_entropy", {})],
    ),
    "TextBrewer, kd_loss mse, temperature 2": (
        sum((s / 2 - t / 2) ** 2 for s, t in zip(STUDENT, TEACHER, strict=True)) / 2,
        [(0.25, "logit_mse", {"center": False})],
    ),
    "torchdistill KDLoss, alpha 0.1, temperature 2": (
        0.1 * HARD + 0.9 * 4 * _kl(_p(2), Q),
        [(0.1, "cross_entropy", {}), (0.9, "forward_kl", {"temperature": 2})],
    ),
    "torchdistill KDLoss, alpha None, temperature 2": (_kl(_p(2), Q), [(0.25, "forward_kl", {"temperature": 2})]),
    "mdistiller KD, 0.1 and 0.9, T 4": (
        0.1 * HARD + 0.9 * 16 * _kl(_p(4), Q),
        [(0.1, "cross_entropy", {}), (0.9, "forward_kl", {"temperature": 4})],
    ),
    "mdistiller DKD, CE 1, alpha 1, beta 8, T 4": (
        HARD + 16 * _kl(_p(4), Q),
        [(1.0, "cross_entropy", {}), (1.0, "dkd", {"temperature": 4, "alpha": 1, "beta": 8})],
    ),
    "recipe alpha · KL · T² + (1 - alpha) · CE, alpha 0.7, T 2": (
        0.7 * 4 * _kl(_p(2), Q) + 0.3 * HARD,
        [(0.7, "forward_kl", {"temperature": 2}), (0.3, "cross_entropy", {})],
    ),
    "DistiLLM, kd_ratio 0.5, js_distance lam 0.9": (
        0.5 * HARD + 0.5 * _jsd(1, 0.1),
        [(0.5, "cross_entropy", {}), (0.5, "jensen_shannon", {"temperature": 1, "beta": 0.1})],
    ),
    "DistiLLM, kd_ratio 1, srkl": (
        _kl(Q, [0.9 * x + 0.1 * y for x, y in zip(_p(1), Q, strict=True)]),
        [(1.0, "skewed_reverse_kl", {"temperature": 1, "alpha": 0.1})],
    ),
    "Liger JSD, weight_hard_loss 0.5, weight_soft_loss 0.5, beta 0.5, temperature 2": (
        0.5 * HARD + 0.5 * _jsd(2, 0.5),
        [(0.5, "cross_entropy", {}), (0.125, "jensen_shannon", {"temperature": 2, "beta": 0.5})],
    ),
}

# these leave out what does not depend on the student: the teacher's entropy
ENTROPY: dict[str, tuple[float, float, list[Term]]] = {
    "TextBrewer, kd_loss ce, temperature 2, hard_label_weight 0.5": (
        HARD + 0.5 * HARD,  # -Σ p ln q is ln 2 for q = (1/2, 1/2)
        HARD - _kl(_p(2), Q),
        [(0.25, "forward_kl", {"temperature": 2}), (0.5, "cross_entropy", {})],
    ),
    "MiniLLM baseline, kd_ratio 0.5": (
        0.5 * HARD + 0.5 * HARD,
        0.5 * (HARD - _kl(_p(1), Q)),
        [(0.5, "cross_entropy", {}), (0.5, "forward_kl", {"temperature": 1})],
    ),
    "DistiLLM, kd_ratio 1, sfkl": (
        -sum(x * math.log(0.1 * x + 0.9 * y) for x, y in zip(_p(1), Q, strict=True)),
        -sum(x * math.log(x) for x in _p(1)),
        [(1.0, "skewed_forward_kl", {"temperature": 1, "alpha": 0.1})],
    ),
}


def _row(name: str) -> str:
    """Return the page's line for an example."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {name} |")]
    assert len(lines) == 1, name
    return lines[0]


def _written(terms: list[Term]) -> list[str]:
    return [f"`{name}`" for _, name, _ in terms] + [f"{round(weight, 4):g}" for weight, _, _ in terms]


@pytest.mark.parametrize("name", CASES)
def test_the_weights_of_the_page_give_the_loss_of_the_other(name: str) -> None:
    theirs, terms = CASES[name]
    assert _attar(terms) == pytest.approx(theirs, rel=1e-5)
    line = _row(name)
    assert f"{theirs:.4f}" in line
    assert [part for part in _written(terms) if part not in line] == []


@pytest.mark.parametrize("name", ENTROPY)
def test_the_weights_of_the_page_give_the_loss_up_to_the_teachers_entropy(name: str) -> None:
    theirs, entropy, terms = ENTROPY[name]
    assert _attar(terms) == pytest.approx(theirs - entropy, rel=1e-5)
    line = _row(name)
    assert f"{theirs:.4f}" in line
    assert f"{entropy:.4f}" in line
    assert [part for part in _written(terms) if part not in line] == []


def test_the_page_has_a_row_for_every_objective_of_scores() -> None:
    page = PAGE.read_text(encoding="utf-8")
    named = catalog.TABLES["objective"]
    missing = [name for name in named if f"| `{name}` |" not in page]
    assert [name for name in missing if "features" not in catalog.entry("objective", name).needs] == []
