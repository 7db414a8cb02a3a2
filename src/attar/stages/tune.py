"""Find a prompt: race what the bank and the moves give on validation, prove the winner on what was held out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from attar import catalog
from attar.core.examples import UNKNOWN, Examples
from attar.core.prompt import TextPrompt, prompt_tokens
from attar.core.prompting import Gradient, Ground, Move, Scorer, Standing, Writer
from attar.errors import AttarError
from attar.meters.statistics import bootstrap_mean
from attar.prompts.bank import bank_prompts, own_prompt, word_variants
from attar.prompts.search.criteria import Aim, choose_criterion
from attar.prompts.search.judges import Judge, LabelJudge, Reading, WritingJudge
from attar.prompts.search.race import Entry, Outcome, RaceSearch
from attar.prompts.settings import CALIBRATIONS, PromptSettings
from attar.seeds import derive
from attar.stages.bench import Bench, KeptWriter, LabelBench, Pen, WritingBench, run_search
from attar.store.files import read_json, write_json

RESAMPLES = 2000
WRITTEN = {
    "accuracy": "accuracy",
    "likelihood": "mean log-probability of the gold label",
    "log_odds": "mean log-odds of the gold label",
    "agreement": "agreement with the teacher, without gold labels",
    "kl": "divergence from the teacher, without gold labels",
    "mutual_information": "mutual information between texts and answers, without gold labels",
    "rouge_l": "ROUGE-L of what is written",
}


@dataclass(frozen=True)
class Aids:
    """Hold what a search may use besides the data.

    Args:
        tokenizer: the model's, if it is of this process.
        teacher: ``(validation examples, labels)`` log-probabilities of a teacher to agree with, or None.
        writer: writes new prompts, or None.
        gradient: tells how tokens should change, or None.
        task: one sentence that says what is to be done, for the writer.
    """

    tokenizer: Any = None
    teacher: np.ndarray | None = None
    writer: Writer | None = None
    gradient: Gradient | None = None
    task: str = ""


@dataclass(frozen=True)
class Tuned:
    """Hold the prompt that was found.

    Args:
        prompt: the one to use, calibrated if that won; the recipe's own where no gain was proven.
        own: the recipe's own prompt, as it stands there.
        keys: ``(examples,)`` validation examples the prompt was scored on.
        scores: ``(examples, labels)`` its answers on them.
        facts: for the report: criterion, why, gain, rows of the table, what was spent.
    """

    prompt: TextPrompt
    own: TextPrompt
    keys: np.ndarray
    scores: np.ndarray
    facts: dict[str, Any]


def tune_prompt(
    scorer: Scorer,
    settings: PromptSettings,
    labels: Sequence[str],
    splits: Mapping[str, Examples],
    work: Path,
    seed: int,
    aids: Aids | None = None,
) -> Tuned:
    """Find the best prompt to read label words with, or keep the recipe's own.

    Args:
        scorer: reads label words from the model.
        settings: see `attar.prompts.settings.PromptSettings`.
        labels: names of the classes.
        splits: ``train`` (demonstrations, where its labels are known) and ``validation``.
        work: folder for the scores so far; a continued search begins after the last of them.
        seed: of the moves, of what is held out, and of intervals.
        aids: what else may be used.

    Raises:
        AttarError: there is nothing to score on, or no set of label words can be told apart.
    """
    aids = aids or Aids()
    validation = _checked(splits["validation"])
    places = _split(len(validation), settings.held_out, seed)
    aims = {
        split: Aim(validation.labels[place], None if aids.teacher is None else aids.teacher[place])
        for split, place in places.items()
    }
    variants = word_variants(settings, labels)
    if aids.tokenizer is None:  # a server's answers are read by their beginnings: variants would be taken for one
        variants = variants[:1]

    def readable(prompt: TextPrompt) -> list[tuple[str, ...]]:
        """Return the sets of words that one forward pass under the prompt may be read with."""
        fixed = bool(prompt.demonstrations) or "{options}" in prompt.template + prompt.instruction
        return variants if settings.searches and not fixed else [prompt.words]

    start = [prompt for prompt in _start(settings, labels, aids.tokenizer) if prompt.words in variants]
    criterion = choose_criterion(settings.criterion, Aim(validation.labels, aids.teacher))
    calibrations = CALIBRATIONS if settings.calibration == "auto" else (settings.calibration,)
    texts = {split: [str(validation.inputs[i]) for i in place] for split, place in places.items()}
    judge = LabelJudge(texts["race"], aims, readable, calibrations, criterion, start)
    free = bool({"contextual", "domain"} & set(calibrations))
    bench = LabelBench(scorer, texts, judge.columns, free, derive(seed, "domain"))
    pool = _pool(splits["train"], [int(label) for label in splits["train"].labels])
    ground = _Grounds(settings, _kept(aids, work), seed, pool, tuple(labels), tuple(variants), scorer.tokens)
    return _search(start, judge, bench, settings, ground, (validation, places, work, seed))


def tune_writing(
    pen: Pen,
    settings: PromptSettings,
    splits: Mapping[str, Examples],
    work: Path,
    seed: int,
    max_new_tokens: int,
    aids: Aids,
) -> Tuned:
    """Find the best prompt to write with, by the metric of what is written on validation.

    Args:
        pen: writes with the model.
        settings: see `attar.prompts.settings.PromptSettings`.
        splits: ``train`` and ``validation``, with their target texts.
        work: folder for the scores so far.
        seed: of the moves, of what is held out, and of intervals.
        max_new_tokens: that are written at most.
        aids: what else may be used; the tokenizer counts a prompt's tokens.

    Raises:
        AttarError: there is nothing to score on.
    """
    validation = _checked(splits["validation"])
    if validation.targets is None or not all(validation.targets):
        raise AttarError(
            "A search for a prompt that writes needs target texts on validation. Allow them (data.gold: [validation]), "
            "or keep the recipe's own prompt (search: none)."
        )
    places = _split(len(validation), settings.held_out, seed)
    texts = {split: [str(validation.inputs[i]) for i in place] for split, place in places.items()}
    wanted = {split: [validation.targets[i] for i in place] for split, place in places.items()}
    sizes = {split: len(place) for split, place in places.items()}
    judge = WritingJudge(texts["race"], wanted["race"], sizes, "rouge_l")
    bench = WritingBench(pen, texts, wanted, max_new_tokens)
    train = splits["train"]
    pool = _pool(train, list(train.targets) if train.targets is not None else [""] * len(train))
    ground = _Grounds(settings, _kept(aids, work), seed, pool, (), (), _counter(aids.tokenizer))
    start = _start(settings, (), aids.tokenizer)
    return _search(start, judge, bench, settings, ground, (validation, places, work, seed))


def _search(
    start: Sequence[TextPrompt],
    judge: Judge,
    bench: Bench,
    settings: PromptSettings,
    ground: _Grounds,
    data: tuple[Examples, Mapping[str, np.ndarray], Path, int],
) -> Tuned:
    validation, places, work, seed = data
    moves, left_out = _moves(settings, ground)
    search = RaceSearch(start, judge, settings, moves, ground, ground.tokens)
    run_search(search, bench, work)
    outcome = search.outcome()
    said = search.said(outcome.kept)
    order = np.concatenate([places[split][: len(said[split])] for split in said]) if said else np.zeros(0, np.int64)
    scores = np.concatenate(list(said.values())) if said else np.zeros((0, 1), np.float32)
    facts = {
        "criterion": f"{WRITTEN[judge.criterion]} on validation",
        "why": outcome.why,
        "kept": outcome.kept != search.own,
        "gain": _gain(outcome, seed),
        "tried": [_row(entry, reading, ground.tokens, seed) for entry, reading in search.table()],
        "token_forwards": int(search.spent.get("tokens", 0)),
        "spent": dict(search.spent),
        "left_out": left_out,
    }
    return Tuned(outcome.kept, search.own, validation.keys[order], scores, facts)


@dataclass(frozen=True)
class _Grounds:
    """Give each move what it works with; its random numbers depend on the search's seed and the call's name alone."""

    settings: PromptSettings
    aids: Aids
    seed: int
    pool: tuple[tuple[str, int | str], ...]
    labels: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    tokens: Callable[[TextPrompt], int]

    def __call__(self, standings: tuple[Standing, ...], call: str) -> Ground:
        """Return the ground of one call."""
        return Ground(
            standings,
            np.random.Generator(np.random.PCG64(derive(self.seed, "move", call))),
            self.pool,
            self.labels,
            self.words,
            self.aids.task,
            self.tokens,
            self.settings.prompt_tokens,
            self.settings.demonstrations,
            self.aids.writer,
            self.aids.gradient,
            self.aids.tokenizer,
        )


def _kept(aids: Aids, work: Path) -> Aids:
    """Return the same aids, with what is written kept in the work folder."""
    return aids if aids.writer is None else replace(aids, writer=KeptWriter(aids.writer, work))


def _start(settings: PromptSettings, labels: Sequence[str], tokenizer: Any) -> list[TextPrompt]:
    """Return what is tried first; a model that writes keeps to chat, or to running text, as the recipe's own does."""
    own = own_prompt(settings, labels)
    if not settings.from_bank:
        return [own]
    chat = tokenizer is None or tokenizer.chat_template is not None
    # the first token of an answer differs between the two, and a student's tokens are to be its teacher's
    return [p for p in bank_prompts(settings, labels, chat) if labels or p.chat == own.chat]


