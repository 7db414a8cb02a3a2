"""Learn tokens between the patches of a frozen vision transformer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from attar.core.nouns import Model
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.optional import lazy
from attar.prompts.kinds.settings import SoftSettings
from attar.prompts.kinds.wrapper import VirtualPrompt

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class PatchPrompt(VirtualPrompt):
    """Hold tokens ``(layers, length, width)`` that stand between the class token and the patches.

    With one layer they enter before the first block and live on through all (shallow); with as many as the model has,
    each block reads its own, and what the block before made of its tokens is dropped (deep). Before the last norm they
    are taken away, so that a mean over patches is one over patches.

    Reference:
        Jia et al. 2022, "Visual Prompt Tuning", equations 4 to 8; they begin uniform, as Xavier has it for a layer from
        a patch to the width.
    """

    name: ClassVar[str] = "patch"

    @property
    def length(self) -> int:
        """Return the number of tokens that each block reads."""
        return int(self.values.shape[1])

    @staticmethod
    def begin(model: Model, settings: SoftSettings, written: TextPrompt | None) -> torch.Tensor:
        """Return the tokens to begin with; torch's seed decides them.

        Raises:
            AttarError: the model is no plain vision transformer of `timm`.
        """
        base: Any = model.module
        _check(base)
        fan = math.prod(base.patch_embed.patch_size) * int(model.facts["shape"][0]) + base.embed_dim
        bound = math.sqrt(6.0 / fan)
        layers = len(base.blocks) if settings.deep else 1
        return torch.empty(layers, settings.length, base.embed_dim).uniform_(-bound, bound)

    def forward(self, base: Any, pixels: torch.Tensor) -> Any:
        """Return what the model says of images ``(batch, channels, height, width)``."""
        states = base.norm_pre(base.patch_drop(base._pos_embed(base.patch_embed(pixels))))
        first = base.num_prefix_tokens
        before, after = states[:, :first], states[:, first:]
        for place, block in enumerate(base.blocks):
            if place < len(self.values):
                own = self.values[place].to(states.dtype).expand(pixels.shape[0], -1, -1)
                states = torch.cat([before, own, after], dim=1)
            states = block(states)
            before, after = states[:, :first], states[:, first + self.length :]
        return base.forward_head(base.norm(torch.cat([before, after], dim=1)))


def _check(base: Any) -> None:
    """Refuse models whose way from patches to the head is another."""
    name = type(base).__name__
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ModuleNotFoundError:
        known = False
    else:
        known = (
            isinstance(base, VisionTransformer) and type(base).forward_features is VisionTransformer.forward_features
        )
    if not known:
        raise AttarError(
            f"kind: patch is for the vision transformers of timm (timm:vit_...), and the model is a {name}. Set kind: "
            "pixel."
        )
