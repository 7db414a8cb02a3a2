r"""Read an instruction from what a writer answered: small models wrap it, number it, explain it, or write nonsense.

    `readings` unwraps an answer in several ways, the likeliest first; `refusal` says why a reading is no instruction.

Example:
    >>> accepted('Sure! Here is one:\n1. "Say if the mail is junk, by its subject."', Rules())
    'Say if the mail is junk, by its subject.'
    >>> accepted("positive", Rules()) is None
    True
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

SHARED = 8
"""Words in a row that an instruction may not share with an example: fewer may be chance."""
FEWEST_SHARED = 4
"""Words from which on a shorter example counts, if the instruction holds the whole of it."""
FEWEST_LETTERS = 0.6
"""Share of letters among the characters of a text; tables, code and rows of marks have fewer."""
CUT = 200
"""Characters from which on a text without an end mark was probably cut."""
STEM = 5
"""Letters by which two words are of one family: judge and judging, positive and positively."""

_CJK = "\u3040-\u30ff\u3400-\u9fff"  # written without spaces: each character counts as a word
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_COMMON = frozenset(
    _WORD.findall(
        "a an and any are as at be but by can did do for get had has he her him his how if in is it its may me my not "
        "of off on one or our out own s say see she so t the to too two up us use was we who why you "
        "about above after again also been before being both does doing each even from have here into just like made "
        "make many more most much must need none only other over same should some such than that their them then "
        "there these they this those very want were what when where which while will with would write your"
    )
)
_THOUGHT = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL | re.IGNORECASE)
_TAGGED = re.compile(r"<(instruction|prompt)s?>(.*?)(?:</\1s?>|$)", re.DOTALL | re.IGNORECASE)
_FENCED = re.compile(r"```[a-z]*\n?(.*?)(?:```|$)", re.DOTALL)
_IN_JSON = re.compile(r'"(?:\w*instruction\w*|prompt)"\s*:\s*"((?:[^"\\]|\\.)*)', re.IGNORECASE)
_GREETING = r"(?:sure|certainly|of course|okay|ok|absolutely|great|thank you|thanks|here(?:'s|’s| is| are))\b"
_LEAD_IN = re.compile(rf"^\s*(?:{_GREETING}[^\n:]*(?::\s*|\n\s*)(?=\S))+", re.IGNORECASE)
_AFTERTHOUGHT = re.compile(
    r"\n\s*(?:explanation|note|reason|reasoning|rationale|let me know|i (?:have|hope|made|changed)"
    r"|th(?:is|e) (?:\w+ )?(?:instruction|prompt|version))\b.*$",
    re.DOTALL | re.IGNORECASE,
)
_ITEM = re.compile(r"^\s*(?:[-*•+]|\(?\d{1,2}[.):])\s+")
_HEADING = re.compile(
    r"^[#*_\s]*(?:(?:my|the|a|new|detailed|better|improved|revised|final|rewritten|paraphrased|best|combined|merged"
    r"|next|first|second)\s+)*(?:instruction|prompt|task|paraphrase|version|rewrite|rewording|phrase|first|second)s?"
    r"\s*(?:#?\d+)?[\s*_]*[:：][\s*_]*",
    re.IGNORECASE,
)
_PAIRS = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`", "*": "*", "_": "_"}
_HOLE = re.compile(
    r"\{(?!options\})[^{}\n]*\}|</?\w[^<>\n]{0,30}>|_{3,}"
    r"|\[(?:insert|your|the|text|input|example|label|answer|name)\b[^\]\n]*\]",
    re.IGNORECASE,
)
_SOLVED = re.compile(r"^\W*(?:text|input|review|example|question|answer|right answer)\s*\d*\s*:", re.I | re.M)
_SPEAKER = re.compile(
    r"^(?:i|i['’]m|i['’]ve|my|we|our|sorry|unfortunately|yes|no|as an ai)\b"
    r"|\bplease (?:provide|share|send|tell me)\b|\bi(?: will|['’]ll| can|['’]d)\b",
    re.IGNORECASE,
)
_SCORE = re.compile(r"\b[01]\.\d{3}\b")  # of the history that a writer was shown
_WHOLE = re.compile(r".*[.!?。！？][\"')\]”]*(?=\s|$)", re.DOTALL)
_SENTENCE = re.compile(r"[.!?。！？\n]+")


@dataclass(frozen=True)
class Rules:
    """Hold what an instruction must keep.

    A small model often writes a good sentence about something else; so an instruction must share a word, or the
    beginning of one, with what is said of the task.

    Args:
        fewest_words: that it has.
        most_characters: that it has.
        shown: texts that the writer saw and must not repeat: examples, and the request itself.
        old: instructions that were tried.
        about: what is said of the task: a sentence, the label words, the prompt so far; empty asks for nothing.
    """

    fewest_words: int = 3
    most_characters: int = 600
    shown: tuple[str, ...] = ()
    old: tuple[str, ...] = ()
    about: tuple[str, ...] = ()


def accepted(answer: str, rules: Rules) -> str | None:
    """Return the first reading of an answer that is an instruction, or None."""
    return next((text for text in readings(answer) if not refusal(text, rules)), None)


def readings(answer: str) -> list[str]:
    r"""Return what an answer may have meant, the likeliest first, without what was put around it.

    Example:
        >>> readings('```json\n{"instruction": "Name the topic of the news."}\n```')
        ['Name the topic of the news.']
    """
    text = _THOUGHT.sub("", answer).strip()
    inner = [found[1] for found in _TAGGED.findall(text)] or _FENCED.findall(text)
    blocks = [piece for block in inner or [text] for piece in _from_json(block.strip())] or inner or [text]
    found = [_tidy(reading) for block in blocks for reading in _cuts(_spoken(block))]
    return list(dict.fromkeys(reading for reading in found if reading))


def refusal(text: str, rules: Rules) -> str:
    """Return why a text is no instruction, in a few words; an empty string if it is one."""
    words = _words(text)
    plain = " ".join(words)
    solid = [character for character in text if not character.isspace()]
    checks = {
        "too short": len(words) < rules.fewest_words,
        "too long": len(text) > rules.most_characters,
        "no plain text": not all(c.isprintable() for c in solid)
        or sum(c.isalpha() for c in solid) < FEWEST_LETTERS * len(solid),
        "a hole to fill": _HOLE.search(text) is not None,
        "the task solved": _SOLVED.search(text) is not None,
        "the writer speaks": _SPEAKER.search(text) is not None,
        "known": plain in {" ".join(_words(old)) for old in rules.old},
        "repeats itself": _repeats(text, words),
        "repeats what was shown": _SCORE.search(text) is not None
        or any(_holds(words, _words(shown)) for shown in rules.shown),
        "not about the task": bool(rules.about) and _stems([text]).isdisjoint(_stems(rules.about)),
    }
    return next((why for why, wrong in checks.items() if wrong), "")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _stems(texts: Iterable[str]) -> set[str]:
    """Return the beginnings of the words that carry meaning."""
    return {word[:STEM] for text in texts for word in _words(text) if word not in _COMMON}


def _runs(words: list[str], size: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + size]) for i in range(len(words) - size + 1))


def _holds(words: list[str], shown: list[str]) -> bool:
    size = min(SHARED, len(shown))
    return size >= FEWEST_SHARED and not set(_runs(words, size)).isdisjoint(_runs(shown, size))


def _repeats(text: str, words: list[str]) -> bool:
    runs = Counter(_runs(words, 4))
    said = Counter(" ".join(_words(sentence)) for sentence in _SENTENCE.split(text))
    return max(runs.values(), default=0) > 2 or any(n > 1 and len(one.split()) > 2 for one, n in said.items())


def _from_json(block: str) -> list[str]:
    """Return the texts in a block of JSON, those named as instructions alone if there are any; none in other blocks."""
    if not block.startswith(("{", "[", '"')):
        return []
    try:
        found = list(_texts(json.loads(block)))
    except (ValueError, RecursionError):  # a plain text in quotes, JSON that was cut, or brackets without end
        return [re.sub(r"\\(.)", r"\1", text) for text in _IN_JSON.findall(block)]
    named = [text for name, text in found if "instruction" in name or "prompt" in name]
    return named or [text for _, text in found]


def _texts(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, held in value.items():
            yield from _texts(held, str(key).lower())
    elif isinstance(value, list):
        for held in value:
            yield from _texts(held, name)


def _spoken(block: str) -> str:
    """Return a block without the greeting before and the explanation after."""
    return _AFTERTHOUGHT.sub("", _LEAD_IN.sub("", block.strip())).strip()


def _cuts(text: str) -> Iterator[str]:
    """Yield the parts of a text that may be the instruction: a list's items, what is in quotes, all, less and less."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and all(_ITEM.match(line) for line in lines):
        yield from lines
    quoted = re.findall(r'["“]([^"“”]{12,})["”]', text)
    if text[:1] in ('"', "“"):
        yield from quoted
    yield text
    yield from quoted
    yield from text.split("\n\n")[:2]
    yield from lines[:2]


def _tidy(text: str) -> str:
    """Return a text without numbering, heading and quotes around it."""
    before = ""
    while text != before:
        before = text
        text = _HEADING.sub("", _ITEM.sub("", text.strip()))
        if len(text) > 1 and _PAIRS.get(text[0]) == text[-1] and text[-1] not in text[1:-1].strip("*_`"):
            text = text[1:-1]
    return _finished(re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+", " ", text)))


def _finished(text: str) -> str:
    """Return a long text without a last sentence that has no end: the writer's limit of tokens cut it."""
    whole = _WHOLE.match(text)
    return text if whole is None or len(text) < CUT else whole[0]