def _moves(settings: PromptSettings, ground: _Grounds) -> tuple[dict[str, Move], dict[str, str]]:
    """Return the moves that can work here, and why the others cannot."""
    has = {
        "gold": bool(ground.pool) and settings.demonstrations > 0,
        "writer": ground.aids.writer is not None,
        "gradient": ground.aids.gradient is not None,
    }
    why = {
        "gold": "no solved training examples may be used",
        "writer": "no model writes",
        "gradient": "the model is not of this process",
    }
    moves, left_out = dict[str, Move](), dict[str, str]()
    for move in settings.moves:
        kind = catalog.entry("move", move.use)
        lacking = sorted(need for need in kind.needs if not has[need])
        if lacking:
            left_out[move.use] = why[lacking[0]]
        else:
            moves[move.use] = kind(kind.Settings(**move.settings))
    return moves, left_out


def _checked(validation: Examples) -> Examples:
    if len(validation) == 0:
        raise AttarError("A search for prompts needs validation examples, got none. Change data's sizes.")
    return validation


def _split(count: int, held_out: float, seed: int) -> dict[str, np.ndarray]:
    """Return the places of the examples that prompts race on, and of those that judge the winner."""
    order = np.random.Generator(np.random.PCG64(derive(seed, "held out"))).permutation(count)
    held = min(count - 1, round(count * held_out))
    return {"race": order[: count - held], "held out": order[count - held :]}


