"""Find the tokens that tell label words apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attar.errors import AttarError
from attar.prompts.scoring.batches import common


def word_tokens(tokenizer: Any, words: Sequence[str], chat: bool) -> list[list[int]]:
    """Return all tokens of each word as the model would write it after the prompt.

    Args:
        tokenizer: the model's tokenizer.
        words: the label words.
        chat: a chat answers with the bare word; running text with a space before it.

    Raises:
        AttarError: there is no word, or a word has no token.
    """
    if not words:
        raise AttarError("There is no label word to score, and each label needs one. Give the labels' words.")
    found = []
    for word in words:
        ids = [int(i) for i in tokenizer(word if chat else f" {word}", add_special_tokens=False).input_ids]
        if not ids:
            raise AttarError(f"The label word '{word}' has no token in the model's vocabulary. Choose another word.")
        found.append(ids)
    return found


@dataclass(frozen=True)
class Apart:
    """Hold the tokens that tell words apart.

    Args:
        tokens: of each word, the first that no other word begins with; all of them where another word goes on from
            its end.
        paths: the shared tokens that must be read before the last token of some word can be scored.
    """

    tokens: tuple[tuple[int, ...], ...]
    paths: tuple[tuple[int, ...], ...]


def apart(tokens: Sequence[Sequence[int]]) -> Apart:
    """Return what tells words apart.

    Example:
        >>> apart([[5, 1], [5, 2, 3], [7, 8]])
        Apart(tokens=((5, 1), (5, 2), (7,)), paths=((5,),))
    """
    needed = []
    for word in tokens:
        shared = max((common(word, other) for other in tokens if list(other) != list(word)), default=0)
        needed.append(tuple(word[: shared + 1]))
    before = {word[:-1] for word in needed if len(word) > 1}
    ends = [path for path in before if not any(other != path and other[: len(path)] == path for other in before)]
    return Apart(tuple(needed), tuple(sorted(ends)))
