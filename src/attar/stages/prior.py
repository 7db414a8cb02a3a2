"""Correct the class masses of a student that was taught: score unlabelled examples, find the bias, add it, check it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from attar.core.examples import DataSet, Examples
from attar.core.nouns import Model, Task, Teacher
from attar.errors import AttarError
from attar.optional import lazy
from attar.students.bias import apply_bias, last_layers
from attar.students.prior import class_bias, mean_mass, target_prior
from attar.teachers.classifier import ClassifierTeacher

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Wanted = Literal["uniform", "teacher"] | Sequence[float]
"""A prior, as a recipe names it."""

MOST_OFF = 1e-3
"""Largest difference between a corrected logit and the logit plus its bias, relative to the largest of them."""


def unlabelled(data: DataSet, recorded: bool = False) -> Examples:
    """Return the examples that a correction may look at, without labels: validation, then those in no split.

    Training examples are left out: a correction is for when their classes are not those of use. Test examples are
    left out, inputs too.

    Args:
        data: the data set.
        recorded: only examples that a recorded teacher has answered: validation alone.
    """
    own = data.validation.without_labels()
    if recorded or data.spare is None or len(data.spare) == 0:
        return own
    more = data.spare.without_labels()
    both = (own.inputs, more.inputs)
    inputs = np.concatenate(both) if isinstance(own.inputs, np.ndarray) else [*both[0], *both[1]]
    return Examples(np.concatenate([own.keys, more.keys]), inputs, np.concatenate([own.labels, more.labels]))


def rare(transfer: np.ndarray, prior: np.ndarray, share: float = 0.5) -> list[int]:
    """Return the classes that the student saw too little of: their mass is below a share of their prior.

    Args:
        transfer: ``(labels,)`` mean class masses of the examples that the student learned from.
        prior: ``(labels,)`` those wanted.
        share: in (0, 1].

    Example:
        >>> rare(np.array([0.5, 0.1, 0.4]), np.array([0.3, 0.3, 0.4]))
        [1]
    """
    return [int(place) for place in np.flatnonzero(transfer < share * prior)]


def correct_prior(
    model: Model,
    task: Task,
    examples: Examples,
    prior: Wanted,
    teacher: Teacher | None = None,
    only: Sequence[int] | None = None,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """Change the model's last bias so that its mean class masses on the examples are the prior.

    The teacher's prior is that of these very examples, and the bias that reaches it is the one that brings the
    student closest to the teacher on them, in forward Kullback-Leibler divergence. Another prior, forced on every
    class, also bends the classes that were right to the chance of which examples were drawn: name ``only`` those that
    the student lacked (see `rare`), unless the other classes too are known to be as frequent as it says.

    Args:
        model: a trained classifier, changed in place; its module must be on the device to score on.
        task: turns examples into rows.
        examples: unlabelled, like those that the model will meet; see `unlabelled`. Labels are not read.
        prior: ``uniform``, ``teacher``, or one number a class.
        teacher: has answered the examples; for ``teacher`` alone.
        only: classes to correct; None for all.
        temperature: softens both sides of ``teacher``, so that also examples far from the border count.

    Returns:
        Facts for the artifact's card, lists in the order of the labels: ``wanted``, ``only``, ``temperature``,
        ``examples`` (how many), ``prior``, ``before`` and ``after`` (mean class masses, at the temperature), ``bias``
        (mean 0), ``changed`` (share of examples whose choice changed).

    Raises:
        AttarError: the task has no classes, the prior is none of these classes, there is no example, or the model's
            last layer has no bias that adds to the logits. The model is then as it was.
        ValueError: a temperature with a prior that is not the teacher's.
    """
    labels = len(model.facts.get("labels", ()))
    if labels == 0:
        raise AttarError("A prior correction needs a task with classes. Set distill.prior: none.")
    by_teacher = isinstance(prior, str) and prior == "teacher"
    if temperature != 1 and not by_teacher:
        raise ValueError("only the teacher's prior can be softened: others are frequencies of classes")
    said = teacher.answer(examples).dense().double().numpy() if teacher is not None and by_teacher else None
    target = target_prior(prior, labels, said, temperature)
    before = _scores(model, task, examples)
    bias = temperature * class_bias(before / temperature, target, only)
    after = _checked(model, task, examples, before, bias)
    return {
        "wanted": prior if isinstance(prior, str) else "given",
        "only": None if only is None else list(only),
        "temperature": temperature,
        "examples": len(examples),
        "prior": _rounded(target),
        "before": _rounded(mean_mass(before, temperature)),
        "after": _rounded(mean_mass(after, temperature)),
        "bias": _rounded(bias),
        "changed": round(float((before.argmax(axis=1) != after.argmax(axis=1)).mean()), 6),
    }


def _checked(model: Model, task: Task, examples: Examples, before: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Add the bias and return the new scores, if they are the old ones plus the bias."""
    own = [layer.bias for layer in last_layers(model) if layer.bias is not None]
    kept = [values.detach().clone() for values in own]
    apply_bias(model, bias)
    after = _scores(model, task, examples)
    if np.allclose(after, before + bias, rtol=0, atol=MOST_OFF * max(np.abs(before).max(), np.abs(bias).max())):
        return after
    with torch.no_grad():
        for values, old in zip(own, kept, strict=True):
            values.copy_(old)
    raise AttarError(
        f"The last linear layer of {type(model.module).__name__} does not give the logits, so its bias cannot be "
        "corrected. Set distill.prior: none, or choose another student."
    )


def _scores(model: Model, task: Task, examples: Examples) -> np.ndarray:
    return np.asarray(ClassifierTeacher(model, task, "").answer(examples).dense().double().numpy())


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]
