"""Say what a codec keeps of the teacher: sums over rows, which parts of a record add to, and the figures they give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attar.core.rows import Rows
from attar.optional import lazy
from attar.teachers.codecs.base import Codec, scores

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

PROBE_VALUES = 2**20
"""Most scores of a shard that are compared in float64; rows beyond are left out, evenly."""
Sums = dict[str, float]


@dataclass(frozen=True)
class Fidelity:
    """Say what a codec keeps of the teacher.

    Args:
        bytes_per_row: bytes of scores a row takes, all temperatures together.
        kl: mean KL(teacher ‖ decoded) in nats, at the first temperature; of ``topk``, against the distribution that
            spreads the rest evenly over all other choices: what a reader does not know who is told nothing more.
            None for a sample, which rules out most choices.
        gradient_error: ``‖p̂ - p‖ / ‖p - u‖`` over all rows, p the teacher's probabilities, p̂ the decoded ones and u
            the uniform distribution: the relative error of the gradient that an untrained student sees, at the first
            temperature. Of a sample it is mostly noise, which training averages out; `bias_z` tells what stays.
        by_temperature: temperature -> ``kl`` and ``gradient_error`` there, and

            - ``bucket_kl`` (``topk``): KL of "k choices and the rest" alone: rounding, nothing else;
            - ``student_gradient_error``: the same error for a student halfway to the teacher, whose scores are the
              mean of the teacher's and of those of how often each choice comes up; the rest of ``topk`` is spread
              as this student spreads it, which is what an objective over "k choices and the rest" does;
            - ``bias_z`` (``sampled``): how many standard errors the mean error along the exact gradient is from 0.
    """

    bytes_per_row: float
    kl: float | None
    gradient_error: float
    by_temperature: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the figures by name, without those that do not exist."""
        own = {"bytes_per_row": self.bytes_per_row, "kl": self.kl, "gradient_error": self.gradient_error}
        found: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
        return {**found, "by_temperature": dict(self.by_temperature)} if self.by_temperature else found


