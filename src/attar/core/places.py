"""Find where in a network a feature is: a layer of a transformer's stack, its attention, the head's input, a path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from attar.core.layers import find_stack
from attar.errors import AttarError, did_you_mean
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Kind = Literal["output", "copy", "attention", "input", "map"]

PROJECTIONS: dict[str, tuple[str, ...]] = {
    "query": ("q_proj", "query", "q_lin", "query_proj", "to_q", "wq", "q"),
    "key": ("k_proj", "key", "k_lin", "key_proj", "to_k", "wk", "k"),
    "value": ("v_proj", "value", "v_lin", "value_proj", "to_v", "wv", "v"),
}
"""What the libraries of the field call the three projections of an attention."""
FUSED = ("qkv", "c_attn", "query_key_value", "qkv_proj", "Wqkv", "att_proj", "in_proj_weight")
"""What they call one product that gives all three."""
FAMILIES = ("hidden", "attention", *PROJECTIONS)
SHOWN = 20


class FeatureError(AttarError, ValueError):
    """Report a feature that a network does not give."""


@dataclass(frozen=True)
class Place:
    """Say where a feature is taken.

    Args:
        name: of the feature.
        module: whose forward pass gives it.
        kind: ``output`` (its first, if it gives many); ``copy`` of the output, safe from work in place; ``attention``
            (the probabilities beside the output); ``input``; ``map`` (the output, if it is an image).
    """

    name: str
    module: torch.nn.Module
    kind: Kind


def find(module: torch.nn.Module, name: str) -> list[Place]:
    """Return where a feature is taken.

    Args:
        module: the network.
        name: ``hidden:I``, ``attention:I``, ``query:I``, ``key:I``, ``value:I`` with I a layer (0 the first, -1 the
            last, ``*`` for each); ``pooled``: what the last linear layer reads; ``map``: the last image
            ``(batch, channels, height, width)`` of more than one pixel in a convnet; or the path of a module.

    Raises:
        FeatureError: the network has no such place; the message names what it has.
    """
    family, colon, layer = name.partition(":")
    if colon and family in FAMILIES:
        return [_of_layer(module, family, number) for number in _numbers(module, name, layer)]
    if name == "pooled":
        return [Place(name, _head(module), "input")]
    if name == "map":
        return [Place(name, leaf, "map") for leaf in _leaves(module)]
    return [Place(name, _by_path(module, name), "copy")]


def stack(module: torch.nn.Module) -> torch.nn.Module:
    """Return the stack of layers of a transformer.

    With a configuration it is the list as long as that says; without, the longest whose members all have an attention.

    Raises:
        FeatureError: there is none.
    """
    if getattr(getattr(module, "config", None), "num_hidden_layers", None) is not None:
        found = find_stack(module)
        if found is not None:
            return found[2]
    else:
        kinds = (torch.nn.ModuleList, torch.nn.Sequential)
        lists: list[Any] = [part for part in module.modules() if isinstance(part, kinds)]
        fitting = [part for part in lists if len(part) and all(_attentions(child) for child in part)]
        if fitting:
            longest: torch.nn.Module = max(fitting, key=len)
            return longest
    raise FeatureError(
        f"{type(module).__name__} has no single stack of layers, so its features have no layer numbers. "
        "Name one by the path of its module."
    )


def _numbers(module: torch.nn.Module, name: str, layer: str) -> range:
    count = len(list(stack(module).children()))
    if layer == "*":
        return range(count)
    if not layer.removeprefix("-").isdecimal() or not -count <= int(layer) < count:
        raise FeatureError(
            f"There is no feature '{name}': the model has the layers 0 to {count - 1}, or -1 for the last."
        )
    return range(int(layer), int(layer) + 1)


def _of_layer(module: torch.nn.Module, family: str, number: int) -> Place:
    layer = list(stack(module).children())[number]
    name = f"{family}:{number}"
    if family == "hidden":
        return Place(name, layer, "output")
    found = _attentions(layer)
    if not found:
        raise FeatureError(f"There is no feature '{name}': layer {number} of {type(module).__name__} has no attention.")
    if family == "attention":
        return Place(name, found[0], "attention")
    return Place(name, _projection(found[0], family, name), "output")


def _attentions(layer: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the modules of a layer that hold projections of an attention."""
    known = (*PROJECTIONS["query"], *FUSED)
    return [part for part in layer.modules() if any(name in known for name in _own(part))]


def _own(part: torch.nn.Module) -> Iterator[str]:
    yield from (name for name, _ in part.named_children())
    yield from (name for name, _ in part.named_parameters(recurse=False))


def _projection(attention: torch.nn.Module, family: str, name: str) -> torch.nn.Module:
    children = dict(attention.named_children())
    for choice in PROJECTIONS[family]:
        if choice in children:
            return children[choice]
    fused = [choice for choice in _own(attention) if choice in FUSED]
    if fused:
        raise FeatureError(
            f"There is no feature '{name}': {type(attention).__name__} computes query, key and value in one product "
            f"('{fused[0]}'). Compare hidden states or attention probabilities instead."
        )
    raise FeatureError(f"There is no feature '{name}': {type(attention).__name__} has {', '.join(children)}.")


def _head(module: torch.nn.Module) -> torch.nn.Module:
    linear = [part for part in module.modules() if isinstance(part, torch.nn.Linear)]
    if not linear:
        raise FeatureError(f"There is no feature 'pooled': {type(module).__name__} has no linear layer.")
    return linear[-1]


def _leaves(module: torch.nn.Module) -> list[torch.nn.Module]:
    if _attentions(module):
        raise FeatureError(
            f"There is no feature 'map': {type(module).__name__} has attention, and is no plain convnet. Name a module "
            "by its path, or compare hidden states."
        )
    return [part for part in module.modules() if not list(part.children())]


def _by_path(module: torch.nn.Module, name: str) -> torch.nn.Module:
    """Return the module at a path; where it ends too soon, say what stands there."""
    here, walked = module, ""
    for part in name.split("."):
        children = dict(here.named_children())
        if part not in children:
            where = f"'{walked}'" if walked else "the model"
            known = [f"{walked}.{child}".lstrip(".") for child in children]
            near = did_you_mean(f"{walked}.{part}".lstrip("."), known[:SHOWN])
            raise FeatureError(f"There is no feature '{name}': {where} has no part '{part}'.{near}")
        here, walked = children[part], f"{walked}.{part}".lstrip(".")
    return here
