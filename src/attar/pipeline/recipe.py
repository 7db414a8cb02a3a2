"""Say what a recipe may hold: the schema, its defaults, and every key's meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from attar import catalog
from attar.core.nouns import Signal
from attar.errors import did_you_mean
from attar.meters.grid import GridSettings
from attar.objectives.learned import features_of
from attar.objectives.ramp import Ramp
from attar.pipeline.compress_keys import CompressSettings
from attar.prompts.settings import PLAIN, BudgetSettings, PromptSettings
from attar.settings import Settings, Use
from attar.sources.data import DataSettings
from attar.stages.artifact import ArtifactRaceSettings
from attar.stages.assets import objective_of
from attar.stages.friendly_settings import FriendlySettings
from attar.stages.generations import TextSettings
from attar.stages.moving import EmaSettings
from attar.stages.on_policy import OnPolicySettings
from attar.stages.prompt_dropout import PromptDropoutSettings
from attar.stages.schedule import TrainSettings
from attar.students.settings import ModelSettings
from attar.teachers.endpoint_settings import EndpointSettings

KEPT_TEMPERATURES = (1.0, 2.0, 4.0)
"""Temperatures that a record of a vocabulary's likeliest choices always holds: 2 bytes a token each."""
Weight = Annotated[float, Field(ge=0, le=1e6)] | Ramp


class Term(Use):
    """Choose an objective and its weight in the sum."""

    weight: Weight = Field(1.0, description="of this objective in the sum; a ramp {start, end} changes it")


StudentPrompt = Literal["text", "calibrated", "soft", "prefix"]
Combination = Literal["mean", "weighted", "per_row", "chosen"]


class TeacherSettings(ModelSettings):
    """Set the teacher: a language model that labels by a prompt, or a classifier, trained in the run or ready."""

    origins: ClassVar[Mapping[str, str]] = {**ModelSettings.origins, "endpoint": "a server"}

    endpoint: EndpointSettings | None = Field(None, description="a model behind an OpenAI-compatible server")
    train: TrainSettings | None = Field(None, description="train the teacher on gold labels first")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of its matrix products when it answers"
    )
    members: int = Field(1, ge=1, le=64, description="teachers trained alike from different seeds, who answer together")
    combine: Combination = Field(
        "mean",
        description="of the members' probabilities: mean; weighted (by validation accuracy); per_row (who is sure "
        "counts more); chosen (one member a row)",
    )


class DistillSettings(TrainSettings):
    """Set how the student learns, and whether its control is trained."""

    objective: tuple[Term, ...] = Field(
        (Term(use="forward_kl", temperature=2.0),), description="what the student is compared by"
    )
    record: Use = Field(Use(use="auto"), description="how the teacher's answers are kept: full, topk or sampled")
    record_features: bool = Field(
        False, description="keep what the teacher's layers give, too, for objectives that compare features"
    )
    prior: Literal["none", "uniform", "teacher"] | tuple[float, ...] = Field(
        "none", description="class masses that the student is corrected to, without labels; numbers in labels' order"
    )
    control: bool = Field(True, description="train the same student on the same data without the teacher")
    generations: int = Field(
        1, ge=1, le=20, description="students trained one after the other, each on the answers of the one before"
    )
    ema: EmaSettings | None = Field(None, description="learn from the moving average of the student's own weights, too")
    prompt_dropout: PromptDropoutSettings | None = Field(
        None, description="read a share of the examples under the teacher's prompt while learning to do without it"
    )
    friendly: FriendlySettings | None = Field(
        None, description="train virtual tokens on the teacher so that the student learns more easily from it"
    )
    text: TextSettings = Field(TextSettings(), description="which texts a student that writes learns from")
    on_policy: OnPolicySettings | None = Field(
        None, description="learn from texts that the student writes itself, judged by the live teacher"
    )

    @field_validator("objective", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, Mapping)) else value


class WriterSettings(ModelSettings):
    """Set who writes new prompts: a language model of this process, or one behind a server."""

    origins: ClassVar[Mapping[str, str]] = {"model": "a language model", "endpoint": "a server"}

    endpoint: EndpointSettings | None = Field(None, description="a model behind a server, with mode: text")

    @model_validator(mode="after")
    def _writes(self) -> WriterSettings:
        if self.endpoint is not None and self.endpoint.mode != "text":
            raise ValueError(f"a writer's endpoint must have mode: text, got {self.endpoint.mode}")
        if self.from_teacher:
            raise ValueError("the teacher writes by itself where no writer is given; leave writer out")
        return self


