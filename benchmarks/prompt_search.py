"""Race attar's search for a prompt against CAPO, MIPROv2 and the best of the bank, on one local model.

    python benchmarks/prompt_search.py --work FOLDER --llama PROGRAM --capo PYTHON --dspy PYTHON

SmolLM2-135M on clothing reviews and Reuters R8 (two seeds) and on titles of reviews (one seed). Every contender gets
the same training and validation examples and the same words for the labels, and is judged on the same test examples,
which no search saw, answering in its own way. The peers ask a llama.cpp server that serves the same weights, also in
bfloat16, with its prompt cache, and get 900 seconds a run. Each PYTHON is the interpreter of an environment that has
the peer. Every run is kept in FOLDER, so a killed benchmark goes on, and --parts may run on different cores at once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result
from prompt_tasks import TASKS, Task, drawn, gguf, language_model, read

SEEDS = {"reviews": (0, 1), "r8": (0, 1), "titles": (0,)}
SIZES = {"reviews": (400, 300, 500), "r8": (400, 300, 500), "titles": (400, 150, 200)}
"""Training, validation and test examples."""
PEER_SECONDS = 900
MOVES = ["bank", "demonstrations", "label_words", "evolution", "shorten"]
BUDGETS = {"reviews": 100, "r8": 110, "titles": 110}
"""Seconds of attar's search: a fifth of what MIPROv2 takes, which ends before its time is over."""
NEW_TOKENS = 16
INSTRUCTIONS = {
    "reviews": [
        "Classify the sentiment of the review as negative or positive.",
        "Is this review negative or positive?",
        "Read the review and say whether the customer liked the product: negative or positive.",
        "Decide if the following customer review is negative or positive. Answer with one word.",
        "You judge reviews of clothes. Say negative or positive.",
        "What is the sentiment of this review: negative or positive?",
    ],
    "r8": [
        "Classify the topic of the article.",
        "Which of the topics is this news article about?",
        "Read the news article and name its topic with one word.",
        "You sort newswire. Name the article's topic.",
        "What is the topic of this article?",
        "Decide which topic fits the article best.",
    ],
    "titles": [
        "Write a title for the review.",
        "Write a short title for this review.",
        "Summarize the review in a few words.",
        "What would the customer write as the title of this review?",
        "Give the review a headline.",
        "Write the title of the review, in a few words and without quotes.",
    ],
}
"""What the peers begin with; the answers' words are listed to them besides."""


def dataset(name: str, seed: int) -> dict[str, Any]:
    """Return the splits of a task as `Examples`, the test split drawn."""
    found = read(TASKS[name], SIZES[name], seed)
    return {
        "labels": found.labels,
        "train": found.train,
        "validation": found.validation,
        "test": drawn(found.test, SIZES[name][2], seed),
    }


