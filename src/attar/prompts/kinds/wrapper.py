"""Put a trained prompt around a frozen model; its forward takes and gives what the model's own does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from attar.optional import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class VirtualPrompt(torch.nn.Module):
    """Hold the values of a prompt: the only thing about a prompted model that learns.

    Args:
        values: what it begins as; copied.
    """

    name: ClassVar[str] = ""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(values.detach().float().clone().contiguous())

    @property
    def length(self) -> int:
        """Return its length: virtual tokens, or the width of a frame in pixels."""
        raise TypeError(f"{type(self).__name__} has no length")

    @property
    def virtual_tokens(self) -> int:
        """Return the tokens that it adds to every input, which is what it costs; 0 where it adds none."""
        return self.length

    def cost(self) -> dict[str, int]:
        """Return ``length``, ``parameters`` and ``virtual_tokens``."""
        return {"length": self.length, "parameters": self.values.numel(), "virtual_tokens": self.virtual_tokens}


class PromptedModule(torch.nn.Module):
    """Read images with a frozen model under a trained prompt.

    Args:
        base: a model that reads ``pixel_values (batch, channels, height, width)``; it is frozen in place.
        prompt: a module that calls it: ``prompt(base, pixel_values)``.
    """

    def __init__(self, base: Any, prompt: VirtualPrompt) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.prompt = prompt
        self.train(self.training)

    def train(self, mode: bool = True) -> PromptedModule:
        """Set the prompt's mode; the frozen model stays in evaluation mode, or its running statistics would learn."""
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, pixel_values: torch.Tensor) -> Any:
        """Return what the model says of the prompted images."""
        return self.prompt(self.base, pixel_values)
