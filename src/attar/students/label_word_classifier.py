"""Read a language model's scores of a few words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attar.core.cache import with_cache
from attar.core.rows import Head, score_shape
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class LabelWordClassifier(torch.nn.Module):
    """Read a language model's scores of a few words at the last token of each row.

    Only the last token's hidden state goes through the head, and of the head only the words' rows: the vocabulary is
    never laid out. Rows are padded on the right, where causal attention does not look.

    Args:
        lm: a causal language model of `transformers`.
        word_ids: the token that stands for each label, in the order of the labels.
    """

    words: torch.Tensor

    def __init__(self, lm: Any, word_ids: Sequence[int]) -> None:
        super().__init__()
        self.lm = lm
        # not saved: the prompt's words say it, and what is saved is a plain language model
        self.register_buffer("words", torch.tensor(list(word_ids)), persistent=False)

    @property
    def config(self) -> Any:
        """Return the language model's configuration."""
        return self.lm.config

    def set_attn_implementation(self, kind: str) -> None:
        """Choose how the language model computes attention; see `transformers`."""
        self.lm.set_attn_implementation(kind)

    def get_input_embeddings(self) -> Any:
        """Return the language model's embeddings."""
        return self.lm.get_input_embeddings()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cache: Any = None,
    ) -> Any:
        """Return an output whose ``logits (batch, labels)`` are the words' scores at the last real token.

        Args:
            input_ids: ``(batch, time)``, padded on the right.
            attention_mask: ``(batch, time)`` or longer, where there are keys before: 1 for a token, 0 for padding.
                None where no row is padded.
            inputs_embeds: ``(batch, time, width)``, instead of ids.
            cache: keys and values of what stands before, in the library's cache; it grows.
        """
        from transformers.modeling_outputs import SequenceClassifierOutput

        body = self.lm.base_model
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "cache": cache, "use_cache": cache is not None}
        states = body(**with_cache(body, given)).last_hidden_state
        hidden = _last(states, attention_mask)
        head = self.lm.get_output_embeddings()
        rows = torch.nn.functional.embedding(self.words, head.weight)
        bias = None if getattr(head, "bias", None) is None else head.bias[self.words]
        scores = Head(rows, bias, *score_shape(self.config)).finish(torch.nn.functional.linear(hidden, rows))
        return SequenceClassifierOutput(logits=scores)


def _last(states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return each row's state ``(batch, width)`` at its last real token."""
    if mask is None:
        return states[:, -1]
    place = mask[:, -states.shape[1] :].sum(dim=1) - 1
    return states[torch.arange(states.shape[0], device=states.device), place]
