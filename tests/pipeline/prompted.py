"""Lay out a recipe whose teacher is a tiny language model, and whose examples one prompt answers better than others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from attar.core.prompt import TextPrompt

LABELS = ("fine", "bad")
BETTER = "{text}\nIt is"
"""The prompt that the examples are labeled by: the model answers it right, and any other by chance."""
THINGS = ("jacket", "dress", "zip", "shoes", "fabric")
LOOKS = ("warm", "soft", "red", "blue", "cheap", "thin", "light")
ENDS = ("fits well", "broke after one week", "is worth it", "is scratchy", "is too small")


def lay_out(home: Path, weights: Path) -> Path:
    """Write a model, a table and a recipe into a folder; return the recipe's path."""
    shutil.copytree(weights, home / "model")
    texts = [f"a {look} {thing} that {end}" for look in LOOKS for thing in THINGS for end in ENDS]
    rows = [f"{text},{label}" for text, label in zip(texts, _labels(home / "model", texts), strict=True)]
    (home / "texts.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    (home / "recipe.yaml").write_text(yaml.safe_dump(body()), encoding="utf-8")
    return home / "recipe.yaml"


def body() -> dict[str, Any]:
    """Return the recipe."""
    return {
        "task": "text-classification",
        "data": {
            **{"source": "texts.csv", "text": "text", "label": "label", "labels": list(LABELS)},
            **{"train": 15, "validation": 140, "test": 20, "gold": ["validation", "test"]},
        },
        "teacher": {"model": "model", "precision": "float32"},
        "student": {"model": "model"},
        "prompt": {"teacher": {"template": "{text}\nSo", "templates": [BETTER], "search": "bank"}},
    }


def _labels(folder: Path, texts: list[str]) -> list[str]:
    from attar.prompts.scoring.label_words import LabelWordScorer
    from attar.students.causal import language_model

    scorer = LabelWordScorer(*language_model(folder, torch.float32), 64)
    (scores,) = scorer.score_all([TextPrompt(BETTER, LABELS)], texts, LABELS)
    margin = scores[:, 0] - scores[:, 1]
    return [LABELS[int(value < np.median(margin))] for value in margin]
