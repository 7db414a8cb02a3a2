from __future__ import annotations

import pytest
import torch

from attar.teachers.codecs.ids import from_bytes, id_bytes, pack, to_bytes, unpack


@pytest.mark.parametrize("choices", [2, 65_536, 65_537, 151_936, 262_144, 2**24, 2**24 + 1])
def test_the_first_and_last_ids_and_those_around_two_bytes_survive(choices: int) -> None:
    ids = torch.tensor([i for i in (0, 1, 255, 256, 65_535, 65_536, 65_537, choices - 1) if i < choices])
    packed = pack(ids, choices)
    assert torch.equal(unpack(packed), ids)
    assert packed.nbytes == len(ids) * id_bytes(choices)


@pytest.mark.parametrize("choices", [100, 70_000, 2**25])
def test_the_shape_survives(choices: int) -> None:
    ids = torch.arange(24).reshape(2, 3, 4)
    assert torch.equal(unpack(pack(ids, choices)), ids)
    assert unpack(pack(ids[:0], choices)).shape == (0, 3, 4)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ids_as_bytes_one_after_the_other(size: int) -> None:
    ids = torch.tensor([[0, 1, 256**size // 2 - 1], [255, 256, 65_535]])
    assert torch.equal(from_bytes(to_bytes(ids, size).flatten(1), size), ids)
