"""Put virtual tokens around the ids that a frozen text model reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from attar.core.cache import NAMES, with_cache
from attar.optional import lazy
from attar.prompts.kinds.wrapper import PromptedModule, VirtualPrompt

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def language_of(base: Any) -> Any:
    """Return the model of `transformers` in a module: the module itself, or the one that it holds.

    Raises:
        ValueError: there is none.
    """
    from transformers import PreTrainedModel

    for part in base.modules():
        if isinstance(part, PreTrainedModel):
            return part
    raise ValueError(f"{type(base).__name__} holds no model of transformers")


class TextVirtualPrompt(VirtualPrompt):
    """Hold a prompt of virtual tokens.

    Args:
        values: what it begins as.
        first: special tokens at the beginning of every input that stand before the virtual ones.
    """

    def __init__(self, values: torch.Tensor, first: int) -> None:
        super().__init__(values)
        self.first = first

    def inputs(self, ids: torch.Tensor, mask: torch.Tensor | None, dtype: torch.dtype) -> dict[str, Any]:
        """Return the arguments for the frozen model.

        Args:
            ids: ``(batch, time)``, padded on the right.
            mask: ``(batch, time)``, 1 for a token; None where nothing is to be masked.
            dtype: what the frozen model computes keys and values in.
        """
        raise TypeError(f"{type(self).__name__} gives no inputs")

    def cut(self, states: torch.Tensor) -> torch.Tensor:
        """Return ``(batch, time, width)`` states of the real tokens; nothing is known of those before the prompt."""
        raise TypeError(f"{type(self).__name__} cuts nothing")

    def front(self, ids: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return what writing begins with.

        Args:
            ids: ``(batch, first)`` the special tokens at the beginning of each row.
            dtype: what the frozen model computes keys and values in.

        Returns:
            Ids ``(batch, first + length)`` that stand for the prompt, and further arguments.
        """
        raise TypeError(f"{type(self).__name__} has no front")

    def attach(self, base: Any) -> None:
        """Change the frozen model so that it knows the virtual tokens, if it must."""

    def detach(self, base: Any) -> None:
        """Undo `attach`."""


class PromptedText(PromptedModule):
    """Read texts with a frozen model under virtual tokens.

    Outputs belong to the ids that were given: of scores and states over time, those of the virtual tokens are cut
    away. So tasks, meters and exporters need not know that there is a prompt.

    Why not peft's wrapper: its ``base_model`` is the model without the prompt, so training through a model's body,
    which never lays out all scores, would train nothing and say nothing (measured with peft 0.21); for encoders it puts
    virtual tokens before the token that the pooler reads; and with ``inputs_embeds``, classifiers on language models
    take the last place, padding or not, for the text's end.

    Args:
        base: a model of `transformers`, or a module that holds one and takes ``input_ids`` and ``attention_mask``.
        prompt: the virtual tokens.
    """

    prompt: TextVirtualPrompt

    def __init__(self, base: Any, prompt: TextVirtualPrompt) -> None:
        super().__init__(base, prompt)
        prompt.attach(base)

    def forward(  # type: ignore[override]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **others: Any
    ) -> Any:
        """Return the frozen model's output for ids ``(batch, time)``, padded on the right."""
        said = self._said(self.base, input_ids, attention_mask, others)
        if said.logits.ndim == 3:  # a score for each token: a model that writes
            said.logits = self.prompt.cut(said.logits)
        return said

    @property
    def base_model(self) -> Callable[..., Any]:
        """Return what stands for the model without its head: it gives ``last_hidden_state`` under the prompt."""
        return self._body

    def _body(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **others: Any) -> Any:
        said = self._said(language_of(self.base).base_model, input_ids, attention_mask, others)
        said.last_hidden_state = self.prompt.cut(said.last_hidden_state)
        return said

    def _said(self, module: Any, ids: torch.Tensor, mask: torch.Tensor | None, others: dict[str, Any]) -> Any:
        if any(others.get(name) is not None for name in NAMES):
            raise ValueError("a prompted model begins with its prompt: nothing can stand before it, as a cache would")
        return module(**others, **with_cache(module, self.prompt.inputs(ids, mask, self._dtype)))

    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        num_beams: int = 1,
        num_return_sequences: int = 1,
        **settings: Any,
    ) -> torch.Tensor:
        """Write on; as the model's own ``generate`` it returns the given ids and the written ones behind them.

        Args:
            input_ids: ``(batch, time)``, padded on the left.
            attention_mask: ``(batch, time)``, 1 for a token.
            num_beams: texts followed at once.
            num_return_sequences: texts returned for each row.
            settings: further ones of ``generate``.
        """
        first = self.prompt.first
        begin = (attention_mask.cumsum(dim=1) <= first) & (attention_mask > 0)
        wide = max(num_beams, num_return_sequences)
        special = input_ids[begin].view(len(input_ids), first).repeat_interleave(wide, dim=0)
        front, others = self.prompt.front(special, self._dtype)
        # the special tokens are in front now; where they stood is padding
        mask = torch.cat([torch.ones_like(front[::wide]), attention_mask.masked_fill(begin, 0)], dim=1)
        ids = torch.cat([front[::wide], input_ids], dim=1)
        how = {**settings, "num_beams": num_beams, "num_return_sequences": num_return_sequences}
        language = language_of(self.base)
        given = with_cache(language, {"input_ids": ids, "attention_mask": mask, **others})
        out = language.generate(**given, **how)
        return torch.cat([input_ids.repeat_interleave(num_return_sequences, dim=0), out[:, ids.shape[1] :]], dim=1)

    @property
    def _dtype(self) -> torch.dtype:
        language = language_of(self.base)
        device = language.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else language.dtype

    @contextmanager
    def bare(self) -> Iterator[Any]:
        """Give the frozen model as it was before the prompt, to be saved."""
        self.prompt.detach(self.base)
        try:
            yield self.base
        finally:
            self.prompt.attach(self.base)

    @property
    def config(self) -> Any:
        """Return the frozen model's configuration."""
        return self.base.config

    @property
    def generation_config(self) -> Any:
        """Return the frozen model's habits of writing."""
        return self.base.generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        self.base.generation_config = value

    def get_output_embeddings(self) -> Any:
        """Return the frozen model's head."""
        return language_of(self.base).get_output_embeddings()

    def set_attn_implementation(self, kind: str) -> None:
        """Choose how the frozen model computes attention; see `transformers`."""
        language_of(self.base).set_attn_implementation(kind)
