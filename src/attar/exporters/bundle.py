"""Run an exported bundle with onnxruntime and tokenizers alone: no torch, no transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attar.core.reading import Frame
from attar.errors import AttarError
from attar.store.files import folder_bytes, read_json, sha256_file, write_json

CARD = "bundle.json"
SCHEMA = 1


@dataclass(frozen=True)
class Answer:
    """Hold what a bundle says of one example.

    Args:
        label: the most probable label.
        probability: its probability.
        scores: label -> probability.
    """

    label: str
    probability: float
    scores: Mapping[str, float]


def write_card(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write ``bundle.json`` with the checksums of all other files: last, so a bundle that has it is whole.

    Args:
        folder: the bundle's folder.
        facts: task, labels, input settings, precision, conditions.
    """
    others = [p for p in sorted(folder.rglob("*")) if p.is_file() and p != folder / CARD]
    files = {p.relative_to(folder).as_posix(): sha256_file(p) for p in others}
    write_json(folder / CARD, {"schema": SCHEMA, **facts, "files": files})


class Bundle:
    """Answer examples from a bundle's files.

    Examples are run one at a time: dynamic quantization scales a whole batch together, so only single examples
    answer the same whatever their neighbors are, and as they were measured.

    Args:
        folder: a folder with ``bundle.json``.
        threads: threads of the runtime; 0 leaves the choice to it.

    Raises:
        AttarError: the folder is no bundle, a file of it is damaged, or its model writes.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.folder = folder
        self.card = read_card(folder)
        if self.card["input"]["kind"] == "prompt":
            raise AttarError(
                f"{folder} holds a model that writes and knows no labels. Ask it with: "
                f'attar predict {folder} "a text of yours"'
            )
        check_files(folder, self.card)
        self.labels: tuple[str, ...] = tuple(self.card["labels"])
        self._session = _session(folder / self.card["model"], threads)
        settings = self.card["input"]
        self._tokenizer = _tokenizer(folder, self.card) if settings["kind"] == "text" else None
        self._frame = Frame.from_json(settings) if "before" in settings else None
        self._calibration = np.asarray(settings.get("calibration") or 0.0, np.float32)

    @property
    def bytes(self) -> int:
        """Return the bytes of all files that answering needs."""
        return folder_bytes(self.folder)

    def scores(self, inputs: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return logits ``(examples, labels)``, less the prompt's calibration.

        Args:
            inputs: texts, or uint8 images ``(examples, channels, height, width)``.
        """
        if len(inputs) == 0:
            return np.zeros((0, len(self.labels)), np.float32)
        return np.concatenate([self._session.run(None, self.feed(one))[0] - self._calibration for one in inputs])

    def run_batch(self, inputs: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return logits ``(examples, labels)`` of examples that run together, the shorter ones padded.

        It is what the speed of batches is measured on. Where activations are scaled at run time, an example's logits
        depend a little on its neighbors: use `scores` for answers.
        """
        feeds = [self.feed(one) for one in inputs]
        longest = max(next(iter(feed.values())).shape[1] for feed in feeds)
        rows = {name: np.concatenate([_padded(feed[name], longest) for feed in feeds]) for name in feeds[0]}
        return np.asarray(self._session.run(None, rows)[0] - self._calibration)

    def length(self, one: str | np.ndarray) -> int:
        """Return how many tokens the model reads of a text, its prompt counted in; 1 for an image."""
        return 1 if self._tokenizer is None else len(self.tokens(str(one)))

    def tokens(self, text: str) -> list[int]:
        """Return the token ids the model reads of a text and its prompt; none for a bundle of images."""
        return [] if self._tokenizer is None else list(self._encode(text).ids)

    def answer(self, inputs: Sequence[str] | np.ndarray) -> list[Answer]:
        """Return the label and all probabilities of each example."""
        answers = []
        for row in self.scores(inputs).astype(np.float64):
            exponent = np.exp(row - row.max())
            probabilities = exponent / exponent.sum()
            best = int(probabilities.argmax())
            named = {label: float(p) for label, p in zip(self.labels, probabilities, strict=True)}
            answers.append(Answer(self.labels[best], float(probabilities[best]), named))
        return answers

    def read_image(self, path: Path) -> np.ndarray:
        """Return an image file as uint8 ``(channels, height, width)`` in the size the model reads.

        Raises:
            AttarError: the file is no image.
        """
        from PIL import Image, UnidentifiedImageError

        channels, height, width = self.card["input"]["shape"]
        try:
            with Image.open(path) as picture:
                sized = picture.convert("L" if channels == 1 else "RGB").resize((width, height))
        except (OSError, UnidentifiedImageError) as error:
            raise AttarError(f"{path} cannot be read as an image: {error}.") from error
        pixels = np.asarray(sized, np.uint8)
        return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)

    def _encode(self, text: str) -> Any:
        tokenizer: Any = self._tokenizer
        if self._frame is None:
            return tokenizer.encode(text)
        cut = self._frame.cut(text, tokenizer.encode(text, add_special_tokens=False).offsets)
        return tokenizer.encode(self._frame.around(cut), add_special_tokens=self._frame.special_tokens)

    def feed(self, one: Any) -> dict[str, np.ndarray]:
        """Return what the graph reads of one example: input name -> array with a batch axis of 1."""
        if self._tokenizer is not None:
            encoded = self._encode(one)
            return {
                "input_ids": np.array([encoded.ids], np.int64),
                "attention_mask": np.array([encoded.attention_mask], np.int64),
            }
        settings = self.card["input"]
        pixels = (one[None].astype(np.float32) / 255.0 - settings["mean"]) / settings["std"]
        return {"pixel_values": pixels.astype(np.float32)}


def _padded(row: np.ndarray, longest: int) -> np.ndarray:
    """Return ids or a mask ``(1, time)`` with zeros up to ``longest``; an image as it is."""
    return np.pad(row, ((0, 0), (0, longest - row.shape[1]))) if row.ndim == 2 else row


def read_card(folder: Path) -> dict[str, Any]:
    """Return a bundle's card; its files are not looked at.

    Raises:
        AttarError: the folder is no bundle, or one of another version.
    """
    path = folder / CARD
    if not path.is_file():
        raise AttarError(f"{folder} is no bundle: it has no {CARD}. Give a run's folder, or its bundle folder.")
    card = read_json(path)
    parts = {"files", "labels", "model", "input"}
    if not isinstance(card, dict) or card.get("schema") != SCHEMA or not parts <= card.keys():
        raise AttarError(f"{path.parent} is no bundle that this attar reads: its {CARD} is of another kind or version.")
    return card


def check_files(folder: Path, card: Mapping[str, Any]) -> None:
    """Check that every file of a bundle is what was exported.

    Raises:
        AttarError: a file is missing or damaged.
    """
    for name, sha256 in card["files"].items():
        if not (folder / name).is_file() or sha256_file(folder / name) != sha256:
            raise AttarError(f"{folder / name} is damaged: its content is not what was exported. Export it again.")


def _session(path: Path, threads: int) -> Any:
    if path.suffix == ".xml":
        from attar.exporters.openvino_session import Session

        return Session(path, threads)
    if path.suffix == ".pte":
        from attar.exporters.executorch_session import Session as Program

        return Program(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no public base class for its errors
        raise AttarError(f"{path} cannot be loaded by onnxruntime: {str(error).splitlines()[0]}") from error


def _tokenizer(folder: Path, card: Mapping[str, Any]) -> Any:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain exceptions
        raise AttarError(f"{path} cannot be read as a tokenizer: {error}. Export it again.") from error
    tokenizer.no_padding()
    if "before" in card["input"]:  # the text is cut, never the prompt around it
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(int(card["input"]["max_length"]))
    return tokenizer
