"""Write a run's model card: a README with the front matter that model hubs read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from attar.report.advice import advise
from attar.report.cells import beaten_note, columns, fact_text, model_cells, perplexity_note
from attar.report.compression import damage_cells, dense_lines, plan_facts, target_cells
from attar.report.facts import final_model, items, mapping, mappings, metric_name, number, text, writes
from attar.report.formats import number_text
from attar.report.mermaid import summary_mermaid
from attar.report.predict import needs, predict_command
from attar.report.tables import headline, verdict_line, verdict_meaning
from attar.report.writing import gap_lines, perplexity_line, spent_line

_LABELS_NAMED = 20
_HUB_TASKS = frozenset({"text-classification", "image-classification", "text-generation", "object-detection"})
_HUB_METRICS = {"rouge_l": "rouge"}


def markdown_escape(words: str) -> str:
    r"""Write text so that Markdown shows it as it is, also inside a table.

    Example:
        >>> print(markdown_escape("a|b <i> *c* [d](e)"))
        a\|b &lt;i> \*c\* [d\](e)
    """
    plain = " ".join(words.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|*_`]|\](?=[(\[:]))", r"\\\1", plain)


def _front_matter(summary: Mapping[str, Any]) -> str:
    task, metric, final = text(summary.get("task")), metric_name(summary), final_model(summary)
    tags = ["attar", "knowledge-distillation", "model-compression"]
    if final and "onnx" in final.runtime.lower():
        tags.append("onnx")
    if final and final.precision.lower().startswith(("int", "uint")):
        tags.append("quantized")
    facts: dict[str, Any] = {}
    if text(summary.get("license")):  # a license that nobody named is left out, never guessed
        facts["license"] = text(summary.get("license"))
    if task in _HUB_TASKS:
        facts["pipeline_tag"] = task
    if metric:
        facts["metrics"] = [_HUB_METRICS.get(metric, metric), *(["perplexity"] if writes(summary) else [])]
    return f"---\n{yaml.safe_dump({**facts, 'tags': tags}, sort_keys=False, allow_unicode=True)}---"


def markdown_table(header: list[str], rows: list[list[str]], right: int) -> str:
    """Return a table whose last ``right`` columns stand to the right; the cells' text is escaped, the header's not."""
    rule = ["---" if column < len(header) - right else "---:" for column in range(len(header))]
    lines = [header, rule, *([markdown_escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _models(summary: Mapping[str, Any]) -> str:
    titles = columns(summary)
    titles.pop("flops")
    rows = [
        [cells["name"] + (f" ({cells['title']})" if cells["title"] else ""), *(cells[key] for key in titles)]
        for cells in model_cells(summary)
    ]
    if not rows:
        return ""
    header = ["model", *(markdown_escape(title) for title in titles.values())]
    notes = [beaten_note(summary).replace("* b", "B"), perplexity_note(summary)]
    parts = [markdown_table(header, rows, len(titles)), *(markdown_escape(note) for note in notes if note)]
    return "## Results\n\n" + "\n\n".join(parts)


def _verdict(summary: Mapping[str, Any]) -> str:
    more = [verdict_meaning(summary), perplexity_line(summary), " ".join(gap_lines(summary))]
    parts = [f"**{markdown_escape(verdict_line(summary))}**", *(markdown_escape(line) for line in more)]
    return "\n\n".join(part for part in parts if part)


def _compression(summary: Mapping[str, Any]) -> str:
    lines = [
        f"- {markdown_escape(step['name'])}: {markdown_escape(words)}"
        for step in plan_facts(summary)
        if (words := " ".join([*(f"{what} {one} to {two}." for what, one, two in step["facts"]), *step["notes"]]))
    ]
    parts = [*map(markdown_escape, dense_lines(summary)), _damage(summary), _target(summary), "\n".join(lines)]
    body = "\n\n".join(part for part in parts if part)
    return f"## Compression\n\n{body}" if body else ""


def _damage(summary: Mapping[str, Any]) -> str:
    keys = ("step", "kept", "parameters", "before", "after", "recovered", "steps", "took")
    rows = [[cells[key] for key in keys] for cells in damage_cells(summary)]
    header = ["step", "recovery", "parameters", "before", "after", "recovered", "steps", "time"]
    judged = "perplexity (lower is better)" if writes(summary) else "accuracy"
    return f"By {judged} on validation examples:\n\n{markdown_table(header, rows, 6)}" if rows else ""


def _target(summary: Mapping[str, Any]) -> str:
    rows = [[cells[key] for key in ("what", "asked", "expected", "got")] for cells in target_cells(summary)]
    return markdown_table(["target", "asked", "expected", "got"], rows, 3) if rows else ""


def _conditions(summary: Mapping[str, Any]) -> str:
    facts = [(text(key), fact_text(text(key), value)) for key, value in mapping(summary.get("conditions")).items()]
    final = final_model(summary)
    if final and final.latency:
        said = ", ".join(f"{key} {fact_text('', value)}" for key, value in final.latency.items())
        facts.append(("latency", said))
    if spent_line(summary):
        facts.append(("asking the teacher", spent_line(summary)))
    lines = [f"- {markdown_escape(key)}: {markdown_escape(value)}" for key, value in facts]
    return "## Measured under\n\n" + "\n".join(lines) if lines else ""


_CHOOSES = 'It answers with one of its labels whatever it is given: it has no answer for "none of these".'
_WRITES = "It writes something whatever it is given, and what it writes may be untrue."


def _use(summary: Mapping[str, Any]) -> str:
    names = [markdown_escape(text(label)) for label in items(summary.get("labels"))]
    more = f" and {len(names) - _LABELS_NAMED} more" if len(names) > _LABELS_NAMED else ""
    labels = ", ".join(names[:_LABELS_NAMED]) + more
    examples = mapping(summary.get("examples"))
    counts = ", ".join(f"{number_text(number(count))} {text(name)}" for name, count in examples.items())
    lines = [
        f"For {text(summary.get('task')) or 'the task of its recipe'}"
        f"{f' into {labels}' if labels else ''}, on data like the data it was distilled on"
        f"{f' ({counts} examples)' if counts else ''}.",
        f"{_WRITES if writes(summary) else _CHOOSES} It repeats its teacher's mistakes where no human "
        f"{'text' if writes(summary) else 'label'} corrected them. Its quality on other data, other "
        "languages or for groups of people has not been measured: measure it before it decides anything about people.",
    ]
    return "## Intended use and limits\n\n" + "\n\n".join(lines)


def _pipeline(summary: Mapping[str, Any]) -> str:
    graph = summary_mermaid(summary)
    return f"## How it was made\n\n```mermaid\n{graph}\n```" if graph else ""


def _checks(summary: Mapping[str, Any]) -> str:
    rows = [
        f"- {'passed' if entry.get('passed') else 'FAILED'}: {markdown_escape(text(entry.get('name')))}, "
        + markdown_escape(fact_text("", entry.get("value")))
        + (f" (rule: {markdown_escape(text(entry.get('rule')))})" if entry.get("rule") else "")
        for key in ("preflight", "checks")
        for entry in mappings(summary.get(key))
    ]
    return "## Checks\n\n" + "\n".join(rows) if rows else ""


def _advice(summary: Mapping[str, Any]) -> str:
    lines = [f"- {markdown_escape(one.text)}" for one in advise(summary)]
    return "## What to try next\n\n" + "\n".join(lines) if lines else ""


def card(summary: Mapping[str, Any]) -> str:
    """Return a run's model card as Markdown with YAML front matter.

    Args:
        summary: a run's summary; whatever it lacks is left out.

    Example:
        >>> print(card({"name": "reviews"}).splitlines()[0])
        ---
    """
    name = text(summary.get("name"))
    predict = (
        "## How to use it\n\n```sh\n" + predict_command(summary) + "\n```\n\n"
        f"The `bundle` folder is all that this needs. {needs(summary)}"
    )
    made = f"Made by attar {text(summary.get('attar'))}".rstrip() + "; every number and plot is in `report.html`."
    parts = [
        _front_matter(summary),
        f"# {markdown_escape(name) or 'A distilled model'}",
        markdown_escape(headline(summary)),
        _verdict(summary),
        _models(summary),
        _compression(summary),
        predict,
        _use(summary),
        _pipeline(summary),
        _checks(summary),
        _advice(summary),
        _conditions(summary),
        made,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
