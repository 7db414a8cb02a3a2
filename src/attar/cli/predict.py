"""``attar predict``: answers from the exported bundle; PyTorch is imported for folders of `transformers` alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attar.errors import AttarError

if TYPE_CHECKING:
    from attar.exporters.bundle import Bundle


def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or name, or a bundle's folder.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Texts, or image files; none reads lines from stdin.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the inputs from a file, one a line.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads of the runtime; 0 leaves the choice to it.")] = 0,
) -> None:
    """Answer texts or images from the exported bundle; one JSON line each on stdout."""
    from attar.exporters.bundle import CARD, Bundle, read_card
    from attar.store.runs import find_run

    given = Path(run)
    folder = given if (given / CARD).is_file() else find_run(run) / "bundle"
    writes = read_card(folder)["input"]["kind"] == "prompt"
    answer = _writer(folder, threads) if writes else partial(_answer, Bundle(folder, threads))
    for one in _given(inputs, file):
        print(json.dumps({"input": one, **answer(one)}, ensure_ascii=False), flush=True)


def _writer(folder: Path, threads: int) -> Callable[[str], dict[str, Any]]:
    """Return what lets a bundle's language model write, one text at a time, greedily."""
    from attar.exporters.bundle import check_files, read_card
    from attar.exporters.gguf_runtime import GgufBundle, writes_from_gguf
    from attar.exporters.writing_bundle import WritingBundle, writes_from_onnx

    if writes_from_gguf(read_card(folder)):
        model_file = GgufBundle(folder, threads)
        return lambda one: {"text": model_file.write([one])[0]}
    if writes_from_onnx(read_card(folder)):
        bundle = WritingBundle(folder, threads)
        return lambda one: {"text": bundle.write([one])[0]}
    import torch

    from attar.students import folder as students
    from attar.tasks.writing import write

    check_files(folder, read_card(folder))
    if threads:
        torch.set_num_threads(threads)
    model = students.load(folder)
    return lambda one: {"text": write(model, [one])[0][0]}


def _answer(bundle: Bundle, one: str) -> dict[str, Any]:
    answer = bundle.answer([one] if bundle.card["input"]["kind"] == "text" else bundle.read_image(Path(one))[None])[0]
    scores = {label: round(score, 6) for label, score in answer.scores.items()}
    return {"label": answer.label, "probability": round(answer.probability, 6), "scores": scores}


def _given(inputs: Sequence[str] | None, file: Path | None) -> Iterator[str]:
    if inputs and file is not None:
        raise AttarError("Give inputs on the command line or with --file, not both.")
    if inputs:
        yield from inputs
        return
    if file is None:
        yield from _lines(sys.stdin)
        return
    try:
        with file.open(encoding="utf-8") as handle:
            yield from _lines(handle)
    except (OSError, UnicodeDecodeError) as error:
        raise AttarError(f"{file} cannot be read as UTF-8 text: {error}.") from error


def _lines(handle: Any) -> Iterator[str]:
    for line in handle:
        text = line.rstrip("\n")
        if text.strip():
            yield text
