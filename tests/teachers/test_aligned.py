from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attar.core.examples import Examples
from attar.core.rows import Head, Rows, Top
from attar.errors import AttarError
from attar.objectives.forward_kl import ForwardKL
from attar.objectives.reverse_kl import ReverseKL
from attar.teachers import aligned as module
from attar.teachers.aligned import AlignedTeacher, Coverage, coverage, cross
from attar.teachers.alignment import TokenizerCut, align, positions
from attar.teachers.codecs.topk import TopkCodec

TEXTS = ["The dress 😀 fits", "Un café, 今日", "", "so pretty!"]
EXAMPLES = Examples(np.array([40, 7, 12, 9]), ["a", "b", "c", "d"], np.full(4, -1), TEXTS)
WIDE = 350
"""Choices of every model here: each vocabulary with some padding."""
PADDING = -1e4


class Scores:
    """Answer tokens of targets with random scores, the same for a token wherever it is asked for."""

    def __init__(self, tokenizer: Any, form: str = "logits", choices: int = WIDE, limit: int | None = None) -> None:
        self.cut = TokenizerCut(tokenizer, limit=limit)
        self.form, self.choices, self.tokens = form, choices, len(tokenizer)
        self.gives: Any = frozenset({"top" if form == "top" else "logits"})
        self.fingerprint = f"{form} {choices}"

    def answer(self, examples: Examples) -> Rows:
        starts = self.cut.starts(examples.targets or [])
        owner = np.repeat(np.arange(len(starts)), [len(part) for part in starts])
        key = torch.from_numpy(np.stack([examples.keys[owner], positions(starts)], axis=1).astype(np.int64))
        weight = 1.0 / (2.0 + key[:, 1])
        head = 4 * torch.randn(self.choices, 8, generator=torch.Generator().manual_seed(0))
        seeds = [1000 * int(k) + int(t) for k, t in key]
        hidden = torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(s)) for s in seeds or [0]])
        hidden = hidden[: len(key)]
        bias = torch.where(torch.arange(self.choices) < self.tokens, 0.0, PADDING)
        if self.form == "lazy":
            return Rows(key, weight, hidden=hidden, head=Head(head, bias))
        scores = hidden @ head.T + bias
        return Rows(key, weight, top=_top(scores, 24)) if self.form == "top" else Rows(key, weight, scores)


def _top(scores: torch.Tensor, k: int) -> Top:
    ids = scores.topk(k, dim=-1).indices
    others = scores.scatter(-1, ids, float("-inf"))
    rest = {t: (others / t).logsumexp(-1) - (scores / t).logsumexp(-1) for t in (1.0, 2.0)}
    return Top(ids, torch.log_softmax(scores, -1).gather(-1, ids), rest, scores.shape[-1])


def _aligned(teacher: Any, student: Any, form: str = "logits", widths: Any = (WIDE, WIDE), **chosen: Any) -> Any:
    crossing = cross(TokenizerCut(teacher), TokenizerCut(student), widths)
    return AlignedTeacher(Scores(teacher, form, widths[0]), crossing, AlignedTeacher.Settings(**chosen))


def _student(rows: Rows, choices: int = WIDE, seed: int = 1) -> torch.Tensor:
    return torch.randn(len(rows), choices, generator=torch.Generator().manual_seed(seed)) * 2


def _loss(objective: Any, rows: Rows, scores: torch.Tensor, teacher: Rows) -> tuple[float, torch.Tensor]:
    logits = scores.clone().requires_grad_()
    loss = objective(Rows(rows.key, rows.weight, logits), teacher, torch.zeros(len(rows), dtype=torch.long)).total
    (gradient,) = torch.autograd.grad(loss, logits)
    return float(loss.detach()), gradient


def test_rows_have_the_student_s_positions_in_the_examples_order(byte_level: Any, sentence_pieces: Any) -> None:
    rows = _aligned(byte_level, sentence_pieces).answer(EXAMPLES)
    lengths = [len(sentence_pieces(text, add_special_tokens=False).input_ids) + 1 if text else 0 for text in TEXTS]
    wanted = [[key, place] for key, n in zip((40, 7, 12, 9), lengths, strict=True) for place in range(n)]
    assert rows.key.tolist() == wanted
    assert rows.choices == WIDE


