"""Race prompts for a compressed student on the artifact as exported, and keep one only if its gain is proven."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from attar.core.examples import UNKNOWN, DataSet, Examples
from attar.errors import AttarError
from attar.exporters.bundle import CARD, Bundle
from attar.log import say
from attar.meters.statistics import bootstrap_mean
from attar.prompts.search.race import CLAIM
from attar.prompts.search.statistics import holm, paired_p, shortest_not_worse
from attar.seeds import derive
from attar.settings import Settings
from attar.stages.compress import Steps
from attar.stages.device import threads
from attar.stages.export import PROBE, export
from attar.store.files import read_json, remove, sha256_file
from attar.store.journal import Journal
from attar.students import folder as students

NONE = "none"
"""Name of the candidate that all others must beat: the model as it is, or under the plain template."""
RESAMPLES = 2000
WARMUP = 2


class ArtifactRaceSettings(Settings):
    """Set a race of prompts on exported bundles."""

    held_out: float = Field(
        0.4, gt=0, lt=1, description="share of the validation examples that only the winner is judged on, once"
    )
    texts: int = Field(20, ge=1, le=10_000, description="validation examples that milliseconds are measured on")


@dataclass(frozen=True)
class Entrant:
    """Hold a candidate that was exported and scored.

    Args:
        name: its name.
        kind: what its prompt is, in a word or two.
        bundle: folder of its bundle.
        facts: of its export.
        values: ``(examples,)`` 1 where the bundle answers right, of the examples that choose.
        tokens: that an example costs with its prompt, mean.
        ms: an example takes, alone; median.
    """

    name: str
    kind: str
    bundle: Path
    facts: Mapping[str, Any]
    values: np.ndarray
    tokens: float
    ms: float


def race_prompts(
    candidates: Mapping[str, Path],
    task: str,
    steps: Steps,
    data: DataSet,
    settings: ArtifactRaceSettings,
    places: tuple[Path, Path],
    seed: int = 0,
) -> dict[str, Any]:
    """Export and score every candidate, and leave the bundle of the one to use.

    Validation examples are parted in two. The first part chooses: the cheapest in tokens of the candidates that are
    within one standard error of the best. On the other part that one is judged against ``none``, once; where its gain
    may be luck, ``none`` is kept. What is scored is the bundle, byte for byte the one that is left.

    A race that was killed repeats no candidate that it had scored.

    Args:
        candidates: name -> folder of the model under its prompt (`attar.students.folder.save`); ``none`` among them.
        task: the recipe's task.
        steps: the recipe's compression; those that work on the exported graph are applied.
        data: its validation split has labels.
        settings: see `ArtifactRaceSettings`.
        places: work folder, of this race alone, and content folder.
        seed: of the parting and of intervals.

    Returns:
        Facts for the artifact's card: those of the export that was kept, and ``prompt``: ``tried`` (a row a candidate),
        ``kept`` (whether a prompt is), ``name``, ``why``, ``gain`` on held-out examples with its interval and p-value.

    Raises:
        AttarError: there is no candidate ``none``, too few validation examples have a label, or ``none`` cannot be
            exported. Another candidate that cannot is out of the race; its row says why.
    """
    if NONE not in candidates:
        raise AttarError(f"A race of prompts needs the candidate '{NONE}', got {list(candidates)}.")
    work, content = places
    race = _Race(task, steps, data, settings, work, seed)
    entrants, failed = dict[str, Entrant](), dict[str, str]()
    for name in [NONE, *(name for name in candidates if name != NONE)]:
        try:
            entrants[name] = race.enter(name, candidates[name])
        except AttarError as error:
            if name == NONE:
                raise
            failed[name] = str(error)
            say(f"  the prompt '{name}' is out: {error}")
    remove(work / "graphs")
    best = _best(entrants)
    gain = None if best is None else race.held_out(best) - race.held_out(entrants[NONE])
    p = 1.0 if gain is None else paired_p(gain)
    kept = best if best is not None and p <= CLAIM else entrants[NONE]
    remove(content)
    shutil.copytree(kept.bundle, content)
    interval = None if gain is None else bootstrap_mean(gain, derive(seed, "gain"), RESAMPLES).to_json()
    told = {
        "criterion": "accuracy of the exported bundle on validation",
        "tried": _rows(entrants, failed, kept, best, seed),
        "kept": kept.name != NONE,
        "name": kept.name,
        "why": _why(best, gain, p),
        "gain": None if interval is None else {**interval, "p": round(p, 6)},
    }
    check = race.same(kept, content)
    return {**kept.facts, "preflight": [*kept.facts["preflight"], check], "prompt": told}


class _Race:
    """Export and score candidates, each once, however often the process is killed."""

    def __init__(
        self, task: str, steps: Steps, data: DataSet, settings: ArtifactRaceSettings, work: Path, seed: int
    ) -> None:
        self._task, self._steps, self._data, self._settings, self._work = task, steps, data, settings, work
        self._journal = Journal(work / "race.jsonl")
        self._split = _parted(data.validation, settings.held_out, seed)

    def enter(self, name: str, source: Path) -> Entrant:
        """Export a candidate and score it on the examples that choose."""
        folder = self._work / name / "bundle"
        facts = self._known("exported", name)
        if facts is None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            places = (folder.parent, folder)
            facts = export(source, self._task, self._steps, self._data, places, self._work / "graphs")
            facts = self._keep("exported", name, facts=facts)
        values = self._values(name, "race")
        cost = self._known("timed", name)
        if cost is None:
            cost = self._keep("timed", name, **self._cost(folder))
        return Entrant(name, _kind(source), folder, facts["facts"], values, cost["tokens"], cost["ms"])

    def held_out(self, entrant: Entrant) -> np.ndarray:
        """Return 1 for each held-out example ``(examples,)`` that a candidate's bundle answers right, else 0."""
        return self._values(entrant.name, "held out")

    def same(self, kept: Entrant, content: Path) -> dict[str, Any]:
        """Check that the bundle that is left scores exactly as it did in the race.

        Raises:
            AttarError: it does not.
        """
        some = self._split["race"].inputs[:PROBE]
        known = self._scores(kept.name, "race")[:PROBE]
        if not np.array_equal(Bundle(content, threads()).scores(some), known):
            raise AttarError(
                f"The bundle of the prompt '{kept.name}' does not score as it did in the race: the machine, its "
                f"libraries or OMP_NUM_THREADS changed in between. Remove {self._work} and run again."
            )
        return {"name": "the bundle scores as in the race", "passed": True, "value": f"{len(some)} examples, exactly"}

    def _values(self, name: str, split: str) -> np.ndarray:
        scores, labels = self._scores(name, split), self._split[split].labels
        return np.asarray(scores.argmax(axis=1) == labels, np.float64)

    def _scores(self, name: str, split: str) -> np.ndarray:
        """Return the bundle's scores ``(examples, labels)``, exactly, as the journal keeps them."""
        event = self._known(split, name)
        if event is None:
            bundle = Bundle(self._work / name / "bundle", threads())
            scores = bundle.scores(self._split[split].inputs)
            if not np.isfinite(scores).all():
                raise AttarError(f"The bundle of the prompt '{name}' gives scores that are no numbers.")
            event = self._keep(split, name, scores=[[float(x) for x in row] for row in scores])
        return np.array(event["scores"], np.float32).reshape(len(self._split[split]), -1)

    def _cost(self, folder: Path) -> dict[str, float]:
        """Return the mean tokens and the median milliseconds of a few examples, one at a time."""
        bundle, inputs = Bundle(folder, threads()), self._split["race"].inputs[: self._settings.texts]
        for _ in range(WARMUP):
            bundle.scores(inputs[:1])
        times = []
        for place in range(len(inputs)):
            begin = time.perf_counter()
            bundle.scores(inputs[place : place + 1])
            times.append(1000 * (time.perf_counter() - begin))
        virtual = bundle.card["input"].get("virtual_tokens", 0)
        tokens = float(np.mean([bundle.length(one) for one in inputs])) + virtual
        return {"tokens": round(tokens, 2), "ms": round(float(np.median(times)), 3)}

    def _known(self, event: str, name: str) -> dict[str, Any] | None:
        """Return what the journal holds of a candidate, if its bundle is still the one that it is about."""
        card = self._work / name / "bundle" / CARD
        if not card.is_file():
            return None
        mark = sha256_file(card)
        found = [e for e in self._journal.events(event) if (e["name"], e["card"]) == (name, mark)]
        return found[-1] if found else None

    def _keep(self, event: str, name: str, **facts: Any) -> dict[str, Any]:
        """Write what was found into the journal; the bundle's card holds the checksums of all its files."""
        self._journal.add(event, name=name, card=sha256_file(self._work / name / "bundle" / CARD), **facts)
        return dict(json.loads(json.dumps(facts)))  # as a continued race reads them: JSON has no tuples


