"""List every algorithm by its short name; each is imported on first use.

A name maps to ``"module:Class"``. Plugins add names through the entry-point group ``attar.plugins``, with entry
points called ``noun.name``, for example ``objective.my_loss = "my_package.loss:MyLoss"``.
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from attar.errors import AttarError, did_you_mean

TABLES: dict[str, dict[str, str]] = {
    "task": {
        "text-classification": "attar.tasks.text_classification:TextClassification",
        "image-classification": "attar.tasks.image_classification:ImageClassification",
        "text-generation": "attar.tasks.text_generation:TextGeneration",
    },
    "objective": {
        "cross_entropy": "attar.objectives.cross_entropy:CrossEntropy",
        "forward_kl": "attar.objectives.forward_kl:ForwardKL",
        "reverse_kl": "attar.objectives.reverse_kl:ReverseKL",
        "jensen_shannon": "attar.objectives.jensen_shannon:JensenShannon",
        "skewed_forward_kl": "attar.objectives.skewed_forward_kl:SkewedForwardKL",
        "skewed_reverse_kl": "attar.objectives.skewed_reverse_kl:SkewedReverseKL",
        "total_variation": "attar.objectives.total_variation:TotalVariation",
        "logit_mse": "attar.objectives.logit_mse:LogitMSE",
        "dkd": "attar.objectives.dkd:DecoupledKD",
        "dist": "attar.objectives.dist:Dist",
        "uld": "attar.objectives.uld:UniversalLogitDistillation",
        "standardized_kl": "attar.objectives.standardized_kl:StandardizedKL",
        "ranking": "attar.objectives.ranking:Ranking",
        "hidden": "attar.objectives.hidden:HiddenStates",
        "attention_transfer": "attar.objectives.attention_transfer:AttentionTransfer",
        "attention_relation": "attar.objectives.attention_relation:AttentionRelation",
        "rkd": "attar.objectives.rkd:RelationalKD",
        "similarity": "attar.objectives.similarity:Similarity",
        "contrastive": "attar.objectives.contrastive:Contrastive",
        "mgd": "attar.objectives.mgd:MaskedGeneration",
    },
    "student": {
        "transformers": "attar.students.transformers:TransformersStudent",
        "causal": "attar.students.causal:CausalStudent",
        "label_words": "attar.students.label_words:LabelWordStudent",
        "net": "attar.students.net:NetStudent",
        "timm": "attar.students.vision:TimmStudent",
        "torchvision": "attar.students.vision:TorchvisionStudent",
        "prompted": "attar.prompts.kinds.prompted:PromptedStudent",
        "factored": "attar.students.factored:FactoredStudent",
    },
    "teacher": {
        "label_words": "attar.teachers.label_words:LabelWordTeacher",
        "endpoint": "attar.teachers.endpoint:EndpointTeacher",
        "classifier": "attar.teachers.classifier:ClassifierTeacher",
        "language_model": "attar.teachers.language_model:LanguageModelTeacher",
        "recorded": "attar.teachers.recorded:RecordedTeacher",
        "aligned": "attar.teachers.aligned:AlignedTeacher",
    },
    "codec": {
        "full": "attar.teachers.codecs.full:FullCodec",
        "topk": "attar.teachers.codecs.topk:TopkCodec",
        "sampled": "attar.teachers.codecs.sampled:SampledCodec",
    },
    "move": {
        "demonstrations": "attar.prompts.moves.demonstrations:Demonstrations",
        "phrases": "attar.prompts.moves.phrases:Phrases",
        "label_words": "attar.prompts.moves.label_words:LabelWords",
        "shorten": "attar.prompts.moves.shorten:Shorten",
        "evolution": "attar.prompts.moves.evolution:Evolution",
        "instructions": "attar.prompts.moves.instructions:Instructions",
        "paraphrase": "attar.prompts.moves.paraphrase:Paraphrase",
        "merge": "attar.prompts.moves.merge:Merge",
        "reflection": "attar.prompts.moves.reflection:Reflection",
        "token_gradient": "attar.prompts.moves.token_gradient:TokenGradient",
    },
    "search": {
        "race": "attar.prompts.search.race:RaceSearch",
    },
    "compressor": {
        "vocabulary": "attar.compressors.vocabulary:Vocabulary",
        "depth": "attar.compressors.prune.depth:Depth",
        "width": "attar.compressors.prune.width:Width",
        "sparsity": "attar.compressors.prune.sparsity:Sparsity",
        "low_rank": "attar.compressors.low_rank:LowRank",
        "channels": "attar.compressors.prune.channels:Channels",
        "weights": "attar.compressors.quantize.weights:Weights",
        "dynamic_int8": "attar.compressors.quantize.dynamic_int8:DynamicInt8",
        "static_int8": "attar.compressors.quantize.static_int8:StaticInt8",
    },
    "exporter": {
        "hf": "attar.stages.hf:HfFormat",
        "onnx": "attar.exporters.graphs:OnnxFormat",
        "gguf": "attar.exporters.gguf:GgufExporter",
        "openvino": "attar.exporters.openvino:OpenVinoExporter",
        "executorch": "attar.exporters.executorch:ExecuTorchExporter",
    },
}


@cache
def table(noun: str) -> dict[str, str]:
    """Return name -> ``"module:Class"`` for one noun, plugins included.

    Raises:
        AttarError: a plugin takes a name that is taken.

    Example:
        >>> table("objective")["forward_kl"]
        'attar.objectives.forward_kl:ForwardKL'
    """
    names = dict(TABLES[noun])
    for point in entry_points(group="attar.plugins"):
        kind, _, name = point.name.partition(".")
        if kind != noun:
            continue
        if name in names:
            raise AttarError(
                f"The plugin '{point.value}' registers the {noun} '{name}', but that name is taken by '{names[name]}'. "
                "Rename it, or remove one of the two packages."
            )
        names[name] = point.value
    return names


def entry(noun: str, name: str) -> Any:
    """Import and return the class behind a short name.

    Raises:
        AttarError: the name is unknown; the message suggests the nearest.

    Example:
        >>> entry("objective", "forward_kl").__name__
        'ForwardKL'
    """
    names = table(noun)
    if name not in names:
        raise AttarError(f"There is no {noun} '{name}'.{did_you_mean(name, names)}")
    module, _, attribute = names[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