def for_peers(name: str, splits: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Return a task as the peers read it: texts cut as attar cuts them, answers in words."""
    from attar.core.prompt import cut

    task = TASKS[name]

    def pairs(examples: Any) -> list[list[str]]:
        answers = examples.targets if not task.words else [task.words[splits["labels"][i]] for i in examples.labels]
        texts = [cut(tokenizer, str(text), task.max_tokens) for text in examples.inputs]
        return [list(pair) for pair in zip(texts, answers, strict=True)]

    words = list(task.words.values())
    options = f" Answer with one of: {', '.join(words)}." if words else ""
    return {
        "task": "classification" if words else "generation",
        "labels": words,
        "description": f"Say the {task.prompt['target']} of a {task.prompt['input']}.{options}",
        "input": task.prompt["input"],
        "train": pairs(splits["train"]),
        "dev": pairs(splits["validation"]),
        "test": pairs(splits["test"]),
        "instructions": [f"{text}{options}" for text in INSTRUCTIONS[name]],
    }


class Local:
    """Search and answer with the model of this process, the way of attar."""

    def __init__(self, work: Path, threads: int) -> None:
        self.work = work
        self.model, self.tokenizer = language_model(work, threads)

    def search(self, name: str, seed: int, **settings: Any) -> dict[str, Any]:
        """Search, then judge what was kept on the test examples."""
        from attar.prompts.settings import PromptSettings

        task, splits = TASKS[name], dataset(name, seed)
        asked = PromptSettings(**{**task.prompt, "max_tokens": task.max_tokens, **settings})
        folder = self.work / "attar" / f"{name}-{seed}-{len(asked.search)}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        began = time.monotonic()
        tuned, answer = (self._writing if not task.words else self._labels)(task, splits, asked, folder, seed)
        seconds = time.monotonic() - began
        tested = time.monotonic()
        right = answer(tuned.prompt, [str(text) for text in splits["test"].inputs], splits["test"])
        return {
            "seconds": round(seconds, 1),
            "test_accuracy": float(np.mean(right)),
            "test_n": len(right),
            "test_seconds": round(time.monotonic() - tested, 1),
            "prompt": str(tuned.prompt),
            "tokens": tuned.facts["tried"][0]["tokens"],
            "why": tuned.facts["why"],
            "gain": tuned.facts["gain"],
            "tried": len(tuned.facts["tried"]),
            "curve": curve(folder / "scores.jsonl"),
        }

    def _labels(self, task: Task, splits: Any, asked: Any, folder: Path, seed: int) -> tuple[Any, Callable[..., Any]]:
        from attar.prompts.scoring.label_words import LabelWordScorer
        from attar.stages.tune import Aids, tune_prompt

        scorer = LabelWordScorer(self.model, self.tokenizer, task.max_tokens)
        tuned = tune_prompt(scorer, asked, splits["labels"], splits, folder, seed, Aids(self.tokenizer))

        def right(prompt: Any, texts: list[str], test: Any) -> Any:
            return scorer.answer(prompt, texts).argmax(axis=1) == test.labels

        return tuned, right

    def _writing(self, task: Task, splits: Any, asked: Any, folder: Path, seed: int) -> tuple[Any, Callable[..., Any]]:
        from attar.meters.text import rouge_l
        from attar.prompts.scoring.writing import WritingScorer
        from attar.stages.tune import Aids, tune_writing

        pen = WritingScorer(self.model, self.tokenizer, task.max_tokens)
        tuned = tune_writing(pen, asked, splits, folder, seed, NEW_TOKENS, Aids(self.tokenizer))

        def metric(prompt: Any, texts: list[str], test: Any) -> Any:
            written = pen.write_all([prompt], texts, NEW_TOKENS)[0]
            return [rouge_l(text, wanted) for text, wanted in zip(written, test.targets, strict=True)]

        return tuned, metric


def curve(journal: Path) -> list[list[float]]:
    """Return the seconds after each question of a search, with the validation score of the best by then."""
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    return [[round(e["spent"]["seconds"], 1), e["value"], e["n"]] for e in events if e["event"] == "leader"]


def bank(local: Local, name: str, seed: int) -> dict[str, Any]:
    """Return the best of the bank: every prompt scored on all validation examples, uncalibrated, the best taken."""
    settings = {"search": ["bank"], "calibration": "none", "held_out": 0, "block": 300, "population": 64}
    return local.search(name, seed, **settings)


def peer(kind: str, options: Any, name: str, seed: int, tokenizer: Any) -> dict[str, Any]:
    """Run a peer in its own environment against the server, and return what it left."""
    from llama_server import in_bfloat16, serving

    folder = options.work / "peers" / f"{kind}-{name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.json").write_text(json.dumps(for_peers(name, dataset(name, seed), tokenizer)))
    script = Path(__file__).with_name("prompt_peers.py")
    python = options.capo if kind == "capo" else options.dspy
    weights = in_bfloat16(options.llama, gguf(), options.work)
    with serving(options.llama, weights, options.port, options.threads) as url, (folder / "log.txt").open("w") as log:
        words = [python, script, kind, "--data", folder / "data.json", "--url", url]
        limits = ["--seconds", options.seconds, "--seed", seed, "--out", folder / "out.json"]
        subprocess.run([str(word) for word in (*words, *limits)], stdout=log, stderr=log, cwd=folder, check=True)
    return dict(json.loads((folder / "out.json").read_text()))


def mean(results: dict[str, Any], kind: str, name: str, key: str) -> float | None:
    """Return the mean over seeds of a figure; None where a run is missing."""
    found = [results.get(f"{kind}/{name}/{seed}", {}).get(key) for seed in SEEDS[name]]
    return None if any(value is None for value in found) else float(np.mean([float(v) for v in found if v is not None]))


def figures_of(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the figures of each task; a peer that did not run is left out."""
    figures: dict[str, dict[str, float]] = {}
    for name in SEEDS:
        own: dict[str, float | None] = {"accuracy": mean(results, "attar", name, "test_accuracy")}
        for kind in ("capo", "mipro", "bank"):
            own[f"{kind}_accuracy"] = mean(results, kind, name, "test_accuracy")
        seconds = mean(results, "attar", name, "seconds")
        own["seconds"] = seconds
        for kind in ("capo", "mipro"):
            theirs = mean(results, kind, name, "seconds")
            own[f"{kind}_seconds"] = theirs
            own[f"seconds_over_{kind}"] = None if not theirs or seconds is None else seconds / theirs
        figures[name] = {key: round(value, 4) for key, value in own.items() if value is not None}
    return figures


def main() -> None:
    """Run what is missing, then write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder where every run is kept")
    parser.add_argument("--llama", type=Path, help="llama.cpp's llama-server, llama-quantize beside it")
    parser.add_argument("--capo", type=Path, help="interpreter with promptolution 2.3.0")
    parser.add_argument("--dspy", type=Path, help="interpreter with DSPy 3.4")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--seconds", type=int, default=PEER_SECONDS, help="of each peer's run")
    parser.add_argument("--threads", type=int, default=2, help="of the model, for every contender")
    parser.add_argument("--parts", nargs="*", help="only these, as kind/task/seed")
    options = parser.parse_args()
    runs = options.work / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    local = None
    for kind in ("attar", "bank", "capo", "mipro"):
        for name, seeds in SEEDS.items():
            for seed in seeds:
                part = f"{kind}/{name}/{seed}"
                path = runs / f"{part.replace('/', '-')}.json"
                if path.is_file() or (options.parts and part not in options.parts):
                    continue
                if kind in ("capo", "mipro") and not (options.llama and (options.capo, options.dspy)[kind == "mipro"]):
                    continue
                if local is None:
                    local = Local(options.work, options.threads)
                print(f"== {part}", file=sys.stderr, flush=True)
                if kind == "attar":
                    settings = {"search": MOVES, "demonstrations": 8, "budget": {"seconds": BUDGETS[name]}}
                    run = local.search(name, seed, generations=20, **settings)
                elif kind == "bank":
                    run = bank(local, name, seed)
                else:
                    run = peer(kind, options, name, seed, local.tokenizer)
                path.write_text(json.dumps({**run, "threads": options.threads}, indent=1, ensure_ascii=False))
                print(part, {k: run.get(k) for k in ("test_accuracy", "seconds")}, flush=True)
    if options.parts:  # a try, or one part of many: the result is written when all is asked for
        return
    results = {path.stem.replace("-", "/"): json.loads(path.read_text()) for path in sorted(runs.glob("*.json"))}
    conditions = {
        "model": "SmolLM2-135M-Instruct: its Q4_1 weights in bfloat16, in torch (attar, bank) and in llama.cpp (peers)",
        "sizes": {name: list(size) for name, size in SIZES.items()},
        "accuracy": "of titles: ROUGE-L",
        "runs": {part: {k: v for k, v in run.items() if k not in ("prompt",)} for part, run in results.items()},
    }
    seeds = sorted({seed for seeds in SEEDS.values() for seed in seeds})
    command = "python benchmarks/prompt_search.py --work FOLDER --llama PROGRAM --capo PYTHON --dspy PYTHON"
    write_result("prompt_search", figures_of(results), seeds, conditions, command)


if __name__ == "__main__":
    main()
