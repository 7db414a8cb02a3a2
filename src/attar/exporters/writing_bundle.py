"""Let an exported bundle write with onnxruntime and tokenizers alone: no torch, no transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attar.core.reading import Frame
from attar.errors import AttarError
from attar.exporters.bundle import _session, _tokenizer, check_files, read_card
from attar.exporters.decoding import Reader, greedy, log_likelihood
from attar.store.files import folder_bytes

GRAPH = "model.onnx"


class WritingBundle:
    """Write a text for a text, greedily, from a bundle's files.

    The card's ``input`` holds the kind ``prompt``, the prompt's frame (see `attar.core.reading.Frame`), ``joins``
    (what stands between prompt and target), ``end`` (the token that ends a text) and ``max_new_tokens``.

    Args:
        folder: a folder with ``bundle.json`` and ``model.onnx``.
        threads: threads of the runtime; 0 leaves the choice to it.

    Raises:
        AttarError: the folder is no such bundle, or a file of it is damaged.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.folder = folder
        self.card = read_card(folder)
        if not writes_from_onnx(self.card):
            raise AttarError(f"{folder} holds no ONNX graph that writes: its model is {self.card['model']}.")
        check_files(folder, self.card)
        settings = self.card["input"]
        self._frame = Frame.from_json(settings)
        self._end, self._limit = int(settings["end"]), int(settings["max_new_tokens"])
        self._tokenizer = _tokenizer(folder, self.card)
        self._reader = Reader(_session(folder / GRAPH, threads))

    @property
    def bytes(self) -> int:
        """Return the bytes of all files that writing needs."""
        return folder_bytes(self.folder)

    def tokens(self, text: str) -> list[int]:
        """Return the token ids of the prompt with a text in it; a longer text loses its end."""
        cut = self._frame.cut(text, self._tokenizer.encode(text, add_special_tokens=False).offsets)
        whole = self._frame.around(cut)
        return list(self._tokenizer.encode(whole, add_special_tokens=self._frame.special_tokens).ids)

    def target_tokens(self, target: str) -> list[int]:
        """Return the token ids of a target after the prompt, and the end; a longer target loses its last tokens."""
        joined = self.card["input"]["joins"] + target
        return [*self._tokenizer.encode(joined, add_special_tokens=False).ids[: self._limit - 1], self._end]

    def length(self, text: str) -> int:
        """Return how many tokens are read of a text, its prompt counted in."""
        return len(self.tokens(text))

    def write(self, texts: Sequence[str]) -> list[str]:
        """Return what is written for each text, one at a time, without white space around it."""
        return [self._text(greedy(self._reader, self.tokens(text), self._end, self._limit).ids) for text in texts]

    def write_ids(self, text: str) -> list[int]:
        """Return the tokens that are written for a text, with the end if it came."""
        return greedy(self._reader, self.tokens(text), self._end, self._limit).ids

    def logits(self, text: str, target: str) -> np.ndarray:
        """Return the scores before each token of a target and its end ``(tokens, vocab)``."""
        prompt, answer = self.tokens(text), self.target_tokens(target)
        ids = [*prompt, *answer][:-1]
        return self._reader.read(self._reader.cache(len(ids)), ids, len(answer))

    def log_likelihood(self, text: str, target: str) -> np.ndarray:
        """Return the log-probability of each token of a target and of its end, after the prompt ``(tokens,)``.

        The perplexity of targets is ``exp(-mean)`` over the tokens of all of them.
        """
        return log_likelihood(self._reader, self.tokens(text), self.target_tokens(target))

    def time_one(self, text: str) -> dict[str, float]:
        """Write for one text and return what it took.

        Returns:
            ``prefill_ms``: milliseconds until the first token; ``decode_ms``: milliseconds of all later tokens;
            ``tokens``: how many were written, the end counted in.
        """
        done = greedy(self._reader, self.tokens(text), self._end, self._limit)
        return {"prefill_ms": done.prefill_ms, "decode_ms": done.decode_ms, "tokens": len(done.ids)}

    def feed(self, text: str) -> dict[str, np.ndarray]:
        """Return what the graph reads of a whole prompt at once, by the names of its inputs."""
        return self._reader.feed(self.tokens(text))

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def writes_from_onnx(card: dict[str, Any]) -> bool:
    """Tell whether a bundle's card names a graph that writes."""
    return bool(card["input"]["kind"] == "prompt" and card["model"] == GRAPH)


class WritingBundleRunner:
    """Run a bundle that writes, one text at a time, for what measures models in processes of their own.

    Args:
        spec: ``folder`` and ``threads``.
    """

    prompted = True

    def __init__(self, spec: dict[str, Any]) -> None:
        import onnxruntime

        self._threads = int(spec["threads"])
        self._bundle = WritingBundle(Path(spec["folder"]), self._threads)
        self.precision = str(self._bundle.card["precision"])
        self.runtime = f"onnxruntime {onnxruntime.__version__}"

    def scores(self, inputs: Sequence[str]) -> np.ndarray:
        """Write a completion of each text; return how many characters it has ``(texts, 1)``."""
        return np.array([[len(text)] for text in self._bundle.write(inputs)], np.float32)

    def together(self, inputs: Sequence[str]) -> np.ndarray:
        """Write as `scores` does: the bundle reads one text at a time."""
        return self.scores(inputs)

    def length(self, one: str) -> int:
        """Return the tokens of prompt and text."""
        return self._bundle.length(one)

    def time_one(self, text: str) -> dict[str, float]:
        """Write a completion of one text.

        Returns:
            ``prefill_ms``: until the first token is known; ``token_ms``: mean time of each further one; ``tokens``:
            how many were written.
        """
        took = self._bundle.time_one(text)
        later = max(took["tokens"] - 1, 1)
        return {"prefill_ms": took["prefill_ms"], "token_ms": took["decode_ms"] / later, "tokens": took["tokens"]}