class StudentPromptSettings(ArtifactRaceSettings):
    """Set the prompt of a student, and what is raced with it once the student is compressed.

    Example:
        >>> StudentPromptSettings(race=("calibrated", "soft")).virtual
        ('soft',)
    """

    template: str = Field(PLAIN, description="what a student that answers by label words reads, with {text}")
    instruction: str = Field("", description="what it reads once, before everything else")
    chat: bool = Field(False, description="put it in the tokenizer's chat template")
    race: tuple[StudentPrompt, ...] = Field(
        (),
        description="prompts that the compressed student is raced with, as exported; one is kept if its gain is "
        "proven: text (the teacher's), calibrated, soft (virtual tokens), prefix (keys and values)",
    )
    length: int = Field(16, ge=1, le=1024, description="virtual tokens of a soft prompt or prefix")
    train: TrainSettings = Field(
        TrainSettings(epochs=1.0, learning_rate=0.01, weight_decay=0.0),
        description="how a soft prompt or prefix is trained, on the student's own lesson",
    )

    @property
    def virtual(self) -> tuple[Literal["soft", "prefix"], ...]:
        """Return the raced prompts that are trained."""
        return tuple(kind for kind in self.race if kind in ("soft", "prefix"))

    @field_validator("race", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_text(self) -> StudentPromptSettings:
        if self.template.count("{text}") != 1:
            raise ValueError(f"a template must name {{text}} once, where the example stands, got {self.template!r}")
        return self


class PromptsSettings(Settings):
    """Set the prompts."""

    teacher: PromptSettings = Field(PromptSettings(), description="the prompt of a teacher that is a language model")
    writer: WriterSettings | None = Field(
        None, description="who writes new prompts where a move asks for it; the teacher itself by default"
    )
    student: StudentPromptSettings = Field(
        StudentPromptSettings(), description="the prompt of the student, and prompts for the compressed student"
    )
    max_new_tokens: int = Field(32, ge=2, le=4096, description="tokens written at most; longer targets are cut")


class MeasureSettings(Settings):
    """Set how models are measured."""

    texts: int = Field(60, ge=5, le=10000, description="test examples that latency is measured on, one at a time")
    warmup: int = Field(5, ge=0, description="calls before the first that counts")
    own_prompt_examples: int = Field(400, ge=10, description="test examples the recipe's own prompt is scored on")
    resamples: int = Field(10000, ge=100, le=1000000, description="of the bootstrap")
    grid: GridSettings | None = Field(
        None, description="batches and lengths at which models are timed besides, such as {batch: [1, 8]}"
    )
    agreement: float = Field(0.98, ge=0, le=1, description="least agreement of the exported with the PyTorch model")


class ExportSettings(Settings):
    """Set the format of the bundle."""

    to: Literal["onnx", "hf"] = Field("onnx", description="onnx, or a folder of transformers (tasks that write)")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"to": value} if isinstance(value, str) else value