def _pool(train: Examples, answers: Sequence[int | str]) -> tuple[tuple[str, int | str], ...]:
    return tuple(
        (str(text), answer) for text, answer in zip(train.inputs, answers, strict=True) if answer not in (UNKNOWN, "")
    )


def _counter(tokenizer: Any) -> Callable[[TextPrompt], int]:
    return lambda prompt: prompt_tokens(tokenizer, prompt)


def _gain(outcome: Outcome, seed: int) -> dict[str, float | int] | None:
    if len(outcome.gain) == 0:
        return None
    return {**bootstrap_mean(outcome.gain, derive(seed, "gain"), RESAMPLES).to_json(), "p": round(outcome.p, 6)}


def _row(entry: Entry, reading: Reading | None, tokens: Callable[[TextPrompt], int], seed: int) -> dict[str, Any]:
    prompt = entry.prompt if reading is None else reading.prompt
    row = {
        "name": entry.prompt.name,
        "instruction": prompt.instruction,
        "template": prompt.template,
        "words": list(prompt.words),
        "chat": prompt.chat,
        "demonstrations": len(prompt.demonstrations),
        "calibration": "none" if reading is None else reading.calibration,
        "tokens": tokens(prompt),
        "parents": list(entry.parents),
        "how": entry.how,
        "generation": entry.generation,
        "left": entry.left or "not scored",
    }
    if reading is None:
        return {**row, "n": 0}
    interval = bootstrap_mean(reading.values, derive(seed, "prompt", entry.prompt.name), RESAMPLES)
    return row | {"score": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}


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
