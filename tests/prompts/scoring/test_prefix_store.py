from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attar.prompts.scoring.prefix_store import PrefixStore
from attar.prompts.scoring.runner import PrefixRunner, own_layers


@pytest.fixture
def runner(loaded: tuple[Any, Any]) -> PrefixRunner:
    made = PrefixRunner(loaded[0])
    assert made.way == "shared"
    return made


PATHS = [(1, 2, 3, 4, 5, 6), (1, 2, 3, 9, 8), (1, 2, 3, 9, 7, 7), (1, 2), (4, 4), (1, 2, 3, 4, 5, 6, 7)]


def _same(runner: PrefixRunner, store: PrefixStore, path: tuple[int, ...]) -> bool:
    found, whole = store.get(path), own_layers(runner.begin(None, [list(path)]))
    return all(
        torch.allclose(one, two, atol=1e-5) and one.shape == two.shape
        for mine, other in zip(found, whole, strict=True)
        for one, two in zip(mine, other, strict=True)
    )


def test_paths_equal_what_is_computed_alone_in_any_order(runner: PrefixRunner) -> None:
    random = np.random.default_rng(0)
    with runner.session():
        for _ in range(5):
            store = PrefixStore(runner)
            for place in random.permutation(len(PATHS) * 2):
                assert _same(runner, store, PATHS[place % len(PATHS)])


def test_each_edge_of_the_tree_is_computed_once(runner: PrefixRunner) -> None:
    store = PrefixStore(runner)
    spent = []
    with runner.session():
        for path in PATHS + PATHS:
            before = runner.token_forwards
            store.get(path)
            spent.append(runner.token_forwards - before)
    assert spent == [6, 2, 2, 0, 2, 1] + [0] * 6


@pytest.mark.parametrize("tokens", [4, 9, 14])
def test_the_bound_holds_and_what_went_comes_again(tokens: int, runner: PrefixRunner) -> None:
    a_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, width, bytes
    store = PrefixStore(runner, tokens * a_token)
    random = np.random.default_rng(tokens)
    with runner.session():
        for place in random.integers(len(PATHS), size=40):
            assert _same(runner, store, PATHS[place])
            assert store.nbytes <= tokens * a_token
    assert store.nbytes > 0 or tokens < 6


def test_the_least_recently_used_go_first(runner: PrefixRunner) -> None:
    a_token = 2 * 2 * 2 * 8 * 4
    store = PrefixStore(runner, 8 * a_token)
    with runner.session():
        for path in ((1, 1, 1), (2, 2, 2), (1, 1, 1), (3, 3, 3)):
            store.get(path)
        before = runner.token_forwards
        store.get((1, 1, 1))
        store.get((3, 3, 3))
        assert runner.token_forwards == before
        store.get((2, 2, 2))
        assert runner.token_forwards == before + 3


def test_a_parent_is_never_dropped_before_its_child(runner: PrefixRunner) -> None:
    a_token = 2 * 2 * 2 * 8 * 4
    store = PrefixStore(runner, 7 * a_token)
    with runner.session():
        for path in ((1, 1, 1), (1, 1, 1, 5), (2, 2, 2), (1, 1, 1, 5), (3, 3, 3)):
            store.get(path)
        before = runner.token_forwards
        store.get((1, 1, 1, 5))
    assert runner.token_forwards == before
    assert store.nbytes == 7 * a_token
