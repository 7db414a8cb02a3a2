"""Say what a recipe may hold: the schema, its defaults, and every key's meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from attar import catalog
from attar.errors import did_you_mean
from attar.prompts.bank import PromptSettings
from attar.settings import Settings
from attar.sources.data import DataSettings
from attar.stages.schedule import TrainSettings
from attar.students.settings import ModelSettings


class Use(Settings):
    """Choose an algorithm of the catalogue by its short name, with its own settings beside.

    Example:
        >>> Use(use="forward_kl", temperature=2).settings
        {'temperature': 2}
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    use: str = Field(description="the registered name")

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings given beside the name."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value


class Term(Use):
    """Choose an objective and its weight in the sum."""

    weight: float = Field(1.0, ge=0, le=1e6, description="of this objective in the sum")


class TeacherSettings(ModelSettings):
    """Set the teacher: a language model that labels by a prompt, or a classifier, trained in the run or ready."""

    train: TrainSettings | None = Field(None, description="train the teacher on gold labels first")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of its matrix products when it answers"
    )


class DistillSettings(TrainSettings):
    """Set how the student learns, and whether its control is trained."""

    objective: tuple[Term, ...] = Field(
        (Term(use="forward_kl", temperature=2.0),), description="what the student is compared by"
    )
    control: bool = Field(True, description="train the same student on the same data without the teacher")

    @field_validator("objective", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, Mapping)) else value


class PromptsSettings(Settings):
    """Set the prompts."""

    teacher: PromptSettings = Field(PromptSettings(), description="the prompt of a teacher that is a language model")


class MeasureSettings(Settings):
    """Set how models are measured."""

    texts: int = Field(60, ge=5, le=10000, description="test examples that latency is measured on, one at a time")
    warmup: int = Field(5, ge=0, description="calls before the first that counts")
    own_prompt_examples: int = Field(400, ge=10, description="test examples the recipe's own prompt is scored on")
    resamples: int = Field(10000, ge=100, le=1000000, description="of the bootstrap")
    agreement: float = Field(0.98, ge=0, le=1, description="least agreement of the exported with the PyTorch model")


class ExportSettings(Settings):
    """Set the format of the bundle."""

    to: Literal["onnx"] = Field("onnx", description="format of the exported model")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"to": value} if isinstance(value, str) else value


class Recipe(Settings):
    """Hold a whole job; `task`, `data`, `teacher` and `student` suffice.

    Example:
        >>> recipe = Recipe.model_validate({"task": "image-classification", "data": {"source": "sklearn:digits"},
        ...     "teacher": {"build": {"widths": [32, 64]}, "train": {}}, "student": {"build": {"widths": [8]}}})
        >>> [step.use for step in recipe.compress]
        ['static_int8']
    """

    task: str = Field(description="what is to be done")
    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="name of the run's folder")
    data: DataSettings = Field(description="where the examples are and how they are split")
    teacher: TeacherSettings = Field(description="the large model")
    student: ModelSettings = Field(description="the small model")
    prompt: PromptsSettings = Field(PromptsSettings(), description="prompts")
    distill: DistillSettings = Field(DistillSettings(), description="how the student learns")
    compress: tuple[Use, ...] = Field((), description="compression steps, in order; [] for none")
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
        if isinstance(task, str) and "compress" not in value and task in catalog.table("task"):
            return {**value, "compress": list(catalog.entry("task", task).default_compression)}
        return value

    @property
    def prompted(self) -> bool:
        """Tell whether the teacher is a language model that labels by a prompt."""
        return self.task == "text-classification" and self.teacher.train is None and self.teacher.build is None
