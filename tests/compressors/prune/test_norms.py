"""A norm whose channels are cut gives the kept ones what it gave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.compressors.prune.families import calibration, inputs, model_of

from attar.compressors.prune.anatomy import hidden_group
from attar.compressors.prune.norms import normed
from attar.compressors.prune.slicing import Choice
from attar.errors import AttarError


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_norms_give_kept_channels_what_they_gave_in_the_mean(name: str) -> None:
    model, given = model_of(name), calibration(name)
    network: Any = model.module
    kept = torch.arange(0, 64, 2)
    found = normed(model, Choice(hidden_group(network), kept), given, given.examples)
    place = "model.layers.1.input_layernorm" if name == "llama" else "bert.encoder.layer.1.attention.output.LayerNorm"
    norm = network.get_submodule(place)
    held: list[torch.Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, args: held.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        for key in given.examples.keys:
            network(**inputs(name, int(key)))
    handle.remove()
    rows = torch.cat(held)
    some = rows[:, kept]
    if name == "llama":
        factor = (some.square().mean(1) / rows.square().mean(1)).sqrt().mean()
        assert torch.allclose(found[f"{place}.weight"], norm.weight * factor, rtol=1e-4)
    else:
        factor = (some.std(1, correction=0) / rows.std(1, correction=0)).mean()
        shift = ((some.mean(1) - rows.mean(1)) / rows.std(1, correction=0)).mean()
        assert torch.allclose(found[f"{place}.weight"], norm.weight * factor, rtol=1e-3)
        assert torch.allclose(found[f"{place}.bias"], norm.bias + norm.weight * shift, rtol=1e-3, atol=1e-5)


def test_without_examples_removed_channels_are_taken_for_empty() -> None:
    model, given = model_of("llama"), calibration("llama")
    found = normed(model, Choice(hidden_group(model.module), torch.arange(16)), given, None)
    before = model.module.get_parameter("model.norm.weight")
    assert torch.allclose(found["model.norm.weight"], before * np.sqrt(64 / 16))


def test_a_norm_that_adds_1_to_its_weight_is_refused() -> None:
    import transformers
    from tests.compressors.prune.families import PLAIN, TEXT

    sizes = {**PLAIN, **TEXT, "num_key_value_heads": 2, "head_dim": 16}
    model = model_of("llama")
    model.module = transformers.GemmaForCausalLM(transformers.GemmaConfig(**sizes))
    with pytest.raises(AttarError, match=r"GemmaRMSNorm is no norm that multiplies"):
        normed(model, Choice(hidden_group(model.module), torch.arange(32)), calibration("llama"), None)
