"""Set a prompt that is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from attar.settings import Settings

Kind = Literal["soft", "prefix", "pixel", "patch"]
TEXT: tuple[Kind, ...] = ("soft", "prefix")
FACT = "soft"
"""The fact that tells a prompted model's prompt, and what it is around."""


class SoftSettings(Settings):
    """Set a prompt that is trained on a frozen model.

    Example:
        >>> SoftSettings().length
        16
    """

    kind: Kind = Field(
        "soft",
        description="soft: virtual tokens at the input of a text model; prefix: keys and values of every layer of a "
        "language model; pixel: values added to an image; patch: tokens between the patches of a vision transformer",
    )
    length: int = Field(16, ge=1, le=4096, description="virtual tokens; for pixel, the width of the frame in pixels")
    init: Literal["auto", "text", "vocabulary", "random"] = Field(
        "auto",
        description="begin as a written prompt, as tokens drawn from the vocabulary, or as noise; auto: text where a "
        "prompt is written, else vocabulary; pixels begin at 0 and patch tokens as noise",
    )
    deep: bool = Field(False, description="new tokens at every layer (patch); a prefix always has them")
    whole: bool = Field(False, description="a value for every pixel, not for a frame alone (pixel)")

    @model_validator(mode="after")
    def _fits_the_kind(self) -> SoftSettings:
        if self.deep and self.kind != "patch":
            raise ValueError(f"deep is for patch tokens, not for {self.kind}; set kind: prefix for text at every layer")
        if self.whole and self.kind != "pixel":
            raise ValueError(f"whole is for pixels, not for {self.kind}")
        if self.init in ("text", "vocabulary") and self.kind not in TEXT:
            raise ValueError(f"init: {self.init} is for soft and prefix prompts; {self.kind} takes auto or random")
        return self