def test_rows_count_where_a_teacher_s_row_begins_at_the_same_byte(byte_level: Any, sentence_pieces: Any) -> None:
    rows = _aligned(byte_level, sentence_pieces).answer(EXAMPLES)
    place = align(TokenizerCut(sentence_pieces).starts(TEXTS), TokenizerCut(byte_level).starts(TEXTS))
    own = 1.0 / (2.0 + torch.from_numpy(place))
    assert torch.equal(rows.weight, torch.where(torch.from_numpy(place) >= 0, own, 0.0))
    assert 0.3 < (rows.weight > 0).float().mean() < 0.95


@pytest.mark.parametrize("form", ["logits", "lazy", "top"])
def test_a_row_says_what_the_teacher_says_in_the_student_s_words(
    form: str, byte_level: Any, sentence_pieces: Any
) -> None:
    aligned = _aligned(byte_level, sentence_pieces, form, k=5)
    rows, said = aligned.answer(EXAMPLES), Scores(byte_level).answer(EXAMPLES)
    place = align(TokenizerCut(sentence_pieces).starts(TEXTS), TokenizerCut(byte_level).starts(TEXTS))
    there = aligned.crossing.vocabulary
    checked = 0
    for row in (rows.weight > 0).nonzero().squeeze(1).tolist():
        key = torch.tensor([int(rows.key[row, 0]), int(place[row])])
        scores = said.logits[(said.key == key).all(dim=1)][0].double()  # type: ignore[index]
        for temperature in (1.0, 2.0):
            p = torch.softmax(scores / temperature, dim=-1)
            kept, rest = rows.top.softened(temperature)  # type: ignore[union-attr]
            known = [(new, kept[row, i]) for i, new in enumerate(rows.top.ids[row].tolist()) if new >= 0]  # type: ignore[union-attr]
            for new, log_p in known:
                assert float(log_p.exp()) == pytest.approx(float(p[there.tolist().index(new)]), rel=1e-5, abs=1e-7)
                checked += 1
            lost = kept[row][rows.top.ids[row] < 0].exp().sum() + rest[row].exp()  # type: ignore[union-attr]
            exact = 1 - sum(p[there.tolist().index(new)] for new, _ in known)
            assert float(lost) == pytest.approx(float(exact), rel=1e-4, abs=1e-6)
    assert checked > 50


def test_the_likeliest_choices_that_the_student_has_are_kept(byte_level: Any, sentence_pieces: Any) -> None:
    there = torch.from_numpy(cross(TokenizerCut(byte_level), TokenizerCut(sentence_pieces), (WIDE, WIDE)).vocabulary)
    scores = torch.randn(1, WIDE, generator=torch.Generator().manual_seed(5))
    aligned = _aligned(byte_level, sentence_pieces, k=7, unmatched=3)
    top = aligned._top(Rows(torch.zeros(1, 2, dtype=torch.long), torch.ones(1), scores))
    order = scores[0].argsort(descending=True)
    matched, lost = order[there[order] >= 0], order[there[order] < 0]
    assert top.ids[0].tolist() == [*there[matched[:7]].tolist(), -1, -1, -1]
    wanted = torch.log_softmax(scores[0], -1)[torch.cat([matched[:7], lost[:3]])]
    assert torch.allclose(top.log_p[0], wanted, atol=1e-6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), sharp=st.floats(0.1, 30), heat=st.floats(0.2, 20), k=st.integers(1, 400))
