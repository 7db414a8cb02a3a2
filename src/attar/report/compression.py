"""Tell what compression cost and what recovery gave back: step by step, against its target, beside dense models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attar.report.cells import fact_text
from attar.report.facts import (
    ModelFacts,
    final_model,
    items,
    mapping,
    mappings,
    metric_name,
    model_named,
    number,
    text,
    writes,
)
from attar.report.formats import (
    MISSING,
    bytes_text,
    count_text,
    metric_text,
    ms_text,
    number_text,
    percent_text,
    points_text,
    seconds_text,
)

RECOVERY = "compress"
"""Name of the first step's curve; those of the steps after it are numbered: ``compress_2``."""


def recovery_curves(summary: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], list[Mapping[str, Any]]]]:
    """Return each step that worked on the model, with the rows of its recovery's curve; none where it did not recover.

    Example:
        >>> recovery_curves({"damage": [{"step": "depth"}], "curves": {"compress": [{"step": 1}]}})
        [({'step': 'depth'}, [{'step': 1}])]
    """
    curves = mapping(summary.get("curves"))
    return [
        (row, mappings(curves.get(RECOVERY if place == 1 else f"{RECOVERY}_{place}")))
        for place, row in enumerate(mappings(summary.get("damage")), start=1)
    ]


def is_recovery(name: str) -> bool:
    """Tell whether a curve is a recovery from a step.

    Example:
        >>> [is_recovery(name) for name in ("compress", "compress_12", "compressed", "student")]
        [True, True, False, False]
    """
    return name.rstrip("0123456789").removesuffix("_") == RECOVERY


