"""Set how a teacher is brought nearer to its student."""

from __future__ import annotations

from pydantic import Field

from attar.objectives.ramp import Ramp
from attar.prompts.kinds.settings import SoftSettings
from attar.settings import Settings
from attar.stages.schedule import TrainSettings


class FriendlySettings(Settings):
    """Set how a teacher is brought nearer to its student.

    Example:
        >>> FriendlySettings().prompt.length
        7
    """

    brief: float = Field(
        0.25, gt=0, le=1, description="share of the student's steps that a first student learns, whom the teacher sees"
    )
    prompt: SoftSettings = Field(SoftSettings(length=7), description="the virtual tokens: soft or prefix, how many")
    begin: str = Field(
        "Suppose you are a student.",
        description="what they begin as, before a prompt of running text; a chat's begin as drawn tokens",
    )
    stay: Ramp = Field(Ramp(start=1, end=0), description="weight of staying near the teacher without them")
    train: TrainSettings = Field(
        TrainSettings(epochs=1, learning_rate=1e-3, weight_decay=0, validations=1),
        description="of the virtual tokens; with one validation the last step is kept, none chosen",
    )
