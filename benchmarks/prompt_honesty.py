"""Count how often a race calls luck a gain, and whether its held-out intervals cover the truth.

    python benchmarks/prompt_honesty.py --work FOLDER

SmolLM2-135M scores clothing reviews once, under prompts that differ in meaningless marks and under the real bank. Races
are then run on examples drawn from those scores: the race's from one half, those that judge the winner from the other,
whose mean is the truth. Three worlds: marks, whose answers are exchanged at random within each example, so that no
prompt is better than another; the bank with gold labels shuffled; the bank as it is, for the intervals.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result
from prompt_tasks import REVIEWS, language_model, read

MARKS = ("", ".", " .", "..", " -", " *", " #", ";")
"""Put behind the instruction: they mean nothing."""
SEED = 0


def prompts() -> dict[str, list[Any]]:
    """Return the prompts of each world."""
    from attar.core.prompt import TextPrompt
    from attar.prompts.bank import bank_prompts
    from attar.prompts.settings import PromptSettings

    words = ("negative", "positive")
    marked = [
        TextPrompt("Review: {text}\nSentiment:", words, name=f"mark{i}", instruction=f"Judge the review{mark}")
        for i, mark in enumerate(MARKS)
    ]
    return {"marks": marked, "bank": bank_prompts(PromptSettings(**REVIEWS.prompt), list(words), chat=True)}


def scored(work: Path, pool: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return each prompt's log-probabilities ``(texts, words)`` by its name, and the gold labels; kept as they come."""
    from attar.prompts.scoring.label_words import LabelWordScorer

    examples = read(REVIEWS, (pool, 10, 10), SEED).train
    texts = [str(text) for text in examples.inputs]
    folder = work / f"scores-{pool}"
    folder.mkdir(parents=True, exist_ok=True)
    scorer = None
    found = {}
    for prompt in [prompt for world in prompts().values() for prompt in world]:
        path = folder / f"{prompt.forward_id}.npy"
        if not path.is_file():
            if scorer is None:
                scorer = LabelWordScorer(*language_model(work), REVIEWS.max_tokens)
            np.save(path, scorer.score(prompt, texts))
            print(f"scored {prompt.name}", flush=True)
        found[prompt.forward_id] = np.load(path)
    return found, np.asarray(examples.labels)


def race(
    field: list[Any],
    scores: dict[str, np.ndarray],
    gold: np.ndarray,
    halves: tuple[Any, Any],
    calibrations: tuple[str, ...] = ("none", "batch"),
) -> Any:
    """Run one race on drawn examples, and return how it ended.

    Args:
        field: prompts, the recipe's own first.
        scores: forward id -> ``(pool, words)``.
        gold: ``(pool,)``.
        halves: places of the pool for the race, and for the judgement.
        calibrations: that are tried; one that mends a preference is a real gain, so prompts that shall be equal are
            read without.
    """
    from attar.prompts.search.criteria import Aim
    from attar.prompts.search.judges import LabelJudge
    from attar.prompts.search.race import RaceSearch
    from attar.prompts.settings import PromptSettings

    places = {"race": halves[0], "held out": halves[1]}
    aims = {split: Aim(gold[place]) for split, place in places.items()}
    judge = LabelJudge([""] * len(halves[0]), aims, lambda p: [p.words], calibrations, "accuracy", field)
    search = RaceSearch(field, judge, PromptSettings(search=["bank"]), {}, no_ground, lambda p: 0)
    while (ask := search.ask()) is not None:
        some = places[ask.split][ask.first : ask.last]
        search.tell(ask, [laid(scores[p.forward_id][some], p.words, judge.columns) for p in ask.prompts])
    return search.outcome()


def laid(scores: np.ndarray, words: tuple[str, ...], columns: tuple[str, ...]) -> np.ndarray:
    """Return scores of a prompt's own words among the columns of all words, the others unlikely."""
    rows = np.full((len(scores), len(columns)), -50.0, np.float32)
    rows[:, [columns.index(word) for word in words]] = scores
    return rows


def no_ground(standings: Any, call: str) -> Any:
    """Fail: there are no moves here."""
    raise ValueError("no moves here")


