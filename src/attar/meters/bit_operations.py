"""Count the products of a network with the bits of both sides: FLOPs say nothing of precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attar.core.nouns import Model
from attar.meters.flops import count_flops
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

FLOAT = 32


@dataclass(frozen=True)
class Product:
    """Hold a matrix product or convolution.

    Args:
        operator: its name, as the runtime calls it.
        macs: multiply-adds of one call.
        weight_bits: bits of one weight; of two activations, the second's.
        activation_bits: bits of one activation, as they are multiplied.
    """

    operator: str
    macs: int
    weight_bits: int
    activation_bits: int

    @property
    def precision(self) -> str:
        """Return what is multiplied, in words.

        Example:
            >>> Product("MatMul", 1, 32, 32).precision, Product("MatMulNBits", 1, 4, 8).precision
            ('float32', 'int4 x int8')
        """
        sides = [_type(self.weight_bits), _type(self.activation_bits)]
        return sides[0] if sides[0] == sides[1] else " x ".join(sides)


def _type(bits: int) -> str:
    return f"float{bits}" if bits >= 16 else f"int{bits}"


def bit_operations(products: Iterable[Product]) -> int:
    """Return the sum of multiply-adds times weight bits times activation bits.

    Reference:
        Baskin et al., "UNIQ: Uniform Noise Injection for Non-Uniform Quantization of Neural Networks", 2018 (BOPs,
        without their term for the additions).

    Example:
        >>> bit_operations([Product("MatMul", 10, 4, 8), Product("MatMul", 1, 32, 32)])
        1344
    """
    return sum(one.macs * one.weight_bits * one.activation_bits for one in products)


def shares(products: Iterable[Product]) -> dict[str, float]:
    """Return the share of the multiply-adds in each precision, the largest first.

    Example:
        >>> shares([Product("DynamicQuantizeMatMul", 3, 8, 8), Product("MatMul", 1, 32, 32)])
        {'int8': 0.75, 'float32': 0.25}
    """
    counted: Counter[str] = Counter()
    for one in products:
        counted[one.precision] += one.macs
    total = max(counted.total(), 1)
    return {name: round(macs / total, 4) for name, macs in counted.most_common()}


def of_model(model: Model, forward: Callable[[], Any]) -> list[Product]:
    """Return the products of one call of a model, each with the bits its weights are quantized to.

    Weights alone are quantized in a model's folder: activations count with the bits of their type. What the layers do
    not account for is attention, which multiplies two activations.

    Args:
        model: its ``facts["quantized"]`` says which weights lie on a grid of how many bits.
        forward: runs it once.
    """
    plans = model.facts.get("quantized", {})
    known = {
        id(parameter): int(plans[name]["bits"])
        for name, parameter in model.module.named_parameters(remove_duplicate=False)
        if name in plans
    }
    found: list[Product] = []

    def count(module: Any, inputs: Any, output: Any) -> None:
        """Note a layer's product."""
        weight = module.weight
        per_output = weight.numel() // weight.shape[0]
        own = weight.element_size() * 8
        found.append(Product(type(module).__name__, output.numel() * per_output, known.get(id(weight), own), own))

    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)
    hooks = [part.register_forward_hook(count) for part in model.module.modules() if isinstance(part, kinds)]
    try:
        rest = count_flops(forward) // 2 - sum(one.macs for one in found)
    finally:
        for hook in hooks:
            hook.remove()
    return [*found, Product("attention", rest, FLOAT, FLOAT)] if rest > 0 else found
