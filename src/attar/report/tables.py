"""Show runs in the terminal: models, prompts, two runs side by side, and a list of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from attar.report.cells import beaten_note, columns, model_cells, perplexity_note
from attar.report.compare import compare_rows
from attar.report.compression import damage_cells, dense_lines
from attar.report.facts import (
    final_model,
    mapping,
    metric_name,
    number,
    text,
)
from attar.report.formats import (
    MISSING,
    bytes_text,
    metric_title,
    ms_text,
    points_text,
    seconds_text,
)
from attar.report.prompts import prompt_cells, student_cells, teacher_search
from attar.report.words import headline, verdict_line, verdict_meaning

__all__ = [
    "compare_table",
    "headline",
    "model_cells",
    "models_table",
    "prompts_table",
    "runs_table",
    "student_prompts_table",
    "verdict_line",
    "verdict_meaning",
]


def _table(title: str, left: Sequence[str], right: Sequence[str] = ()) -> Table:
    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", overflow="fold")  # a narrow terminal folds a value, it hides no digit
    return table


def _add(table: Table, cells: Sequence[str], style: str = "") -> None:
    # As Text, because brackets of an interval or of a user's label are no markup.
    table.add_row(*(Text(cell) for cell in cells), style=style or None)


def _caption(table: Table, words: str) -> None:
    table.caption, table.caption_justify = Text(words), "left"


def _fitting(rows: Sequence[Mapping[str, str]], drop: Sequence[str], width: int | None) -> list[str]:
    """Return the columns of ``rows`` to show: those of ``drop`` go first to last until the rest fits ``width``."""
    wide = {key: max(len(key), *(len(row[key]) for row in rows)) + 3 for key in (rows[0] if rows else ())}
    for key in drop:
        if width is None or sum(wide.values()) <= width:
            break
        wide.pop(key, None)
    return list(wide)


def damage_table(summary: Mapping[str, Any], width: int | None = None) -> Table:
    """Show what each compression step cost and what recovery gave back.

    Args:
        summary: a run's summary.
        width: characters of the terminal; where they are few, less important columns are left out.

    Example:
        >>> damage_table({"damage": [{"step": "depth", "before": {"accuracy": 0.9}}]}).row_count
        1
    """
    titles = {
        "step": "step",
        "parameters": "parameters",
        "before": "before",
        "after": "after",
        "recovered": "recovered",
    }
    titles |= {"steps": "steps", "kept": "recovery"}
    rows = [{title: cells[key] for key, title in titles.items()} for cells in damage_cells(summary)]
    shown = _fitting(rows, ["steps", "parameters"], width) or ["step"]
    table = _table("compression", shown[:1], shown[1:])
    for row in rows:
        _add(table, [row[key] for key in shown], "")
    return table


def models_table(summary: Mapping[str, Any], width: int | None = None) -> Table:
    """Show the models of a run: quality with its interval, size, time and memory; of those that write, perplexity too.

    Args:
        summary: a run's summary.
        width: characters of the terminal; where they are few, less important columns are left out.

    Example:
        >>> models_table({"models": [{"name": "student"}]}).row_count
        1
    """
    titles = {"name": "model", **columns(summary), "bytes": "bytes", "p50": "p50", "flops": "FLOPs", "rss": "peak RSS"}
    found = model_cells(summary)
    rows = [
        {titles[key]: cells[key] + (" *" if key == "name" and cells["dominated"] else "") for key in titles}
        for cells in found
    ]
    shown = _fitting(rows, [titles[key] for key in _LESS if key in titles], width) or [titles["name"]]
    table = _table(text(summary.get("name")), shown[:1], shown[1:])
    final = final_model(summary)
    for cells, row in zip(found, rows, strict=True):
        _add(table, [row[key] for key in shown], "bold" if final and cells["name"] == final.name else "")
    notes = [beaten_note(summary), perplexity_note(summary), *dense_lines(summary)]
    if any(notes):
        _caption(table, "\n".join(note for note in notes if note))
    return table


_LESS = ("flops", "precision", "parameters", "rss", "tokens_per_second", "exact_match", "smaller", "faster")
"""Columns that a narrow terminal leaves out, the first ones first."""


def prompts_table(summary: Mapping[str, Any], width: int | None = None) -> Table:
    """Show the prompts that were tried on the teacher: the winner first, then who was scored on most.

    Args:
        summary: a run's summary, or its part ``prompt`` alone.
        width: characters of the terminal; where they are few, less important columns are left out.

    Example:
        >>> prompts_table({}).row_count
        0
    """
    rows = [
        {"prompt": cells["name"], **{key: cells[key] for key in ("how", "words", "score", "n", "tokens", "left")}}
        for cells in prompt_cells(summary)
    ]
    return _race_table(text(teacher_search(summary).get("criterion")), rows, width)


def student_prompts_table(summary: Mapping[str, Any], width: int | None = None) -> Table:
    """Show the prompts that were tried on the student.

    Args:
        summary: a run's summary.
        width: characters of the terminal; where they are few, less important columns are left out.

    Example:
        >>> student_prompts_table({"prompt": {"student": {"tried": [{"name": "none"}]}}}).row_count
        1
    """
    rows = [
        {"prompt": cells["name"], **{key: cells[key] for key in ("kind", "score", "n", "tokens", "ms", "left")}}
        for cells in student_cells(summary)
    ]
    return _race_table("the student's prompts", rows, width)


LEAST_HOW = 16
"""Characters of how a prompt was made that a narrow terminal leaves; the rest is folded."""


def _race_table(title: str, rows: Sequence[Mapping[str, str]], width: int | None) -> Table:
    folded = [{key: cell[:LEAST_HOW] if key == "how" else cell for key, cell in row.items()} for row in rows]
    shown = _fitting(folded, ("words", "ms", "how", "tokens"), width) or ["prompt"]
    said = [key for key in shown if key in ("prompt", "how", "kind", "words")]
    table = _table(title, said, [key for key in shown if key not in said])
    for row in rows:
        _add(table, [row[key] for key in shown], "bold" if row["left"] == "won" else "")
    return table


def compare_table(first: Mapping[str, Any], second: Mapping[str, Any]) -> Table:
    """Show two runs side by side; what was measured under different conditions is shown but not compared.

    Args:
        first: the summary to compare with.
        second: the summary that is compared.

    Returns:
        A table whose last column is the second run against the first. Where conditions differ it shows "–", and the
        caption names both values of each condition that differs.
    """
    compared = compare_rows(first, second)
    table = _table("", ("model", "measure"), (*compared.names, "change"))
    last = ""
    for row in compared.rows:
        if last and row.model != last:
            table.add_section()
        _add(table, [row.model if row.model != last else "", row.measure, row.first, row.second, row.change])
        last = row.model
    if compared.notes:
        _caption(table, "\n".join(compared.notes))
    return table


def _run_cells(summary: Mapping[str, Any]) -> dict[str, str]:
    final, metric, verdict = final_model(summary), metric_name(summary), mapping(summary.get("verdict"))
    difference, low, high = (number(verdict.get(key)) for key in ("difference", "low", "high"))
    return {
        "run": text(summary.get("name")) or MISSING,
        "task": text(summary.get("task")) or MISSING,
        "metric": metric_title(metric) if metric else MISSING,
        "quality": final.quality.show(metric) if final else MISSING,
        "bytes": bytes_text(final.get("bytes") if final else None),
        "p50": ms_text(final.get("p50") if final else None),
        "verdict": text(verdict.get("result")) or MISSING,
        "difference": points_text(difference, low, high, metric),
        "took": seconds_text(number(mapping(summary.get("seconds")).get("total"))),
    }


def runs_table(summaries: Sequence[Mapping[str, Any]], width: int | None = None) -> Table:
    """Show a list of runs, one line each: the model that each hands over.

    Args:
        summaries: the runs' summaries.
        width: characters of the terminal; where they are few, less important columns are left out.

    Example:
        >>> runs_table([{"name": "reviews"}, {}]).row_count
        2
    """
    rows = [_run_cells(summary) for summary in summaries]
    shown = _fitting(rows, ("took", "metric", "difference", "task"), width) or ["run"]
    words = [key for key in shown if key in ("run", "task", "metric")]
    table = _table("", words, [key for key in shown if key not in words])
    for row in rows:
        _add(table, [row[key] for key in shown])
    return table
