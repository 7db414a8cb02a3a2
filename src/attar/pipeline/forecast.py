"""Predict what a run will cost, from sizes alone; loads no weights."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from attar.pipeline.names import parted
from attar.pipeline.recipe import Recipe
from attar.prompts.bank import bank_prompts
from attar.settings import cache_folder
from attar.sources import reference, weights
from attar.students.settings import ModelSettings
from attar.teachers.endpoint_requests import VOTE_TOKENS, likely_input_tokens

TOKENS_A_TEXT = 88  # of a text whose length is not known before its data is read
WRITTEN = 10  # tokens read in the time that one is written, a dozen texts at once: 7 to 13 on Zen 4 (135M parameters)
LOW_PRECISION = 1.6  # speed of a model that answers in bfloat16 over that of small float32 products, on Zen 4
FULL_PRECISION = 0.36  # the same in float32
STEP, EXPORT = 3.0, 15.0  # seconds of a compression step without recovery, and of an export, of small models
DRY_EXPORTS = 5  # exports of untrained shapes until a size is found by halving


@dataclass(frozen=True)
class Size:
    """Hold a model's parameters.

    Args:
        whole: all of them.
        body: those that every token is multiplied with; an embedding table is only looked up.
    """

    whole: int
    body: int


class Forecast:
    """Predict costs from sizes: counts in the recipe, parameters in the weights' headers, this machine's speed."""

    def __init__(self, recipe: Recipe, base: Path) -> None:
        self.recipe = recipe
        self.teacher = _parameters(recipe.teacher, base)
        self.student = _parameters(recipe.student, base)
        self.missing = list(_missing(recipe, base))
        self.speed = product_speed()
        lift = LOW_PRECISION if has_bfloat16() else FULL_PRECISION
        self.answering, self.training = lift * self.speed, lift * self.speed / 2

    def examples(self) -> tuple[int, int, int]:
        """Return predicted training, validation and test examples."""
        data = self.recipe.data
        whole = 1797 if data.source == "sklearn:digits" else 5000
        validation = data.validation if isinstance(data.validation, int) else round(whole * data.validation)
        test = data.test if isinstance(data.test, int) else round(whole * data.test)
        return (data.train or max(1, whole - validation - test), validation, test)

    def calls(self) -> int:
        """Return how many examples the teacher is asked at most."""
        train, validation, test = self.examples()
        if self.recipe.teacher.endpoint is not None:
            return (train + validation + test) * max(1, self.recipe.teacher.endpoint.votes)
        if not self.recipe.prompted:
            return train + validation + test
        return self._raced(validation) + train + test + min(test, self.recipe.measure.own_prompt_examples)

    def _raced(self, validation: int) -> int:
        """Return about how many examples a search for a prompt scores at most."""
        prompt = self.recipe.prompt.teacher
        names = [str(name) for name in prompt.words or self.recipe.data.labels or ("a", "b")]
        bank = len(bank_prompts(prompt, names, True)) if prompt.from_bank else 1
        bred = prompt.generations * prompt.children if prompt.moves else 0
        return 2 * prompt.block * (bank + bred) + 3 * validation

    def seconds(self, stage: str) -> float | None:
        """Return the predicted seconds of a stage."""
        train, _, test = self.examples()
        tokens = 1 if self.recipe.task == "image-classification" else TOKENS_A_TEXT
        forward = None if self.teacher is None else 2.0 * self.teacher.body * tokens / self.answering
        step = None if self.student is None else 6.0 * self.student.body * tokens / self.training
        image = self.recipe.task == "image-classification"
        epochs, members = self.recipe.distill.epochs, self.recipe.teacher.members
        guesses: dict[str, float | None] = {
            "data": 3.0,
            "weights": 25.0,
            "export": EXPORT,
            "record": 2.0 if image else _times(None if self.recipe.served else forward, (train + test) * members),
            "prompt": _times(forward, self.calls() - train - test),
            "control": train * epochs / 4000 if image else _times(step, train * epochs),
            "student": train * epochs / 4000 if image else _times(step, train * epochs),
            "write": _times(forward, train * self._written()),
            "measure": 20.0,
        }
        own_texts = self.recipe.distill.on_policy
        if own_texts is not None and step is not None and forward is not None:
            anew = own_texts.share * own_texts.fresh * (1 - own_texts.start) * self._written(copies=1)
            guesses["student"] = round(train * epochs * (step * (1 + anew / 6) + forward), 1)
        own = self.recipe.teacher.train
        if own is not None:
            guesses["teacher"] = (
                train * own.epochs / 2500
                if image
                else _times(None if forward is None else 2 * forward, 3 * train * own.epochs)
            )
        kind, place = parted(stage)
        if kind == "record_assistant":
            return guesses["record"]
        if kind == "compress":
            return self._compressing(place, guesses["student"])
        if kind == "dense":
            return None if guesses["student"] is None else round(2 * (guesses["student"] + DRY_EXPORTS * EXPORT), 1)
        if kind == "plan":
            return DRY_EXPORTS * EXPORT
        return guesses.get("student" if kind == "assistant" else kind, 1.0)

    def _compressing(self, place: int, student: float | None) -> float | None:
        """Return the seconds of a compression step and its recovery, from those of the student's training."""
        steps = self.recipe.compress.on_model
        how = steps[place - 1].recovery if place <= len(steps) else None
        how = self.recipe.compress.recover if self.recipe.compress.to is not None else how
        if how is None:
            return STEP
        if how.minutes is not None:
            return STEP + 60 * how.minutes
        return None if student is None else round(STEP + student * how.epochs / self.recipe.distill.epochs, 1)

    def _written(self, copies: int | None = None) -> float:
        """Return the cost of writing for a text, in forward passes of its prompt: writing a token costs more."""
        how = self.recipe.distill.text
        many = {"greedy": 1, "beam": how.beams, "sample": how.samples}[how.how] if copies is None else copies
        return many * (1 + WRITTEN * self.recipe.prompt.max_new_tokens / TOKENS_A_TEXT)

    def ram(self) -> int | None:
        """Return the predicted peak memory in bytes: the libraries, and the larger of recording and training."""
        if self.teacher is None or self.student is None:
            return None
        trained = 16 * (self.teacher if self.recipe.teacher.train else self.student).whole
        trained += 4 * self.teacher.whole if self.recipe.distill.on_policy is not None else 0  # it answers meanwhile
        activations = 2e8 if self.recipe.task == "image-classification" else 1.5e9
        return int(7e8 + max(5 * self.teacher.whole, trained + activations))

    def download(self) -> int | None:
        """Return 0 when every source is here; None when what is missing has no size before it is fetched."""
        return None if self.missing else 0

    def disk(self) -> int | None:
        """Return the predicted growth of the store in bytes."""
        if self.teacher is None or self.student is None:
            return None
        return int(3 * 4 * self.student.whole + (2 if self.recipe.prompted else 4) * self.teacher.whole)

    def price(self) -> tuple[str, ...]:
        """Return a sentence on what a teacher behind a server is asked and costs; none where nobody is paid."""
        settings = self.recipe.teacher.endpoint
        if settings is None:
            return ()
        template = self.recipe.prompt.teacher.template
        read = self.calls() * (TOKENS_A_TEXT + likely_input_tokens({"prompt": template}, None))
        cost = settings.cost(read, self.calls() * (VOTE_TOKENS if settings.votes else 1), self.calls())
        priced = settings.input_price or settings.output_price
        dollars = f"{cost.dollars:.3g} dollars" if priced else "no price is known: set input_price and output_price"
        return (
            f"{settings.base_url} is asked at most {cost.calls:,} calls, less what its ledger holds: about "
            f"{cost.input_tokens:,} tokens read ({TOKENS_A_TEXT} assumed a text), {cost.output_tokens:,} written; "
            f"{dollars}",
        )

    def notes(self) -> tuple[str, ...]:
        """Return what the predictions rest on."""
        notes = [
            f"this machine: {self.speed / 1e9:.0f} GFLOP/s in float32 matrix products"
            f"{', bfloat16 in hardware' if has_bfloat16() else ''}; idle cores are assumed"
        ]
        if self.missing:
            notes.append(f"not fetched yet, so sizes are unknown: {', '.join(sorted(set(self.missing)))}")
        return tuple(notes)


