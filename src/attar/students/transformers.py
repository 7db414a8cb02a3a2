"""Make classifiers of `transformers`: pretrained encoders, LMs or vision models, whole or by some of their layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.core.layers import keep_layers
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.optional import lazy
from attar.students.settings import ModelSettings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class TransformersStudent:
    """Make, save and load sequence and image classifiers that plain `transformers` reads."""

    def make(self, settings: ModelSettings, weights: Path | None, labels: Sequence[str], shape: Sequence[int]) -> Model:
        """Return a classifier with a new head (torch's seed decides it).

        Raises:
            AttarError: the folder holds no model that can classify, or has fewer layers than asked for.
        """
        if weights is None:
            raise AttarError("A transformers model needs `model`: where its weights are.")
        module = _load(weights, settings, labels, image=bool(shape))
        wanted = settings.fixed_layers
        if wanted is not None:
            keep_layers(module, wanted)
        facts: dict[str, Any] = {"labels": list(labels), "shape": list(shape)}
        if shape:
            return Model(module, "transformers", None, {**facts, "mean": 0.5, "std": 0.5})
        tokenizer = load_tokenizer(weights)
        module.config.pad_token_id = tokenizer.pad_token_id
        positions = getattr(module.config, "max_position_embeddings", None) or settings.max_length
        # the tokenizer knows where positions begin above 0, as in RoBERTa: 512 of 514
        longest = min(settings.max_length, int(positions), int(tokenizer.model_max_length))
        return Model(module, "transformers", tokenizer, {**facts, "max_length": longest})

    def save(self, model: Model, folder: Path) -> None:
        """Write a folder that ``AutoModelFor...Classification.from_pretrained`` reads."""
        model.module.save_pretrained(folder)  # type: ignore[operator]
        if model.processor is not None:
            model.processor.save_pretrained(folder)

    def load(self, folder: Path, facts: dict[str, Any]) -> Model:
        """Read the classifier that `save` wrote."""
        from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

        quiet_transformers()
        family = AutoModelForImageClassification if facts["shape"] else AutoModelForSequenceClassification
        tokenizer = None if facts["shape"] else load_tokenizer(folder)
        return Model(family.from_pretrained(folder), "transformers", tokenizer, facts)


def _load(weights: Path, settings: ModelSettings, labels: Sequence[str], image: bool) -> Any:
    from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

    quiet_transformers()
    family = AutoModelForImageClassification if image else AutoModelForSequenceClassification
    shared = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: place for place, label in enumerate(labels)},
        "trust_remote_code": settings.trust_remote_code,
    }
    try:
        if not settings.pretrained:
            return family.from_config(AutoConfig.from_pretrained(weights, **shared))
        module, loaded = family.from_pretrained(
            weights,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **shared,
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise AttarError(f"{weights} cannot be loaded as a classifier by transformers: {reason}") from error
    check_loaded(weights, module, loaded)
    return module


def check_loaded(weights: Path, module: Any, loaded: Mapping[str, Any]) -> None:
    """Refuse weights that do not fill the body of the model: transformers would leave random ones in silence.

    Args:
        weights: where they came from.
        module: the model they were loaded into.
        loaded: what ``from_pretrained(..., output_loading_info=True)`` gives beside the model.

    Raises:
        AttarError: a weight of the body is missing or of another shape; a new head and pooler are expected.
    """
    body = f"{module.base_model_prefix}."
    mismatched = [name if isinstance(name, str) else name[0] for name in loaded["mismatched_keys"]]
    bad = [name for name in (*loaded["missing_keys"], *mismatched) if name.startswith(body) and ".pooler." not in name]
    if bad:
        raise AttarError(
            f"{weights} does not hold the weights that its config.json asks for: {len(bad)} are missing or of another "
            f"shape, among them {sorted(bad)[0]}. Download or save the model again."
        )


def quiet_transformers() -> None:
    """Silence the library's progress bars and advice: attar says what a user can act on."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load_tokenizer(folder: Path) -> Any:
    """Return the fast tokenizer of a model folder, with a padding token.

    Raises:
        AttarError: the folder has no tokenizer that transformers can read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise AttarError(f"{folder} has no tokenizer that transformers can read: {reason}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer
