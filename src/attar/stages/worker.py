"""Answer and time one model in a process of its own: fresh memory, nothing of the run around it.

``python -m attar.stages.worker SPEC`` reads a JSON file that says which model and which examples, then JSON lines
from stdin: ``{"do": "time", "place": 3}``, ``{"do": "grid", "place": 3, "batch": 8, "length": 64}``, ``{"do":
"scores", "to": "file.npy"}``, ``{"do": "memory"}``, ``{"do": "executed", "place": 3}``, ``{"do": "quit"}``; each is
answered by one JSON line on stdout. A bundle is run without torch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from attar.errors import AttarError
from attar.exporters.writing_bundle import WritingBundleRunner
from attar.meters import grid
from attar.stages.memory import give_back, peak_rss, rss


class Runner(Protocol):
    """Run one model on examples."""

    precision: str
    runtime: str
    prompted: bool
    """Whether the tokens that `length` counts hold a prompt."""

    def scores(self, inputs: Any) -> np.ndarray:
        """Return logits ``(examples, labels)``, one example at a time."""

    def together(self, inputs: Any) -> np.ndarray:
        """Return logits ``(examples, labels)``, all examples at once; what is wanted of it is its time."""

    def length(self, one: Any) -> int:
        """Return how many tokens the model reads of one example, its prompt counted in; 1 for an image."""


@runtime_checkable
class Writes(Protocol):
    """Tell of a runner that writes where its time goes."""

    def time_one(self, text: str) -> dict[str, float]:
        """Write a completion of one text.

        Returns:
            ``prefill_ms``: until the first token is known, reading the prompt and text included; ``token_ms``: mean
            time of each further one; ``tokens``: how many were written.
        """


@runtime_checkable
class Shows(Protocol):
    """Tell of a runner what its graph is executed as."""

    def executed(self, one: Any) -> dict[str, Any]:
        """Return what `attar.meters.executed.Executed.to_json` says of one call."""


class BundleRunner:
    """Run an exported bundle."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import onnxruntime

        from attar.exporters.bundle import Bundle

        self._threads = int(spec["threads"])
        self._bundle = Bundle(Path(spec["folder"]), self._threads)
        self.prompted = "before" in self._bundle.card["input"]
        self.precision = str(self._bundle.card["precision"])
        self.runtime = f"onnxruntime {onnxruntime.__version__}"

    def scores(self, inputs: Any) -> np.ndarray:
        """Return logits ``(examples, labels)``."""
        return self._bundle.scores(inputs)

    def together(self, inputs: Any) -> np.ndarray:
        """Return logits ``(examples, labels)`` of one batch."""
        return self._bundle.run_batch(inputs)

    def executed(self, one: Any) -> dict[str, Any]:
        """Return what the graph is executed as."""
        from attar.meters.executed import executed

        path = self._bundle.folder / self._bundle.card["model"]
        return executed(path, self._bundle.feed(one), self._threads).to_json()

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
        self.prompted = "prompt" in self._model.facts

    def scores(self, inputs: Any) -> np.ndarray:
        """Return logits ``(examples, labels)``, one example at a time, as a service would ask."""
        return np.concatenate([self.together([one]) for one in inputs])

    def together(self, inputs: Any) -> np.ndarray:
        """Return logits ``(examples, labels)`` of one batch."""
        import torch

        with torch.inference_mode():
            rows = self._task.rows(self._model, self._task.collate(self._model, _examples(inputs)))
        return np.asarray(rows.dense().float().numpy())

    def length(self, one: Any) -> int:
        """Return the tokens of one text."""
        return int(self._task.length(self._model, _examples([one]))[0])


