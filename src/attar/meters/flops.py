"""Count floating-point operations of a forward pass, attention included on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def count_flops(forward: Callable[[], Any]) -> int:
    """Return the FLOPs of the matrix products, convolutions and attention of one call.

    `torch.utils.flop_counter` knows no formula for the CPU's fused attention on some versions and counts it as 0;
    here it is always counted. A multiply and an add are two operations.

    Args:
        forward: runs the network once; called under ``no_grad``, since ``inference_mode`` hides operations.

    Reference:
        pytorch issue 195460 (0 FLOPs for CPU attention), issue 126268 (0 under inference mode).

    Example:
        >>> import torch
        >>> count_flops(lambda: torch.zeros(2, 3) @ torch.zeros(3, 4))
        48
    """
    from torch.utils.flop_counter import FlopCounterMode

    fused = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    mapping = {} if fused is None else {fused: attention_flops}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with torch.no_grad(), counter:
        forward()
    return int(counter.get_total_flops())


def attention_flops(query: Any, key: Any, value: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    """Return the FLOPs of attention: two batched products, each 2·b·h·t·s·d.

    Args:
        query: ``(batch, heads, time, width)``.
        key: ``(batch, heads, source, width)``.
        value: ``(batch, heads, source, value width)``.
        args: further arguments of the operator, not looked at.
        out_val: its result, not looked at.
        kwargs: further arguments of the operator, not looked at.
    """
    shapes = [tensor.shape if hasattr(tensor, "shape") else tensor for tensor in (query, key, value)]
    (batch, heads, time, width), source, value_width = shapes[0], shapes[1][-2], shapes[2][-1]
    return int(2 * batch * heads * time * source * (width + value_width))


def count_parameters(module: torch.nn.Module) -> int:
    """Return the number of parameters, tied ones once.

    Example:
        >>> import torch
        >>> count_parameters(torch.nn.Linear(2, 3))
        9
    """
    return sum(parameter.numel() for parameter in {id(p): p for p in module.parameters()}.values())