def _times(unit: float | None, count: float) -> float | None:
    return None if unit is None else round(unit * count, 1)


def _parameters(settings: ModelSettings, base: Path) -> Size | None:
    """Return a model's size from file headers; None when its weights are not here yet."""
    if settings.build is not None:
        widths = settings.build.widths
        products = int(sum(9 * a * b for a, b in zip((1, *widths), widths, strict=False)))
        return Size(products, products)
    if settings.model is None:  # behind a server: nothing of it is here
        return Size(0, 0)
    found = reference.local(reference.parse(settings.model, base), settings.sha256, cache_folder())
    count = None if found is None else weights.parameter_count(found)
    if found is None or count is None:
        return None
    config = weights.model_config(found)
    table = int(config.get("vocab_size") or 0) * int(config.get("hidden_size") or 0)
    layers = int(config.get("num_hidden_layers") or 0)
    kept = settings.layer_count or layers
    body = max(0, count - table) * min(1.0, kept / layers if layers else 1.0)
    return Size(int(body + table), int(body))


def _missing(recipe: Recipe, base: Path) -> Iterator[str]:
    """Yield the sources that have to be fetched first."""
    given = (
        (recipe.data.source, recipe.data.sha256),
        (recipe.teacher.model, recipe.teacher.sha256),
        *((settings.model, settings.sha256) for settings in (*recipe.assistant, recipe.student)),
    )
    for text, sha256 in given:
        if text is None:
            continue
        ref = reference.parse(text, base)
        if ref.kind in ("pypi", "hf") and reference.local(ref, sha256, cache_folder()) is None:
            yield text


def product_speed() -> float:
    """Return this machine's speed in float32 matrix products, in FLOP/s: one core's best of many tries, times cores.

    Products this small stay on one core, so another busy process does not spoil the figure.
    """
    side = 64
    matrix = np.ones((side, side), np.float32)
    best = float("inf")
    for _ in range(300):
        begin = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - begin)
    return len(os.sched_getaffinity(0)) * 2 * side**3 / best


@cache
def has_bfloat16() -> bool:
    """Tell from the processor's flags whether it computes in bfloat16 (AVX512-BF16 or AMX)."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and any(flag in cpuinfo.read_text() for flag in ("avx512_bf16", "amx_bf16"))
