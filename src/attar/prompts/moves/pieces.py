"""Cut a prompt's text into phrases and sentences without a parser, and put it together again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Literal, NamedTuple

from attar.core.prompt import TextPrompt

Part = Literal["instruction", "template"]
PARTS: tuple[Part, ...] = ("instruction", "template")
PLACES = ("{text}", "{options}")
CONJUNCTIONS = frozenset({"and", "or", "but", "nor", "so", "then", "if", "when", "while", "because", "that", "which"})

_WORD = re.compile(r"(\s*)(\S+)")
_PHRASE_END = re.compile(r"[.,;:!?]['\")\]]*$")
_SENTENCE_END = re.compile(r"[.!?]['\")\]]*$")


class Piece(NamedTuple):
    """Hold a piece of a text.

    Args:
        lead: white space before it.
        body: its words.
    """

    lead: str
    body: str

    @property
    def fixed(self) -> bool:
        """Tell whether the piece holds the place of the example or of the options, so that it must stay."""
        return any(place in self.body for place in PLACES)


def words(text: str) -> list[Piece]:
    """Return the words of a text; what follows the last is left out."""
    return [Piece(*found) for found in _WORD.findall(text)]


def phrases(text: str, longest: int) -> list[Piece]:
    r"""Return the phrases of a text: they end at punctuation, lines and places, and before conjunctions.

    Args:
        text: an instruction or a template.
        longest: words of a phrase at most.

    Example:
        >>> [piece.body for piece in phrases("Read it, then judge and say why.\nReview: {text}", 4)]
        ['Read it,', 'then judge', 'and say why.', 'Review:', '{text}']
    """

    def cut(group: Sequence[Piece], word: Piece) -> bool:
        last = group[-1]
        ended = _PHRASE_END.search(last.body) or last.fixed or word.fixed or len(group) == longest
        return bool(ended) or word.body.lower() in CONJUNCTIONS

    return _grouped(words(text), cut)


def sentences(text: str) -> list[Piece]:
    r"""Return the sentences of a text; a line's end ends one.

    Example:
        >>> [piece.body for piece in sentences("Read it. Then judge: good or bad?\nReview: {text}")]
        ['Read it.', 'Then judge: good or bad?', 'Review: {text}']
    """
    return _grouped(words(text), lambda group, word: bool(_SENTENCE_END.search(group[-1].body)))


def join(pieces: Sequence[Piece]) -> str:
    """Return the text that pieces make."""
    return "".join(piece.lead + piece.body for piece in pieces)


def without(pieces: Sequence[Piece], place: int) -> list[Piece]:
    r"""Return the pieces but one. If it began a line, what follows it there begins the line.

    Example:
        >>> join(without(phrases("Review:\nRead it, judge it.", 4), 1))
        'Review:\njudge it.'
    """
    left = [*pieces[:place], *pieces[place + 1 :]]
    lead = pieces[place].lead
    if place < len(left) and (place == 0 or ("\n" in lead and "\n" not in left[place].lead)):
        left[place] = left[place]._replace(lead=lead)
    return left


def gaps(pieces: Sequence[Piece]) -> list[int]:
    """Return the places where a piece may be inserted: anywhere but within the line of the example."""
    shown = _with_example(pieces)
    return [i for i, piece in enumerate(pieces) if i == 0 or "\n" in piece.lead or not shown[i]] + [len(pieces)]


def inserted(pieces: Sequence[Piece], place: int, body: str) -> list[Piece]:
    r"""Return the pieces with one more, which does not come onto the line of the example.

    Args:
        pieces: of a text; at least one.
        place: one of `gaps`.
        body: words of the new piece.

    Example:
        >>> join(inserted(phrases("Review: {text}\nMood:", 4), 0, "Judge the mood."))
        'Judge the mood.\nReview: {text}\nMood:'
    """
    shown = _with_example(pieces)
    before, after = list(pieces[:place]), list(pieces[place:])
    if not after:
        return [*before, Piece("\n" if shown[-1] else " ", body)]
    if not shown[place]:
        return [*before, Piece(after[0].lead, body), after[0]._replace(lead=" "), *after[1:]]
    if before:
        return [*before, Piece(" ", body), *after]
    return [Piece(after[0].lead, body), after[0]._replace(lead="\n"), *after[1:]]


def rewritten(prompt: TextPrompt, part: Part, pieces: Sequence[Piece]) -> TextPrompt:
    """Return the prompt with other pieces as its instruction or its template."""
    text = join(pieces)
    return replace(prompt, instruction=text) if part == "instruction" else replace(prompt, template=text)


def text_of(prompt: TextPrompt, part: Part) -> str:
    """Return the instruction or the template."""
    return prompt.instruction if part == "instruction" else prompt.template


def removals(prompt: TextPrompt, cut: Callable[[str], list[Piece]]) -> Iterator[tuple[TextPrompt, str]]:
    """Yield the prompt without each piece that need not stay, and the words that are gone.

    Args:
        prompt: whose instruction and template are cut.
        cut: makes pieces of a text.
    """
    for part in PARTS:
        pieces = cut(text_of(prompt, part))
        for place, piece in enumerate(pieces):
            if not piece.fixed:
                yield rewritten(prompt, part, without(pieces, place)), piece.body


def _grouped(found: Sequence[Piece], cut: Callable[[Sequence[Piece], Piece], bool]) -> list[Piece]:
    groups: list[list[Piece]] = []
    for word in found:
        if groups and "\n" not in word.lead and not cut(groups[-1], word):
            groups[-1].append(word)
        else:
            groups.append([word])
    return [Piece(group[0].lead, group[0].body + join(group[1:])) for group in groups]


def _with_example(pieces: Sequence[Piece]) -> list[bool]:
    """Tell for each piece whether the example stands on its line."""
    lines = list(accumulate(int("\n" in piece.lead) for piece in pieces))
    shown = {line for line, piece in zip(lines, pieces, strict=True) if "{text}" in piece.body}
    return [line in shown for line in lines]
