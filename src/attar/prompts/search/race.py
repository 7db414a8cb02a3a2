"""Search for a prompt by racing: score a few, drop what loses, make new ones of what wins, judge the winner once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from attar.core.budget import Unit, add
from attar.core.prompt import TextPrompt
from attar.core.prompting import Ask, Child, Ground, Move, Standing
from attar.prompts.search.judges import Judge, Reading, check_scores
from attar.prompts.search.statistics import holm, paired_p, shortest_not_worse
from attar.prompts.settings import PromptSettings

ALPHA = 0.1
"""Chance to drop, in one elimination, any prompt that is as good as the leader. A mistake costs a chance, no claim."""
CLAIM = 0.025
"""One-sided level of the one test that claims a gain: the 95 % interval of the gain is then above 0."""
KEEP = 0.5
"""Share of a field that goes on to the next block at most: bounds the cost of a race."""
FINALISTS = 3
PATIENCE = 2
GROUP = 8
"""Prompts in one question, so that a kill costs little."""


@dataclass
class Entry:
    """Hold a prompt in the search.

    Args:
        prompt: what the model reads.
        parents: names of the prompts it was made of.
        how: what was done to them.
        generation: 0 for the bank.
        scores: split -> ``(examples, columns)``.
        free: what inputs without content scored, ``(inputs, columns)``.
        words: further sets of label words to read it with; they cost no forward pass.
        left: how it left the race; empty while it is in.
    """

    prompt: TextPrompt
    parents: tuple[str, ...] = ()
    how: str = "bank"
    generation: int = 0
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    free: np.ndarray | None = None
    words: list[tuple[str, ...]] = field(default_factory=list)
    left: str = ""

    def n(self, split: str = "race") -> int:
        """Return how many examples of a split it was scored on."""
        return len(self.scores.get(split, ()))


@dataclass(frozen=True)
class Outcome:
    """Hold how a search ended.

    Args:
        kept: the prompt to use.
        winner: the prompt that won the race.
        gain: ``(held-out examples,)`` the winner's values less the own prompt's; empty where it was not judged.
        p: of the one test on them; 1 where it was not judged.
        why: in words.
    """

    kept: TextPrompt
    winner: TextPrompt
    gain: np.ndarray
    p: float
    why: str

    @property
    def proven(self) -> bool:
        """Tell whether the winner is better than the recipe's own prompt beyond luck."""
        return len(self.gain) > 0 and self.p <= CLAIM


