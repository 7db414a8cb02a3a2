"""Swap tokens of the instruction for those that the model's gradient likes best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from attar.core.prompt import TextPrompt
from attar.core.prompting import Child, Gradient, Ground, Standing
from attar.errors import AttarError
from attar.optional import lazy
from attar.prompts.moves.asking import folded
from attar.prompts.moves.brood import Brood, child_name, draw_parents
from attar.prompts.moves.local_gradient import Located, locate, options_filled
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

PARENTS = 3
"""Parents tried for a call at most: each costs a pass back through the model."""


class TokenGradientSettings(Settings):
    """Set how tokens are swapped."""

    examples: int = Field(16, ge=1, le=512, description="solved examples that the gradient is taken on")
    best: int = Field(32, ge=1, le=4096, description="swaps that are drawn from, the best by the gradient")
    looked_at: int = Field(2048, ge=1, description="swaps looked at to find these: most tokens are no plain words")


@dataclass(frozen=True)
class Swap:
    """Hold an instruction with one other token.

    Args:
        prompt: with the new instruction.
        old: the token's text before.
        new: its text now.
        change: of the loss, to first order.
    """

    prompt: TextPrompt
    old: str
    new: str
    change: float


class TokenGradient:
    """Swap one token of an instruction by the gradient of a local model (`attar.core.prompting.Move`).

    Of all swaps that should lower the loss, the best whose token is a plain word and whose text reads back to the
    same tokens are drawn from; so a prompt is scored as the text that it is.

    Reference:
        Shin et al., "AutoPrompt", EMNLP 2020, section 2.2; Zou et al., "Universal and Transferable Adversarial
        Attacks on Aligned Language Models" (GCG), 2023, algorithm 1 (draws from the best swaps of all places).
    """

    Settings = TokenGradientSettings
    needs: ClassVar[frozenset[str]] = frozenset({"gold", "gradient"})

    def __init__(self, settings: TokenGradientSettings | None = None) -> None:
        self.settings = settings or TokenGradientSettings()

    def __call__(self, ground: Ground, count: int) -> list[Child]:
        """Return at most ``count`` prompts with one token swapped; none for tasks that write.

        Raises:
            AttarError: there is no gradient, because the model is not of this process.
        """
        if ground.gradient is None or ground.tokenizer is None:
            raise AttarError("The move 'token_gradient' needs a model of this process. Leave the move out.")
        brood = Brood(ground, count)
        told = (one for one in ground.standings if locate(ground.tokenizer, one.prompt, "") is not None)
        among = replace(ground, standings=tuple(told))
        for parent in draw_parents(among, PARENTS):
            if brood.full:
                break
            swaps = self._swaps(ground, ground.gradient, parent)
            for place in ground.random.permutation(len(swaps)):
                swap = swaps[int(place)]
                name = child_name(parent.prompt.name, "token", len(swap.prompt.demonstrations))
                how = f"'{swap.old}' for '{swap.new}' by the gradient"
                brood.add(replace(swap.prompt, name=name), how, parent)
        return brood.children

    def _swaps(self, ground: Ground, gradient: Gradient, parent: Standing) -> list[Swap]:
        """Return the best swaps by the gradient on a few examples, drawn anew for each parent."""
        solved = [(text, label) for text, label in ground.pool if isinstance(label, int)]
        if not solved:
            return []
        places = ground.random.choice(len(solved), min(self.settings.examples, len(solved)), replace=False)
        shown = [solved[int(place)] for place in places]
        own, change = gradient(parent.prompt, [text for text, _ in shown], [label for _, label in shown])
        found = swaps(ground.tokenizer, parent.prompt, own, change, self.settings.looked_at)
        return list(islice(found, self.settings.best))


def swaps(tokenizer: Any, prompt: TextPrompt, own: list[int], change: torch.Tensor, looked_at: int) -> Iterator[Swap]:
    """Yield the swaps of one token that should lower the loss, the best first.

    A new token is a plain word, and the new text reads back to the old tokens with this one changed.

    Args:
        tokenizer: the model's.
        prompt: whose instruction is changed.
        own: the instruction's tokens ``(tokens,)``.
        change: of the loss for each other token ``(tokens, vocabulary)``; NaN counts as no help.
        looked_at: swaps that are looked at, at most.

    Raises:
        AttarError: the tokens are not those of the prompt.
    """
    located = locate(tokenizer, prompt, "")
    if located is None or located.own != own:
        raise AttarError(
            f"The gradient is not of the tokens of '{prompt.name}'. Give the ground the tokenizer of that model."
        )
    ranked = torch.nan_to_num(change, nan=torch.inf).flatten()
    best = torch.topk(ranked, min(looked_at, ranked.numel()), largest=False)
    for value, flat in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if value >= 0:
            return
        place, token = divmod(flat, change.shape[1])
        swapped = _swapped(tokenizer, prompt, located, place, token)
        if swapped is not None:
            old, new = (tokenizer.decode([one]).strip() for one in (own[place], token))
            yield Swap(swapped, old, new, value)


def _swapped(tokenizer: Any, prompt: TextPrompt, located: Located, place: int, token: int) -> TextPrompt | None:
    """Return the prompt with one token swapped, or None where the text would not read back to these tokens."""
    if token == located.own[place] or token >= len(tokenizer) or not _plain_word(tokenizer.decode([token])):
        return None
    own = [*located.own[:place], token, *located.own[place + 1 :]]
    told, new = (tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in (located.own, own))
    if told != located.told:  # some tokenizers count the space before a word to no token's characters
        new = new.strip()
    filled, (low, _), (_, high) = options_filled(prompt), located.spans[0], located.spans[-1]
    made = replace(prompt, instruction=folded(prompt, filled[:low] + new + filled[high:]))
    wanted = [*located.ids[: located.first], *own, *located.ids[located.last :]]
    read = locate(tokenizer, made, "")
    return made if read is not None and read.ids == wanted else None


def _plain_word(text: str) -> bool:
    return text.isprintable() and text.strip().isalpha()
