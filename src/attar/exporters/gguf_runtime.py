"""Let a GGUF file write with llama.cpp: no torch, no transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attar.core.reading import Frame
from attar.errors import AttarError
from attar.exporters.bundle import _tokenizer, check_files, read_card
from attar.exporters.writing_bundle import WritingBundle
from attar.optional import require

SUFFIX = ".gguf"
FLOAT32 = 0
"""ggml's number of the type that keys and values are kept in: float16, its habit, would change the answers."""


class GgufReader:
    """Read tokens with llama.cpp, on the processor, with keys and values in float32.

    It answers to the calls of `attar.exporters.decoding.Reader`.

    Args:
        path: the file.
        capacity: tokens that are read and written for one text at most.
        threads: threads of the runtime; 0 leaves the choice to it.

    Raises:
        AttarError: llama-cpp-python is not installed, or cannot load the file.
    """

    def __init__(self, path: Path, capacity: int, threads: int = 0) -> None:
        llama = require("llama_cpp", "llama", "Answering from a GGUF file")
        self.version = str(llama.__version__)
        try:
            self._model = llama.Llama(
                str(path),
                n_ctx=capacity,
                n_batch=capacity,
                n_ubatch=capacity,
                n_threads=threads or None,
                n_threads_batch=threads or None,
                n_gpu_layers=0,
                type_k=FLOAT32,
                type_v=FLOAT32,
                logits_all=True,
                verbose=False,
            )
        except ValueError as error:  # its own words are few: "Failed to load model from file"
            raise AttarError(f"{path} cannot be loaded by llama.cpp: {error}. Export it again.") from error

    def tokens(self, text: str, special: bool) -> list[int]:
        """Return the ids that the file's own tokenizer finds; ``special`` lets it put its first token before."""
        return list(self._model.tokenize(text.encode("utf-8"), add_bos=special, special=True))

    def cache(self, capacity: int) -> None:
        """Forget what was read; there is one cache, as long as the reader's own capacity.

        Raises:
            AttarError: it is too short.
        """
        if capacity > self._model.n_ctx():
            raise AttarError(f"This file was opened for {self._model.n_ctx()} tokens, not for {capacity}.")
        self._model.reset()

    def read(self, cache: None, ids: Sequence[int], rows: int = 1) -> np.ndarray:
        """Read tokens after what was read, and return the scores after each of the last ``rows`` ``(rows, vocab)``."""
        self._model.eval(list(ids))
        end = self._model.n_tokens
        return np.array(self._model.scores[end - rows : end])


class GgufBundle(WritingBundle):
    """Write a text for a text, greedily, from a bundle with a GGUF file; see `WritingBundle`.

    Texts are read with the bundle's ``tokenizer.json``; `own_tokens` says what the file's own tokenizer finds.

    Args:
        folder: a folder with ``bundle.json`` and a GGUF file.
        threads: threads of the runtime; 0 leaves the choice to it.

    Raises:
        AttarError: the folder is no such bundle, a file of it is damaged, or llama-cpp-python is not installed.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.folder = folder
        self.card = read_card(folder)
        if not writes_from_gguf(self.card):
            raise AttarError(f"{folder} holds no GGUF file: its model is {self.card['model']}.")
        check_files(folder, self.card)
        settings = self.card["input"]
        self._frame = Frame.from_json(settings)
        self._end, self._limit = int(settings["end"]), int(settings["max_new_tokens"])
        self._tokenizer = _tokenizer(folder, self.card)
        # around a text cut to max_length, its first and last words may fall into other tokens: a few more
        longest = self.length("") + 2 * self._frame.max_length + self._limit + 8
        self._reader: Any = GgufReader(folder / self.card["model"], longest, threads)
        self.runtime = f"llama-cpp-python {self._reader.version}"

    def own_tokens(self, text: str) -> list[int]:
        """Return the ids that the file's own tokenizer finds in the prompt with a text in it."""
        cut = self._frame.cut(text, self._tokenizer.encode(text, add_special_tokens=False).offsets)
        return self._reader.tokens(self._frame.around(cut), self._frame.special_tokens)  # type: ignore[no-any-return]

    def feed(self, text: str) -> dict[str, np.ndarray]:
        """Return what the model reads of a prompt: its token ids ``(1, time)``."""
        return {"input_ids": np.array([self.tokens(text)], np.int64)}


def writes_from_gguf(card: dict[str, Any]) -> bool:
    """Tell whether a bundle's card names a GGUF file that writes."""
    return bool(card["input"]["kind"] == "prompt" and str(card["model"]).endswith(SUFFIX))
