"""Save and load models under a trained prompt."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar import catalog
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.prompts.kinds.settings import FACT, SoftSettings

# what is a subclass of torch's is imported where it is used: what `attar check` imports must not need torch
FILE = "prompt.safetensors"


class PromptedStudent:
    """Save and load models under a trained prompt: the model's own files, and the prompt beside them."""

    def make(self, settings: Any, weights: Path | None, labels: Sequence[str], shape: Sequence[int]) -> Model:
        """Refuse: a prompted model is a trained one with a prompt (`attar.prompts.kinds.make.add_prompt`).

        Raises:
            AttarError: always.
        """
        raise AttarError("A prompted model is made of a trained one. Train a prompt on that.")

    def save(self, model: Model, folder: Path) -> None:
        """Write the frozen model as its own kind does, and ``prompt.safetensors``."""
        from safetensors.torch import save_file

        from attar.prompts.kinds.text import PromptedText

        module: Any = model.module
        own = replace(model, kind=model.facts[FACT]["base"], facts=_own(model.facts))
        with module.bare() if isinstance(module, PromptedText) else nullcontext(module.base) as base:
            catalog.entry("student", own.kind)().save(replace(own, module=base), folder)
        save_file({"values": module.prompt.values.detach().contiguous()}, folder / FILE)

    def load(self, folder: Path, facts: dict[str, Any]) -> Model:
        """Read the model that `save` wrote."""
        from safetensors.torch import load_file

        from attar.prompts.kinds.make import wrap

        own = catalog.entry("student", facts[FACT]["base"])().load(folder, _own(facts))
        settings = SoftSettings(**{name: facts[FACT][name] for name in SoftSettings.model_fields})
        module = wrap(own, settings, load_file(folder / FILE)["values"])
        return Model(module, "prompted", own.processor, facts)


def _own(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of the model without its prompt."""
    return {name: value for name, value in facts.items() if name != FACT}
