"""Tell how an instruction's tokens should change, by the gradient of a language model of this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attar.core.prompt import TextPrompt, chat_text, cut
from attar.core.rows import Head, score_shape
from attar.errors import AttarError
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
    from torch.nn import functional as F
else:
    torch = lazy("torch")
    F = lazy("torch.nn.functional")

TOKENS_PER_BATCH = 1024
"""Padded tokens that go forward and back at once: the activations of all layers are kept for them."""


@dataclass(frozen=True)
class Located:
    """Hold a rendered prompt's tokens, and which of them are the instruction's.

    Args:
        ids: of all that the model reads.
        first: place of the first token that lies wholly in the instruction.
        last: one beyond the last of them.
        told: the instruction's characters from the first of these tokens to the last.
        spans: for each of these tokens, where it begins and ends in the instruction.
    """

    ids: list[int]
    first: int
    last: int
    told: str
    spans: tuple[tuple[int, int], ...]

    @property
    def own(self) -> list[int]:
        """Return the instruction's tokens."""
        return self.ids[self.first : self.last]


def options_filled(prompt: TextPrompt) -> str:
    """Return the instruction as the model reads it."""
    return prompt.instruction.replace("{options}", ", ".join(prompt.words))


def locate(tokenizer: Any, prompt: TextPrompt, text: str) -> Located | None:
    """Return the tokens that a model reads to answer one text, with the instruction's places.

    A token that reaches beyond the instruction (its last mark together with the line's end) is not the instruction's.
    None where there is no instruction, or the chat template changes it.
    """
    told = options_filled(prompt)
    rendered = chat_text(tokenizer, prompt, text) if prompt.chat else prompt.render(text)
    start = rendered.find(told)
    found = tokenizer(rendered, add_special_tokens=not prompt.chat, return_offsets_mapping=True)
    inside = [
        place for place, (low, high) in enumerate(found.offset_mapping) if start <= low < high <= start + len(told)
    ]
    if start < 0 or not inside:
        return None
    spans = tuple((low - start, high - start) for low, high in (found.offset_mapping[place] for place in inside))
    return Located(list(found.input_ids), inside[0], inside[-1] + 1, told[spans[0][0] : spans[-1][1]], spans)


class LocalGradient:
    """Tell how an instruction's tokens should change (`attar.core.prompting.Gradient`).

    The loss is the mean negative log-probability of the gold label's word after the prompt, in nats, all tokens of
    the word together. A token's embedding e is one row of the embedding matrix W; swapping it for row v changes the
    loss, to first order, by (W_v - e) · dL/de.

    Args:
        model: a causal language model of `transformers`, in evaluation mode; its parameters stay as they are.
        tokenizer: its tokenizer.
        max_tokens: a longer text loses its end (never the prompt).

    Reference:
        Ebrahimi et al., "HotFlip", ACL 2018, equation 8; Shin et al., "AutoPrompt", EMNLP 2020, equation 2.
    """

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int = 256) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def __call__(
        self, prompt: TextPrompt, texts: Sequence[str], labels: Sequence[int]
    ) -> tuple[list[int], torch.Tensor]:
        """Return the instruction's token ids ``(tokens,)`` and the loss's change ``(tokens, vocabulary)``.

        Args:
            prompt: with an instruction; its calibration plays no part.
            texts: examples; at least one.
            labels: the right label of each.

        Raises:
            AttarError: the prompt has no instruction, or there are no texts.
        """
        own = self._located(prompt, "").own
        with torch.inference_mode(False), torch.enable_grad():  # whoever calls may score, without gradients
            rows = self._embedded(torch.tensor(own)).requires_grad_()
            total = torch.zeros_like(rows, dtype=torch.float32)
            for share in self._shares(prompt, texts, labels, rows):
                total += torch.autograd.grad(share, rows)[0]
        with torch.inference_mode():
            table = self._embedded(torch.arange(self.model.get_input_embeddings().num_embeddings)).float()
            change = total @ table.T - (total * rows).sum(dim=1, keepdim=True)
        return own, change.cpu()

    def loss(self, prompt: TextPrompt, texts: Sequence[str], labels: Sequence[int]) -> float:
        """Return the mean negative log-probability of the gold label's word, in nats.

        Raises:
            AttarError: the prompt has no instruction, or there are no texts.
        """
        with torch.inference_mode():
            rows = self._embedded(torch.tensor(self._located(prompt, "").own))
            return sum(float(share) for share in self._shares(prompt, texts, labels, rows))

    def _located(self, prompt: TextPrompt, text: str) -> Located:
        found = locate(self.tokenizer, prompt, cut(self.tokenizer, text, self.max_tokens))
        if found is None:
            raise AttarError(
                f"The prompt '{prompt.name}' has no instruction that the model reads as it is, so there are no tokens "
                "whose gradient could be taken. Give it an instruction, or leave the move 'token_gradient' out."
            )
        return found

    def _embedded(self, ids: torch.Tensor) -> torch.Tensor:
        """Return embeddings ``(..., width)``, by the layer itself: some models scale what the matrix holds."""
        with torch.no_grad():
            rows: torch.Tensor = self.model.get_input_embeddings()(ids.to(self.model.device))
        return rows.detach().clone()

    def _shares(
        self, prompt: TextPrompt, texts: Sequence[str], labels: Sequence[int], rows: torch.Tensor
    ) -> Iterator[torch.Tensor]:
        """Yield each batch's part of the mean loss, a function of the instruction's embeddings."""
        if not texts:
            raise AttarError("A prompt's gradient needs at least one text with its label, got none.")
        read = []
        for text, label in zip(texts, labels, strict=True):
            said = self.tokenizer(prompt.answer(label), add_special_tokens=False).input_ids
            read.append((self._located(prompt, text), list(said)))
        size = max(1, TOKENS_PER_BATCH // max(len(located.ids) + len(said) for located, said in read))
        for first in range(0, len(read), size):
            yield self._batch_loss(read[first : first + size], rows) / len(read)

    def _batch_loss(self, read: Sequence[tuple[Located, list[int]]], rows: torch.Tensor) -> torch.Tensor:
        """Return the summed loss of a batch, padded on the right, where causal attention never looks back at it."""
        longest = max(len(located.ids) + len(said) for located, said in read)
        ids = torch.zeros((len(read), longest), dtype=torch.long)
        for row, (located, said) in enumerate(read):
            ids[row, : len(located.ids) + len(said)] = torch.tensor(located.ids + said)
        ids = ids.to(rows.device)
        embedded = self._embedded(ids)
        for row, (located, _) in enumerate(read):
            embedded[row, located.first : located.last] = rows
        hidden = self.model.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        where = [(row, len(one.ids) + i) for row, (one, said) in enumerate(read) for i in range(len(said))]
        at = torch.tensor(where, device=rows.device)
        scores = self._scores(hidden[at[:, 0], at[:, 1] - 1])
        return F.cross_entropy(scores.float(), ids[at[:, 0], at[:, 1]], reduction="sum")

    def _scores(self, hidden: torch.Tensor) -> torch.Tensor:
        head = self.model.get_output_embeddings()
        return Head(head.weight, None, *score_shape(self.model.config)).finish(head(hidden))
