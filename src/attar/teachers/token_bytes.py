"""Tell which bytes of text each token of a tokenizer stands for, and which tokens two tokenizers share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from attar.errors import AttarError

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE = "▁"
"""The space of SentencePiece tokenizers."""
END = ""
"""Stands for the end token, whatever either tokenizer calls it."""


def backend(tokenizer: Any) -> Any:
    """Return the `tokenizers` object inside a tokenizer of `transformers`.

    Raises:
        AttarError: it is a slow tokenizer, which tells nothing of its inside.
    """
    found = getattr(tokenizer, "backend_tokenizer", None)
    if found is None:
        raise AttarError(
            f"{type(tokenizer).__name__} has no tokenizer.json. Teacher and student of different vocabularies are "
            "aligned through fast tokenizers alone: use a model that comes with one."
        )
    return found


def token_bytes(tokenizer: Any) -> list[bytes | None]:
    """Return the bytes that each token stands for, in the order of ids; None for special tokens and gaps.

    The alphabets of byte-level BPE (``Ġ`` for a space), SentencePiece (``▁``, ``<0x0A>``) and WordPiece (``##``) are
    undone, so that equal text has equal bytes in every vocabulary.

    Args:
        tokenizer: a fast tokenizer of `transformers`.

    Raises:
        AttarError: it is a slow tokenizer.
    """
    inner = backend(tokenizer)
    vocabulary: dict[str, int] = inner.get_vocab(with_added_tokens=True)
    found: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
    body = json.loads(inner.to_str())
    kinds = {*_kinds(body["decoder"]), *_kinds(body["pre_tokenizer"]), body["model"].get("type")}
    prefix = body["model"].get("continuing_subword_prefix") or "##"
    for token, place in vocabulary.items():
        found[place] = _plain(token, kinds, prefix)
    for place, added in inner.get_added_tokens_decoder().items():
        found[place] = None if added.special else added.content.encode()
    if tokenizer.unk_token_id is not None:
        found[tokenizer.unk_token_id] = None
    return found


def vocabulary_map(teacher: Any, student: Any, choices: int | None = None) -> np.ndarray:
    """Return the student's id of each of the teacher's tokens, -1 where the student has no equal one.

    Tokens are equal if they stand for the same bytes, special tokens if they have the same name; the two end tokens
    are equal whatever their names. No two tokens have one image: of tokens with equal bytes, the one that its
    tokenizer writes counts, so probabilities need not be added, which one number could not hold at all temperatures.

    Args:
        teacher: the teacher's fast tokenizer.
        student: the student's fast tokenizer.
        choices: how many choices the teacher's rows have, which padding may make more than its tokens; the number of
            tokens if None.

    Returns:
        ``(choices,)`` int64.

    Raises:
        AttarError: one is a slow tokenizer.
    """
    ours, theirs = _ids(student), _ids(teacher)
    found = np.full(choices or max(theirs.values(), default=-1) + 1, -1, dtype=np.int64)
    for content in ours.keys() & theirs.keys():
        if theirs[content] < len(found):  # a token added to the tokenizer alone has no choice
            found[theirs[content]] = ours[content]
    return found


def same_but_padding(first: Any, second: Any) -> bool:
    """Tell whether two tokenizers cut every text into the same ids, so that their models differ in padding at most.

    Rows of such models can be compared as they are: the objectives leave out the choices that only one has.

    Raises:
        AttarError: one is a slow tokenizer.
    """
    return cutting(first) == cutting(second)


def cutting(tokenizer: Any) -> str:
    """Return a text that is equal only for tokenizers that turn every text into the same ids, the end's included.

    What a caller set on them, such as padding or truncation, is left out.
    """
    body = json.loads(backend(tokenizer).to_str())
    own = {name: body[name] for name in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
    return json.dumps({**own, "end": tokenizer.eos_token_id}, sort_keys=True)


def _ids(tokenizer: Any) -> dict[bytes | str, int]:
    """Return what tokens stand for -> id: bytes for text, the name for special tokens, `END` for the end token."""
    inner = backend(tokenizer)
    added = inner.get_added_tokens_decoder()
    vocabulary = inner.get_vocab(with_added_tokens=True)
    # the later wins: a byte token is written only where no piece fits, an added token before all pieces
    names = sorted(vocabulary, key=lambda name: (vocabulary[name] in added, not BYTE_TOKEN.fullmatch(name)))
    text = token_bytes(tokenizer)
    found: dict[bytes | str, int] = {}
    for name in names:
        place = vocabulary[name]
        own = text[place]
        if own is not None:
            found[own] = place
        elif place not in (tokenizer.eos_token_id, tokenizer.unk_token_id):
            found[name] = place
    if tokenizer.eos_token_id is not None:
        found[END] = tokenizer.eos_token_id
    return found


def _kinds(part: Any) -> Iterator[str]:
    """Yield the types named in a part of a ``tokenizer.json``, however deep."""
    if isinstance(part, dict):
        yield from ([part["type"]] if isinstance(part.get("type"), str) else [])
        for value in part.values():
            yield from _kinds(value)
    elif isinstance(part, list):
        for value in part:
            yield from _kinds(value)


def _plain(token: str, kinds: set[str | None], prefix: str) -> bytes:
    if "ByteLevel" in kinds:
        alphabet = byte_alphabet()
        if all(character in alphabet for character in token):
            return bytes(alphabet[character] for character in token)
        return token.encode()
    if "WordPiece" in kinds:
        return token.removeprefix(prefix).encode() if token.startswith(prefix) else f" {token}".encode()
    byte = BYTE_TOKEN.fullmatch(token) if "ByteFallback" in kinds else None
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()


@cache
def byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    Reference:
        Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.2.

    Example:
        >>> byte_alphabet()["Ġ"], byte_alphabet()["a"]
        (32, 97)
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}
