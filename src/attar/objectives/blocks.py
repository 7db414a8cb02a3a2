"""Compute a loss over a big vocabulary a few rows at a time: scores of all rows and choices never exist at once.

The gradient with respect to a block's scores is taken as soon as its loss is known, and goes through the head at once,
so that nothing is computed twice: three products with the head in all, as without blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.core.nouns import Loss, Objective
from attar.core.rows import Rows
from attar.objectives.weighted import WeightedSum
from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

PRODUCT_BYTES = 64 * 2**20
"""Most memory for the scores of one block, in the type of the product."""
WORK_BYTES = 48 * 2**20
"""Most memory for what an objective holds of a part of a block: about `COPIES` tensors in float32."""
COPIES = 8
TILE_BYTES = 8 * 2**20
"""Memory of a tile of the head in the type of the product, where that is not the head's own."""


@dataclass(frozen=True)
class Sizes:
    """Say how many rows are laid out at once.

    Args:
        block: rows whose scores are multiplied together.
        part: rows of a block that an objective sees together.
        tile: choices of the head that are cast together.
    """

    block: int
    part: int
    tile: int


def choose_sizes(choices: int, width: int, itemsize: int, device: torch.device) -> Sizes:
    """Return sizes that fit: fixed amounts of memory, less where less is free.

    Args:
        choices: of a row.
        width: of a hidden state.
        itemsize: bytes of a score in the product.
        device: whose memory counts.
    """
    share = min(1.0, free_bytes(device) / 16 / (PRODUCT_BYTES + WORK_BYTES))
    block = max(16, int(share * PRODUCT_BYTES) // (choices * itemsize))
    part = max(4, int(share * WORK_BYTES) // (choices * 4 * COPIES))
    return Sizes(block, min(block, part), max(256, TILE_BYTES // (width * itemsize)))


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free on a device, in bytes; where it cannot be told, 4 GiB."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    facts = Path("/proc/meminfo")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return found[0] if found else 4 * 2**30


def evaluate(
    objective: Objective, student: Rows, teacher: Rows | None, targets: torch.Tensor, sizes: Sizes | None = None
) -> Loss:
    """Return an objective's loss; over lazy rows, in blocks.

    Args:
        objective: what judges; in a sum, the terms that are means over rows go by blocks, the others see all rows.
        student: rows with ``logits``, or with ``hidden`` and ``head``.
        teacher: rows of the same keys, or None.
        targets: ``(rows,)``.
        sizes: of the blocks; chosen from memory if None.
    """
    if student.head is None or student.hidden is None or len(student) == 0:
        return objective(student, teacher, targets)
    rowwise, whole = _parted(objective)
    losses = [objective(student, teacher, targets) for objective in whole]
    if rowwise is not None:
        job = _Job(rowwise, student.detach(), teacher, targets, sizes)
        # a parameter asks for its gradient even where none is taken: validation would pay for it
        read = student if torch.is_grad_enabled() else job.student
        mean = _blocks().apply(read.hidden, read.head.weight, read.head.bias, job)  # type: ignore[union-attr]
        losses.append(Loss(mean, job.parts))
    parts = {name: value for loss in losses for name, value in loss.parts.items()}
    total: torch.Tensor = sum((loss.total for loss in losses[1:]), start=losses[0].total)
    return Loss(total, parts)


def _parted(objective: Objective) -> tuple[Objective | None, list[Objective]]:
    """Return the part of an objective that goes by blocks, and the terms that need all rows at once."""
    if not isinstance(objective, WeightedSum):
        return (objective, []) if objective.by_row else (None, [objective])
    terms = [term for term in objective.terms if term[1].by_row]
    rowwise: Objective | None = WeightedSum(terms) if terms else None
    whole: list[Objective] = [WeightedSum([term]) for term in objective.terms if not term[1].by_row]
    return rowwise, whole


@dataclass
class _Job:
    """Hold what a block's loss is made from, and what came out besides the total."""

    objective: Objective
    student: Rows
    teacher: Rows | None
    targets: torch.Tensor
    sizes: Sizes | None
    parts: dict[str, Any] = field(default_factory=dict)

    def loss(self, places: slice, logits: torch.Tensor, said: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the summed loss of some rows and their weight; keep the parts."""
        student = Rows(self.student.key[places], self.student.weight[places], logits)
        teacher = None
        if self.teacher is not None:
            key, weight = self.teacher.key[places], self.teacher.weight[places]
            teacher = self.teacher.take(places) if said is None else Rows(key, weight, said)
        loss = self.objective(student, teacher, self.targets[places])
        own = student.weight.sum()
        for name, value in loss.parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + value * own
        return loss.total * own, own


@cache
def _blocks() -> Any:
    """Return the autograd function; made on first use, because its base class is torch's."""

    class Blocks(torch.autograd.Function):
        """Sum a loss over blocks of rows; the gradient is ready when the value is."""

        @staticmethod
        def forward(
            ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, job: _Job
        ) -> torch.Tensor:
            """Return the mean loss; keep the gradients."""
            wanted = ctx.needs_input_grad[:3]
            total, ctx.gradients = _Pass(job, wanted).run(hidden.detach(), weight.detach())
            return total

        @staticmethod
        def backward(ctx: Any, *above: torch.Tensor) -> Any:
            """Return the gradients kept, times what comes from above."""
            if ctx.gradients is None:
                raise ValueError("a loss over blocks of rows has one backward pass")
            found = [None if part is None else part.mul_(above[0]) for part in ctx.gradients]
            ctx.gradients = None
            return (*found, None)

    return Blocks


class _Pass:
    """Go over all blocks once."""

    def __init__(self, job: _Job, wanted: tuple[bool, bool, bool]) -> None:
        if job.student.head is None or job.student.hidden is None:
            raise ValueError("blocks are for rows with a head")
        self.job, self.head, self.wanted = job, job.student.head, wanted
        hidden = job.student.hidden
        low = torch.is_autocast_enabled(hidden.device.type)
        self.dtype = torch.get_autocast_dtype(hidden.device.type) if low else hidden.dtype
        width, choices = hidden.shape[-1], self.head.weight.shape[0]
        self.sizes = job.sizes or choose_sizes(choices, width, self.dtype.itemsize, hidden.device)

    def run(self, hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Return the mean loss, and the gradients wanted for hidden states, weight and bias."""
        full = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        total, count = (torch.zeros((), dtype=full, device=hidden.device) for _ in range(2))
        grads: list[torch.Tensor | None] = [
            torch.zeros_like(hidden) if self.wanted[0] else None,
            torch.zeros_like(weight) if self.wanted[1] else None,
            torch.zeros_like(self.head.bias) if self.wanted[2] and self.head.bias is not None else None,
        ]
        with torch.autocast(hidden.device.type, enabled=False):
            for block in self.job.student.slices(self.sizes.block):
                scores = self._product(hidden[block], weight)
                summed, own = self._judge(block, scores, grads[2])
                total, count = total + summed, count + own
                if self.wanted[0] or self.wanted[1]:
                    self._through_head(block, scores, hidden, weight, grads)
        share = torch.where(count > 0, count, 1.0)
        for part in grads:
            if part is not None:
                part.div_(share)
        self.job.parts = {name: value / share for name, value in self.job.parts.items()}
        return (total / share).to(full), grads

    def _product(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return ``hidden · weightᵀ`` in the type of the product; a head of another type is cast tile by tile."""
        left = hidden.to(self.dtype)
        if weight.dtype == self.dtype:
            return left @ weight.T
        scores = torch.empty(len(left), len(weight), dtype=self.dtype, device=left.device)
        for tile in self._tiles(len(weight)):
            scores[:, tile] = left @ weight[tile].to(self.dtype).T
        return scores

    def _tiles(self, choices: int) -> Iterator[slice]:
        return (slice(first, first + self.sizes.tile) for first in range(0, choices, self.sizes.tile))

    def _judge(
        self, block: slice, scores: torch.Tensor, bias_grad: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the block's summed loss and weight; leave in ``scores`` the gradient with respect to it."""
        wanted = any(self.wanted)
        said = self._said(block)
        total, count = scores.new_zeros((), dtype=torch.float64), scores.new_zeros((), dtype=torch.float64)
        for first in range(0, len(scores), self.sizes.part):
            part = slice(first, min(first + self.sizes.part, len(scores)))
            raw = scores[part] if scores.dtype == torch.float64 else scores[part].float()
            with torch.set_grad_enabled(wanted):
                raw = raw.detach().requires_grad_(wanted)
                finished = self.head.finish(raw)
                places = slice(block.start + part.start, block.start + part.stop)
                loss, own = self.job.loss(places, finished, None if said is None else said(part))
                if wanted:
                    self._keep(raw, loss, scores[part], bias_grad)
            total, count = total + loss.detach(), count + own
        return total, count

    def _keep(
        self,
        raw: torch.Tensor,
        loss: torch.Tensor,
        scores: torch.Tensor,
        bias_grad: torch.Tensor | None,
    ) -> None:
        """Put the gradient of a part where its scores were, and add its share of the bias's."""
        (own,) = torch.autograd.grad(loss, raw)
        scores.copy_(own)
        if bias_grad is not None:
            bias_grad += own.sum(dim=0)  # d(product + bias) is the same for both

    def _said(self, block: slice) -> Callable[[slice], torch.Tensor] | None:
        """Return what gives a live teacher's scores of a part of a block; None for a teacher that is no lazy one."""
        teacher = self.job.teacher
        if teacher is None or teacher.head is None or teacher.hidden is None:
            return None
        head = teacher.head
        product = self._product(teacher.hidden[block], head.weight)
        return lambda part: head.finish(product[part].to(torch.promote_types(self.dtype, torch.float32)))

    def _through_head(
        self,
        block: slice,
        scores: torch.Tensor,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        grads: list[torch.Tensor | None],
    ) -> None:
        """Add the block's gradients with respect to hidden states and weight."""
        left = hidden[block].to(self.dtype)
        for tile in self._tiles(len(weight)):
            if grads[0] is not None:
                grads[0][block] += scores[:, tile] @ weight[tile].to(self.dtype)
            if grads[1] is not None:
                grads[1][tile] += scores[:, tile].T @ left