def probe_places(count: int, choices: int) -> torch.Tensor:
    """Return the places of the rows that are compared: all of them, or as many as fit, evenly."""
    kept = min(count, max(4, PROBE_VALUES // choices))
    return torch.linspace(0, max(count - 1, 0), kept).round().long()


def compare(codec: Codec, rows: Rows, columns: Mapping[str, torch.Tensor]) -> dict[str, Sums]:
    """Return sums over some rows of what the codec's columns lose of them: temperature -> name -> sum.

    Args:
        codec: that encoded them.
        rows: the teacher's.
        columns: what ``codec.encode(rows)`` gave.
    """
    places = probe_places(len(rows), rows.choices)
    part = rows.take(places)
    exact = torch.log_softmax(scores(part).double(), dim=-1).cpu()
    own = {name: column[places] for name, column in columns.items()}
    decoded = codec.decode(own, part.key, part.weight, rows.choices)
    return {f"{t:g}": _sums(exact, decoded, t) for t in codec.temperatures}


def _sums(exact: torch.Tensor, decoded: Rows, temperature: float) -> Sums:
    soft = torch.log_softmax(exact / temperature, dim=-1)
    p = soft.exp()
    uniform = torch.full_like(p, 1.0 / p.shape[-1])
    student = halfway(exact, temperature)
    guess = target(decoded, uniform, temperature)
    found = {"rows": float(len(p)), **_gradient_sums(p, guess, uniform, "")}
    found |= _gradient_sums(p, target(decoded, student, temperature), student, "student_")
    if decoded.sampled is None:
        found["kl"] = float(torch.where(p > 0, p * (soft - guess.clamp_min(1e-300).log()), 0.0).sum())
    if decoded.top is not None:
        found["bucket_kl"] = _bucket_kl(soft, decoded, temperature)
    return found


def _gradient_sums(p: torch.Tensor, guess: torch.Tensor, student: torch.Tensor, name: str) -> Sums:
    error, gradient = guess - p, p - student
    bias = (error * gradient).sum(dim=-1)
    return {
        f"{name}error": float(error.square().sum()),
        f"{name}reach": float(gradient.square().sum()),
        f"{name}bias": float(bias.sum()),
        f"{name}bias_squares": float(bias.square().sum()),
    }


def halfway(exact: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the probabilities of a student halfway to the teacher ``(rows, choices)``: see `Fidelity`.

    Args:
        exact: the teacher's log-probabilities ``(rows, choices)``.
        temperature: of student and teacher.
    """
    often = (exact.exp().mean(dim=0) + 1.0 / exact.shape[-1]) / 2  # a choice that never came up is not ruled out
    return torch.softmax((exact.clamp_min(-1e3) + often.log()) / (2 * temperature), dim=-1)


def target(decoded: Rows, student: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the probabilities that a record pulls a student to: the gradient is the student's less these.

    Args:
        decoded: rows of any form.
        student: its probabilities ``(rows, choices)``, float64; the rest of ``top`` is spread as it spreads it.
        temperature: of both.
    """
    if decoded.sampled is not None:
        sample = decoded.sampled[temperature]
        return torch.zeros_like(student).scatter_add_(-1, sample.ids, sample.shares.double())
    if decoded.top is None:
        return torch.softmax(decoded.dense().double() / temperature, dim=-1)
    log_p, rest = decoded.top.softened(temperature)
    others = student.scatter(-1, decoded.top.ids, 0.0)
    share = rest.double().exp()[:, None] / others.sum(dim=-1, keepdim=True).clamp_min(1e-300)
    return (others * share).scatter(-1, decoded.top.ids, log_p.double().exp())


def _bucket_kl(soft: torch.Tensor, decoded: Rows, temperature: float) -> float:
    if decoded.top is None:
        raise ValueError("buckets are of rows with top")
    kept = soft.gather(-1, decoded.top.ids)
    rest = soft.scatter(-1, decoded.top.ids, float("-inf")).logsumexp(dim=-1, keepdim=True)
    exact = torch.cat([kept, rest], dim=-1)
    log_p, log_rest = decoded.top.softened(temperature)
    said = torch.log_softmax(torch.cat([log_p, log_rest[:, None]], dim=-1).double(), dim=-1)
    return float(torch.where(exact > -1e3, exact.exp() * (exact - said), 0.0).sum())


def added(parts: Iterable[Mapping[str, Sums]]) -> dict[str, Sums]:
    """Return the sums of several parts of a record together."""
    total: dict[str, Sums] = {}
    for part in parts:
        for temperature, sums in part.items():
            own = total.setdefault(temperature, dict.fromkeys(sums, 0.0))
            for name, value in sums.items():
                own[name] += value
    return total


def stated(sums: Mapping[str, Sums], bytes_per_row: float) -> Fidelity:
    """Return the figures that sums give; a codec that keeps every choice states only those of temperature 1."""
    each = {temperature: _figures(own) for temperature, own in sums.items()}
    first = next(iter(each.values()))
    whole = "kl" in first and "bucket_kl" not in first
    return Fidelity(bytes_per_row, first.get("kl"), first["gradient_error"], {} if whole else each)


def _figures(own: Sums) -> dict[str, float]:
    rows = max(own["rows"], 1.0)
    found: dict[str, float] = {name: max(own[name] / rows, 0.0) for name in ("kl", "bucket_kl") if name in own}
    found |= {f"{who}gradient_error": _ratio(own[f"{who}error"], own[f"{who}reach"]) for who in ("", "student_")}
    if "kl" not in own:
        found["bias_z"] = own["bias"] / max(own["bias_squares"] ** 0.5, 1e-150)
    return found


def _ratio(error: float, reach: float) -> float:
    # a teacher that says nothing at all leaves nothing to be wrong about
    return float(error**0.5 / max(reach**0.5, 1e-12))


def difference(live: Rows, kept: Rows) -> float:
    """Return how far a live teacher's probabilities are from those kept of the same rows, at most.

    Args:
        live: rows with scores of every choice.
        kept: decoded rows; of ``top`` the choices kept and the rest are compared, of ``sampled`` the likeliest, less
            what rounding its shares can do.
    """
    if len(live) == 0:
        return 0.0
    said = scores(live).double().cpu()
    if kept.sampled is not None:
        temperature, sample = next(iter(kept.sampled.items()))
        p = torch.softmax(said / temperature, dim=-1).gather(-1, sample.ids[:, :1])
        rounding = 0.07 * (1 - p)
        return float(((p - sample.shares[:, :1].double()).abs() - rounding).clamp_min(0.0).max())
    if kept.top is None:
        return float((said.softmax(-1) - kept.dense().double().softmax(-1)).abs().max())
    temperature = next(iter(kept.top.rest))
    log_p, rest = kept.top.softened(temperature)
    p = torch.softmax(said / temperature, dim=-1)
    outside = p.scatter(-1, kept.top.ids, 0.0).sum(dim=-1)
    apart = (p.gather(-1, kept.top.ids) - log_p.double().exp()).abs().max()
    return float(torch.maximum(apart, (outside - rest.double().exp()).abs().max()))
