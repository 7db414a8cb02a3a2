"""Check that rows of a text are where they should be: the causal shift, the mask, the head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from attar.core.examples import UNKNOWN
from attar.core.nouns import Batch, Model
from attar.core.rows import Rows
from attar.errors import AttarError
from attar.optional import lazy
from attar.stages.checks import Check
from attar.stages.lesson import Lesson
from attar.tasks.text_generation import prompt_tokens

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def completion_checks(model: Model, lesson: Lesson) -> Iterator[Check]:
    """Yield checks of the rows of a few examples, each alone in its batch and all together.

    Args:
        model: a causal language model, in evaluation mode.
        lesson: its training examples are looked at.
    """
    yield _fits(model)
    batch = lesson.task.collate(model, lesson.train)
    with torch.no_grad():
        rows = lesson.task.rows(model, batch)
        yield Check("rows are the completion's tokens, and no others", *_mask(model, lesson, batch, rows))
        yield Check("the causal shift is right", *_shift(model, lesson))
        yield Check("a text does not see its neighbors in a batch", *_alone(model, lesson, rows))
        yield Check("hidden states and head give the model's own scores", *_head(model, lesson))


def _fits(model: Model) -> Check:
    """See that prompt, text and completion have a place each; a model with learned positions would fail on the longest.

    Raises:
        AttarError: they have not.
    """
    positions = int(getattr(model.module.config, "max_position_embeddings", 0) or 0)
    empty = len(prompt_tokens(model, ""))
    longest = empty + model.facts["max_length"] + model.facts["max_new_tokens"]
    if positions and longest > positions:
        raise AttarError(
            f"The prompt ({empty} tokens), a text (max_length: {model.facts['max_length']}) and what is written "
            f"(max_new_tokens: {model.facts['max_new_tokens']}) take {longest} places, and the model has {positions}. "
            "Lower max_length or prompt.max_new_tokens."
        )
    return Check("the longest text fits the model", True, f"{longest} of {positions or 'any'} places")


def _mask(model: Model, lesson: Lesson, batch: Batch, rows: Rows) -> tuple[bool, str]:
    """Decode each example's targets: they are the wanted text, and every row counts."""
    wanted = [text.strip() for text in lesson.train.targets or ()]
    wrong = 0
    for place, key in enumerate(lesson.train.keys):
        ids = batch.targets[(rows.key[:, 0] == int(key)).cpu()]
        read = model.processor.decode(ids[:-1]).strip()
        cut = int(ids[-1]) == UNKNOWN  # a long target lost its end
        same = wanted[place].startswith(read.rstrip("\ufffd")) if cut else read == wanted[place]
        wrong += not (same and (cut or int(ids[-1]) == model.processor.eos_token_id))
    passed = wrong == 0 and bool((rows.weight > 0).all())
    return passed, f"{len(rows)} rows of {len(wanted)} texts, {wrong} texts differ from their rows' targets"


def _shift(model: Model, lesson: Lesson) -> tuple[bool, str]:
    """Change one token of a completion: its own row and those before must not move, the next must.

    The token's place is found from the end of the sequence, not from where the task says its row is.
    """
    counts = np.array([len(model.processor(text).input_ids) for text in lesson.train.targets or ()])
    example = lesson.train.take(np.array([int(counts.argmax())]))
    batch = lesson.task.collate(model, example)
    rows, length = len(batch.targets), int(lesson.task.length(model, example)[0])
    changed = rows // 2
    ids = batch.inputs["input_ids"].clone()
    where = length - rows + changed
    ids[0, where] = (ids[0, where] + 1) % model.module.config.vocab_size  # type: ignore[union-attr, operator]
    before = lesson.task.rows(model, batch).dense().float()
    after = lesson.task.rows(model, replace(batch, inputs={**batch.inputs, "input_ids": ids})).dense().float()
    moved = (before - after).abs().amax(dim=-1) > 1e-3 * before.abs().max()
    passed = not bool(moved[: changed + 1].any()) and (changed + 1 >= rows or bool(moved[changed + 1]))
    first = int(moved.nonzero()[0]) if bool(moved.any()) else None
    return passed, f"token {changed} of {rows} changed, the first row that moved is {first}"


def _alone(model: Model, lesson: Lesson, together: Rows) -> tuple[bool, str]:
    shortest = int(np.argmin(lesson.task.length(model, lesson.train)))
    example = lesson.train.take(np.array([shortest]))
    alone = lesson.task.rows(model, lesson.task.collate(model, example)).dense().float()
    own = together.take(together.key[:, 0] == int(example.keys[0])).dense().float()
    error = float((own - alone).abs().max() / alone.abs().max().clamp_min(1e-12))
    return error < 1e-3, f"relative difference {error:.1e}"


def _head(model: Model, lesson: Lesson) -> tuple[bool, str]:
    """Compare with what the model itself gives: a scale or a cap that is not known would show."""
    batch = lesson.task.collate(model, lesson.train.take(np.arange(1)))
    device = next(model.module.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
    said = model.module(input_ids=inputs["input_ids"], use_cache=False).logits
    theirs = said[inputs["example"], inputs["time"]].float()
    ours = lesson.task.rows(model, batch).dense().float()
    error = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))
    return error < 1e-3, f"relative difference {error:.1e}"
