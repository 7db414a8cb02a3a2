from __future__ import annotations

import numpy as np
import pytest

from attar.errors import AttarError
from attar.prompts.calibration import (
    CONTENT_FREE,
    batch_calibration,
    calibrate,
    content_free_calibration,
    domain_texts,
)


def test_calibration_by_hand() -> None:
    scores = np.log(np.array([[0.8, 0.2], [0.5, 0.5]], np.float32))
    bias = batch_calibration(scores)
    assert bias == pytest.approx([np.log(0.8 * 0.5) / 2, np.log(0.2 * 0.5) / 2], abs=1e-6)
    # subtracting leaves odds 4 / 2 and 1 / 2
    assert np.exp(calibrate(scores, bias)) == pytest.approx(np.array([[2 / 3, 1 / 3], [1 / 3, 2 / 3]]), abs=1e-6)
    assert np.exp(calibrate(scores + 7, None)) == pytest.approx(np.exp(scores), abs=1e-6)


def test_content_free_inputs_come_out_even() -> None:
    assert CONTENT_FREE == ("N/A", "", "[MASK]")
    one = np.log(np.array([[0.8, 0.2]], np.float32))
    assert np.exp(calibrate(one, content_free_calibration(one))) == pytest.approx(np.array([[0.5, 0.5]]), abs=1e-6)
    # the mean is of probabilities: (0.9 + 0.5) / 2 and (0.1 + 0.5) / 2, whatever was added to the scores
    two = np.log(np.array([[0.9, 0.1], [0.5, 0.5]])) + 3
    assert np.exp(content_free_calibration(two)) == pytest.approx([0.7, 0.3], abs=1e-6)
    with pytest.raises(AttarError, match="at least one input"):
        content_free_calibration(np.zeros((0, 2)))


def test_domain_texts_hold_the_texts_words_and_repeat_with_the_seed() -> None:
    texts = ["a fine warm jacket", "too small"]
    made = domain_texts(texts, 3, 8)
    assert made == domain_texts(texts, 3, 8) != domain_texts(texts, 4, 8)
    assert [len(text.split()) for text in made] == [3] * 8
    assert {word for text in made for word in text.split()} <= set(" ".join(texts).split())
    with pytest.raises(AttarError, match="hold none"):
        domain_texts(["", " "], 0, 2)
