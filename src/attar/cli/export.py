"""``attar export``: further formats of a finished run's model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.options import AsJson, RunName, print_json


def export(
    run: RunName,
    to: Annotated[str, typer.Option("--to", help="The format: hf, onnx, gguf, openvino, executorch.")],
    precision: Annotated[str | None, typer.Option(help="Of the weights: float32, float16, q8_0, ...")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; exports/FORMAT in the run's by default.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="How far accuracy, or the log of perplexity, may be from the model's.")
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Test examples that are compared.")] = 200,
    threads: Annotated[int, typer.Option(min=0, help="Threads of the runtime; 0 leaves the choice to it.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write the model in a format, read it back, and keep it if it answers as the model does."""
    from attar.pipeline.exporting import export_run
    from attar.stages.formats import Wanted

    folder, found = export_run(run, Wanted(to, precision, tolerance, examples, threads), out)
    if as_json:
        print_json({"folder": str(folder), **found})
        return
    print(f"{folder}  {found['format']} {found['precision']}, {found['bytes'] / 1e6:.2f} MB")
    figures = f"{found['metric']} {found['files']:.4f}, the model's {found['model']:.4f}"
    print(f"{figures}, on {found['n']} test examples; logits apart by {found['logits']:.1e}")
