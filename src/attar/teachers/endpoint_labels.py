"""Read label probabilities from the first token of an answer, or from sampled answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.teachers.endpoint_replies import Reply, Top

FEW = 8
"""Texts from which on it is the prompt's fault that no answer names a label."""
SHORTEST_PREFIX = 3
"""Letters by which a token may stand for the beginning of a longer word: " a" or " in" is mostly another word."""
NEGLIGIBLE = 0.01
"""Probability of a token shared by labels below which it is left out instead of refused."""
MARKS = " \t\r\n▁Ġ\"'`*"  # spaces as tokenizers write them, quotes, and emphasis


def check_words(words: Sequence[str]) -> None:
    """Refuse label words that the first token could not tell apart, whatever the server's tokenizer.

    Raises:
        AttarError: a word is empty, or the beginning of another, whatever the case of its letters.
    """
    plain = [word.strip(MARKS).casefold() for word in words]
    for one, first in enumerate(plain):
        for two, second in enumerate(plain):
            if not first or (one != two and second.startswith(first)):
                reason = "is empty" if not first else f"begins the label word '{words[two]}' too"
                raise AttarError(f"The label word '{words[one]}' {reason}. Choose words that begin differently.")


def stands_for(token: str, word: str) -> bool:
    """Tell whether a token is a word, whatever its case, or at least three letters of its beginning.

    Example:
        >>> [stands_for(token, "positive") for token in (" Positive", "pos", " a", "positive.", "positively")]
        [True, True, False, True, False]
    """
    plain, whole = token.strip(MARKS).casefold(), word.strip(MARKS).casefold()
    if plain.startswith(whole):
        return not plain[len(whole) :][:1].isalnum()
    enough = len(plain) >= SHORTEST_PREFIX or (plain != "" and not plain.isascii())
    return enough and whole.startswith(plain)


def label_logprobs(top: Top, words: Sequence[str]) -> list[float | None]:
    """Return the log-probability of each label word's first token.

    Tokens that stand for the same word (``" Positive"``, ``"positive"``, ``" pos"``) are added up.

    Args:
        top: the likeliest first tokens and their log-probabilities.
        words: the label words.

    Returns:
        One value a label, not normalized; None for a label that no token stands for.

    Raises:
        AttarError: two labels share their first token.

    Example:
        >>> [round(x, 2) for x in label_logprobs([(" Good", -0.5), ("good", -2.0), (" bad", -3.0)], ["good", "bad"])]
        [-0.3, -3.0]
    """
    mass = [0.0] * len(words)
    shared: list[tuple[str, float, list[int]]] = []
    for token, value in top:
        meant = [label for label, word in enumerate(words) if stands_for(token, word)]
        if len(meant) == 1:
            mass[meant[0]] += math.exp(value)
        elif meant:
            shared.append((token, math.exp(value), meant))
    for token, probability, meant in shared:
        if probability > max(NEGLIGIBLE, *(mass[label] for label in meant)):
            both = ", ".join(f"'{words[label]}'" for label in meant)
            raise AttarError(
                f"The label words {both} share their first token {token!r} in the server's vocabulary, so one call "
                "cannot tell them apart. Choose words that differ in it."
            )
    return [math.log(value) if value > 0 else None for value in mass]


def filled(found: Sequence[float | None], top: Top) -> list[float]:
    """Return label log-probabilities with a floor for missing ones: half the smallest probability seen.

    A token outside the top choices has at most the smallest of their probabilities.

    Example:
        >>> [round(x, 2) for x in filled([-0.1, None], [(" good", -0.1), (" the", -4.0)])]
        [-0.1, -4.69]
    """
    floor = min((value for _, value in top), default=0.0) - math.log(2)
    return [floor if value is None else value for value in found]


def vote_logprobs(texts: Sequence[str], words: Sequence[str]) -> tuple[list[float], int]:
    """Return label log-probabilities from sampled answers, and how many answers named no label.

    Each share is ``(votes + 1/labels) / (counted votes + 1)``, so that no label is impossible.

    Example:
        >>> shares, unread = vote_logprobs(["Good.", "good", "bad", "hm"], ["good", "bad"])
        >>> [round(math.exp(x), 3) for x in shares], unread
        ([0.625, 0.375], 1)
    """
    votes = [0] * len(words)
    for text in texts:
        meant = [label for label, word in enumerate(words) if _begins_with(text, word)]
        if len(meant) == 1:
            votes[meant[0]] += 1
    counted = sum(votes)
    return [math.log((n + 1 / len(words)) / (counted + 1)) for n in votes], len(texts) - counted


def _begins_with(text: str, word: str) -> bool:
    plain, whole = text.strip(MARKS).casefold(), word.strip(MARKS).casefold()
    return plain.startswith(whole) and not plain[len(whole) :][:1].isalnum()


class LabelReader:
    """Read calibrated label log-probabilities from replies, and count what is missing.

    Args:
        prompt: holds the label words and the calibration.

    Raises:
        AttarError: the label words cannot be told apart.
    """

    def __init__(self, prompt: TextPrompt) -> None:
        check_words(prompt.words)
        self.prompt = prompt
        self.counts: Counter[str] = Counter(dict.fromkeys(("missing_labels", "no_label", "unread_votes"), 0))

    def scores(self, replies: Sequence[Sequence[Reply]]) -> np.ndarray:
        """Return log-probabilities ``(texts, labels)`` float32: of one reply a text its first token, of several votes.

        Raises:
            AttarError: labels share their first token, or no text's answer names a label.
        """
        before = self.counts["no_label"]
        rows = [self._row(one) for one in replies]
        if len(rows) >= FEW and self.counts["no_label"] - before == len(rows):
            raise AttarError(
                f"None of {len(rows)} answers names a label ({', '.join(self.prompt.words)}); they begin with "
                f"{_common(replies)}. Say in the prompt that one of these words must be answered, or change them."
            )
        return np.array(rows, np.float32).reshape(len(rows), len(self.prompt.words))

    def _row(self, replies: Sequence[Reply]) -> np.ndarray:
        words = self.prompt.words
        tokens = replies[0].tokens
        if tokens is None or len(replies) > 1:
            found, unread = vote_logprobs([reply.text for reply in replies], words)
            self.counts["unread_votes"] += unread
            silent = unread == len(replies)
        else:
            top = tokens[0].top if tokens else ()  # a model may end at once
            seen = label_logprobs(top, words)
            self.counts["missing_labels"] += seen.count(None)
            silent = all(value is None for value in seen)
            found = filled(seen, top)
        self.counts["no_label"] += silent
        bias = 0.0 if silent or self.prompt.calibration is None else np.array(self.prompt.calibration)
        return _log_softmax(_log_softmax(np.array(found)) - bias)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def _common(replies: Sequence[Sequence[Reply]]) -> str:
    texts = Counter(reply.text.strip()[:20] for (reply, *_) in replies)
    return ", ".join(repr(text) for text, _ in texts.most_common(3))
