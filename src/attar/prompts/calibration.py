"""Calibrate label words: take out how much a language model likes each word whatever the text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attar.errors import AttarError
from attar.seeds import derive

CONTENT_FREE = ("N/A", "", "[MASK]")
"""Inputs that say nothing, as the paper on contextual calibration chose them."""


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Return log-probabilities over the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def batch_calibration(scores: np.ndarray) -> tuple[float, ...]:
    """Return the bias of each label word, estimated without labels.

    A language model prefers some words whatever the text. The mean probability of each label over unlabeled texts
    is that preference; dividing by it makes the labels equally likely on the whole, so classes should be about
    equally frequent in the texts.

    Args:
        scores: ``(texts, labels)`` logits or log-probabilities.

    Returns:
        Log of the mean probability of each label, to subtract from its score.

    Reference:
        Zhou et al., "Batch Calibration", ICLR 2024, equations 3 and 4 (here the mean is taken in log space, which
        bounds the weight of a single confident text).

    Example:
        >>> [round(b, 2) for b in batch_calibration(np.log(np.array([[0.9, 0.1], [0.9, 0.1]])))]
        [-0.11, -2.3]
    """
    return tuple(float(x) for x in log_softmax(scores).mean(axis=0))


def content_free_calibration(scores: np.ndarray) -> tuple[float, ...]:
    """Return the bias of each label word from what the model says to inputs that say nothing.

    With the inputs `CONTENT_FREE` this is contextual calibration; with those of `domain_texts` it is domain-context
    calibration. Unlike `batch_calibration` it asks nothing of how frequent the classes are.

    Args:
        scores: ``(inputs, labels)`` logits or log-probabilities of the content-free inputs.

    Returns:
        Log of the mean probability of each label, to subtract from its score.

    Raises:
        AttarError: there is no input.

    Reference:
        Zhao et al., "Calibrate Before Use", ICML 2021, section 5 (the diagonal weight, divided out); Fei et al.,
        "Mitigating Label Biases for In-context Learning", ACL 2023, equation 5.

    Example:
        >>> [round(b, 2) for b in content_free_calibration(np.log(np.array([[0.9, 0.1], [0.7, 0.3]])))]
        [-0.22, -1.61]
    """
    if not len(scores):
        raise AttarError("A calibration needs the scores of at least one input, got none. Give some inputs.")
    return tuple(float(x) for x in np.log(np.exp(log_softmax(scores)).mean(axis=0)))


def domain_texts(texts: Sequence[str], seed: int, count: int = 20) -> list[str]:
    """Return inputs of random words drawn from the texts: they sound like the domain and mean nothing.

    Args:
        texts: of the task, without labels.
        seed: of the drawing.
        count: inputs to make; each is as long as the texts are on the average.

    Raises:
        AttarError: the texts hold no word.

    Reference:
        Fei et al., "Mitigating Label Biases for In-context Learning", ACL 2023, section 4 (20 inputs).

    Example:
        >>> domain_texts(["so so"], seed=0, count=2)
        ['so so', 'so so']
    """
    words = [word for text in texts for word in text.split()]
    if not words:
        raise AttarError(f"Domain-context calibration draws words from texts, and these {len(texts)} texts hold none.")
    random = np.random.default_rng(derive(seed, "domain texts"))
    length = max(1, round(len(words) / len(texts)))
    return [" ".join(words[place] for place in random.integers(len(words), size=length)) for _ in range(count)]


def calibrate(scores: np.ndarray, bias: Sequence[float] | None) -> np.ndarray:
    """Return log-probabilities of the labels after the prompt's calibration.

    Args:
        scores: ``(texts, labels)`` logits.
        bias: what to subtract from each label, or None.
    """
    plain = log_softmax(scores)
    return plain if bias is None else log_softmax(plain - np.asarray(bias, np.float32))
