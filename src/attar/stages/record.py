"""Record what the teacher says, once, in shards that survive a kill."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.core.examples import Examples
from attar.core.nouns import Teacher
from attar.core.rows import Rows
from attar.errors import AttarError
from attar.log import progress
from attar.optional import lazy
from attar.store.files import disk_errors, remove, write_bytes
from attar.teachers.codecs import FullCodec, fidelity
from attar.teachers.recorded import RecordedTeacher

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

SHARD = 64
"""Examples a shard holds: what a kill can cost."""
PROBE = 8
"""Examples answered again at the end, to see that record and live teacher agree."""


@dataclass(frozen=True)
class Known:
    """Hold answers that the teacher has given before recording, so that it is not asked again.

    Args:
        keys: ``(examples,)`` content keys.
        scores: ``(examples, labels)``.
    """

    keys: np.ndarray
    scores: np.ndarray


def record(
    teacher: Teacher, splits: Mapping[str, Examples], work: Path, content: Path, known: Known | None = None
) -> dict[str, Any]:
    """Record a teacher on all splits.

    Args:
        teacher: is asked once for each example.
        splits: name -> examples.
        work: folder where finished shards wait for the rest; a continued run begins after the last of them.
        content: folder that the finished record is copied to.
        known: answers given before.

    Returns:
        Facts for the artifact's card: rows, calls, bytes a row and fidelity.

    Raises:
        AttarError: record and live teacher disagree.
    """
    shards, exact = work / "shards", work / "exact"
    with disk_errors(shards):
        shards.mkdir(parents=True, exist_ok=True)
        exact.mkdir(parents=True, exist_ok=True)
    total = sum(len(examples) for examples in splits.values())
    with progress("recording the teacher", total) as bar:
        for name, examples in splits.items():
            for path, part in _shards(examples, shards, name):
                if not path.exists():
                    rows, asked = _answer(teacher, part, known)
                    _keep_exact(exact / path.name, rows, asked)
                    FullCodec().write(rows, path)
                bar.advance(len(part), name)
    calls, scores = _exact(exact)
    checks = _same(teacher, splits, shards)
    remove(content)
    shutil.copytree(shards, content)  # the shards stay in the work folder until the record is in the store
    lost = fidelity(scores).to_json()
    return {"rows": total, "calls": calls, "codec": FullCodec.name, "preflight": checks, "fidelity": lost}


def _keep_exact(path: Path, rows: Rows, asked: int) -> None:
    """Keep what the teacher said, uncoded, until the record is whole: a continued run states the same fidelity."""
    from safetensors.torch import save

    write_bytes(path, save({"scores": rows.dense().float().contiguous(), "asked": torch.tensor(asked)}))


def _exact(folder: Path) -> tuple[int, torch.Tensor]:
    """Return how often the teacher was asked, and its uncoded scores ``(rows, choices)``."""
    from safetensors.torch import load_file

    parts = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    return sum(int(part["asked"]) for part in parts), torch.cat([part["scores"] for part in parts])


def _shards(examples: Examples, folder: Path, name: str) -> list[tuple[Path, Examples]]:
    """Cut a split into shards of texts of like length, so that a batch has little padding."""
    sizes = np.array([len(one) for one in examples.inputs])
    order = np.argsort(sizes, kind="stable")
    return [
        (folder / f"{name}-{first // SHARD:06d}.safetensors", examples.take(order[first : first + SHARD]))
        for first in range(0, len(order), SHARD)
    ]


def _answer(teacher: Teacher, examples: Examples, known: Known | None) -> tuple[Rows, int]:
    if known is None or len(known.keys) == 0:
        return teacher.answer(examples), len(examples)
    order = np.argsort(known.keys)
    places = np.minimum(np.searchsorted(known.keys[order], examples.keys), len(order) - 1)
    found = known.keys[order][places] == examples.keys
    scores = torch.from_numpy(known.scores[order][places].copy())
    asked = np.flatnonzero(~found)
    if len(asked):
        scores[torch.from_numpy(asked)] = teacher.answer(examples.take(asked)).dense().to(scores.dtype)
    keys = torch.from_numpy(np.ascontiguousarray(examples.keys))
    key = torch.stack([keys, torch.zeros_like(keys)], dim=1)
    return Rows(key, torch.ones(len(examples)), scores), len(asked)


def _same(teacher: Teacher, splits: Mapping[str, Examples], shards: Path) -> Sequence[dict[str, Any]]:
    """Ask the live teacher a few examples again and compare with the record."""
    examples = max(splits.values(), key=len)
    probe = examples.take(np.linspace(0, len(examples) - 1, min(PROBE, len(examples))).astype(int))
    live = torch.log_softmax(teacher.answer(probe).dense().float(), dim=-1)
    kept = RecordedTeacher(shards, "").answer(probe).dense()
    worst = float((live.exp() - kept.exp()).abs().max())
    # bfloat16 answers move with the shape of the batch they stand in; probabilities by up to a few hundredths
    check = {
        "name": "live and recorded teacher agree",
        "passed": worst < 0.1,
        "value": f"largest difference of a probability {worst:.4f}",
    }
    if worst >= 0.1:
        raise AttarError(
            f"The live teacher and its record differ by {worst:.3f} in a probability; they must agree to 0.1. Remove "
            f"the folder {shards.parent} and run again."
        )
    return [check]
