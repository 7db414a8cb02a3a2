"""Let a causal language model read prompts with texts, what they begin with computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from attar.core.prompt import TextPrompt, chat_text, cut, prompt_tokens
from attar.errors import AttarError
from attar.prompts.scoring.batches import common, common_prefix
from attar.prompts.scoring.prefix_store import GIB, PrefixStore
from attar.prompts.scoring.runner import PrefixRunner, Suffixes

DIFFERENT = ("a", "7", "Ünd (")  # texts that begin with unlike tokens: what prompts share before all is the prompt's
MOST_PREFIXES = 4096


class PromptReader:
    """Run prompts on texts.

    Args:
        model: a causal language model of `transformers`, in evaluation mode.
        tokenizer: its tokenizer.
        max_tokens: a longer text loses its end (never the prompt).
        prefix_bytes: what the kept keys and values of prompts may take.
    """

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int = 512, prefix_bytes: int = GIB) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.runner = PrefixRunner(model)
        self.store = PrefixStore(self.runner, prefix_bytes)
        self._prefixes: dict[str, list[int]] = {}

    @property
    def token_forwards(self) -> int:
        """Return the tokens that were computed so far, padding included."""
        return self.runner.token_forwards

    @token_forwards.setter
    def token_forwards(self, count: int) -> None:
        self.runner.token_forwards = count

    def tokens(self, prompt: TextPrompt) -> int:
        """Return the tokens that a prompt adds to every example."""
        return prompt_tokens(self.tokenizer, prompt)

    def shortened(self, texts: Sequence[str]) -> list[str]:
        """Return the texts without what is beyond ``max_tokens``."""
        return [cut(self.tokenizer, text, self.max_tokens) for text in texts]

    def encoded(self, prompt: TextPrompt, texts: Sequence[str], more: int = 0) -> list[list[int]]:
        """Return the tokens that the model reads for each text.

        Args:
            prompt: what it reads with each.
            texts: already shortened.
            more: tokens that must still fit behind them.

        Raises:
            AttarError: the model cannot read so many tokens.
        """
        found = encode_all(self.tokenizer, prompt, texts)
        longest = max((len(tokens) for tokens in found), default=0) + more
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and longest > limit:
            raise AttarError(
                f"The prompt '{prompt.name}' with its longest text has {longest} tokens, and the model reads at most "
                f"{limit}. Show fewer or shorter demonstrations, or cut the texts shorter (max_tokens)."
            )
        return found

    def prefix(self, prompt: TextPrompt) -> list[int]:
        """Return the tokens that a prompt begins with, whatever the text."""
        known = self._prefixes.get(prompt.forward_id)
        if known is None:
            sequences = encode_all(self.tokenizer, prompt, DIFFERENT)
            known = sequences[0][: common_prefix(sequences)]
            if len(self._prefixes) >= MOST_PREFIXES:
                self._prefixes.clear()
            self._prefixes[prompt.forward_id] = known
        return known

    def running(
        self, sequences: Sequence[list[int]], prefixes: Sequence[list[int]], extend: bool = False
    ) -> Iterator[tuple[list[int], Suffixes]]:
        """Yield places of sequences with rows that have read them, within a session of the runner.

        Args:
            sequences: what is to be read, each at least one token.
            prefixes: for each sequence the tokens that it probably begins with; where it does not (the prefix's last
                token may merge with the text's first), only what is common counts.
            extend: the rows are to be extended.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, (tokens, prefix) in enumerate(zip(sequences, prefixes, strict=True)):
            shared = 0 if self.runner.way == "plain" else min(common(tokens, prefix), len(tokens) - 1)
            groups.setdefault(tuple(tokens[:shared]), []).append(place)
        for prefix_tokens in sorted(groups):  # prompts that begin alike one after the other
            places = groups[prefix_tokens]
            layers = self.store.get(prefix_tokens) if prefix_tokens else None
            rests = [sequences[place][len(prefix_tokens) :] for place in places]
            for bucket in self.runner.buckets(np.array([len(rest) for rest in rests]), extend):
                yield [places[i] for i in bucket], self.runner.begin(layers, [rests[i] for i in bucket])


def encode_all(tokenizer: Any, prompt: TextPrompt, texts: Sequence[str]) -> list[list[int]]:
    """Return what `attar.core.prompt.encode` gives for each text, in one call of the tokenizer."""
    if not texts:
        return []
    if not prompt.chat:
        return [list(ids) for ids in tokenizer([prompt.render(text) for text in texts]).input_ids]
    rendered = [chat_text(tokenizer, prompt, text) for text in texts]
    return [list(ids) for ids in tokenizer(rendered, add_special_tokens=False).input_ids]


def unique(sequences: Sequence[list[int]]) -> tuple[list[int], list[int]]:
    """Return the places of the first of each kind of sequence, and for each sequence which of those it is.

    Example:
        >>> unique([[1, 2], [3], [1, 2]])
        ([0, 1], [0, 1, 0])
    """
    kinds: dict[tuple[int, ...], int] = {}
    which = [kinds.setdefault(tuple(sequence), len(kinds)) for sequence in sequences]
    first = {kind: place for place, kind in reversed(list(enumerate(which)))}
    return [first[kind] for kind in range(len(kinds))], which
