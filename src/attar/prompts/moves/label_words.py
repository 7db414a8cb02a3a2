"""Search for label words: other words for the labels, one label's word or all of them exchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from attar.core.prompt import TextPrompt, relabel
from attar.core.prompting import Child, Ground
from attar.prompts.moves.brood import Brood, child_name
from attar.settings import Settings

CASES: tuple[Callable[[str], str], ...] = (str.lower, lambda word: word[:1].upper() + word[1:])
NAMED = 12  # characters of a label word in a prompt's name


class LabelWords:
    """Read a prompt with other label words: a given set, another case, or another word for one label.

    Given sets are crossed: any word that a set has for a label may stand beside the other labels' words. Where
    neither the options nor demonstrations show the words, children share the forward pass with their parent.

    Args:
        settings: see `LabelWords.Settings`.

    Example:
        >>> import numpy as np
        >>> from attar.core.prompting import Standing
        >>> standing = Standing(TextPrompt("{text} It was", ("bad", "good"), name="was"), 0.5, 32, 3)
        >>> ground = Ground((standing,), np.random.default_rng(0), words=(("bad", "good"), ("poor", "fine")))
        >>> move = LabelWords(LabelWords.Settings(cases=False))
        >>> sorted(child.prompt.words for child in move(ground, 9))
        [('bad', 'fine'), ('poor', 'fine'), ('poor', 'good')]
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    class Settings(Settings):
        """Set which words are tried beside those given."""

        cases: bool = Field(True, description="try each word in lower case and with a capital")

    def __init__(self, settings: LabelWords.Settings) -> None:
        self.settings = settings

    def __call__(self, ground: Ground, count: int) -> list[Child]:
        """Return at most ``count`` prompts read with other words (`attar.core.prompting.Move`)."""
        brood = Brood(ground, count)
        for (parent,) in brood.parents():
            prompt = parent.prompt
            choices = self._choices(prompt, ground) if prompt.words else []
            if choices:
                words, how = choices[int(ground.random.integers(len(choices)))]
                changed = next(new for new, old in zip(words, prompt.words, strict=True) if new != old)
                name = child_name(prompt.name, changed[:NAMED], len(prompt.demonstrations))
                brood.add(replace(relabel(prompt, words), name=name), how, parent)
        return brood.children

    def _choices(self, prompt: TextPrompt, ground: Ground) -> list[tuple[tuple[str, ...], str]]:
        """Return the sets of words that differ from the prompt's, with what was done."""
        cases = CASES if self.settings.cases else ()
        whole = [*ground.words, *(tuple(case(word) for word in prompt.words) for case in cases)]
        found = [(words, f"label words {', '.join(words)}") for words in dict.fromkeys(whole)]
        for place, old in enumerate(prompt.words):
            given = dict.fromkeys(words[place] for words in (prompt.words, *ground.words))
            other = dict.fromkeys([*given, *(case(word) for word in given for case in cases)])
            for word in other:
                words = (*prompt.words[:place], word, *prompt.words[place + 1 :])
                found.append((words, f"label word '{word}' instead of '{old}'"))
        return [row for row in found if row[0] != prompt.words and len(set(row[0])) == len(row[0])]
