"""Attack the settings of every entry of the catalogue, and of everything that a recipe sets."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from attar import catalog
from attar.prompts.kinds.settings import SoftSettings
from attar.prompts.settings import PromptSettings
from attar.settings import Settings
from attar.stages.artifact import ArtifactRaceSettings
from attar.stages.friendly_settings import FriendlySettings
from attar.stages.prompt_dropout import PromptDropoutSettings
from attar.stages.schedule import TrainSettings
from attar.students.settings import Build, ModelSettings
from attar.teachers.endpoint_settings import EndpointSettings

ENTRIES = [(noun, name) for noun in sorted(catalog.TABLES) for name in sorted(catalog.TABLES[noun])]
FIXED: dict[type, dict[str, Any]] = {
    ModelSettings: {"model": "x"},
    EndpointSettings: {"base_url": "http://h/v1", "model": "x"},
}


def _classes() -> list[type[Settings]]:
    own = [getattr(catalog.entry(noun, name), "Settings", None) for noun, name in ENTRIES]
    others = [SoftSettings, FriendlySettings, PromptDropoutSettings, ArtifactRaceSettings]
    return [*(kind for kind in own if kind is not None), PromptSettings, TrainSettings, Build, ModelSettings, *others]


def _bounds() -> list[tuple[type[Settings], str, Any]]:
    """Return a value outside each bound of each field, from the JSON schema that recipes are documented by."""
    found: list[tuple[type[Settings], str, Any]] = []
    for kind in _classes():
        for name, schema in kind.model_json_schema()["properties"].items():
            for option in [schema, *schema.get("anyOf", [])]:
                outside = {
                    "minimum": lambda bound: bound - 1,
                    "exclusiveMinimum": lambda bound: bound,
                    "maximum": lambda bound: bound + 1,
                    "exclusiveMaximum": lambda bound: bound,
                    "enum": lambda _: "no such choice",
                    "minLength": lambda _: "",
                    "minItems": lambda _: [],
                }
                found += [(kind, name, make(option[rule])) for rule, make in outside.items() if rule in option]
    return found


@pytest.mark.parametrize(("noun", "name"), ENTRIES)
def test_every_entry_imports_and_says_what_it_is(noun: str, name: str) -> None:
    found = catalog.entry(noun, name)
    assert isinstance(found, type)
    assert found.__doc__
    assert found.__doc__.strip().endswith(".") or "\n" in found.__doc__


@pytest.mark.parametrize("noun", ["objective", "compressor"])
def test_every_algorithm_has_settings_with_defaults(noun: str) -> None:
    for name in catalog.TABLES[noun]:
        kind = catalog.entry(noun, name)
        assert issubclass(kind.Settings, Settings)
        assert kind(kind.Settings()).settings == kind.Settings()


@pytest.mark.parametrize("kind", _classes(), ids=lambda kind: kind.__qualname__)
def test_every_field_is_described_and_unknown_keys_are_refused(kind: type[Settings]) -> None:
    assert kind.model_fields
    assert all(field.description for field in kind.model_fields.values())
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        kind(**FIXED.get(kind, {}), no_such_setting=1)


@pytest.mark.parametrize(("kind", "name", "value"), _bounds(), ids=str)
def test_values_out_of_range_are_refused(kind: type[Settings], name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        kind(**{**FIXED.get(kind, {}), name: value})
    assert caught.value.errors()[0]["loc"][0] == name


@pytest.mark.parametrize("kind", _classes(), ids=lambda kind: kind.__qualname__)
def test_numbers_refuse_nan_and_words(kind: type[Settings]) -> None:
    for name, field in kind.model_fields.items():
        if field.annotation not in (int, float):
            continue
        assert field.default is not PydanticUndefined
        for value in (float("nan"), float("inf"), "many"):
            with pytest.raises(ValidationError):
                kind(**{**FIXED.get(kind, {}), name: value})


def test_there_are_bounds_to_attack() -> None:
    assert len(_bounds()) > 30
