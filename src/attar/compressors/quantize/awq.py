"""Make weights easier to round: scale up what large activations multiply, and scale down what gives them (AWQ).

The scales are folded into the layer before (a norm, or a linear layer), so the model stays a plain one of its kind, and
what it computes does not change before it is rounded.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attar.compressors.activations import Statistics, batches, without_cache
from attar.compressors.quantize.grid import Scheme, fit
from attar.compressors.quantize.round import counted, output_error
from attar.core.compressing import Calibration
from attar.core.nouns import Model
from attar.core.places import stack
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

ALPHAS = tuple(step / 10 for step in range(11))
"""Powers of the activations' mean magnitude that are tried as scales; 0 leaves everything as it is."""
SMALLEST = 1e-4
"""Magnitude below which an activation counts as this."""
EXACT = 1e-4
"""Largest change of a layer's output, as a share of its largest, with which a fold counts as exact."""


@dataclass(frozen=True)
class Fold:
    """Say where scales can go inside a layer, by the paths of its parts.

    Args:
        before: the norm or linear layer that gives what is scaled down.
        after: the linear layers that read it, and nothing else does.
        attention: the part that knows how many heads share keys and values; None where ``before`` is read as it is.
    """

    before: str
    after: tuple[str, ...]
    attention: str | None = None


FOLDS = (
    Fold("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Fold("self_attn.v_proj", ("self_attn.o_proj",), "self_attn"),
    Fold("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    Fold("mlp.up_proj", ("mlp.down_proj",)),
    Fold("attention.self.value", ("attention.output.dense",)),
    Fold("attention.v_lin", ("attention.out_lin",)),
)
"""Folds of the llama, BERT and DistilBERT families. Whether one is exact is tried: names alone can mislead (the norms
of Gemma 2 bear the same names, and stand elsewhere)."""


def exact_folds(model: Model, calibration: Calibration) -> list[Fold]:
    """Return the folds that leave what a model's layers compute unchanged, tried on its first layer."""
    layers = list(stack(model.module).children())
    given: list[tuple[Any, Any]] = []

    def hook(_: Any, args: Any, named: Any) -> None:
        """Keep what the layer is given."""
        given.append((args, without_cache(named)))

    handle = layers[0].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            for batch in batches(model, calibration.task, calibration.some(1), "trying folds"):
                calibration.task.rows(model, batch)
    finally:
        handle.remove()
    return [fold for fold in FOLDS if given and _is_exact(layers[0], fold, *given[0])]


def _is_exact(layer: torch.nn.Module, fold: Fold, args: Any, named: Any) -> bool:
    other = copy.deepcopy(layer)
    parts = _parts(other, fold)
    if parts is None:
        return False
    apply_scale(parts, torch.linspace(0.5, 2.0, _outputs(parts[0])))
    with torch.no_grad():
        before, after = (_first(one(*args, **named)) for one in (layer, other))
    return float((before - after).abs().max()) <= EXACT * float(before.abs().max())


def _first(gave: Any) -> torch.Tensor:
    found: torch.Tensor = gave if isinstance(gave, torch.Tensor) else gave[0]
    return found


Parts = tuple[Any, Sequence[Any], int, int]
"""The layer before, those after, how many heads share a key, and the width of a head."""


def _parts(layer: torch.nn.Module, fold: Fold) -> Parts | None:
    """Return the parts of a fold; None where the layer lacks one, or their widths do not meet."""
    every = dict(layer.named_modules())
    if any(name not in every for name in (fold.before, *fold.after)):
        return None
    before: Any = every[fold.before]
    after: list[Any] = [every[name] for name in fold.after]
    if getattr(before, "weight", None) is None or not all(isinstance(one, torch.nn.Linear) for one in after):
        return None
    outputs, inputs = _outputs(before), after[0].in_features
    head = getattr(every.get(fold.attention or ""), "head_dim", inputs if inputs == outputs else 0)
    if inputs % outputs or not head or outputs % head:
        return None
    return before, after, inputs // outputs, int(head)


def _outputs(before: Any) -> int:
    return int(before.weight.shape[0])


def apply_scale(parts: Parts, scale: torch.Tensor) -> torch.Tensor:
    """Fold a scale in place, and return what it multiplies the columns of the layers after by ``(in,)``.

    Args:
        parts: see `Parts`.
        scale: ``(outputs of the layer before,)``, above 0.
    """
    before, after, repeats, head = parts
    wide = scale.reshape(-1, 1, head).expand(-1, repeats, -1).flatten()
    before.weight.data.div_(scale[:, None] if before.weight.ndim == 2 else scale)
    if getattr(before, "bias", None) is not None:
        before.bias.data.div_(scale)
    for one in after:
        one.weight.data.mul_(wide)
    return wide


def scale_layer(
    layer: torch.nn.Module,
    folds: Sequence[Fold],
    found: Mapping[str, Statistics],
    schemes: Mapping[str, Scheme],
) -> dict[str, Statistics]:
    """Fold the best scales into a layer, in place.

    Args:
        layer: one layer of a transformer.
        folds: those that are exact.
        found: path of a linear layer inside -> what goes into it, with Hessians.
        schemes: path -> what its weight will be rounded to; a fold is done where all layers after it have one.

    Returns:
        What goes into the linear layers after folding.

    Reference:
        Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", section 3.2,
        equations 4 and 5; the error of a layer's output is computed from its Hessian instead of from activations.
    """
    now = dict(found)
    for fold in folds:
        parts = _parts(layer, fold)
        if parts is None or any(name not in schemes or name not in found for name in fold.after):
            continue
        scale = best_scale(parts, now[fold.after[0]], [schemes[name] for name in fold.after])
        wide = apply_scale(parts, scale)
        for name in fold.after:
            now[name] = now[name].scaled(1 / wide)
    return now


def best_scale(parts: Parts, found: Statistics, schemes: Sequence[Scheme]) -> torch.Tensor:
    """Return the scale ``(outputs of the layer before,)`` with which the layers after lose least when rounded."""
    _, after, repeats, head = parts
    if found.hessian is None:
        raise ValueError("scales are judged by Hessians")
    size = found.mean_abs.reshape(-1, repeats, head).mean(1).flatten().clamp_min(SMALLEST)
    best, least = torch.ones_like(size), float("inf")
    for alpha in ALPHAS:
        scale = size**alpha
        scale = scale / (scale.max() * scale.min()).sqrt()
        wide = scale.reshape(-1, 1, head).expand(-1, repeats, -1).flatten()
        error = sum(_loss(one.weight.data, wide, found, scheme) for one, scheme in zip(after, schemes, strict=True))
        if error < least:
            best, least = scale, error
    return best


def _loss(weight: torch.Tensor, scale: torch.Tensor, found: Statistics, scheme: Scheme) -> float:
    scaled = weight.float() * scale
    grid = fit(scaled, scheme, counted(found.square / scale**2), search=False)
    return output_error(weight, grid.round(scaled) / scale, found.hessian)  # type: ignore[arg-type]
