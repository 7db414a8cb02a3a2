"""Write a run's report: one HTML file that opens without a network, plots and all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from attar.report.advice import advise
from attar.report.cells import columns, fact_text, model_cells, perplexity_note
from attar.report.compression import damage_cells, dense_lines, plan_facts, target_cells, tried_cells
from attar.report.curves import validation_metric
from attar.report.facts import (
    color,
    final_model,
    items,
    mapping,
    mappings,
    metric_name,
    models,
    number,
    text,
    writes,
)
from attar.report.formats import MISSING, bytes_text, metric_title, number_text, seconds_text
from attar.report.mermaid import mermaid_svg, summary_mermaid
from attar.report.plots import figures
from attar.report.plotting import CONFIG, figure_json
from attar.report.predict import needs, predict_command
from attar.report.prompt_parts import prompt_section
from attar.report.tables import headline, verdict_line, verdict_meaning
from attar.report.writing import gap_lines, perplexity_line, samples, spent_line
from attar.store.files import write_bytes

_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMGT]?B|ms|s|min|h|points|times|[kMGTP]?FLOPs)\b|%)")


def together(words: str) -> str:
    r"""Keep a number and its unit, and a letter and its value, on one line.

    Example:
        >>> together("13.4 MB is small") == "13.4\u00a0MB is small"
        True
    """
    return _UNIT.sub("\u00a0", words).replace(" = ", "\u00a0=\u00a0")


def _compression(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "damage": damage_cells(summary),
        "steps": plan_facts(summary),
        "target": target_cells(summary),
        "tried": tried_cells(summary),
        "dense": dense_lines(summary),
    }


def _checks(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "when": when,
            "name": text(entry.get("name")) or MISSING,
            "value": fact_text("", entry.get("value")),
            "rule": text(entry.get("rule")),
            "passed": entry.get("passed"),
        }
        for when, key in (("before training", "preflight"), ("after export", "checks"))
        for entry in mappings(summary.get(key))
    ]


def _timings(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    timings: dict[str, list[str]] = {}
    for model in models(summary):
        said = [f"{text(key)} {fact_text('', value)}" for key, value in model.latency.items()]
        if said:
            timings.setdefault(", ".join([*said, model.runtime or MISSING]), []).append(model.name)
    return timings


def _conditions(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [(text(key), fact_text(text(key), value)) for key, value in mapping(summary.get("conditions")).items()]
    examples = mapping(summary.get("examples"))
    if examples:
        said = ", ".join(f"{number_text(number(count))} {text(name)}" for name, count in examples.items())
        facts.append(("examples", said))
    if items(summary.get("gold")):
        facts.append(("splits with human labels", fact_text("", summary.get("gold"))))
    if spent_line(summary):
        facts.append(("asking the teacher", spent_line(summary)))
    facts += [(f"times of {', '.join(who)}", said) for said, who in _timings(summary).items()]
    peak = number(summary.get("peak_rss_bytes"))
    return facts if peak is None else [*facts, ("peak memory of the whole run", bytes_text(peak))]


def _seconds(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(text(name), seconds_text(number(value))) for name, value in mapping(summary.get("seconds")).items()]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("attar.report", "templates"),
        autoescape=True,  # labels, prompts and notes are a user's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["together"] = together
    return environment


def _trusted(made: str) -> Markup:
    return Markup(made)  # noqa: S704 (attar's own markup, in which every word of a user is escaped already)


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def render(summary: Mapping[str, Any]) -> str:
    """Return a run's report as one HTML page that loads nothing from elsewhere.

    Args:
        summary: a run's summary; whatever it lacks is shown as "–" or left out.

    Returns:
        The page; about 5 MB with plots, because the plotting library is inside.
    """
    plots = {name: _trusted(figure_json(figure)) for name, figure in figures(summary).items()}
    graph, metric, final = summary_mermaid(summary), metric_name(summary), final_model(summary)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            name=text(summary.get("name")) or "run",
            task=text(summary.get("task")),
            version=text(summary.get("attar")),
            headline=headline(summary),
            verdict=text(mapping(summary.get("verdict")).get("result")),
            verdict_line=verdict_line(summary),
            verdict_meaning=verdict_meaning(summary),
            perplexity_line=perplexity_line(summary),
            gap_lines=gap_lines(summary),
            advice=[one.text for one in advise(summary)],
            metric=metric_title(metric),
            writes=writes(summary),
            columns=columns(summary),
            perplexity_note=perplexity_note(summary),
            validation=metric_title(validation_metric(summary)) if writes(summary) else "quality",
            samples=samples(summary),
            color=color,
            models=[{**cells, "color": color(cells["name"])} for cells in model_cells(summary)],
            final=final.name if final else "",
            plots=plots,
            prompts=prompt_section(summary),
            compression=_compression(summary),
            checks=_checks(summary),
            mermaid=graph,
            picture=_trusted(mermaid_svg(graph)) if graph else "",
            conditions=_conditions(summary),
            seconds=_seconds(summary),
            predict=predict_command(summary),
            needs=needs(summary),
            plotly=_trusted(_plotly()) if plots else "",
            config=_trusted(json.dumps(CONFIG)),
        )
    )


def write(summary: Mapping[str, Any], path: Path) -> None:
    """Write a run's report as one HTML file.

    Args:
        summary: a run's summary.
        path: the file to write; its folder is made.

    Raises:
        AttarError: the file cannot be written.
    """
    write_bytes(path, render(summary).encode("utf-8"))
