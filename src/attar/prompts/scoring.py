"""Score label words with a causal language model: one forward pass an example, the shared prefix computed once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.prompt import TextPrompt, cut, encode
from attar.core.rows import Head, score_shape
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

TOKENS_PER_BATCH = 1536
"""Tokens a forward pass takes at once: measured on 2 cores, more gives no speed and costs memory."""


def word_ids(tokenizer: Any, words: Sequence[str], chat: bool) -> list[int]:
    """Return the first token of each word as the model would write it after the prompt.

    Args:
        tokenizer: the teacher's tokenizer.
        words: the label words.
        chat: a chat answers with the bare word; running text with a space before it.
    """
    found = []
    for word in words:
        ids = tokenizer(word if chat else f" {word}", add_special_tokens=False).input_ids
        if not ids:
            raise AttarError(f"The label word '{word}' has no token in the teacher's vocabulary. Choose another word.")
        found.append(int(ids[0]))
    return found


def distinct(tokenizer: Any, words: Sequence[str], chat: bool) -> bool:
    """Tell whether the words differ in their first token, so that one forward pass can tell them apart."""
    ids = word_ids(tokenizer, words, chat)
    return len(set(ids)) == len(ids)


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all sequences share, leaving each at least one token of its own.

    Example:
        >>> common_prefix([[1, 2, 3], [1, 2, 4]])
        2
        >>> common_prefix([[1, 2], [1, 2]])
        1
    """
    low, high = min(map(list, sequences)), max(map(list, sequences))  # all others lie between the two
    shared = 0
    limit = min(len(sequence) for sequence in sequences) - 1
    while shared < limit and low[shared] == high[shared]:
        shared += 1
    return shared


def length_buckets(lengths: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Yield places in batches of about ``tokens`` padded tokens, longest first (memory peaks at the beginning).

    Args:
        lengths: ``(examples,)`` tokens of each example.
        tokens: padded tokens a batch may have; a longer single example makes a batch of one.
    """
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        count = max(1, tokens // int(lengths[order[first]]))
        yield order[first : first + count]
        first += count


class LabelWordScorer:
    """Read label-word scores from a causal language model.

    The tokens that all texts of a call share (instruction, demonstrations, chat header) are computed once, as keys
    and values; texts go in length-bucketed batches, padded on the right, where causal attention never looks back
    at padding.

    Args:
        model: a causal language model of `transformers`, in evaluation mode.
        tokenizer: its tokenizer.
        max_tokens: a longer text loses its end (never the prompt).
    """

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int = 512) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.token_forwards = 0
        self._kept: tuple[list[int], Any] = ([], None)

    def score(self, prompt: TextPrompt, texts: Sequence[str], words: Sequence[str] | None = None) -> np.ndarray:
        """Return the logit of each word's first token after the prompt, uncalibrated.

        Args:
            prompt: what the model reads.
            texts: the examples.
            words: words to read; the prompt's own by default.

        Returns:
            ``(texts, words)`` float32 logits.
        """
        words = prompt.words if words is None else words
        if not texts:
            return np.zeros((0, len(words)), np.float32)
        ids = torch.tensor(word_ids(self.tokenizer, words, prompt.chat), device=self.model.device)
        sequences = [encode(self.tokenizer, prompt, cut(self.tokenizer, text, self.max_tokens)) for text in texts]
        out = np.zeros((len(texts), len(words)), np.float32)
        with torch.inference_mode():
            shared, prefix = self._prefix(sequences)
            rests = [sequence[shared:] for sequence in sequences]
            for places in length_buckets(np.array([len(rest) for rest in rests]), TOKENS_PER_BATCH):
                hidden = self._last_hidden([rests[i] for i in places], prefix)
                out[places] = self._logits(hidden)[:, ids].float().cpu().numpy()
        return out

    def answer(self, prompt: TextPrompt, texts: Sequence[str]) -> np.ndarray:
        """Return the labels' log-probabilities ``(texts, labels)`` after the prompt's calibration."""
        return calibrate(self.score(prompt, texts), prompt.calibration)

    def _prefix(self, sequences: Sequence[Sequence[int]]) -> tuple[int, Any]:
        """Return how many tokens all share, with their keys and values: the last call's where they still fit."""
        ids, kept = self._kept
        fits = bool(ids) and all(len(s) > len(ids) and list(s[: len(ids)]) == ids for s in sequences)
        shared = common_prefix(sequences) if len(sequences) > 1 else 0
        if fits and shared <= 2 * len(ids):
            return len(ids), kept
        if not shared:
            return 0, None
        ids = list(sequences[0][:shared])
        self.token_forwards += shared
        tokens = torch.tensor([ids], device=self.model.device)
        self._kept = (ids, self.model.base_model(input_ids=tokens, use_cache=True).past_key_values)
        return shared, self._kept[1]

    def _last_hidden(self, rests: Sequence[Sequence[int]], prefix: Any) -> torch.Tensor:
        longest = max(len(rest) for rest in rests)
        tokens = torch.zeros((len(rests), longest), dtype=torch.long)
        for row, rest in enumerate(rests):
            tokens[row, : len(rest)] = torch.tensor(rest)
        past = None
        if prefix is not None:
            past = copy.deepcopy(prefix)
            past.batch_repeat_interleave(len(rests))
        self.token_forwards += tokens.numel()
        states: torch.Tensor = self.model.base_model(
            input_ids=tokens.to(self.model.device), past_key_values=past, use_cache=past is not None
        ).last_hidden_state
        last = torch.tensor([len(rest) - 1 for rest in rests], device=states.device)
        return states[torch.arange(len(rests), device=states.device), last]

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        head = self.model.get_output_embeddings()
        return Head(head.weight, None, *score_shape(self.model.config)).finish(head(hidden))


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Return log-probabilities over the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def batch_calibration(scores: np.ndarray) -> tuple[float, ...]:
    """Return the bias of each label word, estimated without labels.

    A language model prefers some words whatever the text. The mean probability of each label over unlabeled texts
    is that preference; dividing by it makes the labels equally likely on the whole, so classes should be about
    equally frequent in the texts.

    Args:
        scores: ``(texts, labels)`` logits or log-probabilities.

    Returns:
        Log of the mean probability of each label, to subtract from its score.

    Reference:
        Zhou et al., "Batch Calibration", ICLR 2024, equations 3 and 4 (here the mean is taken in log space, which
        bounds the weight of a single confident text).

    Example:
        >>> [round(b, 2) for b in batch_calibration(np.log(np.array([[0.9, 0.1], [0.9, 0.1]])))]
        [-0.11, -2.3]
    """
    return tuple(float(x) for x in log_softmax(scores).mean(axis=0))


def calibrate(scores: np.ndarray, bias: Sequence[float] | None) -> np.ndarray:
    """Return log-probabilities of the labels after the prompt's calibration.

    Args:
        scores: ``(texts, labels)`` logits.
        bias: what to subtract from each label, or None.
    """
    plain = log_softmax(scores)
    return plain if bias is None else log_softmax(plain - np.asarray(bias, np.float32))
