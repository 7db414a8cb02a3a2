"""Put a new prompt around a trained model, or one that was saved."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from attar.core.cache import cache_name
from attar.core.nouns import Model
from attar.core.prompt import TextPrompt, prompt_tokens
from attar.errors import AttarError
from attar.prompts.kinds.patch import PatchPrompt
from attar.prompts.kinds.pixel import PixelPrompt
from attar.prompts.kinds.prefix import PrefixPrompt
from attar.prompts.kinds.settings import FACT, TEXT, SoftSettings
from attar.prompts.kinds.soft import SoftPrompt
from attar.prompts.kinds.text import PromptedText, language_of
from attar.prompts.kinds.wrapper import PromptedModule
from attar.prompts.kinds.written import leading_tokens

if TYPE_CHECKING:
    import torch

KINDS: dict[str, Any] = {kind.name: kind for kind in (SoftPrompt, PrefixPrompt, PixelPrompt, PatchPrompt)}


def add_prompt(model: Model, settings: SoftSettings, written: TextPrompt | None = None) -> Model:
    """Return the model, frozen, under a new prompt that can be trained; torch's seed decides what is drawn.

    Args:
        model: any student; its network becomes part of the new one.
        settings: see `SoftSettings`.
        written: the prompt that virtual tokens begin as (`attar.prompts.kinds.written`).

    Raises:
        AttarError: the kind of prompt does not fit the model.
    """
    _check(model, settings)
    values = KINDS[settings.kind].begin(model, settings, written)
    module = wrap(model, settings, values)
    facts = {**model.facts, **_longest(model, module), FACT: {"base": model.kind, **settings.model_dump(mode="json")}}
    facts[FACT] |= module.prompt.cost()
    return replace(model, module=module, kind="prompted", facts=facts)


def wrap(model: Model, settings: SoftSettings, values: torch.Tensor) -> PromptedModule:
    """Return a model's network, frozen, under the prompt that some values are."""
    base: Any = model.module
    values = values.to(next(base.parameters()).device)
    if settings.kind == "pixel":
        return PromptedModule(
            base, PixelPrompt(values, model.facts["shape"], None if settings.whole else settings.length)
        )
    if settings.kind == "patch":
        return PromptedModule(base, PatchPrompt(values))
    first = len(leading_tokens(model))
    if settings.kind == "prefix":
        return PromptedText(base, PrefixPrompt(values, first, language_of(base).config))
    return PromptedText(base, SoftPrompt(values, first))


def _check(model: Model, settings: SoftSettings) -> None:
    image = model.processor is None
    if "quantized" in model.facts:
        raise AttarError("A prompt cannot be trained on quantized weights yet. Train it on the model before that step.")
    if model.kind == "prompted":
        raise AttarError("The model has a trained prompt already. Train that one, or start from the model without it.")
    if image == (settings.kind in TEXT):
        fits = "pixel, or patch for a vision transformer" if image else "soft or prefix"
        raise AttarError(
            f"kind: {settings.kind} does not fit a model that reads {'images' if image else 'texts'}. Set kind: {fits}."
        )
    if settings.kind == "prefix" and cache_name(model.module) is None:
        raise AttarError(
            f"kind: prefix needs a causal language model, which takes keys and values of what stands before; "
            f"{type(model.module).__name__} takes none. Set kind: soft."
        )


def _longest(model: Model, module: PromptedModule) -> dict[str, int]:
    """Return ``max_length`` with room for the virtual tokens; nothing for images.

    Raises:
        AttarError: they leave a text no room.
    """
    if not isinstance(module, PromptedText):
        return {}
    longest, length = int(model.facts["max_length"]), module.prompt.length
    positions = int(getattr(language_of(module.base).config, "max_position_embeddings", None) or longest + length)
    own = written = 0
    if "prompt" in model.facts:  # max_length is of the text alone
        own = prompt_tokens(model.processor, TextPrompt.from_json(model.facts["prompt"]))
        written = int(model.facts.get("max_new_tokens", 0))
    else:  # the tokenizer knows where positions begin above 0, as in RoBERTa: 512 of 514
        positions = min(positions, int(model.processor.model_max_length))
    room = positions - length - own - written
    if room < 1:
        raise AttarError(
            f"A prompt of {length} virtual tokens leaves a text no room: the model reads {positions} "
            f"tokens, {own} of them its own prompt's. Set a smaller length."
        )
    return {"max_length": min(longest, room)}
