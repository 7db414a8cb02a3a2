"""What a measured process computes: the members of an ensemble, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.core.nouns import Model
from attar.stages.worker import RUNNERS
from attar.students import folder


def test_an_ensemble_answers_with_the_mean_of_its_members(
    net: Callable[..., Model], images: Callable[..., Any], tmp_path: Path
) -> None:
    for seed in (1, 2):
        folder.save(net(seed=seed), tmp_path / str(seed))
    folders = [str(tmp_path / str(seed)) for seed in (1, 2)]
    spec = {"folder": folders[0], "folders": folders, "task": "image-classification", "threads": 1}
    inputs = images(5).inputs
    together = RUNNERS["ensemble"](spec)
    shares = []
    for one in folders:
        said = RUNNERS["student"]({**spec, "folder": one}).scores(inputs).astype(np.float64)
        shares.append(np.exp(said) / np.exp(said).sum(axis=1, keepdims=True))
    assert np.exp(together.scores(inputs)) == pytest.approx((shares[0] + shares[1]) / 2, abs=1e-5)
    assert together.precision == "float32"
    assert together.length(inputs[0]) == 1
