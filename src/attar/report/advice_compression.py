"""Advise on what compression was worth beside a smaller model that was never cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attar.report.advice_parts import Advice
from attar.report.compression import plain_title
from attar.report.facts import (
    ModelFacts,
    dominated,
    final_model,
    higher_is_better,
    mappings,
    metric_name,
    model_named,
    models,
    number,
    text,
)
from attar.report.formats import bytes_text, metric_text, ms_text, points_text

INSTEAD = "Take it in place of the cut student, or cut less."


def dense_better(summary: Mapping[str, Any]) -> Advice | None:
    """Advise where a smaller model that was never cut beats the compressed one: in all, or for sure in quality."""
    final = final_model(summary)
    if final is None:
        return None
    beaten = dominated(models(summary), higher_is_better(summary)).get(final.name, ())
    found = [
        (row, dense, gain)
        for row in mappings(summary.get("beside_dense"))
        if (dense := model_named(summary, text(row.get("name")))) is not None and (gain := _gain(row)) is not None
    ]
    # being beaten in all three is the plainer finding, whichever row it stands in
    for row, dense, gain in sorted(found, key=lambda one: one[1].name not in beaten):
        points = points_text(gain["difference"], gain["low"], gain["high"], metric_name(summary))
        said, named = f"{final.name} less {dense.name}: {points}", _named(dense, row)
        if dense.name in beaten:
            figures = _figures(final, dense, metric_name(summary))
            words = f"The bundle is dominated: {named} is at least as good, as small and as fast ({figures}; {said})."
            return Advice(f"{words} {INSTEAD}", gain)
        if gain["high"] < 0:
            words = f"At {text(row.get('at'))}, {named} is better than the bundle ({said})."
            return Advice(f"{words} {INSTEAD}", gain)
    return None


def _gain(row: Mapping[str, Any]) -> dict[str, float] | None:
    found = {key: number(row.get(key)) for key in ("difference", "low", "high")}
    known = {key: value for key, value in found.items() if value is not None}
    return known if len(known) == len(found) else None


def _named(dense: ModelFacts, row: Mapping[str, Any]) -> str:
    title = plain_title(dense, row)
    return f"the model {dense.name} ({title or 'not cut'})"


def _figures(final: ModelFacts, dense: ModelFacts, metric: str) -> str:
    pairs = (
        (metric_text(dense.quality.value, metric), metric_text(final.quality.value, metric)),
        (bytes_text(dense.get("bytes")), bytes_text(final.get("bytes"))),
        (ms_text(dense.get("p50")), ms_text(final.get("p50"))),
    )
    return ", ".join(f"{own} against {other}" for own, other in pairs)