class RaceSearch:
    """Look for a prompt with few forward passes (`attar.core.prompting.PromptSearch`).

    The field is scored on a block of examples; who loses to the leader for sure (paired tests, Holm's correction) or
    is in the lower half is out; the block doubles. The best are changed by moves, and their children race the same
    examples. At the end the shortest of the finalists that is not worse by more than one standard error is judged
    against the recipe's own prompt on examples that the race never saw: once, so that luck in the race is no gain.

    All that happens is a function of the scores that it is told; told the same again, it is where it was.

    Args:
        start: what is tried first; the first is the recipe's own.
        judge: reads scores.
        settings: the recipe's.
        moves: name -> what makes new prompts.
        ground: gives moves what they work with, from the standings and a number that names the call.
        tokens: counts the tokens that a prompt adds to an example.
    """

    def __init__(
        self,
        start: Sequence[TextPrompt],
        judge: Judge,
        settings: PromptSettings,
        moves: Mapping[str, Move],
        ground: Callable[[tuple[Standing, ...], str], Ground],
        tokens: Callable[[TextPrompt], int],
    ) -> None:
        self.judge = judge
        self.own = start[0]
        self.spent: dict[Unit, float] = {}
        self._settings = settings
        self._moves = dict(moves)
        self._ground = ground
        self._tokens = tokens
        self._entries: dict[str, Entry] = {}
        self._examples = 0
        self._alive: list[str] = []
        self._outcome: Outcome | None = None
        for prompt in start:
            self._join(Child(prompt, (), "bank" if self._entries else "the recipe's own"), 0)
        self._alive = list(self._entries)
        self._course = self._run()
        self._pending: Ask | None = None

    # ask, tell, state

    def ask(self) -> Ask | None:
        """Return what to score next; None when the search is over."""
        if self._pending is None:
            self._pending = next(self._course, None)
        return self._pending

    def tell(
        self,
        ask: Ask,
        scores: Sequence[np.ndarray],
        free: Sequence[np.ndarray | None] | None = None,
        spent: Mapping[Unit, float] | None = None,
    ) -> None:
        """Take what was scored.

        Args:
            ask: the question, as `ask` gave it.
            scores: for each prompt ``(last - first, columns)``.
            free: for each prompt what inputs without content scored ``(inputs, columns)``, or None.
            spent: what it cost.

        Raises:
            AttarError: a score is no number.
            ValueError: it is no answer to the question.
        """
        if ask != self._pending or len(scores) != len(ask.prompts):
            raise ValueError("the scores must be those of the question that was asked last")
        for place, (prompt, values) in enumerate(zip(ask.prompts, scores, strict=True)):
            check_scores(prompt, values)
            entry = self._entries[prompt.forward_id]
            if len(values) != ask.last - ask.first or entry.n(ask.split) != ask.first:
                raise ValueError(f"scores of '{prompt.name}' must be of examples {ask.first} to {ask.last}")
            known = entry.scores.get(ask.split)
            entry.scores[ask.split] = values if known is None else np.concatenate([known, values])
            if free is not None and free[place] is not None:
                entry.free = free[place]
        self._examples += (ask.last - ask.first) * len(ask.prompts)
        self.spend(spent or {})
        self._pending = None

    def spend(self, spent: Mapping[Unit, float]) -> None:
        """Count what was spent beside scoring."""
        self.spent = add(self.spent, spent)

    def state(self) -> dict[str, Any]:
        """Return the prompts, where each stands, and what was spent, as JSON values."""
        return {
            "alive": [self._entries[name].prompt.name for name in self._alive],
            "spent": dict(self.spent),
            "tried": [
                {"prompt": entry.prompt.to_json(), "n": entry.n(), "left": entry.left, "how": entry.how}
                for entry in self._entries.values()
            ],
        }

    @property
    def expected(self) -> int:
        """Return about how many examples the search will score."""
        block, sizes = self._settings.block, self.judge.sizes()
        bred = self._settings.generations * 2 * self._settings.children * block if self._moves else 0
        return 2 * block * len(self._entries) + bred + FINALISTS * sizes["race"] + 2 * sizes.get("held out", 0)

    # what was found

    def leader(self) -> Reading | None:
        """Return the best reading of the prompts that were scored on most examples so far; None before any was."""
        most = max(entry.n() for entry in self._entries.values())
        furthest = [self._best(name) for name, entry in self._entries.items() if entry.n() == most > 0]
        return max(furthest, key=lambda reading: reading.rank, default=None)

    def outcome(self) -> Outcome:
        """Return how the search ended.

        Raises:
            ValueError: it is not over.
        """
        if self._outcome is None:
            raise ValueError("the search is not over")
        return self._outcome

    def table(self) -> list[tuple[Entry, Reading | None]]:
        """Return every prompt with its best reading, None if it was never scored; the winner first."""
        won = self.outcome().winner.forward_id
        rows = [(entry, self._best(name) if entry.n() else None) for name, entry in self._entries.items()]
        key = {id(entry): (name == won, entry.n()) for name, entry in self._entries.items()}
        return sorted(rows, key=lambda row: (*key[id(row[0])], row[1].rank if row[1] else (-np.inf, 0.0)), reverse=True)

    def said(self, prompt: TextPrompt) -> dict[str, np.ndarray]:
        """Return the answers of one reading ``(examples, labels)`` on each split it was scored on."""
        entry = self._entries[prompt.forward_id]
        return {split: self.judge.values(prompt, scores, split)[1] for split, scores in entry.scores.items()}

    # the course of the search

    def _run(self) -> Generator[Ask, None, None]:
        everything = self.judge.sizes()["race"]
        target = min(2 * self._settings.block, everything)
        yield from self._ladder(list(self._alive), target)
        self._select(target)
        idle = 0
        for generation in range(1, self._settings.generations + 1):
            children = self._propose(generation) if self._moves and self._affords(self._settings.block) else []
            if not children:
                break
            leader = self._alive[0]
            target = min(2 * target, everything)
            yield from self._score(self._alive, target)
            yield from self._ladder(children, target)
            self._select(target)
            idle = 0 if self._alive[0] != leader else idle + 1
            if idle >= PATIENCE and target == everything:
                break
        yield from self._finish(everything)

    def _finish(self, everything: int) -> Generator[Ask, None, None]:
        finalists = self._ranked(self._alive)[:FINALISTS]
        for name in self._alive:
            if name not in finalists:
                self._entries[name].left = "lost before the last round"
        yield from self._score(finalists, everything)
        reached = max((self._entries[name].n() for name in finalists), default=0)
        finalists = [name for name in finalists if self._entries[name].n() == reached]
        if reached == 0:
            why = "no gain: the budget was spent before anything was scored"
            self._outcome = Outcome(self.own, self.own, np.zeros(0), 1.0, why)
            return
        readings = [self._best(name) for name in finalists]
        values = np.stack([reading.values for reading in readings])
        place = shortest_not_worse(values, np.array([self._tokens(reading.prompt) for reading in readings]))
        for name in finalists:
            self._entries[name].left = "lost in the last round"
        self._entries[finalists[place]].left = "won"
        yield from self._judge(readings[place].prompt)

    def _judge(self, winner: TextPrompt) -> Generator[Ask, None, None]:
        """Compare the winner with the recipe's own prompt on examples that nothing was chosen by."""
        own, held = self._baseline(), self.judge.sizes().get("held out", 0)
        if winner == replace(own, name=winner.name):
            self._outcome = Outcome(own, own, np.zeros(0), 1.0, "no gain: the recipe's own prompt won")
            return
        if held == 0:
            why = "not proven: no validation examples were held out to judge it"
            self._outcome = Outcome(winner, winner, np.zeros(0), 1.0, why)
            return
        names = dict.fromkeys((own.forward_id, winner.forward_id))
        yield from self._score(list(names), held, "held out")
        if any(self._entries[name].n("held out") < held for name in names):
            why = "no gain: the budget was spent before the winner could be judged"
            self._outcome = Outcome(own, winner, np.zeros(0), 1.0, why)
            return
        gain = self._held_out(winner) - self._held_out(own)
        p = paired_p(gain)
        words = f"{gain.mean():+.3f} on {held} held-out examples"
        if p <= CLAIM:
            self._outcome = Outcome(winner, winner, gain, p, f"its gain of {words} is no luck (p = {p:.2g})")
        else:
            self._outcome = Outcome(own, winner, gain, p, f"no gain: {words} may be luck (p = {p:.2g})")

    def _held_out(self, prompt: TextPrompt) -> np.ndarray:
        scores = self._entries[prompt.forward_id].scores["held out"]
        return self.judge.values(prompt, scores, "held out")[0]

    def _baseline(self) -> TextPrompt:
        """Return the recipe's own prompt, calibrated if the recipe says how."""
        entry = self._entries[self.own.forward_id]
        if not entry.n():
            return self.own
        readings = self.judge.readings(self.own, entry.scores["race"], entry.free, entry.words)
        asked = [r.prompt for r in readings if r.calibration == self._settings.calibration != "auto"]
        return next((prompt for prompt in asked if prompt.words == self.own.words), self.own)

    def _ladder(self, names: Sequence[str], top: int) -> Generator[Ask, None, None]:
        """Score prompts on more and more examples up to ``top``, dropping losers on the way."""
        field, reach = list(names), min(self._settings.block, top)
        while True:
            yield from self._score(field, reach)
            field = [name for name in field if self._entries[name].n() >= reach]
            if reach == top or not field:
                return
            field = self._eliminate(field, reach)
            reach = min(2 * reach, top)

    def _score(self, names: Sequence[str], reach: int, split: str = "race") -> Generator[Ask, None, None]:
        """Ask for what prompts still lack up to example ``reach``, as far as the budget goes."""
        while True:
            lacking = [name for name in names if self._entries[name].n(split) < reach]
            if not lacking:
                return
            first = min(self._entries[name].n(split) for name in lacking)
            group = [name for name in lacking if self._entries[name].n(split) == first]
            group = group[: GROUP if self._examples else 1]  # the first answer tells what an example costs
            while group and not self._affords((reach - first) * len(group), judged=split == "held out"):
                group = group[: len(group) // 2]
            if not group:
                return
            yield Ask(tuple(self._entries[name].prompt for name in group), first, reach, split)

    def _affords(self, examples: int, judged: bool = False) -> bool:
        """Tell whether the budget allows so many more examples, and then to judge a winner."""
        budget = self._settings.budget.budget
        if not self._examples:  # what an example costs is not known yet, but each is one call
            return budget.holds({"calls": examples})
        needed = examples + (0 if judged else 2 * self.judge.sizes().get("held out", 0))
        share = (self._examples + needed) / self._examples
        expected = {unit: amount * share for unit, amount in self.spent.items()}
        # answers that were paid for earlier make the first ones cheap; the next are not
        expected["calls"] = max(expected.get("calls", 0.0), self.spent.get("calls", 0.0) + needed)
        return budget.holds(expected)

    # who is in

    def _eliminate(self, names: Sequence[str], reach: int) -> list[str]:
        """Return who goes on: nobody who loses to the leader for sure, and the upper half at most."""
        rivals = [name for name in dict.fromkeys((*self._alive, *names)) if self._entries[name].n() >= reach]
        readings = {name: self._best(name, reach) for name in rivals}
        leader = max(readings.values(), key=lambda reading: reading.rank)
        chances = holm(np.array([paired_p(leader.values - readings[name].values) for name in names]))
        sure = {name for name, p in zip(names, chances, strict=True) if p < ALPHA}
        keep = max(FINALISTS, int(np.ceil(KEEP * len(names))))
        stays: list[str] = []
        for name in sorted(names, key=lambda name: readings[name].rank, reverse=True):
            if name in sure:
                self._entries[name].left = f"worse for sure after {reach}"
            elif len(stays) >= keep:
                self._entries[name].left = f"among the worse half after {reach}"
            else:
                stays.append(name)
        return stays

    def _select(self, reach: int) -> None:
        """Let the best of all that were scored on ``reach`` examples live on."""
        scored = [name for name, entry in self._entries.items() if entry.n() >= reach]
        if not scored:  # the budget ended within the first block
            most = max(entry.n() for entry in self._entries.values())
            scored = [name for name, entry in self._entries.items() if entry.n() == most > 0]
        ranked = self._ranked(scored)
        for name in ranked[self._settings.population :]:
            self._entries[name].left = self._entries[name].left or f"not among the best after {reach}"
        self._alive = ranked[: self._settings.population]
        for name in self._alive:
            self._entries[name].left = ""

    def _ranked(self, names: Sequence[str]) -> list[str]:
        reach = min((self._entries[name].n() for name in names), default=0)
        return sorted(names, key=lambda name: self._best(name, reach).rank, reverse=True)

    def _best(self, name: str, reach: int | None = None) -> Reading:
        entry = self._entries[name]
        scores = entry.scores["race"]
        readings = self.judge.readings(entry.prompt, scores[:reach], entry.free, entry.words)
        return max(readings, key=lambda reading: reading.rank)

    # new prompts

    def _propose(self, generation: int) -> list[str]:
        """Return the new prompts of a generation: every move makes about equally many."""
        standings = tuple(self._standing(name) for name in self._alive)
        share = max(1, -(-self._settings.children // len(self._moves)))
        joined: list[str] = []
        for name, move in self._moves.items():
            for child in move(self._ground(standings, f"{generation}/{name}"), share):
                fits = self._tokens(child.prompt) <= self._settings.prompt_tokens
                if fits and len(joined) < self._settings.children:
                    joined += self._join(child, generation)
        return joined

    def _standing(self, name: str) -> Standing:
        reading = self._best(name)
        failures = self.judge.failures(reading)
        tokens = self._tokens(reading.prompt)
        return Standing(reading.prompt, float(reading.values.mean()), len(reading.values), tokens, failures)

    def _join(self, child: Child, generation: int) -> list[str]:
        """Let a prompt in, and return its place; one that reads like a known one gives it another set of words."""
        prompt = replace(child.prompt, calibration=None)
        if not set(prompt.words) <= set(self.judge.columns or prompt.words):
            return []
        if prompt.forward_id in self._entries:
            known = self._entries[prompt.forward_id]
            if prompt.words not in (known.prompt.words, *known.words):
                known.words.append(prompt.words)
            return []
        taken = {entry.prompt.name for entry in self._entries.values()}
        name, count = prompt.name, 2
        while name in taken:
            name, count = f"{prompt.name}.{count}", count + 1
        self._entries[prompt.forward_id] = Entry(replace(prompt, name=name), child.parents, child.how, generation)
        return [prompt.forward_id]
