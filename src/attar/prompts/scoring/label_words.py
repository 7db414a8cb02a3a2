"""Score label words with a causal language model: one forward pass an example, shared prefixes computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.optional import lazy
from attar.prompts.calibration import calibrate
from attar.prompts.scoring.reading import PromptReader, unique
from attar.prompts.scoring.runner import Suffixes
from attar.prompts.scoring.words import Apart, apart, word_tokens

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class LabelWordScorer(PromptReader):
    """Read label-word scores from a causal language model.

    The tokens that all texts of a prompt share (instruction, demonstrations, chat header) are computed once, as keys
    and values, and what prompts share once for all of them; texts go in length-bucketed batches, padded on the right,
    where causal attention never looks back at padding.

    Args:
        model: a causal language model of `transformers`, in evaluation mode.
        tokenizer: its tokenizer.
        max_tokens: a longer text loses its end (never the prompt).
        prefix_bytes: what the kept keys and values of prompts may take.
    """

    def score_all(self, prompts: Sequence[TextPrompt], texts: Sequence[str], words: Sequence[str]) -> list[np.ndarray]:
        """Return for each prompt the log-probability of each word, uncalibrated.

        A word's score is that of the tokens that tell it apart from the other words: its first token where no other
        word begins with it; all of its tokens where another word goes on from its end.

        Args:
            prompts: what the model reads.
            texts: the examples.
            words: words to read.

        Returns:
            For each prompt ``(texts, words)`` float32 log-probabilities, over the whole vocabulary.

        Raises:
            AttarError: a word has no token, a prompt is too long for the model, or scores are not finite.
        """
        shown = self.shortened(texts)
        found: dict[int, np.ndarray] = {}
        with self.runner.session():
            for chat in sorted({prompt.chat for prompt in prompts}):
                places = [place for place, prompt in enumerate(prompts) if prompt.chat == chat]
                read = apart(word_tokens(self.tokenizer, words, chat))
                found |= zip(places, self._scores([prompts[i] for i in places], shown, read), strict=True)
        return [_finite(found[place], prompt, self.model.dtype) for place, prompt in enumerate(prompts)]

    def score(self, prompt: TextPrompt, texts: Sequence[str], words: Sequence[str] | None = None) -> np.ndarray:
        """Return the log-probability of each word after the prompt, uncalibrated.

        Args:
            prompt: what the model reads.
            texts: the examples.
            words: words to read; the prompt's own by default.

        Returns:
            ``(texts, words)`` float32 log-probabilities, over the whole vocabulary.
        """
        return self.score_all([prompt], texts, prompt.words if words is None else words)[0]

    def answer(self, prompt: TextPrompt, texts: Sequence[str]) -> np.ndarray:
        """Return the labels' log-probabilities ``(texts, labels)`` after the prompt's calibration."""
        return calibrate(self.score(prompt, texts), prompt.calibration)

    def _scores(self, prompts: Sequence[TextPrompt], texts: Sequence[str], read: Apart) -> list[np.ndarray]:
        more = max((len(path) for path in read.paths), default=0)
        sequences = [tokens for prompt in prompts for tokens in self.encoded(prompt, texts, more)]
        prefixes = [self.prefix(prompt) for prompt in prompts for _ in texts]
        first, which = unique(sequences)
        out = np.zeros((len(first), len(read.tokens)), np.float32)
        rows = self.running([sequences[i] for i in first], [prefixes[i] for i in first], extend=bool(read.paths))
        for places, suffixes in rows:
            out[places] = self._words(suffixes, read)
        return list(out[which].reshape(len(prompts), len(texts), len(read.tokens)))

    def _words(self, rows: Suffixes, read: Apart) -> np.ndarray:
        """Return the words' log-probabilities ``(rows, words)`` after rows that have read their sequences."""
        steps: dict[tuple[int, ...], torch.Tensor] = {(): self._log_p(rows.last)}
        for path in read.paths:
            hidden = self.runner.extend(rows, [path] * len(rows.read))
            steps |= {path[: i + 1]: self._log_p(hidden[:, i]) for i in range(len(path))}
            rows.forget(len(path))
        parts = [[steps[word[:i]][:, token] for i, token in enumerate(word)] for word in read.tokens]
        return torch.stack([torch.stack(part).sum(dim=0) for part in parts], dim=1).cpu().numpy()

    def _log_p(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.runner.logits(hidden), dim=-1)


def _finite(scores: np.ndarray, prompt: TextPrompt, precision: torch.dtype) -> np.ndarray:
    if np.isfinite(scores).all():
        return scores
    kind = str(precision).removeprefix("torch.")
    raise AttarError(
        f"The model gives scores that are not finite to the prompt '{prompt.name}' in {kind}. Its numbers overflow or "
        "its weights are broken: use the precision float32, and if that does not help, another model."
    )
