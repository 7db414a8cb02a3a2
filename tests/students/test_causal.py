from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attar.core.nouns import Model
from attar.errors import AttarError
from attar.students import folder
from attar.students.settings import ModelSettings


def test_what_is_saved_loads_here_and_in_transformers(writer: Callable[..., Model], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = writer(layers=1)
    folder.save(model, tmp_path)
    loaded, plain = folder.load(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    said = model.module(input_ids=ids).logits
    assert torch.equal(loaded.module(input_ids=ids).logits, said)
    assert torch.equal(plain(input_ids=ids).logits, said)
    assert loaded.facts == model.facts
    assert loaded.kind == "causal"
    assert plain.config.num_hidden_layers == 1


def test_a_student_keeps_its_teachers_layers(writer: Callable[..., Model]) -> None:
    whole, part = writer(), writer(layers=(1,))
    kept = part.module.model.layers  # type: ignore[union-attr]
    assert len(kept) == 1
    assert kept[0].self_attn.layer_idx == 0  # type: ignore[index, union-attr]
    assert sum(p.numel() for p in part.module.parameters()) < sum(p.numel() for p in whole.module.parameters())


def test_without_pretraining_the_shape_alone_is_kept(llama_folder: Path) -> None:
    settings = ModelSettings(model=str(llama_folder), pretrained=False)
    first, second = folder.make(settings, llama_folder, (), ()), folder.make(settings, llama_folder, (), ())
    own = dict(first.module.named_parameters())
    differ = [n for n, p in second.module.named_parameters() if p.ndim > 1 and not torch.equal(p, own[n])]
    assert len(differ) == sum(p.ndim > 1 for p in own.values())


def test_weights_are_needed(llama_folder: Path) -> None:
    with pytest.raises(AttarError, match="needs `model`"):
        folder.make(ModelSettings(model=str(llama_folder)), None, (), ())
