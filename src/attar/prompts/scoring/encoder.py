"""Score label words with an encoder that fills masks: batches of like lengths, as nothing can be reused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.prompt import TextPrompt, cut
from attar.errors import AttarError
from attar.optional import lazy
from attar.prompts.calibration import calibrate
from attar.prompts.scoring.batches import TOKENS_PER_BATCH, length_buckets
from attar.prompts.scoring.words import word_tokens

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

PLACE = "{mask}"


class EncoderScorer:
    """Read label words at the mask of an encoder with a masked-language-model head (`attar.core.prompting.Scorer`).

    The answer's place is ``{mask}`` in the prompt's template; a template without it is answered at its end. A solved
    example has its answer there. An encoder looks at all tokens from everywhere, so prompts share no computation.

    Args:
        model: a masked language model of `transformers`, in evaluation mode.
        tokenizer: its tokenizer.
        max_tokens: a longer text loses its end (never the prompt).

    Raises:
        AttarError: the tokenizer has no mask token.
    """

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int = 512) -> None:
        if tokenizer.mask_token_id is None:
            raise AttarError(
                "Label words are read at a mask, and this tokenizer has none. Give a masked language model."
            )
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens
        self.token_forwards = 0

    def score_all(self, prompts: Sequence[TextPrompt], texts: Sequence[str], words: Sequence[str]) -> list[np.ndarray]:
        """Return for each prompt the log-probability of each word at the mask, uncalibrated.

        Args:
            prompts: what the model reads; none may be a chat.
            texts: the examples.
            words: words to read, each one token of the vocabulary.

        Returns:
            For each prompt ``(texts, words)`` float32 log-probabilities, over the whole vocabulary.

        Raises:
            AttarError: words do not fit, a prompt is a chat or too long, or scores are not finite.
        """
        ids = torch.tensor(self._word_ids(words), device=self.model.device)
        shown = [cut(self.tokenizer, text, self.max_tokens) for text in texts]
        sequences = [tokens for prompt in prompts for tokens in self._encoded(prompt, shown)]
        out = np.zeros((len(sequences), len(words)), np.float32)
        with torch.inference_mode():
            for places in length_buckets(np.array([len(tokens) for tokens in sequences], int), TOKENS_PER_BATCH):
                out[places] = self._log_p([sequences[i] for i in places])[:, ids].cpu().numpy()
        if not np.isfinite(out).all():
            place = int(np.flatnonzero(~np.isfinite(out).all(axis=1))[0]) // max(1, len(texts))
            raise AttarError(
                f"The model gives scores that are not finite to the prompt '{prompts[place].name}' in "
                f"{self.model.dtype}. Use the precision float32, or another model."
            )
        return list(out.reshape(len(prompts), len(texts), len(words)))

    def score(self, prompt: TextPrompt, texts: Sequence[str], words: Sequence[str] | None = None) -> np.ndarray:
        """Return the log-probability of each word ``(texts, words)``, uncalibrated; the prompt's own by default."""
        return self.score_all([prompt], texts, prompt.words if words is None else words)[0]

    def answer(self, prompt: TextPrompt, texts: Sequence[str]) -> np.ndarray:
        """Return the labels' log-probabilities ``(texts, labels)`` after the prompt's calibration."""
        return calibrate(self.score(prompt, texts), prompt.calibration)

    def tokens(self, prompt: TextPrompt) -> int:
        """Return the tokens that a prompt adds to every example."""
        return len(self._encoded(prompt, [""])[0])

    def rendered(self, prompt: TextPrompt, text: str) -> str:
        """Return what the model reads: the prompt as always, with the answers in their place.

        Raises:
            AttarError: the prompt is a chat.
        """
        if prompt.chat:
            raise AttarError(f"The prompt '{prompt.name}' is a chat, and an encoder holds none. Set chat: false.")
        mask = str(self.tokenizer.mask_token)
        plain = replace(
            prompt,
            demonstrations=tuple((shown.replace(mask, ""), label) for shown, label in prompt.demonstrations),
            instruction=prompt.instruction.replace(mask, ""),
        )
        text = text.replace(mask, "")  # only the answer's place may be a mask
        if PLACE not in prompt.template:
            return f"{plain.render(text)} {mask}"
        bare = replace(plain, demonstrations=())
        told = bare.render("").removesuffix(bare.fill(""))
        solved = [
            bare.fill(shown).replace(PLACE, bare.answer(label).strip()) + "\n\n"
            for shown, label in plain.demonstrations
        ]
        return told + "".join(solved) + bare.fill(text).replace(PLACE, mask)

    def _word_ids(self, words: Sequence[str]) -> list[int]:
        tokens = word_tokens(self.tokenizer, words, False)
        for word, ids in zip(words, tokens, strict=True):
            if len(ids) > 1:
                raise AttarError(
                    f"The label word '{word}' has {len(ids)} tokens, and a mask holds one. Choose another."
                )
        return [ids[0] for ids in tokens]

    def _encoded(self, prompt: TextPrompt, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        rendered = [self.rendered(prompt, text) for text in texts]
        # a demonstration or text may be cut by nothing here: the model's limit is an error, not a silent cut
        found = [list(ids) for ids in self.tokenizer(rendered, truncation=False, verbose=False).input_ids]
        longest, limit = max(len(ids) for ids in found), getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and longest > limit:
            raise AttarError(
                f"The prompt '{prompt.name}' with its longest text has {longest} tokens, and the model reads at most "
                f"{limit}. Show fewer or shorter demonstrations, or cut the texts shorter (max_tokens)."
            )
        return found

    def _log_p(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the log-probabilities ``(rows, vocabulary)`` at each row's mask."""
        longest = max(len(tokens) for tokens in sequences)
        ids = torch.zeros((len(sequences), longest), dtype=torch.long)
        filled = torch.zeros_like(ids)
        for row, tokens in enumerate(sequences):
            ids[row, : len(tokens)], filled[row, : len(tokens)] = torch.tensor(tokens), 1
        mask = self.tokenizer.mask_token_id
        places = [list(tokens).index(mask) for tokens in sequences]
        self.token_forwards += ids.numel()
        device = self.model.device
        scores = self.model(input_ids=ids.to(device), attention_mask=filled.to(device)).logits
        return torch.log_softmax(scores[torch.arange(len(places)), torch.tensor(places)].float(), dim=-1)