def draws(pool: int, races: int, sizes: tuple[int, int], seed: int) -> Iterator[tuple[np.random.Generator, Any, Any]]:
    """Yield the random numbers of each race, and its two halves: what was drawn, and all it was drawn from."""
    for number in range(races):
        random = np.random.default_rng([seed, number])
        order = random.permutation(pool)
        first, second = order[: pool // 2], order[pool // 2 :]
        yield random, (random.choice(first, sizes[0]), random.choice(second, sizes[1])), second


def exchanged(field: list[Any], scores: dict[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the scores with the prompts' answers exchanged within each example: now no prompt is better."""
    stacked = np.stack([scores[p.forward_id] for p in field], axis=1)
    order = random.permuted(np.tile(np.arange(len(field)), (len(stacked), 1)), axis=1)
    mixed = np.take_along_axis(stacked, order[:, :, None], axis=1)
    return {p.forward_id: mixed[:, i] for i, p in enumerate(field)}


def truth(prompt: Any, scores: dict[str, np.ndarray], gold: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return where a prompt is right on all examples of a half."""
    from attar.prompts.calibration import calibrate

    said = calibrate(scores[prompt.forward_id][places], prompt.calibration)
    return np.asarray(said.argmax(axis=1) == gold[places], np.float64)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the scores, kept for the next try")
    parser.add_argument("--pool", type=int, default=600, help="reviews that are scored")
    parser.add_argument("--races", type=int, default=400, help="of each world")
    options = parser.parse_args()
    from attar.meters.statistics import bootstrap_mean

    scores, gold = scored(options.work, options.pool)
    worlds, sizes = prompts(), (180, 120)
    claims = {"marks": 0, "marks_raw": 0, "shuffled": 0, "bank": 0}
    false_raw = 0
    gains_covered, kept_covered, judged = 0, 0, 0
    for number, (random, halves, second) in enumerate(draws(options.pool, options.races, sizes, SEED)):
        field = [worlds["marks"][i] for i in random.permutation(len(MARKS))]
        claims["marks"] += race(field, exchanged(field, scores, random), gold, halves, ("none",)).proven
        raw = race(field, scores, gold, halves, ("none",))
        claims["marks_raw"] += raw.proven
        if raw.proven:
            real = truth(raw.winner, scores, gold, second) - truth(field[0], scores, gold, second)
            false_raw += real.mean() <= 0
        bank = [worlds["bank"][i] for i in random.permutation(len(worlds["bank"]))]
        claims["shuffled"] += race(bank, scores, random.permutation(gold), halves).proven
        found = race(bank, scores, gold, halves)
        claims["bank"] += found.proven
        if len(found.gain):
            judged += 1
            own = truth(bank[0], scores, gold, second)
            won = truth(found.winner, scores, gold, second)
            interval = bootstrap_mean(found.gain, number, 2000)
            gains_covered += interval.low <= (won - own).mean() <= interval.high
            said = truth(found.winner, scores, gold, halves[1])
            level = bootstrap_mean(said, number, 2000)
            kept_covered += level.low <= won.mean() <= level.high
    null = claims["marks"] + claims["shuffled"]
    figures = {
        "races": 2 * options.races,
        "false_claims": round(null / (2 * options.races), 4),
        "coverage": round(gains_covered / max(1, judged), 4),
        "coverage_of_accuracy": round(kept_covered / max(1, judged), 4),
        "claims": {name: round(count / options.races, 4) for name, count in claims.items()},
        "false_of_marks_raw": round(false_raw / options.races, 4),
        "judged": judged,
    }
    conditions = {
        "model": "SmolLM2-135M-Instruct (Q4_1 weights in bfloat16)",
        "data": f"{options.pool} clothing reviews, rated 1-2 against 5, balanced",
        "race": f"{sizes[0]} examples, {sizes[1]} held out, drawn with replacement from two halves",
        "claims": "marks: answers exchanged within each example; marks_raw: as scored (marks may really differ); "
        "shuffled: the bank with shuffled labels; bank: the bank as it is, where gains are real",
    }
    write_result("prompt_honesty", figures, [SEED], conditions, "python benchmarks/prompt_honesty.py --work FOLDER")
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
