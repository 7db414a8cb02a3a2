"""Find where two tokenizers cut one text at the same byte: there their next tokens may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from attar.teachers.token_bytes import cutting, token_bytes

NOWHERE = int(np.iinfo(np.int64).min)
"""The start of a token that begins at no byte one could name."""


class Cut(Protocol):
    """Say where one side's tokens begin in a completion."""

    def starts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return for each text the bytes at which its tokens begin, the end token's last.

        Args:
            texts: completions.

        Returns:
            One array ``(tokens + 1,)`` int64 a text, in the order of the rows. Bytes are counted from the text's own
            first byte: a space that is put before the text begins at -1. `NOWHERE` marks a token whose prefix is not
            a whole number of the text's bytes. A text without rows, such as an empty one, has an empty array.
        """


class TokenizerCut:
    """Cut completions with a tokenizer: the text's tokens, then the end token.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        before: what is written before the completion and cut together with it, for example a space.
        limit: most tokens of a completion, the end token included; None for no limit.

    Raises:
        AttarError: it is a slow tokenizer.
    """

    def __init__(self, tokenizer: Any, before: str = "", limit: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.before = before
        self.limit = limit
        self._bytes = token_bytes(tokenizer)

    @property
    def identity(self) -> str:
        """Return a text that is equal only for cuts that cut every text equally."""
        return f"{cutting(self.tokenizer)}\n{self.before!r} {self.limit}"

    def starts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return for each text the bytes at which its tokens begin, the end token's last (see `Cut.starts`)."""
        written = [f"{self.before}{text}" for text in texts]
        if not written:  # tokenizers refuse an empty batch
            return []
        found = self.tokenizer(written, add_special_tokens=False, return_offsets_mapping=True)
        parts = zip(texts, found["input_ids"], found["offset_mapping"], strict=True)
        return [self._starts(text, ids, offsets) if text else np.zeros(0, np.int64) for text, ids, offsets in parts]

    def _starts(self, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> np.ndarray:
        last = None if self.limit is None else self.limit - 1
        pieces = [self._bytes[i] for i in ids[:last]]
        exact = starts_of_bytes(pieces, text)
        if exact is None:
            exact = starts_of_offsets(offsets[:last], text, self.before)
            if pieces and (pieces[0] or b"").startswith(b" ") and not f"{self.before}{text}".startswith(" "):
                exact[0] -= 1  # the first token brings a space of its own
        return exact


def starts_of_bytes(pieces: Sequence[bytes | None], text: str) -> np.ndarray | None:
    r"""Return where tokens begin, from the bytes they stand for; None if those are not the text's.

    Exact even inside a character that several tokens share.

    Args:
        pieces: bytes of each token of the text, or of its first tokens; None for one that stands for no text.
        text: what they are the tokens of; the tokens may have spaces before it.

    Returns:
        ``(pieces + 1,)`` int64, the end's last; None where a tokenizer changed the text (case, accents, spaces).

    Example:
        >>> starts_of_bytes([b" caf", b"\xc3", b"\xa9"], "café").tolist()
        [-1, 3, 4, 5]
    """
    known = [piece for piece in pieces if piece is not None]
    joined, own = b"".join(known), text.encode()
    lead = _spaces(joined) - _spaces(own)
    if len(known) < len(pieces) or lead < 0 or not (b" " * lead + own).startswith(joined):
        return None
    ends = np.cumsum([0, *map(len, known)], dtype=np.int64)
    return _distinct(ends - lead)


def starts_of_offsets(offsets: Sequence[tuple[int, int]], text: str, before: str = "") -> np.ndarray:
    """Return where tokens begin, from their places in the text: each begins where the one before it ended.

    Where it begins itself does not matter, because tokenizers leave spaces out there. A token that begins before the
    end of the one before it shares a character with it: it begins `NOWHERE`.

    Args:
        offsets: first and last character (exclusive) of each token in ``before + text``.
        text: the completion.
        before: what stands before it.

    Returns:
        ``(offsets + 1,)`` int64 bytes from the text's first, the end's last.

    Example:
        >>> starts_of_offsets([(0, 3), (4, 7)], "the cat").tolist()
        [0, 3, 7]
    """
    whole = f"{before}{text}"
    at = np.cumsum([0, *(len(character.encode()) for character in whole)], dtype=np.int64)
    ends = np.array([0, *(last for _, last in offsets)], dtype=np.int64)
    firsts = np.array([*(first for first, _ in offsets), len(whole)], dtype=np.int64)
    return _distinct(np.where(firsts < ends, NOWHERE, at[ends] - len(before.encode())))


def align(student: Sequence[np.ndarray], teacher: Sequence[np.ndarray]) -> np.ndarray:
    """Return for each of the student's rows the position of the teacher's row after the same prefix.

    Args:
        student: the starts of each text, as from `Cut.starts`.
        teacher: the starts of the same texts by the teacher's tokenizer.

    Returns:
        ``(student rows of all texts,)`` int64, a position in the same text, or -1 where the teacher has no such row.

    Example:
        >>> align([np.array([0, 3, 7])], [np.array([0, 5, 7])]).tolist()
        [0, -1, 2]
    """
    ours, theirs = _codes(student), _codes(teacher)
    position = positions(teacher)[theirs != NOWHERE]
    theirs = theirs[theirs != NOWHERE]
    if not len(theirs):
        return np.full(len(ours), -1, dtype=np.int64)
    order = np.argsort(theirs, kind="stable")
    place = order[np.minimum(np.searchsorted(theirs[order], ours), len(theirs) - 1)]
    return np.where(theirs[place] == ours, position[place], -1)


def positions(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the place of each row in its own text ``(rows of all texts,)``.

    Example:
        >>> positions([np.zeros(2), np.zeros(3)]).tolist()
        [0, 1, 0, 1, 2]
    """
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(len(part)) for part in parts)])


def find_rows(key: np.ndarray, keys: np.ndarray, owner: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return where in the teacher's rows ``key (rows, 2)`` each of the student's rows finds its own, or -1.

    Args:
        key: example and position of each of the teacher's rows.
        keys: of the examples.
        owner: the place of each of the student's rows in ``keys``.
        position: of the teacher's row looked for, or -1.
    """
    if not len(key):
        return np.full(len(owner), -1, dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    example = order[np.minimum(np.searchsorted(keys[order], key[:, 0]), len(keys) - 1)]
    codes = np.where(keys[example] == key[:, 0], (example << 32) + key[:, 1], -1)
    wanted = np.where(position >= 0, (owner << 32) + position, -2)
    rank = np.argsort(codes, kind="stable")
    place = rank[np.minimum(np.searchsorted(codes[rank], wanted), len(codes) - 1)]
    return np.where(codes[place] == wanted, place, -1)


def _codes(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return one number for each row: its text and its start together; `NOWHERE` stays."""
    codes = [np.where(part == NOWHERE, NOWHERE, (place << 32) + part) for place, part in enumerate(parts)]
    return np.concatenate([np.zeros(0, np.int64), *codes])


def _distinct(starts: np.ndarray) -> np.ndarray:
    """Return the starts, those that several tokens share replaced by `NOWHERE`: which of them to compare is unknown."""
    _, back, counts = np.unique(starts, return_inverse=True, return_counts=True)
    return np.where(counts[back] > 1, NOWHERE, starts)


def _spaces(data: bytes) -> int:
    return len(data) - len(data.lstrip(b" "))
