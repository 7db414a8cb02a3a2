"""Find the teacher's prompt: race a bank on the validation split, every score kept as it comes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from attar.core.examples import UNKNOWN, Examples
from attar.core.prompt import TextPrompt, encode
from attar.errors import AttarError
from attar.log import progress
from attar.meters.statistics import bootstrap_mean
from attar.prompts.bank import PromptSettings, bank_prompts, own_prompt, word_variants
from attar.prompts.scoring import LabelWordScorer, distinct
from attar.prompts.search.bank import BankSearch, Reading
from attar.seeds import derive
from attar.store.files import read_json, write_json
from attar.store.journal import Journal

DEMONSTRATION_CHARACTERS = 300  # a solved example is shown in every prompt; long ones cost more than they teach


@dataclass(frozen=True)
class Tuned:
    """Hold the prompt that was found.

    Args:
        prompt: the winner, calibrated if that won.
        own: the recipe's own prompt, as it stands there.
        keys: ``(examples,)`` validation examples the winner was scored on.
        scores: ``(examples, labels)`` its answers on them.
        facts: for the report: criterion, rows of the table, forwards.
    """

    prompt: TextPrompt
    own: TextPrompt
    keys: np.ndarray
    scores: np.ndarray
    facts: dict[str, Any]


def tune_prompt(
    scorer: LabelWordScorer,
    settings: PromptSettings,
    labels: Sequence[str],
    splits: dict[str, Examples],
    work: Path,
    seed: int,
) -> Tuned:
    """Find the best prompt of the bank, or take the recipe's own and calibrate it.

    Args:
        scorer: reads label words from the teacher.
        settings: see `attar.prompts.bank.PromptSettings`.
        labels: names of the classes.
        splits: ``train`` (demonstrations, where its labels are known) and ``validation``.
        work: folder for the scores so far; a continued race begins after the last of them.
        seed: of the drawing of demonstrations and of intervals.
    """
    own = own_prompt(settings, labels)
    validation = splits["validation"]
    chat = scorer.tokenizer.chat_template is not None
    prompts = bank_prompts(settings, labels, chat) if settings.search == "bank" else [own]
    variants = word_variants(settings, labels)

    def readings(prompt: TextPrompt) -> list[tuple[str, ...]]:
        """Return the sets of words that one forward pass under the prompt can tell apart."""
        free = "{options}" not in prompt.template and not prompt.demonstrations and settings.search == "bank"
        wanted = variants if free else [prompt.words]
        return [words for words in wanted if distinct(scorer.tokenizer, words, prompt.chat)]

    prompts = [prompt for prompt in prompts if readings(prompt)]
    if not prompts:
        raise _no_words(own)
    calibrations = {"auto": ("none", "batch"), "none": ("none",), "batch": ("batch",)}[settings.calibration]
    demonstrations = Demonstrations(
        splits["train"], len(labels), settings.demonstrations if settings.search == "bank" else 0, seed
    )
    search = BankSearch(prompts, readings, validation.labels, calibrations, settings.block, demonstrations)
    spent = _race(search, scorer, validation, work)
    best = search.winner()
    facts = {
        "criterion": search.criterion,
        "tried": _table(search, scorer, seed),
        "token_forwards": spent,
    }
    return Tuned(best.prompt, own, validation.keys, search.scores_of(best), facts)


def _no_words(own: TextPrompt) -> AttarError:
    return AttarError(
        f"The label words {list(own.words)} begin with the same token of the teacher's vocabulary, so one forward pass "
        "cannot tell them apart. Give prompt.teacher.words that begin differently."
    )


def _race(search: BankSearch, scorer: LabelWordScorer, validation: Examples, work: Path) -> int:
    """Score prompts until the race is over; return the token forwards that it took, earlier tries' included."""
    journal = Journal(work / "scores.jsonl")
    known = {(e["forward"], e["first"], e["last"]): (e["scores"], e["token_forwards"]) for e in journal.events("score")}
    spent = 0
    with progress("racing prompts", search.expected) as bar:
        while (asked := search.ask()) is not None:
            prompt, first, last = asked
            place = (prompt.forward_id, first, last)
            if place not in known:
                texts = [str(text) for text in validation.inputs[first:last]]
                before = scorer.token_forwards
                scores = [[round(float(x), 4) for x in row] for row in scorer.score(prompt, texts, search.words)]
                known[place] = (scores, scorer.token_forwards - before)
                facts = {"forward": place[0], "first": first, "last": last, "token_forwards": known[place][1]}
                journal.add("score", **facts, scores=scores)
            search.tell(prompt, first, last, np.array(known[place][0], np.float32))
            spent += known[place][1]
            bar.advance(last - first, prompt.name)
    return spent