def damage_cells(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the cells of the table of damage: a row for each step on the model, and one for those on the graph.

    Keys: step, parameters, before, after, recovered, steps, took, kept. Qualities are of validation examples; those of
    the last row are of test examples, and say so.

    Example:
        >>> row = {"step": "depth", "before": {"accuracy": 0.9}, "after": {"accuracy": 0.5}}
        >>> [(cells["before"], cells["after"], cells["kept"]) for cells in damage_cells({"damage": [row]})]
        [('90.0 %', '50.0 %', 'no recovery')]
    """
    rows = [_damage(summary, row, curve) for row, curve in recovery_curves(summary)]
    last = _graph(summary, len(rows))
    return rows if last is None else [*rows, last]


def _damage(summary: Mapping[str, Any], row: Mapping[str, Any], curve: list[Mapping[str, Any]]) -> dict[str, str]:
    kept = row.get("kept")
    took = [value for one in curve if (value := number(one.get("seconds"))) is not None]
    qualities = {key: quality_text(summary, row.get(key)) for key in ("before", "after", "recovered")}
    return {
        "step": text(row.get("step")) or MISSING,
        "parameters": count_text(number(row.get("parameters"))),
        **qualities,
        "steps": number_text(number(row.get("steps"))),
        "took": seconds_text(took[-1]) if took else MISSING,
        "kept": "no recovery" if kept is None else "kept" if kept else "not kept: it was no better",
    }


def quality_text(summary: Mapping[str, Any], judged: Any) -> str:
    """Write a quality on validation examples: accuracy, or for a model that writes its perplexity.

    Example:
        >>> quality_text({}, {"accuracy": 0.912, "loss": 0.3}), quality_text({}, None)
        ('91.2 %', '–')
    """
    accuracy, loss = (number(mapping(judged).get(key)) for key in ("accuracy", "loss"))
    if writes(summary):
        return metric_text(perplexity(loss), "perplexity")
    return percent_text(accuracy)


def perplexity(loss: float | None) -> float | None:
    """Return what a loss in nats a token is as perplexity; None where it is unknown or too large to say."""
    return None if loss is None or loss > 700 else math.exp(loss)


def _graph(summary: Mapping[str, Any], on_model: int) -> dict[str, str] | None:
    """Return the row of what changed the exported graph, from what was measured before and after; None if none."""
    names = [text(entry.get("step")) for entry in mappings(summary.get("compress"))[on_model:]]
    before, after = model_named(summary, "compressed"), model_named(summary, "exported")
    if not names or not on_model or before is None or after is None:
        return None
    cells = dict.fromkeys(("parameters", "recovered", "steps", "took"), MISSING)
    shown = {"before": f"{_tested(summary, before)} on test", "after": f"{_tested(summary, after)} on test"}
    return {"step": " + ".join(names), **cells, **shown, "kept": "on the exported graph"}


def _tested(summary: Mapping[str, Any], model: ModelFacts) -> str:
    if writes(summary):
        return metric_text(model.perplexity.value, "perplexity")
    return metric_text(model.quality.value, metric_name(summary))


def plan_facts(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what each step says of itself: its name, facts before and after, and notes."""
    steps = []
    for entry in mappings(summary.get("compress")):
        before, after = mapping(entry.get("before")), mapping(entry.get("after"))
        facts = [
            (text(key), fact_text(text(key), before.get(key)), fact_text(text(key), after.get(key)))
            for key in dict.fromkeys([*before, *after])
        ]
        notes = [text(note) for note in items(entry.get("notes"))]
        steps.append({"name": text(entry.get("step")) or MISSING, "facts": facts, "notes": notes})
    return steps


def step_words(step: Any) -> str:
    """Write a planned step: its name and settings.

    Example:
        >>> step_words(["depth", {"layers": 3}]), step_words(["vocabulary", {}])
        ('depth (layers 3)', 'vocabulary')
    """
    name, settings = (*items(step), None, None)[:2]
    said = ", ".join(f"{text(key)} {fact_text('', value)}" for key, value in mapping(settings).items())
    return f"{text(name)} ({said})" if said else text(name)


def _steps_words(steps: Any) -> str:
    return ", ".join(words for step in items(steps) if (words := step_words(step))) or "no step"


def target_cells(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the cells of a target's table, a row for size and one for time: asked, expected, got.

    Expected is the cost of the untrained shapes, exported and timed; got is that of the bundle.

    Example:
        >>> target_cells({"plan": {"asked": {"bytes": 2_000_000}, "expected": {"bytes": 1_900_000, "p50": 3.0}}})[0]
        {'what': 'size', 'asked': '2.00 MB', 'expected': '1.90 MB', 'got': '–'}
    """
    plan, final = mapping(summary.get("plan")), final_model(summary)
    asked, expected = mapping(plan.get("asked")), mapping(plan.get("expected"))
    if not plan:
        return []
    return [
        {
            "what": what,
            "asked": show(number(asked.get(key))),
            "expected": show(number(expected.get(key))),
            "got": show(final.get(key) if final else None),
        }
        for key, what, show in (("bytes", "size", bytes_text), ("p50", "median time", ms_text))
    ]


def tried_cells(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the cells of what was tried for a target, in order: steps, bytes, p50, and which was chosen.

    Example:
        >>> tried_cells({"plan": {"steps": [], "tried": [{"steps": [], "bytes": 1000, "p50": 1.5}]}})
        [{'steps': 'no step', 'bytes': '1.00 kB', 'p50': '1.50 ms', 'chosen': 'chosen'}]
    """
    plan = mapping(summary.get("plan"))
    return [
        {
            "steps": _steps_words(one.get("steps")),
            "bytes": bytes_text(number(one.get("bytes"))),
            "p50": ms_text(number(one.get("p50"))),
            "chosen": "chosen" if one.get("steps") == plan.get("steps") else "",
        }
        for one in mappings(plan.get("tried"))
    ]


def plain_title(dense: ModelFacts, row: Mapping[str, Any]) -> str:
    """Return what a dense model is, without what it equals."""
    return dense.title.removesuffix(f": {text(row.get('at'))}")


MEANINGS = {
    "BEATS": "the compressed model is better",
    "NO BEATS": "the compressed model is no better: the smaller model that was never cut serves as well",
    "INCONCLUSIVE": "the test examples cannot tell the two apart",
}
"""What a verdict on the compressed model over a dense one means."""


def dense_lines(summary: Mapping[str, Any]) -> list[str]:
    """Say how the compressed model stands against smaller ones that were not cut: one sentence for each.

    Example:
        >>> row = {"name": "dense", "at": "equal bytes", "result": "INCONCLUSIVE", "difference": 0.0}
        >>> dense_lines({"beside_dense": [row]})
        ['At equal bytes, exported less dense is +0.0 points: the test examples cannot tell the two apart.']
    """
    return [line for row in mappings(summary.get("beside_dense")) if (line := _dense_line(summary, row))]


def _dense_line(summary: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    meaning = MEANINGS.get(text(row.get("result")))
    difference, low, high = (number(row.get(key)) for key in ("difference", "low", "high"))
    if meaning is None or difference is None:
        return ""
    other = model_named(summary, text(row.get("name")))
    title = f" ({plain_title(other, row)})" if other and other.title else ""
    gain = points_text(difference, low, high, metric_name(summary))
    return f"At {text(row.get('at'))}, exported less {text(row.get('name'))}{title} is {gain}: {meaning}."
