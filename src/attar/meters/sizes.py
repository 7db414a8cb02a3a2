"""Count what a model holds and what its files weigh: parameters, bits a parameter, stored bytes, nonzero share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.nouns import Model
from attar.meters.graph_weights import count_weights
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

TOKENIZER = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "chat_template", "spiece")
"""Beginnings of the names of files that turn text into tokens."""
UNREAD = ("artifact.json", "README.md", "LICENSE", ".gitattributes")
"""Files that answering never reads."""
CARDS = (".json", ".jinja", ".yaml", ".txt")
SCALE_BITS = {"nbits": 16, "q8_0": 16, "q4_0": 16, "q4_1": 16}
"""Bits of one scale (or minimum) in the files of each format."""


@dataclass(frozen=True)
class Size:
    """Hold the size of a model's weights.

    Args:
        parameters: how many there are, tied ones once; scales and zero points are none.
        stored_bits: bits that hold them, with their scales and zero points.
        nonzero: share of the parameters that are not 0, in [0, 1].
    """

    parameters: int
    stored_bits: int
    nonzero: float

    def to_json(self) -> dict[str, float]:
        """Return the figures by name.

        Example:
            >>> Size(1000, 4500, 0.5).to_json()
            {'parameters': 1000, 'bits_per_parameter': 4.5, 'nonzero': 0.5}
        """
        bits = self.stored_bits / max(self.parameters, 1)
        return {
            "parameters": self.parameters,
            "bits_per_parameter": round(bits, 4),
            "nonzero": round(self.nonzero, 6),
        }


def of_model(model: Model) -> Size:
    """Return the size of a model's parameters, as its quantized form holds them.

    A quantized model keeps plain float weights on a grid (``facts["quantized"]``): its logical bits are those of the
    codes, scales and zero points that an exporter writes, not those of the float file.

    Args:
        model: any model of the house.
    """
    plans: Mapping[str, Mapping[str, Any]] = model.facts.get("quantized", {})
    names = {id(one): name for name, one in model.module.named_parameters(remove_duplicate=False) if name in plans}
    bits = count = nonzero = 0
    for parameter in model.module.parameters():  # gives tied ones once
        count += parameter.numel()
        nonzero += int(torch.count_nonzero(parameter.detach()))
        name = names.get(id(parameter))
        bits += _quantized_bits(model, name, plans[name]) if name else parameter.numel() * parameter.element_size() * 8
    return Size(count, bits, nonzero / max(count, 1))


def _quantized_bits(model: Model, name: str, plan: Mapping[str, Any]) -> int:
    weight = model.module.get_parameter(name)
    scale = SCALE_BITS[plan["format"]]
    sides = {"scale": scale, "minimum": scale, "zero": int(plan["bits"])}
    extra = sum(
        model.tensors[f"{name}.{side}"].numel() * width
        for side, width in sides.items()
        if f"{name}.{side}" in model.tensors
    )
    return weight.numel() * int(plan["bits"]) + extra


def of_graph(path: Path, parameters: int | None = None) -> Size:
    """Return the size of an ONNX graph's weights, by the types of its initializers.

    Args:
        path: the graph; weights beside it are read too.
        parameters: of the model it was exported from, where tied weights count once; None counts what the graph holds.
    """
    found = count_weights(path)
    count = found.count if parameters is None else parameters
    return Size(count, found.stored_bits, found.nonzero / max(found.count, 1))


def of_gguf(path: Path) -> Size:
    """Return the size of a GGUF file's tensors, by their types: blocks with their scales."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    tensors = GGUFReader(path).tensors
    count = sum(int(one.n_elements) for one in tensors)
    nonzero = sum(int(np.count_nonzero(dequantize(one.data, one.tensor_type))) for one in tensors)
    return Size(count, sum(int(one.n_bytes) * 8 for one in tensors), nonzero / max(count, 1))


def stored(folder: Path) -> dict[str, int]:
    """Return the bytes of all files that answering needs, in all and by what they are for.

    Args:
        folder: of a model or bundle; or one file.

    Returns:
        ``bytes``, and of these ``weight_bytes``, ``tokenizer_bytes`` and ``card_bytes`` (settings and labels).
    """
    parts = {"weight_bytes": 0, "tokenizer_bytes": 0, "card_bytes": 0}
    for path in _files(folder):
        parts[_part(path)] += path.stat().st_size
    return {"bytes": sum(parts.values()), **parts}


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
        return
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in UNREAD)


def _part(path: Path) -> str:
    if path.name.startswith(TOKENIZER) and path.suffix != ".onnx":
        return "tokenizer_bytes"
    return "card_bytes" if path.suffix in CARDS else "weight_bytes"


def of_folder(folder: Path, model: Model | None = None, parameters: int | None = None) -> dict[str, float]:
    """Return all sizes of a saved model, a bundle or a GGUF file.

    Args:
        folder: its files.
        model: what was loaded from them; None for bundles.
        parameters: of the model that a bundle was exported from; see `of_graph`.

    Returns:
        What `stored` and `Size.to_json` return; without the latter where no weights are known to be read.
    """
    sizes: dict[str, float] = dict(stored(folder))
    if model is not None:
        return {**sizes, **of_model(model).to_json()}
    graphs = [path for path in _files(folder) if path.suffix == ".onnx"]
    packed = [path for path in _files(folder) if path.suffix == ".gguf"]
    if len(graphs) == 1:
        return {**sizes, **of_graph(graphs[0], parameters).to_json()}
    return {**sizes, **of_gguf(packed[0]).to_json()} if len(packed) == 1 else sizes
