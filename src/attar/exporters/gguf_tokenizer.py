"""Say a byte-level BPE tokenizer in the words of GGUF."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from attar.errors import AttarError
from attar.optional import lazy

gguf: Any = lazy("gguf")

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
ENDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
NAMES = {
    ("bytes",): "gpt-2",
    ("digits", "bytes"): "smollm",
    (WORDS + r"\p{N}" + ENDS, "raw bytes"): "qwen2",
    (WORDS + r"\p{N}{1,3}" + ENDS, "raw bytes"): "llama-bpe",
}
"""How a text is parted before its tokens are found -> llama.cpp's name for it."""
WHOLE_WORDS = "llama-bpe"
"""Here a word that is a token is not put together by merges."""


@dataclass(frozen=True)
class Words:
    """Hold a tokenizer as GGUF does.

    Args:
        pre: llama.cpp's name for how a text is parted.
        tokens: every token, in the order of their ids.
        types: what each is: a number of GGUF's ``TokenType``.
        merges: pairs of tokens, with a space between.
        begins: the tokenizer puts its first token before a text.
        chat: the chat template; None without one.
        ids: ``bos``, ``eos``, ``unk`` and ``pad`` -> id, where there is one.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    begins: bool
    chat: str | None
    ids: dict[str, int]


def words_of(tokenizer: Any, count: int) -> Words:
    """Return what GGUF holds of a tokenizer.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        count: rows of the model's table of tokens; rows beyond the tokenizer's get a name that no text has.

    Raises:
        AttarError: it is no byte-level BPE tokenizer, or one whose way to part texts llama.cpp has no name for.
    """
    body = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = _pre(body)
    known = body["model"]["vocab"]
    added = {int(token["id"]): token for token in body["added_tokens"]}
    names = {int(place): name for name, place in known.items()} | {
        place: one["content"] for place, one in added.items()
    }
    if max(names) >= count:
        raise AttarError(
            f"The tokenizer has the token {max(names)}, and the model's table {count} rows. Save them again."
        )
    kinds = gguf.TokenType
    types = [
        (kinds.CONTROL if added[place]["special"] else kinds.USER_DEFINED)
        if place in added
        else kinds.NORMAL
        if place in names
        else kinds.UNUSED
        for place in range(count)
    ]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in body["model"]["merges"]]
    tokens = [names.get(place, f"[PAD{place}]") for place in range(count)]
    return Words(
        pre, tokens, [int(kind) for kind in types], merges, _begins(tokenizer), _chat(tokenizer), _ids(tokenizer)
    )


def _pre(body: dict[str, Any]) -> str:
    """Return llama.cpp's name for how a tokenizer parts a text."""
    model = body["model"]
    if model["type"] != "BPE" or model.get("byte_fallback") or model.get("end_of_word_suffix"):
        raise AttarError(
            f"GGUF is written with byte-level BPE tokenizers, and this one is {model['type']}. Export to hf or onnx."
        )
    normalizer = body["normalizer"]
    pre = NAMES.get(tuple(_part(one) for one in _parts(body["pre_tokenizer"])))
    plain = normalizer is None or normalizer["type"] == "NFC"  # llama.cpp reads texts as they come, nearly always NFC
    if pre is None or not plain or bool(model.get("ignore_merges")) != (pre == WHOLE_WORDS):
        told = json.dumps({"normalizer": normalizer, "pre_tokenizer": body["pre_tokenizer"]}, ensure_ascii=False)
        raise AttarError(
            f"llama.cpp must know how a tokenizer parts texts; attar knows its names {', '.join(NAMES.values())}. This "
            f"tokenizer does it otherwise: {told[:300]}. Export to hf or onnx."
        )
    return pre


def _parts(pre: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre is None:
        return []
    return list(pre["pretokenizers"]) if pre["type"] == "Sequence" else [pre]


def _part(pre: dict[str, Any]) -> str:
    """Return a part of a pre-tokenizer in a word: the expression of one that splits; its JSON if it is another."""
    if pre["type"] == "ByteLevel" and not pre["add_prefix_space"]:
        return "bytes" if pre["use_regex"] else "raw bytes"
    if pre == {"type": "Digits", "individual_digits": True}:
        return "digits"
    if pre["type"] == "Split" and pre["behavior"] == "Isolated" and not pre["invert"] and "Regex" in pre["pattern"]:
        return str(pre["pattern"]["Regex"])
    return json.dumps(pre)


def _begins(tokenizer: Any) -> bool:
    """Tell whether the tokenizer puts its first token before a text, and refuse what else it puts there."""
    ids = list(tokenizer("").input_ids)
    if ids not in ([], [tokenizer.bos_token_id]):
        raise AttarError(
            f"The tokenizer puts the tokens {tokenizer.convert_ids_to_tokens(ids)} around a text; GGUF is written with "
            "none or the first alone. Export to hf or onnx."
        )
    return bool(ids)


def _chat(tokenizer: Any) -> str | None:
    return tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None


def _ids(tokenizer: Any) -> dict[str, int]:
    found = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    return {name: int(place) for name, place in found.items() if place is not None}