def _parted(validation: Examples, held_out: float, seed: int) -> dict[str, Examples]:
    known = validation.take(np.flatnonzero(validation.labels != UNKNOWN))
    if len(known) < 2:
        raise AttarError(
            f"A race of prompts needs at least two validation examples with a label, got {len(known)}. Allow gold "
            "labels on validation (data.gold), or give it more examples."
        )
    order = np.random.Generator(np.random.PCG64(derive(seed, "held out"))).permutation(len(known))
    held = min(len(known) - 1, max(1, round(len(known) * held_out)))
    return {"race": known.take(order[: len(known) - held]), "held out": known.take(order[len(known) - held :])}


def _best(entrants: Mapping[str, Entrant]) -> Entrant | None:
    """Return the candidate to judge against ``none``; None where ``none`` answers at least as well."""
    others = [entrant for entrant in entrants.values() if entrant.name != NONE]
    if not others:
        return None
    costs = np.array([entrant.tokens for entrant in others])
    best = others[shortest_not_worse(np.stack([entrant.values for entrant in others]), costs)]
    return best if best.values.mean() > entrants[NONE].values.mean() else None


def _kind(source: Path) -> str:
    """Say what the prompt of a model's folder is."""
    facts = read_json(source / students.CARD)["facts"]
    if "soft" in facts:
        return str(facts["soft"]["kind"])
    if "prompt" not in facts:
        return "no prompt"
    return "text" if facts["prompt"]["calibration"] is None else "text, calibrated"