def test_no_mass_is_lost_at_any_temperature(
    seed: int, sharp: float, heat: float, k: int, byte_level: Any, sentence_pieces: Any
) -> None:
    scores = sharp * torch.randn(3, WIDE, generator=torch.Generator().manual_seed(seed))
    aligned = _aligned(byte_level, sentence_pieces, k=k, unmatched=2, temperatures=(1.0, heat))
    said = Rows(torch.zeros(3, 2, dtype=torch.long), torch.ones(3), scores)
    top = aligned._top(said)
    for temperature in (1.0, heat):
        kept, _ = top.softened(temperature)
        exact = torch.softmax(scores.double() / temperature, dim=-1)
        there = aligned.crossing.vocabulary
        inside = torch.stack([exact[row][np.isin(there, top.ids[row])].sum() for row in range(3)])
        mapped = torch.where(top.ids >= 0, kept.exp(), 0.0).sum(-1)
        unmapped = torch.where(top.ids < 0, kept.exp(), 0.0).sum(-1) + top.rest[temperature].exp()
        known = torch.stack([exact[row][np.isin(there, top.ids[row][top.ids[row] >= 0])].sum() for row in range(3)])
        assert torch.allclose(mapped + unmapped, torch.ones(3), atol=1e-5)
        assert torch.allclose(mapped.double(), known, atol=1e-5)
        assert (inside >= known).all()


@pytest.mark.parametrize("kind", [ForwardKL, ReverseKL])
def test_a_tokenizer_of_the_same_kind_changes_neither_loss_nor_gradient(kind: Any, byte_level: Any) -> None:
    width = len(byte_level)
    aligned = _aligned(byte_level, byte_level, widths=(width, width), k=width)  # all but one choice, and the rest
    plain, rows = Scores(byte_level, choices=width).answer(EXAMPLES), aligned.answer(EXAMPLES)
    assert torch.equal(rows.key, plain.key)
    assert torch.equal(rows.weight, plain.weight)
    scores = _student(rows, width)
    value, gradient = _loss(kind(kind.Settings(temperature=2)), plain, scores, rows)
    wanted, exact = _loss(kind(kind.Settings(temperature=2)), plain, scores, plain)
    assert value == pytest.approx(wanted, rel=1e-4)
    assert (gradient - exact).norm() <= 1e-4 * exact.norm()


def test_of_the_same_tokenizer_a_record_is_answered_as_it_is(byte_level: Any) -> None:
    aligned = _aligned(byte_level, byte_level, "top")
    plain, rows = Scores(byte_level, "top").answer(EXAMPLES), aligned.answer(EXAMPLES)
    scores = _student(rows)
    objective = ForwardKL(ForwardKL.Settings(temperature=2))
    assert torch.equal(rows.top.ids, plain.top.ids)  # type: ignore[union-attr]
    value, gradient = _loss(objective, plain, scores, rows)
    wanted, exact = _loss(objective, plain, scores, plain)
    assert value == wanted
    assert torch.equal(gradient, exact)


def test_a_written_record_says_what_the_teacher_says(byte_level: Any, sentence_pieces: Any) -> None:
    said = Scores(byte_level).answer(EXAMPLES)
    codec = TopkCodec(TopkCodec.Settings(k=24, temperatures=(1.0, 2.0)))
    read = codec.decode(codec.encode(said), said.key, said.weight, said.choices)
    live = _aligned(byte_level, sentence_pieces, "top")
    exact = live.answer(EXAMPLES)
    live.inner.answer = lambda examples: read
    rows = live.answer(EXAMPLES)
    weighed = exact.weight > 0
    assert torch.equal(rows.key, exact.key)
    assert torch.equal(rows.weight, exact.weight)
    for temperature in (1.0, 2.0):
        kept, wanted = (part.top.softened(temperature)[0].exp()[weighed] for part in (rows, exact))
        assert torch.allclose(kept, wanted, atol=2e-3)  # half precision


def test_padding_alone_changes_neither_loss_nor_gradient(byte_level: Any) -> None:
    tokens = len(byte_level)
    aligned = _aligned(byte_level, byte_level, widths=(tokens + 9, tokens + 4), k=tokens)
    plain, rows = Scores(byte_level, choices=tokens + 9).answer(EXAMPLES), aligned.answer(EXAMPLES)
    scores = _student(rows, tokens + 4)
    scores[:, tokens:] = PADDING
    objective = ForwardKL(ForwardKL.Settings(temperature=2))
    value, gradient = _loss(objective, plain, scores, rows)
    wanted, exact = _loss(objective, plain, scores, plain)
    assert value == pytest.approx(wanted, rel=1e-4)
    assert (gradient - exact).norm() <= 1e-4 * exact.norm()


