"""Split examples into train, validation and test: disjoint, stratified, the same for any order of the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attar.core.examples import UNKNOWN, Examples
from attar.errors import AttarError
from attar.seeds import derive


@dataclass(frozen=True)
class Sizes:
    """Say how large the splits shall be.

    Args:
        train: number of examples, or None for all that are left.
        validation: number, or fraction of all.
        test: number, or fraction of all; of an official test set a fraction takes all.
        balance: every class equally often in every split.
    """

    train: int | None
    validation: int | float
    test: int | float
    balance: bool


@dataclass(frozen=True)
class Splits:
    """Hold the three disjoint splits, and what is in none of them."""

    train: Examples
    validation: Examples
    test: Examples
    spare: Examples


def split(pool: Examples, official: Examples | None, names: tuple[str, ...], sizes: Sizes, seed: int) -> Splits:
    """Return disjoint, stratified splits.

    Each example has a place in the draw that depends on the seed and its own key alone. Whether it is tested on
    therefore hardly changes when rows are added, and not at all when they are shuffled.

    Args:
        pool: examples without duplicates; those of unknown label or target go to train, unless none has one.
        official: the official test set, sharing nothing with ``pool``; None takes the test set from ``pool``.
        names: the classes; none where the examples have target texts.
        sizes: how large the splits shall be.
        seed: the recipe's seed.

    Raises:
        AttarError: a split would be empty, or more examples are asked for than there are.
    """
    pool, unlabeled = _unlabeled_apart(_drawn(pool, seed))
    ordered = _arranged(pool, names, sizes.balance)
    step = len(names) if sizes.balance else 1
    test = None if official is None else _official(official, names, sizes, seed)
    asked = {"test": 0 if test else _amount("test", sizes.test, len(ordered), step, _counts(pool, names))}
    asked["validation"] = _amount("validation", sizes.validation, len(ordered), step, _counts(pool, names))
    used = asked["test"] + asked["validation"]
    rest = ordered.take(np.arange(used, max(used, len(ordered))))
    train = _drawn(_joined(rest, unlabeled), seed) if len(unlabeled) else rest
    wanted = len(train) if sizes.train is None else sizes.train
    asked["train"] = max(0, wanted - wanted % step)
    if used > len(ordered) or asked["train"] > len(train) or asked["train"] == 0:
        raise AttarError(_too_many(asked, ordered, pool, unlabeled, names))
    places = np.arange(len(ordered))
    chosen = (
        train.take(np.arange(asked["train"])),
        ordered.take(places[asked["test"] : used]),
        ordered.take(places[: asked["test"]]) if test is None else test,
    )
    everything = _joined(pool, unlabeled) if len(unlabeled) else pool
    left = ~np.isin(everything.keys, np.concatenate([part.keys for part in chosen]))
    spare = everything.take(np.flatnonzero(left)).without_labels()
    # another draw orders the examples: who was chosen depends on the first, so its order would sort balanced classes
    return Splits(*(_drawn(part, seed, "order") for part in (*chosen, spare)))


def _drawn(examples: Examples, seed: int, draw_name: str = "split") -> Examples:
    """Return the examples in the order of a draw."""
    draw = [derive(seed, draw_name, key) for key in examples.keys.tolist()]
    return examples.take(np.argsort(np.array(draw, dtype=np.int64), kind="stable"))


def _unlabeled_apart(pool: Examples) -> tuple[Examples, Examples]:
    known = pool.labels != UNKNOWN if pool.targets is None else np.array([bool(text) for text in pool.targets], bool)
    if not known.any():
        return pool, pool.take(np.arange(0))
    return pool.take(np.flatnonzero(known)), pool.take(np.flatnonzero(~known))


def _joined(first: Examples, second: Examples) -> Examples:
    if isinstance(first.inputs, np.ndarray):
        inputs = np.concatenate([first.inputs, np.asarray(second.inputs)])
    else:
        inputs = [*first.inputs, *second.inputs]  # type: ignore[assignment]
    labels = np.concatenate([first.labels, second.labels])
    targets = None if first.targets is None else [*first.targets, *(second.targets or ())]
    return Examples(np.concatenate([first.keys, second.keys]), inputs, labels, targets)


def _arranged(drawn: Examples, names: tuple[str, ...], balance: bool) -> Examples:
    """Return the examples so that every run of them holds the classes in proportion, or equally often if balanced."""
    rank = np.zeros(len(drawn))
    counts = np.ones(len(drawn))
    for label in np.unique(drawn.labels):
        members = np.flatnonzero(drawn.labels == label)
        rank[members], counts[members] = np.arange(len(members)), len(members)
    if not balance:
        return drawn.take(np.lexsort((drawn.labels, (rank + 0.5) / counts)))
    fewest = min(int((drawn.labels == label).sum()) for label in range(len(names)))
    order = np.lexsort((drawn.labels, rank))
    return drawn.take(order[rank[order] < fewest])


def _official(official: Examples, names: tuple[str, ...], sizes: Sizes, seed: int) -> Examples:
    ordered = _arranged(_drawn(official, seed), names, sizes.balance)
    wanted = sizes.test if isinstance(sizes.test, int) else len(ordered)
    step = len(names) if sizes.balance else 1
    wanted = wanted - wanted % step
    if wanted == 0 or wanted > len(ordered):
        asked = {"test": wanted}
        raise AttarError(_too_many(asked, ordered, official, official.take(np.arange(0)), names))
    return ordered.take(np.arange(wanted))


def _amount(name: str, size: int | float, total: int, step: int, counts: str) -> int:
    wanted = size if isinstance(size, int) else round(size * total)
    wanted -= wanted % step
    if wanted == 0:
        each = f" when each of {step} classes is to be in it equally often" if step > 1 else ""
        raise AttarError(f"{name}: {size} of {total} examples ({counts}) leaves it empty{each}. Set a larger {name}.")
    return wanted


def _counts(examples: Examples, names: tuple[str, ...]) -> str:
    if not names:
        return "no classes"
    counts = {name: int((examples.labels == place).sum()) for place, name in enumerate(names)}
    return ", ".join(f"{name} {count}" for name, count in counts.items()) if any(counts.values()) else "no labels"


def _too_many(
    asked: dict[str, int], ordered: Examples, pool: Examples, unlabeled: Examples, names: tuple[str, ...]
) -> str:
    parts = " + ".join(f"{name} {asked[name]}" for name in ("train", "validation", "test") if asked.get(name))
    usable = f"; {len(ordered)} when every class is taken equally often" if len(ordered) < len(pool) else ""
    what = "label" if names else "target"
    extra = f"; {len(unlabeled)} without a {what}, for train alone" if len(unlabeled) else ""
    empty = " train would be empty." if asked.get("train") == 0 else ""
    return (
        f"{parts} = {sum(asked.values())} examples are asked for, and {len(pool)} are there after cleaning "
        f"({_counts(pool, names)}{usable}{extra}).{empty} Ask for fewer, or give more data."
    )
