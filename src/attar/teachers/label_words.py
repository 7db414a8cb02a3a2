"""Label texts with a language model and a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from attar.core.examples import Examples
from attar.core.nouns import Signal
from attar.core.prompt import TextPrompt
from attar.core.rows import Rows, example_rows
from attar.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
else:
    torch = lazy("torch")


class Scorer(Protocol):
    """Score texts under a prompt, with the prompt's calibration."""

    def answer(self, prompt: TextPrompt, texts: Sequence[str]) -> np.ndarray:
        """Return log-probabilities ``(texts, labels)``."""


class LabelWordTeacher:
    """Answer with the calibrated log-probability of each label's word after the prompt.

    Args:
        scorer: reads label words from a causal language model.
        prompt: what the model reads.
        fingerprint: identity of weights, tokenizer, prompt and precision together.
    """

    def __init__(self, scorer: Scorer, prompt: TextPrompt, fingerprint: str) -> None:
        self.scorer = scorer
        self.prompt = prompt
        self.fingerprint = fingerprint
        self.gives: frozenset[Signal] = frozenset({"logits", "hard"})

    def answer(self, examples: Examples) -> Rows:
        """Return rows ``(examples, labels)``, in the examples' order."""
        scores = self.scorer.answer(self.prompt, [str(text) for text in examples.inputs])
        return example_rows(torch.from_numpy(np.ascontiguousarray(examples.keys)), torch.from_numpy(scores))