@pytest.mark.parametrize("form", ["logits", "top"])
@pytest.mark.parametrize("kind", [ForwardKL, ReverseKL])
def test_loss_and_gradient_over_another_tokenizer_equal_a_slow_version(
    kind: Any, form: str, byte_level: Any, sentence_pieces: Any
) -> None:
    rows = _aligned(byte_level, sentence_pieces, form, k=6).answer(EXAMPLES)
    chosen = rows.take((rows.weight > 0).nonzero().squeeze(1))
    scores = _student(chosen)
    value, gradient = _loss(kind(kind.Settings(temperature=2)), chosen, scores, chosen)
    exact = scores.double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(chosen)):
        q = torch.softmax(exact[row] / 2, dim=-1)
        kept, rest = (part[row].double() for part in chosen.top.softened(2.0))  # type: ignore[union-attr]
        ids = chosen.top.ids[row]  # type: ignore[union-attr]
        has = ids >= 0
        other = torch.tensor([i for i in range(WIDE) if i not in ids.tolist()])
        p = torch.cat([kept[has].exp(), (rest.exp() + kept[~has].exp().sum())[None]])
        own = torch.cat([q[ids[has]], q[other].sum()[None]])
        one, two = (p, own) if kind is ForwardKL else (own, p)
        total = total + chosen.weight[row].double() * (one * (one / two).log()).sum()
    mean = total * 4 / chosen.weight.double().sum()
    mean.backward()
    assert value == pytest.approx(mean.item(), rel=1e-4)
    assert (gradient - exact.grad).norm() <= 1e-4 * exact.grad.norm()  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("k", [1, WIDE])
def test_rows_that_do_not_align_are_harmless(k: int, byte_level: Any, sentence_pieces: Any) -> None:
    rows = _aligned(byte_level, sentence_pieces, k=k).answer(EXAMPLES)
    alone = (rows.weight == 0).nonzero().squeeze(1)
    objective = ReverseKL(ReverseKL.Settings(temperature=2))
    even = replace(rows.take(alone), weight=torch.ones(len(alone)))
    value, gradient = _loss(objective, even, _student(even), even)
    assert np.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_lazy_rows_and_small_blocks_answer_alike(
    byte_level: Any, sentence_pieces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _aligned(byte_level, sentence_pieces).answer(EXAMPLES)
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * WIDE * 3)
    for form in ("logits", "lazy"):
        rows = _aligned(byte_level, sentence_pieces, form).answer(EXAMPLES)
        assert torch.equal(rows.top.ids, whole.top.ids)  # type: ignore[union-attr]
        assert torch.allclose(rows.top.rest[2.0], whole.top.rest[2.0], atol=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["logits", "top"])
def test_any_order_and_any_batch_give_the_same_rows(form: str, byte_level: Any, sentence_pieces: Any) -> None:
    teacher = _aligned(byte_level, sentence_pieces, form)
    whole = teacher.answer(EXAMPLES)
    one = teacher.answer(EXAMPLES.take(np.array([3, 1])))
    for row in range(len(one)):
        same = whole.take((whole.key == one.key[row]).all(dim=1).nonzero().squeeze(1))
        assert len(same) == 1
        assert torch.equal(same.top.ids[0], one.top.ids[row])  # type: ignore[union-attr]
        assert torch.allclose(same.top.log_p[0], one.top.log_p[row], atol=1e-5)  # type: ignore[union-attr]
        assert same.weight[0] == one.weight[row]


