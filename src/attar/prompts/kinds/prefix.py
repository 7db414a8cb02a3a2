"""Learn keys and values that every layer of a frozen language model sees before the input's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from attar.core.cache import cache_name
from attar.core.nouns import Model
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.optional import lazy
from attar.prompts.kinds.settings import SoftSettings
from attar.prompts.kinds.text import TextVirtualPrompt, language_of
from attar.prompts.kinds.written import leading_tokens, start_tokens

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class PrefixPrompt(TextVirtualPrompt):
    """Hold keys and values ``(layers, 2, kv heads, first + length, head width)`` of virtual tokens, at every layer.

    Where each input begins with a special token, its keys and values are the first of the prefix, and the token itself
    is read no more: a prefix begun as a written prompt is then exactly that prompt. They are learned with the others.

    Args:
        values: what it begins as.
        first: special tokens at the beginning of every input.
        config: the model's configuration, which knows what kind of cache each layer has.

    Reference:
        Li and Liang 2021, "Prefix-Tuning", section 4.2 (here without the network that makes the values: beginning as
        real keys and values, they need no help).
    """

    name: ClassVar[str] = "prefix"

    def __init__(self, values: torch.Tensor, first: int, config: Any) -> None:
        super().__init__(values, first)
        self.config = config

    @property
    def length(self) -> int:
        """Return the number of virtual tokens."""
        return int(self.values.shape[3]) - self.first

    @staticmethod
    def begin(model: Model, settings: SoftSettings, written: TextPrompt | None) -> torch.Tensor:
        """Return the keys and values of real tokens; torch's seed decides what is drawn.

        Raises:
            AttarError: the model's layers keep no keys and values, or not all of one shape.
        """
        ids = [*leading_tokens(model), *start_tokens(model, settings.init, settings.length, written)]
        device = next(model.module.parameters()).device
        with torch.no_grad():
            body = language_of(model.module).base_model
            kept = body(input_ids=torch.tensor([ids], device=device), use_cache=True)[str(cache_name(body))]
        parts: list[Any] = [getattr(layer, name, None) for layer in kept.layers for name in ("keys", "values")]
        if any(part is None or part.shape != parts[0].shape or part.shape[2] != len(ids) for part in parts):
            raise AttarError(
                f"A prefix needs keys and values of every token at every layer, all of one shape, and "
                f"{type(body).__name__} keeps others. Set kind: soft."
            )
        values: torch.Tensor = torch.cat(parts).unflatten(0, (-1, 2))
        return torch.randn_like(values) * values.std() if settings.init == "random" else values

    def inputs(self, ids: torch.Tensor, mask: torch.Tensor | None, dtype: torch.dtype) -> dict[str, Any]:
        """Return the ids without the special tokens in front, and the prefix as a cache."""
        given: dict[str, Any] = {"input_ids": ids[:, self.first :], "cache": self._cache(ids.shape[0], dtype)}
        if mask is not None:
            given["attention_mask"] = torch.cat([mask[:, :1].expand(-1, self.length), mask], dim=1)
        return given

    def cut(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states of the real tokens; zeros for the special ones, which were not read."""
        return torch.nn.functional.pad(states, (0, 0, self.first, 0))

    def front(self, ids: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return ids that fill the places of the prefix, which are never looked up, and the prefix as a cache."""
        places = ids.new_zeros((ids.shape[0], self.first + self.length))
        return places, {"cache": self._cache(ids.shape[0], dtype)}

    def _cache(self, rows: int, dtype: torch.dtype) -> Any:
        """Return the prefix for a batch; a new one each time, because the model's own keys are added to it."""
        from transformers import DynamicCache

        data = [tuple(part.expand(rows, -1, -1, -1) for part in layer) for layer in self.values.to(dtype)]
        return DynamicCache(data, config=self.config)
