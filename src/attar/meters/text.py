"""Compare what was written with what was asked for: ROUGE-L and exact match."""

from __future__ import annotations

import re
from collections.abc import Sequence

WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Return a text's words in small letters: runs of letters and digits.

    Example:
        >>> words("Don't buy -- TWICE!")
        ['don', 't', 'buy', 'twice']
    """
    return WORD.findall(text.lower())


def rouge_l(written: str, wanted: str) -> float:
    """Return ROUGE-L of one text: the F1 of the longest common subsequence of words.

    Args:
        written: by the model.
        wanted: the gold text.

    Returns:
        In [0, 1]; 0 where one of both has no word.

    Reference:
        Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section 3.1, with beta = 1.

    Example:
        >>> rouge_l("the cat sat", "the cat lay down")
        0.5714285714285714
    """
    ours, theirs = words(written), words(wanted)
    if not ours or not theirs:
        return 0.0
    common = common_subsequence(ours, theirs)
    return 2.0 * common / (len(ours) + len(theirs))


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    Example:
        >>> common_subsequence("abcde", "xbyd")
        2
    """
    lengths = [0] * (len(second) + 1)
    for one in first:
        before = 0
        for place, other in enumerate(second, 1):
            here = lengths[place]
            lengths[place] = before + 1 if one == other else max(here, lengths[place - 1])
            before = here
    return lengths[-1]


def exact_match(written: str, wanted: str) -> bool:
    """Tell whether both texts have the same words.

    Example:
        >>> exact_match("Great dress!", "great dress")
        True
    """
    return words(written) == words(wanted)
