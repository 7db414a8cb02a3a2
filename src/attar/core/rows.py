"""Say what a model says: one row for each decision, with a score for each choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@dataclass(frozen=True)
class Head:
    """Hold the last layer of a model: what turns a row's hidden state into a score for each choice.

    Args:
        weight: ``(choices, width)``.
        bias: ``(choices,)``, or None.
        scale: multiplies every score (Cohere's ``logit_scale``, the inverse of Granite's ``logits_scaling``).
        softcap: keeps every score within ± this value: ``softcap · tanh(score / softcap)`` (Gemma); None for no cap.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def finish(self, product: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return the scores of ``product = hidden · weightᵀ``; ``bias`` stands in for the head's own."""
        own = self.bias if bias is None else bias
        scores = product if own is None else product + own
        if self.scale != 1.0:
            scores = scores * self.scale
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)


def score_shape(config: Any) -> tuple[float, float | None]:
    """Return the scale and the soft cap that a `transformers` configuration puts on its model's scores.

    Cohere multiplies by ``logit_scale``, Granite divides by ``logits_scaling``, Gemma bends by
    ``final_logit_softcapping``.

    Example:
        >>> from types import SimpleNamespace
        >>> score_shape(SimpleNamespace(logits_scaling=4.0))
        (0.25, None)
    """
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return scale / float(getattr(config, "logits_scaling", None) or 1.0), None if cap is None else float(cap)


