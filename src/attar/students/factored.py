"""Save and load models with factored layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar import catalog
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.optional import lazy
from attar.students.transformers import load_tokenizer, quiet_transformers

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

FILE = "factored.safetensors"
"""Not ``model.safetensors``: plain `transformers` would read that, miss weights and go on with random ones."""


class FactoredStudent:
    """Save and load models of another kind some of whose layers are factored.

    The folder holds the other kind's configuration and tokenizer, and all weights in a file that no other library
    takes for its own.
    """

    def make(self, settings: Any, weights: Path | None, labels: Sequence[str], shape: Sequence[int]) -> Model:
        """Refuse: a factored model is made of a trained one, by the step ``low_rank``.

        Raises:
            AttarError: always.
        """
        raise AttarError("A factored model is made of a trained one. Put low_rank among the steps of `compress`.")

    def save(self, model: Model, folder: Path) -> None:
        """Write configuration and tokenizer, where the model has some, and ``factored.safetensors``."""
        from safetensors.torch import save_model

        network: Any = getattr(model.module, "lm", model.module)
        beside: list[Any] = [getattr(network, name, None) for name in ("config", "generation_config")]
        for part in (*beside, model.processor):
            if part is not None:
                part.save_pretrained(folder)
        save_model(model.module, str(folder / FILE))

    def load(self, folder: Path, facts: dict[str, Any]) -> Model:
        """Read the model that `save` wrote."""
        from safetensors.torch import load_model

        from attar.core.factored import FACT, factor

        own = _empty(facts[FACT]["base"], folder, facts)
        factor(own.module, facts[FACT]["linear"], facts[FACT]["embeddings"])
        load_model(own.module, str(folder / FILE))
        return Model(own.module, "factored", own.processor, facts)


def _empty(base: str, folder: Path, facts: dict[str, Any]) -> Model:
    """Return a model of the base kind with random weights."""
    kind: Any = catalog.entry("student", base)()
    if hasattr(kind, "empty"):
        return Model(kind.empty(facts), base, None, facts)
    import transformers

    quiet_transformers()
    classifier = "AutoModelForImageClassification" if facts["shape"] else "AutoModelForSequenceClassification"
    family = getattr(transformers, classifier if base == "transformers" else "AutoModelForCausalLM")
    module = family.from_config(transformers.AutoConfig.from_pretrained(folder), dtype=torch.float32)
    tokenizer = None if facts["shape"] else load_tokenizer(folder)
    model = Model(module, base, tokenizer, facts)
    finished: Model = kind.finish(model) if hasattr(kind, "finish") else model
    return finished
