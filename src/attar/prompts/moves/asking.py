"""Ask a writer for texts and make prompts of the answers that are of use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from attar.core.prompt import TextPrompt
from attar.core.prompting import Child, Failure, Ground, Standing, Writer
from attar.errors import AttarError
from attar.prompts.moves.brood import Brood, child_name
from attar.prompts.writing.answers import Rules, accepted

ROUNDS = 2
"""Times that a writer is asked: once for all, once more for what was of no use."""


@dataclass(frozen=True)
class Request:
    """Hold what is asked of a writer, and what becomes of its answer.

    Args:
        text: what the writer reads.
        parents: what the new prompt is made of.
        make: returns the new prompt of an accepted answer.
        how: what is done, for people.
        mark: the same in a word, for the new prompt's name.
        rules: what the answer must keep.
    """

    text: str
    parents: tuple[Standing, ...]
    make: Callable[[str], TextPrompt]
    how: str
    mark: str
    rules: Rules = field(default=Rules())


def ask(ground: Ground, count: int, move: str, request: Callable[[], Request | None]) -> list[Child]:
    """Return at most ``count`` new prompts that a writer's answers make; none where all are nonsense.

    Args:
        ground: of the call.
        count: prompts that are wanted.
        move: its name, for the message.
        request: makes a request; None where there is nothing to ask.

    Raises:
        AttarError: there is no writer.
    """
    writer = _writer(ground, move)
    brood = Brood(ground, count)
    for _ in range(ROUNDS):
        asked = [one for one in (request() for _ in range(count - len(brood.children))) if one is not None]
        if not asked:
            break
        answers = writer.write([one.text for one in asked], int(ground.random.integers(2**31)))
        for one, answer in zip(asked, answers, strict=True):
            _take(brood, one, answer)
    return brood.children


def _take(brood: Brood, request: Request, answer: str) -> None:
    said = accepted(answer.replace(request.text, ""), request.rules)  # models without chat often repeat it
    if said is None:
        return
    prompt, first = request.make(said), request.parents[0].prompt.name
    name = child_name(first, request.mark, len(prompt.demonstrations))
    brood.add(replace(prompt, name=name), request.how, *request.parents)


def _writer(ground: Ground, move: str) -> Writer:
    if ground.writer is None:
        raise AttarError(f"The move '{move}' needs a writer, and none is given. Name one, or leave the move out.")
    return ground.writer


def told(prompt: TextPrompt) -> str:
    """Return the instruction as a writer reads it: the label words stand where ``{options}`` did."""
    return prompt.instruction.replace("{options}", ", ".join(prompt.words))


def folded(prompt: TextPrompt, instruction: str) -> str:
    """Return an instruction with ``{options}`` again where it lists the prompt's label words.

    Example:
        >>> folded(TextPrompt("{text}", ("bad", "good")), "Is it one of: bad, good?")
        'Is it one of: {options}?'
    """
    return instruction.replace(", ".join(prompt.words), "{options}") if len(prompt.words) > 1 else instruction


def instructed(prompt: TextPrompt, instruction: str) -> TextPrompt:
    """Return a prompt with another instruction, as a writer wrote it."""
    return replace(prompt, instruction=folded(prompt, instruction))


def old_instructions(ground: Ground) -> tuple[str, ...]:
    """Return the instructions that stand, as a writer reads them."""
    return tuple(told(standing.prompt) for standing in ground.standings if standing.prompt.instruction)


def about(ground: Ground, prompt: TextPrompt) -> tuple[str, ...]:
    """Return what is said of the task: the sentence, the answers, the prompt so far."""
    return (ground.task, *ground.labels, *prompt.words, told(prompt), prompt.template.replace("{text}", ""))


def short(text: str, characters: int) -> str:
    r"""Return a text on one line, cut after so many characters.

    Example:
        >>> short("one   two\nthree", 10)
        'one two th…'
    """
    line = " ".join(text.split())
    return line if len(line) <= characters else line[:characters] + "…"


def solved(prompt: TextPrompt, examples: Sequence[tuple[str, int | str]], characters: int) -> str:
    """Return solved examples as a writer reads them."""
    rows = [(text, prompt.words[label] if isinstance(label, int) else label) for text, label in examples]
    return "\n\n".join(f"Text: {short(text, characters)}\nAnswer: {short(said, characters)}" for text, said in rows)


def failed(failures: Sequence[Failure], characters: int) -> str:
    """Return failures as a writer reads them."""
    return "\n\n".join(
        f"Text: {short(one.text, characters)}\nGiven answer: {short(one.said, characters)}\n"
        f"Right answer: {short(one.wanted, characters)}"
        for one in failures
    )


def choices(prompt: TextPrompt) -> str:
    """Return the sentence that names the answers, or an empty string for tasks that write."""
    return f"The answer is one of: {', '.join(prompt.words)}." if prompt.words else ""


def paragraphs(*parts: str) -> str:
    """Return the parts that are not empty, a blank line between them."""
    return "\n\n".join(part for part in parts if part)
