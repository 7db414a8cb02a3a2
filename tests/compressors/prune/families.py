"""Make a tiny random model of every family, and what it reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from attar.core.compressing import Calibration
from attar.core.examples import Examples
from attar.core.nouns import Batch, Model
from attar.core.rows import Rows

PLAIN = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
TEXT = {"vocab_size": 50, "max_position_embeddings": 40}
TIED = {"tie_word_embeddings": True}
T5 = {"vocab_size": 50, "d_model": 64, "d_ff": 96, "d_kv": 16, "num_heads": 4, "num_layers": 2}
BART = {
    **{"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 96, "decoder_ffn_dim": 112},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, **TEXT, "pad_token_id": 0, "bos_token_id": 1},
    **{"eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None},
}
START = {"decoder_start_token_id": 0}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**PLAIN, **TEXT, **TIED, "num_key_value_heads": 2}),
    "llama_bias": ("LlamaConfig", "LlamaForCausalLM", {**PLAIN, **TEXT, "mlp_bias": True, "attention_bias": True}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**PLAIN, **TEXT, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**PLAIN, **TEXT, **TIED, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**PLAIN, **TEXT, "num_key_value_heads": 2, "head_dim": 24}),
    "bert": ("BertConfig", "BertForSequenceClassification", {**PLAIN, **TEXT}),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", {**PLAIN, **TEXT}),
    "distilbert": (
        *("DistilBertConfig", "DistilBertForSequenceClassification"),
        {**TEXT, "dim": 64, "hidden_dim": 96, "n_heads": 4, "n_layers": 2, "pad_token_id": 0},
    ),
    "vit": ("ViTConfig", "ViTForImageClassification", {**PLAIN, "image_size": 16, "patch_size": 8}),
    "t5": (
        *("T5Config", "T5ForConditionalGeneration"),
        {**T5, **START, "scale_decoder_outputs": False, "tie_word_embeddings": False},
    ),
    "t5_gated": (
        *("T5Config", "T5ForConditionalGeneration"),
        {**T5, **START, "feed_forward_proj": "gated-gelu", "scale_decoder_outputs": True},
    ),
    "bart": ("BartConfig", "BartForConditionalGeneration", BART),
    "marian": ("MarianConfig", "MarianMTModel", {**BART, "scale_embedding": True}),
}


def tiny(name: str, seed: int = 0) -> Any:
    """Return a random model in evaluation mode."""
    import transformers

    config, kind, sizes = MODELS[name]
    torch.manual_seed(seed)
    model = getattr(transformers, kind)(getattr(transformers, config)(**sizes)).eval()
    with torch.no_grad():  # norms of ones and biases of zeros would hide mistakes
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def inputs(name: str, seed: int = 3) -> dict[str, torch.Tensor]:
    """Return two examples, as the model reads them."""
    made = torch.Generator().manual_seed(seed)
    if name == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=made)}
    ids = torch.randint(3, 50, (2, 7), generator=made)
    if name.startswith(("t5", "bart", "marian")):
        return {"input_ids": ids, "decoder_input_ids": ids[:, :4]}
    return {"input_ids": ids}


def said(name: str, model: Any) -> torch.Tensor:
    """Return what a model says of `inputs`."""
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs(name)).logits
    return logits


class Reads:
    """A task that reads `inputs`-like examples of any family: rows are all that the model says."""

    def __init__(self, name: str) -> None:
        self.name = name

    def collate(self, model: Model, examples: Examples) -> Batch:
        """Return inputs drawn by the examples' keys."""
        made = [inputs(self.name, int(key)) for key in examples.keys]
        tensors = {name: torch.cat([one[name] for one in made]) for name in made[0]}
        return Batch(examples, tensors, torch.zeros(len(made), dtype=torch.long))

    def rows(self, model: Model, batch: Batch) -> Rows:
        """Return a row for each thing that is said."""
        logits = model.module(**batch.inputs).logits.flatten(0, -2)
        return Rows(torch.arange(2 * len(logits)).view(-1, 2), torch.ones(len(logits)), logits=logits)

    def length(self, model: Model, examples: Examples) -> np.ndarray:
        """Return equal costs."""
        return np.ones(len(examples), np.int64)


def loss_of(name: str) -> Any:
    """Return a loss with a gradient in all weights: the mean of a fixed draw times what is said."""

    def loss(model: Model, examples: Examples) -> torch.Tensor:
        """Return it."""
        task = Reads(name)
        said = task.rows(model, task.collate(model, examples)).dense()
        draw = torch.randn(said.shape, generator=torch.Generator().manual_seed(len(examples)))
        return (torch.log_softmax(said, dim=1) * draw).sum() / len(examples)

    return loss


def calibration(name: str, count: int = 6) -> Calibration:
    """Return what a step may look at."""
    examples = Examples(np.arange(count), [""] * count, np.zeros(count, np.int64))
    task: Any = Reads(name)
    return Calibration(task, examples, [], 0, loss_of(name))


def model_of(name: str, seed: int = 0) -> Model:
    """Return a tiny model of a family as attar holds it."""
    return Model(tiny(name, seed), "causal" if "CausalLM" in MODELS[name][1] else "transformers", None, {})
