"""Hold layers whose weight is a product of two thin ones, and put them into a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

# subclasses of torch's: what `attar check` imports must not import this file
FACT = "factored"
"""The fact of a model that says what of it is factored: ``base`` kind, ``linear`` name -> rank, ``embeddings`` rank."""


class FactoredLinear(torch.nn.Module):
    """Multiply by a weight of low rank: first down to the rank, then up to the outputs.

    Args:
        wide: the layer it stands for; its sizes and bias.
        rank: of the product, in [1, min(in, out)].
    """

    def __init__(self, wide: torch.nn.Linear, rank: int) -> None:
        super().__init__()
        place: Any = {"device": wide.weight.device, "dtype": wide.weight.dtype}
        self.in_features, self.out_features = wide.in_features, wide.out_features
        self.first = torch.nn.Linear(wide.in_features, rank, bias=False, **place)
        self.second = torch.nn.Linear(rank, wide.out_features, bias=wide.bias is not None, **place)

    @property
    def weight(self) -> torch.Tensor:
        """Return the product ``(out, in)``: some networks look at a layer's weight."""
        return self.second.weight @ self.first.weight

    @property
    def bias(self) -> torch.nn.Parameter | None:
        """Return the bias ``(out,)``."""
        return self.second.bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the outputs ``(..., out)`` of ``hidden (..., in)``."""
        up: torch.Tensor = self.second(self.first(hidden))
        return up


class FactoredEmbedding(torch.nn.Module):
    """Look up a row of a narrow table and widen it.

    Args:
        wide: the embedding it stands for.
        rank: the narrow table's width.

    Reference:
        Lan et al. 2020, "ALBERT", section 3.1.
    """

    def __init__(self, wide: torch.nn.Embedding, rank: int) -> None:
        super().__init__()
        place: Any = {"device": wide.weight.device, "dtype": wide.weight.dtype}
        self.num_embeddings, self.embedding_dim = wide.num_embeddings, wide.embedding_dim
        self.padding_idx = wide.padding_idx
        self.table = torch.nn.Embedding(wide.num_embeddings, rank, wide.padding_idx, **place)
        self.up = torch.nn.Linear(rank, wide.embedding_dim, bias=False, **place)

    @property
    def weight(self) -> torch.Tensor:
        """Return the whole table ``(vocab, width)``, a product that is computed each time."""
        return self.table.weight @ self.up.weight.T

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows ``(..., width)`` of ``ids (...)``."""
        rows: torch.Tensor = self.up(self.table(ids))
        return rows


class TiedHead(torch.nn.Module):
    """Score the vocabulary by a factored embedding, which stays the embedding's own.

    Args:
        embedding: shared; its weights have two names and are saved once.
        bias: ``(vocab,)`` of the head, if it has one.
    """

    def __init__(self, embedding: FactoredEmbedding, bias: torch.nn.Parameter | None) -> None:
        super().__init__()
        self.in_features, self.out_features = embedding.embedding_dim, embedding.num_embeddings
        self.embedding = embedding
        self.bias = bias

    @property
    def weight(self) -> torch.Tensor:
        """Return the whole table ``(vocab, width)``, a product that is computed each time."""
        return self.embedding.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the scores ``(..., vocab)`` of ``hidden (..., width)``."""
        narrow = hidden @ self.embedding.up.weight
        return torch.nn.functional.linear(narrow, self.embedding.table.weight, self.bias)


def factor(module: torch.nn.Module, linear: Mapping[str, int], embeddings: int = 0) -> None:
    """Replace layers of a network by factored ones of the same sizes, in place; their weights are random.

    Args:
        module: the network.
        linear: name of a linear layer -> rank.
        embeddings: rank of the table of the inputs, and of every head tied to it; 0 leaves it whole.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8))
        >>> factor(net, {"0": 2})
        >>> [tuple(parameter.shape) for parameter in net.parameters()]
        [(2, 8), (8, 2), (8,)]
    """
    for name, rank in linear.items():
        layer: Any = module.get_submodule(name)
        _put(module, name, FactoredLinear(layer, rank).train(layer.training))
    if not embeddings:
        return
    table = input_table(module)
    narrow = FactoredEmbedding(table, embeddings).train(table.training)
    names = [name for name, part in module.named_modules() if getattr(part, "weight", None) is table.weight]
    for name in names:
        part: Any = module.get_submodule(name)
        _put(module, name, narrow if isinstance(part, torch.nn.Embedding) else TiedHead(narrow, part.bias))


def input_table(module: torch.nn.Module) -> torch.nn.Embedding:
    """Return the embedding of a network's inputs."""
    network: Any = getattr(module, "lm", module)
    table: torch.nn.Embedding = network.get_input_embeddings()
    return table


def _put(module: torch.nn.Module, name: str, part: torch.nn.Module) -> None:
    holder, _, own = name.rpartition(".")
    setattr(module.get_submodule(holder), own, part)