@pytest.mark.parametrize("form", ["logits", "lazy", "top"])
def test_nothing_to_say_gives_no_rows(form: str, byte_level: Any, sentence_pieces: Any) -> None:
    teacher = _aligned(byte_level, sentence_pieces, form)
    none = EXAMPLES.take(np.zeros(0, int))
    for examples in (none, EXAMPLES.take(np.array([2])), EXAMPLES.without_labels()):
        assert teacher.answer(examples).key.shape == (0, 2)


def test_rows_that_the_teacher_never_gave_have_no_weight(byte_level: Any, sentence_pieces: Any) -> None:
    crossing = cross(TokenizerCut(byte_level), TokenizerCut(sentence_pieces), (WIDE, WIDE))
    short = AlignedTeacher(Scores(byte_level, limit=3), crossing).answer(EXAMPLES)
    whole = AlignedTeacher(Scores(byte_level), crossing).answer(EXAMPLES)
    place = torch.from_numpy(align(crossing.student.starts(TEXTS), crossing.teacher.starts(TEXTS)))
    assert torch.equal(short.weight, torch.where(place < 3, whole.weight, 0.0))
    assert 0 < (short.weight > 0).sum() < (whole.weight > 0).sum()


def test_no_row_has_a_gradient(byte_level: Any, sentence_pieces: Any) -> None:
    rows = _aligned(byte_level, sentence_pieces, "lazy").answer(EXAMPLES)
    assert not rows.top.log_p.requires_grad  # type: ignore[union-attr]


def test_a_map_of_other_choices_is_refused(byte_level: Any, sentence_pieces: Any) -> None:
    crossing = cross(TokenizerCut(byte_level), TokenizerCut(sentence_pieces), (WIDE + 1, WIDE))
    with pytest.raises(ValueError, match="rows of 350 choices, and a map of 351"):
        AlignedTeacher(Scores(byte_level), crossing).answer(EXAMPLES)


def test_a_teacher_that_only_writes_is_refused(byte_level: Any, sentence_pieces: Any) -> None:
    writer = Scores(byte_level)
    writer.gives = frozenset({"text"})
    crossing = cross(TokenizerCut(byte_level), TokenizerCut(sentence_pieces), (WIDE, WIDE))
    with pytest.raises(AttarError, match=r"this one gives text\. Train on texts that it writes instead"):
        AlignedTeacher(writer, crossing)


def test_fingerprints_tell_teachers_tokenizers_and_settings_apart(byte_level: Any, sentence_pieces: Any) -> None:
    teachers = [
        _aligned(byte_level, sentence_pieces),
        _aligned(byte_level, sentence_pieces, "top"),
        _aligned(byte_level, sentence_pieces, k=3),
        _aligned(byte_level, byte_level),
        _aligned(byte_level, sentence_pieces, widths=(WIDE, WIDE + 1)),
    ]
    assert len({teacher.fingerprint for teacher in teachers}) == 5
    assert _aligned(byte_level, sentence_pieces).fingerprint == teachers[0].fingerprint
    assert teachers[0].gives == {"top"}


def test_facts_and_coverage_by_hand(byte_level: Any) -> None:
    crossing = cross(TokenizerCut(byte_level), TokenizerCut(byte_level), (660, 400))
    assert crossing.facts() == {"teacher_ids_matched": 0.5, "student_ids_matched": 330 / 400}
    ids = torch.tensor([[3, -1], [-1, 4], [0, 1]])
    top = Top(ids, torch.tensor([[0.5, 0.25]] * 3).log(), {1.0: torch.full((3,), 0.25).log()}, 9)
    rows = Rows(torch.zeros(3, 2, dtype=torch.long), torch.tensor([1.0, 2.0, 0.0]), top=top)
    found = coverage(rows)
    assert found.rows == pytest.approx(2 / 3)
    assert found.mass == pytest.approx((0.5 + 0.25) / 2)
    assert coverage(rows.take(torch.zeros(0, dtype=torch.long))) == Coverage(0.0, 0.0)
    with pytest.raises(ValueError, match="likeliest choices and the rest"):
        coverage(Rows(rows.key, rows.weight, torch.zeros(3, 9)))
