"""Search for an instruction with GEPA, the reflective optimizer, where attar scores and its writer reflects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import Field

from attar.core.prompt import TextPrompt
from attar.core.prompting import Scorer, Writer
from attar.errors import AttarError
from attar.optional import require
from attar.prompts.moves.asking import instructed, told
from attar.seeds import derive
from attar.settings import Settings

PART = "instruction"
"""The one text that GEPA changes; it is also the text's name in GEPA's records."""


class GepaSettings(Settings):
    """Set a search with GEPA."""

    calls: int = Field(2000, ge=1, description="examples scored at most, a prompt on an example is one")
    seconds: float | None = Field(None, gt=0, description="after which no new instruction is asked for")
    minibatch: int = Field(8, ge=1, description="examples that decide if a new instruction is scored on all")
    most_tokens: int = Field(1024, ge=16, description="a prompt that adds more counts as wrong everywhere")


@dataclass(frozen=True)
class Answered:
    """Hold how an example went.

    Args:
        text: the example.
        wanted: the right word.
        said: the likeliest word.
    """

    text: str
    wanted: str
    said: str


class GepaAdapter:
    """Score instructions for GEPA (its protocol ``GEPAAdapter``).

    An example's score is the probability of the right label, from 0 to 1.

    Args:
        scorer: reads the label words.
        prompt: whose instruction changes; all else stays.
        most_tokens: that a prompt may add.
    """

    propose_new_texts = None  # GEPA's own way to reflect

    def __init__(self, scorer: Scorer, prompt: TextPrompt, most_tokens: int) -> None:
        self.scorer = scorer
        self.prompt = replace(prompt, calibration=None)
        self.most_tokens = most_tokens
        self._batch = require("gepa.core.adapter", "gepa", "The search 'gepa'").EvaluationBatch

    def evaluate(self, batch: list[tuple[str, int]], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        """Return GEPA's record of a candidate on some examples."""
        prompt = instructed(self.prompt, candidate[PART])
        scores, said = np.zeros(len(batch)), ["(nothing: the instruction is too long)"] * len(batch)
        if self.scorer.tokens(prompt) <= self.most_tokens:
            log_p = self.scorer.answer(prompt, [text for text, _ in batch])
            p = np.nan_to_num(np.exp(log_p), nan=0.0)  # no answer is a wrong one
            scores = p[np.arange(len(batch)), [label for _, label in batch]]
            said = [prompt.words[int(best)] for best in p.argmax(axis=1)]
        answered = [Answered(text, prompt.words[label], word) for (text, label), word in zip(batch, said, strict=True)]
        return self._batch(said, scores.tolist(), answered if capture_traces else None)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Return what GEPA shows the writer: each example, what was said, and what was right."""
        records = [
            {
                "Inputs": {"text": one.text},
                "Generated Outputs": one.said,
                "Feedback": "Right." if one.said == one.wanted else f"Wrong: the right answer is {one.wanted}.",
            }
            for one in eval_batch.trajectories
        ]
        return dict.fromkeys(components_to_update, records)


def optimize_with_gepa(
    scorer: Scorer,
    prompt: TextPrompt,
    train: Sequence[tuple[str, int]],
    validation: Sequence[tuple[str, int]],
    writer: Writer,
    settings: GepaSettings | None = None,
    seed: int = 0,
) -> TextPrompt:
    """Return the prompt with the instruction that GEPA found best on the validation examples.

    The best of many is chosen by its score, so that score is too high; judge it on other examples.

    Args:
        scorer: reads the label words under a prompt.
        prompt: to begin with; it is returned as it is where nothing better is found.
        train: examples ``(text, label)`` that the writer learns from.
        validation: examples that instructions are compared on.
        writer: reflects.
        settings: see `GepaSettings`.
        seed: of GEPA's draws and of the writer.

    Raises:
        AttarError: GEPA is not installed, examples are missing, or the prompt has no label words.

    Reference:
        Agrawal et al., "GEPA: Reflective Prompt Evolution Can Outperform Reinforcement Learning", 2025, algorithm 1.
    """
    settings = settings or GepaSettings()
    gepa = require("gepa", "gepa", "The search 'gepa'")
    if not prompt.words or not train or not validation:
        raise AttarError(
            f"The search 'gepa' needs label words, training and validation examples, got {len(prompt.words)}, "
            f"{len(train)} and {len(validation)}."
        )
    result = gepa.optimize(
        seed_candidate={PART: told(prompt)},
        trainset=list(train),
        valset=list(validation),
        adapter=GepaAdapter(scorer, prompt, settings.most_tokens),
        reflection_lm=_Reflector(writer, seed),
        reflection_minibatch_size=min(settings.minibatch, len(train)),
        max_metric_calls=settings.calls,
        stop_callbacks=_stoppers(settings),
        logger=_Silent(),
        seed=seed % 2**32,
    )
    if result.best_idx == 0:
        return prompt
    return replace(instructed(prompt, result.best_candidate[PART]), name=f"{prompt.name}~gepa", calibration=None)


def _stoppers(settings: GepaSettings) -> list[Any]:
    if settings.seconds is None:
        return []
    return [require("gepa.utils", "gepa", "The search 'gepa'").TimeoutStopCondition(settings.seconds)]


class _Reflector:
    """Answer GEPA's requests with a writer, each with a seed of its own."""

    def __init__(self, writer: Writer, seed: int) -> None:
        self.writer = writer
        self.seed = seed
        self.asked = 0

    def __call__(self, prompt: str) -> str:
        self.asked += 1
        return self.writer.write([prompt], derive(self.seed, "gepa", self.asked))[0]


class _Silent:
    """Take GEPA's log lines: attar's own progress says what people need."""

    def log(self, message: str) -> None:
        """Say nothing."""
