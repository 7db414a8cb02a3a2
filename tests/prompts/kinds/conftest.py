"""Make tiny models that a prompt can be put around."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.core.nouns import Model
from attar.students import folder
from attar.students.settings import ModelSettings

OWN: dict[str, Any] = {
    "template": "Review: {text}\nSentiment:",
    "words": ["bad", "good"],
    "chat": False,
    "demonstrations": [],
    "calibration": None,
    "name": "own",
}


@pytest.fixture
def reader(llama_folder: Path) -> Callable[..., Model]:
    """Return a maker of tiny language models that classify by label words under a prompt of their own."""

    def make(where: Path = llama_folder, **prompt: Any) -> Model:
        settings = ModelSettings(model=str(where), answers_by="label_words", max_length=32)
        model = folder.make(settings, where, ["bad", "good"], (), {"prompt": {**OWN, **prompt}})
        model.module.eval()
        return model

    return make


@pytest.fixture(scope="session")
def begun_folder(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny Llama with a tokenizer that begins every text with a special token."""
    import shutil

    from tokenizers import processors
    from transformers import AutoTokenizer

    path = tmp_path_factory.mktemp("begun") / "llama"
    shutil.copytree(llama_folder, path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.convert_tokens_to_ids("<bos>"))]
    )
    tokenizer.save_pretrained(path)
    assert AutoTokenizer.from_pretrained(path)("a").input_ids[0] == tokenizer.bos_token_id
    return path


@pytest.fixture
def scores() -> Callable[..., torch.Tensor]:
    """Return what a model says of some examples, one row a decision."""

    def say(model: Model, examples: Any, task: Any) -> torch.Tensor:
        with torch.no_grad():
            rows = task.rows(model, task.collate(model, examples))
            return rows.dense()  # type: ignore[no-any-return]

    return say
