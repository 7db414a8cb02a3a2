"""Find the tokens of a written prompt that virtual tokens can stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attar.core.nouns import Model
from attar.core.prompt import TextPrompt
from attar.core.reading import Frame, frame_of
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

EXAMPLE = "a"
"""The text that stands in a prompt while its tokens are found."""


def leading_tokens(model: Model) -> list[int]:
    """Return the special tokens that every input of a text model begins with: ``[CLS]``, or where a text begins.

    Virtual tokens stand behind them: an encoder's pooler reads the first token, and a language model was trained with
    it at the first place.
    """
    tokenizer, frame = model.processor, _own(model)
    bare = list(tokenizer(EXAMPLE, add_special_tokens=False).input_ids)
    dressed = list(tokenizer(EXAMPLE).input_ids)
    added = next((i for i in range(len(dressed)) if dressed[i : i + len(bare)] == bare), 0)
    ids = list(tokenizer(frame.around(EXAMPLE), add_special_tokens=frame.special_tokens).input_ids)
    return ids[:added] if ids[:added] == dressed[:added] else []


def written_tokens(model: Model, written: TextPrompt) -> list[int]:
    """Return the tokens of a written prompt that stand before all that the model reads anyway.

    A model with a prompt of its own goes on reading it; the written one is the same with more before it: an
    instruction, or demonstrations. A model without a prompt reads the text alone.

    Args:
        model: a text model with its tokenizer; its facts may name its own prompt.
        written: the prompt.

    Raises:
        AttarError: the written prompt says nothing before, or differs from the model's own in what follows.
    """
    own, frame = _own(model), frame_of(model.processor, written, 1)
    if frame.after != own.after or not frame.before.endswith(own.before):
        raise AttarError(
            f"The prompt '{written.name}' must end as the model's own, and stand before it: the model reads "
            f"{own.around('{text}')!r}, the prompt is {frame.around('{text}')!r}. Give the model's own prompt with an "
            "instruction or demonstrations, or set init: vocabulary."
        )
    more = len(frame.before) - len(own.before)
    found = model.processor(frame.around(EXAMPLE), add_special_tokens=False, return_offsets_mapping=True)
    ids = [int(i) for i, (start, _) in zip(found.input_ids, found.offset_mapping, strict=True) if start < more]
    first = leading_tokens(model)
    ids = ids[len(first) :] if first and ids[: len(first)] == first else ids
    if not ids:
        raise AttarError(
            f"The prompt '{written.name}' says nothing before the model's own prompt, so no virtual token can stand "
            "for it. Give it an instruction or demonstrations, or set init: vocabulary."
        )
    return ids


def fitted(ids: Sequence[int], length: int) -> list[int]:
    """Return a written prompt's tokens, made to a length.

    Of a longer prompt the end stays, which is nearest to the text; a shorter one is repeated in front.

    Example:
        >>> fitted([1, 2, 3], 2), fitted([1, 2, 3], 5)
        ([2, 3], [2, 3, 1, 2, 3])
    """
    return (list(ids) * math.ceil(length / len(ids)))[-length:]


def _own(model: Model) -> Frame:
    """Return what the model reads around each text without virtual tokens."""
    if "prompt" not in model.facts:
        return Frame("", "", True, (False, False), 1)
    return frame_of(model.processor, TextPrompt.from_json(model.facts["prompt"]), 1)


def start_tokens(model: Model, init: str, length: int, written: TextPrompt | None) -> list[int]:
    """Return the real tokens that virtual ones begin as.

    Args:
        model: a text model.
        init: see `SoftSettings.init`; random begins near tokens drawn from the vocabulary.
        length: how many.
        written: the prompt to begin as, if there is one.

    Raises:
        AttarError: ``init`` is text and no prompt is written.
    """
    if init == "text" and written is None:
        raise AttarError("init: text needs a written prompt to begin as. Give one, or set init: vocabulary.")
    if written is not None and init in ("auto", "text"):
        return fitted(written_tokens(model, written), length)
    drawn: list[int] = torch.randint(len(model.processor), (length,)).tolist()
    return drawn
