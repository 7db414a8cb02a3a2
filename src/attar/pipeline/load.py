"""Read a recipe and report all of its mistakes at once, each with its path in the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from attar import catalog
from attar.errors import AttarError, Mistake, RecipeError, did_you_mean
from attar.objectives.ramp import Ramp
from attar.pipeline.recipe import Recipe

LARGEST = 1 << 20  # bytes; a recipe is a page, and a data file given in its place should not be parsed
MANY = 100_000  # values with every alias written out; a few lines of aliases of aliases can stand for billions


def ready_recipes() -> dict[str, str]:
    """Return the ready recipes that come with attar: name -> text.

    Example:
        >>> "digits" in ready_recipes()
        True
    """
    folder = resources.files("attar") / "recipes"
    return {
        item.name.removesuffix(".yaml"): item.read_text(encoding="utf-8")
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.name.endswith(".yaml")
    }


def find(given: str) -> tuple[str, str, Path]:
    """Find a recipe by its path or the name of a ready one.

    Returns:
        The name of the recipe, its text, and the folder that its paths are relative to.

    Raises:
        AttarError: there is no such file and no such ready recipe, or the file cannot be read.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return path.stem, _text(path), path.parent
    ready = ready_recipes()
    if given in ready:
        return given, ready[given], Path.cwd()
    if path.is_dir():
        inside = path / "recipe.yaml"
        if inside.is_file():
            return path.name, _text(inside), path
        raise AttarError(
            f"{given} is a folder. Give the recipe's file, or the name of a ready recipe ({', '.join(ready)})."
        )
    raise AttarError(
        f"There is no recipe file '{given}', and no ready recipe of that name.{did_you_mean(given, ready)}"
    )


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise AttarError(
                f"{path} has {path.stat().st_size:,} bytes; a recipe has at most {LARGEST:,}. Is it a data file?"
            )
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise AttarError(f"{path} is not UTF-8 text (byte {error.start}). A recipe is a YAML file.") from error
    except OSError as error:
        raise AttarError(f"{path} cannot be read: {error.strerror}.") from error


class _Loader(yaml.SafeLoader):
    """Read YAML and refuse a key that stands twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float, bool)) and key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key}' stands twice", problem_mark=key_node.start_mark)
            if isinstance(key, (str, int, float, bool)):
                seen.add(key)
        return super().construct_mapping(node, deep)


def parse(text: str, source: str) -> dict[str, Any]:
    """Return the mapping in a recipe's text.

    Raises:
        AttarError: it is not YAML, or not a mapping; the message names line and column.
    """
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise AttarError(f"{source} is not YAML{where}: {problem}.") from error
    if not isinstance(value, dict):
        raise AttarError(f"{source} must hold keys and values (task:, data:, ...), got {type(value).__name__}.")
    if _count(value, {}) > MANY:
        raise AttarError(
            f"{source} stands for more than {MANY:,} values: its aliases (*name) multiply. Write them out."
        )
    return value


def _count(value: Any, seen: dict[int, int]) -> int:
    """Return how many values there are with every alias written out; an alias to what holds it counts without end."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in seen:
        seen[id(value)] = MANY + 1
        inner = value.values() if isinstance(value, dict) else value
        seen[id(value)] = 1 + sum(_count(one, seen) for one in inner)
    return seen[id(value)]


def load_recipe(given: str, overrides: Mapping[str, Any] | None = None) -> tuple[Recipe, Path]:
    """Read, complete and validate a recipe.

    Args:
        given: path of a recipe, name of a ready one, or a run's folder.
        overrides: dotted path -> value, laid over the file: ``{"distill.epochs": 1}``.

    Returns:
        The recipe and the folder its paths are relative to.

    Raises:
        RecipeError: with every mistake found.
    """
    name, text, base = find(given)
    raw = parse(text, given)
    lay(raw, overrides or {})
    raw.setdefault("name", name)
    return validate(raw, given), base


def validate(raw: Mapping[str, Any], source: str) -> Recipe:
    """Turn a mapping into a recipe.

    Raises:
        RecipeError: with every mistake found.
    """
    mistakes = list(_chosen_mistakes(raw))
    recipe = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        mistakes = [*_translate(error, raw, Recipe), *mistakes]
    if mistakes or recipe is None:
        raise RecipeError(source, mistakes)
    return recipe