@dataclass(frozen=True)
class Top:
    """Hold the likeliest choices of each row, with the exact mass of all others at each temperature kept.

    A plain top-k cache knows the mass outside at temperature 1 alone, and at temperature 2 misstates most of the
    distribution; here "k choices and the rest" is exact at any temperature that was recorded.

    Args:
        ids: ``(rows, k)`` int64; -1 for a choice that the student does not have (it counts with the rest).
        log_p: ``(rows, k)`` log-probabilities at temperature 1; only their differences are used.
        rest: temperature -> ``(rows,)`` log of the softened probability of all choices not in ``ids``.
        choices: how many choices there are in all.
    """

    ids: torch.Tensor
    log_p: torch.Tensor
    rest: Mapping[float, torch.Tensor]
    choices: int

    def softened(self, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probabilities at a temperature: ``(rows, k)`` of the choices kept, ``(rows,)`` of the rest.

        Raises:
            ValueError: the record does not hold this temperature.
        """
        if temperature not in self.rest:
            known = ", ".join(f"{value:g}" for value in self.rest)
            raise ValueError(f"this record holds the temperatures {known}, and {temperature:g} is asked for")
        rest, log_p = self.rest[temperature], self.log_p
        full = torch.promote_types(torch.promote_types(rest.dtype, log_p.dtype), torch.float32)
        rest, log_p = rest.to(full), log_p.to(full)
        inside = torch.log(-torch.expm1(rest.clamp_max(-1e-7)))
        return torch.log_softmax(log_p / temperature, dim=-1) + inside[:, None], rest


@dataclass(frozen=True)
class Sampled:
    """Hold an unbiased sample of each row's distribution at one temperature.

    Args:
        ids: ``(rows, k)`` int64; a place that is not used has share 0.
        shares: ``(rows, k)``, with expectation p: ``E[Σ shares of v] = p(v)`` for every choice v.
        entropy: ``(rows,)`` exact entropy in nats, so that a divergence has its true value.
        choices: how many choices there are in all.
    """

    ids: torch.Tensor
    shares: torch.Tensor
    entropy: torch.Tensor
    choices: int


@dataclass(frozen=True)
class Rows:
    """Hold a batch of decisions.

    A class head gives one row an example; a language model one a token; a detector one a box. One form of scores is
    given: ``logits``; or ``hidden`` and ``head``, whose product they are, so that a big vocabulary need not be laid
    out whole; or a part of a recorded distribution, ``top`` or ``sampled``.

    Args:
        key: ``(rows, 2)`` int64: which example (its content key), which position in it. Keys make order
            irrelevant: shuffling, accumulation and workers cannot misalign teacher and student.
        weight: ``(rows,)`` how much each row counts; losses are means over these weights.
        logits: ``(rows, choices)`` unnormalized log-probabilities.
        hidden: ``(rows, width)`` what the head reads.
        head: the last layer.
        top: the likeliest choices and the rest.
        sampled: temperature -> a sample of the distribution at it.
        features: name -> what a layer gives, its first dimension the examples of the batch (not the rows).

    Raises:
        ValueError: not one form of scores is given, or row counts differ.

    Example:
        >>> import torch
        >>> rows = Rows(torch.tensor([[7, 0]]), torch.ones(1), torch.zeros(1, 3))
        >>> rows.dense().shape
        torch.Size([1, 3])
    """

    key: torch.Tensor
    weight: torch.Tensor
    logits: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    head: Head | None = None
    top: Top | None = None
    sampled: Mapping[float, Sampled] | None = None
    features: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.hidden is None) != (self.head is None):
            raise ValueError("Rows take hidden and head together")
        forms = [form for form in (self.logits, self.hidden, self.top, self.sampled) if form is not None]
        if len(forms) != 1:
            raise ValueError("Rows take one form of scores: logits, hidden with head, top, or sampled")
        count = self._count()
        if self.key.shape != (count, 2) or self.weight.shape != (count,):
            raise ValueError(
                f"Rows must agree in count: {count} rows of scores, key {tuple(self.key.shape)}, "
                f"weight {tuple(self.weight.shape)}"
            )

    def _count(self) -> int:
        if self.top is not None:
            return len(self.top.ids)
        if self.sampled is not None:
            return len(next(iter(self.sampled.values())).ids)
        return len(self.logits if self.logits is not None else self.hidden)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.key)

    @property
    def choices(self) -> int:
        """Return how many choices a row has."""
        if self.logits is not None:
            return self.logits.shape[-1]
        if self.head is not None:
            return self.head.weight.shape[0]
        part = self.top if self.top is not None else next(iter((self.sampled or {}).values()))
        return part.choices

    def dense(self) -> torch.Tensor:
        """Return the scores ``(rows, choices)``, laid out whole.

        Raises:
            ValueError: only a part of the distribution is known.
        """
        if self.logits is not None:
            return self.logits
        if self.hidden is None or self.head is None:
            raise ValueError("these rows hold a part of the distribution, and all of it is asked for")
        return self.head.finish(self.hidden @ self.head.weight.T)

    def take(self, places: slice | torch.Tensor) -> Rows:
        """Return the rows at these places, in this order, without features (those belong to examples)."""
        cut = {f.name: _part(getattr(self, f.name), places) for f in fields(self) if f.name not in ("head", "features")}
        return Rows(head=self.head, **cut)

    def to(self, device: torch.device) -> Rows:
        """Return the same rows on a device."""
        moved: Rows = _mapped(self, lambda tensor: tensor.to(device))
        return moved

    def detach(self) -> Rows:
        """Return the same rows cut from the gradient."""
        cut: Rows = _mapped(self, lambda tensor: tensor.detach())
        return cut

    def slices(self, size: int) -> Iterator[slice]:
        """Yield slices of at most ``size`` rows that cover all of them."""
        for first in range(0, len(self), size):
            yield slice(first, min(first + size, len(self)))


def _part(value: Any, places: slice | torch.Tensor) -> Any:
    if isinstance(value, torch.Tensor):
        return value[places]
    if isinstance(value, Mapping):
        return {name: _part(part, places) for name, part in value.items()}
    if isinstance(value, Top | Sampled):
        return replace(value, **{f.name: _part(getattr(value, f.name), places) for f in fields(value)})
    return value


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(part, change) for name, part in value.items()}
    if isinstance(value, Top | Sampled | Head | Rows):
        return replace(value, **{f.name: _mapped(getattr(value, f.name), change) for f in fields(value)})
    return value


def example_rows(keys: torch.Tensor, logits: torch.Tensor) -> Rows:
    """Return one row an example, at position 0, with weight 1.

    Args:
        keys: ``(examples,)`` int64 content keys.
        logits: ``(examples, choices)``.
    """
    places = torch.zeros_like(keys)
    return Rows(torch.stack([keys, places], dim=1), torch.ones(len(keys), device=logits.device), logits)


def weighted_mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``values (rows,)`` over row weights; 0 where all weights are 0.

    This is the one reduction of the house: every loss is a mean over row weights.
    """
    total = weight.sum()
    # where all weights are 0, a tiny divisor instead of 1 would give 0 x infinity in the gradient
    return (values * weight).sum() / torch.where(total > 0, total, 1.0)
