from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.meters.text import common_subsequence, exact_match, rouge_l


def test_rouge_l_by_hand() -> None:
    # Lin 2004, section 3.1: "police kill the gunman" and "the gunman kill police" share a subsequence of 2 of 4 words
    assert rouge_l("the gunman kill police", "police killed the gunman") == pytest.approx(0.5)
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(0.75)
    assert rouge_l("Great DRESS!", "great dress") == 1.0
    assert rouge_l("", "great") == rouge_l("great", "?!") == 0.0


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_common_subsequence_equals_trying_all(first: str, second: str) -> None:
    subs = {"".join(s) for n in range(len(first) + 1) for s in itertools.combinations(first, n)}
    others = {"".join(s) for n in range(len(second) + 1) for s in itertools.combinations(second, n)}
    assert common_subsequence(first, second) == max(len(s) for s in subs & others)


def test_exact_match_looks_at_words_alone() -> None:
    assert exact_match("  So cute! ", "so cute")
    assert not exact_match("so cute", "cute so")
