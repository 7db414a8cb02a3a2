"""Write the cells of the models' table: which columns a run has, and every value for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attar.report.facts import (
    dominated,
    higher_is_better,
    metric_name,
    model_named,
    models,
    number,
    ratio,
    speedup,
    text,
    writes,
)
from attar.report.formats import (
    MISSING,
    bytes_text,
    count_text,
    flops_text,
    metric_title,
    ms_text,
    number_text,
    ratio_text,
    three_digits,
)

TITLES = {
    "perplexity": "perplexity ↓",
    "exact_match": "exact match",
    "bytes": "size",
    "p50": "median time",
    "tokens_per_second": "tokens/s",
    "flops": "work",
    "rss": "peak memory",
}
"""What stands above a column of the models' table; other columns have the name of their key."""


def fact_text(name: str, value: Any) -> str:
    """Write a fact of a compression step or of the conditions as its name asks.

    Example:
        >>> fact_text("bytes", 2_000_000), fact_text("vocabulary", 30522), fact_text("torch", "2.14.1")
        ('2.00 MB', '30,522', '2.14.1')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(fact_text(name, part) for part in value) or MISSING
    amount = number(value)
    if amount is None:
        return text(value) or MISSING
    if name.endswith("bytes"):
        return bytes_text(amount)
    return count_text(amount) if name == "parameters" else number_text(amount)


def columns(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns of the models' table after the model's name: key -> title, in order.

    Example:
        >>> list(columns({}))[:3], columns({"metric": {"name": "rouge_l"}})["quality"]
        (['quality', 'bytes', 'smaller'], 'ROUGE-L')
    """
    keys = ["quality", "bytes", "smaller", "p50", "faster", "parameters", "flops", "rss", "precision"]
    if writes(summary):
        keys[5:5] = ["tokens_per_second"]
        keys[1:1] = ["perplexity", "exact_match"]
    return {key: metric_title(metric_name(summary)) if key == "quality" else TITLES.get(key, key) for key in keys}


def model_cells(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the cells of the models' table: one mapping a model, every value written for people.

    Keys: name, title, quality, perplexity, exact_match, tokens_per_second, parameters, bytes, smaller, p50, faster,
    flops, rss, precision, runtime, dominated (the models that beat it in quality, bytes and milliseconds together, or
    empty). Times smaller and faster are against the teacher; without its size or time they are "–".

    Example:
        >>> model_cells({"models": [{"name": "student", "bytes": 1_000_000}]})[0]["bytes"]
        '1.00 MB'
    """
    found, base = models(summary), model_named(summary, "teacher")
    beaten = dominated(found, higher_is_better(summary))
    return [
        {
            "name": model.name or MISSING,
            "title": model.title,
            "quality": model.quality.show(metric_name(summary)),
            "perplexity": model.perplexity.show("perplexity"),
            "exact_match": model.exact_match.show("exact_match"),
            "tokens_per_second": speed_text(model.get("tokens_per_second")),
            "parameters": count_text(model.get("parameters")),
            "bytes": bytes_text(model.get("bytes")),
            "smaller": ratio_text(ratio(base.get("bytes"), model.get("bytes")) if base else None),
            "p50": ms_text(model.get("p50")),
            "faster": ratio_text(speedup(model, base)),
            "flops": flops_text(model.get("flops")),
            "rss": bytes_text(model.get("peak_rss_bytes")),
            "precision": model.precision or MISSING,
            "runtime": model.runtime or MISSING,
            "dominated": ", ".join(beaten.get(model.name, ())),
        }
        for model in found
    ]


def speed_text(value: float | None) -> str:
    """Write tokens a second.

    Example:
        >>> speed_text(1234.5), speed_text(34.17), speed_text(None)
        ('1,234', '34.2', '–')
    """
    return MISSING if value is None else three_digits(value)


def perplexity_note(summary: Mapping[str, Any]) -> str:
    """Say that models which cut text into other tokens have perplexities of other things; empty where none does.

    Example:
        >>> rows = [("teacher", 90), ("student", 120)]
        >>> found = [{"name": name, "perplexity": {"value": 20.0, "tokens": count}} for name, count in rows]
        >>> print(perplexity_note({"models": found}))
        Perplexity is of one token, and the gold texts are 90 tokens to teacher; 120 to student: do not compare these.
    """
    counts: dict[float, list[str]] = {}
    for model in models(summary):
        tokens = model.get("gold_tokens")
        if tokens is not None:
            counts.setdefault(tokens, []).append(model.name)
    if len(counts) < 2:
        return ""
    said = "; ".join(f"{number_text(tokens)} to {', '.join(who)}" for tokens, who in counts.items())
    said = said.replace(" to ", " tokens to ", 1)
    return f"Perplexity is of one token, and the gold texts are {said}: do not compare these."


def beaten_note(summary: Mapping[str, Any]) -> str:
    """Say which models are beaten in quality, bytes and milliseconds together, and by which; empty where none is.

    Example:
        >>> rows = [("student", 0.8, 2000), ("exported", 0.9, 1000)]
        >>> found = [{"name": name, "quality": quality, "bytes": size} for name, quality, size in rows]
        >>> beaten_note({"models": found})
        '* beaten in quality, bytes and ms: student by exported'
    """
    beaten = dominated(models(summary), higher_is_better(summary))
    said = "; ".join(f"{name} by {', '.join(others)}" for name, others in beaten.items())
    return f"* beaten in quality, bytes and ms: {said}" if said else ""
