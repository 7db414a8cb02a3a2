"""An ensemble answers with its members' combined probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.examples import Examples
from attar.core.rows import Head, Rows, example_rows
from attar.errors import AttarError
from attar.teachers.ensemble import EnsembleTeacher

EXAMPLES = Examples(np.array([4, 9, 6]), ["a", "b", "c"], np.zeros(3, int))


class Says:
    """Answer with fixed logits by key."""

    gives = frozenset({"logits", "hard"})

    def __init__(self, table: dict[int, list[float]], name: str = "says") -> None:
        self.table, self.fingerprint = table, name

    def answer(self, examples: Examples) -> Rows:
        logits = torch.tensor([self.table[int(k)] for k in examples.keys])
        return example_rows(torch.from_numpy(examples.keys), logits.reshape(len(examples), len(self.table[4])))


ONE = Says({4: [2.0, 0.0, 1.0], 9: [0.0, 0.0, 0.0], 6: [5.0, -5.0, 0.0]}, "one")
TWO = Says({4: [0.0, 3.0, 0.0], 9: [1.0, -math.inf, 0.0], 6: [0.0, 0.0, 1.0]}, "two")


def _softmax(row: list[float]) -> list[float]:
    shares = [math.exp(value) for value in row]
    return [share / sum(shares) for share in shares]


def _entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def _plain(how: str, weights: list[float] | None = None) -> list[list[float]]:
    """Return the combined probabilities, computed slowly in float64."""
    found = []
    for key in EXAMPLES.keys.tolist():
        p = [_softmax(member.table[key]) for member in (ONE, TWO)]
        if how == "chosen":
            found.append(p[key % 2])
            continue
        own = weights or [1.0, 1.0]
        if how == "per_row":
            own = [math.exp(-_entropy(one)) for one in p]
        share = [value / sum(own) for value in own]
        found.append([share[0] * a + share[1] * b for a, b in zip(*p, strict=True)])
    return found


@pytest.mark.parametrize(
    ("how", "weights"), [("mean", None), ("weighted", [0.9, 0.3]), ("per_row", None), ("chosen", None)]
)
def test_the_combined_distribution_is_that_of_a_plain_computation(how: Any, weights: Any) -> None:
    rows = EnsembleTeacher([ONE, TWO], how, weights).answer(EXAMPLES)
    assert torch.allclose(rows.dense().exp().double(), torch.tensor(_plain(how, weights)).double(), atol=1e-6)
    assert rows.dense().exp().sum(dim=1).tolist() == pytest.approx([1, 1, 1], rel=1e-5)
    assert rows.key.tolist() == [[4, 0], [9, 0], [6, 0]]


def test_the_mean_is_of_probabilities_and_not_of_logits() -> None:
    sure = [Says({4: [9.0, 0.0], 9: [0.0, 0.0], 6: [0.0, 0.0]}), Says({4: [0.0, 0.0], 9: [0.0, 0.0], 6: [0.0, 0.0]})]
    said = EnsembleTeacher(sure).answer(EXAMPLES).dense().exp()
    assert float(said[0, 0]) == pytest.approx((1 / (1 + math.exp(-9)) + 0.5) / 2, rel=1e-5)


def test_a_class_that_both_rule_out_stays_ruled_out() -> None:
    none = Says({key: [0.0, -math.inf] for key in (4, 9, 6)})
    for how in ("mean", "per_row"):
        said = EnsembleTeacher([none, none], how).answer(EXAMPLES).dense()  # type: ignore[arg-type]
        assert said[:, 1].isneginf().all()
        assert said[:, 0].tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_who_is_sure_counts_more_in_its_row() -> None:
    rows = EnsembleTeacher([ONE, TWO], "per_row").answer(EXAMPLES).dense().exp()
    plain = EnsembleTeacher([ONE, TWO], "mean").answer(EXAMPLES).dense().exp()
    assert rows[2, 0] > plain[2, 0]


def test_a_member_of_weight_0_says_nothing() -> None:
    rows = EnsembleTeacher([ONE, TWO], "weighted", [2.0, 0.0]).answer(EXAMPLES)
    assert torch.allclose(rows.dense(), torch.log_softmax(ONE.answer(EXAMPLES).dense(), dim=1), atol=1e-6)


def test_one_member_answers_as_it_would_alone() -> None:
    rows = EnsembleTeacher([ONE]).answer(EXAMPLES)
    assert torch.allclose(rows.dense(), torch.log_softmax(ONE.answer(EXAMPLES).dense(), dim=1), atol=1e-6)


@pytest.mark.parametrize("how", ["mean", "per_row", "chosen"])
def test_a_row_is_answered_alike_in_any_batch(how: Any) -> None:
    teacher = EnsembleTeacher([ONE, TWO], how)
    alone = teacher.answer(EXAMPLES.take(np.array([1]))).dense()
    assert torch.equal(alone[0], teacher.answer(EXAMPLES).dense()[1])
    assert teacher.answer(EXAMPLES.take(np.array([], int))).dense().shape[0] == 0


def test_chosen_members_speak_for_their_share() -> None:
    keys = np.random.Generator(np.random.PCG64(0)).integers(-(2**62), 2**62, 2000)
    many = Examples(keys, [""] * 2000, np.zeros(2000, int))
    members = [Says({int(k): [float(place == one) * 50 for place in range(3)] for k in (*keys, 4)}) for one in range(3)]
    said = EnsembleTeacher(members, "chosen").answer(many).dense().exp().mean(dim=0)
    assert said.tolist() == pytest.approx([1 / 3] * 3, abs=0.05)


def test_tokens_of_a_vocabulary_are_refused_with_what_to_do() -> None:
    class Writes(Says):
        def answer(self, examples: Examples) -> Rows:
            keys = torch.from_numpy(examples.keys)
            key = torch.stack([keys, torch.zeros_like(keys)], dim=1)
            return Rows(key, torch.ones(3), hidden=torch.zeros(3, 2), head=Head(torch.zeros(5, 2)))

    with pytest.raises(AttarError, match=r"teacher\.members: 1"):
        EnsembleTeacher([Writes({}), Writes({})]).answer(EXAMPLES)


def test_members_of_other_rows_are_a_fault() -> None:
    other = Says({key: [0.0, 0.0] for key in (4, 9, 6)})
    with pytest.raises(ValueError, match="other rows"):
        EnsembleTeacher([ONE, other]).answer(EXAMPLES)


@pytest.mark.parametrize(
    ("members", "how", "weights"),
    [
        ([], "mean", None),
        ([ONE], "mean", [1.0]),
        ([ONE, TWO], "weighted", None),
        ([ONE, TWO], "weighted", [1.0]),
        ([ONE, TWO], "weighted", [1.0, -1.0]),
        ([ONE, TWO], "weighted", [0.0, 0.0]),
    ],
)
def test_what_does_not_fit_is_refused(members: Any, how: Any, weights: Any) -> None:
    with pytest.raises(ValueError, match=r"ensemble|weights"):
        EnsembleTeacher(members, how, weights)


def test_the_fingerprint_tells_members_ways_and_weights_apart() -> None:
    prints = {
        EnsembleTeacher([ONE, TWO]).fingerprint,
        EnsembleTeacher([TWO, ONE]).fingerprint,
        EnsembleTeacher([ONE, TWO], "chosen").fingerprint,
        EnsembleTeacher([ONE, TWO], "weighted", [1.0, 2.0]).fingerprint,
        EnsembleTeacher([ONE, TWO], "weighted", [2.0, 1.0]).fingerprint,
    }
    assert len(prints) == 5
