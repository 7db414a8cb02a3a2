"""Record what the teacher says, once, in shards that survive a kill."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar import catalog
from attar.core.examples import Examples
from attar.core.nouns import Teacher
from attar.core.rows import Rows
from attar.errors import AttarError
from attar.log import Meter, progress, say
from attar.optional import lazy
from attar.stages.record_features import FeatureWriter
from attar.store.files import disk_errors, read_json, remove, write_json
from attar.teachers.codecs.base import Codec
from attar.teachers.codecs.fidelity import Fidelity, added, compare, difference, stated
from attar.teachers.codecs.full import FullCodec
from attar.teachers.codecs.shard import Shard, frame, ordered, write
from attar.teachers.recorded import INDEX, RecordedTeacher, write_index

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

SHARD = 64
"""Examples a shard holds: what a kill can cost."""
PROBE = 8
"""Examples answered again at the end, to see that record and live teacher agree; a codec is fitted on as many."""
PROBE_ROWS = 64
"""Most of their rows that are compared."""
AGREE = 0.1
"""Most difference of a probability between record and live teacher."""


@dataclass(frozen=True)
class Known:
    """Hold answers that the teacher has given before recording, so that it is not asked again.

    Args:
        keys: ``(examples,)`` content keys.
        scores: ``(examples, labels)``.
    """

    keys: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class RecordSettings:
    """Say how a record is written.

    Args:
        codec: turns rows into bytes.
        seed: of what the codec draws (`attar.seeds.derive`).
        shard: examples a shard holds.
        features: keep what layers give, too; the teacher then gives features.
    """

    codec: Codec = field(default_factory=lambda: FullCodec(FullCodec.Settings()))
    seed: int = 0
    shard: int = SHARD
    features: bool = False


def record(
    teacher: Teacher,
    splits: Mapping[str, Examples],
    work: Path,
    content: Path,
    known: Known | None = None,
    settings: RecordSettings | None = None,
) -> dict[str, Any]:
    """Record a teacher on all splits.

    Args:
        teacher: is asked once for each example; it may answer with any number of rows an example, lazily given.
        splits: name -> examples.
        work: folder where finished shards wait for the rest; a continued run begins after the last of them.
        content: folder that the finished record is copied to; features go to the folder `features` beside it.
        known: answers given before, one row an example.
        settings: codec, seed and size of shards; None keeps every choice.

    Returns:
        Facts for the artifact's card: rows, examples, calls, codec and fidelity; those of features, if any.

    Raises:
        AttarError: there is no example, the teacher gives no scores (or features, if those are to be kept), or record
            and live teacher disagree.
    """
    shards = work / "shards"
    with disk_errors(shards):
        shards.mkdir(parents=True, exist_ok=True)
    settings = settings or RecordSettings()
    _refuse(teacher, splits, settings.features)
    features = FeatureWriter(work / "features") if settings.features else None
    writer = _Writer(teacher, _fitted(settings, teacher, splits, work), known, features)
    total = sum(len(examples) for examples in splits.values())
    with progress("recording the teacher", total) as bar:
        for name, examples in splits.items():
            for path, part in _shards(examples, shards, name, writer.settings.shard):
                writer.finish(path, part, name, bar)
    write_index(shards, writer.settings.codec)
    probe = _probe(splits)
    said = teacher.answer(probe)
    checks = [_same(said, probe, shards)]
    facts: dict[str, Any] = {}
    if features is not None:
        beside = content.with_name("features")
        facts["features"] = features.finish(beside)
        checks.append(features.same(said, probe.keys, beside))
    remove(content)
    # the shards stay in the work folder until the record is in the store; names with a dot are halves that a kill left
    shutil.copytree(shards, content, ignore=shutil.ignore_patterns(".*"))
    return {**_facts(shards, writer.settings.codec), **facts, "examples": total, "preflight": checks}


def _refuse(teacher: Teacher, splits: Mapping[str, Examples], features: bool = False) -> None:
    if not any(len(examples) for examples in splits.values()):
        raise AttarError("There is no example to record the teacher on. Give data.")
    if "logits" not in teacher.gives:
        given = ", ".join(sorted(teacher.gives)) or "nothing"
        raise AttarError(
            f"A record is made of scores of every choice; this teacher gives {given}. Record the model behind it, or "
            "learn from the texts that it writes."
        )
    if features and "features" not in teacher.gives:
        raise AttarError("This teacher gives no features to record. Leave distill.record_features out.")


@dataclass
class _Writer:
    """Write shard after shard, and count their rows."""

    teacher: Teacher
    settings: RecordSettings
    known: Known | None
    features: FeatureWriter | None = None
    rows: int = 0

    def finish(self, path: Path, examples: Examples, split: str, bar: Meter) -> None:
        """Answer and write a shard that is not there yet."""
        done = path.exists() and (self.features is None or self.features.has(path.name))
        self.rows += int(Shard(path).facts["rows"]) if done else self._write(path, examples)
        bar.advance(len(examples), split if self.rows == len(examples) else f"{split}, {self.rows:,} rows")

    def _write(self, path: Path, examples: Examples) -> int:
        codec = self.settings.codec
        answered, asked = _answer(self.teacher, examples, self.known)
        if self.features is not None:  # before the answers, whose file says that the shard is done
            self.features.write(path.name, answered, examples.keys)
        rows, counts = ordered(answered, examples.keys)
        columns = codec.encode(rows, self.settings.seed)
        facts = {
            "rows": len(rows),
            "asked": asked,
            "choices": rows.choices,
            "bytes": sum(column.nbytes for column in columns.values()),
            "fidelity": compare(codec, rows, columns) if len(rows) else {},
        }
        write(path, {**frame(rows, examples.keys, counts), **columns}, facts)
        return len(rows)


def _facts(shards: Path, codec: Codec) -> dict[str, Any]:
    """Return what the shards say of themselves, together, and say it."""
    parts = [Shard(path).facts for path in sorted(shards.glob("*.safetensors")) if path.name != INDEX]
    rows = sum(part["rows"] for part in parts)
    if rows == 0:
        raise AttarError("The teacher gave no row for any example: there is nothing to learn from. Check the data.")
    lost = stated(added(part["fidelity"] for part in parts), sum(part["bytes"] for part in parts) / rows)
    say(describe(codec, rows, lost))
    calls = sum(part["asked"] for part in parts)
    return {"rows": rows, "calls": calls, "codec": codec.name, "fidelity": lost.to_json()}


def describe(codec: Codec, rows: int, lost: Fidelity) -> str:
    """Return one line for people: what the record takes and what it lost."""
    own = {"1": {"kl": lost.kl, "gradient_error": lost.gradient_error}}
    parts = []
    for temperature, figures in (lost.by_temperature or own).items():
        kl = figures.get("kl")
        words = [f"gradient error {figures['gradient_error']:.2g}"]
        words += [] if kl is None else [f"KL {kl:.2g}"]
        words += [f"bias {figures['bias_z']:+.1f} standard errors"] if "bias_z" in figures else []
        parts.append(f"at temperature {temperature}: {', '.join(words)}")
    return f"  record: {rows:,} rows, {codec.name}, {lost.bytes_per_row:.4g} bytes a row; {'; '.join(parts)}"


def _fitted(settings: RecordSettings, teacher: Teacher, splits: Mapping[str, Examples], work: Path) -> RecordSettings:
    """Return the settings with a codec whose choices are made: once, so that a continued run makes the same."""
    path, codec = work / "codec.json", settings.codec
    if getattr(codec.settings, "target", None) is None:
        return settings
    if not path.is_file():
        probe, _ = ordered(teacher.answer(_probe(splits)), _probe(splits).keys)
        chosen = codec.fitted(probe.take(_evenly(len(probe))))
        write_json(path, chosen.settings.model_dump(mode="json"))
    kind = catalog.entry("codec", codec.name)
    return replace(settings, codec=kind(kind.Settings(**read_json(path))))


def _evenly(count: int, most: int = PROBE_ROWS) -> torch.Tensor:
    return torch.linspace(0, max(count - 1, 0), min(count, most)).round().long()


def _probe(splits: Mapping[str, Examples]) -> Examples:
    examples = max(splits.values(), key=len)
    return examples.take(_evenly(len(examples), PROBE).numpy())


def _shards(examples: Examples, folder: Path, name: str, size: int = SHARD) -> Iterator[tuple[Path, Examples]]:
    """Cut a split into shards of texts of like length, so that a batch has little padding."""
    sizes = np.array([len(one) for one in examples.inputs])
    if examples.targets is not None:
        sizes = sizes + np.array([len(one) for one in examples.targets])
    order = np.argsort(sizes, kind="stable")
    for first in range(0, len(order), size):
        yield folder / f"{name}-{first // size:06d}.safetensors", examples.take(order[first : first + size])


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


def _same(said: Rows, probe: Examples, shards: Path) -> dict[str, Any]:
    """Compare what the live teacher says of a few examples, asked again, with the record."""
    live, _ = ordered(said, probe.keys)
    kept = RecordedTeacher(shards, "").answer(probe)
    if not torch.equal(live.key.cpu(), kept.key):
        raise AttarError(
            f"The live teacher gives {len(live)} rows where its record has {len(kept)}; they must agree. Remove the "
            f"folder {shards.parent} and run again."
        )
    places = _evenly(len(kept))
    # bfloat16 answers move with the shape of the batch they stand in; probabilities by up to a few hundredths
    worst = difference(live.take(places), kept.take(places))
    if worst >= AGREE:
        raise AttarError(
            f"The live teacher and its record differ by {worst:.3f} in a probability; they must agree to {AGREE}. "
            f"Remove the folder {shards.parent} and run again."
        )
    seen = f"largest difference of a probability {worst:.4f}"
    return {"name": "live and recorded teacher agree", "passed": True, "value": seen}
