"""The stack of layers is found, and some of it kept: what is left loads as a shallower model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attar.core.layers import choose_layers, find_stack, keep_layers, layer_list
from attar.core.places import stack
from attar.errors import AttarError


@pytest.mark.parametrize(
    ("wanted", "available", "kept"),
    [(1, 1, (0,)), (2, 12, (0, 11)), (4, 12, (0, 3, 7, 11)), (6, 6, (0, 1, 2, 3, 4, 5)), ((4, 1), 6, (1, 4))],
)
def test_layers_kept(wanted: Any, available: int, kept: tuple[int, ...]) -> None:
    assert choose_layers(wanted, available) == kept


@pytest.mark.parametrize("wanted", [7, (0, 6)])
def test_layers_that_are_not_there(wanted: Any) -> None:
    with pytest.raises(ValueError, match="has 6 layers"):
        choose_layers(wanted, 6)


def test_a_shallower_llama_still_generates(llama_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    assert keep_layers(model, (1,)) == (1,)
    tokens = torch.tensor([[3, 4, 5]])
    said = model.generate(tokens, max_new_tokens=2, do_sample=False)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(said, again.generate(tokens, max_new_tokens=2, do_sample=False))


def test_features_and_layers_are_those_of_one_stack(text_student: Any) -> None:
    holder, name, layers = layer_list(text_student.module)
    assert stack(text_student.module) is layers
    assert getattr(holder, name) is layers


def test_a_network_without_a_stack() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert find_stack(network) is None
    with pytest.raises(AttarError, match="Sequential: it has no single stack"):
        layer_list(network)