class EnsembleRunner:
    """Run the members of an ensemble one after the other, and take the mean of their probabilities."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._members = [StudentRunner({**spec, "folder": folder}) for folder in spec["folders"]]
        self.precision, self.runtime = self._members[0].precision, self._members[0].runtime
        self.prompted = self._members[0].prompted

    def scores(self, inputs: Any) -> np.ndarray:
        """Return log-probabilities ``(examples, labels)``, one example at a time."""
        return self._mean([member.scores(inputs) for member in self._members])

    def together(self, inputs: Any) -> np.ndarray:
        """Return log-probabilities ``(examples, labels)``, each member reading all examples at once."""
        return self._mean([member.together(inputs) for member in self._members])

    @staticmethod
    def _mean(scores: Sequence[np.ndarray]) -> np.ndarray:
        said = np.stack(scores)
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
        self.precision, self.runtime, self.prompted = spec["precision"], f"torch {torch.__version__}", True

    def scores(self, inputs: Any) -> np.ndarray:
        """Return log-probabilities ``(examples, labels)``, one example at a time."""
        return np.concatenate([self.together([one]) for one in inputs])

    def together(self, inputs: Any) -> np.ndarray:
        """Return log-probabilities ``(examples, labels)`` of one batch."""
        return np.asarray(self._scorer.answer(self._prompt, inputs))

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
        self.precision, self.runtime, self.prompted = spec["precision"], f"torch {torch.__version__}", True
        self._passed: list[float] = []
        self._model.module.register_forward_hook(lambda *_: self._passed.append(time.perf_counter()))

    def scores(self, inputs: Any) -> np.ndarray:
        """Write a completion of each text; return how many characters it has ``(texts, 1)``."""
        return np.concatenate([self.together([one]) for one in inputs])

    def together(self, inputs: Any) -> np.ndarray:
        """Write a completion of each text, all at once; return how many characters it has ``(texts, 1)``."""
        from attar.tasks.writing import write

        return np.array([[len(written[0])] for written in write(self._model, list(inputs))], np.float32)

    def time_one(self, text: str) -> dict[str, float]:
        """Write a completion of one text; every pass of the network is a token."""
        self._passed.clear()
        begin = time.perf_counter()
        self.together([text])
        prefill, later = self._passed[0] - begin, np.diff(self._passed)
        token_ms = 1000 * float(later.mean()) if len(later) else 0.0
        return {"prefill_ms": 1000 * prefill, "token_ms": token_ms, "tokens": len(self._passed)}

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
    "writing_bundle": WritingBundleRunner,
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
    desk, facts = load(spec)
    _say({"ready": True, **facts})
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        _say(desk.answer(request))


def load(spec: dict[str, Any]) -> tuple[Desk, dict[str, Any]]:
    """Return the desk of the model that a specification names, and what its loading took."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    begin = time.perf_counter()
    runner = RUNNERS[spec["kind"]](spec)
    seconds = time.perf_counter() - begin
    desk = Desk(runner, read_inputs(Path(spec["inputs"])))
    give_back()
    facts = {"precision": runner.precision, "runtime": runner.runtime, "load_seconds": round(seconds, 3)}
    return desk, {**facts, "loaded_rss_bytes": rss()}


class Desk:
    """Answer requests about one model.

    Args:
        runner: runs it.
        inputs: texts or images.
    """

    def __init__(self, runner: Runner, inputs: Any) -> None:
        self._runner, self._inputs = runner, inputs
        self._batches: dict[tuple[int, ...], Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request; see the module for what can be asked."""
        do = request["do"]
        if do == "time":
            return self._time(request["place"])
        if do == "grid":
            return self._grid(request["batch"], request["length"], request["place"])
        if do == "scores":
            np.save(request["to"], self._runner.scores(self._inputs))
            return {"saved": request["to"]}
        if do == "executed":
            return self._runner.executed(self._inputs[request["place"]]) if isinstance(self._runner, Shows) else {}
        return {"peak_rss_bytes": peak_rss()}

    def _time(self, place: int) -> dict[str, Any]:
        one = self._inputs[place : place + 1]
        return {**self._run(one), "length": self._runner.length(one[0])}

    def _run(self, inputs: Any) -> dict[str, Any]:
        """Return the time of a batch, tokenizing it counted in; of a model that writes, its parts too."""
        begin = time.perf_counter()
        parts: dict[str, float] = {}
        if isinstance(self._runner, Writes):
            parts = self._runner.time_one(inputs[0])
        elif len(inputs) == 1:
            self._runner.scores(inputs)  # as it is served
        else:
            self._runner.together(inputs)
        return {"ms": 1000 * (time.perf_counter() - begin), **parts}

    def _grid(self, batch: int, length: int, place: int) -> dict[str, Any]:
        if batch > 1 and isinstance(self._runner, Writes):  # texts of a batch end at different tokens
            return {"ms": None}
        key = (batch, length, place)
        if key not in self._batches:
            prompt = self._runner.length("") if self._runner.prompted else 0
            self._batches[key] = grid.batch_of(
                self._inputs, batch, length, place, lambda text: self._runner.length(text) - prompt
            )
        return {"ms": None} if self._batches[key] is None else self._run(self._batches[key])


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