class Recipe(Settings):
    """Hold a whole job; `task`, `data`, `teacher` and `student` suffice.

    Example:
        >>> recipe = Recipe.model_validate({"task": "image-classification", "data": {"source": "sklearn:digits"},
        ...     "teacher": {"build": {"widths": [32, 64]}, "train": {}}, "student": {"build": {"widths": [8]}}})
        >>> [step.use for step in recipe.compress.steps]
        ['static_int8']
    """

    task: str = Field(description="what is to be done")
    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="name of the run's folder")
    data: DataSettings = Field(description="where the examples are and how they are split")
    teacher: TeacherSettings = Field(description="the large model")
    assistant: tuple[ModelSettings, ...] = Field(
        (), description="models between teacher and student, from large to small; each teaches the next"
    )
    student: ModelSettings = Field(description="the small model")
    prompt: PromptsSettings = Field(PromptsSettings(), description="prompts")
    distill: DistillSettings = Field(DistillSettings(), description="how the student learns")
    compress: CompressSettings = Field(
        CompressSettings(), description="compression steps, in order ([] for none), or {to: {bytes: ..., p50: ...}}"
    )
    measure: MeasureSettings = Field(MeasureSettings(), description="how models are measured")
    export: ExportSettings = Field(ExportSettings(), description="what the bundle is")
    seed: int = Field(0, ge=0, lt=2**31, description="of every random choice")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where models are trained")

    @field_validator("task")
    @classmethod
    def _known_task(cls, value: str) -> str:
        if value not in catalog.table("task"):
            raise ValueError(f"there is no task '{value}'.{did_you_mean(value, catalog.table('task'))}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _default_compression(cls, value: Any) -> Any:
        task = value.get("task") if isinstance(value, Mapping) else None
        if not isinstance(task, str) or task not in catalog.table("task"):
            return value
        kind = catalog.entry("task", task)
        steps = list(kind.default_compression)
        own = {"compress": steps, "export": kind.default_export}
        return {**own, **value}

    @field_validator("assistant", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, Mapping) else value

    @property
    def assistants(self) -> tuple[ModelSettings, ...]:
        """Return who stands between teacher and student, in order: the assistants, then the student's generations."""
        return (*self.assistant, *([self.student] * (self.distill.generations - 1)))

    @property
    def writes(self) -> bool:
        """Tell whether the task's answer is a text."""
        return self.task == "text-generation"

    @property
    def reads_features(self) -> bool:
        """Tell whether an objective compares what layers give; unless recorded, the teacher then answers live."""
        return any("features" in catalog.entry("objective", term.use).needs for term in self.distill.objective)

    @property
    def recorded_features(self) -> frozenset[str]:
        """Return the names of the features that the record keeps: those that objectives read, if it keeps any."""
        if not self.distill.record_features:
            return frozenset()
        terms = [(term.weight, term.use, term.settings) for term in self.distill.objective]
        return features_of(objective_of(terms))[1]

    @property
    def gives(self) -> frozenset[Signal]:
        """Return the signals that a student can learn from: what the record keeps, and what a live classifier shows."""
        if self.distill.on_policy is not None:
            return frozenset[Signal]({"logits", "hard"})
        kept: frozenset[Signal] = catalog.entry("codec", self.codec[0]).gives
        live = not (self.prompted or self.served or self.writes)
        return kept | frozenset[Signal]({"features"}) if live else kept

    @property
    def codec(self) -> tuple[str, dict[str, Any]]:
        """Return name and settings of the record's codec: of few choices all are kept, of a vocabulary the likeliest.

        A record of tokens holds the temperatures 1, 2 and 4 besides those of the recipe, so that trying another of
        them asks the teacher nothing.
        """
        chosen = self.distill.record
        name = chosen.use if chosen.use != "auto" else "topk" if self.writes else "full"
        settings = chosen.settings
        if "temperatures" in catalog.entry("codec", name).Settings.model_fields and "temperatures" not in settings:
            kept = KEPT_TEMPERATURES if name == "topk" else ()
            settings = {**settings, "temperatures": tuple(sorted({*kept, *(self.temperatures or (1.0,))}))}
        return name, settings

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Return the temperatures that the objectives ask the teacher's record for; of a ramp, none."""
        found = list[Any]()
        for term in self.distill.objective:
            kind = catalog.entry("objective", term.use)
            fields = kind.Settings.model_fields
            if "temperature" in fields and "logits" in kind.needs:
                found.append(term.settings.get("temperature", fields["temperature"].default))
        return tuple(sorted({float(value) for value in found if isinstance(value, int | float)}))

    @property
    def prompted(self) -> bool:
        """Tell whether the teacher is a language model that labels by a prompt."""
        return self.task == "text-classification" and self.teacher.train is None and self.teacher.model is not None

    @property
    def finds_prompt(self) -> bool:
        """Tell whether the teacher's prompt is looked for (or calibrated) in a stage of its own.

        A server is paid, so a search there needs a budget.
        """
        prompt = self.prompt.teacher
        if self.teacher.endpoint is not None:
            labels = self.teacher.endpoint.mode == "labels"
            return labels and prompt.searches and prompt.budget != BudgetSettings()
        if self.writes:
            return self.teacher.train is None and prompt.searches and "validation" in self.data.gold
        return self.prompted

    @property
    def served(self) -> bool:
        """Tell whether the teacher is a model behind a server."""
        return self.teacher.endpoint is not None
