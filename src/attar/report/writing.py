"""Tell what a run of models that write found besides its metric: perplexity, gap recovered, samples, spending."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attar.report.facts import Estimate, mapping, mappings, metric_name, model_named, number, rank, text
from attar.report.formats import metric_title, number_text, percent_text, points_text
from attar.report.plotting import short

SHOWN = 500
"""Characters of an input or a text that a sample shows."""

NOTHING = "(nothing)"


def perplexity_line(summary: Mapping[str, Any]) -> str:
    """Say the verdict on perplexity, in log-likelihood of a gold token; empty where it was not judged.

    Example:
        >>> found = {"result": "BEATS", "value": 0.12, "low": 0.1, "high": 0.14, "n": 500, "unit": "nats a token"}
        >>> perplexity_line({"verdict": {"perplexity": found}})
        'Perplexity: BEATS, +0.12 nats a token [0.10, 0.14] in log-likelihood (above 0 the student is better), n = 500.'
    """
    found = mapping(mapping(summary.get("verdict")).get("perplexity"))
    value, low, high, n = (number(found.get(key)) for key in ("value", "low", "high", "n"))
    if value is None:
        return ""
    gain = points_text(value, low, high, "perplexity", text(found.get("unit")) or "nats a token")
    count = "" if n is None else f", n = {n:.0f}"
    result = text(found.get("result"))
    said = f"{f'{result}, ' if result else ''}{gain} in log-likelihood (above 0 the student is better){count}"
    return f"Perplexity: {said}."


@dataclass(frozen=True)
class _Share:
    """Hold a share of the gap between teacher and control, and why it should not be read (empty: it may)."""

    title: str
    value: float
    doubt: str


def _shares(summary: Mapping[str, Any]) -> list[_Share]:
    found = mapping(mapping(summary.get("verdict")).get("gap_recovered"))
    known = [(text(key), number(value)) for key, value in found.items()]
    return [_Share(_title(key), value, _doubt(summary, key)) for key, value in known if value is not None]


def _title(key: str) -> str:
    return "log perplexity" if key == "log_perplexity" else metric_title(key)


def _doubt(summary: Mapping[str, Any], key: str) -> str:
    teacher, control = model_named(summary, "teacher"), model_named(summary, "control")
    if teacher is None or control is None:
        return ""
    if key == "log_perplexity":
        if teacher.get("gold_tokens") != control.get("gold_tokens"):
            return "teacher and control cut the gold texts into different tokens"
        return _unsure(teacher.perplexity, control.perplexity, higher=False)
    return _unsure(teacher.quality, control.quality, higher=True) if key == metric_name(summary) else ""


def _unsure(teacher: Estimate, control: Estimate, higher: bool) -> str:
    if teacher.low is None or teacher.high is None or control.low is None or control.high is None:
        return ""
    if teacher.low <= control.high and control.low <= teacher.high:
        return "the intervals of teacher and control overlap, so the gap itself may be chance"
    worse = teacher.high < control.low if higher else teacher.low > control.high
    return "the teacher is worse than the control, so there is nothing to recover" if worse else ""


def gap_lines(summary: Mapping[str, Any]) -> list[str]:
    """Say which share of the gap between control and teacher the student recovered, and where not to read it so.

    A share is of little use where the gap is not sure: then a sentence says so.

    Returns:
        The sentence with all shares, and one for each reason not to read some; empty where no share is known.

    Example:
        >>> gap_lines({"verdict": {"gap_recovered": {"rouge_l": 0.62, "log_perplexity": 0.4}}})
        ['Of the gap between control and teacher the student recovered 62.0 % on ROUGE-L, 40.0 % on log perplexity.']
    """
    shares = _shares(summary)
    if not shares:
        return []
    said = ", ".join(f"{percent_text(one.value)} on {one.title}" for one in shares)
    doubts: dict[str, list[str]] = {}
    for one in shares:
        if one.doubt:
            doubts.setdefault(one.doubt, []).append(one.title)
    warnings = [f"Do not read the share on {' or on '.join(titles)}: {why}." for why, titles in doubts.items()]
    return [f"Of the gap between control and teacher the student recovered {said}.", *warnings]


@dataclass(frozen=True)
class Sample:
    """Hold a test example and what was written for it.

    Args:
        given: the input, cut where it is long.
        gold: the gold text.
        texts: names of models -> what they wrote; those that wrote the same stand together.
    """

    given: str
    gold: str
    texts: list[tuple[tuple[str, ...], str]]


def samples(summary: Mapping[str, Any]) -> list[Sample]:
    """Return the samples of a summary: inputs with their gold text and what each model wrote.

    Example:
        >>> shown = samples({"samples": [{"input": "a", "gold": "b", "student": "c", "exported": "c"}]})
        >>> shown[0].texts
        [(('student', 'exported'), 'c')]
    """
    return [_sample(entry) for entry in mappings(summary.get("samples"))]


def _sample(entry: Mapping[str, Any]) -> Sample:
    together: dict[str, list[str]] = {}
    names = [text(name) for name in entry if name not in ("input", "gold")]
    for name in sorted(names, key=lambda one: (rank(one), one)):
        together.setdefault(_cut(entry[name]), []).append(name)
    return Sample(_cut(entry.get("input")), _cut(entry.get("gold")), [(tuple(v), k) for k, v in together.items()])


def _cut(value: Any) -> str:
    return short(text(value), SHOWN) or NOTHING


def spent_line(summary: Mapping[str, Any]) -> str:
    """Say what asking a teacher behind a server cost; empty where nothing was counted.

    Example:
        >>> spent = {"calls": 64, "input_tokens": 5120, "output_tokens": 640, "dollars": 0.0125}
        >>> spent_line({"record": {"examples": 60, "spent": spent}})
        '60 examples, 64 calls, 5,120 tokens read and 640 written, 0.0125 dollars'
    """
    record = mapping(summary.get("record"))
    spent = mapping(record.get("spent"))
    if not spent:
        return ""
    examples, calls, read, wrote, dollars, lost = (
        number(value)
        for value in (
            record.get("examples"),
            *(spent.get(key) for key in ("calls", "input_tokens", "output_tokens", "dollars", "unsure_calls")),
        )
    )
    parts = [
        f"{number_text(examples)} examples" if examples is not None else "",
        f"{number_text(calls)} calls" if calls is not None else "",
        f"{number_text(read)} tokens read and {number_text(wrote)} written" if read is not None else "",
        f"{number_text(dollars)} dollars" if dollars is not None else "",
        f"{number_text(lost)} calls whose cost is not known" if lost else "",
    ]
    return ", ".join(part for part in parts if part)
