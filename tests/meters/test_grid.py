from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from attar.meters.grid import GridSettings, batch_of, cut


def _characters(text: str) -> int:
    return len(text)


def test_points_cover_the_grid_and_images_have_no_length() -> None:
    grid = GridSettings(batch=(8, 1, 1), length=(64, 16))
    assert list(grid.points(texts=True)) == [(1, 16), (8, 16), (1, 64), (8, 64)]
    assert list(grid.points(texts=False)) == [(1, 1), (8, 1)]


@pytest.mark.parametrize("wrong", [{"batch": (0,)}, {"length": (-4,)}, {"rounds": 1}, {"lengths": (3,)}])
def test_wrong_points_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GridSettings.model_validate(wrong)


def test_texts_are_repeated_and_cut_to_exactly_the_tokens_wanted() -> None:
    texts = ["a b", "one two three", "x"]
    made = batch_of(texts, 4, 7, 1, lambda text: len(text.split()))
    assert made == ["one two three one two three o", "x x x x x x x", "a b a b a b a", made[0]]


def test_an_empty_example_still_gives_a_text() -> None:
    assert batch_of([" "], 1, 5, 0, _characters) == ["text "]


def test_more_than_a_model_reads_is_no_point() -> None:
    assert batch_of(["word"], 2, 9, 0, lambda text: min(len(text), 8)) is None
    assert batch_of(["word"], 1, 8, 0, lambda text: min(len(text), 8)) == ["word wor"]


def test_a_character_of_several_tokens_brings_some_more() -> None:
    assert cut("ab€cd", 3, lambda text: len(text.encode())) == "ab€"


def test_images_are_taken_in_order_and_from_the_beginning_again() -> None:
    images = np.arange(3).reshape(3, 1, 1, 1)
    assert batch_of(images, 5, 1, 2, _characters).ravel().tolist() == [2, 0, 1, 2, 0]
