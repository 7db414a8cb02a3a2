"""``attar graph``: the pipeline as Mermaid."""

from __future__ import annotations

from attar.cli.options import AsJson, RecipeName, Sets, overrides, print_json


def graph(recipe: RecipeName, sets: Sets = None, as_json: AsJson = False) -> None:
    """Print the pipeline of a recipe as Mermaid text, for a README or a ticket."""
    from attar.pipeline.graph import build
    from attar.pipeline.load import load_recipe
    from attar.report.mermaid import pipeline_mermaid

    parsed, base = load_recipe(recipe, overrides(sets))
    stages = [
        {"stage": name, "title": stage.title, "key": stage.key, "parents": list(stage.parents)}
        for name, stage in build(parsed, base).items()
    ]
    if as_json:
        print_json(stages)
    else:
        print(pipeline_mermaid(stages))
