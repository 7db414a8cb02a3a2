"""Masked generation: values and gradients against a slow version in float64, the mask, and a number by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attar.errors import AttarError
from attar.objectives.mgd import MaskedGeneration


def _mgd(**settings: Any) -> MaskedGeneration:
    return MaskedGeneration(MaskedGeneration.Settings(**settings))


def _maps(channels: int, seed: int, side: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {"map": torch.randn(2, channels, side, side)}


def _convolved(image: Any, weight: Any, bias: Any) -> Any:
    """Return a 3 x 3 convolution of (channels, height, width) with zeros around, pixel by pixel."""
    height, width = image.shape[1:]
    rows = []
    for i in range(height):
        for j in range(width):
            said = bias
            for a in range(3):
                for b in range(3):
                    if 0 <= i + a - 1 < height and 0 <= j + b - 1 < width:
                        said = said + weight[:, :, a, b] @ image[:, i + a - 1, j + b - 1]
            rows.append(said)
    return torch.stack(rows, dim=-1).reshape(-1, height, width)


def _slow(shown: torch.Tensor) -> Any:
    def loss(student: Any, teacher: Any, weight: Any, learned: Any) -> Any:
        total: Any = 0.0
        for example, own in enumerate(weight):
            image = student["map"][example]
            if "0.0.weight" in learned:
                kernel, bias = learned["0.0.weight"][:, :, 0, 0], learned["0.0.bias"]
                image = torch.einsum("oc,chw->ohw", kernel, image) + bias[:, None, None]
            image = image * shown[example]
            image = _convolved(image, learned["0.1.0.weight"], learned["0.1.0.bias"]).clamp_min(0)
            image = _convolved(image, learned["0.1.2.weight"], learned["0.1.2.bias"])
            total = total + own * ((image - teacher["map"][example]) ** 2).mean()
        return total / weight.sum()

    return loss


@pytest.mark.parametrize("channels", [3, 2])
def test_value_and_gradients_equal_the_slow_version(channels: int, features: Any) -> None:
    student, teacher = _maps(channels, 0), _maps(3, 1)
    objective = features.built(_mgd(masked=0.4), student, teacher)
    torch.manual_seed(5)
    shown = (torch.rand(2, 1, 3, 3) >= 0.4).double()
    assert 0 < shown.sum() < shown.numel()
    torch.manual_seed(5)
    features.compare(objective, _slow(shown), student, teacher, torch.tensor([1.0, 3.0]))


def test_the_mask_comes_from_torchs_seed(features: Any) -> None:
    student, teacher = _maps(3, 0), _maps(3, 1)
    objective = features.built(_mgd(), student, teacher)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(features.measure(objective, student, teacher)[0])
    assert losses[0] == losses[1] != losses[2]


def test_a_hidden_pixel_is_hidden_in_all_channels(features: Any) -> None:
    student, teacher = _maps(3, 0), _maps(3, 1)
    objective = features.built(_mgd(masked=0.7), student, teacher)
    torch.manual_seed(5)
    shown = torch.rand(2, 1, 3, 3) >= 0.7
    torch.manual_seed(5)
    _, gradient = features.measure(objective, student, teacher)
    assert not gradient["map"][~shown.expand(2, 3, 3, 3)].any()
    assert gradient["map"][shown.expand(2, 3, 3, 3)].all()


def test_a_number_by_hand(features: Any) -> None:
    # the generator does nothing but add 1 at its end: 0 + 1 against 3, squared: 4
    student, teacher = {"map": torch.ones(1, 1, 2, 2)}, {"map": 3 * torch.ones(1, 1, 2, 2)}
    objective = features.built(_mgd(), student, teacher)
    for parameter in objective.module.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(objective.module[0][1][2].bias)
    assert features.measure(objective, student, teacher)[0] == pytest.approx(4.0)


def test_a_map_of_another_size_is_brought_to_the_teachers(features: Any) -> None:
    student, teacher = _maps(2, 0, side=6), _maps(3, 1)
    objective = features.built(_mgd(), student, teacher)
    loss, gradient = features.measure(objective, student, teacher)
    assert loss > 0
    assert gradient["map"].shape == (2, 2, 6, 6)


def test_what_is_no_map_is_refused(features: Any) -> None:
    with pytest.raises(AttarError, match="mgd compares maps"):
        features.built(_mgd(), {"map": torch.zeros(1, 2)}, {"map": torch.zeros(1, 2)})