def lay(raw: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Lay dotted paths over a recipe's mapping, in place, and return it.

    Raises:
        AttarError: a path goes through a value that holds no keys.

    Example:
        >>> lay({"distill": {"epochs": 3}}, {"distill.epochs": 1})
        {'distill': {'epochs': 1}}
    """
    for path, value in overrides.items():
        _set(raw, path, value)
    return raw


def _set(raw: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    if "" in (*parents, last):
        raise AttarError(f"--set {path}: a name between the dots is empty. Write it as --set distill.epochs=1")
    for parent in parents:
        child = raw.get(parent, {})
        if not isinstance(child, dict):
            raise AttarError(f"--set {path}: '{parent}' holds no keys in this recipe.")
        raw[parent] = dict(child)  # a copy: a YAML anchor can stand in several places, and only this one is meant
        raw = raw[parent]
    raw[last] = value


def _chosen_mistakes(raw: Mapping[str, Any]) -> Iterator[Mistake]:
    """Check the settings beside every ``use``, which the schema leaves open."""
    distill = raw.get("distill")
    objectives, record = (
        distill.get(key, ()) if isinstance(distill, Mapping) else () for key in ("objective", "record")
    )
    for where, noun, entries in (
        ("distill.objective", "objective", objectives),
        ("distill.record", "codec", _codec_named(record, raw)),
        ("compress", "compressor", _steps_named(raw)),
        ("prompt.teacher.search", "move", _moves_named(raw)),
    ):
        single = isinstance(entries, (str, Mapping))
        rows = [entries] if single else entries if isinstance(entries, (list, tuple)) else []
        for place, row in enumerate(rows):
            path = where if single else f"{where}[{place}]"
            value = {"use": row} if isinstance(row, str) else row
            if isinstance(value, Mapping) and isinstance(value.get("use"), str):
                yield from _entry_mistakes(noun, dict(value), path)


def _steps_named(raw: Mapping[str, Any]) -> Any:
    """Return the compression steps, in whichever form they are given."""
    given = raw.get("compress", ())
    return given.get("steps", ()) if isinstance(given, Mapping) and "use" not in given else given


def _moves_named(raw: Mapping[str, Any]) -> Any:
    """Return the moves of the teacher's prompt; other names (`none`, `bank`, a wrong one) are the schema's to judge."""
    prompt = raw.get("prompt")
    teacher = prompt.get("teacher") if isinstance(prompt, Mapping) else None
    named = teacher.get("search", ()) if isinstance(teacher, Mapping) else ()
    rows = [named] if isinstance(named, (str, Mapping)) else named if isinstance(named, (list, tuple)) else []
    known = catalog.table("move")
    return [row if (row.get("use") if isinstance(row, Mapping) else row) in known else () for row in rows]


def _codec_named(record: Any, raw: Mapping[str, Any]) -> Any:
    """Return how a record is kept with the codec's own name in place of auto, whose keys are that codec's."""
    value = {"use": record} if isinstance(record, str) else record
    if not isinstance(value, Mapping) or value.get("use") != "auto":
        return value if isinstance(value, Mapping) else ()
    return {**value, "use": "topk" if raw.get("task") == "text-generation" else "full"}


def _entry_mistakes(noun: str, value: dict[str, Any], path: str) -> Iterator[Mistake]:
    name = value.pop("use")
    for beside in {"objective": ("weight",), "compressor": ("recover", "rounds")}.get(noun, ()):
        value.pop(beside, None)
    try:
        settings: type[BaseModel] = catalog.entry(noun, name).Settings
    except AttarError as error:
        yield Mistake(f"{path}.use", str(error))
        return
    ramped = noun == "objective" and "temperature" in settings.model_fields
    found = (_ramped_mistakes if ramped else _settings_mistakes)(value, settings)
    yield from (Mistake(f"{path}.{one.where}".rstrip("."), one.message) for one in found)


def _settings_mistakes(value: Mapping[str, Any], settings: type[BaseModel]) -> Iterable[Mistake]:
    try:
        settings.model_validate(value)
    except ValidationError as error:
        return _translate(error, value, settings)
    return []


def _ramped_mistakes(value: Mapping[str, Any], settings: type[BaseModel]) -> Iterator[Mistake]:
    """Yield the mistakes of settings whose temperature may be a ramp: its keys, then both ends as temperatures."""
    ramp = value.get("temperature")
    if not isinstance(ramp, Mapping):
        yield from _settings_mistakes(value, settings)
        return
    own = list(_settings_mistakes(ramp, Ramp))
    yield from (Mistake(f"temperature.{one.where}", one.message) for one in own)
    fixed = {key: inner for key, inner in value.items() if key != "temperature"}
    yield from _settings_mistakes(fixed, settings)
    wrong = {one.where for one in own}
    for end in [name for name in ("start", "end") if name in ramp and name not in wrong]:
        for one in _settings_mistakes({**fixed, "temperature": ramp[end]}, settings):
            if one.where == "temperature":
                yield Mistake(f"temperature.{end}", one.message)


RULES = {
    "greater_than": "must be > {gt}, got {input}.",
    "greater_than_equal": "must be >= {ge}, got {input}.",
    "less_than": "must be < {lt}, got {input}.",
    "less_than_equal": "must be <= {le}, got {input}.",
    "literal_error": "must be one of {expected}, got {input}.{hint}",
    "int_parsing": "must be a whole number, got {input}.",
    "int_type": "must be a whole number, got {input}.",
    "int_from_float": "must be a whole number, got {input}.",
    "float_parsing": "must be a number, got {input}.",
    "float_type": "must be a number, got {input}.",
    "finite_number": "must be a finite number, got {input}.",
    "bool_parsing": "must be true or false, got {input}.",
    "bool_type": "must be true or false, got {input}.",
    "string_type": "must be text, got {input}.",
    "string_too_short": "must not be empty.",
    "string_pattern_mismatch": "must be letters, digits, '.', '_' and '-' (at most 64, no sign first), got {input}.",
    "model_type": "must hold keys and values, got {input}.",
    "model_attributes_type": "must hold keys and values, got {input}.",
    "dict_type": "must hold keys and values, got {input}.",
    "tuple_type": "must be a list, got {input}.",
    "list_type": "must be a list, got {input}.",
    "too_short": "must have at least {min_length} entries, got {actual_length}.",
    "too_long": "must have at most {max_length} entries, got {actual_length}.",
}


def _translate(error: ValidationError, raw: Mapping[str, Any], model: type[BaseModel]) -> list[Mistake]:
    """Put pydantic's findings in the house's form: path, what was given, the rule."""
    mistakes: dict[str, Mistake] = {}
    for found in error.errors(include_url=False):
        location = _real_path(found["loc"], raw, found["type"])
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
        if where not in mistakes or found["type"] != "literal_error":
            mistakes.setdefault(where, Mistake(where, _message(found, model, location)))
    return [one for one in mistakes.values() if not _is_outer(one.where, mistakes)]


def _is_outer(where: str, others: Iterable[str]) -> bool:
    """Tell whether there are mistakes within this one's place: a union then complains of the branch not meant."""
    return bool(where) and any(other.startswith((f"{where}.", f"{where}[")) for other in others)


def _real_path(location: Sequence[Any], raw: Any, kind: str) -> list[Any]:
    """Drop what pydantic adds to a path for the branches of a union: only keys that stand in the file are shown."""
    path: list[Any] = []
    value = raw
    for place, part in enumerate(location):
        last = place == len(location) - 1
        if isinstance(value, Mapping) and (part in value or (last and kind == "missing")):
            path.append(part)
            value = value.get(part)
        elif isinstance(value, (list, tuple)) and isinstance(part, int) and part < len(value):
            path.append(part)
            value = value[part]
    return path


def _message(found: Any, model: type[BaseModel], location: Sequence[Any]) -> str:
    kind = found["type"]
    context = {name: f"{v:g}" if isinstance(v, float) else v for name, v in found.get("ctx", {}).items()}
    if kind == "missing":
        description = _description(model, location)
        return f"is required{f' ({description})' if description else ''}."
    if kind == "extra_forbidden":
        return f"is not a key here.{did_you_mean(str(location[-1]), _siblings(model, location))}"
    if kind == "value_error":
        text = str(context["error"])
        return text if text.endswith((".", "'", "?")) else f"{text}."
    given = repr(found["input"])
    given = given if len(given) <= 80 else f"{given[:77]}..."
    if kind not in RULES:
        return f"{found['msg']}, got {given}."
    expected = str(context.get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")
    hint = did_you_mean(str(found["input"]), expected) if kind == "literal_error" else ""
    return RULES[kind].format(input=given, hint=hint if "Did you" in hint else "", **context)


def _model_at(model: Any, location: Sequence[Any]) -> type[BaseModel] | None:
    """Follow a path through nested settings classes."""
    for part in location:
        if isinstance(part, int):
            continue
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return None
        model = next(_models_of(fields[part].annotation), None)
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_of(argument)


def _siblings(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    parent = _model_at(model, location[:-1])
    return list(parent.model_fields) if parent else []


def _description(model: type[BaseModel], location: Sequence[Any]) -> str:
    parent = _model_at(model, location[:-1])
    field = parent.model_fields.get(str(location[-1])) if parent else None
    return field.description or "" if field else ""
