"""Learn virtual tokens at the input of a frozen text model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from attar.core.nouns import Model
from attar.core.prompt import TextPrompt
from attar.optional import lazy
from attar.prompts.kinds.settings import SoftSettings
from attar.prompts.kinds.text import TextVirtualPrompt, language_of
from attar.prompts.kinds.written import start_tokens

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class SoftPrompt(TextVirtualPrompt):
    """Hold embeddings ``(length, width)`` that stand before an input's own.

    A virtual token has an id beyond the vocabulary, and the frozen model's table of embeddings is made to know it. So
    all that works with ids works: writing, caches, and classifiers that look for padding among the ids.

    Reference:
        Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", section 2.
    """

    name: ClassVar[str] = "soft"
    beyond: int = 0
    """The first id beyond the vocabulary."""

    @property
    def length(self) -> int:
        """Return the number of virtual tokens."""
        return int(self.values.shape[0])

    @staticmethod
    def begin(model: Model, settings: SoftSettings, written: TextPrompt | None) -> torch.Tensor:
        """Return the embeddings to begin with ``(length, width)``; torch's seed decides what is drawn."""
        table = language_of(model.module).get_input_embeddings()
        device = next(model.module.parameters()).device
        with torch.no_grad():
            ids = torch.tensor(start_tokens(model, settings.init, settings.length, written), device=device)
            values: torch.Tensor = table(ids).detach()
        return torch.randn_like(values) * values.std() if settings.init == "random" else values

    def attach(self, base: Any) -> None:
        """Put the virtual tokens into the table of embeddings."""
        language = language_of(base)
        language.set_input_embeddings(_Table(language.get_input_embeddings(), self))

    def detach(self, base: Any) -> None:
        """Put the model's own table back."""
        language = language_of(base)
        language.set_input_embeddings(language.get_input_embeddings().own)

    def inputs(self, ids: torch.Tensor, mask: torch.Tensor | None, dtype: torch.dtype) -> dict[str, Any]:
        """Return ids with the virtual ones among them, and a mask that shows them."""
        front, rest = self._front(ids[:, : self.first]), ids[:, self.first :]
        given: dict[str, Any] = {"input_ids": torch.cat([front, rest], dim=1)}
        if mask is not None:
            given["attention_mask"] = torch.cat([mask[:, :1].expand(-1, self.length), mask], dim=1)
        return given

    def cut(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states of the real tokens."""
        return torch.cat([states[:, : self.first], states[:, self.first + self.length :]], dim=1)

    def front(self, ids: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return the special tokens with the virtual ones behind."""
        return self._front(ids), {}

    def _front(self, ids: torch.Tensor) -> torch.Tensor:
        virtual = torch.arange(self.beyond, self.beyond + self.length, device=ids.device)
        return torch.cat([ids, virtual.expand(ids.shape[0], -1)], dim=1)


class _Table(torch.nn.Module):
    """Look up embeddings, those of virtual tokens among them."""

    def __init__(self, own: Any, prompt: SoftPrompt) -> None:
        super().__init__()
        self.own = own
        self.prompt = prompt
        prompt.beyond = int(own.weight.shape[0])

    @property
    def weight(self) -> torch.Tensor:
        """Return the vocabulary's own embeddings, which some models ask for their type."""
        weight: torch.Tensor = self.own.weight
        return weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return embeddings ``(..., width)`` of ids ``(...)``."""
        beyond = self.prompt.beyond
        own: torch.Tensor = self.own(ids.clamp(max=beyond - 1))
        virtual = torch.nn.functional.embedding((ids - beyond).clamp(min=0), self.prompt.values)
        return torch.where((ids >= beyond)[..., None], virtual.to(own.dtype), own)
