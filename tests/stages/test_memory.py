from __future__ import annotations

import numpy as np

from attar.stages.memory import give_back, peak_rss, rss


def test_memory_that_is_used_and_given_back_shows() -> None:
    size = 64 << 20
    before, peak = rss(), peak_rss()
    held = np.ones(size, np.uint8)
    assert rss() >= before + 0.9 * size
    assert peak_rss() >= max(peak, before + 0.9 * size)
    del held
    give_back()
    assert rss() < before + 0.5 * size
    assert peak_rss() >= before + 0.9 * size
