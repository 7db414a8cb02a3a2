"""Let a language model of this process answer requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from attar.errors import AttarError
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class LocalWriterSettings(Settings):
    """Set how a local model answers requests."""

    max_new_tokens: int = Field(128, ge=1, le=4096, description="tokens of an answer")
    temperature: float = Field(0.8, ge=0, le=10, description="of the sampling; 0 writes the likeliest token")
    top_p: float = Field(0.95, gt=0, le=1, description="mass of the likeliest tokens that are sampled from")
    batch: int = Field(8, ge=1, le=256, description="requests answered at once")


class LocalWriter:
    """Answer requests with a causal language model (`attar.core.prompting.Writer`).

    A request goes through the tokenizer's chat template where there is one, else it is read as it is. ``tokens``
    counts what was read and written so far.

    Args:
        model: a causal language model of `transformers`, in evaluation mode.
        tokenizer: its tokenizer.
        settings: see `LocalWriterSettings`.
    """

    Settings = LocalWriterSettings

    def __init__(self, model: Any, tokenizer: Any, settings: LocalWriterSettings | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings or LocalWriterSettings()
        self.tokens = 0

    def write(self, requests: Sequence[str], seed: int) -> list[str]:
        """Return one answer for each request, without white space around it.

        Args:
            requests: what is asked.
            seed: of the sampling; torch's own random numbers are left as they were.

        Raises:
            AttarError: a request and its answer are longer than the model's context.
        """
        asked = [self._encode(request) for request in requests]
        out = [""] * len(asked)
        order = np.argsort([-len(ids) for ids in asked], kind="stable")
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed % 2**63)
            for first in range(0, len(order), self.settings.batch):
                places = order[first : first + self.settings.batch]
                for place, text in zip(places, self._answers([asked[i] for i in places]), strict=True):
                    out[place] = text
        return out

    def _encode(self, request: str) -> list[int]:
        if self.tokenizer.chat_template is None:
            ids = list(self.tokenizer(request).input_ids)
        else:
            turns = [{"role": "user", "content": request}]
            # what a template does not know it ignores; models that think aloud would spend the whole answer on it
            told = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            ids = list(self.tokenizer(told, add_special_tokens=False).input_ids)
        context = getattr(self.model.config, "max_position_embeddings", None)
        wanted = len(ids) + self.settings.max_new_tokens
        if context is not None and wanted > context:
            raise AttarError(
                f"A request to the writer has {len(ids)} tokens, and {self.settings.max_new_tokens} may be written, "
                f"but its context holds {context}. Show it fewer or shorter examples, or lower max_new_tokens."
            )
        return ids

    def _answers(self, asked: Sequence[Sequence[int]]) -> list[str]:
        ends = self._ends()
        longest = max(len(ids) for ids in asked)
        tokens = torch.full((len(asked), longest), ends[0], dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, ids in enumerate(asked):  # padded on the left: all continue at the same place
            tokens[row, longest - len(ids) :] = torch.tensor(ids)
            mask[row, longest - len(ids) :] = 1
        device = self.model.device
        with _plain(self.model):
            out = self.model.generate(
                input_ids=tokens.to(device), attention_mask=mask.to(device), generation_config=self._how(ends)
            )
        self.tokens += int(out.numel())
        return [text.strip() for text in self.tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)]

    def _ends(self) -> list[int]:
        """Return the tokens that end an answer: a chat model often has one for a turn and one for a text."""
        own = self.model.generation_config.eos_token_id
        listed = own if isinstance(own, list) else [own]
        known = [token for token in (self.tokenizer.eos_token_id, *listed) if token is not None]
        return list(dict.fromkeys(known)) or [0]

    def _how(self, ends: list[int]) -> Any:
        from transformers import GenerationConfig

        settings = self.settings
        chance: dict[str, Any] = {"do_sample": False}
        if settings.temperature:
            chance = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=settings.max_new_tokens, eos_token_id=ends, pad_token_id=ends[0], **chance
        )


@contextmanager
def _plain(network: Any) -> Iterator[None]:
    """Put the model's own habits of writing (a penalty, a top-k) aside: generate mixes them into what it is told."""
    from transformers import GenerationConfig

    own, network.generation_config = network.generation_config, GenerationConfig()
    try:
        yield
    finally:
        network.generation_config = own
