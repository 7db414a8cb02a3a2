"""Write with a causal language model under prompts, greedily, shared prefixes computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.optional import lazy
from attar.prompts.scoring.reading import PromptReader, unique
from attar.prompts.scoring.runner import Suffixes

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class WritingScorer(PromptReader):
    """Let a causal language model write the likeliest next token, one after the other.

    Rows of a batch write together, whatever prompt they stand under; a row that is done leaves. The model's own habits
    of writing (a repetition penalty in its generation settings) are put aside.
    """

    def write_all(self, prompts: Sequence[TextPrompt], texts: Sequence[str], max_new_tokens: int) -> list[list[str]]:
        """Return for each prompt what the model writes for each text, without white space around it.

        Args:
            prompts: what the model reads.
            texts: the examples.
            max_new_tokens: a longer answer is cut off there.

        Raises:
            AttarError: a prompt with its texts and the answer is too long for the model, or scores are not numbers.
        """
        written = self.token_ids(prompts, texts, max_new_tokens)
        decode = self.tokenizer.decode
        return [[str(decode(ids, skip_special_tokens=True)).strip() for ids in answers] for answers in written]

    def token_ids(
        self, prompts: Sequence[TextPrompt], texts: Sequence[str], max_new_tokens: int
    ) -> list[list[list[int]]]:
        """Return the tokens that `write_all` turns into text, the end token included where it was written."""
        shown = self.shortened(texts)
        with self.runner.session():
            sequences = [ids for prompt in prompts for ids in self.encoded(prompt, shown, max_new_tokens)]
            prefixes = [self.prefix(prompt) for prompt in prompts for _ in shown]
            first, which = unique(sequences)
            found: list[list[int]] = [[] for _ in first]
            batches = self.running([sequences[i] for i in first], [prefixes[i] for i in first], extend=True)
            for places, rows in batches:
                for place, answer in zip(places, self._answers(rows, max_new_tokens), strict=True):
                    found[place] = answer
        every = [found[kind] for kind in which]
        return [every[i * len(texts) : (i + 1) * len(texts)] for i in range(len(prompts))]

    def _answers(self, rows: Suffixes, max_new_tokens: int) -> list[list[int]]:
        """Return what each row writes after what it has read."""
        ends = end_tokens(self.model, self.tokenizer)
        answers: list[list[int]] = [[] for _ in rows.read]
        still, hidden = list(range(len(answers))), rows.last
        for step in range(max_new_tokens):
            chosen = self._likeliest(hidden)
            for row, token in zip(still, chosen, strict=True):
                answers[row].append(token)
            going = [i for i, token in enumerate(chosen) if token not in ends]
            if not going or step + 1 == max_new_tokens:
                break
            if len(going) < len(still):
                rows.keep(going)
                still = [still[i] for i in going]
            hidden = self.runner.extend(rows, [[chosen[i]] for i in going])[:, -1]
        return answers

    def _likeliest(self, hidden: torch.Tensor) -> list[int]:
        scores = self.runner.logits(hidden)
        if bool(torch.isnan(scores).any()):
            raise AttarError(
                f"The model's scores are not numbers in {self.model.dtype}, so it cannot write. Use the precision "
                "float32, or another model."
            )
        return [int(token) for token in scores.argmax(dim=-1).tolist()]


def end_tokens(model: object, tokenizer: object) -> frozenset[int]:
    """Return the tokens that end an answer: those that the model's generation settings name, and the tokenizer's."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = own if isinstance(own, (list, tuple)) else [own]
    return frozenset(int(token) for token in (*listed, getattr(tokenizer, "eos_token_id", None)) if token is not None)