def _rows(
    entrants: Mapping[str, Entrant], failed: Mapping[str, str], kept: Entrant, best: Entrant | None, seed: int
) -> list[dict[str, Any]]:
    others = [name for name in entrants if name != NONE]
    p = holm(np.array([paired_p(entrants[name].values - entrants[NONE].values) for name in others]))
    rows = []
    for name, entrant in entrants.items():
        interval = bootstrap_mean(entrant.values, derive(seed, "prompt", name), RESAMPLES)
        row = {"name": name, "kind": entrant.kind, "tokens": entrant.tokens, "ms": entrant.ms, "n": interval.n}
        row |= {"score": interval.value, "low": interval.low, "high": interval.high}
        row |= {"p": round(float(p[others.index(name)]), 6)} if name in others else {}
        rows.append(row | {"left": "won" if entrant is kept else "not proven" if entrant is best else "lost"})
    return [*rows, *({"name": name, "n": 0, "left": f"out: {why}"} for name, why in failed.items())]


def _why(best: Entrant | None, gain: np.ndarray | None, p: float) -> str:
    if best is None or gain is None:
        return "no gain: no prompt answers more validation examples right than none"
    words = f"{gain.mean():+.3f} on {len(gain)} held-out examples"
    if p <= CLAIM:
        return f"'{best.name}' gains {words}, which is no luck (p = {p:.2g})"
    return f"no gain: {words} for '{best.name}' may be luck (p = {p:.2g})"
