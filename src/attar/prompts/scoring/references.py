"""Score reference texts with a causal language model: how likely it finds them after a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.optional import lazy
from attar.prompts.scoring.reading import PromptReader, unique
from attar.prompts.scoring.runner import Suffixes

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

ROWS = 128
"""Rows whose scores over the vocabulary are laid out at once."""


class ReferenceScorer(PromptReader):
    """Read the log-likelihood of given texts after prompts, shared prefixes computed once."""

    def score_all(
        self, prompts: Sequence[TextPrompt], texts: Sequence[str], references: Sequence[str]
    ) -> list[np.ndarray]:
        """Return for each prompt the log-likelihood of each text's reference.

        Args:
            prompts: what the model reads.
            texts: the examples.
            references: the text that should be written for each; the end of writing is not scored.

        Returns:
            For each prompt ``(texts, 2)`` float32: the log-likelihood in nats, and the tokens it is the sum over.

        Raises:
            AttarError: there is not one reference for each text, a prompt with its texts is too long for the model, or
                scores are not finite.
        """
        if len(texts) != len(references):
            raise AttarError(
                f"There are {len(texts)} texts and {len(references)} references, and each text needs one. Give as many."
            )
        shown = self.shortened(texts)
        with self.runner.session():
            out = self._scores(prompts, shown, references)
        for prompt, scores in zip(prompts, out, strict=True):
            if not np.isfinite(scores).all():
                raise AttarError(
                    f"The model finds references under the prompt '{prompt.name}' infinitely unlikely, or its numbers "
                    f"overflow in {self.model.dtype}. Use the precision float32, or another model."
                )
        return list(out)

    def _scores(self, prompts: Sequence[TextPrompt], texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
        sequences, prefixes, answers = [], [], []
        for prompt in prompts:
            said = [self._answer(prompt, reference) for reference in references]
            read = self.encoded(prompt, texts, max((len(answer) for answer in said), default=0))
            sequences += [[*tokens, *answer] for tokens, answer in zip(read, said, strict=True)]
            prefixes += [self.prefix(prompt)] * len(texts)
            answers += [len(answer) for answer in said]
        # the same tokens with another border between text and reference are another question
        first, which = unique([[*tokens, count] for tokens, count in zip(sequences, answers, strict=True)])
        found = np.zeros((len(first), 2), np.float32)
        # the hidden state before the reference's first token is needed, so it may not lie in the prefix
        before = [prefixes[i][: len(sequences[i]) - answers[i] - 1] for i in first]
        for places, rows in self.running([sequences[i] for i in first], before):
            counts = [answers[first[place]] for place in places]
            found[places, 0] = self._likelihoods(rows, counts)
            found[places, 1] = counts
        return found[which].reshape(len(prompts), len(texts), 2)

    def _answer(self, prompt: TextPrompt, reference: str) -> list[int]:
        return list(self.tokenizer(prompt.answer(reference), add_special_tokens=False).input_ids)

    def _likelihoods(self, rows: Suffixes, counts: Sequence[int]) -> np.ndarray:
        """Return the log-likelihood of the last tokens of each row, ``counts`` of them."""
        row = torch.tensor([i for i, count in enumerate(counts) for _ in range(count)], dtype=torch.long)
        place = [len(rows.read[i]) - count + k for i, count in enumerate(counts) for k in range(count)]
        token = torch.tensor([rows.read[i][p] for i, p in zip(row.tolist(), place, strict=True)], dtype=torch.long)
        device = rows.hidden.device
        states = rows.hidden[row.to(device), torch.tensor(place, dtype=torch.long, device=device) - 1]
        out = np.zeros(len(counts), np.float64)
        for first in range(0, len(row), ROWS):
            part = slice(first, first + ROWS)
            log_p = torch.log_softmax(self.runner.logits(states[part]), dim=-1)
            chosen = log_p.gather(1, token[part, None].to(device))[:, 0].double().cpu().numpy()
            np.add.at(out, row[part].numpy(), chosen)
        return out
