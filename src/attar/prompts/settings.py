"""Set a prompt and the search for a better one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from attar import catalog
from attar.core.budget import Budget
from attar.errors import did_you_mean
from attar.settings import Settings, Use

PLAIN = "{Input}: {text}\n{Target}:"
"""The prompt that most people write first; it is the recipe's own where the recipe gives none."""

Calibration = Literal["none", "batch", "contextual", "domain"]
CALIBRATIONS: tuple[Calibration, ...] = ("none", "batch", "contextual", "domain")

Criterion = Literal["auto", "accuracy", "likelihood", "log_odds", "agreement", "kl", "mutual_information"]


class BudgetSettings(Settings):
    """Set what may be spent; the first limit that is reached ends it.

    Example:
        >>> BudgetSettings(seconds=60).budget.left({"seconds": 45})
        0.25
    """

    seconds: float | None = Field(None, ge=0, description="of the whole search, killed tries' included")
    tokens: int | None = Field(None, ge=0, description="that are computed or paid")
    calls: int | None = Field(None, ge=0, description="of a model behind a server")
    dollars: float | None = Field(None, ge=0, description="that those calls cost")

    @property
    def budget(self) -> Budget:
        """Return the limits that were set."""
        return Budget({name: value for name, value in self if value is not None})  # type: ignore[misc]


class PromptSettings(Settings):
    """Set a prompt and the search for a better one."""

    template: str = Field(PLAIN, description="the recipe's own prompt, with {text} where the example stands")
    instruction: str = Field("", description="what the recipe's own prompt says once, before everything else")
    input: str = Field("text", min_length=1, description="what an example is called in the templates: review, mail")
    target: str = Field("label", min_length=1, description="what the label is called there: sentiment, topic")
    words: Mapping[str, str | tuple[str, ...]] | None = Field(
        None, description="label -> its word, or several variants to try; the label's name by default"
    )
    chat: bool = Field(False, description="put the recipe's own prompt in the tokenizer's chat template")
    templates: tuple[str, ...] = Field((), description="further templates to try, as running text")
    search: tuple[Use, ...] = Field(
        (Use(use="bank"), Use(use="demonstrations"), Use(use="shorten")),
        description="where new prompts come from: bank, and moves; none keeps the recipe's own",
    )
    calibration: Literal["auto", "none", "batch", "contextual", "domain"] = Field(
        "auto", description="of the label words: auto tries all"
    )
    criterion: Criterion = Field(
        "auto", description="what prompts are chosen by; auto: accuracy, or mutual information without gold labels"
    )
    demonstrations: int = Field(4, ge=0, le=64, description="most solved examples a prompt shows (needs gold on train)")
    prompt_tokens: int = Field(1024, ge=16, description="tokens that a prompt may add to an example at most")
    max_tokens: int = Field(256, ge=8, description="tokens of an example that the model reads")
    block: int = Field(32, ge=8, description="validation examples a prompt is scored on before the next elimination")
    population: int = Field(4, ge=2, le=64, description="prompts that new ones are made of")
    children: int = Field(8, ge=1, le=64, description="new prompts in a generation")
    generations: int = Field(4, ge=0, le=1000, description="of new prompts, at most; 2 without a gain end the search")
    held_out: float = Field(
        0.4, ge=0, lt=1, description="share of the validation examples that only the winner is judged on, once"
    )
    budget: BudgetSettings = Field(BudgetSettings(), description="what the search may spend")

    @field_validator("search", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if value == "none":
            return ()
        return [value] if isinstance(value, (str, Mapping)) else value

    @field_validator("search")
    @classmethod
    def _known_moves(cls, value: tuple[Use, ...]) -> tuple[Use, ...]:
        names = ("bank", *catalog.table("move"))
        for move in value:
            if move.use not in names:
                raise ValueError(f"there is no move '{move.use}'.{did_you_mean(move.use, names)}")
        return value

    @model_validator(mode="after")
    def _templates_name_text(self) -> PromptSettings:
        for template in (self.template, *self.templates):
            if template.count("{text}") != 1:
                raise ValueError(f"a template must name {{text}} once, where the example stands, got {template!r}")
        if "{text}" in self.instruction:
            raise ValueError("an instruction is said once and must not name {text}; the template does")
        return self

    @property
    def searches(self) -> bool:
        """Tell whether a better prompt is looked for."""
        return bool(self.search)

    @property
    def from_bank(self) -> bool:
        """Tell whether the ready templates are tried."""
        return any(move.use == "bank" for move in self.search)

    @property
    def moves(self) -> tuple[Use, ...]:
        """Return what makes new prompts of old ones."""
        return tuple(move for move in self.search if move.use != "bank")
