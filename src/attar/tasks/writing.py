"""Let a language model write: greedily, with beams, or by sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from attar.core.nouns import Model
from attar.optional import lazy
from attar.settings import Settings
from attar.tasks.text_generation import prompt_tokens

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

TOKENS_PER_BATCH = 2048
"""Padded prompt tokens, times beams or samples, that are read at once."""


class WritingSettings(Settings):
    """Set how texts are written."""

    how: Literal["greedy", "beam", "sample"] = Field("greedy", description="the likeliest token, beams, or chance")
    beams: int = Field(4, ge=2, le=64, description="texts followed at once (beam)")
    samples: int = Field(1, ge=1, le=64, description="texts written for each example (sample)")
    temperature: float = Field(1.0, gt=0, le=10, description="of the sampling")
    top_p: float = Field(1.0, gt=0, le=1, description="mass of the likeliest tokens that are sampled from")


def write(
    model: Model, texts: Sequence[str], settings: WritingSettings | None = None, seed: int = 0
) -> list[list[str]]:
    """Return what the model writes for each text: ``samples`` completions each, without white space around them.

    Args:
        model: a causal language model with a prompt in its facts.
        texts: what stands in the prompt.
        settings: see `WritingSettings`; greedy by default.
        seed: of the sampling; torch's own random numbers are left as they were.
    """
    settings = settings or WritingSettings()
    prompts = [prompt_tokens(model, text) for text in texts]
    copies = settings.samples if settings.how == "sample" else 1
    wide = settings.beams if settings.how == "beam" else copies
    out: list[list[str]] = [[] for _ in texts]
    order = np.argsort([-len(prompt) for prompt in prompts], kind="stable")
    first = 0
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        while first < len(order):
            count = max(1, TOKENS_PER_BATCH // (len(prompts[order[first]]) * wide))
            places = order[first : first + count]
            written = _write([prompts[i] for i in places], model, settings)
            for row, place in enumerate(places):
                out[place] = written[row * copies : (row + 1) * copies]
            first += count
    return out


def _write(prompts: Sequence[Sequence[int]], model: Model, settings: WritingSettings) -> list[str]:
    network: Any = model.module
    end = int(model.processor.eos_token_id)
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), end, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padded on the left: all continue at the same place
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    device = next(network.parameters()).device
    ends = {"max_new_tokens": model.facts["max_new_tokens"], "eos_token_id": end, "pad_token_id": end}
    with _plain(network):
        out = network.generate(input_ids=ids.to(device), attention_mask=mask.to(device), **ends, **_how(settings))
    return [text.strip() for text in model.processor.batch_decode(out[:, longest:], skip_special_tokens=True)]


@contextmanager
def _plain(network: Any) -> Iterator[None]:
    """Put the model's own habits of writing aside: a penalty it came with would make greedy writing another thing."""
    from transformers import GenerationConfig

    own, network.generation_config = network.generation_config, GenerationConfig()
    try:
        yield
    finally:
        network.generation_config = own


def _how(settings: WritingSettings) -> dict[str, Any]:
    if settings.how == "sample":
        chance = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        return {"do_sample": True, "num_return_sequences": settings.samples, "num_beams": 1, **chance}
    plain = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {**plain, "num_beams": settings.beams if settings.how == "beam" else 1}
