"""Answer and time one model in a process of its own: fresh memory, nothing of the run around it.

``python -m attar.stages.worker SPEC`` reads a JSON file that says which model and which examples, then JSON lines
from stdin: ``{"do": "time", "place": 3}``, ``{"do": "scores", "to": "file.npy"}``, ``{"do": "quit"}``; each is
answered by one JSON line on stdout. A bundle is run without torch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from attar.errors import AttarError
from attar.stages.memory import give_back, peak_rss


class Runner(Protocol):
    """Run one model on examples."""

    precision: str
    runtime: str

    def scores(self, inputs: Any) -> np.ndarray:
        """Return logits ``(examples, labels)``."""

    def length(self, one: Any) -> int:
        """Return how many tokens the model reads of one example; 1 for an image."""


class BundleRunner:
    """Run an exported bundle."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import onnxruntime

        from attar.exporters.bundle import Bundle

        self._bundle = Bundle(Path(spec["folder"]), spec["threads"])
        self.precision = str(self._bundle.card["precision"])
        self.runtime = f"onnxruntime {onnxruntime.__version__}"

    def scores(self, inputs: Any) -> np.ndarray:
        """Return logits ``(examples, labels)``."""
        return self._bundle.scores(inputs)

    def length(self, one: Any) -> int:
        """Return the tokens of one text."""
        return self._bundle.length(one)


class StudentRunner:
    """Run a model folder with torch, in float32."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import torch

        from attar.stages.assets import task
        from attar.students import folder as students

        torch.set_num_threads(spec["threads"])
        self._task = task(spec["task"])
        self._model = students.load(Path(spec["folder"]))
        self.precision, self.runtime = "float32", f"torch {torch.__version__}"

    def scores(self, inputs: Any) -> np.ndarray:
        """Return logits ``(examples, labels)``, one example at a time, as a service would ask."""
        import torch

        with torch.inference_mode():
            rows = [self._task.rows(self._model, self._task.collate(self._model, _examples([one]))) for one in inputs]
        return np.concatenate([row.dense().float().numpy() for row in rows])

    def length(self, one: Any) -> int:
        """Return the tokens of one text."""
        return int(self._task.length(self._model, _examples([one]))[0])


class EnsembleRunner:
    """Run the members of an ensemble one after the other, and take the mean of their probabilities."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._members = [StudentRunner({**spec, "folder": folder}) for folder in spec["folders"]]
        self.precision, self.runtime = self._members[0].precision, self._members[0].runtime

    def scores(self, inputs: Any) -> np.ndarray:
        """Return log-probabilities ``(examples, labels)``, one example at a time."""
        said = np.stack([member.scores(inputs) for member in self._members])
        shares = np.exp(said - said.max(axis=-1, keepdims=True))
        return np.asarray(np.log((shares / shares.sum(axis=-1, keepdims=True)).mean(axis=0).clip(1e-30)))

    def length(self, one: Any) -> int:
        """Return the tokens of one text."""
        return self._members[0].length(one)


class PromptRunner:
    """Run a language model with its prompt."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import torch

        from attar.core.prompt import TextPrompt
        from attar.prompts.scoring.label_words import LabelWordScorer
        from attar.students.causal import language_model

        torch.set_num_threads(spec["threads"])
        dtype = getattr(torch, spec["precision"])
        model, tokenizer = language_model(Path(spec["folder"]), dtype)
        self._prompt = TextPrompt.from_json(spec["prompt"])
        self._scorer = LabelWordScorer(model, tokenizer, spec["max_tokens"])
        self._scorer.score(self._prompt, ["one", "another"])  # leaves the prompt's keys and values in the scorer
        self.precision, self.runtime = spec["precision"], f"torch {torch.__version__}"

    def scores(self, inputs: Any) -> np.ndarray:
        """Return log-probabilities ``(examples, labels)``, one example at a time."""
        return np.concatenate([self._scorer.answer(self._prompt, [one]) for one in inputs])

    def length(self, one: Any) -> int:
        """Return the tokens of prompt and text."""
        from attar.core.prompt import encode

        return len(encode(self._scorer.tokenizer, self._prompt, one))


class WriterRunner:
    """Run a language model that writes, one text at a time."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import torch

        from attar.students import folder as students

        torch.set_num_threads(spec["threads"])
        self._model = students.load(Path(spec["folder"]))
        self._model.module.to(getattr(torch, spec["precision"]))
        self.precision, self.runtime = spec["precision"], f"torch {torch.__version__}"

    def scores(self, inputs: Any) -> np.ndarray:
        """Write a completion of each text; return how many characters it has ``(texts, 1)``."""
        from attar.tasks.writing import write

        return np.array([[len(write(self._model, [one])[0][0])] for one in inputs], np.float32)

    def length(self, one: Any) -> int:
        """Return the tokens of prompt and text."""
        from attar.tasks.text_generation import prompt_tokens

        return len(prompt_tokens(self._model, one))


RUNNERS: dict[str, Callable[[dict[str, Any]], Runner]] = {
    "bundle": BundleRunner,
    "student": StudentRunner,
    "ensemble": EnsembleRunner,
    "prompt": PromptRunner,
    "writer": WriterRunner,
}


def _examples(inputs: Sequence[Any]) -> Any:
    from attar.core.examples import UNKNOWN, Examples

    count = len(inputs)
    held = np.stack(inputs) if isinstance(inputs[0], np.ndarray) else list(inputs)
    return Examples(np.arange(count), held, np.full(count, UNKNOWN))


def read_inputs(path: Path) -> Any:
    """Return the texts of a JSON file, or the images of a NumPy file."""
    return np.load(path, allow_pickle=False) if path.suffix == ".npy" else json.loads(path.read_text(encoding="utf-8"))


def serve(spec: dict[str, Any]) -> None:
    """Load the model and answer requests until told to quit."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    begin = time.perf_counter()
    runner = RUNNERS[spec["kind"]](spec)
    inputs = read_inputs(Path(spec["inputs"]))
    give_back()
    facts = {"precision": runner.precision, "runtime": runner.runtime, "load_seconds": time.perf_counter() - begin}
    _say({"ready": True, **facts})
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        _say(_answer(runner, inputs, request))


def _answer(runner: Runner, inputs: Any, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "time":
        one = inputs[request["place"] : request["place"] + 1]
        begin = time.perf_counter()
        runner.scores(one)
        return {"ms": 1000 * (time.perf_counter() - begin), "length": runner.length(one[0])}
    if request["do"] == "scores":
        np.save(request["to"], runner.scores(inputs))
        return {"saved": request["to"]}
    return {"peak_rss_bytes": peak_rss()}


def _say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def main() -> int:
    """Read the specification that the command line names and serve it."""
    try:
        serve(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except AttarError as error:
        _say({"error": str(error)})
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
