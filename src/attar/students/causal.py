"""Make causal language models of `transformers`: pretrained ones, whole or by some of their layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.core.layers import keep_layers
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.optional import lazy
from attar.students.settings import ModelSettings
from attar.students.transformers import check_loaded, load_tokenizer, quiet_transformers

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class CausalStudent:
    """Make, save and load language models that plain `transformers` reads."""

    def make(self, settings: ModelSettings, weights: Path | None, labels: Sequence[str], shape: Sequence[int]) -> Model:
        """Return a language model in float32; its prompt is added to its facts by who makes it.

        Raises:
            AttarError: the folder holds no causal language model, or has fewer layers than asked for.
        """
        if weights is None:
            raise AttarError("A language model needs `model`: where its weights are.")
        module, tokenizer = language_model(weights, torch.float32, settings.trust_remote_code)
        wanted = settings.fixed_layers
        if wanted is not None:
            keep_layers(module, wanted)
        if not settings.pretrained:
            module = type(module)(module.config)
        return Model(module, "causal", tokenizer, {"labels": [], "shape": [], "max_length": settings.max_length})

    def save(self, model: Model, folder: Path) -> None:
        """Write a folder that ``AutoModelForCausalLM.from_pretrained`` reads."""
        model.module.save_pretrained(folder)  # type: ignore[operator]
        model.processor.save_pretrained(folder)

    def load(self, folder: Path, facts: dict[str, Any]) -> Model:
        """Read the language model that `save` wrote."""
        module, tokenizer = language_model(folder, torch.float32)
        return Model(module, "causal", tokenizer, facts)


def language_model(folder: Path, dtype: torch.dtype, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Return a causal language model in evaluation mode, with its tokenizer.

    Raises:
        AttarError: the folder holds no causal language model.
    """
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise AttarError(
            f"{folder} cannot be loaded as a causal language model: {str(error).splitlines()[0]} A teacher that is no "
            "language model needs `train` (with gold labels)."
        ) from error
    check_loaded(folder, model, loaded)
    lost = [name for name in loaded["missing_keys"] if "head" in name]  # tied heads are not among them
    if lost:
        raise AttarError(
            f"{folder} holds no language model: its head ({lost[0]}) is missing. Give a causal language model."
        )
    return model.eval(), load_tokenizer(folder)
