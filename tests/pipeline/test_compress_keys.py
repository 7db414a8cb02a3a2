"""The key ``compress`` in its forms, and what is wrong in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from attar.errors import RecipeError
from attar.pipeline.compress_keys import CompressSettings, Step, Target
from attar.pipeline.load import validate

RECIPE: dict[str, Any] = {
    "task": "image-classification",
    "data": {"source": "sklearn:digits"},
    "teacher": {"build": {"widths": [8]}, "train": {}},
    "student": {"build": {"widths": [4]}},
}


@pytest.mark.parametrize(
    "given", ["static_int8", ["static_int8"], {"use": "static_int8"}, {"steps": [{"use": "static_int8"}]}]
)
def test_every_form_is_the_same(given: Any) -> None:
    assert CompressSettings.model_validate(given) == CompressSettings(steps=(Step(use="static_int8"),))


def test_a_form_that_was_dumped_is_read_again() -> None:
    own = CompressSettings.model_validate([{"use": "channels", "ratio": 0.5, "rounds": 2, "recover": {"epochs": 2}}])
    assert CompressSettings.model_validate(own.model_dump(mode="json")) == own


def test_rounds_remove_equal_shares_of_what_is_left() -> None:
    parts = Step(use="channels", ratio=0.75, rounds=2).parts()
    assert [part.settings["ratio"] for part in parts] == [0.5, 0.5]
    assert [part.rounds for part in parts] == [1, 1]


def test_sparsity_counts_all_that_went() -> None:
    parts = Step(use="sparsity", ratio=0.6, rounds=3).parts()
    assert [round(part.settings["ratio"], 6) for part in parts] == [0.2, 0.4, 0.6]


def test_steps_that_cut_recover_by_themselves() -> None:
    assert Step(use="channels", ratio=0.5).recovery is not None
    assert Step(use="channels", ratio=0.5, recover=False).recovery is None
    assert Step(use="static_int8").recovery is None


@pytest.mark.parametrize(("text", "bytes_"), [("10MB", 10**7), ("3 MiB", 3 * 2**20), ("500kB", 500_000)])
def test_sizes_have_units(text: str, bytes_: int) -> None:
    assert Target.model_validate({"bytes": text}).bytes == bytes_


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"to": {}}, "a target needs bytes"),
        ({"to": {"bytes": "10 apples"}}, "bytes must be a number with a unit"),
        ({"to": {"p50": "-5ms"}}, "p50 must be a number with a unit"),
        ({"to": {"p50": 0}}, "must be > 0, got 0"),
        ({"to": {"bytes": 10}}, "must be >= 1000, got 10"),
        ({"to": {"bytes": "1MB"}, "steps": ["static_int8"]}, "not both"),
        ([{"use": "channels", "ratio": 0}], "must be > 0, got 0"),
        ([{"use": "channels", "ratio": 1}], "must be < 1, got 1"),
        ([{"use": "channels", "ratio": 0.5, "rounds": 0}], "must be >= 1, got 0"),
        ([{"use": "channels", "ratio": 0.5, "recover": {"minutes": 0}}], "must be > 0, got 0"),
        ([{"use": "chanels"}], "Did you mean 'channels'"),
        ([{"use": "static_int8", "metod": "entropy"}], "Did you mean 'method'"),
    ],
)
def test_a_mistake_is_told(given: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words.replace("(", r"\(")):
        validate({**RECIPE, "compress": given}, "test")


def test_overrides_reach_into_the_long_form() -> None:
    body: Mapping[str, Any] = {**RECIPE, "compress": {"to": {"bytes": "1MB"}, "recover": {"epochs": 0.5}}}
    recipe = validate(body, "test")
    assert recipe.compress.to is not None
    assert recipe.compress.recover.epochs == 0.5
    assert recipe.compress.steps == ()
