from __future__ import annotations

from attar.prompts.scoring.words import apart


def test_a_word_that_begins_another_takes_all_its_tokens() -> None:
    found = apart([[1], [1, 2], [1, 2, 3], [4, 5]])
    assert found.tokens == ((1,), (1, 2), (1, 2, 3), (4,))
    assert found.paths == ((1, 2),)


def test_paths_are_the_longest_ones_only() -> None:
    found = apart([[1, 2, 3], [1, 2, 4], [1, 5, 6], [1, 5, 7], [9]])
    assert found.tokens == ((1, 2, 3), (1, 2, 4), (1, 5, 6), (1, 5, 7), (9,))
    assert found.paths == ((1, 2), (1, 5))


def test_the_same_word_twice_is_one_word() -> None:
    assert apart([[1, 2], [1, 2], [3]]).tokens == ((1,), (1,), (3,))
    assert apart([[7, 8]]).tokens == ((7,),)
