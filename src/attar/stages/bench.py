"""Run a search for prompts: score what it asks for, keep every score as it comes, count what is spent."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from attar.core.budget import Unit
from attar.core.prompt import TextPrompt
from attar.core.prompting import Ask, Scorer, Writer
from attar.log import progress
from attar.meters.text import rouge_l
from attar.prompts.calibration import CONTENT_FREE, domain_texts
from attar.prompts.search.race import RaceSearch
from attar.store.journal import Journal

DIGITS = 5
"""Digits after the point of a kept log-probability."""
DOMAIN_TEXTS = 5
"""Texts of random words that domain calibration is estimated on."""


class Bench(Protocol):
    """Score prompts on places of a split."""

    def score(self, ask: Ask) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        """Return for each prompt its scores, and what inputs without content scored where that was asked."""

    def spent(self) -> dict[Unit, float]:
        """Return what was spent so far, without time."""


class LabelBench:
    """Score label words; on a prompt's first block, inputs without content are scored along.

    Args:
        scorer: reads label words.
        texts: split -> texts.
        columns: label words to read.
        free: score inputs without content too, for the calibrations that need them.
        seed: of the random words of domain calibration.
    """

    def __init__(
        self, scorer: Scorer, texts: Mapping[str, Sequence[str]], columns: Sequence[str], free: bool, seed: int
    ) -> None:
        self._scorer, self._texts, self._columns = scorer, texts, columns
        self._free = [*CONTENT_FREE, *domain_texts(texts["race"], seed, DOMAIN_TEXTS)] if free else []

    def spent(self) -> dict[Unit, float]:
        """Return the tokens computed so far; of a model behind a server, the calls and dollars too."""
        paid = getattr(self._scorer, "spent", None)
        more: dict[Unit, float] = {} if paid is None else {"calls": paid.calls, "dollars": paid.dollars}
        return {"tokens": self._scorer.token_forwards, **more}

    def score(self, ask: Ask) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        """Return for each prompt ``(examples, columns)`` and, on its first block, ``(inputs, columns)``."""
        free = self._free if ask.split == "race" and ask.first == 0 else []
        texts = [*free, *self._texts[ask.split][ask.first : ask.last]]
        found = self._scorer.score_all(ask.prompts, texts, self._columns)
        return [rows[len(free) :] for rows in found], [rows[: len(free)] if free else None for rows in found]


class Pen(Protocol):
    """Write with a language model under prompts."""

    token_forwards: int

    def write_all(self, prompts: Sequence[TextPrompt], texts: Sequence[str], max_new_tokens: int) -> list[list[str]]:
        """Return for each prompt what the model writes for each text."""


class WritingBench:
    """Score what a model writes against reference texts, by ROUGE-L.

    Args:
        pen: writes.
        texts: split -> texts.
        references: split -> what should be written.
        max_new_tokens: that are written at most.
    """

    def __init__(
        self,
        pen: Pen,
        texts: Mapping[str, Sequence[str]],
        references: Mapping[str, Sequence[str]],
        max_new_tokens: int,
    ) -> None:
        self._pen, self._texts, self._references, self._most = pen, texts, references, max_new_tokens

    def spent(self) -> dict[Unit, float]:
        """Return the tokens computed so far."""
        return {"tokens": self._pen.token_forwards}

    def score(self, ask: Ask) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        """Return for each prompt the metric of what was written ``(examples, 1)``."""
        wanted = self._references[ask.split][ask.first : ask.last]
        written = self._pen.write_all(ask.prompts, self._texts[ask.split][ask.first : ask.last], self._most)
        scores = [
            np.array([[rouge_l(text, reference)] for text, reference in zip(texts, wanted, strict=True)], np.float32)
            for texts in written
        ]
        return scores, [None] * len(scores)


def run_search(search: RaceSearch, bench: Bench, work: Path) -> None:
    """Drive a search to its end; what an earlier try scored is read from its journal, and counts as spent.

    Args:
        search: asks and is told.
        bench: scores.
        work: folder of the journal.
    """
    journal = Journal(work / "scores.jsonl")
    known = {event["ask"]: event for event in journal.events("score")}
    began = time.monotonic()  # what a move takes counts as well: time is read from one answer to the next
    with progress("racing prompts", search.expected) as bar:
        while (ask := search.ask()) is not None:
            place = _place(ask)
            fresh = place not in known
            if fresh:
                before = bench.spent()
                scores, free = bench.score(ask)
                after = bench.spent()
                spent = {unit: after[unit] - before[unit] for unit in after}
                spent["seconds"] = round(time.monotonic() - began, 3)
                known[place] = {"ask": place, "scores": _plain(scores), "free": _plain(free), "spent": spent}
                journal.add("score", **known[place])
            began = time.monotonic()
            event = known[place]
            search.tell(ask, _arrays(event["scores"]), _arrays(event["free"]), event["spent"])  # type: ignore[arg-type]
            best = search.leader()
            if fresh and best is not None:
                value = round(float(best.values.mean()), 4)
                journal.add(
                    "leader", prompt=best.prompt.name, value=value, n=len(best.values), spent=dict(search.spent)
                )
            note = "" if best is None else f"best so far: {best.prompt.name} {best.values.mean():.3f}"
            bar.advance((ask.last - ask.first) * len(ask.prompts), note)


def _place(ask: Ask) -> str:
    read = [[prompt.forward_id for prompt in ask.prompts], ask.first, ask.last, ask.split]
    return hashlib.sha256(json.dumps(read).encode("utf-8")).hexdigest()[:16]


def _plain(arrays: Sequence[np.ndarray | None]) -> list[Any]:
    return [None if rows is None else [[round(float(x), DIGITS) for x in row] for row in rows] for rows in arrays]


def _arrays(values: Sequence[Any]) -> list[np.ndarray | None]:
    return [None if rows is None else np.array(rows, np.float32).reshape(len(rows), -1) for rows in values]


class KeptWriter:
    """Keep what a writer wrote, so that a continued search reads the same again and pays nothing twice.

    Args:
        writer: who writes.
        work: folder of the journal.
    """

    def __init__(self, writer: Writer, work: Path) -> None:
        self._writer = writer
        self._journal = Journal(work / "written.jsonl")
        self._known = {event["key"]: event["texts"] for event in self._journal.events("written")}

    def write(self, requests: Sequence[str], seed: int) -> list[str]:
        """Return one answer for each request."""
        key = hashlib.sha256(json.dumps([list(requests), seed]).encode("utf-8")).hexdigest()[:16]
        if key not in self._known:
            self._known[key] = self._writer.write(requests, seed)
            self._journal.add("written", key=key, texts=self._known[key])
        return list(self._known[key])
