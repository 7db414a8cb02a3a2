from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from attar.students.settings import Build, ModelSettings


@pytest.mark.parametrize("given", [{}, {"model": "a", "build": Build()}])
def test_one_origin(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="not both or neither"):
        ModelSettings(**given)


@pytest.mark.parametrize("layers", [0, -1, (), (1, 1), (-1,)])
def test_layers_that_make_no_sense(layers: Any) -> None:
    with pytest.raises(ValidationError, match="layers must be"):
        ModelSettings(model="a", layers=layers)


def test_widths_are_positive() -> None:
    with pytest.raises(ValidationError, match="widths must all be >= 1"):
        Build(widths=(4, 0))


def test_a_choice_of_layers_knows_its_count_and_has_no_fixed_layers() -> None:
    chosen = ModelSettings.model_validate({"model": "a", "layers": {"count": 3}})
    assert chosen.layer_count == 3
    assert chosen.by_damage is not None
    with pytest.raises(ValueError, match="chosen before the model is made"):
        _ = chosen.fixed_layers


@pytest.mark.parametrize(("layers", "count"), [(2, 2), ((0, 3, 4), 3), (None, None)])
def test_layers_by_number_are_fixed(layers: Any, count: int | None) -> None:
    settings = ModelSettings(model="a", layers=layers)
    assert (settings.layer_count, settings.by_damage, settings.fixed_layers) == (count, None, layers)


@pytest.mark.parametrize("given", [{"count": 0}, {"count": 2, "by": "size"}, {"count": 2, "texts": 0}, {}])
def test_a_choice_of_layers_that_makes_no_sense(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelSettings.model_validate({"model": "a", "layers": given})
