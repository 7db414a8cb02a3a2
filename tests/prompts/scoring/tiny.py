"""Hold what tests of scorers share: prompts, tiny models, and the plain forward pass written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from attar.core.prompt import TextPrompt, encode

PLAIN = TextPrompt("Review: {text}\nSentiment:", ("bad", "good"))
INSTRUCTION = TextPrompt(
    "Classify the sentiment of the review as {options}.\n\n{text}\nAnswer:",
    ("bad", "good"),
    False,
    (("soft and warm", 1),),
)
CHAT = TextPrompt("Is this {options}? {text}", ("bad", "good"), True, (("cheap", 0), ("soft", 1)), instruction="Judge.")
TOLD = TextPrompt("Review: {text}\nIt is", ("bad", "good"), instruction="Say whether the review is good or bad.")
SIBLINGS = tuple(
    TextPrompt(f"Review: {{text}}\n{end}", ("bad", "good"), demonstrations=shown, instruction="Judge each review.")
    for end, shown in (
        ("It is", (("cheap and thin", 0), ("soft and warm", 1))),
        ("It is", (("cheap and thin", 0), ("a fine fit", 1))),
        ("It is", (("cheap and thin", 0), ("soft and warm", 1), ("I sent it back", 0))),
    )
)
TEXTS = ["fine", "the zip broke after one week, very bad quality", "", "I love it", "too small, too thin; " * 6, "fine"]


def tiny(name: str, **changes: Any) -> Any:
    """Return a tiny random causal language model of an architecture of `transformers`, for the tests' BPE tokenizer."""
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "max_position_embeddings": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True, "pad_token_id": 0}
    torch.manual_seed(0)
    given = {"vocab_size": 512, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 0, **sizes, **heads}
    config = getattr(transformers, f"{name}Config")(**{**given, **changes})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def plain_log_p(loaded: tuple[Any, Any], prompt: TextPrompt, text: str, more: list[int] | None = None) -> np.ndarray:
    """Return log-probabilities over the vocabulary at each place ``(tokens, vocabulary)``, by the model's own forward.

    Args:
        loaded: model and tokenizer.
        prompt: what is read.
        text: the example.
        more: tokens read behind it.
    """
    model, tokenizer = loaded
    ids = [*encode(tokenizer, prompt, text), *(more or [])]
    with torch.no_grad():
        return np.asarray(torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1))


def plain_word_scores(loaded: tuple[Any, Any], prompt: TextPrompt, text: str, words: Sequence[str]) -> np.ndarray:
    """Return each word's log-probability by whole forwards: of the tokens that tell it apart, or of all it has."""
    ids = [loaded[1](w if prompt.chat else f" {w}", add_special_tokens=False).input_ids for w in words]
    found = []
    for mine in ids:
        others = [other for other in ids if other != mine]
        apart = [n for n in range(1, len(mine) + 1) if all(other[:n] != mine[:n] for other in others)]
        said = mine[: apart[0]] if apart else mine
        log_p = plain_log_p(loaded, prompt, text, said)[-len(said) - 1 : -1]
        found.append(sum(log_p[i, token] for i, token in enumerate(said)))
    return np.array(found)
