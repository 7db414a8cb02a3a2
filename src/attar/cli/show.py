"""``attar show``: a run's figures."""

from __future__ import annotations

from attar.cli.options import AsJson, RunName, print_json


def show(run: RunName, as_json: AsJson = False) -> None:
    """Show a run's models, prompts and verdict."""
    from rich.console import Console

    from attar.report.advice import advise
    from attar.report.compression import damage_cells
    from attar.report.prompts import criterion, gain_line, outcome_line, student_cells, student_line, teacher_search
    from attar.report.tables import damage_table, models_table, prompts_table, student_prompts_table, verdict_line
    from attar.report.words import headline
    from attar.report.writing import gap_lines, perplexity_line, spent_line
    from attar.store.runs import load_summary

    folder, summary = load_summary(run)
    if as_json:
        print_json(summary)
        return
    out = Console(highlight=False)
    out.print(models_table(summary, width=out.width))
    if summary.get("prompt"):
        out.print(prompts_table(summary, width=out.width))
        for line in (outcome_line(summary), gain_line(teacher_search(summary), criterion(summary))):
            if line:
                out.print(line, markup=False)
    if student_cells(summary):
        out.print(student_prompts_table(summary, width=out.width))
        out.print(student_line(summary), markup=False)
    if damage_cells(summary):
        out.print(damage_table(summary, width=out.width))
    out.print(headline(summary), markup=False)
    for line in (verdict_line(summary), perplexity_line(summary), " ".join(gap_lines(summary))):
        if line:
            out.print(line, markup=False)
    if spent_line(summary):
        out.print(f"Asking the teacher: {spent_line(summary)}.", markup=False)
    for advice in advise(summary):
        out.print(f"- {advice.text}", markup=False)
    out.print(f"\nreport  {folder / 'report.html'}", markup=False)