@dataclass(frozen=True)
class Demonstrations:
    """Make variants of a prompt that show solved examples, drawn from the labeled training split.

    Args:
        train: the split.
        classes: number of labels.
        most: examples a prompt may show; 0 for none.
        seed: of the drawing.
    """

    train: Examples
    classes: int
    most: int
    seed: int

    def __call__(self, prompt: TextPrompt) -> list[TextPrompt]:
        """Return the variants: about half of ``most``, and ``most``, each label in turn."""
        labeled = np.flatnonzero(self.train.labels != UNKNOWN)
        if self.most == 0 or len(labeled) == 0:
            return []
        sizes = sorted({min(self.most, max(self.classes, self.most // 2)), self.most})
        return [replace(prompt, demonstrations=self._draw(size), name=f"{prompt.name}+{size}") for size in sizes]

    def _draw(self, size: int) -> tuple[tuple[str, int], ...]:
        random = np.random.Generator(np.random.PCG64(derive(self.seed, "demonstrations", size)))
        shown: list[tuple[str, int]] = []
        for place in range(size):
            label = place % self.classes
            fits = [
                i
                for i in np.flatnonzero(self.train.labels == label)
                if len(str(self.train.inputs[int(i)])) <= DEMONSTRATION_CHARACTERS
                and (str(self.train.inputs[int(i)]), label) not in shown
            ]
            if fits:
                shown.append((str(self.train.inputs[int(random.choice(fits))]), label))
        return tuple(shown)


def _table(search: BankSearch, scorer: LabelWordScorer, seed: int) -> list[dict[str, Any]]:
    rows = []
    for reading, left in search.table():
        row = {
            "name": reading.prompt.name,
            "template": reading.prompt.template,
            "words": list(reading.prompt.words),
            "chat": reading.prompt.chat,
            "demonstrations": len(reading.prompt.demonstrations),
            "calibration": reading.calibration,
            "tokens": prompt_tokens(scorer.tokenizer, reading.prompt),
            "left": left,
        }
        rows.append(row | _score(reading, seed))
    return rows


def _score(reading: Reading, seed: int) -> dict[str, Any]:
    if len(reading.right) == 0:
        return {"score": round(reading.score, 6), "n": reading.n}
    interval = bootstrap_mean(reading.right, derive(seed, "prompt", reading.prompt.name), resamples=2000)
    return {"score": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}


def prompt_tokens(tokenizer: Any, prompt: TextPrompt) -> int:
    """Return the tokens a prompt adds to every example."""
    return len(encode(tokenizer, prompt, "")) if prompt.chat else len(tokenizer(prompt.render("")).input_ids)


def save(tuned: Tuned, folder: Path) -> None:
    """Write the prompts, the scores and the facts as JSON."""
    write_json(
        folder / "prompt.json", {"prompt": tuned.prompt.to_json(), "own": tuned.own.to_json(), "facts": tuned.facts}
    )
    known = {"keys": [int(key) for key in tuned.keys], "scores": np.round(tuned.scores, 5).tolist()}
    (folder / "known.json").write_text(json.dumps(known), encoding="utf-8")


def load(folder: Path) -> Tuned:
    """Read what `save` wrote."""
    body, known = read_json(folder / "prompt.json"), read_json(folder / "known.json")
    return Tuned(
        TextPrompt.from_json(body["prompt"]),
        TextPrompt.from_json(body["own"]),
        np.array(known["keys"], np.int64),
        np.array(known["scores"], np.float32),
        body["facts"],
    )
