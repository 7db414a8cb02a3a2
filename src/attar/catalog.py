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
    },
    "objective": {
        "cross_entropy": "attar.objectives.cross_entropy:CrossEntropy",
        "forward_kl": "attar.objectives.forward_kl:ForwardKL",
    },
    "student": {
        "transformers": "attar.students.transformers:TransformersStudent",
        "net": "attar.students.net:NetStudent",
        "timm": "attar.students.vision:TimmStudent",
        "torchvision": "attar.students.vision:TorchvisionStudent",
    },
    "teacher": {
        "label_words": "attar.teachers.label_words:LabelWordTeacher",
        "classifier": "attar.teachers.classifier:ClassifierTeacher",
        "recorded": "attar.teachers.recorded:RecordedTeacher",
    },
    "search": {
        "bank": "attar.prompts.search.bank:BankSearch",
    },
    "compressor": {
        "vocabulary": "attar.compressors.vocabulary:Vocabulary",
        "dynamic_int8": "attar.compressors.quantize.dynamic_int8:DynamicInt8",
        "static_int8": "attar.compressors.quantize.static_int8:StaticInt8",
    },
    "exporter": {
        "onnx": "attar.exporters.onnx:OnnxExporter",
    },
}


@cache
def table(noun: str) -> dict[str, str]:
    """Return name -> ``"module:Class"`` for one noun, plugins included.

    Raises:
        AttarError: a plugin takes a name that is taken.

    Example:
        >>> sorted(table("objective"))[:2]
        ['cross_entropy', 'forward_kl']
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
