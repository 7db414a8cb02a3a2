"""Find the weights of a model that steps may thin out or factor: all but those of embeddings and heads."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from attar.compressors.activations import Statistics, Want, collect, layer_by_layer
from attar.core.compressing import finite, unquantized
from attar.core.examples import Examples
from attar.core.nouns import Model, Task
from attar.core.places import FeatureError, stack
from attar.errors import AttarError, did_you_mean
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def ready(model: Model, step: str) -> None:
    """Refuse a model whose weights cannot be changed.

    Raises:
        AttarError: it is quantized, has a trained prompt, or weights that are no numbers.
    """
    unquantized(model, step)
    if model.kind == "prompted":
        raise AttarError(f"{step} works before a prompt is trained, which was made for these weights. Put it first.")
    finite(model)


def prunable(model: Model, step: str, keep: Collection[str] = ()) -> dict[str, torch.nn.Module]:
    """Return the linear layers and convolutions that a step may work on.

    Embeddings (of images: the first convolution) and heads are left alone: they are few or looked up, and the most
    sensitive.

    Args:
        model: of any kind that has no trained prompt around it.
        step: the registered name of the step that asks.
        keep: names of further modules that are left alone, with all inside them.

    Returns:
        Name of the module -> module, in the network's order.

    Raises:
        AttarError: the model is quantized, has a trained prompt, weights that are no numbers or nothing to work on;
            or a name to keep is none of its modules.
    """
    ready(model, step)
    every = dict(model.module.named_modules())
    for name in keep:
        if name not in every:
            hint = did_you_mean(name, every)
            raise AttarError(f"{step} shall keep '{name}', which is no module of {type(model.module).__name__}.{hint}")
    left = {id(part) for part in _left(model)}
    found: dict[str, torch.nn.Module] = {
        name: part
        for name, part in every.items()
        if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)
        and id(part) not in left
        and not any(name == one or name.startswith(f"{one}.") for one in keep)
    }
    if not found:
        raise AttarError(
            f"{step} works on torch.nn.Linear and torch.nn.Conv2d between embeddings and head, and "
            f"{type(getattr(model.module, 'lm', model.module)).__name__} has none. Leave the step out, or choose "
            "another architecture, such as BERT, Llama, ViT or ResNet."
        )
    return found


def walk(
    model: Model, task: Task, examples: Examples, want: Collection[Want], names: Collection[str]
) -> Iterator[tuple[str, Statistics]]:
    """Yield layers with what goes into them; those of a transformer's stack when what is before them is done.

    What the caller does to a layer of the stack, the next ones see in their inputs.

    Args:
        model: is put in evaluation mode while it reads.
        task: see `attar.compressors.activations.collect`.
        examples: what the model reads.
        want: see `attar.compressors.activations.collect`.
        names: of the layers; one that is never run is not among the results.
    """
    done: set[str] = set()
    if _has_stack(model):
        for _, _, inside in layer_by_layer(model, task, examples, want):
            for name in [name for name in inside if name in names]:
                done.add(name)
                yield name, inside[name]
    rest = [name for name in names if name not in done]
    yield from (collect(model, task, examples, want, rest) if rest else {}).items()


def _has_stack(model: Model) -> bool:
    try:
        stack(model.module)
    except FeatureError:
        return False
    return True


def _left(model: Model) -> Iterator[torch.nn.Module]:
    """Yield the modules of embeddings and heads."""
    network: Any = getattr(model.module, "lm", model.module)
    parts = [part for part in network.modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)]
    yield from [part for part in parts if isinstance(part, torch.nn.Conv2d)][:1]
    body = getattr(network, "base_model", network)
    if body is not network:  # a model of transformers: what is not in its body is its head
        inside = {id(part) for part in body.modules()}
        yield from (part for part in parts if id(part) not in inside)
    elif hasattr(network, "get_classifier"):  # timm
        head = network.get_classifier()
        yield from (one for part in (head if isinstance(head, tuple) else (head,)) for one in part.modules())
    else:
        yield from parts[-1:]
    tables = {id(part.weight) for part in network.modules() if isinstance(part, torch.nn.Embedding)}
    yield from (part for part in parts if id(part.weight) in tables)
